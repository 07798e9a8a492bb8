//! Who is the client of this request? From the peer, and from what trusted proxies say.
//!
//! For [`Resolver::behind`]:
//!
//! 1. **A header is read only if the peer is a trusted proxy.** Otherwise the peer is the client, whatever the
//!    headers say.
//! 2. **One header is read**, the one that the nearest proxy writes. There is no falling back from one to another: a
//!    proxy that writes one passes the others on as the client sent them.
//! 3. The walk goes **from right to left**, from the nearest hop to the furthest: what the nearest proxy appended is
//!    to the right of whatever the client sent. The first hop that is not a trusted proxy is the client. Several lines
//!    of the header are one list. Empty elements are not hops (RFC 9110, 5.6.1.2).
//! 4. **A hop that is not an address ends the walk**, and the client is withheld: `unknown`, an obfuscated identifier,
//!    garbage. To skip it would let a client choose where the walk goes on.
//! 5. When all hops are trusted, or a trusted proxy sent no header, the client is withheld too.
//!    [`Resolver::furthest_hop`] takes the furthest trusted hop instead.
//!
//! [`Resolver::hops`] counts instead: whoever the peer is, unless it is told whom to believe, and whatever nearer hops say.
//!
//! ```
//! use http::{HeaderMap, HeaderValue};
//! use ipveil::{Peer, Resolver, TrustedProxies, resolve::Source};
//!
//! let resolver = Resolver::behind(TrustedProxies::parse(["10.0.0.0/8"])?, Source::x_forwarded_for());
//! let mut headers = HeaderMap::new();
//! headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1, 203.0.113.7, 10.0.0.2"));
//!
//! let peer = Peer::from(std::net::IpAddr::from([10, 0, 0, 1]));
//! let client = resolver.resolve(peer, &headers)?; // 203.0.113.7, but nobody can see it
//! assert_eq!(format!("{client:?}"), "ClientAddr(..)");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What can still go wrong
//!
//! A trusted network that is wider than the proxies in it lets whoever else is there name any client. So does a proxy
//! that passes the configured header on as it came instead of appending or replacing. A fixed hop count
//! ([`Resolver::hops`]) is wrong by one as soon as somebody adds a proxy, or a path goes around one.

#[cfg(feature = "explain")]
pub mod explain;
mod forwarded;
mod node;
mod trusted;

use std::{fmt, num::NonZeroU8};

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};

use self::node::Node;
pub(crate) use self::node::parse_v6;
pub use self::trusted::{TrustedError, TrustedProxies};
use crate::{
    addr::{Canonical, ClientAddr, Peer, SaidBy},
    headers::Lines,
};

/// Finds the client of a request. See the [module](self) for the rules.
#[derive(Clone, Debug)]
pub struct Resolver {
    source: Source,
    // Whom to step over.
    trusted: Option<TrustedProxies>,
    // Whose word to take, if not theirs.
    peers: Option<TrustedProxies>,
    hops: Option<NonZeroU8>,
    furthest_hop: bool,
}

impl Resolver {
    /// The client is the peer, whatever the headers say: for a server that clients connect to directly.
    #[must_use]
    pub fn direct() -> Self {
        Self { source: Source(SourceKind::Peer), trusted: None, peers: None, hops: None, furthest_hop: false }
    }

    /// The client is the first hop, from the nearest, that is not trusted.
    #[must_use]
    pub fn behind(trusted: TrustedProxies, source: Source) -> Self {
        Self { source, trusted: Some(trusted), peers: None, hops: None, furthest_hop: false }
    }

    /// The client is what the last of exactly `hops` proxies says, counted from the client: with 1, the rightmost
    /// element.
    ///
    /// Every peer is believed, as long as the server says that there is one: right only where nobody can connect except
    /// through those proxies.
    /// [`only_from`](Self::only_from) adds the check; without it, a pseudonym that an edge in front has made is withheld
    /// instead of passed on. A header that holds a single address is one hop.
    #[must_use]
    pub fn hops(hops: NonZeroU8, source: Source) -> Self {
        Self { source, trusted: None, peers: None, hops: Some(hops), furthest_hop: false }
    }

