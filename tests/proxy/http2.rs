//! HTTP/2 on either side, and a protocol of the other version behind it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts,
};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    ext::Protocol,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    client::{Otherwise, ask, connect, get},
    edge::{SOON, before, start},
    server::{OK, answer, serve, yes},
};

pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// Runs what does not block, and not for ever.
#[track_caller]
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    RUNTIME.block_on(async { timeout(SOON, future).await.expect("it does not happen") })
}

pub(crate) async fn connect_h2(port: u16) -> SendRequest<Body> {
    over(TcpStream::connect(("127.0.0.1", port)).await.unwrap()).await
}

pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> SendRequest<Body> {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn body(parts: &[&'static str], trailers: &[(&'static str, &'static str)]) -> Body {
    let mut frames: Vec<_> = parts.iter().map(|part| Ok(Frame::data(Bytes::from(*part)))).collect();
    if !trailers.is_empty() {
        let trailers =
            trailers.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        frames.push(Ok(Frame::trailers(trailers.collect())));
    }
    BoxBody::new(StreamBody::new(tokio_stream::iter(frames)))
}

/// A body that goes on as long as somebody sends.
fn channel() -> (mpsc::Sender<Result<Frame<Bytes>, Infallible>>, Body) {
    let (sender, receiver) = mpsc::channel(16);
    (sender, BoxBody::new(StreamBody::new(ReceiverStream::new(receiver))))
}

fn data(text: &'static str) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from(text)))
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://example.com{path}")).version(Version::HTTP_2)
}

async fn text(response: Response<Incoming>) -> (StatusCode, String, Option<HeaderMap>) {
    let status = response.status();
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    (status, String::from_utf8(collected.to_bytes().to_vec()).unwrap(), trailers)
}

async fn text_of(response: Response<Incoming>) -> String {
    text(response).await.1
}

/// A request, its body and its trailers.
type Heard = (Parts, Bytes, Option<HeaderMap>);

/// A server of HTTP/2 without TLS.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Heard>>>,
}

impl Server {
    /// Hears all of a request, and says yes, with a trailer; also to other protocols, which then end.
    pub(crate) fn yes() -> Self {
        let requests = Arc::<Mutex<Vec<_>>>::default();
        let heard = Arc::clone(&requests);
        let address = serve_connect(move |request| {
            let heard = Arc::clone(&heard);
            async move {
                let (parts, request) = request.into_parts();
                let request = request.collect().await.map_err(|_| "broken")?;
                let trailers = request.trailers().cloned();
                heard.lock().unwrap().push((parts, request.to_bytes(), trailers));
                Ok(Response::new(body(&["yes"], &[("x-sum", "7")])))
            }
        });
        Self { address, requests }
    }

    /// All that it has heard, as text.
    pub(crate) fn heard(&self) -> String {
        format!("{:?}", self.requests.lock().unwrap())
    }

    #[track_caller]
    fn last(&self) -> Heard {
        self.requests.lock().unwrap().pop().unwrap()
    }
}

pub(crate) fn serve_h2<F>(each: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> SocketAddr
where
    F: Future<Output = Result<Response<Body>, &'static str>> + Send + 'static,
{
    serve_as(http2::Builder::new(TokioExecutor::new()), each)
}

/// A server that may be asked for other protocols.
fn serve_connect<F>(each: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> SocketAddr
where
    F: Future<Output = Result<Response<Body>, &'static str>> + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.enable_connect_protocol();
    serve_as(builder, each)
}

fn serve_as<F>(
    builder: http2::Builder<TokioExecutor>,
    each: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = Result<Response<Body>, &'static str>> + Send + 'static,
{
    run(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let service = service_fn(each.clone());
                tokio::spawn(builder.clone().serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    })
}

fn before_h2(address: SocketAddr) -> String {
    before(address).replace("http://", "h2c://")
}

#[test]
fn a_client_of_http_2_asks_a_server_of_http_1() {
    let server = answer(
        "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\nconnection: x-one\r\nx-one: 1\r\ntransfer-encoding: chunked\r\n\r\n\
         3\r\nyes\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    let edge = start(&before(server.address));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = request(Method::POST, "/a?b")
            .header("cookie", "a=1")
            .header("cookie", "sid=2")
            .header("te", "trailers")
            .header("trailer", "x-sum, x-real-ip")
            .body(body(&["hel", "lo"], &[("x-sum", "9"), ("x-real-ip", "203.0.113.7")]));
        let response = sender.send_request(asked.unwrap()).await.unwrap();
        assert!(!response.headers().contains_key("connection") && !response.headers().contains_key("x-one"));
        let (status, said, trailers) = text(response).await;
        assert_eq!((status, &*said), (StatusCode::OK, "yes"));
        assert_eq!(trailers.unwrap()["x-sum"], "7");
    });
    let heard = server.last();
    assert_eq!((&*heard.start, heard.text()), ("POST /a?b HTTP/1.1", "hello"));
    for (name, value) in
        [("host", "example.com"), ("via", "2.0 ipveil"), ("te", "trailers"), ("x-forwarded-host", "example.com")]
    {
        assert_eq!(heard.value(name), Some(value));
    }
    // RFC 9113, 8.2.3: pieces are put together for who knows only one header.
    assert_eq!(heard.values("cookie"), ["a=1; sid=2"]);
    assert_eq!(heard.trailers, [("x-sum".to_owned(), "9".to_owned())]);
    assert!(edge.lines_when(1)[0].contains("\"POST /a?b HTTP/2.0\" 200 3 "));
}

#[test]
fn cookies_in_pieces_are_the_same_session() {
    let server = yes();
    let edge = start(&before(server.address));
    let pseudonym = || server.last().value("x-forwarded-for").unwrap().to_owned();
    ask(edge.port, get("/", "cookie: a=1; sid=2\r\n"));
    let whole = pseudonym();
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = request(Method::GET, "/").header("cookie", "a=1").header("cookie", "sid=2").body(body(&[], &[]));
        sender.send_request(asked.unwrap()).await.unwrap();
    });
    assert_eq!(pseudonym(), whole);
}

