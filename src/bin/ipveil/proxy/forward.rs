//! A request goes on to a server, and its answer comes back.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    net::{Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST},
    uri::PathAndQuery,
};
use http_body::Body as _;
use ipveil::{Client, proxy_protocol::Announcement};

use super::{
    body::{Deadline, RequestBody, ResponseBody, Theirs},
    connection::Connection,
    hop::{are_several, hop_by_hop, is_number, one_length, ours},
    site::{APP, Site},
    tunnel,
    upstream::{Answer, Complaint, Endpoint, Exchange, Failed, Upstream},
};

/// The innermost service.
pub(crate) struct Forward {
    site: Arc<Site>,
    connection: Arc<Connection>,
}

impl Forward {
    pub(crate) fn new(site: Arc<Site>, connection: Arc<Connection>) -> Self {
        Self { site, connection }
    }
}

impl tower::Service<Request<RequestBody>> for Forward {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let (site, connection) = (Arc::clone(&self.site), Arc::clone(&self.connection));
        let mut request = Some(request);
        Box::pin(async move { Ok(forward(&site, &connection, &mut request).await.unwrap_or_else(page)) })
    }
}

// The request stays where it is until it is sent: it is large, and moving it costs more than looking at it.
async fn forward(
    site: &Arc<Site>,
    connection: &Arc<Connection>,
    pending: &mut Option<Request<RequestBody>>,
) -> Result<Response<ResponseBody>, StatusCode> {
    let request = pending.as_mut().ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    let version = request.version();
    // RFC 9110, 9.3.8: it would show a client what stands for it here.
    if *request.method() == Method::TRACE {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    if version == Version::HTTP_2 {
        as_strict_as_h1(request)?;
    }
    if !is_target(request) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let host = put_host(request)?;
    let upstream = site.route(without_port(host.as_bytes()), request.uri().path()).ok_or(StatusCode::NOT_FOUND)?;
    if request.body().is_too_long() {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    // RFC 9110, 7.8: whoever sends a body first, and another protocol after it, may be answered as if it asked for none.
    let has_body = *request.method() != Method::CONNECT && !request.body().is_end_stream();
    let tunnel = if has_body { None } else { tunnel::wanted(request)? };
    if tunnel.is_none() && *request.method() == Method::CONNECT {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    hop_by_hop(request.headers_mut(), |name| site.writes(name))?;
    ours(request.headers_mut(), version, host, connection.is_secure, site.believes(connection.peer));
    announce(request, upstream);
    if let Some(tunnel) = tunnel {
        return Box::pin(through(site, connection, upstream, pending, tunnel)).await;
    }
    let mut response = exchange(site, upstream, pending).await?;
    if let Err(unusable) = as_answer(&mut response) {
        response.body().complain(Complaint::Broken, &unusable);
        return Err(StatusCode::BAD_GATEWAY);
    }
    // RFC 9110, 15.3.5 and 15.4.5: they have no body, whatever a server of HTTP/2 sends.
    if matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        && matches!(response.body(), ResponseBody::Apart(..))
    {
        if response.status() == StatusCode::NO_CONTENT {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        *response.body_mut() = ResponseBody::Page(None);
    }
    // A client of HTTP/1.0 that wants to keep its connection is told so only in an answer that could be of HTTP/1.1.
    *response.version_mut() = version.max(Version::HTTP_11);
    Ok(response)
}

/// Makes the head of a response fit for whoever is next.
fn as_answer(response: &mut Response<ResponseBody>) -> Result<(), Unusable> {
    // RFC 9110, 15.2.2: it was not asked for, so what follows is no answer to anything.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Unusable("another protocol, which nobody asked for"));
    }
    hop_by_hop(response.headers_mut(), |_| false).map_err(|_| Unusable("a transfer coding other than chunked"))?;
    if !one_length(response.headers_mut()) {
        return Err(Unusable("a Content-Length that is no number, or several"));
    }
    Ok(())
}

/// What is wrong with the head of a response.
#[derive(Debug)]
struct Unusable(&'static str);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Unusable {}

/// Refuses what is refused in HTTP/1 before it comes here.
fn as_strict_as_h1(request: &Request<RequestBody>) -> Result<(), StatusCode> {
    if request.body().has_too_many_headers {
        return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    // RFC 9110, 8.6: one number.
    let mut lengths = request.headers().get_all(CONTENT_LENGTH).iter();
    match lengths.next() {
        Some(length) if !is_number(length.as_bytes()) || lengths.next().is_some() => Err(StatusCode::BAD_REQUEST),
        _ => Ok(()),
    }
}

/// Whether a target can stand in a request of HTTP/1.1: RFC 9112, 3.2.
fn is_target(request: &Request<RequestBody>) -> bool {
    match request.uri().path_and_query().map(PathAndQuery::as_str) {
        Some("*") => *request.method() == Method::OPTIONS,
        Some(target) => target.starts_with(['/', '?']),
        None => *request.method() == Method::CONNECT,
    }
}

/// Makes `Host` say for whom the request is, whichever way the client said it: that is what is returned.
fn put_host(request: &mut Request<RequestBody>) -> Result<HeaderValue, StatusCode> {
    let host = request.headers().get(HOST);
    // RFC 9112, 3.2: more than one, or none, is a bad request.
    if are_several(request.headers(), &HOST) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let host = match (request.uri().authority(), host) {
        // RFC 9112, 3.2: also where it says nothing new.
        (Some(_), None) if request.version() == Version::HTTP_11 => return Err(StatusCode::BAD_REQUEST),
        // RFC 9112, 3.2.2: what the target says counts.
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()).map_err(|_| StatusCode::BAD_REQUEST)?,
        (None, Some(host)) if is_host(host.as_bytes()) => return Ok(host.clone()),
        (None, Some(_)) => return Err(StatusCode::BAD_REQUEST),
        (None, None) if request.version() <= Version::HTTP_10 => HeaderValue::from_static("localhost"),
        (None, None) => return Err(StatusCode::BAD_REQUEST),
    };
    if !is_host(host.as_bytes()) {
        return Err(StatusCode::BAD_REQUEST);
    }
    request.headers_mut().insert(HOST, host.clone());
    Ok(host)
}

/// Whether it is a name or an address, with a port or without.
fn is_host(text: &[u8]) -> bool {
    let host = without_port(text);
    let is_port = match &text[host.len()..] {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let fits = match host {
        [b'[', address @ .., b']'] => {
            address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }
        name => name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')),
    };
    fits && is_port
}

fn without_port(host: &[u8]) -> &[u8] {
    let end = match host {
        [b'[', ..] => host.iter().position(|&byte| byte == b']').map(|end| end + 1),
        _ => host.iter().position(|&byte| byte == b':'),
    };
    &host[..end.unwrap_or(host.len())]
}

/// Says who the client is at the start of a connection, for servers that expect that.
fn announce(request: &mut Request<RequestBody>, upstream: &Upstream) {
    if let Some(version) = upstream.announces()
        && let Some(client) = request.extensions().get::<Client>()
    {
        let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let announcement = Announcement::new(version, client, APP, nowhere);
        request.extensions_mut().insert(announcement);
    }
}

/// Asks one server, and another one if nothing was sent to the first.
async fn exchange(
    site: &Arc<Site>,
    upstream: &Upstream,
    request: &mut Option<Request<RequestBody>>,
) -> Result<Response<ResponseBody>, StatusCode> {
    let Some(watch) = request.as_ref().map(|request| Arc::clone(&request.body().watch)) else {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let mut deadline = Deadline::new(watch, Arc::clone(site));
    let mut server = upstream.choose(None);
    let mut attempts = 0;
    loop {
        if let Some(request) = request {
            readdress(request, upstream, server);
        }
        let outstanding = server.begin();
        let answer = server.send(request, &mut deadline).await;
        drop(outstanding);
        if answer.is_ok() {
            deadline.server = Some(Arc::clone(server));
        }
        match answer {
            Ok(Answer::H1(response, link, is_kept)) => {
                let exchange = Exchange::new(link, deadline, is_kept);
                return Ok(response.map(|body| ResponseBody::H1(body, Box::new(exchange))));
            }
            Ok(Answer::H2(response, place)) => {
                let version = response.version();
                return Ok(
                    response.map(|body| ResponseBody::Apart(Theirs::new(body, version).in_place(place), deadline))
                );
            }
            Err(failed) => {
                attempts += 1;
                let next = upstream.choose(Some(server));
                // Who can't be reached now can't be a moment later.
                let is_in_vain = Arc::ptr_eq(next, server) && matches!(failed, Failed::Connect | Failed::ConnectLate);
                // Nothing of it was sent, if it is still there.
                if request.is_none() || attempts == ATTEMPTS || is_in_vain {
                    return Err(status(failed));
                }
                server = next;
            }
        }
    }
}

/// Asks a server to change the protocol.
async fn through(
    site: &Arc<Site>,
    connection: &Arc<Connection>,
    upstream: &Upstream,
    pending: &mut Option<Request<RequestBody>>,
    mut tunnel: Box<tunnel::Wanted>,
) -> Result<Response<ResponseBody>, StatusCode> {
    let mut request = pending.take().ok_or(StatusCode::INTERNAL_SERVER_ERROR)?.map(|body| body.none());
    let announcement = request.extensions_mut().remove::<Announcement>();
    let deadline = Deadline::new(Arc::clone(&request.body().watch), Arc::clone(site));
    let mut server = upstream.choose(None);
    let mut attempts = 0;
    let link = loop {
        match server.connect_apart(announcement.as_ref(), &deadline).await {
            Ok(link) => break link,
            Err(failed) => {
                attempts += 1;
                let next = upstream.choose(Some(server));
                if attempts == ATTEMPTS || Arc::ptr_eq(next, server) {
                    return Err(status(failed));
                }
                server = next;
            }
        }
    };
    readdress(&mut request, upstream, server);
    if link.is_h2() {
        tunnel.ask_h2(&mut request)?;
    } else {
        tunnel.ask_h1(&mut request);
    }
    let response = link.send(request, &deadline).await.map_err(status)?;
    tunnel::open(*tunnel, response, deadline, site, connection)
}

/// Names the server itself in `Host`, if it wants that.
fn readdress(request: &mut Request<RequestBody>, upstream: &Upstream, server: &Endpoint) {
    if !upstream.settings.preserve_host
        && let Ok(host) = HeaderValue::from_str(server.server.authority())
    {
        request.headers_mut().insert(HOST, host);
    }
}

fn status(failed: Failed) -> StatusCode {
    use super::body::BodyError;
    match failed {
        Failed::Connect | Failed::Unsent | Failed::Unanswered | Failed::Response => StatusCode::BAD_GATEWAY,
        Failed::ConnectLate | Failed::Late => StatusCode::GATEWAY_TIMEOUT,
        Failed::Unspoken => StatusCode::NOT_IMPLEMENTED,
        Failed::Request(BodyError::Late) => StatusCode::REQUEST_TIMEOUT,
        Failed::Request(BodyError::TooLong) => StatusCode::PAYLOAD_TOO_LARGE,
        Failed::Request(BodyError::Broken) => StatusCode::BAD_REQUEST,
    }
}

/// A short answer of our own, which names no one.
pub(crate) fn page(status: StatusCode) -> Response<ResponseBody> {
    let text = format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    let mut response = Response::new(ResponseBody::Page(Some(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// How many servers are asked.
const ATTEMPTS: u32 = 3;
