//! What a source is asked and told, and what a ring does with one that is slow, away, or wrong.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use ipveil::{
    Pseudonym,
    keys::{
        Epoch, EpochKey, KeyError, KeyEvent, KeyId, KeyRequest, KeySource, Origin, Reason, RingHandle, WhenUnavailable,
    },
    resolve::Withheld,
};

use crate::scene::{DAY, HOUR, minted, scene_with};

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

/// Says when the ring has taken its answer.
struct InStep {
    answers: mpsc::Receiver<Result<EpochKey, KeyError>>,
    taken: mpsc::Sender<()>,
}

impl KeySource for InStep {
    fn key(&mut self, _: KeyRequest) -> Result<EpochKey, KeyError> {
        self.answers.recv().unwrap_or(Err(KeyError::Unavailable))
    }

    fn tend(&mut self) -> Option<Duration> {
        let _ = self.taken.send(());
        None
    }
}

#[test]
fn a_source_without_a_key_is_complained_of_now_and_then_not_each_time_that_it_is_asked() {
    let ((answer, answers), (taken, has_taken)) = (mpsc::channel(), mpsc::channel());
    let unavailable = || answer.send(Err(KeyError::Unavailable)).unwrap();
    unavailable();
    let scene = scene_with(InStep { answers, taken }, WhenUnavailable::Degrade);
    has_taken.recv().unwrap();
    let step = || {
        scene.clock.advance(Duration::from_secs(1));
        has_taken.recv_timeout(Duration::from_secs(60)).unwrap();
    };
    // Told at the beginning, and after five minutes.
    for _ in 0..400 {
        unavailable();
        step();
    }
    // Another cause is told at once, and so is a failure after all was well.
    for _ in 0..10 {
        answer.send(Err(KeyError::Random)).unwrap();
        step();
    }
    answer.send(EpochKey::random()).unwrap();
    step();
    answer.send(Err(KeyError::Random)).unwrap();
    let last = scene.keys.rotate().unwrap();
    let events = scene.events.wait(|events| events.iter().any(|event| minted(*event) == Some(last)));
    let complaint = |event: &KeyEvent| match event {
        KeyEvent::SourceFailed { error, .. } => Some(*error),
        _ => None,
    };
    let complaints: Vec<_> = events.iter().filter_map(complaint).collect();
    assert_eq!(complaints, [KeyError::Unavailable, KeyError::Unavailable, KeyError::Random, KeyError::Random]);
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
