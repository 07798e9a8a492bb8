//! Memory that is given back has nothing in it, nor has the stack of a thread that waits.
//!
//! What a client sent, its address among it, is in buffers of libraries, which give them back as they are. Until somebody
//! gets that memory again and writes to it, whoever reads the process's memory reads the address.

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering, compiler_fence},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use libmimalloc_sys::{mi_collect, mi_free, mi_malloc, mi_malloc_aligned, mi_zalloc, mi_zalloc_aligned};

static IS_ON: AtomicBool = AtomicBool::new(true);

/// From here on, in the whole process: for commands that hold what they print anyway, and for who wants it so.
pub(crate) fn turn_off() {
    IS_ON.store(false, Ordering::Relaxed);
}

/// mimalloc, given back only what has been overwritten.
///
/// What is not covered: what C code allocates by itself.
pub(crate) struct Wiping;

#[expect(unsafe_code, reason = "an allocator is unsafe, and no other place sees all memory that is given back")]
// SAFETY: mimalloc is an allocator, and its functions are called with what they were made for.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match is_aligned_anyway(layout) {
            // SAFETY: it may be called with any size.
            true => unsafe { mi_malloc(layout.size()) }.cast(),
            // SAFETY: an alignment is a power of two.
            false => unsafe { mi_malloc_aligned(layout.size(), layout.align()) }.cast(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match is_aligned_anyway(layout) {
            // SAFETY: it may be called with any size.
            true => unsafe { mi_zalloc(layout.size()) }.cast(),
            // SAFETY: an alignment is a power of two.
            false => unsafe { mi_zalloc_aligned(layout.size(), layout.align()) }.cast(),
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if IS_ON.load(Ordering::Relaxed) {
            // SAFETY: the caller gives back a block of this layout, which nobody else uses.
            unsafe { memory.write_bytes(0, layout.size()) };
            // For the compiler it has to be done before the block is gone.
            compiler_fence(Ordering::SeqCst);
        }
        // SAFETY: it comes from one of the functions above.
        unsafe { mi_free(memory.cast()) };
    }

    // Without mimalloc's `realloc`, which would leave what was there behind: the trait's own allocates, copies, and gives back.
}

/// Whether any block of that size has that alignment, as C has it: to ask for it takes mimalloc a multiple of the time.
fn is_aligned_anyway(layout: Layout) -> bool {
    layout.align() <= 16 && layout.align() <= layout.size()
}

/// Lets the system have what this thread's allocator keeps, and nobody has used for a second: connections that have nothing
/// to do any more give back most of what they had, and an allocator that is asked for nothing notices nothing.
#[expect(unsafe_code, reason = "it is a function of the allocator's own, in C")]
pub(crate) fn let_go() {
    // SAFETY: it may be called at any time, and concerns only what nobody uses.
    unsafe { mi_collect(false) };
}

/// Overwrites what calls that are over have left on this thread's stack: whenever it waits, but not twice in a [`MOMENT`].
/// It takes longer than many a request does, and who is asked all the time waits after each.
#[inline(never)]
pub(crate) fn wipe_stack() {
    if !IS_ON.load(Ordering::Relaxed) {
        return;
    }
    STACK.with(|stack| {
        let now = Instant::now();
        if stack.wiped.get().is_none_or(|wiped| now - wiped >= MOMENT) {
            stack.wiped.set(Some(now));
            overwrite();
        } else if !stack.is_waiting.replace(true)
            && let Some(waker) = stack.waker.take()
        {
            waker.wake();
        }
    });
}

/// Makes a thread that waits wait again, when a [`MOMENT`] has passed since something was left there.
pub(crate) async fn wipe_stack_soon() {
    loop {
        poll_fn(|context| {
            STACK.with(|stack| {
                if stack.is_waiting.get() {
                    return Poll::Ready(());
                }
                stack.waker.set(Some(context.waker().clone()));
                Poll::Pending
            })
        })
        .await;
        tokio::time::sleep(MOMENT).await;
        STACK.with(|stack| stack.is_waiting.set(false));
    }
}

thread_local! {
    static STACK: Stack = const { Stack { wiped: Cell::new(None), is_waiting: Cell::new(false), waker: Cell::new(None) } };
}

/// What is known of a thread's stack.
struct Stack {
    wiped: Cell<Option<Instant>>,
    // Something was left there since.
    is_waiting: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

#[inline(never)]
fn overwrite() {
    std::hint::black_box(&mut [0_u8; DEPTH]);
}

/// How deep calls go from where a thread waits: 49 KiB were seen, and more without optimization.
const DEPTH: usize = if cfg!(debug_assertions) { 256 * 1024 } else { 64 * 1024 };

/// How long something may lie on a stack; twice that, where timers are late.
const MOMENT: Duration = Duration::from_millis(1);
