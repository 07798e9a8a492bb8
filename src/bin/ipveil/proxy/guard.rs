//! Who is not served: denied networks, banned clients, and those who ask too often.
//!
//! All of them are recognized without anybody knowing an address.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use governor::{Quota, RateLimiter, clock::Clock as _, state::keyed::DashMapStateStore};
use http::{HeaderValue, Request, Response, StatusCode, header::RETRY_AFTER};
use ipveil::{Client, LimitKey, Pseudonym};

use super::{
    body::{RequestBody, ResponseBody},
    forward::page,
    site::{ALLOW, BAN, DENY, RATE, Site},
    worker,
};
use crate::config;

/// Stands in front of a service that answers.
pub(crate) struct Guard<S> {
    inner: S,
    site: Arc<Site>,
}

impl<S> Guard<S> {
    pub(crate) fn new(inner: S, site: Arc<Site>) -> Self {
        Self { inner, site }
    }
}

impl<S> tower::Service<Request<RequestBody>> for Guard<S>
where
    S: tower::Service<Request<RequestBody>, Response = Response<ResponseBody>, Error = Infallible>,
    S::Future: From<Answered> + Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let client = request.extensions().get::<Client>();
        match client.and_then(|client| refuse(&self.site, client)) {
            Some(answer) => Answered(answer).into(),
            None => self.inner.call(request),
        }
    }
}

/// The answer to a request that goes no further.
pub(crate) struct Answered(Response<ResponseBody>);

impl From<Answered> for Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>> {
    fn from(Answered(response): Answered) -> Self {
        Box::pin(std::future::ready(Ok(response)))
    }
}

fn refuse(site: &Site, client: &Client) -> Option<Response<ResponseBody>> {
    if site.has_deny && client.is_member(DENY) || site.has_allow && !client.is_member(ALLOW) {
        return Some(page(StatusCode::FORBIDDEN));
    }
    if let Some(bans) = &site.bans
        && bans.hold(client)
    {
        return Some(page(StatusCode::FORBIDDEN));
    }
    let wait = site.limiter.as_ref()?.check(client)?;
    let mut response = page(StatusCode::TOO_MANY_REQUESTS);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
    Some(response)
}

/// How often a client may ask.
pub(crate) struct Limiter {
    buckets: RateLimiter<LimitKey, DashMapStateStore<LimitKey>, governor::clock::DefaultClock>,
}

impl Limiter {
    pub(crate) fn new(settings: &config::RateLimit) -> Self {
        let quota = Quota::per_second(settings.rate).allow_burst(settings.burst);
        Self { buckets: RateLimiter::dashmap(quota) }
    }

    /// The seconds to wait, for whoever has to.
    fn check(&self, client: &Client) -> Option<u64> {
        // Those of whom nothing is known share one bucket: they can't be told apart.
        let late = self.buckets.check_key(&client.limit_key(RATE)).err()?;
        let wait = late.wait_time_from(governor::clock::DefaultClock::default().now());
        Some(wait.as_secs() + 1)
    }

    /// Forgets who may ask again anyway.
    pub(crate) fn tidy(&self) {
        self.buckets.retain_recent();
        self.buckets.shrink_to_fit();
    }
}

/// Clients that are not served, and the pseudonyms by which they can be named.
///
/// A pseudonym of the log does not say which client it is, so the latest ones are remembered beside a key that only
/// counts. All of it is in memory, is shown to nobody, and is dropped with its epoch.
pub(crate) struct Bans {
    // One for each thread. Who comes later takes the place of who was there.
    recent: Box<[Mutex<Vec<Option<Recent>>>]>,
    banned: RwLock<HashMap<LimitKey, Ban>>,
    count: AtomicUsize,
}

struct Recent {
    name: Pseudonym,
    client: LimitKey,
}

#[derive(Clone)]
struct Ban {
    name: String,
    until: Instant,
}

/// A ban, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Banned {
    pub(crate) name: String,
    pub(crate) rest: Duration,
}

impl Bans {
    pub(crate) fn new(tokens: usize, threads: usize) -> Self {
        let slots = tokens.div_ceil(threads).next_power_of_two();
        let thread = || Mutex::new((0..slots).map(|_| None).collect());
        Self { recent: (0..threads).map(|_| thread()).collect(), banned: RwLock::default(), count: AtomicUsize::new(0) }
    }

    /// Remembers under which name a client stands in the log.
    pub(crate) fn note(&self, name: Pseudonym, client: &Client) {
        let recent = &self.recent[worker::index() % self.recent.len()];
        let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slot(&name, recent.len());
        if !recent[slot].as_ref().is_some_and(|known| known.name == name) {
            recent[slot] = Some(Recent { name, client: client.limit_key(BAN) });
        }
    }

    /// Whether a client is banned.
    fn hold(&self, client: &Client) -> bool {
        if self.count.load(Relaxed) == 0 {
            return false;
        }
        let key = client.limit_key(BAN);
        let now = Instant::now();
        let ban = {
            let banned = self.banned.read().unwrap_or_else(PoisonError::into_inner);
            banned.get(&key).filter(|ban| ban.until > now).cloned()
        };
        let Some(ban) = ban else { return false };
        // Shortly before the key goes, its successor is known, and the ban is taken over to it.
        if let Some(next) = client.next_limit_key(BAN) {
            let mut banned = self.banned.write().unwrap_or_else(PoisonError::into_inner);
            banned.entry(next).or_insert(ban);
            self.count.store(banned.len(), Relaxed);
        }
        true
    }

    /// Bans the client that has this name in the log; false if the name is not, or no longer, known.
    pub(crate) fn ban(&self, name: &str, time: Duration) -> bool {
        let known = self.recent.iter().find_map(|recent| {
            let recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
            let known = recent.iter().flatten().find(|known| known.name.to_string() == name);
            known.map(|known| known.client)
        });
        let Some(client) = known else { return false };
        let mut banned = self.banned.write().unwrap_or_else(PoisonError::into_inner);
        banned.insert(client, Ban { name: name.to_owned(), until: Instant::now() + time });
        self.count.store(banned.len(), Relaxed);
        true
    }

    /// Serves the client again; false if none has been banned under this name.
    pub(crate) fn unban(&self, name: &str) -> bool {
        let mut banned = self.banned.write().unwrap_or_else(PoisonError::into_inner);
        let before = banned.len();
        banned.retain(|_, ban| ban.name != name);
        self.count.store(banned.len(), Relaxed);
        banned.len() < before
    }

    /// Who is banned, under the name by which he was.
    pub(crate) fn list(&self) -> Vec<Banned> {
        let now = Instant::now();
        let banned = self.banned.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = banned
            .values()
            .filter(|ban| ban.until > now)
            .map(|ban| Banned { name: ban.name.clone(), rest: ban.until - now })
            .collect();
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list.dedup_by(|one, other| one.name == other.name);
        list
    }

    /// Forgets bans that are over.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        let mut banned = self.banned.write().unwrap_or_else(PoisonError::into_inner);
        banned.retain(|_, ban| ban.until > now);
        self.count.store(banned.len(), Relaxed);
    }

    /// Forgets which client a name is, when the key has gone under which it was.
    pub(crate) fn forget_names(&self) {
        for recent in &self.recent {
            let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.iter_mut().for_each(|slot| *slot = None);
        }
    }
}

fn slot(name: &Pseudonym, slots: usize) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
    usize::try_from(hash & 0xffff_ffff).unwrap_or(0) & (slots - 1)
}
