//! Connections that end, that are reset, or that do not go on, and what becomes of their requests.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{client::conn::http2::SendRequest, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, sync::mpsc};

use crate::{
    client::{Otherwise, ask, connect, get},
    edge::{SOON, before, start},
    http2::peers::{
        Body, Server, before_h2, body, channel, connect_h2, data, over, request, run, serve_as, serve_h2, text,
    },
    listener::listen,
    server::{OK, answer, serve, yes},
};

#[test]
fn a_client_that_does_not_go_on_is_late_here_too() {
    for config in [before_h2(Server::yes().address), before(crate::server::reply(|_| OK.into()).address)] {
        let edge = start(&(config + "[deadlines]\nclient_idle = \"500ms\"\n"));
        run(async {
            let mut sender = connect_h2(edge.port).await;
            let (say, said) = channel();
            say.send(data("half")).await.unwrap();
            let response = sender.send_request(request(Method::POST, "/").body(said).unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
            // The others on that connection have nothing to do with it.
            let next = sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
            assert_eq!(next.status(), StatusCode::OK);
        });
    }
}

#[test]
fn a_server_of_http_2_that_is_late_is_said_to_be() {
    let address = serve_h2(async |_| std::future::pending().await);
    let edge = start(&(before_h2(address) + "[deadlines]\nfirst_byte = \"500ms\"\n"));
    assert_eq!(ask(edge.port, get("/", "")).status(), 504);
}

/// A frame: RFC 9113, 4.1.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The first request of a connection is sent to a server that says that it did not look at it, and says yes to all others.
#[test]
fn a_request_that_a_server_did_not_look_at_is_sent_again() {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    let go_away = frame(7, 0, 0, &[0; 8]);
    let refused = frame(3, 0, 1, &[0, 0, 0, 7]);
    for (refusal, method, status) in [
        (&go_away, Method::GET, 200),
        (&refused, Method::GET, 200),
        // It may have been read, and there is no second one.
        (&refused, Method::POST, 502),
    ] {
        let said_first = refusal.clone();
        let server = serve(move |number, mut client| {
            let stream = &mut client.stream;
            let mut octets = [0; 24];
            std::io::Read::read_exact(stream, &mut octets).unwrap();
            std::io::Write::write_all(stream, &frame(SETTINGS, 0, 0, &[])).unwrap();
            let mut head = [0; 9];
            while std::io::Read::read_exact(stream, &mut head).is_ok() {
                let length = usize::from(head[1]) << 8 | usize::from(head[2]);
                std::io::Read::read_exact(stream, &mut vec![0; length]).unwrap();
                let said = match head[3] {
                    HEADERS if number == 0 => said_first.clone(),
                    // Its end, and `:status: 200`.
                    HEADERS => frame(HEADERS, 0b101, head[8], &[0x88]),
                    SETTINGS if head[4] == 0 => frame(SETTINGS, 1, 0, &[]),
                    _ => continue,
                };
                std::io::Write::write_all(stream, &said).unwrap();
            }
        });
        let edge = start(&before_h2(server.address));
        let length = if method == Method::POST { "content-length: 1\r\n" } else { "" };
        let mut client = connect(edge.port);
        client.send(format!("{method} / HTTP/1.1\r\nhost: example.com\r\n{length}\r\n"));
        if method == Method::POST {
            client.send("x");
        }
        assert_eq!(client.answer().status(), status, "{method} {refusal:?}");
        assert_eq!(server.heard().len(), if status == 200 { 2 } else { 1 });
    }
}

#[test]
fn a_connection_that_nobody_uses_ends() {
    let (ended, mut has_ended) = mpsc::channel(1);
    let address = run(async {
        let (socket, address) = listen().await;
        tokio::spawn(async move {
            let (stream, _) = socket.accept().await.unwrap();
            let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(body(&["yes"], &[]))));
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            ended.send(()).await.unwrap();
        });
        address
    });
    let edge = start(&(before_h2(address) + "[deadlines]\nupstream_keep_alive = \"1s\"\n"));
    assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
    run(async { has_ended.recv().await.unwrap() });
}

/// hyper takes such a stream for one that has ended.
#[test]
fn a_reset_that_says_no_error_is_no_end_of_an_answer() {
    let (reset, mut is_read) = mpsc::channel::<()>(1);
    let address = run(async {
        let (socket, address) = listen().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
                let mut said = respond.send_response(Response::new(()), false).unwrap();
                said.send_data(Bytes::from_static(b"half"), false).unwrap();
                tokio::select! {
                    _ = connection.accept() => continue,
                    _ = is_read.recv() => said.send_reset(h2::Reason::NO_ERROR),
                }
                let _ = connection.accept().await;
            }
        });
        address
    });
    let edge = start(&before_h2(address));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = request(Method::GET, "/").body(body(&[], &[])).unwrap();
        let mut answer = sender.send_request(asked).await.unwrap().into_body();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        reset.send(()).await.unwrap();
        assert!(matches!(answer.frame().await, Some(Err(_))));
    });
}

