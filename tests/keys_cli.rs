//! `ipveil keys`, as people and scripts run it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stderr, reason = "a test that installs something says so")]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, SystemTime},
};

use ipveil::{
    KeyRing,
    keys::{
        Epochs, MemorySource,
        fleet::{FleetSecret, RedisSource, StoreAddress},
        journal::Journal,
    },
};
use serde_json::Value;
use tempfile::TempDir;

use self::{
    gate::Gate,
    program::{ipveil, text},
    stolen::{aged, stolen},
    store::{Server, port::free_port, until::until},
};

#[path = "store/gate.rs"]
#[expect(dead_code, reason = "it is only shut here")]
mod gate;
mod program;
#[path = "store/stolen.rs"]
mod stolen;
mod store;

fn ipveil_keys(arguments: &[&str]) -> Output {
    ipveil().arg("keys").args(arguments).output().unwrap()
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

/// A file with a new secret.
fn secret() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet.secret");
    assert!(ipveil_keys(&["new-secret", "--output", path.to_str().unwrap()]).status.success());
    (directory, path)
}

fn node(url: &str, name: &str, secret: &Path) -> KeyRing {
    let secret = FleetSecret::read(secret).unwrap();
    let source = RedisSource::new(StoreAddress::single(url).unwrap(), secret);
    let source = source.namespace("edge").unwrap().node(name).unwrap();
    KeyRing::start(source, Epochs::daily()).unwrap()
}

#[test]
fn a_new_secret_is_for_its_owner_only_and_is_not_shown_when_it_goes_to_a_file() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet.secret");
    let arguments = ["new-secret", "--output", path.to_str().unwrap()];
    let output = ipveil_keys(&arguments);
    assert_eq!(output.status.code(), Some(0));
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let id = format!("{:016x}", FleetSecret::read(&path).unwrap().id());
    assert!(text(&output.stdout).contains(&id));
    assert!(!text(&output.stdout).contains(written.trim()));
    // Never over another.
    let again = ipveil_keys(&arguments);
    assert_eq!(again.status.code(), Some(2));
    assert_eq!(fs::read_to_string(&path).unwrap(), written);

    let (one, two) = (ipveil_keys(&["new-secret"]), ipveil_keys(&["new-secret", "--json"]));
    assert!(FleetSecret::parse(&one.stdout).is_ok());
    assert_eq!(json(&two)["secret"].as_str().unwrap().len(), one.stdout.len() - 1);
}

