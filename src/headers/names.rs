//! A set of header names that is quick to say no.

/// Of folded names.
#[derive(Clone)]
pub(super) struct Names {
    // A bit for each hash: most headers of most requests fail here.
    filter: [u64; 64],
    // By hash.
    pub(super) sorted: Vec<(u16, String)>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { filter: [0; 64], sorted: Vec::new() }
    }

    pub(super) fn can_hold(name: &str) -> bool {
        !name.starts_with('-') && !name.ends_with('-')
    }

    pub(super) fn insert(&mut self, name: &str) {
        let hash = Self::hash(name.as_bytes());
        let entry = (hash, name.to_owned());
        if let Err(place) = self.sorted.binary_search(&entry) {
            self.sorted.insert(place, entry);
            self.filter[usize::from(hash / 64)] |= 1 << (hash % 64);
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        if !self.may_contain(name) {
            return false;
        }
        let hash = Self::hash(name.as_bytes());
        let start = self.sorted.partition_point(|&(known, _)| known < hash);
        self.sorted[start..]
            .iter()
            .take_while(|&&(known, _)| known == hash)
            .any(|(_, known)| known.len() == name.len() && known.bytes().eq(name.bytes().map(fold_byte)))
    }

    /// Rarely wrong when it says yes, never when it says no.
    #[inline]
    pub(super) fn may_contain(&self, name: &str) -> bool {
        let hash = Self::hash(name.as_bytes());
        self.filter[usize::from(hash / 64) % self.filter.len()] >> (hash % 64) & 1 == 1
    }

    /// Of a name's length and ends, in 12 bits. Ends are never folded: no name in the set begins or ends with "-".
    #[inline]
    fn hash(name: &[u8]) -> u16 {
        let (Some(first), Some(last)) = (name.first(), name.last()) else {
            return 0;
        };
        let mixed = u32::from(*first) | u32::from(*last) << 8 | (name.len() as u32) << 16;
        (mixed.wrapping_mul(0x9e37_79b1) >> 20) as u16
    }
}

/// As CGI-like applications see it.
pub(super) fn fold(name: &str) -> String {
    name.bytes().map(|byte| char::from(fold_byte(byte))).collect()
}

#[inline]
fn fold_byte(byte: u8) -> u8 {
    match byte {
        b'_' | b'.' => b'-',
        byte => byte.to_ascii_lowercase(),
    }
}
