//! How soon nodes have one key, and how a fleet that was in parts has one again.

use std::{
    collections::{HashMap, HashSet},
    thread,
    time::{Duration, Instant},
};

use ipveil::{
    KeyRing,
    keys::{
        Epochs, KeyEvent, Notice, Origin, Reason, SystemClock,
        fleet::{FleetSecret, RedisSource, StoreAddress},
    },
};
use redis::Commands as _;

use crate::{
    gate::Gate,
    node::{DAY, Fleet, HOUR, Node, SOON, agreed, fleet, secret, source},
    store::{
        Server,
        until::{until, within},
    },
};

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
