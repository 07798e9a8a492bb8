//! Reads addresses that are decimal numbers: in dots, in dashes, and below `arpa`.
//!
//! It takes time linear in the length of the run of numbers, and each run is read once.

use std::ops::Range;

use super::literal::{
    Form, Literal, Reading, What, decimal, encoded, encoded_before, escaped, hex_length, is_hex_or_colon, is_word,
};
use crate::addr::Canonical;

/// `203.0.113.7`, and what ends in `.in-addr.arpa` or `.ip6.arpa`.
#[inline]
pub(super) fn dotted(text: &[u8], floor: usize, place: usize) -> Reading {
    match quad_around(text, floor, place) {
        Some((start, end, octets)) => literal(start, end, octets, Form::Plain),
        None => dotted_of_any_kind(text, floor, place),
    }
}

/// Four octets, of which the third ends at the dot at `place`, if nothing around them could make them something else.
///
/// No branch depends on how long the octets are: that can't be foreseen, and costs more than all the rest.
#[inline]
fn quad_around(text: &[u8], floor: usize, place: usize) -> Option<(usize, usize, [u8; 4])> {
    // Up to four digits and a dot three times, whatever is there, four bytes behind, and one on either side.
    const BEFORE: usize = 16;
    const BEHIND: usize = 6;
    let from = place.checked_sub(BEFORE).filter(|&from| from >= floor)?;
    let window: &[u8; BEFORE + BEHIND] = text.get(from..)?.first_chunk()?;
    let word = |at: usize| window.get(at..)?.first_chunk().map(|bytes: &[u8; 4]| u32::from_le_bytes(*bytes));

    let third = BEFORE;
    let (c, length) = octet_before(word(third - 4)?);
    let second = third - length - 1;
    let (b, length) = octet_before(word(second - 4)?);
    let first = second - length - 1;
    let (a, length) = octet_before(word(first - 4)?);
    let start = first - length;
    // The fourth reads like the others when it is moved to the end of its word.
    let behind = word(third + 1)?;
    let length = (not_digits(behind).trailing_zeros() / 8) as usize;
    let (d, _) = octet_before(behind.unbounded_shl(8 * (4 - length as u32)));
    let end = third + 1 + length;

    let are_octets = a <= 255 && b <= 255 && c <= 255 && d <= 255;
    let are_dotted = window[second] == b'.' && window[first] == b'.';
    let is_alone = !can_go_on_before(window[start - 1]) && !matches!(window[end], b'.' | b'%');
    (are_octets && are_dotted && is_alone && (1..=3).contains(&length))
        .then(|| (from + start, from + end, [a as u8, b as u8, c as u8, d as u8]))
}

/// The number of up to three digits that a word ends with, and how many they are; a number that is no octet if there are
/// none, or more.
#[inline]
fn octet_before(word: u32) -> (u32, usize) {
    let length = not_digits(word).leading_zeros() / 8;
    let digits = word & u32::MAX.unbounded_shl(8 * (4 - length)) & 0x0f0f_0f0f;
    let value = (digits >> 8 & 15) * 100 + (digits >> 16 & 15) * 10 + (digits >> 24);
    (if (1..=3).contains(&length) { value } else { u32::MAX }, length as usize)
}

/// 0x80 in each byte that is not a digit.
#[inline]
fn not_digits(word: u32) -> u32 {
    // 0x30 to 0x39: 3 above, and 6 more don't carry from below.
    let above = (word & 0xf0f0_f0f0) ^ 0x3030_3030;
    let below = ((word & 0x0f0f_0f0f) + 0x0606_0606) & 0x1010_1010;
    let differs = above | below;
    (((differs & 0x7f7f_7f7f) + 0x7f7f_7f7f) | differs) & 0x8080_8080
}

/// Whether what comes before a number can be part of what the number is part of, or an escape that takes digits of it.
#[inline]
fn can_go_on_before(byte: u8) -> bool {
    matches!(byte, b'.' | b'%' | b'x' | b'u' | b'\\' | b'#' | b'A'..=b'F' | b'a'..=b'f' | b'0'..=b'9')
}

