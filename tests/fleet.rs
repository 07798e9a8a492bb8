//! A fleet and its store: agreement on good days and bad ones, and what whoever controls the store can do.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it measured and installed")]

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use ipveil::{
    ClientAddr, KeyRing, Policy, Pseudonym,
    keys::{
        Epoch, EpochKey, Epochs, KeyError, KeyEvent, KeyId, KeyRequest, KeySource, ManualClock, Notice, Origin, Reason,
        RingHandle, SystemClock, WhenUnavailable,
        fleet::{Console, FleetError, FleetSecret, RedisSource, SecretHandle, StoreAddress},
    },
    policy::{Scope, View},
};
use redis::{Commands as _, ConnectionLike as _};

use self::store::{Gate, Server, free_port, stolen, until, within};

mod store;

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);
/// How soon a node that can reach the store has to have the fleet's key.
const SOON: Duration = Duration::from_secs(2);

struct Node {
    keys: KeyRing,
    events: Arc<Mutex<Vec<KeyEvent>>>,
}

impl Node {
    fn pseudonym(&self) -> Pseudonym {
        let policy = Policy::new(Scope::unscoped(), [View::token("log")]).unwrap();
        policy.client(&ClientAddr::from(IpAddr::from([203, 0, 113, 7])), &self.keys).pseudonym("log")
    }

    fn notices(&self) -> Vec<Notice> {
        let events = self.events.lock().unwrap();
        let notice = |event: &KeyEvent| if let KeyEvent::Noticed { notice, .. } = event { Some(*notice) } else { None };
        events.iter().filter_map(notice).collect()
    }

    /// The fleet's key, not one of its own.
    fn key(&self) -> Option<KeyId> {
        self.keys.key_id().filter(|_| !self.keys.is_degraded())
    }
}

/// What all nodes of a fleet have in common.
struct Fleet {
    clock: ManualClock,
    secret: String,
    epochs: Epochs,
}

fn fleet() -> Fleet {
    Fleet {
        clock: ManualClock::at(DAY * 20_000 + HOUR * 12),
        secret: FleetSecret::generate().unwrap().to_string(),
        epochs: Epochs::daily(),
    }
}

fn secret(text: &str) -> FleetSecret {
    FleetSecret::parse(text.as_bytes()).unwrap()
}

fn source(url: &str, text: &str) -> RedisSource {
    RedisSource::new(StoreAddress::single(url).unwrap(), secret(text)).namespace("edge").unwrap()
}

impl Fleet {
    fn join(&self, url: &str) -> Node {
        self.join_as(source(url, &self.secret))
    }

    fn join_as(&self, source: impl KeySource + 'static) -> Node {
        let events: Arc<Mutex<Vec<KeyEvent>>> = Arc::default();
        let told = events.clone();
        let keys = KeyRing::builder(source, self.epochs)
            .clock(self.clock.clone())
            .on_event(move |event| told.lock().unwrap().push(event))
            .start()
            .unwrap();
        Node { keys, events }
    }

    fn console(&self, url: &str) -> Console {
        Console::new(StoreAddress::single(url).unwrap(), "edge", secret(&self.secret)).unwrap()
    }

    fn now(&self) -> SystemTime {
        use ipveil::keys::Clock as _;
        self.clock.now().wall
    }
}

/// The key that all have.
fn agreed<'a>(nodes: impl IntoIterator<Item = &'a Node> + Clone) -> Option<KeyId> {
    let mut keys = nodes.into_iter().map(Node::key);
    let first = keys.next()??;
    keys.all(|key| key == Some(first)).then_some(first)
}

#[test]
fn nodes_agree_on_a_key_and_on_the_next() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes: Vec<_> = (0..3).map(|_| fleet.join(&server.url())).collect();
    let key = within(SOON, "agreement", || agreed(&nodes));
    let pseudonyms: HashSet<_> = nodes.iter().map(|node| node.pseudonym()).collect();
    assert_eq!(pseudonyms.len(), 1);
    fleet.clock.advance(HOUR * 12 - Duration::from_secs(10));
    // Prepared ahead: at the boundary nobody waits for anything.
    until("the next key", || {
        nodes
            .iter()
            .all(|node| {
                let events = node.events.lock().unwrap();
                events.iter().filter(|event| matches!(event, KeyEvent::Minted { .. })).count() == 2
            })
            .then_some(())
    });
    fleet.clock.advance(Duration::from_secs(10));
    let next = agreed(&nodes).unwrap();
    assert_ne!(next, key);
    let origins = |node: &Node| -> Vec<_> {
        let events = node.events.lock().unwrap();
        let origin = |event: &KeyEvent| if let KeyEvent::Minted { origin, .. } = event { Some(*origin) } else { None };
        events.iter().filter_map(origin).collect()
    };
    let origins: Vec<_> = nodes.iter().map(origins).collect();
    for turn in 0..2 {
        let minted = origins.iter().filter(|origins| origins[turn] == Origin::Minted).count();
        assert_eq!(minted, 1, "{origins:?}");
    }
}

#[test]
fn a_node_that_restarts_has_the_fleets_key_again_within_two_seconds() {
    let (server, fleet) = (Server::start(), fleet());
    let one = fleet.join(&server.url());
    let key = one.key().unwrap();
    for _ in 0..3 {
        let begun = Instant::now();
        let late = fleet.join(&server.url());
        within(SOON.saturating_sub(begun.elapsed()), "the fleet's key", || (late.key() == Some(key)).then_some(()));
    }
}

