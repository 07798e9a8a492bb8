//! Unmodified crates go on working behind the layer: each finds an address where it looks for one, a pseudonym.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    convert::Infallible,
    fmt::Write as _,
    future::{Ready, ready},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, connect_info::MockConnectInfo},
    response::IntoResponse as _,
    routing::get,
};
use axum_client_ip::{ClientIp, ClientIpSource};
use bytes::{Buf as _, BufMut as _};
use http::{Extensions, HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use ipveil::{
    Anonymize, AnonymizeLayer, Client, ClientAddr, KeyRing, LimitKey, Peer, Policy, Pseudonym, Resolver,
    TrustedProxies,
    keys::{Epochs, ManualClock, MemorySource},
    policy::{Scope, Session, View},
    resolve::{Source, Withheld},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};
use tower_governor::{
    GovernorError, GovernorLayer,
    governor::GovernorConfigBuilder,
    key_extractor::{KeyExtractor, PeerIpKeyExtractor, SmartIpKeyExtractor},
};
use tower_sessions::{MemoryStore, SessionManagerLayer};

const ANN: &str = "203.0.113.7";
const BOB: &str = "2001:db8:b0b::7";
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_TOKEN: HeaderName = HeaderName::from_static("x-token");

/// A policy and its keys, on a clock that stands, so that no epoch ends during a test.
struct Edge {
    policy: Policy,
    keys: KeyRing,
}

fn edge(scope: Scope, views: impl IntoIterator<Item = View>) -> Edge {
    let noon = Duration::from_secs(20_000 * 86_400 + 43_200);
    let keys = KeyRing::builder(MemorySource, Epochs::daily()).clock(ManualClock::at(noon)).start().unwrap();
    Edge { policy: Policy::new(scope, views).unwrap(), keys }
}

/// One pseudonym for each client, in typed addresses only.
fn plain() -> Edge {
    edge(Scope::unscoped(), [View::address("app")])
}

impl Edge {
    /// Behind a proxy on this machine, which says who the client is in `X-Forwarded-For`.
    fn proxied(&self) -> AnonymizeLayer {
        let trusted = TrustedProxies::parse(["loopback", "unix"]).unwrap();
        self.layer(Resolver::behind(trusted, Source::x_forwarded_for()))
    }

    fn layer(&self, resolver: Resolver) -> AnonymizeLayer {
        AnonymizeLayer::new(resolver, self.policy.clone(), self.keys.clone())
    }

    /// What a client is called where nothing is scoped.
    #[track_caller]
    fn pseudonym(&self, address: &str) -> IpAddr {
        let address = ClientAddr::from(address.parse::<IpAddr>().unwrap());
        self.policy.client(&address, &self.keys).pseudonym("app").address().unwrap()
    }
}

/// Serves for as long as the test lasts, on connections that name no peer.
async fn serve(app: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    let app = app.into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async { axum::serve(ipveil::axum::Listener::new(listener), app).await });
    address
}

/// The same, as it is done without ipveil.
async fn serve_plainly(app: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Asks over a connection of its own.
async fn ask(server: SocketAddr, headers: &[(&str, &str)]) -> Response<String> {
    ask_over(TcpStream::connect(server).await.unwrap(), headers).await
}

async fn ask_over<S>(stream: S, headers: &[(&str, &str)]) -> Response<String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = request(headers).map(|()| Empty::<bytes::Bytes>::new());
    read(sender.send_request(request).await.unwrap()).await
}

/// Asks without a connection, as a peer on this machine.
async fn ask_here(app: &Router, headers: &[(&str, &str)]) -> Response<String> {
    let mut request = request(headers).map(|()| Body::empty());
    request.extensions_mut().insert(Peer::from(IpAddr::from(Ipv4Addr::LOCALHOST)));
    read(app.clone().oneshot(request).await.unwrap()).await
}

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let builder = Request::builder().uri("/").header(header::HOST, "app.example");
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
}

async fn read<B>(response: Response<B>) -> Response<String>
where
    B: hyper::body::Body<Error: std::fmt::Debug>,
{
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(parts, String::from_utf8(body.into()).unwrap())
}

async fn connect_info(ConnectInfo(address): ConnectInfo<SocketAddr>) -> String {
    address.to_string()
}

