//! Where 32 secret bytes live: memory that is not swapped, not dumped, and wiped when dropped.
//!
//! The library's only module with `unsafe`: nothing in the standard library locks memory.
#![allow(unsafe_code, reason = "mapping and locking memory is a matter of system calls")]

use std::fmt;

use zeroize::{Zeroizing, zeroize_stack};

use super::KeyError;

/// How well the operating system keeps key bytes from leaving this process.
///
/// Which one is in force is known after start, from [`KeyRing::protection`](super::KeyRing::protection), and is
/// part of every [`KeyEvent::Minted`](super::KeyEvent::Minted).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protection {
    /// `memfd_secret(2)`: outside the kernel's own map of memory, never swapped or dumped, unreadable even to a
    /// debugger; hibernation is refused while it exists. Not inherited by a forked child.
    SecretMemory,
    /// `mlock(2)`, with `MADV_DONTDUMP` and `MADV_WIPEONFORK`: not swapped, not in core dumps, zero in a forked
    /// child. Readable to root.
    Locked,
    /// Ordinary memory, wiped when dropped: the system refused to lock it (often `RLIMIT_MEMLOCK`), or has no way
    /// to. It may reach swap; elsewhere than on Linux also a core dump, or a forked child.
    Unprotected,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SecretMemory => "memfd_secret",
            Self::Locked => "mlock",
            Self::Unprotected => "unprotected",
        })
    }
}

/// 32 secret bytes, wiped when dropped. Not `Clone`: there is one copy.
pub(super) struct Secret(imp::Memory);

impl Secret {
    /// Takes the bytes over and wipes the source.
    pub(super) fn take(bytes: &mut [u8; 32]) -> Result<Self, KeyError> {
        use zeroize::Zeroize as _;

        let mut memory = imp::Memory::new();
        if let Ok(memory) = &mut memory {
            memory.bytes_mut().copy_from_slice(bytes);
        }
        bytes.zeroize();
        memory.map(Self)
    }

    /// The bytes; nothing in a child process that was forked from the one that made them.
    pub(super) fn expose(&self) -> Option<&[u8; 32]> {
        self.0.bytes()
    }

    pub(super) fn protection(&self) -> Protection {
        self.0.protection
    }

    /// The keyed hash of `input`, and the stack wiped where it was worked out.
    #[inline]
    pub(super) fn hash(&self, input: &[u8]) -> Option<[u8; 32]> {
        let hash = keyed_hash(self.expose()?, input);
        zeroize_stack::<HASHING_STACK>();
        Some(hash)
    }
}

/// How much stack BLAKE3 writes to for one chunk, with room to spare: `tests/erasure.rs` finds out if it is too little.
const HASHING_STACK: usize = if cfg!(debug_assertions) { 8192 } else { 1024 };

// Never inlined: its frame, with BLAKE3's copy of the key, has to lie where it is wiped afterwards.
#[inline(never)]
fn keyed_hash(key: &[u8; 32], input: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(key, input).as_bytes()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// 32 bytes that nobody can guess.
pub(super) fn random() -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|_| KeyError::Random)?;
    Ok(bytes)
}

/// Does `work`, and wipes the `DEPTH` bytes of stack below, which have to be more than it takes: libraries leave there what
/// they have copied.
pub(super) fn on_wiped_stack<const DEPTH: usize, R>(work: impl FnOnce() -> R) -> R {
    // Never inlined: its frame has to lie where it is wiped afterwards.
    #[inline(never)]
    fn below<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    let result = below(work);
    zeroize_stack::<DEPTH>();
    result
}

/// The user as whom this process acts.
#[cfg(unix)]
pub(super) fn user() -> u32 {
    // SAFETY: geteuid has no preconditions, and always succeeds.
    unsafe { libc::geteuid() }
}

/// How long the machine runs, the time that it was suspended included: by a clock that nobody can set, and that needs no `/proc`.
#[cfg(unix)]
pub(super) fn since_boot() -> std::time::Duration {
    use std::{mem::MaybeUninit, time::Duration};

    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
    // Whether it goes on while the machine is suspended differs.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: there is room for the answer.
    if unsafe { libc::clock_gettime(CLOCK, time.as_mut_ptr()) } != 0 {
        // No kernel on which this crate runs is without that clock.
        return Duration::MAX;
    }
    // SAFETY: clock_gettime has succeeded, and then has filled it in.
    let time = unsafe { time.assume_init() };
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    seconds.ok().zip(nanos.ok()).map_or(Duration::MAX, |(seconds, nanos)| Duration::new(seconds, nanos))
}

