//! Nothing raw comes out, whatever goes in.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use http::Request;
use http_body_util::BodyExt as _;
use ipveil::headers::{Kind, Strip, known};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    canaries::{Canaries, PORT, V4, V6, without_colors},
    client::{Client, connect, get},
    edge::{Edge, Setup, before, free_port},
    http2,
    server::{Server, reply, serve, yes},
};

/// What stands in targets and in texts. Servers may see it, logs may not.
const TEXT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 201);
const TEXT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbeef, 0xfeed, 5, 6, 7, 8);

#[test]
fn nothing_raw_comes_out_of_a_strict_proxy() {
    let strict = "[privacy]\nstrip_countries = true\nstrip_certificates = true\nstrip_fingerprints = true\n\
                  strip_join_keys = true\n[access_log]\nformat = \"json\"\n[log]\njson = true\n";
    let strip = Strip::new().countries().certificates().fingerprints().join_keys();
    scenario(strict, &strip);
}

#[test]
fn nothing_raw_comes_out_of_a_proxy_with_defaults() {
    scenario("[access_log]\nformat = \"combined\"\n", &Strip::new());
}

/// Sends everything everywhere, and searches all that comes out.
fn scenario(more: &str, strip: &Strip) {
    let servers = Servers::new();
    let mut said: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut edge = start(&servers, more);
    let proxied: u16 = fs::read_to_string(edge.path("proxied")).unwrap().parse().unwrap();

    let mut answers = Vec::new();
    let mut headers = proxy_headers().into_iter().cycle();
    for request in requests(strip) {
        let announced = [headers.next().unwrap(), request.clone().into_bytes()].concat();
        for (port, bytes) in [(edge.port, request.into_bytes()), (proxied, announced)] {
            let mut client = connect(port);
            client.send(&bytes);
            answers.extend(client.rest());
        }
    }
    for header in proxy_headers() {
        // Such a header is not expected there, and what is no header is not expected here.
        for (port, bytes) in [(edge.port, [&header[..], b"\r\n\r\n"].concat()), (proxied, malformed(&header))] {
            let mut client = connect(port);
            client.send(bytes);
            answers.extend(client.rest());
        }
    }
    said.insert("answers".to_owned(), answers);
    said.insert("answers over HTTP/2".to_owned(), over_h2(edge.port, proxied, strip).into_bytes());

    for path in ["/metrics", "/healthz", "/readyz", "/bans", "/keys", "/203.0.113.77"] {
        said.insert(format!("admin {path}"), edge.command("GET", path).rest());
    }
    let ban = format!("/bans?name={V4}&seconds=60");
    said.insert("admin ban".to_owned(), edge.command("POST", &ban).rest());
    said.insert("admin unban".to_owned(), edge.command("DELETE", &ban).rest());
    for name in ["cmdline", "status", "stat"] {
        said.insert(format!("/proc {name}"), fs::read(format!("/proc/{}/{name}", edge.id())).unwrap());
    }

    edge.end();
    said.insert("own log".to_owned(), edge.log().into_bytes());
    said.insert("access log".to_owned(), edge.lines().join("\n").into_bytes());
    let everything = Canaries::new([IpAddr::from(V4), V6.into(), TEXT_V4.into(), TEXT_V6.into()]);
    let mut leaks = String::new();
    for (place, said) in &said {
        for found in everything.find(said) {
            writeln!(leaks, "{place}: {found}: {}", line_with(&everything, said, &found)).unwrap();
        }
        if let Some(line) = line_with_port(said) {
            writeln!(leaks, "{place}: the port: {line}").unwrap();
        }
    }
    let client = Canaries::new([IpAddr::from(V4), V6.into()]);
    let heard = servers.all().map(|(name, server)| (name, server.heard().concat()));
    for (name, heard) in heard.into_iter().chain([("HTTP/2", servers.h2.heard().into_bytes())]) {
        assert!(!heard.is_empty(), "{name}");
        for found in client.find(&heard) {
            writeln!(leaks, "{name}: {found}: {}", line_with(&client, &heard, &found)).unwrap();
        }
        if let Some(line) = line_with_port(&heard) {
            writeln!(leaks, "{name}: the port: {line}").unwrap();
        }
    }
    assert!(leaks.is_empty(), "{leaks}");
    everybody_spoke(&said, &servers);
}

