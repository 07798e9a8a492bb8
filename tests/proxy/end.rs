//! An end in the middle of work.

use std::{
    net::{Ipv4Addr, Shutdown, TcpStream},
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
    client::{Client, ask, connect, get},
    edge::{HALF, SOON, before, start, until},
    server::{OK, Server, reply, serve},
};

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
