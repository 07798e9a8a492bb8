//! The application, which tells whoever asks all that it knows.

use std::{
    fmt::{Debug, Write as _},
    net::SocketAddr,
    sync::Arc,
};

use axum::{
    Router,
    extract::{
        ConnectInfo, FromRequestParts as _, Request,
        connect_info::MockConnectInfo,
        ws::{Message, WebSocketUpgrade},
    },
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, any, get, post},
};
use axum_client_ip::{
    CfConnectingIp, ClientIp, ClientIpSource, CloudFrontViewerAddress, FlyClientIp, RightmostForwarded,
    RightmostXForwardedFor, TrueClientIp, XEnvoyExternalAddress, XRealIp,
};
use http::{HeaderName, StatusCode, header, request::Parts};
use hyper_util::{rt::TokioIo, server::conn::auto};
use ipveil::{AnonymizeLayer, Client, Peer, layer::Connection};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tonic::{
    metadata::MetadataMap,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower_governor::{
    GovernorLayer,
    governor::GovernorConfigBuilder,
    key_extractor::{KeyExtractor, PeerIpKeyExtractor, SmartIpKeyExtractor},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    trace::{DefaultMakeSpan, DefaultOnFailure, DefaultOnRequest, DefaultOnResponse, TraceLayer},
};
use tower_sessions::{MemoryStore, SessionManagerLayer};
use tracing::Level;

pub(crate) fn app(layer: Option<AnonymizeLayer>) -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(DefaultMakeSpan::new().include_headers(true).level(Level::TRACE))
        .on_request(DefaultOnRequest::new().level(Level::TRACE))
        .on_response(DefaultOnResponse::new().include_headers(true).level(Level::TRACE))
        .on_failure(DefaultOnFailure::new().level(Level::TRACE));
    let app = Router::new()
        .route("/", any(show))
        .route("/only-post", post(show))
        .route("/panic", any(panic))
        .route("/session", any(session))
        .route("/upgrade", any(upgrade))
        .route("/websocket", any(websocket))
        .route("/smart", limited(SmartIpKeyExtractor))
        .route("/peer", limited(PeerIpKeyExtractor))
        .fallback(show)
        .layer(SessionManagerLayer::new(MemoryStore::default()).with_secure(false))
        .layer(CatchPanicLayer::new())
        .layer(trace)
        .layer(ClientIpSource::ConnectInfo.into_extension());
    match layer {
        Some(layer) => app.layer(layer),
        None => app,
    }
}

/// One request for each client.
fn limited<K>(key: K) -> MethodRouter
where
    K: KeyExtractor<Key: Send + Sync> + Send + Sync + 'static,
{
    let mut config = GovernorConfigBuilder::default().per_second(86_400).burst_size(1).use_headers().key_extractor(key);
    get(show).layer(GovernorLayer::new(Arc::new(config.finish().unwrap())))
}

async fn show(request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let text = everything(&mut parts).await;
    let seen = format!("{:?}", parts.extensions.get::<ConnectInfo<SocketAddr>>());
    ([("x-seen", seen)], text).into_response()
}

pub(crate) async fn panic(request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    panic!("saw {}", everything(&mut parts).await);
}

pub(crate) async fn session(request: Request) -> String {
    let (mut parts, _) = request.into_parts();
    let now = everything(&mut parts).await;
    let session: &tower_sessions::Session = parts.extensions.get().unwrap();
    let before = session.get::<String>("seen").await.unwrap().unwrap_or_default();
    session.insert("seen", &now).await.unwrap();
    let before = before.lines().map(|line| format!("before {line}\n")).collect::<String>();
    format!("{before}{now}session {session:?}\n")
}

pub(crate) async fn websocket(request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let text = everything(&mut parts).await;
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.unwrap();
    upgrade.on_upgrade(async |mut socket| socket.send(Message::text(text)).await.unwrap())
}