#[test]
fn a_fleet_is_shown_and_rotated() {
    let (server, (_directory, path)) = (Server::start(), secret());
    let gate = Gate::before(server.port);
    let (one, two) = (node(&server.url(), "one", &path), node(&gate.url(), "two", &path));
    let url = server.url();
    let common = ["--redis", &url, "--namespace", "edge", "--secret-file", path.to_str().unwrap()];
    let run = |command: &str, more: &[&str]| ipveil_keys(&[&[command], &common[..], more].concat());

    let key = one.key_id().unwrap().to_string();
    let status = until("both agree", || {
        let output = run("status", &["--json"]);
        let status = json(&output);
        let agree = status["nodes"].as_array()?.iter().filter(|node| node["agrees"] == true).count();
        (agree == 2).then_some(status)
    });
    assert_eq!(status["key"], key);
    assert_eq!(status["period_seconds"], 86_400);
    let shown = run("status", &[]);
    for part in ["namespace  edge", &key, "nodes      2", "one", "two", "has the fleet's key"] {
        assert!(text(&shown.stdout).contains(part), "{part}: {}", text(&shown.stdout));
    }

    let rotated = run("rotate-now", &[]);
    assert_eq!(rotated.status.code(), Some(0), "{}", text(&rotated.stderr));
    assert!(text(&rotated.stdout).starts_with("2 of 2 nodes have destroyed their key"));
    let next = until("another key", || one.key_id().filter(|key| two.key_id() == Some(*key)));
    assert_ne!(next.to_string(), key);

    // One that can't hear of it is named.
    gate.shut();
    let rotated = run("rotate-now", &["--wait", "2", "--json"]);
    assert_eq!(rotated.status.code(), Some(1));
    let answer = json(&rotated);
    assert_eq!((&answer["rotated"], answer["not_rotated"].as_array().unwrap().len()), (&1.into(), 1));
    assert_eq!(two.key_id(), Some(next));

    // However long it was cut off.
    let member = answer["not_rotated"][0].as_str().unwrap();
    let name = "ipveil:{edge}:nodes";
    let mut connection = server.connection();
    let record: Vec<u8> = redis::cmd("HGET").arg(name).arg(member).query(&mut connection).unwrap();
    let record = aged(&fs::read_to_string(&path).unwrap(), &record, Duration::from_secs(75));
    redis::cmd("HSET").arg(name).arg(member).arg(&record).exec(&mut connection).unwrap();
    let shown = run("status", &[]);
    assert!(text(&shown.stdout).contains("; may still have its key"), "{}", text(&shown.stdout));
    let rotated = run("rotate-now", &["--wait", "2"]);
    let said = text(&rotated.stdout);
    assert_eq!(rotated.status.code(), Some(1), "{said}");
    assert!(said.starts_with("1 of 2 nodes") && said.contains("may still have its key"), "{said}");

    // Nor when the secret that it has signed with was replaced meanwhile.
    let foreign = [&record[..1], &[7; 8], &record[9..]].concat();
    redis::cmd("HSET").arg(name).arg(member).arg(foreign).exec(&mut connection).unwrap();
    let rotated = run("rotate-now", &["--wait", "2"]);
    let said = text(&rotated.stdout);
    assert_eq!(rotated.status.code(), Some(1), "{said}");
    assert!(said.starts_with("1 of 1 nodes") && said.contains("1 more with another fleet secret"), "{said}");
}

#[test]
fn a_node_whose_epochs_are_of_another_length_is_shown_as_such() {
    let (server, (_directory, path)) = (Server::start(), secret());
    let url = server.url();
    let _one = node(&url, "one", &path);
    let other = RedisSource::new(StoreAddress::single(&url).unwrap(), FleetSecret::read(&path).unwrap());
    let _other = KeyRing::start(other.namespace("edge").unwrap().node("other").unwrap(), Epochs::hourly()).unwrap();
    until("it is shown", || {
        let common = ["--redis", &url, "--namespace", "edge", "--secret-file", path.to_str().unwrap()];
        let shown = ipveil_keys(&[&["status"], &common[..]].concat());
        let is_it = |line: &str| line.contains("  other  ") && line.contains("its epochs are of another length");
        text(&shown.stdout).lines().any(is_it).then_some(())
    });
}

#[test]
fn a_rotation_is_reported_only_if_keys_have_changed() {
    let (server, (_directory, path)) = (Server::start(), secret());
    let (one, two) = (node(&server.url(), "one", &path), node(&server.url(), "two", &path));
    let url = server.url();
    let run = || {
        let common = ["--redis", &url, "--namespace", "edge", "--secret-file", path.to_str().unwrap()];
        ipveil_keys(&[&["rotate-now", "--wait", "20"], &common[..]].concat())
    };
    let key = until("agreement", || one.key_id().filter(|key| two.key_id() == Some(*key)));
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 86_400;
    for epoch in [today, today + 1] {
        let record = stolen(&fs::read_to_string(&path).unwrap(), epoch, u64::MAX);
        let name = format!("ipveil:{{edge}}:{epoch}:generation");
        redis::cmd("SET").arg(name).arg(record).exec(&mut server.connection()).unwrap();
    }
    let rotated = run();
    let said = text(&rotated.stdout);
    assert!(rotated.status.success() && said.starts_with("2 of 2 nodes have destroyed their key"), "{said}");
    assert!([&one, &two].iter().all(|node| node.key_id() != Some(key)));
}

