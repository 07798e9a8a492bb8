//! All that a configuration decides, ready for use: put in place as a whole, and replaced as a whole.

use std::{
    cell::RefCell,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::{Context as _, anyhow};
use http::HeaderName;
use ipveil::{
    AnonymizeLayer, KeyRing, Networks, Peer, Policy, PseudonymRange, Resolver, Scrubber, TrustedProxies,
    geo::Countries,
    headers::Strip,
    keys::journal::Journal,
    policy::{Scope, Session, View},
    proxy_protocol::Receiver,
    resolve::{Source, Withheld},
};

use super::{
    access_log::AccessLog,
    guard::{Bans, Limiter},
    keys::{Keys, Spread},
    listen::Listening,
    rarely::Rarely,
    tls,
    upstream::Upstream,
};
use crate::config::{self, Config, Key, Lists, ProxyProtocol, ScopeKind, ViewShape};

/// The view that servers see in a PROXY header.
pub(crate) const APP: &str = "app";
/// The view that the access log shows.
pub(crate) const LOG: &str = "log";
/// Views of our own, which no configuration can name.
pub(crate) const DENY: &str = "ipveil-deny";
pub(crate) const ALLOW: &str = "ipveil-allow";
pub(crate) const RATE: &str = "ipveil-rate";
pub(crate) const BAN: &str = "ipveil-ban";
pub(crate) const CONNECTIONS: &str = "ipveil-connections";

pub(crate) struct Site {
    pub(crate) anonymize: AnonymizeLayer,
    pub(crate) policy: Policy,
    pub(crate) keys: KeyRing,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) limits: config::Limits,
    pub(crate) deadlines: config::Deadlines,
    pub(crate) has_deny: bool,
    pub(crate) has_allow: bool,
    pub(crate) limiter: Option<Arc<Limiter>>,
    pub(crate) bans: Option<Arc<Bans>>,
    pub(crate) log: Option<AccessLog>,
    pub(crate) journal: Option<Arc<Journal>>,
    pub(crate) spread: Option<Arc<Spread>>,
    resolver: Resolver,
    routes: Vec<Route>,
    upstreams: Vec<Arc<Upstream>>,
    /// About requests that can't be read.
    pub(crate) bad_requests: Rarely,
    is_stale: AtomicBool,
    // Under the configurations before.
    withheld: Vec<(Withheld, u64)>,
}

/// How connections to one address begin.
pub(crate) struct Listener {
    pub(crate) address: config::Address,
    pub(crate) mode: Option<u32>,
    pub(crate) proxy_protocol: Option<Receiver>,
    /// About PROXY headers.
    pub(crate) complaints: Rarely,
    index: usize,
    pub(crate) tls: Option<tls::Acceptor>,
}

impl Listener {
    pub(crate) fn open(&self) -> anyhow::Result<Listening> {
        let key = Key::new(["listener", &self.index.to_string(), "address"]);
        Listening::open(&self.address, self.mode).context(key)
    }
}

struct Route {
    host: Option<String>,
    path: String,
    upstream: Arc<Upstream>,
}

/// What survives a change of configuration.
pub(crate) struct Lasting<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) bans: Option<&'a Arc<Bans>>,
    pub(crate) threads: usize,
    /// The one in place, if there is one.
    pub(crate) before: Option<(&'a Config, &'a Site)>,
}

