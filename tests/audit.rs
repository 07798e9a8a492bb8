//! `ipveil audit`, as people and scripts run it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

fn ipveil(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipveil"));
    command.args(arguments).stdin(Stdio::null());
    command
}

#[track_caller]
fn audit(arguments: &[&str]) -> Output {
    ipveil(&[&["audit"], arguments].concat()).output().unwrap()
}

/// The report, and the exit code.
#[track_caller]
fn report(arguments: &[&str]) -> (Value, i32) {
    let output = audit(&[&["--json"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    (report, output.status.code().unwrap())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn forms(report: &Value, list: &str) -> BTreeSet<String> {
    report[list].as_array().unwrap().iter().map(|find| find["form"].as_str().unwrap().to_owned()).collect()
}

/// A folder that is gone afterwards.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::create_dir_all(Path::new(&self.path(name)).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|place| u8::from_str_radix(&hex[place..place + 2], 16).unwrap()).collect()
}

#[test]
fn every_form_is_found_and_called_what_it_is() {
    let folder = Folder::new();
    for address in ["203.0.113.7", "2001:db8:85a3:8d3:1319:8a2e:370:7348"] {
        let known = include_str!("vectors/audit.tsv").lines().filter(|line| !line.starts_with('#'));
        let known: Vec<Vec<&str>> = known.map(|line| line.split('\t').collect()).collect();
        // Four bytes that can be printed are any four letters of any text.
        let is_word = |fields: &[&str]| {
            let bytes = bytes(fields[2]);
            bytes.len() == 4 && bytes.iter().all(|byte| (b' '..=b'~').contains(byte))
        };
        let known: Vec<_> = known.into_iter().filter(|fields| fields[0] == address && !is_word(fields)).collect();
        assert!(known.len() > 400, "{}", known.len());
        // Each in a file of its own, with a log around.
        let name = |number: usize| format!("{}/{number}.log", address.replace(':', "-"));
        for (number, fields) in known.iter().enumerate() {
            let line = [b"at 12:34:56 somebody <", bytes(fields[2]).as_slice(), b"> did it\n"].concat();
            folder.write(&name(number), &[b"nothing here\n".repeat(3).as_slice(), &line, b"and on\n"].concat());
        }
        let (report, code) = report(&["--search-only", address, "--search", &folder.path(&address.replace(':', "-"))]);
        assert_eq!(code, 1);
        let mut wrong = Vec::new();
        for (number, fields) in known.iter().enumerate() {
            let path = folder.path(&name(number));
            let found: Vec<_> =
                report["findings"].as_array().unwrap().iter().filter(|find| find["in"] == path).collect();
            let is_right = found.iter().any(|find| find["form"] == fields[1] && find["count"] == 1);
            if !is_right || found.len() != 1 {
                let found: Vec<_> = found.iter().map(|find| &find["form"]).collect();
                wrong.push(format!("{} {}: {found:?}", fields[1], fields[2]));
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), known.len(), wrong.join("\n"));
    }
}

#[test]
fn what_only_looks_like_it_is_not_found() {
    let folder = Folder::new();
    let log = folder.write(
        "a.log",
        b"203.0.113.77 1203.0.113.7 203.0.113.71 203.0.113.0/24 2001:db8::7:12 2001:db8:0:1::7:1 34058037830 acb007107 cb0071070 \
          7.113.0.2031 [203,0,113,77] 203-0-113-77 YywBxBw 0313.0.0161.070\n",
    );
    let (found, code) = report(&["--search-only", "203.0.113.7", "2001:db8:0:2::7:1", "--search", &log]);
    assert_eq!((forms(&found, "findings"), code), (BTreeSet::new(), 0));
}

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
    let mut child = ipveil(&["audit", "--json", "--search-only", "2001:db8::7", "--search", &logs, "--stdin"])
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
fn a_place_is_found_wherever_pieces_are_cut() {
    let folder = Folder::new();
    for before in [0, 200, 4090, 4096, 262_144 - 300, 262_144 - 256, 262_144 - 10, 262_144 + 3] {
        for planted in ["203.0.113.7", "cb007107", "203.0.113.7 and base64 MjAzLjAuMTEzLjc="] {
            let log = folder.write("a.log", format!("{}{planted}{}", " ".repeat(before), " ".repeat(1000)).as_bytes());
            let (report, code) = report(&["--search-only", "203.0.113.7", "--search", &log]);
            let finds = report["findings"].as_array().unwrap();
            assert_eq!(code, 1, "{before} {planted}");
            assert_eq!(finds.len(), 1 + usize::from(planted.contains("base64")), "{before} {planted}");
            assert!(finds.iter().all(|find| find["count"] == 1), "{before} {planted}");
        }
    }
}

#[test]
fn packed_bytes_are_found_in_a_text_wherever_blocks_are_cut() {
    let folder = Folder::new();
    for before in 4092..=4096 {
        for (address, packed, form) in [
            ("203.0.113.7", [203, 0, 113, 7], "packed bytes"),
            ("203.0.113.13", [0x82, 0xb2, 0x4b, 0x61], "CRC32 of the text, dotted; packed bytes"),
        ] {
            let text = [vec![b'x'; before], packed.to_vec(), vec![b'x'; 4000]].concat();
            let log = folder.write("a.log", &text);
            let (found, code) = report(&["--search-only", address, "--search", &log]);
            assert_eq!((forms(&found, "findings"), code), (BTreeSet::from([form.to_owned()]), 1), "{before}");
        }
    }
}

#[test]
fn what_chance_explains_is_possible_and_no_finding() {
    let folder = Folder::new();
    let mut state = 0x5eed_0123_4567_89ab_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()
    };
    let noise: Vec<u8> = (0..4 << 20).flat_map(|_| random()).collect();
    let addresses: Vec<_> = (1..255).map(|last| format!("203.0.113.{last}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let noisy = folder.write("noise", &noise);
    let search = |path: &str| report(&[&["--search-only"], addresses.as_slice(), &["--search", path]].concat());
    let (found, code) = search(&noisy);
    assert_eq!((forms(&found, "findings"), code), (BTreeSet::new(), 0));
    assert!(!forms(&found, "possible").is_empty());

    // A number that is the CRC32 of one address by chance may be logged twice, but not ten times.
    let numbers: String = (0..10_000).map(|_| format!("{} ", u64::from_be_bytes(random()) >> 32)).collect();
    let checksum = {
        let mut checksum = flate2::Crc::new();
        checksum.update(b"203.0.113.7");
        checksum.sum()
    };
    for (times, code) in [(2, 0), (10, 1)] {
        let log = format!("{numbers}\n{}", format!("of stream {checksum}\n").repeat(times));
        let (found, exit) = search(&folder.write("log", log.as_bytes()));
        assert_eq!(exit, code);
        let kind = if code == 0 { "possible" } else { "findings" };
        assert!(!forms(&found, kind).is_empty(), "{times}");
    }

    // More than chance explains.
    let leaks: Vec<u8> = (1..255).flat_map(|last| [203, 0, 113, last, 9, 9]).collect();
    let (found, code) = search(&folder.write("leak", &[noise, leaks].concat()));
    assert_eq!(code, 1);
    assert!(forms(&found, "findings").contains("packed bytes"));
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

    let nobody = free_port();
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

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A server that shows each request to `see`, and answers with what that makes of it.
fn serve(see: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    listen(move |stream| {
        let request = read_request(stream);
        let body = see(&request);
        let status = if request.starts_with(b"GET /0") { "404 Not Found" } else { "200 OK" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(&[head.as_bytes(), &body].concat());
    })
}

/// Does this with each connection.
fn listen(serve: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, serve) = (stream.unwrap(), Arc::clone(&serve));
            thread::spawn(move || serve(&mut stream));
        }
    });
    address
}

fn read_request(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut request = Vec::new();
    let mut part = [0; 4096];
    loop {
        let end = request.windows(4).position(|four| four == b"\r\n\r\n").map(|place| place + 4);
        let is_whole = end.is_some_and(|end| {
            let is_chunked = request[..end].to_ascii_lowercase().windows(7).any(|word| word == b"chunked");
            !is_chunked || request[end..].ends_with(b"\r\n\r\n")
        });
        if is_whole {
            return request;
        }
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return request,
            Ok(length) => request.extend_from_slice(&part[..length]),
        }
    }
}

#[test]
fn a_page_is_searched_to_its_end_or_it_is_trouble() {
    const MIB: usize = 1024 * 1024;
    let line = b"from 203.0.113.7\n";
    let page = |head: &str, size: usize| {
        let padding = " ".repeat(size - line.len());
        [b"HTTP/1.1 200 OK\r\n", head.as_bytes(), b"\r\n", padding.as_bytes(), line].concat()
    };
    // What comes again and again, or nothing and no end, and what is said then.
    let endless: &[u8] = &[b'x'; MIB];
    for (page, more, trouble) in [
        (page("", 5 * MIB), None, None),
        (page("Content-Length: 200\r\n", 200), None, None),
        (page("Content-Length: 200\r\n", 200), Some(&b""[..]), None),
        (page("Content-Length: 201\r\n", 200), None, Some("ended before its length")),
        (page("Content-Length: 201\r\n", 200), Some(b""), Some("timed out")),
        (page("", 200), Some(b""), Some("timed out")),
        (page("", 200), Some(endless), Some("is longer than 67108864 bytes")),
        (b"HTTP/1.1 200 OK\r\nX-Client: 203.0.113.7\r\n".to_vec(), None, Some("ended before its head did")),
        (page("Transfer-Encoding: chunked\r\n", 200), None, Some("came in chunks")),
    ] {
        let server = listen(move |stream| {
            read_request(stream);
            let mut sent = stream.write_all(&page);
            while let Some(more) = more.filter(|_| sent.is_ok()) {
                sent = match more {
                    // Until the other end closes.
                    b"" => stream.read(&mut [0]).and(Err(std::io::ErrorKind::NotConnected.into())),
                    more => stream.write_all(more),
                };
            }
        });
        let timeout = if more.is_some_and(<[u8]>::is_empty) { "1" } else { "60" };
        let url = format!("http://{server}/");
        let (found, code) = report(&["--search-only", "203.0.113.7", "--fetch", &url, "--timeout", timeout]);
        assert_eq!((forms(&found, "findings"), code), (BTreeSet::from(["dotted".to_owned()]), 1), "{trouble:?}");
        let said = found["trouble"].as_array().unwrap();
        assert_eq!(said.len(), usize::from(trouble.is_some()), "{said:?}, {trouble:?}");
        assert!(trouble.is_none_or(|trouble| said[0].as_str().unwrap().contains(trouble)), "{said:?}, {trouble:?}");
    }
}

/// Writes down who the client is, each time in another way.
fn leak(turn: usize, client: &str) -> (Vec<u8>, &'static str) {
    use md5::Digest as _;
    let address: std::net::IpAddr = client.parse().unwrap();
    let octets = match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    };
    let is_v4 = address.is_ipv4();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let value = octets.iter().fold(0, |value: u128, &octet| value << 8 | u128::from(octet));
    let spelling = if is_v4 { "dotted" } else { "compressed" };
    match turn % 8 {
        0 => (client.into(), spelling),
        1 => (hex(&octets).into(), "hexadecimal"),
        2 => (value.to_string().into(), "decimal integer"),
        3 => (format!("{octets:?}").into(), "array of bytes"),
        4 if is_v4 => (hex(&md5::Md5::digest(client)).into(), "MD5 of the text, dotted; hexadecimal"),
        4 => (hex(&md5::Md5::digest(client)).into(), "MD5 of the text, compressed; hexadecimal"),
        5 => (hex(&sha2::Sha256::digest(&octets)).into(), "SHA-256 of the bytes; hexadecimal"),
        6 if is_v4 => (
            twox_hash::XxHash64::oneshot(0, client.as_bytes()).to_string().into(),
            "XXH64 of the text, dotted; decimal integer",
        ),
        6 => (
            twox_hash::XxHash64::oneshot(0, client.as_bytes()).to_string().into(),
            "XXH64 of the text, compressed; decimal integer",
        ),
        _ => (octets, "packed bytes"),
    }
}