pub(super) fn dotted_of_any_kind(text: &[u8], floor: usize, place: usize) -> Reading {
    let start = start_of_numbers(text, floor, place, b'.');
    let numbers = Numbers::read(text, start, b'.');
    let end = numbers.end;
    if numbers.might_be_nibbles()
        && let Some(literal) = nibbles(text, floor, place)
    {
        return Reading::Literal(literal);
    }
    if numbers.count > 4 {
        return among_others(text, floor, start..end);
    }
    let Some((start, mut octets)) = numbers.octets(text, floor, start) else {
        return Reading::NoNumbersBefore(end.max(place + 1));
    };
    let is_reversed = starts_with(&text[end..], b".in-addr.arpa");
    if is_reversed {
        octets.reverse();
    }
    literal(start, end, octets, if is_reversed { Form::Name } else { form(&text[start..end]) })
}

fn form(spelling: &[u8]) -> Form {
    if spelling.contains(&b'%') { Form::Encoded } else { Form::Plain }
}

/// The first address among five numbers or more.
///
/// Numbers that are no octets are something else: a time, a process. What is between them is read as if it stood alone.
#[cold]
fn among_others(text: &[u8], floor: usize, run: Range<usize>) -> Reading {
    let parts: Vec<Part> = Part::all(text, floor, run.clone()).take(MANY).collect();
    // Nobody joins so many, and each address found would lead to another look at all the others.
    let is_cut = parts.last().is_none_or(|last| last.end < run.end);
    let end = run.end;
    let nothing = Reading::NoNumbersBefore(end);
    let quad = |parts: &[Part]| {
        let octets = [0, 1, 2, 3].map(|place| parts[place].octet.unwrap_or_default());
        let (start, end) = (parts[0].start, parts[3].end);
        literal(start, end, octets, form(&text[start..end]))
    };
    let unclear = |parts: &[Part], end: usize| {
        Reading::Literal(Literal { start: parts[0].start, end, what: What::Unclear, form: Form::Plain })
    };
    let begins_with_quad = parts.len() > 4 && parts[..4].iter().all(|part| part.octet.is_some());
    if begins_with_quad && parts.len() == 5 {
        let (start, last) = (parts[0].start, &text[parts[4].start..end]);
        if is_marked(&text[..start], &text[end..], last)
            || is_of_tcpflow(&text[start..end])
            || begins_another(text, parts[4].start)
        {
            return quad(&parts);
        }
    }
    if is_identifier(&text[..run.start], &parts) {
        // No arc is as long as the seconds since 1970.
        let is_before_time = begins_with_quad && parts[4].length() >= SECONDS;
        return if is_before_time { quad(&parts) } else { nothing };
    }
    if is_cut {
        return if has_large(&parts) { unclear(&parts, end) } else { nothing };
    }
    let mut before = None;
    for octets in parts.chunk_by(|a, b| a.octet.is_some() == b.octet.is_some()) {
        if octets[0].octet.is_some()
            && !is_padded(octets, text)
            && !before.is_some_and(|year| is_date(text, year, octets))
        {
            match octets.len() {
                // With a port, or with another one.
                4 | 5 | 8 => return quad(octets),
                6.. if has_large(octets) => return unclear(octets, octets[octets.len() - 1].end),
                _ => {}
            }
        }
        before = octets.last();
    }
    nothing
}

/// How many numbers are looked at one by one.
const MANY: usize = 64;

/// As many digits as the seconds since 1970 have had from 1973 on.
const SECONDS: usize = 9;

/// One of several numbers in dots.
struct Part {
    start: usize,
    end: usize,
    octet: Option<u8>,
}

impl Part {
    fn all(text: &[u8], floor: usize, run: Range<usize>) -> impl Iterator<Item = Self> {
        let mut at = run.start;
        std::iter::from_fn(move || {
            let (first, mut start) = (at, at);
            let end = first + text[first..run.end].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if end == first {
                return None;
            }
            if first == run.start {
                // The first digits may belong to an escape.
                let skips = escaped(text, floor, first).iter().map(|skip| first + skip);
                start = skips.clone().find(|&start| octet(&text[start.min(end)..end]).is_some()).unwrap_or(first);
            }
            at = match text[end..run.end] {
                [] => end,
                [b'.', ..] => end + 1,
                ref rest => end + encoded(rest).map_or(0, |(_, length)| length),
            };
            Some(Self { start, end, octet: octet(&text[start..end]) })
        })
    }

