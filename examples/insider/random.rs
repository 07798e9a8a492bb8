//! Numbers that look random and are the same for the same seed (SplitMix64).

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // The first numbers of neighboring seeds are far apart.
        Self(mix(seed.wrapping_add(GOLDEN)))
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Less than `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        // For the small numbers here, the bias is far below the noise.
        (self.number() % end as u64) as usize
    }

    /// In `start..end`.
    pub(crate) fn between(&mut self, start: usize, end: usize) -> usize {
        start + self.below(end - start)
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of these, which are not empty.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// The place of one of these, each as likely as its weight says.
    pub(crate) fn weighted(&mut self, weights: &[usize]) -> usize {
        let mut left = self.below(weights.iter().sum());
        weights
            .iter()
            .position(|&weight| {
                let is_it = left < weight;
                left = left.saturating_sub(weight);
                is_it
            })
            .unwrap_or(0)
    }
}

/// A number that depends on nothing but these.
pub(crate) fn mixed(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0, |all, &number| mix(all.wrapping_add(GOLDEN) ^ mix(number.wrapping_add(GOLDEN))))
}

/// A key that depends on nothing but these, in words.
pub(crate) fn key(numbers: &[u64]) -> [u64; 4] {
    let mut random = Random::new(mixed(numbers));
    [(); 4].map(|()| random.number())
}

/// Its bytes: never in the order in which the words themselves are in memory.
pub(crate) fn write_key(words: [u64; 4], key: &mut [u8; 32]) {
    key.chunks_mut(8).zip(words).for_each(|(bytes, word)| bytes.copy_from_slice(&word.swap_bytes().to_ne_bytes()));
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut number: u64) -> u64 {
    number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}
