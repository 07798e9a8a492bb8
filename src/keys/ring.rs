//! The key in use now: minted ahead, rotated and destroyed on time.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, Thread},
    time::{Duration, Instant, SystemTime},
};

use super::{
    Clock, Epoch, EpochKey, Epochs, KeyError, KeyEvent, KeyId, KeyRequest, KeySource, Notice, Now, Origin, Protection,
    Reason, SystemClock, until,
    untold::{Observer, TELLER, Untold},
};
use crate::lend::{Lent, reader};

/// The key in use now. Cheap to clone; all clones are one ring, and dropping the last one destroys its keys.
///
/// See the [module](super) for the rules, and for what *destroyed* means. A process that is forked from this one has no keys,
/// and no thread that gets others: everything is withheld there. A server that forks starts its ring afterwards.
#[derive(Clone)]
pub struct KeyRing {
    shared: Arc<Shared>,
}

impl KeyRing {
    /// Asks `source` for the present epoch's key, and starts the thread that does so from then on.
    ///
    /// # Errors
    ///
    /// A [`KeyError`] from the operating system. A source that has no key is no error: see [`WhenUnavailable`].
    pub fn start(source: impl KeySource + 'static, epochs: Epochs) -> Result<Self, KeyError> {
        Self::builder(source, epochs).start()
    }

    /// Starts a ring that is not quite like the others.
    pub fn builder(source: impl KeySource + 'static, epochs: Epochs) -> KeyRingBuilder {
        KeyRingBuilder {
            source: Box::new(source),
            epochs,
            clock: None,
            observer: None,
            when_unavailable: WhenUnavailable::default(),
        }
    }

    /// The panic button: destroys the live key, and the next one if it is there already, and puts another in place.
    ///
    /// The old keys are gone before the source is asked for the new one. The new key is of the same epoch, but of a
    /// later [generation](KeyRequest::generation); it may be a local one, if the source has none: see
    /// [`WhenUnavailable`].
    ///
    /// # Errors
    ///
    /// [`KeyError::Unavailable`] if the source has no new key, or does not answer within 10 seconds. The old keys are
    /// destroyed all the same; until the source answers, everything is withheld. It blocks for so long: asynchronous code calls
    /// it on a thread that may block.
    pub fn rotate(&self) -> Result<KeyId, KeyError> {
        self.shared.rotate()
    }

    /// All that may be shown of the key in use, at one moment; nothing if none is valid now.
    #[must_use]
    pub fn status(&self) -> Option<KeyStatus> {
        self.shared.lend(|key, _| KeyStatus {
            id: key.id,
            epoch: key.epoch,
            until: key.end,
            protection: key.key.secret.protection(),
            origin: key.key.origin,
        })
    }

    /// The name of the key in use; nothing if none is valid now.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.shared.lend(|key, _| key.id)
    }

    /// The epoch of the key in use; nothing if none is valid now.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.shared.lend(|key, _| key.epoch)
    }

    /// How the bytes of the key in use are protected; nothing if none is valid now.
    #[must_use]
    pub fn protection(&self) -> Option<Protection> {
        self.shared.lend(|key, _| key.key.secret.protection())
    }

    /// Whether the key in use was made here because the source had none: pseudonyms differ from those of other
    /// nodes until it has.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.shared.lend(|key, _| key.is_local()).unwrap_or(false)
    }

    /// The length of this ring's epochs.
    #[must_use]
    pub fn epochs(&self) -> Epochs {
        self.shared.epochs
    }

    /// Lends the valid key to the thread that is this [`reader`], and says what the wall clock says. Nothing if no key is
    /// valid.
    #[inline]
    pub(crate) fn with<R>(&self, reader: usize, hash: impl FnOnce(&EpochKey, SystemTime) -> R) -> Option<R> {
        self.shared.lend_to(reader, |key, now| hash(&key.key, now.wall))
    }

    /// Lends the key that comes after the valid one, and says when it does. Nothing, most of the time: it is minted
    /// shortly before.
    pub(crate) fn with_next<R>(&self, reader: usize, hash: impl FnOnce(&EpochKey, SystemTime) -> R) -> Option<R> {
        let lent = self.shared.lent.with(reader, |keys| {
            let now = self.shared.clock.now();
            let current = keys.valid(now)?;
            let next = keys.next.as_deref().filter(|next| next.serial != current.serial && !next.is_over(now))?;
            Some(hash(&next.key, next.start))
        });
        lent.flatten()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("epochs", &self.shared.epochs).finish_non_exhaustive()
    }
}

