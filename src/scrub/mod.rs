//! Text without addresses: what a [`Scrubber`] makes of log lines, whoever wrote them.
//!
//! ```
//! use ipveil::{KeyRing, Policy, Scrubber, keys::{Epochs, MemorySource}, policy::{Scope, View}};
//!
//! let policy = Policy::new(Scope::unscoped(), [View::token("log")])?;
//! let keys = KeyRing::start(MemorySource, Epochs::daily())?;
//! let scrubber = Scrubber::new(&policy, "log", keys)?;
//!
//! let line = scrubber.scrub_str("GET /login from [2001:db8::7]:443, forwarded for 203.0.113.7");
//! assert!(line.starts_with("GET /login from [_") && !line.contains("203.0.113.7"));
//! assert_eq!(scrubber.scrub_str(&line), line);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is found
//!
//! At any place in a text, which may be bytes of any kind:
//!
//! | found | such as |
//! |---|---|
//! | IPv4 | `203.0.113.7`, `x203.0.113.7y`, `203.000.113.007`, `203%2E0%2E113%2E7` |
//! | IPv6 in every spelling | `2001:db8::7`, `2001:DB8:0:0:0:0:0:7`, `::ffff:203.0.113.7`, `fe80::7%br-4f2a`, `2001%3Adb8%3A%3A7` |
//! | with a port, or the length of a prefix | `203.0.113.7:51234`, `[2001:db8::7]:443`, `203.0.113.7/32`, `203.0.113.7.51234`, `::ffff:203.0.113.7.443` |
//! | joined to other numbers | `2001:db8::7:1732834800`, `12:00:00:2001:db8:1:2:3:4:5:6`, `203.0.113.7.203.0.113.8`, `203.0.113.7.1795919110123456`, `36210.203.0.113.7.1169124128` |
//! | names in the DNS | `7.113.0.203.in-addr.arpa`, `7.0.0.0.…8.b.d.0.1.0.0.2.ip6.arpa`, the same below other names |
//! | inside host names | `ec2-203-0-113-7.compute.example`, `7.113.0.203.dyn.example`, `2001-db8--7.pod.example` |
//!
//! Escapes before an address are not taken for a part of it: `%22`, `=3D`, `\x22`, `\u0022`, `\n`, `\011`, `#011`, ANSI
//! sequences.
//!
//! Left as they are:
//!
//! - What is no address: times, MAC addresses also of eight octets, hashes and fingerprints, C++'s and Rust's paths,
//!   versions with a part above 255, numbers with dashes outside of a host name, dates with dashes.
//! - Object identifiers: five numbers in dots and more that begin as they do, with 0, 1 or 2 (and `1.40` or `2.60` and above
//!   do not), unless tcpdump's `IP` or `>` stands beside them, or four octets stand before the seconds since 1970. That is also
//!   the address of whoever has one that begins so.
//! - Five numbers of which one has two digits and begins with 0, as in versions; a date and a time in dots.
//! - Six numbers in dots and more, all of them below 100.
//! - What is nobody's: `0.0.0.0`, `::`, everything from `240.0.0.0` up, and the range of pseudonyms (`2001:20::/28`).
//! - Networks of at most 24 bits of IPv4 or 48 of IPv6, with nothing behind the prefix: `203.0.113.0/24`.
//! - What you [keep](Scrubber::keep).
//! - The version of a [product](Scrubber::products): `Chrome/120.0.0.0`.
//!
//! So text that is clean stays the same.
//!
//! **Where a text can be read both ways, it is taken for an address**: `release 4.10.2.1`, `a::b`, `build-1-2-3-4`. What
//! looks like an address and can't be read, as when two are joined by a colon, becomes `unknown`: `2001:db8::1:2001:db8::2`,
//! `2001:db8::1::443`, `7.42.203.0.113.7`, `node-1-203-0-113-7.example`. Of five octets in dots the last one is taken for a port.
//!
//! Ports from 1024 up behind an address become 0, except in URLs: a port and a time identify a subscriber behind carrier
//! NAT. A port is behind an address after `:`, `.`, `#`, ` port `, `port=` or `port:`, in brackets, as a prefix that would be
//! longer than any (`203.0.113.7/51234`), and in pairs of Python (`('203.0.113.7', 51234)`).
//!
//! # What is not found
//!
//! Addresses in other notations: as one number, in hexadecimal or octal (`0xcb007107`), as arrays (`[203, 0, 113, 7]`, and
//! FTP's `203,0,113,7,4,1`), with separators that were quoted or made harmless (`203\.0\.113\.7`, `203[.]0[.]113[.]7`), in
//! base64, with encoded digits, over the end of a line. Host names that say where somebody is in other ways. Ports that
//! stand apart from the address: in a column of their own, as `SPT=51234`, or cut off by a [flush](ScrubWriter).
//! Scrubbing is what catches what should never have been written; what you write yourself, write as a
//! [pseudonym](crate::Client::pseudonym).
//!
//! # What equal text means
//!
//! An address in a text has no session and no host, so in a scope per session or per host each gets a fresh random
//! pseudonym, every time that it is found. With [`Scope::unscoped`](crate::policy::Scope::unscoped) the same address is
//! the same pseudonym for as long as the key lives: lines can be joined, also by whoever should not.
//! [`Scrubber::scoped`] is in between.