#[test]
fn a_client_of_http_1_asks_a_server_of_http_2() {
    let server = Server::yes();
    let edge = start(&before_h2(server.address));
    let answer = ask(
        edge.port,
        "POST /a?b HTTP/1.1\r\nhost: example.com\r\nconnection: x-one\r\nx-one: 1\r\nkeep-alive: 5\r\nte: trailers\r\n\
         trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 9\r\nx-real-ip: 203.0.113.7\r\n\r\n",
    );
    assert_eq!((answer.status(), answer.text()), (200, "yes"));
    let (parts, heard, trailers) = server.last();
    assert_eq!(parts.uri, "http://example.com/a?b");
    for gone in ["connection", "x-one", "keep-alive", "transfer-encoding", "host"] {
        assert!(!parts.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(parts.headers["via"], "1.1 ipveil");
    assert!(parts.headers["x-forwarded-for"].to_str().unwrap().starts_with("2001:2"));
    assert_eq!(&*heard, b"hello");
    let trailers = trailers.unwrap();
    assert_eq!((trailers["x-sum"].as_bytes(), trailers.len()), (&b"9"[..], 1));
    // All kinds of targets.
    assert_eq!(ask(edge.port, get("http://example.org/x", "")).text(), "yes");
    assert_eq!(server.last().0.uri, "http://example.org/x");
    assert_eq!(ask(edge.port, "HEAD / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n").status(), 200);
    assert_eq!(ask(edge.port, "GET / HTTP/1.0\r\n\r\n").text(), "yes");
}

#[test]
fn one_connection_has_many_requests_at_a_time() {
    let server = Server::yes();
    let edge = start(&before_h2(server.address));
    run(async {
        let sender = connect_h2(edge.port).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let mut sender = sender.clone();
            tasks.spawn(async move {
                let asked = request(Method::POST, "/").body(body(&["hello"], &[])).unwrap();
                text(sender.send_request(asked).await.unwrap()).await
            });
        }
        while let Some(answer) = tasks.join_next().await {
            let (status, said, _) = answer.unwrap();
            assert_eq!((status, &*said), (StatusCode::OK, "yes"));
        }
    });
    assert_eq!(server.requests.lock().unwrap().len(), 200);
}

/// Says back whatever it hears, as it hears it.
fn echo() -> SocketAddr {
    serve_h2(async |request: Request<Incoming>| {
        let (sender, said) = channel();
        tokio::spawn(async move {
            let mut heard = request.into_body();
            while let Some(Ok(frame)) = heard.frame().await {
                if sender.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(said))
    })
}

#[test]
fn both_sides_may_speak_at_once() {
    let edge = start(&before_h2(echo()));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let (say, said) = channel();
        say.send(data("first")).await.unwrap();
        let mut answer = sender.send_request(request(Method::POST, "/").body(said).unwrap()).await.unwrap().into_body();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        for text in ["one", "two", "three"] {
            say.send(data(text)).await.unwrap();
            assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), text);
        }
        drop(say);
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "");
    });
}

#[test]
fn large_bodies_pass() {
    const PIECES: usize = 500;
    static PIECE: [u8; 1 << 15] = [b'x'; 1 << 15];
    let edge = start(&before_h2(echo()));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let (say, said) = channel();
        tokio::spawn(async move {
            for _ in 0..PIECES {
                say.send(Ok(Frame::data(Bytes::from_static(&PIECE)))).await.unwrap();
            }
        });
        let answer = sender.send_request(request(Method::POST, "/").body(said).unwrap()).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), PIECES * PIECE.len());
    });
}

