//! What is sent: each canary by another way.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use http::{HeaderName, HeaderValue};
use ipveil::headers::{Strip, known};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use super::canary::{Canaries, random};
use crate::config::{Server, ServerAt};

/// Which versions of the PROXY protocol the target wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProxyProtocol {
    V1,
    V2,
}

/// How requests are made.
pub(crate) struct Style<'s> {
    pub(crate) host: &'s str,
    pub(crate) path: &'s str,
    pub(crate) extra: &'s [(HeaderName, HeaderValue)],
    pub(crate) query: Option<&'s str>,
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    /// Whether this machine can be many clients of the target.
    pub(crate) is_loopback: bool,
}

impl Style<'_> {
    /// A request's head with these lines in it.
    fn head(&self, first: &str, lines: &[u8]) -> Vec<u8> {
        let mut head = format!("{first}\r\nHost: {}\r\n", self.host).into_bytes();
        for (name, value) in self.extra {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(lines);
        head.extend_from_slice(b"Connection: close\r\n\r\n");
        head
    }
}

/// One connection.
#[derive(Default)]
pub(crate) struct Shot {
    pub(crate) path: String,
    bytes: Vec<u8>,
    /// The address to connect from.
    from: Option<Ipv4Addr>,
    /// A connection that goes on after the answer's head.
    goes_on: bool,
    /// Nothing more comes, and the target should see that.
    ends: bool,
    /// A request that there is no reason to refuse.
    pub(crate) is_plain: bool,
}

/// Everything that there is to send.
pub(crate) fn plan(style: &Style<'_>, canaries: &mut Canaries) -> anyhow::Result<Vec<Shot>> {
    let mut plan = Plan { style, canaries, shots: Vec::new() };
    plan.peers()?;
    plan.headers()?;
    plan.malformed()?;
    plan.errors()?;
    plan.others()?;
    Ok(plan.shots)
}

struct Plan<'p> {
    style: &'p Style<'p>,
    canaries: &'p mut Canaries,
    shots: Vec<Shot>,
}

/// A way to be sent, with an address of each family.
const FAMILIES: [bool; 2] = [true, false];