/// The key in use, as [`KeyRing::status`] shows it. Holds nothing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyStatus {
    /// Its name.
    pub id: KeyId,
    /// The epoch in which it is used.
    pub epoch: Epoch,
    /// When that ends, by the wall clock, and the key is destroyed.
    pub until: SystemTime,
    /// How its bytes are protected.
    pub protection: Protection,
    /// Where it was made. If it is [`Origin::Local`], pseudonyms differ from those of other nodes.
    pub origin: Origin,
}

/// What happens when an epoch begins and the source has no key for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenUnavailable {
    /// A random key of this process's own takes over until the source answers: pseudonyms differ between nodes
    /// meanwhile, and change when it does. Privacy holds.
    #[default]
    Degrade,
    /// Everything is withheld until the source answers.
    Withhold,
}

/// How a [`KeyRing`] is to be: made by [`KeyRing::builder`].
#[must_use]
pub struct KeyRingBuilder {
    source: Box<dyn KeySource>,
    epochs: Epochs,
    clock: Option<Arc<dyn Clock>>,
    observer: Option<Observer>,
    when_unavailable: WhenUnavailable,
}

impl KeyRingBuilder {
    /// How many events are kept for an observer that does not return.
    pub const MOST_UNTOLD: usize = 4096;

    /// Reads the time there, not from the operating system.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Calls `observer` for each event, in the order in which they happened, on a thread that does nothing else: keys are destroyed
    /// on time however long it takes. An event that has not been told when [`MOST_UNTOLD`](Self::MOST_UNTOLD) others wait is lost. A
    /// ring that starts, and the last one that is dropped, wait up to 5 seconds for all to be told.
    pub fn on_event(mut self, observer: impl Fn(KeyEvent) + Send + Sync + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// What to do when the source has no key.
    pub fn when_unavailable(mut self, when_unavailable: WhenUnavailable) -> Self {
        self.when_unavailable = when_unavailable;
        self
    }

    /// Asks the source for the present epoch's key, and starts the ring.
    ///
    /// # Errors
    ///
    /// As [`KeyRing::start`].
    pub fn start(self) -> Result<KeyRing, KeyError> {
        let Self { mut source, epochs, clock, observer, when_unavailable } = self;
        let clock = clock.map_or_else(|| RingClock::System(SystemClock), RingClock::Other);
        let (messages, told) = mpsc::channel();
        let untold = Arc::new(Untold::default());
        let now = clock.now();
        let request = KeyRequest { epoch: epochs.at(now.wall), generation: 0 };
        let shared = Arc::new(Shared {
            epochs,
            clock,
            // More than can run at once: who has lost its core in the middle of a hash keeps a rotation waiting, and with it
            // whoever takes the same lock.
            lent: Lent::new(4 * thread::available_parallelism().map_or(1, usize::from)),
            state: Mutex::new(State {
                current: None,
                next: None,
                given: BTreeMap::new(),
                minted: 0,
                pending: Some(request),
                retry: None,
                missing_since: now.monotonic,
                retired: Vec::new(),
                news: Vec::new(),
                gone: VecDeque::new(),
            }),
            arrived: Condvar::new(),
            untold: Arc::clone(&untold),
            messages,
            when_unavailable,
            lead: lead(epochs)?,
            source: source.name(),
            keeper: Keeper::default(),
        });
        spawn(TELLER, move || untold.tell(observer.as_ref()))?;
        source.attach(RingHandle { shared: Arc::downgrade(&shared) });

        // The first key is there when this returns, without a thread in between.
        let answer = ask(source.as_mut(), request);
        if let Err(error @ (KeyError::Random | KeyError::Memory)) = answer {
            return Err(error);
        }
        shared.arrive(request, answer);

        let ring = Arc::downgrade(&shared);
        let keeper = spawn("ipveil-keys", move || keep_time(&ring))?;
        // Only this function sets it.
        let _ = shared.keeper.thread.set(keeper);
        let ring = Arc::downgrade(&shared);
        spawn("ipveil-source", move || attend(&ring, &told, source))?;
        let wake = Arc::downgrade(&shared);
        shared.clock.on_jump(Arc::new(move || {
            if let Some(shared) = wake.upgrade() {
                shared.keeper.wake();
            }
        }));
        shared.untold.wait();
        Ok(KeyRing { shared })
    }
}

impl fmt::Debug for KeyRingBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRingBuilder").field("epochs", &self.epochs).finish_non_exhaustive()
    }
}