#[test]
fn eight_nodes_agree_through_rotations_kills_and_partitions() {
    let rotations: u64 = std::env::var("IPVEIL_TEST_ROTATIONS").map_or(25, |count| count.parse().unwrap());
    let (server, fleet) = (Server::start(), fleet());
    let gates: Vec<_> = (0..8).map(|_| Gate::before(server.port)).collect();
    let mut nodes: Vec<_> = gates.iter().map(|gate| Some(fleet.join(&gate.url()))).collect();
    let mut shut: HashSet<usize> = HashSet::new();
    let mut slowest = Duration::ZERO;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let mut seen = HashSet::new();
    for rotation in 0..rotations {
        // Somebody is killed, somebody comes back, a cable is pulled, another is put in.
        match next(4) {
            0 => drop(nodes[next(8)].take()),
            1 => {
                let place = next(8);
                gates[place].shut();
                shut.insert(place);
            }
            2 => {
                for place in std::mem::take(&mut shut) {
                    gates[place].open();
                }
            }
            _ => {
                let place = next(8);
                if nodes[place].is_none() {
                    nodes[place] = Some(fleet.join(&gates[place].url()));
                }
            }
        }
        let old: HashSet<_> = nodes.iter().flatten().filter_map(|node| node.keys.key_id()).collect();
        fleet.clock.advance(DAY);
        let begun = Instant::now();
        let reach = || {
            nodes.iter().enumerate().filter(|(place, _)| !shut.contains(place)).filter_map(|(_, node)| node.as_ref())
        };
        if reach().next().is_none() {
            continue;
        }
        let mut key = None;
        within(Duration::from_secs(20), &format!("agreement {rotation}, {shut:?} are cut off"), || {
            // Whatever else is so: nobody uses an old key.
            assert!(nodes.iter().flatten().filter_map(|node| node.keys.key_id()).all(|key| !old.contains(&key)));
            key = agreed(reach().collect::<Vec<_>>());
            key
        });
        slowest = slowest.max(begun.elapsed());
        assert!(seen.insert(key.unwrap()), "a key of the past");
    }
    eprintln!("{rotations} rotations, the slowest agreement took {slowest:?}");
    for place in shut {
        gates[place].open();
    }
    within(Duration::from_secs(10), "agreement of all", || agreed(nodes.iter().flatten().collect::<Vec<_>>()));
}

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

#[test]
fn a_key_that_was_destroyed_does_not_come_back_when_the_clock_is_set_back() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes: Vec<_> = (0..3).map(|_| fleet.join(&server.url())).collect();
    let key = within(SOON, "agreement", || agreed(&nodes));
    let was_minted = |node: &Node| {
        let events = node.events.lock().unwrap();
        events.iter().filter(|event| matches!(event, KeyEvent::Minted { key: minted, .. } if *minted == key)).count()
    };
    // Its time is over, and by the wall clock its epoch is not.
    fleet.clock.set_wall(DAY * 20_000 + HOUR);
    fleet.clock.advance(HOUR * 12);
    until("keys of their own", || nodes.iter().all(|node| node.keys.is_degraded()).then_some(()));
    // However often they ask.
    for _ in 0..20 {
        fleet.clock.advance(Duration::from_secs(2));
        let failed = |node: &Node| {
            let events = node.events.lock().unwrap();
            events.iter().filter(|event| matches!(event, KeyEvent::SourceFailed { .. })).count()
        };
        let before: Vec<_> = nodes.iter().map(failed).collect();
        until("they ask", || nodes.iter().zip(&before).all(|(node, before)| failed(node) > *before).then_some(()));
    }
    assert!(nodes.iter().all(|node| node.keys.is_degraded() && was_minted(node) == 1));
    // Until there is another: in this epoch, or in the next.
    nodes[0].keys.rotate().unwrap();
    let second = within(SOON, "another key", || agreed(&nodes));
    assert_ne!(second, key);
    fleet.clock.advance(DAY);
    let third = within(SOON, "another key", || agreed(&nodes));
    assert!(third != key && third != second);
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
fn a_split_is_healed_to_the_key_that_the_store_names() {
    // Two masters, as in a failover that lost the last writes; then one of them is the only one.
    let (lost, kept, fleet) = (Server::start(), Server::start(), fleet());
    let winner = fleet.join(&kept.url());
    let loser = fleet.join(&lost.url());
    let (won, lost_key) = (winner.key().unwrap(), loser.key().unwrap());
    assert_ne!(won, lost_key);
    // What the kept master knows is what all see from now on.
    let mut connection = kept.connection();
    let names: Vec<String> = connection.keys("*").unwrap();
    let mut into = lost.connection();
    for name in names {
        let dump: Vec<u8> = redis::cmd("DUMP").arg(&name).query(&mut connection).unwrap();
        redis::cmd("RESTORE").arg(&name).arg(0).arg(dump).arg("REPLACE").exec(&mut into).unwrap();
    }
    // Copies what the loser asks for to where the winner answers, and the answer back.
    within(Duration::from_secs(8), "one key", || {
        for (from, to) in [(&lost, &kept), (&kept, &lost)] {
            let (mut from, mut to) = (from.connection(), to.connection());
            let names: Vec<String> = from.keys("*").unwrap();
            for name in names.iter().filter(|name| name.ends_with("members") || name.ends_with("sealed")) {
                let fields: HashMap<String, Vec<u8>> = from.hgetall(name).unwrap();
                for (field, value) in fields {
                    let _: () = to.hset(name, field, value).unwrap();
                }
            }
        }
        agreed([&winner, &loser])
    });
    assert_eq!(winner.key(), Some(won));
    until("it is said", || loser.notices().contains(&Notice::SplitHealed).then_some(()));
    let is_it = |event: &KeyEvent| matches!(event, KeyEvent::Destroyed { key, reason: Reason::Superseded, .. } if *key == lost_key);
    until("it is told", || loser.events.lock().unwrap().iter().any(is_it).then_some(()));
}

#[test]
fn when_nobody_who_has_the_key_is_left_the_fleet_takes_another() {
    let (server, fleet) = (Server::start(), fleet());
    let key = fleet.join(&server.url()).key().unwrap();
    // All are gone, and the claim is still there.
    let nodes: Vec<_> = (0..3).map(|_| fleet.join(&server.url())).collect();
    let next = within(Duration::from_secs(12), "another key", || agreed(&nodes));
    assert_ne!(next, key);
    until("it is said", || nodes.iter().any(|node| node.notices().contains(&Notice::HoldersGone)).then_some(()));
}

