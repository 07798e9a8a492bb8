//! What the layer allocates for a request: the header that it writes, and the client in the extensions.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::net::SocketAddr;

use http::{HeaderName, HeaderValue, Request};
use ipveil::{
    Anonymizer, KeyRing, Policy, Resolver, TrustedProxies,
    keys::{Epochs, MemorySource},
    policy::{Scope, Session, View},
    resolve::Source,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

fn allocations(scope: Scope, client: &'static str) -> u64 {
    let trusted = TrustedProxies::parse(["10.0.0.0/8"]).unwrap();
    let policy = Policy::new(scope, [View::address("app").header(X_FORWARDED_FOR)]).unwrap();
    let keys = KeyRing::start(MemorySource, Epochs::daily()).unwrap();
    let anonymizer = Anonymizer::new(Resolver::behind(trusted, Source::x_forwarded_for()), policy, keys);

    let count = || {
        let mut request = Request::new(());
        request.headers_mut().insert("cookie", HeaderValue::from_static("sid=8c1f"));
        request.headers_mut().insert(X_FORWARDED_FOR, HeaderValue::from_static(client));
        request.extensions_mut().insert(SocketAddr::from(([10, 0, 0, 1], 4711)));
        let (mut parts, ()) = request.into_parts();
        allocation_counter::measure(|| anonymizer.anonymize(&mut parts)).count_total
    };
    // Not the first: what a thread needs once, it makes then.
    count();
    count()
}

#[test]
fn a_request_costs_the_header_that_is_written_and_the_client_in_the_extensions() {
    for client in ["203.0.113.7", "2001:db8:5ab1:77:84c0:8e1f:2b5:91d"] {
        assert_eq!(allocations(Scope::unscoped(), client), 2, "{client}");
        assert_eq!(allocations(Scope::per_session(Session::cookie("sid")), client), 2, "{client}");
    }
}
