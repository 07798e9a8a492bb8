//! Bodies on their way: nothing is kept, and nobody waits for ever.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    hop,
    site::Site,
    this_thread,
    upstream::{Complaint, Endpoint, Exchange},
    watch::{Due, Watch},
};

/// What a client sends. Small, since most send nothing, and every request is moved a dozen times.
pub(crate) struct RequestBody {
    body: Option<Box<Coming>>,
    site: Arc<Site>,
    pub(crate) watch: Arc<Watch>,
    is_waiting: bool,
    /// More than may be, which HTTP/2 is not told beforehand.
    pub(crate) has_too_many_headers: bool,
}

const _: () = assert!(size_of::<http::Request<RequestBody>>() <= 256);

struct Coming {
    body: Theirs,
    taken: u64,
}

/// A body as the other side sends it.
pub(crate) struct Theirs {
    body: Incoming,
    is_h2: bool,
    // Among the streams of a connection: others may wait for it.
    _place: Option<Arc<()>>,
}

impl Theirs {
    pub(crate) fn new(body: Incoming, version: Version) -> Self {
        Self { body, is_h2: version == Version::HTTP_2, _place: None }
    }

    pub(crate) fn in_place(self, place: Arc<()>) -> Self {
        Self { _place: Some(place), ..self }
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        // hyper takes a stream that was reset with NO_ERROR for one that has ended, whatever was missing from it, and
        // however it was broken before.
        if self.is_h2 && matches!(polled, Poll::Ready(None)) && !self.body.is_end_stream() {
            return Poll::Ready(Some(Err(BodyError::Broken)));
        }
        polled.map_err(|_| BodyError::Broken)
    }
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, version: Version, site: Arc<Site>, watch: Arc<Watch>) -> Self {
        let is_none = body.is_end_stream();
        watch.begin_body(!is_none);
        let body = (!is_none).then(|| Box::new(Coming { body: Theirs::new(body, version), taken: 0 }));
        Self { body, site, watch, is_waiting: false, has_too_many_headers: false }
    }

    /// None, for a request that has no body.
    pub(crate) fn none(&self) -> Self {
        Self {
            body: None,
            site: Arc::clone(&self.site),
            watch: Arc::clone(&self.watch),
            is_waiting: false,
            has_too_many_headers: false,
        }
    }

    /// There is no more of it.
    fn fail<T>(&mut self, error: BodyError) -> Poll<Option<Result<T, BodyError>>> {
        self.body = None;
        self.watch.set_body_error(error);
        Poll::Ready(Some(Err(error)))
    }

    /// The client is waited for no more.
    fn go_on(&mut self) {
        if self.is_waiting {
            self.is_waiting = false;
            self.watch.done(Due::Progress);
        }
    }

    /// Whether it says already that it is longer than it may be.
    pub(crate) fn is_too_long(&self) -> bool {
        let most = self.site.limits.body_bytes;
        most > 0 && self.size_hint().lower() > most
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.go_on();
        if self.body.take().is_some() {
            self.watch.end_body();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let Some(coming) = &mut this.body else {
            return Poll::Ready(None);
        };
        // A connection to a server may be what polls, and wakes nobody.
        let Poll::Ready(frame) = this_thread::woken(context, |context| coming.body.poll_frame(context)) else {
            if !this.is_waiting {
                this.is_waiting = true;
                this.watch.within(Due::Progress, this.site.deadlines.client_idle);
            } else if this.watch.is_late(Due::Progress) {
                return this.fail(BodyError::Late);
            }
            return Poll::Pending;
        };
        this.go_on();
        // The server's time begins with what it was given last.
        if this.watch.is_due(Due::Phase) {
            this.watch.within(Due::Phase, this.site.deadlines.first_byte);
        }
        let Some(frame) = frame else {
            this.body = None;
            this.watch.end_body();
            return Poll::Ready(None);
        };
        let mut frame = match frame {
            Ok(frame) => frame,
            Err(error) => return this.fail(error),
        };
        if let (Some(data), Some(coming)) = (frame.data_ref(), &mut this.body) {
            coming.taken += data.len() as u64;
            let most = this.site.limits.body_bytes;
            if most > 0 && coming.taken > most {
                return this.fail(BodyError::TooLong);
            }
        } else if let Some(trailers) = frame.trailers_mut() {
            this.site.anonymize.anonymizer().strip_trailers(trailers);
            hop::only_trailers(trailers);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|coming| coming.body.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), |coming| coming.body.body.size_hint())
    }
}