impl Site {
    /// Opens and checks all that a configuration names. Nothing is in use before all of it is well.
    pub(crate) fn new(config: &Config, lasting: &Lasting<'_>) -> anyhow::Result<Self> {
        let trusted = trusted(&config.client.trusted)?;
        let resolver = resolver(&config.client, &trusted);
        let policy = policy(config)?;
        let strip = strip(&config.privacy, config.client.source.as_ref())?;
        let anonymize = AnonymizeLayer::new(resolver.clone(), policy.clone(), lasting.keys.ring.clone()).strip(strip);
        let listeners = config.listener.iter().enumerate().map(|(index, listener)| {
            let receiver = Receiver::new(trusted.clone());
            let tls = listener.tls.as_ref().map(tls::server).transpose();
            Ok(Listener {
                address: listener.address.0.clone(),
                mode: listener.mode.as_ref().map(|mode| mode.0.0),
                complaints: Rarely::default(),
                index,
                proxy_protocol: (listener.proxy_protocol == ProxyProtocol::Required).then_some(receiver),
                tls: tls.context(Key::new(["listener", &index.to_string(), "tls"]))?,
            })
        });
        let listeners = listeners.collect::<anyhow::Result<_>>()?;
        let most_idle = config.limits.idle_upstream_connections;
        let mut upstreams = Vec::new();
        let mut names = Vec::new();
        for (name, settings) in &config.upstream {
            // The same servers keep their connections.
            let is_same = |known: &&Arc<Upstream>| known.is_like(name, settings, most_idle);
            let known = lasting.before.and_then(|(_, site)| site.upstreams.iter().find(is_same));
            upstreams.push(match known {
                Some(known) => Arc::clone(known),
                None => Arc::new(
                    Upstream::new(name, settings, most_idle, lasting.threads).context(Key::new(["upstream", name]))?,
                ),
            });
            names.push(name);
        }
        let mut routes = Vec::new();
        for route in &config.route {
            let place = names.iter().position(|&name| *name == route.upstream).context("no such upstream")?;
            let host = route.host.as_ref().map(|host| host.0.0.clone());
            routes.push(Route { host, path: route.path.clone(), upstream: Arc::clone(&upstreams[place]) });
        }
        // The most particular first: hosts before wildcards before any, and long paths before short ones.
        routes.sort_by_key(|route| {
            let host = route.host.as_deref().map_or((2, 0), |host| (u8::from(host.starts_with('*')), host.len()));
            (host.0, std::cmp::Reverse(host.1), std::cmp::Reverse(route.path.len()))
        });
        let limiter = match (&config.rate_limit, lasting.before) {
            (Some(limit), Some((before, site))) if before.rate_limit.as_ref() == Some(limit) => site.limiter.clone(),
            (Some(limit), _) => Some(Arc::new(Limiter::new(limit))),
            (None, _) => None,
        };
        Ok(Self {
            anonymize,
            keys: lasting.keys.ring.clone(),
            listeners,
            limits: config.limits.clone(),
            deadlines: config.deadlines.clone(),
            has_deny: !config.deny.is_empty(),
            has_allow: !config.allow.is_empty(),
            limiter,
            bans: lasting.bans.cloned().filter(|_| config.bans.enabled),
            log: access_log(config, &policy, lasting)?,
            journal: lasting.keys.journal.clone(),
            spread: lasting.keys.spread.clone(),
            policy,
            resolver,
            routes,
            upstreams,
            bad_requests: Rarely::default(),
            is_stale: AtomicBool::new(false),
            withheld: lasting.before.map_or_else(Vec::new, |(_, site)| site.all_withheld().collect()),
        })
    }

    /// Who takes a request; nothing if no route fits.
    pub(crate) fn route(&self, host: &[u8], path: &str) -> Option<&Upstream> {
        let fits = |route: &&Route| {
            route.host.as_deref().is_none_or(|name| is_host(host, name)) && is_below(path, &route.path)
        };
        self.routes.iter().find(fits).map(|route| &*route.upstream)
    }

    pub(crate) fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// Whether a peer's word about a request is taken.
    pub(crate) fn believes(&self, peer: Peer) -> bool {
        self.resolver.is_believed(peer)
    }

    /// Whether a header is one of those that say who the client is.
    pub(crate) fn writes(&self, name: &HeaderName) -> bool {
        self.policy.views().any(|view| view.header_name() == Some(name))
    }

    /// How often a client was withheld since the start.
    pub(crate) fn all_withheld(&self) -> impl Iterator<Item = (Withheld, u64)> {
        Withheld::ALL.iter().map(|&why| {
            let before = self.withheld.iter().find(|(other, _)| *other == why).map_or(0, |&(_, count)| count);
            (why, before + self.anonymize.anonymizer().withheld_count(why))
        })
    }

