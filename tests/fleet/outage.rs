//! What a store costs that is away, slow, silent or forgetful, or that answers without end.

use std::{
    collections::HashSet,
    fs,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ipveil::{
    KeyRing,
    keys::{
        Epoch, EpochKey, Epochs, KeyError, KeyId, KeyRequest, KeySource, Notice, RingHandle, WhenUnavailable,
        fleet::RedisSource,
    },
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    gate::Gate,
    node::{DAY, SOON, agreed, fleet, looks, source},
    store::{
        Server,
        port::free_port,
        until::{until, within},
    },
};

#[test]
fn without_a_store_nodes_degrade_and_heal_when_it_is_back() {
    let (mut server, fleet) = (Server::start(), fleet());
    let nodes: Vec<_> = (0..3).map(|_| fleet.join(&server.url())).collect();
    let key = within(SOON, "agreement", || agreed(&nodes));
    server.end();
    // The key in use stays in use, until its end.
    thread::sleep(Duration::from_millis(600));
    assert_eq!(agreed(&nodes), Some(key));
    fleet.clock.advance(DAY);
    until("keys of their own", || nodes.iter().all(|node| node.keys.is_degraded()).then_some(()));
    let own: HashSet<_> = nodes.iter().map(|node| node.keys.key_id()).collect();
    assert_eq!(own.len(), 3);
    until("it is said", || {
        nodes[0].notices().iter().any(|notice| matches!(notice, Notice::StoreUnreachable(_))).then_some(())
    });
    server.begin();
    within(Duration::from_secs(5), "agreement", || agreed(&nodes));
    until("it is said", || nodes[0].notices().contains(&Notice::StoreReached).then_some(()));
}

#[test]
fn a_store_that_says_nothing_delays_nobody() {
    let (server, fleet) = (Server::start(), fleet());
    let gate = Gate::before(server.port);
    gate.silence();
    let begun = Instant::now();
    let node = fleet.join(&gate.url());
    assert!(begun.elapsed() < Duration::from_secs(20), "start waits: {:?}", begun.elapsed());
    assert!(node.keys.is_degraded());
    for _ in 0..100 {
        let asked = Instant::now();
        assert!(!node.pseudonym().is_withheld());
        assert!(asked.elapsed() < Duration::from_millis(900));
    }
    gate.open();
    within(Duration::from_secs(5), "the fleet's key", || node.key());
}

/// A source, and what it has heard of: it destroys its private halves when it does.
struct Overheard {
    source: RedisSource,
    destroyed: Arc<Mutex<Vec<KeyId>>>,
    rotated: Arc<AtomicBool>,
}

impl KeySource for Overheard {
    fn key(&mut self, request: KeyRequest) -> Result<EpochKey, KeyError> {
        self.source.key(request)
    }

    fn attach(&mut self, ring: RingHandle) {
        self.source.attach(ring);
    }

    fn destroyed(&mut self, epoch: Epoch, key: KeyId) {
        self.source.destroyed(epoch, key);
        self.destroyed.lock().unwrap().push(key);
    }

    fn rotated(&mut self, epoch: Epoch) {
        self.source.rotated(epoch);
        self.rotated.store(true, Ordering::SeqCst);
    }

    fn tend(&mut self) -> Option<Duration> {
        self.source.tend()
    }
}

#[test]
fn answers_that_never_end_keep_nobody_from_destroying_private_halves() {
    // A byte now and then, and as much as the node takes.
    for (bytes, rest) in [(1, Duration::from_millis(100)), (1 << 16, Duration::ZERO)] {
        let (server, fleet) = (Server::start(), fleet());
        let gate = Gate::before(server.port);
        let (destroyed, rotated): (Arc<Mutex<Vec<KeyId>>>, Arc<AtomicBool>) = Default::default();
        let source = source(&gate.url(), &fleet.secret);
        let node = fleet.join_as(Overheard { source, destroyed: destroyed.clone(), rotated: rotated.clone() });
        let key = node.key().unwrap();
        gate.answer_without_end(bytes, rest);
        until("it listens", || (gate.longest_answer() > 0).then_some(()));
        fleet.clock.advance(DAY);
        until("it hears of the epoch's end", || destroyed.lock().unwrap().contains(&key).then_some(()));
        let _ = node.keys.rotate();
        until("it hears of the rotation", || rotated.load(Ordering::SeqCst).then_some(()));
        // What it takes, and what the system holds ready for it.
        assert!(gate.longest_answer() < 32 << 20, "{}", gate.longest_answer());
        let notice = Notice::StoreUnreachable("it does not answer in time");
        until("it is said", || (rest.is_zero() || node.notices().contains(&notice)).then_some(()));
        gate.open();
        within(Duration::from_secs(5), "the fleet's key", || node.key());
    }
}

#[test]
fn a_store_that_takes_no_connections_keeps_nobody_from_destroying_private_halves() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), fleet());
    let path = directory.path().join("store.sock");
    let mut server = Server::start_with(&["--save", "", "--unixsocket", path.to_str().unwrap()]);
    let url = format!("unix://{}", path.display());
    let (destroyed, rotated): (Arc<Mutex<Vec<KeyId>>>, Arc<AtomicBool>) = Default::default();
    let source = source(&url, &fleet.secret);
    let node = fleet.join_as(Overheard { source, destroyed: destroyed.clone(), rotated: rotated.clone() });
    let key = node.key().unwrap();

    // Another listens in its place, and never accepts. The first connection fills its queue.
    server.end();
    let _ = fs::remove_file(&path);
    let stuck = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    stuck.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    stuck.listen(0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let notice = Notice::StoreUnreachable("it does not answer in time");
    until("it is said", || node.notices().contains(&notice).then_some(()));
    fleet.clock.advance(DAY);
    until("it hears of the epoch's end", || destroyed.lock().unwrap().contains(&key).then_some(()));
    let _ = node.keys.rotate();
    until("it hears of the rotation", || rotated.load(Ordering::SeqCst).then_some(()));
    assert!(fleet.join(&url).keys.is_degraded(), "and one that starts, starts");
}