#[test]
fn a_reset_that_says_no_error_is_no_end_of_a_request() {
    let (begun, mut has_begun) = mpsc::channel(1);
    let (ended, has_ended) = std::sync::mpsc::channel();
    let h1 = {
        let (begun, ended) = (begun.clone(), ended.clone());
        serve(move |_, mut client| {
            let mut request = client.head().unwrap().unwrap();
            begun.blocking_send(()).unwrap();
            ended.send(client.body(&mut request, Otherwise::Nothing).is_ok()).unwrap();
        })
    };
    let h2 = serve_h2(move |request| {
        let (begun, ended) = (begun.clone(), ended.clone());
        async move {
            begun.send(()).await.unwrap();
            ended.send(request.into_body().collect().await.is_ok()).unwrap();
            Err("enough")
        }
    });
    for config in [before(h1.address), before_h2(h2)] {
        let edge = start(&config);
        run(async {
            let stream = TcpStream::connect(("127.0.0.1", edge.port)).await.unwrap();
            let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let (_answer, mut said) = sender.send_request(request(Method::POST, "/").body(()).unwrap(), false).unwrap();
            said.send_data(Bytes::from_static(b"half"), false).unwrap();
            has_begun.recv().await.unwrap();
            said.send_reset(h2::Reason::NO_ERROR);
            tokio::task::block_in_place(|| {
                assert!(!has_ended.recv_timeout(SOON / 2).unwrap(), "{config}");
            });
        });
    }
}

