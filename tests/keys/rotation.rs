//! What a rotation destroys, and when.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use ipveil::{
    ClientAddr, Policy,
    policy::{Scope, View},
};

use crate::scene::{HOUR, destroyed, minted, scene};

#[test]
fn rotate_destroys_the_key_before_it_returns() {
    let scene = scene();
    let (key, pseudonym) = (scene.key(), scene.pseudonym());
    let new = scene.keys.rotate().unwrap();
    assert_eq!(scene.keys.key_id(), Some(new));
    scene.events.wait_until_destroyed(key);
    assert_ne!(scene.pseudonym(), pseudonym);
    assert_eq!(scene.keys.epoch().unwrap().number(), 20_000, "of the same epoch");
}

#[test]
fn rotate_destroys_the_next_key_too() {
    let scene = scene();
    scene.clock.advance(HOUR * 12 - Duration::from_secs(1));
    let key = scene.key();
    let next = scene.wait_until_prepared(key);
    scene.keys.rotate().unwrap();
    scene.events.wait_until_destroyed(next);
    scene.clock.advance(Duration::from_secs(1));
    assert_ne!(scene.key(), next);
}

#[test]
fn rotations_that_race_leave_one_key_and_destroy_all_others() {
    const EACH: usize = 50;
    let scene = scene();
    let (start, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let rotating: Vec<_> = (0..4)
        .map(|_| {
            let (keys, start) = (scene.keys.clone(), start.clone());
            thread::spawn(move || {
                while !start.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                for _ in 0..EACH {
                    keys.rotate().unwrap();
                }
            })
        })
        .collect();
    let reading: Vec<_> = (0..2)
        .map(|_| {
            let (keys, done) = (scene.keys.clone(), done.clone());
            let policy = Policy::new(Scope::unscoped(), [View::token("log")]).unwrap();
            thread::spawn(move || {
                let mut seen = HashMap::new();
                while !done.load(Ordering::Acquire) {
                    let client = policy.client(&ClientAddr::from(IpAddr::from([203, 0, 113, 7])), &keys);
                    *seen.entry(client.pseudonym("log")).or_insert(0) += 1;
                }
                seen
            })
        })
        .collect();
    start.store(true, Ordering::Release);
    for thread in rotating {
        thread.join().unwrap();
    }
    done.store(true, Ordering::Release);
    for thread in reading {
        assert!(!thread.join().unwrap().is_empty());
    }
    let last = scene.key();
    // Told outside of the ring's lock, so the last few may still be on their way.
    let events = scene.events.wait(|events| {
        let minted: HashSet<_> = events.iter().filter_map(|event| minted(*event)).collect();
        let destroyed: HashSet<_> = events.iter().filter_map(|event| destroyed(*event)).collect();
        minted.difference(&destroyed).copied().collect::<Vec<_>>() == [last]
    });
    let all: Vec<_> = events.iter().filter_map(|event| minted(*event)).collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "no key is minted twice");
    // Whichever thread told them: a journal would have it so for ever.
    let mut there = HashSet::new();
    for event in events {
        if let Some(key) = minted(event) {
            assert!(there.insert(key), "{key} was minted twice");
        }
        if let Some(key) = destroyed(event) {
            assert!(there.remove(&key), "{key} was destroyed before it was minted");
        }
    }
}