#[test]
fn the_panic_button_of_any_node_destroys_the_key_on_all_of_them() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes: Vec<_> = (0..4).map(|_| fleet.join(&server.url())).collect();
    let key = within(SOON, "agreement", || agreed(&nodes));
    nodes[1].keys.rotate().unwrap();
    let next = within(SOON, "another key", || agreed(&nodes).filter(|next| *next != key));
    for node in &nodes {
        let rotated = |event: &KeyEvent| matches!(event, KeyEvent::Destroyed { key: gone, reason: Reason::Rotated, .. } if *gone == key);
        until("it is told", || node.events.lock().unwrap().iter().any(rotated).then_some(()));
    }
    let late = fleet.join(&server.url());
    within(SOON, "the new key", || (late.key() == Some(next)).then_some(()));
}

#[test]
fn the_console_rotates_a_fleet_and_shows_who_has_heard_of_it() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes: Vec<_> = ["one", "two"]
        .map(|name| fleet.join_as(source(&server.url(), &fleet.secret).node(name).unwrap()))
        .into_iter()
        .collect();
    let key = within(SOON, "agreement", || agreed(&nodes));
    let mut console = fleet.console(&server.url());
    let status = until("both are seen", || {
        let status = console.status(fleet.now()).unwrap();
        (status.nodes.iter().filter(|node| node.key == Some(key)).count() == 2).then_some(status)
    });
    assert_eq!((status.key, status.generation, status.period), (Some(key), 0, DAY));
    let names: Vec<_> = status.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);

    let generation = console.rotate_now(fleet.now()).unwrap();
    let next = within(SOON, "another key", || agreed(&nodes).filter(|next| *next != key));
    until("both have heard", || {
        let status = console.status(fleet.now()).unwrap();
        status.nodes.iter().all(|node| node.generation == generation && node.key == Some(next)).then_some(())
    });
    drop(nodes);
    until("nobody is listed", || console.status(fleet.now()).unwrap().nodes.is_empty().then_some(()));
}

#[test]
fn a_generation_that_can_not_grow_does_not_take_the_panic_button_away() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes = [fleet.join(&server.url()), fleet.join(&server.url())];
    let mut key = within(SOON, "agreement", || agreed(&nodes));
    let mut connection = server.connection();
    let mut plant = |number: u64| {
        for epoch in [20_000, 20_001] {
            let name = format!("ipveil:{{edge}}:{epoch}:generation");
            let _: () = connection.set(name, stolen(&fleet.secret, epoch, number)).unwrap();
        }
    };
    let forged = Notice::Forged("the generation of an epoch");
    let mut console = fleet.console(&server.url());
    // At first nodes know of none, then of some.
    let mut number = 0;
    for _ in 0..2 {
        plant(u64::MAX);
        until("it is said", || nodes.iter().all(|node| node.notices().contains(&forged)).then_some(()));
        assert_eq!(agreed(&nodes), Some(key));
        let rotated = console.rotate_now(fleet.now()).unwrap();
        assert!(rotated > number && rotated < 100, "{rotated}");
        key = within(SOON, "another key", || agreed(&nodes).filter(|next| *next != key));
        plant(u64::MAX);
        nodes[0].keys.rotate().unwrap();
        key = within(SOON, "another key", || agreed(&nodes).filter(|next| *next != key));
        number = rotated + 1;
    }
    // So many at once, and no more, may be what has come of the one that is known.
    plant(number + 1_000);
    key = within(SOON, "another key", || agreed(&nodes).filter(|next| *next != key));
    until("nodes are shown there", || {
        console.status(fleet.now()).unwrap().nodes.iter().all(|node| node.generation == number + 1_000).then_some(())
    });
    plant(number + 1_000 + 1_001);
    assert_eq!(agreed(&nodes), Some(key));
    assert!(console.rotate_now(fleet.now()).unwrap() > number + 1_000);
    within(SOON, "another key", || agreed(&nodes).filter(|next| *next != key));
}

#[test]
fn the_console_rotates_over_whatever_is_in_the_place_of_a_generation() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes = [fleet.join(&server.url()), fleet.join(&server.url())];
    let mut key = within(SOON, "agreement", || agreed(&nodes));
    let mut connection = server.connection();
    let mut console = fleet.console(&server.url());
    let other = FleetSecret::generate().unwrap();
    let (ours, theirs) = (secret(&fleet.secret).id(), secret(&other).id());
    for record in [|other: &str, epoch| stolen(other, epoch, 7), |_: &str, _| b"no record".to_vec()] {
        for epoch in [20_000, 20_001] {
            let _: () = connection.set(format!("ipveil:{{edge}}:{epoch}:generation"), record(&other, epoch)).unwrap();
        }
        console.status(fleet.now()).unwrap();
        console.rotate_now(fleet.now()).unwrap();
        key = within(SOON, "another key", || agreed(&nodes).filter(|next| *next != key));
        for epoch in [20_000, 20_001] {
            let there: Vec<u8> = connection.get(format!("ipveil:{{edge}}:{epoch}:generation")).unwrap();
            assert_eq!(there[1..9], ours.to_be_bytes());
        }
    }
    assert_ne!(ours, theirs);
}

#[test]
fn a_rotation_that_a_node_could_not_hear_of_is_made_up_for_and_said() {
    let (server, fleet) = (Server::start(), fleet());
    let gate = Gate::before(server.port);
    let (near, far) = (fleet.join(&server.url()), fleet.join(&gate.url()));
    let key = within(SOON, "agreement", || agreed([&near, &far]));
    gate.shut();
    near.keys.rotate().unwrap();
    fleet.clock.advance(Duration::from_secs(60));
    assert_eq!(far.key(), Some(key), "it can't know");
    gate.open();
    within(Duration::from_secs(5), "agreement", || agreed([&near, &far]));
    let late = |notice: &Notice| matches!(notice, Notice::RotationHeardLate { by } if by.as_secs() == 60);
    until("it is said", || far.notices().iter().any(late).then_some(()));
}

#[test]
fn a_rotation_that_could_not_be_told_is_told_when_it_can() {
    let (server, fleet) = (Server::start(), fleet());
    let gate = Gate::before(server.port);
    let (near, far) = (fleet.join(&server.url()), fleet.join(&gate.url()));
    let key = within(SOON, "agreement", || agreed([&near, &far]));
    gate.shut();
    let _ = far.keys.rotate();
    assert_ne!(far.keys.key_id(), Some(key));
    until("it is said", || far.notices().contains(&Notice::RotationNotSpread).then_some(()));
    assert_eq!(near.key(), Some(key));
    gate.open();
    within(Duration::from_secs(8), "another key", || agreed([&near, &far]).filter(|next| *next != key));
}