fn with_port_0(address: IpAddr) -> String {
    SocketAddr::new(address, 0).to_string()
}

// axum

#[tokio::test]
async fn connect_info_holds_a_pseudonym_whatever_the_listener_is() {
    let edge = plain();
    let app = Router::new().route("/", get(connect_info));
    for (layer, client) in [(edge.proxied(), ANN), (edge.layer(Resolver::direct()), "127.0.0.1")] {
        let app = app.clone().layer(layer);
        for server in [serve(app.clone()).await, serve_plainly(app).await] {
            let seen = ask(server, &[("x-forwarded-for", ANN)]).await.into_body();
            assert_eq!(seen, with_port_0(edge.pseudonym(client)));
        }
    }
}

#[tokio::test]
async fn a_fallback_is_behind_the_layer_too() {
    let edge = plain();
    let server = serve(Router::new().fallback(connect_info).layer(edge.proxied())).await;
    let seen = ask(server, &[("x-forwarded-for", BOB)]).await.into_body();
    assert_eq!(seen, with_port_0(edge.pseudonym(BOB)));
}

#[tokio::test]
async fn a_mocked_connect_info_holds_a_pseudonym() {
    let edge = plain();
    let mock: SocketAddr = SocketAddr::new(ANN.parse().unwrap(), 40_000);
    let app =
        Router::new().route("/", get(connect_info)).layer(edge.layer(Resolver::direct())).layer(MockConnectInfo(mock));
    let request = request(&[]).map(|()| Body::empty());
    let seen = read(app.oneshot(request).await.unwrap()).await.into_body();
    assert_eq!(seen, with_port_0(edge.pseudonym(ANN)));
}

