//! Where addresses are in anything that was said, however they are written.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Who the client is, in traffic of which nothing raw may come out.
pub(crate) const V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
pub(crate) const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xcafe, 0xf00d, 1, 2, 3, 4);
pub(crate) const PORT: u16 = 54_321;

/// Every way to write an address that somebody could come upon.
pub(crate) fn notations(address: IpAddr) -> Vec<(String, Vec<u8>)> {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    let join =
        |separator: &str, text: &dyn Fn(&u8) -> String| octets.iter().map(text).collect::<Vec<_>>().join(separator);
    let number = octets.iter().fold(0_u128, |number, octet| number << 8 | u128::from(*octet));
    let swapped: Vec<u8> = octets.iter().rev().copied().collect();
    let mut texts = vec![
        ("usual", address.to_string()),
        ("percent", address.to_string().replace(':', "%3a").replace('.', "%2e")),
        ("dashes", address.to_string().replace([':', '.'], "-")),
        ("underscores", address.to_string().replace([':', '.'], "_")),
        ("hex", hex(&octets)),
        ("hex, swapped", hex(&swapped)),
        ("hex, colons", join(":", &|octet| format!("{octet:02x}"))),
        ("hex, dots", join(".", &|octet| format!("0x{octet:02x}"))),
        ("bytes", join(",", &|octet| octet.to_string())),
        ("hex bytes", join(",", &|octet| format!("0x{octet:02x}"))),
        ("escapes", join("", &|octet| format!("\\x{octet:02x}"))),
        ("number", number.to_string()),
    ];
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            texts.extend([
                ("three digits", format!("{a:03}.{b:03}.{c:03}.{d:03}")),
                ("octal", join(".", &|octet| if *octet == 0 { "0".to_owned() } else { format!("0{octet:o}") })),
                ("reversed", format!("{d}.{c}.{b}.{a}")),
                ("mapped", format!("{:x}:{:x}", u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))),
                ("swapped number", u32::from_le_bytes(address.octets()).to_string()),
            ]);
        }
        IpAddr::V6(address) => {
            let groups = address.segments();
            let full = groups.map(|group| format!("{group:04x}"));
            let nibbles: Vec<_> = hex(&octets).chars().rev().map(String::from).collect();
            texts.extend([
                ("full", full.join(":")),
                ("full, percent", full.join("%3a")),
                ("full, dashes", full.join("-")),
                ("groups", groups.map(|group| group.to_string()).join(",")),
                ("reversed", nibbles.join(".")),
                // The subscriber's network is as good as the address.
                ("/64", format!("{:x}:{:x}:{:x}:{:x}", groups[0], groups[1], groups[2], groups[3])),
                ("full /64", full[..4].join(":")),
                ("hex /64", full[..4].concat()),
            ]);
        }
    }
    let texts = texts.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes()));
    texts.chain([("raw".to_owned(), octets.clone())]).collect()
}

/// Needles, by their first two bytes.
pub(crate) struct Canaries(Vec<Vec<(String, Vec<u8>)>>);

impl Canaries {
    pub(crate) fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut needles = vec![Vec::new(); 1 << 16];
        for address in addresses {
            for (name, needle) in notations(address) {
                let needle = fold(&needle);
                needles[prefix(&needle)].push((format!("{address} {name}"), needle));
            }
        }
        Self(needles)
    }

    /// The names of those that are there.
    pub(crate) fn find(&self, said: &[u8]) -> Vec<String> {
        let said = fold(said);
        let mut found = BTreeSet::new();
        for at in 0..said.len().saturating_sub(1) {
            let candidates = &self.0[prefix(&said[at..])];
            if candidates.is_empty() {
                continue;
            }
            let here = candidates.iter().filter(|(_, needle)| said[at..].starts_with(needle));
            found.extend(here.map(|(name, _)| name));
        }
        found.into_iter().cloned().collect()
    }
}

fn prefix(text: &[u8]) -> usize {
    usize::from(text[0]) << 8 | usize::from(text[1])
}

/// Without what may stand inside of a value, and without case.
fn fold(text: &[u8]) -> Vec<u8> {
    without_colors(text)
        .into_iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| byte.to_ascii_lowercase())
        .collect()
}

pub(crate) fn without_colors(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (0x1b, [b'[', code @ ..]) => {
                let end = code.iter().position(u8::is_ascii_alphabetic).map_or(code.len(), |end| end + 1);
                rest = &code[end..];
            }
            _ => plain.push(*first),
        }
    }
    plain
}
