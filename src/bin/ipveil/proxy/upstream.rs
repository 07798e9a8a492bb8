//! The servers behind: which one takes a request, and the connections to them.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING},
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ipveil::proxy_protocol::{self, Announcement};
use rustls::{AlertDescription, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use super::{
    body::{BodyError, Deadline, RequestBody},
    greeting,
    rarely::{Rarely, chain},
    small_write::poll_write_pieces,
    watch::{Due, Watch},
    worker,
};
use crate::{
    config::{self, Server, ServerAt},
    wipe::Used,
};

/// Any connection to a server.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

type Io = TokioIo<Link>;

/// A connection to a server.
pub(crate) struct Link {
    socket: LinkSocket,
    used: Used,
}

/// There is no need of dynamic dispatch for what is most frequent.
enum LinkSocket {
    Tcp(TcpStream),
    Other(Box<dyn Stream>),
}

impl Link {
    fn tcp(stream: TcpStream) -> Self {
        Self { socket: LinkSocket::Tcp(stream), used: Used::default() }
    }

    fn other(stream: impl Stream + 'static) -> Self {
        Self { socket: LinkSocket::Other(Box::new(stream)), used: Used::default() }
    }
}

/// Some servers that do the same.
pub(crate) struct Upstream {
    name: String,
    pub(crate) settings: config::Upstream,
    servers: Vec<Arc<Endpoint>>,
    turn: AtomicUsize,
}

/// One server.
pub(crate) struct Endpoint {
    pub(crate) server: Server,
    /// What the log calls it: where it stands in the configuration.
    pub(crate) place: String,
    complaints: Rarely,
    tls: Option<Tls>,
    most_idle: usize,
    is_healthy: AtomicBool,
    // In seconds since the start: after a failure somebody else is asked for a while.
    failed_until: AtomicU32,
    // Requests that wait for an answer.
    outstanding: AtomicUsize,
    // Connections of each thread, which no other one touches.
    idle: Box<[Mutex<Vec<Idle>>]>,
    h2: Box<[Mutex<Vec<Shared>>]>,
}

/// How to be sure that it is that server.
struct Tls {
    any: TlsConnector,
    h1: TlsConnector,
    name: ServerName<'static>,
}

/// An HTTP/1 connection without a request.
struct Idle {
    link: Linked,
    // In seconds since the start.
    since: u32,
}

/// An HTTP/1 connection. It has no task of its own: whoever waits for it drives it.
pub(crate) struct Linked {
    sender: http1::SendRequest<RequestBody>,
    // None when it has ended. Only then does the sender learn that nobody will take what it has.
    connection: Option<Box<http1::Connection<Io, RequestBody>>>,
}

/// A new connection, as it turned out.
enum Connected {
    H1(Linked),
    H2(Shared),
}

impl Upstream {
    pub(crate) fn new(
        name: &str,
        settings: &config::Upstream,
        most_idle: usize,
        threads: usize,
    ) -> anyhow::Result<Self> {
        let tls =
            settings.servers.iter().any(|server| server.0.tls).then(|| super::tls::client(settings.ca.as_deref()));
        let tls = tls.transpose()?;
        let servers = settings.servers.iter().enumerate().map(|(index, config::Text(server))| {
            let tls = match &tls {
                Some((any, h1)) if server.tls => {
                    let name = ServerName::try_from(server.host().to_owned())?;
                    Some(Tls { any: any.clone(), h1: h1.clone(), name })
                }
                _ => None,
            };
            Ok(Arc::new(Endpoint {
                server: server.clone(),
                place: format!("upstream.{name}.servers.{index}"),
                complaints: Rarely::default(),
                tls,
                most_idle: most_idle.div_ceil(threads),
                is_healthy: AtomicBool::new(true),
                failed_until: AtomicU32::new(0),
                outstanding: AtomicUsize::new(0),
                idle: (0..threads).map(|_| Mutex::default()).collect(),
                h2: (0..threads).map(|_| Mutex::default()).collect(),
            }))
        });
        let servers = servers.collect::<anyhow::Result<_>>()?;
        Ok(Self { name: name.to_owned(), settings: settings.clone(), servers, turn: AtomicUsize::new(0) })
    }

    /// Whether these settings ask for the same.
    pub(crate) fn is_like(&self, name: &str, settings: &config::Upstream) -> bool {
        // A file may have other certificates now.
        self.name == name && self.settings == *settings && settings.ca.is_none()
    }

    /// In which version connections begin with a PROXY header, if they do.
    pub(crate) fn announces(&self) -> Option<proxy_protocol::Version> {
        Some(match self.settings.proxy_protocol?.get() {
            1 => proxy_protocol::Version::V1,
            _ => proxy_protocol::Version::V2,
        })
    }

    pub(crate) fn servers(&self) -> &[Arc<Endpoint>] {
        &self.servers
    }

    /// Who takes the next request: the one with less to do of two that are well. Not `but`, if there is another.
    pub(crate) fn choose(&self, but: Option<&Arc<Endpoint>>) -> &Arc<Endpoint> {
        if let [only] = &*self.servers {
            return only;
        }
        let turn = self.turn.fetch_add(1, Relaxed);
        let from =
            |start: usize| (0..self.servers.len()).map(move |step| &self.servers[(start + step) % self.servers.len()]);
        let is_other = |server: &&Arc<Endpoint>| but.is_none_or(|but| !Arc::ptr_eq(but, server));
        let mut well = from(turn).filter(is_other).filter(|server| server.is_well());
        let fallback = || from(turn).find(is_other).unwrap_or(&self.servers[0]);
        match (well.next(), well.next()) {
            (Some(one), Some(other)) if other.outstanding.load(Relaxed) < one.outstanding.load(Relaxed) => other,
            (Some(one), _) => one,
            // When all are ill, any may have recovered.
            (None, _) => fallback(),
        }
    }
}

impl Endpoint {
    pub(crate) fn is_well(&self) -> bool {
        self.is_healthy.load(Relaxed) && self.failed_until.load(Relaxed) <= worker::seconds()
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
        self.complain(UNREACHABLE, error);
        // That is our fault, not the server's.
        if !matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
            self.shun();
        }
    }

    fn shun(&self) {
        self.failed_until.store(worker::seconds() + SHUNNED, Relaxed);
    }

    /// Says what is wrong with it, now and then.
    pub(crate) fn complain(&self, what: &'static str, error: &dyn std::error::Error) {
        if let Some(times) = self.complaints.tell() {
            tracing::warn!(server = self.place, times, error = %chain(error), "{what}");
        }
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
            if let Some(link) = self.shared() {
                return Box::pin(self.send_h2(link, request, deadline)).await;
            }
            // An idle connection may have been closed by the server just now: then nothing was sent, and the next one is tried.
            while let Some(link) = self.take() {
                match link.send(request, deadline, self, true).await {
                    Err(Failed::Unsent) => {}
                    other => return other,
                }
            }
        }
        // On its own: it is large, and rarely needed.
        let connect = Box::pin(self.connect(announcement.as_ref()));
        let connected = match in_time(deadline, deadline.site.deadlines.connect, connect).await {
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
            Connected::H1(link) => link.send(request, deadline, self, announcement.is_none()).await,
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
        let connect = async {
            if self.server.h2c {
                return self.connect_for_connect(announcement).await;
            }
            let io = match self.link(true, announcement).await {
                Ok((link, _)) => TokioIo::new(link),
                Err(error) if agrees_to_none(&error) => return self.connect_for_connect(announcement).await,
                Err(error) => {
                    self.complain(UNREACHABLE, &error);
                    return Err(Failed::Connect);
                }
            };
            let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(|_| Failed::Connect)?;
            tokio::spawn(async move {
                let _ = connection.with_upgrades().await;
            });
            Ok(Apart::H1(sender))
        };
        let connected =
            in_time(deadline, deadline.site.deadlines.connect, connect).await.unwrap_or(Err(Failed::ConnectLate));
        if matches!(connected, Err(Failed::Connect | Failed::ConnectLate)) {
            self.shun();
        }
        connected
    }

    /// A connection to a server of HTTP/2 that takes CONNECT for other protocols: RFC 8441, 3.
    async fn connect_for_connect(&self, announcement: Option<&Announcement>) -> Result<Apart, Failed> {
        let (link, is_h2) = self.link(false, announcement).await.map_err(|error| {
            self.complain(UNREACHABLE, &error);
            Failed::Connect
        })?;
        if !is_h2 {
            return Err(Failed::Connect);
        }
        let (link, greeting) = greeting::listen(link);
        let io = TokioIo::new(Link::other(link));
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
        mut link: Shared,
        request: &mut Option<Request<RequestBody>>,
        deadline: &mut Deadline,
    ) -> Result<Answer, Failed> {
        let Some(mut taken) = request.take() else { return Err(Failed::Response) };
        for_h2(&mut taken, self.tls.is_some());
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
                Err(self.failed_by(error.error()))
            }
            // Nobody else asks the body, which is on its way to the connection's own task.
            Err(()) if deadline.watch.is_late(Due::Progress) => Err(Failed::Request(BodyError::Late)),
            Err(()) => {
                // Perhaps nobody is there any more: others get another connection.
                self.forget(&link);
                self.complain(LATE, &io::Error::from(io::ErrorKind::TimedOut));
                Err(Failed::Late)
            }
        }
    }

    /// Why a request that was sent has no answer.
    fn failed_by(&self, error: &hyper::Error) -> Failed {
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<BodyError>());
        if let Some(&cause) = cause {
            return Failed::Request(cause);
        }
        self.complain(BROKEN, error);
        Failed::Response
    }

    fn forget(&self, link: &Shared) {
        lock(self.h2_here()).retain(|other| !Arc::ptr_eq(&other.places, &link.places));
    }

    /// Asks on a connection of its own, for whoever is no client.
    pub(crate) async fn ask(
        &self,
        request: Request<Empty<Bytes>>,
        announcement: Option<&Announcement>,
    ) -> anyhow::Result<StatusCode> {
        let (link, is_h2) = self.link(false, announcement).await?;
        let io = TokioIo::new(link);
        if is_h2 {
            let (mut parts, body) = request.into_parts();
            let mut uri = parts.uri.into_parts();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = parts.headers.remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
            parts.uri = Uri::from_parts(uri)?;
            let (mut sender, connection) = h2_client().handshake(io).await?;
            let task = tokio::spawn(connection);
            let response = sender.send_request(Request::from_parts(parts, body)).await;
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
    async fn connect(&self, announcement: Option<&Announcement>) -> io::Result<Connected> {
        let (link, is_h2) = self.link(false, announcement).await?;
        if is_h2 {
            return Ok(Connected::H2(Shared::begin(link).await?));
        }
        let io = TokioIo::new(link);
        let (sender, connection) =
            http1::Builder::new().max_buf_size(MOST_BUFFERED).handshake(io).await.map_err(io::Error::other)?;
        Ok(Connected::H1(Linked { sender, connection: Some(Box::new(connection)) }))
    }

    /// A connection, and whether it speaks HTTP/2.
    async fn link(&self, only_h1: bool, announcement: Option<&Announcement>) -> io::Result<(Link, bool)> {
        let mut stream = match &self.server.at {
            ServerAt::Unix(path) => {
                let mut stream = UnixStream::connect(path).await?;
                if let Some(announcement) = announcement {
                    stream.write_all(announcement.as_bytes()).await?;
                }
                return Ok((Link::other(stream), false));
            }
            ServerAt::Tcp(_, port) => self.connect_tcp(*port).await?,
        };
        stream.set_nodelay(true)?;
        // Before anything else, TLS included.
        if let Some(announcement) = announcement {
            stream.write_all(announcement.as_bytes()).await?;
        }
        let Some(tls) = &self.tls else {
            return Ok((Link::tcp(stream), self.server.h2c && !only_h1));
        };
        let connector = if only_h1 { &tls.h1 } else { &tls.any };
        let stream = connector.connect(tls.name.clone(), stream).await?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Link::other(stream), is_h2))
    }

    async fn connect_tcp(&self, port: u16) -> io::Result<TcpStream> {
        let mut last = io::ErrorKind::NotFound.into();
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((self.server.host(), port)).await?.collect();
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn take(&self) -> Option<Linked> {
        let mut idle = lock(self.idle_here());
        loop {
            let link = idle.pop()?.link;
            if link.sender.is_ready() {
                return Some(link);
            }
        }
    }

    fn give_back(&self, link: Linked) {
        let mut idle = lock(self.idle_here());
        if idle.len() < self.most_idle {
            idle.push(Idle { link, since: worker::seconds() });
        }
    }

    /// Closes the connections of this thread that have had no request for that long, or that the server has closed.
    pub(crate) fn tidy(&self, keep_alive: Duration) {
        let mut context = Context::from_waker(Waker::noop());
        let now = worker::seconds();
        let most = u32::try_from(keep_alive.as_secs()).unwrap_or(u32::MAX);
        let mut idle = lock(self.idle_here());
        idle.retain_mut(|idle| now.saturating_sub(idle.since) < most && drive(&mut idle.link.connection, &mut context));
        // One is enough for whoever asks next.
        let mut is_first = true;
        lock(self.h2_here()).retain(|link| {
            !link.sender.is_closed() && (std::mem::take(&mut is_first) || Arc::strong_count(&link.places) > 1)
        });
    }

    fn idle_here(&self) -> &Mutex<Vec<Idle>> {
        &self.idle[worker::index() % self.idle.len()]
    }

    /// A connection of HTTP/2 that has room for one more request.
    fn shared(&self) -> Option<Shared> {
        let mut links = lock(self.h2_here());
        links.retain(|link| !link.sender.is_closed());
        links.iter().find(|link| link.has_room()).cloned()
    }

    fn h2_here(&self) -> &Mutex<Vec<Shared>> {
        &self.h2[worker::index() % self.h2.len()]
    }
}

