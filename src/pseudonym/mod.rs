//! What stands for a client outside: how it is hashed, and the shapes in which it can be shown.

mod hash;
mod range;
mod text;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

pub use self::range::{PseudonymRange, RangeError};
pub(crate) use self::{
    hash::{Credential, Credentials, Handle, Octets, Purpose, Question, ScopeValue},
    text::Text,
};

/// What stands for a client in one view, one scope and one window of one epoch.
///
/// It can't be turned back into an address, and pseudonyms of different views, scopes or epochs can't be compared:
/// equal clients have unequal ones. (One that an edge before this one has made is the same in all address views.) It
/// prints in its shape.
///
/// # Format
///
/// The values are a public format: nodes of different versions under one key must agree. All hashes are keyed
/// BLAKE3; integers are big-endian; nothing is optional, so that no two inputs can be framed alike.
///
/// | value | key | input |
/// |---|---|---|
/// | handle | epoch key | `H`, family (4, 6 or 16), octets |
/// | session | handle | `S`, then per credential: `C` or `A`, length of the cookie's name (4 bytes), name, length of the value (4 bytes), value |
/// | pseudonym | handle | `P`, length of view (1 byte), view, kind of scope (1 byte), length of scope (4 bytes), scope, window (8 bytes) |
/// | limit key | handle | as for a pseudonym, with `L` instead of `P` |
///
/// - **Octets**: all four of an IPv4 address (family 4). The first eight of an IPv6 address (family 6), seven for limit
///   keys; all sixteen where the first eight are zero or begin `0064:ff9b:0001`, since many clients share those. All
///   sixteen of a pseudonym that another edge has made (family 16).
/// - **Session**: cookies in the order in which the policy names them, those of one name in the order in which they came, then
///   `Authorization`.
/// - **Scope**: kind 0, everything, with no value; 1, a host, by name; 2, a session, by its hash; 3, a request, by 16 random
///   bytes; 4, the application's own, by its text.
/// - **Window**: the number of whole windows since 1970; 0 for a view without windows.
///
/// Handles are whole hashes, all else is the first 16 bytes of one. A token shows these; an IPv6 address the last of their
/// bits, 100 of them for a range of 28 bits; an IPv4 address the last 28 of the first 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pseudonym {
    /// An RFC 7239 obfuscated identifier: for `Forwarded`, logs and analytics.
    Token(Token),
    /// An address in a range set aside for hashes: what every parser of addresses accepts.
    Address(Ipv6Addr),
    /// An address in `240.0.0.0/4`. 28 bits: among 20,000 clients some pair shares one, more likely than not.
    AddressV4(Ipv4Addr),
    /// There is no usable address, no key, or no such view.
    Withheld,
}

impl Pseudonym {
    /// The pseudonym as an address, if that is its shape.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match *self {
            Self::Address(address) => Some(address.into()),
            Self::AddressV4(address) => Some(address.into()),
            Self::Token(_) | Self::Withheld => None,
        }
    }

    /// Whether nothing is known of the client here.
    #[must_use]
    pub fn is_withheld(&self) -> bool {
        *self == Self::Withheld
    }

    /// What [`Shape::of_bits`] makes it from again; nothing if it is withheld.
    #[inline]
    pub(crate) fn bits(&self) -> Option<[u8; 16]> {
        match self {
            Self::Token(Token(bits)) => Some(*bits),
            Self::Address(address) => Some(address.octets()),
            Self::AddressV4(address) => Some(address.to_ipv6_mapped().octets()),
            Self::Withheld => None,
        }
    }

    /// Appends the text.
    #[inline]
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Token(token) => out.extend_from_slice(&token.characters()),
            other => out.extend_from_slice(other.text().as_bytes()),
        }
    }

    pub(crate) fn text(&self) -> Text {
        match self {
            Self::Token(token) => token.text(),
            Self::Address(address) => Text::address((*address).into()),
            Self::AddressV4(address) => Text::address((*address).into()),
            Self::Withheld => Text::of(b"unknown"),
        }
    }
}

impl fmt::Display for Pseudonym {
    /// A withheld one prints as `unknown`, RFC 7239's word for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text().as_str())
    }
}

/// 128 bits of hash as an RFC 7239 obfuscated identifier: `_` and 26 characters of base 32.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; 16]);

impl Token {
    // RFC 4648 in lower case: survives systems that fold case, and has neither "-" nor ".", which some parsers of
    // obfuscated identifiers refuse though RFC 7239, 6.3, allows them.
    fn characters(&self) -> [u8; 27] {
        let mut characters = [b'_'; 27];
        let bits = u128::from_be_bytes(self.0);
        let (digits, last) = characters[1..].as_chunks_mut();
        for (start, digits) in [88, 48, 8].into_iter().zip(digits) {
            *digits = base32((bits >> start) as u64);
        }
        // 8 bits are left: two digits, the second with zeros behind.
        last.copy_from_slice(&base32((bits as u64) << 32)[..2]);
        characters
    }

    fn text(&self) -> Text {
        Text::of(&self.characters())
    }
}

