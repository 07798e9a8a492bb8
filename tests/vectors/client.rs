//! Who the client is: as other projects say, or not for a reason.

use std::collections::HashSet;

use http::HeaderValue;
use ipveil::{
    Resolver,
    resolve::{Source, Withheld, explain::HopVerdict},
};

use crate::{
    case::{address, cases},
    edge::{assert_explained_as_resolved, assert_peer_is_client, explain, resolvers, sources, verdicts},
};

/// Where ipveil differs on purpose: the case, what it gives, and why.
const DIFFERENT: &[(&str, &str, &str)] = &[
    ("caddy-022", "none", "to skip garbage would let a client shift the walk to a hop of its choice"),
    ("envoy-030", "10.10.11.11", "where Envoy's extension gives nothing its caller takes the peer, as we do"),
    ("envoy-035", "10.21.21.21", "a long list is read from the right, only as far as it takes"),
    ("proxy-addr-027", "none", "what is not an address names nobody, so the text is not passed on"),
    ("proxy-addr-046", "none", "what is not an address names nobody, so the text is not passed on"),
    ("proxy-addr-047", "none", "what is not an address names nobody, so the text is not passed on"),
    ("proxy-addr-049", "10.0.0.1", "an explanation takes a peer that nobody named for a trusted one"),
    ("realclientip-023", "fe80::1111", ZONE),
    ("realclientip-027", "188.0.2.128", "in the well-known prefix of NAT64, RFC 6052, an address is an IPv4 address"),
    ("realclientip-088", "fe80::1", ZONE),
    ("realclientip-090", "none", "a peer on a Unix socket is believed only if `unix` is trusted"),
    ("realclientip-092", "none", "a peer that is not an address is never believed"),
    ("realclientip-093", "none", "the unspecified address is nobody's, so such a peer is never believed"),
    ("realclientip-099", "none", "any header can be a source, one that is not known to be a list holds one address"),
    ("realclientip-109", "fe80::abcd", ZONE),
    ("realclientip-110", "fe80::abcd", ZONE),
    ("realclientip-135", "none, 2.2.2.2", "a quote that was left open can't swallow what a proxy put to its right"),
    ("realclientip-140", "2607:f8b0:4004:83f::200e", "many senders leave out the quotes around brackets and colons"),
    ("realclientip-145", "fe80::abcd", ZONE),
    ("realclientip-146", "2607:f8b0:4004:83f::200e", ZONE),
    ("realclientip-148", "none", PORT),
    ("realclientip-149", "none", "the unspecified address is nobody's"),
    ("realclientip-150", "none", "the unspecified address is nobody's"),
    ("realclientip-153", "none", "an IPv4 address has no zone, not even an empty one"),
    ("realclientip-156", "2607:f8b0:4004:83f::200e", ZONE),
    ("realclientip-158", "none", PORT),
    ("rust-forwarded-004", "2001:db8:cafe::17", "the port is dropped: with a time it identifies a subscriber"),
    ("rust-forwarded-016", "1.2.3.4", "the port is dropped: with a time it identifies a subscriber"),
    ("rust-forwarded-024", "hidden", "RFC 7239, 6.3, has the hyphen among the characters of an obfuscated identifier"),
    ("trusted-proxies-003", "none", "RFC 7239, 4, has no white space around the equals sign"),
    ("trusted-proxies-004", "none", "RFC 7239, 4, has no white space around the equals sign"),
];

const ZONE: &str = "a zone is dropped: which link it is means nothing elsewhere";
const PORT: &str = "a hop whose port is no port is malformed, and what is malformed is not half believed";

#[test]
fn cases_of_other_projects_come_out_alike_or_differ_for_a_reason() {
    let mut wrong = Vec::new();
    let mut different = HashSet::new();
    for case in cases() {
        let Some(ours) = case.ours() else { continue };
        let theirs = case.theirs();
        match DIFFERENT.iter().find(|(id, ..)| *id == case.id) {
            Some((id, expected, _)) => {
                different.insert(*id);
                if ours == theirs {
                    wrong.push(format!("{id}: agrees on {ours:?}, so it is no difference any more"));
                } else if ours != *expected {
                    wrong.push(format!("{id}: gives {ours:?}, not {expected:?}"));
                }
            }
            None if ours != theirs => wrong.push(format!("{}: gives {ours:?}, not {theirs:?}", case.id)),
            None => {}
        }
    }
    wrong.extend(DIFFERENT.iter().filter(|(id, ..)| !different.contains(id)).map(|(id, ..)| format!("{id}: no case")));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_peer_is_believed_where_caddy_believes_it() {
    let mut seen = 0;
    for case in cases() {
        let Some(expected) = case.expected_peer_trusted else { continue };
        let resolver = Resolver::behind(case.trusted_proxies().unwrap(), Source::x_forwarded_for());
        let explanation = resolver.explain(case.peer.as_deref(), &case.header_map()).unwrap();
        assert_eq!(explanation.peer_is_believed, expected, "{}", case.id);
        seen += 1;
    }
    assert!(seen > 0);
}

/// Also those of the strategies that ipveil does not have.
#[test]
fn headers_of_no_project_name_a_client_behind_an_untrusted_peer() {
    let resolvers = resolvers();
    for case in cases() {
        let mut headers = case.header_map();
        for value in case.headers.iter().filter_map(|(_, value)| HeaderValue::try_from(value).ok()) {
            for (name, _) in sources() {
                headers.append(name, value.clone());
            }
        }
        for resolver in &resolvers {
            assert_peer_is_client(resolver, &headers);
            assert_explained_as_resolved(resolver, &headers);
            // Some peers are lists, or not even that.
            let _ = resolver.explain(case.peer.as_deref(), &headers);
        }
        // Each value alone: several lines contradict each other in a header for one address.
        for (_, value) in &case.headers {
            let Ok(value) = HeaderValue::try_from(value) else { continue };
            let headers = sources().into_iter().map(|(name, _)| (name, value.clone())).collect();
            for resolver in &resolvers {
                assert_peer_is_client(resolver, &headers);
                assert_explained_as_resolved(resolver, &headers);
            }
        }
    }
}

#[test]
fn a_hop_that_does_not_parse_ends_the_walk() {
    let explanation = explain("192.0.2.1, garbage, 10.0.0.2");
    assert_eq!(explanation.client, Err(Withheld::Malformed));
    assert_eq!(
        verdicts(&explanation),
        [("10.0.0.2", HopVerdict::Trusted), ("garbage", HopVerdict::Withheld(Withheld::Malformed))]
    );
}

#[test]
fn a_hop_that_hides_the_one_before_it_ends_the_walk() {
    let explanation = explain("192.0.2.1, unknown, 10.0.0.2");
    assert_eq!(explanation.client, Err(Withheld::Hidden));
    assert_eq!(explanation.hops.len(), 2);
}

#[test]
fn a_garbled_hop_beyond_the_client_is_not_looked_at() {
    let explanation = explain("garbage, 203.0.113.7, 10.0.0.2");
    assert_eq!(explanation.client, Ok(address("203.0.113.7")));
    assert_eq!(verdicts(&explanation), [("10.0.0.2", HopVerdict::Trusted), ("203.0.113.7", HopVerdict::Client)]);
}

#[test]
fn a_list_that_is_longer_than_any_chain_of_proxies_is_not_walked_to_its_end() {
    let client = |proxies: usize| explain(&format!("203.0.113.7{}", ", 10.0.0.2".repeat(proxies))).client;
    assert_eq!(client(500), Ok(address("203.0.113.7")));
    assert_eq!(client(5000), Err(Withheld::TooManyHops));
}
