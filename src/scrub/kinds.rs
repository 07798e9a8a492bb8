//! Which of 64 bytes are digits, dots, dashes, colons and percent signs, as bitmaps.

use wide::u8x16;

/// How many bytes are looked at in one go.
pub(super) const BLOCK: usize = 64;

/// A bit for each byte of a block, the first in the lowest.
#[derive(Clone, Copy, Default)]
pub(super) struct Kinds {
    pub(super) digits: u64,
    pub(super) dots: u64,
    pub(super) dashes: u64,
    pub(super) colons: u64,
    pub(super) percents: u64,
}

impl Kinds {
    #[inline]
    pub(super) fn of(block: &[u8; BLOCK]) -> Self {
        let mut kinds = Self::default();
        for (place, sixteen) in block.as_chunks::<16>().0.iter().enumerate() {
            let bytes = u8x16::new(*sixteen);
            let bits = |equal: u8x16| u64::from(equal.to_bitmask()) << (16 * place);
            let is = |byte| bits(bytes.simd_eq(u8x16::splat(byte)));
            let from_zero = bytes - u8x16::splat(b'0');
            kinds.digits |= bits(from_zero.min(u8x16::splat(9)).simd_eq(from_zero));
            kinds.dots |= is(b'.');
            kinds.dashes |= is(b'-');
            kinds.colons |= is(b':');
            kinds.percents |= is(b'%');
        }
        kinds
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(block: &[u8; BLOCK]) {
        let plain = |fits: &dyn Fn(u8) -> bool| {
            block.iter().enumerate().fold(0, |bits, (place, &byte)| bits | u64::from(fits(byte)) << place)
        };
        let kinds = Kinds::of(block);
        assert_eq!(kinds.digits, plain(&|byte| byte.is_ascii_digit()));
        assert_eq!(kinds.dots, plain(&|byte| byte == b'.'));
        assert_eq!(kinds.dashes, plain(&|byte| byte == b'-'));
        assert_eq!(kinds.colons, plain(&|byte| byte == b':'));
        assert_eq!(kinds.percents, plain(&|byte| byte == b'%'));
    }

    #[test]
    fn every_byte_is_of_its_kind() {
        for first in 0..=255_u8 {
            check(&std::array::from_fn(|place| first.wrapping_add(place as u8)));
        }
    }

    proptest! {
        #[test]
        fn kinds_are_those_of_each_byte(bytes in proptest::collection::vec(any::<u8>(), BLOCK)) {
            check(&bytes.try_into().expect("as many as asked for"));
        }
    }
}