/// A request that waits for a server's answer.
pub(crate) struct Outstanding<'a>(&'a Endpoint);

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Relaxed);
    }
}

/// A connection of HTTP/2, for many requests at a time.
#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    // Each of these requests has a copy until all of its answer has come.
    places: Arc<()>,
    most: usize,
}

impl Shared {
    async fn begin(link: Link) -> io::Result<Self> {
        let (link, greeting) = greeting::listen(link);
        let io = TokioIo::new(Link::other(link));
        let (sender, connection) = h2_client().handshake(io).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let greeting = greeting.await.map_err(io::Error::other)?;
        let most = usize::try_from(greeting.streams).unwrap_or(usize::MAX).clamp(1, MOST_STREAMS);
        Ok(Self { sender, places: Arc::new(()), most })
    }

    fn has_room(&self) -> bool {
        Arc::strong_count(&self.places) <= self.most
    }
}

/// The head of a response, and what its body comes from.
pub(crate) enum Answer {
    H1(Response<Incoming>, Linked, Option<Arc<Endpoint>>),
    /// And its place among the streams of a connection.
    H2(Response<Incoming>, Arc<()>),
}

/// Why there is no response.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failed {
    Connect,
    ConnectLate,
    /// The connection was closed before anything was sent.
    Unsent,
    Late,
    /// The client did not send its body as it should.
    Request(BodyError),
    Response,
    /// The server speaks no version of HTTP in which it could be asked that.
    Unspoken,
}

