//! Clients and servers that dawdle, and more connections than there may be.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{Otherwise, ask, connect, get},
    edge::{HALF, SOON, before, free_port, start, until},
    server::{OK, serve, yes},
};

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
