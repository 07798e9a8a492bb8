//! Other protocols in a stream, or in a connection of the other version.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::{body::Incoming, ext::Protocol, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    client::{ask, connect, get},
    edge::{SOON, before, start},
    http2::peers::{
        ACCEPT, HANDSHAKE, Server, agree, before_h2, body, connect_h2, connect_request, request, run, serve_as,
        serve_connect, serve_h2, text_of,
    },
    server::{OK, serve, yes},
};

#[test]
fn a_web_socket_over_http_2_becomes_an_upgrade() {
    let server = serve(|_, mut client| {
        let mut asked = client.head().unwrap().unwrap();
        if asked.start == "GET / HTTP/1.1" {
            client.send(OK);
            asked = client.head().unwrap().unwrap();
        }
        assert_eq!(asked.start, "GET /chat HTTP/1.1");
        assert_eq!((asked.value("connection"), asked.value("upgrade")), (Some("upgrade"), Some("websocket")));
        assert_eq!(asked.value("sec-websocket-key").unwrap().len(), 24);
        assert_eq!(asked.value("sec-websocket-version"), Some("13"));
        assert!(asked.value("x-forwarded-for").unwrap().starts_with("2001:2"));
        client.send(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: x\r\n\r\n",
        );
        for _ in 0..3 {
            let said = client.exactly(4).unwrap();
            client.send(said);
        }
    });
    let edge = start(&before(server.address));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        // With its first answer the proxy has said that it may be asked so.
        sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        let asked = request(Method::CONNECT, "/chat")
            .header("sec-websocket-version", "13")
            .header("x-real-ip", "203.0.113.7")
            .extension(Protocol::from_static("websocket"))
            .body(body(&[], &[]));
        let response = sender.send_request(asked.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        for gone in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!response.headers().contains_key(gone), "{gone}");
        }
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        for text in [b"ping", b"pong", b"\0\r\n\xff"] {
            io.write_all(text).await.unwrap();
            let mut heard = [0; 4];
            io.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, text);
        }
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    });
    assert!(edge.lines_when(2)[1].contains("\"CONNECT /chat HTTP/2.0\" 200 "));
}

#[test]
fn a_web_socket_over_http_1_becomes_a_connect() {
    let (say, said) = std::sync::mpsc::channel();
    let edge = start(&before_h2(serve_connect(move |request| {
        let protocol = request.extensions().get::<Protocol>().cloned();
        let _ = say.send((request.uri().to_string(), request.headers().clone(), protocol));
        agree(request)
    })));
    let mut client = connect(edge.port);
    client.send(get("/chat?a", &(HANDSHAKE.to_owned() + "content-length: 0\r\n")) + "early");
    let answer = client.answer();
    assert_eq!(answer.start, "HTTP/1.1 101 Switching Protocols");
    assert_eq!((answer.value("connection"), answer.value("upgrade")), (Some("upgrade"), Some("WebSocket")));
    assert_eq!(answer.value("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(answer.value("content-length"), None);
    assert_eq!(client.exactly(5).unwrap(), b"early");
    let long = "x".repeat(1 << 20);
    for said in ["ping", "\0\r\n\r\n", &long] {
        client.send(said);
        assert_eq!(client.exactly(said.len()).unwrap(), said.as_bytes());
    }
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.rest(), b"");
    let (uri, headers, protocol) = said.recv().unwrap();
    assert_eq!((&*uri, protocol.unwrap().as_str()), ("http://example.com/chat?a", "websocket"));
    for gone in ["connection", "upgrade", "sec-websocket-key", "content-length", "host"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    for (name, value) in [("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat"), ("via", "1.1 ipveil")] {
        assert_eq!(headers[name], value);
    }
    assert!(headers["x-forwarded-for"].to_str().unwrap().starts_with("2001:2"));
    assert!(edge.lines_when(1)[0].contains("\"GET /chat?a HTTP/1.1\" 101 "));
}

#[test]
fn a_web_socket_over_http_2_stays_a_connect() {
    // With as many streams on a connection as one WebSocket takes.
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.enable_connect_protocol().max_concurrent_streams(1);
    let edge = start(&before_h2(serve_as(builder, async |request| {
        let mut response = agree(request).await?;
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
        Ok(response)
    })));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        // The proxy has said that it may be asked so, when it has said anything.
        sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        let response = sender.send_request(connect_request("/chat")).await.unwrap();
        assert_eq!(
            (response.status(), response.headers()["sec-websocket-protocol"].as_bytes()),
            (StatusCode::OK, &b"chat"[..])
        );
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        for text in [b"ping", b"pong", b"\0\r\n\xff"] {
            io.write_all(text).await.unwrap();
            let mut heard = [0; 4];
            io.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, text);
            // It is in nobody's way.
            let other = sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
            assert_eq!(text_of(other).await, "yes");
        }
        io.shutdown().await.unwrap();
        assert_eq!(io.read(&mut [0; 4]).await.unwrap(), 0);
    });
    assert!(edge.lines_when(5).iter().any(|line| line.contains("\"CONNECT /chat HTTP/2.0\" 200 ")));
}