/// A key, and until when it may be used.
struct LiveKey {
    key: EpochKey,
    id: KeyId,
    epoch: Epoch,
    // Which one it is, of all that this ring has had.
    serial: u64,
    // By the wall clock.
    start: SystemTime,
    end: SystemTime,
    // By the monotonic clock: an end that nobody can push back.
    deadline: Instant,
}

impl LiveKey {
    fn new(key: EpochKey, epoch: Epoch, serial: u64, epochs: Epochs, now: Now) -> Self {
        let end = epochs.end(epoch);
        Self {
            id: key.id(),
            key,
            epoch,
            serial,
            start: epochs.start(epoch),
            end,
            // At most an epoch, and the time that it was made ahead: however far back the wall clock is.
            deadline: now.monotonic + until(end, now.wall).min(epochs.period + ahead(epochs)),
        }
    }

    fn is_local(&self) -> bool {
        self.key.origin == Origin::Local
    }

    #[inline]
    fn is_over(&self, now: Now) -> bool {
        now.wall >= self.end || now.monotonic >= self.deadline
    }

    #[inline]
    fn has_begun(&self, now: Now) -> bool {
        now.wall >= self.start
    }
}

/// What readers are lent. `next` is there so that nothing is withheld at the boundary while the thread wakes up.
#[derive(Clone)]
struct Keys {
    current: Option<Arc<LiveKey>>,
    next: Option<Arc<LiveKey>>,
}

impl Keys {
    #[inline]
    fn valid(&self, now: Now) -> Option<&LiveKey> {
        // A clock that was set back is in an epoch before `current`'s. It stays: the old key is gone.
        if let Some(current) = self.current.as_deref()
            && !current.is_over(now)
        {
            return Some(current);
        }
        self.next.as_deref().filter(|next| !next.is_over(now))
    }
}

struct Shared {
    epochs: Epochs,
    clock: RingClock,
    lent: Lent<Keys>,
    state: Mutex<State>,
    arrived: Condvar,
    untold: Arc<Untold>,
    messages: mpsc::Sender<Message>,
    when_unavailable: WhenUnavailable,
    // How long before an epoch ends this ring asks for the next key.
    lead: Duration,
    // What the source is called.
    source: &'static str,
    keeper: Keeper,
}

/// What only the owner of the life cycle knows. Its keys are the ones that `Shared::lent` lends.
struct State {
    current: Option<Arc<LiveKey>>,
    next: Option<Arc<LiveKey>>,
    // How many keys the source has given for each epoch. Few: epochs come one after the other.
    given: BTreeMap<Epoch, u64>,
    // How many keys there have been, from the source or not.
    minted: u64,
    // What the source has been asked for and not yet answered.
    pending: Option<KeyRequest>,
    // After a failure: not again before this monotonic time, and how long that wait was.
    retry: Option<(Instant, Duration)>,
    // Since when, by the monotonic clock, there is no key.
    missing_since: Instant,
    // What is to be destroyed as soon as nobody is lent it.
    retired: Vec<(Arc<LiveKey>, Reason)>,
    // What happened, until the change is complete: whoever hears of a key can use it.
    news: Vec<KeyEvent>,
    // The keys that were destroyed last.
    gone: VecDeque<KeyId>,
}

/// What the source is told, in the order in which it happened.
enum Message {
    Asked(KeyRequest),
    Destroyed(Epoch, KeyId),
    Rotated(Epoch),
}

/// How long before an epoch ends the next key is asked for, at the earliest.
fn ahead(epochs: Epochs) -> Duration {
    (epochs.period / 10).min(Duration::from_secs(30))
}

