//! ipveil itself, in front of the application: its policy, its key ring, its anonymizer.

use std::{
    error::Error,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use http::{HeaderValue, header};
use ipveil::{
    Anonymizer, Client, KeyRing, LimitKey, Peer, Policy, Resolver,
    geo::{Countries, Country},
    keys::{self, EpochKey, Epochs, KeyError, KeyEvent, KeySource, ManualClock},
    policy::{Scope, Session, View},
};

use crate::{
    memory::{self, Masked},
    method::Method,
    random,
    world::{self, DAY, PRIVATE, PUBLIC, Request},
};

/// The application's edge, on a clock of its own.
pub(crate) struct Edge {
    anonymizer: Anonymizer,
    keys: KeyRing,
    seed: u64,
    clock: ManualClock,
    second: u64,
    minted: Arc<AtomicU64>,
    destroyed: Arc<AtomicU64>,
}

/// One client in one request, as the application knows it.
pub(crate) struct Known(Client);

// A midnight.
const START: u64 = 20_000 * DAY;

impl Edge {
    pub(crate) fn new(seed: u64) -> Result<Self, Box<dyn Error>> {
        let sites = [PUBLIC, PRIVATE];
        let policy = Policy::new(
            Scope::per_session(Session::cookie("sid")),
            [
                View::token("log"),
                View::token("everything").scope(Scope::unscoped()),
                View::token("site").scope(Scope::per_host(sites)),
                View::token("visitors").scope(Scope::per_host(sites)),
                View::limit("limit"),
                View::country("country", &countries()?),
            ],
        )?;
        let (minted, destroyed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (new, old) = (minted.clone(), destroyed.clone());
        let clock = ManualClock::at(Duration::from_secs(START));
        let keys = KeyRing::builder(Seeded(seed), Epochs::daily())
            .clock(clock.clone())
            .on_event(move |event| match event {
                KeyEvent::Minted { .. } => _ = new.fetch_add(1, Ordering::SeqCst),
                KeyEvent::Destroyed { .. } => _ = old.fetch_add(1, Ordering::SeqCst),
                _ => {}
            })
            .start()?;
        let anonymizer = Anonymizer::new(Resolver::direct(), policy, keys.clone());
        Ok(Self { anonymizer, keys, seed, clock, second: 0, minted, destroyed })
    }

    /// Time passes, in minutes. When a day is over, its key is gone when this returns.
    pub(crate) fn advance_to(&mut self, second: u64) -> Result<(), Box<dyn Error>> {
        let second = second / 60 * 60;
        if second <= self.second {
            return Ok(());
        }
        let is_new_day = second / DAY > self.second / DAY;
        self.clock.advance(Duration::from_secs(second - self.second));
        self.second = second;
        // The ring's threads do it in a moment, which does not pass on this clock.
        let patience = Instant::now() + Duration::from_secs(60);
        while is_new_day && !self.has_only_the_key_of_today() {
            if Instant::now() > patience {
                return Err("the key ring has not rotated".into());
            }
            thread::yield_now();
        }
        Ok(())
    }

    fn has_only_the_key_of_today(&self) -> bool {
        let epoch = self.keys.epoch().map(|epoch| epoch.number());
        epoch == Some((START + self.second) / DAY) && !self.keys.is_degraded() && self.keys_held() == 1
    }

    pub(crate) fn keys_destroyed(&self) -> u64 {
        self.destroyed.load(Ordering::SeqCst)
    }

    /// How many keys there are now: the live one, and shortly before midnight the next.
    pub(crate) fn keys_held(&self) -> u64 {
        self.minted.load(Ordering::SeqCst).saturating_sub(self.keys_destroyed())
    }

    /// How many of the keys of past days are in the memory of this process, and how much of it there is.
    pub(crate) fn search_memory(&self) -> Option<(usize, u64)> {
        let days = START / DAY..START / DAY + self.second / DAY;
        let keys: Vec<_> = days.map(|epoch| Masked::new(Seeded(self.seed).words(epoch, 0))).collect();
        let (found, searched) = memory::search(&keys)?;
        Some((found.into_iter().filter(|&found| found).count(), searched))
    }

    /// What the application is given for a request of the simulated day.
    pub(crate) fn client(&self, request: &Request) -> Result<Known, Box<dyn Error>> {
        self.client_at(request.address, request.host, request.session)
    }

    pub(crate) fn client_at(
        &self,
        address: IpAddr,
        host: &'static str,
        session: Option<u64>,
    ) -> Result<Known, Box<dyn Error>> {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.headers.insert(header::HOST, HeaderValue::from_static(host));
        if let Some(session) = session {
            parts.headers.insert(header::COOKIE, HeaderValue::try_from(format!("sid={session:016x}"))?);
        }
        parts.extensions.insert(Peer::from(address));
        self.anonymizer.anonymize(&mut parts);
        Ok(Known(parts.extensions.remove::<Client>().ok_or("the layer gives each request a client")?))
    }
}

impl Known {
    /// What the application writes next to a request, whose account it knows by now; nothing for methods that are not
    /// ipveil's.
    pub(crate) fn written(&self, method: Method, account: Option<u32>) -> Option<String> {
        let pseudonym = match (method, account) {
            (Method::Unscoped, _) => self.0.pseudonym("everything"),
            (Method::PerHost, _) => self.0.pseudonym("site"),
            (Method::PerUser, Some(account)) => self.0.scoped("log", &format!("user:{account}")),
            // Nobody to scope it to: what the session gets, which is random if there is none.
            (Method::PerSession | Method::PerUser, _) => self.0.pseudonym("log"),
            _ => return None,
        };
        Some(pseudonym.to_string())
    }

    /// What the application counts visitors by, in memory. It stores the numbers.
    pub(crate) fn visitor(&self, method: Method) -> Option<String> {
        match method {
            Method::PerUser => Some(self.0.pseudonym("visitors").to_string()),
            method => self.written(method, None),
        }
    }

    pub(crate) fn limit_key(&self) -> LimitKey {
        self.0.limit_key("limit")
    }

    pub(crate) fn country(&self) -> Option<Country> {
        self.0.country("country")
    }
}

/// Keys that are the same in each run, so that its numbers are, too. In earnest that would be the end of all promises.
struct Seeded(u64);

impl KeySource for Seeded {
    fn key(&mut self, request: keys::KeyRequest) -> Result<EpochKey, KeyError> {
        let mut key = [0; 32];
        random::write_key(self.words(request.epoch.number(), request.generation), &mut key);
        EpochKey::take(&mut key)
    }
}

impl Seeded {
    fn words(&self, epoch: u64, generation: u64) -> [u64; 4] {
        random::key(&[self.0, 11, epoch, generation])
    }
}

fn countries() -> Result<Countries, Box<dyn Error>> {
    let networks = world::networks();
    let networks: Vec<_> =
        networks.iter().map(|(network, country)| (network.as_str(), crate::mmdb::country(country))).collect();
    Ok(Countries::from_bytes(crate::mmdb::mmdb(&networks))?)
}
