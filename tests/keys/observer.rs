//! What an observer can do to a ring, and what it can not.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use ipveil::{
    KeyRing,
    keys::{Epochs, KeyEvent, ManualClock, MemorySource},
};

use crate::scene::{DAY, Events, HOUR, destroyed, minted};

#[test]
fn an_observer_that_does_not_return_keeps_no_key_alive() {
    let clock = ManualClock::at(DAY * 20_000 + HOUR * 12);
    let (release, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let events = Events::default();
    let told = events.clone();
    let keys = KeyRing::builder(MemorySource, Epochs::daily())
        .clock(clock.clone())
        .on_event(move |event| {
            told.push(event);
            if destroyed(event).is_some() {
                // Whoever reads the log has stopped.
                let _ = wait.lock().unwrap().recv();
            }
        })
        .start()
        .unwrap();
    let first = keys.key_id().unwrap();
    let second = keys.rotate().unwrap();
    events.wait_until_destroyed(first);
    let third = keys.rotate().unwrap();
    clock.advance(DAY);
    while keys.key_id().is_none_or(|key| key == third) {
        thread::yield_now();
    }
    assert_eq!(events.wait(|_| true).into_iter().filter_map(destroyed).collect::<Vec<_>>(), [first]);
    drop(release);
    events.wait_until_destroyed(second);
    events.wait_until_destroyed(third);
}

#[test]
fn an_observer_may_use_the_ring() {
    let ring = Arc::new(Mutex::new(None::<KeyRing>));
    let (events, seen) = (Events::default(), ring.clone());
    let told = events.clone();
    let is_first = AtomicBool::new(true);
    let (rotated, has_rotated) = mpsc::channel();
    let keys = KeyRing::builder(MemorySource, Epochs::daily())
        .on_event(move |event| {
            if destroyed(event).is_some()
                && is_first.swap(false, Ordering::Relaxed)
                && let Some(ring) = seen.lock().unwrap().take()
            {
                ring.rotate().unwrap();
                rotated.send(()).unwrap();
            }
            told.push(event);
        })
        .start()
        .unwrap();
    *ring.lock().unwrap() = Some(keys.clone());
    let first = keys.key_id().unwrap();
    keys.rotate().unwrap();
    keys.rotate().unwrap();
    // The observer's rotation may be the last. Or one key is the answer to it and to one of ours.
    has_rotated.recv_timeout(Duration::from_secs(60)).unwrap();
    let last = keys.key_id();
    let events = events.wait(|events| events.iter().rev().find_map(|event| minted(*event)) == last);
    assert_eq!(events.into_iter().find_map(destroyed), Some(first));
}

#[test]
fn several_observers_are_told_the_same_in_order_even_if_one_panics() {
    let [first, second, third] = [Events::default(), Events::default(), Events::default()];
    let told = [first.clone(), second.clone(), third.clone()];
    let keys = KeyRing::builder(MemorySource, Epochs::daily())
        .on_event(move |event| first.push(event))
        .on_event(move |event| {
            second.push(event);
            panic!("the second observer is broken");
        })
        .on_event(move |event| third.push(event))
        .start()
        .unwrap();
    let before = keys.key_id().unwrap();
    let after = keys.rotate().unwrap();
    let all = told.map(|events| events.wait(|events| events.len() == 3));
    let named = |event: &KeyEvent| minted(*event).or(destroyed(*event));
    assert!(all[0].iter().filter_map(named).eq([before, before, after]), "{:?}", all[0]);
    assert!(all[0] == all[1] && all[1] == all[2], "{all:?}");
}

#[test]
fn an_observer_that_panics_does_not_stop_the_ring() {
    let clock = ManualClock::at(DAY * 20_000 + HOUR * 12);
    let (tell, told) = mpsc::channel();
    let keys = KeyRing::builder(MemorySource, Epochs::daily())
        .clock(clock.clone())
        .on_event(move |event| {
            tell.send(event).unwrap();
            panic!("the observer is broken");
        })
        .start()
        .unwrap();
    for _ in 0..3 {
        let key = keys.key_id().unwrap();
        clock.advance(DAY);
        while destroyed(told.recv().unwrap()) != Some(key) {}
        keys.rotate().unwrap();
    }
}
