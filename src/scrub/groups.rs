//! Reads addresses that are groups of hexadecimal digits between colons.
//!
//! It takes time linear in the length of the run of groups, and each run is read once.

use std::ops::Range;

use super::literal::{
    Form, Literal, Reading, What, decimal, encoded, encoded_before, escaped, hex_length, is_hex_or_colon, is_word,
};
use crate::{addr::Canonical, resolve::parse_v6};

/// `2001:db8::7` in all its spellings.
#[inline]
pub(super) fn colons(text: &[u8], floor: usize, place: usize) -> Reading {
    match groups_around(text, floor, place) {
        Some(literal) => Reading::Literal(literal),
        None => colons_of_any_kind(text, floor, place),
    }
}

/// An address with nothing around it that could be part of it.
#[inline]
fn groups_around(text: &[u8], floor: usize, place: usize) -> Option<Literal> {
    let before = text[floor..place].iter().rev().take_while(|&&byte| is_hex_or_colon(byte)).count();
    let behind = text[place..].iter().take_while(|&&byte| is_hex_or_colon(byte)).count();
    let (start, end) = (place - before, place + behind);
    let is_alone = !text[floor..start].last().is_some_and(|&byte| is_word(byte) || matches!(byte, b'%' | b'\\' | b'#'))
        && !text.get(end).is_some_and(|&byte| is_word(byte) || matches!(byte, b'%' | b'.'));
    if !is_alone || end - start > LONGEST {
        return None;
    }
    let octets = parse_v6(&text[start..end])?;
    Some(Literal { start, end, what: What::Address(Canonical::v6(octets)), form: Form::Plain })
}

/// As long as the longest spelling of an address.
const LONGEST: usize = 45;

fn colons_of_any_kind(text: &[u8], floor: usize, place: usize) -> Reading {
    let (mut start, mut end, mut is_encoded) = (place, place, false);
    loop {
        match text[floor..start] {
            [.., b':'] => start -= 1,
            [.., digit] if digit.is_ascii_hexdigit() => match encoded_before(&text[floor..start]) {
                Some((b':', length)) => {
                    start -= length;
                    is_encoded = true;
                }
                _ => start -= 1,
            },
            _ => break,
        }
    }
    while let Some(&byte) = text.get(end) {
        if byte == b':' || byte.is_ascii_hexdigit() {
            end += 1;
        } else if let Some((b':', length)) = encoded(&text[end..]) {
            end += length;
            is_encoded = true;
        } else {
            break;
        }
    }
    let literal = match is_encoded {
        false => Groups::new(text, floor, start..end).read(&text[start..]),
        true => encoded_groups(text, floor, start..end),
    };
    literal.map_or(Reading::NoColonsBefore(end), Reading::Literal)
}

/// Reads a run in which colons are encoded as if they were not.
#[cold]
fn encoded_groups(text: &[u8], floor: usize, run: Range<usize>) -> Option<Literal> {
    let (mut plain, mut places) = (Vec::new(), Vec::new());
    let mut at = run.start;
    while at < run.end {
        places.push(at);
        match encoded(&text[at..]) {
            Some((byte, length)) => {
                plain.push(byte);
                at += length;
            }
            None => {
                plain.push(text[at]);
                at += 1;
            }
        }
    }
    let length = plain.len();
    // As far as four octets in dots can reach, and what is behind them.
    let rest = &text[run.end..text.len().min(run.end + 32)];
    for (place, &byte) in rest.iter().enumerate() {
        places.push(run.end + place);
        plain.push(byte);
    }
    places.push(run.end + rest.len());
    let groups = Groups { length, ..Groups::new(text, floor, run) };
    let mut literal = groups.read(&plain)?;
    let base = groups.base;
    let place = |at: usize| places[at - base];
    literal.form = Form::Encoded;
    literal.start = place(literal.start);
    literal.end = place(literal.end);
    Some(literal)
}

/// A run of hexadecimal digits and colons, and what is around it.
struct Groups {
    // Where it begins in the text.
    base: usize,
    length: usize,
    // How many of its first digits may belong to an escape.
    skips: &'static [usize],
    word_before: bool,
    word_after: bool,
}

impl Groups {
    #[inline]
    fn new(text: &[u8], floor: usize, run: Range<usize>) -> Self {
        Self {
            base: run.start,
            length: run.len(),
            skips: escaped(text, floor, run.start),
            word_before: is_word_before(&text[floor..run.start]),
            word_after: text.get(run.end).is_some_and(|&byte| is_word(byte)),
        }
    }