#[test]
fn a_server_that_ends_its_connection_is_asked_on_another_one() {
    let (stop, mut stopped) = mpsc::channel::<()>(1);
    let address = run(async {
        let (socket, address) = listen().await;
        tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(body(&["yes"], &[]))));
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    _ = &mut connection => {}
                    _ = stopped.recv() => {
                        connection.as_mut().graceful_shutdown();
                        let _ = connection.await;
                    }
                }
            }
        });
        address
    });
    let edge = start(&before_h2(address));
    for _ in 0..5 {
        assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
        run(stop.send(())).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// A connection of which nobody is at the other end any more says nothing.
#[test]
fn a_server_that_is_gone_is_asked_on_another_connection() {
    let is_gone = Arc::new(AtomicBool::new(false));
    let is_gone_now = Arc::clone(&is_gone);
    let address = run(async {
        let (socket, address) = listen().await;
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = socket.accept().await {
                number += 1;
                let (is_first, is_gone) = (number == 1, Arc::clone(&is_gone_now));
                let service = service_fn(move |_| {
                    let is_silent = is_first && is_gone.load(SeqCst);
                    async move {
                        if is_silent {
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, Infallible>(Response::new(body(&["yes"], &[])))
                    }
                });
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        address
    });
    let edge = start(&(before_h2(address) + "[deadlines]\nfirst_byte = \"300ms\"\n"));
    let get = || ask(edge.port, get("/", "connection: close\r\n"));
    assert_eq!(get().text(), "yes");
    is_gone.store(true, SeqCst);
    assert_eq!(get().status(), 504);
    assert_eq!(get().text(), "yes");
}

#[test]
fn who_does_not_read_is_cut_off_here_too() {
    let (end, ended) = std::sync::mpsc::channel();
    let server = serve(move |_, mut client| {
        let _ = client.head();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
        let piece = vec![b'x'; 1 << 16];
        while std::io::Write::write_all(&mut client.stream, &piece).is_ok() {}
        let _ = end.send(());
    });
    let edge = start(&(before(server.address) + "[deadlines]\nclient_idle = \"500ms\"\n"));
    let response = run(async {
        let mut sender = connect_h2(edge.port).await;
        let response = sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        (sender, response)
    });
    ended.recv_timeout(SOON / 2).unwrap();
    drop(response);
}

#[test]
fn who_reads_slowly_is_not_cut_off() {
    let server = answer(format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{}", "x".repeat(1_000_000)));
    let edge = start(&(before(server.address) + "[deadlines]\nclient_idle = \"2s\"\n"));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let response = sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        let mut answer = response.into_body();
        let mut length = 0;
        while let Some(frame) = answer.frame().await {
            length += frame.unwrap().into_data().unwrap().len();
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        assert_eq!(length, 1_000_000);
        // And nothing is held against it afterwards.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let next = sender.send_request(request(Method::HEAD, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        assert_eq!(next.status(), StatusCode::OK);
    });
}

/// The other end takes no more, and nothing went wrong.
fn is_farewell(error: &hyper::Error) -> bool {
    let said = format!("{error:?}");
    said.contains("GoAway") && said.contains("NO_ERROR, Remote")
}

#[test]
fn an_end_under_load_loses_no_request_here_either() {
    let server = serve(|_, mut client| {
        while let Ok(Some(_)) = client.head() {
            std::thread::sleep(Duration::from_millis(10));
            client.send(OK);
        }
    });
    let mut edge = start(&before(server.address).replace("threads = 1", "threads = 2"));
    let port = edge.port;
    let answered = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    let clients = run(async {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let count = Arc::clone(&count);
            clients.spawn(async move {
                while let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await {
                    let sender = over(stream).await;
                    loop {
                        let ask = |mut sender: SendRequest<Body>| async move {
                            sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await
                        };
                        let (one, other) = tokio::join!(ask(sender.clone()), ask(sender.clone()));
                        let mut is_over = false;
                        for answer in [one, other] {
                            match answer {
                                Ok(response) => {
                                    assert_eq!(text(response).await.1, "yes");
                                    count.fetch_add(1, SeqCst);
                                }
                                // It was not sent, because the proxy had said that it ends: RFC 9113, 6.8.
                                Err(error) if error.is_canceled() || is_farewell(&error) => is_over = true,
                                Err(error) => panic!("{error:?}"),
                            }
                        }
                        if is_over {
                            break;
                        }
                    }
                }
            });
        }
        clients
    });
    crate::edge::until(|| (answered.load(SeqCst) > 100).then_some(()));
    assert!(edge.end().success());
    run(clients.join_all());
}

#[test]
fn who_does_not_read_is_in_nobodys_way() {
    const MUCH: usize = 20_000_000;
    let edge = start(&before_h2(serve_h2(async |request| {
        let length = if request.uri().path() == "/big" { MUCH } else { 3 };
        Ok(Response::new(BoxBody::new(Full::new(Bytes::from(vec![b'x'; length])))))
    })));
    let mut slow: Vec<_> = (0..40)
        .map(|_| {
            let mut client = connect(edge.port);
            client.send(get("/big", ""));
            assert_eq!(client.head().unwrap().unwrap().status(), 200);
            client
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(ask(edge.port, get("/small", "connection: close\r\n")).text(), "xxx");
    }
    assert_eq!(slow[0].exactly(MUCH).unwrap().len(), MUCH);
}

#[test]
fn a_server_that_takes_few_requests_at_a_time_gets_more_connections() {
    let (say, said) = channel();
    let said = Arc::new(Mutex::new(Some(said)));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_streams(1);
    let edge = start(&before_h2(serve_as(builder, move |_| {
        let body = said.lock().unwrap().take().unwrap_or_else(|| body(&["yes"], &[]));
        async { Ok(Response::new(body)) }
    })));
    let mut waits = connect(edge.port);
    waits.send(get("/", ""));
    assert_eq!(waits.head().unwrap().unwrap().status(), 200);
    for _ in 0..3 {
        assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
    }
    drop(say);
}

/// A server that has answered and takes no more leaves a body half read, which is no request.
#[test]
fn what_is_left_of_a_body_is_no_request() {
    let (heard, mut hears) = mpsc::unbounded_channel();
    let address = run(async {
        let (socket, address) = listen().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let heard = heard.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    // Neither read nor reset.
                    let mut unread = Vec::new();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        heard.send(request.uri().path().to_owned()).unwrap();
                        respond.send_response(Response::new(()), false).unwrap().send_data("no".into(), true).unwrap();
                        unread.push((request, respond));
                    }
                });
            }
        });
        address
    });
    let edge = start(&(before_h2(address) + "[deadlines]\nkeep_alive = \"4s\"\n"));
    let smuggled = get("/smuggled", "");
    let head = |length: usize| format!("POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: {length}\r\n\r\n");
    // All at once, and more than anybody makes room for.
    let much = smuggled.repeat(60_000);
    let mut at_once = connect(edge.port);
    at_once.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    at_once.send(head(much.len()));
    at_once.send(&much);
    assert_eq!(at_once.answer().status(), 200);
    // And after a pause that is longer than an idle connection keeps its buffers.
    let mut later = connect(edge.port);
    later.send(head(1000) + "0123456789");
    assert_eq!(later.answer().status(), 200);
    std::thread::sleep(Duration::from_secs(3));
    later.send(&smuggled);
    for client in [&mut at_once, &mut later] {
        assert!(client.rest().is_empty());
    }
    drop(edge);
    for _ in 0..2 {
        assert_eq!(run(hears.recv()).unwrap(), "/");
    }
    assert!(hears.try_recv().is_err());
}

#[test]
fn what_broke_once_is_not_what_breaks_next() {
    let h1 = yes();
    let h2 = serve_h2(async |_| Err("no"));
    let config = before(h1.address)
        + &format!(
            "[upstream.other]\nservers = [\"h2c://{h2}\"]\n[[route]]\npath = \"/other\"\nupstream = \"other\"\n\
             [[route]]\npath = \"/\"\nupstream = \"app\"\n[limits]\nbody_bytes = 4\n"
        );
    let edge = start(&config);
    let mut client = connect(edge.port);
    client.send("POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(client.answer().status(), 413);
    client.send(get("/other", ""));
    if let Ok(Some(answer)) = client.try_answer("GET") {
        assert_eq!(answer.status(), 502);
    }
}