/// How long before it ends this ring asks: another time than the next ring's, so that a fleet does not ask all at once.
fn lead(epochs: Epochs) -> Result<Duration, KeyError> {
    let mut byte = [0];
    getrandom::fill(&mut byte).map_err(|_| KeyError::Random)?;
    Ok(ahead(epochs).mul_f64(1.0 - f64::from(byte[0]) / 512.0))
}

/// How long a source that has been asked, and has neither answered nor failed, may leave everything withheld.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long whoever rotates waits for a source that does not answer.
const LONGEST_ROTATION: Duration = Duration::from_secs(10);

/// How many keys that were destroyed are recognized.
const KEYS_REMEMBERED: usize = 256;

/// The longest sleep: what a suspended machine or a clock set by hand may cost in punctuality, not in correctness.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The shortest time from one turn to the next.
const REST: Duration = Duration::from_micros(200);

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(1);

impl Shared {
    fn lend<R>(&self, read: impl FnOnce(&LiveKey, Now) -> R) -> Option<R> {
        self.lend_to(reader(), read)
    }

    #[inline]
    fn lend_to<R>(&self, reader: usize, read: impl FnOnce(&LiveKey, Now) -> R) -> Option<R> {
        let result = self.lent.with(reader, |keys| {
            // Looked at under the lock, so that waiting for it does not outlast the key.
            let now = self.clock.now();
            keys.valid(now).map(|key| read(key, now))
        });
        if let Some(Some(result)) = result {
            return Some(result);
        }
        self.keeper.wake();
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and brings it to what the clock says.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = {
            let mut state = self.lock();
            let result = change(&mut state);
            self.settle(&mut state);
            self.untold.push(&mut state.news);
            result
        };
        self.arrived.notify_all();
        result
    }

    /// Does what is due, and says how long nothing else will be.
    fn turn(&self) -> Duration {
        self.change(|_| ());
        self.next_turn(&self.lock())
    }

    /// Takes the source's answer.
    fn arrive(&self, request: KeyRequest, answer: Result<EpochKey, KeyError>) {
        self.change(|state| {
            let now = self.clock.now();
            self.give_up_on_other_times(state, now);
            // An answer to an older question is a key that was never used; it is dropped here.
            if state.pending != Some(request) {
                return;
            }
            match answer {
                // Whatever the source thinks: a key that was destroyed does not come back.
                Ok(key) if state.gone.contains(&key.id()) => self.failed(state, request, KeyError::Unavailable, now),
                Ok(key) => {
                    state.close_pending();
                    let key = self.live(state, key, request.epoch, now);
                    // Held ready if its time has not come and another key's has.
                    let is_early = !key.has_begun(now) && state.current.is_some();
                    let slot = if is_early { &mut state.next } else { &mut state.current };
                    let old = slot.replace(key);
                    state.retire(old, Reason::Superseded);
                    self.lend_out(state);
                }
                Err(error) => self.failed(state, request, error, now),
            }
        });
        self.keeper.wake();
    }

    fn failed(&self, state: &mut State, request: KeyRequest, error: KeyError, now: Now) {
        // Not given, so it may be asked for again.
        state.pending = None;
        let wait = state.retry.map_or(FIRST_RETRY, |(_, wait)| (wait * 2).min(LAST_RETRY));
        state.retry = Some((now.monotonic + wait, wait));
        state.news.push(KeyEvent::SourceFailed { epoch: request.epoch, error });
    }

