//! What a thread that serves knows of itself: which one it is, what time it is, and whom its sockets wake.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
static SECONDS: AtomicU32 = AtomicU32::new(0);

/// Which of the threads this is.
pub(crate) fn index() -> usize {
    INDEX.get()
}

pub(crate) fn set_index(index: usize) {
    INDEX.set(index);
}

/// Since the first thread started, to a second or two: the same for all, and cheaper than a clock.
pub(crate) fn seconds() -> u32 {
    SECONDS.load(Relaxed)
}

/// Has time go on: once a second, by any of them.
pub(crate) fn tick() {
    let seconds = u32::try_from(STARTED.elapsed().as_secs()).unwrap_or(u32::MAX - 60);
    // Another thread's time may be a moment ahead.
    SECONDS.fetch_max(seconds, Relaxed);
}

thread_local! {
    static WAKER: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// Polls something that talks to itself with wakers, which would wake whoever polls it: only the sockets in it do.
pub(crate) fn wakes<T>(context: &Context<'_>, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    let before = WAKER.replace(Some(context.waker().clone()));
    // A channel that says "later", because this task has had its share, would wake nobody.
    let whole = std::pin::pin!(tokio::task::unconstrained(poll_fn(poll)));
    let result = whole.poll(&mut Context::from_waker(Waker::noop()));
    WAKER.set(before);
    result
}

/// Polls a socket, or whatever else wakes by itself, for whoever is to be woken.
pub(crate) fn woken<T>(context: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
    WAKER.with_borrow(|waker| match waker {
        Some(waker) => poll(&mut Context::from_waker(waker)),
        None => poll(context),
    })
}
