//! Another configuration, another key: without a request that is lost.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpStream,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
};

use ipveil::keys::fleet::FleetSecret;
use rustix::process::Signal;

use crate::{
    client::{ask, connect, get},
    edge::{Edge, Setup, before, start, until},
    program::{ipveil, text},
    server::{answer, yes},
    store,
};

/// Who a client is for the server, in a session.
fn pseudonym(edge: &Edge, server: &crate::server::Server) -> String {
    pseudonym_if_any(edge, server).unwrap()
}

/// None while there is no key.
fn pseudonym_if_any(edge: &Edge, server: &crate::server::Server) -> Option<String> {
    ask(edge.port, get("/who", "cookie: sid=1\r\nconnection: close\r\n"));
    server.last().value("x-forwarded-for").map(str::to_owned)
}

#[test]
fn a_reload_under_load_loses_no_request_and_keeps_the_key() {
    let server = yes();
    let other = yes();
    let config = |which: &crate::server::Server, more: &str| {
        before(which.address).replace("threads = 1", "threads = 2")
            + "[admin]\nlisten = [\"unix:$FOLDER/admin\"]\n"
            + more
    };
    let edge = start(&config(&server, ""));
    let is_over = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let key = pseudonym(&edge, &server);
    thread::scope(|scope| {
        for is_kept in [true, false, true, false] {
            let (edge, is_over, answered) = (&edge, &is_over, &answered);
            scope.spawn(move || {
                let mut client = connect(edge.port);
                while !is_over.load(SeqCst) {
                    if !is_kept {
                        client = connect(edge.port);
                    }
                    client.send(get("/", ""));
                    assert_eq!(client.answer().text(), "yes");
                    answered.fetch_add(1, SeqCst);
                }
            });
        }
        for round in 0..10 {
            // By turns another server, other limits, and another listener.
            let server = if round % 2 == 0 { &other } else { &server };
            let more = match round % 3 {
                0 => "[limits]\nstreams = 50\n",
                1 => "[[listener]]\naddress = \"unix:$FOLDER/also\"\n",
                _ => "",
            };
            edge.configure(&config(server, more));
            edge.reload();
            let so_far = answered.load(SeqCst);
            until(|| (answered.load(SeqCst) > so_far + 20).then_some(()));
        }
        is_over.store(true, SeqCst);
    });
    assert!(!edge.log().contains("stays as it was"), "{}", edge.log());
    assert_eq!(pseudonym(&edge, &server), key);
    assert!(!other.requests().is_empty());
}

#[test]
fn a_change_is_seen_without_a_signal() {
    let one = yes();
    let other = answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother");
    let edge = start(&before(one.address));
    assert_eq!(ask(edge.port, get("/", "")).text(), "yes");
    edge.configure(&before(other.address));
    until(|| (ask(edge.port, get("/", "connection: close\r\n")).text() == "other").then_some(()));
    // What is open goes on, in the new way.
    let mut client = connect(edge.port);
    client.send(get("/", ""));
    assert_eq!(client.answer().text(), "other");
    edge.configure(&before(one.address));
    edge.reload();
    client.send(get("/", ""));
    assert_eq!(client.answer().text(), "yes");
}

#[test]
fn a_listener_comes_and_goes() {
    let server = yes();
    let port = crate::edge::free_port();
    let edge = start(&before(server.address));
    let two = format!("{}[[listener]]\naddress = \"127.0.0.1:{port}\"\n", before(server.address));
    edge.configure(&two);
    edge.reload();
    assert_eq!(ask(port, get("/", "")).text(), "yes");
    // Whoever is connected stays, and whoever comes is refused.
    let mut client = connect(port);
    client.send(get("/", ""));
    assert_eq!(client.answer().text(), "yes");
    edge.configure(&before(server.address));
    edge.reload();
    until(|| TcpStream::connect(("127.0.0.1", port)).is_err().then_some(()));
    client.send(get("/", ""));
    assert_eq!(client.answer().text(), "yes");
    assert_eq!(ask(edge.port, get("/", "")).text(), "yes");
}

