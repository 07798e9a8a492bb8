//! What becomes of files: in place, to an output, compressed, damaged, or written to meanwhile.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::Stdio,
    thread,
};

use crate::{
    folder::Folder,
    program::text,
    scrub::{LINE, fifo, gunzip, gzip, is_clean, kill, names_in, pipe, run, scrub, start, wait},
};

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
    assert_eq!(names_in(&folder), ["a.log", "b.log.gz", "c.log.zst"], "nothing is left behind");
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
    assert_eq!(names_in(&folder), ["a.log"]);
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
            assert_eq!(run(&["-o", &out, &path]).status.code(), Some(2));
            assert_eq!(pipe(&[], &bytes).status.code(), Some(2));
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(names_in(&folder), ["a.log"], "nothing is left behind");
            assert_ne!(run(&["--check", "--binary", &path]).status.code(), Some(2));
        }
    }
    // A hole may be anywhere: where the system went down, or pieces of a file were given back.
    let path = folder.write("hole.log", &[LINE.as_bytes(), &[0; 200_000], LINE.as_bytes(), &[0; 4096]].concat());
    assert_eq!(run(&["--check", &path]).status.code(), Some(1));
    assert_eq!(run(&["--in-place", &path]).status.code(), Some(0));
    is_clean(&fs::read_to_string(&path).unwrap());
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
    assert_eq!(run(&["--in-place", &folder.path("link")]).status.code(), Some(0));
    assert!(fs::symlink_metadata(folder.path("link")).unwrap().is_symlink());
    is_clean(&fs::read_to_string(&log).unwrap());
}

#[test]
fn output_goes_to_a_file_or_into_a_directory() {
    let folder = Folder::new();
    let (a, b) = (folder.write("in/a.log", LINE.as_bytes()), folder.write("in/b.log.gz", &gzip(LINE.as_bytes())));
    let target = folder.path("out.log");
    assert_eq!(run(&["--output", &target, &a]).status.code(), Some(0));
    is_clean(&fs::read_to_string(&target).unwrap());
    let directory = folder.path("out");
    let output = run(&["-o", &directory, &a, &b]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("expected one for several inputs"), "{}", text(&output.stderr));
    fs::create_dir(&directory).unwrap();
    let output = run(&["-o", &directory, &a, &a]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("another input has the same name"), "{}", text(&output.stderr));
    let pattern = folder.path("in/*");
    assert_eq!(run(&["-o", &directory, &pattern]).status.code(), Some(0));
    is_clean(&fs::read_to_string(folder.path("out/a.log")).unwrap());
    is_clean(&gunzip(&fs::read(folder.path("out/b.log.gz")).unwrap()));
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
        let output = run(&["-o", &link, &log]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
    let shown = fs::read_to_string(real).unwrap();
    is_clean(&shown);
    assert!(shown.contains("GET / HTTP/1.1"), "{shown}");
    // What a link is to lead to is nobody's to guess.
    symlink("nowhere", folder.path("broken")).unwrap();
    assert_eq!(run(&["-o", &folder.path("broken"), &log]).status.code(), Some(2));

    let fifo = fifo(&folder, "fifo");
    // Open in both directions, so that nobody waits.
    let mut reader = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    assert_eq!(run(&["--as", "word=X", "-o", &fifo, &log]).status.code(), Some(0));
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    let mut start = [0; 4];
    reader.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"X - ");
    assert_eq!(names_in(&folder), ["a.log", "broken", "fifo", "link", "null", "real.log"]);
}

#[cfg(unix)]
#[test]
fn output_keeps_the_mode_of_a_file_and_a_new_one_is_not_for_all() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = Folder::new();
    let log = folder.write("a.log", LINE.as_bytes());
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let out = folder.path("out.log");
    assert_eq!(run(&["-o", &out, &log]).status.code(), Some(0));
    assert_eq!(mode(&out), 0o640);
    for kept in [0o640, 0o604] {
        fs::set_permissions(&out, fs::Permissions::from_mode(kept)).unwrap();
        assert_eq!(run(&["-o", &out, &log]).status.code(), Some(0));
        assert_eq!(mode(&out), kept);
    }
    let followed = folder.path("followed.log");
    assert_eq!(run(&["--follow", "-o", &followed]).status.code(), Some(0));
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
    let append = || fs::OpenOptions::new().append(true).open(&log).unwrap();
    for (arguments, output) in [
        (&["-o", &log, &log][..], Stdio::null()),
        (&["-o", &other, &log], Stdio::null()),
        (&["-o", &directory, &log], Stdio::null()),
        (&["--follow", "-o", &other, &log], Stdio::null()),
        (&[&log], append().into()),
        (&["--follow", &log], append().into()),
        (&["-"], append().into()),
        (&["-o", &log], Stdio::null()),
    ] {
        let input = fs::File::open(&log).unwrap();
        let output = scrub(arguments).stdin(input).stdout(output).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains("is one of the inputs") && said.contains("--in-place"), "{arguments:?}: {said}");
        assert_eq!(fs::read_to_string(&log).unwrap(), LINE, "{arguments:?}");
    }
    // What only looks may write where it likes.
    assert_eq!(scrub(&["--check", &log]).stdout(append()).output().unwrap().status.code(), Some(1));
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
    assert_eq!(names_in(&folder), ["a.log.gz", "b.log.zst", "c.log"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let folder = Folder::new();
    let log = folder.write("a.log", LINE.repeat(10_000).as_bytes());
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = scrub(&[&log]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("a.log: can't be written"), "{}", text(&output.stderr));
}

#[cfg(unix)]
#[test]
fn a_pattern_means_files() {
    let folder = Folder::new();
    folder.write("a.log", LINE.as_bytes());
    std::os::unix::fs::symlink("a.log", folder.path("b.log")).unwrap();
    let fifo = fifo(&folder, "c.log");
    let pattern = folder.path("*.log");
    let mut child = start(&["--as", "word=X", &pattern]);
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    assert_eq!(wait(child), Some(0));
    let (mut shown, mut said) = (String::new(), String::new());
    stdout.read_to_string(&mut shown).unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(shown.matches("X - ").count(), 2, "{shown}");
    assert!(said.contains(&format!("warning: {fifo}: is no file, and was skipped")), "{said}");
    assert_eq!(run(&["--check", &pattern]).status.code(), Some(2));
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_run_leaves_every_file_old_or_new() {
    let folder = Folder::new();
    let old = LINE.repeat(300_000);
    let names: Vec<_> = (0..8).map(|number| folder.write(&format!("{number}.log"), old.as_bytes())).collect();
    let child = scrub(&["--in-place", "--threads", "1"]).args(&names).stderr(Stdio::piped()).spawn().unwrap();
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
    assert_eq!(names_in(&folder).len(), 8, "nothing is left behind");
}

#[test]
fn a_file_that_grows_meanwhile_stays() {
    // Through a reader that waits: what is read from standard input can't be replaced, so the file is changed before the end.
    let folder = Folder::new();
    let log = folder.write("a.log", LINE.repeat(2_000_000).as_bytes());
    let mut child = scrub(&["--in-place", "--threads", "1", &log]).stderr(Stdio::piped()).spawn().unwrap();
    // Its other name appears when it is opened to be replaced.
    while names_in(&folder).len() < 2 {
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
    assert_eq!(names_in(&folder), ["a.log"]);
}
