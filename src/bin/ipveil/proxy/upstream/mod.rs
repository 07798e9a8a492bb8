//! The servers behind: which one takes a request, and the connections to them.

mod apart;
mod http1;
mod http2;
mod server;
mod socket;

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use http::Response;
use hyper::body::Incoming;
use ipveil::proxy_protocol;
use rustls::pki_types::ServerName;

use super::{
    body::{BodyError, Deadline},
    watch::{Due, Watch},
};
use crate::config;

pub(crate) use self::{
    http1::Exchange,
    server::{Complaint, Endpoint},
};
use self::{http1::Http1, server::Tls};

/// Some servers that do the same.
pub(crate) struct Upstream {
    name: String,
    pub(crate) settings: config::Upstream,
    most_idle: usize,
    servers: Vec<Arc<Endpoint>>,
    turn: AtomicUsize,
}

/// The head of a response, and what its body comes from.
pub(crate) enum Answer {
    /// And whether that goes back to its server.
    H1(Response<Incoming>, Http1, bool),
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
    /// It was closed instead of an answer.
    Unanswered,
    Late,
    /// The client did not send its body as it should.
    Request(BodyError),
    Response,
    /// The server speaks no version of HTTP in which it could be asked that.
    Unspoken,
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
                    let name = match &settings.server_name {
                        Some(name) => name.0.0.clone(),
                        None => ServerName::try_from(server.host().to_owned())?,
                    };
                    Some(Tls { any: any.clone(), h1: h1.clone(), name })
                }
                _ => None,
            };
            let place = format!("upstream.{name}.servers.{index}");
            Ok(Arc::new(Endpoint::new(server.clone(), place, tls, most_idle.div_ceil(threads), threads)))
        });
        let servers = servers.collect::<anyhow::Result<_>>()?;
        Ok(Self { name: name.to_owned(), settings: settings.clone(), most_idle, servers, turn: AtomicUsize::new(0) })
    }

    /// Whether these settings ask for the same.
    pub(crate) fn is_like(&self, name: &str, settings: &config::Upstream, most_idle: usize) -> bool {
        let is_same = self.name == name && self.settings == *settings && self.most_idle == most_idle;
        // A file may have other certificates now.
        is_same && settings.ca.is_none()
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
            (Some(one), Some(other)) if other.outstanding() < one.outstanding() => other,
            (Some(one), _) => one,
            // When all are ill, any may have recovered.
            (None, _) => fallback(),
        }
    }
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
