//! Reads addresses that are groups of hexadecimal digits between colons.
//!
//! It takes time linear in the length of the run of groups, and each run is read once.

use std::ops::Range;

use super::literal::{
    Form, Literal, Reading, What, decimal, encoded, encoded_before, escaped, hex_length, is_hex_or_colon, is_word,
};
use super::numbers::{begins_another, is_in_host_name, is_port};
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
    let octets = groups_of_address(&text[start..end])?;
    Some(Literal { start, end, what: What::Address(Canonical::v6(octets)), form: Form::Plain })
}

/// Nobody has an address of eight octets: they are a name of hardware (EUI-64), or the end of a fingerprint.
#[inline]
fn groups_of_address(text: &[u8]) -> Option<[u8; 16]> {
    let octets = parse_v6(text)?;
    let are_octets = || text.len() == 8 * 3 - 1 && text.split(|&byte| byte == b':').all(|group| group.len() == 2);
    (octets[0] != 0 || !are_octets()).then_some(octets)
}

/// `::ffff:203.000.113.007`, which no parser takes and every log may have.
#[cold]
fn groups_and_padded_quad(text: &[u8]) -> Option<[u8; 16]> {
    let last = text.iter().rposition(|&byte| byte == b':')? + 1;
    let (mut spelling, quad) = (text[..last].to_vec(), &text[last..]);
    if !quad.contains(&b'.') {
        return None;
    }
    for (place, octet) in quad.split(|&byte| byte == b'.').enumerate() {
        if place > 0 {
            spelling.push(b'.');
        }
        let zeros = octet.iter().take_while(|&&digit| digit == b'0').count();
        spelling.extend_from_slice(&octet[zeros.min(octet.len().saturating_sub(1))..]);
    }
    parse_v6(&spelling)
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
        } else {
            match encoded(&text[end..]) {
                Some((b':', length)) => {
                    end += length;
                    is_encoded = true;
                }
                // The tail may be in dots.
                Some(_) => {
                    is_encoded = true;
                    break;
                }
                None => break,
            }
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
    let mut length = 0;
    // As far as four octets in dots can reach, and what is behind them.
    let far = text.len().min(run.end + 32);
    while at < far {
        if at == run.end {
            length = plain.len();
        }
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
    places.push(at);
    if at == run.end {
        length = plain.len();
    }
    let groups = Groups { length, ..Groups::new(text, floor, run) };
    let mut literal = groups.read(&plain)?;
    let base = groups.base;
    let place = |at: usize| places[at - base];
    literal.form = Form::Encoded;
    literal.start = place(literal.start);
    literal.end = place(literal.end);
    Some(literal)
}

/// `2001-db8--7.pod.example`: with dashes, as part of a host name.
///
/// It looks no further than the longest label, so it takes the same time wherever it is called.
#[inline]
pub(super) fn dashed(text: &[u8], floor: usize, place: usize) -> Option<Literal> {
    // The end of a UUID is longer than a group, and before an option there is none.
    let is_group_behind = (1..=GROUP).contains(&hex_length(&text[place + 1..text.len().min(place + 2 + GROUP)]));
    let begins_pair = |at: usize| {
        at > floor && text[at - 1].is_ascii_hexdigit() && text.get(at..at + 2).is_some_and(|pair| pair == b"--")
    };
    let is_pair = begins_pair(place) || place > floor && begins_pair(place - 1);
    (is_group_behind || is_pair).then(|| dashed_groups(text, floor, place)).flatten()
}

#[cold]
fn dashed_groups(text: &[u8], floor: usize, place: usize) -> Option<Literal> {
    // RFC 1035, 2.3.4: no label is longer.
    const FAR: usize = 63;
    let is_group = |byte: u8| byte == b'-' || byte.is_ascii_hexdigit();
    let (mut start, mut end) = (place, place);
    while end - place <= FAR && text.get(end).is_some_and(|&byte| is_group(byte)) {
        end += 1;
    }
    while end - start <= FAR && start > floor && is_group(text[start - 1]) {
        start -= 1;
    }
    let run = start..end;
    let dashes = text[run.clone()].iter().filter(|&&byte| byte == b'-').count();
    if run.len() > FAR || dashes < 7 && !text[run.clone()].windows(2).any(|pair| pair == b"--") {
        return None;
    }
    let groups: Vec<u8> = text[run.clone()].iter().map(|&byte| if byte == b'-' { b':' } else { byte }).collect();
    let start = begin_of_unicast(&groups)?;
    let ends = groups.iter().enumerate().rev().filter(|&(_, &byte)| byte == b':').map(|(end, _)| end);
    // Behind it the name may go on.
    let mut ends = [groups.len()].into_iter().chain(ends).take_while(|&end| end > start);
    let (end, octets) = ends.find_map(|end| Some((end, groups_of_address(&groups[start..end])?)))?;
    let (start, end) = (run.start + start, run.start + end);
    // Elsewhere in the run there is something else, or it was found already.
    let is_here = (start..end).contains(&place);
    if !is_here || is_date(&text[start..end]) || !is_in_host_name(&text[..start], &text[end..]) {
        return None;
    }
    Some(Literal { start, end, what: What::Address(Canonical::v6(octets)), form: Form::Name })
}

/// A year, and what has two digits at most.
fn is_date(groups: &[u8]) -> bool {
    groups
        .split(|&byte| byte == b'-')
        .enumerate()
        .all(|(place, group)| group.iter().all(u8::is_ascii_digit) && (place == 0 || group.len() <= 2))
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
        let mut runs = [const { None }; 3];
        for (run, &skip) in runs.iter_mut().zip(self.skips).filter(|(_, skip)| **skip < self.length) {
            // "::" is nobody's.
            *run = self.inside(text, skip).filter(|run| run.len() > 2);
        }
        if runs.iter().all(Option::is_none) {
            return None;
        }
        let runs = || runs.iter().flatten().cloned();
        // Unless a quad is the end of it, dots are not part of it.
        let quad = quad_after(text, self.length);
        let end = |run: &Range<usize>| if run.end == self.length { quad } else { run.end };
        runs().find_map(|run| self.address(text, run.start..end(&run))).or_else(|| self.joined(text, runs, end))
    }

    #[cold]
    fn joined<R: Iterator<Item = Range<usize>>>(
        &self,
        text: &[u8],
        runs: impl Fn() -> R,
        end: impl Fn(&Range<usize>) -> usize,
    ) -> Option<Literal> {
        runs()
            .find_map(|run| self.address_among_others(text, run.start..end(&run)))
            .or_else(|| runs().find_map(|run| self.address_before_a_quad(text, run)))
            // What was taken for the beginning of a word is a group.
            .or_else(|| runs().find_map(|run| self.address(text, run.start..self.length)))
            .or_else(|| {
                let run = self.inside(text, 0)?;
                let place = run.start..end(&run);
                is_suspicious(&text[run]).then(|| self.literal(text, place, What::Unclear))
            })
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
                if colons > 0 && is_joined_to_unicast(&text[..hex]) {
                    run.start = hex - GROUP;
                } else {
                    is_path |= colons == 2;
                    run.start = hex + if colons == 3 { 1 } else { colons };
                }
            }
        }
        if self.word_after {
            let hex = text[run.clone()].iter().rev().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let group = &text[run.end - hex..run.end];
            let is_number = group.iter().all(u8::is_ascii_digit);
            if hex > GROUP && !is_number && is_like_a_group(&group[..GROUP]) && has_single_colon(&text[run.clone()]) {
                // The word behind has begun in it.
                run.end -= hex - GROUP;
            } else if hex < run.len() && !is_start_of_group(group) {
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
        let all = &text[place.clone()];
        let octets = groups_of_address(all).or_else(|| groups_and_padded_quad(all))?;
        Some(self.literal(text, place, What::Address(Canonical::v6(octets))))
    }

    /// An address with what is no group of it before it or behind it: a name, a time, a number, a port.
    #[cold]
    fn address_among_others(&self, text: &[u8], run: Range<usize>) -> Option<Literal> {
        let all = &text[run.clone()];
        let first = hex_length(all);
        // Where the address ends if the numbers behind it are none of its groups.
        let port = without_number(all);
        let read = |start: usize, end: usize| self.address(text, run.start + start..run.start + end);
        let whole = |start| read(start, all.len());
        let with_port = |start| port.filter(|&end| end > start).and_then(|end| read(start, end));
        let begins = begin_of_unicast(all);
        if begins == Some(0) {
            // It may be a number before an address: nobody can tell.
            let next = all.get(first + 1..).map_or(&[][..], group);
            let is_number = all[..first].iter().all(u8::is_ascii_digit) && is_unicast(next);
            return with_port(0).filter(|_| !is_number || whole(first + 1).is_none());
        }
        let colons = colon_length(&all[first..]);
        let behind_name = match first {
            0 => None,
            // Not a group, nor a part of what is left out by two colons.
            _ if first > GROUP => Some(first + colons),
            _ => (colons == 1).then_some(first + 1),
        };
        let named = || behind_name.and_then(whole);
        let named_with_port = || behind_name.and_then(with_port);
        if let Some(start) = begins {
            let is_free = !holds_address(&all[..start]);
            if is_free && let Some(literal) = whole(start) {
                return Some(literal);
            }
            let is_name = start > first;
            return with_port(0)
                .or_else(|| with_port(start).filter(|_| is_free))
                .or_else(|| named().filter(|_| is_name));
        }
        match all[..first].iter().all(u8::is_ascii_alphabetic) {
            true => named().or_else(|| with_port(0)),
            false => with_port(0).or_else(named),
        }
        .or_else(named_with_port)
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
    // A fifth number is a port.
    at
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

/// Where a run ends without the number that is its last group, and no group of an address: a port, or what is longer than a
/// group.
fn without_number(run: &[u8]) -> Option<usize> {
    let last = run.iter().rposition(|&byte| byte == b':')?;
    let number = &run[last + 1..];
    let is_number = is_port(number) || number.len() > GROUP && number.iter().all(u8::is_ascii_hexdigit);
    (is_number && !run[..last].ends_with(b":")).then_some(last)
}

/// Where the first group is that addresses begin with; it may be the end of a longer word.
fn begin_of_unicast(run: &[u8]) -> Option<usize> {
    let mut start = 0;
    for group in run.split(|&byte| byte == b':') {
        let end = start + group.len();
        if is_unicast(group) {
            return Some(start);
        }
        if is_joined_to_unicast(group) {
            let next = run.get(end + 1..).map_or(&[][..], self::group);
            // Or it is a counter.
            if !group.iter().all(u8::is_ascii_digit) || !(next.is_empty() || is_unicast(next)) {
                return Some(end - GROUP);
            }
        }
        start = end + 1;
    }
    None
}

fn is_joined_to_unicast(group: &[u8]) -> bool {
    group.len() > GROUP && is_unicast(&group[group.len() - GROUP..])
}

/// The group that a text begins with.
fn group(text: &[u8]) -> &[u8] {
    &text[..hex_length(text)]
}

/// The digits of the longest group.
const GROUP: usize = 4;

/// Whether a group is the first of the addresses that there are: 2000::/3, fc00::/7, fe80::/10.
fn is_unicast(group: &[u8]) -> bool {
    let &[first, second, third, _] = group else {
        return false;
    };
    let is_range = match (first | 0x20, second | 0x20) {
        (b'2' | b'3', _) | (b'f', b'c' | b'd') => true,
        (b'f', b'e') => matches!(third | 0x20, b'8' | b'9' | b'a' | b'b'),
        _ => false,
    };
    is_range && group.iter().all(u8::is_ascii_hexdigit)
}

/// Whether there may be an address in what stands before another one.
fn holds_address(run: &[u8]) -> bool {
    run.windows(2).any(|pair| pair == b"::")
        || run.iter().filter(|&&byte| byte == b':').count() > 7
        || is_suspicious(run)
}

/// Addresses that somebody has put together with colons, or cut: not times, MAC addresses, fingerprints or paths.
fn is_suspicious(run: &[u8]) -> bool {
    is_cut(run) || is_joined(run) || has_beginning(run)
}

fn is_cut(run: &[u8]) -> bool {
    let groups = || run.split(|&byte| byte == b':');
    let (mut side_by_side, mut longest, mut length) = (false, 0, 0);
    for group in groups().skip(1) {
        side_by_side |= group.is_empty() && length > 0;
        length = if (1..=GROUP).contains(&group.len()) { length + 1 } else { 0 };
        longest = longest.max(length);
    }
    groups().filter(|group| !group.is_empty()).count() >= 5
        && groups().filter(|group| matches!(group.len(), 3..=GROUP)).count() >= 3
        && run.iter().any(u8::is_ascii_alphabetic)
        // Or nobody would have looked here, but for what stands before it.
        && (side_by_side || longest >= 4)
}

/// Paths have no single colon, and no digits to speak of.
fn is_joined(run: &[u8]) -> bool {
    run.windows(2).filter(|pair| pair == b"::").count() > 1
        && has_single_colon(run)
        && run.iter().any(u8::is_ascii_digit)
}

/// Whether an address begins somewhere, as those do that there are, and goes on to its end.
fn has_beginning(run: &[u8]) -> bool {
    // How many groups there are of what began first.
    let mut length = 0;
    let mut groups = run.split(|&byte| byte == b':').peekable();
    while let Some(group) = groups.next() {
        length = match group.len() {
            0 => 0,
            1..=GROUP if length > 0 || is_unicast(group) => length + 1,
            1..=GROUP => 0,
            // The eighth may run into something else.
            _ if length == 7 => 8,
            _ => usize::from(is_joined_to_unicast(group) && !group.iter().all(u8::is_ascii_digit)),
        };
        let is_before_two_colons = groups.peek().is_some_and(|next| next.is_empty()) && length > 0;
        if length == 8 || is_before_two_colons {
            return true;
        }
    }
    false
}

/// RFC 4007, 11: "%" and the name or the number of an interface; "%25" in URLs.
fn zone_length(text: &[u8]) -> usize {
    // As long as the names of interfaces can be.
    const LONGEST: usize = 15;
    let start = match text {
        _ if encoded(text).is_some() => return 0,
        [b'%', b'2', b'5', ..] => 3,
        [b'%', a, b, ..] if is_escape(*a, *b) => return 0,
        [b'%', ..] => 1,
        _ => return 0,
    };
    if begins_another(text, start) {
        return 0;
    }
    let word = |from: usize| text[from..].iter().take(LONGEST + 1).take_while(|&&byte| is_word(byte)).count();
    let mut end = start + word(start);
    if !(start + 1..=start + LONGEST).contains(&end) {
        return 0;
    }
    // `br-4f2a`, `en0.1`.
    while let Some(b'-' | b'.') = text.get(end) {
        let next = end + 1 + word(end + 1);
        if next == end + 1 || next > start + LONGEST || begins_another(text, end + 1) {
            break;
        }
        end = next;
    }
    end
}

/// Whether two characters behind a percent sign are something else that is encoded: not a digit, a letter or a control
/// character, which nobody encodes. Then they are the number of an interface.
fn is_escape(a: u8, b: u8) -> bool {
    match (a, b) {
        (b'0' | b'2', b'0'..=b'9') | (b'4' | b'6', b'0') => true,
        (b'0'..=b'9', b'0'..=b'9') => false,
        _ => a.is_ascii_hexdigit() && b.is_ascii_hexdigit(),
    }
}
