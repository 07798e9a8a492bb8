//! How many connections there are, and how many of them each client has, without anybody knowing which client.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use ipveil::{LimitKey, Peer, Resolver};

use super::site::{CONNECTIONS, Site};

/// Of all threads together.
#[derive(Default)]
pub(crate) struct Room {
    open: AtomicUsize,
    per_client: PerClient,
}

/// A connection's place among all, and among those of its client.
pub(crate) struct Place {
    room: Arc<Room>,
    client: Option<LimitKey>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place(..)")
    }
}

impl Room {
    /// How many connections there are.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Lets one in, unless its client has as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, site: &Site, listener: usize, peer: Peer) -> Option<Place> {
        let most = site.limits.connections_per_client;
        let mut client = None;
        // A trusted proxy's connections are those of many.
        if most > 0 && !site.believes(peer) && site.listeners[listener].proxy_protocol.is_none() {
            let address = Resolver::direct().resolve(peer, &http::HeaderMap::new());
            client = address.ok().map(|address| site.policy.client(&address, &site.keys).limit_key(CONNECTIONS));
            if let Some(client) = client
                && !self.per_client.enter(client, most)
            {
                return None;
            }
        }
        self.open.fetch_add(1, Relaxed);
        Some(Place { room: Arc::clone(self), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.open.fetch_sub(1, Relaxed);
        if let Some(client) = self.client {
            self.room.per_client.leave(client);
        }
    }
}

#[derive(Default)]
struct PerClient(Mutex<HashMap<LimitKey, u32>>);

impl PerClient {
    /// Whether there is room for one more.
    fn enter(&self, client: LimitKey, most: u32) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_insert(0);
        if *count >= most {
            return false;
        }
        *count += 1;
        true
    }

    fn leave(&self, client: LimitKey) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
