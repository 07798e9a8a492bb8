//! Nothing raw comes out: real servers in a process of their own, traffic full of addresses, and a search through
//! everything that the process said.
//!
//! The same is done without ipveil, and there the addresses have to be found: in each kind of output, and in each
//! spelling. Otherwise the search would prove nothing.

// Only there may a client choose its own address in 127.0.0.0/8.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod canaries;
mod mmdb;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::{Debug, Write as _},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU8,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
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
use canaries::{Canaries, notations, without_colors};
use http::{HeaderName, HeaderValue, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use ipveil::{
    AnonymizeLayer, Client, KeyRing, Peer, Policy, Resolver, TrustedProxies,
    geo::Countries,
    headers::Strip,
    keys::{Epochs, MemorySource},
    layer::Connection,
    policy::{Scope, Session, View},
    resolve::Source,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Runtime,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    metadata::MetadataMap,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{ServiceExt as _, util::MapRequestLayer};
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
use tracing_subscriber::{
    filter::LevelFilter, fmt::layer as fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Whom the headers name.
const V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xcafe, 0xf00d, 1, 2, 3, 4);
const PORT: u16 = 54_321;
/// Who connects.
const PEER: Ipv4Addr = Ipv4Addr::new(127, 77, 66, 55);
/// A header that only this operator knows.
const OWN: &str = "x-our-own";

#[test]
fn nothing_raw_comes_out() {
    let heard = scenario("veiled");
    let mut leaks = String::new();
    for (place, said) in &heard.said {
        let found = canaries().find(said);
        if !found.is_empty() {
            writeln!(leaks, "{place}: {found:?}").unwrap();
        }
    }
    for (place, ports) in heard.ports_found() {
        writeln!(leaks, "{place}: ports {ports:?}").unwrap();
    }
    assert!(leaks.is_empty(), "{leaks}");

    // Everybody was there, and had something to say.
    for (place, said) in heard.said.iter().filter(|(place, _)| place.contains(" shows ")) {
        assert!(contains(said, "client Some(Client(..))"), "{place}: {}", String::from_utf8_lossy(said));
    }
    for (place, said) in heard.said.iter().filter(|(place, _)| place.starts_with("direct shows ")) {
        assert!(contains(said, "pseudonym app Address("), "{place}");
        assert!(contains(said, "country geo Some(Country(DE))"), "{place}");
    }
    heard.everybody_spoke();
    for log in heard.logs() {
        assert!(contains(log, "connection Peer(..) accepted"));
    }
    assert!(heard.any("direct upgrade", "socket a connection, Connection(..)"));
}

#[test]
fn without_ipveil_everything_comes_out() {
    let heard = scenario("bare");
    // Each spelling is found by the search.
    for (place, said) in heard.said.iter().filter(|(place, _)| place.contains(" shows ")) {
        let found = canaries().find(said).into_iter().filter(|name| !name.starts_with(&PEER.to_string()));
        assert!(found.count() > 0, "{place}: {}", String::from_utf8_lossy(said));
    }
    heard.everybody_spoke();
    // Each kind of output has it.
    let found = heard.ports_found();
    for log in heard.said.keys().filter(|place| place.starts_with("log ")) {
        let said = &heard.said[log];
        for canary in [IpAddr::from(V4), V6.into(), PEER.into()] {
            assert!(contains(said, &canary.to_string()), "{log}: {canary}");
        }
        assert!(contains(said, "connection 127.77.66.55:"), "{log}");
        assert!(contains(said, "Rate limit exceeded for smart IP [203.0.113.77]"), "{log}");
        assert!(contains(said, "Rate limit exceeded for peer IP [127.77.66.55]"), "{log}");
        assert!(log.ends_with("pretty") || found.contains_key(log.as_str()), "{log}");
    }
    assert!(contains(&heard.said["stderr"], "203.0.113.77"));
    assert!(contains(&heard.said["stderr"], "127.77.66.55"));
    assert!(found.contains_key("stderr"));
    for (place, line) in [
        ("direct shows", "header x-forwarded-for: 203.0.113.77"),
        ("direct shows", "x-seen: Some(ConnectInfo(127.77.66.55:"),
        ("direct shows", "connect-info Some(ConnectInfo(127.77.66.55:"),
        ("direct shows", "client-ip XRealIp Ok(XRealIp(203.0.113.77))"),
        ("direct shows", "client-ip ClientIp Ok(ClientIp(127.77.66.55))"),
        ("direct shows", "governor smart Ok(203.0.113.77)"),
        ("direct shows", "governor peer Ok(127.77.66.55)"),
        ("direct upgrade", "socket Ok(127.77.66.55:"),
        ("direct websocket", "header x-forwarded-for: 203.0.113.77"),
        ("direct session", "before header x-forwarded-for: 203.0.113.77"),
        ("direct nowhere", "header x-forwarded-for: 203.0.113.77"),
        ("hyper shows", "socket-address Some(127.77.66.55:"),
        ("hyper shows", "mock Some(MockConnectInfo(127.77.66.55:"),
        ("hyper HTTP/2 shows", "header x-forwarded-for: 203.0.113.77"),
        ("tonic HTTP/2 shows", "remote-addr Some(127.77.66.55:"),
        ("tonic HTTP/2 shows", "tcp Some(TcpConnectInfo"),
        ("tonic HTTP/2 fail", "203.0.113.77"),
        ("tonic HTTP/2 fail", "127.77.66.55"),
        ("log full", "trace_fn tcp=Some(TcpConnectInfo"),
        ("log full", "layer metadata="),
    ] {
        assert!(heard.any(place, line), "{place}: {line}");
    }
}

#[test]
fn the_search_finds_every_notation() {
    for address in [IpAddr::from(V4), V6.into(), PEER.into()] {
        for (name, needle) in notations(address) {
            let said = [b"address=\x1b[0m\x1b[3m", &needle[..], b" \x1b[0m and more"].concat();
            assert!(canaries().find(&said).contains(&format!("{address} {name}")), "{address} {name}");
            assert!(!canaries().find(&said.to_ascii_uppercase()).is_empty(), "{address} {name}");
        }
        let pretty = match address {
            IpAddr::V4(address) => format!("{:#?}", address.octets()),
            IpAddr::V6(address) => format!("{:#?}", address.octets()),
        };
        assert_eq!(canaries().find(pretty.as_bytes()), [format!("{address} bytes")]);
    }
    for (text, ports) in
        [("a:54321, b", 1), ("\x1b[2mport\x1b[0m=\x1b[3m54321\x1b[0m", 1), ("154321 5432 x54321 54321x", 0)]
    {
        assert_eq!(ports_in(text.as_bytes(), &BTreeSet::from([54_321])).len(), ports, "{text}");
    }
    assert!(canaries().find(b"203.0.113.7 203.0.113.0/24 2001:db8:cafe::/48 127.0.0.1").is_empty());
}

// What is searched for

fn canaries() -> &'static Canaries {
    static CANARIES: std::sync::LazyLock<Canaries> =
        std::sync::LazyLock::new(|| Canaries::new([IpAddr::from(V4), V6.into(), PEER.into()]));
    &CANARIES
}

/// Ports that stand alone. Not in lines of the HTTP/2 library, which are full of window sizes, nor where a panicking
/// thread gives its number.
fn ports_in(said: &[u8], ports: &BTreeSet<u16>) -> BTreeSet<u16> {
    let plain = without_colors(said);
    let lines = plain
        .split(|&byte| byte == b'\n')
        .filter(|line| !["h2::", "panicked at"].iter().any(|noise| contains(line, noise)));
    lines
        .flat_map(|line| line.split(|byte| !byte.is_ascii_alphanumeric()))
        .filter(|word| word.len() == 5)
        .filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
        .filter(|port| ports.contains(port))
        .collect()
}

fn contains(said: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(said).contains(text)
}

// The scenario

/// What was said, and by whom.
struct Heard {
    said: BTreeMap<String, Vec<u8>>,
    /// Those that clients connected from, and the one in headers.
    ports: BTreeSet<u16>,
}

impl Heard {
    fn any(&self, place: &str, text: &str) -> bool {
        self.said.iter().any(|(name, said)| name.starts_with(place) && contains(said, text))
    }

    fn logs(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.said.iter().filter(|(place, _)| place.starts_with("log ")).map(|(_, said)| said)
    }

    fn ports_found(&self) -> BTreeMap<&str, BTreeSet<u16>> {
        // What the pretty format puts into a line of its own can't be told from other numbers.
        let places = self.said.iter().filter(|(place, _)| !place.ends_with("pretty"));
        places
            .map(|(place, said)| (place.as_str(), ports_in(said, &self.ports)))
            .filter(|(_, ports)| !ports.is_empty())
            .collect()
    }

    #[track_caller]
    fn everybody_spoke(&self) {
        assert_eq!(self.logs().count(), 4);
        for log in self.logs() {
            for text in [
                "started processing request",
                "finished processing request",
                "handler saw",
                "Service panicked: saw",
                "Rate limit exceeded for",
                "trace_fn",
                "layer",
                "h2::",
            ] {
                assert!(contains(log, text), "{text}");
            }
        }
        assert!(contains(&self.said["stderr"], "panicked at"));
        for (place, text) in [
            ("direct panic", "500 Internal Server Error"),
            ("direct smart 2", "429 Too Many Requests"),
            ("direct peer 2", "429 Too Many Requests"),
            ("direct upgrade", "101 Switching Protocols"),
            ("direct websocket", "101 Switching Protocols"),
            ("direct websocket", "header x-forwarded-for: 2"),
            ("direct session", "before "),
            ("direct bad request", "400 Bad Request"),
            ("direct too large", "431 Request Header Fields Too Large"),
            ("hyper HTTP/2 shows", "200"),
            ("tonic HTTP/2 fail", "grpc-message"),
        ] {
            assert!(self.any(place, text), "{place}: {text}");
        }
    }
}

fn scenario(edge: &str) -> Heard {
    let servers = Servers::start(edge);
    let runtime = Runtime::new().unwrap();
    let mut heard = Heard { said: BTreeMap::new(), ports: BTreeSet::from([PORT]) };
    runtime.block_on(async {
        for (server, address) in servers.addresses.clone() {
            match server.starts_with("tonic") {
                true => heard.grpc(&server, address).await,
                false => heard.http(&server, address).await,
            }
        }
    });
    // Servers may know their own address.
    heard.ports.retain(|port| servers.addresses.iter().all(|(_, server)| server.port() != *port));
    heard.said.extend(servers.stop());
    heard
}

impl Heard {
    async fn http(&mut self, server: &str, address: SocketAddr) {
        if server != "strip-all" {
            self.spellings(server, address).await;
        }
        if ["direct", "strip-all", "x-forwarded-for"].contains(&server) {
            for (place, headers) in every_header(server == "strip-all").enumerate() {
                self.raw(format!("{server} shows known {place}"), address, &request("/", &headers)).await;
            }
        }
        if ["direct", "x-forwarded-for"].contains(&server) {
            self.routes(server, address).await;
            for (place, bytes) in malformed() {
                self.raw(format!("{server} {place}"), address, &bytes).await;
            }
        }
        if server == "hyper" {
            self.http2(format!("{server} HTTP/2 shows"), address, "/", &usual()).await;
            self.http2(format!("{server} HTTP/2 panic"), address, "/panic", &usual()).await;
        }
    }

    async fn spellings(&mut self, server: &str, address: SocketAddr) {
        let other = if server == "own" { OWN } else { "x_forwarded.for" };
        let names = ["X-Forwarded-For", "Forwarded", "X-Real-IP", "CloudFront-Viewer-Address", "X-Client", other];
        // Where nothing reads them, or all is read alike, some will do.
        let some = if ["direct", "x-forwarded-for", "forwarded"].contains(&server) { 1 } else { 5 };
        for (place, spelling) in spellings().iter().enumerate().step_by(some) {
            let headers = names.map(|name| (name.to_owned(), spelling.clone()));
            self.raw(format!("{server} shows {place}"), address, &request("/", &headers)).await;
        }
        // Two lines say two things.
        let lines = |name: &str| ["203.0.113.77".to_owned(), V6.to_string()].map(|value| own((name, &value)));
        let headers: Vec<_> = names.into_iter().flat_map(lines).collect();
        self.raw(format!("{server} shows two lines"), address, &request("/", &headers)).await;
    }

    async fn routes(&mut self, server: &str, address: SocketAddr) {
        for path in ["panic", "nowhere", "only-post"] {
            self.raw(format!("{server} {path}"), address, &request(&format!("/{path}"), &usual())).await;
        }
        for path in ["smart", "peer"] {
            for count in 0..3 {
                self.raw(format!("{server} {path} {count}"), address, &request(&format!("/{path}"), &usual())).await;
            }
        }
        let answer = self.raw(format!("{server} session 0"), address, &request("/session", &usual())).await;
        let answer = String::from_utf8_lossy(&answer);
        let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next()).unwrap();
        for (path, more) in [
            ("session", &[("Cookie", cookie)][..]),
            ("upgrade", &[("Upgrade", "test"), ("Connection", "upgrade")]),
            (
                "websocket",
                &[
                    ("Upgrade", "websocket"),
                    ("Connection", "upgrade"),
                    ("Sec-WebSocket-Version", "13"),
                    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ],
            ),
        ] {
            let mut headers = usual();
            headers.extend(more.iter().copied().map(own));
            self.raw(format!("{server} {path}"), address, &request(&format!("/{path}"), &headers)).await;
        }
    }

    async fn grpc(&mut self, server: &str, address: SocketAddr) {
        for (place, spelling) in spellings().iter().enumerate().step_by(2) {
            let names = ["x-forwarded-for", "forwarded", "x-real-ip", "x_forwarded_for"];
            let headers = names.map(|name| (name.to_owned(), spelling.clone()));
            self.http2(format!("{server} HTTP/2 shows {place}"), address, "/", &headers).await;
        }
        for (place, headers) in every_header(false).enumerate() {
            self.http2(format!("{server} HTTP/2 shows known {place}"), address, "/", &headers).await;
        }
        for path in ["fail", "panic", "nowhere"] {
            self.http2(format!("{server} HTTP/2 {path}"), address, &format!("/{path}"), &usual()).await;
        }
    }

    /// Sends these bytes, and reads until the server closes.
    async fn raw(&mut self, place: String, server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let exchange = async {
            let mut stream = self.connect(server).await;
            // A server that has heard enough closes before it has read all.
            let _ = stream.write_all(bytes).await;
            if !bytes.ends_with(b"\n") {
                let _ = stream.shutdown().await;
            }
            let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                said.extend_from_slice(&buffer[..length]);
            }
            said
        };
        let said = tokio::time::timeout(HANGS, exchange).await.unwrap_or_else(|_| panic!("{place} hangs"));
        self.said.insert(place, said.clone());
        said
    }

    async fn http2(&mut self, place: String, server: SocketAddr, path: &str, headers: &[(String, Vec<u8>)]) {
        let exchange = async {
            let io = TokioIo::new(self.connect(server).await);
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            let connection = tokio::spawn(connection);
            let mut request = http::Request::post(format!("http://app.example{path}"));
            for (name, value) in headers {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                request = request.header(name, HeaderValue::from_bytes(value.trim_ascii()).unwrap());
            }
            let mut said = Vec::new();
            let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await;
            if let Ok(answer) = answer {
                let (parts, body) = answer.into_parts();
                writeln!(said, "{} {:?}", parts.status, parts.headers).unwrap();
                let body = body.collect().await.unwrap();
                writeln!(said, "{:?}", body.trailers()).unwrap();
                said.extend_from_slice(&body.to_bytes());
            }
            drop(sender);
            let _ = connection.await;
            said
        };
        let said = tokio::time::timeout(HANGS, exchange).await.unwrap_or_else(|_| panic!("{place} hangs"));
        self.said.insert(place, said);
    }

    async fn connect(&mut self, server: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((PEER, 0).into()).unwrap();
        let stream = socket.connect(server).await.unwrap();
        self.ports.insert(stream.local_addr().unwrap().port());
        stream
    }
}

