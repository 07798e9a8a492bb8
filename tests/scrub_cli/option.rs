//! What arguments choose: what stands in, what is kept, what is only looked for, and what is refused.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    thread,
};

use crate::{
    folder::Folder,
    program::text,
    scrub::{LINE, is_clean, pipe, run, start},
};

#[test]
fn standard_input_goes_to_standard_output() {
    let output = pipe(&[], LINE.repeat(3).as_bytes());
    assert_eq!(output.status.code(), Some(0));
    let shown = text(&output.stdout);
    is_clean(shown);
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], lines[1], "one run, one key");
    assert!(lines[0].starts_with('_') && lines[0].contains("\"http://[_"));
    assert!(
        text(&output.stderr).contains("3 lines in 1 input: 6 addresses (3 IPv4, 3 IPv6)"),
        "{}",
        text(&output.stderr)
    );
    assert_ne!(pipe(&[], LINE.as_bytes()).stdout, pipe(&[], LINE.as_bytes()).stdout, "another run, another key");
    assert!(pipe(&["--quiet"], LINE.as_bytes()).stderr.is_empty());
}

#[test]
fn what_stands_in_is_chosen() {
    for (stand_in, start) in [
        ("token", "_"),
        ("address", "2001:2"),
        ("network", "203.0.113.0/24 - "),
        ("network=/16,/32", "203.0.0.0/16 - "),
        ("word=(gone)", "(gone) - "),
    ] {
        let output = pipe(&["--as", stand_in], LINE.as_bytes());
        assert!(text(&output.stdout).starts_with(start), "{stand_in}: {}", text(&output.stdout));
    }
    let output = pipe(&["--as", "network=/16,/32"], LINE.as_bytes());
    assert!(text(&output.stdout).contains("http://[2001:db8::/32]/"));
    for (stand_in, expected) in [
        ("nothing", "expected token, address, network"),
        ("network=/25,/48", "keeps too many bits"),
        ("network=24", "expected token, address, network"),
        ("word=203.0.113.7", "the word would be scrubbed itself"),
    ] {
        let output = pipe(&["--as", stand_in], LINE.as_bytes());
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(expected), "{stand_in}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn what_is_kept_and_what_is_a_product_is_chosen() {
    let line = b"127.0.0.1 10.1.2.3 203.0.113.7 Chrome/120.0.0.0 Gadget/1.2.3.4\n";
    let output = pipe(&["--as", "word=X", "--keep", "loopback,10.0.0.0/8"], line);
    assert_eq!(text(&output.stdout), "127.0.0.1 10.1.2.3 X Chrome/120.0.0.0 Gadget/X\n");
    let output = pipe(&["--as", "word=X", "--products", "Gadget"], line);
    assert_eq!(text(&output.stdout), "X X X Chrome/X Gadget/1.2.3.4\n");
    let output = pipe(&["--as", "word=X", "--products", ""], line);
    assert_eq!(text(&output.stdout), "X X X Chrome/X Gadget/X\n");
    let output = pipe(&["--keep", "10.0.0.0/99"], line);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("network 1 is not usable: \"10.0.0.0/99\""), "{}", text(&output.stderr));
}

#[test]
fn days_are_apart_and_lines_without_a_date_belong_to_the_day_before() {
    let log = "2026-11-24T10:00:00Z 203.0.113.7\n  at 203.0.113.7\n2026-11-24T23:59:59Z 203.0.113.7\n\
               2026-11-25T00:00:00Z 203.0.113.7\n  at 203.0.113.7\n";
    // Also where they are far apart.
    for filler in [0, 20_000] {
        let filler = "\tno date here\n".repeat(filler);
        let log = log.replace("  at", &format!("{filler}  at"));
        let output = pipe(&["--by-day"], log.as_bytes());
        let tokens: Vec<_> =
            text(&output.stdout).lines().filter_map(|line| line.split_once('_')).map(|(_, token)| token).collect();
        assert_eq!(tokens.len(), 5);
        assert_eq!(tokens[0], tokens[1]);
        assert_eq!(tokens[0], tokens[2]);
        assert_ne!(tokens[0], tokens[3]);
        assert_eq!(tokens[3], tokens[4]);
    }
}