/// A connection for one request, which asks for another protocol.
pub(crate) enum Apart {
    H1(http1::SendRequest<RequestBody>),
    /// And whether it is encrypted.
    H2(http2::SendRequest<RequestBody>, bool),
}

impl Apart {
    pub(crate) fn is_h2(&self) -> bool {
        matches!(self, Self::H2(..))
    }

    pub(crate) async fn send(
        self,
        mut request: Request<RequestBody>,
        deadline: &Deadline,
    ) -> Result<Response<Incoming>, Failed> {
        let sent = async {
            match self {
                Self::H1(mut sender) => {
                    for_h1(&mut request);
                    sender.send_request(request).await
                }
                Self::H2(mut sender, is_secure) => {
                    for_h2(&mut request, is_secure);
                    sender.send_request(request).await
                }
            }
        };
        match in_time(deadline, deadline.site.deadlines.first_byte, sent).await {
            Ok(response) => response.map_err(|_| Failed::Response),
            Err(()) => Err(Failed::Late),
        }
    }
}

/// Whether a server has said that it speaks none of the protocols that it was offered.
fn agrees_to_none(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
}

/// Lets a connection go on; false if it has ended.
fn drive(connection: &mut Option<Box<http1::Connection<Io, RequestBody>>>, context: &mut Context<'_>) -> bool {
    if connection.as_mut().is_some_and(|connection| Pin::new(&mut **connection).poll(context).is_ready()) {
        *connection = None;
    }
    connection.is_some()
}

