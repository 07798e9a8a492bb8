//! Keys that live for one epoch: where they come from, how long they last, how they are destroyed.
//!
//! 1. Time is cut into **epochs** of equal length, counted from 1970-01-01 00:00 UTC ([`Epochs`]). Nodes whose
//!    clocks agree are in the same epoch without talking.
//! 2. Each epoch has a **key** of 32 random bytes, made by a [`KeySource`]. No key is derived from another: there
//!    is no master key from which a past one could be computed again. (A [`KeySource`] of your own has to keep to that.)
//! 3. A [`KeyRing`] holds the key in use, and shortly before an epoch ends also the next one. A plain thread, started with
//!    the ring, rotates and destroys on time, with or without traffic. Another asks the source, so that one that takes its
//!    time delays nothing.
//! 4. **No key is used past its epoch.** Each use compares the clock with the key's end: the wall clock, and a
//!    monotonic one in case somebody sets the wall clock back. A key that comes from a file or from another node brings
//!    with it how long it lives still. When no key is valid, whatever would have been hashed is withheld.
//! 5. [`KeyRing::rotate`] is the panic button: the live key is destroyed now, another takes over.
//!
//! | source | keys are the same for | after a restart |
//! |---|---|---|
//! | [`MemorySource`] | one ring | another key |
#![cfg_attr(unix, doc = "| [`RuntimeFile`] | one node | the same key, until the machine is booted |")]
#![cfg_attr(
    feature = "redis",
    doc = "| [`fleet::RedisSource`] | all nodes of a fleet | the same key, if another node has it |"
)]
//!
//! A [`journal::Journal`] keeps a record of what happened to each key.
//!
//! ```
//! use ipveil::keys::{Epochs, KeyRing, MemorySource};
//!
//! let keys = KeyRing::start(MemorySource, Epochs::hourly())?;
//! let before = keys.key_id();
//! keys.rotate()?;
//! assert_ne!(keys.key_id(), before);
//! # Ok::<(), ipveil::keys::KeyError>(())
//! ```
//!
//! # What destroyed means
//!
//! When [`KeyRing::rotate`] returns, or when the ring's thread has passed the end of an epoch, no reader holds
//! the old key (the ring lends it under a lock, and has had that lock for itself), and its bytes have been
//! overwritten. They were never swapped, dumped or inherited by a child process, if [`KeyRing::protection`] says
//! so. What is not covered:
//!
//! - BLAKE3 copies the key to the stack and to registers of the thread that hashes. The stack is wiped right after each hash,
//!   as far as a search of whole processes can tell (`tests/erasure.rs`); what remains is in the registers of the
//!   processor, until the next instructions that use them, and in the kernel's own memory while a thread is
//!   interrupted in the middle of a hash. A core dump or a swapped stack taken in that tenth of a microsecond has the key.
//! - A [`Client`](crate::Client) that is kept beyond its request goes on giving that one client's pseudonyms: it holds a
//!   hash made with the key, not the key. It is wiped by nobody.
//! - Whoever reads the memory of the running process *while* a key lives has that key.
//! - Hibernation writes all memory to disk. With [`Protection::SecretMemory`] Linux refuses it.

mod clock;
mod event;
#[cfg(feature = "redis")]
pub mod fleet;
pub mod journal;
mod memory;
mod ring;
#[cfg(unix)]
mod runtime_file;
mod secret;
mod untold;

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

#[cfg(unix)]
pub use self::runtime_file::{RuntimeFile, RuntimeFileError};
use self::secret::Secret;
pub use self::{
    clock::{Clock, ManualClock, Now, SystemClock},
    event::{KeyEvent, Notice, Origin, Reason},
    memory::MemorySource,
    ring::{KeyRing, KeyRingBuilder, KeyStatus, RingHandle, WhenUnavailable},
    secret::Protection,
};

/// The number of a stretch of time: how many epochs have passed since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// Of this number, for whoever tests a [`KeySource`].
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Counted from 1970-01-01 00:00 UTC in units of [`Epochs::period`].
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long an epoch is: the longest time over which anything can be linked.
///
/// Shorter is safer. With scoped pseudonyms continuity comes from the scope, so an hour costs little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epochs {
    period: Duration,
}

