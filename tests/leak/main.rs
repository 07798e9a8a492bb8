//! Nothing raw comes out: real servers in a process of their own, traffic full of addresses, and a search through
//! everything that the process said.
//!
//! The same is done without ipveil, and there the addresses have to be found: in each kind of output, and in each
//! spelling. Otherwise the search would prove nothing.

// Only there may a client choose its own address in 127.0.0.0/8.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

/// How addresses are written.
#[path = "../canaries.rs"]
mod canaries;

/// Files that say where addresses are.
#[path = "../mmdb.rs"]
mod mmdb;

/// Where servers listen.
#[path = "../listener.rs"]
mod listener;

/// A log in memory.
#[path = "../log.rs"]
mod log;

/// What is searched for.
mod search;

/// What is asked of the servers, in every spelling.
mod traffic;

/// The servers, in a process of their own, and what it said.
mod servers;

/// The application, which tells whoever asks all that it knows.
mod application;

use std::{fmt::Write as _, net::IpAddr};

use crate::{
    canaries::{V4, V6},
    search::{PEER, canaries, contains},
    traffic::scenario,
};

#[test]
fn nothing_raw_comes_out() {
    let heard = scenario("veiled");
    let mut leaks = String::new();
    for (place, said) in &heard.said {
        let found = canaries().find(said);
        if !found.is_empty() {
            writeln!(leaks, "{place}: {found:?}").unwrap();
        }
    }
    for (place, ports) in heard.ports_found() {
        writeln!(leaks, "{place}: ports {ports:?}").unwrap();
    }
    assert!(leaks.is_empty(), "{leaks}");

    // Everybody was there, and had something to say.
    for (place, said) in heard.said.iter().filter(|(place, _)| place.contains(" shows ")) {
        assert!(contains(said, "client Some(Client(..))"), "{place}: {}", String::from_utf8_lossy(said));
    }
    for (place, said) in heard.said.iter().filter(|(place, _)| place.starts_with("direct shows ")) {
        assert!(contains(said, "pseudonym app Address("), "{place}");
        assert!(contains(said, "country geo Some(Country(DE))"), "{place}");
    }
    heard.everybody_spoke();
    for log in heard.logs() {
        assert!(contains(log, "connection Peer(..) accepted"));
    }
    assert!(heard.any("direct upgrade", "socket a connection, Connection(..)"));
}

#[test]
fn without_ipveil_everything_comes_out() {
    let heard = scenario("bare");
    // Each spelling is found by the search.
    for (place, said) in heard.said.iter().filter(|(place, _)| place.contains(" shows ")) {
        let found = canaries().find(said).into_iter().filter(|name| !name.starts_with(&PEER.to_string()));
        assert!(found.count() > 0, "{place}: {}", String::from_utf8_lossy(said));
    }
    heard.everybody_spoke();
    // Each kind of output has it.
    let found = heard.ports_found();
    for log in heard.said.keys().filter(|place| place.starts_with("log ")) {
        let said = &heard.said[log];
        for canary in [IpAddr::from(V4), V6.into(), PEER.into()] {
            assert!(contains(said, &canary.to_string()), "{log}: {canary}");
        }
        assert!(contains(said, "connection 127.77.66.55:"), "{log}");
        assert!(contains(said, "Rate limit exceeded for smart IP [203.0.113.77]"), "{log}");
        assert!(contains(said, "Rate limit exceeded for peer IP [127.77.66.55]"), "{log}");
        assert!(log.ends_with("pretty") || found.contains_key(log.as_str()), "{log}");
    }
    assert!(contains(&heard.said["stderr"], "203.0.113.77"));
    assert!(contains(&heard.said["stderr"], "127.77.66.55"));
    assert!(found.contains_key("stderr"));
    for (place, line) in [
        ("direct shows", "header x-forwarded-for: 203.0.113.77"),
        ("direct shows", "x-seen: Some(ConnectInfo(127.77.66.55:"),
        ("direct shows", "connect-info Some(ConnectInfo(127.77.66.55:"),
        ("direct shows", "client-ip XRealIp Ok(XRealIp(203.0.113.77))"),
        ("direct shows", "client-ip ClientIp Ok(ClientIp(127.77.66.55))"),
        ("direct shows", "governor smart Ok(203.0.113.77)"),
        ("direct shows", "governor peer Ok(127.77.66.55)"),
        ("direct upgrade", "socket Ok(127.77.66.55:"),
        ("direct websocket", "header x-forwarded-for: 203.0.113.77"),
        ("direct session", "before header x-forwarded-for: 203.0.113.77"),
        ("direct nowhere", "header x-forwarded-for: 203.0.113.77"),
        ("hyper shows", "socket-address Some(127.77.66.55:"),
        ("hyper shows", "mock Some(MockConnectInfo(127.77.66.55:"),
        ("hyper HTTP/2 shows", "header x-forwarded-for: 203.0.113.77"),
        ("tonic HTTP/2 shows", "remote-addr Some(127.77.66.55:"),
        ("tonic HTTP/2 shows", "tcp Some(TcpConnectInfo"),
        ("tonic HTTP/2 fail", "203.0.113.77"),
        ("tonic HTTP/2 fail", "127.77.66.55"),
        ("log full", "trace_fn tcp=Some(TcpConnectInfo"),
        ("log full", "layer metadata="),
    ] {
        assert!(heard.any(place, line), "{place}: {line}");
    }
}
