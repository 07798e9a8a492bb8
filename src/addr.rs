//! Raw addresses: they can be anonymized, and nothing else.
//!
//! [`Peer`] and [`ClientAddr`] can be made from an address, and there is no way back by accident: no `Display`, no accessor,
//! no comparison, and `Debug` prints the type's name. What may be known of a client is what a [`Policy`](crate::Policy) shows.
//! Code that means to find an address out can ask a [`Resolver`](crate::Resolver) of its own about one network after another.
//!
//! ```
//! # use std::net::IpAddr;
//! let peer = ipveil::Peer::from(IpAddr::from([203, 0, 113, 7]));
//! assert_eq!(format!("{peer:?}"), "Peer(..)");
//! ```
//!
//! ```compile_fail
//! # use std::net::IpAddr;
//! let peer = ipveil::Peer::from(IpAddr::from([203, 0, 113, 7]));
//! assert_eq!(format!("{peer}"), "203.0.113.7");
//! ```
//!
//! ```compile_fail
//! # use std::net::IpAddr;
//! let peer = ipveil::Peer::from(IpAddr::from([203, 0, 113, 7]));
//! let address: IpAddr = peer.into();
//! ```

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use crate::{
    geo::{Countries, Country},
    keys::EpochKey,
    pseudonym::{Handle, Octets, Pseudonym, PseudonymRange},
};

/// The other end of a connection.
///
/// Servers put it into a request's extensions, where the layer finds it and takes it out:
///
/// ```
/// # use std::net::SocketAddr;
/// # let address = SocketAddr::from(([203, 0, 113, 7], 40_000));
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(ipveil::Peer::from(address));
/// ```
#[derive(Clone, Copy)]
pub struct Peer(PeerKind);

#[derive(Clone, Copy)]
enum PeerKind {
    Ip(Canonical),
    /// Of whom a trusted proxy speaks in a PROXY header.
    Announced(Canonical),
    Unix,
    Unknown,
}

impl Peer {
    /// A peer on a Unix socket: it has no address, and can be a trusted proxy.
    #[must_use]
    pub fn unix() -> Self {
        Self(PeerKind::Unix)
    }

    /// A peer of which nothing is known, not even whether it is to be trusted: its clients are withheld.
    #[must_use]
    pub fn unknown() -> Self {
        Self(PeerKind::Unknown)
    }

    /// Whom a trusted proxy has announced.
    pub(crate) fn announced(address: IpAddr) -> Self {
        Self(Canonical::from(address).usable().map_or(PeerKind::Unknown, PeerKind::Announced))
    }

    pub(crate) fn address(self) -> Option<Canonical> {
        match self.0 {
            PeerKind::Ip(address) | PeerKind::Announced(address) => Some(address),
            PeerKind::Unix | PeerKind::Unknown => None,
        }
    }

    pub(crate) fn said_by(self) -> SaidBy {
        match self.0 {
            PeerKind::Announced(_) => SaidBy::TrustedProxy,
            PeerKind::Ip(_) | PeerKind::Unix | PeerKind::Unknown => SaidBy::Connection,
        }
    }

    pub(crate) fn is_unknown(self) -> bool {
        matches!(self.0, PeerKind::Unknown)
    }

    pub(crate) fn is_unix(self) -> bool {
        matches!(self.0, PeerKind::Unix)
    }
}

/// The port is dropped: with a time it identifies a subscriber behind carrier NAT.
impl From<SocketAddr> for Peer {
    #[inline]
    fn from(address: SocketAddr) -> Self {
        address.ip().into()
    }
}

impl From<IpAddr> for Peer {
    #[inline]
    fn from(address: IpAddr) -> Self {
        Self(Canonical::from(address).usable().map_or(PeerKind::Unknown, PeerKind::Ip))
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Peer(..)")
    }
}

/// The address of a user's device, as a [`Resolver`](crate::Resolver) found it.
#[derive(Clone, Copy)]
pub struct ClientAddr {
    address: Canonical,
    said_by: SaidBy,
}

/// Who says that this is the client. Only from a trusted proxy a pseudonym can be an edge's, not the client's claim.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SaidBy {
    Connection,
    TrustedProxy,
    /// By a proxy that was not checked: see [`Resolver::hops`](crate::Resolver::hops).
    AnyProxy,
}

/// Why there is nothing to hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSubject {
    /// It is the unspecified address.
    NoAddress,
    /// The client presents a pseudonym that is not its own.
    ForeignPseudonym,
}

impl ClientAddr {
    pub(crate) fn new(address: Canonical, said_by: SaidBy) -> Self {
        Self { address, said_by }
    }

