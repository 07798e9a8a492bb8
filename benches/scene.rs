//! One request and one edge, the same for all benches.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::{Ipv4Addr, SocketAddr},
    task::{Context, Poll},
};

use http::{HeaderName, HeaderValue, Request, Response};
use ipnet::{IpNet, Ipv4Net};
use ipveil::{
    Anonymize, AnonymizeLayer, KeyRing, Policy, Resolver, TrustedProxies,
    keys::{Epochs, MemorySource},
    policy::{Scope, Session, View},
    resolve::Source,
};
use tower_layer::Layer as _;
use tower_service::Service;

/// A service that does nothing, so that what is measured is the layer.
#[derive(Clone, Copy)]
pub(crate) struct Nothing;

impl Service<Request<()>> for Nothing {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        std::hint::black_box(&request);
        ready(Ok(Response::new(())))
    }
}

/// As from a browser, through one trusted proxy: eight headers, and the peer as servers note it.
pub(crate) fn request(client: &'static str) -> Request<()> {
    let mut request = Request::new(());
    for (name, value) in [
        ("host", "example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("cookie", "theme=dark; sid=0b1f8c6e4d2a4e35"),
        ("upgrade-insecure-requests", "1"),
        ("x-forwarded-for", client),
    ] {
        request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    request.extensions_mut().insert(SocketAddr::from(([10, 0, 0, 1], 40_000)));
    request
}

/// As many trusted networks as asked for, far apart; the peer is in the first.
pub(crate) fn trusted(count: u32) -> TrustedProxies {
    let net = |bits: u32| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), 24));
    (0..count).map(|place| net((10 << 24) + place * 1024)).collect()
}

pub(crate) fn edge(trusted: TrustedProxies, scope: Scope) -> Anonymize<Nothing> {
    let resolver = Resolver::behind(trusted, Source::x_forwarded_for());
    let view = View::address("app").header(HeaderName::from_static("x-forwarded-for"));
    let policy = Policy::new(scope, [view]).expect("the policy is sound");
    let keys = KeyRing::start(MemorySource, Epochs::daily()).expect("a key can be made");
    AnonymizeLayer::new(resolver, policy, keys).layer(Nothing)
}

pub(crate) fn unscoped() -> Scope {
    Scope::unscoped()
}

pub(crate) fn per_session() -> Scope {
    Scope::per_session(Session::cookie("sid"))
}

/// What every figure is divided by: one keyed block.
pub(crate) fn block(key: &[u8; 32], input: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(std::hint::black_box(key), std::hint::black_box(input))
}

/// A client.
pub(crate) const CLIENT_V4: &str = "203.0.113.7";
/// A client, as long as they come.
pub(crate) const CLIENT_V6: &str = "2001:db8:5ab1:77:84c0:8e1f:2b5:91d";
