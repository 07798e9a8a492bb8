//! Cases from other projects' own tests: who the client is, and what never reaches an application.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    num::NonZeroU8,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use ipnet::IpNet;
use ipveil::{
    Anonymizer, Client, KeyRing, Peer, Policy, Resolver, TrustedProxies,
    headers::Strip,
    keys::{Epochs, MemorySource},
    policy::{Scope, View},
    resolve::{
        Source, Withheld,
        explain::{Explanation, Hop, HopVerdict},
    },
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde::Deserialize;
use serde_json::Value;

const CASES: [&str; 10] = [
    include_str!("vectors/clientip-axum-client-ip.json"),
    include_str!("vectors/clientip-caddy.json"),
    include_str!("vectors/clientip-envoy.json"),
    include_str!("vectors/clientip-proxy-addr.json"),
    include_str!("vectors/clientip-python-ipware.json"),
    include_str!("vectors/clientip-rack.json"),
    include_str!("vectors/clientip-rails.json"),
    include_str!("vectors/clientip-realclientip-go.json"),
    include_str!("vectors/clientip-rust-forwarded.json"),
    include_str!("vectors/clientip-trusted-proxies.json"),
];

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

#[derive(Deserialize)]
struct Cases<C> {
    cases: Vec<C>,
}

fn cases() -> impl Iterator<Item = Case> {
    CASES.iter().flat_map(|file| serde_json::from_str::<Cases<Case>>(file).unwrap().cases)
}

#[derive(Deserialize)]
struct Case {
    id: String,
    peer: Option<String>,
    headers: Vec<(String, String)>,
    trusted: Trusted,
    expected: Value,
    expected_kind: String,
    expected_rfc7239: Option<Value>,
    expected_peer_trusted: Option<bool>,
}

#[derive(Deserialize)]
struct Trusted {
    strategy: String,
    header: Option<String>,
    #[serde(default)]
    headers_precedence: Vec<String>,
    cidrs: Option<Vec<Value>>,
    #[serde(default)]
    trust_unix: bool,
    #[serde(default)]
    hops: i64,
    #[serde(default)]
    use_remote_address: bool,
    all_trusted_returns: Option<String>,
}

/// A configuration that can't be expressed.
#[derive(Debug)]
struct Unusable;

impl Case {
    /// What the project gives; where it says that RFC 7239 wants something else, that.
    fn theirs(&self) -> String {
        let expected = self.expected_rfc7239.as_ref().unwrap_or(&self.expected);
        match self.expected_kind.as_str() {
            "address" | "raw-token" | "node" => their_node(expected),
            "none" | "reject" => "none".to_owned(),
            "config-error" => "config error".to_owned(),
            "list" | "chain" => expected.as_array().unwrap().iter().map(their_node).collect::<Vec<_>>().join(", "),
            kind => panic!("{}: {kind} is not known", self.id),
        }
    }

    /// What ipveil gives; nothing if it has no such strategy.
    fn ours(&self) -> Option<String> {
        let given = match self.trusted.strategy.as_str() {
            "parse-cidrs" => self.networks(),
            "parse-node" | "parse-node-usable" | "parse-forwarded-node" => Ok(self.node()),
            "parse-forwarded-list" => Ok(self.forwarded_list()),
            "chain-list" => Ok(self.chain()),
            // They go from the left, where anybody can write; or have a rule of their own.
            "leftmost-forwarded-for"
            | "leftmost-nonprivate"
            | "leftmost-valid"
            | "leftmost-valid-if-peer-trusted"
            | "rightmost-forwarded-for"
            | "rightmost-nonprivate"
            | "chain"
            | "ipware"
            | "rack"
            | "rails-remote-ip" => return None,
            _ => self.resolver().map(|resolver| self.client(&resolver)),
        };
        Some(given.unwrap_or_else(|Unusable| "config error".to_owned()))
    }

    fn resolver(&self) -> Result<Resolver, Unusable> {
        let trusted = &self.trusted;
        Ok(match trusted.strategy.as_str() {
            "peer" => Resolver::direct(),
            "single-header" | "cloudfront-viewer-address" | "rightmost" => Resolver::hops(hops(1)?, self.source()?),
            "parse-forwarded-item" => Resolver::hops(hops(1)?, Source::forwarded()),
            "single-header-if-peer-trusted" | "last-if-peer-trusted" => {
                Resolver::hops(hops(1)?, self.source()?).only_from(self.trusted_proxies()?)
            }
            "rightmost-count" => Resolver::hops(hops(trusted.hops)?, self.source()?),
            "nth-from-right" => Resolver::hops(hops(trusted.hops + 1)?, self.source()?),
            "envoy-hcm" => match (trusted.use_remote_address, trusted.hops) {
                (true, 0) => Resolver::direct(),
                (true, count) => Resolver::hops(hops(count)?, self.source()?),
                (false, count) => Resolver::hops(hops(count + 1)?, self.source()?),
            },
            "rightmost-untrusted" => {
                let resolver = Resolver::behind(self.trusted_proxies()?, self.source()?);
                match trusted.all_trusted_returns.as_deref() {
                    Some("leftmost") => resolver.furthest_hop(),
                    _ => resolver,
                }
            }
            strategy => panic!("{}: {strategy} is not known", self.id),
        })
    }

    /// Of several headers the last, which is the one that has the client in every case.
    fn source(&self) -> Result<Source, Unusable> {
        let name = self.trusted.header.as_deref().or(self.trusted.headers_precedence.last().map(String::as_str));
        Ok(Source::header(HeaderName::try_from(name.unwrap_or("Forwarded")).map_err(|_| Unusable)?))
    }

    fn trusted_proxies(&self) -> Result<TrustedProxies, Unusable> {
        let trusted = match &self.trusted.cidrs {
            Some(cidrs) => {
                let cidrs = cidrs.iter().map(|cidr| cidr.as_str().map_or_else(|| cidr.to_string(), str::to_owned));
                TrustedProxies::parse(cidrs).map_err(|_| Unusable)?
            }
            None => TrustedProxies::parse(["loopback", "private"]).unwrap(),
        };
        Ok(match self.trusted.trust_unix {
            true => trusted.and_unix_sockets(),
            false => trusted,
        })
    }

    fn header_map(&self) -> HeaderMap {
        header_map(&self.headers)
    }

    fn client(&self, resolver: &Resolver) -> String {
        match resolver.explain(self.peer.as_deref(), &self.header_map()) {
            Ok(explanation) => shown(explanation.client),
            // What is not an address is nobody that a server could name.
            Err(_) => {
                assert!(resolver.resolve(Peer::unknown(), &self.header_map()).is_err(), "{}", self.id);
                "none".to_owned()
            }
        }
    }

    /// What becomes of the one value where an address is expected.
    fn node(&self) -> String {
        let [(_, value)] = self.headers.as_slice() else { panic!("{}: one value was expected", self.id) };
        let name = HeaderName::from_static("x-test-value");
        let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::try_from(value).unwrap())]);
        match Resolver::hops(NonZeroU8::MIN, Source::header(name)).explain(None, &headers).unwrap().client {
            Err(Withheld::Hidden) => "hidden".to_owned(),
            client => shown(client),
        }
    }

    /// The elements, each as the client of as many proxies as it takes.
    fn forwarded_list(&self) -> String {
        let mut list: Vec<_> = (1..=u8::MAX)
            .map(|hops| Resolver::hops(NonZeroU8::new(hops).unwrap(), Source::forwarded()))
            .map(|resolver| resolver.explain(None, &self.header_map()).unwrap().client)
            .take_while(|client| !matches!(client, Err(Withheld::TooFewHops)))
            .map(shown)
            .collect();
        list.reverse();
        list.join(", ")
    }

    /// All that a walk sees that trusts everybody.
    fn chain(&self) -> String {
        let everybody = TrustedProxies::parse(["0.0.0.0/0", "::/0"]).unwrap();
        let resolver = Resolver::behind(everybody, Source::header(HeaderName::from_static("x-forwarded-for")));
        let hops = resolver.explain(self.peer.as_deref(), &self.header_map()).unwrap().hops;
        self.peer
            .iter()
            .map(String::as_str)
            .chain(hops.iter().map(|hop| hop.text.as_str()))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The networks that were expected if both ends of each are trusted, and their neighbors are not.
    fn networks(&self) -> Result<String, Unusable> {
        let resolver = Resolver::behind(self.trusted_proxies()?, Source::x_forwarded_for());
        let is_trusted =
            |address: IpAddr| resolver.explain(Some(&address.to_string()), &HeaderMap::new()).unwrap().peer_is_believed;
        let networks = self.expected.as_array().into_iter().flatten().map(|network| {
            let network: IpNet = network.as_str().unwrap().parse().unwrap();
            let (first, last) = (network.network(), network.broadcast());
            let fits = is_trusted(first) && is_trusted(last) && !is_trusted(before(first)) && !is_trusted(after(last));
            if fits { network.to_string() } else { format!("not {network}") }
        });
        Ok(networks.collect::<Vec<_>>().join(", "))
    }
}

