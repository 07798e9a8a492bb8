//! What the next server is told of a client.

use std::{
    fmt,
    io::Write as _,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use super::{Version, v1, v2};
use crate::policy::Client;

/// A header that speaks of a client's pseudonym, to be sent before anything else on a connection.
///
/// The source's port is 0, and there are no extensions. If the client is withheld, or if its view does not see pseudonyms of
/// address shape, the header is `UNKNOWN` in version 1 and `LOCAL` in version 2.
///
/// A connection that carries several clients' requests can speak of none of them: use one for each.
#[derive(Clone, Copy)]
pub struct Announcement {
    bytes: [u8; v1::LONGEST],
    length: usize,
}

impl Announcement {
    /// Speaks of the client's pseudonym in a view, which reached `destination`: this server's own address, or the
    /// unspecified one.
    #[must_use]
    pub fn new(version: Version, client: &Client, view: &str, destination: SocketAddr) -> Self {
        let source = client.pseudonym(view).address();
        let ends = source.map(|source| same_family(source, destination.ip()));
        Self::between(version, ends, destination.port())
    }

    /// Speaks of nobody: for a proxy's own connections, such as health checks.
    #[must_use]
    pub fn local(version: Version) -> Self {
        Self::between(version, None, 0)
    }

    fn between(version: Version, ends: Option<(IpAddr, IpAddr)>, port: u16) -> Self {
        let mut new = Self { bytes: [0; v1::LONGEST], length: 0 };
        match version {
            Version::V1 => new.line(ends, port),
            Version::V2 => new.binary(ends, port),
        }
        new
    }

    fn line(&mut self, ends: Option<(IpAddr, IpAddr)>, port: u16) {
        let mut room = &mut self.bytes[..];
        match ends {
            Some((source, destination)) => {
                let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
                write!(room, "PROXY {family} {source} {destination} 0 {port}\r\n")
            }
            None => room.write_all(b"PROXY UNKNOWN\r\n"),
        }
        .expect("the longest line fits");
        self.length = v1::LONGEST - room.len();
    }

    fn binary(&mut self, ends: Option<(IpAddr, IpAddr)>, port: u16) {
        self.extend(v2::SIGNATURE);
        match ends {
            Some((IpAddr::V4(source), IpAddr::V4(destination))) => {
                self.extend(&[v2::PROXY, v2::TCP4, 0, 2 * (4 + 2)]);
                self.extend(&source.octets());
                self.extend(&destination.octets());
            }
            Some((source, destination)) => {
                self.extend(&[v2::PROXY, v2::TCP6, 0, 2 * (16 + 2)]);
                self.extend(&v6(source).octets());
                self.extend(&v6(destination).octets());
            }
            None => return self.extend(&[v2::LOCAL, v2::UNSPECIFIED, 0, 0]),
        }
        self.extend(&[0, 0]);
        self.extend(&port.to_be_bytes());
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// What is to be sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Announcement(..)")
    }
}

/// Both as IPv6, unless both are IPv4.
fn same_family(source: IpAddr, destination: IpAddr) -> (IpAddr, IpAddr) {
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => (source, destination),
        // One server's address for another: a wildcard has no family.
        (IpAddr::V4(_), IpAddr::V6(_)) if destination.is_unspecified() => (source, IpAddr::from([0; 4])),
        (IpAddr::V6(_), IpAddr::V4(_)) if destination.is_unspecified() => (source, IpAddr::from([0; 16])),
        _ => (v6(source).into(), v6(destination).into()),
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
