//! Connections to a server that speaks HTTP/1.1: one request at a time.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use http::{
    HeaderValue, Method, Request, Version,
    header::{CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING},
    uri::PathAndQuery,
};
use http_body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::{Answer, Endpoint, Failed, is_late, socket::Socket};
use crate::proxy::{
    body::{Deadline, RequestBody},
    this_thread,
    watch::Due,
};

/// An HTTP/1 connection without a request.
pub(super) struct Idle {
    pub(super) link: Http1,
    // In seconds since the start.
    pub(super) since: u32,
}

/// An HTTP/1 connection. It has no task of its own: whoever waits for it drives it.
pub(crate) struct Http1 {
    // In seconds since the start.
    pub(super) begun: u32,
    sender: http1::SendRequest<RequestBody>,
    // None when it has ended. Only then does the sender learn that nobody will take what it has.
    connection: Option<Box<Connection>>,
}

fn drive(connection: &mut Option<Box<Connection>>, context: &mut Context<'_>) -> bool {
    if connection.as_mut().is_some_and(|connection| Pin::new(&mut **connection).poll(context).is_ready()) {
        *connection = None;
    }
    connection.is_some()
}

type Connection = http1::Connection<TokioIo<Socket>, RequestBody>;

impl Http1 {
    pub(super) async fn begin(socket: Socket) -> io::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MOST_BUFFERED);
        let (sender, connection) = builder.handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        Ok(Self { begun: this_thread::seconds(), sender, connection: Some(Box::new(connection)) })
    }

    /// Lets the connection go on; false if it has ended.
    pub(super) fn drive(&mut self, context: &mut Context<'_>) -> bool {
        drive(&mut self.connection, context)
    }

    /// Whether it can take a request.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) async fn send(
        mut self,
        request: &mut Option<Request<RequestBody>>,
        deadline: &Deadline,
        server: &Endpoint,
        // Whether the connection goes back to it: not, if it is for one request only.
        is_kept: bool,
        // Whether there is a copy of the request, for another connection.
        has_copy: bool,
    ) -> Result<Answer, Failed> {
        // While it is where it is: to move it takes longer.
        request.iter_mut().for_each(for_h1);
        let Some(taken) = request.take() else { return Err(Failed::Response) };
        let mut response = std::pin::pin!(self.sender.try_send_request(taken));
        let mut is_waiting = false;
        let polled = poll_fn(|context| {
            // Nothing but the connection brings the response, so only the socket has to wake anybody.
            let polled = this_thread::wakes(context, |silent| {
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
            Some(Ok(response)) => Ok(Answer::H1(response, self, is_kept)),
            Some(Err(mut error)) => match error.take_message() {
                Some(back) => {
                    *request = Some(back);
                    Err(Failed::Unsent)
                }
                None if has_copy && is_unanswered(error.error()) => Err(Failed::Unanswered),
                None => Err(server.failed_by(error.error())),
            },
            None => {
                server.is_late();
                Err(Failed::Late)
            }
        }
    }
}

fn is_unanswered(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    let is_gone = |kind| matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
    error.is_incomplete_message() || cause.is_some_and(|cause| is_gone(cause.kind()))
}

/// As for requests: large bodies pass in large pieces.
const MOST_BUFFERED: usize = 256 * 1024;

/// A connection to a server, while it is answering.
pub(crate) struct Exchange {
    link: Option<Http1>,
    deadline: Deadline,
    is_kept: bool,
}

impl Exchange {
    pub(crate) fn new(link: Http1, deadline: Deadline, is_kept: bool) -> Self {
        Self { link: Some(link), deadline, is_kept }
    }

    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(link) = &mut self.link {
            let _ = this_thread::wakes(context, |silent| Poll::Ready(link.drive(silent)));
        }
    }

    pub(crate) fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    pub(crate) fn deadline_mut(&mut self) -> &mut Deadline {
        &mut self.deadline
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(link) = self.link.take().filter(|link| link.connection.is_some()) else { return };
        // It is ready for another request if all of the last one, and of its answer, has passed.
        if let Some(server) = &self.deadline.server
            && self.is_kept
            && link.is_ready()
        {
            server.give_back(link, self.deadline.site.deadlines.upstream_lifetime);
        }
    }
}

/// The target as HTTP/1.1 has it: the authority is in `Host`.
pub(super) fn for_h1(request: &mut Request<RequestBody>) {
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
    if let Some(host) = request.uri().authority()
        && !request.headers().contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(host.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    if request.uri().authority().is_some() || request.uri().path().is_empty() {
        // One that has nothing, or a fragment alone, is written as nothing, though it says that it is this.
        let path = request.uri().path_and_query().filter(|path| path.as_str() != "/").cloned();
        *request.uri_mut() = path.unwrap_or(PathAndQuery::from_static("/")).into();
    }
}