fn hops(count: i64) -> Result<NonZeroU8, Unusable> {
    u8::try_from(count).ok().and_then(NonZeroU8::new).ok_or(Unusable)
}

/// Values that no server lets through are left out.
fn header_map(headers: &[(String, String)]) -> HeaderMap {
    let pairs = headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::try_from(value)));
    pairs.filter_map(|(name, value): (HeaderName, _)| Some((name, value.ok()?))).collect()
}

fn shown(client: Result<IpAddr, Withheld>) -> String {
    client.map_or_else(|_| "none".to_owned(), |address| address.to_string())
}

fn their_node(node: &Value) -> String {
    match node {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.parse::<IpAddr>().map_or_else(|_| text.clone(), |address| address.to_string()),
        node => match (node["ip"].as_str(), &node["port"]) {
            (Some(ip), Value::Null) => ip.to_owned(),
            (Some(ip), port) => format!("{ip}:{port}"),
            (None, _) => "hidden".to_owned(),
        },
    }
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() - 1).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() - 1).into()),
    }
}

fn after(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() + 1).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() + 1).into()),
    }
}

fn network(address: IpAddr) -> IpNet {
    IpNet::new(address, if address.is_ipv4() { 24 } else { 48 }).unwrap().trunc()
}

#[track_caller]
fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const TRUSTED: &str = "10.0.0.1";
const UNTRUSTED: &str = "198.51.100.9";

