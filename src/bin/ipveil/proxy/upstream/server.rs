//! One server: how it is reached, and who may ask it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body::Body as _;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipveil::proxy_protocol::Announcement;
use rustls::pki_types::ServerName;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    Answer, Failed,
    apart::{Apart, agrees_to_none},
    http1::{Http1, Idle},
    http2::{Http2, for_h2, h2_client},
    in_time,
    socket::Socket,
};
use crate::{
    config::{Server, ServerAt},
    proxy::{
        body::{BodyError, Deadline, RequestBody},
        greeting,
        rarely::{Rarely, chain},
        this_thread,
        watch::Due,
    },
};

/// One server.
pub(crate) struct Endpoint {
    pub(crate) server: Server,
    /// What the log calls it: where it stands in the configuration.
    pub(crate) place: String,
    complaints: [Rarely; Complaint::ALL.len()],
    failures: [AtomicU64; Complaint::ALL.len()],
    tls: Option<Tls>,
    most_idle: usize,
    is_healthy: AtomicBool,
    // In seconds since the start: after a failure somebody else is asked for a while.
    failed_until: AtomicU32,
    // Which of its name's addresses is tried first: none that could not be reached.
    first: AtomicUsize,
    // Requests that wait for an answer.
    outstanding: AtomicUsize,
    // Connections of each thread, which no other one touches.
    idle: Box<[Mutex<Vec<Idle>>]>,
    h2: Box<[Mutex<Vec<Http2>>]>,
}

/// How to be sure that it is that server.
pub(super) struct Tls {
    pub(super) any: TlsConnector,
    pub(super) h1: TlsConnector,
    pub(super) name: ServerName<'static>,
}

/// A new connection, as it turned out.
enum Connected {
    H1(Http1),
    H2(Http2),
}

impl Endpoint {
    /// Of all idle connections, `most_idle` are kept by each of `threads`.
    pub(super) fn new(server: Server, place: String, tls: Option<Tls>, most_idle: usize, threads: usize) -> Self {
        Self {
            server,
            place,
            complaints: Default::default(),
            failures: Default::default(),
            first: AtomicUsize::new(0),
            tls,
            most_idle,
            is_healthy: AtomicBool::new(true),
            failed_until: AtomicU32::new(0),
            outstanding: AtomicUsize::new(0),
            idle: (0..threads).map(|_| Mutex::default()).collect(),
            h2: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    /// How many requests wait for an answer.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.load(Relaxed)
    }

    pub(crate) fn is_well(&self) -> bool {
        self.is_healthy.load(Relaxed) && self.failed_until.load(Relaxed) <= this_thread::seconds()
    }

    /// Counts a request among those that wait for an answer, until this is dropped: a client that goes away waits no more.
    pub(crate) fn begin(&self) -> Outstanding<'_> {
        self.outstanding.fetch_add(1, Relaxed);
        Outstanding(self)
    }

    /// What a health check found.
    pub(crate) fn set_healthy(&self, is_healthy: bool) -> bool {
        if is_healthy {
            self.failed_until.store(0, Relaxed);
        }
        self.is_healthy.swap(is_healthy, Relaxed) != is_healthy
    }

