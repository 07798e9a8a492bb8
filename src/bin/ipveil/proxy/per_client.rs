//! How many connections a client has, without anybody knowing which client.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, PoisonError},
};

use ipveil::LimitKey;

#[derive(Default)]
pub(crate) struct PerClient(Mutex<HashMap<LimitKey, u32>>);

impl PerClient {
    /// Whether there is room for one more.
    pub(crate) fn enter(&self, client: LimitKey, most: u32) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_insert(0);
        if *count >= most {
            return false;
        }
        *count += 1;
        true
    }

    pub(crate) fn leave(&self, client: LimitKey) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