    /// Whether another one is in place.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale.load(Relaxed)
    }

    pub(crate) fn retire(&self) {
        self.is_stale.store(true, Relaxed);
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Site>>> = const { RefCell::new(None) };
}

/// The one in place on this thread.
pub(crate) fn current() -> Arc<Site> {
    CURRENT.with_borrow(|site| site.clone().expect("a thread has a site before it has a connection"))
}

pub(crate) fn set_current(site: Arc<Site>) {
    CURRENT.set(Some(site));
}

fn is_host(host: &[u8], name: &str) -> bool {
    // The same name, written as one that is complete.
    let host = host.strip_suffix(b".").unwrap_or(host);
    match name.strip_prefix('*') {
        Some(suffix) => {
            host.len() > suffix.len() && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
        }
        None => host.eq_ignore_ascii_case(name.as_bytes()),
    }
}

/// `/api` is above `/api` and `/api/x`, not above `/apian`.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
        // A request without a path, such as OPTIONS *.
        || prefix == "/"
}

fn trusted(entries: &[String]) -> anyhow::Result<TrustedProxies> {
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.as_str() != "unix") {
        network(entry).context(Key::new(["client", "trusted", &index.to_string()]))?;
    }
    Ok(TrustedProxies::parse(entries)?)
}

fn resolver(client: &config::Client, trusted: &TrustedProxies) -> Resolver {
    let Some(config::Text(config::Header(name))) = &client.source else {
        return Resolver::direct();
    };
    let source = Source::header(name.clone());
    match client.hops {
        Some(hops) => Resolver::hops(hops, source).only_from(trusted.clone()),
        None => Resolver::behind(trusted.clone(), source),
    }
}

fn policy(config: &Config) -> anyhow::Result<Policy> {
    let privacy = &config.privacy;
    let scope = |kind| match kind {
        ScopeKind::Unscoped => Scope::unscoped(),
        ScopeKind::Host => Scope::per_host(privacy.hosts.clone()),
        ScopeKind::Session => {
            let mut cookies = privacy.cookies.iter();
            let mut session = match cookies.next() {
                Some(first) => cookies.fold(Session::cookie(first), |session, cookie| session.or_cookie(cookie)),
                // Then it is on, or nobody has sessions.
                None => Session::authorization(),
            };
            if privacy.authorization {
                session = session.or_authorization();
            }
            if privacy.anonymous_per_host {
                session = session.anonymous_per_host(privacy.hosts.clone());
            }
            Scope::per_session(session)
        }
    };
    let countries = match &config.geo {
        Some(geo) => Some(
            Countries::open(&geo.database)
                .with_context(|| geo.database.display().to_string())
                .context(Key::new(["geo", "database"]))?,
        ),
        None => None,
    };
    let mut views = Vec::new();
    for (name, settings) in &config.view {
        let mut view = match settings.shape {
            ViewShape::Address => View::address(name),
            ViewShape::Ipv4 => View::address_v4(name),
            ViewShape::Token => View::token(name),
            ViewShape::Network => View::network(name),
            ViewShape::Country => View::country(name, countries.as_ref().context("geo.database")?),
        };
        if let Some(config::Text(config::Header(header))) = &settings.header {
            view = view.header(header.clone());
        }
        if let Some(kind) = settings.scope {
            view = view.scope(scope(kind));
        }
        if let Some(window) = settings.window {
            view = view.window(window);
        }
        if let Some((v4, v6)) = settings.keep {
            view = view.keep(v4, v6);
        }
        views.push(view);
    }
    if !config.deny.is_empty() {
        views.push(View::member(DENY, list(&config.deny, "deny")?));
    }
    if !config.allow.is_empty() {
        views.push(View::member(ALLOW, list(&config.allow, "allow")?));
    }
    if config.rate_limit.is_some() {
        views.push(View::limit(RATE));
    }
    if config.bans.enabled {
        views.push(View::limit(BAN).window(config.keys.period));
    }
    if config.limits.connections_per_client > 0 {
        views.push(View::limit(CONNECTIONS).window(config.keys.period));
    }
    let mut policy = Policy::new(scope(privacy.scope), views.clone()).map_err(|error| {
        // The first with which it does not go.
        let is_bad = |count: &usize| Policy::new(scope(privacy.scope), views[..=*count].iter().cloned()).is_err();
        let name = (0..views.len()).find(is_bad).and_then(|index| config.view.keys().nth(index));
        anyhow::Error::new(error).context(name.map_or(Key::new(["view"]), |name| Key::new(["view", name])))
    })?;
    if let Some(range) = &privacy.range {
        let key = || Key::new(["privacy", "range"]);
        let range = range.parse().map_err(|_| anyhow!("expected an IPv6 network")).with_context(key)?;
        policy = policy.range(PseudonymRange::new(range).with_context(key)?);
    }
    Ok(policy)
}

