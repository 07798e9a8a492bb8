//! HTTP/1 on both sides: framing, streams, upgrades, sockets, and where requests go.

use std::{
    fs,
    io::Write as _,
    net::{Shutdown, TcpListener},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    process::{Command, Stdio},
    sync::{Mutex, mpsc},
    thread,
};

use crate::{
    client::{Client, Otherwise, ask, connect, get},
    edge::{Edge, SOON, before, start, until},
    server::{OK, answer, serve, yes},
};

#[test]
fn a_server_hears_what_a_proxy_has_to_say() {
    let server = yes();
    let edge = start(&before(server.address));
    let answer = ask(
        edge.port,
        get("/a?b", "x-forwarded-proto: ftp\r\nx-forwarded-host: forged\r\nvia: 1.0 fred\r\nforwarded: for=1\r\n"),
    );
    assert_eq!((answer.status(), answer.text()), (200, "yes"));
    let request = server.last();
    assert_eq!(request.start, "GET /a?b HTTP/1.1");
    for (name, value) in [
        ("host", "example.com"),
        ("via", "1.1 ipveil"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "example.com"),
        ("forwarded", ""),
    ] {
        assert_eq!(request.value(name).unwrap_or_default(), value, "{name}");
    }
    assert!(request.value("x-forwarded-for").unwrap().starts_with("2001:2"));
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() {
    let chunks = answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n");
    let edge = start(&before(chunks.address));
    let mut client = connect(edge.port);
    client.send("GET / HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.value("transfer-encoding"), answer.text()), (None, "yes"));
    assert_eq!(chunks.last().start, "GET / HTTP/1.1");
    assert_eq!(chunks.last().value("via"), Some("1.0 ipveil"));

    let server = yes();
    let edge = start(&before(server.address));
    let mut client = connect(edge.port);
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nhost: example.com\r\nconnection: keep-alive\r\n\r\n");
        assert_eq!(client.answer().text(), "yes");
    }
    client.send("GET / HTTP/1.0\r\nhost: example.com\r\n\r\n");
    assert_eq!(client.answer().text(), "yes");
    assert!(client.is_closed());
}

#[test]
fn whoever_wants_to_go_on_is_told_to() {
    let server = yes();
    let edge = start(&before(server.address));
    let mut client = connect(edge.port);
    client.send("POST / HTTP/1.1\r\nhost: example.com\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(client.answer().status(), 100);
    client.send("hello");
    assert_eq!(client.answer().text(), "yes");
    assert_eq!((server.last().body, server.last().value("expect")), (b"hello".to_vec(), None));
}

#[test]
fn a_body_that_is_too_long_is_refused() {
    let server = yes();
    let edge = start(&(before(server.address) + "[limits]\nbody_bytes = 10\n"));
    let post = |headers: &str, body: &str| format!("POST / HTTP/1.1\r\nhost: example.com\r\n{headers}\r\n\r\n{body}");
    assert_eq!(ask(edge.port, post("content-length: 10", "0123456789")).status(), 200);
    assert_eq!(ask(edge.port, post("content-length: 11", "0123456789a")).status(), 413);
    assert_eq!(ask(edge.port, post("transfer-encoding: chunked", "b\r\n0123456789a\r\n0\r\n\r\n")).status(), 413);
    // Also if the client has not read anything before it has sent everything.
    let much = "x".repeat(2_000_000);
    assert_eq!(ask(edge.port, post(&format!("content-length: {}", much.len()), &much)).status(), 413);
}

#[test]
fn trailers_pass_both_ways() {
    let server = answer(
        "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    let edge = start(&before(server.address));
    let answer = ask(
        edge.port,
        "POST / HTTP/1.1\r\nhost: example.com\r\nte: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\nx-sum: 9\r\n\r\n",
    );
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    assert_eq!(server.last().trailers, [("x-sum".to_owned(), "9".to_owned())]);
}

#[test]
fn what_a_server_says_is_passed_on_at_once() {
    let (go_on, told) = mpsc::channel();
    let told = Mutex::new(told);
    let server = serve(move |_, mut client| {
        let _ = client.head();
        client.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n");
        for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
            client.send(event);
            told.lock().unwrap().recv_timeout(SOON).unwrap();
        }
    });
    let edge = start(&before(server.address));
    let mut client = connect(edge.port);
    client.send(get("/", "connection: close\r\n"));
    let head = client.head().unwrap().unwrap();
    assert_eq!(head.value("transfer-encoding"), Some("chunked"));
    for event in ["data: one\n", "data: two\n", "data: three\n"] {
        client.line().unwrap();
        assert_eq!(client.line().unwrap().unwrap(), event.to_owned() + "\n");
        go_on.send(()).unwrap();
    }
    assert_eq!(client.rest(), b"0\r\n\r\n");
}

#[test]
fn what_a_client_says_is_passed_on_at_once() {
    let (hear, heard) = mpsc::channel();
    let server = serve(move |_, mut client| {
        let mut request = client.head().unwrap().unwrap();
        for _ in 0..2 {
            client.line().unwrap();
            hear.send(client.line().unwrap().unwrap()).unwrap();
        }
        client.body(&mut request, Otherwise::Nothing).unwrap();
        client.send(OK);
    });
    let edge = start(&before(server.address));
    let mut client = connect(edge.port);
    client.send("POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunk in ["one", "two"] {
        client.send(format!("3\r\n{chunk}\r\n"));
        assert_eq!(heard.recv_timeout(SOON).unwrap(), chunk);
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.answer().text(), "yes");
}

#[test]
fn large_bodies_pass_in_little_memory() {
    const LENGTH: usize = 64 << 20;
    let server = serve(|_, mut client| {
        let head = client.head().unwrap().unwrap();
        let mut left = LENGTH;
        let mut piece = vec![0; 1 << 16];
        // In no hurry at first, so that a proxy could collect it all.
        thread::sleep(std::time::Duration::from_millis(300));
        if head.start.starts_with("POST") {
            while left > 0 {
                left -= client.exactly(left.min(1 << 20)).unwrap().len();
            }
            client.send(OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));
        } else {
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n"));
            piece.fill(b'x');
            for _ in 0..LENGTH / piece.len() {
                client.send(&piece);
            }
        }
    });
    let edge = start(&before(server.address));
    let mut client = connect(edge.port);
    client.send(format!("POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: {LENGTH}\r\n\r\n"));
    let piece = vec![b'x'; 1 << 16];
    for _ in 0..LENGTH / piece.len() {
        client.send(&piece);
    }
    assert_eq!(client.answer().text(), "yes");

    let mut client = connect(edge.port);
    client.send(get("/", ""));
    assert_eq!(client.head().unwrap().unwrap().value("content-length"), Some(&*LENGTH.to_string()));
    thread::sleep(std::time::Duration::from_millis(300));
    let mut left = LENGTH;
    while left > 0 {
        left -= client.exactly(left.min(1 << 20)).unwrap().len();
    }
    let status = fs::read_to_string(format!("/proc/{}/status", edge.id())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: usize = most.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(most < 60 << 10, "{most} KiB");
}

#[test]
fn a_web_socket_passes_whatever_is_said() {
    let server = serve(|_, mut client| {
        let request = client.head().unwrap().unwrap();
        assert_eq!((request.value("connection"), request.value("upgrade")), (Some("upgrade"), Some("websocket")));
        assert_eq!(request.value("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        // The first frame comes together with the head.
        client.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst",
        );
        let mut stream = client.stream.stream.try_clone().unwrap();
        let mut said = client.exactly(4).unwrap();
        while !said.ends_with(b"!") {
            stream.write_all(&said).unwrap();
            said = client.exactly(4).unwrap();
        }
        // And then only one way.
        stream.write_all(b"last").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let edge = start(&before(server.address));
    let mut client = connect(edge.port);
    client.send(get(
        "/chat",
        "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: chat\r\n",
    ));
    let answer = client.answer();
    assert_eq!((answer.status(), answer.value("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.value("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.exactly(5).unwrap(), b"first");
    for said in ["ping", "\0\x01\x02\x03", "\r\n\r\n"] {
        client.send(said);
        assert_eq!(client.exactly(4).unwrap(), said.as_bytes());
    }
    client.send("end!");
    assert_eq!(client.rest(), b"last");
    drop(client);
    // It is in the log, once.
    assert!(edge.lines_when(1)[0].contains("\"GET /chat HTTP/1.1\" 101 "));
}

#[test]
fn a_server_need_not_agree_to_an_upgrade() {
    let server = answer(
        "HTTP/1.1 426 Upgrade Required\r\nupgrade: x\r\nconnection: upgrade, x-one\r\nx-one: 1\r\ncontent-length: 2\r\n\r\nno",
    );
    let edge = start(&before(server.address));
    let mut client = connect(edge.port);
    for _ in 0..2 {
        client.send(get("/", "connection: upgrade\r\nupgrade: websocket\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text(), answer.value("x-one")), (426, "no", None));
    }
}

#[test]
fn unix_sockets_serve_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server");
    let socket = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            let mut client = Client::new(stream);
            while let Ok(Some(_)) = client.head() {
                client.send(OK);
            }
        }
    });
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let config = before(any).replace(&format!("http://{any}"), &format!("unix:{}", path.display()));
    let mut edge = start(&(config + "[[listener]]\naddress = \"unix:$FOLDER/listen\"\n"));
    assert_eq!(ask(edge.port, get("/", "")).text(), "yes");
    let mut client = Client::new(UnixStream::connect(edge.path("listen")).unwrap());
    for _ in 0..2 {
        client.send(get("/", ""));
        assert_eq!(client.answer().text(), "yes");
    }
    assert!(edge.end().success());
    assert!(!edge.path("listen").exists());
}

#[test]
fn a_socket_that_somebody_left_behind_is_taken_over_and_nothing_else_is() {
    let server = yes();
    let config = before(server.address) + "[[listener]]\naddress = \"unix:$FOLDER/listen\"\n";
    let mut edge = start(&config);
    edge.signal(rustix::process::Signal::KILL);
    edge.ended();
    let left = edge.path("listen");
    assert!(left.exists());
    let again = start(&config.replace("$FOLDER/listen", left.to_str().unwrap()));
    let mut client = Client::new(UnixStream::connect(&left).unwrap());
    client.send(get("/", ""));
    assert_eq!(client.answer().text(), "yes");
    drop(again);
}

#[test]
fn sockets_of_the_service_manager_are_used() {
    let server = yes();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let config = before(server.address).replace("127.0.0.1:$PORT", "systemd:web");
    fs::write(folder.path().join("ipveil.toml"), config).unwrap();
    // As the service manager does it: the third descriptor, and the number of the process.
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web exec \"$0\" \"$@\" 3<&0 </dev/null"]);
    command.arg(env!("CARGO_BIN_EXE_ipveil")).args(["proxy", "--config"]).arg(folder.path().join("ipveil.toml"));
    command.stdin(Stdio::from(OwnedFd::from(socket)));
    let edge = Edge::spawn(command, folder, port);
    until(|| edge.log().contains("listening").then_some(()));
    assert_eq!(ask(edge.port, get("/", "")).text(), "yes");
    edge.reload();
    assert_eq!(ask(edge.port, get("/", "")).text(), "yes");
}

#[test]
fn the_most_particular_route_counts() {
    let servers: Vec<_> =
        (0..5).map(|number| answer(format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}"))).collect();
    let mut config = before(servers[0].address);
    for (number, server) in servers.iter().enumerate().skip(1) {
        config += &format!("[upstream.s{number}]\nservers = [\"http://{}\"]\n", server.address);
    }
    for (host, path, upstream) in [
        ("", "/", "app"),
        ("", "/api", "s1"),
        ("*.example.com", "/", "s2"),
        ("www.example.com", "/", "s3"),
        ("www.example.com", "/api/v2/", "s4"),
    ] {
        let host = if host.is_empty() { String::new() } else { format!("host = \"{host}\"\n") };
        config += &format!("[[route]]\n{host}path = \"{path}\"\nupstream = \"{upstream}\"\n");
    }
    let edge = start(&config);
    for (host, path, served) in [
        ("example.org", "/", "0"),
        ("example.org", "/api", "1"),
        ("example.org", "/api/x?y", "1"),
        ("example.org", "/apian", "0"),
        ("example.org", "/API", "0"),
        ("a.example.com", "/", "2"),
        ("a.b.example.com:8080", "/", "2"),
        ("example.com", "/", "0"),
        ("WWW.Example.COM", "/", "3"),
        ("www.example.com:80", "/api/v2", "3"),
        ("www.example.com", "/api/v2/x", "4"),
        ("www.example.com.", "/", "3"),
    ] {
        let answer = ask(edge.port, format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(answer.text(), served, "{host} {path}");
    }
}

#[test]
fn what_no_route_is_for_is_not_found() {
    let server = yes();
    let edge = start(
        &(before(server.address)
            + "preserve_host = false\n[[route]]\nhost = \"example.com\"\npath = \"/a\"\nupstream = \"app\"\n"),
    );
    assert_eq!(ask(edge.port, get("/b", "")).status(), 404);
    assert_eq!(ask(edge.port, get("/a", "").replace("example.com", "example.org")).text(), "404 Not Found\n");
    assert_eq!(ask(edge.port, get("/a", "")).text(), "yes");
    let request = server.last();
    assert_eq!(request.value("host"), Some(&*server.address.to_string()));
    assert_eq!(request.value("x-forwarded-host"), Some("example.com"));
}

#[test]
fn both_formats_of_the_access_log_say_what_was_asked() {
    let server = yes();
    let request = get("/a%20b?c=d", "user-agent: A \"B\"\\\tC\r\nreferer: http://example.org/\r\n");
    let edge = start(&before(server.address));
    ask(edge.port, &request);
    let line = edge.lines_when(1).remove(0);
    let (who, rest) = line.split_once(" - - [").unwrap();
    assert!(who.len() == 27 && who.starts_with('_'), "{line}");
    let (_, rest) = rest.split_once("] ").unwrap();
    assert_eq!(rest, r#""GET /a%20b?c=d HTTP/1.1" 200 3 "http://example.org/" "A \x22B\x22\x5C\x09C""#);

    let edge = start(&(before(server.address) + "[access_log]\nformat = \"json\"\n"));
    ask(edge.port, &request);
    let line: serde_json::Value = serde_json::from_str(&edge.lines_when(1)[0]).unwrap();
    for (name, value) in [
        ("method", "GET"),
        ("host", "example.com"),
        ("target", "/a%20b?c=d"),
        ("referer", "http://example.org/"),
        ("user_agent", "A \"B\"\\\tC"),
        ("protocol", "HTTP/1.1"),
    ] {
        assert_eq!(line[name], value, "{name}");
    }
    assert_eq!((line["status"].as_u64(), line["bytes"].as_u64()), (Some(200), Some(3)));
}

#[test]
fn bytes_may_come_one_by_one() {
    let server = yes();
    let proxied = crate::edge::free_port();
    let edge = start(&format!(
        "{}[[listener]]\naddress = \"127.0.0.1:{proxied}\"\nproxy_protocol = \"required\"\n[client]\ntrusted = [\"loopback\"]\n",
        before(server.address)
    ));
    let post = "POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let v1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n".to_vec();
    let v2 =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[203, 0, 113, 7, 192, 0, 2, 1, 0xd4, 0x31, 1, 0xbb]].concat();
    for (port, header) in [(edge.port, Vec::new()), (proxied, v1), (proxied, v2)] {
        let mut client = connect(port);
        for byte in [&header[..], post.as_bytes()].concat() {
            client.send([byte]);
        }
        assert_eq!(client.answer().text(), "yes");
        assert_eq!(server.last().text(), "hello");
        // And all of it at once.
        let mut client = connect(port);
        client.send([&header[..], post.as_bytes(), post.as_bytes()].concat());
        assert_eq!((client.answer().text(), client.answer().text()), ("yes", "yes"));
    }
    // What begins like HTTP/2 and does not go on so is refused, and so is a second PROXY header.
    for (port, said) in
        [(edge.port, "PRI * HTTP/2.0\r\n\r\nXY\r\n\r\n"), (proxied, "PROXY UNKNOWN\r\nPROXY UNKNOWN\r\n\r\n")]
    {
        let mut client = connect(port);
        client.send(said);
        let rest = client.rest();
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&rest));
    }
}

#[test]
fn an_upgraded_connection_on_which_nothing_passes_ends() {
    let server = answer("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n");
    let edge = start(
        &(before(server.address)
            + "[deadlines]\nupgraded_idle = \"2s\"\nkeep_alive = \"100ms\"\nclient_idle = \"100ms\"\n"),
    );
    let mut client = connect(edge.port);
    client.send(get("/", "connection: upgrade\r\nupgrade: x\r\n"));
    assert_eq!(client.answer().status(), 101);
    for _ in 0..4 {
        thread::sleep(std::time::Duration::from_millis(600));
        client.send("still here");
    }
    let began = std::time::Instant::now();
    assert!(client.is_closed());
    assert!(began.elapsed() > std::time::Duration::from_millis(1200) && began.elapsed() < SOON / 2);
}