    fn length(&self) -> usize {
        self.end - self.start
    }
}

fn octet(digits: &[u8]) -> Option<u8> {
    if !(1..=3).contains(&digits.len()) {
        return None;
    }
    u8::try_from(digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'))).ok()
}

/// Whether numbers in dots may be an object identifier.
///
/// X.660, A.2: the first is 0, 1 or 2, and after 0 or 1 the second is below 40. After 2, none is given out from 60 to 255.
/// Net-SNMP writes `iso.3.6.1` for `1.3.6.1`.
fn is_identifier(before: &[u8], parts: &[Part]) -> bool {
    match (parts[0].octet, parts[1].octet) {
        (Some(0 | 1), second) => second.is_some_and(|second| second < 40),
        (Some(2), second) => second.is_none_or(|second| second < 60),
        (Some(3), Some(6)) => before.ends_with(b"iso."),
        _ => false,
    }
}

/// Whether numbers are padded like the parts of a version, `09`: octets are padded to three digits.
fn is_padded(parts: &[Part], text: &[u8]) -> bool {
    parts.iter().take(4).any(|part| part.length() == 2 && text[part.start] == b'0')
}

/// Whether there are numbers as few versions have, and most addresses.
fn has_large(parts: &[Part]) -> bool {
    parts.iter().any(|part| part.octet.is_some_and(|octet| octet >= 100))
}

/// Whether numbers are a month, a day, an hour and a minute behind a year: `2026.11.25.12.34`.
fn is_date(text: &[u8], year: &Part, parts: &[Part]) -> bool {
    let is_year = year.length() == 4 && matches!(text[year.start..], [b'1', b'9', ..] | [b'2', b'0', ..]);
    let ranges = [1..=12, 1..=31, 0..=23, 0..=59, 0..=60];
    let fits = || parts.iter().zip(ranges).all(|(part, range)| part.octet.is_some_and(|octet| range.contains(&octet)));
    is_year && parts.len() <= 5 && fits()
}

/// Whether an address and a port are where tcpdump has them: then the port can be any number, as NFS has.
fn is_marked(before: &[u8], behind: &[u8], port: &[u8]) -> bool {
    let is_before = [&b"IP "[..], b"> ", b"->"].iter().any(|mark| before.ends_with(mark));
    let is_behind = [&b" > "[..], b" -> ", b"->"].iter().any(|mark| behind.starts_with(mark));
    port.len() <= 10 && (is_before || is_behind)
}

pub(super) fn is_port(number: &[u8]) -> bool {
    decimal(number, 0).is_some_and(|(port, end)| end == number.len() && port <= u32::from(u16::MAX))
}

/// `203.000.113.007.00443`: three digits in each octet, and five in the port.
fn is_of_tcpflow(numbers: &[u8]) -> bool {
    numbers.len() == 4 * 4 + 5 && (0..4).all(|octet| numbers[4 * octet + 3] == b'.')
}

/// Whether the number there is the first of an address of its own.
pub(super) fn begins_another(text: &[u8], start: usize) -> bool {
    let behind = &text[start + hex_length(&text[start..])..];
    let is_group = match behind {
        [b':', next, ..] => (is_hex_or_colon(*next) || *next == b'%') && !is_port_alone(&behind[1..]),
        _ => matches!(encoded(behind), Some((b':', _))),
    };
    is_group || begins_a_quad(text, start)
}

/// Whether there is a port, and no group behind it: an IPv6 address has two colons or more.
fn is_port_alone(text: &[u8]) -> bool {
    let length = hex_length(text);
    is_port(&text[..length]) && text.get(length) != Some(&b':') && encoded(&text[length..]).is_none()
}

/// `203-0-113-7`, as part of a host name: `ec2-203-0-113-7.compute.example`.
pub(super) fn dashed(text: &[u8], floor: usize, place: usize) -> Reading {
    let mut start = start_of_numbers(text, floor, place, b'-');
    let mut numbers = Numbers::read(text, start, b'-');
    let all = numbers.end;
    // The first may be the end of a word.
    if numbers.count >= 5 && text[floor..start].last().is_some_and(u8::is_ascii_alphabetic) {
        start = numbers.ends[0] + 1;
        numbers = Numbers::read(text, start, b'-');
    }
    let Some((start, octets)) = numbers.octets(text, floor, start) else {
        return Reading::NoNumbersBefore(all);
    };
    let end = numbers.ends[3];
    let is_in_name = is_in_host_name(&text[..start], &text[all..]);
    let last = text[..all].iter().rposition(|&byte| byte == b'-').map_or(start, |dash| dash + 1);
    let is_another =
        text[all..].first().is_some_and(|&byte| byte == b'.' || byte == b':') && begins_another(text, last);
    match numbers.count {
        4 if !is_another && is_in_name => literal(start, end, octets, Form::Name),
        5 if is_another => literal(start, end, octets, Form::Name),
        // Nobody can tell which four.
        5.. if is_in_name && has_large_octets(&text[start..all]) => {
            Reading::Literal(Literal { start, end: all, what: What::Unclear, form: Form::Name })
        }
        _ => Reading::NoNumbersBefore(all),
    }
}

/// Whether all of some numbers in dashes are octets, and so large as few parts of a version or a date are.
#[cold]
fn has_large_octets(numbers: &[u8]) -> bool {
    let octets = || numbers.split(|&byte| byte == b'-').map(octet);
    octets().all(|octet| octet.is_some()) && octets().flatten().filter(|&octet| octet >= 100).count() > 0
}

/// A host name has letters: dates, ranges and telephone numbers have none.
pub(super) fn is_in_host_name(before: &[u8], after: &[u8]) -> bool {
    // RFC 1035, 2.3.4: no label is longer.
    const FAR: usize = 63;
    let is_host = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let has_letter = |byte: &u8| byte.is_ascii_alphabetic();
    before.iter().rev().take(FAR).take_while(is_host).any(has_letter)
        || after.iter().take(FAR).take_while(is_host).any(has_letter)
}

fn literal(start: usize, end: usize, octets: [u8; 4], form: Form) -> Reading {
    Reading::Literal(Literal { start, end, what: What::Address(Canonical::V4(octets)), form })
}

/// Whether there are four octets in dots, and perhaps a port behind them.
#[cold]
pub(super) fn begins_a_quad_and_port(text: &[u8], start: usize) -> bool {
    let numbers = Numbers::read(text, start, b'.');
    (4..=5).contains(&numbers.count) && numbers.octets(text, start, start).is_some()
}

/// Whether there are four octets in dots.
fn begins_a_quad(text: &[u8], start: usize) -> bool {
    let numbers = Numbers::read(text, start, b'.');
    numbers.count == 4 && numbers.octets(text, start, start).is_some()
}

/// Where the numbers begin of which the separator at `place` stands behind one.
#[inline]
fn start_of_numbers(text: &[u8], floor: usize, place: usize, separator: u8) -> usize {
    let mut start = place;
    loop {
        let digits = text[floor..start].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return match text.get(start) {
                Some(&byte) if byte == separator => start + 1,
                Some(b'%') => start + encoded(&text[start..]).map_or(0, |(_, length)| length),
                _ => start,
            };
        }
        start -= digits;
        match text[floor..start] {
            [.., digit, byte] if byte == separator && digit.is_ascii_digit() => start -= 1,
            [.., b'E' | b'e'] if separator == b'.' => match encoded_before(&text[floor..start]) {
                Some((b'.', length)) => start -= length,
                _ => return start,
            },
            _ => return start,
        }
    }
}

