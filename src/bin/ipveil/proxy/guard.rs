//! Who is not served: denied networks, banned clients, and those who ask too often.
//!
//! All of them are recognized without anybody knowing an address.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    hash::{Hash as _, Hasher},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
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
    this_thread,
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
            Some(mut answer) => {
                answer.extensions_mut().insert(Refused);
                Answered(answer).into()
            }
            None => self.inner.call(request),
        }
    }
}

/// The answer to a request that goes no further.
pub(crate) struct Answered(Response<ResponseBody>);

/// On an answer of the guard's. The log says nothing of who got it: who is denied, banned or late shares an address with all
/// others who are at that moment.
#[derive(Clone, Copy)]
pub(crate) struct Refused;

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
    // Each client's by all the names under which it was banned, so that nobody who gives two names learns whether they are one.
    banned: RwLock<HashMap<LimitKey, Vec<Ban>>>,
    // Of clients.
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
        let recent = &self.recent[this_thread::index() % self.recent.len()];
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
        let is_held = |bans: &[Ban]| {
            let now = Instant::now();
            bans.iter().any(|ban| ban.until > now)
        };
        if !self.banned().get(&key).is_some_and(|bans| is_held(bans)) {
            return false;
        }
        // Shortly before the key goes, its successor is known, and the bans are taken over to it.
        if let Some(next) = client.next_limit_key(BAN)
            && !self.are_taken_over(key, next)
        {
            self.change(|banned| {
                for ban in banned.get(&key).cloned().unwrap_or_default() {
                    put(banned.entry(next).or_default(), ban);
                }
            });
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
        let ban = Ban { name: name.to_owned(), until: Instant::now() + time };
        self.change(|banned| put(banned.entry(client).or_default(), ban));
        true
    }

    /// Takes back what was done under this name; false if none has been banned under it. A client that was banned under
    /// another one, too, stays banned.
    pub(crate) fn unban(&self, name: &str) -> bool {
        let mut is_known = false;
        self.change(|banned| {
            for bans in banned.values_mut() {
                let before = bans.len();
                bans.retain(|ban| ban.name != name);
                is_known |= bans.len() < before;
            }
        });
        is_known
    }

    /// Who is banned, under the names by which he was.
    pub(crate) fn list(&self) -> Vec<Banned> {
        let now = Instant::now();
        let banned = self.banned();
        let bans = banned.values().flatten().filter(|ban| ban.until > now);
        let mut list: Vec<_> = bans.map(|ban| Banned { name: ban.name.clone(), rest: ban.until - now }).collect();
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list.dedup_by(|one, other| one.name == other.name);
        list
    }

    /// Forgets bans that are over.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        self.change(|banned| banned.values_mut().for_each(|bans| bans.retain(|ban| ban.until > now)));
    }

    fn are_taken_over(&self, key: LimitKey, next: LimitKey) -> bool {
        let banned = self.banned();
        let next = banned.get(&next).map_or(&[][..], Vec::as_slice);
        banned.get(&key).is_none_or(|bans| bans.iter().all(|ban| next.iter().any(|other| other.name == ban.name)))
    }

    fn banned(&self) -> RwLockReadGuard<'_, HashMap<LimitKey, Vec<Ban>>> {
        self.banned.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<LimitKey, Vec<Ban>>)) {
        let mut banned = self.banned.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut banned);
        banned.retain(|_, bans| !bans.is_empty());
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

/// The last one under a name counts.
fn put(bans: &mut Vec<Ban>, ban: Ban) {
    bans.retain(|other| other.name != ban.name);
    bans.push(ban);
}

fn slot(name: &Pseudonym, slots: usize) -> usize {
    let mut bits = Bits(0);
    name.hash(&mut bits);
    usize::try_from(bits.finish() & 0xffff_ffff).unwrap_or(0) & (slots - 1)
}

/// The last bits of what is a hash already.
struct Bits(u64);

impl Hasher for Bits {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |bits, &byte| bits.rotate_left(8) ^ u64::from(byte));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
