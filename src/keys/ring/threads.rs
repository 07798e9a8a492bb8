//! The threads of a ring: one keeps time, and one asks the source.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, Thread},
    time::Duration,
};

use super::{
    super::{Epoch, EpochKey, KeyError, KeyId, KeyRequest, KeySource},
    state::{LAST_RETRY, Shared},
};

/// What the source is told, in the order in which it happened.
pub(super) enum Message {
    Asked(KeyRequest),
    Destroyed(Epoch, KeyId),
    Rotated(Epoch),
}

/// The thread that keeps time, and how to wake it.
#[derive(Default)]
pub(super) struct Keeper {
    pub(super) thread: OnceLock<Thread>,
    pub(super) woken: AtomicBool,
}

impl Keeper {
    /// Waits for nothing: while a wake-up is under way, another is not needed.
    pub(super) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<Thread, KeyError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(|handle| handle.thread().clone())
        .map_err(|_| KeyError::Thread)
}

pub(super) fn keep_time(ring: &Weak<Shared>) {
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
pub(super) fn attend(ring: &Weak<Shared>, told: &mpsc::Receiver<Message>, mut source: Box<dyn KeySource>) {
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

pub(super) fn tend(source: &mut dyn KeySource) -> Option<Duration> {
    // One that panicked here would do so again, at once.
    guard(|| source.tend()).unwrap_or(Some(LAST_RETRY))
}

pub(super) fn ask(source: &mut dyn KeySource, request: KeyRequest) -> Result<EpochKey, KeyError> {
    guard(|| source.key(request)).unwrap_or(Err(KeyError::Unavailable))
}

/// A source that panics is a source that has no key; it must not take the ring's threads with it.
pub(super) fn guard<R>(call: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

/// The shortest time from one turn to the next.
const REST: Duration = Duration::from_micros(200);