#[test]
fn a_leaky_application_is_found_out() {
    let folder = Folder::new();
    let log = folder.path("app.log");
    let file = Mutex::new((fs::OpenOptions::new().append(true).create(true).open(&log).unwrap(), 0, BTreeSet::new()));
    let file: &'static _ = Box::leak(Box::new(file));
    let application = serve(move |request| {
        let request = String::from_utf8_lossy(request).into_owned();
        let real = request.lines().find_map(|line| line.strip_prefix("x-real-ip: "));
        let (file, turn, planted) = &mut *file.lock().unwrap();
        if let Some((leak, form)) = real.map(|client| leak(*turn, client)) {
            *turn += 1;
            planted.insert(form.to_owned());
            file.write_all(&[b"GET / from ", leak.as_slice(), b" ok\n"].concat()).unwrap();
        }
        // And it tells one whole header to whoever asks.
        request.lines().find(|line| line.starts_with("true-client-ip: ")).unwrap_or("hello").into()
    });
    let target = format!("http://{application}");
    let junit = folder.path("audit.xml");
    for _ in 0..4 {
        // There are few addresses of IPv4, and the next run has the same ones for other headers.
        file.lock().unwrap().0.set_len(0).unwrap();
        let (found, code) = report(&["--target", &target, "--search", &log, "--junit", &junit]);
        assert_eq!(code, 1);
        let finds = found["findings"].as_array().unwrap();
        let answers: Vec<_> = finds.iter().filter(|find| find["in"] == "the target's answers").collect();
        assert_eq!(answers.len(), 2);
        assert!(answers.iter().all(|find| find["canary"]["path"] == "true-client-ip"));
        let logged: Vec<_> = finds.iter().filter(|find| find["in"] == log).collect();
        assert!(logged.iter().all(|find| find["canary"]["path"] == "x-real-ip"), "{logged:?}");
    }
    let (found, _) = report(&["--target", &target, "--search", &log]);
    let sent = found["sent"].as_array().unwrap();
    assert!(sent.len() > 400 && !sent.iter().any(|sent| sent["path"].to_string().contains("HTTP/2")));
    let planted = file.lock().unwrap().2.clone();
    assert!(planted.len() >= 8, "{planted:?}");

    let xml = fs::read_to_string(junit).unwrap();
    let tags = tags(&xml);
    let failed = tags.iter().filter(|tag| tag.starts_with("failure")).count();
    assert_eq!(failed, 2);
    assert!(tags.iter().any(|tag| tag.starts_with("testcase") && tag.contains("name=\"x-forwarded-for\"")));
    assert!(tags[1].contains("failures=\"2\" errors=\"0\""), "{}", tags[1]);
    assert!(xml.contains("name=\"the header &quot;X-Forwarded-For &quot;\""));
}