    fn rotate(&self) -> Result<KeyId, KeyError> {
        let before = self.change(|state| {
            let before = state.minted;
            self.destroy_all(state, Reason::Rotated);
            // No receiver: the ring is being dropped.
            let _ = self.messages.send(Message::Rotated(self.epochs.at(self.clock.now().wall)));
            before
        });
        let waiting = |state: &mut State| {
            // After a failure `settle` would have put a local key there if it may.
            state.current.as_ref().is_none_or(|key| key.serial <= before) && state.retry.is_none()
        };
        let (state, _) = self
            .arrived
            .wait_timeout_while(self.lock(), LONGEST_ROTATION, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        let key = state.current.as_ref().filter(|key| key.serial > before);
        key.map(|key| key.id).ok_or(KeyError::Unavailable)
    }

    fn destroy_all(&self, state: &mut State, reason: Reason) {
        state.retire_all(reason);
        state.missing_since = self.clock.now().monotonic;
        state.close_pending();
        self.lend_out(state);
    }

    fn live(&self, state: &mut State, key: EpochKey, epoch: Epoch, now: Now) -> Arc<LiveKey> {
        state.minted += 1;
        let key = LiveKey::new(key, epoch, state.minted, self.epochs, now);
        state.news.push(KeyEvent::Minted {
            key: key.id,
            epoch,
            until: key.end,
            protection: key.key.secret.protection(),
            origin: key.key.origin,
            source: self.source,
        });
        Arc::new(key)
    }

    /// Forgets what was asked for when the clock said something else: a key of a far-away epoch would be used for as
    /// long as the clock takes to get there.
    fn give_up_on_other_times(&self, state: &mut State, now: Now) {
        let present = self.epochs.at(now.wall);
        if state.pending.is_some_and(|request| request.epoch < present || request.epoch.0 > present.0 + 1) {
            state.close_pending();
        }
    }

    /// Brings the state to what the clock says it should be: nothing expired is kept, what is missing is asked for.
    fn settle(&self, state: &mut State) {
        let now = self.clock.now();
        let present = self.epochs.at(now.wall);

        let is_over = |key: &mut Arc<LiveKey>| key.is_over(now);
        let over = [state.current.take_if(is_over), state.next.take_if(is_over)];
        let mut changed = over.iter().any(Option::is_some);
        over.into_iter().for_each(|key| state.retire(key, Reason::EpochEnded));
        // Even if its time has not come: then the clock was set back, by so little that the key before is over already.
        if state.current.is_none() && state.next.is_some() {
            state.current = state.next.take();
            changed = true;
        }
        if changed {
            if state.current.is_none() {
                state.missing_since = now.monotonic;
            }
            self.lend_out(state);
        }

        self.give_up_on_other_times(state, now);
        let wanted = match &state.current {
            None => Some(present),
            Some(key) if key.is_local() => Some(present),
            Some(key) if state.next.is_none() && until(key.end, now.wall) <= self.lead => Some(Epoch(key.epoch.0 + 1)),
            Some(_) => None,
        };
        if wanted.is_none() {
            state.retry = None;
        }
        if let Some(epoch) = wanted
            && state.pending.is_none()
            && state.retry.is_none_or(|(at, _)| now.monotonic >= at)
        {
            self.ask(state, epoch);
        }

        if state.current.is_none()
            && self.when_unavailable == WhenUnavailable::Degrade
            && (state.retry.is_some() || now.monotonic.saturating_duration_since(state.missing_since) >= PATIENCE)
        {
            self.degrade(state, present, now);
        }
    }

    fn ask(&self, state: &mut State, epoch: Epoch) {
        // A key that was given before is gone: the same question again could bring it back.
        let generation = state.given.get(&epoch).copied().unwrap_or(0);
        let request = KeyRequest { epoch, generation };
        state.pending = Some(request);
        // No receiver: the ring is being dropped.
        let _ = self.messages.send(Message::Asked(request));
    }

    fn degrade(&self, state: &mut State, epoch: Epoch, now: Now) {
        // Without randomness or memory everything stays withheld; the next turn tries again.
        if let Ok(key) = EpochKey::random() {
            state.current = Some(self.live(state, key.from_origin(Origin::Local), epoch, now));
            self.lend_out(state);
        }
    }

    /// Lends what the state holds, and destroys what it no longer does.
    fn lend_out(&self, state: &mut State) {
        let keys = (state.current.is_some() || state.next.is_some())
            .then(|| Keys { current: state.current.clone(), next: state.next.clone() });
        self.lent.replace(keys);
        for (key, reason) in state.retired.drain(..) {
            let event = KeyEvent::Destroyed { key: key.id, epoch: key.epoch, reason };
            if state.gone.len() == KEYS_REMEMBERED {
                state.gone.pop_front();
            }
            state.gone.push_back(key.id);
            // A ring that ends tells its source nothing: the next process may go on with what that keeps.
            if !key.is_local() && reason != Reason::RingDropped {
                let _ = self.messages.send(Message::Destroyed(key.epoch, key.id));
            }
            let mut last = Arc::into_inner(key);
            debug_assert!(last.is_some(), "a key outlived its readers");
            // It is said only of a key that is gone.
            if last.take().is_some() {
                state.news.push(event);
            }
        }
    }

    fn next_turn(&self, state: &State) -> Duration {
        let now = self.clock.now();
        let mut sleep = LONGEST_SLEEP;
        if let Some(key) = &state.current {
            let left = until(key.end, now.wall);
            sleep = sleep.min(left).min(key.deadline.saturating_duration_since(now.monotonic));
            if state.next.is_none()
                && let Some(until_asked) = left.checked_sub(self.lead)
            {
                sleep = sleep.min(until_asked);
            }
        }
        if let Some((at, _)) = state.retry
            && state.pending.is_none()
        {
            sleep = sleep.min(at.saturating_duration_since(now.monotonic).max(FIRST_RETRY / 10));
        }
        sleep
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        {
            let mut state = self.lock();
            state.retire_all(Reason::RingDropped);
            self.lend_out(&mut state);
            self.untold.push(&mut state.news);
        }
        self.keeper.wake();
        self.untold.end();
    }
}

/// A ring, for its source: what the source knows before it is asked. It does not keep the ring alive.
#[derive(Clone)]
pub struct RingHandle {
    shared: Weak<Shared>,
}

impl RingHandle {
    /// What the ring's clocks say; nothing if the ring is gone.
    #[must_use]
    pub fn now(&self) -> Option<Now> {
        self.shared.upgrade().map(|ring| ring.clock.now())
    }

