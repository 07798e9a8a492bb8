//! What a connection's socket and its requests tell each other.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::proxy::{
    site::Site,
    watch::{Due, Watch},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    H1,
    H2,
}

/// What the socket of a connection has to know.
#[derive(Debug)]
pub(super) struct State {
    pub(super) watch: Arc<Watch>,
    pub(super) requests: AtomicU32,
    pub(super) protocol: OnceLock<Protocol>,
    pub(super) in_head: AtomicBool,
    pub(super) is_stalled: AtomicBool,
    // Nobody reads while a request is answered, so the socket looks for the client's end by itself.
    pub(super) looks_for_end: AtomicBool,
    // Parts of answers that HTTP/2 was given, and for which the client has made no room yet.
    pub(super) handed: AtomicU32,
    // In milliseconds, so that they can change with the configuration.
    pub(super) head: AtomicU32,
    pub(super) idle: AtomicU32,
    pub(super) stall: AtomicU32,
}

impl State {
    pub(super) fn new(watch: Arc<Watch>, site: &Site) -> Self {
        let state = Self {
            watch,
            requests: AtomicU32::new(0),
            protocol: OnceLock::new(),
            in_head: AtomicBool::new(false),
            is_stalled: AtomicBool::new(false),
            looks_for_end: AtomicBool::new(false),
            handed: AtomicU32::new(0),
            head: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            stall: AtomicU32::new(0),
        };
        state.adopt(site);
        state
    }

    pub(super) fn speaks(&self, protocol: Protocol) -> bool {
        self.protocol.get() == Some(&protocol)
    }

    /// Whoever takes something has time anew for the rest.
    pub(super) fn progressed(&self) {
        match self.handed.load(Relaxed) {
            0 => self.watch.done(Due::Progress),
            _ => self.watch.within(Due::Progress, millis(&self.stall)),
        }
    }

    /// The deadlines of the configuration that is in place.
    pub(super) fn adopt(&self, site: &Site) {
        let store = |to: &AtomicU32, time: Duration| {
            to.store(u32::try_from(time.as_millis()).unwrap_or(u32::MAX), Relaxed);
        };
        store(&self.head, site.deadlines.request_head);
        store(&self.idle, site.deadlines.keep_alive);
        store(&self.stall, site.deadlines.client_idle);
    }
}

pub(super) fn millis(of: &AtomicU32) -> Duration {
    Duration::from_millis(of.load(Relaxed).into())
}
