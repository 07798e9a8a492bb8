//! How often what has few bits turns up by chance.
//!
//! Four bytes are found in a gigabyte of random data some times, and one of a thousand values of four bytes some hundred
//! times. So what they could be part of is counted, and a find counts only if there are more than chance explains.

use std::ops::AddAssign;

use super::{
    forms::{Class, SHORTEST_NUMBER},
    index::Index,
};

/// What there was in a text that could be a value of few bits.
#[derive(Clone)]
pub(crate) struct Counts {
    // Of data that is no text: how often each byte was there.
    bytes: [u64; 256],
    words: [u64; Class::ALL.len()],
}

impl Default for Counts {
    fn default() -> Self {
        Self { bytes: [0; 256], words: [0; Class::ALL.len()] }
    }
}

impl Counts {
    /// Data that is no text.
    pub(crate) fn add_bytes(&mut self, data: &[u8]) {
        // Four at a time, since equal bytes wait for each other.
        let mut counts = [[0_u32; 256]; 4];
        for chunk in data.chunks(4) {
            for (count, &byte) in counts.iter_mut().zip(chunk) {
                count[usize::from(byte)] += 1;
            }
        }
        for (byte, total) in self.bytes.iter_mut().enumerate() {
            *total += counts.iter().map(|count| u64::from(count[byte])).sum::<u64>();
        }
    }

    pub(crate) fn add_words(&mut self, class: Class, number: u64) {
        self.words[class as usize] += number;
    }

    /// The words in a sample, which stand for `times` as many: between [bounds](super::forms::Bound), as they are sought.
    pub(crate) fn add_sample(&mut self, sample: &[u8], times: u64) {
        for word in words(sample, |byte| byte.is_ascii_digit()) {
            if (SHORTEST_NUMBER..=12).contains(&word.len()) {
                self.add_words(Class::Number, times);
            }
        }
        for word in words(sample, |byte| byte.is_ascii_hexdigit()) {
            match word.len() {
                2 => self.add_words(Class::HexPairs, times),
                8 => self.add_words(Class::HexWord, times),
                _ => {}
            }
        }
        for word in words(sample, |byte| byte.is_ascii_alphanumeric() || b"+/_-".contains(byte)) {
            if word.len() == 6 {
                self.add_words(Class::Base64Word, times);
            }
        }
    }

    /// How many finds of a class chance explains. At least as many as in random data.
    pub(crate) fn expected(&self, class: Class, index: &Index) -> f64 {
        let patterns = index.of_class(class);
        let bits_32 = f64::from(u32::MAX);
        match class {
            Class::RawAddress | Class::RawDigest => {
                let total = self.bytes.iter().sum::<u64>() as f64;
                let frequency = |byte: u8| (self.bytes[usize::from(byte)] as f64 / total).max(1.0 / 256.0);
                let chance = |bytes: &[u8]| bytes.iter().map(|&byte| frequency(byte)).product::<f64>();
                if total == 0.0 { 0.0 } else { total * patterns.map(chance).sum::<f64>() }
            }
            _ => self.words[class as usize] as f64 * patterns.count() as f64 / bits_32,
        }
    }
}

fn words(sample: &[u8], is_part: impl Fn(&u8) -> bool) -> impl Iterator<Item = &[u8]> {
    sample.split(move |byte| !is_part(byte)).filter(|word| !word.is_empty())
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        self.bytes.iter_mut().zip(&other.bytes).for_each(|(count, other)| *count += other);
        self.words.iter_mut().zip(&other.words).for_each(|(count, other)| *count += other);
    }
}

/// How many chances it took to find one value so often: what a text says by chance, it may say again in the next lines.
pub(crate) fn chances(count: u64) -> u64 {
    const SAID_AGAIN: u64 = 3;
    if (1..=SAID_AGAIN).contains(&count) { 1 } else { count }
}

/// Whether chance explains so many finds: it gives as many in more than one case of a thousand.
pub(crate) fn explains(expected: f64, found: u64) -> bool {
    const RARE: f64 = 0.001;
    if found == 0 || expected <= 0.0 {
        return found == 0;
    }
    if expected > 100.0 {
        return (found as f64 - expected) / expected.sqrt() < 3.0;
    }
    // Poisson: one minus the chance of fewer.
    let mut term = (-expected).exp();
    let mut fewer = 0.0;
    for number in 0..found {
        fewer += term;
        term *= expected / (number + 1) as f64;
        if term < f64::MIN_POSITIVE {
            break;
        }
    }
    1.0 - fewer > RARE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_they_are_sought() {
        let mut counts = Counts::default();
        counts.add_sample(b"\x1b[0m1234567890\x1b[2m id=x3405803783n cb-00-71-07 zcb007107z 1-YywBxw YywBxw", 2);
        let [numbers, words, pairs, base64] = [Class::Number, Class::HexWord, Class::HexPairs, Class::Base64Word]
            .map(|class| counts.words[class as usize]);
        assert_eq!((numbers, words, pairs, base64), (4, 2, 8, 2));
    }

    #[test]
    fn one_find_counts_where_hardly_any_is_expected() {
        assert!(!explains(0.0001, 1));
        assert!(explains(0.5, 1));
        assert!(!explains(0.5, 10));
        assert!(explains(50.0, 60));
        assert!(!explains(50.0, 200));
        assert!(explains(10_000.0, 10_100));
        assert!(!explains(10_000.0, 20_000));
        assert!(explains(0.0, 0));
    }
}
