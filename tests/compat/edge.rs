//! A layer for a test, servers behind it, and whoever asks them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use http::{HeaderName, Request, Response, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use ipveil::{
    AnonymizeLayer, ClientAddr, KeyRing, Peer, Policy, Resolver, TrustedProxies,
    keys::{Epochs, ManualClock, MemorySource},
    policy::{Scope, View},
    resolve::Source,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tower::ServiceExt as _;

use crate::listener::listen;

pub(crate) const ANN: &str = "203.0.113.7";
pub(crate) const BOB: &str = "2001:db8:b0b::7";
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_TOKEN: HeaderName = HeaderName::from_static("x-token");

/// A policy and its keys, on a clock that stands, so that no epoch ends during a test.
pub(crate) struct Edge {
    pub(crate) policy: Policy,
    pub(crate) keys: KeyRing,
}

pub(crate) fn edge(scope: Scope, views: impl IntoIterator<Item = View>) -> Edge {
    let noon = Duration::from_secs(20_000 * 86_400 + 43_200);
    let keys = KeyRing::builder(MemorySource, Epochs::daily()).clock(ManualClock::at(noon)).start().unwrap();
    Edge { policy: Policy::new(scope, views).unwrap(), keys }
}

/// One pseudonym for each client, in typed addresses only.
pub(crate) fn plain() -> Edge {
    edge(Scope::unscoped(), [View::address("app")])
}

impl Edge {
    /// Behind a proxy on this machine, which says who the client is in `X-Forwarded-For`.
    pub(crate) fn proxied(&self) -> AnonymizeLayer {
        let trusted = TrustedProxies::parse(["loopback", "unix"]).unwrap();
        self.layer(Resolver::behind(trusted, Source::x_forwarded_for()))
    }

    pub(crate) fn layer(&self, resolver: Resolver) -> AnonymizeLayer {
        AnonymizeLayer::new(resolver, self.policy.clone(), self.keys.clone())
    }

    /// What a client is called where nothing is scoped.
    #[track_caller]
    pub(crate) fn pseudonym(&self, address: &str) -> IpAddr {
        let address = ClientAddr::from(address.parse::<IpAddr>().unwrap());
        self.policy.client(&address, &self.keys).pseudonym("app").address().unwrap()
    }
}

/// Serves for as long as the test lasts, on connections that name no peer.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    let app = app.into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async { axum::serve(ipveil::axum::Listener::new(listener), app).await });
    address
}

/// The same, as it is done without ipveil.
pub(crate) async fn serve_plainly(app: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

/// Asks over a connection of its own.
pub(crate) async fn ask(server: SocketAddr, headers: &[(&str, &str)]) -> Response<String> {
    ask_over(TcpStream::connect(server).await.unwrap(), headers).await
}

pub(crate) async fn ask_over<S>(stream: S, headers: &[(&str, &str)]) -> Response<String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = request(headers).map(|()| Empty::<bytes::Bytes>::new());
    read(sender.send_request(request).await.unwrap()).await
}

/// Asks without a connection, as a peer on this machine.
pub(crate) async fn ask_here(app: &Router, headers: &[(&str, &str)]) -> Response<String> {
    let mut request = request(headers).map(|()| Body::empty());
    request.extensions_mut().insert(Peer::from(IpAddr::from(Ipv4Addr::LOCALHOST)));
    read(app.clone().oneshot(request).await.unwrap()).await
}

pub(crate) fn request(headers: &[(&str, &str)]) -> Request<()> {
    let builder = Request::builder().uri("/").header(header::HOST, "app.example");
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
}

pub(crate) async fn read<B>(response: Response<B>) -> Response<String>
where
    B: hyper::body::Body<Error: std::fmt::Debug>,
{
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(parts, String::from_utf8(body.into()).unwrap())
}

pub(crate) async fn connect_info(ConnectInfo(address): ConnectInfo<SocketAddr>) -> String {
    address.to_string()
}

pub(crate) fn with_port_0(address: IpAddr) -> String {
    SocketAddr::new(address, 0).to_string()
}
