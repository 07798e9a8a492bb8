//! The Tower layer: the edge of an existing server.
//!
//! For each request, before anything behind it can look:
//!
//! 1. It **takes the peer** out of the request's extensions: a [`Peer`], a bare [`SocketAddr`](std::net::SocketAddr), or, with the
//!    feature `axum` or `tonic`, what these put there. Or it is [told](AnonymizeLayer::peer) whose connection it is.
//! 2. It **resolves** the client and **anonymizes** it, under the policy and the live key. No I/O; the one lock is taken
//!    away only for the moment of a rotation.
//! 3. It **strips** every [known](crate::headers) header that says who or where a client is, then **sets** those that views name,
//!    once each.
//! 4. It **puts a [`Client`](crate::Client) into the extensions**, and pseudonyms in place of the typed addresses of step 1, with
//!    a port of 0.
//!
//! A request never fails because of the layer: what can't be known is withheld.
//!
//! **Typed addresses of axum and tonic are known only with the feature of that name.** Without it the layer leaves
//! `ConnectInfo<SocketAddr>` or `TcpConnectInfo` in the extensions, *raw*, for every handler to read. Nor does it know the types of
//! other servers: see [`peer_from`](Anonymizer::peer_from). And any `SocketAddr` in the extensions is taken for the peer: one
//! that means something else, such as the server's own address, belongs into a type of its own.
//!
//! ```
//! use http::{Request, Response, header::HeaderName};
//! use ipveil::{
//!     AnonymizeLayer, Client, KeyRing, Peer, Policy, Resolver, TrustedProxies,
//!     keys::{Epochs, MemorySource},
//!     policy::{Scope, Session, View},
//!     resolve::Source,
//! };
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
//!
//! let resolver = Resolver::behind(TrustedProxies::parse(["10.0.0.0/8"])?, Source::x_forwarded_for());
//! let policy = Policy::new(
//!     Scope::per_session(Session::cookie("sid")),
//!     [View::address("app").header(X_FORWARDED_FOR), View::token("log")],
//! )?;
//! let keys = KeyRing::start(MemorySource, Epochs::daily())?;
//!
//! let service = ServiceBuilder::new()
//!     .layer(AnonymizeLayer::new(resolver, policy, keys))
//!     .service(service_fn(async |request: Request<()>| {
//!         let client: &Client = request.extensions().get().expect("the layer is in front");
//!         assert!(client.pseudonym("log").to_string().starts_with('_'));
//!         assert_eq!(request.headers()[X_FORWARDED_FOR], client.pseudonym("app").to_string());
//!         Ok::<_, std::convert::Infallible>(Response::new(()))
//!     }));
//!
//! let mut request = Request::builder()
//!     .header(X_FORWARDED_FOR, "203.0.113.7")
//!     .header("cookie", "sid=8c1f")
//!     .body(())?;
//! request.extensions_mut().insert(Peer::from(std::net::IpAddr::from([10, 0, 0, 1])));
//! service.oneshot(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where it has to stand
//!
//! **Outermost**: outside of every layer that logs, counts or looks at addresses, such as tower-http's `TraceLayer`. In
//! axum, `Router::layer` wraps what was added before, so this one is added last; in tower's `ServiceBuilder` and tonic's
//! `Server::builder` the first one is outermost. What runs before any layer is the
//! server: `axum::serve` and tonic log or show the peer themselves, for which there are `ipveil::axum::Listener` and
//! `ipveil::tonic::Incoming`. tonic's `trace_fn` sees the headers, too, as the client sent them: don't print them there.
//!
//! Once: a second one would take the pseudonym for a client's own address, and withhold everybody.
//!
//! # Servers without Tower layers
//!
//! [`Anonymizer`] does the same to bare [`http::request::Parts`], or to headers and extensions. `examples/actix.rs` is a
//! middleware for actix-web that uses it, in some forty lines.
//!
//! ```
//! # use ipveil::{*, keys::*, policy::*, layer::Anonymizer};
//! # let policy = Policy::new(Scope::unscoped(), [View::token("log")])?;
//! # let keys = KeyRing::start(MemorySource, Epochs::daily())?;
//! let anonymizer = Anonymizer::new(Resolver::direct(), policy, keys);
//!
//! let (mut parts, ()) = http::Request::builder().header("x-real-ip", "203.0.113.7").body(())?.into_parts();
//! parts.extensions.insert(Peer::from(std::net::IpAddr::from([198, 51, 100, 3])));
//! anonymizer.anonymize(&mut parts);
//!
//! assert!(parts.headers.is_empty());
//! let client: &Client = parts.extensions.get().expect("there is always one");
//! assert!(client.withheld().is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a handler can still get at
//!
//! Headers that nobody told [`Strip`] of. The socket, through `hyper::upgrade`, unless the server's connections are wrapped: the listeners for axum and tonic do
//! that, and `layer::Connection` (feature `tokio`) does it for a server of your own. Query strings and bodies with
//! addresses in them. Trailers, unless brought to [`Anonymizer::strip_trailers`]. Extensions that another crate filled with an address
//! under its own type: [`AnonymizeLayer::peer_from`] takes one out.

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "tokio")]
mod io;
#[cfg(feature = "tonic")]
pub mod tonic;

