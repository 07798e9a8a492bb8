//! What is read as a request is one, for both sides: it arrives as one request, whole, or is refused.

use std::fmt::Write as _;

use crate::{
    client::{Message, ask, connect, get},
    edge::{before, start},
    server::{BROKEN, OK, answer, yes},
};

/// What becomes of some bytes.
enum Becomes {
    /// An answer of the proxy's own, and nothing behind it.
    Refused(&'static [u16]),
    /// Requests: method and path, and body.
    Requests(&'static [(&'static str, &'static str)]),
    /// One or the other.
    Either(&'static [u16], &'static [(&'static str, &'static str)]),
}

use Becomes::{Either, Refused, Requests};

const BAD: &[u16] = &[400];

#[test]
fn a_request_arrives_as_one_or_not_at_all() {
    let server = yes();
    let edge = start(&before(server.address));
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: example.com\r\n\r\n";
    let post = |headers: &str, body: &str| format!("POST /a HTTP/1.1\r\nhost: example.com\r\n{headers}\r\n{body}");
    let cases = [
        ("a length", post("content-length: 5\r\n", "hello"), Requests(&[("POST /a", "hello")])),
        (
            "chunks",
            post("transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            Requests(&[("POST /a", "hello")]),
        ),
        // RFC 9112, 6.3: the coding counts, and the connection is not used again; or it is refused.
        (
            "both",
            post("content-length: 6\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\nX"),
            Either(BAD, &[("POST /a", "")]),
        ),
        (
            "both, the other way round",
            post("transfer-encoding: chunked\r\ncontent-length: 4\r\n", &format!("0\r\n\r\n{smuggled}")),
            Either(BAD, &[("POST /a", "")]),
        ),
        (
            "a coding that is not chunked",
            post("content-length: 5\r\ntransfer-encoding: xchunked\r\n", "hello"),
            Refused(BAD),
        ),
        (
            "chunked, and then another coding",
            post("transfer-encoding: chunked, identity\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        (
            "chunked twice",
            post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
            Either(BAD, &[("POST /a", "")]),
        ),
        (
            "a coding in capitals",
            post("Transfer-Encoding: CHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            Either(BAD, &[("POST /a", "hello")]),
        ),
        (
            "a coding between spaces",
            post("transfer-encoding: \t chunked \t\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            Either(BAD, &[("POST /a", "hello")]),
        ),
        (
            "a coding with a vertical tab",
            post("transfer-encoding: \x0bchunked\r\ncontent-length: 5\r\n", "hello"),
            Refused(BAD),
        ),
        (
            "a coding with a space before the colon",
            post("transfer-encoding : chunked\r\ncontent-length: 5\r\n", "hello"),
            Refused(BAD),
        ),
        (
            "a name with a line feed in it",
            post("x: y\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n"),
            Either(BAD, &[("POST /a", "")]),
        ),
        (
            "the same length twice",
            post("content-length: 5\r\ncontent-length: 5\r\n", "hello"),
            Either(BAD, &[("POST /a", "hello")]),
        ),
        ("two lengths", post("content-length: 5\r\ncontent-length: 6\r\n", "hello!"), Refused(BAD)),
        ("two lengths in a line", post("content-length: 5, 6\r\n", "hello!"), Refused(BAD)),
        ("a length in a list", post("content-length: 5, 5\r\n", "hello"), Either(BAD, &[("POST /a", "hello")])),
        ("a length with a sign", post("content-length: +5\r\n", "hello"), Refused(BAD)),
        ("a negative length", post("content-length: -5\r\n", "hello"), Refused(BAD)),
        ("a length in hexadecimal", post("content-length: 0x5\r\n", "hello"), Refused(BAD)),
        ("an empty length", post("content-length: \r\n", ""), Refused(BAD)),
        ("a length that is too large", post("content-length: 18446744073709551616\r\n", "hello"), Refused(BAD)),
        ("a folded line", post("x-a: b\r\n c: d\r\n", ""), Either(BAD, &[("POST /a", "")])),
        ("a folded coding", post("transfer-encoding:\r\n chunked\r\ncontent-length: 5\r\n", "hello"), Refused(BAD)),
        ("a folded first header", "GET /a HTTP/1.1\r\n host: example.com\r\n\r\n".to_owned(), Refused(BAD)),
        ("bare carriage returns", post("x-a: b\rtransfer-encoding: chunked\r\n", ""), Refused(BAD)),
        ("a zero byte in a value", post("x-a: b\0c\r\n", ""), Refused(BAD)),
        ("a zero byte in a name", post("x-\0a: b\r\n", ""), Refused(BAD)),
        ("a header without a colon", post("nothing\r\n", ""), Refused(BAD)),
        ("a header without a name", post(": nothing\r\n", ""), Refused(BAD)),
        (
            "chunk extensions",
            post("transfer-encoding: chunked\r\n", "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n"),
            Either(BAD, &[("POST /a", "hello")]),
        ),
        (
            "a chunk extension with a line feed",
            post("transfer-encoding: chunked\r\n", "5;\nhello\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        (
            "a chunk size with zeros in front",
            post("transfer-encoding: chunked\r\n", "0005\r\nhello\r\n0\r\n\r\n"),
            Either(BAD, &[("POST /a", "hello")]),
        ),
        (
            "a chunk size that is too large",
            post("transfer-encoding: chunked\r\n", "10000000000000005\r\nhello"),
            Refused(BAD),
        ),
        ("a negative chunk size", post("transfer-encoding: chunked\r\n", "-5\r\nhello\r\n0\r\n\r\n"), Refused(BAD)),
        ("a chunk size with 0x", post("transfer-encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n"), Refused(BAD)),
        ("no chunk size", post("transfer-encoding: chunked\r\n", "\r\nhello\r\n0\r\n\r\n"), Refused(BAD)),
        ("a chunk that is too long", post("transfer-encoding: chunked\r\n", "5\r\nhello!\r\n0\r\n\r\n"), Refused(BAD)),
        ("a chunk ended by a line feed", post("transfer-encoding: chunked\r\n", "5\r\nhello\n0\r\n\r\n"), Refused(BAD)),
        (
            "HTTP/1.0 with chunks",
            "POST /a HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            Refused(BAD),
        ),
        ("no host", "GET /a HTTP/1.1\r\n\r\n".to_owned(), Refused(BAD)),
        ("two hosts", get("/a", "host: example.org\r\n"), Refused(BAD)),
        ("the same host twice", get("/a", "host: example.com\r\n"), Refused(BAD)),
        ("a host with a name of a user", "GET /a HTTP/1.1\r\nhost: a@example.com\r\n\r\n".to_owned(), Refused(BAD)),
        ("a host with a path", "GET /a HTTP/1.1\r\nhost: example.com/b\r\n\r\n".to_owned(), Refused(BAD)),
        ("a host with a space", "GET /a HTTP/1.1\r\nhost: example.com b\r\n\r\n".to_owned(), Refused(BAD)),
        ("a target with a space", "GET /a b HTTP/1.1\r\nhost: example.com\r\n\r\n".to_owned(), Refused(BAD)),
        ("a line feed for each end of a line", get("/a", "").replace("\r\n", "\n"), Either(BAD, &[("GET /a", "")])),
        ("another version", "GET /a HTTP/1.2\r\nhost: example.com\r\n\r\n".to_owned(), Refused(&[400, 505])),
        ("an old version", "GET /a\r\n".to_owned(), Refused(BAD)),
        ("CONNECT", "CONNECT example.com:80 HTTP/1.1\r\nhost: example.com:80\r\n\r\n".to_owned(), Refused(&[405])),
        ("pipelining", get("/a", "") + &get("/b", ""), Requests(&[("GET /a", ""), ("GET /b", "")])),
        (
            "pipelining after a body",
            post("content-length: 5\r\n", "hello") + &get("/b", ""),
            Requests(&[("POST /a", "hello"), ("GET /b", "")]),
        ),
        ("a body of GET", get("/a", "content-length: 5\r\n") + "hello", Requests(&[("GET /a", "hello")])),
        (
            "chunks of GET",
            get("/a", "transfer-encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n",
            Requests(&[("GET /a", "hello")]),
        ),
        ("a first line that is empty", "\r\n".to_owned() + &get("/a", ""), Either(BAD, &[("GET /a", "")])),
        (
            "a body of a request that asks for another protocol",
            get("/a", "connection: upgrade\r\nupgrade: x\r\ncontent-length: 5\r\n") + "hello",
            Either(BAD, &[("GET /a", "hello")]),
        ),
        (
            "chunks of a request that asks for another protocol",
            get("/a", "connection: upgrade\r\nupgrade: x\r\ntransfer-encoding: chunked\r\n")
                + "5\r\nhello\r\n0\r\n\r\n",
            Either(BAD, &[("GET /a", "hello")]),
        ),
        (
            "a length that Connection names",
            post("connection: content-length\r\ncontent-length: 5\r\n", "hello"),
            Requests(&[("POST /a", "hello")]),
        ),
        (
            "a coding that Connection names",
            post("connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            Requests(&[("POST /a", "hello")]),
        ),
    ];
    let mut wrong = String::new();
    for (index, (name, bytes, becomes)) in cases.into_iter().enumerate() {
        let own = |text: &str| text.replace("/a", &format!("/a{index}"));
        let mut client = connect(edge.port);
        client.send(own(&bytes));
        let mut statuses: Vec<_> = client.try_answer("GET").ok().flatten().iter().map(Message::status).collect();
        // Whatever is left open is asked once more, so that nothing can wait in between.
        client.send(get("/next", "connection: close\r\n"));
        while let Ok(Some(answer)) = client.try_answer("GET") {
            statuses.push(answer.status());
        }
        let requests = server.requests();
        let at = requests.iter().position(|request| request.start.contains(&own("/a ")));
        let requests: Vec<_> = requests[at.unwrap_or(requests.len())..]
            .iter()
            .filter(|request| !request.start.starts_with("GET /next "))
            .collect();
        let is_refused = |allowed: &[u16]| {
            // Half a request may arrive before its body turns out to be malformed.
            allowed.contains(&statuses[0]) && requests.iter().all(|request| request.start.ends_with(BROKEN))
        };
        let are = |expected: &[(&str, &str)]| {
            let expected = expected.iter().map(|(start, body)| (own(start) + " HTTP/1.1", body.as_bytes()));
            let read = requests.iter().map(|request| (request.start.clone(), &*request.body));
            read.eq(expected) && statuses.iter().all(|&status| status == 200)
        };
        let is_well = !statuses.is_empty()
            && match becomes {
                Refused(allowed) => is_refused(allowed),
                Requests(expected) => are(expected),
                Either(allowed, expected) => is_refused(allowed) || are(expected),
            };
        if !is_well {
            writeln!(wrong, "{name}: {statuses:?} {requests:?}").unwrap();
        }
        for request in requests {
            let has = |name| !request.values(name).is_empty();
            assert!(!(has("content-length") && has("transfer-encoding")), "{name}: {request:?}");
            assert!(request.values("content-length").len() < 2, "{name}: {request:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let server = yes();
    let edge = start(&(before(server.address) + "[limits]\nheaders = 20\nheader_bytes = 16384\n"));
    let long = "x".repeat(20_000);
    assert_eq!(ask(edge.port, get("/", &format!("x-long: {long}\r\n"))).status(), 431);
    assert_eq!(ask(edge.port, get("/", &format!("{long}: x\r\n"))).status(), 431);
    assert_eq!(ask(edge.port, get("/", &"x-a: b\r\n".repeat(21))).status(), 431);
    let target = ask(edge.port, get(&format!("/{long}"), "")).status();
    assert!(matches!(target, 414 | 431), "{target}");
    assert_eq!(server.requests(), []);
    assert_eq!(ask(edge.port, get("/", &"x-a: b\r\n".repeat(10))).status(), 200);
}

#[test]
fn what_connection_names_goes_no_further_but_for_what_is_needed() {
    let server = yes();
    let edge = start(&before(server.address));
    let headers = "x-one: 1\r\nx-two: 2\r\nx-three: 3\r\ncookie: sid=1\r\nauthorization: b\r\nkeep-alive: 5\r\n\
                   proxy-connection: x\r\nproxy-authorization: secret\r\nte: gzip, trailers\r\n";
    for connection in [
        "x-one, X-Two, x-three",
        "x-one,x-two,,x-three, x-forwarded-for, cookie, host, content-length, authorization",
        "x-one\r\nconnection: x-two\r\nConnection: x-three",
    ] {
        ask(edge.port, get("/", &format!("connection: {connection}\r\n{headers}")));
        let request = server.last();
        for gone in ["connection", "x-one", "x-two", "x-three", "keep-alive", "proxy-connection", "proxy-authorization"]
        {
            assert_eq!(request.value(gone), None, "{connection:?}");
        }
        for (name, value) in [("host", "example.com"), ("cookie", "sid=1"), ("authorization", "b"), ("te", "trailers")]
        {
            assert_eq!(request.value(name), Some(value), "{connection:?}");
        }
        assert!(request.value("x-forwarded-for").unwrap().starts_with("2001:2"), "{request:?}");
    }
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn an_answer_has_nothing_of_the_connection_behind() {
    let server = answer(
        "HTTP/1.1 200 OK\r\nconnection: x-one\r\nconnection: x-two\r\nx-one: 1\r\nx-two: 2\r\nkeep-alive: timeout=9\r\n\
         proxy-connection: x\r\nx-kept: 1\r\ncontent-length: 3\r\n\r\nyes",
    );
    let edge = start(&before(server.address));
    let answer = ask(edge.port, get("/", ""));
    for gone in ["x-one", "x-two", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.value(gone), None, "{answer:?}");
    }
    assert_eq!(answer.value("x-kept"), Some("1"));
}

#[test]
fn the_target_counts_and_not_the_host_beside_it() {
    let server = yes();
    let edge = start(&before(server.address));
    let request = "GET http://example.com/a?b HTTP/1.1\r\nhost: example.org\r\n\r\n";
    assert_eq!(ask(edge.port, request).text(), "yes");
    let request = server.last();
    assert_eq!(request.start, "GET /a?b HTTP/1.1");
    assert_eq!(request.value("host"), Some("example.com"));
    assert_eq!(request.value("x-forwarded-host"), Some("example.com"));

    ask(edge.port, "OPTIONS * HTTP/1.1\r\nhost: example.com\r\n\r\n");
    assert_eq!(server.last().start, "OPTIONS * HTTP/1.1");
}

#[test]
fn bytes_after_an_answer_are_no_answer_to_the_next_request() {
    let server = answer(format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong"));
    let edge = start(&before(server.address));
    let mut client = connect(edge.port);
    for _ in 0..5 {
        client.send(get("/", ""));
        assert_eq!(client.answer().text(), "yes");
    }
}

/// A server that agreed would take whatever a client says from there on, and nobody would have looked at it.
#[test]
fn no_other_connection_of_http_leads_to_a_server() {
    let server = yes();
    let edge = start(&before(server.address));
    for offer in ["h2c", "H2C", "h2", "HTTP/2.0", "tls/1.2", ", h2c,", "h2c, TLS/1.3"] {
        let headers =
            format!("connection: Upgrade, HTTP2-Settings\r\nupgrade: {offer}\r\nhttp2-settings: AAMAAABk\r\n");
        assert_eq!(ask(edge.port, get("/", &headers)).status(), 200, "{offer}");
        let request = server.last();
        for gone in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(request.value(gone), None, "{offer}");
        }
    }
    // What else is offered, may be.
    ask(
        edge.port,
        get("/", "connection: upgrade\r\nupgrade: x, h2c\r\nupgrade: websocket\r\nhttp2-settings: AAMAAABk\r\n"),
    );
    let request = server.last();
    assert_eq!((request.value("upgrade"), request.value("http2-settings")), (Some("x, websocket"), None));
}

#[test]
fn a_target_is_never_empty_and_names_something_to_ask_for() {
    let server = yes();
    let edge = start(&before(server.address));
    for (line, seen) in [
        ("GET http://example.com", Some("GET /")),
        ("GET http://example.com?a", Some("GET /?a")),
        ("GET http://example.com/a#b", Some("GET /a")),
        ("OPTIONS *", Some("OPTIONS *")),
        ("GET http://example.com#a", Some("GET /")),
        ("GET *", None),
        ("GET example.com:80", None),
        ("GET example.com", None),
    ] {
        let answer = ask(edge.port, format!("{line} HTTP/1.1\r\nhost: example.com\r\n\r\n"));
        assert_eq!(answer.status(), if seen.is_some() { 200 } else { 400 }, "{line}");
        if let Some(seen) = seen {
            assert_eq!(server.last().start, format!("{seen} HTTP/1.1"), "{line}");
        }
    }
    assert_eq!(server.requests().len(), 5);
}

/// Without the word for it, what is behind would take the coded bytes for the body.
#[test]
fn a_coding_that_nobody_takes_back_goes_no_further() {
    let server = yes();
    let edge = start(&before(server.address));
    let request =
        "POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(ask(edge.port, request).status(), 501);
    assert!(server.requests().is_empty());
    let server = answer("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let edge = start(&before(server.address));
    assert_eq!(ask(edge.port, get("/", "te: gzip\r\n")).status(), 502);
}

#[test]
fn a_host_is_a_name_or_an_address_and_maybe_a_port() {
    let server = yes();
    let edge = start(&before(server.address));
    let hosts = [
        ("example.com", 200),
        ("example.com:80", 200),
        ("example.com:", 200),
        ("a_b.example", 200),
        ("[2001:db8::1]", 200),
        ("[::ffff:192.0.2.1]:8080", 200),
        ("[", 400),
        ("[::1", 400),
        ("[::1]x", 400),
        ("[::1]80", 400),
        ("::1]", 400),
        ("a:b", 400),
        ("a:1:2", 400),
        ("a b", 400),
        ("a@b", 400),
        ("[a_b]", 400),
    ];
    for (host, status) in hosts {
        let answer = ask(edge.port, get("/", "").replace("example.com", host));
        assert_eq!(answer.status(), status, "{host}");
    }
    // RFC 9112, 3.2: also beside a target that says it.
    assert_eq!(ask(edge.port, "GET http://example.com/ HTTP/1.1\r\n\r\n").status(), 400);
}

#[test]
fn the_length_of_what_is_not_sent_is_one_number_too() {
    for (lengths, expected) in [
        ("content-length: 3\r\ncontent-length: 3\r\n", Ok("3")),
        ("content-length: 3, 3\r\n", Ok("3")),
        ("content-length: 2\r\ncontent-length: 3\r\n", Err(502)),
        ("content-length: abc\r\n", Err(502)),
        ("content-length: \r\n", Err(502)),
    ] {
        let server = answer(format!("HTTP/1.1 200 OK\r\n{lengths}\r\n"));
        let edge = start(&before(server.address));
        let mut client = connect(edge.port);
        client.send(get("/", "").replace("GET", "HEAD"));
        let answer = client.answer_to("HEAD");
        match expected {
            Ok(length) => {
                assert_eq!((answer.status(), answer.value("content-length")), (200, Some(length)), "{lengths}")
            }
            Err(status) => assert_eq!(answer.status(), status, "{lengths}"),
        }
    }
}