    /// Finds the address in `text`, of which the run is the beginning.
    #[inline]
    fn read(&self, text: &[u8]) -> Option<Literal> {
        // Unless a quad is the end of it, dots are not part of it.
        let quad = quad_after(text, self.length);
        let end = |run: &Range<usize>| if run.end == self.length { quad } else { run.end };
        let runs = || {
            let skips = self.skips.iter().filter(|&&skip| skip < self.length);
            skips.filter_map(|&skip| self.inside(text, skip))
        };
        if let Some(literal) = runs()
            .find_map(|run| self.address(text, run.start..end(&run)))
            .or_else(|| runs().find_map(|run| self.address_among_others(text, run)))
            .or_else(|| runs().find_map(|run| self.address_before_a_quad(text, run)))
        {
            return Some(literal);
        }
        let run = self.inside(text, 0)?;
        is_suspicious(&text[run.clone()]).then(|| self.literal(text, run, What::Unclear))
    }

    /// The run without what belongs to the words around it; nothing if it is a path of a program.
    #[inline]
    fn inside(&self, text: &[u8], skip: usize) -> Option<Range<usize>> {
        let mut run = skip..self.length;
        let mut is_path = false;
        if self.word_before && skip == 0 {
            let hex = hex_length(&text[run.clone()]);
            if !is_end_of_group(&text[..hex]) {
                let colons = colon_length(&text[hex..run.end]);
                is_path |= colons == 2;
                run.start = hex + if colons == 3 { 1 } else { colons };
            }
        }
        if self.word_after {
            let hex = text[run.clone()].iter().rev().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let group = &text[run.end - hex..run.end];
            if hex < run.len() && !is_start_of_group(group) {
                let colons = text[run.start..run.end - hex].iter().rev().take_while(|&&byte| byte == b':').count();
                is_path |= colons == 2;
                run.end -= hex + if colons == 3 { 1 } else { colons };
            }
        }
        let run = trimmed(text, run);
        // A path has no single colon.
        (!is_path || has_single_colon(&text[run.clone()])).then_some(run)
    }

    #[inline]
    fn address(&self, text: &[u8], place: Range<usize>) -> Option<Literal> {
        if place.len() > LONGEST {
            return None;
        }
        let octets = parse_v6(&text[place.clone()])?;
        Some(self.literal(text, place, What::Address(Canonical::v6(octets))))
    }

    /// An address that has a port behind it, or a name before it that might be a group.
    #[cold]
    fn address_among_others(&self, text: &[u8], run: Range<usize>) -> Option<Literal> {
        let all = &text[run.clone()];
        let first = hex_length(all);
        let last = all.iter().rposition(|&byte| byte == b':')? + 1;
        let named = || {
            if colon_length(&all[first..]) != 1 {
                return None;
            }
            let end = if run.end == self.length { quad_after(text, self.length) } else { run.end };
            self.address(text, run.start + first + 1..end)
        };
        let with_port = || {
            let (port, end) = decimal(all, last)?;
            if port > u32::from(u16::MAX) || end != all.len() {
                return None;
            }
            self.address(text, run.start..run.start + last - 1)
        };
        match all[..first].iter().all(u8::is_ascii_alphabetic) {
            true => named().or_else(with_port),
            false => with_port().or_else(named),
        }
    }

    /// An address that runs into the digits of another one, in dots.
    #[cold]
    fn address_before_a_quad(&self, text: &[u8], run: Range<usize>) -> Option<Literal> {
        let digits = text[run.clone()].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        if run.end != self.length || text.get(run.end) != Some(&b'.') || digits == 0 {
            return None;
        }
        self.address(text, run.start..run.end - digits)
    }

    #[inline]
    fn literal(&self, text: &[u8], place: Range<usize>, what: What) -> Literal {
        let end = place.end + zone_length(&text[place.end..]);
        Literal { start: self.base + place.start, end: self.base + end, what, form: Form::Plain }
    }
}

/// Whether a letter before a run is part of a word: not of an escape, nor of an ANSI sequence.
#[inline]
fn is_word_before(before: &[u8]) -> bool {
    match before {
        [.., b'\\', b'n' | b'r' | b't' | b'v' | b'0'] => false,
        [.., b'm'] => !ends_with_ansi(before),
        [.., byte] => is_word(*byte),
        [] => false,
    }
}

