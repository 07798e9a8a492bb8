//! What happens to each request, in order.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Request, Response};
use hyper::body::Incoming;
use ipveil::Anonymize;
use tower::{Service as _, ServiceBuilder};

use super::{
    body::RequestBody,
    connection::Connection,
    forward::Forward,
    guard::Guard,
    record::{Record, Recorded, RecordedBody},
    site::{self, Site},
    watch::Watch,
};

/// The layers, outermost first. Within the first, nobody knows an address.
type Stack = Anonymize<Record<Guard<Forward>>>;

fn stack(site: &Arc<Site>, connection: &Arc<Connection>) -> Stack {
    let forward = Forward::new(Arc::clone(site), Arc::clone(connection));
    let guard = Guard::new(forward, Arc::clone(site));
    let record = Record::new(guard, Arc::clone(site), Arc::clone(connection));
    ServiceBuilder::new().layer(site.anonymize.clone().peer(connection.peer)).service(record)
}

/// The service of one connection.
pub(crate) struct Serve {
    connection: Arc<Connection>,
    now: Mutex<(Arc<Site>, Stack)>,
}

impl Serve {
    pub(crate) fn new(site: Arc<Site>, connection: Arc<Connection>) -> Self {
        let stack = stack(&site, &connection);
        Self { connection, now: Mutex::new((site, stack)) }
    }
}

impl hyper::service::Service<Request<Incoming>> for Serve {
    type Response = Response<RecordedBody>;
    type Error = Infallible;
    type Future = Recorded<<Forward as tower::Service<Request<RequestBody>>>::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (site, stack) = &mut *now;
        if site.is_stale() {
            *site = site::current();
            *stack = self::stack(site, &self.connection);
        }
        self.connection.begin(site);
        let watch = match &self.connection.exchange {
            Some(watch) => Arc::clone(watch),
            None => Watch::new(),
        };
        let version = request.version();
        let mut request = request.map(|body| RequestBody::new(body, version, Arc::clone(site), watch));
        // HTTP/1 stops reading when there are more.
        request.body_mut().has_too_many_headers = request.headers().len() > site.limits.headers;
        stack.call(request)
    }
}