#[test]
fn another_secret_is_noticed_and_named_and_gets_no_key() {
    let (server, fleet) = (Server::start(), fleet());
    let node = fleet.join(&server.url());
    let key = node.key().unwrap();
    let other = Fleet { secret: FleetSecret::generate().unwrap().to_string(), clock: fleet.clock.clone(), ..fleet };
    let stranger = other.join(&server.url());
    assert!(stranger.keys.is_degraded());
    let (ours, theirs) = (secret(&other.secret).id(), secret(&fleet.secret).id());
    until("it is said", || stranger.notices().contains(&Notice::ForeignSecret { theirs, ours }).then_some(()));
    let text = format!("{:?}", stranger.events.lock().unwrap());
    assert!(!text.contains(&other.secret) && !text.contains(&fleet.secret));
    assert_eq!(node.key(), Some(key));
    let mut console = fleet.console(&server.url());
    until("a status shows it", || console.status(fleet.now()).unwrap().strangers.contains(&ours).then_some(()));
    let mut wrong = other.console(&server.url());
    assert_eq!(wrong.status(fleet.now()).unwrap_err(), FleetError::ForeignSecret(theirs));
}

#[test]
fn a_secret_is_replaced_without_a_gap() {
    let (server, fleet) = (Server::start(), fleet());
    let (old, new) = (fleet.secret.clone(), FleetSecret::generate().unwrap().to_string());
    let both = [format!("{old}\n{new}\n"), format!("{new}\n{old}\n")];
    let key = Mutex::new(None);
    let check = |nodes: &[&Node]| {
        let now = within(SOON, "agreement", || agreed(nodes.iter().copied()));
        assert_eq!(*key.lock().unwrap().get_or_insert(now), now);
    };
    let (one, two) = (fleet.join(&server.url()), fleet.join(&server.url()));
    check(&[&one, &two]);
    // One after the other, as a fleet is restarted.
    let one = {
        drop(one);
        fleet.join_as(source(&server.url(), &both[0]))
    };
    check(&[&one, &two]);
    let two = {
        drop(two);
        fleet.join_as(source(&server.url(), &both[0]))
    };
    check(&[&one, &two]);
    let one = {
        drop(one);
        fleet.join_as(source(&server.url(), &both[1]))
    };
    check(&[&one, &two]);
    let two = {
        drop(two);
        fleet.join_as(source(&server.url(), &both[1]))
    };
    check(&[&one, &two]);
    // The epoch in which the old one was in use ends.
    fleet.clock.advance(DAY);
    within(Duration::from_secs(5), "agreement", || agreed([&one, &two]));
    drop(one);
    let one = fleet.join_as(source(&server.url(), &new));
    within(Duration::from_secs(5), "agreement", || agreed([&one, &two]));
    assert!(one.notices().iter().all(|notice| !matches!(notice, Notice::Forged(_))));
}

/// How often this node was given another secret, and said so.
fn replaced(node: &Node) -> usize {
    node.notices().iter().filter(|notice| matches!(notice, Notice::SecretReplaced { .. })).count()
}

#[test]
fn a_secret_is_replaced_while_all_nodes_run() {
    let (server, fleet) = (Server::start(), fleet());
    let (old, new) = (fleet.secret.clone(), FleetSecret::generate().unwrap().to_string());
    let (nodes, handles): (Vec<_>, Vec<SecretHandle>) = (0..3)
        .map(|_| source(&server.url(), &old))
        .map(|source| (source.secret_handle(), source))
        .map(|(handle, source)| (fleet.join_as(source), handle))
        .unzip();
    let first = within(SOON, "agreement", || agreed(&nodes));
    // There is a generation to be signed, and the next epoch's key is prepared.
    nodes[0].keys.rotate().unwrap();
    let key = within(SOON, "another key", || agreed(&nodes).filter(|key| *key != first));
    fleet.clock.advance(HOUR * 12 - Duration::from_secs(10));
    let has_next = |node: &Node| {
        let events = node.events.lock().unwrap();
        events.iter().any(|event| matches!(event, KeyEvent::Minted { epoch, .. } if epoch.number() == 20_001))
    };
    until("the next key", || {
        // Who hears of the next epoch's generation asks again, and that is counted by the ring's clock.
        fleet.clock.advance(Duration::from_millis(2));
        nodes.iter().all(has_next).then_some(())
    });
    let (pseudonym, minted) = (nodes[0].pseudonym(), || {
        let count = |node: &Node| {
            let events = node.events.lock().unwrap();
            events.iter().filter(|event| matches!(event, KeyEvent::Minted { .. } | KeyEvent::Destroyed { .. })).count()
        };
        nodes.iter().map(count).collect::<Vec<_>>()
    });
    let keys = minted();

    let steps = [format!("{old}\n{new}\n"), format!("{new}\n{old}\n"), format!("{new}\n")];
    let mut connection = server.connection();
    for (step, text) in steps.iter().enumerate() {
        for (handle, node) in handles.iter().zip(&nodes) {
            handle.replace(secret(text));
            until("it uses it", || (replaced(node) == step + 1).then_some(()));
            for node in &nodes {
                assert_eq!((node.key(), node.pseudonym()), (Some(key), pseudonym));
            }
        }
        // What everybody needs is signed by the first of both.
        let signer = secret(text).id().to_be_bytes();
        until("all is signed", || {
            ["20000:generation", "20000:1:claim", "20001:generation", "20001:1:claim"]
                .iter()
                .all(|name| {
                    let record: Vec<u8> = connection.get(format!("ipveil:{{edge}}:{name}")).unwrap();
                    record.get(1..9) == Some(&signer[..])
                })
                .then_some(())
        });
    }
    assert_eq!(minted(), keys, "no key has come or gone");
    // The same again is no news.
    handles[0].replace(secret(&new));

    // In the middle of the epoch: who has the old one only is refused, and who has the new one only is let in.
    let late = Fleet { secret: new.clone(), clock: fleet.clock.clone(), ..fleet };
    let (stranger, friend) = (fleet.join(&server.url()), late.join(&server.url()));
    within(SOON, "the fleet's key", || (friend.key() == Some(key)).then_some(()));
    let (ours, theirs) = (secret(&old).id(), secret(&new).id());
    until("it is said", || stranger.notices().contains(&Notice::ForeignSecret { theirs, ours }).then_some(()));
    assert!(stranger.keys.is_degraded() && stranger.pseudonym() != pseudonym);
    fleet.clock.advance(Duration::from_secs(10));
    let all: Vec<_> = nodes.iter().chain([&friend]).collect();
    within(SOON, "the next key", || agreed(all.iter().copied()).filter(|next| *next != key));
    assert!(stranger.keys.is_degraded());
    for node in &nodes {
        assert_eq!(replaced(node), 3);
        let is_wrong = |notice: &Notice| matches!(notice, Notice::ForeignSecret { theirs, .. } if *theirs != ours);
        assert!(!node.notices().iter().any(|notice| is_wrong(notice) || matches!(notice, Notice::Forged(_))));
    }
}