#[test]
fn a_web_socket_over_http_2_becomes_an_upgrade() {
    let server = serve(|_, mut client| {
        let mut asked = client.head().unwrap().unwrap();
        if asked.start == "GET / HTTP/1.1" {
            client.send(OK);
            asked = client.head().unwrap().unwrap();
        }
        assert_eq!(asked.start, "GET /chat HTTP/1.1");
        assert_eq!((asked.value("connection"), asked.value("upgrade")), (Some("upgrade"), Some("websocket")));
        assert_eq!(asked.value("sec-websocket-key").unwrap().len(), 24);
        assert_eq!(asked.value("sec-websocket-version"), Some("13"));
        assert!(asked.value("x-forwarded-for").unwrap().starts_with("2001:2"));
        client.send(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: x\r\n\r\n",
        );
        for _ in 0..3 {
            let said = client.exactly(4).unwrap();
            client.send(said);
        }
    });
    let edge = start(&before(server.address));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        // With its first answer the proxy has said that it may be asked so.
        sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        let asked = request(Method::CONNECT, "/chat")
            .header("sec-websocket-version", "13")
            .header("x-real-ip", "203.0.113.7")
            .extension(Protocol::from_static("websocket"))
            .body(body(&[], &[]));
        let response = sender.send_request(asked.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        for gone in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!response.headers().contains_key(gone), "{gone}");
        }
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        for text in [b"ping", b"pong", b"\0\r\n\xff"] {
            io.write_all(text).await.unwrap();
            let mut heard = [0; 4];
            io.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, text);
        }
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    });
    assert!(edge.lines_when(2)[1].contains("\"CONNECT /chat HTTP/2.0\" 200 "));
}

/// A server of HTTP/2 that agrees to any protocol, and then says back what it hears.
pub(crate) async fn agree(mut request: Request<Incoming>) -> Result<Response<Body>, &'static str> {
    if request.method() != Method::CONNECT {
        return Ok(Response::new(body(&["yes"], &[])));
    }
    assert!(request.extensions().get::<Protocol>().is_some());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut hears, mut says) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
        let _ = tokio::io::copy(&mut hears, &mut says).await;
        let _ = says.shutdown().await;
    });
    Ok(Response::new(body(&[], &[])))
}

/// The handshake of RFC 6455, 1.3, and what comes of it.
pub(crate) const HANDSHAKE: &str = "connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: chat\r\n";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn connect_request(path: &str) -> Request<Body> {
    let asked = request(Method::CONNECT, path).header("sec-websocket-version", "13");
    asked.extension(Protocol::from_static("websocket")).body(body(&[], &[])).unwrap()
}

#[test]
fn a_web_socket_over_http_1_becomes_a_connect() {
    let (say, said) = std::sync::mpsc::channel();
    let edge = start(&before_h2(serve_connect(move |request| {
        let protocol = request.extensions().get::<Protocol>().cloned();
        let _ = say.send((request.uri().to_string(), request.headers().clone(), protocol));
        agree(request)
    })));
    let mut client = connect(edge.port);
    client.send(get("/chat?a", &(HANDSHAKE.to_owned() + "content-length: 0\r\n")) + "early");
    let answer = client.answer();
    assert_eq!(answer.start, "HTTP/1.1 101 Switching Protocols");
    assert_eq!((answer.value("connection"), answer.value("upgrade")), (Some("upgrade"), Some("WebSocket")));
    assert_eq!(answer.value("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(answer.value("content-length"), None);
    assert_eq!(client.exactly(5).unwrap(), b"early");
    let long = "x".repeat(1 << 20);
    for said in ["ping", "\0\r\n\r\n", &long] {
        client.send(said);
        assert_eq!(client.exactly(said.len()).unwrap(), said.as_bytes());
    }
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.rest(), b"");
    let (uri, headers, protocol) = said.recv().unwrap();
    assert_eq!((&*uri, protocol.unwrap().as_str()), ("http://example.com/chat?a", "websocket"));
    for gone in ["connection", "upgrade", "sec-websocket-key", "content-length", "host"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    for (name, value) in [("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat"), ("via", "1.1 ipveil")] {
        assert_eq!(headers[name], value);
    }
    assert!(headers["x-forwarded-for"].to_str().unwrap().starts_with("2001:2"));
    assert!(edge.lines_when(1)[0].contains("\"GET /chat?a HTTP/1.1\" 101 "));
}

#[test]
fn a_web_socket_over_http_2_stays_a_connect() {
    // With as many streams on a connection as one WebSocket takes.
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.enable_connect_protocol().max_concurrent_streams(1);
    let edge = start(&before_h2(serve_as(builder, async |request| {
        let mut response = agree(request).await?;
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
        Ok(response)
    })));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        // The proxy has said that it may be asked so, when it has said anything.
        sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        let response = sender.send_request(connect_request("/chat")).await.unwrap();
        assert_eq!(
            (response.status(), response.headers()["sec-websocket-protocol"].as_bytes()),
            (StatusCode::OK, &b"chat"[..])
        );
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        for text in [b"ping", b"pong", b"\0\r\n\xff"] {
            io.write_all(text).await.unwrap();
            let mut heard = [0; 4];
            io.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, text);
            // It is in nobody's way.
            let other = sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
            assert_eq!(text_of(other).await, "yes");
        }
        io.shutdown().await.unwrap();
        assert_eq!(io.read(&mut [0; 4]).await.unwrap(), 0);
    });
    assert!(edge.lines_when(5).iter().any(|line| line.contains("\"CONNECT /chat HTTP/2.0\" 200 ")));
}

#[test]
fn a_server_that_takes_no_connect_is_not_asked() {
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let edge = start(&before_h2(serve_h2(move |_| {
        count.fetch_add(1, SeqCst);
        async { Ok(Response::new(body(&["yes"], &[]))) }
    })));
    let mut client = connect(edge.port);
    client.send(get("/", HANDSHAKE));
    assert_eq!(client.answer().status(), 501);
    client.send(get("/", ""));
    assert_eq!(client.answer().text(), "yes");
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let next = request(Method::GET, "/").body(body(&[], &[])).unwrap();
        assert_eq!(sender.send_request(connect_request("/")).await.unwrap().status(), StatusCode::NOT_IMPLEMENTED);
        assert_eq!(text_of(sender.send_request(next).await.unwrap()).await, "yes");
    });
    assert_eq!(asked.load(SeqCst), 2);
}