/// What a client is sent.
pub(crate) enum ResponseBody {
    /// Of our own.
    Page(Option<Bytes>),
    /// Of a server that speaks HTTP/1: whoever reads it drives that connection.
    H1(Incoming, Box<Exchange>),
    /// Of a connection that drives itself.
    Apart(Theirs, Deadline),
    /// There will be no more of it.
    CutOff(BodyError),
}

impl ResponseBody {
    fn deadline(&self) -> Option<&Deadline> {
        match self {
            Self::Page(_) | Self::CutOff(_) => None,
            Self::H1(_, exchange) => Some(exchange.deadline()),
            Self::Apart(_, deadline) => Some(deadline),
        }
    }

    /// Has the log say what is wrong with it.
    pub(crate) fn complain(&self, what: Complaint, error: &dyn std::error::Error) {
        if let Some(server) = self.deadline().and_then(|deadline| deadline.server.as_ref()) {
            server.complain(what, error);
        }
    }

    /// Ends before its end, when what has come so far is on its way: whoever is told at once drops that.
    fn cut_off<T>(&mut self, error: BodyError, context: &Context<'_>) -> Poll<T> {
        // Unless it is the client who stopped, in the middle of its body.
        if !self.deadline().is_some_and(|deadline| deadline.watch.is_late(Due::Progress)) {
            let what = if error == BodyError::Late { Complaint::Late } else { Complaint::CutOff };
            self.complain(what, &error);
        }
        *self = Self::CutOff(error);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// How long the next part of a response may take.
pub(crate) struct Deadline {
    pub(crate) watch: Arc<Watch>,
    pub(crate) site: Arc<Site>,
    /// Who sends the response, as soon as that is known.
    pub(crate) server: Option<Arc<Endpoint>>,
    pub(crate) is_waiting: bool,
}

impl Deadline {
    pub(crate) fn new(watch: Arc<Watch>, site: Arc<Site>) -> Self {
        Self { watch, site, server: None, is_waiting: false }
    }

    /// Notes that something came, or that nothing did: then it may be too late.
    pub(crate) fn look<T>(&mut self, context: &Context<'_>, polled: &Poll<T>) -> Result<(), BodyError> {
        // The client may have stopped in the middle of its body while the server answers.
        if self.watch.is_late(Due::Progress) {
            return Err(BodyError::Late);
        }
        match (polled.is_pending(), self.is_waiting) {
            (true, false) => {
                self.is_waiting = true;
                self.watch.wake_me(context);
                self.watch.within(Due::Phase, self.site.deadlines.upstream_idle);
            }
            (true, true) if self.watch.is_late(Due::Phase) => return Err(BodyError::Late),
            (false, true) => {
                self.is_waiting = false;
                self.watch.done(Due::Phase);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let (mut polled, deadline) = match &mut *self {
            Self::Page(page) => return Poll::Ready(page.take().map(|page| Ok(Frame::data(page)))),
            Self::CutOff(error) => return Poll::Ready(Some(Err(*error))),
            Self::H1(body, exchange) => {
                // Only the connection brings more, so only its socket has to wake anybody.
                let mut silent = Context::from_waker(Waker::noop());
                let mut polled = Pin::new(&mut *body).poll_frame(&mut silent);
                if polled.is_pending() {
                    exchange.drive(context);
                    polled = Pin::new(body).poll_frame(&mut silent);
                }
                (polled.map_err(|_| BodyError::Broken), exchange.deadline_mut())
            }
            Self::Apart(body, deadline) => (body.poll_frame(context), deadline),
        };
        if let Err(error) = deadline.look(context, &polled) {
            return self.cut_off(error, context);
        }
        if let Poll::Ready(Some(Err(error))) = polled {
            return self.cut_off(error, context);
        }
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            hop::only_trailers(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(page) => page.is_none(),
            Self::CutOff(_) => false,
            Self::H1(body, _) => body.is_end_stream(),
            Self::Apart(body, _) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page) => SizeHint::with_exact(page.as_ref().map_or(0, |page| page.len() as u64)),
            Self::CutOff(_) => SizeHint::default(),
            Self::H1(body, _) => body.size_hint(),
            Self::Apart(body, _) => body.body.size_hint(),
        }
    }
}

/// Why a body ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    Broken,
    Late,
    TooLong,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broken => "the body ended early",
            Self::Late => "the body did not go on in time",
            Self::TooLong => "the body is longer than it may be",
        })
    }
}

impl std::error::Error for BodyError {}
