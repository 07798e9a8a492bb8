//! Requests for another protocol: WebSocket and the like, after which bytes pass both ways.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
    response,
};
use hyper::{
    body::Incoming,
    ext::Protocol,
    upgrade::{self, OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    body::{Deadline, RequestBody, ResponseBody, Theirs},
    connection::Connection,
    hop::{elements, hop_by_hop},
    site::Site,
    watch::{Due, Watch},
};

/// What a client wants to speak from here on.
pub(crate) struct Wanted {
    client: OnUpgrade,
    protocol: HeaderValue,
    /// By CONNECT on HTTP/2 (RFC 8441), not by Upgrade on HTTP/1.1.
    is_connect: bool,
    /// What a client of HTTP/1.1 has to be told, when its server is not.
    accept: Option<HeaderValue>,
}

/// Whether a request asks for another protocol.
pub(crate) fn wanted(request: &mut Request<RequestBody>) -> Result<Option<Box<Wanted>>, StatusCode> {
    if *request.method() == Method::CONNECT {
        let Some(protocol) = request.extensions().get::<Protocol>() else {
            return Ok(None);
        };
        if is_for_us(protocol.as_str().as_bytes()) {
            return Err(StatusCode::NOT_IMPLEMENTED);
        }
        let protocol = HeaderValue::from_str(protocol.as_str()).map_err(|_| StatusCode::BAD_REQUEST)?;
        let client = take_upgrade(request).ok_or(StatusCode::NOT_IMPLEMENTED)?;
        return Ok(Some(Box::new(Wanted { client, protocol, is_connect: true, accept: None })));
    }
    let headers = request.headers();
    let is_upgrade = |option: &[u8]| option.eq_ignore_ascii_case(b"upgrade");
    if !headers.contains_key(UPGRADE) || !elements(headers, &CONNECTION).any(is_upgrade) {
        return Ok(None);
    }
    let others: Vec<_> = elements(headers, &UPGRADE).filter(|offer| !is_for_us(offer)).collect();
    if others.is_empty() {
        return Ok(None);
    }
    let protocol = HeaderValue::from_bytes(&others.join(&b", "[..])).map_err(|_| StatusCode::BAD_REQUEST)?;
    Ok(take_upgrade(request).map(|client| Box::new(Wanted { client, protocol, is_connect: false, accept: None })))
}

/// Whether a protocol is about the connection to us, and nothing for whoever is behind: HTTP itself, by Upgrade obsolete (RFC
/// 9113, 3.1), and TLS (RFC 2817), which some clients offer with every request. These are answered as they stand: through a
/// tunnel to a server that agreed, anybody could send requests that nobody has looked at.
fn is_for_us(protocol: &[u8]) -> bool {
    let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default().trim_ascii();
    [&b"h2"[..], b"h2c", b"h3", b"http", b"tls"].iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

fn take_upgrade(request: &mut Request<RequestBody>) -> Option<OnUpgrade> {
    request.extensions_mut().remove::<OnUpgrade>()
}

impl Wanted {
    /// Asks a server on HTTP/1.1 for the same.
    pub(crate) fn ask_h1(&self, request: &mut Request<RequestBody>) {
        if self.is_connect {
            *request.method_mut() = Method::GET;
            request.extensions_mut().remove::<Protocol>();
        }
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
        if self.is_connect
            && let Some(key) = websocket_key()
        {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
    }

    /// Asks a server on HTTP/2 for the same: RFC 8441, 5.
    pub(crate) fn ask_h2(&mut self, request: &mut Request<RequestBody>) -> Result<(), StatusCode> {
        // What the client says from here on would be longer.
        request.headers_mut().remove(CONTENT_LENGTH);
        if self.is_connect {
            return Ok(());
        }
        // What else was asked has no place in a request by CONNECT.
        if *request.method() != Method::GET {
            return Err(StatusCode::NOT_IMPLEMENTED);
        }
        // What is asked for first is liked best, and CONNECT asks for one.
        let first = self.protocol.as_bytes().split(|&byte| byte == b',').next().unwrap_or_default().trim_ascii();
        self.protocol = HeaderValue::from_bytes(first).map_err(|_| StatusCode::BAD_REQUEST)?;
        let mut protocol = self.protocol.to_str().map_err(|_| StatusCode::BAD_REQUEST)?;
        if protocol.eq_ignore_ascii_case(WEBSOCKET) {
            protocol = WEBSOCKET;
            // RFC 6455, 4.2.1: without a key it is no handshake. Over HTTP/2 the server does not see it.
            let key = request.headers_mut().remove(SEC_WEBSOCKET_KEY);
            self.accept = Some(key.and_then(|key| websocket_accept(&key)).ok_or(StatusCode::BAD_REQUEST)?);
        }
        request.extensions_mut().insert(Protocol::from(protocol));
        *request.method_mut() = Method::CONNECT;
        Ok(())
    }

    /// The head of a response as it is when both sides have agreed, whichever way each of them was asked.
    fn agree(&self, head: &mut response::Parts) {
        let was_connect = head.version == Version::HTTP_2;
        head.version = Version::HTTP_11;
        head.headers.remove(CONTENT_LENGTH);
        match (self.is_connect, was_connect) {
            (true, false) => {
                head.status = StatusCode::OK;
                head.headers.remove(CONNECTION);
                head.headers.remove(UPGRADE);
                head.headers.remove(SEC_WEBSOCKET_ACCEPT);
            }
            (false, true) => {
                head.status = StatusCode::SWITCHING_PROTOCOLS;
                head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                head.headers.insert(UPGRADE, self.protocol.clone());
                if let Some(accept) = &self.accept {
                    head.headers.insert(SEC_WEBSOCKET_ACCEPT, accept.clone());
                }
            }
            _ => {}
        }
    }
}

/// Answers, and lets the bytes pass if the server agreed.
pub(crate) fn open(
    wanted: Wanted,
    mut response: Response<Incoming>,
    deadline: Deadline,
    site: &Arc<Site>,
    connection: &Arc<Connection>,
) -> Result<Response<ResponseBody>, StatusCode> {
    // Of all the answers to CONNECT that agree, hyper opens a stream for this one.
    let agrees = if response.version() == Version::HTTP_2 { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS };
    if response.status() != agrees {
        // RFC 9110, 9.3.6: to a client that asks by CONNECT it would say that the server agrees.
        if wanted.is_connect && response.status().is_success() {
            return Err(StatusCode::BAD_GATEWAY);
        }
        let (mut parts, body) = response.into_parts();
        hop_by_hop(&mut parts.headers, |_| false).map_err(|_| StatusCode::BAD_GATEWAY)?;
        let body = Theirs::new(body, parts.version);
        parts.version = Version::HTTP_11;
        return Ok(Response::from_parts(parts, ResponseBody::Apart(body, deadline)));
    }
    let server = upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    wanted.agree(&mut parts);
    let idle = site.deadlines.upgraded_idle;
    let going_on = connection.go_on();
    tokio::spawn(async move {
        let _going_on = going_on;
        if let (Ok(client), Ok(server)) = (wanted.client.await, server.await) {
            pass(client, server, idle).await;
        }
    });
    Ok(Response::from_parts(parts, ResponseBody::Page(None)))
}

/// Lets bytes pass both ways until both ends have ended, or nothing has passed for too long.
async fn pass(client: Upgraded, server: Upgraded, idle: std::time::Duration) {
    let watch = Watch::new();
    watch.within(Due::Phase, idle);
    let mut client = Seen { io: TokioIo::new(client), watch: &watch, idle };
    let mut server = TokioIo::new(server);
    let mut copy = pin!(tokio::io::copy_bidirectional(&mut client, &mut server));
    poll_fn(|context| {
        watch.wake_me(context);
        if copy.as_mut().poll(context).is_ready() || watch.is_late(Due::Phase) || watch.is_closing() {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

/// Notes that bytes passed.
struct Seen<'a, Io> {
    io: Io,
    watch: &'a Watch,
    idle: std::time::Duration,
}

impl<Io: AsyncRead + Unpin> AsyncRead for Seen<'_, Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if polled.is_ready() {
            self.watch.within(Due::Phase, self.idle);
        }
        polled
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Seen<'_, Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        if polled.is_ready() {
            self.watch.within(Due::Phase, self.idle);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// RFC 6455, 4.1: 16 random bytes in base64.
fn websocket_key() -> Option<HeaderValue> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).ok()?;
    HeaderValue::try_from(BASE64_STANDARD.encode(random)).ok()
}

/// RFC 6455, 4.2.2: what shows a client that its key was read by who knows what a WebSocket is. None, if it is no key.
fn websocket_accept(key: &HeaderValue) -> Option<HeaderValue> {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let key = key.as_bytes();
    if BASE64_STANDARD.decode(key).ok()?.len() != 16 {
        return None;
    }
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::try_from(BASE64_STANDARD.encode(digest)).ok()
}

/// As RFC 8441, 5 writes it. Over HTTP/1.1 it may be written in other ways: RFC 6455, 4.2.1.
const WEBSOCKET: &str = "websocket";