#[tokio::test]
async fn a_bare_socket_address_is_a_pseudonym() {
    let edge = plain();
    let service = edge.layer(Resolver::direct()).layer(service_fn(async |request: Request<()>| {
        Ok::<_, Infallible>(request.extensions().get::<SocketAddr>().copied())
    }));
    let mut request = request(&[]);
    request.extensions_mut().insert(SocketAddr::new(ANN.parse().unwrap(), 40_000));
    let seen = service.clone().oneshot(request).await.unwrap();
    assert_eq!(seen, Some(SocketAddr::new(edge.pseudonym(ANN), 0)));

    // Where none was, none is.
    assert_eq!(service.oneshot(self::request(&[])).await.unwrap(), None);
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_a_proxy_without_an_address() {
    let edge = plain();
    let path = std::env::temp_dir().join(format!("ipveil-compat-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let app = Router::new().route("/", get(connect_info)).layer(edge.proxied());
    let app = app.into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async { axum::serve(ipveil::axum::Listener::new(listener), app).await });

    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let seen = ask_over(stream, &[("x-forwarded-for", ANN)]).await.into_body();
    assert_eq!(seen, with_port_0(edge.pseudonym(ANN)));
}

#[tokio::test]
async fn a_handler_can_ask_for_the_client() {
    let edge = edge(Scope::unscoped(), [View::address("app"), View::token("log"), View::network("geo")]);
    let app = Router::new().route(
        "/",
        get(async |client: Client| {
            let [app, log] = ["app", "log"].map(|view| client.pseudonym(view));
            format!("{app} {log} {:?} {client:?}", client.network("geo"))
        }),
    );
    let seen = ask(serve(app.layer(edge.proxied())).await, &[("x-forwarded-for", ANN)]).await.into_body();
    let client = edge.policy.client(&ClientAddr::from(ANN.parse::<IpAddr>().unwrap()), &edge.keys);
    let [app, log] = ["app", "log"].map(|view| client.pseudonym(view));
    assert_eq!(seen, format!("{app} {log} Some(203.0.113.0/24) Client(..)"));
}

#[tokio::test]
async fn without_the_layer_there_is_no_client_but_an_answer() {
    let app = Router::new().route("/", get(async |client: Client| format!("{client:?}")));
    let answer = ask(serve(app).await, &[("x-forwarded-for", ANN)]).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(ipveil::axum::NoLayer.into_response().status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.body().contains("AnonymizeLayer"), "{}", answer.body());
    assert!(!answer.body().contains(ANN));
    let error: Box<dyn std::error::Error> = ipveil::axum::NoLayer.into();
    assert_eq!(*answer.body(), error.to_string());
}

#[tokio::test]
async fn a_handler_can_do_without_a_client() {
    let app = || Router::new().route("/", get(async |client: Option<Client>| format!("{client:?}")));
    assert_eq!(ask(serve(app()).await, &[]).await.into_body(), "None");
    assert_eq!(ask(serve(app().layer(plain().proxied())).await, &[]).await.into_body(), "Some(Client(..))");
}

#[tokio::test]
async fn a_withheld_client_is_nobody_and_fails_nothing() {
    let views = [
        View::address("app").header(X_FORWARDED_FOR),
        View::token("forwarded").header(header::FORWARDED),
        View::token("log").header(X_TOKEN),
        View::network("geo").header(HeaderName::from_static("x-network")),
        View::address("cloud").header(HeaderName::from_static("cloudfront-viewer-address")),
    ];
    let edge = edge(Scope::unscoped(), views);
    let layer = edge.proxied();
    let anonymizer = layer.anonymizer().clone();
    let app = Router::new()
        .route(
            "/",
            get(async |ConnectInfo(address): ConnectInfo<SocketAddr>, client: Client, headers: HeaderMap| {
                let mut text = format!("{address} {} {:?}", client.pseudonym("app"), client.withheld().unwrap());
                for (name, value) in &headers {
                    write!(text, " {name}: {}", value.to_str().unwrap()).unwrap();
                }
                text
            }),
        )
        .layer(layer);
    let server = serve_plainly(app).await;
    for (sent, why) in [
        (None, Withheld::NoHeader),
        (Some("unknown"), Withheld::Hidden),
        (Some("_hidden"), Withheld::Hidden),
        (Some("203.0.113.7, garbage"), Withheld::Malformed),
        (Some("203.0.113.7, 127.0.0.9 127.0.0.9"), Withheld::Malformed),
        (Some("127.0.0.9"), Withheld::AllTrusted),
    ] {
        let mut headers = vec![("forwarded", "for=192.0.2.1"), ("x-token", "_forged"), ("x-network", "192.0.2.0/24")];
        headers.push(("cloudfront-viewer-address", "192.0.2.1:40000"));
        headers.extend(sent.map(|sent| ("x-forwarded-for", sent)));
        let before = anonymizer.withheld_count(why);
        let answer = ask(server, &headers).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let expected = format!("[::]:0 unknown {why:?} host: app.example forwarded: for=unknown");
        assert_eq!(answer.into_body(), expected, "{sent:?}");
        assert_eq!(anonymizer.withheld_count(why), before + 1);
    }
}

// axum-client-ip

#[tokio::test]
async fn axum_client_ip_reads_the_pseudonym_from_the_header_that_a_view_writes() {
    for (header, source) in [
        ("x-forwarded-for", ClientIpSource::RightmostXForwardedFor),
        ("forwarded", ClientIpSource::RightmostForwarded),
        ("x-real-ip", ClientIpSource::XRealIp),
        ("cf-connecting-ip", ClientIpSource::CfConnectingIp),
        ("cloudfront-viewer-address", ClientIpSource::CloudFrontViewerAddress),
        ("fly-client-ip", ClientIpSource::FlyClientIp),
        ("true-client-ip", ClientIpSource::TrueClientIp),
        ("x-envoy-external-address", ClientIpSource::XEnvoyExternalAddress),
    ] {
        for view in [View::address("app"), View::address_v4("app")] {
            let edge = edge(Scope::unscoped(), [view.header(HeaderName::from_static(header))]);
            let app = Router::new()
                .route("/", get(async |ClientIp(address): ClientIp| address.to_string()))
                .layer(source.clone().into_extension())
                .layer(edge.proxied());
            for client in [ANN, BOB] {
                let mut headers = vec![("x-forwarded-for", client)];
                // What the client itself writes there, twice.
                if header != "x-forwarded-for" {
                    headers.extend([(header, "192.0.2.1"), (header, "for=192.0.2.2")]);
                }
                let seen = ask_here(&app, &headers).await.into_body();
                assert_eq!(seen, edge.pseudonym(client).to_string(), "{header}");
            }
        }
    }
}

#[tokio::test]
async fn axum_client_ip_reads_the_pseudonym_from_connect_info() {
    let edge = plain();
    let app = Router::new()
        .route("/", get(async |ClientIp(address): ClientIp| address.to_string()))
        .layer(ClientIpSource::ConnectInfo.into_extension())
        .layer(edge.proxied());
    let seen = ask(serve_plainly(app).await, &[("x-forwarded-for", ANN)]).await.into_body();
    assert_eq!(seen, edge.pseudonym(ANN).to_string());
}

// tower_governor

/// Two requests for each client, and hours until there is a third.
fn governed<K>(edge: &Edge, key: K) -> Router
where
    K: KeyExtractor<Key: Send + Sync> + Send + Sync + 'static,
{
    let config = GovernorConfigBuilder::default().per_second(86_400).burst_size(2).key_extractor(key).finish();
    Router::new()
        .route("/", get(async || "welcome"))
        .layer(GovernorLayer::new(Arc::new(config.unwrap())))
        .layer(edge.proxied())
}

async fn statuses<const N: usize>(server: SocketAddr, headers: [&[(&str, &str)]; N]) -> [u16; N] {
    let mut statuses = [0; N];
    for (status, headers) in statuses.iter_mut().zip(headers) {
        *status = ask(server, headers).await.status().as_u16();
    }
    statuses
}

#[tokio::test]
async fn tower_governor_counts_each_client_by_its_pseudonym() {
    let written = || edge(Scope::unscoped(), [View::address("app").header(X_FORWARDED_FOR)]);
    for app in [
        governed(&written(), SmartIpKeyExtractor),
        governed(&plain(), SmartIpKeyExtractor),
        governed(&written(), PeerIpKeyExtractor),
        governed(&plain(), PeerIpKeyExtractor),
    ] {
        let server = serve_plainly(app).await;
        let [ann, bob] = [ANN, BOB].map(|client| [("x-forwarded-for", client)]);
        let statuses = statuses(server, [&ann[..], &ann, &ann, &bob, &bob, &bob, &ann]).await;
        assert_eq!(statuses, [200, 200, 429, 200, 200, 429, 429]);
    }
}

#[tokio::test]
async fn tower_governor_finds_a_client_behind_our_listener() {
    let server = serve(governed(&plain(), PeerIpKeyExtractor)).await;
    let ann = [("x-forwarded-for", ANN)];
    assert_eq!(statuses(server, [&ann[..], &ann, &ann, &[("x-forwarded-for", BOB)]]).await, [200, 200, 429, 200]);
}

#[tokio::test]
async fn all_who_are_withheld_share_one_allowance() {
    for app in [governed(&plain(), SmartIpKeyExtractor), governed(&plain(), PeerIpKeyExtractor)] {
        let server = serve(app).await;
        let hidden = ["unknown", "_a", "_b"].map(|client| [("x-forwarded-for", client)]);
        let statuses = statuses(server, [&hidden[0][..], &hidden[1], &hidden[2], &[("x-forwarded-for", ANN)]]).await;
        assert_eq!(statuses, [200, 200, 429, 200]);
    }
}

/// The way to count where pseudonyms are scoped.
#[derive(Clone)]
struct ByLimitKey;

impl KeyExtractor for ByLimitKey {
    type Key = LimitKey;

    fn name(&self) -> &'static str {
        "client"
    }

    fn extract<T>(&self, request: &Request<T>) -> Result<LimitKey, GovernorError> {
        let client = request.extensions().get::<Client>().ok_or(GovernorError::UnableToExtractKey)?;
        Ok(client.limit_key("api"))
    }
}

#[tokio::test]
async fn tower_governor_can_count_by_limit_keys_which_no_cookie_gets_around() {
    let views = [View::address("app").header(X_FORWARDED_FOR), View::limit("api")];
    let edge = edge(Scope::per_session(Session::cookie("sid")), views);
    let ann = [1, 2, 3].map(|session| format!("sid={session}"));
    let ann = ann.each_ref().map(|cookie| [("x-forwarded-for", ANN), ("cookie", cookie)]);
    let bob = [("x-forwarded-for", BOB), ("cookie", "sid=1")];

    let server = serve(governed(&edge, ByLimitKey)).await;
    assert_eq!(statuses(server, [&ann[0][..], &ann[1], &ann[2], &bob]).await, [200, 200, 429, 200]);
    // What it is better than.
    let server = serve(governed(&edge, SmartIpKeyExtractor)).await;
    assert_eq!(statuses(server, [&ann[0][..], &ann[1], &ann[2], &bob]).await, [200, 200, 200, 200]);
}

// tower-http

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_trace_of_a_request_shows_the_pseudonym() {
    use tower_http::trace::{DefaultMakeSpan, DefaultOnRequest, TraceLayer};
    use tracing::Level;

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // For this thread, on which the request is handled, too.
    let _guard = tracing::subscriber::set_default(subscriber);

    let edge = edge(Scope::unscoped(), [View::address("app").header(X_FORWARDED_FOR)]);
    let trace = TraceLayer::new_for_http()
        .make_span_with(DefaultMakeSpan::new().include_headers(true).level(Level::INFO))
        .on_request(DefaultOnRequest::new().level(Level::INFO));
    let app = Router::new().route("/", get(async || "welcome")).layer(trace).layer(edge.proxied());
    ask_here(&app, &[("x-forwarded-for", ANN), ("x-real-ip", ANN)]).await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains(&format!(r#""x-forwarded-for": "{}""#, edge.pseudonym(ANN))), "{log}");
    assert!(!log.contains(ANN), "{log}");
}

// tower-sessions

#[tokio::test]
async fn a_session_goes_on_and_has_one_pseudonym() {
    let edge = edge(Scope::per_session(Session::cookie("id")), [View::address("app").header(X_FORWARDED_FOR)]);
    let app = Router::new()
        .route(
            "/",
            get(async |session: tower_sessions::Session, client: Client| {
                let visits = session.get::<u32>("visits").await.unwrap().unwrap_or_default() + 1;
                session.insert("visits", visits).await.unwrap();
                format!("{visits} {}", client.pseudonym("app"))
            }),
        )
        .layer(SessionManagerLayer::new(MemoryStore::default()).with_secure(false))
        .layer(edge.proxied());
    let server = serve(app).await;
    let visit = async |client: &str, cookie: Option<&str>| {
        let mut headers = vec![("x-forwarded-for", client)];
        headers.extend(cookie.map(|cookie| ("cookie", cookie)));
        let answer = ask(server, &headers).await;
        let cookie = answer.headers().get(header::SET_COOKIE).map(|cookie| cookie.to_str().unwrap());
        let cookie = cookie.and_then(|cookie| cookie.split(';').next()).map(str::to_owned);
        let (visits, pseudonym) = answer.body().split_once(' ').unwrap();
        (cookie, visits.parse::<u32>().unwrap(), pseudonym.parse::<IpAddr>().unwrap())
    };

    let (ann, first, before) = visit(ANN, None).await;
    let (_, second, ann_now) = visit(ANN, ann.as_deref()).await;
    let (_, third, ann_later) = visit(ANN, ann.as_deref()).await;
    assert_eq!([first, second, third], [1, 2, 3]);
    assert_eq!(ann_now, ann_later);
    assert_ne!(before, ann_now);

    // A colleague behind the same address.
    let (colleague, first, _) = visit(ANN, None).await;
    let (_, second, colleague_now) = visit(ANN, colleague.as_deref()).await;
    assert_eq!([first, second], [1, 2]);
    assert_ne!(colleague_now, ann_now);

    // Ann goes home.
    let (_, fourth, ann_elsewhere) = visit(BOB, ann.as_deref()).await;
    assert_eq!(fourth, 4);
    assert_ne!(ann_elsewhere, ann_now);
}

#[tokio::test]
async fn two_accounts_behind_one_address_can_not_be_compared() {
    let views = [View::address("app").header(X_FORWARDED_FOR), View::token("log").header(X_TOKEN)];
    let edge = edge(Scope::per_session(Session::cookie("sid")), views);
    let app = Router::new()
        .route(
            "/",
            get(async |ConnectInfo(address): ConnectInfo<SocketAddr>, client: Client, headers: HeaderMap| {
                let user = headers["x-user"].to_str().unwrap();
                let mut seen = vec![address.ip().to_string()];
                seen.extend(["app", "log"].map(|view| client.pseudonym(view).to_string()));
                seen.extend(["app", "log"].map(|view| client.scoped(view, user).to_string()));
                seen.extend(["x-forwarded-for", "x-token"].map(|name| headers[name].to_str().unwrap().to_owned()));
                seen.join(" ")
            }),
        )
        .layer(edge.proxied());
    let server = serve_plainly(app).await;
    let seen = async |cookie: &str, user: &str| {
        let headers = [("x-forwarded-for", ANN), ("cookie", cookie), ("x-user", user)];
        let seen = ask(server, &headers).await.into_body();
        seen.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };

    let ann = seen("sid=1", "user:1").await;
    let colleague = seen("sid=2", "user:2").await;
    assert!(ann.iter().all(|value| !colleague.contains(value)), "{ann:?} {colleague:?}");
    assert_eq!(ann, seen("a=b; sid=1", "user:1").await);

    let [address, app, log, scoped_app, scoped_log, x_forwarded_for, x_token] = &ann[..] else { panic!("{ann:?}") };
    assert_eq!([address, log], [app, x_token]);
    assert_eq!(app, x_forwarded_for);

    // The next day Ann logs in again: only what is in her own scope is the same.
    let again = seen("sid=3", "user:1").await;
    let in_common: Vec<_> = ann.iter().filter(|value| again.contains(value)).collect();
    assert_eq!(in_common, [scoped_app, scoped_log]);
}

// tonic

/// What a method is told about its client.
async fn who(request: tonic::Request<String>) -> Result<tonic::Response<String>, tonic::Status> {
    let told = |extensions: &Extensions| {
        let tcp = extensions.get::<TcpConnectInfo>();
        let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>().map(TlsConnectInfo::get_ref);
        let [tcp, tls] = [tcp, tls].map(|info| info.map(|info| (info.remote_addr(), info.local_addr().is_some())));
        format!("tcp {tcp:?} tls {tls:?}")
    };
    let certificates = match request.extensions().get::<TlsConnectInfo<ipveil::tonic::Ends>>() {
        Some(info) => info.peer_certs(),
        None => request.peer_certs(),
    };
    let pseudonym = request.extensions().get::<Client>().map(|client| client.pseudonym("app"));
    let header = request.metadata().get("x-forwarded-for").map(|value| value.to_str().unwrap());
    let text = format!(
        "address {:?} certificates {:?} {} client {:?} header {header:?}",
        request.remote_addr(),
        certificates.map(|certificates| certificates.len()),
        told(request.extensions()),
        pseudonym.and_then(|pseudonym| pseudonym.address()),
    );
    Ok(tonic::Response::new(text))
}

/// What tonic-build makes of a service with one method.
#[derive(Clone)]
struct Who;

impl tonic::server::NamedService for Who {
    const NAME: &'static str = "example.Who";
}

impl Service<Request<tonic::body::Body>> for Who {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async { Ok(tonic::server::Grpc::new(Text).unary(service_fn(who), request).await) })
    }
}

/// Messages that are text, so that nothing has to be generated.
#[derive(Clone, Copy)]
struct Text;

impl tonic::codec::Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Text {
    type Item = String;
    type Error = tonic::Status;

    fn encode(&mut self, text: String, buffer: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        buffer.put_slice(text.as_bytes());
        Ok(())
    }
}

impl tonic::codec::Decoder for Text {
    type Item = String;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<String>, tonic::Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        Ok(Some(String::from_utf8(bytes.into()).unwrap()))
    }
}

