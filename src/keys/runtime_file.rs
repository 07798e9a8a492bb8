//! Keys that one node has again after a restart: in a file that lives in memory.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use zeroize::Zeroizing;

use super::{
    Epoch, EpochKey, Epochs, KeyError, KeyId, KeyRequest, KeySource, Notice, Now, Origin, RingHandle, Secret, seconds,
    secret::{self, on_wiped_stack},
};

/// Fresh random bytes for each epoch, kept in a file until the epoch's end, so that a restart or an upgrade of the
/// program goes on with the same key.
///
/// 1. The file is on a tmpfs or ramfs, such as `/run`, belongs to the user of the process, and nobody else may read it.
///    What is not so is refused.
/// 2. One process has it at a time; another is refused.
/// 3. When the ring destroys a key, its bytes in the file are overwritten; a file without a key is removed.
/// 4. The file says when each key is over, by the wall clock and by the time since the machine was booted. A key that is
///    over is wiped when a ring starts with the file, and never used: also if no process was there when its epoch ended.
///    So is one that was made for epochs of another length. One that is not over has no more time than that, whatever
///    the wall clock says by then.
///    Where the system does not say which boot it is on (Linux without `/proc/sys`; others), that makes no difference in
///    memory, which is empty after a boot. On a disk no key is used that was there before, and a [`Notice`] says so.
/// 5. [`KeyRing::rotate`](super::KeyRing::rotate) leaves no key in the file, of whatever epoch, but the one that takes over.
/// 6. A file that makes no sense is wiped, and said to be so.
///
/// ```no_run
/// use ipveil::keys::{Epochs, KeyRing, RuntimeFile};
///
/// let keys = KeyRing::start(RuntimeFile::open("/run/ipveil/keys")?, Epochs::hourly())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # What destroyed means
///
/// Pages of a tmpfs are overwritten in place. They may be swapped before that: turn swap off, or mount with `noswap` (Linux
/// 6.4), or take a ramfs. A process that stops and is not started again leaves its file, until the machine is
/// booted or somebody removes it. With systemd, `RuntimeDirectory=ipveil` and `RuntimeDirectoryPreserve=restart` keep the
/// directory for a restart and remove it when the service is stopped.
pub struct RuntimeFile {
    path: PathBuf,
    disk_allowed: bool,
    // None while there is no key to keep.
    open: Option<Open>,
    ring: Option<RingHandle>,
    // To be said once there is somebody to say it to.
    notices: Vec<Notice>,
}

