//! Where is searched, and what is said of what is found there, or could not be searched.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    folder::Folder,
    port::free_port,
    program::{ipveil, text},
    report::{audit, forms, report},
};

#[test]
fn a_find_is_a_place_and_nothing_else_of_the_text() {
    let folder = Folder::new();
    let line = "secret-before 203.0.113.7 secret-behind\n";
    let log = folder.write("a.log", format!("one\n{line}{}{line}", "x\n".repeat(300_000)).as_bytes());
    let junit = folder.path("audit.xml");
    let arguments = ["audit", "--search-only", "::ffff:203.0.113.7", "--search", &log, "--junit", &junit];
    let output = audit(&arguments[1..]);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    assert!(shown.contains("a.log, line 2: dotted, and 1 more"), "{shown}");
    let (report, _) = report(&arguments[1..5]);
    let find = &report["findings"][0];
    assert_eq!((&find["count"], &find["canary"]["number"]), (&2.into(), &1.into()));
    assert_eq!(find["places"][0]["line"], 2);
    assert_eq!(find["places"][1]["line"], 300_003);
    assert_eq!(find["places"][1]["offset"], 4 + 40 + 600_000 + 14);
    for shown in [shown, &report.to_string(), &fs::read_to_string(junit).unwrap()] {
        assert!(!shown.contains("secret") && !shown.contains("203.0.113"), "{shown}");
    }
}

#[test]
fn compressed_files_directories_and_standard_input_are_searched() {
    let folder = Folder::new();
    let line = b"from 2001:db8::7\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(line).unwrap();
    folder.write("logs/a", &gzip.finish().unwrap());
    folder.write("logs/deep/b.log", &zstd::encode_all(line.as_slice(), 1).unwrap());
    folder.write("logs/clean.log", b"nothing\n");
    let logs = folder.path("logs");
    let mut child = ipveil()
        .args(["audit", "--json", "--search-only", "2001:db8::7", "--search", &logs, "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(line).unwrap();
    let report: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    let found: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|find| find["in"].as_str().unwrap()).collect();
    assert_eq!(found, [&format!("{logs}/a"), &format!("{logs}/deep/b.log"), "standard input"]);
    assert_eq!(report["searched"].as_array().unwrap().len(), 4);
}

#[test]
fn what_goes_wrong_is_said_and_the_rest_is_searched() {
    let folder = Folder::new();
    let log = folder.write("a.log", b"nothing\n");
    let packed = folder.write("b.xz", b"\xfd7zXZ\0rest");
    let missing = folder.path("missing.log");
    let (found, code) = report(&["--search-only", "203.0.113.7", "--search", &log, &missing, &packed]);
    assert_eq!(code, 2);
    let trouble = found["trouble"].to_string();
    assert!(trouble.contains("missing.log: No such file") && trouble.contains("compressed in a way"), "{trouble}");
    assert_eq!(found["searched"].as_array().unwrap().len(), 1);

    let nobody = format!("127.0.0.1:{}", free_port());
    for (arguments, error) in [
        (&["--target", &format!("http://{nobody}"), "--search", &log][..], "can't be reached"),
        (&["--target", "ftp://x", "--search", &log], "expected http://HOST:PORT"),
        (&["--target", &format!("http://{nobody}"), "--stdin"], "may have ended before anything is sent"),
        (&["--target", &format!("http://{nobody}"), "--search", &log, "-"], "may have ended before anything is sent"),
        (&["--search-only", "203.0.113.7"], "there is nothing to search"),
        (&["--search-only", "nonsense", "--search", &log], "invalid"),
        (&["--search-only", "0.0.0.0", "--search", &log], "is nobody's"),
        (&["--search", &log], "--target"),
        (&["--search-only", "203.0.113.7", "--fetch", "nonsense"], "expected http://HOST:PORT/PATH"),
        (&["--search-only", "203.0.113.7", "--fetch", &format!("http://{nobody}/metrics")], "can't be reached"),
        (&["--search-only", "203.0.113.7", "--pid", "4000000"], "process 4000000 does not run"),
        (&["--search-only", "203.0.113.7", "--search", &log, "--junit", "/nowhere/a.xml"], "/nowhere/a.xml"),
    ] {
        let output = audit(arguments);
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(error), "{arguments:?}: {said}");
    }
}

#[test]
fn what_stands_in_a_directory_and_is_not_searched_is_said() {
    let folder = Folder::new();
    let log = folder.write("elsewhere.log", b"nothing\n");
    for kind in ["links", "pipes", "empty"] {
        let directory = folder.path(kind);
        fs::create_dir(&directory).unwrap();
        let inside = folder.path(&format!("{kind}/it"));
        let named = match kind {
            "links" => std::os::unix::fs::symlink(&log, &inside).map(|()| &inside).unwrap(),
            "pipes" => Command::new("mkfifo").arg(&inside).status().map(|_| &inside).unwrap(),
            _ => &directory,
        };
        let output = audit(&["--search-only", "203.0.113.7", "--search", &directory]);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{kind}: {shown}");
        assert!(shown.contains(&format!("trouble   {named}: ")), "{kind}: {shown}");
    }
    // A link to what is searched anyway is no trouble.
    let links = folder.path("links");
    let (found, code) =
        report(&["--search-only", "203.0.113.7", "--search", &links, &log, &folder.write("empty/a", b"")]);
    assert_eq!((&found["trouble"], code), (&Value::Array(vec![]), 0));
}

#[test]
fn what_is_found_before_a_text_breaks_off_is_said() {
    let folder = Folder::new();
    let noise: Vec<u8> = (0..100_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for (line, code, said) in [
        ("from 203.0.113.7\n", 1, "a.gz, line 1: dotted"),
        ("from nobody\n", 2, "found     nothing in what could be searched"),
    ] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(line.as_bytes()).unwrap();
        gzip.write_all(&noise).unwrap();
        let packed = gzip.finish().unwrap();
        let log = folder.write("a.gz", &packed[..packed.len() / 2]);
        let output = audit(&["--search-only", "203.0.113.7", "--search", &log]);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{shown}");
        assert!(shown.contains(said) && shown.contains("trouble   ") && shown.contains("a.gz: "), "{shown}");
    }
}

#[test]
fn somebody_elses_memory_needs_permission() {
    use std::os::unix::{fs::PermissionsExt as _, process::CommandExt as _};
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // A program that anybody may run, wherever this one was built.
    let folder = Folder::new();
    fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path("ipveil");
    let built = env!("CARGO_BIN_EXE_ipveil");
    fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
    let own = std::process::id().to_string();
    let arguments = ["audit", "--search-only", "203.0.113.7", "--pid", &own];
    let output = Command::new(&program).args(arguments).uid(65534).gid(65534).output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("can't be read (expected to be root, or to have CAP_SYS_PTRACE)"), "{said}");
}

#[test]
fn an_address_in_memory_is_found() {
    // A process that has it among its arguments, and so on its stack.
    let mut child = Command::new("sleep").arg("60").env("CLIENT", "from 2001:db8::4a:7").spawn().unwrap();
    let (found, code) = report(&["--search-only", "2001:db8::4a:7", "--pid", &child.id().to_string()]);
    child.kill().unwrap();
    child.wait().unwrap();
    if code == 2 {
        assert!(found["trouble"].to_string().contains("CAP_SYS_PTRACE"));
        return;
    }
    assert_eq!(forms(&found, "findings"), BTreeSet::from(["compressed".to_owned()]));
    let parts = found["findings"][0]["places"].as_array().unwrap();
    assert!(parts.iter().any(|place| place["part"] == "[stack]"), "{parts:?}");
}
