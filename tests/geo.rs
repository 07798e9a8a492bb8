//! Countries: what is shown of a client, what is not, and files that are not what they should be.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod mmdb;

use std::{
    error::Error as _,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use http::{HeaderName, HeaderValue, Request, header, request::Parts};
use ipveil::{
    Anonymizer, Client, ClientAddr, KeyRing, Peer, Policy, Resolver, Scrubber, TrustedProxies,
    geo::Countries,
    keys::{Epochs, MemorySource},
    policy::{Scope, Session, View},
    resolve::Source,
};
use proptest::{collection::vec, prelude::*, sample::Index};

use self::mmdb::{Value, country, iso, mmdb, mmdb_v4};

const X_COUNTRY: HeaderName = HeaderName::from_static("x-country");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[test]
fn the_country_of_a_client_is_shown_and_nothing_finer() {
    let countries = countries();
    for (address, country) in [
        ("203.0.113.7", Some("DE")),
        ("::ffff:203.0.113.7", Some("DE")),
        ("64:ff9b::203.0.113.7", Some("DE")),
        ("198.51.100.9", Some("NZ")),
        ("2001:db8:1:2:3:4:5:6", Some("BR")),
        ("192.0.2.1", None),
        ("2001:db9::1", None),
    ] {
        let parts = anonymized(&countries, address);
        let client: &Client = parts.extensions.get().unwrap();
        let shown = client.country("geo");
        assert_eq!(shown.as_ref().map(|country| country.as_str()), country, "{address}");
        assert_eq!(shown.map(|country| country.to_string()).as_deref(), country);
        assert_eq!(parts.headers.get(X_COUNTRY).map(HeaderValue::as_bytes), country.map(str::as_bytes), "{address}");

        let all = format!("{parts:?} {client:?} {shown:?}");
        for finer in ["Berlin", "city", "Europe", address] {
            assert!(!all.contains(finer), "{address}: {all}");
        }
    }
}

#[test]
fn a_view_of_countries_has_nothing_else() {
    let client = client(&countries(), "203.0.113.7");
    assert!(client.pseudonym("geo").is_withheld() && client.scoped("geo", "user:1").is_withheld());
    assert_eq!(client.network("geo"), None);
    assert_eq!(client.limit_key("geo"), client.limit_key("none"));
    assert_eq!(client.country("log"), None);
    assert_eq!(client.country("none"), None);
}

#[test]
fn who_is_withheld_has_no_country() {
    let parts = anonymized(&countries(), "garbage");
    let client: &Client = parts.extensions.get().unwrap();
    assert!(client.withheld().is_some());
    assert_eq!(client.country("geo"), None);
    // Nor the one that it says it has.
    assert!(!parts.headers.contains_key(X_COUNTRY));
}

#[test]
fn a_pseudonym_of_another_edge_has_no_country() {
    // An address of the range, which no good file has anything about.
    let countries = load(&mmdb(&[("2001:20::/28", country("DE"))]));
    let parts = anonymized(&countries, "2001:20::7");
    let client: &Client = parts.extensions.get().unwrap();
    assert!(client.withheld().is_none());
    assert_eq!(client.country("geo"), None);
}

#[test]
fn where_it_is_used_comes_before_where_it_is_registered() {
    let both = [("registered_country", iso("FR")), ("represented_country", iso("US")), ("country", iso("DE"))];
    let registered = [("represented_country", iso("US")), ("registered_country", iso("FR"))];
    for (record, expected) in [
        (both.to_vec(), Some("DE")),
        (registered.to_vec(), Some("FR")),
        (vec![("country", Value::Map(vec![])), ("registered_country", iso("FR"))], Some("FR")),
        (vec![("represented_country", iso("US"))], None),
        (vec![("country", iso("de"))], None),
        (vec![("country", iso("DEU"))], None),
        (vec![("country", iso("A1"))], None),
        (vec![("country", iso("\u{dc}"))], None),
        (vec![("country", iso("")), ("registered_country", iso("FR"))], None),
    ] {
        let countries = load(&mmdb(&[("203.0.113.0/24", Value::Map(record)), ("192.0.2.0/24", country("NZ"))]));
        let shown = client(&countries, "203.0.113.7").country("geo");
        assert_eq!(shown.map(|country| country.to_string()).as_deref(), expected);
    }
}

#[test]
fn a_file_for_ipv4_knows_no_ipv6() {
    let countries = load(&mmdb_v4(&[("203.0.113.0/24", country("DE"))]));
    assert_eq!(letters(&countries, "203.0.113.7").as_deref(), Some("DE"));
    assert_eq!(letters(&countries, "2001:db8::1"), None);
}

#[test]
fn a_newer_file_is_taken_into_use_by_policies_that_are_there() {
    let countries = countries();
    let policy = policy(&countries);
    let keys = keys();
    let shown = || policy.client(&address("203.0.113.7"), &keys).country("geo").map(|country| country.to_string());
    assert_eq!(shown().as_deref(), Some("DE"));
    countries.replace(&load(&mmdb(&[("203.0.113.0/24", country("FR"))])));
    assert_eq!(shown().as_deref(), Some("FR"));
    // By itself, and by a clone.
    countries.replace(&countries);
    countries.replace(&countries.clone());
    assert_eq!(shown().as_deref(), Some("FR"));
    // What can't be read replaces nothing.
    Countries::from_bytes(b"nonsense").unwrap_err();
    assert_eq!(shown().as_deref(), Some("FR"));
}

#[test]
fn a_file_is_read_and_says_when_it_was_made() {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    std::fs::write(&path, file()).unwrap();
    let countries = Countries::open(&path).unwrap();
    assert_eq!(letters(&countries, "203.0.113.7").as_deref(), Some("DE"));
    assert_eq!(countries.built(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
    assert_eq!(format!("{countries:?}"), "Countries(..)");
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let error = Countries::open("/nowhere/countries.mmdb").unwrap_err();
    assert_eq!(error.to_string(), "the file of countries can't be read");
    assert!(error.source().is_some());

    let file = file();
    let mut loops = file.clone();
    // The right half of the tree is the tree.
    loops[3..6].fill(0);
    // Half a billion ways to nowhere.
    let mut ways = mmdb(&[("2001:db8::/30", country("DE"))]);
    for node in 0..29_u8 {
        ways[usize::from(node) * 6..][..6].copy_from_slice(&[0, 0, node + 1, 0, 0, node + 1]);
    }
    let mut beyond = file.clone();
    beyond[3..6].fill(0xff);
    let text = mmdb(&[("203.0.113.0/24", Value::Map(vec![("country", Value::Text("DE"))]))]);
    let number =
        mmdb(&[("203.0.113.0/24", Value::Map(vec![("country", Value::Map(vec![("iso_code", Value::U32(7))]))]))]);
    for malformed in
        [&[][..], b"nonsense", &file[..file.len() / 2], &file[..file.len() - 1], &loops, &ways, &beyond, &text, &number]
    {
        let error = Countries::from_bytes(malformed).unwrap_err();
        assert_eq!(error.to_string(), "the file of countries is malformed (expected MaxMind's format, MMDB)");
        assert!(error.source().is_some());
    }

    let numbers = Value::Map(vec![("autonomous_system_number", Value::U32(64496))]);
    for empty in [mmdb(&[]), mmdb(&[("203.0.113.0/24", numbers)])] {
        let error = Countries::from_bytes(empty).unwrap_err();
        assert!(error.to_string().starts_with("the file has no countries in it"), "{error}");
    }
}

#[test]
fn a_country_is_not_written_where_an_address_belongs() {
    let countries = countries();
    let policy = |header| Policy::new(Scope::unscoped(), [View::country("geo", &countries).header(header)]);
    for header in [X_FORWARDED_FOR, header::FORWARDED, HeaderName::from_static("cloudfront-viewer-address")] {
        let error = policy(header).unwrap_err().to_string();
        assert!(error.contains("a country into a header that takes an address"), "{error}");
    }
    policy(HeaderName::from_static("cf-ipcountry")).unwrap();
    assert!(policy(header::COOKIE).is_err());
}

#[test]
fn a_policy_has_one_file_of_countries() {
    let (one, other) = (countries(), countries());
    let policy = |second: &Countries| {
        Policy::new(Scope::unscoped(), [View::country("geo", &one), View::country("statistics", second)])
    };
    policy(&one.clone()).unwrap();
    let error = policy(&other).unwrap_err().to_string();
    assert_eq!(error, "view \"statistics\" has other countries than another view (expected one file in a policy)");
}

#[test]
fn a_scrubber_shows_the_letters_and_no_network() {
    let scrubber = Scrubber::new(&policy(&countries()), "geo", keys()).unwrap();
    for (text, scrubbed) in [
        ("from 203.0.113.7, GET /", "from DE, GET /"),
        ("from 198.51.100.9:51234", "from [NZ]:0"),
        ("from [2001:db8:1::7]:443", "from [BR]:443"),
        ("192.0.2.1 and 203.0.113.7", "unknown and DE"),
        // Networks are finer than a country.
        ("203.0.113.0/24 2001:db8:1::/48 0.0.0.0/0", "DE BR 0.0.0.0/0"),
    ] {
        assert_eq!(scrubber.scrub_str(text), scrubbed, "{text}");
        assert_eq!(scrubber.scrub_str(scrubbed), scrubbed, "{text} twice");
    }
}

#[test]
fn a_country_costs_the_header_that_is_written() {
    let (countries, keys) = (countries(), keys());
    let log = View::token("log").header(HeaderName::from_static("x-client"));
    let geo = View::country("geo", &countries).header(X_COUNTRY);
    let count = |policy: Policy, client: &'static str| {
        let resolver = Resolver::behind(TrustedProxies::parse(["10.0.0.0/8"]).unwrap(), Source::x_forwarded_for());
        let anonymizer = Anonymizer::new(resolver, policy, keys.clone());
        let count = || {
            let mut parts = request(client);
            allocation_counter::measure(|| anonymizer.anonymize(&mut parts)).count_total
        };
        // Not the first: what a thread needs once, it makes then.
        count();
        count()
    };
    for (client, header) in [("203.0.113.7", 1), ("2001:db8:1::7", 1), ("192.0.2.1", 0)] {
        let without = count(Policy::new(Scope::unscoped(), [log.clone()]).unwrap(), client);
        let with = count(Policy::new(Scope::unscoped(), [log.clone(), geo.clone()]).unwrap(), client);
        assert_eq!(with, without + header, "{client}");
    }
}

proptest! {
    #[test]
    fn a_broken_file_is_refused_or_known_not_to_panic(breaks in vec((any::<Index>(), any::<u8>()), 1..6), cut: Index) {
        let mut file = file();
        for (place, byte) in breaks {
            let place = place.index(file.len());
            file[place] = byte;
        }
        let cut = cut.index(4 * file.len());
        file.truncate(cut.max(file.len() / 8));
        if let Ok(countries) = Countries::from_bytes(file) {
            for address in ["203.0.113.7", "198.51.100.9", "192.0.2.1", "2001:db8:1::7", "2001:db9::7"] {
                let letters = letters(&countries, address);
                prop_assert!(letters.is_none_or(|letters| letters.len() == 2));
            }
        }
    }
}

/// With more in it than may be shown.
fn file() -> Vec<u8> {
    let city = Value::Map(vec![
        ("city", Value::Map(vec![("names", Value::Map(vec![("en", Value::Text("Berlin"))]))])),
        ("continent", Value::Map(vec![("names", Value::Map(vec![("en", Value::Text("Europe"))]))])),
        ("country", Value::Map(vec![("geoname_id", Value::U32(2_921_044)), ("iso_code", Value::Text("DE"))])),
    ]);
    mmdb(&[("203.0.113.0/24", city), ("198.51.100.0/24", country("NZ")), ("2001:db8:1::/48", country("BR"))])
}

fn countries() -> Countries {
    load(&file())
}

#[track_caller]
fn load(file: &[u8]) -> Countries {
    Countries::from_bytes(file).unwrap()
}

fn keys() -> KeyRing {
    KeyRing::start(MemorySource, Epochs::daily()).unwrap()
}

fn policy(countries: &Countries) -> Policy {
    let geo = View::country("geo", countries).header(X_COUNTRY);
    Policy::new(Scope::per_session(Session::cookie("sid")), [View::address("log"), geo]).unwrap()
}

#[track_caller]
fn address(text: &str) -> ClientAddr {
    text.parse::<IpAddr>().unwrap().into()
}

fn client(countries: &Countries, text: &str) -> Client {
    policy(countries).client(&address(text), &keys())
}

fn letters(countries: &Countries, address: &str) -> Option<String> {
    client(countries, address).country("geo").map(|country| country.to_string())
}

/// As from a proxy, and with a country that the client has made up.
fn request(client: &str) -> Parts {
    let mut request = Request::new(());
    request.headers_mut().insert(X_FORWARDED_FOR, client.parse().unwrap());
    request.headers_mut().insert(X_COUNTRY, HeaderValue::from_static("XX"));
    request.extensions_mut().insert(Peer::from(SocketAddr::from(([10, 0, 0, 1], 4711))));
    request.into_parts().0
}

fn anonymized(countries: &Countries, client: &str) -> Parts {
    let resolver = Resolver::behind(TrustedProxies::parse(["10.0.0.0/8"]).unwrap(), Source::x_forwarded_for());
    let mut parts = request(client);
    Anonymizer::new(resolver, policy(countries), keys()).anonymize(&mut parts);
    parts
}