mod typed;

use std::{
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread,
};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Uri, request::Parts};
use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "tokio")]
pub use self::io::Connection;
use crate::{
    addr::Peer,
    headers::{Look, Strip},
    keys::KeyRing,
    lend::reader,
    policy::{Host, Policy},
    resolve::{Resolver, Withheld},
};

/// Anonymizes requests: a resolver, a policy and a key ring, put together. See the [module](self).
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Anonymizer {
    edge: Arc<Edge>,
}

#[derive(Clone)]
struct Edge {
    resolver: Resolver,
    // Copies of one policy, a power of two of them: each client holds a reference, and threads that count references in
    // one place wait for each other.
    policies: Box<[Policy]>,
    keys: KeyRing,
    look: Look,
    // The first header that is written is the one that is read.
    in_place: bool,
    peer_from: Option<TakePeer>,
    counts: Arc<Counts>,
}

type TakePeer = fn(&mut Extensions) -> Option<Peer>;

impl Anonymizer {
    /// With the default [`Strip`].
    #[must_use]
    pub fn new(resolver: Resolver, policy: Policy, keys: KeyRing) -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let copies = threads.clamp(1, 64).next_power_of_two();
        let policies = (0..copies).map(|_| policy.copy()).collect();
        let look = look(Strip::new(), &resolver, &policy);
        let in_place = resolver.source_name().is_some_and(|name| policy.headers().next() == Some(name));
        let edge = Edge { resolver, policies, keys, look, in_place, peer_from: None, counts: Arc::default() };
        Self { edge: Arc::new(edge) }
    }

    /// Removes other headers than by default. The one that the client is read from, and what a client sends as those
    /// that views write, are removed in any case.
    #[must_use]
    pub fn strip(mut self, strip: Strip) -> Self {
        let edge = Arc::make_mut(&mut self.edge);
        edge.look = look(strip, &edge.resolver, &edge.policies[0]);
        self
    }

    /// Takes the peer from where this server keeps it, before looking where it usually is.
    ///
    /// `take` has to remove what it finds, since nothing else will.
    ///
    /// ```
    /// # use ipveil::{layer::Anonymizer, Peer};
    /// #[derive(Clone)]
    /// struct RemoteAddr(std::net::SocketAddr);
    ///
    /// # fn add(anonymizer: Anonymizer) -> Anonymizer {
    /// anonymizer.peer_from(|extensions| extensions.remove::<RemoteAddr>().map(|remote| Peer::from(remote.0)))
    /// # }
    /// ```
    #[must_use]
    pub fn peer_from(mut self, take: fn(&mut Extensions) -> Option<Peer>) -> Self {
        Arc::make_mut(&mut self.edge).peer_from = Some(take);
        self
    }

    /// Anonymizes a request, and puts its [`Client`](crate::Client) into its extensions.
    pub fn anonymize(&self, parts: &mut Parts) {
        self.anonymize_in(&parts.uri, &mut parts.headers, &mut parts.extensions);
    }

    /// Anonymizes a request that is in pieces.
    pub fn anonymize_in(&self, uri: &Uri, headers: &mut HeaderMap, extensions: &mut Extensions) {
        let host = self.host_of(uri, headers);
        self.anonymize_on(None, host, headers, extensions);
    }

    #[inline]
    fn host_of(&self, uri: &Uri, headers: &HeaderMap) -> Option<Host> {
        self.edge.policies[0].host_of(uri, headers)
    }

    #[inline]
    fn anonymize_on(
        &self,
        peer: Option<Peer>,
        host: Option<Host>,
        headers: &mut HeaderMap,
        extensions: &mut Extensions,
    ) {
        let edge = &*self.edge;
        let reader = reader();
        let policy = &edge.policies[reader & (edge.policies.len() - 1)];
        let (found, typed) = typed::take(extensions, edge.peer_from);
        let peer = peer.unwrap_or(found);

        let (client, place, strip);
        if headers.len() == headers.keys_len() {
            let found = edge.look.find(headers);
            client = policy.client_of(edge.resolver.resolve_in(peer, &found), &edge.keys, reader, host, &found);
            (place, strip) = (found.source.filter(|_| edge.in_place), found.strip);
        } else {
            client = policy.client_of(edge.resolver.resolve_in(peer, headers), &edge.keys, reader, host, headers);
            (place, strip) = (None, true);
        }
        // From here on nobody knows the address.
        if let Some(why) = client.withheld() {
            edge.counts.0[why as usize].fetch_add(1, Ordering::Relaxed);
        }

        let mut shown = None;
        let mut lines = policy.lines();
        let mut first = lines.next();
        // Most policies write one header, over the one that was read.
        if let (Some(line), Some(place)) = (first, place)
            && let Some(value) = line.value(&client, &mut shown)
        {
            *place = value;
            first = None;
        }
        if strip {
            edge.look.strip(headers);
        }
        for line in first.into_iter().chain(lines) {
            let value = line.value(&client, &mut shown);
            set_header(headers, line.name, value);
        }
        if let Some((rest, shown)) = typed.write(|| shown.or_else(|| policy.typed(&client))) {
            rest.put_back(extensions, shown);
        }
        extensions.insert(client);
    }

    /// Removes from trailers what is removed from headers, and what was written there: only the headers are ours.
    ///
    /// The layer does not see trailers, which come with the body; whoever passes them on brings them here.
    ///
    /// ```
    /// use ipveil::{AnonymizeLayer, KeyRing, Policy, Resolver, keys::{Epochs, MemorySource}, policy::{Scope, View}};
    ///
    /// let app = View::address("app").header(http::HeaderName::from_static("x-forwarded-for"));
    /// let keys = KeyRing::start(MemorySource, Epochs::hourly())?;
    /// let layer = AnonymizeLayer::new(Resolver::direct(), Policy::new(Scope::unscoped(), [app])?, keys);
    ///
    /// let mut trailers = http::HeaderMap::new();
    /// for name in ["x-forwarded-for", "x_real_ip", "server-timing"] {
    ///     trailers.insert(name, http::HeaderValue::from_static("203.0.113.7"));
    /// }
    /// layer.anonymizer().strip_trailers(&mut trailers);
    /// assert!(trailers.keys().eq(["server-timing"]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn strip_trailers(&self, trailers: &mut HeaderMap) {
        self.edge.look.removed().strip(trailers);
    }

    /// How often a client was withheld, and why: for metrics. Shared by all clones.
    #[must_use]
    pub fn withheld_count(&self, why: Withheld) -> u64 {
        self.edge.counts.0[why as usize].load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Anonymizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anonymizer")
            .field("resolver", &self.edge.resolver)
            .field("policy", &self.edge.policies[0])
            .field("keys", &self.edge.keys)
            .field("strip", self.edge.look.removed())
            .finish_non_exhaustive()
    }
}

