//! Where pseudonyms of address shape are, and real clients are not.

use std::{fmt, net::Ipv6Addr};

use ipnet::Ipv6Net;

/// The range that pseudonyms of address shape are in.
///
/// `2001:20::/28` by default: RFC 7343 (ORCHIDv2) set it aside for hashes that look like IPv6 addresses. It is never
/// routed, so a pseudonym is never a bystander's address, and no framework takes it for a private network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PseudonymRange {
    prefix: u128,
    bits: u8,
    // Nobody's address is in it, so that what is in it was made by an edge.
    is_reserved: bool,
}

impl PseudonymRange {
    /// RFC 7343's `2001:20::/28`.
    pub const ORCHID: Self = Self { prefix: 0x2001_0020 << 96, bits: 28, is_reserved: true };

    /// Another range, with room for at least 64 bits of hash.
    ///
    /// # Errors
    ///
    /// [`RangeError::TooNarrow`] if its prefix is longer than 64 bits; [`RangeError::TooWide`] if it is shorter than 8;
    /// [`RangeError::Private`] if it is in `fc00::/7`: frameworks take such an address for a trusted proxy, and skip it
    /// or exempt it; [`RangeError::InUse`] if real clients can have an address in it.
    pub fn new(range: Ipv6Net) -> Result<Self, RangeError> {
        let mut new = Self::of(range)?;
        new.is_reserved = true;
        let first = range.network().segments()[0];
        if first & 0xfe00 == 0xfc00 {
            return Err(RangeError::Private);
        }
        let unrouted = [
            Self::ORCHID.prefix_net(),
            // RFC 6666, discard-only; RFC 3849 and RFC 9637, documentation; RFC 5180, benchmarking.
            net(0x0100 << 112, 64),
            net(0x2001_0db8 << 96, 32),
            net(0x3fff << 112, 20),
            net(0x2001_0002 << 96, 48),
        ];
        if !unrouted.iter().any(|net| net.contains(&range)) {
            return Err(RangeError::InUse);
        }
        Ok(new)
    }

    /// Another range, even one where real addresses are.
    ///
    /// In `fd00::/8` an application that trusts private networks by default will take each pseudonym for one of its own
    /// proxies. In a routed range a pseudonym may be a bystander's address. And since what is in such a range may be a real
    /// address, a pseudonym that an edge before this one has made is hashed once more instead of passed on.
    ///
    /// # Errors
    ///
    /// [`RangeError::TooNarrow`] and [`RangeError::TooWide`], as for [`new`](Self::new).
    pub fn new_where_others_are(range: Ipv6Net) -> Result<Self, RangeError> {
        Self::of(range)
    }

    fn of(range: Ipv6Net) -> Result<Self, RangeError> {
        match range.prefix_len() {
            0..8 => Err(RangeError::TooWide),
            8..=64 => Ok(Self { prefix: range.network().to_bits(), bits: range.prefix_len(), is_reserved: false }),
            _ => Err(RangeError::TooNarrow),
        }
    }

    fn prefix_net(self) -> Ipv6Net {
        net(self.prefix, self.bits)
    }

    /// Whether this can only be a pseudonym.
    pub(crate) fn has_only_pseudonyms_at(self, octets: [u8; 16]) -> bool {
        self.is_reserved && self.contains(octets)
    }

    pub(super) fn contains(self, octets: [u8; 16]) -> bool {
        (u128::from_be_bytes(octets) ^ self.prefix) >> (128 - self.bits) == 0
    }

    pub(super) fn address(self, hash: [u8; 16]) -> Ipv6Addr {
        let hash = u128::from_be_bytes(hash) & (u128::MAX >> self.bits);
        Ipv6Addr::from_bits(self.prefix | hash)
    }
}

fn net(prefix: u128, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::from_bits(prefix), bits)
}

impl Default for PseudonymRange {
    fn default() -> Self {
        Self::ORCHID
    }
}

/// Why a range is unusable for pseudonyms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RangeError {
    /// Less than 64 bits are left for the hash.
    TooNarrow,
    /// The prefix is shorter than 8 bits.
    TooWide,
    /// It is in `fc00::/7`.
    Private,
    /// Real clients can have an address in it.
    InUse,
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooNarrow => "the range for pseudonyms leaves less than 64 bits for the hash (expected a prefix of 8 to 64 bits)",
            Self::TooWide => "the range for pseudonyms is too wide (expected a prefix of 8 to 64 bits)",
            Self::Private => "the range for pseudonyms is private: frameworks would take pseudonyms for trusted proxies",
            Self::InUse => "the range for pseudonyms can hold real clients (expected one that is never routed, such as 2001:20::/28)",
        })
    }
}

impl std::error::Error for RangeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_where_pseudonyms_would_be_mistaken_is_refused() {
        for (range, refused) in [
            ("fd00::/8", Some(RangeError::Private)),
            ("fdab:1234::/32", Some(RangeError::Private)),
            ("2001:db8:6970::/48", None),
            ("100::/64", None),
            ("2001:20::/28", None),
            ("2600::/16", Some(RangeError::InUse)),
            ("2001:db8::/72", Some(RangeError::TooNarrow)),
            ("::/0", Some(RangeError::TooWide)),
        ] {
            let result = PseudonymRange::new(range.parse().unwrap());
            assert_eq!(result.err(), refused, "{range}");
        }
        assert!(PseudonymRange::new_where_others_are("fd00::/8".parse().unwrap()).is_ok());
    }
}
