//! A connection: who is at its other end, and which protocol it speaks.

mod parked;
mod socket;
mod state;

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use bytes::Buf as _;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ipveil::Peer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

pub(crate) use self::socket::Accepted;
use self::{
    parked::Parked,
    socket::Socket,
    state::{Protocol, State, millis},
};
use super::{
    metrics::{Counters, Ended},
    rarely::chain,
    room::Place,
    service::Serve,
    site::{self, Site},
    watch::{Due, Watch},
};

/// What the requests of one connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Raw: nobody can print it.
    pub(crate) peer: Peer,
    pub(crate) is_secure: bool,
    pub(crate) watch: Arc<Watch>,
    /// The one exchange at a time of HTTP/1.
    pub(crate) exchange: Option<Arc<Watch>>,
    pub(crate) counters: Arc<Counters>,
    state: Arc<State>,
    // Given back when all that began on it has ended, also what goes on in another protocol.
    _place: Place,
}

impl Connection {
    pub(crate) fn is_h2(&self) -> bool {
        self.state.speaks(Protocol::H2)
    }

    /// A request has begun: its deadlines count now.
    pub(crate) fn begin(&self, site: &Site) {
        self.state.adopt(site);
        self.state.requests.fetch_add(1, Relaxed);
        self.state.in_head.store(false, Relaxed);
        self.watch.done(Due::Phase);
    }

    /// All of it was answered.
    pub(crate) fn end(&self) {
        if self.state.requests.fetch_sub(1, Relaxed) == 1 {
            let idle = millis(&self.state.idle);
            let may_park = self.exchange.as_ref().is_some_and(|exchange| !exchange.has_body());
            self.watch.within(Due::Phase, if may_park { idle.min(UNPARKED) } else { idle });
        }
    }

    /// Something goes on that is no request any more: until what is returned is dropped, the connection is not idle.
    pub(crate) fn go_on(self: &Arc<Self>) -> GoingOn {
        // Of what is sent one way only, the end says nothing of the other way.
        self.state.looks_for_end.store(false, Relaxed);
        self.state.requests.fetch_add(1, Relaxed);
        GoingOn(Arc::clone(self))
    }
}

/// What [`Connection::go_on`] is about.
pub(crate) struct GoingOn(Arc<Connection>);

impl Drop for GoingOn {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Connection {
    /// A part of an answer was given to HTTP/2, which asks for the next one when the client has room for it.
    pub(crate) fn handed(&self) {
        self.state.handed.fetch_add(1, Relaxed);
        self.watch.within(Due::Progress, millis(&self.state.stall));
    }

