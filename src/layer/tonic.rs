//! tonic: connections that name no peer, and typed addresses that are pseudonyms.
//!
//! tonic shows each request to `Server::trace_fn` before any layer runs. [`Incoming`] keeps the peer's address from it:
//!
//! ```no_run
//! use ipveil::{AnonymizeLayer, Client};
//! use tokio_stream::wrappers::TcpListenerStream;
//! use tonic::{Request, transport::{Server, server::Router}};
//!
//! # async fn run(layer: AnonymizeLayer, service: tonic::service::Routes) -> Result<(), Box<dyn std::error::Error>> {
//! fn who(request: &Request<()>) -> String {
//!     // The address is a pseudonym, with port 0. The client knows more of them.
//!     let client = request.extensions().get::<Client>();
//!     format!("{:?}, {:?}", request.remote_addr(), client.map(|client| client.pseudonym("log")))
//! }
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:50051").await?;
//! Server::builder()
//!     .layer(layer)
//!     .add_routes(service)
//!     .serve_with_incoming(ipveil::tonic::Incoming::new(TcpListenerStream::new(listener)))
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! With `Server::serve` handlers see the same; only `trace_fn` sees the address. **`trace_fn` also sees the headers as the
//! client sent them**, `X-Forwarded-For` among them, and nothing can be done about that but not to print them there.
//!
//! With TLS, `Request::peer_certs` needs connections that are not wrapped. Over [`Incoming`] the certificates are in the
//! extensions, in a `TlsConnectInfo<Ends>`.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use http::Extensions;
use tokio::net::TcpStream;
use tokio_stream::Stream;
#[cfg(unix)]
use tonic::transport::server::UdsConnectInfo;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

use super::io::Connection;
use super::typed::set;
use crate::addr::Peer;

/// A stream of connections for `serve_with_incoming` that name no peer.
#[derive(Debug)]
pub struct Incoming<S> {
    inner: S,
}

impl<S> Incoming<S> {
    /// Wraps a stream of connections, such as `TcpIncoming` or `TcpListenerStream`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, Io, E> Stream for Incoming<S>
where
    S: Stream<Item = Result<Io, E>> + Unpin,
{
    type Item = Result<Connection<Io>, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.inner).poll_next(context).map(|item| item.map(|io| io.map(Connection::new)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

/// Who is at both ends of a connection: what tonic puts into each request's extensions, and the layer takes out again.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    peer: Peer,
    local: Option<SocketAddr>,
}

impl Connected for Connection<TcpStream> {
    type ConnectInfo = Ends;

    fn connect_info(&self) -> Ends {
        Ends {
            peer: self.io().peer_addr().map_or_else(|_| Peer::unknown(), Peer::from),
            local: self.io().local_addr().ok(),
        }
    }
}

#[cfg(unix)]
impl Connected for Connection<tokio::net::UnixStream> {
    type ConnectInfo = Ends;

    fn connect_info(&self) -> Ends {
        Ends { peer: Peer::unix(), local: None }
    }
}

/// What tonic had put there.
#[derive(Default)]
pub(super) struct Typed {
    tcp: bool,
    local: Option<SocketAddr>,
    tls: bool,
}

impl Typed {
    #[inline]
    pub(super) fn take(&mut self, extensions: &mut Extensions) -> Option<Peer> {
        if let Some(tls) = extensions.get_mut::<TlsConnectInfo<Ends>>() {
            tls.get_mut().peer = Peer::unknown();
        }
        if let Some(ends) = extensions.remove::<Ends>() {
            self.tcp = true;
            self.local = ends.local;
            return Some(ends.peer);
        }
        let mut remote = None;
        if let Some(tcp) = extensions.get::<TcpConnectInfo>() {
            self.tcp = true;
            self.local = tcp.local_addr;
            remote = tcp.remote_addr;
        }
        if let Some(tls) = extensions.get::<TlsConnectInfo<TcpConnectInfo>>() {
            self.tls = true;
            remote = remote.or(tls.get_ref().remote_addr);
        }
        #[cfg(unix)]
        if remote.is_none() && extensions.get::<UdsConnectInfo>().is_some() {
            return Some(Peer::unix());
        }
        remote.map(Peer::from)
    }

    pub(super) fn any(&self) -> bool {
        self.tcp || self.tls
    }

    pub(super) fn put_back(self, extensions: &mut Extensions, shown: SocketAddr) {
        if self.tcp {
            set(extensions, TcpConnectInfo { local_addr: self.local, remote_addr: Some(shown) });
        }
        if self.tls
            && let Some(tls) = extensions.get_mut::<TlsConnectInfo<TcpConnectInfo>>()
        {
            tls.get_mut().remote_addr = Some(shown);
        }
    }
}