#[test]
fn logs_that_are_made_or_rotated_meanwhile_are_searched() {
    let folder = Folder::new();
    let log = folder.write("logs/app.log", b"started\n");
    let paths = ["logs/app.log.1", "logs/new.log", "patterns/a.log"].map(|name| folder.path(name));
    fs::create_dir(folder.path("patterns")).unwrap();
    let [rotated, made, matched] = paths.clone();
    let file = Mutex::new(fs::OpenOptions::new().append(true).open(&log).unwrap());
    let application = serve(move |request| {
        let request = String::from_utf8_lossy(request).into_owned();
        if let Some(client) = request.lines().find_map(|line| line.strip_prefix("x-real-ip: ")) {
            let mut file = file.lock().unwrap();
            if !Path::new(&rotated).exists() {
                fs::rename(&log, &rotated).unwrap();
                fs::write(&log, "started\n").unwrap();
            }
            writeln!(file, "from {client}").unwrap();
            fs::write(&made, client).unwrap();
            fs::write(&matched, client).unwrap();
        }
        b"hello".to_vec()
    });
    let pattern = folder.path("patterns/*.log");
    let (found, code) =
        report(&["--target", &format!("http://{application}"), "--search", &folder.path("logs"), &pattern]);
    let places: BTreeSet<_> =
        found["findings"].as_array().unwrap().iter().map(|find| find["in"].as_str().unwrap()).collect();
    assert_eq!((places, code), (paths.iter().map(String::as_str).collect(), 1));
    assert_eq!((&found["trouble"], &found["searched"].as_array().unwrap().len()), (&Value::Array(vec![]), &5));
}