impl Plan<'_> {
    fn canary(&mut self, is_v4: bool, path: &str) -> anyhow::Result<IpAddr> {
        if is_v4 { self.canaries.v4(path) } else { self.canaries.v6(path) }
    }

    /// With a PROXY header before it, if the target wants one.
    fn shoot(&mut self, path: &str, request: impl Into<Vec<u8>>) -> anyhow::Result<&mut Shot> {
        let mut bytes = Vec::new();
        if let Some(version) = self.style.proxy_protocol {
            let client = self.canaries.v4(format!("PROXY header before {path}"))?;
            bytes = announce(version, client);
        }
        bytes.extend(request.into());
        self.shots.push(Shot { path: path.to_owned(), bytes, ..Shot::default() });
        Ok(self.shots.last_mut().expect("it was just added"))
    }

    fn head(&self, first: &str, lines: &[u8]) -> Vec<u8> {
        self.style.head(first, lines)
    }

    fn get(&self, lines: impl AsRef<[u8]>) -> Vec<u8> {
        self.head(&format!("GET {} HTTP/1.1", self.style.path), lines.as_ref())
    }

    /// The other end of the connection, and what a PROXY header says of it.
    fn peers(&mut self) -> anyhow::Result<()> {
        if self.style.is_loopback {
            for number in 0..4 {
                let from = self.canaries.loopback("the connection's peer")?;
                let request = match number {
                    0 => b"NONSENSE\r\n\r\n".to_vec(),
                    1 => self.get("X-Forwarded-For: unknown\r\n"),
                    _ => self.get(""),
                };
                self.shoot("the connection's peer", request)?.from = Some(from);
            }
        }
        let versions = match self.style.proxy_protocol {
            Some(_) => [ProxyProtocol::V1, ProxyProtocol::V2].as_slice(),
            None => &[ProxyProtocol::V1],
        };
        for &version in versions {
            for is_v4 in FAMILIES {
                let path = match (version, self.style.proxy_protocol) {
                    (_, None) => "a PROXY header that is not wanted",
                    (ProxyProtocol::V1, _) => "PROXY header, version 1",
                    (ProxyProtocol::V2, _) => "PROXY header, version 2",
                };
                let client = self.canary(is_v4, path)?;
                let bytes = [announce(version, client), self.get("")].concat();
                self.shots.push(Shot { path: path.to_owned(), bytes, ..Shot::default() });
            }
        }
        if self.style.proxy_protocol.is_some() {
            self.malformed_proxy_headers()?;
        }
        Ok(())
    }

    fn malformed_proxy_headers(&mut self) -> anyhow::Result<()> {
        let path = "a malformed PROXY header";
        for number in 0..6 {
            let client = self.canary(number != 1, path)?;
            let v2 = announce(ProxyProtocol::V2, client);
            let bytes = match number {
                0 => format!("PROXY TCP4 {client} nobody 1 2\r\n").into_bytes(),
                1 => format!("PROXY TCP4 {client} {client} 1 2\r\n").into_bytes(),
                2 => format!("PROXY TCP4 {client} 192.0.2.255 99999 2 {}\r\n", "x".repeat(120)).into_bytes(),
                3 => [&v2[..12], &[0x31], &v2[13..]].concat(),
                // A checksum that is none.
                4 => [&v2[..14], &[0, 12 + 7], &v2[16..], &[3, 0, 4, 1, 2, 3, 4]].concat(),
                _ => [v2.clone(), v2].concat(),
            };
            let bytes = [bytes, self.get("")].concat();
            self.shots.push(Shot { path: path.to_owned(), bytes, ends: true, ..Shot::default() });
        }
        Ok(())
    }

    /// Each that the library knows to give an address away.
    fn headers(&mut self) -> anyhow::Result<()> {
        let strip = Strip::new();
        for (name, ..) in known() {
            if !strip.removes(&HeaderName::from_static(name)) {
                continue;
            }
            for is_v4 in FAMILIES {
                let client = self.canary(is_v4, name)?;
                let value = value(name, client);
                let request = self.get(format!("{name}: {value}\r\n"));
                self.shoot(name, request)?.is_plain = true;
            }
        }
        Ok(())
    }

    /// As somebody writes them who wants to be overlooked.
    fn malformed(&mut self) -> anyhow::Result<()> {
        let names = [
            "x_forwarded_for",
            "X.Forwarded.For",
            "X-FORWARDED_FOR",
            "x_real.ip",
            "True_Client_IP",
            "X-Forwarded-For ",
            " X-Forwarded-For",
            "X-Forwarded-For\t",
            "CF_Connecting_IP",
            "Forwarded_For",
        ];
        for (number, name) in names.into_iter().enumerate() {
            let path = format!("the header {name:?}");
            let client = self.canary(number % 2 == 0, &path)?;
            let request = self.get(format!("{name}: {client}\r\n"));
            self.shoot(&path, request)?;
        }
        type Value = fn(&str) -> Vec<u8>;
        let values: [(&str, Value); 18] = [
            ("x-forwarded-for with garbage before", |a| format!("X-Forwarded-For: garbage, {a}").into()),
            ("x-forwarded-for with garbage behind", |a| format!("X-Forwarded-For: {a}, garbage").into()),
            ("x-forwarded-for in quotes", |a| format!("X-Forwarded-For: \"{a}\"").into()),
            ("x-forwarded-for with half a quote", |a| format!("X-Forwarded-For: \"{a}").into()),
            ("x-forwarded-for with a port that is none", |a| format!("X-Forwarded-For: {a}:99999").into()),
            ("x-forwarded-for in brackets", |a| format!("X-Forwarded-For: [{a}]").into()),
            ("x-forwarded-for with a zone", |a| format!("X-Forwarded-For: {a}%eth0").into()),
            ("x-forwarded-for between commas", |a| format!("X-Forwarded-For: ,,{a},,").into()),
            ("x-forwarded-for with many hops", |a| {
                format!("X-Forwarded-For: {}{a}", format!("{a}, ").repeat(100)).into()
            }),
            ("x-forwarded-for in two lines", |a| format!("X-Forwarded-For: {a}\r\nX-Forwarded-For: {a}").into()),
            ("x-forwarded-for folded", |a| format!("X-Forwarded-For:\r\n {a}").into()),
            ("x-forwarded-for with a control character", |a| format!("X-Forwarded-For: {a}\x01").into()),
            ("x-forwarded-for with bytes that are no text", |a| [b"X-Forwarded-For: \xff\xfe", a.as_bytes()].concat()),
            ("forwarded with half a quote", |a| format!("Forwarded: for=\"{a}").into()),
            ("forwarded with empty parts", |a| format!("Forwarded: ;;for={a};;=,,").into()),
            ("forwarded, by and host", |a| format!("Forwarded: for=unknown;by={a};host=\"{a}\"").into()),
            ("x-real-ip with a list", |a| format!("X-Real-IP: {a}, {a}").into()),
            ("x-forwarded-for in JSON", |a| format!("X-Forwarded-For: {{\"ip\":\"{a}\"}}").into()),
        ];
        for (path, value) in values {
            for is_v4 in FAMILIES {
                let client = self.canary(is_v4, path)?;
                let mut lines = value(&client.to_string());
                lines.extend_from_slice(b"\r\n");
                let request = self.get(lines);
                self.shoot(path, request)?;
            }
        }
        Ok(())
    }

    /// What a server answers by itself, and may log on the way.
    fn errors(&mut self) -> anyhow::Result<()> {
        let nowhere = format!("/{:032x}", random::<16>()?);
        let long = "x".repeat(70 * 1024);
        let firsts = [
            ("a page that is not there", format!("GET {nowhere} HTTP/1.1")),
            ("a method that is none", "G@T / HTTP/1.1".to_owned()),
            ("a version that is none", "GET / HTTP/9.9".to_owned()),
            ("a target that is none", "GET :// HTTP/1.1".to_owned()),
            ("a target that is too long", format!("GET /{long} HTTP/1.1")),
            ("CONNECT", "CONNECT example.invalid:443 HTTP/1.1".to_owned()),
            ("TRACE", "TRACE / HTTP/1.1".to_owned()),
            ("OPTIONS", "OPTIONS * HTTP/1.1".to_owned()),
        ];
        for (path, first) in firsts {
            for is_v4 in FAMILIES {
                let client = self.canary(is_v4, path)?;
                let request = self.head(&first, usual(client).as_bytes());
                self.shoot(path, request)?;
            }
        }
        let framing: [(&str, String); 6] = [
            ("a length that is none", "Content-Length: many\r\n".into()),
            ("two lengths", "Content-Length: 1\r\nContent-Length: 2\r\n".into()),
            ("a length and chunks", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n".into()),
            ("an encoding that is none", "Transfer-Encoding: nonsense\r\n".into()),
            ("a head that is too long", format!("X-Long: {long}\r\n")),
            ("too many headers", (0..300).map(|number| format!("X-{number}: x\r\n")).collect()),
        ];
        for (path, lines) in framing {
            let client = self.canaries.v4(path)?;
            let request = self.get(format!("{}{lines}", usual(client)));
            self.shoot(path, request)?.ends = true;
        }
        let client = self.canaries.v4("a head that ends too early")?;
        let request = format!("GET / HTTP/1.1\r\n{}Host", usual(client));
        self.shoot("a head that ends too early", request)?.ends = true;
        let client = self.canaries.v4("no host")?;
        let request = format!("GET / HTTP/1.1\r\n{}\r\n", usual(client));
        self.shoot("no host", request)?.ends = true;
        Ok(())
    }

    fn others(&mut self) -> anyhow::Result<()> {
        for is_v4 in FAMILIES {
            let path = "a request for a WebSocket";
            let client = self.canary(is_v4, path)?;
            let mut request = self.get(format!(
                "{}Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                usual(client)
            ));
            let close = b"Connection: close\r\n\r\n";
            request.truncate(request.len() - close.len());
            request.extend_from_slice(b"Connection: Upgrade\r\n\r\n");
            self.shoot(path, request)?.goes_on = true;

            let path = "a trailer";
            let client = self.canary(is_v4, path)?;
            let first = format!("POST {} HTTP/1.1", self.style.path);
            let mut request = self.head(&first, b"Transfer-Encoding: chunked\r\nTrailer: X-Forwarded-For\r\n");
            request.extend_from_slice(format!("0\r\nX-Forwarded-For: {client}\r\n\r\n").as_bytes());
            self.shoot(path, request)?;

            if let Some(name) = self.style.query {
                let path = format!("the query's {name}");
                let client = self.canary(is_v4, &path)?;
                let separator = if self.style.path.contains('?') { '&' } else { '?' };
                let first = format!("GET {}{separator}{name}={client} HTTP/1.1", self.style.path);
                let request = self.head(&first, b"");
                self.shoot(&path, request)?;
            }
        }
        Ok(())
    }
}

