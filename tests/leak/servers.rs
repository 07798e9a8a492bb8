//! The servers, in a process of their own, and what it said.

use std::{
    collections::BTreeMap,
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    num::NonZeroU8,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread::{self, JoinHandle},
};

use axum::{
    Router,
    extract::{ConnectInfo, connect_info::MockConnectInfo},
};
use http::{HeaderName, header};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use ipveil::{
    AnonymizeLayer, KeyRing, Peer, Policy, Resolver, TrustedProxies,
    geo::Countries,
    headers::Strip,
    keys::{Epochs, MemorySource},
    policy::{Scope, Session, View},
    resolve::Source,
};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{metadata::MetadataMap, transport::server::TcpConnectInfo};
use tower::{ServiceExt as _, util::MapRequestLayer};
use tracing_subscriber::{
    filter::LevelFilter, fmt::layer as fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    application::{app, method},
    canaries::without_colors,
    listener::listen,
    log::Log,
};

/// A header that only this operator knows.
pub(crate) const OWN: &str = "x-our-own";

/// A process with all servers in it.
pub(crate) struct Servers {
    pub(crate) process: Child,
    pub(crate) addresses: Vec<(String, SocketAddr)>,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub(crate) stderr: JoinHandle<Vec<u8>>,
}

/// Set where this test is the servers.
const EDGE: &str = "IPVEIL_LEAK_EDGE";
const LISTENING: &str = "listening: ";
const LOG: &str = "=== log ";

impl Servers {
    pub(crate) fn start(edge: &str) -> Self {
        let module = module_path!().split_once("::").map_or(String::new(), |(_, module)| format!("{module}::"));
        let mut process = Command::new(env::current_exe().unwrap())
            .args([&format!("{module}the_servers"), "--exact", "--nocapture", "--test-threads=1"])
            .env(EDGE, edge)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = process.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut said = Vec::new();
            stderr.read_to_end(&mut said).unwrap();
            said
        });
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut addresses = Vec::new();
        for line in stdout.by_ref().lines() {
            let line = line.unwrap();
            match line.split_once(LISTENING) {
                Some((_, "all")) => {
                    let stdin = process.stdin.take().unwrap();
                    return Self { process, addresses, stdin, stdout, stderr };
                }
                Some((_, server)) => {
                    let (name, address) = server.split_once(' ').unwrap();
                    addresses.push((name.to_owned(), address.parse().unwrap()));
                }
                None => {}
            }
        }
        panic!("no servers: {}", String::from_utf8_lossy(&stderr.join().unwrap()));
    }

    /// All that the process has said.
    pub(crate) fn stop(mut self) -> BTreeMap<String, Vec<u8>> {
        drop(self.stdin);
        let mut stdout = Vec::new();
        self.stdout.read_to_end(&mut stdout).unwrap();
        let stderr = self.stderr.join().unwrap();
        assert!(self.process.wait().unwrap().success(), "{}", String::from_utf8_lossy(&stderr));

        let mut said = BTreeMap::from([("stderr".to_owned(), stderr)]);
        let mut place = "stdout".to_owned();
        for line in stdout.split_inclusive(|&byte| byte == b'\n') {
            match line.strip_prefix(LOG.as_bytes()) {
                Some(name) => place = format!("log {}", String::from_utf8_lossy(name).trim()),
                None => said.entry(place.clone()).or_default().extend(without_colors(line)),
            }
        }
        said
    }
}

/// Not a test, but what the others start. As a test it does nothing.
#[test]
fn the_servers() {
    let Ok(edge) = env::var(EDGE) else { return };
    let logs = log_to_memory();
    let runtime = Runtime::new().unwrap();
    let mut stdout = io::stdout();
    for (name, address) in runtime.block_on(serve_all(edge == "veiled")) {
        writeln!(stdout, "{LISTENING}{name} {address}").unwrap();
    }
    writeln!(stdout, "{LISTENING}all").unwrap();

    // Until nobody wants anything any more.
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(runtime);
    for (name, log) in logs {
        writeln!(stdout, "\n{LOG}{name}").unwrap();
        stdout.write_all(&log.0.lock().unwrap()).unwrap();
    }
}

