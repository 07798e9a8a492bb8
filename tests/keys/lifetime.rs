//! How long a key lives, whatever the clock says.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipveil::{
    KeyRing,
    keys::{
        EpochKey, Epochs, KeyError, KeyEvent, KeyRequest, KeySource, ManualClock, MemorySource, RingHandle,
        WhenUnavailable,
    },
};

use crate::scene::{DAY, HOUR, Scene, scene, scene_with};

#[test]
fn a_key_lives_until_its_epoch_ends_and_is_destroyed_without_traffic() {
    let scene = scene();
    let (key, pseudonym) = (scene.key(), scene.pseudonym());
    scene.clock.advance(HOUR * 12 - Duration::from_secs(1));
    assert_eq!(scene.keys.key_id(), Some(key));
    assert_eq!(scene.pseudonym(), pseudonym);

    let next = scene.wait_until_prepared(key);
    scene.clock.advance(Duration::from_secs(1));
    // Nobody asks for anything.
    scene.events.wait_until_destroyed(key);
    assert_eq!(scene.keys.key_id(), Some(next));
    assert_ne!(scene.pseudonym(), pseudonym);
}

#[test]
fn at_the_boundary_nothing_is_withheld() {
    let scene = scene();
    let key = scene.key();
    scene.clock.advance(HOUR * 12 - Duration::from_secs(5));
    let next = scene.wait_until_prepared(key);
    scene.clock.advance(Duration::from_secs(5));
    // Whether or not the ring's thread has woken up.
    assert_eq!(scene.keys.key_id(), Some(next));
}

#[test]
fn no_key_is_used_after_its_epoch_even_if_the_ring_is_stuck() {
    // The thread that would rotate waits for the observer, as it might for the scheduler.
    let (stuck, is_stuck) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
    let hold = stuck.lock().unwrap();
    let clock = ManualClock::at(DAY * 20_000 + HOUR * 12);
    let (wait, seen) = (stuck.clone(), is_stuck.clone());
    let keys = KeyRing::builder(MemorySource, Epochs::daily())
        .clock(clock.clone())
        .on_event(move |event| {
            if matches!(event, KeyEvent::Minted { epoch, .. } if epoch.number() > 20_000) {
                seen.store(true, Ordering::SeqCst);
                drop(wait.lock());
            }
        })
        .start()
        .unwrap();
    let key = keys.key_id().unwrap();
    clock.advance(DAY);
    // From the very moment, in every request.
    for _ in 0..1_000 {
        assert_ne!(keys.key_id(), Some(key));
        clock.advance(Duration::from_millis(1));
    }
    drop(hold);
}

#[test]
fn a_clock_set_back_never_brings_an_old_epoch_back() {
    let scene = scene();
    let (first, yesterday) = (scene.key(), scene.pseudonym());
    scene.clock.advance(DAY);
    scene.events.wait_until_destroyed(first);
    let (second, today) = (scene.key(), scene.pseudonym());
    scene.clock.set_wall(DAY * 20_000 + HOUR * 12);
    assert_eq!(scene.key(), second, "it stays: the old one is gone");
    assert_ne!(scene.pseudonym(), yesterday);
    assert_eq!(scene.pseudonym(), today);
}

#[test]
fn setting_the_clock_back_again_and_again_does_not_keep_a_key_alive() {
    let scene = scene();
    let key = scene.key();
    for _ in 0..4 {
        scene.clock.advance(HOUR * 4);
        scene.clock.set_wall(DAY * 20_000 + HOUR);
    }
    // 16 hours of monotonic time have passed, 12 were left.
    assert_ne!(scene.keys.key_id(), Some(key));
    scene.events.wait_until_destroyed(key);
    assert_ne!(scene.key(), key);
}

/// Gives keys of which a part of their life is over.
#[derive(Default)]
struct SecondHand(Option<RingHandle>);

impl KeySource for SecondHand {
    fn key(&mut self, _: KeyRequest) -> Result<EpochKey, KeyError> {
        let now = self.0.as_ref().and_then(RingHandle::now).ok_or(KeyError::Unavailable)?.monotonic;
        let key = EpochKey::random()?;
        Ok(key.over_by(now + DAY * 7).over_by(now + HOUR).over_by(now + HOUR * 2))
    }

    fn attach(&mut self, ring: RingHandle) {
        self.0 = Some(ring);
    }
}