fn look(strip: Strip, resolver: &Resolver, policy: &Policy) -> Look {
    Look::new(strip, resolver.source_name(), policy.headers().cloned().collect(), policy.has_sessions())
}

/// Makes `value` the only one of that name.
fn set_header(headers: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    // A map that is full takes no more, and must not keep what a client sent.
    if value.is_none_or(|value| headers.try_insert(name, value).is_err()) {
        headers.remove(name);
    }
}

/// By reason. Only written to when something is amiss.
#[derive(Default)]
struct Counts([AtomicU64; Withheld::ALL.len()]);

/// Puts [`Anonymize`] in front of a service, outside of everything that looks at addresses: added last with axum's
/// `Router::layer`, first with `ServiceBuilder` and tonic. See the [module](self), also for the features that axum and tonic need.
#[derive(Clone, Debug)]
#[must_use]
pub struct AnonymizeLayer {
    anonymizer: Anonymizer,
    peer: Option<Peer>,
}

impl AnonymizeLayer {
    /// With the default [`Strip`].
    pub fn new(resolver: Resolver, policy: Policy, keys: KeyRing) -> Self {
        Anonymizer::new(resolver, policy, keys).into()
    }

    /// Removes other headers than by default.
    pub fn strip(self, strip: Strip) -> Self {
        Self { anonymizer: self.anonymizer.strip(strip), ..self }
    }

    /// Takes the peer from where this server keeps it: see [`Anonymizer::peer_from`].
    pub fn peer_from(self, take: fn(&mut Extensions) -> Option<Peer>) -> Self {
        Self { anonymizer: self.anonymizer.peer_from(take), ..self }
    }

    /// All requests come from this peer: for servers that make a service for each connection. Addresses in a request's
    /// extensions are written over all the same.
    pub fn peer(self, peer: impl Into<Peer>) -> Self {
        Self { peer: Some(peer.into()), ..self }
    }

    /// What it does, without the layer.
    #[must_use]
    pub fn anonymizer(&self) -> &Anonymizer {
        &self.anonymizer
    }
}

impl From<Anonymizer> for AnonymizeLayer {
    fn from(anonymizer: Anonymizer) -> Self {
        Self { anonymizer, peer: None }
    }
}

impl<S> Layer<S> for AnonymizeLayer {
    type Service = Anonymize<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Anonymize { inner, anonymizer: self.anonymizer.clone(), peer: self.peer }
    }
}

/// Anonymizes each request, and hands it to the inner service, whose future and error stay as they are.
#[derive(Clone, Debug)]
pub struct Anonymize<S> {
    inner: S,
    anonymizer: Anonymizer,
    peer: Option<Peer>,
}

impl<S> Anonymize<S> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<Request<B>> for Anonymize<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let host = self.anonymizer.host_of(request.uri(), request.headers());
        // A request lends one of its parts at a time.
        let mut extensions = mem::take(request.extensions_mut());
        self.anonymizer.anonymize_on(self.peer, host, request.headers_mut(), &mut extensions);
        *request.extensions_mut() = extensions;
        self.inner.call(request)
    }
}
