//! What belongs to an address and stands behind it: a port, or the length of a prefix.

use std::ops::Range;

use super::{
    literal::{Literal, What, decimal, encoded, hex_length, is_hex_or_colon, is_word},
    numbers::begins_a_quad_and_port,
};
use crate::addr::Canonical;

/// What stands behind an address.
pub(super) enum Tail {
    None,
    /// The digits of a port.
    Port(Range<usize>),
    /// The length of a prefix, and where it ends.
    Width(u8, usize),
}

impl Literal {
    /// What belongs to it and stands behind it.
    #[inline]
    pub(super) fn tail(&self, text: &[u8]) -> Tail {
        let end = self.end;
        match text.get(end) {
            // With a dot as tcpdump prints it: after IPv4 there is a number only if it is that.
            Some(b':' | b'.') => port(text, end + 1),
            Some(b']') if text.get(end + 1) == Some(&b':') => port(text, end + 2),
            Some(b' ') if text.get(end + 1) != Some(&b'p') => Tail::None,
            Some(b' ' | b',' | b'"' | b'\'' | b'/' | b'%' | b'#' | b'(' | b'[') => self.rare_tail(text),
            _ => Tail::None,
        }
    }

    #[inline(never)]
    fn rare_tail(&self, text: &[u8]) -> Tail {
        let end = self.end;
        match (text[end], self.what) {
            (b'/', What::Address(address)) => {
                let widest = if matches!(address, Canonical::V4(_)) { 32 } else { 128 };
                width(text, end + 1, widest).or_else(|| port_behind_slash(text, end + 1))
            }
            (b'%', _) => match &text[end..] {
                [b'%', b'5', b'D' | b'd', rest @ ..] => encoded_port(text, text.len() - rest.len()),
                _ => encoded_port(text, end),
            },
            (b'#', _) => port(text, end + 1),
            (b'(', _) => port_before(b")", text, end + 1),
            (b'[', _) => port_before(b"]", text, end + 1),
            (b' ' | b',' | b'"' | b'\'', _) => self.named_port(text),
            _ => Tail::None,
        }
    }

    /// ` port 51234`, and a pair as Python writes it.
    fn named_port(&self, text: &[u8]) -> Tail {
        let behind = &text[self.end..];
        if let Some(name) = NAMES.iter().find(|name| behind.starts_with(name)) {
            return port(text, self.end + name.len());
        }
        let is_pair = |start: &[u8], between: &[u8]| behind.starts_with(between) && text[..self.start].ends_with(start);
        match is_pair(b"('", b"', ") || is_pair(b"(\"", b"\", ") {
            true => port_before(b")", text, self.end + 3).or_else(|| port_before(b",", text, self.end + 3)),
            false => Tail::None,
        }
    }
}

/// What stands between an address and its port in the logs of sshd, of programs in Rust, and in JSON.
const NAMES: [&[u8]; 8] =
    [b" port ", b" port=", b" port: ", b", port ", b", port=", b", port: ", b"\",\"port\":", b"\", \"port\": "];

/// The length of a prefix.
fn width(text: &[u8], start: usize, widest: u32) -> Tail {
    match decimal(text, start) {
        Some((width, after))
            if width <= widest
                && after <= start + 3
                && !begins_groups(&text[start..])
                && !matches!(text[after..], [b'.', next, ..] if next.is_ascii_digit()) =>
        {
            Tail::Width(width as u8, after)
        }
        _ => Tail::None,
    }
}

impl Tail {
    #[inline]
    fn or_else(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::None => other(),
            tail => tail,
        }
    }
}

/// A colon and a port, percent-encoded.
fn encoded_port(text: &[u8], start: usize) -> Tail {
    match encoded(&text[start..]) {
        Some((b':', length)) => port(text, start + length),
        _ => Tail::None,
    }
}

/// `203.0.113.7/51234`: longer than any prefix, and no path goes on behind it.
fn port_behind_slash(text: &[u8], start: usize) -> Tail {
    match port(text, start) {
        Tail::Port(port) if !matches!(text.get(port.end), Some(b'/' | b'.' | b'-')) => Tail::Port(port),
        _ => Tail::None,
    }
}

fn port_before(close: &[u8], text: &[u8], start: usize) -> Tail {
    match port(text, start) {
        Tail::Port(port) if text[port.end..].starts_with(close) => Tail::Port(port),
        _ => Tail::None,
    }
}

#[inline]
fn port(text: &[u8], start: usize) -> Tail {
    match decimal(text, start) {
        Some((port, end)) if port <= u32::from(u16::MAX) && is_end_of_port(&text[end..]) => Tail::Port(start..end),
        _ => Tail::None,
    }
}

/// Whether a number is not the beginning of something else, such as a date or an address.
fn is_end_of_port(behind: &[u8]) -> bool {
    match behind {
        [b'-', b'>', ..] => true,
        [b'-', ..] => begins_a_quad_and_port(behind, 1),
        [b'%', ..] => encoded(behind).is_none(),
        [b'.', next, ..] => !next.is_ascii_digit(),
        [b':', b'%', ..] => false,
        // What is longer than a group begins no address.
        [b':', rest @ ..] => rest.first() != Some(&b':') && !(1..=4).contains(&hex_length(&rest[..rest.len().min(5)])),
        [byte, ..] => !is_word(*byte),
        [] => true,
    }
}

/// Whether what begins there goes on as an IPv6 address does.
fn begins_groups(text: &[u8]) -> bool {
    let run = &text[..text.iter().take_while(|&&byte| is_hex_or_colon(byte)).count()];
    run.windows(2).any(|pair| pair == b"::") || run.iter().filter(|&&byte| byte == b':').count() >= 7
}