/// Everything that any crate says, in all formats, without times: their digits look like ports.
fn log_to_memory() -> [(&'static str, Log); 4] {
    let logs = ["full", "compact", "pretty", "json"].map(|name| (name, Log::default()));
    let writer = |place: usize| {
        let log = logs[place].1.clone();
        move || log.clone()
    };
    tracing_subscriber::registry()
        .with(LevelFilter::TRACE)
        .with(fmt().without_time().with_ansi(true).with_writer(writer(0)))
        .with(fmt().compact().without_time().with_ansi(false).with_writer(writer(1)))
        .with(fmt().pretty().without_time().with_ansi(true).with_writer(writer(2)))
        .with(fmt().json().without_time().with_writer(writer(3)))
        .init();
    logs
}

async fn serve_all(veiled: bool) -> Vec<(&'static str, SocketAddr)> {
    let trusted = || TrustedProxies::parse(["loopback"]).unwrap();
    let behind = |source| Resolver::behind(trusted(), source);
    let header = |name| Source::header(HeaderName::from_static(name));
    let all = Strip::new().countries().certificates().fingerprints().join_keys();
    let edge = |resolver| veiled.then(|| anonymize(resolver));
    let direct = || edge(Resolver::direct());

    let mut servers = Vec::new();
    for (name, layer) in [
        ("direct", direct()),
        ("strip-all", direct().map(|layer| layer.strip(all))),
        ("x-forwarded-for", edge(behind(Source::x_forwarded_for()))),
        ("forwarded", edge(behind(Source::forwarded()))),
        ("x-real-ip", edge(behind(header("x-real-ip")))),
        ("cloudfront", edge(behind(header("cloudfront-viewer-address")))),
        ("own", edge(behind(Source::list(HeaderName::from_static(OWN))))),
        ("hops", edge(Resolver::hops(NonZeroU8::new(2).unwrap(), Source::x_forwarded_for()))),
        ("furthest", edge(behind(Source::x_forwarded_for()).furthest_hop())),
    ] {
        let (listener, address) = listen().await;
        servers.push((name, address));
        let app = app(layer);
        match veiled {
            true => {
                let listener = ipveil::axum::Listener::new(listener);
                let app = app.into_make_service_with_connect_info::<Peer>();
                tokio::spawn(async { axum::serve(listener, app).await });
            }
            false => {
                let app = app.into_make_service_with_connect_info::<SocketAddr>();
                tokio::spawn(async { axum::serve(listener, app).await });
            }
        }
    }

    let (listener, address) = listen().await;
    servers.push(("hyper", address));
    tokio::spawn(serve_without_framework(listener, app(direct())));

    for (name, layer) in [("tonic", direct()), ("tonic-proxied", edge(behind(Source::x_forwarded_for())))] {
        let (listener, address) = listen().await;
        servers.push((name, address));
        let mut builder = tonic::transport::Server::builder()
            .trace_fn(|request| {
                let extensions = request.extensions();
                let tcp = extensions.get::<TcpConnectInfo>();
                let peer = extensions.get::<Peer>();
                tracing::info!(?tcp, ?peer, ?extensions, "trace_fn");
                tracing::info_span!("call", ?tcp)
            })
            .layer(tower::util::option_layer(layer))
            .layer(MapRequestLayer::new(|request: http::Request<tonic::body::Body>| {
                let (parts, body) = request.into_parts();
                let metadata = MetadataMap::from_headers(parts.headers.clone());
                let address = parts.extensions.get::<TcpConnectInfo>();
                tracing::info!(?metadata, ?address, extensions = ?parts.extensions, "layer");
                http::Request::from_parts(parts, body)
            }));
        let router = builder.add_routes(Router::new().fallback(method).into());
        let incoming = TcpListenerStream::new(listener);
        match veiled {
            true => tokio::spawn(router.serve_with_incoming(ipveil::tonic::Incoming::new(incoming))),
            false => tokio::spawn(router.serve_with_incoming(incoming)),
        };
    }
    servers
}

/// Where everybody is.
fn countries() -> Countries {
    let networks = ["127.0.0.0/8", "203.0.113.0/24", "2001:db8::/32"];
    Countries::from_bytes(crate::mmdb::mmdb(&networks.map(|network| (network, crate::mmdb::country("DE"))))).unwrap()
}

fn anonymize(resolver: Resolver) -> AnonymizeLayer {
    let header = HeaderName::from_static;
    let views = [
        View::address("app").header(header("x-forwarded-for")),
        View::token("forwarded").header(header::FORWARDED),
        View::address_v4("old").header(header("x-real-ip")),
        View::address("cloud").header(header("cloudfront-viewer-address")),
        View::token("log").header(header("x-client")),
        View::network("network").header(header("x-network")),
        View::country("geo", &countries()).header(header("x-geo")),
        View::limit("limit"),
    ];
    let policy = Policy::new(Scope::per_session(Session::cookie("sid")), views).unwrap();
    AnonymizeLayer::new(resolver, policy, KeyRing::start(MemorySource, Epochs::daily()).unwrap())
}

/// The addresses are where servers other than axum put them, too.
async fn serve_without_framework(listener: TcpListener, app: Router) {
    while let Ok((stream, address)) = listener.accept().await {
        let local_addr = stream.local_addr().ok();
        let service = app.clone().map_request(move |mut request: http::Request<hyper::body::Incoming>| {
            let extensions = request.extensions_mut();
            extensions.insert(address);
            extensions.insert(ConnectInfo(address));
            extensions.insert(MockConnectInfo(address));
            extensions.insert(TcpConnectInfo { local_addr, remote_addr: Some(address) });
            request
        });
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await;
            tracing::debug!(?served, "served");
        });
    }
}
