//! Where the addresses are in a text.
//!
//! Most of a text is nowhere near an address. So 64 bytes at a time become bitmaps, and a few shifts of these leave the
//! places where the separators of an address can be: [`numbers`] and [`groups`] are read around those.

use super::{
    groups,
    kinds::{BLOCK, Kinds},
    literal::{Literal, Reading, encoded},
    numbers,
};

/// The literals in a text, from left to right.
pub(super) struct Finder<'t> {
    text: &'t [u8],
    // Where the block is that `places` are in, and where the next one is.
    block: usize,
    next: usize,
    // A bit for each place that is left to look at.
    places: u64,
    // Everything before here is decided: it is in a literal, or in something that is none.
    decided: usize,
    // Dots and dashes before here lead to no literal, nor do colons before there.
    no_numbers: usize,
    no_colons: usize,
}

/// How far back an address's first separator can be from the last one that is looked for. Blocks overlap by so much.
const BACK: usize = 16;

impl<'t> Finder<'t> {
    #[inline]
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self { text, block: 0, next: 0, places: 0, decided: 0, no_numbers: 0, no_colons: 0 }
    }

    /// Goes on to the next block; false at the end of the text.
    #[inline]
    fn turn(&mut self) -> bool {
        let seen = if self.next == 0 { 0 } else { BACK };
        match self.text.get(self.next..) {
            Some(rest) if rest.len() > seen => {
                let kinds = match rest.first_chunk::<BLOCK>() {
                    Some(block) => Kinds::of(block),
                    None => {
                        let mut block = [0; BLOCK];
                        block[..rest.len()].copy_from_slice(rest);
                        Kinds::of(&block)
                    }
                };
                self.places = places(kinds) & u64::MAX << seen;
                self.block = self.next;
                self.next += BLOCK - BACK;
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn look(&mut self, place: usize) -> Option<Literal> {
        if place < self.decided {
            return None;
        }
        let reading = match self.text[place] {
            b':' if place < self.no_colons => return None,
            b':' => groups::colons(self.text, self.decided, place),
            b'%' if place < self.no_colons || place < self.no_numbers => return None,
            b'%' => match encoded(&self.text[place..]) {
                Some((b':', _)) => groups::colons(self.text, self.decided, place),
                Some((b'.', _)) => numbers::dotted_of_any_kind(self.text, self.decided, place),
                _ => Reading::Nothing,
            },
            b'-' => match groups::dashed(self.text, self.decided, place) {
                Some(literal) => Reading::Literal(literal),
                None if place < self.no_numbers => return None,
                None => numbers::dashed(self.text, self.decided, place),
            },
            _ if place < self.no_numbers => return None,
            _ => numbers::dotted(self.text, self.decided, place),
        };
        match reading {
            Reading::Literal(literal) => {
                self.decided = literal.end;
                Some(literal)
            }
            Reading::Nothing => None,
            Reading::NoNumbersBefore(end) => {
                self.no_numbers = end;
                None
            }
            Reading::NoColonsBefore(end) => {
                self.no_colons = end;
                None
            }
        }
    }
}

impl Iterator for Finder<'_> {
    type Item = Literal;

    #[inline]
    fn next(&mut self) -> Option<Literal> {
        loop {
            while self.places != 0 {
                let place = self.block + self.places.trailing_zeros() as usize;
                self.places &= self.places - 1;
                if let Some(literal) = self.look(place) {
                    return Some(literal);
                }
            }
            if !self.turn() {
                return None;
            }
        }
    }
}

/// The places in a block where an address shows: the last of the separators that every address of a form has.
///
/// | form | separators |
/// |---|---|
/// | `203.0.113.7`, `203-0-113-7` | three after digits, each 2 to 4 after the one before |
/// | `1.0.0.0.` of `ip6.arpa` | four dots, each 2 after the one before |
/// | `2001:db8::1` | two colons side by side |
/// | `2001:db8:1:2:3:4:5:6` | four colons, each 2 to 5 after the one before |
/// | the same two in a host name | dashes instead of colons |
/// | `%3A`, `%2E` | a percent sign |
#[inline]
fn places(kinds: Kinds) -> u64 {
    let Kinds { digits, dots, dashes, colons, percents } = kinds;

    let first = (dots | dashes) & digits << 1;
    let second = first & after_2_to_4(first);
    let quad = first & after_2_to_4(second);

    let two = dots & dots << 2;
    let nibbles = two & two << 4;

    let side_by_side = colons & colons << 1;
    let groups = fourth(colons);

    // Not of a line of dashes.
    let dashes_side_by_side = dashes & dashes << 1 & !(dashes << 2);
    let dashed_groups = fourth(dashes);

    quad | nibbles | side_by_side | groups | dashes_side_by_side | dashed_groups | percents
}

/// The places of `bits` before which there are three more, each so far from the next as groups are long.
#[inline]
fn fourth(bits: u64) -> u64 {
    let two = bits & after_2_to_5(bits);
    if two == 0 {
        return 0;
    }
    let three = two & after_2_to_5(two);
    three & after_2_to_5(three)
}

/// The places that are so far after one of `bits`.
#[inline]
fn after_2_to_4(bits: u64) -> u64 {
    (bits | bits << 1 | bits << 2) << 2
}

#[inline]
fn after_2_to_5(bits: u64) -> u64 {
    let pairs = bits | bits << 1;
    (pairs | pairs << 2) << 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is found if every separator is looked at.
    fn everywhere(text: &[u8]) -> Vec<(usize, usize)> {
        let mut finder = Finder::new(text);
        let separators = (0..text.len()).filter(|&place| b".-:%".contains(&text[place]));
        separators.filter_map(|place| finder.look(place)).map(|literal| (literal.start, literal.end)).collect()
    }

    #[track_caller]
    fn check(text: &[u8]) {
        let found: Vec<_> = Finder::new(text).map(|literal| (literal.start, literal.end)).collect();
        assert_eq!(found, everywhere(text), "{:?}", String::from_utf8_lossy(text));
    }

    proptest! {
        #[test]
        fn no_place_is_overlooked(text in "([0-9a-f]{0,4}[.:%-]|2E|3A|[0-9]{1,3}| |m|203\\.0\\.113\\.7|2001:db8::7|1-2-3-4|2001-db8--7|2001-db8-1-2-3-4-5-a|--){0,60}") {
            check(text.as_bytes());
        }

        #[test]
        fn wherever_it_stands(before in " {0,130}", text in "203\\.0\\.113\\.7|2001:db8:1:2:3:4:5:6|::1|a1-2-3-4|2001-db8--7\\.x|2001-db8-1-2-3-4-5-a\\.x") {
            let line = format!("{before}{text}");
            check(line.as_bytes());
            prop_assert_eq!(Finder::new(line.as_bytes()).count(), 1);
        }
    }
}
