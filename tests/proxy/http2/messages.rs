//! What arrives of requests and answers, whichever version is on the other side.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use tokio::net::TcpStream;

use crate::{
    client::{ask, get},
    edge::{before, start},
    http2::peers::{Server, before_h2, body, channel, connect_h2, data, request, run, serve_h2, text, text_of},
    listener::listen,
    server::{answer, serve, yes},
};

#[test]
fn a_client_of_http_2_asks_a_server_of_http_1() {
    let server = answer(
        "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\nconnection: x-one\r\nx-one: 1\r\ntransfer-encoding: chunked\r\n\r\n\
         3\r\nyes\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    let edge = start(&before(server.address));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = request(Method::POST, "/a?b")
            .header("cookie", "a=1")
            .header("cookie", "sid=2")
            .header("te", "trailers")
            .header("trailer", "x-sum, x-real-ip")
            .body(body(&["hel", "lo"], &[("x-sum", "9"), ("x-real-ip", "203.0.113.7")]));
        let response = sender.send_request(asked.unwrap()).await.unwrap();
        assert!(!response.headers().contains_key("connection") && !response.headers().contains_key("x-one"));
        let (status, said, trailers) = text(response).await;
        assert_eq!((status, &*said), (StatusCode::OK, "yes"));
        assert_eq!(trailers.unwrap()["x-sum"], "7");
    });
    let heard = server.last();
    assert_eq!((&*heard.start, heard.text()), ("POST /a?b HTTP/1.1", "hello"));
    for (name, value) in
        [("host", "example.com"), ("via", "2.0 ipveil"), ("te", "trailers"), ("x-forwarded-host", "example.com")]
    {
        assert_eq!(heard.value(name), Some(value));
    }
    // RFC 9113, 8.2.3: pieces are put together for who knows only one header.
    assert_eq!(heard.values("cookie"), ["a=1; sid=2"]);
    assert_eq!(heard.trailers, [("x-sum".to_owned(), "9".to_owned())]);
    assert!(edge.lines_when(1)[0].contains("\"POST /a?b HTTP/2.0\" 200 3 "));
}

#[test]
fn cookies_in_pieces_are_the_same_session() {
    let server = yes();
    let edge = start(&before(server.address));
    let pseudonym = || server.last().value("x-forwarded-for").unwrap().to_owned();
    ask(edge.port, get("/", "cookie: a=1; sid=2\r\n"));
    let whole = pseudonym();
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = request(Method::GET, "/").header("cookie", "a=1").header("cookie", "sid=2").body(body(&[], &[]));
        sender.send_request(asked.unwrap()).await.unwrap();
    });
    assert_eq!(pseudonym(), whole);
}