/// Long enough for any machine: a test that hangs should say where.
const HANGS: Duration = Duration::from_secs(120);

fn own((name, value): (&str, &str)) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}

fn usual() -> Vec<(String, Vec<u8>)> {
    let named = [("X-Forwarded-For", "203.0.113.77"), ("X-Real-IP", "203.0.113.77")];
    let more = [("Forwarded", r#"for="203.0.113.77:54321""#), ("Cookie", "sid=1")];
    named.into_iter().chain(more).map(own).collect()
}

fn request(path: &str, headers: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = format!("GET {path} HTTP/1.1\r\nHost: app.example\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    if !headers.iter().any(|(name, _)| name == "Connection") {
        bytes.extend(b"Connection: close\r\n");
    }
    bytes.extend(b"\r\n");
    bytes
}

/// How a header can name somebody, well or badly.
fn spellings() -> Vec<Vec<u8>> {
    let full = "2001:0db8:cafe:f00d:0001:0002:0003:0004";
    let mut spellings = Vec::new();
    for text in [
        "203.0.113.77",
        "203.0.113.77:54321",
        "::ffff:203.0.113.77",
        "[::ffff:203.0.113.77]:54321",
        "::FFFF:CB00:714D",
        "64:ff9b::203.0.113.77",
        "64:ff9b::cb00:714d",
        "<6>",
        "<6>%eth0",
        "[<6>]",
        "[<6>]:54321",
        "<6>:54321",
        full,
        "203.000.113.077",
        "0xcb.0x00.0x71.0x4d",
        "0313.0.0161.0115",
        "cb00714d",
        "0xcb00714d",
        "3405803853",
        "203-0-113-77",
        "77.113.0.203",
        "%5B2001%3Adb8%3Acafe%3Af00d%3A1%3A2%3A3%3A4%5D",
        "\"203.0.113.77\"",
        "\"203.0.113.77",
        "'203.0.113.77'",
        "\t 203.0.113.77 \t",
        "203.0.113.77, 127.0.0.1",
        "192.0.2.1, 203.0.113.77, 127.0.0.1, 127.0.0.2",
        "203.0.113.77,,",
        ",203.0.113.77",
        ", ,203.0.113.77,",
        "203.0.113.77 203.0.113.77",
        "203.0.113.77;<6>",
        "unknown, 203.0.113.77",
        "203.0.113.77, unknown",
        "203.0.113.77, _hidden",
        "http://203.0.113.77:54321/",
        "<script>203.0.113.77</script>",
        "203.0.113.77\\",
        "203.0.113.77:543210",
        "203.0.113.77/32",
        "for=203.0.113.77",
        "For=\"203.0.113.77:54321\"",
        "for=\"[<6>]:54321\"",
        "for=[<6>]",
        "for=\"203.0.113.77",
        "for=203.0.113.77\"",
        "for=\"\\203.0.113.77\"",
        "for=203.0.113.77;proto=https;by=203.0.113.77",
        "for=\"203.0.113.77\\\"\", for=127.0.0.1",
        "for=unknown, for=203.0.113.77",
        "for=203.0.113.77, for=unknown",
        "FOR = 203.0.113.77",
        "by=203.0.113.77",
        "for=_x;host=203.0.113.77",
        "for=192.0.2.1, for=\"[::ffff:203.0.113.77]\"",
        "for=203.0.113.77;for=<6>",
        "for=203.0.113.77, for=\"127.0.0.1",
        "proto=\"203.0.113.77;for=127.0.0.1",
    ] {
        let text = text.replace("<6>", &V6.to_string());
        spellings.push(text.clone().into_bytes());
        if text.contains("cafe") {
            spellings.push(text.to_uppercase().into_bytes());
        }
    }
    spellings.push(b"\xff203.0.113.77\x80".to_vec());
    spellings.push(b"203.0.113.77".to_vec());
    spellings
}

/// All headers of the table that are removed, in all spellings, each in two lines, some at a time.
fn every_header(all: bool) -> impl Iterator<Item = Vec<(String, Vec<u8>)>> {
    let strip = Strip::new();
    let names: Vec<_> = ipveil::headers::known()
        .map(|(name, ..)| name)
        .filter(|name| all || strip.removes(&HeaderName::from_static(name)))
        .flat_map(|name| [name.to_owned(), name.replace('-', "_"), name.replace('-', ".")])
        .collect();
    let values = ["203.0.113.77:54321".to_owned(), V6.to_string()].map(String::into_bytes);
    let lines = |name: &String| values.clone().map(|value| (name.clone(), value));
    names.chunks(45).map(|names| names.iter().flat_map(lines).collect::<Vec<_>>()).collect::<Vec<_>>().into_iter()
}

/// What no client should send.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let line =
        |line: &[u8]| [b"GET / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n", line, b"\r\n\r\n"].concat();
    vec![
        ("bad request: no colon", line(b"X-Forwarded-For 203.0.113.77")),
        ("bad request: space before the colon", line(b"X-Forwarded-For : 203.0.113.77")),
        ("bad request: folded", line(b"X-Forwarded-For: 203.0.113.77,\r\n 203.0.113.77")),
        ("bad request: NUL", line(b"X-Forwarded-For: 203.0.113.77\0")),
        ("bad request: name", line(b"X-Forwarded-F\xf6r: 203.0.113.77")),
        ("bad request: length", line(b"Content-Length: no\r\nX-Forwarded-For: 203.0.113.77")),
        (
            "bare newlines",
            b"GET / HTTP/1.1\nHost: app.example\nX-Real-IP: 203.0.113.77\nConnection: close\n\n".to_vec(),
        ),
        ("HTTP/1.0", b"GET / HTTP/1.0\r\nX-Forwarded-For: 203.0.113.77\r\n\r\n".to_vec()),
        ("unfinished", b"GET / HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-For: 203.0.113.77".to_vec()),
        ("too large: many", line([&b"X-Forwarded-For: 203.0.113.77\r\n"[..]; 200].concat().trim_ascii_end())),
        (
            "too large: long",
            line([&b"X-Forwarded-For: "[..], &[&b"203.0.113.77, "[..]; 40_000].concat()].concat().trim_ascii_end()),
        ),
        (
            "a long chain",
            line(&[&b"X-Forwarded-For: "[..], &[&b"203.0.113.77, "[..]; 600].concat(), b"127.0.0.1"].concat()),
        ),
        ("not HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nX-Forwarded-For: 203.0.113.77\r\n\r\n".to_vec()),
        ("a chunked body", line(b"Transfer-Encoding: chunked\r\nX-Forwarded-For: 203.0.113.77\r\n\r\nno chunk")),
        (
            "an expectation",
            line(b"Expect: the-unexpected\r\nContent-Length: 1\r\nX-Forwarded-For: 203.0.113.77\r\n\r\nx"),
        ),
    ]
}

// The servers

/// A process with all servers in it.
struct Servers {
    process: Child,
    addresses: Vec<(String, SocketAddr)>,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    stderr: JoinHandle<Vec<u8>>,
}

/// Set where this test is the servers.
const EDGE: &str = "IPVEIL_LEAK_EDGE";
const LISTENING: &str = "listening: ";
const LOG: &str = "=== log ";

impl Servers {
    fn start(edge: &str) -> Self {
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
    fn stop(mut self) -> BTreeMap<String, Vec<u8>> {
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

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Where everybody is.
fn countries() -> Countries {
    let networks = ["127.0.0.0/8", "203.0.113.0/24", "2001:db8::/32"];
    Countries::from_bytes(mmdb::mmdb(&networks.map(|network| (network, mmdb::country("DE"))))).unwrap()
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

// The application, which tells whoever asks all that it knows

fn app(layer: Option<AnonymizeLayer>) -> Router {
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

async fn panic(request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    panic!("saw {}", everything(&mut parts).await);
}

async fn session(request: Request) -> String {
    let (mut parts, _) = request.into_parts();
    let now = everything(&mut parts).await;
    let session: &tower_sessions::Session = parts.extensions.get().unwrap();
    let before = session.get::<String>("seen").await.unwrap().unwrap_or_default();
    session.insert("seen", &now).await.unwrap();
    let before = before.lines().map(|line| format!("before {line}\n")).collect::<String>();
    format!("{before}{now}session {session:?}\n")
}

async fn websocket(request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let text = everything(&mut parts).await;
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.unwrap();
    upgrade.on_upgrade(async |mut socket| socket.send(Message::text(text)).await.unwrap())
}

/// Takes the connection over, and looks whose it is.
async fn upgrade(request: Request) -> Response {
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
async fn method(request: Request) -> Response {
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
async fn everything(parts: &mut Parts) -> String {
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

fn line(text: &mut String, name: &str, value: impl Debug) {
    writeln!(text, "{name} {value:?}").unwrap();
}