#[test]
fn check_changes_nothing_and_says_where() {
    let folder = Folder::new();
    let dirty = folder.write("dirty.log", format!("clean\n{LINE}").as_bytes());
    let clean = folder.write("clean.log", b"_caos25yjvuyeb2vxdys27ky47a 203.0.113.0/24 12:34:56\n");
    let output = run(&["--check", &clean, &dirty]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = text(&output.stderr);
    assert!(said.contains(&format!("{dirty}: 2 addresses found, the first in line 2")), "{said}");
    assert!(!said.contains(&format!("{clean}: ")));
    assert_eq!(run(&["--check", &clean]).status.code(), Some(0));
    assert_eq!(fs::read_to_string(dirty).unwrap(), format!("clean\n{LINE}"));
}

#[cfg(unix)]
#[test]
fn what_was_skipped_is_told_and_is_not_taken_for_clean() {
    use std::os::unix::fs::symlink;

    let folder = Folder::new();
    let outside = folder.write("outside.log", LINE.as_bytes());
    folder.write("logs/clean.log", b"nothing here\n");
    symlink("clean.log", folder.path("logs/same.log")).unwrap();
    let logs = &folder.path("logs");
    // What is read anyway was not skipped.
    let output = run(&["--check", logs]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains("skipped"));

    let link = folder.path("logs/current.log");
    symlink("../outside.log", &link).unwrap();
    for (arguments, code) in
        [(&["--check", logs][..], 2), (&["--check", "--quiet", logs], 2), (&["--in-place", logs], 0)]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let warning = format!("warning: {link}: is no file, and was skipped");
        assert!(text(&output.stderr).contains(&warning), "{arguments:?}: {}", text(&output.stderr));
    }
    assert_eq!(fs::read_to_string(outside).unwrap(), LINE);
    // Whoever names it means it.
    assert_eq!(run(&["--check", &link]).status.code(), Some(1));
}

#[test]
fn a_line_far_into_a_long_text_is_counted_right() {
    let mut log = "nothing here\n".repeat(50_000);
    log.push_str(LINE);
    let output = pipe(&["--check"], log.as_bytes());
    assert!(text(&output.stderr).contains("standard input: 2 addresses found, the first in line 50001"));
}

#[test]
fn days_that_no_line_names_can_not_be_kept_apart() {
    let folder = Folder::new();
    let log = "at 12:00 from 203.0.113.7\n";
    let path = folder.write("a.log", log.as_bytes());
    let output = run(&["--in-place", "--by-day", &path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no line says of which day it is"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(&path).unwrap(), log);
    // Where there is nothing to keep apart, nothing is missing.
    assert_eq!(pipe(&["--by-day"], b"nothing\n").status.code(), Some(0));
}

#[test]
fn bytes_that_are_no_text_and_a_line_without_end_pass() {
    let mut log = b"\xff\x00\xfe 203.0.113.7 \x80\x00".to_vec();
    log.extend(b"x".repeat(1_000_000));
    log.extend(b" 203.0.113.7");
    let output = pipe(&["--as", "word=X", "--binary"], &log);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.starts_with(b"\xff\x00\xfe X \x80\x00xxx") && output.stdout.ends_with(b"xx X"));
    assert_eq!(output.stdout.len(), log.len() - 20);
}

#[test]
fn order_is_kept_on_all_cores() {
    let log: String = (0..200_000).map(|number| format!("{number} from 203.0.113.7\n")).collect();
    let expected = log.replace("203.0.113.7", "X");
    for threads in ["1", "4"] {
        let output = pipe(&["--as", "word=X", "--threads", threads], log.as_bytes());
        assert!(output.stdout == expected.as_bytes(), "with {threads} threads");
    }
}

#[test]
fn whoever_reads_less_gets_no_error() {
    let mut child = start(&[]);
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || drop(stdin.write_all(LINE.repeat(100_000).as_bytes())));
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    is_clean(&first);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!said.contains("error"), "{said}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    writer.join().unwrap();
}

#[test]
fn contradictions_are_refused() {
    for arguments in [
        &["--in-place", "--check"][..],
        &["--in-place", "--output", "x"],
        &["--follow", "--by-day"],
        &["--follow", "a", "b"],
        &["--follow", "--compress", "gzip"],
        &["--threads", "0"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{arguments:?}: {}", text(&output.stderr));
    }
    let folder = Folder::new();
    let pattern = folder.path("*.log");
    let output = run(&[&pattern]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no file has such a name"));
}