/// The headers that most deployments look at.
fn usual(client: IpAddr) -> String {
    let forwarded = value("forwarded", client);
    format!("X-Forwarded-For: {client}\r\nX-Real-IP: {client}\r\nForwarded: {forwarded}\r\n")
}

/// As a header has it.
pub(crate) fn value(name: &str, client: IpAddr) -> String {
    match (name, client) {
        ("forwarded", IpAddr::V4(client)) => format!("for={client}"),
        ("forwarded", IpAddr::V6(client)) => format!("for=\"[{client}]:4711\""),
        ("via", _) => format!("1.1 {client}"),
        ("x-amzn-request-context" | "x-apigateway-context" | "x-apigateway-event", _) => {
            format!("{{\"identity\":{{\"sourceIp\":\"{client}\"}}}}")
        }
        _ => client.to_string(),
    }
}

fn announce(version: ProxyProtocol, client: IpAddr) -> Vec<u8> {
    match (version, client) {
        (ProxyProtocol::V1, IpAddr::V4(client)) => format!("PROXY TCP4 {client} 192.0.2.255 47110 443\r\n").into(),
        (ProxyProtocol::V1, IpAddr::V6(client)) => format!("PROXY TCP6 {client} 2001:db8:: 47110 443\r\n").into(),
        (ProxyProtocol::V2, _) => {
            let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
            match client {
                IpAddr::V4(client) => {
                    bytes.extend_from_slice(&[0x11, 0, 12]);
                    bytes.extend_from_slice(&client.octets());
                    bytes.extend_from_slice(&[192, 0, 2, 255]);
                }
                IpAddr::V6(client) => {
                    bytes.extend_from_slice(&[0x21, 0, 36]);
                    bytes.extend_from_slice(&client.octets());
                    bytes.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                }
            }
            bytes.extend_from_slice(&47110_u16.to_be_bytes());
            bytes.extend_from_slice(&443_u16.to_be_bytes());
            bytes
        }
    }
}

