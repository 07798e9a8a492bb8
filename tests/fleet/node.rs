//! A fleet for a test: nodes that share a clock, and what each of them saw.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use ipveil::{
    ClientAddr, KeyRing, Policy, Pseudonym,
    keys::{
        Epochs, KeyEvent, KeyId, KeySource, ManualClock, Notice,
        fleet::{Console, FleetSecret, RedisSource, StoreAddress},
    },
    policy::{Scope, View},
};

use crate::{notices::notices, store::Server};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// How soon a node that can reach the store has to have the fleet's key.
pub(crate) const SOON: Duration = Duration::from_secs(2);

pub(crate) struct Node {
    pub(crate) keys: KeyRing,
    pub(crate) events: Arc<Mutex<Vec<KeyEvent>>>,
}

impl Node {
    pub(crate) fn pseudonym(&self) -> Pseudonym {
        let policy = Policy::new(Scope::unscoped(), [View::token("log")]).unwrap();
        policy.client(&ClientAddr::from(IpAddr::from([203, 0, 113, 7])), &self.keys).pseudonym("log")
    }

    pub(crate) fn notices(&self) -> Vec<Notice> {
        notices(&self.events.lock().unwrap())
    }

    /// The fleet's key, not one of its own.
    pub(crate) fn key(&self) -> Option<KeyId> {
        self.keys.key_id().filter(|_| !self.keys.is_degraded())
    }
}

/// What all nodes of a fleet have in common.
pub(crate) struct Fleet {
    pub(crate) clock: ManualClock,
    pub(crate) secret: String,
    pub(crate) epochs: Epochs,
}

pub(crate) fn fleet() -> Fleet {
    Fleet {
        clock: ManualClock::at(DAY * 20_000 + HOUR * 12),
        secret: FleetSecret::generate().unwrap().to_string(),
        epochs: Epochs::daily(),
    }
}

pub(crate) fn secret(text: &str) -> FleetSecret {
    FleetSecret::parse(text.as_bytes()).unwrap()
}

pub(crate) fn source(url: &str, text: &str) -> RedisSource {
    RedisSource::new(StoreAddress::single(url).unwrap(), secret(text)).namespace("edge").unwrap()
}

impl Fleet {
    pub(crate) fn join(&self, url: &str) -> Node {
        self.join_as(source(url, &self.secret))
    }

    pub(crate) fn join_as(&self, source: impl KeySource + 'static) -> Node {
        let events: Arc<Mutex<Vec<KeyEvent>>> = Arc::default();
        let told = events.clone();
        let keys = KeyRing::builder(source, self.epochs)
            .clock(self.clock.clone())
            .on_event(move |event| told.lock().unwrap().push(event))
            .start()
            .unwrap();
        Node { keys, events }
    }

    pub(crate) fn console(&self, url: &str) -> Console {
        Console::new(StoreAddress::single(url).unwrap(), "edge", secret(&self.secret)).unwrap()
    }

    pub(crate) fn now(&self) -> SystemTime {
        use ipveil::keys::Clock as _;
        self.clock.now().wall
    }
}

/// How often nodes have looked at the store.
pub(crate) fn looks(server: &Server) -> u64 {
    let about: String = redis::cmd("INFO").arg("commandstats").query(&mut server.connection()).unwrap();
    let calls = about.split("cmdstat_time:calls=").nth(1).and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// The key that all have.
pub(crate) fn agreed<'a>(nodes: impl IntoIterator<Item = &'a Node> + Clone) -> Option<KeyId> {
    let mut keys = nodes.into_iter().map(Node::key);
    let first = keys.next()??;
    keys.all(|key| key == Some(first)).then_some(first)
}