#[test]
fn after_a_rotation_a_secret_is_replaced_and_the_fleet_rotated_once_more() {
    let (server, fleet) = (Server::start(), fleet());
    let (old, new) = (fleet.secret.clone(), FleetSecret::generate().unwrap().to_string());
    let (nodes, handles): (Vec<_>, Vec<SecretHandle>) = (0..2)
        .map(|_| source(&server.url(), &old))
        .map(|source| (source.secret_handle(), source))
        .map(|(handle, source)| (fleet.join_as(source), handle))
        .unzip();
    let first = within(SOON, "agreement", || agreed(&nodes));
    // With a generation for tomorrow, whose key nobody has yet.
    fleet.console(&server.url()).rotate_now(fleet.now()).unwrap();
    let second = within(SOON, "another key", || agreed(&nodes).filter(|key| *key != first));
    let mut connection = server.connection();
    let steps = [format!("{old}\n{new}\n"), format!("{new}\n{old}\n"), format!("{new}\n")];
    for (step, text) in steps.iter().enumerate() {
        handles.iter().for_each(|handle| handle.replace(secret(text)));
        until("they use it", || nodes.iter().all(|node| replaced(node) == step + 1).then_some(()));
        let signer = secret(text).id().to_be_bytes();
        until("all is signed", || {
            ["20000:generation", "20000:1:claim", "20001:generation"]
                .iter()
                .all(|name| {
                    let record: Vec<u8> = connection.get(format!("ipveil:{{edge}}:{name}")).unwrap();
                    record.get(1..9) == Some(&signer[..])
                })
                .then_some(())
        });
    }
    assert_eq!(agreed(&nodes), Some(second));
    let fleet = Fleet { secret: new, ..fleet };
    until("the fleet is under the new one", || fleet.console(&server.url()).status(fleet.now()).ok());
    fleet.console(&server.url()).rotate_now(fleet.now()).unwrap();
    let third = within(SOON, "another key", || agreed(&nodes).filter(|key| ![first, second].contains(key)));
    fleet.clock.advance(DAY);
    within(Duration::from_secs(5), "tomorrow's key", || agreed(&nodes).filter(|key| *key != third));
    let foreign = |notice: &Notice| matches!(notice, Notice::ForeignSecret { .. } | Notice::Forged(_));
    assert!(!nodes.iter().any(|node| node.notices().iter().any(foreign)));
}

#[test]
fn a_node_that_is_given_a_wrong_secret_keeps_its_key_and_says_so() {
    let (server, fleet) = (Server::start(), fleet());
    let other = fleet.join(&server.url());
    let source = source(&server.url(), &fleet.secret);
    let handle = source.secret_handle();
    let node = fleet.join_as(source);
    let key = within(SOON, "agreement", || agreed([&node, &other]));
    let wrong = FleetSecret::generate().unwrap();
    let (ours, theirs) = (secret(&wrong).id(), secret(&fleet.secret).id());
    handle.replace(secret(&wrong));
    until("it is said", || node.notices().contains(&Notice::ForeignSecret { theirs, ours }).then_some(()));
    assert_eq!(agreed([&node, &other]), Some(key));
    // It hears of nothing until that is put right.
    other.keys.rotate().unwrap();
    handle.replace(secret(&fleet.secret));
    within(SOON, "another key", || agreed([&node, &other]).filter(|next| *next != key));
}

#[test]
fn another_period_in_the_namespace_is_noticed() {
    let (server, fleet) = (Server::start(), fleet());
    let node = fleet.join(&server.url());
    let hourly = Fleet { epochs: Epochs::hourly(), secret: fleet.secret.clone(), clock: fleet.clock.clone() };
    let other = hourly.join(&server.url());
    assert!(other.keys.is_degraded());
    until("it is said", || other.notices().contains(&Notice::PeriodDiffers { theirs: DAY }).then_some(()));
    assert!(node.key().is_some());
}

#[test]
fn namespaces_do_not_meet() {
    let (server, fleet) = (Server::start(), fleet());
    let edge = fleet.join(&server.url());
    let other = fleet.join_as(
        RedisSource::new(StoreAddress::single(&server.url()).unwrap(), secret(&fleet.secret))
            .namespace("other")
            .unwrap(),
    );
    assert!(edge.key().is_some() && other.key().is_some());
    assert_ne!(edge.key(), other.key());
}

#[test]
fn a_clock_that_is_an_hour_off_is_noticed() {
    let (server, secret) = (Server::start(), FleetSecret::generate().unwrap());
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    for (offset, is_noticed) in [(0, false), (3_600, true)] {
        let fleet = Fleet {
            clock: ManualClock::at(since + Duration::from_secs(offset)),
            secret: secret.to_string(),
            epochs: Epochs::daily(),
        };
        let node = fleet.join(&server.url());
        let about =
            |notice: &Notice| matches!(notice, Notice::ClockDiffers { seconds } if seconds.abs_diff(3_600) < 60);
        assert_eq!(node.notices().iter().any(about), is_noticed, "{:?}", node.notices());
    }
}