    /// Believes a peer only if it is one of these; any other peer is the client itself.
    #[must_use]
    pub fn only_from(mut self, peers: TrustedProxies) -> Self {
        self.peers = Some(peers);
        self
    }

    /// When every hop is trusted, or the nearest proxy sent no header, the furthest hop known is the client: for
    /// services whose own proxies are also clients. Without it such a client is withheld.
    #[must_use]
    pub fn furthest_hop(mut self) -> Self {
        self.furthest_hop = true;
        self
    }

    /// The client of a request that came from `peer` with `headers`.
    ///
    /// Takes time linear in the length of the headers at most, allocates nothing and never panics.
    ///
    /// # Errors
    ///
    /// [`Withheld`] if that is not known; no other address is ever given instead.
    #[inline]
    pub fn resolve(&self, peer: Peer, headers: &HeaderMap) -> Result<ClientAddr, Withheld> {
        self.resolve_in(peer, headers)
    }

    /// Whether what this peer says about a client is believed.
    ///
    /// Never, if the client is the peer itself: then there is nothing to believe.
    ///
    /// # What it gives away
    ///
    /// Whether the peer is in a set that is the caller's own. Code that asks about many sets learns the address.
    #[must_use]
    pub fn is_believed(&self, peer: Peer) -> bool {
        self.source.0.name().is_some() && self.believes(peer)
    }

    /// As [`resolve`](Self::resolve), where the lines may have been found already.
    #[inline]
    pub(crate) fn resolve_in(&self, peer: Peer, lines: &impl Lines) -> Result<ClientAddr, Withheld> {
        self.walk(peer, self.believes(peer), lines, &mut ())
    }

    /// The header that is read.
    pub(crate) fn source_name(&self) -> Option<&HeaderName> {
        self.source.0.name()
    }

    #[inline(always)]
    fn believes(&self, peer: Peer) -> bool {
        let believed = self.peers.as_ref().or(self.trusted.as_ref());
        !peer.is_unknown() && believed.is_none_or(|believed| believed.trust(peer))
    }

    #[inline]
    fn walk(
        &self,
        peer: Peer,
        believed: bool,
        lines: &impl Lines,
        watch: &mut impl Watch,
    ) -> Result<ClientAddr, Withheld> {
        let of_peer = || {
            let address = peer.address().ok_or(Withheld::NoPeerAddress)?;
            Ok(ClientAddr::new(address, peer.said_by()))
        };
        let said_by = match (&self.peers, &self.trusted) {
            (None, None) => SaidBy::AnyProxy,
            _ => SaidBy::TrustedProxy,
        };
        let Some(name) = self.source.0.name().filter(|_| believed) else {
            return of_peer();
        };
        let mut walk = Walk {
            stop: match self.hops {
                Some(hops) => Stop::AfterHops(hops),
                None => Stop::AtUntrusted(self.trusted.as_ref()),
            },
            left: MOST_ELEMENTS,
            furthest: None,
            watch,
        };
        if let Some(client) = walk.source(&self.source.0, lines.source(name))? {
            return Ok(ClientAddr::new(client, said_by));
        }
        match (walk.stop, walk.furthest) {
            (Stop::AfterHops(_), _) if walk.left < MOST_ELEMENTS => Err(Withheld::TooFewHops),
            (_, Some(furthest)) if self.furthest_hop => Ok(ClientAddr::new(furthest, said_by)),
            (_, None) if self.furthest_hop => of_peer(),
            (_, Some(_)) => Err(Withheld::AllTrusted),
            (_, None) => Err(Withheld::NoHeader),
        }
    }
}

/// More than any real chain has, and few enough to be walked at once.
const MOST_ELEMENTS: u16 = 512;

/// Where a walk is, and when it ends.
struct Walk<'a, W> {
    stop: Stop<'a>,
    // How many elements may still be looked at.
    left: u16,
    // The last hop that was an address.
    furthest: Option<Canonical>,
    watch: &'a mut W,
}

#[derive(Clone, Copy)]
enum Stop<'a> {
    /// The client is this far away; what is nearer is not looked at.
    AfterHops(NonZeroU8),
    AtUntrusted(Option<&'a TrustedProxies>),
}

