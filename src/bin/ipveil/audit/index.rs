//! Finds any of a hundred thousand byte strings in a text, at the speed of one look for each byte.
//!
//! Each string has an anchor: some bytes of it, at a known distance from its start. A bitmap says for almost every place of a
//! text that no anchor is there.

use std::{collections::HashSet, net::IpAddr, ops::Range};

use super::forms::{self, Bound, Class, Encoding, Form};

/// What is looked for.
pub(crate) struct Index {
    bytes: Vec<u8>,
    patterns: Vec<Pattern>,
    // Anchors of six bytes, and those of four for what is no longer.
    long: Anchors,
    short: Anchors,
}

#[derive(Clone, Copy)]
struct Pattern {
    start: u32,
    length: u16,
    enough: u16,
    anchor: u16,
    bound: Bound,
    class: Option<Class>,
    canary: u32,
    form: Form,
}

/// Something was found: where, and what it is.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) place: Range<usize>,
    pub(crate) canary: usize,
    pub(crate) form: Form,
    pub(crate) class: Option<Class>,
}

/// How far a string reaches to either side of its anchor at most.
pub(crate) const REACH: usize = 256;
/// So much has to be readable behind a text, whatever it is.
pub(crate) const PADDING: usize = 8;

impl Index {
    /// Looks for all forms of these addresses, each known by its place in the list.
    pub(crate) fn new(canaries: impl IntoIterator<Item = IpAddr>) -> Self {
        let (mut bytes, mut patterns) = (Vec::new(), Vec::<Pattern>::new());
        for (canary, address) in canaries.into_iter().enumerate() {
            let mut known = HashSet::new();
            forms::sought(address, |sought| {
                // What is shorter is in every text; a scrubber finds it if it is an address.
                let is_too_short =
                    sought.bytes.len() < LONG && !matches!(sought.form.encoding, Encoding::Raw | Encoding::RawSwapped);
                if is_too_short || !known.insert(sought.bytes.to_vec()) {
                    return;
                }
                let anchor = if sought.enough < LONG { SHORT } else { LONG };
                patterns.push(Pattern {
                    start: bytes.len() as u32,
                    length: sought.bytes.len() as u16,
                    enough: sought.enough as u16,
                    anchor: (sought.enough - anchor) as u16,
                    bound: sought.bound,
                    class: sought.class,
                    canary: canary as u32,
                    form: sought.form,
                });
                bytes.extend_from_slice(sought.bytes);
            });
        }
        let anchors = |is_short: bool, width| {
            Anchors::new(patterns.iter().enumerate().filter_map(|(number, pattern)| {
                let start = (pattern.start + u32::from(pattern.anchor)) as usize;
                let is_of = (usize::from(pattern.enough) < LONG) == is_short;
                is_of.then(|| (number as u32, key(&bytes[start..start + width])))
            }))
        };
        let (long, short) = (anchors(false, LONG), anchors(true, SHORT));
        Self { bytes, patterns, long, short }
    }

    /// How many there are of a class, and their bytes.
    pub(crate) fn of_class(&self, class: Class) -> impl Iterator<Item = &[u8]> {
        let of_class = self.patterns.iter().filter(move |pattern| pattern.class == Some(class));
        of_class.map(|pattern| self.bytes_of(pattern))
    }

    fn bytes_of(&self, pattern: &Pattern) -> &[u8] {
        &self.bytes[pattern.start as usize..][..usize::from(pattern.length)]
    }

