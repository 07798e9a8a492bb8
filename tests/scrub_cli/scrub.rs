//! Runs of `ipveil scrub`.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use crate::{folder::Folder, program::ipveil};

pub(crate) const LINE: &str =
    "203.0.113.7 - - [25/Nov/2026:12:34:56 +0000] \"GET / HTTP/1.1\" 200 \"http://[2001:db8::7]/\"\n";

pub(crate) fn scrub(arguments: &[&str]) -> Command {
    let mut command = ipveil();
    command.arg("scrub").args(arguments);
    command
}

#[track_caller]
pub(crate) fn run(arguments: &[&str]) -> Output {
    scrub(arguments).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
pub(crate) fn pipe(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = start(arguments);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

pub(crate) fn start(arguments: &[&str]) -> Child {
    scrub(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
pub(crate) fn is_clean(text: &str) {
    assert!(!text.contains("203.0.113") && !text.contains("2001:db8"), "{text}");
}

/// What is in a folder, in order.
pub(crate) fn names_in(folder: &Folder) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn gunzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[cfg(unix)]
#[track_caller]
pub(crate) fn kill(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// How it ended; what does not end by itself fails.
#[cfg(unix)]
#[track_caller]
pub(crate) fn wait(mut child: Child) -> Option<i32> {
    // A minute at most; usually less than it takes to give up on somebody.
    for _ in 0..6_000 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        thread::park_timeout(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("it does not end");
}

#[cfg(unix)]
#[track_caller]
pub(crate) fn fifo(folder: &Folder, name: &str) -> String {
    let path = folder.path(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}