    /// The epoch in which the ring is by the wall clock; nothing if the ring is gone.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.shared.upgrade().map(|ring| ring.epochs.at(ring.clock.now().wall))
    }

    /// The length of the ring's epochs; nothing if the ring is gone.
    #[must_use]
    pub fn epochs(&self) -> Option<Epochs> {
        self.shared.upgrade().map(|ring| ring.epochs)
    }

    /// Lends the key that the source gave for `epoch`, if the ring still has it and its epoch is not over.
    ///
    /// A key can't be destroyed while it is lent: `read` must not wait for anything.
    pub fn lend<R>(&self, epoch: Epoch, read: impl FnOnce(&EpochKey) -> R) -> Option<R> {
        let ring = self.shared.upgrade()?;
        let lent = ring.lent.with(reader(), |keys| {
            let now = ring.clock.now();
            let key = [keys.current.as_deref(), keys.next.as_deref()]
                .into_iter()
                .flatten()
                .find(|key| key.epoch == epoch && !key.is_local() && !key.is_over(now))?;
            Some(read(&key.key))
        });
        lent.flatten()
    }

    /// Puts `key` in the place of `old`, if the ring has that one for `epoch`, and destroys `old`, between two requests. If it
    /// has not, somebody may have rotated meanwhile, and `key` is dropped: the ring asks for what it needs.
    pub fn replace(&self, epoch: Epoch, old: KeyId, key: EpochKey) {
        let Some(ring) = self.shared.upgrade() else { return };
        ring.change(|state| {
            let now = ring.clock.now();
            let fits = |slot: &Option<Arc<LiveKey>>| {
                slot.as_ref().is_some_and(|held| held.epoch == epoch && held.id == old && !held.is_over(now))
            };
            let is_current = fits(&state.current);
            if !is_current && !fits(&state.next) {
                return;
            }
            // Whatever the ring is waiting for, it is this.
            if state.pending.is_some_and(|request| request.epoch == epoch) {
                state.close_pending();
            }
            let key = ring.live(state, key, epoch, now);
            let slot = if is_current { &mut state.current } else { &mut state.next };
            let old = slot.replace(key);
            state.retire(old, Reason::Superseded);
            ring.lend_out(state);
        });
    }

    /// Destroys the key of `epoch`, if the ring has it, and any of a later epoch; the ring asks for others.
    pub fn destroy(&self, epoch: Epoch, reason: Reason) {
        let Some(ring) = self.shared.upgrade() else { return };
        ring.change(|state| {
            if state.current.as_ref().is_some_and(|key| key.epoch >= epoch) {
                ring.destroy_all(state, reason);
            } else if state.next.as_ref().is_some_and(|key| key.epoch >= epoch) {
                let next = state.next.take();
                state.retire(next, reason);
                ring.lend_out(state);
            }
        });
    }