/// Otherwise the search would prove nothing.
fn everybody_spoke(said: &BTreeMap<String, Vec<u8>>, servers: &Servers) {
    let has = |place: &str, text: &str| String::from_utf8_lossy(&said[place]).contains(text);
    for status in ["101", "200", "400", "404", "502"] {
        assert!(has("answers", &format!("HTTP/1.1 {status} ")), "{status}");
        assert!(has("access log", status), "{status}");
    }
    assert!(has("own log", "TRACE") && has("own log", "h2::"));
    assert!(has("answers over HTTP/2", "status: 200") && has("answers over HTTP/2", "status: 502"));
    assert!(servers.h2.heard().contains("\"x-forwarded-for\": \"2001:2"));
    assert!(has("access log", "/down?address="));
    assert!(has("admin /metrics", "ipveil_requests_total{status=\"2xx\"}"));
    assert!(has("admin ban", "no client has that name"));
    for (name, server) in servers.all() {
        let heard = server.heard().concat();
        let heard = String::from_utf8_lossy(&heard).to_ascii_lowercase();
        // The client is there, as a pseudonym.
        assert!(heard.contains("x-forwarded-for: 2001:2"), "{name}");
        assert!(heard.contains("user-agent: 198.51.100.201"), "{name}");
    }
    let announced = servers.announced_v1.heard().concat();
    assert!(announced.starts_with(b"PROXY TCP6 2001:2"), "{}", String::from_utf8_lossy(&announced));
    assert!(servers.announced_v2.heard().concat().starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x21"));
}

struct Servers {
    plain: Server,
    announced_v1: Server,
    announced_v2: Server,
    upgrades: Server,
    breaks: Server,
    h2: http2::Server,
}

impl Servers {
    fn new() -> Self {
        Self {
            plain: yes(),
            announced_v1: announced(|client| {
                client.line().unwrap();
            }),
            announced_v2: announced(|client| {
                let head = client.exactly(16).unwrap();
                client.exactly(usize::from(u16::from_be_bytes([head[14], head[15]]))).unwrap();
            }),
            upgrades: reply(|request| {
                if request.value("upgrade").is_some() {
                    // And nothing more: the next head is none.
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_vec()
                } else {
                    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec()
                }
            }),
            breaks: serve(|number, mut client| {
                while let Ok(Some(_)) = client.head() {
                    client
                        .send(["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "no HTTP\r\n\r\n", ""][number % 3]);
                    let _ = client.stream.stream.shutdown(std::net::Shutdown::Both);
                }
            }),
            h2: http2::Server::yes(),
        }
    }

    fn all(&self) -> [(&'static str, &Server); 5] {
        [
            ("plain", &self.plain),
            ("announced, version 1", &self.announced_v1),
            ("announced, version 2", &self.announced_v2),
            ("upgrades", &self.upgrades),
            ("breaks", &self.breaks),
        ]
    }
}

/// A server that expects a PROXY header.
fn announced(header: fn(&mut Client<crate::server::Recorded>)) -> Server {
    serve(move |_, mut client| {
        header(&mut client);
        while let Ok(Some(mut request)) = client.head() {
            let _ = client.body(&mut request, crate::client::Otherwise::Nothing);
            client.send(crate::server::OK);
        }
    })
}

fn start(servers: &Servers, more: &str) -> Edge {
    let mut config = before(servers.plain.address);
    let mut routes = String::new();
    for (name, settings) in [
        ("v1", format!("servers = [\"http://{}\"]\nproxy_protocol = 1", servers.announced_v1.address)),
        ("v2", format!("servers = [\"http://{}\"]\nproxy_protocol = 2", servers.announced_v2.address)),
        ("upgrades", format!("servers = [\"http://{}\"]", servers.upgrades.address)),
        ("breaks", format!("servers = [\"http://{}\"]", servers.breaks.address)),
        ("h2", format!("servers = [\"h2c://{}\"]", servers.h2.address)),
        ("down", format!("servers = [\"http://127.0.0.1:{}\"]", free_port())),
    ] {
        writeln!(config, "[upstream.{name}]\n{settings}").unwrap();
        writeln!(routes, "[[route]]\nhost = \"example.com\"\npath = \"/{name}\"\nupstream = \"{name}\"").unwrap();
    }
    let proxied = free_port();
    config.push_str(&routes);
    config.push_str("[[route]]\nhost = \"example.com\"\nupstream = \"app\"\n");
    write!(config, "[[listener]]\naddress = \"127.0.0.1:{proxied}\"\nproxy_protocol = \"required\"\n").unwrap();
    config.push_str("[client]\ntrusted = [\"loopback\"]\nsource = \"x-forwarded-for\"\n");
    config.push_str(
        "[admin]\nlisten = [\"unix:$FOLDER/admin\"]\n[deadlines]\nupgraded_idle = \"300ms\"\nkeep_alive = \"300ms\"\n",
    );
    config.push_str(more);
    Setup::new(&config).file("proxied", proxied.to_string()).variable("RUST_LOG", "trace").start()
}

/// Every way to say who the client is, and every place where somebody could write it down.
fn requests(strip: &Strip) -> Vec<String> {
    let text = format!(
        "user-agent: {TEXT_V4}\r\nreferer: http://[{TEXT_V6}]/{TEXT_V4}?{TEXT_V4}\r\ncookie: sid=1\r\n\
         connection: close\r\n"
    );
    let quoted =
        format!("user-agent: \"{TEXT_V4}\"\r\nreferer: \\{TEXT_V4}\\\u{7f}{TEXT_V6}\"\r\nconnection: close\r\n");
    let values = [
        format!("{V4}"),
        format!("{V6}"),
        format!("{V4}:{PORT}"),
        format!("[{V6}]:{PORT}"),
        format!("for=\"[{V6}]:{PORT}\";by={V4}"),
        format!("{V4}, garbage"),
        format!("garbage;{V4}\" ,, {V6}"),
        format!("::ffff:{V4}"),
    ];
    let source = |value: &str| format!("x-forwarded-for: {value}\r\n");
    let mut all = String::new();
    let kinds = |kind: Kind| !matches!(kind, Kind::ProxyHop);
    for (index, (name, ..)) in known().filter(|&(_, kind, _)| kinds(kind)).enumerate() {
        let header = |name: &str| format!("{name}: {}\r\n", values[index % values.len()]);
        if strip.removes(&name.parse().unwrap()) {
            all.push_str(&header(name));
            all.push_str(&header(&name.replace('-', "_")));
            all.push_str(&header(&name.to_ascii_uppercase().replacen('-', ".", 1)));
        }
    }
    let all: Vec<_> = all.lines().collect();
    // As many as a request may have.
    let all: Vec<_> = all.chunks(60).map(|lines| lines.join("\r\n") + "\r\n").collect();

    let mut requests = Vec::new();
    for path in ["/", "/v1", "/v2", "/upgrades", "/breaks", "/h2", "/down", "/down?x"] {
        let target = format!("{path}?address={TEXT_V4}&{TEXT_V6}/");
        requests.extend(values.iter().map(|value| get(&target, &(source(value) + &text))));
        requests.extend(all.iter().map(|lines| get(&target, &(source(&values[0]) + lines + &text))));
        requests.push(get(&target, &(http2::HANDSHAKE.to_owned() + &source(&values[1]) + &all[0])));
        requests.push(get(&target, &(source(&values[0]) + &quoted)));
        requests.push(format!(
            "POST {target} HTTP/1.1\r\nhost: example.com\r\n{}{text}trailer: x-real-ip\r\ntransfer-encoding: chunked\r\n\r\n\
             1\r\nx\r\n0\r\nx-real-ip: {V4}\r\nx-forwarded-for: {V6}\r\nX_Client.IP: {V4}\r\nx-forwarded-for: {V4}\r\n\r\n",
            source(&values[0])
        ));
    }
    let [first, second] = [&values[0], &values[1]];
    requests.extend([
        // Of what connects, only the last is believed.
        get("/", &(source(first) + &source(second) + &text)),
        get("/", &format!("connection: x-forwarded-for, x-real-ip\r\nconnection: close\r\n{}", source(first))),
        // There is no such site, method, or version.
        format!("GET / HTTP/1.1\r\nhost: {TEXT_V4}\r\n{}{text}\r\n", source(first)),
        format!("GET / HTTP/1.1\r\nhost: [{TEXT_V6}]\r\n{}{text}\r\n", source(first)),
        format!("{TEXT_V4} / HTTP/1.1\r\nhost: example.com\r\n{}{text}\r\n", source(first)),
        format!("GET / {TEXT_V4}\r\nhost: example.com\r\n{}{text}\r\n", source(first)),
        format!("GET http://{TEXT_V4}/{TEXT_V4} HTTP/1.1\r\nhost: example.com\r\n{}{text}\r\n", source(first)),
        format!("CONNECT {TEXT_V4}:80 HTTP/1.1\r\nhost: {TEXT_V4}:80\r\n{}{text}\r\n", source(first)),
        format!("GET /?{TEXT_V4} HTTP/1.0\r\n{}{text}\r\n", source(second)),
        // What is no request.
        get("/", &format!("x-forwarded-for {V4}\r\n{text}")),
        get("/", &format!("x-forwarded-for\0: {V4}\r\n{text}")),
        get("/", &(source(first) + &"x: y\r\n".repeat(200))),
        get("/", &(source(first) + "x: " + &"y".repeat(70_000) + "\r\n")),
        get("/", &(source(first) + &text + "content-length: 5\r\ncontent-length: 6\r\n")),
        format!("{V4}\r\n\r\n"),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{V4}"),
    ]);
    requests
}

/// The same over HTTP/2; gives all that is answered.
fn over_h2(port: u16, proxied: u16, strip: &Strip) -> String {
    let mut answers = String::new();
    for (port, header) in [(port, None), (proxied, proxy_headers().pop())] {
        http2::run(async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(&header.unwrap_or_default()).await.unwrap();
            let mut sender = http2::over(stream).await;
            for path in ["/", "/v1", "/v2", "/h2", "/breaks", "/down"] {
                for (index, address) in [IpAddr::from(V4), V6.into()].into_iter().enumerate() {
                    let uri = format!("http://example.com{path}?address={TEXT_V4}&{TEXT_V6}/");
                    let mut request = Request::post(uri).header("x-forwarded-for", address.to_string());
                    let removed = known().filter(|(name, ..)| strip.removes(&name.parse().unwrap()));
                    for (name, ..) in removed.filter(|&(name, ..)| name != "via").skip(index * 40).take(40) {
                        request = request
                            .header(name, format!("{address}"))
                            .header(name.replace('-', "_"), format!("{address}:{PORT}"));
                    }
                    request = request
                        .header("user-agent", TEXT_V4.to_string())
                        .header("referer", format!("http://[{TEXT_V6}]/"));
                    let body =
                        http2::body(&["x"], &[("x-real-ip", "203.0.113.77"), ("x-forwarded-for", "203.0.113.77")]);
                    match sender.send_request(request.body(body).unwrap()).await {
                        Ok(response) => {
                            let (parts, body) = response.into_parts();
                            writeln!(answers, "{parts:?} {:?}", body.collect().await).unwrap()
                        }
                        Err(error) => writeln!(answers, "{error:?}").unwrap(),
                    }
                }
            }
        });
    }
    answers
}

/// Who connects, as a proxy in front says.
fn proxy_headers() -> Vec<Vec<u8>> {
    let v1_v4 = format!("PROXY TCP4 {V4} 127.0.0.1 {PORT} 80\r\n").into_bytes();
    let v1_v6 = format!("PROXY TCP6 {V6} ::1 {PORT} 80\r\n").into_bytes();
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x21";
    let port = PORT.to_be_bytes();
    // With a value that repeats the address, of a type for whoever wants one.
    let tlv = [&[0xe0, 0, 4][..], &V4.octets()].concat();
    let v2_v4 = [&signature[..], &[0x11, 0, 19], &V4.octets(), &[127, 0, 0, 1], &port, &[0, 80], &tlv].concat();
    let v2_v6 =
        [&signature[..], &[0x21, 0, 43], &V6.octets(), &Ipv6Addr::LOCALHOST.octets(), &port, &[0, 80], &tlv].concat();
    vec![v1_v4, v1_v6, v2_v4, v2_v6]
}

fn malformed(header: &[u8]) -> Vec<u8> {
    let mut bytes = header.to_vec();
    match bytes.strip_prefix(b"PROXY TCP") {
        Some(_) => bytes[9] = b'5',
        // No such version.
        None => bytes[12] = 0x31,
    }
    bytes
}

/// The first line in which it is, so that a failure can be understood.
fn line_with(canaries: &Canaries, said: &[u8], name: &str) -> String {
    let lines = said.split(|&byte| byte == b'\n');
    let line = lines.into_iter().find(|line| canaries.find(line).iter().any(|found| found == name));
    String::from_utf8_lossy(line.unwrap_or_default()).chars().take(600).collect()
}

/// A port identifies a client behind carrier NAT. The HTTP/2 library writes down window sizes.
fn line_with_port(said: &[u8]) -> Option<String> {
    let port = PORT.to_string();
    let has = |line: &&str| {
        !line.contains("h2::") && line.split(|byte: char| !byte.is_ascii_alphanumeric()).any(|word| word == port)
    };
    let text = String::from_utf8_lossy(&without_colors(said)).into_owned();
    text.lines().find(has).map(str::to_owned)
}
