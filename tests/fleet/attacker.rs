//! What whoever controls the store can not do.

use std::{collections::HashMap, thread, time::Duration};

use ipveil::keys::{Epochs, Notice};
use redis::{Commands as _, ConnectionLike as _};

use crate::{
    node::{DAY, Fleet, SOON, agreed, fleet, looks},
    store::{
        Server,
        until::{until, within},
    },
};

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
fn whoever_controls_the_store_can_not_keep_a_fleet_out_with_one_record() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes = [fleet.join(&server.url()), fleet.join(&server.url())];
    let mut key = within(SOON, "agreement", || agreed(&nodes));
    let mut connection = server.connection();
    let mut console = fleet.console(&server.url());
    until("both are seen", || (console.status(fleet.now()).ok()?.nodes.len() == 2).then_some(()));
    let name = "ipveil:{edge}:fleet";
    // Of a secret that nobody has, and what this fleet itself wrote when its epochs were shorter.
    let foreign = [&[1][..], &[7; 8], &DAY.as_secs().to_be_bytes(), &[9; 32]].concat();
    let hourly = Fleet { epochs: Epochs::hourly(), secret: fleet.secret.clone(), clock: fleet.clock.clone() };
    let theirs: Vec<u8> = {
        let elsewhere = Server::start();
        let _node = hourly.join(&elsewhere.url());
        elsewhere.connection().get(name).unwrap()
    };
    let foreign_secret: fn(&Notice) -> bool = |notice| matches!(notice, Notice::ForeignSecret { .. });
    let period_differs: fn(&Notice) -> bool = |notice| matches!(notice, Notice::PeriodDiffers { .. });
    for (record, is_it) in [(foreign, foreign_secret), (theirs, period_differs)] {
        let _: () = connection.set(name, &record).unwrap();
        until("it is said", || nodes.iter().all(|node| node.notices().iter().any(is_it)).then_some(()));
        assert_eq!(agreed(&nodes), Some(key));
        // Whoever presses the panic button now is heard all the same.
        console.rotate_now(fleet.now()).unwrap();
        within(SOON, "no key", || nodes.iter().all(|node| node.keys.key_id() != Some(key)).then_some(()));
        assert!(nodes.iter().all(|node| node.key().is_none()));
        let there: Vec<u8> = connection.get(name).unwrap();
        assert_eq!(there, record);
        fleet.clock.advance(Duration::from_secs(60));
        key = within(SOON, "another key", || agreed(&nodes).filter(|next| *next != key));
        let there: Vec<u8> = connection.get(name).unwrap();
        assert_ne!(there, record);
    }
    // Nor with one in each epoch, of another secret each: not even for a minute.
    for epoch in 20_001..20_004 {
        for (place, name) in ["generation", "0:claim", "1:claim", "2:claim"].into_iter().enumerate() {
            let foreign = [&[1][..], &[epoch as u8, place as u8, 8, 8, 8, 8, 8, 8], &[9; 80]].concat();
            let _: () = connection.set(format!("ipveil:{{edge}}:{epoch}:{name}"), &foreign).unwrap();
        }
    }
    for _ in 20_001..20_004 {
        fleet.clock.advance(DAY);
        key = within(Duration::from_secs(5), "another key", || agreed(&nodes).filter(|next| *next != key));
    }
}

#[test]
fn a_record_that_was_gone_for_some_time_begins_its_minute_anew() {
    let (server, fleet) = (Server::start(), fleet());
    let node = fleet.join(&server.url());
    let first = node.key().unwrap();
    let mut connection = server.connection();
    let name = "ipveil:{edge}:fleet";
    let foreign = [&[1][..], &[7; 8], &DAY.as_secs().to_be_bytes(), &[9; 32]].concat();
    let _: () = connection.set(name, &foreign).unwrap();
    until("it is said", || {
        node.notices().iter().any(|notice| matches!(notice, Notice::ForeignSecret { .. })).then_some(())
    });
    let _: () = connection.del(name).unwrap();
    let ours: Vec<u8> = until("it is this fleet's again", || connection.get(name).ok());
    assert_ne!(ours, foreign);
    wait_for_looks(&server);
    fleet.clock.advance(Duration::from_secs(60));
    let _: () = connection.set(name, &foreign).unwrap();
    wait_for_looks(&server);
    let there: Vec<u8> = connection.get(name).unwrap();
    assert_eq!(there, foreign);
    fleet.clock.advance(Duration::from_secs(60));
    until("it is overwritten", || connection.get(name).ok().filter(|there: &Vec<u8>| *there != foreign));
    assert_eq!(node.key(), Some(first));
}

/// Waits until the store was looked at a few times more.
fn wait_for_looks(server: &Server) {
    let before = looks(server);
    until("it is looked at", || (looks(server) >= before + 4).then_some(()));
}

#[test]
fn more_than_can_be_read_in_the_place_of_the_nodes_or_of_members_is_removed() {
    let (server, fleet) = (Server::start(), fleet());
    let nodes = [fleet.join(&server.url()), fleet.join(&server.url())];
    let key = within(SOON, "agreement", || agreed(&nodes));
    let mut connection = server.connection();
    let mut console = fleet.console(&server.url());
    let junk = vec![0; 5 << 20];
    let hashes = ["ipveil:{edge}:nodes", "ipveil:{edge}:20000:0:members"];
    for name in hashes {
        let _: () = connection.hset(name, "junk", &junk).unwrap();
        // Whoever comes puts in order what is there.
        let late = fleet.join(&server.url());
        until("it is gone", || (connection.hexists(name, "junk") == Ok(false)).then_some(()));
        within(Duration::from_secs(5), "agreement", || agreed(nodes.iter().chain([&late])));
        until("all are seen", || (console.status(fleet.now()).ok()?.nodes.len() == 3).then_some(()));
    }
    assert_eq!(agreed(&nodes), Some(key));
    // Where nobody puts anything in order yet, everything else goes on.
    let _: () = connection.hset(hashes[0], "junk", &junk).unwrap();
    nodes[0].keys.rotate().unwrap();
    let next = within(SOON, "another key", || agreed(&nodes).filter(|next| *next != key));
    fleet.clock.advance(DAY);
    within(Duration::from_secs(5), "the next key", || agreed(&nodes).filter(|after| *after != next));
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
        // And then something else altogether, before a node comes in between.
        redis::pipe().atomic().del(name).lpush(name, "x").exec(&mut connection).unwrap();
        until("it is put right", || {
            let kind: String = redis::cmd("TYPE").arg(name).query(&mut connection).unwrap();
            (kind != "list").then_some(())
        });
    }
    within(Duration::from_secs(10), "agreement", || agreed(&nodes));
    // He could have the fleet take another, and has not: the key was in use all the time.
    assert_eq!(agreed(&nodes), Some(key));
    assert!(connection.check_connection());
}
