//! Servers that fail, clients that dawdle, and an end in the middle of work.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    client::{Client, Otherwise, ask, connect, get},
    edge::{SOON, before, free_port, start, until},
    server::{OK, Server, reply, serve, yes},
};

const HALF: Duration = Duration::from_millis(500);

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
fn a_server_that_does_not_begin_to_answer_is_late() {
    let (end, ended) = mpsc::channel();
    let server = serve(move |_, mut client| {
        let _ = client.head();
        end.send(client.is_closed()).unwrap();
    });
    let edge = start(&(before(server.address) + "[deadlines]\nfirst_byte = \"500ms\"\n"));
    let began = Instant::now();
    let answer = ask(edge.port, get("/", ""));
    assert_eq!((answer.status(), answer.text()), (504, "504 Gateway Timeout\n"));
    assert!(began.elapsed() >= HALF);
    assert!(ended.recv_timeout(SOON).unwrap(), "nobody waits for it any more");
}

#[test]
fn a_server_that_can_not_be_reached_is_tried_once() {
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    // Once nobody else may wait to be accepted, the system answers no more.
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, HALF) {
        waiting.push(stream);
    }
    let deadline = Duration::from_secs(2);
    let edge = start(&(before(address) + "[deadlines]\nconnect = \"2s\"\n"));
    let began = Instant::now();
    assert_eq!(ask(edge.port, get("/", "")).status(), 504);
    let took = began.elapsed();
    assert!(took >= deadline && took < 2 * deadline, "{took:?}");
}

#[test]
fn a_server_that_does_not_go_on_is_cut_off() {
    let server = serve(|_, mut client| {
        let _ = client.head();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
        client.is_closed();
    });
    let edge = start(&(before(server.address) + "[deadlines]\nupstream_idle = \"500ms\"\n"));
    let mut client = connect(edge.port);
    client.send(get("/", ""));
    assert_eq!(client.head().unwrap().unwrap().status(), 200);
    assert_eq!(client.rest(), b"half");
}

#[test]
fn an_upload_may_take_longer_than_a_server_may() {
    let server = yes();
    let edge = start(&(before(server.address) + "[deadlines]\nfirst_byte = \"500ms\"\n"));
    let mut client = connect(edge.port);
    client.send("POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 12\r\n\r\n");
    for _ in 0..12 {
        thread::sleep(Duration::from_millis(120));
        client.send("x");
    }
    assert_eq!(client.answer().text(), "yes");
    assert_eq!(server.last().body.len(), 12);
}

