//! Servers that are not there, that fail, or whose answers are none.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use crate::{
    client::{Otherwise, ask, connect, get},
    edge::{before, free_port, start, until},
    server::{OK, reply, serve, yes},
};

#[test]
fn a_server_that_is_not_there_is_a_bad_gateway_that_names_no_one() {
    let edge = start(&before((Ipv4Addr::LOCALHOST, free_port()).into()));
    let mut client = connect(edge.port);
    for _ in 0..3 {
        client.send(get("/", ""));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text()), (502, "502 Bad Gateway\n"));
        assert_eq!(answer.value("server"), None);
    }
}

#[test]
fn an_answer_that_is_none_is_a_bad_gateway() {
    for said in [
        "",
        "HTTP/1.1 200",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/3 200 OK\r\n\r\n",
    ] {
        for is_reset in [false, true] {
            let server = serve(move |_, mut client| {
                let _ = client.head();
                client.send(said);
                if is_reset {
                    socket2::SockRef::from(&client.stream.stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
            });
            let edge = start(&before(server.address));
            assert_eq!(ask(edge.port, get("/", "")).status(), 502, "{said:?}");
            // It may have been read, so nobody reads it again.
            assert_eq!(server.heard().len(), 1, "{said:?}");
        }
    }
}

#[test]
fn half_an_answer_is_not_taken_for_one() {
    for said in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n",
    ] {
        let server = serve(move |_, mut client| {
            let _ = client.head();
            client.send(said);
        });
        let edge = start(&before(server.address));
        for _ in 0..20 {
            let mut client = connect(edge.port);
            client.send(get("/", ""));
            // That it breaks off may be known before anything was passed on; what there is of it is, all the same.
            let mut answer = client.head().unwrap().unwrap();
            assert!(client.body(&mut answer, Otherwise::UntilTheEnd).is_err(), "{said:?}");
            assert!(client.is_closed());
        }
        until(|| edge.log().contains("did not send all of an answer").then_some(()));
    }
}

#[test]
fn the_log_says_what_is_wrong_with_an_answer() {
    for (said, why) in [
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "nobody asked for"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "transfer coding"),
    ] {
        let server = crate::server::answer(said);
        let edge = start(&before(server.address));
        assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).status(), 502);
        let log = until(|| Some(edge.log()).filter(|log| log.contains("did not answer as it should")));
        assert!(log.contains(why), "{log}");
    }
}

#[test]
fn a_connection_to_a_server_does_not_live_for_ever() {
    let server = yes();
    let edge = start(&(before(server.address) + "[deadlines]\nupstream_lifetime = \"1s\"\n"));
    let mut client = connect(edge.port);
    until(|| {
        client.send(get("/", ""));
        assert_eq!(client.answer().text(), "yes");
        (server.heard().len() > 1).then_some(())
    });
}

#[test]
fn an_answer_may_end_with_the_connection() {
    let server = serve(|_, mut client| {
        let _ = client.head();
        client.send("HTTP/1.1 200 OK\r\n\r\nall of it");
    });
    let edge = start(&before(server.address));
    assert_eq!(ask(edge.port, get("/", "")).text(), "all of it");
}

