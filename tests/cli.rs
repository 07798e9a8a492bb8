//! The program `ipveil`, as people and scripts run it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    io::{self, Write},
    process::{Output, Stdio},
};

use serde_json::{Value, json};

use self::program::{ipveil, text};

mod program;

#[test]
fn a_walk_is_shown_hop_by_hop_and_then_the_views() {
    let output = explain(&[
        "--peer",
        "10.0.0.1:4711",
        "--trusted",
        "10.0.0.0/8,192.0.2.0/24",
        "--source",
        "x-forwarded-for",
        "--header",
        "X-Forwarded-For: 198.51.100.9, 203.0.113.7",
        "-H",
        "x-forwarded-for:192.0.2.1",
    ]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
    let shown = text(&output.stdout);
    let (walk, views) = shown.split_once("\n\n").unwrap();
    assert_eq!(
        walk,
        "\
peer    10.0.0.1:4711  a trusted proxy
hop 1   192.0.2.1      a trusted proxy
hop 2   203.0.113.7    the client
client  203.0.113.7, from x-forwarded-for: the nearest hop in x-forwarded-for that is not a trusted proxy"
    );

    let views: Vec<Vec<_>> = views.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let names: Vec<_> = views.iter().map(|view| view[0]).collect();
    assert_eq!(names, ["address", "token", "address-v4", "network"]);
    assert_eq!(views[3][1], "203.0.113.0/24");
    for view in &views[..3] {
        assert!(!view[1].contains("203.0.113.7"), "{view:?}");
    }
}

#[test]
fn a_withheld_client_is_said_and_has_no_views() {
    for (arguments, walk) in [
        (
            &["--source", "x-forwarded-for", "--peer", "10.0.0.1", "-H", "X-Forwarded-For: 192.0.2.1, garbage"][..],
            "\
peer    10.0.0.1  a trusted proxy
hop 1   garbage   a hop is malformed
client  withheld: a hop is malformed
",
        ),
        (
            &["--source", "forwarded", "--peer", "10.0.0.1", "-H", "Forwarded: for=_secret"],
            "\
peer    10.0.0.1     a trusted proxy
hop 1   for=_secret  a hop hides the one before it
client  withheld: a hop hides the one before it
",
        ),
        (
            &["--source", "forwarded", "--peer", "10.0.0.1"],
            "\
peer    10.0.0.1  a trusted proxy
client  withheld: the trusted proxy did not send the header
",
        ),
        (
            &["--source", "x-real-ip"],
            "\
peer    (not given)  taken for a trusted proxy
client  withheld: the trusted proxy did not send the header
",
        ),
    ] {
        let output = explain(&[&["--trusted", "10.0.0.0/8"], arguments].concat());
        assert_eq!(text(&output.stdout), walk);
        assert_eq!(output.status.code(), Some(0), "a client that is not known is an answer");
    }
}

#[test]
fn hops_are_counted_and_the_furthest_taken_on_request() {
    let header = "X-Forwarded-For: 192.0.2.1, 203.0.113.7, 10.0.0.2";
    for (arguments, client) in [
        (
            &["--hops", "2"][..],
            "client  203.0.113.7, from x-forwarded-for: hop 2 in x-forwarded-for, counted from the right",
        ),
        (&["--hops", "4"], "client  withheld: the header has fewer hops than there are proxies"),
        (
            &["--hops", "1", "--trusted", "192.0.2.0/24"],
            "client  10.0.0.1, from peer: the peer is not a trusted proxy, so it is the client",
        ),
        (&["--trusted", "0.0.0.0/0"], "client  withheld: every hop is a trusted proxy"),
        (
            &["--trusted", "0.0.0.0/0", "--furthest-hop"],
            "client  192.0.2.1, from x-forwarded-for: \
             every hop is trusted, and this is the furthest in x-forwarded-for",
        ),
    ] {
        let output =
            explain(&[&["--peer", "10.0.0.1", "--source", "x-forwarded-for", "-H", header], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let line = text(&output.stdout).lines().find(|line| line.starts_with("client")).unwrap().to_owned();
        assert_eq!(line, client, "{arguments:?}");
    }
}

#[test]
fn each_case_on_standard_input_gets_a_line() {
    let forwarded_for = |value: &str| json!([["X-Forwarded-For", value]]);
    let case = |peer: Value, headers: Value, trusted: &[&str], source: &str, hops: Value| {
        json!({"peer": peer, "headers": headers, "trusted": trusted, "source": source, "hops": hops}).to_string()
    };
    let peer = || json!("10.0.0.1:4711");
    let ten = &["10.0.0.0/8"][..];
    let list = "x-forwarded-for";
    let client = |client: &str, from: &str| Ok((client.to_owned(), from.to_owned()));
    let cases = [
        // Clients.
        (case(peer(), forwarded_for("203.0.113.7"), ten, list, Value::Null), client("203.0.113.7", list)),
        (case(json!("203.0.113.7"), forwarded_for("192.0.2.1"), ten, list, Value::Null), client("203.0.113.7", "peer")),
        (case(json!("[2001:db8::7]:80"), json!([]), &[], "peer", Value::Null), client("2001:db8::7", "peer")),
        (case(Value::Null, forwarded_for("203.0.113.7"), &[], list, Value::Null), client("203.0.113.7", list)),
        (case(peer(), forwarded_for("203.0.113.7, x"), ten, list, json!(2)), client("203.0.113.7", list)),
        (case(peer(), forwarded_for("203.0.113.7"), ten, list, json!(0)), client("10.0.0.1", "peer")),
        (
            case(json!("unix"), json!([["Forwarded", "for=\"[2001:db8::7]:1\""]]), &["unix"], "forwarded", Value::Null),
            client("2001:db8::7", "forwarded"),
        ),
        (
            case(
                peer(),
                json!([["CloudFront-Viewer-Address", "2001:db8::7:443"]]),
                ten,
                "CloudFront-Viewer-Address",
                Value::Null,
            ),
            client("2001:db8::7", "cloudfront-viewer-address"),
        ),
        (r#"{"source":"peer","peer":"203.0.113.7"}"#.to_owned(), client("203.0.113.7", "peer")),
        (
            r#"{"source":"x-forwarded-for","peer":"10.0.0.1","trusted":["10.0.0.0/8"],"furthest_hop":true}"#.to_owned(),
            client("10.0.0.1", "peer"),
        ),
        // Withheld.
        (case(peer(), json!([]), ten, list, Value::Null), Err("the trusted proxy did not send the header")),
        (case(peer(), forwarded_for("unknown"), ten, list, Value::Null), Err("a hop hides the one before it")),
        (case(peer(), forwarded_for("192.0.2.1, x"), ten, list, Value::Null), Err("a hop is malformed")),
        (case(peer(), forwarded_for("10.0.0.3"), ten, list, Value::Null), Err("every hop is a trusted proxy")),
        (
            case(peer(), forwarded_for("192.0.2.1"), ten, list, json!(2)),
            Err("the header has fewer hops than there are proxies"),
        ),
        (case(Value::Null, json!([]), &[], "peer", Value::Null), Err("the peer has no known address")),
        (
            case(
                peer(),
                json!([["X-Real-IP", "192.0.2.1"], ["X-Real-IP", "192.0.2.2"]]),
                ten,
                "x-real-ip",
                Value::Null,
            ),
            Err("a header for one address came more than once"),
        ),
    ];
    let input: String = cases.iter().map(|(case, _)| format!("{case}\n")).collect();
    let answers = answers(input.as_bytes());
    assert_eq!(answers.len(), cases.len());
    for ((case, expected), answer) in cases.iter().zip(&answers) {
        assert_eq!(answer["error"], Value::Null, "{case}");
        match expected {
            Ok((client, from)) => {
                assert_eq!((&answer["client"], &answer["from"]), (&json!(client), &json!(from)), "{case}");
                assert_ne!(answer["why"], "", "{case}");
            }
            Err(why) => {
                assert_eq!((&answer["client"], &answer["from"]), (&Value::Null, &Value::Null), "{case}");
                assert_eq!(answer["why"], *why, "{case}");
            }
        }
    }
}

#[test]
fn a_case_that_is_not_usable_says_what_was_expected_and_the_next_one_is_answered() {
    let good = r#"{"peer":"203.0.113.7","source":"peer"}"#;
    for (case, error) in [
        ("{", "line 2"),
        ("[]", "line 2"),
        ("\u{feff}{}", "line 2"),
        (r#"{"peer":"10.0.0.1"}"#, "missing field `source`"),
        (r#"{"source":"peer","per":"10.0.0.1"}"#, "unknown field `per`, expected one of `peer`"),
        (r#"{"source":"peer","peer":"10.0.0.1","peer":"10.0.0.2"}"#, "duplicate field `peer`"),
        (r#"{"source":"peer","hops":"two"}"#, "expected i64"),
        (r#"{"source":"peer","trusted":["10.0.0.0/8","10.0.0.0/33"]}"#, "trusted proxy 2 is not usable"),
        (r#"{"source":"peer","trusted":["nobody"]}"#, "expected an address, a CIDR"),
        (r#"{"source":"not a name"}"#, "expected peer, x-forwarded-for, forwarded"),
        (r#"{"source":"forwarded","hops":-1}"#, "expected 0 to 255"),
        (r#"{"source":"forwarded","hops":256}"#, "expected 0 to 255"),
        (r#"{"source":"peer","peer":"localhost"}"#, "the peer is not an address (expected"),
        (r#"{"source":"peer","peer":""}"#, "the peer is not an address (expected"),
        (r#"{"source":"peer","headers":[["X-A","1"],["not a name","1"]]}"#, "header 2: \"not a name\" is not the name"),
        (
            r#"{"source":"peer","headers":[["X-A","line\nbreak"]]}"#,
            "header 1: the value of x-a has a control character",
        ),
        (r#"{"source":"peer","headers":[["X-A"]]}"#, "line 2"),
    ] {
        let answers = answers(format!("{good}\n{case}\n \r\n\n{good}").as_bytes());
        let [before, answer, after] = answers.as_slice() else { panic!("{case}: {} answers", answers.len()) };
        let said = answer["error"].as_str().unwrap();
        assert!(said.contains(error), "{case}: {said}");
        assert_eq!((&answer["client"], &answer["from"]), (&Value::Null, &Value::Null), "{case}");
        assert_eq!(before["client"], "203.0.113.7");
        assert_eq!(before, after);
    }
}

#[test]
fn a_line_that_is_not_utf_8_is_one_case_that_is_not_usable() {
    let answers = answers(b"{\"source\":\"\xff\"}\n{\"source\":\"peer\",\"peer\":\"203.0.113.7\"}\n");
    assert_eq!(answers.len(), 2);
    assert!(answers[0]["error"].is_string());
    assert_eq!(answers[1]["client"], "203.0.113.7");
}

#[test]
fn nothing_to_answer_gets_no_answer() {
    assert!(answers(b"").is_empty());
    assert!(answers(b"\n \n").is_empty());
}

#[test]
fn bad_arguments_are_refused_with_what_was_expected() {
    for (arguments, message) in [
        (&["--header", "X-Forwarded-For"][..], "expected NAME: VALUE"),
        (&["--header", "X Y: 1"], "header 1: \"X Y\" is not the name of a header (expected"),
        (&["--header", "X-Y: \u{7f}"], "header 1: the value of x-y has a control character"),
        (&["--trusted", "10.0.0.0/8,everybody"], "trusted proxy 2 is not usable: \"everybody\" (expected"),
        (&["--source", "not a name"], "expected peer, x-forwarded-for, forwarded, or the name of a header"),
        (&["--source", "forwarded", "--hops", "-1"], "expected 0 to 255"),
        (&["--source", "forwarded", "--hops", "256"], "expected 0 to 255"),
        (&["--hops", "two"], "--hops <COUNT>"),
        (&["--peer", "localhost"], "the peer is not an address (expected"),
        (&["--peer"], "a value is required for '--peer <ADDRESS>'"),
        (&["--jsonl", "--peer", "10.0.0.1"], "'--jsonl' cannot be used with '--peer <ADDRESS>'"),
        (&["--jsonl", "--hops", "1"], "cannot be used with"),
        (&["--adress", "10.0.0.1"], "'--adress'"),
        (&["10.0.0.1"], "'10.0.0.1'"),
    ] {
        let output = explain(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.starts_with("error: ") && said.contains(message), "{arguments:?}: {said}");
    }
    assert_eq!(ipveil().output().unwrap().status.code(), Some(2));
    assert_eq!(ipveil().arg("explian").output().unwrap().status.code(), Some(2));
}

#[test]
fn help_and_version_are_no_errors() {
    for (arguments, said) in
        [(&["--help"][..], "explain"), (&["explain", "--help"], "--jsonl"), (&["--version"], env!("CARGO_PKG_VERSION"))]
    {
        let output = ipveil().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(said), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let case = "{\"source\":\"peer\",\"peer\":\"203.0.113.7\"}\n".repeat(100);
    for (arguments, input) in [(&["--peer", "203.0.113.7"][..], ""), (&["--jsonl"], case.as_str())] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut child = ipveil()
            .arg("explain")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may be gone before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
    }
}

fn explain(arguments: &[&str]) -> Output {
    ipveil().arg("explain").args(arguments).output().unwrap()
}

/// What `--jsonl` answers: a line each, and in each the same keys.
#[track_caller]
fn answers(input: &[u8]) -> Vec<Value> {
    let mut child = ipveil()
        .args(["explain", "--jsonl"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
    let answers: Vec<Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for answer in &answers {
        let mut keys: Vec<_> = answer.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["client", "error", "from", "why"]);
    }
    answers
}