/// What is sent to.
pub(crate) struct Target {
    server: Server,
    addresses: Vec<SocketAddr>,
    tls: Option<Tls>,
    pub(crate) timeout: Duration,
}

struct Tls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// More of an answer than this is not read.
pub(crate) const LONGEST_ANSWER: usize = 4 * 1024 * 1024;
/// Nor of a page.
pub(crate) const LONGEST_PAGE: usize = 64 * 1024 * 1024;

impl Target {
    pub(crate) fn new(server: &Server, ca: Option<&Path>, timeout: Duration) -> anyhow::Result<Self> {
        if server.h2c {
            bail!("h2c is not spoken here (expected http, https or unix)");
        }
        let addresses = match &server.at {
            ServerAt::Tcp(_, port) => {
                let found = (server.host(), *port).to_socket_addrs();
                found.with_context(|| format!("{server}: has no address"))?.collect()
            }
            ServerAt::Unix(_) => Vec::new(),
        };
        let tls = match server.tls {
            true => {
                let name = ServerName::try_from(server.host().to_owned()).context("--target")?;
                let (any, http1) = crate::proxy::tls::client(ca)?;
                Some(Tls { http1: Arc::clone(http1.config()), http2: Arc::clone(any.config()), name })
            }
            false => None,
        };
        Ok(Self { server: server.clone(), addresses, tls, timeout })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// With what a connection in HTTP/2 begins, if not with that.
    pub(crate) fn http2_tls(&self) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        self.tls.as_ref().map(|tls| (Arc::clone(&tls.http2), tls.name.clone()))
    }

