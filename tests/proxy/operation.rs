//! What operators see: the command line, sockets, health, metrics, and a machine with too little of something.

use std::{
    fs,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use crate::{
    client::{ask, connect, get},
    edge::{Edge, before, free_port, start, until},
    server::{OK, answer, reply, yes},
};

#[test]
fn one_command_is_enough() {
    let server = yes();
    let port = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipveil"));
    command.args(["proxy", "--listen", &format!("[::]:{port}"), "--upstream", &format!("http://{}", server.address)]);
    let mut edge = Edge::spawn(command, tempfile::tempdir().unwrap(), port);
    until(|| edge.log().contains("listening").then_some(()));
    // Both families, on one socket.
    assert_eq!(ask(port, get("/", "")).text(), "yes");
    let mut client = crate::client::Client::new(std::net::TcpStream::connect(("::1", port)).unwrap());
    client.send(get("/", "connection: close\r\n"));
    assert_eq!(client.answer().text(), "yes");
    assert!(edge.end().success());
    assert_eq!(edge.lines().len(), 2);
    assert!(!edge.log().contains("::1"), "{}", edge.log());
}

#[test]
fn a_bad_command_line_is_refused() {
    for (arguments, said) in [
        (&["proxy"][..], "--config"),
        (&["proxy", "--listen", "127.0.0.1:1"], "--upstream"),
        (&["proxy", "--listen", "nonsense", "--upstream", "http://127.0.0.1:1"], "expected an address with a port"),
        (&["proxy", "--listen", "127.0.0.1:1", "--upstream", "ftp://127.0.0.1:1"], "expected http://HOST:PORT"),
        (&["proxy", "--config", "nowhere/ipveil.toml"], "nowhere/ipveil.toml: No such file"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_ipveil")).args(arguments).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_server_that_is_not_well_is_not_asked() {
    let is_well = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&is_well);
    let one = reply(move |request| match request.start.contains("/healthz") {
        true if !asked.load(SeqCst) => b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec(),
        _ => OK.into(),
    });
    let other = answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother");
    let admin = free_port();
    let config = before(one.address).replace(
        &format!("[\"http://{}\"]", one.address),
        &format!("[\"http://{}\", \"http://{}\"]", one.address, other.address),
    );
    let edge = start(
        &(config
            + &format!(
                "[upstream.app.health]\npath = \"/healthz\"\nevery = \"100ms\"\n[admin]\nlisten = [\"127.0.0.1:{admin}\"]\n"
            )),
    );
    let metrics = || ask(admin, get("/metrics", "connection: close\r\n")).text().to_owned();
    let well = |count: u8| metrics().contains(&format!("ipveil_upstream_servers_well {count}\n")).then_some(());
    let texts =
        || (0..20).map(|_| ask(edge.port, get("/", "connection: close\r\n")).text().to_owned()).collect::<Vec<_>>();
    until(|| well(2));
    assert!(["yes", "other"].iter().all(|text| texts().iter().any(|said| said == text)), "both are asked");
    is_well.store(false, SeqCst);
    until(|| well(1));
    assert!(texts().iter().all(|text| text == "other"));
    is_well.store(true, SeqCst);
    until(|| well(2));
    assert!(texts().iter().any(|text| text == "yes"));
}

#[test]
fn requests_are_counted() {
    let server = yes();
    let admin = free_port();
    let edge = start(&(before(server.address) + &format!("[admin]\nlisten = [\"127.0.0.1:{admin}\"]\n")));
    for _ in 0..3 {
        ask(edge.port, get("/", "connection: close\r\n"));
    }
    ask(edge.port, "GET / HTTP/1.1\r\nconnection: close\r\n\r\n");
    let mut client = connect(edge.port);
    client.send("nonsense\r\n\r\n");
    client.rest();
    until(|| {
        let metrics = ask(admin, get("/metrics", "connection: close\r\n"));
        let metrics = metrics.text();
        let counts = [
            "ipveil_requests_total{status=\"2xx\"} 3\n",
            "ipveil_requests_total{status=\"4xx\"} 1\n",
            "ipveil_connections_total 5\n",
            "ipveil_open_connections 0\n",
            "ipveil_request_seconds_count 4\n",
        ];
        counts.iter().all(|count| metrics.contains(count)).then_some(())
    });
}

#[test]
fn descriptors_that_ran_out_come_back() {
    let server = yes();
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    fs::write(folder.path().join("ipveil.toml"), before(server.address).replace("$PORT", &port.to_string())).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 60; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ipveil"), "proxy", "--config"]);
    command.arg(folder.path().join("ipveil.toml"));
    let edge = Edge::spawn(command, folder, port);
    until(|| edge.log().contains("listening").then_some(()));
    let clients: Vec<_> = (0..100).map(|_| connect(port)).collect();
    until(|| edge.log().contains("a connection can't be accepted").then_some(()));
    drop(clients);
    until(|| {
        let mut client = connect(port);
        client.send(get("/", ""));
        client.try_answer("GET").ok().flatten().filter(|answer| answer.status() == 200)
    });
}