impl<W: Watch> Walk<'_, W> {
    #[inline]
    fn source<'h>(
        &mut self,
        source: &SourceKind,
        mut lines: impl DoubleEndedIterator<Item = &'h HeaderValue>,
    ) -> Result<Option<Canonical>, Withheld> {
        let parse = match source {
            SourceKind::Peer | SourceKind::List(_) => return self.lists(lines),
            SourceKind::Forwarded => {
                return self.lines(lines, |line| {
                    forwarded::elements_from_right(line).map(|element| (element, forwarded::parse_element(element)))
                });
            }
            SourceKind::Single(_) => Node::parse,
            SourceKind::WithPort(_) => Node::parse_with_port,
        };
        let line = lines.next();
        if lines.next().is_some() {
            return Err(Withheld::SeveralLines);
        }
        self.lines(line.into_iter(), |line| {
            let element = forwarded::trim(line);
            [(element, parse(element))].into_iter()
        })
    }

    #[inline]
    fn lists<'h>(
        &mut self,
        lines: impl DoubleEndedIterator<Item = &'h HeaderValue>,
    ) -> Result<Option<Canonical>, Withheld> {
        for line in lines.rev() {
            // No address has a comma in it, so a line that is one is one element: most lines are.
            let whole = line.as_bytes();
            let node = match Node::bare_v4(whole) {
                None if !whole.contains(&b',') => Some(Node::parse(forwarded::trim(whole))),
                node => node,
            };
            let client = match node {
                Some(node @ Node::Address(_)) => self.element(whole, node)?,
                _ => self.list(line)?,
            };
            if client.is_some() {
                return Ok(client);
            }
        }
        Ok(None)
    }

    #[inline(never)]
    fn list(&mut self, line: &HeaderValue) -> Result<Option<Canonical>, Withheld> {
        self.lines([line].into_iter(), |line| {
            forwarded::list_from_right(line).map(|element| (element, Node::parse(element)))
        })
    }

    /// Goes through the hops from the nearest until one is the client; nothing if none is.
    #[inline]
    fn lines<'h, E: Iterator<Item = (&'h [u8], Node)>>(
        &mut self,
        lines: impl DoubleEndedIterator<Item = &'h HeaderValue>,
        elements: impl Fn(&'h [u8]) -> E,
    ) -> Result<Option<Canonical>, Withheld> {
        for line in lines.rev() {
            for (element, node) in elements(line.as_bytes()) {
                if let Some(client) = self.element(element, node)? {
                    return Ok(Some(client));
                }
            }
        }
        Ok(None)
    }

    #[inline(always)]
    fn element(&mut self, element: &[u8], node: Node) -> Result<Option<Canonical>, Withheld> {
        self.left = self.left.checked_sub(1).ok_or(Withheld::TooManyHops)?;
        // RFC 9110, 5.6.1.2: empty elements don't count.
        if element.is_empty() {
            return Ok(None);
        }
        let verdict = match (self.stop, node) {
            // A trusted proxy wrote it, and it is not the client: whatever it says, it is one hop.
            (Stop::AfterHops(hops), _) if hops > NonZeroU8::MIN => {
                self.stop = Stop::AfterHops(NonZeroU8::new(hops.get() - 1).expect("more than one"));
                Verdict::Skipped
            }
            (_, Node::Hidden) => Verdict::Withheld(Withheld::Hidden),
            (_, Node::Malformed) => Verdict::Withheld(Withheld::Malformed),
            (Stop::AtUntrusted(Some(trusted)), Node::Address(address)) if trusted.networks.contains(address) => {
                Verdict::Trusted
            }
            (_, Node::Address(_)) => Verdict::Client,
        };
        self.watch.hop(element, verdict);
        match (verdict, node) {
            (Verdict::Withheld(why), _) => Err(why),
            (Verdict::Client, Node::Address(address)) => Ok(Some(address)),
            (_, Node::Address(address)) => {
                self.furthest = Some(address);
                Ok(None)
            }
            _ => Ok(None),
        }
    }
}

/// Sees each hop as it is decided on: how the walk is explained without being told twice.
trait Watch {
    fn hop(&mut self, element: &[u8], verdict: Verdict);
}

