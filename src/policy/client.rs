//! One client under one key: what handlers get instead of an address.

use std::{cell::RefCell, fmt};

use ipnet::IpNet;

use super::{
    Entry, Inner, Policy,
    scope::{Host, Meaning},
    view::{Method, Shown, What},
};
use crate::{
    addr::{ClientAddr, NoSubject, Prefix},
    geo::Country,
    headers::Lines,
    keys::{KeyRing, seconds},
    pseudonym::{Handle, LimitKey, Pseudonym, ScopeValue, Shape},
    resolve::Withheld,
};

/// A client, as far as anybody may know it: pseudonyms by view and scope, and no address.
///
/// The layer puts it into each request's extensions. It can't be printed, and holds nothing from which the address can
/// be computed without the epoch's key. It answers for the epoch and the moment of its request; a connection that
/// lives longer should not keep it.
#[derive(Clone)]
pub struct Client {
    policy: Policy,
    known: Result<Known, Withheld>,
}

/// What is left of an address once it is hashed. It is moved several times on every request, so it is kept to a size that
/// the compiler moves without a call.
#[derive(Clone)]
pub(super) struct Known {
    handle: Handle,
    // Nobody's, unless some view limits.
    limits: Handle,
    // A bit for each view, by its place.
    members: u64,
    host: Option<Host>,
    scope: RequestScope,
    network: Option<Prefix>,
    country: Option<Country>,
    // Since 1970, if any view has windows.
    seconds: u64,
    rare: Option<Box<Rare>>,
}

const _: () = assert!(size_of::<Client>() <= 128);

/// What is known of few clients.
#[derive(Clone)]
struct Rare {
    // Made by an edge before us, and shown as it is in address shape.
    ready_made: Option<Pseudonym>,
    // Under the key of the next epoch, which begins then.
    next_limits: Option<(Handle, u64)>,
}

/// What a request says of its scope, besides the host.
#[derive(Clone, Copy)]
enum RequestScope {
    /// Nothing, and no view asks.
    Unscoped,
    Session([u8; 16]),
    /// Nothing, though some view asks: random, and for this request alone.
    Fresh([u8; 16]),
}

impl Known {
    pub(super) const MOST_VIEWS: usize = u64::BITS as usize;

    #[inline]
    pub(super) fn new(
        policy: &Inner,
        address: &ClientAddr,
        keys: &KeyRing,
        reader: usize,
        host: Option<Host>,
        lines: &impl Lines,
    ) -> Result<Self, Withheld> {
        let subject = address.subject(policy.range).map_err(|why| match why {
            NoSubject::NoAddress => Withheld::NoPeerAddress,
            NoSubject::ForeignPseudonym => Withheld::ForeignPseudonym,
        })?;
        let (mut handle, mut limits) = (None, Some(Handle::NOBODY));
        let at = keys.with(reader, |key, at| {
            handle = subject.handle(key);
            if policy.limits {
                limits = subject.limit_handle(key, handle);
            }
            at
        });
        let (Some(at), Some(handle), Some(limits)) = (at, handle, limits) else {
            return Err(Withheld::NoKey);
        };
        // All parts first: what is put together piece by piece and then moved costs the processor a wait.
        let next_limits = match policy.limits {
            true => {
                keys.with_next(reader, |key, start| Some((subject.limit_handle(key, None)?, seconds(start)))).flatten()
            }
            false => None,
        };
        let ready_made = subject.ready_made();
        let is_rare = next_limits.is_some() || ready_made.is_some();
        let rare = is_rare.then(|| Box::new(Rare { ready_made, next_limits }));
        let mut members = 0;
        if policy.members {
            for (place, entry) in policy.views.iter().enumerate() {
                let is_member = entry.view.networks().is_some_and(|networks| networks.contains(address.address()));
                members |= u64::from(is_member) << place;
            }
        }
        let scope = if let Some(session) = policy.session.as_ref().and_then(|session| session.of(&handle, lines)) {
            RequestScope::Session(session)
        } else if policy.is_scoped && policy.views.iter().any(|entry| !entry.meaning.is_given(host.is_some())) {
            // Without randomness what is random is withheld.
            fresh().map_or(RequestScope::Unscoped, RequestScope::Fresh)
        } else {
            RequestScope::Unscoped
        };
        Ok(Self {
            handle,
            limits,
            members,
            host,
            scope,
            network: policy.keep.and_then(|keep| subject.network(keep)),
            country: policy.countries.as_ref().and_then(|countries| subject.country(countries)),
            seconds: if policy.windows { seconds(at) } else { 0 },
            rare,
        })
    }

    #[inline]
    fn scope<'a>(&'a self, policy: &'a Inner, meaning: Meaning) -> Option<ScopeValue<'a>> {
        match (meaning, &self.scope, self.host) {
            (Meaning::Unscoped, ..) => Some(ScopeValue::Unscoped),
            (Meaning::Host, _, Some(host)) => Some(ScopeValue::Host(policy.host(host))),
            (_, RequestScope::Session(session), _) => Some(ScopeValue::Session(session)),
            (Meaning::SessionOrHost, _, Some(host)) => Some(ScopeValue::Host(policy.host(host))),
            (_, RequestScope::Fresh(random), _) => Some(ScopeValue::Fresh(random)),
            (_, RequestScope::Unscoped, _) => None,
        }
    }
}

impl Client {
    pub(super) fn new(policy: Policy, known: Result<Known, Withheld>) -> Self {
        Self { policy, known }
    }