#[test]
fn a_client_that_does_not_go_on_with_its_body_is_late() {
    let (end, ended) = mpsc::channel();
    let server = serve(move |_, mut client| {
        let mut request = client.head().unwrap().unwrap();
        end.send(client.body(&mut request, Otherwise::Nothing).is_err()).unwrap();
    });
    // The server is not the one to blame, though it is late, too.
    for more in ["client_idle = \"500ms\"", "client_idle = \"700ms\"\nfirst_byte = \"500ms\""] {
        let edge = start(&(before(server.address) + "[deadlines]\n" + more));
        for framing in ["content-length: 99", "transfer-encoding: chunked"] {
            let mut client = connect(edge.port);
            client.send(format!("POST / HTTP/1.1\r\nhost: example.com\r\n{framing}\r\n\r\n4\r\nhalf\r\n"));
            assert_eq!(client.answer().status(), 408, "{more} {framing}");
            assert!(ended.recv_timeout(SOON).unwrap(), "the server sees that something lacks");
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
fn who_is_slow_is_cut_off_in_every_phase() {
    let server = yes();
    let proxied = free_port();
    let edge = start(&format!(
        "{}[[listener]]\naddress = \"127.0.0.1:{proxied}\"\nproxy_protocol = \"required\"\n\
         [client]\ntrusted = [\"loopback\"]\n[deadlines]\nproxy_header = \"500ms\"\nfirst_bytes = \"500ms\"\n\
         request_head = \"500ms\"\nkeep_alive = \"500ms\"\n",
        before(server.address)
    ));
    let late = "HTTP/1.1 408 Request Timeout\r\n";
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let cases = [
        ("no PROXY header", proxied, "", ""),
        ("half a PROXY header", proxied, "PROXY TCP4 ", ""),
        ("nothing after the PROXY header", proxied, "PROXY UNKNOWN\r\n", ""),
        ("nothing", edge.port, "", ""),
        ("half of what begins HTTP/2", edge.port, &preface[..10], ""),
        ("half a head", edge.port, "GET / HTTP/1.1\r\nhost:", late),
        ("half a head after a PROXY header", proxied, "PROXY UNKNOWN\r\nGET", late),
        ("nothing after a request", edge.port, &get("/", ""), "HTTP/1.1 200 OK\r\n"),
    ];
    thread::scope(|scope| {
        for (name, port, said, heard) in cases {
            scope.spawn(move || {
                let mut client = connect(port);
                client.send(said);
                let began = Instant::now();
                let rest = String::from_utf8(client.rest()).unwrap();
                assert!(rest.starts_with(heard) && rest.is_empty() == heard.is_empty(), "{name}: {rest}");
                let took = began.elapsed();
                assert!(took > Duration::from_millis(400) && took < SOON / 2, "{name}: {took:?}");
            });
        }
        scope.spawn(|| {
            // HTTP/2 is told first that it ends, so it takes longer.
            let mut client = connect(edge.port);
            client.send(preface);
            client.send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
            let began = Instant::now();
            client.rest();
            assert!(began.elapsed() < SOON / 2);
        });
        scope.spawn(|| {
            // Now and then a byte does not help.
            let mut client = connect(edge.port);
            client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            client.send("GET / HTTP/1.1\r\n");
            let end = Instant::now() + SOON / 2;
            while Instant::now() < end {
                client.send("x");
                let mut byte = [0];
                if client.stream.read(&mut byte).is_ok() {
                    return;
                }
            }
            panic!("it goes on for ever");
        });
        scope.spawn(|| {
            // A second head, on a connection that had a request.
            let mut client = connect(edge.port);
            client.send(get("/", ""));
            client.answer();
            client.send("GET / HT");
            assert_eq!(client.answer().status(), 408);
        });
    });
    // Those who are not slow are served.
    let mut client = connect(edge.port);
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(150));
        client.send(get("/", ""));
        assert_eq!(client.answer().text(), "yes");
    }
}

#[test]
fn who_does_not_read_is_cut_off() {
    let (end, ended) = mpsc::channel();
    let server = serve(move |_, mut client| {
        let _ = client.head();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
        let piece = vec![b'x'; 1 << 16];
        let mut sent = 0;
        while client.stream.stream.write_all(&piece).is_ok() {
            sent += piece.len();
        }
        let _ = end.send(sent);
    });
    let edge = start(&(before(server.address) + "[deadlines]\nclient_idle = \"500ms\"\n"));
    let mut client = connect(edge.port);
    client.send(get("/", ""));
    let sent = ended.recv_timeout(SOON).unwrap();
    assert!(sent < 100 << 20, "memory is bounded, and {sent} bytes were taken");
}

#[test]
fn a_connection_that_waits_takes_little_memory() {
    let edge = start(&before(yes().address));
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", edge.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let mut first = connect(edge.port);
    for _ in 0..100 {
        first.send(get("/", ""));
        assert_eq!(first.answer().status(), 200);
    }
    let before = resident();
    let mut clients: Vec<_> = (0..800).map(|_| connect(edge.port)).collect();
    for client in &mut clients {
        client.send(get("/", ""));
        assert_eq!(client.answer().status(), 200);
    }
    // In KiB. With its buffers it has more than 20; and the system may hand out some pages of 2 MiB.
    until(|| (resident().saturating_sub(before) < 12 * clients.len()).then_some(()));
    for client in &mut clients {
        client.send(get("/", ""));
        assert_eq!(client.answer().status(), 200);
    }
}

#[test]
fn connections_beyond_the_limit_wait() {
    let server = yes();
    let edge = start(&(before(server.address) + "[limits]\nconnections = 2\n"));
    let mut first = connect(edge.port);
    let mut second = connect(edge.port);
    for client in [&mut first, &mut second] {
        client.send(get("/", ""));
        assert_eq!(client.answer().text(), "yes");
        // They go on.
        client.send("GET /");
    }
    let mut third = connect(edge.port);
    third.send(get("/", ""));
    third.stream.set_read_timeout(Some(HALF)).unwrap();
    assert!(third.try_answer("GET").is_err());
    drop(first);
    third.stream.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(third.answer().text(), "yes");
}

#[test]
fn a_connection_that_waits_makes_room_for_one_that_asks() {
    let server = yes();
    let edge = start(&(before(server.address) + "[limits]\nconnections = 2\n"));
    let mut clients = [connect(edge.port), connect(edge.port)];
    for client in &mut clients {
        client.send(get("/", ""));
        assert_eq!(client.answer().text(), "yes");
    }
    let mut third = connect(edge.port);
    third.send(get("/", ""));
    assert_eq!(third.answer().text(), "yes");
    assert!(clients[0].is_closed());
    until(|| edge.log().contains("as many connections as limits.connections allows").then_some(()));
}

#[test]
fn a_client_has_as_many_connections_as_it_may() {
    let server = yes();
    let edge = start(&(before(server.address) + "[limits]\nconnections_per_client = 2\n"));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let mut client = connect(edge.port);
            client.send(get("/", ""));
            assert_eq!(client.answer().text(), "yes");
            client
        })
        .collect();
    assert!(connect(edge.port).is_closed());
    drop(clients);
    until(|| {
        let mut client = connect(edge.port);
        client.send(get("/", ""));
        client.try_answer("GET").ok().flatten()
    });
}

