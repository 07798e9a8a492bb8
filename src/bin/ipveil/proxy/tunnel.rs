//! Requests for another protocol: WebSocket and the like, after which bytes pass both ways.

use std::sync::Arc;

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};
use hyper::{
    body::Incoming,
    ext::Protocol,
    upgrade::{self, OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    body::{Deadline, RequestBody, ResponseBody},
    forward,
    site::Site,
    watch::{Due, Watch},
};

/// What a client wants to speak from here on.
pub(crate) struct Wanted {
    client: OnUpgrade,
    protocol: HeaderValue,
    /// By CONNECT on HTTP/2 (RFC 8441), not by Upgrade on HTTP/1.1.
    is_connect: bool,
}

/// Whether a request asks for another protocol.
pub(crate) fn wanted(request: &mut Request<RequestBody>) -> Result<Option<Wanted>, StatusCode> {
    if *request.method() == Method::CONNECT {
        let Some(protocol) = request.extensions().get::<Protocol>() else {
            return Ok(None);
        };
        let protocol = HeaderValue::from_str(protocol.as_str()).map_err(|_| StatusCode::BAD_REQUEST)?;
        let client = take_upgrade(request).ok_or(StatusCode::NOT_IMPLEMENTED)?;
        return Ok(Some(Wanted { client, protocol, is_connect: true }));
    }
    let names_upgrade = |value: &HeaderValue| {
        value.as_bytes().split(|&byte| byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    };
    let Some(protocol) = request.headers().get(UPGRADE) else {
        return Ok(None);
    };
    // HTTP/2 by Upgrade is obsolete, RFC 9113, 3.1; such a request is answered as it stands.
    if !request.headers().get_all(CONNECTION).iter().any(names_upgrade) || protocol.as_bytes().starts_with(b"h2") {
        return Ok(None);
    }
    let protocol = protocol.clone();
    Ok(take_upgrade(request).map(|client| Wanted { client, protocol, is_connect: false }))
}

fn take_upgrade(request: &mut Request<RequestBody>) -> Option<OnUpgrade> {
    request.extensions_mut().remove::<OnUpgrade>()
}

impl Wanted {
    /// Asks a server on HTTP/1.1 for the same.
    pub(crate) fn ask(&self, request: &mut Request<RequestBody>) {
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
}

/// Answers, and lets the bytes pass if the server agreed.
pub(crate) fn open(
    wanted: Wanted,
    mut response: Response<Incoming>,
    deadline: Deadline,
    site: &Arc<Site>,
) -> Response<ResponseBody> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, body) = response.into_parts();
        forward::hop_by_hop(&mut parts.headers, |_| false);
        return Response::from_parts(parts, ResponseBody::H2(body, deadline));
    }
    let server = upgrade::on(&mut response);
    let idle = site.deadlines.upgraded_idle;
    tokio::spawn(async move {
        if let (Ok(client), Ok(server)) = (wanted.client.await, server.await) {
            pass(client, server, idle).await;
        }
    });
    let (mut parts, _) = response.into_parts();
    if wanted.is_connect {
        parts.status = StatusCode::OK;
        parts.headers.remove(CONNECTION);
        parts.headers.remove(UPGRADE);
        parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
    }
    parts.version = http::Version::HTTP_11;
    Response::from_parts(parts, ResponseBody::Page(None))
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
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut random = [0; 18];
    getrandom::fill(&mut random[..16]).ok()?;
    let mut key = Vec::with_capacity(24);
    for three in random.chunks_exact(3) {
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        key.extend([18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift) as usize & 63]));
    }
    key.truncate(22);
    key.extend(b"==");
    HeaderValue::from_bytes(&key).ok()
}