impl Epochs {
    /// 24 hours, from 00:00 UTC.
    #[must_use]
    pub const fn daily() -> Self {
        Self { period: Duration::from_secs(24 * 60 * 60) }
    }

    /// One hour: for services where an account's whereabouts are worth somebody's trouble.
    #[must_use]
    pub const fn hourly() -> Self {
        Self { period: Duration::from_secs(60 * 60) }
    }

    /// Another length, in whole seconds, of at most a day.
    ///
    /// # Errors
    ///
    /// [`KeyError::Period`] if it is zero, longer than 24 hours, or not whole seconds.
    pub const fn every(period: Duration) -> Result<Self, KeyError> {
        if period.as_secs() == 0 || period.subsec_nanos() != 0 || period.as_secs() > Self::daily().period.as_secs() {
            return Err(KeyError::Period);
        }
        Ok(Self { period })
    }

    /// The length of one epoch.
    #[must_use]
    pub const fn period(self) -> Duration {
        self.period
    }

    fn at(self, wall: SystemTime) -> Epoch {
        Epoch(seconds(wall) / self.period.as_secs())
    }

    fn start(self, epoch: Epoch) -> SystemTime {
        let since = Duration::from_secs(epoch.0.saturating_mul(self.period.as_secs()));
        // Later than the system's time reaches is never.
        SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn end(self, epoch: Epoch) -> SystemTime {
        let start = self.start(epoch);
        start.checked_add(self.period).unwrap_or(start)
    }

    /// How long before an epoch ends the next key is asked for, at the earliest.
    fn ahead(self) -> Duration {
        (self.period / 10).min(Duration::from_secs(30))
    }

    /// How long a key that is made now for `epoch` lives: at most an epoch, and the time that it was made ahead, however far
    /// back the wall clock is.
    fn life(self, epoch: Epoch, wall: SystemTime) -> Duration {
        until(self.end(epoch), wall).min(self.period + self.ahead())
    }
}

/// Since 1970. Before that is a clock that was never set: 0, until it is.
pub(crate) fn seconds(wall: SystemTime) -> u64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long from `now` until `then`; no time if it is past.
fn until(then: SystemTime, now: SystemTime) -> Duration {
    then.duration_since(now).unwrap_or_default()
}

/// A name for a key that can be shown: 8 bytes derived from it, from which it can't be computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    fn of(key: &Secret) -> Option<Self> {
        key.hash(b"ipveil key id").map(|hash| Self(*hash.first_chunk().expect("32 bytes hold 8")))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The key of one epoch: 32 random bytes in memory of their own, wiped when dropped.
///
/// It can be made and handed to a ring; it can't be read, compared, cloned or printed.
pub struct EpochKey {
    secret: Secret,
    origin: Origin,
    // By the ring's monotonic clock; nothing if its source has not said.
    last: Option<Instant>,
}

impl EpochKey {
    /// Fresh from the operating system.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`] if the system has no randomness to give, [`KeyError::Memory`] if it has no memory.
    pub fn random() -> Result<Self, KeyError> {
        Self::take(&mut *secret::random()?)
    }

    /// Takes over bytes that came from elsewhere, and wipes them there.
    ///
    /// They must be uniformly random, and nothing else may be hashed under them.
    ///
    /// # Errors
    ///
    /// [`KeyError::Memory`] if the system has no memory to give; the bytes are wiped all the same.
    pub fn take(bytes: &mut [u8; 32]) -> Result<Self, KeyError> {
        Secret::take(bytes).map(|secret| Self { secret, origin: Origin::Minted, last: None })
    }