#[test]
fn a_key_that_has_lived_elsewhere_has_no_new_life_here() {
    let scene = scene_with(SecondHand::default(), WhenUnavailable::Degrade);
    let key = scene.key();
    scene.clock.advance(HOUR - Duration::from_millis(1));
    assert_eq!(scene.keys.key_id(), Some(key));
    // By the wall clock its epoch has begun just now.
    scene.clock.set_wall(DAY * 20_000);
    scene.clock.advance(Duration::from_millis(1));
    assert_ne!(scene.keys.key_id(), Some(key), "from the very moment");
    scene.events.wait_until_destroyed(key);
    assert_ne!(scene.key(), key);
}

#[test]
fn a_source_shortens_the_life_of_a_key_and_does_not_lengthen_it() {
    struct Generous;
    impl KeySource for Generous {
        fn key(&mut self, _: KeyRequest) -> Result<EpochKey, KeyError> {
            EpochKey::random().map(|key| key.over_by(std::time::Instant::now() + DAY * 7))
        }
    }
    let scene = scene_with(Generous, WhenUnavailable::Degrade);
    let key = scene.key();
    scene.clock.set_wall(DAY * 20_000);
    scene.clock.advance(HOUR * 12);
    assert_ne!(scene.keys.key_id(), Some(key));
}

#[test]
fn a_clock_far_ahead_destroys_the_key_and_another_takes_over() {
    let scene = scene();
    let key = scene.key();
    scene.clock.set_wall(DAY * 40_000);
    assert_ne!(scene.keys.key_id(), Some(key));
    scene.events.wait_until_destroyed(key);
    let other = scene.key();
    assert_ne!(other, key);
    // And when somebody notices, nothing comes back.
    scene.clock.set_wall(DAY * 20_000 + HOUR * 13);
    assert_ne!(scene.key(), key);
    // Not for twenty thousand days either: a day of its own is all that the new key has.
    scene.clock.advance(DAY);
    assert_ne!(scene.keys.key_id(), Some(other));
    scene.events.wait_until_destroyed(other);
}

#[test]
fn a_machine_suspended_over_two_epochs_wakes_up_without_its_key() {
    let scene = scene();
    scene.clock.advance(HOUR * 12 - Duration::from_secs(2));
    let key = scene.key();
    let next = scene.wait_until_prepared(key);
    scene.clock.suspend(DAY * 2);
    assert!(![Some(key), Some(next)].contains(&scene.keys.key_id()));
    scene.events.wait_until_destroyed(key);
    scene.events.wait_until_destroyed(next);
    assert!(![key, next].contains(&scene.key()));
}

#[test]
fn a_clock_that_was_never_set_does_not_lengthen_a_keys_life() {
    // Before 1970, and then the wall clock stands still.
    let scene = scene();
    scene.clock.set_wall(Duration::ZERO);
    let key = scene.keys.rotate().unwrap();
    scene.clock.advance(DAY + HOUR);
    scene.clock.set_wall(Duration::ZERO);
    assert_ne!(scene.keys.key_id(), Some(key));
    scene.events.wait_until_destroyed(key);
}

#[test]
fn dropping_the_last_ring_destroys_its_keys() {
    let Scene { clock: _clock, keys, events } = scene();
    let key = keys.key_id().unwrap();
    let other = keys.clone();
    drop(keys);
    assert_eq!(other.key_id(), Some(key));
    drop(other);
    events.wait_until_destroyed(key);
}

#[cfg(target_os = "linux")]
#[test]
fn the_memory_of_a_destroyed_key_is_gone() {
    use std::fs;

    // Each key has pages of its own; no other mapping of this process comes or goes while nothing else runs here.
    if std::env::var_os("IPVEIL_TEST_ALONE").is_none() {
        let test = "the_memory_of_a_destroyed_key_is_gone";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--nocapture", "--test-threads=1", test])
            .env("IPVEIL_TEST_ALONE", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the test was not found");
        return;
    }
    let mappings = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<HashSet<_>>()
    };
    let _warm = EpochKey::random().unwrap();
    let before = mappings();
    let key = EpochKey::random().unwrap();
    let with_key = mappings();
    assert_ne!(before, with_key, "a key has memory of its own");
    drop(key);
    assert_eq!(before, mappings());
}