mod find;
mod groups;
mod kinds;
mod lines;
mod literal;
mod memo;
mod numbers;
mod panics;
mod tail;
#[cfg(feature = "tracing")]
pub mod tracing;

use std::{borrow::Cow, fmt, net::IpAddr, ops::Range, sync::Arc};

use ipnet::IpNet;

use self::{
    find::Finder,
    literal::{Form, Literal, What},
    memo::Memo,
    tail::Tail,
};
pub use self::{
    lines::{ScrubWriter, cut},
    memo::Pass,
    panics::scrub_panics,
};
use crate::{
    addr::{Canonical, ClientAddr, Keep},
    geo::Countries,
    keys::KeyRing,
    networks::Networks,
    policy::{Policy, Sees},
    pseudonym::{Pseudonym, PseudonymRange, Shape, Text},
};

/// Puts something else in place of every address in a text. See the [module](self).
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Scrubber {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    stand_in: StandIn,
    range: PseudonymRange,
    keep: Networks,
    products: Vec<String>,
}

/// What stands in for an address.
#[derive(Clone)]
enum StandIn {
    Pseudonym {
        policy: Policy,
        view: String,
        keys: KeyRing,
        scope: Option<String>,
        is_stable: bool,
        has_window: bool,
        shape: Shape,
    },
    Network(Keep),
    Country(Countries),
    Word(Vec<u8>),
}

impl Scrubber {
    /// Products whose versions look like addresses, unless there are [others](Self::products).
    pub const PRODUCTS: &[&str] = &[
        "AppleCoreMedia",
        "AppleWebKit",
        "Chrome",
        "Chromium",
        "CriOS",
        "Edg",
        "EdgA",
        "EdgiOS",
        "Edge",
        "Electron",
        "GSA",
        "HeadlessChrome",
        "OPR",
        "QtWebEngine",
        "SamsungBrowser",
        "Vivaldi",
        "Whale",
        "YaBrowser",
    ];

    /// Shows what a view of the policy shows: a pseudonym in its shape, a network, or the two letters of a
    /// country.
    ///
    /// # Errors
    ///
    /// [`ScrubError::NoView`] if the policy has no view of that name, [`ScrubError::Limit`] if it is one that only counts.
    pub fn new(policy: &Policy, view: &str, keys: KeyRing) -> Result<Self, ScrubError> {
        let stand_in = match policy.sees(view) {
            None => return Err(ScrubError::NoView),
            Some(Sees::Nothing) => return Err(ScrubError::Limit),
            Some(Sees::Network(keep)) => StandIn::Network(keep),
            Some(Sees::Country(countries)) => StandIn::Country(countries),
            Some(Sees::Pseudonym { is_stable, has_window, shape }) => StandIn::Pseudonym {
                policy: policy.clone(),
                view: view.to_owned(),
                keys,
                scope: None,
                is_stable,
                has_window,
                shape,
            },
        };
        Ok(Self::with(stand_in, policy.pseudonym_range()))
    }

    /// Shows the same word for every address.
    ///
    /// # Errors
    ///
    /// [`ScrubError::Word`] if the word itself would be scrubbed, or has a line's end in it.
    ///
    /// ```
    /// let scrubber = ipveil::Scrubber::word("(address)")?;
    /// assert_eq!(scrubber.scrub_str("from 203.0.113.7"), "from (address)");
    /// # Ok::<(), ipveil::scrub::ScrubError>(())
    /// ```
    pub fn word(word: impl Into<String>) -> Result<Self, ScrubError> {
        let word = word.into().into_bytes();
        let new = Self::with(StandIn::Word(word.clone()), PseudonymRange::default());
        if word.contains(&b'\n') || !new.count(&word).is_empty() {
            return Err(ScrubError::Word);
        }
        Ok(new)
    }

