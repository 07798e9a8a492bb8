//! Connections to a server that speaks HTTP/2: many requests at a time.

use std::{io, sync::Arc, time::Duration};

use http::{
    Request, Uri, Version,
    header::HOST,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::{server::is_over, socket::Socket};
use crate::proxy::{body::RequestBody, greeting, this_thread};

/// A connection of HTTP/2, for many requests at a time.
#[derive(Clone)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<RequestBody>,
    // Each of these requests has a copy until all of its answer has come.
    pub(super) places: Arc<()>,
    most: usize,
    // In seconds since the start, and since when nobody asks.
    pub(super) begun: u32,
    idle: Option<u32>,
}

impl Http2 {
    pub(super) async fn begin(link: Socket) -> io::Result<Self> {
        let (link, greeting) = greeting::listen(link);
        let io = TokioIo::new(Socket::other(link));
        let (sender, connection) = h2_client().handshake(io).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let greeting = greeting.await.map_err(io::Error::other)?;
        let most = usize::try_from(greeting.streams).unwrap_or(usize::MAX).clamp(1, MOST_STREAMS);
        Ok(Self { sender, places: Arc::new(()), most, begun: this_thread::seconds(), idle: None })
    }

    /// For one more request.
    pub(super) fn lend(&mut self) -> Self {
        self.idle = None;
        self.clone()
    }

    pub(super) fn is_busy(&self) -> bool {
        Arc::strong_count(&self.places) > 1
    }

    /// Whether nobody has asked for that long. To be asked every second.
    pub(super) fn is_idle_for(&mut self, time: Duration) -> bool {
        if self.is_busy() {
            self.idle = None;
            return false;
        }
        is_over(*self.idle.get_or_insert_with(this_thread::seconds), time)
    }

    /// Whether it can take one more request.
    pub(super) fn has_room(&self) -> bool {
        Arc::strong_count(&self.places) <= self.most
    }
}

/// Octets of the head of an answer.
const MOST_HEAD: u32 = 256 * 1024;

/// How often a server with which HTTP/2 is spoken is asked whether it is there, and how long it may take to say so.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Of one connection, whatever the server takes.
const MOST_STREAMS: usize = 128;

/// Whoever reads slowly, or not at all, takes from the room that all streams of a connection share: there is enough of it for
/// as many as there can be.
pub(super) fn h2_client() -> http2::Builder<TokioExecutor> {
    const ONE: u32 = 64 * 1024;
    const ALL: u32 = MOST_STREAMS as u32 * ONE;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(ONE).initial_connection_window_size(ALL).max_header_list_size(MOST_HEAD);
    // A server that is gone says nothing, and requests would wait for it until each is late.
    builder.timer(TokioTimer::new()).keep_alive_interval(SIGN_OF_LIFE).keep_alive_timeout(SIGN_OF_LIFE);
    builder
}

/// The target as HTTP/2 has it: the authority is beside the path.
pub(super) fn for_h2<B>(request: &mut Request<B>, is_secure: bool) {
    *request.version_mut() = Version::HTTP_2;
    let authority = request.headers_mut().remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(if is_secure { Scheme::HTTPS } else { Scheme::HTTP });
    if authority.is_some() {
        uri.authority = authority;
    }
    uri.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    // What has no authority is refused by whoever sends it.
    *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
}
