//! The key in use now: minted ahead, rotated and destroyed on time.

mod handle;
mod state;
mod threads;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::SystemTime,
};

pub use self::handle::RingHandle;
use self::{
    state::{Shared, State, lead},
    threads::{Keeper, ask, attend, keep_time, spawn},
};
use super::{
    Clock, Epoch, EpochKey, Epochs, KeyError, KeyEvent, KeyId, KeyRequest, KeySource, Origin, Protection, SystemClock,
    clock::RingClock,
    untold::{Observer, TELLER, Untold},
};
use crate::lend::Lent;

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
            observers: Vec::new(),
            when_unavailable: WhenUnavailable::default(),
        }
    }

    /// The panic button: destroys the live key, and the next one if it is there already, and puts another in place.
    ///
    /// The old keys are gone before the source is asked for the new one. The new key is of the same epoch, but of a
    /// later [generation](KeyRequest::generation).
    ///
    /// If the source has none, what [`WhenUnavailable`] says happens. With `Degrade` a local key takes over, after a second at
    /// most, and that is success: [`is_degraded`](Self::is_degraded) tells. Until a key is there everything is withheld.
    ///
    /// It blocks until then: asynchronous code calls it on a thread that may block.
    ///
    /// # Errors
    ///
    /// With `Withhold`, [`KeyError::Unavailable`] if the source has no new key, or does not answer within 10 seconds; and
    /// otherwise a [`KeyError`] from the operating system. The old keys are destroyed all the same.
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
    observers: Vec<Observer>,
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
    ///
    /// Several are called in the order in which they were given. One that panics keeps no event from the others.
    pub fn on_event(mut self, observer: impl Fn(KeyEvent) + Send + Sync + 'static) -> Self {
        self.observers.push(Box::new(observer));
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
        let Self { mut source, epochs, clock, observers, when_unavailable } = self;
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
                complaint: None,
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
        spawn(TELLER, move || untold.tell(&observers))?;
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
