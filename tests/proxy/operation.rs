//! What operators see: the command line, sockets, health, metrics, and a machine with too little of something.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use rustix::process::Signal;

use crate::{
    client::{Client, ask, connect, get},
    edge::{Edge, before, free_port, start, until},
    program::{ipveil, text},
    server::{OK, answer, reply, serve, yes},
};

#[test]
fn one_command_is_enough() {
    let server = yes();
    let port = free_port();
    let mut command = ipveil();
    command.args(["proxy", "--listen", &format!("[::]:{port}"), "--upstream", &format!("http://{}", server.address)]);
    let mut edge = Edge::spawn(command, tempfile::tempdir().unwrap(), port);
    until(|| edge.log().contains("listening").then_some(()));
    // Both families, on one socket.
    assert_eq!(ask(port, get("/", "")).text(), "yes");
    let mut client = Client::new(std::net::TcpStream::connect(("::1", port)).unwrap());
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
        let output = ipveil().args(arguments).output().unwrap();
        let stderr = text(&output.stderr);
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
    let well = |first: u8| {
        let line = format!("ipveil_upstream_server_well{{server=\"upstream.app.servers.0\"}} {first}\n");
        metrics().contains(&line).then_some(())
    };
    let texts =
        || (0..20).map(|_| ask(edge.port, get("/", "connection: close\r\n")).text().to_owned()).collect::<Vec<_>>();
    until(|| well(1));
    assert!(["yes", "other"].iter().all(|text| texts().iter().any(|said| said == text)), "both are asked");
    is_well.store(false, SeqCst);
    until(|| well(0));
    assert!(texts().iter().all(|text| text == "other"));
    is_well.store(true, SeqCst);
    until(|| well(1));
    assert!(texts().iter().any(|text| text == "yes"));
}

#[test]
fn a_server_that_could_not_be_reached_once_is_well_again() {
    let (port, admin) = (free_port(), free_port());
    let edge =
        start(&(before(([127, 0, 0, 1], port).into()) + &format!("[admin]\nlisten = [\"127.0.0.1:{admin}\"]\n")));
    let is_ready = || ask(admin, get("/readyz", "connection: close\r\n")).status() == 200;
    assert!(is_ready());
    assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).status(), 502);
    assert!(!is_ready());
    let metrics = ask(admin, get("/metrics", "connection: close\r\n"));
    let failures = "ipveil_upstream_failures_total{server=\"upstream.app.servers.0\",how=\"unreachable\"} 1\n";
    assert!(metrics.text().contains(failures), "{}", metrics.text());
    // Whoever sends traffic only to what is ready sends none.
    until(|| is_ready().then_some(()));
}

#[test]
fn one_application_that_is_ill_takes_no_other_from_the_network() {
    let (server, admin) = (yes(), free_port());
    let config = before(server.address)
        + &format!("[upstream.other]\nservers = [\"http://127.0.0.1:{}\"]\n", free_port())
        + "[[route]]\npath = \"/other\"\nupstream = \"other\"\n[[route]]\npath = \"/\"\nupstream = \"app\"\n"
        + &format!("[admin]\nlisten = [\"127.0.0.1:{admin}\"]\n");
    let edge = start(&config);
    assert_eq!(ask(edge.port, get("/other", "connection: close\r\n")).status(), 502);
    assert_eq!(ask(admin, get("/readyz", "connection: close\r\n")).status(), 200);
}

