//! Keys: when they are used, when they are destroyed, and what a bad day does to them.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use ipveil::{
    Client, ClientAddr, KeyRing, Policy, Pseudonym,
    keys::{
        Epoch, EpochKey, Epochs, KeyError, KeyEvent, KeyId, KeyRequest, KeySource, ManualClock, MemorySource, Origin,
        Reason, RingHandle, WhenUnavailable,
    },
    policy::{Scope, View},
    resolve::Withheld,
};

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);

/// A ring on a clock that stands at noon of some day, and what it tells.
struct Scene {
    clock: ManualClock,
    keys: KeyRing,
    events: Events,
}

/// All events so far; whoever waits for one is woken by it.
#[derive(Clone, Default)]
struct Events(Arc<(Mutex<Vec<KeyEvent>>, Condvar)>);

impl Events {
    fn push(&self, event: KeyEvent) {
        self.0.0.lock().unwrap().push(event);
        self.0.1.notify_all();
    }

    /// Waits until the events fit.
    fn wait(&self, fit: impl Fn(&[KeyEvent]) -> bool) -> Vec<KeyEvent> {
        let events = self.0.0.lock().unwrap();
        let (events, timeout) =
            self.0.1.wait_timeout_while(events, Duration::from_secs(60), |events| !fit(events)).unwrap();
        assert!(!timeout.timed_out(), "never happened; what did: {events:?}");
        events.clone()
    }

    fn wait_until_destroyed(&self, key: KeyId) {
        self.wait(|events| events.iter().any(|event| destroyed(*event) == Some(key)));
    }
}

fn destroyed(event: KeyEvent) -> Option<KeyId> {
    match event {
        KeyEvent::Destroyed { key, .. } => Some(key),
        _ => None,
    }
}

fn minted(event: KeyEvent) -> Option<KeyId> {
    match event {
        KeyEvent::Minted { key, .. } => Some(key),
        _ => None,
    }
}

fn scene() -> Scene {
    scene_with(MemorySource, WhenUnavailable::Degrade)
}

fn scene_with(source: impl KeySource + 'static, when_unavailable: WhenUnavailable) -> Scene {
    let clock = ManualClock::at(DAY * 20_000 + HOUR * 12);
    let events = Events::default();
    let told = events.clone();
    let keys = KeyRing::builder(source, Epochs::daily())
        .clock(clock.clone())
        .on_event(move |event| told.push(event))
        .when_unavailable(when_unavailable)
        .start()
        .unwrap();
    Scene { clock, keys, events }
}

impl Scene {
    fn client(&self) -> Client {
        let policy = Policy::new(Scope::unscoped(), [View::token("log")]).unwrap();
        policy.client(&ClientAddr::from(IpAddr::from([203, 0, 113, 7])), &self.keys)
    }

    fn pseudonym(&self) -> Pseudonym {
        self.client().pseudonym("log")
    }

    /// The key in use, as soon as there is one.
    fn key(&self) -> KeyId {
        loop {
            if let Some(key) = self.keys.key_id() {
                return key;
            }
            thread::yield_now();
        }
    }

    /// Until the key for the next epoch lies ready.
    fn wait_until_prepared(&self, current: KeyId) -> KeyId {
        let events = self.events.wait(|events| events.iter().rev().find_map(|event| minted(*event)) != Some(current));
        events.into_iter().rev().find_map(minted).unwrap()
    }
}

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

/// Always the same.
struct Stuck;

impl KeySource for Stuck {
    fn key(&mut self, _: KeyRequest) -> Result<EpochKey, KeyError> {
        EpochKey::take(&mut [7; 32])
    }
}

#[test]
fn a_key_that_was_destroyed_does_not_come_back_whatever_the_source_gives() {
    let scene = scene_with(Stuck, WhenUnavailable::Withhold);
    let key = scene.key();
    assert_eq!(scene.keys.rotate(), Err(KeyError::Unavailable));
    assert_eq!(scene.keys.key_id(), None);
    let scene = scene_with(Stuck, WhenUnavailable::Degrade);
    assert_eq!(scene.key(), key);
    assert_ne!(scene.keys.rotate().unwrap(), key);
    assert!(scene.keys.is_degraded());
}

#[test]
fn an_observer_may_use_the_ring() {
    let ring = Arc::new(Mutex::new(None::<KeyRing>));
    let (events, seen) = (Events::default(), ring.clone());
    let told = events.clone();
    let rotated = AtomicBool::new(false);
    let keys = KeyRing::builder(MemorySource, Epochs::daily())
        .on_event(move |event| {
            if destroyed(event).is_some()
                && !rotated.swap(true, Ordering::Relaxed)
                && let Some(ring) = seen.lock().unwrap().take()
            {
                ring.rotate().unwrap();
            }
            told.push(event);
        })
        .start()
        .unwrap();
    *ring.lock().unwrap() = Some(keys.clone());
    let first = keys.key_id().unwrap();
    keys.rotate().unwrap();
    let last = keys.rotate().unwrap();
    let events = events.wait(|events| events.iter().rev().find_map(|event| minted(*event)) == Some(last));
    assert_eq!(events.into_iter().find_map(destroyed), Some(first));
}