impl RuntimeFile {
    /// The file at `path`, on a tmpfs or ramfs. Its directory is made if it is not there.
    ///
    /// # Errors
    ///
    /// A [`RuntimeFileError`] if the file may not be used as it is: somebody has to do something about that. A file that
    /// holds nonsense is no error; it is wiped, with a [`Notice`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, RuntimeFileError> {
        Self::on(path.into(), false)
    }

    /// Like [`open`](Self::open), on any file system.
    ///
    /// # Security
    ///
    /// A disk does not forget: journals, snapshots, backups and worn-out flash cells keep what was overwritten, so
    /// each key may be found long after its epoch, and every pseudonym made with it turned back. Nothing that
    /// is said about destroyed keys holds.
    pub fn open_even_on_a_disk_that_remembers_keys(path: impl Into<PathBuf>) -> Result<Self, RuntimeFileError> {
        Self::on(path.into(), true)
    }

    fn on(path: PathBuf, disk_allowed: bool) -> Result<Self, RuntimeFileError> {
        let mut file = Self { path, disk_allowed, open: None, ring: None, notices: Vec::new() };
        // Only what is there already, so as to refuse now what would be refused later.
        let mut open = Open::at(&file.path, disk_allowed)?;
        if !open.in_memory {
            file.notices.push(Notice::FileOnDisk);
        }
        on_wiped_stack::<STACK, _>(|| open.load(&mut file.notices))?;
        file.open = Some(open);
        Ok(file)
    }

    fn notice(&mut self, notice: Notice) {
        match &self.ring {
            Some(ring) => ring.notice(notice),
            None => self.notices.push(notice),
        }
    }

    fn opened(&mut self) -> Result<&mut Open, RuntimeFileError> {
        if self.open.is_none() {
            let mut open = Open::at(&self.path, self.disk_allowed)?;
            // Somebody else's, from between two of ours: not to be trusted with what we know of it.
            open.slots = Default::default();
            open.write()?;
            self.open = Some(open);
        }
        Ok(self.open.as_mut().expect("opened above"))
    }

    fn give(&mut self, request: KeyRequest, epochs: Epochs, now: Now) -> Result<EpochKey, RuntimeFileError> {
        let boot = Boot::at(now);
        let opened = self.opened()?;
        let end = seconds(epochs.end(request.epoch));
        let found = opened.slots.iter().flatten().find(|slot| slot.epoch == request.epoch.0);
        let mut restored = None;
        if let Some(slot) = found
            && slot.end == end
            && !slot.is_over(seconds(now.wall), &boot)
            && let Some(bytes) = slot.key.expose()
        {
            let mut bytes = Zeroizing::new(*bytes);
            let last = now.monotonic + Duration::from_millis(slot.deadline - boot.uptime);
            restored = Some(EpochKey::take(&mut bytes)?.from_origin(Origin::Restored).over_by(last));
        }
        if let Some(key) = restored {
            return Ok(key);
        }
        let mut bytes = secret::random()?;
        let mut copy = Zeroizing::new(*bytes);
        let slot = Slot {
            epoch: request.epoch.0,
            end,
            boot_id: boot.id,
            made: boot.uptime,
            deadline: boot.uptime.saturating_add(milliseconds(epochs.life(request.epoch, now.wall))),
            key: Secret::take(&mut copy)?,
        };
        opened.put(slot, seconds(now.wall), &boot);
        opened.write()?;
        Ok(EpochKey::take(&mut bytes)?)
    }

    /// All keys that are over or that `is_gone` says.
    fn forget(&mut self, is_gone: impl Fn(&Slot) -> bool) -> Result<(), RuntimeFileError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        // While the ring is there; then what is over by the wall clock stays for whoever comes next.
        let now = self.ring.as_ref().and_then(RingHandle::now);
        let now = now.unwrap_or_else(|| Now { wall: SystemTime::UNIX_EPOCH, monotonic: Instant::now() });
        let (now, boot) = (seconds(now.wall), Boot::at(now));
        for slot in &mut open.slots {
            if slot.as_ref().is_some_and(|slot| is_gone(slot) || slot.is_over(now, &boot)) {
                *slot = None;
            }
        }
        if let Err(error) = open.write() {
            // Whatever is in there must not be found by the next process.
            let _ = fs::remove_file(&self.path);
            self.open = None;
            return Err(error);
        }
        if open.slots.iter().all(Option::is_none) {
            let removed = fs::remove_file(&self.path);
            self.open = None;
            removed.map_err(RuntimeFileError::from)?;
        }
        Ok(())
    }

    fn forget_and_tell(&mut self, is_gone: impl Fn(&Slot) -> bool) {
        if let Err(error) = on_wiped_stack::<STACK, _>(|| self.forget(is_gone)) {
            self.notice(Notice::FileFailed(error.kind()));
        }
    }
}

impl KeySource for RuntimeFile {
    fn key(&mut self, request: KeyRequest) -> Result<EpochKey, KeyError> {
        let (now, epochs) =
            self.ring.as_ref().and_then(|ring| Some((ring.now()?, ring.epochs()?))).ok_or(KeyError::Unavailable)?;
        let given = on_wiped_stack::<STACK, _>(|| self.give(request, epochs, now));
        given.map_err(|error| match error {
            RuntimeFileError::Key(error) => error,
            other => {
                self.notice(Notice::FileFailed(other.kind()));
                self.open = None;
                KeyError::Unavailable
            }
        })
    }

    fn name(&self) -> &'static str {
        "runtime-file"
    }

    fn attach(&mut self, ring: RingHandle) {
        let times = ring.now().zip(ring.epochs());
        self.ring = Some(ring);
        if let (Some(open), Some((now, epochs))) = (&mut self.open, times) {
            match open.purge(epochs, seconds(now.wall), &Boot::at(now)) {
                Ok(None) => {}
                Ok(Some(why)) => self.notices.push(Notice::FileWiped(why)),
                Err(error) => self.notices.push(Notice::FileFailed(error.kind())),
            }
        }
        for notice in std::mem::take(&mut self.notices) {
            self.notice(notice);
        }
    }

    fn destroyed(&mut self, _: Epoch, key: KeyId) {
        self.forget_and_tell(|slot| slot.id() == Some(key));
    }

    fn rotated(&mut self, _: Epoch) {
        // Not only what the ring has: a clock that was set about leaves keys of other epochs in there.
        self.forget_and_tell(|_| true);
    }
}

impl fmt::Debug for RuntimeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why a key file is not used. For whoever set it up.
#[derive(Debug)]
#[non_exhaustive]
pub enum RuntimeFileError {
    /// It would be on a disk.
    OnDisk,
    /// Another process has it.
    Locked,
    /// It belongs to another user.
    Owner,
    /// Others may read or write it.
    Mode,
    /// It is something other than a file, such as a link or a directory.
    NotAFile,
    /// There is no key to put in there.
    Key(KeyError),
    /// The system said no.
    Io(io::Error),
}

