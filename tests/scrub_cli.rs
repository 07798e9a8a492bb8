//! `ipveil scrub`, as people and scripts run it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use tempfile::TempDir;

const LINE: &str = "203.0.113.7 - - [25/Nov/2026:12:34:56 +0000] \"GET / HTTP/1.1\" 200 \"http://[2001:db8::7]/\"\n";

fn ipveil(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipveil"));
    command.arg("scrub").args(arguments);
    command
}

#[track_caller]
fn run(arguments: &[&str]) -> Output {
    ipveil(arguments).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn pipe(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = start(arguments);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn start(arguments: &[&str]) -> Child {
    ipveil(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn is_clean(text: &str) {
    assert!(!text.contains("203.0.113") && !text.contains("2001:db8"), "{text}");
}

/// A folder that is gone afterwards.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

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
    assert!(
        text(&output.stderr).contains("trusted proxy 1 is not usable") || text(&output.stderr).contains("10.0.0.0/99")
    );
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
    let logs = folder.path("logs");
    let logs = logs.to_str().unwrap();
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
        let warning = format!("warning: {}: is no file, and was skipped", link.display());
        assert!(text(&output.stderr).contains(&warning), "{arguments:?}: {}", text(&output.stderr));
    }
    assert_eq!(fs::read_to_string(outside).unwrap(), LINE);
    // Whoever names it means it.
    assert_eq!(run(&["--check", link.to_str().unwrap()]).status.code(), Some(1));
}

#[test]
fn a_line_far_into_a_long_text_is_counted_right() {
    let mut log = "nothing here\n".repeat(50_000);
    log.push_str(LINE);
    let output = pipe(&["--check"], log.as_bytes());
    assert!(text(&output.stderr).contains("standard input: 2 addresses found, the first in line 50001"));
}

#[test]
fn files_are_replaced_in_place_with_their_mode_and_format() {
    let folder = Folder::new();
    let plain = folder.write("a.log", LINE.as_bytes());
    let gz = folder.write("b.log.gz", &gzip(LINE.as_bytes()));
    let zst = folder.write("c.log.zst", &zstd::encode_all(LINE.as_bytes(), 1).unwrap());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o604)).unwrap();
    }
    let output = run(&["--in-place", folder.0.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
    let plain_text = fs::read_to_string(&plain).unwrap();
    is_clean(&plain_text);
    assert_eq!(plain_text, gunzip(&fs::read(&gz).unwrap()), "one run, one key");
    assert_eq!(plain_text.as_bytes(), zstd::decode_all(&fs::read(&zst).unwrap()[..]).unwrap());
    assert_eq!(folder.names(), ["a.log", "b.log.gz", "c.log.zst"], "nothing is left behind");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&plain).unwrap().permissions().mode() & 0o777, 0o604);
    }
}

#[test]
fn a_file_that_is_clean_already_is_not_touched() {
    let folder = Folder::new();
    let log = folder.write("a.log", b"nothing here\n");
    let before = fs::metadata(&log).unwrap().modified().unwrap();
    assert_eq!(run(&["--in-place", &log]).status.code(), Some(0));
    assert_eq!(fs::metadata(&log).unwrap().modified().unwrap(), before);
    assert_eq!(folder.names(), ["a.log"]);
}