impl Linked {
    async fn send(
        mut self,
        request: &mut Option<Request<RequestBody>>,
        deadline: &Deadline,
        server: &Arc<Endpoint>,
        // Whether the connection goes back to it: not, if it is for one request only.
        is_kept: bool,
    ) -> Result<Answer, Failed> {
        // While it is where it is: to move it takes longer.
        request.iter_mut().for_each(for_h1);
        let Some(taken) = request.take() else { return Err(Failed::Response) };
        let mut response = std::pin::pin!(self.sender.try_send_request(taken));
        let mut is_waiting = false;
        let polled = poll_fn(|context| {
            // Nothing but the connection brings the response, so only the socket has to wake anybody.
            let polled = worker::wakes(context, |silent| {
                drive(&mut self.connection, silent);
                response.as_mut().poll(silent)
            });
            if let Poll::Ready(result) = polled {
                return Poll::Ready(Some(result));
            }
            if !is_waiting {
                is_waiting = true;
                deadline.watch.wake_me(context);
                deadline.watch.within(Due::Phase, deadline.site.deadlines.first_byte);
            } else if is_late(&deadline.watch) {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await;
        deadline.watch.done(Due::Phase);
        match polled {
            Some(Ok(response)) => Ok(Answer::H1(response, self, is_kept.then(|| Arc::clone(server)))),
            Some(Err(mut error)) => match error.take_message() {
                Some(back) => {
                    *request = Some(back);
                    Err(Failed::Unsent)
                }
                None => Err(server.failed_by(error.error())),
            },
            None => {
                server.complain(LATE, &io::Error::from(io::ErrorKind::TimedOut));
                Err(Failed::Late)
            }
        }
    }
}

/// A connection to a server, while it is answering.
pub(crate) struct Exchange {
    link: Option<Linked>,
    deadline: Deadline,
    endpoint: Option<Arc<Endpoint>>,
}

impl Exchange {
    pub(crate) fn new(link: Linked, deadline: Deadline, endpoint: Option<Arc<Endpoint>>) -> Self {
        Self { link: Some(link), deadline, endpoint }
    }

    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(link) = &mut self.link {
            let _ = worker::wakes(context, |silent| Poll::Ready(drive(&mut link.connection, silent)));
        }
    }

    pub(crate) fn deadline(&mut self) -> &mut Deadline {
        &mut self.deadline
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(link) = self.link.take().filter(|link| link.connection.is_some()) else { return };
        // It is ready for another request if all of the last one, and of its answer, has passed.
        if let Some(endpoint) = &self.endpoint
            && link.sender.is_ready()
        {
            endpoint.give_back(link);
        }
    }
}

/// Of the head of an answer.
const MOST_HEAD: u32 = 256 * 1024;

/// How often a server with which HTTP/2 is spoken is asked whether it is there, and how long it may take to say so.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Of one connection, whatever the server takes.
const MOST_STREAMS: usize = 128;

/// Whoever reads slowly, or not at all, takes from the room that all streams of a connection share: there is enough of it for
/// as many as there can be.
fn h2_client() -> http2::Builder<TokioExecutor> {
    const ONE: u32 = 64 * 1024;
    const ALL: u32 = MOST_STREAMS as u32 * ONE;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(ONE).initial_connection_window_size(ALL).max_header_list_size(MOST_HEAD);
    // A server that is gone says nothing, and requests would wait for it until each is late.
    builder.timer(TokioTimer::new()).keep_alive_interval(SIGN_OF_LIFE).keep_alive_timeout(SIGN_OF_LIFE);
    builder
}

/// The target as HTTP/1.1 has it: the authority is in `Host`.
fn for_h1(request: &mut Request<RequestBody>) {
    // RFC 9113, 8.2.3: a cookie may have come in pieces, and here it is one.
    if request.version() == Version::HTTP_2 && request.headers().get_all(COOKIE).iter().nth(1).is_some() {
        let pieces: Vec<_> = request.headers().get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(cookie) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
            request.headers_mut().insert(COOKIE, cookie);
        }
    }
    *request.version_mut() = Version::HTTP_11;
    // Without a word about its length, hyper takes it that such a request has no body.
    if matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.body().is_end_stream()
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // What was made ready for a server of HTTP/2, and came back.
    if !request.headers().contains_key(HOST)
        && let Some(host) = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok())
    {
        request.headers_mut().insert(HOST, host);
    }
    if request.uri().authority().is_some() || request.uri().path().is_empty() {
        // One that has nothing, or a fragment alone, is written as nothing, though it says that it is this.
        let path = request.uri().path_and_query().filter(|path| path.as_str() != "/").cloned();
        *request.uri_mut() = path.unwrap_or(PathAndQuery::from_static("/")).into();
    }
}

