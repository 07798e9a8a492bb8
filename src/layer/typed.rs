//! Addresses that servers put into a request's extensions under types of their own.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::Extensions;

use super::TakePeer;
#[cfg(feature = "axum")]
use super::axum;
#[cfg(feature = "tonic")]
use super::tonic;
use crate::addr::Peer;

/// Which types of address were there, so that the same ones are there afterwards.
#[derive(Default)]
pub(super) struct Typed {
    socket: bool,
    #[cfg(feature = "axum")]
    axum: axum::Typed,
    #[cfg(feature = "tonic")]
    tonic: tonic::Typed,
}

/// Takes the peer out of the extensions, from wherever it is first found.
///
/// What is found and not removed is written over by [`Typed::put_back`].
#[inline]
pub(super) fn take(extensions: &mut Extensions, peer_from: Option<TakePeer>) -> (Peer, Typed) {
    let mut typed = Typed::default();
    if extensions.is_empty() {
        return (Peer::unknown(), typed);
    }
    let mut peer = peer_from.and_then(|take| take(extensions));
    let mut found = |other: Option<Peer>| peer = peer.or(other);

    // A look costs less than a removal, and most servers have another type.
    if let Some(peer) = extensions.get::<Peer>().copied() {
        found(Some(peer));
        extensions.remove::<Peer>();
    }
    #[cfg(feature = "axum")]
    found(typed.axum.take(extensions));
    #[cfg(feature = "tonic")]
    found(typed.tonic.take(extensions));
    let socket = extensions.get::<SocketAddr>().copied();
    typed.socket = socket.is_some();
    found(socket.map(Peer::from));

    (peer.unwrap_or_else(Peer::unknown), typed)
}

impl Typed {
    fn any(&self) -> bool {
        #[cfg(feature = "axum")]
        if self.axum.any() {
            return true;
        }
        #[cfg(feature = "tonic")]
        if self.tonic.any() {
            return true;
        }
        self.socket
    }

    /// Writes `shown` over every address that was found, with port 0.
    #[inline]
    pub(super) fn put_back(self, extensions: &mut Extensions, shown: impl FnOnce() -> Option<IpAddr>) {
        if !self.any() {
            return;
        }
        // The unspecified address is nobody's: extractors that insist on one go on working.
        let shown = SocketAddr::new(shown().unwrap_or(Ipv6Addr::UNSPECIFIED.into()), 0);
        if self.socket {
            set(extensions, shown);
        }
        #[cfg(feature = "axum")]
        self.axum.put_back(extensions, shown);
        #[cfg(feature = "tonic")]
        self.tonic.put_back(extensions, shown);
    }
}

/// Writes over a value in place, which allocates nothing, or adds it.
pub(super) fn set<T: Clone + Send + Sync + 'static>(extensions: &mut Extensions, value: T) {
    match extensions.get_mut::<T>() {
        Some(place) => *place = value,
        None => {
            extensions.insert(value);
        }
    }
}