/// Asks with tonic's own client, as a proxy would for Ann.
async fn call(endpoint: tonic::transport::Endpoint) -> String {
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    let mut request = tonic::Request::new("who am I?".to_owned());
    request.metadata_mut().insert("x-forwarded-for", ANN.parse().unwrap());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/example.Who/AmI");
    client.unary(request, path, Text).await.unwrap().into_inner()
}

fn endpoint(server: SocketAddr) -> tonic::transport::Endpoint {
    tonic::transport::Endpoint::try_from(format!("http://{server}")).unwrap()
}

#[tokio::test]
async fn tonic_shows_a_pseudonym_as_the_remote_address() {
    for (resolver, client) in [(None, ANN), (Some(Resolver::direct()), "127.0.0.1")] {
        let edge = edge(Scope::unscoped(), [View::address("app").header(X_FORWARDED_FOR)]);
        let layer = resolver.map_or_else(|| edge.proxied(), |resolver| edge.layer(resolver));
        let (listener, server) = listen().await;
        let router = tonic::transport::Server::builder().layer(layer).add_service(Who);
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));

        let shown = edge.pseudonym(client);
        let address = Some(SocketAddr::new(shown, 0));
        let expected = format!(
            "address {address:?} certificates None tcp {:?} tls None client {:?} header {:?}",
            Some((address, true)),
            Some(shown),
            Some(shown.to_string()),
        );
        assert_eq!(call(endpoint(server)).await, expected);
    }
}