#[test]
fn a_client_of_http_1_asks_a_server_of_http_2() {
    let server = Server::yes();
    let edge = start(&before_h2(server.address));
    let answer = ask(
        edge.port,
        "POST /a?b HTTP/1.1\r\nhost: example.com\r\nconnection: x-one\r\nx-one: 1\r\nkeep-alive: 5\r\nte: trailers\r\n\
         trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 9\r\nx-real-ip: 203.0.113.7\r\n\r\n",
    );
    assert_eq!((answer.status(), answer.text()), (200, "yes"));
    let (parts, heard, trailers) = server.last();
    assert_eq!(parts.uri, "http://example.com/a?b");
    for gone in ["connection", "x-one", "keep-alive", "transfer-encoding", "host"] {
        assert!(!parts.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(parts.headers["via"], "1.1 ipveil");
    assert!(parts.headers["x-forwarded-for"].to_str().unwrap().starts_with("2001:2"));
    assert_eq!(&*heard, b"hello");
    let trailers = trailers.unwrap();
    assert_eq!((trailers["x-sum"].as_bytes(), trailers.len()), (&b"9"[..], 1));
    // All kinds of targets.
    assert_eq!(ask(edge.port, get("http://example.org/x", "")).text(), "yes");
    assert_eq!(server.last().0.uri, "http://example.org/x");
    assert_eq!(ask(edge.port, "HEAD / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n").status(), 200);
    assert_eq!(ask(edge.port, "GET / HTTP/1.0\r\n\r\n").text(), "yes");
}

#[test]
fn one_connection_has_many_requests_at_a_time() {
    let server = Server::yes();
    let edge = start(&before_h2(server.address));
    run(async {
        let sender = connect_h2(edge.port).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let mut sender = sender.clone();
            tasks.spawn(async move {
                let asked = request(Method::POST, "/").body(body(&["hello"], &[])).unwrap();
                text(sender.send_request(asked).await.unwrap()).await
            });
        }
        while let Some(answer) = tasks.join_next().await {
            let (status, said, _) = answer.unwrap();
            assert_eq!((status, &*said), (StatusCode::OK, "yes"));
        }
    });
    assert_eq!(server.requests.lock().unwrap().len(), 200);
}

/// Says back whatever it hears, as it hears it.
fn echo() -> SocketAddr {
    serve_h2(async |request: Request<Incoming>| {
        let (sender, said) = channel();
        tokio::spawn(async move {
            let mut heard = request.into_body();
            while let Some(Ok(frame)) = heard.frame().await {
                if sender.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(said))
    })
}

#[test]
fn both_sides_may_speak_at_once() {
    let edge = start(&before_h2(echo()));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let (say, said) = channel();
        say.send(data("first")).await.unwrap();
        let mut answer = sender.send_request(request(Method::POST, "/").body(said).unwrap()).await.unwrap().into_body();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        for text in ["one", "two", "three"] {
            say.send(data(text)).await.unwrap();
            assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), text);
        }
        drop(say);
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "");
    });
}

#[test]
fn large_bodies_pass() {
    const PIECES: usize = 500;
    static PIECE: [u8; 1 << 15] = [b'x'; 1 << 15];
    let edge = start(&before_h2(echo()));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let (say, said) = channel();
        tokio::spawn(async move {
            for _ in 0..PIECES {
                say.send(Ok(Frame::data(Bytes::from_static(&PIECE)))).await.unwrap();
            }
        });
        let answer = sender.send_request(request(Method::POST, "/").body(said).unwrap()).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), PIECES * PIECE.len());
    });
}

#[test]
fn half_an_answer_is_not_taken_for_one() {
    let closes = serve(|_, mut client| {
        let _ = client.head();
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    });
    let resets = serve_h2(async |_| {
        let said = [data("half")];
        let broken = StreamBody::new(tokio_stream::iter(said));
        let mut response = Response::new(BoxBody::new(broken));
        // The body is shorter than that.
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("9"));
        Ok(response)
    });
    for config in [before(closes.address), before_h2(resets)] {
        let edge = start(&config);
        run(async {
            let mut sender = connect_h2(edge.port).await;
            let asked = request(Method::GET, "/").body(body(&[], &[])).unwrap();
            // A server that closes with something unread takes back what it said: then there is not even half of it.
            if let Ok(response) = sender.send_request(asked).await
                && response.status() == StatusCode::OK
            {
                assert!(response.into_body().collect().await.is_err(), "{config}");
            }
        });
    }
}

#[test]
fn the_log_says_which_host_was_asked_for() {
    let edge = start(&(before_h2(Server::yes().address) + "[access_log]\nformat = \"json\"\n"));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = request(Method::GET, "/").body(body(&[], &[])).unwrap();
        text_of(sender.send_request(asked).await.unwrap()).await;
    });
    let line: serde_json::Value = serde_json::from_str(&edge.lines_when(1)[0]).unwrap();
    assert_eq!((line["host"].as_str(), line["target"].as_str()), (Some("example.com"), Some("/")));
}

