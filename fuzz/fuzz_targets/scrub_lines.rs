//! Lines made of addresses in many spellings, and of what looks like them: what the oracle knows is found, and to scrub
//! twice does no more than to scrub once.
#![no_main]

#[path = "../oracle.rs"]
mod oracle;

use std::net::{Ipv4Addr, Ipv6Addr};

use arbitrary::Arbitrary;
use ipveil::Scrubber;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Piece<'a> {
    V4([u8; 4]),
    V6(u128),
    // Few bits, so that there are zeros to leave out.
    Sparse(u128, u128),
    Mapped([u8; 4]),
    Upper(u128),
    Encoded(u128),
    Dashed([u8; 4]),
    Reversed([u8; 4]),
    Nibbles(u128),
    Time(u8, u8, u8),
    Mac([u8; 6]),
    Version(u16, u16, u16, u16),
    Path(&'a str),
    Text(&'a str),
}

const BETWEEN: [&str; 16] =
    [" ", "=", "\"", "[", "]", "(", ")", ",", ": ", "\n", "|", ";", "\\\"", "<", ">", "://"];

impl Piece<'_> {
    fn text(&self) -> String {
        match *self {
            Self::V4(octets) => Ipv4Addr::from(octets).to_string(),
            Self::V6(bits) => Ipv6Addr::from(bits).to_string(),
            Self::Sparse(bits, mask) => Ipv6Addr::from(bits & mask).to_string(),
            Self::Mapped(octets) => Ipv4Addr::from(octets).to_ipv6_mapped().to_string(),
            Self::Upper(bits) => Ipv6Addr::from(bits).to_string().to_uppercase(),
            Self::Encoded(bits) => Ipv6Addr::from(bits).to_string().replace(':', "%3A"),
            Self::Dashed([a, b, c, d]) => format!("ec2-{a}-{b}-{c}-{d}.compute.example"),
            Self::Reversed([a, b, c, d]) => format!("{d}.{c}.{b}.{a}.in-addr.arpa"),
            Self::Nibbles(bits) => {
                let digits: Vec<_> = format!("{bits:032x}").chars().rev().map(String::from).collect();
                format!("{}.ip6.arpa", digits.join("."))
            }
            Self::Time(a, b, c) => format!("{:02}:{:02}:{:02}", a % 24, b % 60, c % 60),
            Self::Mac(bytes) => bytes.map(|byte| format!("{byte:02x}")).join(":"),
            Self::Version(a, b, c, d) => format!("{a}.{b}.{c}.{d}"),
            Self::Path(text) => format!("std::{text}"),
            Self::Text(text) => text.to_owned(),
        }
    }
}

fuzz_target!(|pieces: Vec<(Piece<'_>, u8)>| {
    let scrubber = Scrubber::word("(ip)").expect("it is clean");
    let mut line = String::new();
    for (piece, between) in &pieces {
        line.push_str(&piece.text());
        line.push_str(BETWEEN[usize::from(*between) % BETWEEN.len()]);
    }
    let found: Vec<_> = scrubber.find(line.as_bytes()).collect();
    oracle::check(line.as_bytes(), &found);
    // Text of any kind can put together what was apart.
    if !pieces.iter().any(|(piece, _)| matches!(piece, Piece::Text(_) | Piece::Path(_))) {
        let once = scrubber.scrub_str(&line);
        assert_eq!(scrubber.scrub_str(&once), once, "from {line:?}");
        for (piece, _) in &pieces {
            if let Piece::Dashed(octets) | Piece::Reversed(octets) = piece {
                let is_nobodys = octets[0] >= 240 || *octets == [0; 4];
                assert!(is_nobodys || !once.contains(&piece.text()), "{} stays in {once:?}", piece.text());
            }
        }
    }
});