    /// Whether it is on this machine, which has a whole network to connect from.
    pub(crate) fn is_loopback(&self) -> bool {
        cfg!(target_os = "linux")
            && self.addresses.first().is_some_and(|address| matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback()))
    }

    /// Sends, and says what was answered: nothing, if the connection was just closed.
    pub(crate) fn shoot(&self, shot: &Shot, longest: usize) -> io::Result<Reply> {
        match &self.server.at {
            ServerAt::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(self.timeout))?;
                stream.set_write_timeout(Some(self.timeout))?;
                let end = stream.try_clone()?;
                self.talk(stream, || end.shutdown(Shutdown::Write), shot, longest)
            }
            ServerAt::Tcp(..) => {
                let mut stream = self.connect(shot.from)?;
                stream.set_read_timeout(Some(self.timeout))?;
                stream.set_write_timeout(Some(self.timeout))?;
                stream.set_nodelay(true)?;
                let end = stream.try_clone()?;
                let shutdown = || end.shutdown(Shutdown::Write);
                match &self.tls {
                    None => self.talk(stream, shutdown, shot, longest),
                    Some(Tls { http1, name, .. }) => {
                        // What a load balancer says comes before TLS.
                        let plain = shot.bytes_before_tls();
                        stream.write_all(&shot.bytes[..plain])?;
                        let connection =
                            ClientConnection::new(Arc::clone(http1), name.clone()).map_err(io::Error::other)?;
                        let rest = Shot { bytes: shot.bytes[plain..].to_vec(), path: String::new(), ..*shot };
                        self.talk(StreamOwned::new(connection, stream), || Ok(()), &rest, longest)
                    }
                }
            }
        }
    }

    pub(crate) fn connect(&self, from: Option<Ipv4Addr>) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in &self.addresses {
            let connected = match from {
                None => TcpStream::connect_timeout(address, self.timeout),
                Some(from) => {
                    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                    socket.bind(&SocketAddr::from((from, 0)).into())?;
                    socket.connect_timeout(&(*address).into(), self.timeout).map(|()| socket.into())
                }
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn talk(
        &self,
        mut stream: impl Read + Write,
        end: impl FnOnce() -> io::Result<()>,
        shot: &Shot,
        longest: usize,
    ) -> io::Result<Reply> {
        let deadline = Instant::now() + self.timeout;
        // Whoever refuses a request may answer before it has all of it.
        let sent = stream.write_all(&shot.bytes).and_then(|()| stream.flush());
        if shot.ends && sent.is_ok() {
            let _ = end();
        }
        let mut answer = Reply::default();
        let mut part = [0; 16 * 1024];
        loop {
            match stream.read(&mut part) {
                Ok(0) => break,
                Ok(length) => answer.bytes.extend_from_slice(&part[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // So says a stream with a timeout.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    answer.cut = Some(io::ErrorKind::TimedOut.into());
                }
                Err(error) => answer.cut = Some(error),
            }
            if !answer.cut_if_longer_than(longest) && Instant::now() > deadline {
                answer.cut = Some(io::ErrorKind::TimedOut.into());
            }
            if answer.cut.is_some() || (shot.goes_on && answer.head().is_some()) {
                break;
            }
        }
        if answer.bytes.is_empty() {
            sent?;
        }
        Ok(answer)
    }
}

/// What came back.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    /// Why it may not be all: it was closed, or silent, or too long.
    pub(crate) cut: Option<io::Error>,
}

impl Reply {
    pub(crate) fn cut_if_longer_than(&mut self, longest: usize) -> bool {
        let is_longer = self.bytes.len() > longest;
        if is_longer {
            let text = format!("is longer than {longest} bytes, and was not read to its end");
            self.cut = Some(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        is_longer
    }

    /// Why it is not all, if it is too long; who is sent something odd may close the connection, or say nothing.
    pub(crate) fn too_long(&self) -> Option<String> {
        let cut = self.cut.as_ref()?;
        (cut.kind() == io::ErrorKind::FileTooLarge).then(|| cut.to_string())
    }

    fn head(&self) -> Option<&[u8]> {
        let end = memchr::memmem::find(&self.bytes, b"\r\n\r\n")?;
        self.bytes.get(..end + 4)
    }

    /// Of an answer in HTTP/1.
    pub(crate) fn status(&self) -> Option<u16> {
        let rest = self.bytes.strip_prefix(b"HTTP/1.")?;
        std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok()
    }

    /// Why it is not a whole page that could be searched as it is.
    pub(crate) fn missing(&self) -> Option<String> {
        let head = self.head().unwrap_or_default();
        let length = self.bytes.len() - head.len();
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let value = |name| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let announced = value("content-length").map(|value| value.trim().parse());
        match (announced, &self.cut) {
            // Whether the connection is closed then, and how, says nothing more.
            (Some(Ok(announced)), _) if length >= announced => None,
            (_, Some(error)) => Some(error.to_string()),
            (Some(_), None) => Some("ended before its length".to_owned()),
            (None, None) if head.is_empty() => Some("ended before its head did".to_owned()),
            (None, None) => value("transfer-encoding")
                .map(|_| "came in chunks, which may cut addresses (expected none in answer to HTTP/1.0)".to_owned()),
        }
    }
}

impl Shot {
    /// A request without anything that gives somebody away, to see whether there is anybody.
    pub(crate) fn greeting(style: &Style<'_>) -> Self {
        let mut bytes = Self::greeting_before(style).bytes;
        bytes.extend(style.head(&format!("GET {} HTTP/1.1", style.path), b""));
        Self { path: "greeting".to_owned(), bytes, ..Self::default() }
    }

    /// What comes before it, which gives nobody away either.
    pub(crate) fn greeting_before(style: &Style<'_>) -> Self {
        let bytes = match style.proxy_protocol {
            Some(ProxyProtocol::V1) => b"PROXY UNKNOWN\r\n".to_vec(),
            // The target's own check, as load balancers say.
            Some(ProxyProtocol::V2) => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(),
            None => Vec::new(),
        };
        Self { path: String::new(), bytes, ..Self::default() }
    }

    /// What comes before requests on a connection of many.
    pub(crate) fn start(style: &Style<'_>, canaries: &mut Canaries) -> anyhow::Result<Self> {
        let path = "PROXY header before HTTP/2".to_owned();
        let bytes = match style.proxy_protocol {
            Some(version) => announce(version, canaries.v4(&path)?),
            None => Vec::new(),
        };
        Ok(Self { path, bytes, goes_on: true, ..Self::default() })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What somebody asks for who wants to read it, in one piece.
    pub(crate) fn page(host: &str, path: &str) -> Self {
        let bytes = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n").into_bytes();
        Self { path: "page".to_owned(), bytes, ..Self::default() }
    }

    fn bytes_before_tls(&self) -> usize {
        if self.bytes.starts_with(b"PROXY ") {
            return self.bytes.windows(2).position(|two| two == b"\r\n").map_or(0, |place| place + 2);
        }
        match self.bytes.get(..16) {
            Some(head) if head.starts_with(b"\r\n\r\n\0\r\nQUIT\n") => {
                16 + usize::from(u16::from_be_bytes([head[14], head[15]]))
            }
            _ => 0,
        }
    }
}
