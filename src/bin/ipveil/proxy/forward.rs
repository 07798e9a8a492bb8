//! A request goes on to a server, and its answer comes back.

use std::{
    convert::Infallible,
    future::Future,
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroU8,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
    request::Parts,
    uri::Authority,
};
use hyper::ext::Protocol;
use ipveil::{
    Client,
    proxy_protocol::{self, Announcement},
};

use super::{
    body::{Deadline, RequestBody, ResponseBody},
    connection::Connection,
    site::{APP, Site},
    tunnel,
    upstream::{Answer, Failed, Upstream},
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
        Box::pin(async move { Ok(forward(site, connection, request).await.unwrap_or_else(page)) })
    }
}

async fn forward(
    site: Arc<Site>,
    connection: Arc<Connection>,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, StatusCode> {
    let (mut parts, body) = request.into_parts();
    let authority = target(&mut parts)?;
    if body.is_too_long() {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let upstream = site.route(authority.host(), parts.uri.path()).ok_or(StatusCode::NOT_FOUND)?;
    let tunnel = tunnel::wanted(&mut parts)?;
    if tunnel.is_none() && parts.method == Method::CONNECT {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let is_believed = site.believes(connection.peer);
    hop_by_hop(&mut parts.headers, |name| site.writes(name));
    ours(&mut parts, &authority, connection.is_secure, is_believed);
    if let Some(tunnel) = tunnel {
        let (response, link) = through(&site, upstream, parts, &authority, &body, &tunnel).await?;
        return Ok(tunnel::open(tunnel, response, link, &site));
    }
    let version = parts.version;
    announce(&mut parts, upstream);
    let response = exchange(&site, upstream, parts, authority, body).await?;
    Ok(back(response, version))
}

/// Brings the target into one form: the path in the URI, and the authority beside it.
fn target(parts: &mut Parts) -> Result<Authority, StatusCode> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    // RFC 9112, 3.2: more than one, or none, is a bad request.
    if hosts.next().is_some() {
        return Err(StatusCode::BAD_REQUEST);
    }
    let authority = match (parts.uri.authority(), host) {
        // RFC 9112, 3.2.2: what the target says counts.
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => Authority::from_maybe_shared(Bytes::copy_from_slice(host.as_bytes()))
            .map_err(|_| StatusCode::BAD_REQUEST)?,
        (None, None) if parts.version <= Version::HTTP_10 => Authority::from_static("localhost"),
        (None, None) => return Err(StatusCode::BAD_REQUEST),
    };
    if authority.as_str().contains('@') {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(authority)
}

/// Removes what is between two ends of one connection only: RFC 9110, 7.6.1.
///
/// What is `kept` can't be removed by naming it: a client could make its pseudonym disappear.
fn hop_by_hop(headers: &mut HeaderMap, kept: impl Fn(&HeaderName) -> bool) {
    if let Some(connection) = headers.remove(CONNECTION) {
        for name in connection.as_bytes().split(|&byte| byte == b',') {
            if let Ok(name) = HeaderName::from_bytes(name.trim_ascii())
                && !NEEDED.contains(&name)
                && !kept(&name)
            {
                headers.remove(name);
            }
        }
        // Several lines are rare.
        headers.remove(CONNECTION);
    }
    // A length beside it is not the body's: RFC 9112, 6.1.
    if headers.remove(TRANSFER_ENCODING).is_some() {
        headers.remove(CONTENT_LENGTH);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(UPGRADE);
    headers.remove(PROXY_AUTHENTICATE);
}

/// What a proxy says of itself, and of what it hides.
fn ours(parts: &mut Parts, authority: &Authority, is_secure: bool, is_believed: bool) {
    let headers = &mut parts.headers;
    // Each was answered here already, or is between client and us.
    headers.remove(EXPECT);
    headers.remove(PROXY_AUTHORIZATION);
    if let Some(te) = headers.remove(TE)
        && te.as_bytes().to_ascii_lowercase().split(|&byte| byte == b',').any(|part| part.trim_ascii() == b"trailers")
    {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let via = match parts.version {
        Version::HTTP_2 => HeaderValue::from_static("2.0 ipveil"),
        Version::HTTP_10 => HeaderValue::from_static("1.0 ipveil"),
        _ => HeaderValue::from_static("1.1 ipveil"),
    };
    headers.append(VIA, via);
    // A trusted proxy in front knows better; anybody else doesn't.
    if !is_believed || !headers.contains_key(&X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if is_secure { "https" } else { "http" }));
    }
    if !is_believed || !headers.contains_key(&X_FORWARDED_HOST) {
        let host = HeaderValue::from_str(authority.as_str()).ok();
        match (host, headers.get(HOST)) {
            (_, Some(host)) if host.as_bytes() == authority.as_str().as_bytes() => {
                let host = host.clone();
                headers.insert(X_FORWARDED_HOST, host);
            }
            (Some(host), _) => {
                headers.insert(X_FORWARDED_HOST, host);
            }
            (None, _) => {
                headers.remove(X_FORWARDED_HOST);
            }
        }
    }
}

/// Says who the client is at the start of a connection, for servers that expect that.
fn announce(parts: &mut Parts, upstream: &Upstream) {
    let version = match upstream.settings.proxy_protocol.map(NonZeroU8::get) {
        Some(1) => proxy_protocol::Version::V1,
        Some(_) => proxy_protocol::Version::V2,
        None => return,
    };
    if let Some(client) = parts.extensions.get::<Client>() {
        let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let announcement = Announcement::new(version, client, APP, nowhere);
        parts.extensions.insert(announcement);
    }
}

/// Asks one server, and another one if nothing was sent to the first.
async fn exchange(
    site: &Arc<Site>,
    upstream: &Upstream,
    mut parts: Parts,
    authority: Authority,
    body: RequestBody,
) -> Result<Answer, StatusCode> {
    let watch = Arc::clone(&body.watch);
    let mut server = upstream.choose(None);
    address(&mut parts, upstream, server, &authority)?;
    let mut request = Request::from_parts(parts, body);
    for attempt in 0.. {
        let deadline = Deadline::new(Arc::clone(&watch), Arc::clone(site));
        server.outstanding.fetch_add(1, Relaxed);
        let sent = server.send(request, deadline).await;
        server.outstanding.fetch_sub(1, Relaxed);
        let (failed, back) = match sent {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        let Some(back) = back.filter(|_| attempt + 1 < ATTEMPTS) else {
            return Err(status(&failed));
        };
        server = upstream.choose(Some(server));
        let (mut parts, body) = back.into_parts();
        address(&mut parts, upstream, server, &authority)?;
        request = Request::from_parts(parts, body);
    }
    Err(StatusCode::BAD_GATEWAY)
}

/// Asks a server to change the protocol.
async fn through(
    site: &Arc<Site>,
    upstream: &Upstream,
    mut parts: Parts,
    authority: &Authority,
    body: &RequestBody,
    tunnel: &tunnel::Wanted,
) -> Result<(Response<hyper::body::Incoming>, Deadline), StatusCode> {
    let server = upstream.choose(None);
    announce(&mut parts, upstream);
    tunnel.ask(&mut parts);
    address(&mut parts, upstream, server, authority)?;
    let deadline = Deadline::new(Arc::clone(&body.watch), Arc::clone(site));
    let request = Request::from_parts(parts, body.none());
    let response = server.send_upgrade(request, deadline).await.map_err(|failed| status(&failed))?;
    Ok((response, Deadline::new(Arc::clone(&body.watch), Arc::clone(site))))
}

/// Writes down for whom a request is: as a server of either protocol reads it.
fn address(
    parts: &mut Parts,
    upstream: &Upstream,
    server: &super::upstream::Endpoint,
    authority: &Authority,
) -> Result<(), StatusCode> {
    let host = if upstream.settings.preserve_host {
        HeaderValue::from_str(authority.as_str())
    } else {
        HeaderValue::from_str(&server.server.to_string())
    };
    if parts
        .headers
        .get(HOST)
        .is_none_or(|host| !upstream.settings.preserve_host || host.as_bytes() != authority.as_str().as_bytes())
    {
        parts.headers.insert(HOST, host.map_err(|_| StatusCode::BAD_REQUEST)?);
    }
    Ok(())
}

/// The answer, as the client's connection takes it.
fn back(answer: Answer, version: Version) -> Response<ResponseBody> {
    let mut response = match answer {
        Answer::H1(response, exchange) => {
            let (parts, body) = response.into_parts();
            Response::from_parts(parts, ResponseBody::H1(body, exchange))
        }
        Answer::H2(response, deadline) => {
            let (parts, body) = response.into_parts();
            Response::from_parts(parts, ResponseBody::H2(body, deadline))
        }
    };
    hop_by_hop(response.headers_mut(), |_| false);
    if version == Version::HTTP_2 {
        response.headers_mut().remove(TRAILER);
    }
    *response.version_mut() = version;
    response
}

fn status(failed: &Failed) -> StatusCode {
    use super::body::BodyError;
    match failed {
        Failed::Connect | Failed::Unsent(_) | Failed::Response => StatusCode::BAD_GATEWAY,
        Failed::ConnectLate | Failed::Late => StatusCode::GATEWAY_TIMEOUT,
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

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What no `Connection` header removes: without it a request is another one.
const NEEDED: [HeaderName; 10] = [
    HOST,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    TE,
    TRAILER,
    VIA,
    FORWARDED,
    http::header::COOKIE,
    http::header::AUTHORIZATION,
    X_FORWARDED_PROTO,
];

/// An extended CONNECT (RFC 8441) says so here.
pub(crate) fn protocol(parts: &Parts) -> Option<&Protocol> {
    parts.extensions.get()
}
