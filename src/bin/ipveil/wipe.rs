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
use tokio::io::ReadBuf;

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
        let memory: *mut u8 = match is_aligned_anyway(layout) {
            // SAFETY: it may be called with any size.
            true => unsafe { mi_malloc(layout.size()) }.cast(),
            // SAFETY: an alignment is a power of two.
            false => unsafe { mi_malloc_aligned(layout.size(), layout.align()) }.cast(),
        };
        if layout.size() == BLOCK && !memory.is_null() {
            // SAFETY: the note is the end of the block, which is new and nobody's yet; and bytes have no alignment.
            unsafe { memory.add(BLOCK - NOTE).cast::<Note>().write([[0; 8]; 2]) };
        }
        memory
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
            unsafe { memory.write_bytes(0, used(memory, layout)) };
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

/// How much of blocks for reading was used: nearly always a small part, and to overwrite all of it takes a tenth of a request's
/// time, most of it for memory that is not in the processor's cache.
///
/// Whoever reads into such a block leaves a [`Note`] of that at its end. If more is read than what was noted, it is written over,
/// and without a note all of the block counts as used.
#[derive(Debug, Default)]
pub(crate) struct Used {
    // Where the block that was read into last ends, and how much of it was used so far: it may have been read into before.
    end: usize,
    most: usize,
}

/// As many bytes as HTTP/1 reads at once.
const BLOCK: usize = 8192;

/// A sign that this is one, and how many bytes of the block were used, both in the machine's order.
type Note = [[u8; 8]; 2];
const NOTE: usize = size_of::<Note>();

/// No client knows where in memory it is.
fn sign(end: usize) -> [u8; 8] {
    (end as u64 ^ 0x9d8a_7b43_5fe1_c62d).wrapping_mul(0xd6e8_feb8_6659_fd93).to_ne_bytes()
}

impl Used {
    /// After a read: `before` bytes were in the buffer.
    #[expect(unsafe_code, reason = "what was not read into can't be written to otherwise, unless all of it is")]
    pub(crate) fn note(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let (room, read) = (buffer.capacity() - before, buffer.filled().len() - before);
        if room > BLOCK || !IS_ON.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: it is written to, and nothing in there becomes uninitialized.
        let rest = unsafe { buffer.unfilled_mut() };
        let end = rest.as_ptr_range().end.addr();
        let before = if end == self.end { self.most } else { 0 };
        (self.end, self.most) = (end, before.max(BLOCK - room + read));
        if let Some(place) = rest.last_chunk_mut::<NOTE>() {
            let note: Note = [sign(end), self.most.to_ne_bytes()];
            for (place, &byte) in place.iter_mut().zip(note.as_flattened()) {
                place.write(byte);
            }
        }
    }
}

/// How many bytes from its beginning of a block that is given back have to be overwritten.
///
/// # Safety
///
/// `memory` is a block of this layout, which nobody else uses.
#[expect(unsafe_code, reason = "part of an allocator")]
unsafe fn used(memory: *mut u8, layout: Layout) -> usize {
    if layout.size() != BLOCK {
        return layout.size();
    }
    // SAFETY: it is in the block; and bytes have no alignment.
    let place = unsafe { memory.add(BLOCK - NOTE) }.cast::<Note>();
    // SAFETY: `alloc` and `alloc_zeroed` wrote there, so there is something.
    let [found, used] = unsafe { place.read_volatile() };
    let used = usize::from_ne_bytes(used);
    if found != sign(memory.addr() + BLOCK) || used > BLOCK - NOTE {
        return BLOCK;
    }
    // SAFETY: as above.
    unsafe { place.write_volatile([[0; 8]; 2]) };
    used
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What would be overwritten of a block after these reads into it, each from a place on.
    #[expect(unsafe_code, reason = "asks what an allocator asks")]
    fn used_after(reads: &[(usize, usize)]) -> usize {
        let mut block = Vec::<u8>::with_capacity(BLOCK);
        let mut used_so_far = Used::default();
        for &(from, length) in reads {
            let mut buffer = ReadBuf::uninit(&mut block.spare_capacity_mut()[from..]);
            buffer.put_slice(&vec![b'x'; length]);
            used_so_far.note(&mut buffer, 0);
        }
        let layout = Layout::array::<u8>(block.capacity()).unwrap();
        // SAFETY: the block has that layout, and what is written there is in none of its elements.
        unsafe { used(block.as_mut_ptr(), layout) }
    }

    #[test]
    fn as_much_of_a_block_is_overwritten_as_was_read_into() {
        assert_eq!(used_after(&[(0, 300)]), 300);
        assert_eq!(used_after(&[(0, 300), (0, 100)]), 300);
        assert_eq!(used_after(&[(0, 300), (300, 100)]), 400);
        assert_eq!(used_after(&[(0, 4000), (4000, 4000), (0, 1)]), 8000);
        assert_eq!(used_after(&[(0, BLOCK - NOTE)]), BLOCK - NOTE);
    }

    #[test]
    fn all_of_it_is_if_nobody_knows() {
        assert_eq!(used_after(&[]), BLOCK);
        for most in BLOCK - NOTE + 1..=BLOCK {
            assert_eq!(used_after(&[(0, 10), (0, most)]), BLOCK, "{most}");
        }
    }

    #[test]
    fn each_block_has_a_note_of_its_own() {
        let mut used = Used::default();
        let mut blocks = [const { Vec::new() }; 2];
        for (block, length) in blocks.iter_mut().zip([5000, 10]) {
            block.reserve_exact(BLOCK);
            let mut buffer = ReadBuf::uninit(block.spare_capacity_mut());
            buffer.put_slice(&vec![b'x'; length]);
            used.note(&mut buffer, 0);
            let _: &mut Vec<u8> = block;
        }
        assert_eq!(used.most, 10);
    }
}