    pub(crate) fn address(&self) -> Canonical {
        self.address
    }

    /// What there is to hash.
    #[inline]
    pub(crate) fn subject(&self, range: PseudonymRange) -> Result<Subject, NoSubject> {
        match self.address.usable() {
            None => Err(NoSubject::NoAddress),
            Some(Canonical::V6(octets)) if range.has_only_pseudonyms_at(octets) => match self.said_by {
                SaidBy::TrustedProxy => Ok(Subject::Pseudonym(octets)),
                SaidBy::Connection | SaidBy::AnyProxy => Err(NoSubject::ForeignPseudonym),
            },
            Some(Canonical::V4(octets)) => Ok(Subject::V4(octets)),
            Some(Canonical::V6(octets)) => Ok(Subject::V6(octets)),
        }
    }
}

impl From<IpAddr> for ClientAddr {
    fn from(address: IpAddr) -> Self {
        Self::new(address.into(), SaidBy::Connection)
    }
}

impl fmt::Debug for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientAddr(..)")
    }
}

/// A client as it is hashed or truncated.
#[derive(Clone, Copy)]
pub(crate) enum Subject {
    V4([u8; 4]),
    V6([u8; 16]),
    /// Made by an ipveil in front of this one: it is shown as it is, wherever its shape is asked for.
    Pseudonym([u8; 16]),
}

impl Subject {
    #[inline]
    pub(crate) fn handle(&self, key: &EpochKey) -> Option<Handle> {
        let octets = match self {
            Self::V4(octets) => Octets::V4(octets),
            // A client owns all 2^64 addresses of its network, and changes within it daily.
            Self::V6(octets) => Octets::V6(first_octets(octets, 8)),
            Self::Pseudonym(octets) => Octets::Pseudonym(octets),
        };
        Handle::new(key, octets)
    }

    /// For limits; often the one that is `known` already.
    #[inline]
    pub(crate) fn limit_handle(&self, key: &EpochKey, known: Option<Handle>) -> Option<Handle> {
        match self {
            // Many a client is given a /56, and could take a fresh allowance from each /64 in it.
            Self::V6(octets) => Handle::new(key, Octets::V6(first_octets(octets, 7))),
            Self::V4(_) | Self::Pseudonym(_) => known.or_else(|| self.handle(key)),
        }
    }

    /// The pseudonym of address shape that an edge before us has made already.
    pub(crate) fn ready_made(&self) -> Option<Pseudonym> {
        match *self {
            Self::Pseudonym(octets) => Some(Pseudonym::Address(octets.into())),
            _ => None,
        }
    }

    /// The first bits of the address, as many as are kept.
    pub(crate) fn network(&self, keep: Keep) -> Option<Prefix> {
        match *self {
            Self::V4(octets) => Some(Prefix::of(keep.cut(octets.into()))),
            Self::V6(octets) => Some(Prefix::of(keep.cut(octets.into()))),
            Self::Pseudonym(_) => None,
        }
    }

    /// The country that the address is in.
    #[inline(never)]
    pub(crate) fn country(&self, countries: &Countries) -> Option<Country> {
        match *self {
            Self::V4(octets) => countries.of(octets.into()),
            Self::V6(octets) => countries.of(octets.into()),
            Self::Pseudonym(_) => None,
        }
    }
}

/// The octets that are one client's; all of them where many clients are in one /64, each with an IPv4 address at the end.
#[inline]
fn first_octets(octets: &[u8; 16], own: usize) -> &[u8] {
    match octets {
        // RFC 4291, 2.5.5.1, and RFC 2765, 2.1. RFC 8215: NAT64 with a prefix of one's own.
        [0, 0, 0, 0, 0, 0, 0, 0, ..] | [0, 0x64, 0xff, 0x9b, 0, 1, ..] => octets,
        octets => &octets[..own],
    }
}

/// How many bits of an address a network has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) v4: u8,
    pub(crate) v6: u8,
}

impl Keep {
    /// The most that may be kept.
    pub(crate) const FINEST: Self = Self { v4: 24, v6: 48 };

    pub(crate) fn cut(self, address: IpAddr) -> IpNet {
        let bits = match address {
            IpAddr::V4(_) => self.v4.min(Self::FINEST.v4),
            // RFC 3056: 2002::/16 is followed by a whole IPv4 address, which /48 would keep.
            IpAddr::V6(v6) if v6.segments()[0] == 0x2002 => self.v6.min(16 + self.v4),
            IpAddr::V6(_) => self.v6.min(Self::FINEST.v6),
        };
        IpNet::new_assert(address, bits).trunc()
    }
}