    /// Says where the key is from, for events and journals. Without it, it was minted here.
    #[must_use]
    pub fn from_origin(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// Says when it is over at the latest, by the ring's monotonic clock ([`RingHandle::now`]). A ring gives each key that it
    /// gets an epoch's life; without this, one that was in use before, in another process or on another node, would begin a
    /// new one there if the wall clock was set back in between.
    ///
    /// Said twice, the earlier counts.
    #[must_use]
    pub fn over_by(mut self, last: Instant) -> Self {
        self.last = Some(self.last.map_or(last, |before| before.min(last)));
        self
    }

    /// The name under which events speak of this key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.secret).unwrap_or(KeyId([0; 8]))
    }

    /// The keyed hash of `input`; nothing in a process that was forked from the key's own.
    #[inline]
    pub(crate) fn hash(&self, input: &[u8]) -> Option<[u8; 32]> {
        self.secret.hash(input)
    }
}

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EpochKey").field(&self.secret).finish()
    }
}

/// Where epoch keys come from.
///
/// A ring calls it on a thread of its own, and the first time where the ring is started; never from a request. So it may
/// block: keys are destroyed on time all the same, and until it answers, [`WhenUnavailable`] says what happens.
///
/// # Security
///
/// - A source that derives keys from something it keeps makes every past pseudonym reversible for whoever gets
///   hold of that thing. Keys must be independent.
/// - A request that was answered is never repeated, so a source has no reason to keep what it has given. One that failed
///   is asked again.
/// - Nodes that share a source get the same key for the same request, or their pseudonyms differ.
/// - A key that outlives the process, or is handed on to another, takes with it how much longer it may live, and the ring is told
///   ([`EpochKey::over_by`]). Otherwise it lives as long as somebody sets the wall clock back and restarts.
///
/// All methods but [`key`](Self::key) have a default, which is right for a source that keeps nothing.
pub trait KeySource: Send {
    /// The key for `request`.
    ///
    /// # Errors
    ///
    /// [`KeyError::Unavailable`] when there is none now; the ring asks again.
    fn key(&mut self, request: KeyRequest) -> Result<EpochKey, KeyError>;

    /// One word, for events and journals.
    fn name(&self) -> &'static str {
        "custom"
    }

    /// Told once, before the first [`key`](Self::key): the ring, for a source that has something to tell it.
    fn attach(&mut self, ring: RingHandle) {
        drop(ring);
    }

    /// The ring has destroyed this key, which came from here. Whatever of it the source has is to be destroyed too.
    fn destroyed(&mut self, epoch: Epoch, key: KeyId) {
        let _ = (epoch, key);
    }

    /// Somebody called [`KeyRing::rotate`]: no node may get what was given for this epoch, or the one after it, again.
    /// Told before the ring asks for the key that takes over.
    fn rotated(&mut self, epoch: Epoch) {
        let _ = epoch;
    }

    /// What there is to do while the ring asks for nothing, and after how long to call this again. It is called sooner
    /// when something else happens. Nothing: never again.
    fn tend(&mut self) -> Option<Duration> {
        None
    }
}

/// So that a source can be chosen when the program runs.
impl<S: KeySource + ?Sized> KeySource for Box<S> {
    fn key(&mut self, request: KeyRequest) -> Result<EpochKey, KeyError> {
        (**self).key(request)
    }

    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn attach(&mut self, ring: RingHandle) {
        (**self).attach(ring);
    }

    fn destroyed(&mut self, epoch: Epoch, key: KeyId) {
        (**self).destroyed(epoch, key);
    }

    fn rotated(&mut self, epoch: Epoch) {
        (**self).rotated(epoch);
    }

    fn tend(&mut self) -> Option<Duration> {
        (**self).tend()
    }
}

/// What a ring asks a source for. None is repeated once it was answered with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct KeyRequest {
    /// The epoch in which the key will be used. Usually the present or the next one; an earlier one than before
    /// only if the clock was set back.
    pub epoch: Epoch,
    /// How many keys this ring has been given for the epoch already: they were destroyed by [`KeyRing::rotate`], or the
    /// clock was set back. Usually 0.
    pub generation: u64,
}

