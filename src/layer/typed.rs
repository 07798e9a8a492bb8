//! Addresses that servers put into a request's extensions under types of their own.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::Extensions;

use super::TakePeer;
#[cfg(feature = "axum")]
use super::axum;
#[cfg(feature = "tonic")]
use super::tonic;
use crate::addr::Peer;

/// Where addresses were, so that the same types are there afterwards.
#[derive(Default)]
pub(super) struct Typed<'e> {
    socket: Option<&'e mut SocketAddr>,
    rest: Rest,
}

/// Those that are looked up once more.
#[derive(Default)]
pub(super) struct Rest {
    #[cfg(feature = "axum")]
    axum: axum::Typed,
    #[cfg(feature = "tonic")]
    tonic: tonic::Typed,
}

/// Takes the peer out of the extensions, from wherever it is first found.
///
/// What is found and not removed is written over by [`Typed::put_back`].
#[inline]
pub(super) fn take(extensions: &mut Extensions, peer_from: Option<TakePeer>) -> (Peer, Typed<'_>) {
    if extensions.is_empty() {
        return (Peer::unknown(), Typed::default());
    }
    #[cfg_attr(not(any(feature = "axum", feature = "tonic")), expect(unused_mut, reason = "there is no rest"))]
    let mut rest = Rest::default();
    let mut peer = peer_from.and_then(|take| take(extensions));
    let mut found = |other: Option<Peer>| peer = peer.or(other);

    // A look costs less than a removal, and most servers have another type.
    if let Some(peer) = extensions.get::<Peer>().copied() {
        found(Some(peer));
        extensions.remove::<Peer>();
    }
    #[cfg(feature = "axum")]
    found(rest.axum.take(extensions));
    #[cfg(feature = "tonic")]
    found(rest.tonic.take(extensions));
    let socket = extensions.get_mut::<SocketAddr>();
    found(socket.as_deref().copied().map(Peer::from));

    (peer.unwrap_or_else(Peer::unknown), Typed { socket, rest })
}

impl Typed<'_> {
    /// Writes over the address that is at hand, with port 0, and says what is left to [put back](Rest::put_back).
    #[inline]
    pub(super) fn write(self, shown: impl FnOnce() -> Option<IpAddr>) -> Option<(Rest, SocketAddr)> {
        if self.socket.is_none() && !self.rest.any() {
            return None;
        }
        // The unspecified address is nobody's: extractors that insist on one go on working.
        let shown = SocketAddr::new(shown().unwrap_or(Ipv6Addr::UNSPECIFIED.into()), 0);
        if let Some(socket) = self.socket {
            *socket = shown;
        }
        self.rest.any().then_some((self.rest, shown))
    }
}

impl Rest {
    fn any(&self) -> bool {
        #[cfg(feature = "axum")]
        if self.axum.any() {
            return true;
        }
        #[cfg(feature = "tonic")]
        if self.tonic.any() {
            return true;
        }
        false
    }

    /// Writes `shown` over every address that was found.
    #[cfg_attr(not(any(feature = "axum", feature = "tonic")), expect(unused_variables, reason = "there is no rest"))]
    pub(super) fn put_back(self, extensions: &mut Extensions, shown: SocketAddr) {
        #[cfg(feature = "axum")]
        self.axum.put_back(extensions, shown);
        #[cfg(feature = "tonic")]
        self.tonic.put_back(extensions, shown);
    }
}

/// Writes over a value in place, which allocates nothing, or adds it.
#[cfg(any(feature = "axum", feature = "tonic"))]
pub(super) fn set<T: Clone + Send + Sync + 'static>(extensions: &mut Extensions, value: T) {
    match extensions.get_mut::<T>() {
        Some(place) => *place = value,
        None => {
            extensions.insert(value);
        }
    }
}