#[test]
fn a_wrong_password_is_a_clear_message_without_the_password() {
    let server = Server::start_with(&["--requirepass", "correct"]);
    let fleet = fleet();
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", server.port);
    assert!(fleet.join(&url("correct")).key().is_some());
    let node = fleet.join(&url("battery"));
    assert!(node.keys.is_degraded());
    assert!(
        node.notices().contains(&Notice::StoreUnreachable("it refuses the user or the password")),
        "{:?}",
        node.notices()
    );
    assert!(!format!("{:?}", source(&url("battery"), &fleet.secret)).contains("battery"));
}

#[test]
fn an_acl_user_needs_no_more_than_is_documented() {
    let server = Server::start();
    let rules = ["on", ">pass", "~ipveil:{edge}:*"];
    let commands = ["+get", "+set", "+del", "+hset", "+hget", "+hgetall", "+hkeys", "+hdel", "+pexpire", "+time"];
    let mut acl = redis::cmd("ACL");
    acl.arg("SETUSER").arg("edge").arg(&rules[..]).arg(&commands[..]);
    acl.exec(&mut server.connection()).unwrap();
    let fleet = fleet();
    let url = format!("redis://edge:pass@127.0.0.1:{}", server.port);
    let nodes = [fleet.join(&url), fleet.join(&url)];
    within(SOON, "agreement", || agreed(&nodes));
    assert!(!nodes[0].notices().iter().any(|notice| matches!(notice, Notice::StoreUnreachable(_))));
}

#[test]
fn a_store_that_writes_to_disk_is_reported() {
    let server = Server::start_with(&["--appendonly", "yes"]);
    let node = fleet().join(&server.url());
    until("it is said", || node.notices().contains(&Notice::StorePersists).then_some(()));
    assert!(!fleet().join(&Server::start().url()).notices().contains(&Notice::StorePersists));
}