fn trusted() -> TrustedProxies {
    TrustedProxies::parse(["10.0.0.0/8"]).unwrap()
}

/// Of each form that a source has.
fn sources() -> [(HeaderName, Source); 6] {
    let list = HeaderName::from_static("x-hops");
    let [forwarded, for_, original, real_ip, with_port] =
        ["forwarded", "x-forwarded-for", "x-original-forwarded-for", "x-real-ip", "cloudfront-viewer-address"]
            .map(HeaderName::from_static)
            .map(|name| (name.clone(), Source::header(name)));
    [forwarded, for_, original, real_ip, with_port, (list.clone(), Source::list(list))]
}

/// All that believe only some peers, and 198.51.100.9 is none of them.
fn resolvers() -> Vec<Resolver> {
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
fn assert_peer_is_client(resolver: &Resolver, headers: &HeaderMap) {
    let explanation = resolver.explain(Some(UNTRUSTED), headers).unwrap();
    assert_eq!(explanation.client, Ok(address(UNTRUSTED)));
    assert_eq!(explanation.header, None);
    assert!(explanation.hops.is_empty());
}

#[track_caller]
fn assert_explained_as_resolved(resolver: &Resolver, headers: &HeaderMap) {
    for (text, peer) in [("unix", Peer::unix()), (TRUSTED, Peer::from(address(TRUSTED)))] {
        let explanation = resolver.explain(Some(text), headers).unwrap();
        assert_eq!(resolver.resolve(peer, headers).err(), explanation.client.err());
    }
    assert_eq!(resolver.resolve(Peer::unknown(), headers).err(), Some(Withheld::NoPeerAddress));
}

#[track_caller]
fn explain(x_forwarded_for: &str) -> Explanation {
    let headers = header_map(&[("x-forwarded-for".to_owned(), x_forwarded_for.to_owned())]);
    Resolver::behind(trusted(), Source::x_forwarded_for()).explain(Some(TRUSTED), &headers).unwrap()
}

fn verdicts(explanation: &Explanation) -> Vec<(&str, HopVerdict)> {
    explanation.hops.iter().map(|Hop { text, verdict, .. }| (text.as_str(), *verdict)).collect()
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
    let file = include_str!("vectors/headers-identifying.json");
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
    serde_json::from_str::<Cases<StripCase>>(include_str!("vectors/headers-strip.json")).unwrap().cases.into_iter()
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
