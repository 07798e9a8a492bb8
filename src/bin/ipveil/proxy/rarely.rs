//! What happens with every request is not said with every request.

use std::{
    error::Error,
    fmt::Write as _,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::this_thread;

/// Lets one through in some seconds, and counts the others.
#[derive(Default)]
pub(crate) struct Rarely {
    next: AtomicU32,
    times: AtomicU32,
}

impl Rarely {
    /// Whether it is to be told now: how many times it happened since it was told last.
    pub(crate) fn tell(&self) -> Option<u32> {
        let times = self.times.fetch_add(1, Relaxed) + 1;
        let (now, next) = (this_thread::seconds(), self.next.load(Relaxed));
        // Of several threads one is the first.
        let is_first = now >= next && self.next.compare_exchange(next, now + EVERY, Relaxed, Relaxed).is_ok();
        is_first.then(|| {
            self.times.fetch_sub(times, Relaxed);
            times
        })
    }
}

/// In seconds.
const EVERY: u32 = 5;

/// An error with its causes, as long as they say more.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.ends_with(&more) {
            let _ = write!(text, ": {more}");
        }
        next = error.source();
    }
    text
}