/// Answers when it is told to.
struct Slow {
    asked: mpsc::Sender<KeyRequest>,
    answers: mpsc::Receiver<Result<EpochKey, KeyError>>,
}

fn slow() -> (Slow, mpsc::Receiver<KeyRequest>, mpsc::Sender<Result<EpochKey, KeyError>>) {
    let (asked, requests) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    (Slow { asked, answers }, requests, answer)
}

impl KeySource for Slow {
    fn key(&mut self, request: KeyRequest) -> Result<EpochKey, KeyError> {
        let _ = self.asked.send(request);
        self.answers.recv().unwrap_or(Err(KeyError::Unavailable))
    }
}

#[test]
fn a_key_is_destroyed_on_time_while_the_source_does_not_answer() {
    let (source, requests, answers) = slow();
    answers.send(EpochKey::random()).unwrap();
    let scene = scene_with(source, WhenUnavailable::Withhold);
    requests.recv().unwrap();
    let key = scene.key();
    scene.clock.advance(HOUR * 12 - Duration::from_secs(1));
    requests.recv().unwrap();
    // The source hangs, over the end of the epoch.
    scene.clock.advance(Duration::from_secs(1));
    scene.events.wait_until_destroyed(key);
    assert_eq!(scene.keys.key_id(), None);
    assert_eq!(scene.client().withheld(), Some(Withheld::NoKey));
    assert_eq!(scene.pseudonym(), Pseudonym::Withheld);
    // And when it answers, all is well again.
    answers.send(EpochKey::random()).unwrap();
    scene.key();
    assert!(!scene.pseudonym().is_withheld());
}

#[test]
fn a_ring_degrades_to_a_key_of_its_own_and_heals_when_the_source_is_back() {
    let (source, requests, answers) = slow();
    answers.send(Err(KeyError::Unavailable)).unwrap();
    let scene = scene_with(source, WhenUnavailable::Degrade);
    let first = requests.recv().unwrap();
    assert!(scene.keys.is_degraded());
    let local = scene.key();
    let status = scene.keys.status().unwrap();
    assert_eq!((status.id, status.origin, Some(status.epoch)), (local, Origin::Local, scene.keys.epoch()));
    assert_eq!(scene.keys.protection(), Some(status.protection));
    let end = (status.epoch.number() + 1) * scene.keys.epochs().period().as_secs();
    assert_eq!(status.until, std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(end));
    scene.clock.advance(Duration::from_secs(10));
    let again = requests.recv().unwrap();
    assert_eq!(first, again, "asked for the same key: it was never given");
    let key = EpochKey::random().unwrap();
    let id = key.id();
    answers.send(Ok(key)).unwrap();
    scene.events.wait_until_destroyed(local);
    assert_eq!(scene.keys.key_id(), Some(id));
    assert!(!scene.keys.is_degraded());
}

#[test]
fn rotating_without_a_source_destroys_all_the_same() {
    let (source, _requests, answers) = slow();
    answers.send(EpochKey::random()).unwrap();
    answers.send(Err(KeyError::Unavailable)).unwrap();
    let scene = scene_with(source, WhenUnavailable::Withhold);
    let key = scene.key();
    assert_eq!(scene.keys.rotate(), Err(KeyError::Unavailable));
    scene.events.wait_until_destroyed(key);
    assert_eq!(scene.keys.key_id(), None);
}

#[test]
fn a_source_is_never_asked_twice_for_a_key_that_it_gave() {
    struct Noting(Arc<Mutex<Vec<KeyRequest>>>);
    impl KeySource for Noting {
        fn key(&mut self, request: KeyRequest) -> Result<EpochKey, KeyError> {
            self.0.lock().unwrap().push(request);
            EpochKey::random()
        }
    }
    let asked = Arc::new(Mutex::new(Vec::new()));
    let scene = scene_with(Noting(asked.clone()), WhenUnavailable::Degrade);
    for step in 0_u32..60 {
        let before = scene.key();
        match step % 4 {
            0 => scene.clock.advance(DAY),
            1 => drop(scene.keys.rotate()),
            2 => scene.clock.set_wall(DAY * 20_000 + HOUR * step),
            _ => scene.clock.advance(HOUR * 25),
        }
        if step % 4 != 2 {
            scene.events.wait_until_destroyed(before);
        }
        scene.key();
    }
    let asked = asked.lock().unwrap();
    assert_eq!(asked.iter().collect::<HashSet<_>>().len(), asked.len(), "{asked:?}");
}

/// What a source was told, and the handle that it was given.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<(Vec<String>, Option<RingHandle>)>>);

impl KeySource for Told {
    fn key(&mut self, request: KeyRequest) -> Result<EpochKey, KeyError> {
        self.0.lock().unwrap().0.push(format!("asked {}", request.epoch));
        EpochKey::random()
    }

    fn name(&self) -> &'static str {
        "told"
    }

    fn attach(&mut self, ring: RingHandle) {
        self.0.lock().unwrap().1 = Some(ring);
    }

    fn destroyed(&mut self, _: Epoch, key: KeyId) {
        self.0.lock().unwrap().0.push(format!("destroyed {key}"));
    }

    fn rotated(&mut self, epoch: Epoch) {
        self.0.lock().unwrap().0.push(format!("rotated {epoch}"));
    }
}