/// A server that takes its time.
fn slow(time: Duration) -> Server {
    serve(move |_, mut client| {
        while let Ok(Some(_)) = client.head() {
            thread::sleep(time);
            client.send(OK);
        }
    })
}

#[test]
fn an_end_under_load_loses_no_request() {
    let server = slow(Duration::from_millis(20));
    let mut edge = start(&before(server.address).replace("threads = 1", "threads = 2"));
    let port = edge.port;
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for is_kept in [true, false, true, false, false, false] {
            let answered = &answered;
            scope.spawn(move || {
                let mut kept = None;
                loop {
                    let is_new = kept.is_none();
                    let mut client = match kept.take() {
                        Some(client) => client,
                        None => match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                            Ok(stream) => {
                                stream.set_read_timeout(Some(SOON)).unwrap();
                                Client::new(stream)
                            }
                            // Nobody listens any more, and says so at once.
                            Err(_) => return,
                        },
                    };
                    client.send(get("/", ""));
                    match client.try_answer("GET") {
                        Ok(Some(answer)) => {
                            assert_eq!(answer.text(), "yes");
                            answered.fetch_add(1, SeqCst);
                            if is_kept && answer.value("connection") != Some("close") {
                                kept = Some(client);
                            }
                        }
                        // A connection that waits for requests may end, but no new one may.
                        other => assert!(!is_new, "{other:?}"),
                    }
                }
            });
        }
        until(|| (answered.load(SeqCst) > 100).then_some(()));
        let began = Instant::now();
        assert!(edge.end().success());
        assert!(began.elapsed() < SOON / 2);
    });
}

#[test]
fn who_comes_while_it_ends_is_refused_and_who_was_there_is_served() {
    let server = slow(Duration::from_secs(2));
    let mut edge = start(&(before(server.address) + "[admin]\nlisten = [\"unix:$FOLDER/admin\"]\n"));
    let mut client = connect(edge.port);
    client.send(get("/", ""));
    until(|| (!server.heard().is_empty()).then_some(()));
    edge.signal(Signal::TERM);
    until(|| edge.log().contains("draining").then_some(()));
    until(|| TcpStream::connect((Ipv4Addr::LOCALHOST, edge.port)).is_err().then_some(()));
    let mut admin = Client::new(UnixStream::connect(edge.path("admin")).unwrap());
    admin.send(get("/readyz", ""));
    let answer = admin.answer();
    assert_eq!((answer.status(), answer.text()), (503, "draining\n"));
    let answer = client.answer();
    assert_eq!((answer.text(), answer.value("connection")), ("yes", Some("close")));
    assert!(client.is_closed());
    assert!(edge.ended().success());
}