#[tokio::test]
async fn tonic_shows_a_pseudonym_as_the_remote_address_of_connections_that_name_no_peer() {
    let edge = plain();
    let (listener, server) = listen().await;
    let incoming = ipveil::tonic::Incoming::new(TcpListenerStream::new(listener));
    let router = tonic::transport::Server::builder().layer(edge.proxied()).add_service(Who);
    tokio::spawn(router.serve_with_incoming(incoming));

    let seen = call(endpoint(server)).await;
    let shown = edge.pseudonym(ANN);
    assert!(seen.contains(&format!("client {:?}", Some(shown))), "{seen}");
    assert!(seen.starts_with(&format!("address {:?}", Some(SocketAddr::new(shown, 0)))), "{seen}");
}

/// A server and a client that know each other's certificates.
struct Tls {
    server: tonic::transport::ServerTlsConfig,
    client: tonic::transport::ClientTlsConfig,
}

fn tls() -> Tls {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let identity = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        Identity::from_pem(certificate.pem(), key.serialize_pem())
    };
    let root = Certificate::from_pem(authority.pem());
    Tls {
        server: ServerTlsConfig::new().identity(identity("server.example")).client_ca_root(root.clone()),
        client: ClientTlsConfig::new()
            .domain_name("server.example")
            .ca_certificate(root)
            .identity(identity("client.example")),
    }
}