/// The eight digits of the lowest 40 bits.
#[inline]
fn base32(bits: u64) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Halved, and each half moved apart, until there are 5 bits in each byte.
    let halves = (bits & 0xff_fff0_0000) << 12 | (bits & 0xf_ffff);
    let quarters = (halves & 0x000f_fc00_000f_fc00) << 6 | (halves & 0x0000_03ff_0000_03ff);
    let digits = (quarters & 0x03e0_03e0_03e0_03e0) << 3 | (quarters & 0x001f_001f_001f_001f);
    // 1 in each byte of at least 26, which is "2", 73 before where the letters would go on.
    let numbers = (digits + ONES * (128 - 26)) >> 7 & ONES;
    (digits + ONES * u64::from(b'a') - numbers * 73).to_be_bytes()
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text().as_str())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

/// What a rate limiter counts by: the same for all requests of a client within a window, whatever the session.
///
/// It can be compared and hashed, and has no way to be printed or stored, since a value that is common to all accounts
/// behind an address must not be written anywhere. That guards against accidents: who means to can feed it to a hasher of
/// his own, and write down what comes out.
///
/// All withheld clients have one key: hiding one's address must not buy a fresh allowance.
///
/// ```
/// # use ipveil::{LimitKey, keys::*, ClientAddr, policy::*};
/// fn count<K: std::hash::Hash + Eq>(key: K) { /* … */ }
/// # fn limit_key() -> LimitKey {
/// #     let keys = KeyRing::start(MemorySource, Epochs::daily()).unwrap();
/// #     let policy = Policy::new(Scope::unscoped(), [View::limit("api")]).unwrap();
/// #     policy.client(&ClientAddr::from(std::net::IpAddr::from([203, 0, 113, 7])), &keys).limit_key("api")
/// # }
/// let key: LimitKey = limit_key();
/// count(key);
/// ```
///
/// ```compile_fail
/// # use ipveil::{LimitKey, keys::*, ClientAddr, policy::*};
/// fn log<K: std::fmt::Display>(key: K) { /* … */ }
/// # fn limit_key() -> LimitKey {
/// #     let keys = KeyRing::start(MemorySource, Epochs::daily()).unwrap();
/// #     let policy = Policy::new(Scope::unscoped(), [View::limit("api")]).unwrap();
/// #     policy.client(&ClientAddr::from(std::net::IpAddr::from([203, 0, 113, 7])), &keys).limit_key("api")
/// # }
/// let key: LimitKey = limit_key();
/// log(key);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimitKey([u8; 16]);

impl LimitKey {
    pub(crate) const WITHHELD: Self = Self([0; 16]);

    pub(crate) fn new(hash: [u8; 16]) -> Self {
        Self(hash)
    }
}

impl fmt::Debug for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LimitKey(..)")
    }
}

/// The shape in which a pseudonym is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Token,
    Address,
    AddressV4,
}

impl Shape {
    #[inline]
    pub(crate) fn of(self, hash: [u8; 16], range: PseudonymRange) -> Pseudonym {
        match self {
            Self::Token => Pseudonym::Token(Token(hash)),
            Self::Address => Pseudonym::Address(range.address(hash)),
            Self::AddressV4 => {
                let [a, b, c, d, ..] = hash;
                // 255.255.255.255 is everybody's address.
                let address = (u32::from_be_bytes([a, b, c, d]) | 0xf000_0000).min(u32::MAX - 1);
                Pseudonym::AddressV4(Ipv4Addr::from_bits(address))
            }
        }
    }

    /// The pseudonym that had these [bits](Pseudonym::bits).
    #[inline]
    pub(crate) fn of_bits(self, bits: [u8; 16]) -> Pseudonym {
        match self {
            Self::Token => Pseudonym::Token(Token(bits)),
            Self::Address => Pseudonym::Address(bits.into()),
            Self::AddressV4 => {
                let [.., a, b, c, d] = bits;
                Pseudonym::AddressV4(Ipv4Addr::new(a, b, c, d))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_is_the_base32_of_its_bits(hash: [u8; 16]) {
            let bits = u128::from_be_bytes(hash);
            let digit = |place: u32| {
                let value = if place < 25 { bits >> (123 - 5 * place) } else { bits << 2 } & 31;
                char::from(b"abcdefghijklmnopqrstuvwxyz234567"[value as usize])
            };
            let plain: String = std::iter::once('_').chain((0..26).map(digit)).collect();
            prop_assert_eq!(Token(hash).to_string(), plain);
        }

        #[test]
        fn a_pseudonym_is_made_from_its_bits_again(hash: [u8; 16]) {
            for shape in [Shape::Token, Shape::Address, Shape::AddressV4] {
                let pseudonym = shape.of(hash, PseudonymRange::default());
                prop_assert_eq!(pseudonym.bits().map(|bits| shape.of_bits(bits)), Some(pseudonym));
            }
        }

        #[test]
        fn pseudonyms_of_address_shape_are_in_their_range(hash: [u8; 16]) {
            let range = PseudonymRange::default();
            let Pseudonym::Address(address) = Shape::Address.of(hash, range) else { unreachable!() };
            prop_assert!(range.contains(address.octets()));
            let Pseudonym::AddressV4(address) = Shape::AddressV4.of(hash, range) else { unreachable!() };
            prop_assert!(address.octets()[0] >= 240 && !address.is_broadcast());
        }
    }

    #[test]
    fn a_token_is_an_obfuscated_identifier_of_128_bits() {
        assert_eq!(Token([0; 16]).to_string(), "_aaaaaaaaaaaaaaaaaaaaaaaaaa");
        assert_eq!(Token([255; 16]).to_string(), "_77777777777777777777777774");
        let mut last = [0; 16];
        last[15] = 1;
        assert_ne!(Token(last).to_string(), Token([0; 16]).to_string());
    }
}
