//! The PROXY protocol, versions 1 and 2: of whom a proxy speaks, and how to speak of a pseudonym to the next server.
//!
//! A proxy that only passes bytes on says before all else whose they are. Bytes in, a [`Peer`] out, and no I/O:
//!
//! 1. Only **trusted proxies** are read: what anybody else claims to be is an [error](HeaderError::Untrusted), before a
//!    byte of it is looked at.
//! 2. The header is read **strictly**, and said to be wrong as early as that is known. Where the client's address is
//!    missing it is not guessed: see [`Header::peer`].
//! 3. Ports, and what else the header says of the client (its certificate, its cipher, connection ids, networks at a cloud
//!    provider), are checked for their structure and **never kept**.
//! 4. What is sent to the next server comes [from a `Client`](Announcement), and thus **is never an address**.
//!
//! ```
//! use ipveil::{
//!     KeyRing, Peer, Policy, Resolver, TrustedProxies,
//!     keys::{Epochs, MemorySource},
//!     policy::{Scope, View},
//!     proxy_protocol::{Announcement, Progress, Receiver, Version},
//! };
//!
//! let receiver = Receiver::new(TrustedProxies::parse(["10.0.0.0/8"])?);
//! let proxy = Peer::from(std::net::IpAddr::from([10, 0, 0, 1]));
//!
//! let bytes = b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\nGET / HTTP/1.1\r\n";
//! assert!(matches!(receiver.read(proxy, &bytes[..20])?, Progress::Incomplete(_)));
//! let Progress::Complete(header) = receiver.read(proxy, bytes)? else { panic!("it is all there") };
//! assert!(bytes[header.length()..].starts_with(b"GET /"));
//! assert_eq!(format!("{:?}", header.peer()), "Peer(..)");
//!
//! // To the next server, in the same protocol:
//! let policy = Policy::new(Scope::unscoped(), [View::address("upstream")])?;
//! let keys = KeyRing::start(MemorySource, Epochs::daily())?;
//! let client = Resolver::direct().resolve(header.peer(), &http::HeaderMap::new())?;
//! let client = policy.client(&client, &keys);
//! let announcement = Announcement::new(Version::V1, &client, "upstream", "192.0.2.1:443".parse()?);
//! assert!(announcement.as_bytes().starts_with(b"PROXY TCP6 2001:2"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! There is no way to write a header for anything but a client under a policy:
//!
//! ```compile_fail
//! # use ipveil::{Peer, proxy_protocol::{Announcement, Version}};
//! let peer = Peer::from(std::net::IpAddr::from([203, 0, 113, 7]));
//! let announcement = Announcement::new(Version::V1, &peer, "upstream", "192.0.2.1:443".parse().unwrap());
//! ```
//!
//! # What can still go wrong
//!
//! Whoever is trusted here can name any client, as with headers. And a server that takes a header where it is optional takes
//! one from the client, too, if the proxy sends none: so it is either required of a peer or [refused](begins).

mod announcement;
mod crc32c;
mod v1;
mod v2;

use std::{fmt, net::IpAddr};

pub use self::announcement::Announcement;
use crate::{addr::Peer, resolve::TrustedProxies};

/// Reads the headers that trusted proxies send. See the [module](self).
#[derive(Clone, Debug)]
pub struct Receiver {
    trusted: TrustedProxies,
    longest: usize,
}

impl Receiver {
    /// Reads those of these proxies, of up to 4096 bytes.
    #[must_use]
    pub fn new(trusted: TrustedProxies) -> Self {
        Self { trusted, longest: 4096 }
    }

    /// Reads headers of up to this many bytes, and at least of 536, which every receiver takes. It is known from the first
    /// 16 bytes whether one is longer. Those of version 1 have 107 at most.
    #[must_use]
    pub fn longest(mut self, bytes: usize) -> Self {
        self.longest = bytes.max(536);
        self
    }

    /// Reads the header at the beginning of what `sender` has sent so far.
    ///
    /// Allocates nothing, and never takes more time than it takes to look at each byte twice. The caller sets a deadline,
    /// and closes the connection upon an error.
    ///
    /// ```
    /// # use ipveil::{Peer, TrustedProxies, proxy_protocol::*};
    /// let receiver = Receiver::new(TrustedProxies::parse(["unix"])?);
    /// let anybody = Peer::from(std::net::IpAddr::from([203, 0, 113, 7]));
    /// assert_eq!(receiver.read(anybody, b"").err(), Some(HeaderError::Untrusted));
    /// assert_eq!(receiver.read(Peer::unix(), b"GET / HTTP/1.1").err(), Some(HeaderError::Missing));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`HeaderError`], whatever else may follow.
    pub fn read(&self, sender: Peer, bytes: &[u8]) -> Result<Progress, HeaderError> {
        if !self.trusted.trust(sender) {
            return Err(HeaderError::Untrusted);
        }
        if starts_alike(bytes, v1::SIGNATURE) {
            return v1::read(sender, bytes);
        }
        if starts_alike(bytes, v2::SIGNATURE) {
            return v2::read(sender, bytes, self.longest);
        }
        Err(HeaderError::Missing)
    }
}

