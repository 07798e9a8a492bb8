//! What is wrong with a configuration is said with file, line and key, and never by quoting it.

use std::{fmt::Write as _, fs};

use crate::{
    edge::{before, start},
    program::{ipveil, text},
};

/// What nobody may read in a message.
const SECRET: &str = "hunter2";

#[test]
fn what_is_wrong_is_said_with_its_place_and_never_quoted() {
    let base = "[[listener]]\naddress = \"127.0.0.1:1\"\n[upstream.app]\nservers = [\"http://127.0.0.1:2\"]\n";
    // What follows, the line in it, the key, and a word of what was expected.
    let cases = [
        ("nothing = 1", 1, "upstream.app.nothing", "unknown key"),
        ("[nothing]\na = 1", 1, "nothing", "unknown key"),
        ("[client]\ntrusted = [\"hunter2\"]", 2, "client.trusted", "expected"),
        ("[client]\ntrusted = [\"127.0.0.1\",\n\"10.0.0.0/99\"]", 3, "client.trusted", "expected"),
        ("[client]\ntrusted = 5", 2, "client.trusted", "expected a sequence"),
        ("[client]\nsource = \"hunter2 x\"", 2, "client.source", "expected the name of a header"),
        ("[client]\nsource = \"x-real-ip\"", 2, "client.source", "expected client.trusted"),
        ("[access_log]\nto = \"stderr\"", 2, "access_log.to", "expected stdout"),
        ("[client]\nhops = 0", 2, "client.hops", "expected"),
        ("[client]\nhops = 2", 2, "client.hops", "expected client.source"),
        ("[privacy]\nscope = \"hunter2\"", 2, "privacy.scope", "expected"),
        ("[privacy]\nrange = \"hunter2\"", 2, "privacy.range", "expected"),
        ("[privacy]\nrange = \"fd00::/8\"", 2, "privacy.range", ""),
        ("[privacy]\nstrip = [\"hunter2 [\"]", 2, "privacy.strip", ""),
        ("[privacy]\nscope = \"host\"", 1, "privacy.hosts", "expected the names of your sites"),
        ("[deny]\nnetworks = [\"unix\"]", 2, "deny.networks.0", "expected an address, a CIDR"),
        ("[view.app]\nshape = \"hunter2\"", 2, "view.app.shape", "expected"),
        (
            "[view.app]\nshape = \"address\"\nheader = \"hunter2 x\"\n[view.log]\nshape = \"token\"",
            3,
            "view.app.header",
            "expected the name of a header",
        ),
        ("[view.app]\nshape = \"network\"\nkeep = [33, 48]\n[view.log]\nshape = \"token\"", 1, "view.app", ""),
        ("[view.app]\nshape = \"address\"", 0, "access_log", "expected [view.log]"),
        ("[view.log]\nshape = \"network\"", 2, "view.log.shape", "expected token"),
        (
            "[view.app]\nshape = \"country\"\n[view.log]\nshape = \"token\"",
            2,
            "view.app.shape",
            "expected geo.database",
        ),
        ("[keys]\nperiod = \"hunter2\"", 2, "keys.period", "expected a duration"),
        ("[keys]\nperiod = 5", 2, "keys.period", "expected a string"),
        ("[keys]\nperiod = \"48h\"", 2, "keys.period", ""),
        ("[upstream.other]\nservers = [\"hunter2\"]", 2, "upstream.other.servers", "expected http://HOST:PORT"),
        (
            "[upstream.other]\nservers = [\"http://user:hunter2@127.0.0.1\"]",
            2,
            "upstream.other.servers",
            "expected http://HOST:PORT",
        ),
        (
            "[upstream.other]\nservers = [\"http://127.0.0.1:99999\"]",
            2,
            "upstream.other.servers",
            "expected http://HOST",
        ),
        ("[upstream.other]\nservers = [\"http://127.0.0.1:\"]", 2, "upstream.other.servers", "expected http://HOST"),
        ("[log]\nlevel = \"inof\"", 2, "log.level", "expected a level"),
        ("[privacy]\ncookies = []\nauthorization = false", 2, "privacy.cookies", "expected a cookie"),
        ("[bans]\ntokens = 9223372036854775807", 2, "bans.tokens", "expected at most"),
        ("[upstream.app.health]\npath = \"healthz\"", 2, "upstream.app.health.path", "starts with /"),
        ("[[route]]\nupstream = \"app\"\n[[route]]\nupstream = \"app\"", 3, "route.1", "another route"),
        ("[upstream.other]\nservers = []", 2, "upstream.other.servers", "there is none"),
        ("[upstream.other]\nservers = [\"http://127.0.0.1:2\"]", 0, "route", "expected [[route]]"),
        (
            "[upstream.other]\nservers = [\"http://127.0.0.1:2\"]\nproxy_protocol = 3",
            3,
            "upstream.other.proxy_protocol",
            "expected 1 or 2",
        ),
        (
            "[upstream.other]\nservers = [\"https://127.0.0.1:2\"]\nca = \"hunter2.pem\"\n[[route]]\nupstream = \"app\"",
            1,
            "upstream.other",
            "hunter2.pem",
        ),
        ("[[route]]\nupstream = \"hunter2\"", 2, "route.0.upstream", "no upstream of that name"),
        ("[[route]]\nupstream = \"app\"\npath = \"hunter2\"", 3, "route.0.path", "expected a path"),
        ("[[route]]\nupstream = \"app\"\nhost = \"hunter2:80\"", 3, "route.0.host", "expected the name of a host"),
        ("[access_log]\nformat = \"hunter2\"", 2, "access_log.format", "expected"),
        ("[log]\nlevel = \"hunter2=x=y\"", 2, "log.level", "expected"),
        ("[admin]\nlisten = [\"hunter2\"]", 2, "admin.listen", "expected an address with a port"),
        ("[geo]\ndatabase = \"hunter2.mmdb\"", 2, "geo.database", "hunter2.mmdb"),
        ("[deny]\nnetworks = [\"hunter2\"]", 2, "deny.networks", "expected"),
        ("[allow]\nfiles = [\"hunter2.txt\"]", 2, "allow.files", "hunter2.txt"),
        ("[deny]\nfiles = [\"list.txt\"]", 2, "deny.files", "list.txt:2"),
        ("[rate_limit]\nrate = 0\nburst = 1", 2, "rate_limit.rate", "expected"),
        ("[rate_limit]\nrate = 5", 1, "rate_limit", "burst"),
        ("[bans]\ntokens = 0", 2, "bans.tokens", "expected at least 1"),
        ("[bans]\nenabled = \"hunter2\"", 2, "bans.enabled", "expected a boolean"),
        ("[limits]\nconnections = \"hunter2\"", 2, "limits.connections", "expected"),
        ("[limits]\nconnections = -1", 2, "limits.connections", "expected"),
        ("[limits]\nconnections = 0", 2, "limits.connections", "expected"),
        ("[deadlines]\nconnect = \"10\"", 2, "deadlines.connect", "expected a duration with a unit"),
        ("[deadlines]\nconnect = \"99999h\"", 2, "deadlines.connect", "expected a duration between"),
        ("[deadlines]\nnothing = \"1s\"", 2, "deadlines.nothing", "unknown key"),
        ("[[listener]]\naddress = \"hunter2\"", 2, "listener.1.address", "expected an address with a port"),
        ("[[listener]]\naddress = \"127.0.0.1:1\"", 2, "listener", "another listener"),
        (
            "[[listener]]\naddress = \"127.0.0.1:3\"\nproxy_protocol = \"required\"",
            3,
            "listener.1.proxy_protocol",
            "expected client.trusted",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:3\"\n[listener.tls]\ncertificates = []",
            3,
            "listener.1.tls",
            "no certificate",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:3\"\n[listener.tls]\ncertificates = [{ chain = \"list.txt\", key = \"list.txt\" }]",
            3,
            "listener.1.tls",
            "list.txt",
        ),
        (
            "[upstream.other]\nservers = [\"https://127.0.0.1:9\"]\nserver_name = \"hunter2:1\"",
            3,
            "upstream.other.server_name",
            "expected the name of a host",
        ),
        ("[client]\ntrusted = [\"hunter2", 2, "", "expected"),
        ("password hunter2", 1, "", "expected"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ipveil.toml");
    fs::write(folder.path().join("list.txt"), "192.0.2.0/24\nhunter2 secret\n").unwrap();
    let mut wrong = String::new();
    for (more, line, key, expected) in cases {
        fs::write(&path, format!("{base}{more}\n")).unwrap();
        let output =
            ipveil().args(["proxy", "--check", "--config"]).arg(&path).env_remove("RUST_LOG").output().unwrap();
        let said = text(&output.stderr);
        // What is not there has no line.
        let line = if line == 0 { String::new() } else { format!(":{}", base.matches('\n').count() + line) };
        let place = format!("error: {}{line}: {key}", path.display());
        let is_quoted = said.replace(&format!("{SECRET}."), "").contains(SECRET);
        if output.status.code() != Some(2)
            || !said.starts_with(&place)
            || !said.contains(expected)
            || is_quoted
            || !output.stdout.is_empty()
        {
            writeln!(wrong, "{more:?}\n    {said:?}\n    {line} {key} {expected}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.replace(folder.path().to_str().unwrap(), ""));
}

#[test]
fn the_template_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ipveil.toml");
    fs::write(&path, include_str!("../../src/bin/ipveil/config/template.toml")).unwrap();
    let output = ipveil().args(["proxy", "--check", "--config"]).arg(&path).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn a_bad_configuration_is_refused_and_what_runs_stays() {
    let server = crate::server::yes();
    let config = before(server.address);
    let edge = start(&config);
    edge.configure(&(config.clone() + "[bans]\nenabled = \"hunter2\"\n"));
    edge.reload();
    let log = edge.log();
    let line = log.lines().find(|line| line.contains("stays as it was")).unwrap();
    assert!(line.contains("ipveil.toml:7: bans.enabled: ") && !line.contains(SECRET), "{line}");
    assert_eq!(crate::client::ask(edge.port, crate::client::get("/", "")).text(), "yes");
    edge.configure(&config);
    edge.reload();
    assert!(edge.log().contains("was put in place"));
}