impl KeyRequest {
    /// For whoever tests a [`KeySource`]: otherwise the ring makes them.
    #[must_use]
    pub const fn new(epoch: Epoch, generation: u64) -> Self {
        Self { epoch, generation }
    }
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// The epoch's length is unusable. For whoever configures it.
    Period,
    /// The operating system gave no randomness.
    Random,
    /// The operating system gave no memory.
    Memory,
    /// The operating system started no thread.
    Thread,
    /// The source has no key now. For whoever operates it.
    Unavailable,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Period => "an epoch lasts between 1 second and 24 hours, in whole seconds",
            Self::Random => "the operating system gave no random bytes for a key",
            Self::Memory => "the operating system gave no memory for a key",
            Self::Thread => "the operating system started no thread for the key ring",
            Self::Unavailable => "the key source has no key now",
        })
    }
}

impl std::error::Error for KeyError {}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn epochs_follow_the_wall_clock() {
        let epochs = Epochs::daily();
        let day = |number: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * number);
        let epoch = epochs.at(day(3) + Duration::from_secs(5));
        assert_eq!(epoch.number(), 3);
        assert_eq!(epochs.start(epoch), day(3));
        assert_eq!(epochs.end(epoch), day(4));
        assert_eq!(epochs.at(SystemTime::UNIX_EPOCH - Duration::from_secs(5)).number(), 0);
    }

    #[test]
    fn an_epoch_lasts_at_most_a_day_and_at_least_a_second() {
        for (seconds, fits) in [(0.0, false), (1.0, true), (1.5, false), (86_400.0, true), (86_401.0, false)] {
            let epochs = Epochs::every(Duration::from_secs_f64(seconds));
            assert_eq!(epochs.is_ok(), fits, "{seconds}");
        }
    }

    #[test]
    fn the_id_of_a_key_is_stable_and_is_not_the_key() {
        let key = EpochKey::take(&mut [7; 32]).unwrap();
        assert_eq!(key.id(), key.id());
        assert_ne!(key.id().to_string(), "0707070707070707");
        assert_eq!(key.id().to_string().len(), 16);
    }

    #[test]
    fn a_source_in_a_box_is_told_all_that_it_would_be_told_without() {
        struct Noting(Arc<Mutex<Vec<String>>>);
        impl Noting {
            fn note(&self, what: impl fmt::Debug) {
                self.0.lock().unwrap().push(format!("{what:?}"));
            }
        }
        impl KeySource for Noting {
            fn key(&mut self, request: KeyRequest) -> Result<EpochKey, KeyError> {
                self.note(request);
                EpochKey::random()
            }
            fn name(&self) -> &'static str {
                "noting"
            }
            fn attach(&mut self, _: RingHandle) {
                self.note("attach");
            }
            fn destroyed(&mut self, epoch: Epoch, key: KeyId) {
                self.note((epoch, key));
            }
            fn rotated(&mut self, epoch: Epoch) {
                self.note(epoch);
            }
            fn tend(&mut self) -> Option<Duration> {
                self.note("tend");
                Some(Duration::from_secs(7))
            }
        }
        fn ask(mut source: impl KeySource) {
            let request = KeyRequest::new(Epoch::new(3), 1);
            let key = source.key(request).unwrap().id();
            assert_eq!(source.name(), "noting");
            source.rotated(request.epoch);
            source.destroyed(Epoch::new(4), KeyId([0; 8]));
            assert_eq!(source.tend(), Some(Duration::from_secs(7)));
            assert_ne!(key, KeyId([0; 8]));
        }
        let notes = [Arc::default(), Arc::default()];
        let boxed = |place: usize| -> Box<dyn KeySource> { Box::new(Noting(Arc::clone(&notes[place]))) };
        ask(Noting(Arc::clone(&notes[0])));
        ask(boxed(1));
        assert_eq!(notes[0].lock().unwrap().len(), 4);
        assert_eq!(*notes[0].lock().unwrap(), *notes[1].lock().unwrap());

        drop(KeyRing::start(boxed(1), Epochs::daily()).unwrap());
        assert_eq!(notes[1].lock().unwrap()[4], "\"attach\"");
    }

    #[test]
    fn debug_of_a_key_shows_nothing() {
        let key = EpochKey::take(&mut [0xab; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "EpochKey(Secret(..))");
    }
}
