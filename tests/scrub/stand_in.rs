//! What stands there instead of an address.

use ipveil::{
    KeyRing, Networks, Policy, Scrubber,
    keys::{Epochs, MemorySource},
    policy::{Scope, Session, View},
    scrub::ScrubError,
};

use crate::scrubber::{scrubbed, with, with_scope, word};

#[test]
fn an_address_has_the_same_stand_in_in_every_form() {
    let scrubber = with(View::token("log"));
    let stand_in = |text| scrubber.scrub_str(text).into_owned();
    let v4 = stand_in("203.0.113.7");
    assert!(v4.starts_with('_') && v4.len() == 27);
    for same in ["::ffff:203.0.113.7", "::FFFF:cb00:7107", "64:ff9b::cb00:7107", "203.000.113.007", "203%2E0%2E113%2E7"]
    {
        assert_eq!(stand_in(same), v4, "{same}");
    }
    assert_eq!(stand_in("7.113.0.203.in-addr.arpa"), format!("{v4}.in-addr.arpa"));
    assert_eq!(stand_in("h203-0-113-7.example"), format!("h{v4}.example"));
    assert_ne!(stand_in("203.0.113.8"), v4);
    let v6 = stand_in("2001:db8::7");
    for same in ["2001:DB8:0:0::7", "2001%3Adb8%3A%3A7", "2001:db8::7%eth0"] {
        assert_eq!(stand_in(same), v6, "{same}");
    }
    let arpa = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
    assert_eq!(stand_in(arpa), format!("{v6}.ip6.arpa"));
}

#[test]
fn networks_are_cut_as_far_as_the_view_says() {
    let finest = with(View::network("n"));
    for (line, expected) in [
        ("203.0.113.7", "203.0.113.0/24"),
        ("2001:db8:1:2::7", "2001:db8:1::/48"),
        ("2001::7", "2001::/48"),
        ("::1", "::/48"),
        ("[2001:db8:1:2::7]:443", "[2001:db8:1::/48]:443"),
        ("203.0.113.7/32", "203.0.113.0/24"),
        ("203.0.113.7/24", "203.0.113.0/24"),
        ("203.0.113.0/25", "203.0.113.0/24"),
        ("203.0.0.0/16", "203.0.0.0/16"),
        ("203.0.113.7:443", "203.0.113.0/24:443"),
        ("::ffff:203.0.113.7", "203.0.113.0/24"),
    ] {
        assert_eq!(finest.scrub_str(line), expected, "{line}");
        assert_eq!(finest.scrub_str(expected), expected);
    }
    let coarse = with(View::network("n").keep(8, 32));
    assert_eq!(coarse.scrub_str("203.0.113.7 203.0.113.0/24"), "203.0.0.0/8 203.0.0.0/8");
    assert_eq!(coarse.scrub_str("2001:db8:1:2::7"), "2001:db8::/32");
}

#[test]
fn a_stand_in_that_is_an_address_does_not_run_into_what_is_around_it() {
    let scrubber = with(View::address("a"));
    for (line, start, end) in [
        ("203.0.113.7:443", "[2001:2", "]:443"),
        ("x203.0.113.7", "x[2001:2", "]"),
        ("face:203.0.113.7", "face:[2001:2", "]"),
        ("[2001:db8::7]:443", "[2001:2", "]:443"),
        ("203.0.113.7: no", "2001:2", ": no"),
    ] {
        let scrubbed = scrubber.scrub_str(line);
        assert!(scrubbed.starts_with(start) && scrubbed.ends_with(end), "{line} became {scrubbed}");
        assert!(!scrubbed.contains("[["));
        assert_eq!(scrubber.scrub_str(&scrubbed), scrubbed);
    }
}

#[test]
fn what_is_kept_stays() {
    let scrubber = word().keep(Networks::parse(["loopback", "10.0.0.0/8"]).unwrap());
    assert_eq!(
        scrubber.scrub_str("127.0.0.1 ::1 10.1.2.3:4444 ::ffff:10.0.0.1 11.0.0.1"),
        "127.0.0.1 ::1 10.1.2.3:4444 ::ffff:10.0.0.1 (ip)"
    );
    // What would be the zone of an address that is kept is an address.
    assert_eq!(scrubber.scrub_str("::1%2001:db8::7 ::1%eth0"), "::1%20(ip) ::1%eth0");
    assert!(!scrubber.scrub_str("::1%203.0.113.7").contains("113"));
}

