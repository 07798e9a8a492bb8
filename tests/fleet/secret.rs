//! How a secret is replaced, and what a node with another one sees.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use ipveil::keys::{
    KeyEvent, Notice,
    fleet::{Console, FleetError, FleetSecret, SecretHandle},
};
use redis::Commands as _;

use crate::{
    gate::Gate,
    node::{DAY, Fleet, HOUR, Node, SOON, agreed, fleet, secret, source},
    stolen::aged,
    store::{
        Server,
        until::{until, within},
    },
};

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
fn a_stranger_that_is_gone_is_none() {
    let (server, fleet) = (Server::start(), fleet());
    let node = fleet.join(&server.url());
    let mut connection = server.connection();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let record = |at: Duration, until: Duration| {
        let [at, until] = [at, until].map(|time| (time.as_millis() as u64).to_be_bytes());
        [&[1][..], &[7; 8], &[8; 8], &at, &until, &[9; 92]].concat()
    };
    let mut console = fleet.console(&server.url());
    let strangers = |console: &mut Console| console.status(fleet.now()).unwrap().strangers;
    let name = "ipveil:{edge}:nodes";
    let over = [
        (now - HOUR * 2, now - HOUR * 2),
        (now - DAY * 3, now + DAY),
        (now + DAY * 365, now + DAY * 366),
        (now + DAY * 365_000_000, now),
    ];
    for (place, (at, until)) in over.into_iter().enumerate() {
        let _: () = connection.hset(name, format!("{place:016x}"), record(at, until)).unwrap();
        assert!(strangers(&mut console).is_empty(), "{at:?}");
    }
    // One that is there; and one that may have a key until tomorrow, by its own account.
    for (place, at, until) in [("8", now, now), ("9", now - HOUR * 2, now + DAY)] {
        let _: () = connection.hset(name, place.repeat(16), record(at, until)).unwrap();
        assert_eq!(strangers(&mut console), [0x0707_0707_0707_0707]);
    }
    assert_eq!(console.status(fleet.now()).unwrap().strange_nodes, 2);
    // Whoever comes puts in order what is there.
    let other = fleet.join(&server.url());
    until("it is gone", || (connection.hlen(name) == Ok(4)).then_some(()));
    within(SOON, "agreement", || agreed([&node, &other]));
}

#[test]
fn a_node_with_a_wrong_secret_leaves_the_nodes_of_the_fleet_in_the_list() {
    let (server, fleet) = (Server::start(), fleet());
    let gate = Gate::before(server.port);
    let (near, far) = (fleet.join(&server.url()), fleet.join(&gate.url()));
    within(SOON, "agreement", || agreed([&near, &far]));
    let mut connection = server.connection();
    let name = "ipveil:{edge}:nodes";
    until("both are listed", || (connection.hlen(name) == Ok(2)).then_some(()));
    gate.shut();
    drop(near);
    until("one is left", || (connection.hlen(name) == Ok(1)).then_some(()));
    let left: HashMap<String, Vec<u8>> = connection.hgetall(name).unwrap();
    let (field, record) = left.into_iter().next().unwrap();
    // Cut off for two hours, with a key for ten more.
    let _: () = connection.hset(name, &field, aged(&fleet.secret, &record, HOUR * 2)).unwrap();
    let wrong = Fleet { secret: FleetSecret::generate().unwrap().to_string(), clock: fleet.clock.clone(), ..fleet };
    let stranger = wrong.join(&server.url());
    until("it stays out, and says so", || (connection.hlen(name) == Ok(2)).then_some(()));
    // Nor if it is taken for one of the fleet, a minute later: its first turns would tidy up.
    wrong.clock.advance(Duration::from_secs(60));
    let other = within(SOON, "a key", || stranger.key());
    let late = wrong.join(&server.url());
    within(SOON, "agreement", || (late.key() == Some(other)).then_some(()));
    until("all are listed", || (connection.hlen(name) == Ok(3)).then_some(()));
    assert_eq!(connection.hexists(name, &field), Ok(true));
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