#[test]
fn a_server_that_takes_no_connect_is_not_asked() {
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let edge = start(&before_h2(serve_h2(move |_| {
        count.fetch_add(1, SeqCst);
        async { Ok(Response::new(body(&["yes"], &[]))) }
    })));
    let mut client = connect(edge.port);
    client.send(get("/", HANDSHAKE));
    assert_eq!(client.answer().status(), 501);
    client.send(get("/", ""));
    assert_eq!(client.answer().text(), "yes");
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let next = request(Method::GET, "/").body(body(&[], &[])).unwrap();
        assert_eq!(sender.send_request(connect_request("/")).await.unwrap().status(), StatusCode::NOT_IMPLEMENTED);
        assert_eq!(text_of(sender.send_request(next).await.unwrap()).await, "yes");
    });
    assert_eq!(asked.load(SeqCst), 2);
}

#[test]
fn a_server_may_refuse_a_connect() {
    let edge = start(&before_h2(serve_connect(async |request: Request<Incoming>| {
        let mut response = Response::new(body(&["not ", "you"], &[]));
        if request.method() == Method::CONNECT {
            *response.status_mut() = StatusCode::FORBIDDEN;
        }
        Ok(response)
    })));
    let mut client = connect(edge.port);
    for (headers, status) in [(HANDSHAKE, 403), ("", 200), (HANDSHAKE, 403)] {
        client.send(get("/", headers));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text(), answer.value("upgrade")), (status, "not you", None));
    }
    run(async {
        let mut sender = connect_h2(edge.port).await;
        for _ in 0..2 {
            let response = sender.send_request(connect_request("/")).await.unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            assert_eq!(text_of(response).await, "not you");
        }
    });
}

#[test]
fn an_answer_that_is_no_agreement_is_not_taken_for_one() {
    let ignores = yes();
    let other = serve_connect(async |_| {
        let mut response = Response::new(body(&["yes"], &[]));
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    });
    for (config, status) in [(before(ignores.address), 200), (before_h2(other), 202)] {
        let edge = start(&config);
        run(async {
            let mut sender = connect_h2(edge.port).await;
            // To a client of HTTP/2 any success would say that its protocol is spoken from here on.
            assert_eq!(sender.send_request(connect_request("/")).await.unwrap().status(), StatusCode::BAD_GATEWAY);
        });
        let answer = ask(edge.port, get("/", HANDSHAKE));
        assert_eq!((answer.status(), answer.value("upgrade")), (status, None));
    }
}

