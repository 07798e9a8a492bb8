//! An address in a text, what belongs to it, and what stands around it.

use crate::addr::Canonical;

/// An address in a text.
#[derive(Clone)]
pub(super) struct Literal {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) what: What,
    pub(super) form: Form,
}

/// How it is written.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Plain,
    /// In the name of a host, or below `arpa`.
    Name,
    /// With percent signs.
    Encoded,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Address(Canonical),
    /// Too much like an address to be left there, and not one that can be read.
    Unclear,
}

/// What came of looking at a place.
pub(super) enum Reading {
    Literal(Literal),
    Nothing,
    /// No dot or dash before here leads to an address.
    NoNumbersBefore(usize),
    /// No colon before here leads to an address.
    NoColonsBefore(usize),
}

/// The colon or dot that `text` begins with, percent-encoded, and how long that is: `%3A` or `%2E`, or once more encoded,
/// `%253A`.
#[inline]
pub(super) fn encoded(text: &[u8]) -> Option<(u8, usize)> {
    let [b'%', rest @ ..] = text else {
        return None;
    };
    let (digits, length) = match rest {
        [b'2', b'5', rest @ ..] => (rest, 5),
        rest => (rest, 3),
    };
    match digits {
        [b'3', b'A' | b'a', ..] => Some((b':', length)),
        [b'2', b'E' | b'e', ..] => Some((b'.', length)),
        _ => None,
    }
}

/// The colon or dot that `text` ends with, percent-encoded, and how long that is.
#[inline]
pub(super) fn encoded_before(text: &[u8]) -> Option<(u8, usize)> {
    let (before, byte) = match text {
        [before @ .., b'3', b'A' | b'a'] => (before, b':'),
        [before @ .., b'2', b'E' | b'e'] => (before, b'.'),
        _ => return None,
    };
    match before {
        [.., b'%', b'2', b'5'] => Some((byte, 5)),
        [.., b'%'] => Some((byte, 3)),
        _ => None,
    }
}

/// How many of the digits at `start` may belong to an escape before them, the likeliest first: in `%22203.0.113.7` two.
#[inline]
pub(super) fn escaped(text: &[u8], floor: usize, start: usize) -> &'static [usize] {
    let before = &text[floor..start];
    match before.last() {
        Some(b'%' | b'x' | b'u' | b'\\' | b'#' | b'A'..=b'F' | b'a'..=b'f') => escaped_after(before, &text[start..]),
        // RFC 2045, 6.7: an equals sign, encoded behind another one; or two digits of a group.
        Some(b'=') if matches!(text[start..], [b'3', b'D' | b'd', ..]) => &[0, 2],
        _ => &[0],
    }
}

#[cold]
fn escaped_after(before: &[u8], digits: &[u8]) -> &'static [usize] {
    match before {
        // "%25" is a percent sign, which may begin another such escape.
        [.., b'%'] if digits.starts_with(b"25") => &[2, 0, 4],
        [.., b'%'] => &[2, 0],
        [.., b'\\', b'x'] => &[2, 0],
        [.., b'\\', b'u'] => &[4, 0],
        [.., b'%', digit] | [.., b'\\', b'x', digit] if digit.is_ascii_hexdigit() => &[1, 0],
        [.., b'\\', b'u', a, b, c] if [a, b, c].iter().all(|digit| digit.is_ascii_hexdigit()) => &[1, 0],
        [.., b'\\', b'u', a, b] if [a, b].iter().all(|digit| digit.is_ascii_hexdigit()) => &[2, 0],
        [.., b'\\', b'u', a] if a.is_ascii_hexdigit() => &[3, 0],
        // In octal, or a letter that stands for a control character.
        [.., b'\\'] => &[0, 3, 1],
        // What rsyslog makes of control characters.
        [.., b'#'] => &[0, 3],
        _ => &[0],
    }
}

/// A number of at most five digits, and where it ends.
#[inline]
pub(super) fn decimal(text: &[u8], start: usize) -> Option<(u32, usize)> {
    let digits = text.get(start..)?.iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=5).contains(&digits) {
        return None;
    }
    let end = start + digits;
    Some((text[start..end].iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0')), end))
}

#[inline]
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[inline]
pub(super) fn is_hex_or_colon(byte: u8) -> bool {
    const IS: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_hexdigit() || byte as u8 == b':';
            byte += 1;
        }
        table
    };
    IS[usize::from(byte)]
}

#[inline]
pub(super) fn hex_length(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count()
}