#[tokio::test]
async fn tonic_shows_a_pseudonym_over_tls_too() {
    // The second time there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let edge = plain();
    let tls = tls();
    let (listener, server) = listen().await;
    let builder = tonic::transport::Server::builder().tls_config(tls.server).unwrap();
    let router = builder.layer(edge.proxied()).add_service(Who);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));

    let endpoint = tonic::transport::Endpoint::try_from(format!("https://{server}")).unwrap();
    let shown = edge.pseudonym(ANN);
    let address = Some(SocketAddr::new(shown, 0));
    let info = Some((address, true));
    let expected = format!(
        "address {address:?} certificates Some(1) tcp {info:?} tls {info:?} client {:?} header None",
        Some(shown)
    );
    assert_eq!(call(endpoint.tls_config(tls.client).unwrap()).await, expected);
}

#[tokio::test]
async fn certificates_come_with_connections_that_name_no_peer() {
    // The second time there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let edge = plain();
    let tls = tls();
    let (listener, server) = listen().await;
    let incoming = ipveil::tonic::Incoming::new(TcpListenerStream::new(listener));
    let builder = tonic::transport::Server::builder().tls_config(tls.server).unwrap();
    let router = builder.layer(edge.proxied()).add_service(Who);
    tokio::spawn(router.serve_with_incoming(incoming));

    let endpoint = tonic::transport::Endpoint::try_from(format!("https://{server}")).unwrap();
    let seen = call(endpoint.tls_config(tls.client).unwrap()).await;
    assert!(seen.contains("certificates Some(1)"), "{seen}");
    assert!(seen.contains(&format!("client {:?}", Some(edge.pseudonym(ANN)))), "{seen}");
}