    fn with(stand_in: StandIn, range: PseudonymRange) -> Self {
        let products = Self::PRODUCTS.iter().map(|&product| product.to_owned()).collect();
        Self { inner: Arc::new(Inner { stand_in, range, keep: Networks::none(), products }) }
    }

    /// Pseudonyms in a scope of the application's own, such as a day or a case: the same in all texts of that scope under one
    /// key, comparable with no other. Networks, countries and words have no scope.
    #[must_use]
    pub fn scoped(mut self, text: impl Into<String>) -> Self {
        if let StandIn::Pseudonym { scope, is_stable, .. } = &mut Arc::make_mut(&mut self.inner).stand_in {
            *is_stable = true;
            *scope = Some(text.into());
        }
        self
    }

    /// Addresses that stay as they are, such as one's own servers'.
    #[must_use]
    pub fn keep(mut self, networks: Networks) -> Self {
        Arc::make_mut(&mut self.inner).keep = networks;
        self
    }

    /// Other products than [those](Self::PRODUCTS): before a slash, they make what could be an address a version.
    ///
    /// Whoever writes the text can make an address look like one. Keep the list short; an empty one is safest.
    #[must_use]
    pub fn products<T: Into<String>>(mut self, products: impl IntoIterator<Item = T>) -> Self {
        Arc::make_mut(&mut self.inner).products = products.into_iter().map(Into::into).collect();
        self
    }

