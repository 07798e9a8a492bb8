//! What is asked of the servers, in every spelling.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::SocketAddr,
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ipveil::headers::Strip;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
};

use crate::{
    canaries::{PORT, V6},
    search::{PEER, contains, ports_in},
    servers::{OWN, Servers},
};

/// What was said, and by whom.
pub(crate) struct Heard {
    pub(crate) said: BTreeMap<String, Vec<u8>>,
    /// Those that clients connected from, and the one in headers.
    pub(crate) ports: BTreeSet<u16>,
}

impl Heard {
    pub(crate) fn any(&self, place: &str, text: &str) -> bool {
        self.said.iter().any(|(name, said)| name.starts_with(place) && contains(said, text))
    }

    pub(crate) fn logs(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.said.iter().filter(|(place, _)| place.starts_with("log ")).map(|(_, said)| said)
    }

    pub(crate) fn ports_found(&self) -> BTreeMap<&str, BTreeSet<u16>> {
        // What the pretty format puts into a line of its own can't be told from other numbers.
        let places = self.said.iter().filter(|(place, _)| !place.ends_with("pretty"));
        places
            .map(|(place, said)| (place.as_str(), ports_in(said, &self.ports)))
            .filter(|(_, ports)| !ports.is_empty())
            .collect()
    }

    #[track_caller]
    pub(crate) fn everybody_spoke(&self) {
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

pub(crate) fn scenario(edge: &str) -> Heard {
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
    pub(crate) async fn http(&mut self, server: &str, address: SocketAddr) {
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

    pub(crate) async fn grpc(&mut self, server: &str, address: SocketAddr) {
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
    pub(crate) async fn raw(&mut self, place: String, server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
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

    pub(crate) async fn connect(&mut self, server: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((PEER, 0).into()).unwrap();
        let stream = socket.connect(server).await.unwrap();
        self.ports.insert(stream.local_addr().unwrap().port());
        stream
    }
}

/// Long enough for any machine: a test that hangs should say where.
const HANGS: Duration = Duration::from_secs(120);

pub(crate) fn own((name, value): (&str, &str)) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}

fn usual() -> Vec<(String, Vec<u8>)> {
    let named = [("X-Forwarded-For", "203.0.113.77"), ("X-Real-IP", "203.0.113.77")];
    let more = [("Forwarded", r#"for="203.0.113.77:54321""#), ("Cookie", "sid=1")];
    named.into_iter().chain(more).map(own).collect()
}

pub(crate) fn request(path: &str, headers: &[(String, Vec<u8>)]) -> Vec<u8> {
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