    /// It could not be reached.
    fn failed(&self, error: &io::Error) {
        self.complain(Complaint::Unreachable, error);
        // That is our fault, not the server's.
        if !matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
            self.shun();
        }
    }

    fn shun(&self) {
        self.failed_until.store(this_thread::seconds() + SHUNNED, Relaxed);
    }

    /// Says what is wrong with it, now and then.
    pub(crate) fn complain(&self, what: Complaint, error: &dyn std::error::Error) {
        self.failures[what as usize].fetch_add(1, Relaxed);
        if let Some(times) = self.complaints[what as usize].tell() {
            tracing::warn!(server = self.place, times, error = %chain(error), "{}", what.text());
        }
    }

    /// How often it failed since it is in the configuration, and how.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Complaint::ALL.into_iter().map(|what| (what.name(), self.failures[what as usize].load(Relaxed)))
    }

    /// Sends a request, and gives the head of the response. What was not sent is still there afterwards.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: &mut Option<Request<RequestBody>>,
        deadline: &mut Deadline,
    ) -> Result<Answer, Failed> {
        // It stays where it is: the next one that is asked expects it, too.
        let announcement = request.as_ref().and_then(|request| request.extensions().get::<Announcement>().copied());
        if announcement.is_none() {
            if let Some(link) = self.shared(deadline.site.deadlines.upstream_lifetime) {
                return Box::pin(self.send_h2(link, request, deadline)).await;
            }
            // An idle connection may have been closed by the server just now: then nothing was sent, and the next one is tried.
            while let Some(Idle { link, since }) = self.take() {
                // Or it is closed while the request is on its way. That happens to connections that have waited.
                let may_repeat = |request: &&_| is_over(since, A_WHILE) && may_be_repeated(request);
                let spare = request.as_ref().filter(may_repeat).map(copy);
                match link.send(request, deadline, self, true, spare.is_some()).await {
                    Err(Failed::Unsent) => {}
                    Err(Failed::Unanswered) => *request = spare,
                    other => return other,
                }
            }
        }
        // On its own: it is large, and rarely needed.
        let time = deadline.site.deadlines.connect;
        let connect = Box::pin(self.connect(announcement.as_ref(), time));
        let connected = match in_time(deadline, time, connect).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => {
                self.failed(&error);
                return Err(Failed::Connect);
            }
            Err(()) => {
                self.failed(&io::Error::from(io::ErrorKind::TimedOut));
                return Err(Failed::ConnectLate);
            }
        };
        self.failed_until.store(0, Relaxed);
        match connected {
            // What was announced is true of this client only.
            Connected::H1(link) => link.send(request, deadline, self, announcement.is_none(), false).await,
            Connected::H2(link) => {
                if announcement.is_none() {
                    lock(self.h2_here()).push(link.clone());
                }
                Box::pin(self.send_h2(link, request, deadline)).await
            }
        }
    }

    /// A connection of its own for a request that asks for another protocol. Among the streams of a shared one it would
    /// take the place of others, and a part of their window, for hours.
    pub(crate) async fn connect_apart(
        &self,
        announcement: Option<&Announcement>,
        deadline: &Deadline,
    ) -> Result<Apart, Failed> {
        let time = deadline.site.deadlines.connect;
        let connect = async {
            if self.server.h2c {
                return self.connect_for_connect(announcement, time).await;
            }
            let io = match self.socket(true, announcement, time).await {
                Ok((link, _)) => TokioIo::new(link),
                Err(error) if agrees_to_none(&error) => return self.connect_for_connect(announcement, time).await,
                Err(error) => {
                    self.complain(Complaint::Unreachable, &error);
                    return Err(Failed::Connect);
                }
            };
            let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(|_| Failed::Connect)?;
            tokio::spawn(async move {
                let _ = connection.with_upgrades().await;
            });
            Ok(Apart::H1(sender))
        };
        let connected = in_time(deadline, time, connect).await.unwrap_or(Err(Failed::ConnectLate));
        if matches!(connected, Err(Failed::Connect | Failed::ConnectLate)) {
            self.shun();
        }
        connected
    }

    /// A connection to a server of HTTP/2 that takes CONNECT for other protocols: RFC 8441, 3.
    async fn connect_for_connect(&self, announcement: Option<&Announcement>, time: Duration) -> Result<Apart, Failed> {
        let (link, is_h2) = self.socket(false, announcement, time).await.map_err(|error| {
            self.complain(Complaint::Unreachable, &error);
            Failed::Connect
        })?;
        if !is_h2 {
            return Err(Failed::Connect);
        }
        let (link, greeting) = greeting::listen(link);
        let io = TokioIo::new(Socket::other(link));
        let (sender, connection) = h2_client().handshake(io).await.map_err(|_| Failed::Connect)?;
        tokio::spawn(connection);
        match greeting.await {
            Ok(greeting) if greeting.takes_connect => Ok(Apart::H2(sender, self.tls.is_some())),
            Ok(_) => Err(Failed::Unspoken),
            Err(_) => Err(Failed::Connect),
        }
    }

    async fn send_h2(
        self: &Arc<Self>,
        mut link: Http2,
        request: &mut Option<Request<RequestBody>>,
        deadline: &mut Deadline,
    ) -> Result<Answer, Failed> {
        let Some(mut taken) = request.take() else { return Err(Failed::Response) };
        for_h2(&mut taken, self.tls.is_some());
        let spare = taken.body().is_end_stream().then(|| copy(&taken));
        let sent = link.sender.try_send_request(taken);
        match in_time(deadline, deadline.site.deadlines.first_byte, sent).await {
            Ok(Ok(response)) => Ok(Answer::H2(response, link.places)),
            Ok(Err(mut error)) => {
                // The library says that a stream was reset, and not that we did it for want of a body.
                if let Some(error) = deadline.watch.body_error() {
                    return Err(Failed::Request(error));
                }
                self.forget(&link);
                *request = error.take_message();
                // A connection that came to its end, as they all do: somebody else will answer.
                if request.is_none() && spare.is_some() && is_unprocessed(error.error()) {
                    *request = spare;
                    return Err(Failed::Unsent);
                }
                Err(self.failed_by(error.error()))
            }
            // Nobody else asks the body, which is on its way to the connection's own task.
            Err(()) if deadline.watch.is_late(Due::Progress) => Err(Failed::Request(BodyError::Late)),
            Err(()) => {
                // Perhaps nobody is there any more: others get another connection.
                self.forget(&link);
                self.is_late();
                Err(Failed::Late)
            }
        }
    }

    /// It did not answer in time.
    pub(super) fn is_late(&self) {
        self.complain(Complaint::Late, &io::Error::from(io::ErrorKind::TimedOut));
    }

    /// Why a request that was sent has no answer.
    pub(super) fn failed_by(&self, error: &hyper::Error) -> Failed {
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<BodyError>());
        if let Some(&cause) = cause {
            return Failed::Request(cause);
        }
        self.complain(Complaint::Broken, error);
        Failed::Response
    }

    fn forget(&self, link: &Http2) {
        lock(self.h2_here()).retain(|other| !Arc::ptr_eq(&other.places, &link.places));
    }

    /// Asks on a connection of its own, for whoever is no client.
    pub(crate) async fn ask(
        &self,
        mut request: Request<Empty<Bytes>>,
        announcement: Option<&Announcement>,
        time: Duration,
    ) -> anyhow::Result<StatusCode> {
        let (link, is_h2) = self.socket(false, announcement, time).await?;
        let io = TokioIo::new(link);
        if is_h2 {
            for_h2(&mut request, self.tls.is_some());
            let (mut sender, connection) = h2_client().handshake(io).await?;
            let task = tokio::spawn(connection);
            let response = sender.send_request(request).await;
            task.abort();
            return Ok(response?.status());
        }
        let (mut sender, connection) = http1::Builder::new().handshake(io).await?;
        let task = tokio::spawn(connection);
        let response = sender.send_request(request).await;
        task.abort();
        Ok(response?.status())
    }

    /// Connects, and agrees on a protocol.
    async fn connect(&self, announcement: Option<&Announcement>, time: Duration) -> io::Result<Connected> {
        let (link, is_h2) = self.socket(false, announcement, time).await?;
        if is_h2 {
            return Ok(Connected::H2(Http2::begin(link).await?));
        }
        Ok(Connected::H1(Http1::begin(link).await?))
    }

    /// A connection, and whether it speaks HTTP/2.
    async fn socket(
        &self,
        only_h1: bool,
        announcement: Option<&Announcement>,
        time: Duration,
    ) -> io::Result<(Socket, bool)> {
        let mut stream = match &self.server.at {
            ServerAt::Unix(path) => {
                let mut stream = UnixStream::connect(path).await?;
                if let Some(announcement) = announcement {
                    stream.write_all(announcement.as_bytes()).await?;
                }
                return Ok((Socket::other(stream), false));
            }
            ServerAt::Tcp(_, port) => self.connect_tcp(*port, time).await?,
        };
        stream.set_nodelay(true)?;
        // Before anything else, TLS included.
        if let Some(announcement) = announcement {
            stream.write_all(announcement.as_bytes()).await?;
        }
        let Some(tls) = &self.tls else {
            return Ok((Socket::tcp(stream), self.server.h2c && !only_h1));
        };
        let connector = if only_h1 { &tls.h1 } else { &tls.any };
        let stream = connector.connect(tls.name.clone(), stream).await?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Socket::other(stream), is_h2))
    }

    /// One of the addresses of its name. One that does not answer takes no more than its share of the time, and then another
    /// one comes first.
    async fn connect_tcp(&self, port: u16, time: Duration) -> io::Result<TcpStream> {
        let mut last = io::ErrorKind::NotFound.into();
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((self.server.host(), port)).await?.collect();
        let count = addresses.len();
        let first = self.first.load(Relaxed);
        for index in (first..).take(count) {
            let connect = TcpStream::connect(addresses[index % count]);
            let connected = match count {
                // There is a deadline for all of it.
                1 => connect.await,
                _ => timeout(time / u32::try_from(count).unwrap_or(u32::MAX), connect)
                    .await
                    .unwrap_or_else(|late| Err(late.into())),
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
            self.first.store((index + 1) % count, Relaxed);
        }
        Err(last)
    }

    fn take(&self) -> Option<Idle> {
        let mut idle = lock(self.idle_here());
        loop {
            let taken = idle.pop()?;
            if taken.link.is_ready() {
                return Some(taken);
            }
        }
    }

    pub(super) fn give_back(&self, link: Http1, lifetime: Duration) {
        let mut idle = lock(self.idle_here());
        if idle.len() < self.most_idle && !is_over(link.begun, lifetime) {
            idle.push(Idle { link, since: this_thread::seconds() });
        }
    }

    /// Closes the connections of this thread that have had no request for that long, or that the server has closed.
    pub(crate) fn tidy(&self, keep_alive: Duration) {
        let mut context = Context::from_waker(Waker::noop());
        let mut idle = lock(self.idle_here());
        idle.retain_mut(|idle| !is_over(idle.since, keep_alive) && idle.link.drive(&mut context));
        // One is enough for whoever asks next.
        let mut is_first = true;
        lock(self.h2_here()).retain_mut(|link| {
            let is_idle = link.is_idle_for(keep_alive);
            !link.sender.is_closed() && !is_idle && (std::mem::take(&mut is_first) || link.is_busy())
        });
    }

    fn idle_here(&self) -> &Mutex<Vec<Idle>> {
        &self.idle[this_thread::index() % self.idle.len()]
    }

    /// A connection of HTTP/2 that has room for one more request.
    fn shared(&self, lifetime: Duration) -> Option<Http2> {
        let mut links = lock(self.h2_here());
        links.retain(|link| !link.sender.is_closed() && !is_over(link.begun, lifetime));
        links.iter_mut().find(|link| link.has_room()).map(|link| link.lend())
    }

    fn h2_here(&self) -> &Mutex<Vec<Http2>> {
        &self.h2[this_thread::index() % self.h2.len()]
    }
}

