//! The format of pseudonyms: known answers, and what must never be equal.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{collections::HashSet, net::IpAddr, time::Duration};

use http::{HeaderName, HeaderValue, Request};
use ipveil::{
    Anonymizer, Client, ClientAddr, KeyRing, LimitKey, Networks, Peer, Policy, Pseudonym, Resolver, TrustedProxies,
    keys::{self, EpochKey, Epochs, KeyError, KeySource, ManualClock, MemorySource},
    policy::{Scope, Session, View},
    resolve::{Source, Withheld},
};
use proptest::prelude::*;
use serde::Deserialize;

mod hex;

/// Always the same key: what no real source may give.
struct Fixed([u8; 32]);

impl KeySource for Fixed {
    fn key(&mut self, _: keys::KeyRequest) -> Result<EpochKey, KeyError> {
        EpochKey::take(&mut self.0.clone())
    }
}

fn ring(key: [u8; 32], seconds: u64) -> KeyRing {
    let clock = ManualClock::at(Duration::from_secs(seconds));
    KeyRing::builder(Fixed(key), Epochs::daily()).clock(clock).start().unwrap()
}

#[track_caller]
fn client(address: &str) -> ClientAddr {
    ClientAddr::from(address.parse::<IpAddr>().unwrap())
}

/// A request from 203.0.113.7, or whoever is said to be, as a handler gets it.
fn request(policy: Policy, keys: &KeyRing, peer: &str, headers: &[(&str, &str)]) -> Request<()> {
    let trusted = TrustedProxies::parse(["10.0.0.0/8"]).unwrap();
    let resolver = Resolver::behind(trusted, Source::x_forwarded_for());
    let mut request = Request::new(());
    for (name, value) in headers {
        request.headers_mut().append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    request.extensions_mut().insert(Peer::from(peer.parse::<IpAddr>().unwrap()));
    let (mut parts, ()) = request.into_parts();
    Anonymizer::new(resolver, policy, keys.clone()).anonymize(&mut parts);
    Request::from_parts(parts, ())
}

fn client_of(request: &Request<()>) -> &Client {
    request.extensions().get().unwrap()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    key: String,
    seconds: u64,
    client: String,
    view: String,
    shape: String,
    scope: KnownScope,
    window: Option<u64>,
    pseudonym: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum KnownScope {
    Unscoped(#[expect(dead_code, reason = "it says \"unscoped\"")] String),
    Host {
        host: String,
    },
    Named {
        named: String,
    },
    Session {
        #[serde(default)]
        cookies: Vec<(String, String)>,
        authorization: Option<String>,
    },
}

#[test]
fn known_answers_hold() {
    // Made by another implementation of the format, in another language.
    let known: Vec<Known> = serde_json::from_str(include_str!("vectors/pseudonyms.json")).unwrap();
    assert!(known.len() > 30);
    for case in known {
        let keys = ring(hex::bytes(&case.key).try_into().unwrap(), case.seconds);
        let mut view = match case.shape.as_str() {
            "token" => View::token(&case.view),
            "address" => View::address(&case.view),
            "address_v4" => View::address_v4(&case.view),
            other => panic!("{other}"),
        };
        if let Some(window) = case.window {
            view = view.window(Duration::from_secs(window));
        }
        let mut headers = Vec::new();
        let scope = match &case.scope {
            KnownScope::Unscoped(_) | KnownScope::Named { .. } => Scope::unscoped(),
            KnownScope::Host { host } => {
                headers.push(("host", host.clone()));
                Scope::per_host(["other.example", host])
            }
            KnownScope::Session { cookies, authorization } => {
                headers.extend(cookies.iter().map(|(name, value)| ("cookie", format!("{name}={value}"))));
                headers.extend(authorization.iter().map(|value| ("authorization", value.clone())));
                let mut names = cookies.iter().map(|(name, _)| name);
                let mut session = match names.next() {
                    Some(name) => Session::cookie(name).or_authorization(),
                    None => Session::authorization(),
                };
                for name in names {
                    session = session.or_cookie(name);
                }
                Scope::per_session(session)
            }
        };
        let policy = Policy::new(scope, [view]).unwrap();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let request = request(policy, &keys, &case.client, &headers);
        let client = client_of(&request);
        let pseudonym = match &case.scope {
            KnownScope::Named { named } => client.scoped(&case.view, named),
            _ => client.pseudonym(&case.view),
        };
        assert_eq!(pseudonym.to_string(), case.pseudonym, "{} in {}", case.client, case.view);
    }
}

/// Everything that goes into a pseudonym.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Inputs {
    key: u8,
    network: u8,
    view: String,
    scope: String,
    window: u64,
}

fn inputs() -> impl Strategy<Value = Inputs> {
    (0_u8..3, 0_u8..3, "[ab]{1,2}", "[ab]{0,2}", 0_u64..3).prop_map(|(key, network, view, scope, window)| Inputs {
        key,
        network,
        view,
        scope,
        window,
    })
}

fn pseudonym(inputs: &Inputs, host: u8) -> Pseudonym {
    let keys = ring([inputs.key; 32], 60 * inputs.window);
    let view = View::token(&inputs.view).window(Duration::from_secs(60));
    let policy = Policy::new(Scope::unscoped(), [view]).unwrap();
    let address = IpAddr::from([0x2001, 0xdb8, 0, u16::from(inputs.network), u16::from(host), 0, 0, 1]);
    policy.client(&ClientAddr::from(address), &keys).scoped(&inputs.view, &inputs.scope)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pseudonyms_are_equal_exactly_if_key_client_view_scope_and_window_are(
        left in inputs(), right in inputs(), hosts: (u8, u8),
    ) {
        let equal = pseudonym(&left, hosts.0) == pseudonym(&right, hosts.1);
        prop_assert_eq!(equal, left == right);
        prop_assert_eq!(pseudonym(&left, hosts.0), pseudonym(&left, hosts.1), "one /64 is one client");
    }
}

#[test]
fn views_and_shapes_of_one_client_have_nothing_in_common() {
    let keys = ring([1; 32], 0);
    let views = ["a", "b", "c"].map(View::token);
    let client = Policy::new(Scope::unscoped(), views).unwrap().client(&client("203.0.113.7"), &keys);
    let all: HashSet<_> = ["a", "b", "c"].map(|view| client.pseudonym(view)).into();
    assert_eq!(all.len(), 3);
}

#[test]
fn a_view_that_does_not_exist_is_withheld() {
    let keys = ring([1; 32], 0);
    let policy = Policy::new(Scope::unscoped(), [View::token("a"), View::network("n"), View::limit("l")]).unwrap();
    let client = policy.client(&client("203.0.113.7"), &keys);
    for view in ["b", "n", "l", ""] {
        assert_eq!(client.pseudonym(view), Pseudonym::Withheld);
        assert_eq!(client.scoped(view, "user:42"), Pseudonym::Withheld);
    }
    assert_eq!(client.network("a"), None);
    assert_eq!(client.network("n").unwrap().to_string(), "203.0.113.0/24");
}

#[test]
fn what_a_view_shows_prints_whichever_it_is() {
    let keys = ring([1; 32], 0);
    let policy = Policy::new(Scope::unscoped(), [View::token("a"), View::network("n"), View::limit("l")]).unwrap();
    let known = policy.client(&client("203.0.113.7"), &keys);
    assert_eq!(known.shown("a").to_string(), known.pseudonym("a").to_string());
    assert_eq!(known.shown("a").pseudonym(), Some(known.pseudonym("a")));
    assert_eq!(known.shown("n").to_string(), "203.0.113.0/24");
    assert_eq!(known.shown("n").pseudonym(), None);
    for nothing in [known.shown("l"), known.shown("b"), policy.client(&client("0.0.0.0"), &keys).shown("a")] {
        assert_eq!(nothing.to_string(), "unknown");
    }
}

#[test]
fn two_users_behind_one_address_can_not_be_compared_and_one_user_is_recognized() {
    let keys = ring([1; 32], 0);
    let policy = Policy::new(Scope::per_session(Session::cookie("sid")), [View::token("log")]).unwrap();
    let from = |cookie: &str| {
        let request = request(policy.clone(), &keys, "203.0.113.7", &[("cookie", cookie)]);
        client_of(&request).clone()
    };
    let (alice, alice_again, bob) = (from("sid=a"), from("x=y; sid=a"), from("sid=b"));
    assert_eq!(alice.pseudonym("log"), alice_again.pseudonym("log"));
    assert_ne!(alice.pseudonym("log"), bob.pseudonym("log"));
    assert_ne!(alice.scoped("log", "user:alice"), bob.scoped("log", "user:bob"));
    let later = from("sid=another-login");
    assert_eq!(alice.scoped("log", "user:alice"), later.scoped("log", "user:alice"));
}

#[test]
fn a_planted_cookie_puts_nobody_into_the_session_of_another() {
    let keys = ring([1; 32], 0);
    let policy = Policy::new(Scope::per_session(Session::cookie("sid")), [View::token("log")]).unwrap();
    let from = |cookies: &[&str]| {
        let cookies: Vec<_> = cookies.iter().map(|cookie| ("cookie", *cookie)).collect();
        let request = request(policy.clone(), &keys, "203.0.113.7", &cookies);
        client_of(&request).pseudonym("log")
    };
    for [alice, bob] in [
        [&["sid=planted; sid=alice"][..], &["sid=planted; sid=bob"]],
        [&["sid=alice; sid=planted"], &["sid=bob; sid=planted"]],
        [&["sid=planted; sid=planted; sid=alice"], &["sid=planted; sid=planted; sid=bob"]],
        [&["sid=planted", "sid=alice"], &["sid=planted", "sid=bob"]],
        [&["sid=null", "sid=alice"], &["sid=null", "sid=bob"]],
    ] {
        assert_eq!(from(alice), from(alice), "{alice:?}");
        assert_ne!(from(alice), from(bob), "{alice:?}");
    }
    assert_eq!(from(&["sid=alice; sid="]), from(&["sid=alice"]), "a value that says nothing is none");
}

#[test]
fn a_request_without_a_session_has_a_pseudonym_of_its_own() {
    let keys = ring([1; 32], 0);
    let policy = Policy::new(Scope::per_session(Session::cookie("sid")), [View::token("log")]).unwrap();
    let mut seen = HashSet::new();
    for _ in 0..200 {
        for cookie in ["", "sid=", "other=1"] {
            let request = request(policy.clone(), &keys, "203.0.113.7", &[("cookie", cookie)]);
            let client = client_of(&request);
            assert_eq!(client.pseudonym("log"), client.pseudonym("log"), "within the request it is one");
            assert!(seen.insert(client.pseudonym("log")), "two requests have one pseudonym");
        }
    }
}

#[test]
fn what_anybody_sends_who_has_no_session_is_none() {
    let ring = ring([7; 32], 0);
    let policy =
        Policy::new(Scope::per_session(Session::cookie("sid").or_authorization()), [View::token("log")]).unwrap();
    let seen = |header: (&str, &str)| {
        let request = request(policy.clone(), &ring, "203.0.113.7", &[header]);
        client_of(&request).pseudonym("log")
    };
    for (name, values) in [
        (
            "cookie",
            &["sid=", "sid=\"\"", "sid=\" \"", "sid=null", "sid=undefined; a=b", "sid=Deleted", "sid=0", "sid=-"][..],
        ),
        (
            "authorization",
            &[
                "",
                "Bearer",
                "Bearer null",
                "Bearer  undefined",
                "Basic Og==",
                "Negotiate",
                "null",
                "Digest",
                "NTLM TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAAKALpHAAAADw==",
                "negotiate TlRMTVNTUAABAAAA",
            ],
        ),
    ] {
        for &value in values {
            assert_ne!(seen((name, value)), seen((name, value)), "{name}: {value}");
        }
    }
    for (name, value) in [
        ("cookie", "sid=1"),
        ("cookie", "sid=nullable"),
        ("authorization", "Bearer x"),
        ("authorization", "Basic YTpi"),
        ("authorization", "0123456789abcdef"),
    ] {
        assert_eq!(seen((name, value)), seen((name, value)), "{name}: {value}");
    }
}

#[test]
fn anonymous_visitors_share_a_pseudonym_per_host_only_if_told_to() {
    let keys = ring([1; 32], 0);
    let session = Session::cookie("sid").anonymous_per_host(["a.example", "b.example"]);
    let policy = Policy::new(Scope::per_session(session), [View::token("log")]).unwrap();
    let from = |host: &str, cookie: &str| {
        let request = request(policy.clone(), &keys, "203.0.113.7", &[("host", host), ("cookie", cookie)]);
        client_of(&request).pseudonym("log")
    };
    assert_eq!(from("a.example", ""), from("A.example:80", ""));
    assert_ne!(from("a.example", ""), from("b.example", ""));
    assert_ne!(from("a.example", ""), from("a.example", "sid=1"));
    assert_ne!(from("evil.example", ""), from("evil.example", ""), "a host that is not ours chooses no scope");
}

#[test]
fn a_limit_key_is_one_for_all_sessions_of_a_client_and_its_whole_network() {
    let keys = ring([1; 32], 0);
    let session = Scope::per_session(Session::cookie("sid"));
    let policy = Policy::new(session, [View::limit("api"), View::limit("login")]).unwrap();
    let from = |peer: &str, cookie: &str| {
        let request = request(policy.clone(), &keys, peer, &[("cookie", cookie)]);
        client_of(&request).limit_key("api")
    };
    assert_eq!(from("203.0.113.7", "sid=a"), from("203.0.113.7", "sid=forged"));
    assert_ne!(from("203.0.113.7", "sid=a"), from("203.0.113.8", "sid=a"));
    assert_eq!(from("2001:db8:0:1::1", "sid=a"), from("2001:db8:0:ff::1", "sid=a"), "one /56");
    assert_ne!(from("2001:db8:0:1::1", "sid=a"), from("2001:db8:0:100::1", "sid=a"), "two /56");

    let known = policy.client(&client("203.0.113.7"), &keys);
    assert_ne!(known.limit_key("api"), known.limit_key("login"));
    assert_eq!(format!("{:?}", known.limit_key("api")), "LimitKey(..)");
}

#[test]
fn all_withheld_clients_share_one_limit_key() {
    let keys = ring([1; 32], 0);
    let policy = Policy::new(Scope::unscoped(), [View::limit("api")]).unwrap();
    let hidden = |header: &str| -> LimitKey {
        let request = request(policy.clone(), &keys, "10.0.0.1", &[("x-forwarded-for", header)]);
        assert!(client_of(&request).withheld().is_some());
        client_of(&request).limit_key("api")
    };
    assert_eq!(hidden("unknown"), hidden("garbage"));
}

#[test]
fn a_pseudonym_from_a_trusted_edge_passes_and_a_presented_one_does_not() {
    let keys = ring([1; 32], 0);
    let header = HeaderName::from_static("x-forwarded-for");
    let views = [View::address("app").header(header.clone()), View::token("log")];
    let policy = Policy::new(Scope::unscoped(), views).unwrap();

    let made_before = "2001:20::1234:5678";
    let inner = request(policy.clone(), &keys, "10.0.0.1", &[("x-forwarded-for", made_before)]);
    assert_eq!(inner.headers()[&header], made_before);
    assert_eq!(client_of(&inner).pseudonym("app").to_string(), made_before);
    assert!(matches!(client_of(&inner).pseudonym("log"), Pseudonym::Token(_)));
    assert!(client_of(&inner).network("app").is_none());

    let presented = request(policy, &keys, made_before, &[("x-forwarded-for", made_before)]);
    assert_eq!(client_of(&presented).withheld(), Some(Withheld::ForeignPseudonym));
    assert!(presented.headers().get(&header).is_none());
}

#[test]
fn each_header_gets_the_form_that_it_takes() {
    let keys = ring([1; 32], 0);
    let write = |view: View, name: &'static str, peer: &str| {
        let view = view.header(HeaderName::from_static(name));
        let policy = Policy::new(Scope::unscoped(), [view]).unwrap();
        // A client's own, in two lines, must not be left in any part.
        let sent = [(name, "for=192.0.2.1"), (name, "192.0.2.2")];
        let request = request(policy, &keys, peer, &sent);
        let values: Vec<_> =
            request.headers().get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect();
        assert_eq!(request.headers().len(), values.len());
        values.join("|")
    };
    let peer = "203.0.113.7";
    let address = write(View::address("v"), "x-forwarded-for", peer);
    assert!(address.parse::<IpAddr>().is_ok(), "{address}");
    assert_eq!(write(View::address("v"), "cloudfront-viewer-address", peer), format!("{address}:0"));
    assert_eq!(write(View::address("v"), "forwarded", peer), format!("for=\"[{address}]\""));
    assert_eq!(write(View::address("v"), "x-client", peer), address);
    let token = write(View::token("v"), "x-client", peer);
    assert_eq!(write(View::token("v"), "forwarded", peer), format!("for={token}"));
    let v4 = write(View::address_v4("v"), "x-real-ip", peer);
    assert_eq!(write(View::address_v4("v"), "forwarded", peer), format!("for={v4}"));
    assert_eq!(write(View::network("v"), "x-client", peer), "203.0.113.0/24");
    assert_eq!(write(View::network("v"), "x-forwarded-for", peer), "203.0.113.0");
    assert_eq!(write(View::network("v"), "forwarded", "2001:db8:1:2::3"), "for=\"[2001:db8:1::]\"");
    // Withheld.
    assert_eq!(write(View::address("v"), "forwarded", "10.0.0.1"), "for=unknown");
    assert_eq!(write(View::address("v"), "x-client", "10.0.0.1"), "");
    assert_eq!(write(View::address("v"), "x-real-ip", "10.0.0.1"), "");
}

#[test]
fn no_spelling_of_a_header_that_a_view_writes_stands_beside_it() {
    let keys = ring([1; 32], 0);
    let view = View::token("log").header(HeaderName::from_static("x-token"));
    let policy = Policy::new(Scope::unscoped(), [view]).unwrap();
    let sent = [("x_token", "203.0.113.7"), ("x.token", "203.0.113.7"), ("x-token", "203.0.113.7")];
    let request = request(policy, &keys, "203.0.113.7", &sent);
    assert_eq!(request.headers().len(), 1);
    assert_eq!(request.headers()["x-token"], client_of(&request).pseudonym("log").to_string());
}

#[test]
fn a_request_with_as_many_headers_as_there_can_be_gets_through() {
    let keys = ring([1; 32], 0);
    let header = HeaderName::from_static("x-forwarded-for");
    for sent in [true, false] {
        let policy = Policy::new(Scope::unscoped(), [View::address("app").header(header.clone())]).unwrap();
        let mut request = Request::new(());
        if sent {
            request.headers_mut().insert(&header, HeaderValue::from_static("203.0.113.7"));
        }
        for number in 0.. {
            let name = HeaderName::try_from(format!("h-{number}")).unwrap();
            if request.headers_mut().try_append(name, HeaderValue::from_static("")).is_err() {
                break;
            }
        }
        request.extensions_mut().insert(Peer::from(IpAddr::from([203, 0, 113, 7])));
        let (mut parts, ()) = request.into_parts();
        Anonymizer::new(Resolver::direct(), policy, keys.clone()).anonymize(&mut parts);
        let client: &Client = parts.extensions.get().unwrap();
        assert!(client.withheld().is_none());
        let written = parts.headers.get(&header);
        assert!(written.is_none_or(|value| *value == client.pseudonym("app").to_string()), "sent: {sent}");
    }
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_with_the_view_and_the_reason() {
    let forwarded_for = || HeaderName::from_static("x-forwarded-for");
    let unscoped = Scope::unscoped;
    let policies = [
        (unscoped(), vec![View::token("")], "name"),
        (unscoped(), vec![View::token("Ä")], "name"),
        (unscoped(), vec![View::token("a".repeat(33))], "name"),
        (unscoped(), vec![View::token("v"), View::network("v")], "name of another view"),
        (unscoped(), vec![View::token("v").header(forwarded_for())], "View::address"),
        (unscoped(), vec![View::limit("v").header(forwarded_for())], "limit key"),
        (unscoped(), vec![View::token("v").header(http::header::COOKIE)], "protocol or login"),
        (unscoped(), vec![View::token("v").header(http::header::SEC_WEBSOCKET_KEY)], "protocol or login"),
        (unscoped(), vec![View::token("v").header(HeaderName::from_static("grpc-timeout"))], "protocol or login"),
        (
            unscoped(),
            vec![View::address("v").header(forwarded_for()), View::address("w").header(forwarded_for())],
            "header of another view",
        ),
        (unscoped(), vec![View::network("v").keep(25, 48)], "24"),
        (unscoped(), vec![View::network("v").keep(24, 49)], "48"),
        (unscoped(), vec![View::token("v").window(Duration::ZERO)], "window"),
        (unscoped(), vec![View::network("v").window(Duration::from_secs(60))], "has a window"),
        (unscoped(), vec![View::limit("v").scope(unscoped())], "has a scope"),
        (unscoped(), vec![View::network("v").scope(unscoped())], "has a scope"),
        (unscoped(), vec![View::token("v").keep(24, 48)], "sees no network"),
        (Scope::per_host::<String>([]), vec![View::token("v")], "without hosts"),
        (Scope::per_host(["example.com:80"]), vec![View::token("v")], "without a port"),
        (Scope::per_session(Session::cookie("")), vec![View::token("v")], "cookie"),
        (Scope::per_session(Session::cookie("a=b")), vec![View::token("v")], "no request can have"),
        (Scope::per_session(Session::cookie(" a")), vec![View::token("v")], "no request can have"),
        (
            Scope::per_session(Session::cookie("a")),
            vec![View::token("v"), View::token("w").scope(Scope::per_session(Session::cookie("b")))],
            "other sessions",
        ),
    ];
    for (scope, views, reason) in policies {
        let error = Policy::new(scope, views).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason:?} is not in {error:?}");
    }
}

#[test]
fn a_new_key_changes_every_pseudonym() {
    let keys = KeyRing::start(MemorySource, Epochs::daily()).unwrap();
    let policy = Policy::new(Scope::unscoped(), [View::token("log"), View::limit("api")]).unwrap();
    let before = policy.client(&client("203.0.113.7"), &keys);
    keys.rotate().unwrap();
    let after = policy.client(&client("203.0.113.7"), &keys);
    assert_ne!(before.pseudonym("log"), after.pseudonym("log"));
    assert_ne!(before.limit_key("api"), after.limit_key("api"));
    assert_ne!(before.scoped("log", "user:42"), after.scoped("log", "user:42"));
}

#[test]
fn a_member_view_says_one_thing_and_writes_nothing() {
    let keys = ring([7; 32], 86_400 * 20_000);
    let networks = Networks::parse(["203.0.113.0/24", "2001:db8:1::/48"]).unwrap();
    let policy = Policy::new(Scope::unscoped(), [View::token("log"), View::member("deny", networks.clone())]).unwrap();
    for (address, is_member) in
        [("203.0.113.7", true), ("::ffff:203.0.113.7", true), ("198.51.100.7", false), ("2001:db8:1::9", true)]
    {
        let client = policy.client(&client(address), &keys);
        assert_eq!(client.is_member("deny"), is_member, "{address}");
        assert!(!client.is_member("log") && !client.is_member("nobody"));
        assert!(client.pseudonym("deny").is_withheld());
    }
    let unknown = policy.client(&client("0.0.0.0"), &keys);
    assert!(!unknown.is_member("deny"));
    let header = HeaderName::from_static("x-denied");
    let refused = Policy::new(Scope::unscoped(), [View::member("deny", networks).header(header)]);
    assert!(refused.unwrap_err().to_string().contains("membership"));
}

#[test]
fn the_limit_key_of_the_next_epoch_is_known_shortly_before_it() {
    let clock = ManualClock::at(Duration::from_secs(86_400 * 20_000 + 3_600));
    let keys = KeyRing::builder(MemorySource, Epochs::daily()).clock(clock.clone()).start().unwrap();
    let day = Duration::from_secs(86_400);
    let policy = Policy::new(Scope::unscoped(), [View::limit("ban").window(day), View::limit("short")]).unwrap();
    let now = |address: &str| policy.client(&client(address), &keys);
    assert!(now("203.0.113.7").next_limit_key("ban").is_none(), "there is no next key yet");

    clock.advance(Duration::from_secs(86_400 - 3_600 - 10));
    let late = loop {
        let late = now("203.0.113.7");
        if late.next_limit_key("ban").is_some() {
            break late;
        }
        std::thread::yield_now();
    };
    let (ban, short) = (late.next_limit_key("ban").unwrap(), late.next_limit_key("short").unwrap());
    assert!(ban != late.limit_key("ban"));
    assert!(late.next_limit_key("nobody").is_none());

    clock.advance(Duration::from_secs(10));
    let then = now("203.0.113.7");
    assert!(then.limit_key("ban") == ban && then.limit_key("short") == short);
    assert!(then.next_limit_key("ban").is_none());
    assert!(now("203.0.113.8").limit_key("ban") != ban);
}

#[test]
fn only_trusted_peers_are_believed() {
    let peer = |address: &str| Peer::from(address.parse::<IpAddr>().unwrap());
    let trusted = TrustedProxies::parse(["10.0.0.0/8"]).unwrap();
    let resolver = Resolver::behind(trusted, Source::x_forwarded_for());
    assert!(resolver.is_believed(peer("10.0.0.1")));
    assert!(!resolver.is_believed(peer("203.0.113.7")) && !resolver.is_believed(Peer::unknown()));
    assert!(!Resolver::direct().is_believed(peer("10.0.0.1")));
}