fn strip(privacy: &config::Privacy, source: Option<&config::Text<config::Header>>) -> anyhow::Result<Strip> {
    let mut strip = Strip::new();
    // In front of a body it is removed in any case, but not behind one.
    if let Some(config::Text(config::Header(name))) = source {
        strip = strip.also(name.as_str()).context(Key::new(["client", "source"]))?;
    }
    for (is_on, more) in [
        (privacy.strip_countries, Strip::countries as fn(Strip) -> Strip),
        (privacy.strip_certificates, Strip::certificates),
        (privacy.strip_fingerprints, Strip::fingerprints),
        (privacy.strip_join_keys, Strip::join_keys),
    ] {
        if is_on {
            strip = more(strip);
        }
    }
    for (index, glob) in privacy.strip.iter().enumerate() {
        strip = strip.also(glob).context(Key::new(["privacy", "strip", &index.to_string()]))?;
    }
    for (index, config::Text(config::Header(name))) in privacy.keep.iter().enumerate() {
        strip = strip.keep(name).context(Key::new(["privacy", "keep", &index.to_string()]))?;
    }
    Ok(strip)
}

/// The networks of a list: comments begin with `#`.
fn list(lists: &Lists, name: &str) -> anyhow::Result<Networks> {
    let mut networks = lists.networks.clone();
    for (index, entry) in networks.iter().enumerate() {
        network(entry).context(Key::new([name, "networks", &index.to_string()]))?;
    }
    for (index, file) in lists.files.iter().enumerate() {
        let key = || Key::new([name, "files", &index.to_string()]);
        let text = fs::read_to_string(file).with_context(|| file.display().to_string()).with_context(key)?;
        for (number, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if !entry.is_empty() {
                network(entry).with_context(|| format!("{}:{}", file.display(), number + 1)).with_context(key)?;
                networks.push(entry.to_owned());
            }
        }
    }
    Ok(Networks::parse(networks)?)
}

/// Whether that is a network. The library's own error says which, and a file may hold anything.
fn network(entry: &str) -> anyhow::Result<()> {
    let expected = "expected an address, a CIDR such as 10.0.0.0/8, or one of loopback, private, link-local";
    Networks::parse([entry]).map(drop).map_err(|_| anyhow!(expected))
}

fn access_log(config: &Config, policy: &Policy, lasting: &Lasting<'_>) -> anyhow::Result<Option<AccessLog>> {
    if !config.access_log.is_on() {
        return Ok(None);
    }
    let (to, format) = (&config.access_log.to, config.access_log.format);
    let scrubber = || Scrubber::new(policy, LOG, lasting.keys.ring.clone()).context(Key::new(["view", "log"]));
    let before = lasting.before.and_then(|(_, site)| site.log.as_ref());
    if let Some(log) =
        before.map(|log| Ok::<_, anyhow::Error>(log.again(to, format, scrubber()?))).transpose()?.flatten()
    {
        return Ok(Some(log));
    }
    let path: PathBuf = to.clone();
    AccessLog::start(&path, format, scrubber()?).context(Key::new(["access_log", "to"])).map(Some)
}
