//! What has to be found in a text, slowly and as plainly as can be: shared by the fuzz targets and the tests.
//!
//! It knows two things. Whatever the standard library takes for an address, and stands by itself, must be found. And what
//! is found must be an address to the standard library, once escapes are undone.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

/// Panics if something was overlooked, or found where nothing is.
pub(crate) fn check(text: &[u8], found: &[Range<usize>]) {
    for pair in found.windows(2) {
        assert!(pair[0].end <= pair[1].start, "{pair:?} overlap in {}", show(text));
    }
    for place in standing_alone(text) {
        let is_found = found.iter().any(|found| found.start <= place.start && place.end <= found.end);
        assert!(is_found, "{} was overlooked in {}", show(&text[place]), show(text));
    }
    for place in found {
        assert!(is_address(text, place.clone()), "{} was found in {}", show(&text[place.clone()]), show(text));
    }
}

fn show(text: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(text))
}

/// Where the addresses are that have nothing around them which could be a part of them.
fn standing_alone(text: &[u8]) -> Vec<Range<usize>> {
    let is_free = |byte: &u8| b" \t\r\n\"'`()<>,;=[]{}|*?!&+".contains(byte);
    let mut places = Vec::new();
    let mut start = 0;
    for piece in text.split(is_free) {
        let place = start..start + piece.len();
        start = place.end + 1;
        let Ok(piece) = std::str::from_utf8(piece) else {
            continue;
        };
        if let Ok(address) = piece.parse::<IpAddr>()
            && !is_nobodys(address)
            && !is_hardware(piece)
        {
            places.push(place);
        }
    }
    places
}

fn is_nobodys(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets()[0] >= 240 || v4.is_unspecified(),
        IpAddr::V6(v6) => {
            let nat64 = v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
            let v4 = Ipv4Addr::from_bits(v6.to_bits() as u32);
            let pseudonym = v6.to_bits() >> 100 == 0x200_1002;
            v6.is_unspecified() || pseudonym || (nat64 && is_nobodys(v4.into()))
        }
    }
}

/// Eight octets between colons.
fn is_hardware(piece: &str) -> bool {
    piece.len() == 23 && piece.split(':').all(|group| group.len() == 2)
}

/// Whether it is one, or several joined into what nobody can read.
fn is_address(text: &[u8], place: Range<usize>) -> bool {
    let plain = String::from_utf8_lossy(&text[place.clone()]).into_owned();
    let mut plain = plain.replace("%25", "%");
    for (encoded, byte) in [("%3A", ":"), ("%3a", ":"), ("%2E", "."), ("%2e", ".")] {
        plain = plain.replace(encoded, byte);
    }
    if let Some((address, _zone)) = plain.split_once('%') {
        plain = address.to_owned();
    }
    let octets = |separator| {
        let parts: Vec<&str> = plain.split(separator).collect();
        parts.len() == 4 && parts.iter().all(|part| part.len() <= 3 && part.parse::<u8>().is_ok())
    };
    let nibbles = || {
        let rest = &text[place.end..];
        let is_below = |zone: &[u8]| rest.len() >= zone.len() && rest[..zone.len()].eq_ignore_ascii_case(zone);
        (is_below(b".ip6.arpa") || is_below(b".ip6.int") || plain.len() == 63)
            && plain.split('.').all(|nibble| nibble.len() == 1 && u8::from_str_radix(nibble, 16).is_ok())
    };
    let joined = || {
        let groups = plain.matches(':').count() >= 3 || plain.contains("::");
        groups && plain.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.')
    };
    // Nobody can tell where it begins.
    let numbers = || plain.split('-').count() >= 5 && plain.split('-').all(|part| part.parse::<u8>().is_ok());
    let unclear =
        || numbers() || plain.matches('.').count() >= 5 && plain.chars().all(|c| c.is_ascii_digit() || c == '.');
    let dashed = || plain.replace('-', ":").parse::<Ipv6Addr>().is_ok();
    plain.parse::<Ipv6Addr>().is_ok() || dashed() || octets('.') || octets('-') || nibbles() || joined() || unclear()
}