/// As many octets as a network keeps at most, [`Keep::FINEST`]: there is no room for more.
#[derive(Clone, Copy)]
pub(crate) enum Prefix {
    V4([u8; 3]),
    V6([u8; 6]),
}

impl Prefix {
    fn of(network: IpNet) -> Self {
        match network {
            IpNet::V4(network) => {
                let [a, b, c, _] = network.network().octets();
                Self::V4([a, b, c])
            }
            IpNet::V6(network) => {
                let [a, b, c, d, e, f, ..] = network.network().octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }

    /// The network, or as much of it as is kept here.
    pub(crate) fn cut(self, keep: Keep) -> IpNet {
        match self {
            Self::V4([a, b, c]) => keep.cut(IpAddr::from([a, b, c, 0])),
            Self::V6([a, b, c, d, e, f]) => keep.cut(IpAddr::from([a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        }
    }
}

/// An address in the one form in which it is compared and hashed: IPv6 that only carries IPv4 is IPv4.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Canonical {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Canonical {
    #[inline]
    pub(crate) fn v6(octets: [u8; 16]) -> Self {
        match octets {
            // RFC 4291, 2.5.5.2: IPv4-mapped. RFC 6052, 2.1: the well-known prefix of NAT64.
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
            | [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => Self::V4([a, b, c, d]),
            octets => Self::V6(octets),
        }
    }

    /// Not the unspecified address, which is nobody's.
    #[inline]
    pub(crate) fn usable(self) -> Option<Self> {
        match self {
            Self::V4([0, 0, 0, 0]) => None,
            Self::V6(octets) if octets == [0; 16] => None,
            usable => Some(usable),
        }
    }
}

impl From<IpAddr> for Canonical {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => Self::v6(address.octets()),
        }
    }
}

impl From<Canonical> for IpAddr {
    fn from(address: Canonical) -> Self {
        match address {
            Canonical::V4(octets) => octets.into(),
            Canonical::V6(octets) => octets.into(),
        }
    }
}

#[cfg(feature = "explain")]
impl ClientAddr {
    /// For whoever typed it in, and wants to see what became of it.
    pub(crate) fn revealed(&self) -> IpAddr {
        self.address.into()
    }

    pub(crate) fn is_from_header(&self) -> bool {
        self.said_by != SaidBy::Connection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn network(address: &str, keep: Keep) -> String {
        let client = ClientAddr::from(address.parse::<IpAddr>().unwrap());
        let subject = client.subject(PseudonymRange::ORCHID).unwrap();
        subject.network(keep).unwrap().cut(keep).to_string()
    }

    #[test]
    fn debug_prints_the_name_of_the_type() {
        let address = IpAddr::from([203, 0, 113, 7]);
        assert_eq!(format!("{:?}", Peer::from(address)), "Peer(..)");
        assert_eq!(format!("{:?}", ClientAddr::from(address)), "ClientAddr(..)");
    }

    #[test]
    fn networks_keep_what_they_may() {
        let finest = Keep::FINEST;
        assert_eq!(network("203.0.113.7", finest), "203.0.113.0/24");
        assert_eq!(network("2001:db8:1:2:3:4:5:6", finest), "2001:db8:1::/48");
        assert_eq!(network("::ffff:203.0.113.7", finest), "203.0.113.0/24");
        assert_eq!(network("64:ff9b::203.0.113.7", finest), "203.0.113.0/24");
    }

    #[test]
    fn the_unspecified_address_is_nobodys() {
        for nobody in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
            let client = ClientAddr::from(nobody.parse::<IpAddr>().unwrap());
            assert!(matches!(client.subject(PseudonymRange::ORCHID), Err(NoSubject::NoAddress)), "{nobody}");
        }
    }

    #[test]
    fn a_range_where_real_addresses_are_lets_none_pass() {
        let range = PseudonymRange::new_where_others_are("fd00::/8".parse().unwrap()).unwrap();
        let address = Canonical::from("fd12::1".parse::<IpAddr>().unwrap());
        let subject = ClientAddr::new(address, SaidBy::TrustedProxy).subject(range);
        assert!(matches!(subject, Ok(Subject::V6(_))));
    }

    #[test]
    fn an_ipv4_address_inside_6to4_is_cut_too() {
        // 2002:cb00:7107:: holds 203.0.113.7.
        assert_eq!(network("2002:cb00:7107::1", Keep::FINEST), "2002:cb00:7100::/40");
    }
}