/// Whether what is written to `file` stays in memory.
#[cfg(target_os = "linux")]
pub(super) fn is_in_memory(file: &std::fs::File) -> std::io::Result<bool> {
    use std::{mem::MaybeUninit, os::fd::AsRawFd as _};

    const RAMFS_MAGIC: i128 = 0x8584_58f6;

    let mut about = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open while `file` is borrowed, and there is room for the answer.
    if unsafe { libc::fstatfs(file.as_raw_fd(), about.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: fstatfs has succeeded, and then has filled it in.
    let about = unsafe { about.assume_init() };
    // The field's type is not the same everywhere; the numbers have 32 bits.
    let kind = i128::from(about.f_type) & 0xffff_ffff;
    Ok(kind == i128::from(libc::TMPFS_MAGIC) || kind == RAMFS_MAGIC)
}

/// Elsewhere nobody can tell.
#[cfg(all(unix, not(target_os = "linux")))]
pub(super) fn is_in_memory(_: &std::fs::File) -> std::io::Result<bool> {
    Ok(false)
}

#[cfg(target_os = "linux")]
mod imp {
    use std::ptr::{self, NonNull};

    use zeroize::Zeroize as _;

    use super::{KeyError, Protection};

    /// One page of its own, so that locking, hiding and unmapping concern nothing else.
    pub(super) struct Memory {
        page: NonNull<[u8; 32]>,
        length: usize,
        pub(super) protection: Protection,
        this_process: ThisProcess,
    }

    // SAFETY: the page is owned by this value alone; it is written only through `&mut self`.
    unsafe impl Send for Memory {}
    // SAFETY: `&self` gives only shared reads of bytes that nobody writes meanwhile.
    unsafe impl Sync for Memory {}

    impl Memory {
        pub(super) fn new() -> Result<Self, KeyError> {
            let length = page_size();
            let this_process = ThisProcess::mark(length)?;
            let (page, protection) = match secret_memory(length) {
                Some(page) => (page, Protection::SecretMemory),
                None => anonymous(length)?,
            };
            Ok(Self { page: page.cast(), length, protection, this_process })
        }

        pub(super) fn bytes(&self) -> Option<&[u8; 32]> {
            if !self.this_process.is_here() {
                return None;
            }
            // SAFETY: the mapping is at least 32 bytes, page-aligned, lives until drop, and exists in this process
            // (checked above: it may be absent in a forked child).
            Some(unsafe { self.page.as_ref() })
        }

        pub(super) fn bytes_mut(&mut self) -> &mut [u8; 32] {
            // SAFETY: as in `bytes`; called only by the process that has just made the mapping.
            unsafe { self.page.as_mut() }
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            if !self.this_process.is_here() {
                return;
            }
            self.bytes_mut().zeroize();
            // SAFETY: this is the mapping made in `new`, and nothing can refer to it any more.
            unsafe { libc::munmap(self.page.as_ptr().cast(), self.length) };
        }
    }

    fn page_size() -> usize {
        // SAFETY: sysconf has no preconditions.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).ok().filter(|&size| size > 0).unwrap_or(4096)
    }

    fn map(length: usize, flags: libc::c_int, fd: libc::c_int) -> Option<NonNull<u8>> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that exists.
        let page = unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
        if page == libc::MAP_FAILED {
            return None;
        }
        NonNull::new(page.cast())
    }

    fn secret_memory(length: usize) -> Option<NonNull<u8>> {
        // SAFETY: memfd_secret takes flags and gives a file descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        let fd = libc::c_int::try_from(fd).ok().filter(|&fd| fd >= 0)?;
        let size = libc::off_t::try_from(length).expect("a page is small");
        // SAFETY: `fd` is ours and open.
        let page = if unsafe { libc::ftruncate(fd, size) } == 0 { map(length, libc::MAP_SHARED, fd) } else { None };
        // SAFETY: `fd` is ours and open; the mapping outlives it.
        unsafe { libc::close(fd) };
        let page = page?;
        // A shared mapping would go on living in a forked child after we wiped or left it.
        // SAFETY: exactly the mapping made above.
        if unsafe { libc::madvise(page.as_ptr().cast(), length, libc::MADV_DONTFORK) } != 0 {
            // SAFETY: as above, and nothing refers to it yet.
            unsafe { libc::munmap(page.as_ptr().cast(), length) };
            return None;
        }
        Some(page)
    }

    fn anonymous(length: usize) -> Result<(NonNull<u8>, Protection), KeyError> {
        let page = map(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1).ok_or(KeyError::Memory)?;
        let start = page.as_ptr().cast();
        // SAFETY: exactly the mapping made above; none of the calls reads or writes it.
        let locked = unsafe {
            // All three, whatever the others say: only the first has a limit that may be reached.
            let locked = libc::mlock(start, length) == 0;
            let dumped = libc::madvise(start, length, libc::MADV_DONTDUMP) != 0;
            let inherited = libc::madvise(start, length, libc::MADV_WIPEONFORK) != 0;
            locked && !dumped && !inherited
        };
        let protection = if locked { Protection::Locked } else { Protection::Unprotected };
        Ok((page, protection))
    }

    /// A byte that is 1 in the process that mapped it and 0 in every child forked from there.
    ///
    /// Without it a child would hash under a key of zeros (wiped on fork) or crash (not mapped there).
    struct ThisProcess {
        // None on a kernel before 4.14: it has no MADV_WIPEONFORK, so nothing that would need this.
        marker: Option<NonNull<u8>>,
        length: usize,
    }

    impl ThisProcess {
        fn mark(length: usize) -> Result<Self, KeyError> {
            let page = map(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1).ok_or(KeyError::Memory)?;
            // SAFETY: exactly the mapping made above.
            let wiped = unsafe { libc::madvise(page.as_ptr().cast(), length, libc::MADV_WIPEONFORK) };
            if wiped != 0 {
                // SAFETY: as above, and nothing refers to it yet.
                unsafe { libc::munmap(page.as_ptr().cast(), length) };
                return Ok(Self { marker: None, length });
            }
            // SAFETY: mapped above, writable, and longer than a byte.
            unsafe { page.as_ptr().write(1) };
            Ok(Self { marker: Some(page), length })
        }

        fn is_here(&self) -> bool {
            match self.marker {
                // SAFETY: mapped until drop; volatile, since the compiler must not remember the byte over a fork.
                Some(marker) => unsafe { ptr::read_volatile(marker.as_ptr()) == 1 },
                None => true,
            }
        }
    }

    impl Drop for ThisProcess {
        fn drop(&mut self) {
            if let Some(marker) = self.marker {
                // SAFETY: this is the mapping made in `mark`; a forked child has its own copy of it.
                unsafe { libc::munmap(marker.as_ptr().cast(), self.length) };
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use zeroize::Zeroizing;

    use super::{KeyError, Protection};

    pub(super) struct Memory {
        bytes: Box<Zeroizing<[u8; 32]>>,
        pub(super) protection: Protection,
    }

    impl Memory {
        pub(super) fn new() -> Result<Self, KeyError> {
            Ok(Self { bytes: Box::new(Zeroizing::new([0; 32])), protection: Protection::Unprotected })
        }

        pub(super) fn bytes(&self) -> Option<&[u8; 32]> {
            Some(&self.bytes)
        }

        pub(super) fn bytes_mut(&mut self) -> &mut [u8; 32] {
            &mut self.bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_wiped_when_the_bytes_are_taken() {
        let mut bytes = [7; 32];
        let secret = Secret::take(&mut bytes).unwrap();
        assert_eq!(bytes, [0; 32]);
        assert_eq!(secret.expose(), Some(&[7; 32]));
    }

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::take(&mut [0xab; 32]).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_forked_child_has_no_key() {
        let secret = Secret::take(&mut [7; 32]).unwrap();
        // SAFETY: the child only reads memory and leaves by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = i32::from(secret.expose().is_some());
            // SAFETY: ends the child at once, without destructors of the parent's values.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: `child` is our child; `status` is valid for writing.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert!(libc::WIFEXITED(status), "the child crashed: {status}");
        assert_eq!(libc::WEXITSTATUS(status), 0, "the child could read the key");
        assert!(secret.expose().is_some());
    }
}
