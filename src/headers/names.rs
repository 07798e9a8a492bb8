//! A set of header names that is quick to say no.

use http::HeaderName;

use super::table::ENDINGS;

/// Of folded names.
#[derive(Clone)]
pub(super) struct Names {
    filter: Filter,
    // By hash.
    pub(super) sorted: Vec<((usize, u32), String)>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { filter: Filter::empty(), sorted: Vec::new() }
    }

    pub(super) fn can_hold(name: &str) -> bool {
        !name.starts_with('-') && !name.ends_with('-')
    }

    pub(super) fn insert(&mut self, name: &str) {
        let entry = (hash(name.as_bytes()), name.to_owned());
        if let Err(place) = self.sorted.binary_search(&entry) {
            self.sorted.insert(place, entry);
            self.filter.insert(name);
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        if !self.filter.may_contain(name) {
            return false;
        }
        let hash = hash(name.as_bytes());
        let start = self.sorted.partition_point(|&(known, _)| known < hash);
        self.sorted[start..]
            .iter()
            .take_while(|&&(known, _)| known == hash)
            .any(|(_, known)| known.len() == name.len() && known.bytes().eq(name.bytes().map(fold_byte)))
    }

    pub(super) fn filter(&self) -> Filter {
        self.filter
    }
}

/// A bit for each hash: most headers of most requests fail here.
#[derive(Clone, Copy)]
pub(super) struct Filter([u64; 64]);

impl Filter {
    fn empty() -> Self {
        Self([0; 64])
    }

    /// Never says no.
    pub(super) fn full() -> Self {
        Self([u64::MAX; 64])
    }

    pub(super) fn insert(&mut self, name: &str) {
        let (row, bit) = hash(name.as_bytes());
        self.0[row] |= 1 << bit;
    }

    /// Rarely wrong when it says yes, never when it says no.
    #[inline]
    pub(super) fn may_contain(&self, name: &str) -> bool {
        let (row, bit) = hash(name.as_bytes());
        self.0[row] >> bit & 1 == 1
    }

    /// The same, or whether it may be a name that [says](says_address) what it carries. As one question: two cost three times
    /// as much.
    #[inline]
    pub(super) fn may_contain_or_say(&self, name: &str) -> bool {
        self.may_contain(name) | may_say_address(name)
    }
}

/// Whether a name may end in one of [`ENDINGS`]: with a "p" or an "r", which differ in one bit.
#[inline]
fn may_say_address(name: &str) -> bool {
    name.as_bytes().last().copied().unwrap_or_default() & 0xfd == b'p'
}

/// Whether a name ends in one of [`ENDINGS`].
pub(super) fn says_address(name: &str) -> bool {
    let is_at_end = |ending: &str| {
        let rest = name.len().checked_sub(ending.len());
        rest.is_some_and(|rest| rest > 0 && name.bytes().skip(rest).map(fold_byte).eq(ending.bytes()))
    };
    may_say_address(name) && ENDINGS.into_iter().any(is_at_end)
}

/// Of a name's length and ends, each below 64. Ends are never folded: no name in the set begins or ends with "-".
#[inline]
fn hash(name: &[u8]) -> (usize, u32) {
    let (Some(first), Some(last)) = (name.first(), name.last()) else {
        return (0, 0);
    };
    // Of the factors that cost nothing, those that fewest names of headers on other subjects share.
    let ends = u32::from(*first) * 2 + u32::from(*last);
    (name.len() % 64, ends % 64)
}

/// Whether applications may take one name for the other: CGI and its heirs write `-` and `_` alike (RFC 3875, 4.1.18), PHP
/// dots, too, and some servers whatever is neither a letter nor a digit.
///
/// ```
/// use http::HeaderName;
/// use ipveil::headers::are_alike;
///
/// let known = HeaderName::from_static("x-forwarded-for");
/// assert!(are_alike(&known, &HeaderName::from_static("x_forwarded.for")));
/// assert!(!are_alike(&known, &HeaderName::from_static("x-forwarded-host")));
/// ```
#[must_use]
pub fn are_alike(one: &HeaderName, other: &HeaderName) -> bool {
    one.as_str().bytes().map(fold_byte).eq(other.as_str().bytes().map(fold_byte))
}

/// As CGI-like applications see it.
pub(super) fn fold(name: &str) -> String {
    name.bytes().map(|byte| char::from(fold_byte(byte))).collect()
}

#[inline]
fn fold_byte(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}
