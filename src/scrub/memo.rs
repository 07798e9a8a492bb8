//! What was shown for an address a moment ago, for whoever reads much text.

use std::{fmt, thread};

use zeroize::Zeroize as _;

use super::{Found, Scrubber, StandIn};
use crate::{addr::Canonical, keys::KeyId, pseudonym::Text};

/// One reading of a long text, in pieces.
///
/// It remembers the addresses that it saw last, and what it showed for them, so that they are not hashed each time: 32 MiB
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
    sets: Box<[[Entry; 2]]>,
}

// Of an IPv6 address.
const LONGEST_SHOWN: usize = 39;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Entry {
    address: [u8; 16],
    // 0 if there is nothing in here.
    length: u8,
    text: [u8; LONGEST_SHOWN],
}

impl Entry {
    const EMPTY: Self = Self { address: [0; 16], length: 0, text: [0; LONGEST_SHOWN] };

    #[inline]
    fn is_of(&self, address: [u8; 16]) -> bool {
        self.length > 0 && self.address == address
    }

    #[inline]
    fn text(&self) -> &[u8] {
        &self.text[..usize::from(self.length)]
    }

    fn put(&mut self, address: [u8; 16], text: &Text) {
        let shown = text.as_bytes();
        // Nothing that is shown for an address is longer.
        let length = shown.len().min(self.text.len());
        self.text[..length].copy_from_slice(&shown[..length]);
        self.address = address;
        self.length = length as u8;
    }
}

/// How many sets there are in all, if each core reads: 32 MiB. A power of two.
const SETS: usize = 1 << 18;

/// How many of them are one core's.
fn sets() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from).next_power_of_two();
    (SETS / cores.max(2)).max(1)
}

impl Memo {
    fn new() -> Self {
        Self { key: None, sets: vec![[Entry::EMPTY; 2]; sets()].into() }
    }

    fn use_key(&mut self, key: Option<KeyId>) {
        if self.key != key {
            self.key = key;
            self.wipe();
        }
    }

    #[inline]
    pub(super) fn recall(&mut self, address: Canonical, show: impl FnOnce() -> Text) -> &[u8] {
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
        // Who was seen last is looked at first, and who was not seen for longest makes room.
        if !set[0].is_of(address) {
            set.swap(0, 1);
            if !set[0].is_of(address) {
                set[0].put(address, &show());
            }
        }
        set[0].text()
    }

    fn wipe(&mut self) {
        for entry in self.sets.as_flattened_mut().iter_mut().filter(|entry| entry.length > 0) {
            entry.address.zeroize();
            entry.length = 0;
            entry.text.zeroize();
        }
    }
}

impl Drop for Memo {
    fn drop(&mut self) {
        self.wipe();
    }
}