#[test]
fn a_server_may_refuse_a_connect() {
    let edge = start(&before_h2(serve_connect(async |request: Request<Incoming>| {
        let mut response = Response::new(body(&["not ", "you"], &[]));
        if request.method() == Method::CONNECT {
            *response.status_mut() = StatusCode::FORBIDDEN;
        }
        Ok(response)
    })));
    let mut client = connect(edge.port);
    for (headers, status) in [(HANDSHAKE, 403), ("", 200), (HANDSHAKE, 403)] {
        client.send(get("/", headers));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text(), answer.value("upgrade")), (status, "not you", None));
    }
    run(async {
        let mut sender = connect_h2(edge.port).await;
        for _ in 0..2 {
            let response = sender.send_request(connect_request("/")).await.unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            assert_eq!(text_of(response).await, "not you");
        }
    });
}

#[test]
fn an_answer_that_is_no_agreement_is_not_taken_for_one() {
    let ignores = yes();
    let other = serve_connect(async |_| {
        let mut response = Response::new(body(&["yes"], &[]));
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    });
    for (config, status) in [(before(ignores.address), 200), (before_h2(other), 202)] {
        let edge = start(&config);
        run(async {
            let mut sender = connect_h2(edge.port).await;
            // To a client of HTTP/2 any success would say that its protocol is spoken from here on.
            assert_eq!(sender.send_request(connect_request("/")).await.unwrap().status(), StatusCode::BAD_GATEWAY);
        });
        let answer = ask(edge.port, get("/", HANDSHAKE));
        assert_eq!((answer.status(), answer.value("upgrade")), (status, None));
    }
}

#[test]
fn what_is_no_handshake_does_not_become_a_connect() {
    let edge = start(&before_h2(serve_connect(agree)));
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    for key in ["", "sec-websocket-key: x\r\n", "sec-websocket-key: dGhlIHNhbXBsZSBub25j\r\n"] {
        assert_eq!(ask(edge.port, get("/", &(upgrade.to_owned() + key))).status(), 400, "{key}");
    }
    assert_eq!(ask(edge.port, get("/", HANDSHAKE).replace("GET", "OPTIONS")).status(), 501);
    // Of other protocols nothing is known, and the first is asked for.
    let answer = ask(edge.port, get("/", "connection: upgrade\r\nupgrade: one/1, other\r\n"));
    assert_eq!((answer.status(), answer.value("upgrade")), (101, Some("one/1")));
    assert_eq!(answer.value("sec-websocket-accept"), None);
}

#[test]
fn who_never_says_whether_it_takes_a_connect_is_late() {
    let silent = serve(|_, mut client| drop(client.rest()));
    let late = serve_connect(async |_| std::future::pending().await);
    for (address, deadline) in [(silent.address, "connect"), (late, "first_byte")] {
        let edge = start(&format!("{}[deadlines]\n{deadline} = \"500ms\"\n", before_h2(address)));
        assert_eq!(ask(edge.port, get("/", HANDSHAKE)).status(), 504, "{deadline}");
    }
    let (closes, no_http_2) =
        (serve(|_, _| {}), serve(|_, mut client| client.send("HTTP/1.1 400 Bad Request\r\n\r\n")));
    for server in [closes, no_http_2] {
        assert_eq!(ask(start(&before_h2(server.address)).port, get("/", HANDSHAKE)).status(), 502);
    }
}

#[test]
fn a_connect_on_which_nothing_passes_ends() {
    let edge = start(&(before_h2(serve_connect(agree)) + "[deadlines]\nupgraded_idle = \"500ms\"\n"));
    let mut client = connect(edge.port);
    client.send(get("/", HANDSHAKE));
    assert_eq!(client.answer().status(), 101);
    client.stream.set_read_timeout(Some(SOON / 2)).unwrap();
    assert!(client.is_closed());
}

#[test]
fn an_offer_of_tls_is_no_wish_for_another_protocol() {
    let web = Server::yes();
    let edge = start(&before_h2(web.address));
    let answer = ask(edge.port, get("/", "Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n"));
    assert_eq!((answer.status(), answer.text()), (200, "yes"));
    let server = yes();
    let edge = start(&before(server.address));
    let mut client = connect(edge.port);
    for _ in 0..2 {
        client.send(get("/", "Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n"));
        assert_eq!(client.answer().status(), 200);
    }
    assert!(server.requests().iter().all(|request| request.value("upgrade").is_none()));
}

#[test]
fn a_tunnel_to_anywhere_is_refused() {
    let server = yes();
    let edge = start(&before(server.address));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = Request::connect("example.com:80").body(body(&[], &[])).unwrap();
        assert_eq!(sender.send_request(asked).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    });
}

