//! Why is this the client? The walk, hop by hop, as the resolver goes it.
//!
//! **For tools, not for servers**: an explanation shows addresses. It is made from a peer that somebody typed, never from
//! a [`Peer`], so it is no way around the types; all the same, nothing here belongs into a program that
//! sees real clients.

use std::{fmt, net::IpAddr};

use http::{HeaderMap, HeaderName};

use super::{Node, Resolver, SourceKind, Verdict, Watch, Withheld};
use crate::addr::{ClientAddr, Peer};

/// What a [`Resolver`] made of a request, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// Whether the peer's word about the client is believed.
    pub peer_is_believed: bool,
    /// Whether any header is read at all.
    pub reads_header: bool,
    /// The hops that were looked at, nearest first.
    pub hops: Vec<Hop>,
    /// The client's address; or why there is none.
    pub client: Result<IpAddr, Withheld>,
    /// What said so: nothing for the peer's own address, otherwise the header.
    pub header: Option<HeaderName>,
    by_count: bool,
}

/// One element of the header.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hop {
    /// As it was sent; what is not UTF-8 is replaced.
    pub text: String,
    /// What was decided.
    pub verdict: HopVerdict,
}

/// What a hop is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HopVerdict {
    /// A trusted proxy: the walk goes on.
    Trusted,
    /// A proxy by count: the walk goes on.
    Skipped,
    /// The client.
    Client,
    /// Not an address: the walk ends without a client.
    Withheld(Withheld),
}

impl fmt::Display for HopVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trusted => f.write_str("a trusted proxy"),
            Self::Skipped => f.write_str("a proxy, by count"),
            Self::Client => f.write_str("the client"),
            Self::Withheld(why) => why.fmt(f),
        }
    }
}

impl Explanation {
    /// Why this is the client, or why there is none, as a phrase.
    #[must_use]
    pub fn why(&self) -> String {
        let header = match (self.client, &self.header) {
            (Err(why), _) => return why.to_string(),
            (Ok(_), Some(header)) => header,
            (Ok(_), None) if !self.reads_header => return "the peer is the client: no header is read".to_owned(),
            (Ok(_), None) if self.peer_is_believed => {
                return "the trusted peer sent no header, and is itself the furthest hop".to_owned();
            }
            (Ok(_), None) => return "the peer is not a trusted proxy, so it is the client".to_owned(),
        };
        match (self.hops.last().map(|hop| hop.verdict), self.by_count) {
            (Some(HopVerdict::Client), true) => format!("hop {} in {header}, counted from the right", self.hops.len()),
            (Some(HopVerdict::Client), false) => format!("the nearest hop in {header} that is not a trusted proxy"),
            _ => format!("every hop is trusted, and this is the furthest in {header}"),
        }
    }
}

impl Resolver {
    /// Resolves as [`resolve`](Self::resolve) does, and says how.
    ///
    /// `peer` is an address with or without a port, or `unix` (also `@`, or with a path after `unix:`). Without one, what
    /// the headers say is believed.
    ///
    /// # Errors
    ///
    /// [`NotAPeer`] if `peer` is neither.
    pub fn explain(&self, peer: Option<&str>, headers: &HeaderMap) -> Result<Explanation, NotAPeer> {
        let (peer, believed) = match peer {
            Some(text) => {
                let peer = parse_peer(text)?;
                (peer, self.believes(peer))
            }
            None => (Peer::unknown(), true),
        };
        let mut hops = Vec::new();
        let client = self.walk(peer, believed, headers, &mut hops);
        let header = match (&client, &self.source.0) {
            (Ok(client), source) if client.is_from_header() => source.name(),
            _ => None,
        };
        Ok(Explanation {
            peer_is_believed: believed && self.source.0 != SourceKind::Peer,
            reads_header: self.source.0 != SourceKind::Peer,
            by_count: self.hops.is_some(),
            hops,
            client: client.as_ref().map(ClientAddr::revealed).map_err(|why| *why),
            header: header.cloned(),
        })
    }
}

impl Watch for Vec<Hop> {
    fn hop(&mut self, element: &[u8], verdict: Verdict) {
        self.push(Hop {
            text: String::from_utf8_lossy(element).into_owned(),
            verdict: match verdict {
                Verdict::Trusted => HopVerdict::Trusted,
                Verdict::Skipped => HopVerdict::Skipped,
                Verdict::Client => HopVerdict::Client,
                Verdict::Withheld(why) => HopVerdict::Withheld(why),
            },
        });
    }
}

fn parse_peer(text: &str) -> Result<Peer, NotAPeer> {
    if text == "@" || text == "unix" || text.starts_with("unix:") {
        return Ok(Peer::unix());
    }
    match Node::parse(text.as_bytes()) {
        Node::Address(address) => Ok(Peer::from(IpAddr::from(address))),
        Node::Hidden | Node::Malformed => Err(NotAPeer),
    }
}

/// A peer that is neither an address nor a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPeer;

impl fmt::Display for NotAPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer is not an address (expected one such as 10.0.0.1:4711 or [2001:db8::1]:4711, or unix)")
    }
}

impl std::error::Error for NotAPeer {}
