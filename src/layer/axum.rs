//! axum: a listener that names no peer, typed addresses that are pseudonyms, an extractor for [`Client`].
//!
//! `axum::serve` logs each peer's address at TRACE, before any layer runs. [`Listener`] keeps it from knowing one:
//!
//! ```no_run
//! use std::net::SocketAddr;
//!
//! use axum::{Router, extract::ConnectInfo, routing::get};
//! use ipveil::{AnonymizeLayer, Client, Peer};
//!
//! # async fn run(layer: AnonymizeLayer) -> std::io::Result<()> {
//! async fn hello(ConnectInfo(address): ConnectInfo<SocketAddr>, client: Client) -> String {
//!     // A pseudonym, and the same one: no code that expects an address has to change.
//!     assert_eq!(address.ip().to_string(), client.pseudonym("app").to_string());
//!     format!("hello, {address}")
//! }
//!
//! let app = Router::new().route("/", get(hello)).layer(layer);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! axum::serve(
//!     ipveil::axum::Listener::new(listener),
//!     app.into_make_service_with_connect_info::<Peer>(),
//! )
//! .await
//! # }
//! ```
//!
//! With a plain `TcpListener` and `into_make_service_with_connect_info::<SocketAddr>()` handlers see the same, but axum's own
//! TRACE line has the address, and so has whoever takes the connection over by an upgrade and asks it.
//!
//! `Router::layer` applies to the routes and fallbacks that were added before it, and whatever is added later sees raw
//! addresses. Around the whole router it applies to all, whenever they were added:
//!
//! ```no_run
//! # use axum::{Router, ServiceExt as _, extract::Request};
//! # use ipveil::{AnonymizeLayer, Peer};
//! use tower_layer::Layer as _;
//!
//! # async fn run(layer: AnonymizeLayer, app: Router) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! let app = layer.layer(app);
//! axum::serve(
//!     ipveil::axum::Listener::new(listener),
//!     axum::ServiceExt::<Request>::into_make_service_with_connect_info::<Peer>(app),
//! )
//! .await
//! # }
//! ```

use std::{convert::Infallible, error::Error, fmt, io, net::SocketAddr};

use axum::{
    extract::{
        ConnectInfo, FromRequestParts, OptionalFromRequestParts,
        connect_info::{Connected, MockConnectInfo},
    },
    response::{IntoResponse, Response},
    serve,
};
use http::{Extensions, StatusCode, request::Parts};

use super::io::Connection;
use super::typed::set;
use crate::{addr::Peer, policy::Client};

/// A listener for `axum::serve` whose connections name no peer.
#[derive(Debug)]
pub struct Listener<L> {
    inner: L,
}

impl<L> Listener<L> {
    /// Wraps a `TcpListener`, a `UnixListener`, or any other whose addresses can be made into a [`Peer`].
    pub fn new(inner: L) -> Self {
        Self { inner }
    }
}

impl<L> serve::Listener for Listener<L>
where
    L: serve::Listener,
    Peer: From<L::Addr>,
{
    type Io = Connection<L::Io>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, address) = self.inner.accept().await;
        (Connection::new(io), address.into())
    }

    fn local_addr(&self) -> io::Result<Peer> {
        self.inner.local_addr().map(Peer::from)
    }
}

impl<L> Connected<serve::IncomingStream<'_, Listener<L>>> for Peer
where
    L: serve::Listener,
    Self: From<L::Addr>,
{
    fn connect_info(stream: serve::IncomingStream<'_, Listener<L>>) -> Self {
        *stream.remote_addr()
    }
}

#[cfg(unix)]
impl From<tokio::net::unix::SocketAddr> for Peer {
    fn from(_: tokio::net::unix::SocketAddr) -> Self {
        Self::unix()
    }
}

/// The client, as the layer left it.
///
/// # Errors
///
/// [`NoLayer`] if there is no [`AnonymizeLayer`](crate::AnonymizeLayer) in front of the handler.
impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = NoLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or(NoLayer)
    }
}

/// The client, if there is an [`AnonymizeLayer`](crate::AnonymizeLayer) in front of the handler.
impl<S: Sync> OptionalFromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get().cloned())
    }
}

/// There is no [`AnonymizeLayer`](crate::AnonymizeLayer) in front of this handler. Answers 500.
#[derive(Clone, Copy, Debug)]
pub struct NoLayer;

impl fmt::Display for NoLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server has no ipveil::AnonymizeLayer in front of this handler")
    }
}

impl Error for NoLayer {}

impl IntoResponse for NoLayer {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// What axum had put there.
#[derive(Default)]
pub(super) struct Typed {
    connect_info: bool,
    mock: bool,
}

/// Both are ours, and neither is anybody else's to see.
fn take_ours(extensions: &mut Extensions) -> Option<Peer> {
    let listener = extensions.remove::<ConnectInfo<Peer>>().map(|info| info.0);
    listener.or(extensions.remove::<MockConnectInfo<Peer>>().map(|info| info.0))
}

impl Typed {
    #[inline]
    pub(super) fn take(&mut self, extensions: &mut Extensions) -> Option<Peer> {
        let ours = take_ours(extensions);
        let plain = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        let mock = extensions.get::<MockConnectInfo<SocketAddr>>().map(|info| info.0);
        self.connect_info = ours.is_some() || plain.is_some();
        self.mock = mock.is_some();
        ours.or_else(|| plain.or(mock).map(Peer::from))
    }

    pub(super) fn any(&self) -> bool {
        self.connect_info || self.mock
    }

    pub(super) fn put_back(self, extensions: &mut Extensions, shown: SocketAddr) {
        if self.connect_info {
            set(extensions, ConnectInfo(shown));
        }
        if self.mock {
            set(extensions, MockConnectInfo(shown));
        }
    }
}
