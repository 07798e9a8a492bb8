//! One request, from its first byte to its last: counted, and written into the access log when it is over.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, HOST, REFERER, USER_AGENT},
};
use http_body::{Body, Frame, SizeHint};
use ipveil::{Client, policy::Shown};

use super::{
    access_log,
    body::{BodyError, RequestBody, ResponseBody},
    connection::Connection,
    guard::Refused,
    site::{LOG, Site},
};

/// Records what passes through a service.
pub(crate) struct Record<S> {
    inner: S,
    site: Arc<Site>,
    connection: Arc<Connection>,
}

impl<S> Record<S> {
    pub(crate) fn new(inner: S, site: Arc<Site>, connection: Arc<Connection>) -> Self {
        Self { inner, site, connection }
    }
}

impl<S> tower::Service<Request<RequestBody>> for Record<S>
where
    S: tower::Service<Request<RequestBody>, Response = Response<ResponseBody>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<RecordedBody>;
    type Error = Infallible;
    type Future = Recorded<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let entry = Entry::new(&request, Arc::clone(&self.site), Arc::clone(&self.connection));
        let is_head = *request.method() == Method::HEAD;
        Recorded { entry: Some(entry), is_head, future: self.inner.call(request) }
    }
}

/// A request on its way. It has ended when this is dropped.
pub(crate) struct Entry {
    site: Arc<Site>,
    connection: Arc<Connection>,
    began: Instant,
    status: Option<StatusCode>,
    sent: u64,
    line: Option<Line>,
}

/// What the access log says of it.
pub(crate) struct Line {
    pub(crate) who: Shown,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) host: Option<HeaderValue>,
    pub(crate) referer: Option<HeaderValue>,
    pub(crate) user_agent: Option<HeaderValue>,
}

impl Entry {
    fn new(request: &Request<RequestBody>, site: Arc<Site>, connection: Arc<Connection>) -> Box<Self> {
        let client = request.extensions().get::<Client>();
        let line = client.filter(|_| site.log.is_some()).map(|client| {
            let who = client.shown(LOG);
            if let (Some(bans), Some(name)) = (&site.bans, who.pseudonym()) {
                bans.note(name, client);
            }
            let headers = request.headers();
            Line {
                who,
                method: request.method().clone(),
                uri: request.uri().clone(),
                version: request.version(),
                host: headers.get(HOST).cloned(),
                referer: headers.get(REFERER).cloned(),
                user_agent: headers.get(USER_AGENT).cloned(),
            }
        });
        Box::new(Self { site, connection, began: Instant::now(), status: None, sent: 0, line })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connection.end();
        let took = self.began.elapsed();
        // As nginx has it, 499: the client closed the connection before there was an answer. Unless we did.
        let unanswered = if self.connection.watch.is_closing() { 503 } else { 499 };
        let status = self.status.map_or(unanswered, |status| status.as_u16());
        self.connection.counters.request(status, took, self.sent);
        if let (Some(line), Some(log)) = (&self.line, &self.site.log) {
            access_log::write(log, line, status, self.sent, took);
        }
    }
}

/// A response to come.
pub(crate) struct Recorded<F> {
    entry: Option<Box<Entry>>,
    is_head: bool,
    future: F,
}

impl<F> Future for Recorded<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Infallible>> + Unpin,
{
    type Output = Result<Response<RecordedBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut response) = ready!(Pin::new(&mut self.future).poll(context));
        // Of a page of our own. HTTP/1 keeps it back by itself.
        if self.is_head
            && let ResponseBody::Page(page) = response.body_mut()
            && let Some(page) = page.take()
        {
            response.headers_mut().insert(CONTENT_LENGTH, page.len().into());
        }
        let mut entry = self.entry.take();
        if let Some(entry) = &mut entry {
            entry.status = Some(response.status());
            if let (Some(Refused), Some(line)) = (response.extensions().get(), &mut entry.line) {
                line.who = Shown::default();
            }
        }
        Poll::Ready(Ok(response.map(|body| RecordedBody { body, entry, is_handed: false })))
    }
}

/// A body that is counted.
pub(crate) struct RecordedBody {
    body: ResponseBody,
    entry: Option<Box<Entry>>,
    is_handed: bool,
}

impl RecordedBody {
    // On HTTP/1 the socket itself says whether the client takes anything.
    fn set_handed(&mut self, is_handed: bool) {
        let connection = self.entry.as_ref().map(|entry| &entry.connection).filter(|connection| connection.is_h2());
        if let Some(connection) = connection
            && is_handed != self.is_handed
        {
            self.is_handed = is_handed;
            if is_handed { connection.handed() } else { connection.taken() }
        }
    }
}

impl Drop for RecordedBody {
    fn drop(&mut self) {
        self.set_handed(false);
    }
}

impl Body for RecordedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.set_handed(false);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.set_handed(matches!(frame, Some(Ok(_))));
        if let (Some(Ok(frame)), Some(entry)) = (&frame, &mut self.entry) {
            entry.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