#[test]
fn what_can_not_be_read_is_not_taken_for_clean() {
    let folder = Folder::new();
    for (name, start) in [
        ("a.xz", &b"\xfd7zXZ\0"[..]),
        ("a.bz2", b"BZh91AY"),
        ("a.lz4", b"\x04\x22\x4d\x18"),
        ("a.zip", b"PK\x03\x04"),
        ("a.lzma", b"\x5d\0\0\x80\0"),
        ("a.Z", b"\x1f\x9d\x90"),
        ("a.zlib", b"x\x9c\x03\0"),
    ] {
        let path = folder.write(name, start);
        let output = run(&["--check", &path]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(text(&output.stderr).contains(&format!("{path}: is compressed")), "{}", text(&output.stderr));
    }
}

#[test]
fn what_is_no_text_is_not_taken_for_clean_nor_written_over() {
    let folder = Folder::new();
    let line = "Login failed [CLIENT: 203.0.113.7]\r\n";
    let wide: Vec<u8> = line.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, bytes) in [
        ("utf16", [&[0xff, 0xfe][..], &wide].concat()),
        ("utf16-without-mark", wide.clone()),
        ("wtmp", [&[2, 0, 0, 0, 7, 0, 0, 0][..], b"203.0.113.7", &[0; 40]].concat()),
        ("a.tar", [b"a.log".as_slice(), &[0; 507], line.as_bytes()].concat()),
    ] {
        let path = folder.write(name, &bytes);
        for how in ["--check", "--in-place"] {
            let output = run(&[how, &path]);
            assert_eq!(output.status.code(), Some(2), "{name}");
            assert!(text(&output.stderr).contains(&format!("{path}: is no text")), "{}", text(&output.stderr));
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "{name}");
    }
    // Whoever wants it so.
    let path = folder.write("binary", b"a\x00203.0.113.7\n");
    assert_eq!(run(&["--in-place", "--binary", &path]).status.code(), Some(0));
    assert!(!String::from_utf8_lossy(&fs::read(&path).unwrap()).contains("203.0.113.7"));
    // A log that was cut off while it was written to begins with a hole.
    let path = folder.write("hole.log", &[&[0; 9000][..], line.as_bytes()].concat());
    assert_eq!(run(&["--check", &path]).status.code(), Some(1));
}