    /// What a view shows of it, be it a pseudonym, a network or a country, in the scope of that view in this request: for what
    /// prints it, and has not chosen the view.
    ///
    /// Nothing if it is withheld, if the policy has no view of this name, and if the view is there to limit or to count members.
    #[must_use]
    #[inline]
    pub fn shown(&self, view: &str) -> Shown {
        Shown(self.view(view).map_or(What::Nothing, |entry| self.what(entry)))
    }

    /// Its pseudonym in a view, in the scope of that view in this request.
    ///
    /// Withheld if there is no usable address or no key, and if the policy has no view of this name that sees pseudonyms.
    #[must_use]
    pub fn pseudonym(&self, view: &str) -> Pseudonym {
        match self.shown(view).0 {
            What::Pseudonym(pseudonym) => pseudonym,
            _ => Pseudonym::Withheld,
        }
    }

    /// Its pseudonym in a view, in a scope of the application's own: `"user:42"`, once it knows who that is.
    ///
    /// Stable for that user at that address, within the epoch, over all sessions; not comparable with anybody else's. This
    /// is what can be stored next to an account.
    ///
    /// Withheld as [`pseudonym`](Self::pseudonym) is.
    #[must_use]
    pub fn scoped(&self, view: &str, scope: &str) -> Pseudonym {
        if let Some(entry) = self.view(view)
            && let Ok(known) = &self.known
            && let Method::Pseudonym(shape) = entry.view.method()
        {
            let scope = ScopeValue::Named(scope);
            let hash = entry.question.ask(&known.handle, scope, || entry.view.window_at(known.seconds));
            return shape.of(hash, self.policy.inner.range);
        }
        Pseudonym::Withheld
    }

    /// Its network in a view that sees networks; nothing if it is withheld.
    #[must_use]
    pub fn network(&self, view: &str) -> Option<IpNet> {
        match self.shown(view).0 {
            What::Network(network) => Some(network),
            _ => None,
        }
    }

    /// What a limiter counts it by, in a view that limits. One key for all who are withheld, and for all if the policy has
    /// no such view.
    ///
    /// # What it gives away
    ///
    /// A limit that many clients share is an oracle: fill it from the office, and watch for whom else it is full. Count
    /// per client *and route*, and report no verdict together with an identifier.
    #[must_use]
    pub fn limit_key(&self, view: &str) -> LimitKey {
        if let Some(entry) = self.view(view)
            && let Ok(known) = &self.known
            && entry.view.method() == Method::Limit
        {
            return LimitKey::new(
                entry.question.ask(&known.limits, ScopeValue::Unscoped, || entry.view.window_at(known.seconds)),
            );
        }
        LimitKey::WITHHELD
    }

    /// The [limit key](Self::limit_key) that this client will have in the next epoch; nothing until its key is minted,
    /// which is shortly before. For whoever takes a count over: a client that keeps coming is known across the boundary.
    #[must_use]
    pub fn next_limit_key(&self, view: &str) -> Option<LimitKey> {
        let entry = self.view(view).filter(|entry| entry.view.method() == Method::Limit)?;
        let (handle, start) = self.known.as_ref().ok()?.rare.as_ref()?.next_limits.as_ref()?;
        Some(LimitKey::new(entry.question.ask(handle, ScopeValue::Unscoped, || entry.view.window_at(*start))))
    }

    /// Whether the client is in the networks of a [member view](super::View::member); false if it is withheld.
    #[must_use]
    pub fn is_member(&self, view: &str) -> bool {
        let place = self.policy.inner.views.iter().position(|entry| entry.view.name() == view);
        matches!((place, &self.known), (Some(place), Ok(known)) if known.members >> place & 1 == 1)
    }

    /// Why nothing is known of it; nothing if something is.
    #[must_use]
    pub fn withheld(&self) -> Option<Withheld> {
        self.known.as_ref().err().copied()
    }

    pub(super) fn view(&self, name: &str) -> Option<&Entry> {
        self.policy.inner.views.iter().find(|entry| entry.view.name() == name)
    }

    #[inline(always)]
    pub(super) fn what(&self, entry: &Entry) -> What {
        let Ok(known) = &self.known else {
            return What::Nothing;
        };
        match entry.view.method() {
            Method::Limit | Method::Member => What::Nothing,
            Method::Network(keep) => known.network.map_or(What::Nothing, |network| What::Network(network.cut(keep))),
            Method::Country => known.country.map_or(What::Nothing, What::Country),
            Method::Pseudonym(shape) => {
                let policy = &*self.policy.inner;
                if shape == Shape::Address
                    && let Some(ready_made) = known.rare.as_ref().and_then(|rare| rare.ready_made)
                {
                    return What::Pseudonym(ready_made);
                }
                let Some(scope) = known.scope(policy, entry.meaning) else {
                    return What::Nothing;
                };
                let hash = entry.question.ask(&known.handle, scope, || entry.view.window_at(known.seconds));
                What::Pseudonym(shape.of(hash, policy.range))
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client(..)")
    }
}

/// Random bytes for one request, straight from the operating system, fetched for many requests at a time.
fn fresh() -> Option<[u8; 16]> {
    const MANY: usize = 64;
    thread_local! {
        static POOL: RefCell<Vec<[u8; 16]>> = const { RefCell::new(Vec::new()) };
    }
    POOL.with_borrow_mut(|pool| {
        if pool.is_empty() {
            let mut bytes = [[0; 16]; MANY];
            getrandom::fill(bytes.as_flattened_mut()).ok()?;
            pool.extend(bytes);
        }
        pool.pop()
    })
}