    /// The text without addresses; itself if there were none.
    #[must_use]
    pub fn scrub<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let mut out = Vec::new();
        let mut found = Found::default();
        match self.replace(text, &mut out, &mut found, &mut None) {
            0 => Cow::Borrowed(text),
            copied => {
                out.extend_from_slice(&text[copied..]);
                Cow::Owned(out)
            }
        }
    }

    /// The same for a text that is UTF-8.
    #[must_use]
    pub fn scrub_str<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.scrub(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            // Only ASCII is replaced, by what is UTF-8.
            Cow::Owned(scrubbed) => Cow::Owned(String::from_utf8_lossy(&scrubbed).into_owned()),
        }
    }

    /// Appends the text without addresses to `out`, and says what was found.
    pub fn scrub_into(&self, text: &[u8], out: &mut Vec<u8>) -> Found {
        self.scrub_with(text, out, &mut None)
    }

    /// What there is to scrub in a text.
    #[must_use]
    pub fn count(&self, text: &[u8]) -> Found {
        let mut found = Found::default();
        Finder::new(text).filter(|literal| self.is_replaced(text, literal)).for_each(|literal| found.add(&literal));
        found
    }

    /// Where there is something to scrub in a text, from left to right.
    ///
    /// ```
    /// let scrubber = ipveil::Scrubber::word("(address)")?;
    /// assert!(scrubber.find(b"from 203.0.113.7:80").eq([5..16]));
    /// # Ok::<(), ipveil::scrub::ScrubError>(())
    /// ```
    pub fn find<'t>(&'t self, text: &'t [u8]) -> impl Iterator<Item = Range<usize>> {
        Finder::new(text).filter(|literal| self.is_replaced(text, literal)).map(|literal| literal.start..literal.end)
    }

    /// For a text in many pieces, read by one thread: see [`Pass`].
    #[must_use]
    pub fn pass(&self) -> Pass<'_> {
        Pass::new(self)
    }

    fn scrub_with(&self, text: &[u8], out: &mut Vec<u8>, memo: &mut Option<Memo>) -> Found {
        let mut found = Found::default();
        let copied = self.replace(text, out, &mut found, memo);
        out.extend_from_slice(&text[copied..]);
        found
    }

    /// Appends to `out` up to and with the last thing that has to be replaced, and says where that ends.
    #[inline]
    fn replace(&self, text: &[u8], out: &mut Vec<u8>, found: &mut Found, memo: &mut Option<Memo>) -> usize {
        let mut copied = 0;
        // What was written and copied before the last tail.
        let mut before_tail = (0, 0);
        for literal in Finder::new(text) {
            if literal.start < copied {
                // What looked like a tail is the beginning of this one.
                out.truncate(before_tail.0);
                copied = before_tail.1;
            }
            if !self.is_replaced(text, &literal) {
                continue;
            }
            found.add(&literal);
            out.extend_from_slice(&text[copied..literal.start]);
            copied = literal.end;
            self.write(text, &literal, out, memo);
            before_tail = (out.len(), copied);
            self.write_tail(text, &literal, out, &mut copied);
        }
        copied
    }

    /// Whether a literal says something that is not to be known.
    #[inline]
    fn is_replaced(&self, text: &[u8], literal: &Literal) -> bool {
        let What::Address(address) = literal.what else {
            return true;
        };
        !(is_nobodys(address)
            || self.is_network(address, text, literal)
            || matches!(address, Canonical::V6(octets) if self.inner.range.has_only_pseudonyms_at(octets))
            || self.is_version(text, literal)
            || self.inner.keep.contains(address))
    }

    /// A network that may be shown: nothing behind the prefix, and that no longer than the stand-in's own.
    #[inline]
    fn is_network(&self, address: Canonical, text: &[u8], literal: &Literal) -> bool {
        if text.get(literal.end) != Some(&b'/') {
            return false;
        }
        let Tail::Width(width, _) = literal.tail(text) else {
            return false;
        };
        let keep = match self.inner.stand_in {
            StandIn::Network(keep) => keep,
            // Any network is finer.
            StandIn::Country(_) => Keep { v4: 0, v6: 0 },
            _ => Keep::FINEST,
        };
        let address = IpAddr::from(address);
        let cut = keep.cut(address);
        width <= cut.prefix_len() && IpNet::new_assert(address, width).trunc().addr() == address
    }

    /// `Chrome/120.0.0.0`.
    #[inline]
    fn is_version(&self, text: &[u8], literal: &Literal) -> bool {
        let is_v4 = matches!(literal.what, What::Address(Canonical::V4(_))) && matches!(literal.form, Form::Plain);
        let Some(before) = text[..literal.start].strip_suffix(b"/").filter(|_| is_v4) else {
            return false;
        };
        let length = before.iter().rev().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        let word = &before[before.len() - length..];
        self.inner.products.iter().any(|product| product.as_bytes() == word)
    }

    /// Appends what stands in for a literal.
    #[inline]
    fn write(&self, text: &[u8], literal: &Literal, out: &mut Vec<u8>, memo: &mut Option<Memo>) {
        match (&self.inner.stand_in, literal.what) {
            (StandIn::Word(word), _) => out.extend_from_slice(word),
            (_, What::Unclear) => out.extend_from_slice(UNKNOWN),
            (StandIn::Network(keep), What::Address(address)) => {
                let network = keep.cut(address.into());
                let kind = if network.addr().is_ipv6() { Written::Ipv6 } else { Written::Network };
                in_brackets(text, literal, kind, out, |out| write_network(network, out));
            }
            (StandIn::Country(countries), What::Address(address)) => {
                let country = countries.of(address.into());
                let letters = country.as_ref().map_or(UNKNOWN, |country| country.as_str().as_bytes());
                // Many are groups of an IPv6 address.
                in_brackets(text, literal, Written::Ipv6, out, |out| out.extend_from_slice(letters));
            }
            (StandIn::Pseudonym { shape, is_stable, has_window, .. }, What::Address(address)) => {
                let kind = if *shape == Shape::Address { Written::Ipv6 } else { Written::Other };
                let pseudonym = match memo {
                    Some(memo) if *is_stable && !has_window => {
                        let bits = memo.recall(address, || self.pseudonym(address).bits());
                        bits.map_or(Pseudonym::Withheld, |bits| shape.of_bits(bits))
                    }
                    _ => self.pseudonym(address),
                };
                in_brackets(text, literal, kind, out, |out| pseudonym.write(out));
            }
        }
    }

    /// Appends what is to be there instead of what stands behind a literal, and says how far that goes.
    #[inline]
    fn write_tail(&self, text: &[u8], literal: &Literal, out: &mut Vec<u8>, copied: &mut usize) {
        match literal.tail(text) {
            Tail::Port(port) if is_a_clients(&text[..literal.start], &text[port.clone()]) => {
                out.extend_from_slice(&text[literal.end..port.start]);
                out.push(b'0');
                *copied = port.end;
            }
            // The network has its own, and a country has none.
            Tail::Width(_, end) if matches!(self.inner.stand_in, StandIn::Network(_) | StandIn::Country(_)) => {
                *copied = end
            }
            _ => {}
        }
    }

    fn pseudonym(&self, address: Canonical) -> Pseudonym {
        let StandIn::Pseudonym { policy, view, keys, scope, .. } = &self.inner.stand_in else {
            return Pseudonym::Withheld;
        };
        let client = policy.client(&ClientAddr::from(IpAddr::from(address)), keys);
        match scope {
            Some(scope) => client.scoped(view, scope),
            None => client.pseudonym(view),
        }
    }
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrubber(..)")
    }
}