#[test]
fn withholding_is_an_alternative_to_a_key_of_ones_own() {
    let fleet = fleet();
    let url = format!("redis://127.0.0.1:{}", free_port());
    let keys = KeyRing::builder(source(&url, &fleet.secret), Epochs::daily())
        .when_unavailable(WhenUnavailable::Withhold)
        .start()
        .unwrap();
    assert_eq!(keys.key_id(), None);
}

#[test]
fn a_store_that_forgets_does_not_change_the_key() {
    let (mut server, fleet) = (Server::start(), fleet());
    let nodes: Vec<_> = (0..3).map(|_| fleet.join(&server.url())).collect();
    let key = within(SOON, "agreement", || agreed(&nodes));
    for turn in 0..3 {
        if turn == 2 {
            server.end();
            server.begin();
        } else {
            redis::cmd("FLUSHALL").exec(&mut server.connection()).unwrap();
        }
        let late = fleet.join(&server.url());
        within(Duration::from_secs(5), "the same key", || (late.key() == Some(key)).then_some(()));
        assert_eq!(agreed(&nodes), Some(key));
    }
}

#[test]
fn a_store_that_can_be_read_and_not_written_is_said_once() {
    let (server, fleet) = (Server::start(), fleet());
    let node = fleet.join(&server.url());
    let mut connection = server.connection();
    let mut set = |memory: &str| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(memory).exec(&mut connection).unwrap();
    };
    set("1");
    let unreachable = Notice::StoreUnreachable("it has no memory left");
    let count = |notice: Notice| node.notices().into_iter().filter(|there| *there == notice).count();
    until("it is said", || (count(unreachable) > 0).then_some(()));
    let before = looks(&server);
    until("it has looked often", || (looks(&server) >= before + 10).then_some(()));
    assert_eq!((count(unreachable), count(Notice::StoreReached)), (1, 0));
    set("0");
    until("it is said", || (count(Notice::StoreReached) == 1).then_some(()));
    assert_eq!(count(unreachable), 1);
}

#[test]
fn a_store_that_fails_in_several_ways_says_each_once() {
    let (server, fleet) = (Server::start(), fleet());
    let gate = Gate::before(server.port);
    let node = fleet.join(&gate.url());
    let mut connection = server.connection();
    let count = |is_it: fn(&str) -> bool| {
        let told = node.notices();
        told.iter().filter(|notice| matches!(notice, Notice::StoreUnreachable(why) if is_it(why))).count()
    };
    let full: fn(&str) -> bool = |why| why == "it has no memory left";
    let other: fn(&str) -> bool = |why| why != "it has no memory left";
    let mut set = |memory: &str| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(memory).exec(&mut connection).unwrap();
    };
    set("1");
    until("it is said", || (count(full) > 0).then_some(()));
    gate.shut();
    until("it is said", || (count(other) > 0).then_some(()));
    let before = looks(&server);
    gate.open();
    until("it has looked often", || (looks(&server) >= before + 4).then_some(()));
    assert_eq!((count(full), node.notices().contains(&Notice::StoreReached)), (1, false));
    set("0");
    until("it is said", || node.notices().contains(&Notice::StoreReached).then_some(()));
    // From then on it is news again.
    set("1");
    until("it is said", || (count(full) == 2).then_some(()));
}

#[test]
fn a_slow_store_delays_agreement_and_no_request() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes: Vec<_> = (0..3).map(|_| fleet.join(&server.url())).collect();
    within(SOON, "agreement", || agreed(&nodes));
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let slowing = scope.spawn(|| {
            let mut connection = server.connection();
            while !is_done.load(Ordering::Relaxed) {
                redis::cmd("CLIENT").arg("PAUSE").arg(300).arg("ALL").exec(&mut connection).unwrap();
                thread::sleep(Duration::from_millis(50));
            }
        });
        for _ in 0..3 {
            fleet.clock.advance(DAY);
            let begun = Instant::now();
            while agreed(&nodes).is_none() {
                assert!(begun.elapsed() < Duration::from_secs(20), "they never agree");
                let asked = Instant::now();
                let _ = nodes[0].pseudonym();
                assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
                thread::sleep(Duration::from_millis(1));
            }
        }
        is_done.store(true, Ordering::Relaxed);
        slowing.join().unwrap();
    });
}
