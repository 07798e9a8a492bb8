//! What was shown for an address a moment ago, for whoever reads much text.

use std::{fmt, thread};

use zeroize::Zeroize as _;

use super::{Found, Scrubber, StandIn};
use crate::{addr::Canonical, keys::KeyId};

/// One reading of a long text, in pieces.
///
/// It remembers the addresses that it saw last, and what it showed for them, so that they are not hashed each time: 16 MiB
/// for all cores together, forgotten when the key changes and wiped when it is dropped. **The addresses are in memory until then**, as the text
/// is. For a program that reads logs; in a server, use the [`Scrubber`] itself, which remembers nothing.
pub struct Pass<'s> {
    scrubber: &'s Scrubber,
    memo: Option<Memo>,
}

impl<'s> Pass<'s> {
    pub(super) fn new(scrubber: &'s Scrubber) -> Self {
        let memo = matches!(scrubber.inner.stand_in, StandIn::Pseudonym { .. }).then(Memo::new);
        Self { scrubber, memo }
    }

    /// Appends the text without addresses to `out`, and says what was found.
    ///
    /// An address that goes on in the next piece is found in neither: cut between lines.
    pub fn scrub_into(&mut self, text: &[u8], out: &mut Vec<u8>) -> Found {
        if let (Some(memo), StandIn::Pseudonym { keys, .. }) = (&mut self.memo, &self.scrubber.inner.stand_in) {
            memo.use_key(keys.key_id());
        }
        self.scrubber.scrub_with(text, out, &mut self.memo)
    }
}

impl fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass(..)")
    }
}

pub(super) struct Memo {
    key: Option<KeyId>,
    sets: Box<[Set]>,
}

/// The addresses that share a place, the one that was seen last first; zeros behind the last one, which are no address
/// that anything is shown for.
#[derive(Clone, Copy)]
#[repr(align(128))]
struct Set {
    addresses: [[u8; 16]; WAYS],
    pseudonyms: [[u8; 16]; WAYS],
}

/// How many fit into two cache lines, which are fetched in pairs.
const WAYS: usize = 4;

impl Set {
    const EMPTY: Self = Self { addresses: [[0; 16]; WAYS], pseudonyms: [[0; 16]; WAYS] };

    /// Moves an address to the front; whoever was seen least makes room for one that is new. True if it is not.
    #[inline]
    fn bring(&mut self, address: [u8; 16]) -> bool {
        let way = self.addresses.iter().position(|&other| other == address);
        let behind = way.unwrap_or(WAYS - 1);
        if behind > 0 {
            self.addresses[..=behind].rotate_right(1);
            self.pseudonyms[..=behind].rotate_right(1);
        }
        self.addresses[0] = address;
        way.is_some()
    }

    /// Takes the front one out again.
    #[cold]
    fn forget(&mut self) {
        self.addresses[0] = [0; 16];
        self.addresses.rotate_left(1);
        self.pseudonyms.rotate_left(1);
    }
}

/// How many sets there are in all, if each core reads: 16 MiB. A power of two.
const SETS: usize = 1 << 17;

/// How many of them are one core's.
fn sets() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from).next_power_of_two();
    (SETS / cores.max(2)).max(1)
}

impl Memo {
    fn new() -> Self {
        Self { key: None, sets: vec![Set::EMPTY; sets()].into() }
    }

    fn use_key(&mut self, key: Option<KeyId>) {
        if self.key != key {
            self.key = key;
            self.wipe();
        }
    }

    /// The bits of an address's pseudonym, as they were shown before or as they are to be shown now.
    #[inline]
    pub(super) fn recall(&mut self, address: Canonical, show: impl FnOnce() -> Option<[u8; 16]>) -> Option<[u8; 16]> {
        let address = match address {
            Canonical::V6(octets) => octets,
            // Mapped: no other address has that form.
            Canonical::V4([a, b, c, d]) => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
        };
        let bits = u128::from_be_bytes(address);
        let mixed = ((bits >> 64) as u64).rotate_left(32) ^ bits as u64;
        // The high bits depend on all of the address.
        let hash = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let last = self.sets.len() - 1;
        let set = &mut self.sets[hash as usize & last];
        if !set.bring(address) {
            match show() {
                Some(bits) => set.pseudonyms[0] = bits,
                None => {
                    set.forget();
                    return None;
                }
            }
        }
        Some(set.pseudonyms[0])
    }

    fn wipe(&mut self) {
        for set in &mut self.sets {
            set.addresses.zeroize();
            set.pseudonyms.zeroize();
        }
    }
}

impl Drop for Memo {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> Canonical {
        Canonical::V6((number as u128 + 1).to_be_bytes())
    }

    #[test]
    fn what_was_remembered_is_wiped_also_when_a_key_was_missing_meanwhile() {
        let mut memo = Memo { key: None, sets: [Set::EMPTY; 4].into() };
        for number in 0..64 {
            assert_eq!(memo.recall(address(number), || Some([7; 16])), Some([7; 16]));
        }
        // There is none for a moment.
        let missed = (64..128).filter(|&number| memo.recall(address(number), || None).is_some()).count();
        assert_eq!(missed, 0);
        // Nobody who was shown nothing is remembered.
        assert!((64..128).all(|number| memo.recall(address(number), || None).is_none()));
        memo.wipe();
        let is_zero = |set: &Set| [set.addresses, set.pseudonyms].as_flattened().iter().all(|bits| *bits == [0; 16]);
        assert!(memo.sets.iter().all(is_zero));
        assert!((0..64).all(|number| memo.recall(address(number), || Some([9; 16])) == Some([9; 16])));
    }
}