#[test]
fn what_is_no_text_further_on_is_not_taken_for_clean_either() {
    let folder = Folder::new();
    let wide: Vec<u8> = LINE.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for begins in [4096, 128 * 1024, 300_000] {
        let mut log = b"nothing here\n".repeat(begins / 13 + 1);
        log.truncate(begins);
        for (name, end) in [
            ("utf16", &wide[..]),
            ("gzip", &gzip(LINE.as_bytes())),
            ("record", b"a\0\0\0\x071\n"),
            ("cut off", b"203.0.113.7\0"),
        ] {
            let bytes = [&log, end].concat();
            let path = folder.write("a.log", &bytes);
            for how in ["--check", "--in-place"] {
                let output = run(&[how, &path]);
                assert_eq!(output.status.code(), Some(2), "{name} from {begins} on, {how}");
                assert!(text(&output.stderr).contains(&format!("{path}: is no text")), "{}", text(&output.stderr));
            }
            let out = folder.path("out.log");
            assert_eq!(run(&["-o", out.to_str().unwrap(), &path]).status.code(), Some(2));
            assert_eq!(pipe(&[], &bytes).status.code(), Some(2));
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(folder.names(), ["a.log"], "nothing is left behind");
            assert_ne!(run(&["--check", "--binary", &path]).status.code(), Some(2));
        }
    }
    // A hole may be anywhere: where the system went down, or pieces of a file were given back.
    let path = folder.write("hole.log", &[LINE.as_bytes(), &[0; 200_000], LINE.as_bytes(), &[0; 4096]].concat());
    assert_eq!(run(&["--check", &path]).status.code(), Some(1));
    assert_eq!(run(&["--in-place", &path]).status.code(), Some(0));
    is_clean(&fs::read_to_string(&path).unwrap());
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

#[cfg(unix)]
#[test]
fn in_place_is_refused_where_addresses_would_stay() {
    let folder = Folder::new();
    let log = folder.write("a.log", LINE.as_bytes());
    fs::hard_link(&log, folder.path("other")).unwrap();
    let output = run(&["--in-place", &log]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("has other names"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(&log).unwrap(), LINE);
    assert_eq!(run(&["--in-place"]).status.code(), Some(2));
    // The file is replaced, not the link.
    fs::remove_file(folder.path("other")).unwrap();
    std::os::unix::fs::symlink(&log, folder.path("link")).unwrap();
    assert_eq!(run(&["--in-place", folder.path("link").to_str().unwrap()]).status.code(), Some(0));
    assert!(fs::symlink_metadata(folder.path("link")).unwrap().is_symlink());
    is_clean(&fs::read_to_string(&log).unwrap());
}

#[test]
fn output_goes_to_a_file_or_into_a_directory() {
    let folder = Folder::new();
    let (a, b) = (folder.write("in/a.log", LINE.as_bytes()), folder.write("in/b.log.gz", &gzip(LINE.as_bytes())));
    let target = folder.path("out.log");
    assert_eq!(run(&["--output", target.to_str().unwrap(), &a]).status.code(), Some(0));
    is_clean(&fs::read_to_string(&target).unwrap());
    let directory = folder.path("out");
    let output = run(&["-o", directory.to_str().unwrap(), &a, &b]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("expected one for several inputs"), "{}", text(&output.stderr));
    fs::create_dir(&directory).unwrap();
    let output = run(&["-o", directory.to_str().unwrap(), &a, &a]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("another input has the same name"), "{}", text(&output.stderr));
    let pattern = folder.path("in/*");
    assert_eq!(run(&["-o", directory.to_str().unwrap(), pattern.to_str().unwrap()]).status.code(), Some(0));
    is_clean(&fs::read_to_string(directory.join("a.log")).unwrap());
    is_clean(&gunzip(&fs::read(directory.join("b.log.gz")).unwrap()));
    assert_eq!(fs::read_to_string(&a).unwrap(), LINE);
}

#[cfg(unix)]
#[test]
fn output_follows_links_and_goes_straight_into_what_is_no_file() {
    use std::os::unix::fs::{FileTypeExt as _, symlink};

    let folder = Folder::new();
    let log = folder.write("a.log", LINE.as_bytes());
    let real = folder.write("real.log", b"old\n");
    for (link, target) in [("link", "real.log"), ("null", "/dev/null")] {
        let link = folder.path(link);
        symlink(target, &link).unwrap();
        let output = run(&["-o", link.to_str().unwrap(), &log]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
    let shown = fs::read_to_string(real).unwrap();
    is_clean(&shown);
    assert!(shown.contains("GET / HTTP/1.1"), "{shown}");
    // What a link is to lead to is nobody's to guess.
    symlink("nowhere", folder.path("broken")).unwrap();
    assert_eq!(run(&["-o", folder.path("broken").to_str().unwrap(), &log]).status.code(), Some(2));

    let fifo = fifo(&folder, "fifo");
    // Open in both directions, so that nobody waits.
    let mut reader = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    assert_eq!(run(&["--as", "word=X", "-o", fifo.to_str().unwrap(), &log]).status.code(), Some(0));
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    let mut start = [0; 4];
    reader.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"X - ");
    assert_eq!(folder.names(), ["a.log", "broken", "fifo", "link", "null", "real.log"]);
}

#[cfg(unix)]
#[test]
fn output_keeps_the_mode_of_a_file_and_a_new_one_is_not_for_all() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = Folder::new();
    let log = folder.write("a.log", LINE.as_bytes());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let out = folder.path("out.log");
    assert_eq!(run(&["-o", out.to_str().unwrap(), &log]).status.code(), Some(0));
    assert_eq!(mode(&out), 0o640);
    for kept in [0o640, 0o604] {
        fs::set_permissions(&out, fs::Permissions::from_mode(kept)).unwrap();
        assert_eq!(run(&["-o", out.to_str().unwrap(), &log]).status.code(), Some(0));
        assert_eq!(mode(&out), kept);
    }
    let followed = folder.path("followed.log");
    assert_eq!(run(&["--follow", "-o", followed.to_str().unwrap()]).status.code(), Some(0));
    assert_eq!(mode(&followed) & !0o640, 0);
}

#[cfg(unix)]
#[test]
fn output_keeps_the_owner_of_a_file() {
    use std::os::unix::fs::{MetadataExt as _, chown};

    let folder = Folder::new();
    let log = folder.write("a.log", LINE.as_bytes());
    let out = folder.write("out.log", b"old\n");
    // Only root may give files away.
    if chown(&out, Some(12345), Some(12345)).is_ok() {
        assert_eq!(run(&["-o", &out, &log]).status.code(), Some(0));
        let now = fs::metadata(&out).unwrap();
        assert_eq!((now.uid(), now.gid()), (12345, 12345));
    }
}

#[cfg(unix)]
#[test]
fn what_is_read_is_not_written_to_meanwhile() {
    let folder = Folder::new();
    let log = folder.write("in/a.log", LINE.as_bytes());
    fs::hard_link(&log, folder.path("in/other")).unwrap();
    let (directory, other) = (folder.path("in"), folder.path("in/other"));
    let (directory, other) = (directory.to_str().unwrap(), other.to_str().unwrap());
    let append = || fs::OpenOptions::new().append(true).open(&log).unwrap();
    for (arguments, output) in [
        (&["-o", &log, &log][..], Stdio::null()),
        (&["-o", other, &log], Stdio::null()),
        (&["-o", directory, &log], Stdio::null()),
        (&["--follow", "-o", other, &log], Stdio::null()),
        (&[&log], append().into()),
        (&["--follow", &log], append().into()),
        (&["-"], append().into()),
        (&["-o", &log], Stdio::null()),
    ] {
        let input = fs::File::open(&log).unwrap();
        let output = ipveil(arguments).stdin(input).stdout(output).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains("is one of the inputs") && said.contains("--in-place"), "{arguments:?}: {said}");
        assert_eq!(fs::read_to_string(&log).unwrap(), LINE, "{arguments:?}");
    }
    // What only looks may write where it likes.
    assert_eq!(ipveil(&["--check", &log]).stdout(append()).output().unwrap().status.code(), Some(1));
}

#[test]
fn compression_is_recognized_by_content_and_chosen_for_output() {
    let packed = gzip(LINE.as_bytes());
    let twice = [packed.clone(), packed].concat();
    assert_eq!(text(&pipe(&["--as", "word=X"], &twice).stdout).lines().count(), 2);
    let output = pipe(&["--compress", "same"], &twice);
    is_clean(&gunzip(&output.stdout));
    let output = pipe(&["--compress", "zstd"], LINE.as_bytes());
    is_clean(text(&zstd::decode_all(&output.stdout[..]).unwrap()));
}

#[test]
fn a_damaged_archive_is_named_and_stays_and_the_others_are_done() {
    let folder = Folder::new();
    let whole = gzip(LINE.repeat(5_000).as_bytes());
    let broken = &whole[..whole.len() / 2];
    let a = folder.write("a.log.gz", broken);
    let zst = zstd::encode_all(LINE.repeat(5_000).as_bytes(), 1).unwrap();
    let b = folder.write("b.log.zst", &zst[..zst.len() / 2]);
    let c = folder.write("c.log", LINE.as_bytes());
    let output = run(&["--in-place", &a, &b, "/nowhere/d.log", &c]);
    assert_eq!(output.status.code(), Some(2));
    for name in [&a, &b, "/nowhere/d.log"] {
        assert!(text(&output.stderr).contains(&format!("error: {name}: ")), "{}", text(&output.stderr));
    }
    is_clean(text(&output.stderr));
    assert_eq!(fs::read(a).unwrap(), broken);
    assert_eq!(fs::read(b).unwrap(), &zst[..zst.len() / 2]);
    is_clean(&fs::read_to_string(c).unwrap());
    assert_eq!(folder.names(), ["a.log.gz", "b.log.zst", "c.log"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let folder = Folder::new();
    let log = folder.write("a.log", LINE.repeat(10_000).as_bytes());
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = ipveil(&[&log]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("a.log: can't be written"), "{}", text(&output.stderr));
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
    let mut child = start(&["--follow", "--as", "word=X", "-o", log.to_str().unwrap(), fifo.to_str().unwrap()]);
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
    let mut child = start(&["--follow", "--as", "word=X", "-o", log.to_str().unwrap(), fifo.to_str().unwrap()]);
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
    let mut child = ipveil(&["--follow"]).stdin(Stdio::piped()).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
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
    let mut child = start(&[&log, fifo.to_str().unwrap()]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    kill("-TERM", &child);
    assert_eq!(wait(child), Some(130));

    // For whoever writes, with a file that is half done.
    let out = folder.path("out.log");
    let child = start(&["-o", out.to_str().unwrap(), fifo.to_str().unwrap()]);
    let mut writer = fs::File::options().write(true).open(&fifo).unwrap();
    writer.write_all(LINE.as_bytes()).unwrap();
    while folder.names().len() < 3 {
        thread::yield_now();
    }
    kill("-TERM", &child);
    assert_eq!(wait(child), Some(130));
    assert_eq!(folder.names(), ["a.log", "fifo"], "nothing is left behind");
}

#[cfg(unix)]
#[test]
fn a_pattern_means_files() {
    let folder = Folder::new();
    folder.write("a.log", LINE.as_bytes());
    std::os::unix::fs::symlink("a.log", folder.path("b.log")).unwrap();
    let fifo = fifo(&folder, "c.log");
    let pattern = folder.path("*.log");
    let mut child = start(&["--as", "word=X", pattern.to_str().unwrap()]);
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    assert_eq!(wait(child), Some(0));
    let (mut shown, mut said) = (String::new(), String::new());
    stdout.read_to_string(&mut shown).unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(shown.matches("X - ").count(), 2, "{shown}");
    assert!(said.contains(&format!("warning: {}: is no file, and was skipped", fifo.display())), "{said}");
    assert_eq!(run(&["--check", pattern.to_str().unwrap()]).status.code(), Some(2));
}

#[cfg(unix)]
#[track_caller]
fn kill(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// How it ended; what does not end by itself fails.
#[cfg(unix)]
#[track_caller]
fn wait(mut child: Child) -> Option<i32> {
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
fn fifo(folder: &Folder, name: &str) -> PathBuf {
    let path = folder.path(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[track_caller]
fn wait_until(path: &Path, expected: &str) {
    // A minute at most; usually a few turns.
    for _ in 0..6_000 {
        if fs::read_to_string(path).is_ok_and(|text| text == expected) {
            return;
        }
        thread::park_timeout(Duration::from_millis(10));
    }
    panic!("{} is {:?}", path.display(), fs::read_to_string(path));
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_run_leaves_every_file_old_or_new() {
    let folder = Folder::new();
    let old = LINE.repeat(300_000);
    let names: Vec<_> = (0..8).map(|number| folder.write(&format!("{number}.log"), old.as_bytes())).collect();
    let child = ipveil(&["--in-place", "--threads", "1"]).args(&names).stderr(Stdio::piped()).spawn().unwrap();
    // As soon as the first file is done.
    while fs::read(&names[0]).unwrap() == old.as_bytes() {
        thread::yield_now();
    }
    kill("-INT", &child);
    let output = child.wait_with_output().unwrap();
    let count = names
        .iter()
        .map(|name| fs::read_to_string(name).unwrap())
        .filter(|text| {
            let is_old = *text == old;
            if !is_old {
                is_clean(text);
                assert_eq!(text.lines().count(), 300_000);
            }
            is_old
        })
        .count();
    if output.status.code() != Some(0) {
        assert_eq!(output.status.code(), Some(130));
        assert!(count > 0);
    }
    assert_eq!(folder.names().len(), 8, "nothing is left behind");
}

#[test]
fn a_file_that_grows_meanwhile_stays() {
    // Through a reader that waits: what is read from standard input can't be replaced, so the file is changed before the end.
    let folder = Folder::new();
    let log = folder.write("a.log", LINE.repeat(2_000_000).as_bytes());
    let mut child = ipveil(&["--in-place", "--threads", "1", &log]).stderr(Stdio::piped()).spawn().unwrap();
    // Its other name appears when it is opened to be replaced.
    while folder.names().len() < 2 {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("it was too quick, or failed: {status}");
        }
        thread::yield_now();
    }
    fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(b"one more\n").unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(0) {
        // All of it was read, with the line that came late.
        assert!(fs::read_to_string(&log).unwrap().ends_with("one more\n"));
        return;
    }
    assert!(text(&output.stderr).contains("was written to meanwhile"), "{}", text(&output.stderr));
    assert!(fs::read_to_string(&log).unwrap().starts_with(LINE));
    assert_eq!(folder.names(), ["a.log"]);
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
    let output = run(&[pattern.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no file has such a name"));
}