// hyper and tower

#[tokio::test]
async fn hyper_serves_the_layer_without_a_framework() {
    let edge = edge(Scope::unscoped(), [View::address("app").header(X_FORWARDED_FOR)]);
    let (listener, server) = listen().await;
    let layer = edge.layer(Resolver::direct());
    tokio::spawn(async move {
        for http2 in [false, true] {
            let (stream, address) = listener.accept().await.unwrap();
            let peer = Peer::from(address);
            let service = ServiceBuilder::new()
                .map_request(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(peer);
                    request
                })
                .layer(layer.clone())
                .service_fn(async |request: Request<Incoming>| {
                    let client = request.extensions().get::<Client>().unwrap().pseudonym("app");
                    let peer = request.extensions().get::<Peer>();
                    let header = request.headers()[X_FORWARDED_FOR].to_str().unwrap();
                    Ok::<_, Infallible>(Response::new(format!("{client} {header} {peer:?} {:?}", request.version())))
                });
            let service = TowerToHyperService::new(service);
            let io = TokioIo::new(stream);
            match http2 {
                false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await.unwrap(),
                true => {
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    builder.serve_connection(io, service).await.unwrap();
                }
            }
        }
    });

    let shown = edge.pseudonym("127.0.0.1");
    let seen = ask(server, &[("x-forwarded-for", ANN)]).await.into_body();
    assert_eq!(seen, format!("{shown} {shown} None HTTP/1.1"));

    let stream = TcpStream::connect(server).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://app.example/").header(X_FORWARDED_FOR, ANN);
    let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(read(answer).await.into_body(), format!("{shown} {shown} None HTTP/2.0"));
}

