//! What one hop calls the hop before it: an address, or something else.

use crate::addr::Canonical;

/// What an element of a forwarding header says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Address(Canonical),
    /// `unknown`, an obfuscated identifier, or nothing: somebody who knew does not say.
    Hidden,
    Malformed,
}

impl Node {
    /// Reads `203.0.113.7`, `203.0.113.7:80`, `2001:db8::1`, `fe80::1%eth0`, `[2001:db8::1]`, `[2001:db8::1]:80`,
    /// `unknown`, `_hidden`. Ports and zones are dropped.
    #[inline]
    pub(crate) fn parse(text: &[u8]) -> Self {
        match text {
            [b'[', rest @ ..] => Self::bracketed(rest),
            [b'_', rest @ ..] => Self::hidden(rest),
            text => match parse_v4(text) {
                Some((octets, [])) => Self::address(Canonical::V4(octets)),
                Some((octets, [b':', port @ ..])) if is_port(port) => Self::address(Canonical::V4(octets)),
                Some(_) => Self::Malformed,
                None => Self::not_v4(text),
            },
        }
    }

    /// Reads `203.0.113.7`, and nothing else.
    #[inline]
    pub(crate) fn bare_v4(text: &[u8]) -> Option<Self> {
        match parse_v4(text) {
            Some((octets, [])) => Canonical::V4(octets).usable().map(Self::Address),
            _ => None,
        }
    }

    /// Reads `203.0.113.7:80`, `2001:db8::1:80` and `[2001:db8::1]:80`: what follows the last colon is the port, as
    /// in `CloudFront-Viewer-Address`.
    pub(crate) fn parse_with_port(text: &[u8]) -> Self {
        let Some(colon) = text.iter().rposition(|&byte| byte == b':') else {
            return Self::Malformed;
        };
        if !is_port(&text[colon + 1..]) {
            return Self::Malformed;
        }
        Self::parse(&text[..colon])
    }

    #[inline(never)]
    fn not_v4(text: &[u8]) -> Self {
        // A zone is looked for only if it is not an address without one.
        if let Some(octets) = parse_v6(text).or_else(|| parse_v6(without_zone(text))) {
            Self::address(Canonical::v6(octets))
        } else if text.eq_ignore_ascii_case(b"unknown") {
            Self::Hidden
        } else if let Some(colon) = text.iter().position(|&byte| byte == b':')
            && text[..colon].eq_ignore_ascii_case(b"unknown")
            && is_port(&text[colon + 1..])
        {
            Self::Hidden
        } else {
            Self::Malformed
        }
    }

    #[inline(never)]
    fn bracketed(text: &[u8]) -> Self {
        let Some(end) = text.iter().position(|&byte| byte == b']') else {
            return Self::Malformed;
        };
        let port_fits = match &text[end + 1..] {
            [] => true,
            [b':', port @ ..] => is_port(port),
            _ => false,
        };
        match parse_v6(without_zone(&text[..end])) {
            Some(octets) if port_fits => Self::address(Canonical::v6(octets)),
            _ => Self::Malformed,
        }
    }

    #[inline(never)]
    // RFC 7239, 6.3: "_" 1*( ALPHA / DIGIT / "." / "_" / "-" ), and maybe a port.
    fn hidden(text: &[u8]) -> Self {
        let (name, port) = match text.iter().position(|&byte| byte == b':') {
            Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
            None => (text, None),
        };
        if !name.is_empty() && name.iter().all(|&byte| is_obfuscated(byte)) && port.is_none_or(is_port) {
            Self::Hidden
        } else {
            Self::Malformed
        }
    }

    #[inline]
    fn address(address: Canonical) -> Self {
        address.usable().map_or(Self::Malformed, Self::Address)
    }
}

// RFC 7239, 6: node-port = 1*5DIGIT, or an obfuscated one.
fn is_port(text: &[u8]) -> bool {
    match text {
        [b'_', rest @ ..] => !rest.is_empty() && rest.iter().all(|&byte| is_obfuscated(byte)),
        digits => matches!(digits.len(), 1..=5) && digits.iter().all(u8::is_ascii_digit),
    }
}

