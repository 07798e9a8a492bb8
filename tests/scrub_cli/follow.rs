//! What is scrubbed while it is written, and how that ends.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    folder::Folder,
    program::text,
    scrub::{LINE, fifo, gzip, kill, names_in, pipe, scrub, start, wait},
};

#[test]
fn follow_writes_each_line_at_once_and_the_beginning_of_one_soon() {
    let mut child = start(&["--follow", "--as", "word=X"]);
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (sender, pieces) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = stdout.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    // As long as it takes: what is tested is that it comes while the pipe is open.
    let wait_for = |expected: &str| {
        let mut got = Vec::new();
        while got != expected.as_bytes() {
            got.extend(pieces.recv_timeout(Duration::from_secs(60)).unwrap());
        }
    };
    stdin.write_all(b"from 203.0.113.7\n").unwrap();
    wait_for("from X\n");
    stdin.write_all(b"prompt: 203.0.").unwrap();
    wait_for("prompt: ");
    stdin.write_all(b"113.7 and").unwrap();
    wait_for("X ");
    drop(stdin);
    wait_for("and");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn follow_reads_a_pipe_with_a_name_from_one_writer_after_the_other() {
    let folder = Folder::new();
    let fifo = fifo(&folder, "access.fifo");
    let log = folder.path("access.log");
    let mut child = start(&["--follow", "--as", "word=X", "-o", &log, &fifo]);
    for number in 1..=2 {
        fs::write(&fifo, "from 203.0.113.7\n").unwrap();
        wait_until(&log, &"from X\n".repeat(number));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn follow_keeps_a_pipe_open_between_one_writer_and_the_next() {
    use std::os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _};

    let folder = Folder::new();
    let fifo = fifo(&folder, "access.fifo");
    let log = folder.path("access.log");
    let mut child = start(&["--follow", "--as", "word=X", "-o", &log, &fifo]);
    fs::write(&fifo, "from 203.0.113.7\n").unwrap();
    wait_until(&log, "from X\n");
    // Without a name it can't be opened again. What is known by such a handle is neither read nor written to.
    let handle = fs::File::options().read(true).custom_flags(libc::O_PATH).open(&fifo).unwrap();
    fs::remove_file(&fifo).unwrap();
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    for number in 2..=50 {
        // Fails if nobody has it open to read.
        let mut writer = fs::File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        writer.write_all(b"from 203.0.113.7\n").unwrap();
        drop(writer);
        wait_until(&log, &"from X\n".repeat(number));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn follow_refuses_what_is_no_text() {
    let wide: Vec<u8> = LINE.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, bytes, expected) in [
        ("gzip", gzip(LINE.as_bytes()), "is compressed"),
        ("zstd", zstd::encode_all(LINE.as_bytes(), 1).unwrap(), "is compressed"),
        ("xz", b"\xfd7zXZ\0\0\x04".to_vec(), "is compressed"),
        ("utf16", wide.clone(), "is no text"),
    ] {
        let output = pipe(&["--follow"], &bytes);
        assert_eq!(output.status.code(), Some(2), "{name}");
        let said = text(&output.stderr);
        assert!(said.contains(&format!("error: standard input: {expected}")), "{name}: {said}");
        assert!(output.stdout.is_empty(), "{name}");
    }
    // Also where it comes later.
    let output = pipe(&["--follow"], &["nothing here\n".repeat(20_000).as_bytes(), &wide].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(!output.stdout.contains(&0));
    assert_eq!(pipe(&["--follow"], b"from 203.0.113.7\0").status.code(), Some(2));

    let output = pipe(&["--follow", "--as", "word=X", "--binary"], b"a\x00203.0.113.7\n");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"a\0X\n"[..]));
    let hole = [&[0; 200_000][..], b"from 203.0.113.7\n"].concat();
    let output = pipe(&["--follow", "--as", "word=X"], &hole);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stdout.ends_with(b"\0from X\n"));
}

#[cfg(target_os = "linux")]
#[test]
fn follow_says_that_it_can_not_write_and_where() {
    let output = pipe(&["--follow", "-o", "/dev/full"], LINE.as_bytes());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("error: /dev/full: "), "{}", text(&output.stderr));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut child = scrub(&["--follow"]).stdin(Stdio::piped()).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(LINE.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(text(&output.stderr).starts_with("error: standard output: "), "{}", text(&output.stderr));
}

#[cfg(target_os = "linux")]
#[test]
fn follow_writes_what_is_in_the_pipe_before_a_signal_ends_it() {
    for signal in ["-TERM", "-INT", "-HUP"] {
        let mut child = start(&["--follow", "--as", "word=X"]);
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdin.write_all(b"from 203.0.113.7\n").unwrap();
        let mut shown = String::new();
        stdout.read_line(&mut shown).unwrap();
        // While it does nothing, so that all of it is in the pipe when the signal comes.
        kill("-STOP", &child);
        let stat = format!("/proc/{}/stat", child.id());
        while !fs::read_to_string(&stat).unwrap().contains(") T ") {
            thread::yield_now();
        }
        stdin.write_all("from 203.0.113.7\n".repeat(2_000).as_bytes()).unwrap();
        kill(signal, &child);
        kill("-CONT", &child);
        stdout.read_to_string(&mut shown).unwrap();
        assert!(shown == "from X\n".repeat(2_001), "{signal}: {} lines", shown.lines().count());
        assert_eq!(wait(child), Some(130), "{signal}");
    }
}

#[cfg(unix)]
#[test]
fn a_signal_ends_also_what_waits() {
    // For whoever reads.
    let mut child = start(&["--follow"]);
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || drop(stdin.write_all(LINE.repeat(100_000).as_bytes())));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    kill("-TERM", &child);
    assert_eq!(wait(child), Some(130));
    writer.join().unwrap();

    // For somebody to open a pipe.
    let folder = Folder::new();
    let log = folder.write("a.log", LINE.as_bytes());
    let fifo = fifo(&folder, "fifo");
    let mut child = start(&[&log, &fifo]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    kill("-TERM", &child);
    assert_eq!(wait(child), Some(130));

    // For whoever writes, with a file that is half done.
    let out = folder.path("out.log");
    let child = start(&["-o", &out, &fifo]);
    let mut writer = fs::File::options().write(true).open(&fifo).unwrap();
    writer.write_all(LINE.as_bytes()).unwrap();
    while names_in(&folder).len() < 3 {
        thread::yield_now();
    }
    kill("-TERM", &child);
    assert_eq!(wait(child), Some(130));
    assert_eq!(names_in(&folder), ["a.log", "fifo"], "nothing is left behind");
}

#[track_caller]
fn wait_until(path: &str, expected: &str) {
    // A minute at most; usually a few turns.
    for _ in 0..6_000 {
        if fs::read_to_string(path).is_ok_and(|text| text == expected) {
            return;
        }
        thread::park_timeout(Duration::from_millis(10));
    }
    panic!("{path} is {:?}", fs::read_to_string(path));
}