#[test]
fn who_looks_at_heads_only_sees_whether_it_is_well() {
    let (server, admin) = (yes(), free_port());
    let _edge = start(&(before(server.address) + &format!("[admin]\nlisten = [\"127.0.0.1:{admin}\"]\n")));
    for (method, status) in [("HEAD", 200), ("GET", 200), ("POST", 405), ("OPTIONS", 405)] {
        let mut client = connect(admin);
        client.send(format!("{method} /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
        let answer = client.try_answer(method).unwrap().unwrap();
        assert_eq!((answer.status(), answer.value("allow").is_some()), (status, status == 405), "{method}");
    }
}

#[test]
fn the_access_log_says_what_was_asked_for() {
    let server = yes();
    let edge = start(&(before(server.address) + "[access_log]\nformat = \"json\"\n"));
    let requests = [
        "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n",
        "GET http://example.com?a=b HTTP/1.1\r\nhost: example.com\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\nuser-agent: caf\u{e9} \u{1f409}\"\r\n",
    ];
    for request in requests {
        ask(edge.port, format!("{request}connection: close\r\n\r\n"));
    }
    let lines = edge.lines_when(3);
    let lines: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["target"], "example.com:443");
    assert_eq!(lines[1]["target"], "/?a=b");
    assert_eq!(lines[2]["user_agent"], "caf\u{e9} \u{1f409}\"");
    assert!(edge.lines().iter().all(|line| line.is_ascii()));
}

#[test]
fn a_client_that_goes_away_is_no_work_of_the_server() {
    let (is_first, is_gone) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (first, gone) = (Arc::clone(&is_first), Arc::clone(&is_gone));
    // The first request is never answered.
    let one = reply(move |_| match first.swap(false, SeqCst) {
        true => until(|| gone.load(SeqCst).then_some(Vec::new())),
        false => OK.into(),
    });
    let other = answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother");
    let edge = start(&before(one.address).replace(
        &format!("[\"http://{}\"]", one.address),
        &format!("[\"http://{}\", \"http://{}\"]", one.address, other.address),
    ));
    // Until it is this server's turn; and then the client is gone.
    while is_first.load(SeqCst) {
        let mut client = connect(edge.port);
        let others = other.requests().len();
        client.send(get("/", ""));
        until(|| (!is_first.load(SeqCst) || other.requests().len() > others).then_some(()));
    }
    is_gone.store(true, SeqCst);
    until(|| (edge.lines().iter().any(|line| line.contains(" 499 "))).then_some(()));
    let texts: Vec<_> = (0..10).map(|_| ask(edge.port, get("/", "connection: close\r\n")).text().to_owned()).collect();
    assert!(["yes", "other"].iter().all(|text| texts.iter().any(|said| said == text)), "{texts:?}");
}

#[test]
fn a_health_check_begins_as_the_server_expects() {
    let server = serve(|_, mut client| {
        if client.line().ok().flatten().as_deref() == Some("PROXY UNKNOWN")
            && client.head().is_ok_and(|it| it.is_some())
        {
            client.send(OK);
        }
    });
    let admin = free_port();
    let edge = start(
        &(before(server.address)
            + &format!(
                "proxy_protocol = 1\n[upstream.app.health]\npath = \"/\"\nevery = \"1s\"\n[admin]\nlisten = [\"127.0.0.1:{admin}\"]\n"
            )),
    );
    until(|| (server.heard().len() >= 2).then_some(()));
    assert!(!edge.log().contains("health changed"), "{}", edge.log());
}

#[test]
fn the_log_says_why_no_server_answers() {
    let edge = start(&before(([127, 0, 0, 1], free_port()).into()));
    assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).status(), 502);
    let log = until(|| Some(edge.log()).filter(|log| log.contains("can't be reached")));
    assert!(log.contains("upstream.app.servers.0") && log.contains("Connection refused"), "{log}");
    assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).status(), 502);
    assert_eq!(edge.log().matches("can't be reached").count(), 1, "{log}");
}

#[test]
fn a_socket_file_is_its_successors() {
    let server = yes();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let config = format!(
        "{}[[listener]]\naddress = \"unix:{}\"\n[deadlines]\ndrain = \"60s\"\n",
        before(server.address),
        socket.display()
    );
    let mut first = start(&config);
    let mut client = connect(first.port);
    client.send("GET / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 1\r\n\r\n");
    first.signal(Signal::TERM);
    until(|| (!socket.exists()).then_some(()));
    let second = start(&config);
    client.send("x");
    client.rest();
    assert!(first.ended().success());
    let mut client = Client::new(UnixStream::connect(&socket).unwrap());
    client.send(get("/", "connection: close\r\n"));
    assert_eq!(client.answer().text(), "yes");
    // One that does not listen there any more takes its file with it.
    second.configure(&before(server.address));
    second.reload();
    assert!(!socket.exists());
}

#[test]
fn commands_are_for_the_owner_only_from_the_beginning() {
    let server = yes();
    let edge = start(&(before(server.address) + "[admin]\nlisten = [\"unix:$FOLDER/admin\"]\n"));
    let mode = fs::metadata(edge.path("admin")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_socket_is_for_whom_it_should_be() {
    let server = yes();
    let edge = start(&(before(server.address) + "[[listener]]\naddress = \"unix:$FOLDER/socket\"\nmode = \"0622\"\n"));
    let mode = || fs::metadata(edge.path("socket")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o622);
    // Also if somebody changes their mind.
    edge.configure(&(before(server.address) + "[[listener]]\naddress = \"unix:$FOLDER/socket\"\nmode = \"0666\"\n"));
    edge.reload();
    assert_eq!(mode(), 0o666);
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
            "ipveil_connections_ended_total{how=\"bad_request\"} 1\n",
            "ipveil_open_connections 0\n",
            "ipveil_request_seconds_count 4\n",
            "ipveil_request_seconds_bucket{le=\"+Inf\"} 4\n",
        ];
        counts.iter().all(|count| metrics.contains(count)).then_some(())
    });
}

#[test]
fn a_key_journal_that_can_not_be_written_is_said_once_and_counted() {
    let server = yes();
    let admin = free_port();
    let more = format!("[admin]\nlisten = [\"127.0.0.1:{admin}\"]\n[keys]\njournal = \"/dev/full\"\n");
    let edge = start(&(before(server.address) + &more));
    let lost = |count: u32| {
        let line = format!("ipveil_key_journal_lost_total {count}\n");
        ask(admin, get("/metrics", "connection: close\r\n")).text().contains(&line).then_some(())
    };
    until(|| lost(1));
    until(|| edge.log().contains("the key journal can't be written").then_some(()));
    for count in [3, 5] {
        edge.signal(Signal::USR1);
        until(|| lost(count));
    }
    // The proxy has looked at it since: it looks at its files as often.
    edge.configure(&(before(server.address) + &more + "# changed\n"));
    until(|| edge.log().contains("the configuration was put in place").then_some(()));
    until(|| lost(5));
    assert_eq!(edge.log().matches("the key journal").count(), 1, "{}", edge.log());
    assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).status(), 200);
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
