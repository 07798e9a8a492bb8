//! What is searched for.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use crate::canaries::{Canaries, V4, V6, notations, without_colors};

/// Who connects.
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(127, 77, 66, 55);

#[test]
fn the_search_finds_every_notation() {
    for address in [IpAddr::from(V4), V6.into(), PEER.into()] {
        for (name, needle) in notations(address) {
            let said = [b"address=\x1b[0m\x1b[3m", &needle[..], b" \x1b[0m and more"].concat();
            assert!(canaries().find(&said).contains(&format!("{address} {name}")), "{address} {name}");
            assert!(!canaries().find(&said.to_ascii_uppercase()).is_empty(), "{address} {name}");
        }
        let pretty = match address {
            IpAddr::V4(address) => format!("{:#?}", address.octets()),
            IpAddr::V6(address) => format!("{:#?}", address.octets()),
        };
        assert_eq!(canaries().find(pretty.as_bytes()), [format!("{address} bytes")]);
    }
    for (text, ports) in
        [("a:54321, b", 1), ("\x1b[2mport\x1b[0m=\x1b[3m54321\x1b[0m", 1), ("154321 5432 x54321 54321x", 0)]
    {
        assert_eq!(ports_in(text.as_bytes(), &BTreeSet::from([54_321])).len(), ports, "{text}");
    }
    assert!(canaries().find(b"203.0.113.7 203.0.113.0/24 2001:db8:cafe::/48 127.0.0.1").is_empty());
}

pub(crate) fn canaries() -> &'static Canaries {
    static CANARIES: std::sync::LazyLock<Canaries> =
        std::sync::LazyLock::new(|| Canaries::new([IpAddr::from(V4), V6.into(), PEER.into()]));
    &CANARIES
}

/// Ports that stand alone. Not in lines of the HTTP/2 library, which are full of window sizes, nor where a panicking
/// thread gives its number.
pub(crate) fn ports_in(said: &[u8], ports: &BTreeSet<u16>) -> BTreeSet<u16> {
    let plain = without_colors(said);
    let lines = plain
        .split(|&byte| byte == b'\n')
        .filter(|line| !["h2::", "panicked at"].iter().any(|noise| contains(line, noise)));
    lines
        .flat_map(|line| line.split(|byte| !byte.is_ascii_alphanumeric()))
        .filter(|word| word.len() == 5)
        .filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
        .filter(|port| ports.contains(port))
        .collect()
}

pub(crate) fn contains(said: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(said).contains(text)
}
