//! What stands for a client outside: how it is hashed, and the shapes in which it can be shown.
//!
//! # Format
//!
//! The values are a public format: nodes of different versions under one key must agree. All hashes are keyed
//! BLAKE3; integers are big-endian; nothing is optional, so that no two inputs can be framed alike.
//!
//! | value | key | input |
//! |---|---|---|
//! | handle | epoch key | `H`, family (4, 6 or 16), octets |
//! | limit handle | epoch key | `L`, family, octets |
//! | session | handle | `S`, then per credential: `C` or `A`, length of the cookie's name (4 bytes), name, length of the value (4 bytes), value |
//! | pseudonym | handle | `P`, length of view (1 byte), view, kind of scope (1 byte), length of scope (4 bytes), scope, window (8 bytes) |
//! | limit key | limit handle | as for a pseudonym |
//!
//! The octets are all four of an IPv4 address (family 4), the first eight of an IPv6 address (6), seven for a limit
//! handle, or all sixteen of a pseudonym that another edge had made (16). Handles have 32 bytes, all else the first 16 of
//! a hash. Scopes are of kind 0, everything; 1, a host, by name; 2, a session, by its hash; 3, a request, by 16 random bytes;
//! 4, the application's own, by its text. The window is the number of whole windows since 1970, 0
//! for a view without one. A token shows the first 16 bytes of a pseudonym, an IPv6 address the last 100 bits of
//! those (for a range of 28 bits), an IPv4 address the last 28 bits of the first 4 bytes.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::Ipv6Net;

use crate::keys::EpochKey;