#[test]
fn a_password_can_be_in_a_file_and_is_in_no_message() {
    let server = Server::start_with(&["--requirepass", "hunter2"]);
    let (directory, path) = secret();
    let urls = directory.path().join("url");
    let run = |url: &str| {
        fs::write(&urls, url).unwrap();
        let files = ["--redis-file", urls.to_str().unwrap(), "--secret-file", path.to_str().unwrap()];
        ipveil_keys(&[&["status", "--namespace", "edge"], &files[..]].concat())
    };
    let good = format!("redis://:hunter2@127.0.0.1:{}\n", server.port);
    let _node = node(good.trim(), "one", &path);
    assert_eq!(run(&good).status.code(), Some(0));
    for (url, message) in [
        (format!("redis://:hunter3@127.0.0.1:{}", server.port), "refuses the user or the password"),
        (format!("redis://:hunter3@127.0.0.1:{}", free_port()), "takes no connections"),
        ("http://:hunter3@127.0.0.1".to_owned(), "address is not usable"),
    ] {
        let output = run(&url);
        assert_eq!(output.status.code(), Some(2));
        let error = text(&output.stderr);
        assert!(error.contains(message) && !error.contains("hunter3"), "{error}");
    }
}

#[test]
fn a_secret_that_is_none_and_an_empty_namespace_are_clear_messages() {
    let (server, (directory, path)) = (Server::start(), secret());
    let run = |path: &Path| ipveil_keys(&["status", "--redis", &server.url(), "--secret-file", path.to_str().unwrap()]);
    assert!(text(&run(&path).stderr).contains("no node uses this namespace"));
    let typed = directory.path().join("typed");
    fs::write(&typed, "correct horse battery staple").unwrap();
    #[cfg(unix)]
    fs::set_permissions(&typed, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let error = run(&typed);
    assert!(text(&error.stderr).contains("new-secret") && !text(&error.stderr).contains("horse"));
    let error = run(&directory.path().join("missing"));
    assert_eq!(text(&error.stderr).matches("No such file").count(), 1, "{}", text(&error.stderr));
}

#[test]
fn what_says_which_fleet_is_refused_for_one_proxy() {
    for more in [&["--cluster"][..], &["--sentinel", "x"], &["--namespace", "x"], &["--redis", "x"]] {
        for command in ["status", "rotate-now"] {
            let output = ipveil_keys(&[&[command, "--admin", "/nowhere"], more].concat());
            let error = text(&output.stderr);
            assert!(output.status.code() == Some(2) && error.contains("cannot be used with"), "{more:?}: {error}");
        }
    }
    let output = ipveil_keys(&["rotate-now", "--admin", "/nowhere", "--wait", "1"]);
    assert!(text(&output.stderr).contains("cannot be used with"));
}

#[test]
fn a_journal_is_shown_and_verified() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.jsonl");
    let journal = Journal::open(&path).unwrap();
    let keys = KeyRing::builder(MemorySource, Epochs::daily()).on_event(journal.recorder()).start().unwrap();
    let first = keys.key_id().unwrap();
    keys.rotate().unwrap();
    drop((keys, journal));
    let name = path.to_str().unwrap();

    let shown = ipveil_keys(&["journal", "show", name]);
    let shown = text(&shown.stdout);
    assert!(shown.contains(&format!("minted     key {first}")), "{shown}");
    assert!(shown.contains("reason rotated") && shown.contains("source memory"), "{shown}");
    let lines = ipveil_keys(&["journal", "show", "--json", name]);
    assert!(text(&lines.stdout).lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));

    let whole = ipveil_keys(&["journal", "verify", "--json", name]);
    assert_eq!(whole.status.code(), Some(0));
    let head = json(&whole)["head"].as_str().unwrap().to_owned();
    assert_eq!(ipveil_keys(&["journal", "verify", "--head", &head, name]).status.code(), Some(0));
    assert_eq!(ipveil_keys(&["journal", "verify", "--head", &"0".repeat(64), name]).status.code(), Some(1));

    let changed = fs::read_to_string(&path).unwrap().replacen("rotated", "expired", 1);
    fs::File::create(&path).unwrap().write_all(changed.as_bytes()).unwrap();
    let broken = ipveil_keys(&["journal", "verify", name]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(text(&broken.stdout).contains("was changed"));
    assert_eq!(ipveil_keys(&["journal", "verify", "/nowhere/at/all"]).status.code(), Some(2));
}