#[test]
fn an_answer_of_our_own_to_head_has_no_body() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], crate::edge::free_port()));
    let edge = start(&before(nobody));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        for _ in 0..2 {
            let asked = request(Method::HEAD, "/").body(body(&[], &[])).unwrap();
            let answer = sender.send_request(asked).await.unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
            assert_eq!(answer.headers()["content-length"], "16");
            assert_eq!(text_of(answer).await, "");
        }
    });
}

#[test]
fn behind_a_body_stands_nothing_about_the_connection() {
    let server = Server::yes();
    let edge = start(&before_h2(server.address));
    let answered = ask(
        edge.port,
        "POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\ntrailer: connection, keep-alive, te, x-sum\r\n\r\n\
         5\r\nhello\r\n0\r\nconnection: x\r\nkeep-alive: 5\r\nte: gzip\r\ncontent-length: 7\r\nhost: other\r\nx-sum: 9\r\n\r\n",
    );
    assert_eq!(answered.text(), "yes");
    let (_, heard, trailers) = server.last();
    assert_eq!(heard, "hello");
    assert_eq!(trailers.unwrap_or_default().keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);

    let server = answer(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nconnection: x\r\ntransfer-encoding: x\r\nx-sum: 7\r\n\r\n",
    );
    let edge = start(&before(server.address));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = request(Method::GET, "/").header("te", "trailers").body(body(&[], &[])).unwrap();
        let (_, heard, trailers) = text(sender.send_request(asked).await.unwrap()).await;
        assert_eq!(heard, "yes");
        assert_eq!(trailers.unwrap_or_default().keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);
    });
}

#[test]
fn http_2_is_read_as_strictly() {
    let server = yes();
    let edge = start(&(before(server.address) + "[limits]\nheaders = 50\n"));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let mut asked = request(Method::GET, "/");
        for number in 0..60 {
            asked = asked.header(format!("x-{number}"), "1");
        }
        let answer = sender.send_request(asked.body(body(&[], &[])).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        // More than one length, even of the same value, is for whoever is behind to disagree on.
        let stream = TcpStream::connect(("127.0.0.1", edge.port)).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for lengths in [&["5", "5"][..], &[""]] {
            let mut asked = request(Method::POST, "/");
            for length in lengths {
                asked = asked.header("content-length", *length);
            }
            let (answer, mut said) = sender.send_request(asked.body(()).unwrap(), false).unwrap();
            said.send_data(Bytes::from_static(b"hello"), true).unwrap();
            assert!(answer.await.map_or(true, |answer| answer.status() == StatusCode::BAD_REQUEST), "{lengths:?}");
        }
    });
    assert!(server.requests().is_empty());
}

#[test]
fn a_body_that_breaks_is_its_clients_fault() {
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let server = Server::yes();
    let relay = {
        let connections = Arc::clone(&connections);
        run(async {
            let (socket, address) = listen().await;
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = socket.accept().await {
                    connections.fetch_add(1, SeqCst);
                    let mut to = TcpStream::connect(server.address).await.unwrap();
                    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut to).await });
                }
            });
            address
        })
    };
    let edge = start(&(before_h2(relay) + "[limits]\nbody_bytes = 10\n"));
    assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
    let post = |body: &str| format!("POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n{body}");
    assert_eq!(ask(edge.port, post("14\r\n01234567890123456789\r\n0\r\n\r\n")).status(), 413);
    assert_eq!(ask(edge.port, post("5\r\nhello\r\nnonsense\r\n")).status(), 400);
    assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
    assert_eq!(connections.load(SeqCst), 1);
}

#[test]
fn an_answer_that_has_no_body_has_none() {
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let edge = start(&before_h2(serve_h2(move |_| async move {
            let mut response = Response::new(body(&["wrong"], &[]));
            *response.status_mut() = status;
            Ok(response)
        })));
        run(async {
            let mut sender = connect_h2(edge.port).await;
            let asked = request(Method::GET, "/").body(body(&[], &[])).unwrap();
            let (seen, heard, _) = text(sender.send_request(asked).await.unwrap()).await;
            assert_eq!((seen, heard.as_str()), (status, ""));
        });
    }
}