#[test]
fn a_connection_that_a_server_has_closed_meanwhile_is_not_asked() {
    for is_reset in [false, true] {
        let closed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&closed);
        let server = serve(move |_, mut client| {
            let mut request = client.head().unwrap().unwrap();
            client.body(&mut request, Otherwise::Nothing).unwrap();
            client.send(OK);
            // Not before the answer is there, which a reset would take away.
            thread::sleep(Duration::from_millis(50));
            if is_reset {
                socket2::SockRef::from(&client.stream.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(client);
            count.fetch_add(1, SeqCst);
        });
        let edge = start(&before(server.address));
        let mut client = connect(edge.port);
        for round in 1..=5 {
            client.send("POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 5\r\n\r\nhello");
            assert_eq!(client.answer().text(), "yes", "round {round}");
            until(|| (closed.load(SeqCst) == round).then_some(()));
        }
        assert_eq!(server.heard().len(), 5);
    }
}

#[test]
fn a_connection_that_a_server_closes_in_that_moment_costs_nobody_an_answer() {
    // It says yes once on each connection, and then waits for one more request to close.
    let server = serve(|_, mut client| {
        client.head().unwrap();
        client.send(OK);
        let _ = client.head();
    });
    let statuses = |request: &str, wait: Duration| {
        let edge = start(&before(server.address));
        let mut client = connect(edge.port);
        client.send(get("/", ""));
        assert_eq!(client.answer().status(), 200);
        thread::sleep(wait);
        client.send(request);
        client.answer().status()
    };
    // For how long a connection was idle is known to a second or two.
    let mut waits = (1..8).map(Duration::from_secs);
    assert!(waits.any(|wait| statuses(&get("/", ""), wait) == 200));
    // It may have been heard.
    let post = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(statuses(post, Duration::from_secs(3)), 502);
}

#[test]
fn one_connection_is_for_many_requests() {
    let server = reply(|request| match request.start.split(' ').nth(1) {
        Some("/none") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        Some("/same") => b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec(),
        Some("/chunks") if request.start.starts_with("GET") => {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n".to_vec()
        }
        Some("/empty") => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
        _ if request.start.starts_with("HEAD") => b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n".to_vec(),
        _ => OK.into(),
    });
    let edge = start(&before(server.address));
    let mut client = connect(edge.port);
    for path in ["/", "/none", "/same", "/chunks", "/empty", "/"] {
        client.send(get(path, ""));
        client.answer();
        client.send(get(path, "").replace("GET", "HEAD"));
        if path == "/" {
            assert_eq!(client.answer_to("HEAD").value("content-length"), Some("3"));
        } else {
            client.answer_to("HEAD");
        }
    }
    assert_eq!(server.heard().len(), 1);
}

#[test]
fn another_server_is_asked_if_one_is_not_there() {
    let server = yes();
    for more in ["", "proxy_protocol = 1\n"] {
        let is_on = Arc::new(AtomicBool::new(more.is_empty()));
        let announced = serve(move |_, mut client| {
            if !is_on.load(SeqCst) && !client.line().unwrap().unwrap().starts_with("PROXY TCP6 2001:2") {
                return;
            }
            while let Ok(Some(_)) = client.head() {
                client.send(OK);
            }
        });
        let down = free_port();
        let servers = format!("[\"http://127.0.0.1:{down}\", \"http://{}\"]", announced.address);
        let config = before(server.address).replace(&format!("[\"http://{}\"]", server.address), &servers);
        let edge = start(&(config + more));
        for _ in 0..4 {
            assert_eq!(ask(edge.port, get("/", "")).status(), 200, "{more}");
        }
    }
}

#[test]
fn an_answer_that_can_be_read_in_two_ways_is_not_passed_on_so() {
    for (said, status) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nyes", 200),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\n\r\nyes", 200),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nyes!", 502),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n", 200),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n3\r\nyes\r\n0\r\n\r\n", 200),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx: a\0b\r\n\r\nyes", 502),
        ("HTTP/1.1 200 OK\r\ncontent-length : 3\r\n\r\nyes", 502),
        ("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes", 200),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes", 200),
        ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nyes", 200),
    ] {
        let server = crate::server::answer(said);
        let edge = start(&before(server.address));
        // Twice, since the first may leave something behind.
        for _ in 0..2 {
            let answer = ask(edge.port, get("/", "connection: close\r\n"));
            let text = if status == 200 { "yes" } else { "502 Bad Gateway\n" };
            let is_refused = answer.status() == 502;
            assert!(is_refused || (answer.status(), answer.text()) == (status, text), "{said:?}: {answer:?}");
            let has = |name| !answer.values(name).is_empty();
            assert!(!(has("content-length") && has("transfer-encoding")), "{answer:?}");
        }
    }
}

#[test]
fn a_server_may_answer_before_it_has_heard_everything() {
    let server = serve(|_, mut client| {
        let mut request = client.head().unwrap().unwrap();
        if request.start.starts_with("POST") {
            client.send("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno!");
            let _ = client.body(&mut request, Otherwise::Nothing);
            client.is_closed();
        } else {
            client.send(OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));
        }
    });
    let edge = start(&before(server.address));
    for length in [100, 5_000_000] {
        let mut client = connect(edge.port);
        client.send(format!("POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: {length}\r\n\r\n"));
        client.send("x".repeat(length / 2));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text()), (413, "no!"));
        // The rest is of that request, and is not taken for another one.
        client.send(get("/smuggled", ""));
        client.send("x".repeat(length / 2));
        client.rest();
        assert_eq!(ask(edge.port, get("/", "")).text(), "yes");
    }
    let heard = server.heard();
    assert!(heard.iter().all(|heard| !heard.starts_with(b"GET /smuggled")));
}

#[test]
fn a_web_socket_goes_to_a_server_that_is_there() {
    let server = serve(|_, mut client| {
        let _ = client.head();
        client.send("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
        let _ = client.rest();
    });
    let nobody = free_port();
    let config = before(server.address).replace("servers = [", &format!("servers = [\"http://127.0.0.1:{nobody}\", "));
    let edge = start(&config);
    for _ in 0..4 {
        let mut client = connect(edge.port);
        client.send(get("/", "connection: upgrade\r\nupgrade: websocket\r\n"));
        assert_eq!(client.answer().status(), 101);
    }
}