    /// The client had room for it, or nobody wants it any more.
    pub(crate) fn taken(&self) {
        self.state.handed.fetch_sub(1, Relaxed);
        if !self.state.is_stalled.load(Relaxed) {
            self.state.progressed();
        }
    }
}

/// Serves a connection until it ends, whoever ends it.
pub(crate) async fn serve<S>(
    stream: S,
    peer: Peer,
    listener: usize,
    site: Arc<Site>,
    counters: Arc<Counters>,
    place: Place,
) where
    S: Accepted,
{
    let watch = Watch::new();
    let state = Arc::new(State::new(Arc::clone(&watch), &site));
    let mut io = Socket::new(stream, Arc::clone(&state));
    let settings = &site.listeners[listener];
    let mut connection =
        Connection { peer, is_secure: settings.tls.is_some(), watch, exchange: None, counters, state, _place: place };

    if let Some(receiver) = &settings.proxy_protocol {
        connection.watch.within(Due::Phase, site.deadlines.proxy_header);
        match in_time(&connection.watch, io.read_proxy_header(receiver, peer)).await {
            Some(Ok(header)) => {
                connection.peer = header.peer();
                // Who ended TLS says so.
                connection.is_secure |= header.is_tls();
            }
            broken => {
                let why = if broken.is_some() { "it is broken" } else { "it does not come" };
                if let Some(times) = settings.complaints.tell() {
                    tracing::warn!(listener, times, "a connection has no PROXY header that can be used: {why}");
                }
                return connection.counters.ended(Ended::ProxyHeader);
            }
        }
    }
    if let Some(tls) = &settings.tls {
        connection.watch.within(Due::Phase, site.deadlines.tls_handshake);
        // On its own: it is large, and soon over.
        let accept = Box::pin(tls.accept(io));
        let Some(Ok(io)) = in_time(&connection.watch, accept).await else {
            connection.counters.ended(Ended::Handshake);
            return;
        };
        let is_h2 = io.get_ref().1.alpn_protocol() == Some(b"h2");
        Box::pin(serve_http(io, connection, is_h2, site)).await;
    } else {
        connection.watch.within(Due::Phase, site.deadlines.first_bytes);
        let Some(Ok(is_h2)) = in_time(&connection.watch, io.is_h2()).await else {
            return connection.counters.ended(Ended::NoRequest);
        };
        connection.state.looks_for_end.store(!is_h2, Relaxed);
        Box::pin(serve_http(io, connection, is_h2, site)).await;
    }
}

async fn serve_http<S>(io: S, mut connection: Connection, is_h2: bool, site: Arc<Site>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    connection.state.in_head.store(true, Relaxed);
    let _ = connection.state.protocol.set(if is_h2 { Protocol::H2 } else { Protocol::H1 });
    if is_h2 {
        connection.watch.within(Due::Phase, site.deadlines.keep_alive);
    } else {
        connection.exchange = Some(Watch::new());
        connection.watch.within(Due::Phase, site.deadlines.request_head);
    }
    let connection = Arc::new(connection);
    let ended =
        if is_h2 { Box::pin(serve_h2(io, &connection, &site)).await } else { serve_h1(io, &connection, site).await };
    connection.counters.ended(ended);
}

async fn serve_h1<S>(io: S, connection: &Arc<Connection>, mut site: Arc<Site>) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut io = Some(Parked::new(io));
    let mut has_waker = false;
    loop {
        let Some(ready) = io.take() else { return Ended::Broken };
        let mut builder = http1::Builder::new();
        // To read while a request is answered takes another buffer.
        builder.half_close(connection.state.looks_for_end.load(Relaxed));
        builder.max_headers(site.limits.headers).max_header_size(site.limits.header_bytes);
        // At least what the head may take.
        builder.max_buf_size(site.limits.header_bytes.max(MOST_BUFFERED));
        let service = Serve::new(Arc::clone(&site), Arc::clone(connection));
        let mut http = Box::new(builder.serve_connection(TokioIo::new(ready), service).with_upgrades());
        let mut is_draining = false;
        let ended = poll_fn(|context| {
            if !has_waker {
                connection.watch.wake_me(context);
                has_waker = true;
            }
            loop {
                if let Poll::Ready(result) = Pin::new(&mut *http).poll(context) {
                    return Poll::Ready(match result {
                        Ok(()) => Ended::Well,
                        Err(error) => failed_by(&error, &site),
                    });
                }
                if !connection.watch.is_draining() || is_draining {
                    break;
                }
                // Whoever has come to ask may do so once more; whoever waits has to go.
                if connection.state.in_head.load(Relaxed) {
                    connection.watch.at_most(Due::Phase, LAST_CALL);
                    break;
                }
                is_draining = true;
                Pin::new(&mut *http).graceful_shutdown();
            }
            late(connection).map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        if !matches!(ended, Ended::LateHead | Ended::Idle) {
            return ended;
        }
        // Answered before all of it was read: what comes next is the rest of it, and no request.
        if connection.exchange.as_ref().is_some_and(|exchange| exchange.has_body()) {
            return ended;
        }
        let Some((mut parked, mut begun)) = http.into_parts().map(|parts| {
            // The buffer goes, too: most of what a connection takes.
            (parts.io.into_inner(), parts.read_buf)
        }) else {
            return ended;
        };
        // RFC 9112, 2.2: an empty line begins nothing.
        let blank = begun.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        begun.advance(blank);
        let is_blank = blank > 0 && begun.is_empty();
        // RFC 9110, 15.5.9: whoever began to ask is told why there is no answer.
        if ended == Ended::LateHead && !is_blank {
            // Unless there is no room for it.
            let _ = tokio::time::timeout(LAST_CALL, parked.write_all(TIMEOUT)).await;
            return ended;
        }
        connection.state.in_head.store(false, Relaxed);
        has_waker = false;
        site = site::current();
        // The next request began together with the last one.
        if !begun.is_empty() {
            parked.first = begun;
            connection.state.in_head.store(true, Relaxed);
            connection.watch.within(Due::Phase, site.deadlines.request_head);
            io = Some(parked);
            continue;
        }
        // What is idle for longer than most gives back what it does not need: a part of a buffer would keep all of it.
        drop(begun);
        connection.watch.within(Due::Phase, site.deadlines.keep_alive.saturating_sub(UNPARKED));
        connection.watch.park(true);
        let waited = in_time(&connection.watch, parked.wait()).await;
        connection.watch.park(false);
        match waited {
            Some(Ok(true)) => io = Some(parked),
            Some(_) => return Ended::Well,
            None => return Ended::Idle,
        }
        site = site::current();
    }
}

async fn serve_h2<S>(io: S, connection: &Arc<Connection>, site: &Arc<Site>) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = Serve::new(Arc::clone(site), Arc::clone(connection));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .enable_connect_protocol()
        .timer(TokioTimer::new())
        .max_concurrent_streams(site.limits.streams)
        .max_header_list_size(u32::try_from(site.limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(MOST_BUFFERED);
    let mut http = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut is_new = true;
    let mut is_draining = false;
    poll_fn(|context| {
        if is_new {
            connection.watch.wake_me(context);
            is_new = false;
        }
        // There may be requests after the first, so nobody is late with a head.
        let late = late(connection).map(|late| if late == Ended::LateHead { Ended::Idle } else { late });
        if connection.watch.is_draining() && connection.state.in_head.load(Relaxed) && late.is_none() {
            // Whoever has just come may ask once: without a greeting there is no farewell, only a connection that breaks.
            connection.watch.at_most(Due::Phase, LAST_CALL);
        } else if (connection.watch.is_draining() || late == Some(Ended::Idle)) && !is_draining {
            // An idle connection is told, so that the client knows that its next request was not lost.
            is_draining = true;
            http.as_mut().graceful_shutdown();
            connection.watch.within(Due::Phase, FAREWELL);
        } else if let Some(late) = late {
            return Poll::Ready(late);
        }
        http.as_mut().poll(context).map(|result| if result.is_ok() { Ended::Well } else { Ended::Broken })
    })
    .await
}

/// A request that can't be read has no line in the access log: what it says is not known, and the library has answered it.
fn failed_by(error: &hyper::Error, site: &Site) -> Ended {
    if !error.is_parse() {
        return Ended::Broken;
    }
    if let Some(times) = site.bad_requests.tell() {
        tracing::info!(times, error = %chain(error), "a request can't be read, and was refused");
    }
    Ended::BadRequest
}

/// Why a connection has to end, if it has to.
fn late(connection: &Connection) -> Option<Ended> {
    let watch = &connection.watch;
    if watch.is_closing() {
        Some(Ended::Drained)
    } else if watch.is_late(Due::Progress) {
        Some(Ended::Stalled)
    } else if watch.is_late(Due::Phase)
        && connection.state.requests.load(Relaxed) == 0
        // The body is over for us when the last of it is in a buffer: whoever takes it slowly is not idle.
        && !connection.state.is_stalled.load(Relaxed)
    {
        Some(if connection.state.in_head.load(Relaxed) { Ended::LateHead } else { Ended::Idle })
    } else {
        None
    }
}

/// What `future` gives; nothing if that takes too long, or the connection has to end.
async fn in_time<T>(watch: &Watch, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    poll_fn(|context| {
        watch.wake_me(context);
        if let Poll::Ready(done) = future.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        if watch.is_draining() {
            watch.at_most(Due::Phase, LAST_CALL);
        }
        if watch.is_late(Due::Phase) || watch.is_closing() {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// Of one body, on its way: large bodies are read in large pieces, and memory stays bounded.
const MOST_BUFFERED: usize = 256 * 1024;

/// For the request of a connection that came just before the end.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How long a connection without a request keeps its buffers.
const UNPARKED: Duration = Duration::from_secs(2);

/// For the last answers on a connection that was told to end.
const FAREWELL: Duration = Duration::from_secs(5);

const TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