#[test]
fn products_are_those_that_are_asked_for() {
    scrubbed("Edge/2a03::7 AppleCoreMedia/1.0.0.21E236", "Edge/(ip) AppleCoreMedia/1.0.0.21E236");
    let line = "Chrome/120.0.0.0 Gadget/1.2.3.4 xGadget/1.2.3.4";
    assert_eq!(word().scrub_str(line), "Chrome/120.0.0.0 Gadget/(ip) xGadget/(ip)");
    assert_eq!(word().products(["Gadget"]).scrub_str(line), "Chrome/(ip) Gadget/1.2.3.4 xGadget/(ip)");
    assert_eq!(word().products([""; 0]).scrub_str(line), "Chrome/(ip) Gadget/(ip) xGadget/(ip)");
}

#[test]
fn a_scope_decides_what_can_be_joined() {
    let line = "203.0.113.7";
    let of = |scrubber: &Scrubber| scrubber.scrub_str(line).into_owned();
    let unscoped = with(View::token("log"));
    assert_eq!(of(&unscoped), of(&unscoped));
    let (monday, tuesday) = (unscoped.clone().scoped("monday"), unscoped.clone().scoped("tuesday"));
    assert_eq!(of(&monday), of(&monday));
    assert_ne!(of(&monday), of(&tuesday));
    assert_ne!(of(&monday), of(&unscoped));
    // No request, so no session: random each time, also in a long reading.
    let session = with_scope(Scope::per_session(Session::cookie("sid")), View::token("log"));
    assert_ne!(of(&session), of(&session));
    let mut out = Vec::new();
    let mut pass = session.pass();
    pass.scrub_into(b"203.0.113.7 ", &mut out);
    pass.scrub_into(b"203.0.113.7", &mut out);
    let out = String::from_utf8(out).unwrap();
    let (first, second) = out.split_once(' ').unwrap();
    assert_ne!(first, second);
}

#[test]
fn a_pass_shows_what_the_scrubber_shows_also_after_a_rotation() {
    let keys = KeyRing::start(MemorySource, Epochs::daily()).unwrap();
    let policy = Policy::new(Scope::unscoped(), [View::token("log")]).unwrap();
    let scrubber = Scrubber::new(&policy, "log", keys.clone()).unwrap();
    let mut pass = scrubber.pass();
    let mut shown = |text: &[u8]| {
        let mut out = Vec::new();
        pass.scrub_into(text, &mut out);
        String::from_utf8(out).unwrap()
    };
    let text = "203.0.113.7 2001:db8::7 203.0.113.7 2001:db8:0:1::7";
    let before = shown(text.as_bytes());
    assert_eq!(before, scrubber.scrub_str(text));
    assert_eq!(before, shown(text.as_bytes()));
    keys.rotate().unwrap();
    assert_ne!(before, shown(text.as_bytes()));
    assert_eq!(shown(text.as_bytes()), scrubber.scrub_str(text));
}

#[test]
fn counts_say_what_was_found() {
    let mut out = Vec::new();
    let line = b"203.0.113.7 2001:db8::7 ec2-203-0-113-7.example 2001%3Adb8%3A%3A7 2001:db8::1:2001:db8::2 0.0.0.0";
    let found = word().scrub_into(line, &mut out);
    assert_eq!((found.v4, found.v6, found.unclear, found.in_names, found.encoded), (2, 2, 1, 1, 1));
    assert_eq!(found.total(), 5);
    assert_eq!(word().count(line), found);
    assert!(word().count(&out).is_empty());
}

#[test]
fn what_can_not_be_is_refused() {
    let keys = KeyRing::start(MemorySource, Epochs::daily()).unwrap();
    let policy = Policy::new(Scope::unscoped(), [View::limit("api")]).unwrap();
    assert_eq!(Scrubber::new(&policy, "log", keys.clone()).unwrap_err(), ScrubError::NoView);
    assert_eq!(Scrubber::new(&policy, "api", keys).unwrap_err(), ScrubError::Limit);
    for word in ["203.0.113.7", "a\nb", "2001:db8::"] {
        assert_eq!(Scrubber::word(word).unwrap_err(), ScrubError::Word, "{word}");
    }
}
