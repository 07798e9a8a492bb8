//! A server behind a trusted proxy, which reads a client from any header that it can be in.

use std::num::NonZeroU8;

use http::{HeaderMap, HeaderName};
use ipveil::{
    Peer, Resolver, TrustedProxies,
    resolve::{
        Source, Withheld,
        explain::{Explanation, Hop, HopVerdict},
    },
};

use crate::case::{address, header_map};

pub(crate) const TRUSTED: &str = "10.0.0.1";
pub(crate) const UNTRUSTED: &str = "198.51.100.9";

pub(crate) fn trusted() -> TrustedProxies {
    TrustedProxies::parse(["10.0.0.0/8"]).unwrap()
}

/// Of each form that a source has.
pub(crate) fn sources() -> [(HeaderName, Source); 6] {
    let list = HeaderName::from_static("x-hops");
    let [forwarded, for_, original, real_ip, with_port] =
        ["forwarded", "x-forwarded-for", "x-original-forwarded-for", "x-real-ip", "cloudfront-viewer-address"]
            .map(HeaderName::from_static)
            .map(|name| (name.clone(), Source::header(name)));
    [forwarded, for_, original, real_ip, with_port, (list.clone(), Source::list(list))]
}

/// All that believe only some peers, and 198.51.100.9 is none of them.
pub(crate) fn resolvers() -> Vec<Resolver> {
    let three = NonZeroU8::new(3).unwrap();
    let resolvers = sources().into_iter().flat_map(|(_, source)| {
        [
            Resolver::behind(trusted(), source.clone()),
            Resolver::behind(trusted(), source.clone()).furthest_hop(),
            Resolver::behind(TrustedProxies::none().and_unix_sockets(), source.clone()),
            Resolver::hops(NonZeroU8::MIN, source.clone()).only_from(trusted()),
            Resolver::hops(three, source).only_from(trusted()).furthest_hop(),
        ]
    });
    resolvers.chain([Resolver::direct()]).collect()
}

#[track_caller]
pub(crate) fn assert_peer_is_client(resolver: &Resolver, headers: &HeaderMap) {
    let explanation = resolver.explain(Some(UNTRUSTED), headers).unwrap();
    assert_eq!(explanation.client, Ok(address(UNTRUSTED)));
    assert_eq!(explanation.header, None);
    assert!(explanation.hops.is_empty());
}

#[track_caller]
pub(crate) fn assert_explained_as_resolved(resolver: &Resolver, headers: &HeaderMap) {
    for (text, peer) in [("unix", Peer::unix()), (TRUSTED, Peer::from(address(TRUSTED)))] {
        let explanation = resolver.explain(Some(text), headers).unwrap();
        assert_eq!(resolver.resolve(peer, headers).err(), explanation.client.err());
    }
    assert_eq!(resolver.resolve(Peer::unknown(), headers).err(), Some(Withheld::NoPeerAddress));
}

#[track_caller]
pub(crate) fn explain(x_forwarded_for: &str) -> Explanation {
    let headers = header_map(&[("x-forwarded-for".to_owned(), x_forwarded_for.to_owned())]);
    Resolver::behind(trusted(), Source::x_forwarded_for()).explain(Some(TRUSTED), &headers).unwrap()
}

pub(crate) fn verdicts(explanation: &Explanation) -> Vec<(&str, HopVerdict)> {
    explanation.hops.iter().map(|Hop { text, verdict, .. }| (text.as_str(), *verdict)).collect()
}