#[test]
fn a_client_that_does_not_go_on_is_late_here_too() {
    for config in [before_h2(Server::yes().address), before(crate::server::reply(|_| OK.into()).address)] {
        let edge = start(&(config + "[deadlines]\nclient_idle = \"500ms\"\n"));
        run(async {
            let mut sender = connect_h2(edge.port).await;
            let (say, said) = channel();
            say.send(data("half")).await.unwrap();
            let response = sender.send_request(request(Method::POST, "/").body(said).unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
            // The others on that connection have nothing to do with it.
            let next = sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
            assert_eq!(next.status(), StatusCode::OK);
        });
    }
}

#[test]
fn a_server_of_http_2_that_is_late_is_said_to_be() {
    let address = serve_h2(async |_| std::future::pending().await);
    let edge = start(&(before_h2(address) + "[deadlines]\nfirst_byte = \"500ms\"\n"));
    assert_eq!(ask(edge.port, get("/", "")).status(), 504);
}

#[test]
fn half_an_answer_is_not_taken_for_one() {
    let closes = serve(|_, mut client| {
        let _ = client.head();
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    });
    let resets = serve_h2(async |_| {
        let said = [data("half")];
        let broken = StreamBody::new(tokio_stream::iter(said));
        let mut response = Response::new(BoxBody::new(broken));
        // The body is shorter than that.
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("9"));
        Ok(response)
    });
    for config in [before(closes.address), before_h2(resets)] {
        let edge = start(&config);
        run(async {
            let mut sender = connect_h2(edge.port).await;
            let asked = request(Method::GET, "/").body(body(&[], &[])).unwrap();
            // A server that closes with something unread takes back what it said: then there is not even half of it.
            if let Ok(response) = sender.send_request(asked).await
                && response.status() == StatusCode::OK
            {
                assert!(response.into_body().collect().await.is_err(), "{config}");
            }
        });
    }
}

#[test]
fn the_log_says_which_host_was_asked_for() {
    let edge = start(&(before_h2(Server::yes().address) + "[access_log]\nformat = \"json\"\n"));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = request(Method::GET, "/").body(body(&[], &[])).unwrap();
        text_of(sender.send_request(asked).await.unwrap()).await;
    });
    let line: serde_json::Value = serde_json::from_str(&edge.lines_when(1)[0]).unwrap();
    assert_eq!((line["host"].as_str(), line["target"].as_str()), (Some("example.com"), Some("/")));
}

/// A frame: RFC 9113, 4.1.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The first request of a connection is sent to a server that says that it did not look at it, and says yes to all others.
#[test]
fn a_request_that_a_server_did_not_look_at_is_sent_again() {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    let go_away = frame(7, 0, 0, &[0; 8]);
    let refused = frame(3, 0, 1, &[0, 0, 0, 7]);
    for (refusal, method, status) in [
        (&go_away, Method::GET, 200),
        (&refused, Method::GET, 200),
        // It may have been read, and there is no second one.
        (&refused, Method::POST, 502),
    ] {
        let said_first = refusal.clone();
        let server = serve(move |number, mut client| {
            let stream = &mut client.stream;
            let mut octets = [0; 24];
            std::io::Read::read_exact(stream, &mut octets).unwrap();
            std::io::Write::write_all(stream, &frame(SETTINGS, 0, 0, &[])).unwrap();
            let mut head = [0; 9];
            while std::io::Read::read_exact(stream, &mut head).is_ok() {
                let length = usize::from(head[1]) << 8 | usize::from(head[2]);
                std::io::Read::read_exact(stream, &mut vec![0; length]).unwrap();
                let said = match head[3] {
                    HEADERS if number == 0 => said_first.clone(),
                    // Its end, and `:status: 200`.
                    HEADERS => frame(HEADERS, 0b101, head[8], &[0x88]),
                    SETTINGS if head[4] == 0 => frame(SETTINGS, 1, 0, &[]),
                    _ => continue,
                };
                std::io::Write::write_all(stream, &said).unwrap();
            }
        });
        let edge = start(&before_h2(server.address));
        let length = if method == Method::POST { "content-length: 1\r\n" } else { "" };
        let mut client = connect(edge.port);
        client.send(format!("{method} / HTTP/1.1\r\nhost: example.com\r\n{length}\r\n"));
        if method == Method::POST {
            client.send("x");
        }
        assert_eq!(client.answer().status(), status, "{method} {refusal:?}");
        assert_eq!(server.heard().len(), if status == 200 { 2 } else { 1 });
    }
}

#[test]
fn a_connection_that_nobody_uses_ends() {
    let (ended, mut has_ended) = mpsc::channel(1);
    let address = run(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = socket.accept().await.unwrap();
            let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(body(&["yes"], &[]))));
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            ended.send(()).await.unwrap();
        });
        address
    });
    let edge = start(&(before_h2(address) + "[deadlines]\nupstream_keep_alive = \"1s\"\n"));
    assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
    run(async { has_ended.recv().await.unwrap() });
}

