//! A ring for a test, its clock, and what its observer was told.

use std::{
    net::IpAddr,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use ipveil::{
    Client, ClientAddr, KeyRing, Policy, Pseudonym,
    keys::{Epochs, KeyEvent, KeyId, KeySource, ManualClock, MemorySource, WhenUnavailable},
    policy::{Scope, View},
};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// A ring on a clock that stands at noon of some day, and what it tells.
pub(crate) struct Scene {
    pub(crate) clock: ManualClock,
    pub(crate) keys: KeyRing,
    pub(crate) events: Events,
}

/// All events so far; whoever waits for one is woken by it.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<(Mutex<Vec<KeyEvent>>, Condvar)>);

impl Events {
    pub(crate) fn push(&self, event: KeyEvent) {
        self.0.0.lock().unwrap().push(event);
        self.0.1.notify_all();
    }

    /// Waits until the events fit.
    pub(crate) fn wait(&self, fit: impl Fn(&[KeyEvent]) -> bool) -> Vec<KeyEvent> {
        let events = self.0.0.lock().unwrap();
        let (events, timeout) =
            self.0.1.wait_timeout_while(events, Duration::from_secs(60), |events| !fit(events)).unwrap();
        assert!(!timeout.timed_out(), "never happened; what did: {events:?}");
        events.clone()
    }

    pub(crate) fn wait_until_destroyed(&self, key: KeyId) {
        self.wait(|events| events.iter().any(|event| destroyed(*event) == Some(key)));
    }
}

pub(crate) fn destroyed(event: KeyEvent) -> Option<KeyId> {
    match event {
        KeyEvent::Destroyed { key, .. } => Some(key),
        _ => None,
    }
}

pub(crate) fn minted(event: KeyEvent) -> Option<KeyId> {
    match event {
        KeyEvent::Minted { key, .. } => Some(key),
        _ => None,
    }
}

pub(crate) fn scene() -> Scene {
    scene_with(MemorySource, WhenUnavailable::Degrade)
}

pub(crate) fn scene_with(source: impl KeySource + 'static, when_unavailable: WhenUnavailable) -> Scene {
    let clock = ManualClock::at(DAY * 20_000 + HOUR * 12);
    let events = Events::default();
    let told = events.clone();
    let keys = KeyRing::builder(source, Epochs::daily())
        .clock(clock.clone())
        .on_event(move |event| told.push(event))
        .when_unavailable(when_unavailable)
        .start()
        .unwrap();
    Scene { clock, keys, events }
}

impl Scene {
    pub(crate) fn client(&self) -> Client {
        let policy = Policy::new(Scope::unscoped(), [View::token("log")]).unwrap();
        policy.client(&ClientAddr::from(IpAddr::from([203, 0, 113, 7])), &self.keys)
    }

    pub(crate) fn pseudonym(&self) -> Pseudonym {
        self.client().pseudonym("log")
    }

    /// The key in use, as soon as there is one.
    pub(crate) fn key(&self) -> KeyId {
        loop {
            if let Some(key) = self.keys.key_id() {
                return key;
            }
            thread::yield_now();
        }
    }

    /// Until the key for the next epoch lies ready.
    pub(crate) fn wait_until_prepared(&self, current: KeyId) -> KeyId {
        let events = self.events.wait(|events| events.iter().rev().find_map(|event| minted(*event)) != Some(current));
        events.into_iter().rev().find_map(minted).unwrap()
    }
}
