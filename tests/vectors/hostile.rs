//! What holds whatever a client sends.

use std::num::NonZeroU8;

use http::{HeaderMap, HeaderValue, Request};
use ipveil::{
    Anonymizer, Client, KeyRing, Peer, Policy, Resolver,
    keys::{Epochs, MemorySource},
    policy::{Scope, View},
    resolve::Source,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    case::{address, network},
    edge::{TRUSTED, UNTRUSTED, assert_explained_as_resolved, assert_peer_is_client, resolvers, sources, trusted},
};

proptest! {
    #[test]
    fn nothing_that_a_client_sends_changes_who_it_is_behind_an_untrusted_peer(headers in headers()) {
        for resolver in resolvers() {
            assert_peer_is_client(&resolver, &headers);
        }
    }

    #[test]
    fn whatever_is_sent_resolves_as_it_is_explained(headers in headers()) {
        for resolver in resolvers() {
            assert_explained_as_resolved(&resolver, &headers);
        }
    }

    #[test]
    fn what_a_trusted_proxy_appends_decides_whatever_was_sent_before(
        sent in vec(value(), 0..4),
        in_a_line_of_its_own: bool,
    ) {
        for (name, appended, hops, client) in [
            ("x-forwarded-for", "203.0.113.7", 1, "203.0.113.7"),
            ("x-forwarded-for", "2001:db8::7", 1, "2001:db8::7"),
            ("x-forwarded-for", "203.0.113.7,10.0.0.2", 2, "203.0.113.7"),
            ("x-original-forwarded-for", "203.0.113.7:80, 10.0.0.2", 2, "203.0.113.7"),
            ("forwarded", "for=203.0.113.7", 1, "203.0.113.7"),
            ("forwarded", r#"for="[2001:db8::7]:4711";host="a, \"b""#, 1, "2001:db8::7"),
            ("forwarded", "for=203.0.113.7;proto=https, for=10.0.0.2", 2, "203.0.113.7"),
            ("forwarded", r#"for="203.0.113.7", for="10.0.0.2:80""#, 2, "203.0.113.7"),
        ] {
            let mut lines = sent.clone();
            match lines.last_mut() {
                Some(last) if !in_a_line_of_its_own => {
                    last.extend_from_slice(b", ");
                    last.extend_from_slice(appended.as_bytes());
                }
                _ => lines.push(appended.into()),
            }
            let headers: HeaderMap =
                lines.iter().map(|line| (name.parse().unwrap(), HeaderValue::from_bytes(line).unwrap())).collect();
            let source = Source::header(name.parse().unwrap());
            for resolver in [
                Resolver::behind(trusted(), source.clone()),
                Resolver::behind(trusted(), source.clone()).furthest_hop(),
                Resolver::hops(NonZeroU8::new(hops).unwrap(), source.clone()),
                Resolver::hops(NonZeroU8::new(hops).unwrap(), source).only_from(trusted()),
            ] {
                let explanation = resolver.explain(Some(TRUSTED), &headers).unwrap();
                prop_assert_eq!(explanation.client, Ok(address(client)), "{}: {}", name, appended);
            }
        }
    }
}

#[test]
fn a_request_has_the_client_that_is_explained_and_not_the_header_that_it_was_read_from() {
    let policy = Policy::new(Scope::unscoped(), [View::network("network")]).unwrap();
    let keys = KeyRing::start(MemorySource, Epochs::daily()).unwrap();
    let edges = sources().map(|(name, source)| {
        let resolver = Resolver::behind(trusted(), source);
        let anonymizer = Anonymizer::new(resolver.clone(), policy.clone(), keys.clone());
        (name, resolver, anonymizer)
    });
    proptest!(|(headers in headers(), peer in select(vec![TRUSTED, UNTRUSTED]))| {
        for (name, resolver, anonymizer) in &edges {
            let explained = resolver.explain(Some(peer), &headers).unwrap().client;
            let (mut parts, ()) = Request::new(()).into_parts();
            parts.headers = headers.clone();
            parts.extensions.insert(Peer::from(address(peer)));
            anonymizer.anonymize(&mut parts);

            let client = parts.extensions.get::<Client>().unwrap();
            prop_assert_eq!(client.withheld(), explained.err());
            prop_assert_eq!(client.network("network"), explained.ok().map(network));
            prop_assert!(!parts.headers.contains_key(name));
        }
    });
}

#[test]
fn a_long_line_of_what_separates_elements_names_nobody() {
    let resolvers = resolvers();
    for text in
        [",", "\"", "\\", "\\\"", ",\"", "\",", "=\",", "for=\",", "\"\\,", ";", "=", "[", ":", " ", "for=_x;", "%"]
    {
        let line: String = text.chars().cycle().take(64 * 1024).collect();
        for line in [line.clone(), format!("for={line}"), format!("for=\"{line}\"")] {
            let line = HeaderValue::try_from(line).unwrap();
            let headers = sources().into_iter().map(|(name, _)| (name, line.clone())).collect();
            for resolver in &resolvers {
                let client = resolver.explain(Some(TRUSTED), &headers).unwrap().client;
                // With `furthest_hop`, a header without a hop is none, and the peer is the furthest.
                assert!(client.is_err() || client == Ok(address(TRUSTED)), "{text:?}");
            }
        }
    }
}

/// All that a value may consist of; and often what means something in one.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let anything = vec(prop_oneof![Just(b'\t'), 0x20..=0x7e_u8, 0x80..=0xff_u8], 0..80);
    let meaningful = select(vec![
        "for=",
        "by=",
        "=",
        ",",
        ", ",
        ";",
        "\"",
        "\\",
        "\\\"",
        " ",
        "203.0.113.9",
        "10.0.0.2",
        "[2001:db8::9]",
        "2001:db8::9",
        "%eth0",
        ":80",
        ":_x",
        "unknown",
        "_x",
        "\u{e9}",
    ]);
    prop_oneof![anything, vec(meaningful, 0..16).prop_map(|parts| parts.concat().into_bytes())]
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    let names = sources().map(|(name, _)| name).to_vec();
    vec((select(names), value()), 0..12).prop_map(|lines| {
        lines.into_iter().map(|(name, value)| (name, HeaderValue::from_bytes(&value).unwrap())).collect()
    })
}