/// Decimal numbers with a separator between them, as many as there are.
struct Numbers {
    // Of the first four: what they are, and where they end.
    values: [u16; 4],
    ends: [usize; 4],
    count: usize,
    // Each has one to three digits.
    short: bool,
    one_digit: bool,
    end: usize,
}

impl Numbers {
    #[inline]
    fn read(text: &[u8], start: usize, separator: u8) -> Self {
        let mut new = Self { values: [0; 4], ends: [0; 4], count: 0, short: true, one_digit: true, end: start };
        let mut at = start;
        loop {
            let mut value = 0_u16;
            let first = at;
            while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10) {
                value = value.wrapping_mul(10).wrapping_add(u16::from(digit));
                at += 1;
            }
            let length = at - first;
            if length == 0 {
                return new;
            }
            new.one_digit &= length == 1;
            if new.count < 4 {
                // The first may have digits of something else in front.
                new.short &= length <= 3 || new.count == 0;
                new.values[new.count] = if length <= 3 { value } else { u16::MAX };
                new.ends[new.count] = at;
            }
            new.count += 1;
            new.end = at;
            match text.get(at) {
                Some(&byte) if byte == separator => at += 1,
                Some(b'%') if separator == b'.' => match encoded(&text[at..]) {
                    Some((b'.', length)) => at += length,
                    _ => return new,
                },
                _ => return new,
            }
        }
    }

    /// The first four as octets, and where they begin: the first digits may belong to an escape.
    #[inline]
    fn octets(&self, text: &[u8], floor: usize, start: usize) -> Option<(usize, [u8; 4])> {
        if self.count < 4 || !self.short {
            return None;
        }
        let [_, b, c, d] = self.values;
        let (b, c, d) = (u8::try_from(b).ok()?, u8::try_from(c).ok()?, u8::try_from(d).ok()?);
        for &skip in escaped(text, floor, start) {
            let digits = &text[(start + skip).min(self.ends[0])..self.ends[0]];
            if (1..=3).contains(&digits.len()) {
                let value = digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
                if let Ok(a) = u8::try_from(value) {
                    return Some((start + skip, [a, b, c, d]));
                }
            }
        }
        None
    }

    fn might_be_nibbles(&self) -> bool {
        self.one_digit || self.count < 4
    }
}