/// hyper takes such a stream for one that has ended.
#[test]
fn a_reset_that_says_no_error_is_no_end_of_an_answer() {
    let (reset, mut is_read) = mpsc::channel::<()>(1);
    let address = run(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
                let mut said = respond.send_response(Response::new(()), false).unwrap();
                said.send_data(Bytes::from_static(b"half"), false).unwrap();
                tokio::select! {
                    _ = connection.accept() => continue,
                    _ = is_read.recv() => said.send_reset(h2::Reason::NO_ERROR),
                }
                let _ = connection.accept().await;
            }
        });
        address
    });
    let edge = start(&before_h2(address));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = request(Method::GET, "/").body(body(&[], &[])).unwrap();
        let mut answer = sender.send_request(asked).await.unwrap().into_body();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        reset.send(()).await.unwrap();
        assert!(matches!(answer.frame().await, Some(Err(_))));
    });
}

#[test]
fn a_reset_that_says_no_error_is_no_end_of_a_request() {
    let (begun, mut has_begun) = mpsc::channel(1);
    let (ended, has_ended) = std::sync::mpsc::channel();
    let h1 = {
        let (begun, ended) = (begun.clone(), ended.clone());
        serve(move |_, mut client| {
            let mut request = client.head().unwrap().unwrap();
            begun.blocking_send(()).unwrap();
            ended.send(client.body(&mut request, Otherwise::Nothing).is_ok()).unwrap();
        })
    };
    let h2 = serve_h2(move |request| {
        let (begun, ended) = (begun.clone(), ended.clone());
        async move {
            begun.send(()).await.unwrap();
            ended.send(request.into_body().collect().await.is_ok()).unwrap();
            Err("enough")
        }
    });
    for config in [before(h1.address), before_h2(h2)] {
        let edge = start(&config);
        run(async {
            let stream = TcpStream::connect(("127.0.0.1", edge.port)).await.unwrap();
            let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let (_answer, mut said) = sender.send_request(request(Method::POST, "/").body(()).unwrap(), false).unwrap();
            said.send_data(Bytes::from_static(b"half"), false).unwrap();
            has_begun.recv().await.unwrap();
            said.send_reset(h2::Reason::NO_ERROR);
            tokio::task::block_in_place(|| {
                assert!(!has_ended.recv_timeout(SOON / 2).unwrap(), "{config}");
            });
        });
    }
}

#[test]
fn a_server_that_ends_its_connection_is_asked_on_another_one() {
    let (stop, mut stopped) = mpsc::channel::<()>(1);
    let address = run(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(body(&["yes"], &[]))));
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    _ = &mut connection => {}
                    _ = stopped.recv() => {
                        connection.as_mut().graceful_shutdown();
                        let _ = connection.await;
                    }
                }
            }
        });
        address
    });
    let edge = start(&before_h2(address));
    for _ in 0..5 {
        assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
        run(stop.send(())).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// A connection of which nobody is at the other end any more says nothing.
#[test]
fn a_server_that_is_gone_is_asked_on_another_connection() {
    let is_gone = Arc::new(AtomicBool::new(false));
    let is_gone_now = Arc::clone(&is_gone);
    let address = run(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = socket.accept().await {
                number += 1;
                let (is_first, is_gone) = (number == 1, Arc::clone(&is_gone_now));
                let service = service_fn(move |_| {
                    let is_silent = is_first && is_gone.load(SeqCst);
                    async move {
                        if is_silent {
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, Infallible>(Response::new(body(&["yes"], &[])))
                    }
                });
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        address
    });
    let edge = start(&(before_h2(address) + "[deadlines]\nfirst_byte = \"300ms\"\n"));
    let get = || ask(edge.port, get("/", "connection: close\r\n"));
    assert_eq!(get().text(), "yes");
    is_gone.store(true, SeqCst);
    assert_eq!(get().status(), 504);
    assert_eq!(get().text(), "yes");
}

#[test]
fn who_does_not_read_is_cut_off_here_too() {
    let (end, ended) = std::sync::mpsc::channel();
    let server = serve(move |_, mut client| {
        let _ = client.head();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
        let piece = vec![b'x'; 1 << 16];
        while std::io::Write::write_all(&mut client.stream, &piece).is_ok() {}
        let _ = end.send(());
    });
    let edge = start(&(before(server.address) + "[deadlines]\nclient_idle = \"500ms\"\n"));
    let response = run(async {
        let mut sender = connect_h2(edge.port).await;
        let response = sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        (sender, response)
    });
    ended.recv_timeout(SOON / 2).unwrap();
    drop(response);
}

#[test]
fn who_reads_slowly_is_not_cut_off() {
    let server = answer(format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{}", "x".repeat(1_000_000)));
    let edge = start(&(before(server.address) + "[deadlines]\nclient_idle = \"2s\"\n"));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let response = sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        let mut answer = response.into_body();
        let mut length = 0;
        while let Some(frame) = answer.frame().await {
            length += frame.unwrap().into_data().unwrap().len();
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        assert_eq!(length, 1_000_000);
        // And nothing is held against it afterwards.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let next = sender.send_request(request(Method::HEAD, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        assert_eq!(next.status(), StatusCode::OK);
    });
}

/// The other end takes no more, and nothing went wrong.
fn is_farewell(error: &hyper::Error) -> bool {
    let said = format!("{error:?}");
    said.contains("GoAway") && said.contains("NO_ERROR, Remote")
}

#[test]
fn an_end_under_load_loses_no_request_here_either() {
    let server = serve(|_, mut client| {
        while let Ok(Some(_)) = client.head() {
            std::thread::sleep(Duration::from_millis(10));
            client.send(OK);
        }
    });
    let mut edge = start(&before(server.address).replace("threads = 1", "threads = 2"));
    let port = edge.port;
    let answered = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    let clients = run(async {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let count = Arc::clone(&count);
            clients.spawn(async move {
                while let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await {
                    let sender = over(stream).await;
                    loop {
                        let ask = |mut sender: SendRequest<Body>| async move {
                            sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await
                        };
                        let (one, other) = tokio::join!(ask(sender.clone()), ask(sender.clone()));
                        let mut is_over = false;
                        for answer in [one, other] {
                            match answer {
                                Ok(response) => {
                                    assert_eq!(text(response).await.1, "yes");
                                    count.fetch_add(1, SeqCst);
                                }
                                // It was not sent, because the proxy had said that it ends: RFC 9113, 6.8.
                                Err(error) if error.is_canceled() || is_farewell(&error) => is_over = true,
                                Err(error) => panic!("{error:?}"),
                            }
                        }
                        if is_over {
                            break;
                        }
                    }
                }
            });
        }
        clients
    });
    crate::edge::until(|| (answered.load(SeqCst) > 100).then_some(()));
    assert!(edge.end().success());
    run(clients.join_all());
}

/// It takes longer than an idle connection may, and than one that was told to end.
#[test]
fn a_web_socket_goes_on_where_no_other_request_does() {
    let edge = start(&(before_h2(serve_connect(agree)) + "[deadlines]\nkeep_alive = \"500ms\"\n"));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        let response = sender.send_request(connect_request("/")).await.unwrap();
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        for _ in 0..16 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            io.write_all(b"ping").await.unwrap();
            io.read_exact(&mut [0; 4]).await.unwrap();
        }
    });
}