/// A service that is seldom ready, and whose error is its own.
struct Moody {
    moods: Vec<Poll<Result<(), Tired>>>,
}

#[derive(Debug, PartialEq)]
struct Tired;

impl Service<Request<String>> for Moody {
    type Response = (Pseudonym, String);
    type Error = Tired;
    type Future = Ready<Result<Self::Response, Tired>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Tired>> {
        self.moods.pop().unwrap()
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let client = request.extensions().get::<Client>().unwrap();
        ready(Ok((client.pseudonym("app"), request.into_body())))
    }
}

#[test]
fn the_inner_service_keeps_its_error_its_future_and_its_moods() {
    fn nothing_changes<S, R>(service: S) -> S
    where
        S: Service<
                R,
                Response = (Pseudonym, String),
                Error = Tired,
                Future = Ready<Result<(Pseudonym, String), Tired>>,
            >,
    {
        service
    }

    let edge = plain();
    let moods = vec![Poll::Ready(Err(Tired)), Poll::Ready(Ok(())), Poll::Pending];
    let service: Anonymize<Moody> = edge.layer(Resolver::direct()).layer(Moody { moods });
    let mut service = nothing_changes::<_, Request<String>>(service);
    let mut context = Context::from_waker(Waker::noop());

    assert_eq!(service.poll_ready(&mut context), Poll::Pending);
    assert_eq!(service.poll_ready(&mut context), Poll::Ready(Ok(())));
    let mut request = request(&[]).map(|()| "body".to_owned());
    request.extensions_mut().insert(Peer::from(ANN.parse::<IpAddr>().unwrap()));
    let (pseudonym, body) = service.call(request).into_inner().unwrap();
    assert_eq!(pseudonym.address(), Some(edge.pseudonym(ANN)));
    assert_eq!(body, "body");
    assert_eq!(service.poll_ready(&mut context), Poll::Ready(Err(Tired)));
    assert!(service.into_inner().moods.is_empty());
}

#[test]
fn a_request_keeps_everything_else() {
    let edge = plain();
    let mut request = request(&[("x-real-ip", ANN), ("accept", "a"), ("x-forwarded-for", ANN), ("accept", "b")]);
    *request.method_mut() = http::Method::PUT;
    *request.version_mut() = http::Version::HTTP_10;
    *request.uri_mut() = "/path?query".parse().unwrap();
    request.extensions_mut().insert("mine");
    let mut service = edge.layer(Resolver::direct()).layer(service_fn(|request: Request<()>| {
        assert_eq!(request.method(), http::Method::PUT);
        assert_eq!(request.version(), http::Version::HTTP_10);
        assert_eq!(request.uri(), "/path?query");
        assert_eq!(request.extensions().get(), Some(&"mine"));
        let headers: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(headers, [("host", &b"app.example"[..]), ("accept", b"a"), ("accept", b"b")]);
        ready(Ok::<_, Infallible>(()))
    }));
    service.call(request).into_inner().unwrap();
}