#[test]
fn a_target_that_lets_nothing_through_is_trouble() {
    const REFUSED: &str = "answered a plain request with";
    let folder = Folder::new();
    let log = folder.write("a.log", b"nothing\n");
    // To the greeting, to requests with a header that says who somebody is, and to those with a certain one.
    for (greeting, others, one, trouble) in [
        ("200 OK", "200 OK", "200 OK", None),
        ("302 Found", "403 Forbidden", "200 OK", Some("plain requests through")),
        ("403 Forbidden", "403 Forbidden", "403 Forbidden", Some(REFUSED)),
        ("403 Forbidden", "200 OK", "200 OK", Some(REFUSED)),
        ("502 Bad Gateway", "502 Bad Gateway", "502 Bad Gateway", Some(REFUSED)),
        ("200 OK", "200 OK", "502 Bad Gateway", Some("answered 2 times with 502")),
        ("200 OK", "200 OK", "503 Service Unavailable", Some("answered 2 times with 503")),
        ("200 OK", "200 OK", "504 Gateway Timeout", Some("answered 2 times with 504")),
    ] {
        let server = listen(move |stream| {
            let request = read_request(stream);
            let request = String::from_utf8_lossy(&request);
            let status = match () {
                () if request.contains("\ntrue-client-ip: ") => one,
                // What the user gives is part of each.
                () if request.lines().count() == 5 && request.contains("\ncookie: sid=1\r\n") => greeting,
                () => others,
            };
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        });
        let target = format!("http://{server}");
        let (found, code) = report(&["--target", &target, "-H", "Cookie: sid=1", "--search", &log, "--wait", "0"]);
        let said = found["trouble"].to_string();
        assert_eq!(code, if trouble.is_some() { 2 } else { 0 }, "{said}");
        assert!(trouble.is_none_or(|trouble| said.contains(trouble)), "{trouble:?}: {said}");
    }
}

