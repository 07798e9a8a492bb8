//! Pseudonyms as text, without allocation: they are written into headers on every request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A short text on the stack: what is written into headers on every request.
#[derive(Clone, Copy)]
pub(crate) struct Text {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

impl Text {
    // `for="[` + an IPv6 address + `]"`, and room for what is written too much: 8 bytes from any of 64 places.
    const LONGEST: usize = 64 + 8;

    #[inline]
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut new = Self { bytes: [0; Self::LONGEST], length: 0 };
        new.extend(text);
        new
    }

    #[inline]
    pub(crate) fn extend(&mut self, text: &[u8]) {
        self.bytes[self.length..self.length + text.len()].copy_from_slice(text);
        self.length += text.len();
    }

    #[inline]
    pub(super) fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("only ASCII is ever written here")
    }

    pub(crate) fn address(address: IpAddr) -> Self {
        let mut text = Self::of(b"");
        text.push_address(address);
        text
    }

    #[inline]
    pub(crate) fn push_address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.push_ipv4(address),
            IpAddr::V6(address) => self.push_ipv6(address),
        }
    }

    pub(crate) fn push_ipv4(&mut self, address: Ipv4Addr) {
        for (place, octet) in address.octets().into_iter().enumerate() {
            if place > 0 {
                self.push(b'.');
            }
            if octet >= 100 {
                self.push(b'0' + octet / 100);
            }
            if octet >= 10 {
                self.push(b'0' + octet / 10 % 10);
            }
            self.push(b'0' + octet % 10);
        }
    }

    /// As RFC 5952 wants it: lower case, no leading zeros, the longest run of zeros as `::`.
    #[inline]
    pub(crate) fn push_ipv6(&mut self, address: Ipv6Addr) {
        let bits = address.to_bits();
        // One zero group is never shortened, and a pseudonym rarely has two side by side.
        if has_zeros_side_by_side(bits) {
            self.push_shortened(address.segments());
            return;
        }
        for pair in 0..4 {
            self.push_groups((bits >> (96 - 32 * pair)) as u32);
        }
        // The colon after the last one.
        self.length -= 1;
    }

    /// The digits of two groups, and a colon after each.
    #[inline(always)]
    fn push_groups(&mut self, groups: u32) {
        // A hexadecimal digit in each byte, the last in the lowest.
        let digits = u64::from(groups);
        let digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
        let digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
        let digits = (digits | digits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        // In memory the first digit comes first.
        let digits = digits.swap_bytes();
        // 1 in each byte above 9, without a branch: 6 more carries into the high half.
        let letters = (digits + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        let ascii = digits + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10);
        self.push_digits(digits as u32, ascii as u32);
        self.push_digits((digits >> 32) as u32, (ascii >> 32) as u32);
    }

    /// Those of four digits that the group needs, and a colon. The first digit is in the lowest byte.
    #[inline(always)]
    fn push_digits(&mut self, digits: u32, ascii: u32) {
        // In bits, and only whole bytes. The last digit stays, even if it is 0.
        let leading = (digits | 1 << 24).trailing_zeros() & 0b11_000;
        let text = (u64::from(ascii) | u64::from(b':') << 32) >> leading;
        // What is written too much is written over by what comes next. The mask is for the compiler: no text is longer.
        let start = self.length & 63;
        self.bytes[start..start + 8].copy_from_slice(&text.to_le_bytes());
        self.length = start + 5 - leading as usize / 8;
    }

    #[cold]
    fn push_shortened(&mut self, groups: [u16; 8]) {
        let (start, length) = longest_zeros(&groups);
        self.push_plainly(&groups[..start]);
        self.extend(b"::");
        self.push_plainly(&groups[start + length..]);
    }

    fn push_plainly(&mut self, groups: &[u16]) {
        for (place, &group) in groups.iter().enumerate() {
            if place > 0 {
                self.push(b':');
            }
            let digits = group.max(1).ilog2() / 4 + 1;
            for digit in (0..digits).rev() {
                self.push(b"0123456789abcdef"[usize::from(group >> (4 * digit) & 15)]);
            }
        }
    }
}

/// Whether two groups of 16 bits that are next to each other are zero.
#[inline]
fn has_zeros_side_by_side(bits: u128) -> bool {
    const LOW: u128 = 0x7fff_7fff_7fff_7fff_7fff_7fff_7fff_7fff;
    // The top bit of each group that is not zero.
    let set = ((bits & LOW) + LOW) | bits;
    let zero = !set & !LOW;
    zero & (zero << 16) != 0
}

/// Where the longest run of zero groups begins, and how long it is; the first of several.
fn longest_zeros(groups: &[u16; 8]) -> (usize, usize) {
    let mut longest = (0, 0);
    let mut run = 0;
    for (place, &group) in groups.iter().enumerate() {
        run = if group == 0 { run + 1 } else { 0 };
        if run > longest.1 {
            longest = (place + 1 - run, run);
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_address_prints_as_the_standard_library_prints_it(bits: u128, mask: u128) {
            for bits in [bits, bits & mask, bits & mask & (mask << 64), bits >> 64] {
                let address = Ipv6Addr::from_bits(bits);
                // The standard library shows the IPv4 part of two kinds of address in dots.
                if address.to_ipv4().is_none() {
                    prop_assert_eq!(Text::address(address.into()).as_str().to_owned(), address.to_string());
                }
            }
        }

        #[test]
        fn an_ipv4_address_prints_as_the_standard_library_prints_it(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            prop_assert_eq!(Text::address(address.into()).as_str().to_owned(), address.to_string());
        }
    }
}