#[test]
fn a_listener_that_cannot_be_opened_changes_nothing() {
    let server = yes();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let access_log = "[bans]\nenabled = false\n[access_log]\nto = \"$FOLDER/access.log\"\n";
    let edge = start(&(before(server.address) + access_log));
    let config = before(server.address)
        + &format!("[[listener]]\naddress = \"{}\"\n", taken.local_addr().unwrap())
        + access_log
        + "[view.log]\nshape = \"network\"\n";
    edge.configure(&config);
    edge.reload();
    let port = format!("port {}", taken.local_addr().unwrap().port());
    let log = edge.log();
    assert!(["stays as it was", "listener.1.address", &port].iter().all(|part| log.contains(part)), "{log}");
    assert_eq!(ask(edge.port, get("/?from=198.51.100.7", "connection: close\r\n")).text(), "yes");
    let line = until(|| fs::read_to_string(edge.path("access.log")).ok().filter(|log| log.ends_with('\n')));
    assert!(line.contains("/?from=_") && !line.contains("198.51.100"), "{line}");
}

#[test]
fn what_the_log_shows_changes_with_the_configuration() {
    let server = yes();
    let config = |more: &str| {
        before(server.address) + "[bans]\nenabled = false\n[access_log]\nto = \"$FOLDER/access.log\"\n" + more
    };
    let edge = start(&config(""));
    let line = |number: usize| {
        ask(edge.port, get("/?from=198.51.100.7", "connection: close\r\n"));
        until(|| fs::read_to_string(edge.path("access.log")).ok()?.lines().nth(number).map(str::to_owned))
    };
    let before = line(0);
    assert!(before.starts_with('_') && before.contains("/?from=_"), "{before}");
    edge.configure(&config("[view.log]\nshape = \"network\"\n"));
    edge.reload();
    // The thread may have accepted one more a moment before.
    let after = (1..).map(line).find(|line| !line.starts_with('_')).unwrap();
    assert!(after.starts_with("127.0.0.0") && after.contains("/?from=198.51.100.0"), "{after}");
}

#[test]
fn a_limit_of_connections_that_wait_changes_with_the_configuration() {
    let server = yes();
    let config = |limit: usize| before(server.address) + &format!("[limits]\nidle_upstream_connections = {limit}\n");
    let edge = start(&config(1));
    let requests = || {
        let open = server.heard().len();
        for _ in 0..3 {
            assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
        }
        server.heard().len() - open
    };
    assert_eq!(requests(), 1);
    edge.configure(&config(0));
    edge.reload();
    // The thread may have accepted one more a moment before.
    until(|| (requests() == 3).then_some(()));
}

#[test]
fn what_a_reload_does_not_change_is_said() {
    let server = yes();
    let edge = start(&before(server.address));
    edge.configure(&(before(server.address).replace("threads = 1", "threads = 2") + "[keys]\nperiod = \"2h\"\n"));
    edge.reload();
    let said = |key: &str| edge.log().contains(&format!("key=\"{key}\"")) && edge.log().contains("restart only");
    assert!(said("threads") && said("keys") && !said("admin"), "{}", edge.log());
}

#[test]
fn the_panic_button_makes_another_key_at_once() {
    let server = yes();
    let edge = start(&before(server.address));
    let key = pseudonym(&edge, &server);
    assert_eq!(pseudonym(&edge, &server), key);
    edge.signal(Signal::USR1);
    until(|| (edge.log().matches("key minted").count() > 1).then_some(()));
    until(|| (pseudonym(&edge, &server) != key).then_some(()));
    assert_eq!(pseudonym(&edge, &server), pseudonym(&edge, &server));
}

#[test]
fn the_access_log_is_opened_anew() {
    let server = yes();
    let config = before(server.address) + "[access_log]\nto = \"$FOLDER/access.log\"\n";
    let edge = Setup::new(&config).start();
    let (log, old) = (edge.path("access.log"), edge.path("access.log.1"));
    let has = |path: &std::path::Path, text: &str| fs::read_to_string(path).is_ok_and(|log| log.contains(text));
    ask(edge.port, get("/before", "connection: close\r\n"));
    until(|| has(&log, "/before").then_some(()));
    fs::rename(&log, &old).unwrap();
    edge.signal(Signal::HUP);
    until(|| log.exists().then_some(()));
    ask(edge.port, get("/after", "connection: close\r\n"));
    until(|| has(&log, "/after").then_some(()));
    assert!(!has(&old, "/after") && !has(&log, "/before"));
    // Also while there is something wrong with the configuration.
    fs::remove_file(&log).unwrap();
    edge.configure("nonsense");
    edge.signal(Signal::HUP);
    until(|| edge.log().contains("stays as it was").then_some(()));
    until(|| log.exists().then_some(()));
}