#[test]
fn an_answer_over_http_2_that_is_not_read_to_its_end_is_trouble() {
    use hyper::{Request, Response, Version, body::Incoming, service::service_fn};
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
    };

    let is_first = Arc::new(AtomicBool::new(true));
    let answer = move |request: Request<Incoming>| {
        let is_large = request.version() == Version::HTTP_2
            && !request.headers().is_empty()
            && is_first.swap(false, Ordering::SeqCst);
        let octets = bytes::Bytes::from(vec![b'x'; if is_large { 5 << 20 } else { 2 }]);
        std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::new(octets))))
    };
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(socket.local_addr().unwrap()).unwrap();
            while let Ok((stream, _)) = socket.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                });
            }
        });
    });
    let folder = Folder::new();
    let log = folder.write("a.log", b"nothing\n");
    let target = format!("http://{}", told.recv().unwrap());
    let (found, code) = report(&["--target", &target, "--search", &log, "--wait", "0"]);
    assert_eq!(code, 2);
    assert!(found["trouble"].to_string().contains("is longer than"), "{found}");
}

/// What is between angle brackets; each that is opened is closed, in order.
fn tags(xml: &str) -> Vec<String> {
    let (mut tags, mut open) = (Vec::new(), Vec::new());
    for part in xml.split('<').skip(1) {
        let (tag, text) = part.split_once('>').unwrap();
        assert!(!text.contains('&') || text.contains(';'));
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
        } else if !tag.ends_with('/') && !tag.starts_with('?') {
            open.push(tag.split(' ').next().unwrap().to_owned());
        }
        tags.push(tag.to_owned());
    }
    assert!(open.is_empty(), "{open:?}");
    tags
}

/// A proxy in front of an upstream that writes down every byte it gets, and sends it back.
struct Deployment {
    folder: Folder,
    proxy: Child,
    address: SocketAddr,
    metrics: SocketAddr,
}

impl Deployment {
    fn start(listener: &str, client: &str) -> Self {
        let folder = Folder::new();
        let got = folder.path("upstream.got");
        let file = Mutex::new(fs::File::create(got).unwrap());
        let upstream = serve(move |request| {
            file.lock().unwrap().write_all(request).unwrap();
            request.to_vec()
        });
        let (address, metrics) = (free_port(), free_port());
        let access = folder.path("access.log");
        let config = folder.write(
            "ipveil.toml",
            format!(
                "[[listener]]\naddress = \"{address}\"\n{listener}\n[client]\n{client}\n[upstream.app]\nservers = [\"http://{upstream}\"]\n\
                 [access_log]\nto = \"{access}\"\n[log]\nlevel = \"trace\"\n[admin]\nlisten = [\"{metrics}\"]\n"
            )
            .as_bytes(),
        );
        let own_log = fs::File::create(folder.path("own.log")).unwrap();
        let proxy = ipveil(&["proxy", "--config", &config]).stderr(own_log).spawn().unwrap();
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{}",
                fs::read_to_string(folder.path("own.log")).unwrap()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Self { folder, proxy, address, metrics }
    }