    /// What has its anchor in `range`. Behind the text there is [padding](PADDING). What is shorter than six bytes is
    /// looked for on request.
    pub(crate) fn search(&self, text: &[u8], range: Range<usize>, with_short: bool, hits: &mut Vec<Hit>) {
        let end = text.len() - PADDING;
        let window = &text[range.start..(range.end + 7).min(text.len())];
        for (distance, eight) in window.windows(8).enumerate() {
            let word = u64::from_le_bytes(*eight.first_chunk().expect("a window of eight has eight"));
            let hash = hash(word & MASK_LONG);
            if self.long.may_have(hash) {
                self.look(&text[..end], range.start + distance, self.long.chain(hash), hits);
            }
        }
        if with_short {
            for (distance, four) in window.windows(8).enumerate() {
                let word = u64::from_le_bytes(*four.first_chunk().expect("a window of eight has eight"));
                let hash = hash(word & MASK_SHORT);
                if self.short.may_have(hash) {
                    self.look(&text[..end], range.start + distance, self.short.chain(hash), hits);
                }
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn look(&self, text: &[u8], place: usize, chain: &[(u64, u32)], hits: &mut Vec<Hit>) {
        for &(_, number) in chain {
            let pattern = &self.patterns[number as usize];
            let Some(start) = place.checked_sub(usize::from(pattern.anchor)) else { continue };
            let bytes = self.bytes_of(pattern);
            let Some(there) = text.get(start..start + usize::from(pattern.enough)) else { continue };
            if there != &bytes[..there.len()] {
                continue;
            }
            let rest = text[start..].iter().zip(bytes);
            let end = start + rest.take_while(|(there, byte)| there == byte).count();
            let before = start.checked_sub(1).map(|before| text[before]);
            if pattern.bound.allows(before) && pattern.bound.allows(text.get(end).copied()) {
                let Pattern { canary, form, class, .. } = *pattern;
                hits.push(Hit { place: start..end, canary: canary as usize, form, class });
            }
        }
    }
}

const LONG: usize = 6;
const SHORT: usize = 4;
const MASK_LONG: u64 = (1 << (8 * LONG)) - 1;
const MASK_SHORT: u64 = (1 << (8 * SHORT)) - 1;

fn key(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |key, &byte| key << 8 | u64::from(byte))
}

#[inline]
fn hash(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

struct Anchors {
    // A bit for each value of a hash's high bits.
    bits: Vec<u64>,
    shift: u32,
    // Hashes and patterns, sorted, and where those start that have the same high bits.
    sorted: Vec<(u64, u32)>,
    starts: Vec<u32>,
}

const BITS_OF_STARTS: u32 = 16;

impl Anchors {
    fn new(anchors: impl Iterator<Item = (u32, u64)>) -> Self {
        let mut sorted: Vec<_> = anchors.map(|(number, key)| (hash(key), number)).collect();
        sorted.sort_unstable();
        // One place in some twenty is looked at in vain, and the bitmap stays in a core's own cache.
        let size = (sorted.len() * 24).next_power_of_two().clamp(1 << 12, 1 << 22);
        let shift = 64 - size.trailing_zeros();
        let mut bits = vec![0; size / 64];
        for (hash, _) in &sorted {
            let bit = (hash >> shift) as usize;
            bits[bit / 64] |= 1_u64 << (bit % 64);
        }
        let mut starts = Vec::with_capacity((1 << BITS_OF_STARTS) + 1);
        let mut next = 0;
        for high in 0..=1_u64 << BITS_OF_STARTS {
            while sorted.get(next).is_some_and(|(hash, _)| hash >> (64 - BITS_OF_STARTS) < high) {
                next += 1;
            }
            starts.push(next as u32);
        }
        Self { bits, shift, sorted, starts }
    }

    #[inline]
    fn may_have(&self, hash: u64) -> bool {
        let bit = (hash >> self.shift) as usize;
        self.bits[bit / 64] >> (bit % 64) & 1 == 1
    }

    fn chain(&self, hash: u64) -> &[(u64, u32)] {
        let high = (hash >> (64 - BITS_OF_STARTS)) as usize;
        let few = &self.sorted[self.starts[high] as usize..self.starts[high + 1] as usize];
        let start = few.iter().position(|&(other, _)| other == hash).unwrap_or(few.len());
        let length = few[start..].iter().take_while(|&&(other, _)| other == hash).count();
        &few[start..start + length]
    }
}