#[test]
fn who_is_told_to_end_twice_waits_for_nobody_and_destroys_a_key_meanwhile() {
    let server = serve(|_, mut client| {
        client.head().unwrap();
        client.is_closed();
    });
    let mut edge = start(&(before(server.address) + "[deadlines]\ndrain = \"1h\"\n"));
    let mut client = connect(edge.port);
    client.send(get("/", ""));
    until(|| (server.heard().len() == 1).then_some(()));
    edge.signal(Signal::TERM);
    until(|| edge.log().contains("draining").then_some(()));
    edge.signal(Signal::USR1);
    until(|| edge.log().contains("reason=rotated").then_some(()));
    edge.signal(Signal::INT);
    assert!(edge.ended().success());
    assert!(client.is_closed());
}

#[test]
fn what_does_not_end_is_ended() {
    let server = serve(|_, mut client| {
        let head = client.head().unwrap().unwrap();
        if head.value("upgrade").is_some() {
            client.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n");
        }
        client.is_closed();
    });
    let mut edge = start(&(before(server.address) + "[deadlines]\ndrain = \"1s\"\n"));
    let mut waiting = connect(edge.port);
    waiting.send(get("/", ""));
    let mut upgraded = connect(edge.port);
    upgraded.send(get("/", "connection: upgrade\r\nupgrade: x\r\n"));
    assert_eq!(upgraded.answer().status(), 101);
    until(|| (server.heard().len() == 2).then_some(()));
    let began = Instant::now();
    assert!(edge.end().success());
    assert!(began.elapsed() > HALF && began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    assert!(waiting.is_closed() && upgraded.is_closed());
    // No client went away.
    let lines = edge.lines();
    assert!(
        lines.iter().any(|line| line.contains("\" 503 ")) && !lines.iter().any(|line| line.contains("\" 499 ")),
        "{lines:?}"
    );
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let (end, ended) = mpsc::channel();
    let server = serve(move |_, mut client| {
        let _ = client.head();
        end.send(client.is_closed()).unwrap();
    });
    let edge = start(&(before(server.address) + "[[listener]]\naddress = \"unix:$FOLDER/front\"\n"));
    let mut client = connect(edge.port);
    client.send(get("/gone", ""));
    until(|| (!server.heard().is_empty()).then_some(()));
    client.stream.shutdown(Shutdown::Both).unwrap();
    drop(client);
    assert!(ended.recv_timeout(SOON).unwrap());
    let mut client = Client::new(UnixStream::connect(edge.path("front")).unwrap());
    client.send(get("/gone", ""));
    until(|| (server.heard().len() == 2).then_some(()));
    drop(client);
    assert!(ended.recv_timeout(SOON).unwrap());
    for line in edge.lines_when(2) {
        assert!(line.contains("\"GET /gone HTTP/1.1\" 499 0"), "{line}");
    }
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
fn who_is_not_trusted_says_nothing_about_a_client() {
    let server = yes();
    let proxied = free_port();
    let edge = start(&format!(
        "{}[[listener]]\naddress = \"127.0.0.1:{proxied}\"\nproxy_protocol = \"required\"\n\
         [client]\ntrusted = [\"192.0.2.1\"]\nsource = \"x-real-ip\"\n",
        before(server.address)
    ));
    let mut client = connect(proxied);
    client.send(format!("PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n{}", get("/", "")));
    assert_eq!(client.rest(), b"");
    // Its headers are not believed, so all of them are one client.
    let mut seen = Vec::new();
    for address in ["203.0.113.7", "203.0.113.8", "2001:20::1"] {
        ask(edge.port, get("/", &format!("x-real-ip: {address}\r\nx-forwarded-for: {address}\r\ncookie: sid=1\r\n")));
        seen.push(server.last().value("x-forwarded-for").unwrap().to_owned());
        assert_eq!(server.last().value("x-real-ip"), None);
    }
    assert!(seen.iter().all(|one| *one == seen[0] && one != "2001:20::1"), "{seen:?}");
}

/// The proxy is done with a body long before a slow client is.
#[test]
fn whoever_takes_the_end_slowly_gets_all_of_it() {
    let server = reply(|request| {
        let length = request.start.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        [format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes(), vec![b'x'; length]].concat()
    });
    let edge = start(&before(server.address));
    // How much the system holds is not known. For one of these the rest is what the proxy itself holds.
    let lengths: Vec<_> = (30..110).map(|step| step * 50_000).collect();
    let mut clients: Vec<_> = lengths
        .iter()
        .map(|length| {
            let mut client = connect(edge.port);
            client.send(get(&format!("/{length}"), ""));
            client
        })
        .collect();
    // Longer than an idle connection keeps its buffers.
    thread::sleep(Duration::from_secs(4));
    for (client, length) in clients.iter_mut().zip(lengths) {
        assert_eq!(client.answer().body.len(), length);
        // And it can be used again.
        client.send(get("/3", ""));
        assert_eq!(client.answer().body.len(), 3);
    }
}

#[test]
fn a_web_socket_is_a_connection_of_its_client() {
    let server = serve(|_, mut client| {
        while let Ok(Some(request)) = client.head() {
            if request.value("upgrade").is_some() {
                client.send("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
                let _ = client.rest();
                return;
            }
            client.send(OK);
        }
    });
    let edge = start(&(before(server.address) + "[limits]\nconnections_per_client = 1\n"));
    let mut client = connect(edge.port);
    client.send(get("/", "connection: upgrade\r\nupgrade: websocket\r\n"));
    assert_eq!(client.answer().status(), 101);
    for _ in 0..3 {
        assert!(connect(edge.port).is_closed());
    }
    drop(client);
    until(|| {
        let mut client = connect(edge.port);
        client.send(get("/", ""));
        client.try_answer("GET").ok().flatten()
    });
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

#[test]
fn a_request_that_begins_behind_another_has_time_to_go_on() {
    let server = yes();
    let edge = start(&(before(server.address) + "[deadlines]\nrequest_head = \"10s\"\n"));
    let mut client = connect(edge.port);
    let mut late = connect(edge.port);
    let (whole, half) = (get("/", ""), "GET /b HTTP/1.1\r\nho");
    for client in [&mut client, &mut late] {
        client.send(format!("{whole}{half}"));
        assert_eq!(client.answer().status(), 200);
    }
    // Longer than an idle connection keeps its buffers.
    thread::sleep(Duration::from_secs(3));
    client.send("st: example.com\r\n\r\n");
    assert_eq!(client.answer().status(), 200);
    assert_eq!(server.last().start, "GET /b HTTP/1.1");
    // But not for ever.
    assert_eq!(late.answer().status(), 408);
}

#[test]
fn many_idle_connections_that_end_at_once_delay_nobody() {
    const COUNT: usize = 150;
    let (arrived, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, end) = (Arc::clone(&is_over), Arc::clone(&ended));
    // All are answered when all have come, so that each is on a connection of its own; and then these end together.
    let server = serve(move |number, mut client| {
        while client.head().is_ok_and(|head| head.is_some()) {
            if number < COUNT {
                arrived.fetch_add(1, SeqCst);
                until(|| (arrived.load(SeqCst) >= COUNT).then_some(()));
            }
            client.send(OK);
            if number < COUNT {
                until(|| over.load(SeqCst).then_some(()));
                drop(client);
                end.fetch_add(1, SeqCst);
                return;
            }
        }
    });
    let edge = start(&before(server.address));
    let mut clients: Vec<_> = (0..COUNT).map(|_| connect(edge.port)).collect();
    for client in &mut clients {
        client.send(get("/", ""));
    }
    for client in &mut clients {
        assert_eq!(client.answer().text(), "yes");
    }
    is_over.store(true, SeqCst);
    until(|| (ended.load(SeqCst) == COUNT).then_some(()));
    for _ in 0..20 {
        assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
    }
}

#[test]
fn an_empty_line_begins_no_request() {
    let server = yes();
    let edge = start(&(before(server.address) + "[deadlines]\nrequest_head = \"300ms\"\nkeep_alive = \"60s\"\n"));
    let mut client = connect(edge.port);
    client.send(get("/", ""));
    assert_eq!(client.answer().text(), "yes");
    client.send("\r\n");
    // For longer than a head may take, there is no answer to it.
    client.stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    assert!(client.try_answer("GET").is_err());
    client.send(get("/", ""));
    assert_eq!(client.answer().text(), "yes");
}