/// The target as HTTP/2 has it: the authority is beside the path.
fn for_h2(request: &mut Request<RequestBody>, is_secure: bool) {
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

/// Whether a server takes too long. While the client is to go on with its body, the server has nothing to answer.
fn is_late(watch: &Watch) -> bool {
    watch.is_late(Due::Phase) && !watch.is_due(Due::Progress)
}

/// What `future` gives, unless that takes too long.
async fn in_time<T>(deadline: &Deadline, time: Duration, future: impl Future<Output = T>) -> Result<T, ()> {
    let mut future = std::pin::pin!(future);
    let watch: &Watch = &deadline.watch;
    let mut is_waiting = false;
    let result = poll_fn(|context| {
        if let Poll::Ready(done) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(done));
        }
        if !is_waiting {
            is_waiting = true;
            watch.wake_me(context);
            watch.within(Due::Phase, time);
        } else if is_late(watch) || watch.is_late(Due::Progress) {
            return Poll::Ready(Err(()));
        }
        Poll::Pending
    })
    .await;
    watch.done(Due::Phase);
    result
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        ready!(worker::woken(context, |context| match &mut this.socket {
            LinkSocket::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            LinkSocket::Other(stream) => Pin::new(stream).poll_read(context, buffer),
        }))?;
        this.used.note(buffer, before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        worker::woken(context, |context| match &mut self.socket {
            LinkSocket::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            LinkSocket::Other(stream) => Pin::new(stream).poll_write(context, bytes),
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        worker::woken(context, |context| match &mut self.socket {
            LinkSocket::Tcp(stream) => poll_write_pieces(Pin::new(stream), context, slices),
            LinkSocket::Other(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        })
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            LinkSocket::Tcp(stream) => stream.is_write_vectored(),
            LinkSocket::Other(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        worker::woken(context, |context| match &mut self.socket {
            LinkSocket::Tcp(stream) => Pin::new(stream).poll_flush(context),
            LinkSocket::Other(stream) => Pin::new(stream).poll_flush(context),
        })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        worker::woken(context, |context| match &mut self.socket {
            LinkSocket::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            LinkSocket::Other(stream) => Pin::new(stream).poll_shutdown(context),
        })
    }
}

const UNREACHABLE: &str = "a server can't be reached";
const BROKEN: &str = "a server did not answer as it should";
const LATE: &str = "a server did not answer in time";

/// Seconds for which a server that refused a connection is not asked, if there are others.
const SHUNNED: u32 = 10;

/// As for requests: large bodies pass in large pieces.
const MOST_BUFFERED: usize = 256 * 1024;