/// A request that waits for a server's answer.
pub(crate) struct Outstanding<'a>(&'a Endpoint);

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Servers don't close connections that were in use a moment ago.
const A_WHILE: Duration = Duration::from_secs(1);

/// What the log says of a server, each now and then.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Complaint {
    Unreachable,
    Broken,
    Late,
    CutOff,
}

impl Complaint {
    const ALL: [Self; 4] = [Self::Unreachable, Self::Broken, Self::Late, Self::CutOff];

    /// As metrics have it.
    fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
            Self::Late => "late",
            Self::CutOff => "cut_off",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Unreachable => "a server can't be reached",
            Self::Broken => "a server did not answer as it should",
            Self::Late => "a server did not answer in time",
            Self::CutOff => "a server did not send all of an answer",
        }
    }
}

/// Whether so much time has passed since then, to a second or two.
pub(super) fn is_over(since: u32, time: Duration) -> bool {
    u64::from(this_thread::seconds().saturating_sub(since)) >= time.as_secs()
}

/// For another server, if this one does not look at it. Without a body, which can be read once.
fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(request.body().none());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy.extensions_mut().clone_from(request.extensions());
    copy
}

/// Whether it does no harm to ask twice: RFC 9110, 9.2.1.
fn may_be_repeated(request: &Request<RequestBody>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) && request.body().is_end_stream()
}

/// Whether a server says that it did nothing with a request: RFC 9113, 8.7. Of those that stand in a GOAWAY frame as looked at,
/// an error says something else.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        cause.is_remote()
            && (cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR)
                || cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// Seconds for which a server that refused a connection is not asked, if there are others.
const SHUNNED: u32 = 10;