#[test]
fn addresses_that_are_none_are_refused_without_quoting_them() {
    for url in ["", "localhost", "http://user:hunter2@example.com", "redis://user:hunter2@[::bad", "redis://h:hunter2"]
    {
        let error = StoreAddress::single(url).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let secret = || secret(&FleetSecret::generate().unwrap());
    for name in ["", "a b", "{x}", &"x".repeat(65)] {
        let source = RedisSource::new(StoreAddress::single("redis://127.0.0.1").unwrap(), secret());
        assert_eq!(source.namespace(name).unwrap_err(), FleetError::Name, "{name:?}");
    }
}

#[test]
fn a_store_is_reached_through_tls_and_only_if_its_certificate_is_good() {
    // The roots are read from where a variable of the process says, so this is played in one of its own.
    const TEST: &str = "a_store_is_reached_through_tls_and_only_if_its_certificate_is_good";
    if let Ok(url) = std::env::var("IPVEIL_TEST_URL") {
        assert_eq!(StoreAddress::single(&url).unwrap_err(), FleetError::NoTls);
        rustls::crypto::ring::default_provider().install_default().unwrap();
        let node = fleet().join(&url);
        println!("degraded: {}, {:?}", node.keys.is_degraded(), node.notices());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let port = free_port().to_string();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let tls = ["--tls-port", &port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"];
    let _server = Server::start_with(&[&["--save", "", "--tls-ca-cert-file", certificate], &tls[..]].concat());
    let play = |roots: &str| {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env("IPVEIL_TEST_URL", format!("rediss://localhost:{port}"))
            .env("SSL_CERT_FILE", roots)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let good = play(certificate);
    assert!(good.contains("degraded: false"), "{good}");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let stranger = directory.path().join("stranger.pem");
    std::fs::write(&stranger, other.cert.pem()).unwrap();
    let bad = play(stranger.to_str().unwrap());
    assert!(bad.contains("degraded: true") && bad.contains("StoreUnreachable"), "{bad}");
}

/// What is in the store under names that end so.
fn entries(server: &Server, end: &str) -> Vec<String> {
    let names: Vec<String> = server.connection().keys(format!("*{end}")).unwrap();
    names
}

#[test]
fn whoever_controls_the_store_can_not_become_a_member() {
    let (server, fleet) = (Server::start(), fleet());
    let node = fleet.join(&server.url());
    let key = node.key().unwrap();
    let mut connection = server.connection();
    let members = entries(&server, ":members").remove(0);
    let sealed = members.replace(":members", ":sealed");
    // His own public half, under every name that he can think of.
    let genuine: HashMap<String, Vec<u8>> = connection.hgetall(&members).unwrap();
    let (name, record) = genuine.into_iter().next().unwrap();
    let mut forged = record.clone();
    forged[17..49].fill(9);
    let forgeries =
        [forged, record.clone(), record[..record.len() - 1].to_vec(), vec![1; 105], Vec::new(), vec![0; 100_000]];
    for (place, forgery) in forgeries.into_iter().enumerate() {
        let _: () = connection.hset(&members, format!("{place:016x}"), forgery).unwrap();
    }
    until("it is said", || node.notices().contains(&Notice::Forged("a member")).then_some(()));
    let honest = fleet.join(&server.url());
    within(SOON, "an honest one gets it", || (honest.key() == Some(key)).then_some(()));
    let answers: Vec<String> = connection.hkeys(&sealed).unwrap();
    assert!(answers.iter().all(|answer| !answer.starts_with("00000000000000")), "{answers:?}");
    drop(name);
}

#[test]
fn whoever_controls_the_store_can_not_bring_an_old_epoch_back() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes = [fleet.join(&server.url()), fleet.join(&server.url())];
    let key = within(SOON, "agreement", || agreed(&nodes));
    let mut connection = server.connection();
    let names: Vec<String> = connection.keys("*:20000:*").unwrap();
    assert!(names.len() >= 3, "{names:?}");
    let record: Vec<(String, Vec<u8>)> =
        names.iter().map(|name| (name.clone(), redis::cmd("DUMP").arg(name).query(&mut connection).unwrap())).collect();
    fleet.clock.advance(DAY);
    let next = within(Duration::from_secs(5), "the next key", || agreed(&nodes));
    assert_ne!(next, key);
    // All of the old epoch, as if it were the new one.
    for (name, dump) in &record {
        let replayed = name.replace(":20000:", ":20001:");
        redis::cmd("RESTORE").arg(replayed).arg(0).arg(dump).arg("REPLACE").exec(&mut connection).unwrap();
    }
    let late = fleet.join(&server.url());
    let after = within(Duration::from_secs(10), "agreement", || agreed([&nodes[0], &nodes[1], &late]));
    assert_ne!(after, key);
    let forged = |notice: &Notice| matches!(notice, Notice::Forged(_));
    until("it is said", || nodes.iter().chain([&late]).any(|node| node.notices().iter().any(forged)).then_some(()));
}

#[test]
fn whoever_controls_the_store_can_neither_rotate_a_fleet_nor_undo_a_rotation() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes = [fleet.join(&server.url()), fleet.join(&server.url())];
    let mut connection = server.connection();
    let name = "ipveil:{edge}:20000:generation";
    let first = within(SOON, "agreement", || agreed(&nodes));
    nodes[0].keys.rotate().unwrap();
    let second = within(SOON, "another key", || agreed(&nodes).filter(|key| *key != first));
    let of_one: Vec<u8> = until("it is spread", || connection.get(name).unwrap());
    nodes[0].keys.rotate().unwrap();
    let third = within(SOON, "another key", || agreed(&nodes).filter(|key| ![first, second].contains(key)));
    let of_two: Vec<u8> = until("it is spread", || connection.get(name).ok().filter(|record| *record != of_one));
    let mut higher = of_two.clone();
    higher[16] += 5;
    // From before, from another epoch, made higher, and none.
    let of_tomorrow: Vec<u8> = connection.get("ipveil:{edge}:20001:generation").unwrap();
    for record in [of_one, of_tomorrow, higher] {
        let _: () = connection.set(name, &record).unwrap();
        until("it is put right", || connection.get(name).ok().filter(|there: &Vec<u8>| *there != record));
        assert_eq!(agreed(&nodes), Some(third));
    }
    let _: () = connection.del(name).unwrap();
    let _: Vec<u8> = until("it is put right", || connection.get(name).ok());
    assert_eq!(agreed(&nodes), Some(third));
}

#[test]
fn entries_that_are_cut_or_are_of_another_type_make_nobody_panic() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes = [fleet.join(&server.url()), fleet.join(&server.url())];
    let key = within(SOON, "agreement", || agreed(&nodes));
    let mut connection = server.connection();
    let names: Vec<String> = connection.keys("*").unwrap();
    for name in &names {
        let kind: String = redis::cmd("TYPE").arg(name).query(&mut connection).unwrap();
        if kind == "string" {
            let value: Vec<u8> = connection.get(name).unwrap();
            for length in [0, 1, 9, value.len() / 2, value.len() - 1] {
                let _: () = connection.set(name, &value[..length]).unwrap();
                thread::sleep(Duration::from_millis(30));
            }
        }
        // And then something else altogether.
        let _: () = connection.del(name).unwrap();
        let _: () = connection.lpush(name, "x").unwrap();
        thread::sleep(Duration::from_millis(300));
        let _: () = connection.del(name).unwrap();
    }
    within(Duration::from_secs(10), "agreement", || agreed(&nodes));
    // He could have the fleet take another, and has not: the key was in use all the time.
    assert_eq!(agreed(&nodes), Some(key));
    assert!(connection.check_connection());
}

#[test]
fn a_node_that_was_suspended_over_two_epochs_has_the_present_key() {
    let (server, fleet) = (Server::start(), fleet());
    // Its clock went on while it slept; the store and another node were there all the time.
    let other = Fleet { clock: ManualClock::at(DAY * 20_002), secret: fleet.secret.clone(), ..fleet };
    let sleeper = Fleet { clock: fleet.clock.clone(), secret: fleet.secret.clone(), epochs: fleet.epochs };
    let node = sleeper.join(&server.url());
    let key = node.key().unwrap();
    let awake = other.join(&server.url());
    sleeper.clock.suspend(DAY * 2);
    assert_ne!(node.keys.key_id(), Some(key), "from the very moment");
    within(Duration::from_secs(5), "the present key", || agreed([&node, &awake]));
}

#[test]
fn nodes_whose_clocks_differ_by_minutes_agree_on_both_sides_of_the_boundary() {
    let (server, slow) = (Server::start(), fleet());
    let fast = Fleet {
        clock: ManualClock::at(DAY * 20_000 + HOUR * 12 + Duration::from_secs(180)),
        secret: slow.secret.clone(),
        epochs: slow.epochs,
    };
    let (ahead, behind) = (fast.join(&server.url()), slow.join(&server.url()));
    let key = within(SOON, "agreement", || agreed([&ahead, &behind]));
    for clock in [&fast.clock, &slow.clock] {
        clock.advance(HOUR * 12 - Duration::from_secs(90));
    }
    // One is in the next epoch already, and has its key.
    let next = within(SOON, "the next key", || ahead.key().filter(|next| *next != key));
    assert_eq!(behind.key(), Some(key));
    for clock in [&fast.clock, &slow.clock] {
        clock.advance(Duration::from_secs(180));
    }
    within(SOON, "agreement", || (agreed([&ahead, &behind]) == Some(next)).then_some(()));
}

#[test]
fn a_cable_that_is_pulled_at_the_boundary_costs_agreement_and_nothing_else() {
    let (server, fleet) = (Server::start(), fleet());
    let gate = Gate::before(server.port);
    let (near, far) = (fleet.join(&server.url()), fleet.join(&gate.url()));
    let key = within(SOON, "agreement", || agreed([&near, &far]));
    gate.freeze();
    fleet.clock.advance(DAY);
    assert_ne!(far.keys.key_id(), Some(key), "from the very moment");
    // What a ring waits for its source is counted by the ring's clock.
    within(Duration::from_secs(5), "a key of its own", || {
        fleet.clock.advance(Duration::from_millis(20));
        far.keys.is_degraded().then_some(())
    });
    let next = within(Duration::from_secs(5), "the fleet's key", || near.key().filter(|next| *next != key));
    gate.open();
    within(Duration::from_secs(5), "agreement", || (agreed([&near, &far]) == Some(next)).then_some(()));
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

#[test]
fn after_a_failover_that_sentinels_decide_on_the_fleet_goes_on() {
    let replica_port = free_port();
    let mut master = Server::start();
    let port = master.port.to_string();
    let replica = Server::start_at(replica_port, &["--save", "", "--replicaof", "127.0.0.1", &port]);
    let directory = tempfile::tempdir().unwrap();
    let sentinels: Vec<_> = (0..3)
        .map(|place| {
            let path = directory.path().join(format!("{place}.conf"));
            let settings = format!(
                "sentinel monitor edge 127.0.0.1 {port} 2\nsentinel down-after-milliseconds edge 500\n\
                 sentinel failover-timeout edge 3000\n"
            );
            std::fs::write(&path, settings).unwrap();
            Server::start_sentinel(&path)
        })
        .collect();
    let mut connection = master.connection();
    until("the replica is in step", || {
        let about: String = redis::cmd("INFO").arg("replication").query(&mut connection).unwrap();
        about.contains("state=online").then_some(())
    });
    for sentinel in &sentinels {
        until("sentinels know each other", || {
            let mut connection = sentinel.connection();
            let about: String = redis::cmd("INFO").arg("sentinel").query(&mut connection).unwrap();
            about.contains("slaves=1,sentinels=3").then_some(())
        });
    }
    let urls: Vec<_> = sentinels.iter().map(Server::url).collect();
    let fleet = fleet();
    let join = || {
        let store = StoreAddress::sentinels("edge", urls.iter().map(String::as_str)).unwrap();
        fleet.join_as(RedisSource::new(store, secret(&fleet.secret)).namespace("edge").unwrap())
    };
    let nodes = [join(), join()];
    let key = within(SOON, "agreement", || agreed(&nodes));
    master.end();
    let late = within(Duration::from_secs(60), "a failover", || {
        let node = join();
        (!node.keys.is_degraded()).then_some(node)
    });
    let after = within(Duration::from_secs(10), "agreement", || agreed([&nodes[0], &nodes[1], &late]));
    assert_eq!(after, key, "those that have it still have it");
    let role: Vec<redis::Value> = redis::cmd("ROLE").query(&mut replica.connection()).unwrap();
    assert!(format!("{role:?}").contains("master"));
}

#[test]
fn a_cluster_is_a_store_too() {
    let nodes: Vec<_> =
        (0..3).map(|_| Server::start_with(&["--save", "", "--appendonly", "no", "--cluster-enabled", "yes"])).collect();
    let places = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
    let created = std::process::Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(places)
        .args(["--cluster-replicas", "0", "--cluster-yes"])
        .output()
        .unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
    until("the cluster is there", || {
        let about: String = redis::cmd("CLUSTER").arg("INFO").query(&mut nodes[0].connection()).unwrap();
        about.contains("cluster_state:ok").then_some(())
    });
    let fleet = fleet();
    let urls: Vec<_> = nodes.iter().map(Server::url).collect();
    let join = |namespace: &str| {
        let store = StoreAddress::cluster(urls.iter().map(String::as_str)).unwrap();
        fleet.join_as(RedisSource::new(store, secret(&fleet.secret)).namespace(namespace).unwrap())
    };
    // In more than one place of the cluster.
    for namespace in ["edge", "two", "three", "four"] {
        let members = [join(namespace), join(namespace), join(namespace)];
        within(SOON, "agreement", || agreed(&members));
        members[0].keys.rotate().unwrap();
        within(SOON, "agreement", || agreed(&members));
    }
}

#[test]
fn rotating_under_load_makes_no_request_wait() {
    const REQUESTS: usize = 200_000;
    let (server, fleet) = (Server::start(), fleet());
    let node = fleet.join(&server.url());
    let policy = Policy::new(Scope::unscoped(), [View::token("log")]).unwrap();
    let measure = |is_rotating: bool| {
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let rotating = scope.spawn({
                let (keys, is_done) = (node.keys.clone(), &is_done);
                move || {
                    let mut rotations = 0;
                    while is_rotating && !is_done.load(Ordering::Relaxed) {
                        rotations += u32::from(keys.rotate().is_ok());
                        thread::sleep(Duration::from_millis(5));
                    }
                    rotations
                }
            });
            let mut took: Vec<Duration> = (0..REQUESTS)
                .map(|_| {
                    let asked = Instant::now();
                    let client = policy.client(&ClientAddr::from(IpAddr::from([203, 0, 113, 7])), &node.keys);
                    std::hint::black_box(client.pseudonym("log"));
                    asked.elapsed()
                })
                .collect();
            is_done.store(true, Ordering::Relaxed);
            took.sort();
            (rotating.join().unwrap(), took[REQUESTS / 2], took[REQUESTS - REQUESTS / 1_000], took[REQUESTS - 1])
        })
    };
    for is_rotating in [false, true] {
        let (rotations, half, most, all) = measure(is_rotating);
        eprintln!("{rotations} rotations: half within {half:?}, 99.9 % within {most:?}, all within {all:?}");
        // How long is for whoever measures: a test does not know what else the machine does. That nobody waits for as long
        // as a store may take is for every machine.
        assert!(is_rotating == (rotations > 0) && half < Duration::from_millis(100), "{half:?}");
    }
}

#[test]
fn on_the_systems_clock_a_fleet_rotates_every_two_seconds() {
    let (server, secret) = (Server::start(), FleetSecret::generate().unwrap());
    let epochs = Epochs::every(Duration::from_secs(2)).unwrap();
    let nodes: Vec<_> = (0..3)
        .map(|_| KeyRing::builder(source(&server.url(), &secret), epochs).clock(SystemClock).start().unwrap())
        .collect();
    let mut seen = HashSet::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        let keys: HashSet<_> = nodes.iter().map(KeyRing::key_id).collect();
        if keys.len() == 1 {
            seen.extend(keys);
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(seen.len() >= 3, "{seen:?}");
}