    /// Its report, and the exit code.
    fn audit(&self, more: &[&str]) -> (Value, i32) {
        let paths = ["access.log", "own.log", "upstream.got"].map(|name| self.folder.path(name));
        let [access, own, got] = paths.each_ref().map(String::as_str);
        let scheme = if more.contains(&"--ca") { "https" } else { "http" };
        let (target, metrics) =
            (format!("{scheme}://localhost:{}", self.address.port()), format!("http://{}/metrics", self.metrics));
        let arguments = ["--target", &target, "--search", access, own, got, "--fetch", &metrics];
        report(&[arguments.as_slice(), more].concat())
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

#[test]
fn nothing_is_found_behind_the_proxy() {
    for (listener, client, more) in [
        ("", "", &[][..]),
        ("", "source = \"x-forwarded-for\"\ntrusted = [\"127.0.0.1\"]", &[]),
        ("", "source = \"forwarded\"\ntrusted = [\"127.0.0.1\"]", &["-H", "Cookie: sid=1"]),
        ("proxy_protocol = \"required\"", "trusted = [\"loopback\"]", &["--proxy-protocol", "v2"]),
        ("proxy_protocol = \"required\"", "trusted = [\"loopback\"]", &["--proxy-protocol", "v1"]),
    ] {
        let deployment = Deployment::start(listener, client);
        let (found, code) = deployment.audit(more);
        assert_eq!(
            (&found["findings"], &found["trouble"], code),
            (&Value::Array(vec![]), &Value::Array(vec![]), 0),
            "{client}"
        );
        assert_eq!(found["searched"].as_array().unwrap().len(), 5, "{client}");
        let sent = found["sent"].as_array().unwrap();
        let in_http2 = |sent: &&Value| sent["path"].as_str().unwrap().ends_with(", in HTTP/2");
        assert!(sent.iter().filter(in_http2).count() > 150, "{client}");
        // It did get somewhere.
        let answers = found["answers"]["with status 200"].as_u64().unwrap();
        assert!(answers > 500, "{client}: {}", found["answers"]);
        let got = fs::metadata(deployment.folder.path("upstream.got")).unwrap().len();
        assert!(got > 30_000, "{client}: {got}");
        assert!(fs::metadata(deployment.folder.path("own.log")).unwrap().len() > 10_000);
    }
}

#[test]
fn nothing_is_found_behind_tls() {
    let folder = Folder::new();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = folder.write("chain.pem", own.cert.pem().as_bytes());
    let key = folder.write("key.pem", own.signing_key.serialize_pem().as_bytes());
    let tls = format!("[listener.tls]\ncertificates = [{{ chain = {chain:?}, key = {key:?} }}]");
    let deployment = Deployment::start(&tls, "source = \"x-forwarded-for\"\ntrusted = [\"127.0.0.1\"]");
    let process = deployment.proxy.id().to_string();
    let (found, code) = deployment.audit(&["--ca", &chain, "--pid", &process]);
    assert_eq!(found["findings"], Value::Array(vec![]));
    assert!(found["answers"]["with status 200"].as_u64().unwrap() > 500, "{}", found["answers"]);
    assert!(code == 0 || found["trouble"].to_string().contains("CAP_SYS_PTRACE"), "{}", found["trouble"]);

    // Whom nobody vouches for is not talked to.
    let output = audit(&["--target", &format!("https://{}", deployment.address), "--search", &chain]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("can't be reached"), "{}", text(&output.stderr));
}

#[test]
fn what_a_query_says_reaches_the_application_and_not_the_log() {
    let deployment = Deployment::start("", "");
    let (found, code) = deployment.audit(&["--query", "ip"]);
    assert_eq!(code, 1);
    for find in found["findings"].as_array().unwrap() {
        assert_eq!(find["canary"]["path"], "the query's ip");
        assert!(
            find["in"] == "the target's answers" || find["in"] == deployment.folder.path("upstream.got").as_str(),
            "{find}"
        );
    }
}

#[test]
fn no_address_is_left_in_the_proxys_memory() {
    for (listener, client, more) in [
        ("", "source = \"x-forwarded-for\"\ntrusted = [\"127.0.0.1\"]", &[][..]),
        ("proxy_protocol = \"required\"", "trusted = [\"loopback\"]", &["--proxy-protocol", "v2"]),
    ] {
        let deployment = Deployment::start(listener, client);
        let process = deployment.proxy.id().to_string();
        let (found, code) = deployment.audit(&[&["--pid", &process], more].concat());
        if found["trouble"].to_string().contains("CAP_SYS_PTRACE") {
            return;
        }
        // All connections are closed.
        assert_eq!((&found["findings"], &found["trouble"], code), (&Value::Array(vec![]), &Value::Array(vec![]), 0));
    }
}