#[test]
fn a_relative_path_is_seen_from_the_configuration() {
    let server = yes();
    let config = before(server.address)
        + "[[listener]]\naddress = \"unix:listen\"\n[admin]\nlisten = [\"unix:admin\"]\n[access_log]\nto = \"access.log\"\n";
    let edge = start(&config);
    let names = ["listen", "admin", "access.log"];
    let missing: BTreeSet<_> = names.into_iter().filter(|name| !edge.path(name).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_file_that_was_missing_is_waited_for() {
    let server = yes();
    let edge = start(&before(server.address));
    edge.configure(&(before(server.address) + "[deny]\nfiles = [\"denied.txt\"]\n"));
    until(|| edge.log().contains("stays as it was").then_some(()));
    assert_eq!(ask(edge.port, get("/", "")).status(), 200);
    edge.write("denied.txt", "127.0.0.0/8\n");
    until(|| (ask(edge.port, get("/", "connection: close\r\n")).status() == 403).then_some(()));
}

#[test]
fn a_fleets_secret_is_replaced_under_running_proxies() {
    let (server, store) = (yes(), store::Server::start());
    let secret = || FleetSecret::generate().unwrap().to_string();
    let (old, new) = (secret(), secret());
    let fleet = format!("[keys.redis]\nurls = [\"{}\"]\nsecret = \"fleet.secret\"\n", store.url());
    let config = before(server.address) + &fleet;
    let join = |secret: &str| Setup::new(&config).secret_file("fleet.secret", secret).start();
    let edges = [(); 3].map(|()| join(&old));
    let [first, others @ ..] = &edges;
    let agreed = || {
        let key = pseudonym_if_any(first, &server)?;
        others.iter().all(|edge| pseudonym_if_any(edge, &server).as_ref() == Some(&key)).then_some(key)
    };
    let key = until(agreed);
    let replaced = |edge: &Edge| edge.log().matches("the fleet secret was replaced").count();
    for (step, text) in [format!("{old}\n{new}\n"), format!("{new}\n{old}\n"), new.clone()].iter().enumerate() {
        for (place, edge) in edges.iter().enumerate() {
            edge.write_secret("fleet.secret", text);
            // By turns it is told, and sees it by itself.
            if (step + place) % 2 == 0 {
                edge.reload();
            }
            until(|| (replaced(edge) == step + 1).then_some(()));
            assert_eq!(agreed().as_ref(), Some(&key));
        }
    }
    // What is no secret changes nothing, is said with its place, and is not shown.
    for (place, text) in ["correct horse battery staple", ""].into_iter().enumerate() {
        first.write_secret("fleet.secret", text);
        first.signal(Signal::HUP);
        let is_said = |line: &&str| line.contains("keys.redis.secret: ") && line.contains("fleet secret is not usable");
        until(|| (first.log().lines().filter(is_said).count() > place).then_some(()));
        assert_eq!(agreed().as_ref(), Some(&key));
    }
    // Who has the old one only is refused, and who has the new one only is one of them.
    let (stranger, friend) = (join(&old), join(&new));
    until(|| stranger.log().contains("another fleet secret is in use").then_some(()));
    until(|| (pseudonym(&friend, &server) == key).then_some(()));
    assert_ne!(pseudonym(&stranger, &server), key);
    first.signal(Signal::USR1);
    until(|| agreed().filter(|next| *next != key && pseudonym_if_any(&friend, &server).as_ref() == Some(next)));
    for edge in edges.iter().chain([&stranger, &friend]) {
        let log = edge.log();
        assert!(!log.contains(&old[15..]) && !log.contains(&new[15..]) && !log.contains("horse"), "{log}");
    }
}

#[test]
fn a_rotation_that_the_fleet_has_not_been_told_of_is_said() {
    let (server, mut store) = (yes(), store::Server::start());
    let secret = FleetSecret::generate().unwrap().to_string();
    let more = format!(
        "[keys.redis]\nurls = [\"{}\"]\nsecret = \"fleet.secret\"\n[admin]\nlisten = [\"unix:$FOLDER/admin\"]\n",
        store.url()
    );
    let edge = Setup::new(&(before(server.address) + &more)).secret_file("fleet.secret", &secret).start();
    let run = |command: &str| {
        let output = ipveil().args(["keys", command, "--admin"]).arg(edge.path("admin")).output().unwrap();
        (output.status.code(), text(&output.stdout).contains("not told to the fleet yet"))
    };
    let gauge = |value: u8| {
        let metrics = edge.command("GET", "/metrics").answer();
        metrics.text().contains(&format!("\nipveil_rotation_untold {value}\n")).then_some(())
    };
    assert_eq!(run("rotate-now"), (Some(0), false));
    gauge(0).unwrap();
    store.end();
    // However often.
    for _ in 0..2 {
        assert_eq!(run("rotate-now"), (Some(1), true));
        assert_eq!(run("status"), (Some(0), true));
        gauge(1).unwrap();
    }
    store.begin();
    until(|| gauge(0));
    assert_eq!(run("status"), (Some(0), false));
    assert_eq!(run("rotate-now"), (Some(0), false));
}

#[test]
fn the_secret_of_another_fleet_waits_for_a_restart_with_the_rest_of_it() {
    let (server, store) = (yes(), store::Server::start());
    let secret = || FleetSecret::generate().unwrap().to_string();
    let (old, new) = (secret(), secret());
    let fleet = |namespace: &str, file: &str| {
        let table = format!("[keys.redis]\nurls = [\"{}\"]\nnamespace = \"{namespace}\"\n", store.url());
        before(server.address) + &table + &format!("secret = \"{file}\"\n")
    };
    let join = || Setup::new(&fleet("edge", "fleet.secret")).secret_file("fleet.secret", &old).start();
    let (edge, other) = (join(), join());
    let key = until(|| pseudonym_if_any(&other, &server).filter(|key| *key == pseudonym(&edge, &server)));

    // By another name, and then under the same one.
    edge.write_secret("next.secret", &new);
    edge.configure(&fleet("next", "next.secret"));
    until(|| edge.log().contains("this changes with a restart only").then_some(()));
    edge.write_secret("fleet.secret", &new);
    edge.configure(&fleet("next", "fleet.secret"));
    edge.reload();
    // It is one of the fleet still, whose rotations it hears of.
    other.signal(Signal::USR1);
    let next = until(|| pseudonym_if_any(&other, &server).filter(|next| *next != key));
    until(|| (pseudonym_if_any(&edge, &server).as_ref() == Some(&next)).then_some(()));
    let log = edge.log();
    assert!(!log.contains("another fleet secret") && !log.contains("the fleet secret was replaced"), "{log}");

    // As soon as the rest is what it was, the secret counts.
    edge.configure(&fleet("edge", "fleet.secret"));
    until(|| edge.log().contains("the fleet secret was replaced").then_some(()));
}

#[test]
fn a_fleets_secret_in_a_pipe_is_refused_and_not_waited_for() {
    let (server, store) = (yes(), store::Server::start());
    let fleet = format!("[keys.redis]\nurls = [\"{}\"]\nsecret = \"fleet.secret\"\n", store.url());
    let config = before(server.address) + &fleet;
    let secret = FleetSecret::generate().unwrap().to_string();
    let edge = Setup::new(&config).secret_file("fleet.secret", &secret).start();
    let is_made = Command::new("mkfifo").args(["-m", "600"]).arg(edge.path("pipe")).status().unwrap().success();
    assert!(is_made);
    fs::rename(edge.path("pipe"), edge.path("fleet.secret")).unwrap();
    let is_said = |text: &str| text.contains("keys.redis.secret: ") && text.contains("the fleet secret is not a file");
    until(|| is_said(&edge.log()).then_some(()));
    // The main thread goes on: it reads what comes next.
    edge.write_secret("fleet.secret", &secret);
    until(|| edge.log().contains("the configuration was put in place").then_some(()));
    fs::remove_file(edge.path("fleet.secret")).unwrap();
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(edge.path("fleet.secret")).status().unwrap().success());
    for more in [&["--check"][..], &[]] {
        let output = ipveil().args(["proxy", "--config"]).arg(edge.path("ipveil.toml")).args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(is_said(text(&output.stderr)), "{more:?}: {}", text(&output.stderr));
    }
}
