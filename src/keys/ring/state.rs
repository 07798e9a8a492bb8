//! Which keys a ring has, which of them is lent, and what is asked for next.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant, SystemTime},
};

use super::{
    super::{
        Epoch, EpochKey, Epochs, KeyError, KeyEvent, KeyId, KeyRequest, Now, Origin, Reason, clock::RingClock, until,
        untold::Untold,
    },
    WhenUnavailable,
    threads::{Keeper, Message},
};
use crate::lend::{Lent, reader};

/// A key, and until when it may be used.
pub(super) struct LiveKey {
    pub(super) key: EpochKey,
    pub(super) id: KeyId,
    pub(super) epoch: Epoch,
    // Which one it is, of all that this ring has had.
    pub(super) serial: u64,
    // By the wall clock.
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    // By the monotonic clock: an end that nobody can push back.
    deadline: Instant,
}

impl LiveKey {
    pub(super) fn new(key: EpochKey, epoch: Epoch, serial: u64, epochs: Epochs, now: Now) -> Self {
        let deadline = now.monotonic + epochs.life(epoch, now.wall);
        Self {
            id: key.id(),
            epoch,
            serial,
            start: epochs.start(epoch),
            end: epochs.end(epoch),
            deadline: key.last.map_or(deadline, |last| last.min(deadline)),
            key,
        }
    }

    pub(super) fn is_local(&self) -> bool {
        self.key.origin == Origin::Local
    }

    #[inline]
    pub(super) fn is_over(&self, now: Now) -> bool {
        now.wall >= self.end || now.monotonic >= self.deadline
    }

    #[inline]
    fn has_begun(&self, now: Now) -> bool {
        now.wall >= self.start
    }
}

/// What readers are lent. `next` is there so that nothing is withheld at the boundary while the thread wakes up.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) current: Option<Arc<LiveKey>>,
    pub(super) next: Option<Arc<LiveKey>>,
}

impl Keys {
    #[inline]
    pub(super) fn valid(&self, now: Now) -> Option<&LiveKey> {
        // A clock that was set back is in an epoch before `current`'s. It stays: the old key is gone.
        if let Some(current) = self.current.as_deref()
            && !current.is_over(now)
        {
            return Some(current);
        }
        self.next.as_deref().filter(|next| !next.is_over(now))
    }
}

pub(super) struct Shared {
    pub(super) epochs: Epochs,
    pub(super) clock: RingClock,
    pub(super) lent: Lent<Keys>,
    pub(super) state: Mutex<State>,
    pub(super) arrived: Condvar,
    pub(super) untold: Arc<Untold>,
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) when_unavailable: WhenUnavailable,
    // How long before an epoch ends this ring asks for the next key.
    pub(super) lead: Duration,
    // What the source is called.
    pub(super) source: &'static str,
    pub(super) keeper: Keeper,
}

/// What only the owner of the life cycle knows. Its keys are the ones that `Shared::lent` lends.
pub(super) struct State {
    pub(super) current: Option<Arc<LiveKey>>,
    pub(super) next: Option<Arc<LiveKey>>,
    // How many keys the source has given for each epoch. Few: epochs come one after the other.
    pub(super) given: BTreeMap<Epoch, u64>,
    // How many keys there have been, from the source or not.
    pub(super) minted: u64,
    // What the source has been asked for and not yet answered.
    pub(super) pending: Option<KeyRequest>,
    // After a failure: not again before this monotonic time, and how long that wait was.
    pub(super) retry: Option<(Instant, Duration)>,
    // Which failure was told last, and when, by the monotonic clock; nothing since the source has given a key.
    pub(super) complaint: Option<(Epoch, KeyError, Instant)>,
    // Since when, by the monotonic clock, there is no key.
    pub(super) missing_since: Instant,
    // What is to be destroyed as soon as nobody is lent it.
    pub(super) retired: Vec<(Arc<LiveKey>, Reason)>,
    // What happened, until the change is complete: whoever hears of a key can use it.
    pub(super) news: Vec<KeyEvent>,
    // The keys that were destroyed last.
    pub(super) gone: VecDeque<KeyId>,
}

/// How long before it ends this ring asks: another time than the next ring's, so that a fleet does not ask all at once.
pub(super) fn lead(epochs: Epochs) -> Result<Duration, KeyError> {
    let mut byte = [0];
    getrandom::fill(&mut byte).map_err(|_| KeyError::Random)?;
    Ok(epochs.ahead().mul_f64(1.0 - f64::from(byte[0]) / 512.0))
}

/// How long a source that has been asked, and has neither answered nor failed, may leave everything withheld.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long whoever rotates waits for a source that does not answer.
const LONGEST_ROTATION: Duration = Duration::from_secs(10);

/// How many keys that were destroyed are recognized.
const KEYS_REMEMBERED: usize = 256;

/// The longest sleep: what a suspended machine or a clock set by hand may cost in punctuality, not in correctness.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// How often it is told that a source still has no key.
const REMINDER: Duration = Duration::from_secs(300);

const FIRST_RETRY: Duration = Duration::from_millis(100);
pub(super) const LAST_RETRY: Duration = Duration::from_secs(1);

impl Shared {
    pub(super) fn lend<R>(&self, read: impl FnOnce(&LiveKey, Now) -> R) -> Option<R> {
        self.lend_to(reader(), read)
    }

    #[inline]
    pub(super) fn lend_to<R>(&self, reader: usize, read: impl FnOnce(&LiveKey, Now) -> R) -> Option<R> {
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

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and brings it to what the clock says.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
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
    pub(super) fn turn(&self) -> Duration {
        self.change(|_| ());
        self.next_turn(&self.lock())
    }

    /// Takes the source's answer.
    pub(super) fn arrive(&self, request: KeyRequest, answer: Result<EpochKey, KeyError>) {
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
                    state.complaint = None;
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
        let is_told = state
            .complaint
            .is_some_and(|(epoch, told, at)| (epoch, told) == (request.epoch, error) && now.monotonic < at + REMINDER);
        if !is_told {
            state.complaint = Some((request.epoch, error, now.monotonic));
            state.news.push(KeyEvent::SourceFailed { epoch: request.epoch, error });
        }
    }

    pub(super) fn rotate(&self) -> Result<KeyId, KeyError> {
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

    pub(super) fn destroy_all(&self, state: &mut State, reason: Reason) {
        state.retire_all(reason);
        state.missing_since = self.clock.now().monotonic;
        state.close_pending();
        self.lend_out(state);
    }

    pub(super) fn live(&self, state: &mut State, key: EpochKey, epoch: Epoch, now: Now) -> Arc<LiveKey> {
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

    pub(super) fn ask(&self, state: &mut State, epoch: Epoch) {
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
    pub(super) fn lend_out(&self, state: &mut State) {
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

impl State {
    pub(super) fn retire(&mut self, key: Option<Arc<LiveKey>>, reason: Reason) {
        self.retired.extend(key.map(|key| (key, reason)));
    }

    fn retire_all(&mut self, reason: Reason) {
        for key in [self.current.take(), self.next.take()] {
            self.retire(key, reason);
        }
    }

    /// Whatever comes of the question, it is not asked again: it was answered, or its answer will not be taken.
    pub(super) fn close_pending(&mut self) {
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