/// `7.0.0.0.…8.b.d.0.1.0.0.2.ip6.arpa`: a digit for every four bits, the last first (RFC 3596, 2.5).
#[cold]
fn nibbles(text: &[u8], floor: usize, place: usize) -> Option<Literal> {
    const ALL: usize = 32;
    let is_nibble = |at: usize| text.get(at).is_some_and(u8::is_ascii_hexdigit);
    let is_dot = |at: usize| text.get(at) == Some(&b'.');
    let (mut start, mut dot) = (place + 1, place);
    // The first place that is looked at is the fourth dot: what has more before it was looked at already.
    let floor = floor.max(place.saturating_sub(8));
    while dot > floor && is_nibble(dot - 1) {
        let before = (dot - 1).checked_sub(1).filter(|&before| before >= floor);
        match before.map(|before| text[before]) {
            Some(b'.') => (start, dot) = (dot - 1, dot - 2),
            // A longer label.
            Some(byte) if is_word(byte) || byte == b'-' => break,
            _ => {
                start = dot - 1;
                break;
            }
        }
    }
    let mut end = start;
    while end - start <= 2 * ALL && is_nibble(end) && is_dot(end + 1) {
        end += 2;
    }
    let count = (end - start) / 2;
    // Up to /48 it names a network. Whatever is below the whole of an address: lists of senders of spam are.
    let is_reversed = ["ip6.arpa", "ip6.int"].iter().any(|zone| starts_with(&text[end..], zone.as_bytes()));
    let is_label = text.get(end).is_some_and(u8::is_ascii_alphabetic);
    let is_name = match is_reversed {
        true => (13..=ALL).contains(&count),
        false => count == ALL && is_label && !ends_with_nibble(&text[..start]),
    };
    if !is_name {
        return None;
    }
    let digits = text[start..end].iter().step_by(2);
    let bits = digits.rev().fold(0, |bits, &digit| bits << 4 | u128::from(hex(digit)));
    let address = bits << (4 * (ALL - count));
    let what = What::Address(Canonical::v6(address.to_be_bytes()));
    Some(Literal { start, end: end - 1, what, form: Form::Name })
}

/// Whether there are more digits in dots than that many.
fn ends_with_nibble(before: &[u8]) -> bool {
    match before {
        [.., byte, digit, b'.'] => digit.is_ascii_hexdigit() && !(is_word(*byte) || *byte == b'-'),
        [digit, b'.'] => digit.is_ascii_hexdigit(),
        _ => false,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        letter => (letter | 0x20) - b'a' + 10,
    }
}

fn starts_with(text: &[u8], lower: &[u8]) -> bool {
    text.get(..lower.len()).is_some_and(|start| start.eq_ignore_ascii_case(lower))
}