/// What stands for a client in one view, one scope and one window of one epoch.
///
/// It can't be turned back into an address, and pseudonyms of different views, scopes or epochs can't be compared:
/// equal clients have unequal ones. It prints in its shape.
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

    pub(crate) fn text(&self) -> Text {
        match self {
            Self::Token(token) => token.text(),
            Self::Address(address) => Text::ipv6(*address),
            Self::AddressV4(address) => Text::ipv4(*address),
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
    const ALPHABET: &'static [u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

    fn text(&self) -> Text {
        let mut text = Text::of(b"_");
        let bits = u128::from_be_bytes(self.0);
        for digit in 0..25 {
            let value = (bits >> (123 - 5 * digit)) & 31;
            text.push(Self::ALPHABET[value as usize]);
        }
        text.push(Self::ALPHABET[((bits << 2) & 31) as usize]);
        text
    }
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
/// It can be compared and hashed; it can't be printed, logged or stored, since a value that is common to all
/// accounts behind an address must not be written anywhere.
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

/// The range that pseudonyms of address shape are in.
///
/// `2001:20::/28` by default: RFC 7343 (ORCHIDv2) set it aside for hashes that look like IPv6 addresses. It is never
/// routed, so a pseudonym is never a bystander's address, and no framework takes it for a private network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PseudonymRange {
    prefix: u128,
    bits: u8,
}

impl PseudonymRange {
    /// RFC 7343's `2001:20::/28`.
    pub const ORCHID: Self = Self { prefix: 0x2001_0020 << 96, bits: 28 };

    /// Another range, with room for at least 64 bits of hash.
    ///
    /// # Errors
    ///
    /// [`RangeError::TooNarrow`] if its prefix is longer than 64 bits; [`RangeError::TooWide`] if it is shorter than 8;
    /// [`RangeError::Private`] if it is in `fc00::/7`: frameworks take such an address for a trusted proxy, and skip it
    /// or exempt it; [`RangeError::InUse`] if real clients can have an address in it.
    pub fn new(range: Ipv6Net) -> Result<Self, RangeError> {
        let new = Self::of(range)?;
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
    /// proxies. In a routed range a pseudonym may be a bystander's address.
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
            8..=64 => Ok(Self { prefix: range.network().to_bits(), bits: range.prefix_len() }),
            _ => Err(RangeError::TooNarrow),
        }
    }

    fn prefix_net(self) -> Ipv6Net {
        net(self.prefix, self.bits)
    }

    pub(crate) fn contains(self, octets: [u8; 16]) -> bool {
        (u128::from_be_bytes(octets) ^ self.prefix) >> (128 - self.bits) == 0
    }

    fn address(self, hash: [u8; 16]) -> Ipv6Addr {
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

/// A client under one epoch key: all its pseudonyms come from here, and its address can't.
// Aligned, so that moving it is cheap: it is moved on every request.
#[derive(Clone, Copy)]
#[repr(align(8))]
pub(crate) struct Handle([u8; 32]);

/// What a handle is for: first byte of its input.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Pseudonyms = b'H' as isize,
    Limits = b'L' as isize,
}

/// Which octets of a client are hashed.
#[derive(Clone, Copy)]
pub(crate) enum Octets<'a> {
    V4(&'a [u8; 4]),
    V6(&'a [u8]),
    Pseudonym(&'a [u8; 16]),
}

impl Handle {
    #[inline]
    pub(crate) fn new(key: &EpochKey, purpose: Purpose, octets: Octets<'_>) -> Option<Self> {
        let (family, octets) = match octets {
            Octets::V4(octets) => (4, &octets[..]),
            Octets::V6(octets) => (6, octets),
            Octets::Pseudonym(octets) => (16, &octets[..]),
        };
        let mut input = Input::new(purpose as u8);
        input.push(&[family]);
        input.push(octets);
        key.hash(input.as_bytes()).map(Self)
    }

    /// The hash of a request's credentials, in the order given.
    pub(crate) fn session<'a>(&self, credentials: impl Iterator<Item = Credential<'a>>) -> Option<[u8; 16]> {
        let mut input = Input::new(b'S');
        let mut any = false;
        for credential in credentials {
            any = true;
            let (kind, parts) = match credential {
                Credential::Cookie(name, value) => (b'C', [name.as_bytes(), value]),
                Credential::Authorization(value) => (b'A', [b"", value]),
            };
            input.push(&[kind]);
            for part in parts {
                input.push(&length(part));
                input.push(part);
            }
        }
        any.then(|| *input.hash(&self.0).first_chunk().expect("32 bytes hold 16"))
    }
}

/// What a handle is asked in one view: the input of a pseudonym's hash, put together beforehand as far as it can be.
#[derive(Clone)]
pub(crate) struct Question {
    // Up to and with the view's name.
    view: Input,
    // All of it, if the pseudonym is unscoped and has no window.
    unscoped: Option<Input>,
}

impl Question {
    pub(crate) fn new(view: &str, has_window: bool) -> Self {
        let mut input = Input::new(b'P');
        // Checked when the policy was made: a view's name has at most 32 bytes.
        input.push(&[view.len() as u8]);
        input.push(view.as_bytes());
        let mut new = Self { view: input, unscoped: None };
        if !has_window {
            new.unscoped = Some(new.put(ScopeValue::Unscoped, 0));
        }
        new
    }

    /// The pseudonym's first 16 bytes, before they take a shape.
    #[inline]
    pub(crate) fn ask(&self, handle: &Handle, scope: ScopeValue<'_>, window: impl FnOnce() -> u64) -> [u8; 16] {
        let hash = match (scope, &self.unscoped) {
            (ScopeValue::Unscoped, Some(input)) => input.hash(&handle.0),
            _ => self.put(scope, window()).hash(&handle.0),
        };
        *hash.first_chunk().expect("32 bytes hold 16")
    }

    fn put(&self, scope: ScopeValue<'_>, window: u64) -> Input {
        let (kind, scope) = match scope {
            ScopeValue::Unscoped => (0, &[][..]),
            ScopeValue::Host(host) => (1, host.as_bytes()),
            ScopeValue::Session(session) => (2, &session[..]),
            ScopeValue::Fresh(random) => (3, &random[..]),
            ScopeValue::Named(scope) => (4, scope.as_bytes()),
        };
        let mut input = self.view.clone();
        input.push(&[kind]);
        input.push(&length(scope));
        input.push(scope);
        input.push(&window.to_be_bytes());
        input
    }
}

/// What identifies a session in a request.
#[derive(Clone, Copy)]
pub(crate) enum Credential<'a> {
    Cookie(&'a str, &'a [u8]),
    Authorization(&'a [u8]),
}

// No request and no scope has 4 GiB.
fn length(part: &[u8]) -> [u8; 4] {
    u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// Within what a pseudonym may be compared, as it is hashed.
#[derive(Clone, Copy)]
pub(crate) enum ScopeValue<'a> {
    Unscoped,
    Host(&'a str),
    Session(&'a [u8; 16]),
    Fresh(&'a [u8; 16]),
    Named(&'a str),
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
}

/// The input of a hash, put together on the stack as long as it fits into one block of BLAKE3.
#[derive(Clone)]
struct Input {
    block: [u8; 64],
    length: usize,
    rest: Vec<u8>,
}

impl Input {
    fn new(first: u8) -> Self {
        let mut block = [0; 64];
        block[0] = first;
        Self { block, length: 1, rest: Vec::new() }
    }

    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        if self.rest.is_empty()
            && let Some(space) = self.block.get_mut(self.length..self.length + bytes.len())
        {
            space.copy_from_slice(bytes);
            self.length += bytes.len();
        } else {
            self.push_more(bytes);
        }
    }

    #[cold]
    fn push_more(&mut self, bytes: &[u8]) {
        if self.rest.is_empty() {
            self.rest.extend_from_slice(&self.block[..self.length]);
        }
        self.rest.extend_from_slice(bytes);
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self.rest.is_empty() {
            true => &self.block[..self.length],
            false => &self.rest,
        }
    }

    #[inline]
    fn hash(&self, key: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(key, self.as_bytes()).as_bytes()
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // Credentials may be in there.
        zeroize::Zeroize::zeroize(&mut self.rest);
    }
}

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
    fn push(&mut self, byte: u8) {
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

    pub(crate) fn ipv4(address: Ipv4Addr) -> Self {
        let mut text = Self::of(b"");
        text.push_ipv4(address);
        text
    }

    pub(crate) fn ipv6(address: Ipv6Addr) -> Self {
        let mut text = Self::of(b"");
        text.push_ipv6(address);
        text
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
        // 1 in each byte above 9, without a branch: 6 more carries into the high half.
        let letters = (digits + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        let ascii = digits + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10);
        // In memory the first digit comes first.
        let ascii = ascii.swap_bytes();
        self.push_digits(ascii & 0xffff_ffff, groups >> 16);
        self.push_digits(ascii >> 32, groups & 0xffff);
    }

    /// Those of four digits that the group needs, and a colon.
    #[inline(always)]
    fn push_digits(&mut self, ascii: u64, group: u32) {
        let leading = ((group | 1).leading_zeros() - 16) / 4;
        let text = (ascii | u64::from(b':') << 32) >> (8 * leading);
        // What is written too much is written over by what comes next. The mask is for the compiler: no text is longer.
        let start = self.length & 63;
        self.bytes[start..start + 8].copy_from_slice(&text.to_le_bytes());
        self.length = start + 5 - leading as usize;
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
                    prop_assert_eq!(Text::ipv6(address).as_str().to_owned(), address.to_string());
                }
            }
        }

        #[test]
        fn an_ipv4_address_prints_as_the_standard_library_prints_it(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            prop_assert_eq!(Text::ipv4(address).as_str().to_owned(), address.to_string());
        }

        #[test]
        fn pseudonyms_of_address_shape_are_in_their_range(hash: [u8; 16]) {
            let range = PseudonymRange::default();
            let Pseudonym::Address(address) = Shape::Address.of(hash, range) else { unreachable!() };
            prop_assert!(range.contains(address.octets()));
            let Pseudonym::AddressV4(address) = Shape::AddressV4.of(hash, range) else { unreachable!() };
            prop_assert!(address.octets()[0] >= 240 && !address.is_broadcast());
        }

        #[test]
        fn inputs_longer_than_a_block_are_hashed_whole(view in "[a-z]{1,32}", scope in ".{0,200}") {
            let question = Question::new(&view, true);
            let mut plain = vec![b'P', view.len() as u8];
            plain.extend_from_slice(view.as_bytes());
            plain.push(4);
            plain.extend_from_slice(&(scope.len() as u32).to_be_bytes());
            plain.extend_from_slice(scope.as_bytes());
            plain.extend_from_slice(&7_u64.to_be_bytes());
            let expected = blake3::keyed_hash(&[3; 32], &plain);
            let hash = question.ask(&Handle([3; 32]), ScopeValue::Named(&scope), || 7);
            prop_assert_eq!(&hash, &expected.as_bytes()[..16]);
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