#[test]
fn http_in_a_tunnel_is_refused() {
    let edge = start(&before_h2(serve_connect(agree)));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        sender.send_request(request(Method::GET, "/").body(body(&[], &[])).unwrap()).await.unwrap();
        for protocol in ["h2c", "H2", "HTTP/2.0", "TLS/1.3"] {
            let asked = request(Method::CONNECT, "/").extension(Protocol::from(protocol)).body(body(&[], &[])).unwrap();
            assert_eq!(sender.send_request(asked).await.unwrap().status(), StatusCode::NOT_IMPLEMENTED, "{protocol}");
        }
    });
}

#[test]
fn who_does_not_read_is_in_nobodys_way() {
    const MUCH: usize = 20_000_000;
    let edge = start(&before_h2(serve_h2(async |request| {
        let length = if request.uri().path() == "/big" { MUCH } else { 3 };
        Ok(Response::new(BoxBody::new(Full::new(Bytes::from(vec![b'x'; length])))))
    })));
    let mut slow: Vec<_> = (0..40)
        .map(|_| {
            let mut client = connect(edge.port);
            client.send(get("/big", ""));
            assert_eq!(client.head().unwrap().unwrap().status(), 200);
            client
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(ask(edge.port, get("/small", "connection: close\r\n")).text(), "xxx");
    }
    assert_eq!(slow[0].exactly(MUCH).unwrap().len(), MUCH);
}

#[test]
fn a_server_that_takes_few_requests_at_a_time_gets_more_connections() {
    let (say, said) = channel();
    let said = Arc::new(Mutex::new(Some(said)));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_streams(1);
    let edge = start(&before_h2(serve_as(builder, move |_| {
        let body = said.lock().unwrap().take().unwrap_or_else(|| body(&["yes"], &[]));
        async { Ok(Response::new(body)) }
    })));
    let mut waits = connect(edge.port);
    waits.send(get("/", ""));
    assert_eq!(waits.head().unwrap().unwrap().status(), 200);
    for _ in 0..3 {
        assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
    }
    drop(say);
}

#[test]
fn an_answer_of_our_own_to_head_has_no_body() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], crate::edge::free_port()));
    let edge = start(&before(nobody));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        for _ in 0..2 {
            let asked = request(Method::HEAD, "/").body(body(&[], &[])).unwrap();
            let answer = sender.send_request(asked).await.unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
            assert_eq!(answer.headers()["content-length"], "16");
            assert_eq!(text_of(answer).await, "");
        }
    });
}

#[test]
fn behind_a_body_stands_nothing_about_the_connection() {
    let server = Server::yes();
    let edge = start(&before_h2(server.address));
    let answered = ask(
        edge.port,
        "POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\ntrailer: connection, keep-alive, te, x-sum\r\n\r\n\
         5\r\nhello\r\n0\r\nconnection: x\r\nkeep-alive: 5\r\nte: gzip\r\ncontent-length: 7\r\nhost: other\r\nx-sum: 9\r\n\r\n",
    );
    assert_eq!(answered.text(), "yes");
    let (_, heard, trailers) = server.last();
    assert_eq!(heard, "hello");
    assert_eq!(trailers.unwrap_or_default().keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);

    let server = answer(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nconnection: x\r\ntransfer-encoding: x\r\nx-sum: 7\r\n\r\n",
    );
    let edge = start(&before(server.address));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let asked = request(Method::GET, "/").header("te", "trailers").body(body(&[], &[])).unwrap();
        let (_, heard, trailers) = text(sender.send_request(asked).await.unwrap()).await;
        assert_eq!(heard, "yes");
        assert_eq!(trailers.unwrap_or_default().keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);
    });
}