    /// Has the ring ask at once for a key that it could not get before, instead of after some time.
    pub fn ask_again(&self) {
        let Some(ring) = self.shared.upgrade() else { return };
        ring.change(|state| {
            if let Some((at, _)) = &mut state.retry {
                *at = ring.clock.now().monotonic;
            }
        });
    }

    /// Tells whoever listens to the ring's events.
    pub fn notice(&self, notice: Notice) {
        if let Some(ring) = self.shared.upgrade() {
            ring.change(|state| state.news.push(KeyEvent::Noticed { notice }));
        }
    }
}

impl fmt::Debug for RingHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingHandle").finish_non_exhaustive()
    }
}

impl State {
    fn retire(&mut self, key: Option<Arc<LiveKey>>, reason: Reason) {
        self.retired.extend(key.map(|key| (key, reason)));
    }

    fn retire_all(&mut self, reason: Reason) {
        for key in [self.current.take(), self.next.take()] {
            self.retire(key, reason);
        }
    }

    /// Whatever comes of the question, it is not asked again: it was answered, or its answer will not be taken.
    fn close_pending(&mut self) {
        // More than any clock will be set back.
        const EPOCHS_REMEMBERED: usize = 4096;
        if let Some(request) = self.pending.take() {
            self.given.insert(request.epoch, request.generation + 1);
            if self.given.len() > EPOCHS_REMEMBERED {
                self.given.pop_first();
            }
        }
        self.retry = None;
    }
}

/// The thread that keeps time, and how to wake it.
#[derive(Default)]
struct Keeper {
    thread: OnceLock<Thread>,
    woken: AtomicBool,
}

impl Keeper {
    /// Waits for nothing: while a wake-up is under way, another is not needed.
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

/// Static dispatch for the clock that nearly everybody has.
enum RingClock {
    System(SystemClock),
    Other(Arc<dyn Clock>),
}

impl RingClock {
    #[inline]
    fn now(&self) -> Now {
        match self {
            Self::System(clock) => clock.now(),
            Self::Other(clock) => clock.now(),
        }
    }

    fn on_jump(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        match self {
            Self::System(clock) => clock.on_jump(wake),
            Self::Other(clock) => clock.on_jump(wake),
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<Thread, KeyError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(|handle| handle.thread().clone())
        .map_err(|_| KeyError::Thread)
}

fn keep_time(ring: &Weak<Shared>) {
    loop {
        let sleep = {
            let Some(shared) = ring.upgrade() else { return };
            shared.keeper.woken.store(false, Ordering::Release);
            shared.turn()
        };
        thread::park_timeout(sleep);
        // However many requests find no key and ask for one, this thread does not spin.
        thread::sleep(REST);
    }
}

// A thread of its own: however long the source takes, the other one destroys on time.
fn attend(ring: &Weak<Shared>, told: &mpsc::Receiver<Message>, mut source: Box<dyn KeySource>) {
    let mut rest = tend(source.as_mut());
    loop {
        let message = match rest {
            Some(rest) => told.recv_timeout(rest),
            None => told.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
        };
        let first = match message {
            Ok(message) => Some(message),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
        let mut request = None;
        for message in first.into_iter().chain(told.try_iter()) {
            match message {
                // Of several only the latest is still waited for.
                Message::Asked(asked) => request = Some(asked),
                Message::Destroyed(epoch, key) => guard(|| source.destroyed(epoch, key)).unwrap_or_default(),
                Message::Rotated(epoch) => guard(|| source.rotated(epoch)).unwrap_or_default(),
            }
        }
        if let Some(request) = request {
            let answer = ask(source.as_mut(), request);
            let Some(ring) = ring.upgrade() else { return };
            ring.arrive(request, answer);
        }
        rest = tend(source.as_mut());
    }
}

fn tend(source: &mut dyn KeySource) -> Option<Duration> {
    // One that panicked here would do so again, at once.
    guard(|| source.tend()).unwrap_or(Some(LAST_RETRY))
}

fn ask(source: &mut dyn KeySource, request: KeyRequest) -> Result<EpochKey, KeyError> {
    guard(|| source.key(request)).unwrap_or(Err(KeyError::Unavailable))
}

/// A source that panics is a source that has no key; it must not take the ring's threads with it.
fn guard<R>(call: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}
