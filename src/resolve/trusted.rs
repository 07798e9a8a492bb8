//! The proxies whose word about a client is believed.

use std::fmt;

use ipnet::IpNet;

use crate::{
    addr::Peer,
    networks::{Networks, NetworksError, named},
};

/// Networks, and maybe Unix sockets.
///
/// ```
/// use ipveil::TrustedProxies;
///
/// let trusted = TrustedProxies::parse(["10.0.0.0/8", "2001:db8::5", "loopback", "unix"])?;
/// # Ok::<(), ipveil::resolve::TrustedError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    pub(super) networks: Networks,
    unix: bool,
}

impl TrustedProxies {
    /// Nobody.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads what [`Networks::parse`] does; and `unix`, for peers on Unix sockets.
    ///
    /// # Errors
    ///
    /// [`TrustedError`] for the first entry that is none of these.
    pub fn parse<T: AsRef<str>>(entries: impl IntoIterator<Item = T>) -> Result<Self, TrustedError> {
        let (mut all, mut unix) = (Vec::new(), false);
        for (place, entry) in entries.into_iter().enumerate() {
            let entry = entry.as_ref();
            if entry.trim().eq_ignore_ascii_case("unix") {
                unix = true;
            } else {
                all.extend(named(entry).ok_or_else(|| TrustedError(NetworksError::new(place, entry)))?);
            }
        }
        Ok(Self { networks: all.into_iter().collect(), unix })
    }

    /// Peers on Unix sockets, too.
    #[must_use]
    pub fn and_unix_sockets(mut self) -> Self {
        self.unix = true;
        self
    }

    #[inline]
    pub(crate) fn trust(&self, peer: Peer) -> bool {
        match peer.address() {
            Some(address) => self.networks.contains(address),
            None => self.unix && peer.is_unix(),
        }
    }
}

impl From<Networks> for TrustedProxies {
    fn from(networks: Networks) -> Self {
        Self { networks, unix: false }
    }
}

impl FromIterator<IpNet> for TrustedProxies {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        Networks::from_iter(nets).into()
    }
}

impl From<IpNet> for TrustedProxies {
    fn from(net: IpNet) -> Self {
        Self::from_iter([net])
    }
}

/// An entry that is neither a network, nor the name of a set, nor `unix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedError(NetworksError);

impl fmt::Display for TrustedError {
    /// Says which entry it is, and quotes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.tell(f, "trusted proxy", ", unix")
    }
}

impl std::error::Error for TrustedError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_sockets_are_trusted_by_name() {
        let trust = |entries: &[&str], peer| TrustedProxies::parse(entries).unwrap().trust(peer);
        assert!(!trust(&["loopback", "private", "link-local"], Peer::unix()));
        assert!(trust(&["10.0.0.0/8", " Unix "], Peer::unix()));
        assert!(!trust(&["unix", "0.0.0.0/0", "::/0"], Peer::unknown()));
    }

    #[test]
    fn an_entry_that_is_neither_is_refused_by_place() {
        let error = TrustedProxies::parse(["unix", "10.0.0.0/8", "blargh"]).unwrap_err().to_string();
        assert!(error.starts_with("trusted proxy 3 ") && error.ends_with(", unix)"), "{error}");
    }
}