fn is_obfuscated(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

// RFC 4007, 11: "%" and a name; which link it is means nothing elsewhere.
fn without_zone(text: &[u8]) -> &[u8] {
    match text.iter().position(|&byte| byte == b'%') {
        Some(percent) if is_zone(&text[percent + 1..]) => &text[..percent],
        _ => text,
    }
}

// RFC 6874: unreserved characters, after a "%25" in URLs. Not more: behind a "%" anything could hide, a second address for
// one, when somebody has joined two lines into one.
fn is_zone(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"25").filter(|rest| !rest.is_empty()).unwrap_or(text);
    matches!(text.len(), 1..=32) && text.iter().all(|&byte| is_obfuscated(byte) || byte == b'~')
}

/// Four decimal octets without leading zeros, and what follows them.
#[inline]
fn parse_v4(text: &[u8]) -> Option<([u8; 4], &[u8])> {
    let (a, rest) = parse_octet(text)?;
    let (b, rest) = parse_octet(rest.strip_prefix(b".")?)?;
    let (c, rest) = parse_octet(rest.strip_prefix(b".")?)?;
    let (d, rest) = parse_octet(rest.strip_prefix(b".")?)?;
    Some(([a, b, c, d], rest))
}

#[inline]
fn parse_octet(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |place: usize| text.get(place).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10);
    let first = digit(0)?;
    let Some(second) = digit(1) else {
        return Some((first, &text[1..]));
    };
    // "010" is 10 to some and 8 to others.
    if first == 0 {
        return None;
    }
    let two = first * 10 + second;
    let Some(third) = digit(2) else {
        return Some((two, &text[2..]));
    };
    let three = u8::try_from(u16::from(two) * 10 + u16::from(third)).ok()?;
    digit(3).is_none().then(|| (three, &text[3..]))
}

/// A whole IPv6 address in any of its spellings (RFC 4291, 2.2).
pub(crate) fn parse_v6(text: &[u8]) -> Option<[u8; 16]> {
    // The groups so far, each of which moves the ones before it up.
    let (mut bits, mut groups) = (0_u128, 0);
    // How many groups stand before "::".
    let mut gap = None;
    let (mut group, mut digits) = (0_u32, 0);
    let mut colon_before = false;
    for (place, &byte) in text.iter().enumerate() {
        let digit = HEX_DIGIT[usize::from(byte)];
        if digit <= 15 {
            group = group << 4 | u32::from(digit);
            digits += 1;
            if digits > 4 {
                return None;
            }
            continue;
        }
        match byte {
            b':' if digits > 0 => {
                bits = bits << 16 | u128::from(group);
                groups += 1;
                if groups == 8 {
                    return None;
                }
                colon_before = true;
            }
            b':' if colon_before || (place == 0 && text.get(1) == Some(&b':')) => {
                // The first of the two at the beginning is before nothing.
                if colon_before || groups > 0 {
                    if gap.is_some() {
                        return None;
                    }
                    gap = Some(groups);
                    colon_before = false;
                } else {
                    colon_before = true;
                }
            }
            // The last 32 bits in dots.
            b'.' if digits > 0 => {
                let (octets, []) = parse_v4(&text[place - digits..])? else {
                    return None;
                };
                bits = bits << 32 | u128::from(u32::from_be_bytes(octets));
                return whole(bits, groups + 2, gap);
            }
            _ => return None,
        }
        (group, digits) = (0, 0);
    }
    if digits > 0 {
        bits = bits << 16 | u128::from(group);
        groups += 1;
    } else if colon_before || gap != Some(groups) {
        // A single colon has to be followed by something.
        return None;
    }
    whole(bits, groups, gap)
}

/// An address from its groups, of which those after the gap are the last ones.
#[inline]
fn whole(bits: u128, groups: u32, gap: Option<u32>) -> Option<[u8; 16]> {
    let bits = match gap {
        None if groups == 8 => bits,
        // At least one group is left out.
        Some(before) if groups < 8 => {
            let after = groups - before;
            let low = !u128::MAX.unbounded_shl(16 * after);
            (bits & !low).unbounded_shl(16 * (8 - groups)) | bits & low
        }
        _ => return None,
    };
    Some(bits.to_be_bytes())
}