/// Whether this begins with a header, for connections on which there must be none; nothing as long as it may turn out
/// either way.
#[must_use]
pub fn begins(bytes: &[u8]) -> Option<bool> {
    let signatures = [v1::SIGNATURE, v2::SIGNATURE];
    if signatures.iter().any(|signature| bytes.starts_with(signature)) {
        return Some(true);
    }
    if signatures.iter().any(|signature| starts_alike(bytes, signature)) { None } else { Some(false) }
}

fn starts_alike(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

/// How far a header has been read.
#[derive(Clone, Copy, Debug)]
pub enum Progress {
    /// At least this many more bytes are needed, and no byte of them is more than the header has.
    Incomplete(usize),
    /// All of it is there.
    Complete(Header),
}

/// What a header says that may be known.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    version: Version,
    length: usize,
    peer: Peer,
    is_tls: bool,
}

impl Header {
    /// How many bytes it has. What the client sends comes after them.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Of whom the rest of the connection is:
    ///
    /// | the header | the peer |
    /// |---|---|
    /// | names a client | that one |
    /// | is `LOCAL` | the sender: it speaks for itself, to see whether the server is well |
    /// | is `UNKNOWN` or unspecified, or names a Unix socket | [unknown](Peer::unknown), and so withheld |
    ///
    /// The protocol would have it that an unknown client is the sender. Then headers that this client sent would be believed
    /// as if they were a proxy's.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The version that the sender speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the client speaks TLS with the sender, as that says.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Of whom a sender speaks.
#[derive(Clone, Copy)]
enum Whom {
    Itself,
    Nobody,
    Client(IpAddr),
}

impl Whom {
    fn peer(self, sender: Peer) -> Peer {
        match self {
            Self::Itself => sender,
            Self::Nobody => Peer::unknown(),
            Self::Client(address) => Peer::announced(address),
        }
    }
}

/// What is wrong with a header. It says what and where, and never which: it can be logged and counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeaderError {
    /// The sender is no trusted proxy.
    Untrusted,
    /// What was sent does not begin like a header.
    Missing,
    /// It is longer than it may be.
    TooLong,
    /// This part of it is not as it has to be.
    Malformed(Part),
    /// It is not as it was sent: its CRC-32C is another one.
    Checksum,
}

/// A part of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The end of the line.
    LineEnd,
    /// How many words the line has.
    Words,
    /// The version.
    Version,
    /// What it is for.
    Command,
    /// The kind of addresses, or the transport.
    Family,
    /// The length, which is too short for addresses of that kind.
    Length,
    /// The client's address.
    Source,
    /// The server's address.
    Destination,
    /// The client's port.
    SourcePort,
    /// The server's port.
    DestinationPort,
    /// The extensions (TLVs).
    Extensions,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self {
            Self::Untrusted => return f.write_str("a PROXY header from a peer that is not a trusted proxy"),
            Self::Missing => return f.write_str("no PROXY header (expected version 1 or 2)"),
            Self::TooLong => return f.write_str("the PROXY header is too long"),
            Self::Checksum => return f.write_str("the PROXY header has a wrong checksum"),
            Self::Malformed(part) => part,
        };
        let what = match part {
            Part::LineEnd => "has a malformed end of line (expected CR and LF)",
            Part::Words => "has too few words, too many, or empty ones",
            Part::Version => "is of an unknown version (expected 1 or 2)",
            Part::Command => "has an unknown command (expected LOCAL or PROXY)",
            Part::Family => "has an unknown family or transport",
            Part::Length => "is too short for its addresses",
            Part::Source => "has a malformed source address",
            Part::Destination => "has a malformed destination address",
            Part::SourcePort => "has a malformed source port",
            Part::DestinationPort => "has a malformed destination port",
            Part::Extensions => "has malformed extensions",
        };
        write!(f, "the PROXY header {what}")
    }
}

impl std::error::Error for HeaderError {}