/// ECMA-48, 8.3.117: a control sequence that ends in "m", as it is or escaped.
fn ends_with_ansi(before: &[u8]) -> bool {
    // Longer than any: a foreground and a background in 24-bit color.
    const FAR: usize = 48;
    let parameters = before[..before.len() - 1]
        .iter()
        .rev()
        .take(FAR)
        .take_while(|byte| byte.is_ascii_digit() || matches!(byte, b';' | b':'))
        .count();
    let Some(introducer) = before[..before.len() - 1 - parameters].strip_suffix(b"[") else {
        return false;
    };
    [&b"\x1b"[..], b"\\x1b", b"\\x1B", b"\\u001b", b"\\u001B", b"\\033", b"\\e", b"#033", b"^["]
        .iter()
        .any(|escape| introducer.ends_with(escape))
}

/// Where four octets in dots end whose first is the last group of a run of that length; there if there are none.
#[inline]
fn quad_after(text: &[u8], length: usize) -> usize {
    if text.get(length) != Some(&b'.') {
        return length;
    }
    let mut at = length;
    for _ in 0..3 {
        match text.get(at).and_then(|&dot| (dot == b'.').then(|| decimal(text, at + 1))).flatten() {
            Some((octet, end)) if octet <= 255 => at = end,
            _ => return length,
        }
    }
    match text[at..] {
        [b'.', digit, ..] if digit.is_ascii_digit() => length,
        _ => at,
    }
}

/// Without a single colon at either end: one more than two is one, too.
#[inline]
fn trimmed(text: &[u8], mut run: Range<usize>) -> Range<usize> {
    let start = colon_length(&text[run.clone()]);
    if start == 1 || start == 3 {
        run.start += 1;
    }
    let end = text[run.clone()].iter().rev().take_while(|&&byte| byte == b':').count();
    if end == 1 || end == 3 {
        run.end -= 1;
    }
    run
}

#[inline]
fn colon_length(text: &[u8]) -> usize {
    text.iter().take_while(|&&byte| byte == b':').count()
}

/// Whether what is between a letter and a colon is a group: `2001` is, the end of `eth0` and of `node` is not.
fn is_end_of_group(hex: &[u8]) -> bool {
    is_like_a_group(hex) || (hex.len() >= 3 && hex[0].is_ascii_digit())
}

/// Whether what is between a colon and a letter is a group: `1` is, the beginning of `down` and of `failed` is not.
fn is_start_of_group(hex: &[u8]) -> bool {
    is_like_a_group(hex) || hex.first().is_some_and(u8::is_ascii_digit)
}

fn is_like_a_group(hex: &[u8]) -> bool {
    hex.len() == 4 && hex.iter().any(u8::is_ascii_digit)
}

fn has_single_colon(run: &[u8]) -> bool {
    let mut rest = run;
    while let Some(at) = rest.iter().position(|&byte| byte == b':') {
        let length = colon_length(&rest[at..]);
        if length == 1 {
            return true;
        }
        rest = &rest[at + length..];
    }
    false
}

/// Addresses that somebody has put together with colons, or cut: not times, MAC addresses, fingerprints or paths.
fn is_suspicious(run: &[u8]) -> bool {
    let groups = || run.split(|&byte| byte == b':');
    let (mut side_by_side, mut longest, mut length) = (false, 0, 0);
    for group in groups().skip(1) {
        side_by_side |= group.is_empty() && length > 0;
        length = if (1..=4).contains(&group.len()) { length + 1 } else { 0 };
        longest = longest.max(length);
    }
    groups().filter(|group| !group.is_empty()).count() >= 5
        && groups().filter(|group| matches!(group.len(), 3..=4)).count() >= 3
        && run.iter().any(u8::is_ascii_alphabetic)
        // Or nobody would have looked here, but for what stands before it.
        && (side_by_side || longest >= 4)
}

/// RFC 4007, 11: "%" and the name of an interface; "%25" in URLs.
fn zone_length(text: &[u8]) -> usize {
    // As long as the names of interfaces can be.
    const LONGEST: usize = 15;
    let start = match text {
        _ if encoded(text).is_some() => return 0,
        [b'%', b'2', b'5', ..] => 3,
        // Something else that is encoded.
        [b'%', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => return 0,
        [b'%', ..] => 1,
        _ => return 0,
    };
    let name = text[start..].iter().take_while(|&&byte| is_word(byte)).count();
    match name {
        1..=LONGEST => start + name,
        _ => 0,
    }
}
