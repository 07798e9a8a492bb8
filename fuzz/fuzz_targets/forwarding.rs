//! Any headers, from any peer: nothing panics, and no header that a client sent about itself comes through.
#![no_main]

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use ipveil::{
    Anonymizer, Client, KeyRing, Peer, Policy, Resolver, TrustedProxies,
    headers::Strip,
    keys::{Epochs, MemorySource},
    policy::{Scope, Session, View},
    resolve::Source,
};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 8] = [
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "cf-connecting-ip",
    "cloudfront-viewer-address",
    "x-original-forwarded-for",
    "cookie",
    "authorization",
];

fn anonymizer(source: Option<&'static str>) -> Anonymizer {
    let trusted = TrustedProxies::parse(["10.0.0.0/8", "2001:db8:1::/48"]).expect("networks").and_unix_sockets();
    let resolver = match source {
        Some(name) => Resolver::behind(trusted, Source::header(HeaderName::from_static(name))).furthest_hop(),
        None => Resolver::direct(),
    };
    let scope = Scope::per_session(Session::cookie("sid").or_authorization());
    let views = [View::address("app").header(HeaderName::from_static("x-forwarded-for")), View::token("log")];
    let policy = Policy::new(scope, views).expect("a policy");
    Anonymizer::new(resolver, policy, KeyRing::start(MemorySource, Epochs::daily()).expect("a ring"))
}

// Each line is a header: its first byte says which, the rest is its value.
fuzz_target!(|bytes: &[u8]| {
    thread_local! {
        static ANONYMIZERS: Vec<Anonymizer> =
            [None].into_iter().chain(NAMES[..6].iter().map(|&name| Some(name))).map(anonymizer).collect();
    }
    let Some((&first, rest)) = bytes.split_first() else { return };
    let mut headers = HeaderMap::new();
    for line in rest.split(|&byte| byte == b'\n') {
        if let Some((&name, value)) = line.split_first()
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            headers.append(HeaderName::from_static(NAMES[usize::from(name) % NAMES.len()]), value);
        }
    }
    let peer = [
        Peer::from(IpAddr::from([10, 0, 0, 1])),
        Peer::from(IpAddr::from([203, 0, 113, 7])),
        Peer::unix(),
        Peer::unknown(),
    ][usize::from(first) % 4];
    ANONYMIZERS.with(|anonymizers| {
        let anonymizer = &anonymizers[usize::from(first >> 2) % anonymizers.len()];
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.headers = headers.clone();
        parts.extensions.insert(peer);
        anonymizer.anonymize(&mut parts);
        assert!(parts.extensions.get::<Client>().is_some() && parts.extensions.get::<Peer>().is_none());
        // Ours, at most once; and nothing else that says who the client is.
        assert!(parts.headers.get_all("x-forwarded-for").iter().count() <= 1);
        if let Some(value) = parts.headers.remove("x-forwarded-for") {
            let address: IpAddr = value.to_str().expect("text").parse().expect("an address");
            assert!(matches!(address, IpAddr::V6(address) if address.segments()[0] == 0x2001 && address.segments()[1] >> 4 == 2));
        }
        assert!(parts.headers.keys().all(|name| !Strip::new().removes(name)));
    });
});