/// The value of a hexadecimal digit; 255 for any other byte.
const HEX_DIGIT: [u8; 256] = {
    let mut table = [255; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit] as usize] = digit as u8;
        table[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn address(text: &str) -> Node {
        Node::Address(Canonical::from(text.parse::<IpAddr>().unwrap()))
    }

    proptest! {
        #[test]
        fn what_the_standard_library_parses_is_parsed_alike(text in "[0-9a-f:.]{0,40}") {
            prop_assert_eq!(parse_v6(text.as_bytes()), text.parse::<Ipv6Addr>().ok().map(|a| a.octets()));
            let v4 = parse_v4(text.as_bytes()).filter(|(_, rest)| rest.is_empty()).map(|(octets, _)| octets);
            prop_assert_eq!(v4, text.parse::<Ipv4Addr>().ok().map(|a| a.octets()));
        }

        #[test]
        fn what_nearly_is_an_address_is_parsed_as_the_standard_library_does(
            groups in proptest::collection::vec("[0-9A-Fa-f]{0,5}", 1..10),
            tail in prop_oneof![Just(String::new()), "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}"],
        ) {
            let text = format!("{}{tail}", groups.join(":"));
            prop_assert_eq!(parse_v6(text.as_bytes()), text.parse::<Ipv6Addr>().ok().map(|a| a.octets()), "{}", text);
        }

        #[test]
        fn what_is_printed_is_parsed(bits: u128, mask: u128) {
            for bits in [bits, bits & mask, bits & mask & (mask >> 64)] {
                let ip = Ipv6Addr::from_bits(bits);
                prop_assert_eq!(parse_v6(ip.to_string().as_bytes()), Some(ip.octets()));
            }
        }

        #[test]
        fn nothing_panics(text: Vec<u8>) {
            Node::parse(&text);
            Node::parse_with_port(&text);
        }
    }

    #[test]
    fn nodes() {
        let v4 = address("203.0.113.7");
        let v6 = address("2001:db8::1");
        for (text, node) in [
            ("203.0.113.7", v4),
            ("203.0.113.7:80", v4),
            ("203.0.113.7:_port", v4),
            ("2001:db8::1", v6),
            ("2001:DB8::1", v6),
            ("2001:db8::1%eth0", v6),
            ("[2001:db8::1]", v6),
            ("[2001:db8::1]:65535", v6),
            ("[2001:db8::1%25eth0]:80", v6),
            ("::ffff:203.0.113.7", v4),
            ("::ffff:cb00:7107", v4),
            ("64:ff9b::cb00:7107", v4),
            ("unknown", Node::Hidden),
            ("UNKNOWN:80", Node::Hidden),
            ("_secret", Node::Hidden),
            ("_a-b.c:_p", Node::Hidden),
        ] {
            assert!(Node::parse(text.as_bytes()) == node, "{text}");
        }
        for text in [
            "",
            "_",
            "_ä",
            "host",
            "0.0.0.0",
            "::",
            "[::]",
            "010.0.0.1",
            "1.2.3",
            "1.2.3.4.5",
            "256.1.1.1",
            "1.2.3.4/24",
            "1.2.3.4:",
            "1.2.3.4:123456",
            "1.2.3.4:8o",
            "1.2.3.4%1",
            "[1.2.3.4]",
            "[::1",
            "::1]",
            "0:0:0:0:0:0:0::1",
            "1::2:3:4:5:6:7:8",
            "[::1]80",
            "[::1]:",
            "1::2::3",
            ":1",
            "1:",
            "1:2:3:4:5:6:7:8:9",
            "\"1.2.3.4\"",
            " 1.2.3.4",
            "2001:db8::1%",
            "2001:db8::1%a, 203.0.113.7",
            "2001:db8::1%a%b",
        ] {
            assert!(Node::parse(text.as_bytes()) == Node::Malformed, "{text}");
        }
    }

    #[test]
    fn nodes_that_always_have_a_port() {
        let v6 = address("2001:db8::1");
        assert!(Node::parse_with_port(b"2001:db8::1:443") == v6);
        assert!(Node::parse_with_port(b"[2001:db8::1]:443") == v6);
        assert!(Node::parse_with_port(b"203.0.113.7:443") == address("203.0.113.7"));
        assert!(Node::parse_with_port(b"203.0.113.7") == Node::Malformed);
        assert!(Node::parse_with_port(b"2001:db8::") == Node::Malformed);
    }
}
