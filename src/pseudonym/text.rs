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

    #[inline]
    pub(crate) fn push_ipv4(&mut self, address: Ipv4Addr) {
        for octet in address.octets() {
            let (text, length) = OCTETS[usize::from(octet)];
            let start = self.length & 63;
            self.bytes[start..start + 4].copy_from_slice(&text);
            self.length = start + usize::from(length);
        }
        // The dot after the last one.
        self.length -= 1;
    }

    /// As RFC 5952 wants it: lower case, no leading zeros, the longest run of zeros as `::`.
    #[inline]
    pub(crate) fn push_ipv6(&mut self, address: Ipv6Addr) {
        // A pseudonym rarely has a group that is zero.
        if has_zero_group(address.octets()) {
            self.push_shortened(address.segments());
            return;
        }
        for group in address.octets().chunks_exact(2) {
            // Nor one that is less than four digits long.
            if group[0] >= 0x10 {
                self.push_long_group(group[0], group[1]);
            } else {
                self.push_group(group[0], group[1]);
            }
        }
        // The colon after the last one.
        self.length -= 1;
    }

    /// Those of four digits that the group needs, and a colon.
    #[inline(always)]
    fn push_group(&mut self, high: u8, low: u8) {
        // The first digit is in the lowest byte, where it comes first in memory.
        let digits = u32::from(DIGITS[usize::from(high)]) | u32::from(DIGITS[usize::from(low)]) << 16;
        // In bits, and only whole bytes. The last digit stays, even if it is 0.
        let zeros = ((digits ^ 0x3030_3030) | 1 << 24).trailing_zeros() & 0b11_000;
        let text = (u64::from(digits) | u64::from(b':') << 32) >> zeros;
        // What is written too much is written over by what comes next. The mask is for the compiler: no text is longer.
        let start = self.length & 63;
        self.bytes[start..start + 8].copy_from_slice(&text.to_le_bytes());
        self.length = start + 5 - zeros as usize / 8;
    }

    /// Four digits and a colon.
    #[inline(always)]
    fn push_long_group(&mut self, high: u8, low: u8) {
        let digits = u32::from(DIGITS[usize::from(high)]) | u32::from(DIGITS[usize::from(low)]) << 16;
        let start = self.length & 63;
        self.bytes[start..start + 4].copy_from_slice(&digits.to_le_bytes());
        self.bytes[start + 4] = b':';
        self.length = start + 5;
    }

    fn push_shortened(&mut self, groups: [u16; 8]) {
        let (start, length) = longest_zeros(&groups);
        // RFC 5952, 4.2.2: a single one is not shortened.
        let (start, length) = if length < 2 { (groups.len(), 0) } else { (start, length) };
        let (before, after) = (&groups[..start], &groups[start + length..]);
        self.push_groups(before);
        if length > 0 {
            // The first of the two colons is there already, unless nothing is before it.
            self.extend(if start == 0 { b"::" } else { b":" });
        }
        self.push_groups(after);
        if length == 0 || !after.is_empty() {
            self.length -= 1;
        }
    }

    fn push_groups(&mut self, groups: &[u16]) {
        for group in groups {
            let [high, low] = group.to_be_bytes();
            self.push_group(high, low);
        }
    }
}

/// Each octet in decimal and a dot, and how long that is.
const OCTETS: [([u8; 4], u8); 256] = {
    let mut table = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let digits = [b'0' + (octet / 100) as u8, b'0' + (octet / 10 % 10) as u8, b'0' + (octet % 10) as u8];
        let leading = if octet >= 100 {
            0
        } else if octet >= 10 {
            1
        } else {
            2
        };
        let mut place = 0;
        while leading + place < 3 {
            table[octet].0[place] = digits[leading + place];
            place += 1;
        }
        table[octet].1 = place as u8 + 1;
        octet += 1;
    }
    table
};

/// The two hexadecimal digits of each byte, the first in the lower half.
static DIGITS: [u16; 256] = {
    let text = b"0123456789abcdef";
    let mut digits = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        digits[byte] = u16::from_le_bytes([text[byte >> 4], text[byte & 15]]);
        byte += 1;
    }
    digits
};

/// Whether a group of 16 bits is zero.
#[inline]
fn has_zero_group(octets: [u8; 16]) -> bool {
    const ONES: u128 = 0x0001_0001_0001_0001_0001_0001_0001_0001;
    let bits = u128::from_ne_bytes(octets);
    // Only from a zero a borrow sets the top bit where there was none. Which group it is does not matter.
    bits.wrapping_sub(ONES) & !bits & (ONES << 15) != 0
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
