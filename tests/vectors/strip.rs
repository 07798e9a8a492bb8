//! Which headers never reach an application.

use std::collections::{BTreeMap, HashSet};

use http::HeaderName;
use ipveil::headers::Strip;
use serde::Deserialize;

use crate::case::{Cases, header_map};

#[test]
fn headers_with_an_address_or_a_fine_location_are_removed_in_every_spelling() {
    let strip = Strip::new();
    for header in identifying().filter(|header| header.asked_for().is_none()) {
        for spelling in header.spellings() {
            assert!(strip.removes(&spelling), "{spelling} ({})", header.kind);
        }
    }
}

#[test]
fn what_says_less_than_a_location_is_removed_only_on_request() {
    let mut seen = HashSet::new();
    for header in identifying() {
        let Some(asked_for) = header.asked_for() else { continue };
        for spelling in header.spellings() {
            assert!(!Strip::new().removes(&spelling), "{spelling} ({})", header.kind);
            for (name, strip) in on_request() {
                assert_eq!(strip.removes(&spelling), name == asked_for, "{spelling} when asked for {name}");
            }
        }
        seen.insert(asked_for);
    }
    assert_eq!(seen.len(), on_request().len());
}

#[test]
fn what_others_keep_from_an_application_never_reaches_ours() {
    let strip = Strip::new().certificates();
    let mut seen = 0;
    for case in strip_cases() {
        let mut headers = header_map(&case.headers);
        strip.strip(&mut headers);
        for name in case.kept_back().filter(|name| !is_none_of_our_business(name)) {
            assert!(!headers.contains_key(name), "{}: {name}", case.id);
            seen += 1;
        }
        // Others pass on what a trusted peer says. Here that is raw, and so goes whoever the peer is.
        for name in ["x-forwarded-for", "x_forwarded_for", "x-real-ip"] {
            assert!(!headers.contains_key(name), "{}: {name}", case.id);
        }
    }
    assert!(seen > 0);
}

#[test]
fn what_does_not_say_who_or_where_a_client_is_stays() {
    let strip = Strip::new().certificates();
    for case in strip_cases() {
        for name in case.kept_back().filter(|name| is_none_of_our_business(name)) {
            assert!(!strip.removes(&name.parse().unwrap()), "{}: {name}", case.id);
        }
    }
}

/// They name the resource, the server, the connection, or a user that a proxy logged in, and not where a client is:
/// whether they are true is between the proxy and the application, and to take them away would break what the two
/// agreed on.
fn is_none_of_our_business(name: &str) -> bool {
    let name = name.to_lowercase().replace(['_', '.'], "-");
    let resource = ["uri", "method", "prefix", "proto", "scheme", "host", "port"];
    name.strip_prefix("x-forwarded-").is_some_and(|rest| resource.contains(&rest))
        || ["x-scheme", "remote-user", "remote-groups", "connection", "bar"].contains(&name.as_str())
}

#[derive(Deserialize)]
struct Identifying {
    headers: Vec<IdentifyingHeader>,
}

#[derive(Deserialize)]
struct IdentifyingHeader {
    name: String,
    kind: String,
}

fn identifying() -> impl Iterator<Item = IdentifyingHeader> {
    let file = include_str!("headers-identifying.json");
    serde_json::from_str::<Identifying>(file).unwrap().headers.into_iter()
}

impl IdentifyingHeader {
    /// What has to be asked for before it is removed.
    fn asked_for(&self) -> Option<&'static str> {
        match (self.kind.as_str(), self.name.as_str()) {
            // The list has them as finer than a country; these three are not, and the last is no place.
            (_, "x-country" | "x-nf-geo-country-code" | "x-vercel-ip-continent") => Some("countries"),
            (_, "x-vercel-ja4-digest") => Some("fingerprints"),
            ("geo-country", _) => Some("countries"),
            ("client-cert", _) => Some("certificates"),
            ("fingerprint", _) => Some("fingerprints"),
            ("join-key", _) => Some("join keys"),
            ("address" | "address-list" | "pseudo-address" | "geo-fine" | "pop-location" | "rtt" | "proxy-hop", _) => {
                None
            }
            (kind, name) => panic!("{name}: {kind} is not known"),
        }
    }

    fn spellings(&self) -> impl Iterator<Item = HeaderName> {
        let names =
            [self.name.clone(), self.name.replace('-', "_"), self.name.replace('-', "."), self.name.to_uppercase()];
        names.into_iter().map(|name| name.parse().unwrap())
    }
}

fn on_request() -> [(&'static str, Strip); 4] {
    [
        ("countries", Strip::new().countries()),
        ("certificates", Strip::new().certificates()),
        ("fingerprints", Strip::new().fingerprints()),
        ("join keys", Strip::new().join_keys()),
    ]
}

fn strip_cases() -> impl Iterator<Item = StripCase> {
    serde_json::from_str::<Cases<StripCase>>(include_str!("headers-strip.json")).unwrap().cases.into_iter()
}

#[derive(Deserialize)]
struct StripCase {
    id: String,
    headers: Vec<(String, String)>,
    expected_upstream_headers: BTreeMap<String, String>,
    absent: Vec<String>,
}

impl StripCase {
    /// The headers that were sent and may not reach the application.
    fn kept_back(&self) -> impl Iterator<Item = &str> {
        let emptied = self.expected_upstream_headers.iter().filter(|(_, value)| value.is_empty()).map(|(name, _)| name);
        let sent = |name: &&str| self.headers.iter().any(|(sent, _)| sent.eq_ignore_ascii_case(name));
        emptied.chain(&self.absent).map(String::as_str).filter(sent)
    }
}