#[test]
fn http_2_is_read_as_strictly() {
    let server = yes();
    let edge = start(&(before(server.address) + "[limits]\nheaders = 50\n"));
    run(async {
        let mut sender = connect_h2(edge.port).await;
        let mut asked = request(Method::GET, "/");
        for number in 0..60 {
            asked = asked.header(format!("x-{number}"), "1");
        }
        let answer = sender.send_request(asked.body(body(&[], &[])).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        // More than one length, even of the same value, is for whoever is behind to disagree on.
        let stream = TcpStream::connect(("127.0.0.1", edge.port)).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for lengths in [&["5", "5"][..], &[""]] {
            let mut asked = request(Method::POST, "/");
            for length in lengths {
                asked = asked.header("content-length", *length);
            }
            let (answer, mut said) = sender.send_request(asked.body(()).unwrap(), false).unwrap();
            said.send_data(Bytes::from_static(b"hello"), true).unwrap();
            assert!(answer.await.map_or(true, |answer| answer.status() == StatusCode::BAD_REQUEST), "{lengths:?}");
        }
    });
    assert!(server.requests().is_empty());
}

#[test]
fn a_body_that_breaks_is_its_clients_fault() {
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let server = Server::yes();
    let relay = {
        let connections = Arc::clone(&connections);
        run(async {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = socket.accept().await {
                    connections.fetch_add(1, SeqCst);
                    let mut to = TcpStream::connect(server.address).await.unwrap();
                    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut to).await });
                }
            });
            address
        })
    };
    let edge = start(&(before_h2(relay) + "[limits]\nbody_bytes = 10\n"));
    assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
    let post = |body: &str| format!("POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n{body}");
    assert_eq!(ask(edge.port, post("14\r\n01234567890123456789\r\n0\r\n\r\n")).status(), 413);
    assert_eq!(ask(edge.port, post("5\r\nhello\r\nnonsense\r\n")).status(), 400);
    assert_eq!(ask(edge.port, get("/", "connection: close\r\n")).text(), "yes");
    assert_eq!(connections.load(SeqCst), 1);
}

#[test]
fn an_answer_that_has_no_body_has_none() {
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let edge = start(&before_h2(serve_h2(move |_| async move {
            let mut response = Response::new(body(&["wrong"], &[]));
            *response.status_mut() = status;
            Ok(response)
        })));
        run(async {
            let mut sender = connect_h2(edge.port).await;
            let asked = request(Method::GET, "/").body(body(&[], &[])).unwrap();
            let (seen, heard, _) = text(sender.send_request(asked).await.unwrap()).await;
            assert_eq!((seen, heard.as_str()), (status, ""));
        });
    }
}

/// A server that has answered and takes no more leaves a body half read, which is no request.
#[test]
fn what_is_left_of_a_body_is_no_request() {
    let (heard, mut hears) = mpsc::unbounded_channel();
    let address = run(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let heard = heard.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    // Neither read nor reset.
                    let mut unread = Vec::new();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        heard.send(request.uri().path().to_owned()).unwrap();
                        respond.send_response(Response::new(()), false).unwrap().send_data("no".into(), true).unwrap();
                        unread.push((request, respond));
                    }
                });
            }
        });
        address
    });
    let edge = start(&(before_h2(address) + "[deadlines]\nkeep_alive = \"4s\"\n"));
    let smuggled = get("/smuggled", "");
    let head = |length: usize| format!("POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: {length}\r\n\r\n");
    // All at once, and more than anybody makes room for.
    let much = smuggled.repeat(60_000);
    let mut at_once = connect(edge.port);
    at_once.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    at_once.send(head(much.len()));
    at_once.send(&much);
    assert_eq!(at_once.answer().status(), 200);
    // And after a pause that is longer than an idle connection keeps its buffers.
    let mut later = connect(edge.port);
    later.send(head(1000) + "0123456789");
    assert_eq!(later.answer().status(), 200);
    std::thread::sleep(Duration::from_secs(3));
    later.send(&smuggled);
    for client in [&mut at_once, &mut later] {
        assert!(client.rest().is_empty());
    }
    drop(edge);
    for _ in 0..2 {
        assert_eq!(run(hears.recv()).unwrap(), "/");
    }
    assert!(hears.try_recv().is_err());
}

#[test]
fn what_broke_once_is_not_what_breaks_next() {
    let h1 = yes();
    let h2 = serve_h2(async |_| Err("no"));
    let config = before(h1.address)
        + &format!(
            "[upstream.other]\nservers = [\"h2c://{h2}\"]\n[[route]]\npath = \"/other\"\nupstream = \"other\"\n\
             [[route]]\npath = \"/\"\nupstream = \"app\"\n[limits]\nbody_bytes = 4\n"
        );
    let edge = start(&config);
    let mut client = connect(edge.port);
    client.send("POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(client.answer().status(), 413);
    client.send(get("/other", ""));
    if let Ok(Some(answer)) = client.try_answer("GET") {
        assert_eq!(answer.status(), 502);
    }
}