/// RFC 7239, 6.2.
const UNKNOWN: &[u8] = b"unknown";

/// The first port that is no service's own (RFC 6335, 6): what a client may have.
const FIRST_PORT_OF_CLIENTS: u32 = 1024;

fn is_a_clients(before: &[u8], port: &[u8]) -> bool {
    let before = before.strip_suffix(b"[").unwrap_or(before);
    // A URL names a server.
    let is_url = before.ends_with(b"://") || before.ends_with(b"@") && ends_with_user(before);
    !is_url && port.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0')) >= FIRST_PORT_OF_CLIENTS
}

/// RFC 3986, 3.2.1: a URL up to the name and the password of a user.
#[cold]
fn ends_with_user(before: &[u8]) -> bool {
    // Longer than any.
    const FAR: usize = 128;
    let user = before.iter().rev().take(FAR).take_while(|&&byte| !b"/ \t\r\n\"<>".contains(&byte)).count();
    before[..before.len() - user].ends_with(b"://")
}

/// The unspecified addresses, and RFC 1112's class E, where pseudonyms are, and masks.
#[inline]
fn is_nobodys(address: Canonical) -> bool {
    match address {
        Canonical::V4([first, ..]) if first >= 240 => true,
        address => address.usable().is_none(),
    }
}

/// An IPv6 address would become one with what stands around it, and so would the length of a prefix: brackets keep them
/// apart if need be.
#[inline]
fn in_brackets(text: &[u8], literal: &Literal, kind: Written, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let behind = &text[literal.end..];
    let joins = match kind {
        Written::Other => false,
        Written::Network => match behind {
            [b':', rest @ ..] => rest.iter().find(|byte| !byte.is_ascii_hexdigit()) == Some(&b':'),
            [b'.', next, ..] => next.is_ascii_digit(),
            _ => false,
        },
        Written::Ipv6 => {
            matches!(text[..literal.start], [.., byte] if byte == b':' || is_word(byte))
                || match *behind {
                    [b':' | b'.' | b'%', next, ..] => next.is_ascii_hexdigit() || next == b':',
                    [byte, ..] => is_word(byte),
                    [] => false,
                }
        }
    };
    match joins {
        false => write(out),
        true => {
            out.push(b'[');
            write(out);
            out.push(b']');
        }
    }
}

/// What is written, as far as it has to be kept apart from what stands around it.
#[derive(Clone, Copy)]
enum Written {
    Ipv6,
    Network,
    Other,
}

fn write_network(network: IpNet, out: &mut Vec<u8>) {
    out.extend_from_slice(Text::address(network.addr()).as_bytes());
    out.push(b'/');
    let width = network.prefix_len();
    if width >= 10 {
        out.push(b'0' + width / 10);
    }
    out.push(b'0' + width % 10);
}

/// How many addresses there were in a text, by family and by how they were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// IPv4, also inside IPv6.
    pub v4: u64,
    /// IPv6.
    pub v6: u64,
    /// Neither, but too much like one.
    pub unclear: u64,
    /// Of all of them: those in names, of hosts or below `arpa`.
    pub in_names: u64,
    /// Of all of them: those that were percent-encoded.
    pub encoded: u64,
}

impl Found {
    /// Whether there were none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.v4 + self.v6 + self.unclear
    }

    #[inline]
    fn add(&mut self, literal: &Literal) {
        match literal.what {
            What::Address(Canonical::V4(_)) => self.v4 += 1,
            What::Address(Canonical::V6(_)) => self.v6 += 1,
            What::Unclear => self.unclear += 1,
        }
        match literal.form {
            Form::Plain => {}
            Form::Name => self.in_names += 1,
            Form::Encoded => self.encoded += 1,
        }
    }
}

impl std::ops::AddAssign for Found {
    fn add_assign(&mut self, other: Self) {
        self.v4 += other.v4;
        self.v6 += other.v6;
        self.unclear += other.unclear;
        self.in_names += other.in_names;
        self.encoded += other.encoded;
    }
}

/// Why there is no such scrubber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScrubError {
    /// The policy has no view of that name.
    NoView,
    /// The view only counts, and shows nothing.
    Limit,
    /// The word would be scrubbed itself, or has a line's end in it.
    Word,
}

impl fmt::Display for ScrubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoView => "the policy has no view of that name",
            Self::Limit => "a view that limits shows nothing (expected one of tokens, addresses or networks)",
            Self::Word => "the word would be scrubbed itself (expected one line without an address)",
        })
    }
}

impl std::error::Error for ScrubError {}
