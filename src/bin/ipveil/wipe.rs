//! Memory that is given back has nothing in it, nor has the stack of a thread that waits.
//!
//! What a client sent, its address among it, is in buffers of libraries, which give them back as they are. Until somebody
//! gets that memory again and writes to it, whoever reads the process's memory reads the address.

use std::{
    alloc::{GlobalAlloc, Layout},
    sync::atomic::{AtomicBool, Ordering, compiler_fence},
};

static IS_ON: AtomicBool = AtomicBool::new(true);

/// From here on, in the whole process: for commands that hold what they print anyway, and for who wants it so.
pub(crate) fn turn_off() {
    IS_ON.store(false, Ordering::Relaxed);
}

/// Overwrites everything before it goes back to `A`.
///
/// What is not covered: what C code allocates by itself.
pub(crate) struct Wiping<A>(pub(crate) A);

#[expect(unsafe_code, reason = "an allocator is unsafe, and no other place sees all memory that is given back")]
// SAFETY: every call goes on to `A`, which is an allocator, with what it was called with.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Wiping<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `A` needs.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `A` needs.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if IS_ON.load(Ordering::Relaxed) {
            // SAFETY: the caller gives back a block of this layout, which nobody else uses.
            unsafe { memory.write_bytes(0, layout.size()) };
            // For the compiler it has to be done before the block is gone.
            compiler_fence(Ordering::SeqCst);
        }
        // SAFETY: the caller's promises are those that `A` needs.
        unsafe { self.0.dealloc(memory, layout) }
    }

    // Without `realloc` of `A`, which would leave what was there behind: the trait's own allocates, copies, and gives back.
}

/// Lets the system have what this thread's allocator keeps, and nobody has used for a second: connections that have nothing
/// to do any more give back most of what they had, and an allocator that is asked for nothing notices nothing.
#[expect(unsafe_code, reason = "it is a function of the allocator's own, in C")]
pub(crate) fn let_go() {
    // SAFETY: it may be called at any time, and concerns only what nobody uses.
    unsafe { libmimalloc_sys::mi_collect(false) };
}

/// Overwrites what calls that are over have left on this thread's stack: before it waits, whoever calls from there.
#[inline(never)]
pub(crate) fn wipe_stack() {
    if IS_ON.load(Ordering::Relaxed) {
        overwrite();
    }
}

#[inline(never)]
fn overwrite() {
    std::hint::black_box(&mut [0_u8; DEPTH]);
}

/// How deep calls go from where a thread waits: 41 KiB were seen, and more without optimization.
const DEPTH: usize = if cfg!(debug_assertions) { 256 * 1024 } else { 64 * 1024 };
