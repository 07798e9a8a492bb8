//! Who is not served: denied networks, banned clients, and those who ask too often.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt as _};

use crate::{
    client::{Message, ask, get},
    edge::{Edge, Setup, before, start, until},
    program::{ipveil, text},
    server::yes,
};

const BEHIND: &str = "[client]\ntrusted = [\"loopback\"]\nsource = \"x-forwarded-for\"\n";

#[track_caller]
fn from(edge: &Edge, address: &str, headers: &str) -> Message {
    ask(edge.port, get("/", &format!("x-forwarded-for: {address}\r\nconnection: close\r\n{headers}")))
}

#[track_caller]
fn command(edge: &Edge, method: &str, target: &str) -> (u16, String) {
    let answer = edge.command(method, target).answer();
    (answer.status(), answer.text().to_owned())
}

#[test]
fn who_asks_too_often_is_told_when_to_come_back() {
    let server = yes();
    let edge = start(&(before(server.address) + BEHIND + "[rate_limit]\nrate = 1\nburst = 5\n"));
    // Another session is no other client, and neither is another address of one network.
    let again = |index: u16| from(&edge, &format!("2001:db8:1:2::{index:x}"), &format!("cookie: sid={index}\r\n"));
    let first_refused = || (0..200).map(again).enumerate().find(|(_, answer)| answer.status() != 200).unwrap();
    let (allowed, refused) = first_refused();
    assert!(allowed >= 5, "{allowed}");
    assert_eq!(refused.status(), 429);
    let wait: u64 = refused.value("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert_eq!(refused.text(), "429 Too Many Requests\n");
    assert_eq!(from(&edge, "203.0.113.8", "").status(), 200);
    // A reload gives nobody a fresh allowance: only what has come in the meantime.
    edge.reload();
    let (allowed, _) = first_refused();
    assert!(allowed < 5, "{allowed}");
}

#[test]
fn what_needs_a_restart_is_not_put_in_place_by_reloading_twice() {
    let server = yes();
    let config =
        before(server.address) + BEHIND + "[admin]\nlisten = [\"unix:$FOLDER/admin\"]\n[keys]\nperiod = \"24h\"\n";
    let edge = start(&config);
    from(&edge, "203.0.113.7", "");
    let line = edge.lines_when(1)[0].clone();
    let token = line.split(' ').next().unwrap();
    assert_eq!(command(&edge, "POST", &format!("/bans?name={token}&seconds=3600")).0, 200);
    assert_eq!(from(&edge, "203.0.113.7", "").status(), 403);
    edge.configure(&config.replace("24h", "1h"));
    for _ in 0..2 {
        edge.reload();
        until(|| (from(&edge, "203.0.113.8", "").status() == 200).then_some(()));
        assert_eq!(from(&edge, "203.0.113.7", "").status(), 403);
    }
    assert!(edge.log().matches("this changes with a restart only").count() >= 2, "{}", edge.log());
}

#[test]
fn who_is_denied_is_not_served_and_lists_are_read_again() {
    let server = yes();
    let config =
        before(server.address) + BEHIND + "[deny]\nnetworks = [\"203.0.113.0/25\"]\nfiles = [\"denied.txt\"]\n";
    let edge = Setup::new(&config).file("denied.txt", "# nobody yet\n2001:db8:5::/48 # but them\n\n").start();
    let statuses = |addresses: [&str; 4]| addresses.map(|address| from(&edge, address, "").status());
    let clients = ["203.0.113.7", "203.0.113.200", "2001:db8:5::7", "::ffff:203.0.113.7"];
    assert_eq!(statuses(clients), [403, 200, 403, 403]);
    edge.write("denied.txt", "203.0.113.128/25\n");
    until(|| (statuses(clients) == [403, 403, 200, 403]).then_some(()));
    // What can't be read changes nothing.
    edge.write("denied.txt", "203.0.113.128/25\nnonsense\n");
    edge.reload();
    assert!(edge.log().contains("denied.txt:2") && !edge.log().contains("nonsense"), "{}", edge.log());
    assert_eq!(statuses(clients), [403, 403, 200, 403]);
}

#[test]
fn only_who_is_allowed_is_served() {
    let server = yes();
    let edge = start(
        &(before(server.address)
            + BEHIND
            + "[allow]\nnetworks = [\"203.0.113.0/24\"]\n[deny]\nnetworks = [\"203.0.113.7\"]\n"),
    );
    assert_eq!(from(&edge, "203.0.113.8", "").status(), 200);
    assert_eq!(from(&edge, "203.0.113.7", "").status(), 403);
    assert_eq!(from(&edge, "198.51.100.1", "").status(), 403);
    // Who is not known is not allowed.
    assert_eq!(from(&edge, "nonsense", "").status(), 403);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_ban_by_the_log_holds_for_the_client_whatever_session_it_claims() {
    let server = yes();
    let config = before(server.address) + BEHIND + "[admin]\nlisten = [\"unix:$FOLDER/admin\"]\n";
    let edge = start(&config.replace("threads = 1", "threads = 2"));
    let ask = |address: &str, session: &str| from(&edge, address, &format!("cookie: sid={session}\r\n")).status();
    assert_eq!(ask("203.0.113.7", "one"), 200);
    // Threads write when they like, so this is the only line.
    let lines = edge.lines_when(1);
    assert_eq!(ask("203.0.113.8", "two"), 200);
    let name = lines[0].split(' ').next().unwrap().to_owned();
    assert!(name.starts_with('_') && name.len() == 27, "{name}");

    let mode = std::fs::metadata(edge.path("admin")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(command(&edge, "GET", "/bans"), (200, "[]\n".to_owned()));
    assert_eq!(command(&edge, "POST", &format!("/bans?name={name}&seconds=600")).0, 200);
    for session in ["one", "three", "four"] {
        assert_eq!(ask("203.0.113.7", session), 403, "{session}");
    }
    assert_eq!(from(&edge, "203.0.113.7", "").status(), 403);
    assert_eq!(ask("203.0.113.8", "two"), 200);
    let (status, list) = command(&edge, "GET", "/bans");
    assert!(status == 200 && list.contains(&name) && list.contains("\"seconds\":59"), "{list}");
    // Also after a reload.
    edge.reload();
    assert_eq!(ask("203.0.113.7", "one"), 403);

    // Nobody knows a name that nobody has.
    assert_eq!(command(&edge, "POST", "/bans?name=_aaaaaaaaaaaaaaaaaaaaaaaaaa&seconds=600").0, 404);
    assert_eq!(command(&edge, "POST", "/bans?name=203.0.113.8&seconds=600").0, 404);
    assert_eq!(command(&edge, "POST", &format!("/bans?name={name}")).0, 400);
    assert_eq!(command(&edge, "DELETE", "/bans?name=nobody").0, 404);
    assert_eq!(command(&edge, "DELETE", &format!("/bans?name={name}")).0, 200);
    assert_eq!(ask("203.0.113.7", "one"), 200);
    assert_eq!(command(&edge, "GET", "/bans"), (200, "[]\n".to_owned()));

    // A ban ends by itself.
    assert_eq!(command(&edge, "POST", &format!("/bans?name={name}&seconds=1")).0, 200);
    assert_eq!(ask("203.0.113.7", "five"), 403);
    until(|| (ask("203.0.113.7", "five") == 200).then_some(()));
}

#[test]
fn bans_do_not_tell_whether_two_names_are_one_client() {
    let server = yes();
    let edge = start(&(before(server.address) + BEHIND + "[admin]\nlisten = [\"unix:$FOLDER/admin\"]\n"));
    let ask = |address: &str, session: &str| from(&edge, address, &format!("cookie: sid={session}\r\n")).status();
    for (address, session) in [("203.0.113.7", "one"), ("203.0.113.7", "two"), ("203.0.113.8", "three")] {
        assert_eq!(ask(address, session), 200);
    }
    let lines = edge.lines_when(3);
    let [one, two, three] = [0, 1, 2].map(|line| lines[line].split(' ').next().unwrap());
    for (other, is_same) in [(two, true), (three, false)] {
        for name in [one, other] {
            assert_eq!(command(&edge, "POST", &format!("/bans?name={name}&seconds=0")).0, 400);
            assert_eq!(command(&edge, "POST", &format!("/bans?name={name}&seconds=600")).0, 200);
        }
        let list = command(&edge, "GET", "/bans").1;
        assert!(list.contains(one) && list.contains(other), "{list}");
        assert!(command(&edge, "GET", "/metrics").1.contains("ipveil_bans 2\n"));
        assert_eq!(command(&edge, "DELETE", &format!("/bans?name={other}")), (200, "not banned any more\n".into()));
        let list = command(&edge, "GET", "/bans").1;
        assert!(list.contains(one) && !list.contains(other), "{list}");
        // It takes both back for a client that was banned twice.
        assert_eq!([ask("203.0.113.7", "two"), ask("203.0.113.8", "three")], [403, 200], "{is_same}");
        assert_eq!(command(&edge, "DELETE", &format!("/bans?name={one}")).0, 200);
        assert_eq!(ask("203.0.113.7", "two"), 200);
    }
    // Each command can be read up on.
    for (command, times) in [("banned by command", 4), ("not banned any more, by command", 4)] {
        until(|| (edge.log().matches(command).count() == times).then_some(()));
    }
}

#[test]
fn the_log_does_not_say_who_was_refused() {
    let server = yes();
    let config = before(server.address)
        + BEHIND
        + "[deny]\nnetworks = [\"203.0.113.0/25\"]\n[rate_limit]\nrate = 1\nburst = 1\n";
    let edge = start(&config);
    let ask = |address: &str, session: &str| from(&edge, address, &format!("cookie: sid={session}\r\n")).status();
    assert_eq!([ask("203.0.113.7", "one"), ask("203.0.113.200", "two")], [403, 200]);
    let mut last = 0;
    let asked = until(|| {
        last += 1;
        (ask("203.0.113.200", "three") == 429).then_some(last)
    });
    let lines = edge.lines_when(2 + asked);
    for line in &lines {
        let name = line.split(' ').next().unwrap();
        let is_refused = line.contains("\" 403 ") || line.contains("\" 429 ");
        assert_eq!(name == "unknown", is_refused, "{line}");
    }
    assert!(lines[0].contains("\" 403 ") && lines[1 + asked].contains("\" 429 "), "{lines:?}");
}

#[test]
fn a_name_of_a_request_without_a_session_can_be_banned_too() {
    let server = yes();
    let config = before(server.address) + BEHIND + "[admin]\nlisten = [\"unix:$FOLDER/admin\"]\n";
    let edge = start(&config);
    for _ in 0..3 {
        from(&edge, "203.0.113.7", "");
    }
    let lines = edge.lines_when(3);
    let names: BTreeSet<_> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names.len(), 3, "each is another one");
    for name in names {
        assert_eq!(command(&edge, "POST", &format!("/bans?name={name}&seconds=600")).0, 200);
        assert_eq!(from(&edge, "203.0.113.7", "").status(), 403);
        assert_eq!(command(&edge, "DELETE", &format!("/bans?name={name}")).0, 200);
    }
}

#[test]
fn commands_are_taken_on_a_unix_socket_only() {
    let server = yes();
    let port = crate::edge::free_port();
    let _edge = start(&(before(server.address) + &format!("[admin]\nlisten = [\"127.0.0.1:{port}\"]\n")));
    let status =
        |method: &str, path: &str| ask(port, get(path, "connection: close\r\n").replacen("GET", method, 1)).status();
    assert_eq!(status("GET", "/metrics"), 200);
    assert_eq!(status("GET", "/healthz"), 200);
    assert_eq!(status("GET", "/readyz"), 200);
    assert_eq!(status("GET", "/bans"), 403);
    assert_eq!(status("POST", "/bans?name=x&seconds=1"), 403);
    assert_eq!(status("POST", "/keys/rotate"), 403);
    assert_eq!(status("GET", "/nothing"), 404);
}

#[test]
fn a_ban_outlives_a_key_while_the_client_keeps_coming() {
    let server = yes();
    let config =
        before(server.address) + BEHIND + "[admin]\nlisten = [\"unix:$FOLDER/admin\"]\n[keys]\nperiod = \"6s\"\n";
    let edge = start(&config);
    let ban = || {
        from(&edge, "203.0.113.7", "cookie: sid=1\r\n");
        let lines = edge.lines();
        let name = lines.last()?.split(' ').next()?.to_owned();
        (command(&edge, "POST", &format!("/bans?name={name}&seconds=600")).0 == 200).then_some(())?;
        // Unless the key went just then.
        (from(&edge, "203.0.113.7", "cookie: sid=1\r\n").status() == 403).then_some(())
    };
    until(ban);
    let minted = || edge.log().matches("key minted").count();
    let before = minted();
    let mut asked = 0;
    until(|| {
        asked += 1;
        assert_eq!(from(&edge, "203.0.113.7", "cookie: sid=1\r\n").status(), 403, "after {asked}");
        (minted() >= before + 2).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(from(&edge, "203.0.113.7", "").status(), 403);
    }
    assert_eq!(from(&edge, "203.0.113.8", "").status(), 200);
}

#[test]
fn a_log_of_before_is_scrubbed_under_the_keys_of_a_proxy_that_runs() {
    let server = yes();
    let edge = start(
        &(before(server.address)
            + BEHIND
            + "[privacy]\nscope = \"unscoped\"\n[admin]\nlisten = [\"unix:$FOLDER/admin\"]\n"),
    );
    assert_eq!(from(&edge, "203.0.113.7", "").status(), 200);
    let name = edge.lines_when(1)[0].split(' ').next().unwrap().to_owned();
    let scrub = |log: String| {
        edge.write("old.log", log);
        let output =
            ipveil().arg("scrub").arg("--running").args([edge.path("admin"), edge.path("old.log")]).output().unwrap();
        (output.status.code(), text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
    };
    // The same client is the same in both logs. And a text that has to go there in several pieces comes back in order.
    let line = |address: &str| format!("{address} - - \"GET / HTTP/1.1\" 200 3\n");
    let old: String =
        (0..20_000).map(|number| line(if number % 2 == 0 { "203.0.113.7" } else { "version 1.2" })).collect();
    let (code, new, said) = scrub(old.clone());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("10000 addresses"), "{said}");
    assert_eq!(new, old.replace("203.0.113.7", &name));
    // It is the same as long as the key is: the proxy has it, and nobody else.
    edge.signal(rustix::process::Signal::USR1);
    until(|| (scrub(line("203.0.113.7")).1 != line(&name)).then_some(()));
    let (_, again, _) = scrub(line("203.0.113.7"));
    assert!(again.starts_with('_') && !again.contains(&name), "{again}");
}
