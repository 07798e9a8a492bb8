//! What applications do with requests that have addresses in them.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::Value;

use crate::{
    folder::Folder,
    report::{forms, report},
    server::{listen, read_request, serve},
};

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