impl Watch for () {
    #[inline]
    fn hop(&mut self, _: &[u8], _: Verdict) {}
}

#[derive(Clone, Copy)]
enum Verdict {
    Trusted,
    /// By count: nearer than the client.
    Skipped,
    Client,
    Withheld(Withheld),
}

/// The one header that is read: what the nearest trusted proxy writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source(SourceKind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum SourceKind {
    Peer,
    List(HeaderName),
    Forwarded,
    Single(HeaderName),
    WithPort(HeaderName),
}

impl SourceKind {
    #[inline]
    fn name(&self) -> Option<&HeaderName> {
        match self {
            Self::Peer => None,
            Self::List(name) | Self::Single(name) | Self::WithPort(name) => Some(name),
            Self::Forwarded => Some(&FORWARDED),
        }
    }
}

impl Source {
    /// `X-Forwarded-For`: a comma list to which each proxy appends its peer.
    #[must_use]
    pub fn x_forwarded_for() -> Self {
        Self::list(HeaderName::from_static("x-forwarded-for"))
    }

    /// `Forwarded`, RFC 7239.
    #[must_use]
    pub fn forwarded() -> Self {
        Self(SourceKind::Forwarded)
    }

    /// A header by name, in the form that it is known to have: `Forwarded`, the lists of `X-Forwarded-For` and
    /// `X-Original-Forwarded-For`, `CloudFront-Viewer-Address` with its port, and anything else a single address, such as
    /// `X-Real-IP`, `CF-Connecting-IP` or `Fly-Client-IP`. For other lists there is [`list`](Self::list).
    ///
    /// A single-address header that comes in several lines is contradictory, and the client withheld.
    #[must_use]
    pub fn header(name: HeaderName) -> Self {
        match name.as_str() {
            "forwarded" => Self::forwarded(),
            "x-forwarded-for" | "x-original-forwarded-for" => Self::list(name),
            "cloudfront-viewer-address" => Self(SourceKind::WithPort(name)),
            _ => Self(SourceKind::Single(name)),
        }
    }

    /// A header of another name that is a comma list like `X-Forwarded-For`.
    #[must_use]
    pub fn list(name: HeaderName) -> Self {
        Self(SourceKind::List(name))
    }
}

/// Why a client is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Withheld {
    /// The server did not say who the peer is, or the peer has no address and is no trusted proxy.
    NoPeerAddress,
    /// A trusted proxy did not send the header.
    NoHeader,
    /// A hop is not an address, nor anything else that may stand there.
    Malformed,
    /// A hop is `unknown`, an obfuscated identifier, or has no `for`: somebody who knows does not say.
    Hidden,
    /// Every hop is a trusted proxy.
    AllTrusted,
    /// The header has fewer hops than there are proxies.
    TooFewHops,
    /// The header has more elements than anybody looks at.
    TooManyHops,
    /// A header that holds one address came more than once.
    SeveralLines,
    /// The client presents an address in the range of pseudonyms, which only an edge before this one can have made.
    ForeignPseudonym,
    /// No key is valid now.
    NoKey,
}

impl Withheld {
    /// All of them: for whoever counts.
    pub const ALL: &'static [Self] = &[
        Self::NoPeerAddress,
        Self::NoHeader,
        Self::Malformed,
        Self::Hidden,
        Self::AllTrusted,
        Self::TooFewHops,
        Self::TooManyHops,
        Self::SeveralLines,
        Self::ForeignPseudonym,
        Self::NoKey,
    ];
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPeerAddress => "the peer has no known address",
            Self::NoHeader => "the trusted proxy did not send the header",
            Self::Malformed => "a hop is malformed",
            Self::Hidden => "a hop hides the one before it",
            Self::AllTrusted => "every hop is a trusted proxy",
            Self::TooFewHops => "the header has fewer hops than there are proxies",
            Self::TooManyHops => "the header has too many elements",
            Self::SeveralLines => "a header for one address came more than once",
            Self::ForeignPseudonym => "the client presents a pseudonym",
            Self::NoKey => "no key is valid now",
        })
    }
}

impl std::error::Error for Withheld {}