impl Told {
    fn ring(&self) -> RingHandle {
        self.0.lock().unwrap().1.clone().unwrap()
    }
}

#[test]
fn a_source_is_told_what_happened_before_it_is_asked_again() {
    let told = Told::default();
    let scene = scene_with(told.clone(), WhenUnavailable::Degrade);
    let key = scene.key();
    scene.keys.rotate().unwrap();
    let said = told.0.lock().unwrap().0.clone();
    assert_eq!(
        said,
        ["asked 20000".to_owned(), format!("destroyed {key}"), "rotated 20000".into(), "asked 20000".into()]
    );
    // A ring that ends is no reason to forget: the next process may go on.
    let last = scene.key();
    drop(scene.keys);
    scene.events.wait_until_destroyed(last);
    assert_eq!(told.0.lock().unwrap().0.len(), 4);
}

#[test]
fn a_source_can_replace_a_key_that_it_has_seen_and_no_other() {
    let told = Told::default();
    let scene = scene_with(told.clone(), WhenUnavailable::Degrade);
    let (first, epoch) = (scene.key(), scene.keys.epoch().unwrap());
    let other = EpochKey::random().unwrap().from_origin(Origin::Adopted);
    let id = other.id();
    told.ring().replace(epoch, first, other);
    assert_eq!(scene.keys.key_id(), Some(id));
    scene.events.wait_until_destroyed(first);
    // Somebody has rotated in between: what is destroyed does not come back, nor does what would have taken its place.
    let rotated = scene.keys.rotate().unwrap();
    told.ring().replace(epoch, id, EpochKey::random().unwrap());
    assert_eq!(scene.keys.key_id(), Some(rotated));
    assert_eq!(told.ring().lend(epoch, EpochKey::id), Some(rotated));

    told.ring().destroy(epoch, Reason::Superseded);
    scene.events.wait_until_destroyed(rotated);
    assert_ne!(scene.key(), rotated);
    let (ring, last) = (told.ring(), scene.key());
    drop(scene.keys);
    scene.events.wait_until_destroyed(last);
    assert!(ring.now().is_none() && ring.lend(epoch, EpochKey::id).is_none(), "a handle keeps no ring alive");
}

#[test]
fn a_source_that_panics_is_a_source_without_a_key() {
    struct Panics(AtomicU64);
    impl KeySource for Panics {
        fn key(&mut self, _: KeyRequest) -> Result<EpochKey, KeyError> {
            assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "the source is broken");
            EpochKey::random()
        }
    }
    let scene = scene_with(Panics(AtomicU64::new(0)), WhenUnavailable::Degrade);
    let key = scene.key();
    scene.clock.advance(DAY);
    scene.events.wait_until_destroyed(key);
    scene.key();
    assert!(scene.keys.is_degraded());
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
fn an_answer_that_comes_when_the_clock_says_something_else_is_not_used() {
    let (source, requests, answers) = slow();
    answers.send(Err(KeyError::Unavailable)).unwrap();
    let scene = scene_with(source, WhenUnavailable::Withhold);
    requests.recv().unwrap();
    // A year ahead when the source is asked, right when it answers.
    scene.clock.set_wall(DAY * 20_365);
    scene.clock.advance(Duration::from_secs(10));
    assert_eq!(requests.recv().unwrap().epoch.number(), 20_365);
    scene.clock.set_wall(DAY * 20_000 + HOUR * 12);
    answers.send(EpochKey::random()).unwrap();
    let request = requests.recv().unwrap();
    assert_eq!(request.epoch.number(), 20_000);
    assert_eq!(scene.keys.key_id(), None);
    answers.send(EpochKey::random()).unwrap();
    scene.key();
    assert_eq!(scene.keys.epoch().unwrap().number(), 20_000);
}

#[test]
fn a_clock_that_is_stepped_back_a_little_does_not_leave_the_fleet() {
    let (source, requests, answers) = slow();
    answers.send(EpochKey::random()).unwrap();
    let scene = scene_with(source, WhenUnavailable::Withhold);
    requests.recv().unwrap();
    let key = scene.key();
    scene.clock.advance(HOUR * 12 - Duration::from_secs(5));
    answers.send(EpochKey::random()).unwrap();
    let asked = requests.recv().unwrap();
    let next = scene.wait_until_prepared(key);
    // A second back, so that the first key is over before its epoch is.
    scene.clock.set_wall(DAY * 20_001 - Duration::from_secs(6));
    scene.clock.advance(Duration::from_secs(5));
    scene.events.wait_until_destroyed(key);
    assert_eq!(scene.keys.key_id(), Some(next), "nothing is withheld");
    scene.clock.advance(DAY - Duration::from_secs(5));
    answers.send(EpochKey::random()).unwrap();
    let after = requests.recv().unwrap();
    assert_eq!(after.epoch.number(), asked.epoch.number() + 1);
    assert_eq!(after.generation, asked.generation, "the same question as every other node's");
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
