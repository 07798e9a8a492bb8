//! What clocks cost that are set, that differ, or that stood still.

use std::time::{Duration, SystemTime};

use ipveil::keys::{Epochs, KeyEvent, KeyId, ManualClock, Notice, fleet::FleetSecret};
use redis::Commands as _;

use crate::{
    gate::Gate,
    node::{DAY, Fleet, HOUR, Node, SOON, agreed, fleet},
    store::{
        Server,
        until::{until, within},
    },
};

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
        let failed = |node: &Node| {
            let events = node.events.lock().unwrap();
            events.iter().filter(|event| matches!(event, KeyEvent::SourceFailed { .. })).count()
        };
        let before: Vec<_> = nodes.iter().map(failed).collect();
        // After that long it is told again that they do.
        fleet.clock.advance(Duration::from_secs(300));
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

#[test]
fn a_key_that_goes_from_node_to_node_lives_no_longer_than_on_one() {
    let (server, minute) = (Server::start(), Duration::from_secs(60));
    let fleet = Fleet { epochs: Epochs::hourly(), ..fleet() };
    let begin = DAY * 20_000 + HOUR * 12 + minute;
    fleet.clock.set_wall(begin);
    let mut node = fleet.join(&server.url());
    let mut seen: Vec<(KeyId, u32)> = vec![(node.key().unwrap(), 0)];
    // Each node joins when the clock was set back, and takes over what the one before has.
    for step in 1..20 {
        fleet.clock.advance(11 * minute);
        fleet.clock.set_wall(begin);
        let next = fleet.join(&server.url());
        drop(std::mem::replace(&mut node, next));
        let key = until("a key of the fleet's", || node.key());
        match seen.iter().find(|(seen, _)| *seen == key) {
            // An epoch, what a slow clock is allowed, and not a step more.
            Some((_, first)) => assert!(11 * (step - first) < 66, "{} minutes", 11 * (step - first)),
            None => seen.push((key, step)),
        }
    }
    assert!(seen.len() > 1);
}

#[test]
fn a_node_that_takes_a_key_over_has_it_as_long_as_the_one_that_made_it() {
    let (server, minute) = (Server::start(), Duration::from_secs(60));
    let fleet = Fleet { epochs: Epochs::hourly(), ..fleet() };
    let begin = DAY * 20_000 + HOUR * 12 + minute;
    fleet.clock.set_wall(begin);
    let first = fleet.join(&server.url());
    let key = first.key().unwrap();
    fleet.clock.advance(55 * minute);
    fleet.clock.set_wall(begin);
    let second = fleet.join(&server.url());
    within(SOON, "the fleet's key", || (second.key() == Some(key)).then_some(()));
    drop(first);
    // Four minutes until its epoch ends, and six for nodes whose clocks are slow.
    fleet.clock.advance(10 * minute - Duration::from_secs(1));
    assert_eq!(second.key(), Some(key));
    fleet.clock.advance(Duration::from_secs(1));
    assert_ne!(second.keys.key_id(), Some(key), "from the very moment");
    // A third gets it from nobody: the fleet goes on to another.
    let third = fleet.join(&server.url());
    let other = within(Duration::from_secs(8), "another key", || agreed([&second, &third]));
    assert_ne!(other, key);
}

#[test]
fn a_node_whose_clock_was_set_back_is_listed_as_long_as_it_may_have_a_key() {
    let (server, fleet) = (Server::start(), fleet());
    fleet.clock.set_wall(DAY * 20_000 + HOUR);
    let node = fleet.join(&server.url());
    let key = node.key().unwrap();
    // Its key is there for 23 hours, and the epoch by the wall clock for one.
    fleet.clock.set_wall(DAY * 20_000 - HOUR);
    let mut connection = server.connection();
    let left = until("it says so", || {
        let records: Vec<Vec<u8>> = connection.hvals("ipveil:{edge}:nodes").unwrap();
        let number = |record: &Vec<u8>, from: usize| u64::from_be_bytes(record[from..from + 8].try_into().unwrap());
        // When it was written, until when it may have a key, and the epoch.
        let record = records.iter().find(|record| number(record, 33) == 19_999)?;
        Some(Duration::from_millis(number(record, 25) - number(record, 17)))
    });
    assert!(left >= HOUR * 23, "{left:?}");
    assert_eq!(node.keys.key_id(), Some(key));
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