/// Takes the connection over, and looks whose it is.
pub(crate) async fn upgrade(request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let mut text = everything(&mut parts).await;
    let upgrade = hyper::upgrade::on(Request::from_parts(parts, body));
    tokio::spawn(async move {
        let upgraded = upgrade.await.unwrap();
        match auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded) {
            Ok(parts) => {
                let mut stream = parts.io.into_inner();
                line(&mut text, "socket", stream.peer_addr());
                stream.write_all(text.as_bytes()).await.unwrap();
            }
            Err(upgraded) => {
                let parts = auto::upgrade::downcast::<TokioIo<Connection<TcpStream>>>(upgraded).unwrap();
                let mut connection = parts.io.into_inner();
                line(&mut text, "socket", format_args!("a connection, {connection:?}"));
                connection.write_all(text.as_bytes()).await.unwrap();
            }
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(header::UPGRADE, "test"), (header::CONNECTION, "upgrade")]).into_response()
}

/// A method of tonic's, as far as it is needed here.
pub(crate) async fn method(request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let mut text = everything(&mut parts).await;
    let path = parts.uri.path().to_owned();
    let request = tonic::Request::from_parts(MetadataMap::from_headers(parts.headers), parts.extensions, ());
    line(&mut text, "remote-addr", request.remote_addr());
    line(&mut text, "local-addr", request.local_addr());
    line(&mut text, "peer-certs", request.peer_certs());
    line(&mut text, "request", &request);
    match path.as_str() {
        "/panic" => panic!("saw {text}"),
        "/fail" => {
            let message = format!("{:?} {:?}", request.remote_addr(), request.metadata());
            let status = tonic::Status::internal(message);
            tracing::error!(?status, %status, "failed");
            status.into_http()
        }
        _ => ([(header::CONTENT_TYPE, "application/grpc"), (HeaderName::from_static("grpc-status"), "0")], text)
            .into_response(),
    }
}

/// All that can be known of a request, told to the log, too.
pub(crate) async fn everything(parts: &mut Parts) -> String {
    let mut text = String::new();
    for (name, value) in &parts.headers {
        writeln!(text, "header {name}: {}", String::from_utf8_lossy(value.as_bytes())).unwrap();
    }
    line(&mut text, "parts", &parts);

    let extensions = &parts.extensions;
    line(&mut text, "extensions", extensions);
    line(&mut text, "connect-info", extensions.get::<ConnectInfo<SocketAddr>>());
    line(&mut text, "connect-info of a peer", extensions.get::<ConnectInfo<Peer>>());
    line(&mut text, "mock", extensions.get::<MockConnectInfo<SocketAddr>>());
    line(&mut text, "socket-address", extensions.get::<SocketAddr>());
    line(&mut text, "peer", extensions.get::<Peer>());
    line(&mut text, "tcp", extensions.get::<TcpConnectInfo>());
    line(&mut text, "tls", extensions.get::<TlsConnectInfo<TcpConnectInfo>>());
    line(&mut text, "tls of a peer", extensions.get::<TlsConnectInfo<Peer>>());

    let client = extensions.get::<Client>();
    line(&mut text, "client", client);
    if let Some(client) = client {
        line(&mut text, "withheld", client.withheld());
        for view in ["app", "forwarded", "old", "cloud", "log", "network", "geo", "limit", "none"] {
            line(&mut text, &format!("pseudonym {view}"), client.pseudonym(view));
            line(&mut text, &format!("scoped {view}"), client.scoped(view, "user:1"));
            line(&mut text, &format!("network {view}"), client.network(view));
            line(&mut text, &format!("country {view}"), client.country(view));
            line(&mut text, &format!("limit {view}"), client.limit_key(view));
        }
    }

    let request = http::Request::from_parts(parts.clone(), ());
    line(&mut text, "governor smart", SmartIpKeyExtractor.extract(&request));
    line(&mut text, "governor peer", PeerIpKeyExtractor.extract(&request));
    macro_rules! client_ip {
        ($($extractor:ident)*) => {
            $(
                let address = $extractor::from_request_parts(parts, &()).await;
                line(&mut text, concat!("client-ip ", stringify!($extractor)), address);
            )*
        };
    }
    client_ip!(ClientIp RightmostXForwardedFor RightmostForwarded XRealIp CfConnectingIp CloudFrontViewerAddress);
    client_ip!(TrueClientIp FlyClientIp XEnvoyExternalAddress);

    tracing::info!(saw = %text, headers = ?parts.headers, "handler saw");
    text
}

pub(crate) fn line(text: &mut String, name: &str, value: impl Debug) {
    writeln!(text, "{name} {value:?}").unwrap();
}
