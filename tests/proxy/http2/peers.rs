//! Clients and servers of HTTP/2.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, request::Parts};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    ext::Protocol,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    edge::{SOON, before},
    listener::listen,
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
pub(crate) fn channel() -> (mpsc::Sender<Result<Frame<Bytes>, Infallible>>, Body) {
    let (sender, receiver) = mpsc::channel(16);
    (sender, BoxBody::new(StreamBody::new(ReceiverStream::new(receiver))))
}

pub(crate) fn data(text: &'static str) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from(text)))
}

pub(crate) fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://example.com{path}")).version(Version::HTTP_2)
}

pub(crate) async fn text(response: Response<Incoming>) -> (StatusCode, String, Option<HeaderMap>) {
    let status = response.status();
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    (status, String::from_utf8(collected.to_bytes().to_vec()).unwrap(), trailers)
}

pub(crate) async fn text_of(response: Response<Incoming>) -> String {
    text(response).await.1
}

/// A request, its body and its trailers.
pub(crate) type Heard = (Parts, Bytes, Option<HeaderMap>);

/// A server of HTTP/2 without TLS.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<Mutex<Vec<Heard>>>,
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
    pub(crate) fn last(&self) -> Heard {
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
pub(crate) fn serve_connect<F>(each: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> SocketAddr
where
    F: Future<Output = Result<Response<Body>, &'static str>> + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.enable_connect_protocol();
    serve_as(builder, each)
}

pub(crate) fn serve_as<F>(
    builder: http2::Builder<TokioExecutor>,
    each: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = Result<Response<Body>, &'static str>> + Send + 'static,
{
    run(async {
        let (socket, address) = listen().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let service = service_fn(each.clone());
                tokio::spawn(builder.clone().serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    })
}

pub(crate) fn before_h2(address: SocketAddr) -> String {
    before(address).replace("http://", "h2c://")
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

pub(crate) fn connect_request(path: &str) -> Request<Body> {
    let asked = request(Method::CONNECT, path).header("sec-websocket-version", "13");
    asked.extension(Protocol::from_static("websocket")).body(body(&[], &[])).unwrap()
}