impl RuntimeFileError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Io(error) => error.kind(),
            Self::Locked => ErrorKind::WouldBlock,
            Self::OnDisk | Self::Owner | Self::Mode => ErrorKind::PermissionDenied,
            Self::NotAFile | Self::Key(_) => ErrorKind::Other,
        }
    }
}

impl fmt::Display for RuntimeFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnDisk => {
                "the key file would be on a disk, where a destroyed key can be read again (expected a tmpfs or ramfs, \
                 such as /run)"
            }
            Self::Locked => "another process has the key file",
            Self::Owner => "the key file belongs to another user",
            Self::Mode => "others may read or write the key file (expected mode 0600)",
            Self::NotAFile => "the key file is not a file",
            Self::Key(error) => return error.fmt(f),
            Self::Io(error) => return write!(f, "the key file can't be used: {error}"),
        })
    }
}

impl std::error::Error for RuntimeFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Key(error) => Some(error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for RuntimeFileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<KeyError> for RuntimeFileError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

/// The file, locked, and what is in it: the key in use and the next one.
struct Open {
    file: File,
    in_memory: bool,
    slots: [Option<Slot>; SLOTS],
}

impl Open {
    fn at(path: &Path, disk_allowed: bool) -> Result<Self, RuntimeFileError> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        // As often as another process removes the file between the two steps.
        for _ in 0..100 {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
                .open(path)
                .map_err(|error| match error.raw_os_error() {
                    Some(libc::ELOOP | libc::EISDIR | libc::ENXIO) => RuntimeFileError::NotAFile,
                    _ => error.into(),
                })?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(RuntimeFileError::NotAFile);
            }
            if metadata.uid() != secret::user() {
                return Err(RuntimeFileError::Owner);
            }
            if metadata.mode() & 0o077 != 0 {
                return Err(RuntimeFileError::Mode);
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(RuntimeFileError::Locked),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            let in_memory = secret::is_in_memory(&file)?;
            if !in_memory && !disk_allowed {
                if metadata.len() == 0 {
                    // Made just now, or holding nothing: left as it was found.
                    let _ = fs::remove_file(path);
                }
                return Err(RuntimeFileError::OnDisk);
            }
            // Locked, but still the one under that name?
            let same = fs::symlink_metadata(path)
                .is_ok_and(|named| named.ino() == metadata.ino() && named.dev() == metadata.dev());
            if same {
                return Ok(Self { file, in_memory, slots: Default::default() });
            }
        }
        Err(RuntimeFileError::Locked)
    }

    /// Reads what is there; what makes no sense is wiped.
    fn load(&mut self, notices: &mut Vec<Notice>) -> Result<(), RuntimeFileError> {
        let length = self.file.metadata()?.len();
        if length == 0 {
            return Ok(());
        }
        let mut bytes = Zeroizing::new([0; LENGTH]);
        self.file.rewind()?;
        let whole = length == LENGTH as u64 && self.file.read_exact(&mut *bytes).is_ok() && bytes.starts_with(MAGIC);
        let mut wiped = (!whole).then_some("it is not a key file, or not of this version");
        if whole {
            for (slot, bytes) in self.slots.iter_mut().zip(bytes[MAGIC.len()..].chunks_exact(SLOT)) {
                match Slot::read(bytes) {
                    Ok(None) => {}
                    Ok(Some(read)) => *slot = Some(read),
                    Err(Broken) => wiped = Some("it was damaged, or written only in part"),
                }
            }
        }
        if let Some(why) = wiped {
            self.wipe(length)?;
            notices.push(Notice::FileWiped(why));
        }
        // A memory's content is of this boot.
        if !self.in_memory && Boot::id() == 0 && self.slots.iter().any(Option::is_some) {
            self.slots = Default::default();
            notices.push(Notice::FileWiped("whether the machine was booted since can't be known without /proc/sys"));
        }
        self.write()
    }

    /// Overwrites all of the file, however long it is.
    fn wipe(&mut self, length: u64) -> Result<(), RuntimeFileError> {
        let mut left = length;
        self.file.rewind()?;
        while left > 0 {
            let part = left.min(4096) as usize;
            self.file.write_all(&[0; 4096][..part])?;
            left -= part as u64;
        }
        self.file.sync_data()?;
        self.file.set_len(0)?;
        Ok(())
    }

    /// Wipes what is over or is for epochs of another length, and says what that was.
    fn purge(&mut self, epochs: Epochs, now: u64, boot: &Boot) -> Result<Option<&'static str>, RuntimeFileError> {
        let mut purged = None;
        for slot in &mut self.slots {
            let why = match slot {
                Some(slot) if slot.end != seconds(epochs.end(Epoch(slot.epoch))) => {
                    "a key in it was for epochs of another length"
                }
                Some(slot) if slot.is_over(now, boot) => "a key in it was over",
                _ => continue,
            };
            *slot = None;
            purged = Some(why);
        }
        if purged.is_some() {
            self.write()?;
        }
        Ok(purged)
    }

    fn put(&mut self, slot: Slot, now: u64, boot: &Boot) {
        let free =
            |held: &Option<Slot>| held.as_ref().is_none_or(|held| held.epoch == slot.epoch || held.is_over(now, boot));
        let place = self.slots.iter().position(free);
        // Two that are not over, and a third: the clock was set about. The one that is over first has to go.
        let place = place.unwrap_or_else(|| {
            let ends = self.slots.iter().flatten().map(|held| held.end);
            ends.enumerate().min_by_key(|(_, end)| *end).map_or(0, |(place, _)| place)
        });
        self.slots[place] = Some(slot);
    }

    /// In place, so that what was there is overwritten.
    fn write(&mut self) -> Result<(), RuntimeFileError> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        let (magic, rest) = bytes.split_at_mut(MAGIC.len());
        magic.copy_from_slice(MAGIC);
        for (slot, bytes) in self.slots.iter().zip(rest.chunks_exact_mut(SLOT)) {
            if let Some(slot) = slot {
                slot.write(bytes);
            }
        }
        self.file.write_all_at(&*bytes, 0)?;
        if !self.in_memory {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

/// One key, and until when it may be used.
struct Slot {
    epoch: u64,
    // By the wall clock, in seconds since 1970.
    end: u64,
    // On which boot of the machine, how many milliseconds after it, and how many after it the key is over: a clock that
    // nobody can set.
    boot_id: u64,
    made: u64,
    deadline: u64,
    key: Secret,
}

struct Broken;

impl Slot {
    fn id(&self) -> Option<KeyId> {
        KeyId::of(&self.key)
    }

    fn is_over(&self, now: u64, boot: &Boot) -> bool {
        let is_earlier = boot.uptime.saturating_add(SLACK) < self.made;
        now >= self.end || boot.id != self.boot_id || is_earlier || boot.uptime >= self.deadline
    }

    fn read(bytes: &[u8]) -> Result<Option<Self>, Broken> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let (body, check) = bytes.split_at(SLOT - CHECK);
        if check != &blake3::hash(body).as_bytes()[..CHECK] {
            return Err(Broken);
        }
        let number = |place: usize| {
            let bytes = body[place * 8..].first_chunk().expect("a slot begins with five numbers");
            u64::from_le_bytes(*bytes)
        };
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&body[40..72]);
        Ok(Some(Self {
            epoch: number(0),
            end: number(1),
            boot_id: number(2),
            made: number(3),
            deadline: number(4),
            key: Secret::take(&mut key).map_err(|_| Broken)?,
        }))
    }

    fn write(&self, bytes: &mut [u8]) {
        // Nothing in a forked child: an empty slot.
        let Some(key) = self.key.expose() else { return };
        let (body, check) = bytes.split_at_mut(SLOT - CHECK);
        let numbers = [self.epoch, self.end, self.boot_id, self.made, self.deadline];
        for (place, number) in body.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        body[40..72].copy_from_slice(key);
        check.copy_from_slice(&blake3::hash(body).as_bytes()[..CHECK]);
    }
}