#[test]
fn what_is_no_handshake_does_not_become_a_connect() {
    let edge = start(&before_h2(serve_connect(agree)));
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    for key in ["", "sec-websocket-key: x\r\n", "sec-websocket-key: dGhlIHNhbXBsZSBub25j\r\n"] {
        assert_eq!(ask(edge.port, get("/", &(upgrade.to_owned() + key))).status(), 400, "{key}");
    }
    assert_eq!(ask(edge.port, get("/", HANDSHAKE).replace("GET", "OPTIONS")).status(), 501);
    // Of other protocols nothing is known, and the first is asked for.
    let answer = ask(edge.port, get("/", "connection: upgrade\r\nupgrade: one/1, other\r\n"));
    assert_eq!((answer.status(), answer.value("upgrade")), (101, Some("one/1")));
    assert_eq!(answer.value("sec-websocket-accept"), None);
}

#[test]
fn who_never_says_whether_it_takes_a_connect_is_late() {
    let silent = serve(|_, mut client| drop(client.rest()));
    let late = serve_connect(async |_| std::future::pending().await);
    for (address, deadline) in [(silent.address, "connect"), (late, "first_byte")] {
        let edge = start(&format!("{}[deadlines]\n{deadline} = \"500ms\"\n", before_h2(address)));
        assert_eq!(ask(edge.port, get("/", HANDSHAKE)).status(), 504, "{deadline}");
    }
    let (closes, no_http_2) =
        (serve(|_, _| {}), serve(|_, mut client| client.send("HTTP/1.1 400 Bad Request\r\n\r\n")));
    for server in [closes, no_http_2] {
        assert_eq!(ask(start(&before_h2(server.address)).port, get("/", HANDSHAKE)).status(), 502);
    }
}

#[test]
fn a_connect_on_which_nothing_passes_ends() {
    let edge = start(&(before_h2(serve_connect(agree)) + "[deadlines]\nupgraded_idle = \"500ms\"\n"));
    let mut client = connect(edge.port);
    client.send(get("/", HANDSHAKE));
    assert_eq!(client.answer().status(), 101);
    client.stream.set_read_timeout(Some(SOON / 2)).unwrap();
    assert!(client.is_closed());
}

#[test]
fn an_offer_of_tls_is_no_wish_for_another_protocol() {
    let web = Server::yes();
    let edge = start(&before_h2(web.address));
    let answer = ask(edge.port, get("/", "Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n"));
    assert_eq!((answer.status(), answer.text()), (200, "yes"));
    let server = yes();
    let edge = start(&before(server.address));
    let mut client = connect(edge.port);
    for _ in 0..2 {
        client.send(get("/", "Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n"));
        assert_eq!(client.answer().status(), 200);
    }
    assert!(server.requests().iter().all(|request| request.value("upgrade").is_none()));
}

#[test]
fn a_tunnel_to_anywhere_is_refused() {
    let server = yes();
    let edge = start(&before(server.address));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = Request::connect("example.com:80").body(body(&[], &[])).unwrap();
        assert_eq!(sender.send_request(asked).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    });
}

/// It takes longer than an idle connection may, and than one that was told to end.
#[test]
fn a_web_socket_goes_on_where_no_other_request_does() {
    let edge = start(&(before_h2(serve_connect(agree)) + "[deadlines]\nkeep_alive = \"500ms\"\n"));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        let response = sender.send_request(connect_request("/")).await.unwrap();
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        for _ in 0..16 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            io.write_all(b"ping").await.unwrap();
            io.read_exact(&mut [0; 4]).await.unwrap();
        }
    });
}

#[test]
fn http_in_a_tunnel_is_refused() {
    let edge = start(&before_h2(serve_connect(agree)));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        for protocol in ["h2c", "H2", "HTTP/2.0", "TLS/1.3"] {
            let asked = request(Method::CONNECT, "/").extension(Protocol::from(protocol)).body(body(&[], &[])).unwrap();
            assert_eq!(sender.send_request(asked).await.unwrap().status(), StatusCode::NOT_IMPLEMENTED, "{protocol}");
        }
    });
}