/// Since when the machine runs.
struct Boot {
    // 0 where the system does not say.
    id: u64,
    // In milliseconds. Also those in which the machine was suspended.
    uptime: u64,
}

impl Boot {
    /// By the ring's clock: if that is not the system's, time since the boot is as far ahead of the system's as it is.
    fn at(now: Now) -> Self {
        let (system, uptime) = (Instant::now(), secret::since_boot());
        let ahead = now.monotonic.saturating_duration_since(system);
        let behind = system.saturating_duration_since(now.monotonic);
        Self { id: Self::id(), uptime: milliseconds(uptime.saturating_add(ahead).saturating_sub(behind)) }
    }

    fn id() -> u64 {
        fs::read("/proc/sys/kernel/random/boot_id")
            .map_or(0, |id| u64::from_le_bytes(*blake3::hash(&id).as_bytes().first_chunk().expect("32 bytes hold 8")))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Two looks at two clocks are not quite as far apart by each of them.
const SLACK: u64 = 1000;
/// More than reading, writing and hashing the file take.
const STACK: usize = 32 * 1024;
const MAGIC: &[u8] = b"ipveilk2";
const SLOTS: usize = 2;
const CHECK: usize = 8;
const SLOT: usize = 5 * 8 + 32 + CHECK;
const LENGTH: usize = MAGIC.len() + SLOTS * SLOT;
