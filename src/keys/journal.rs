//! What happened to every key, in a file that shows if somebody changed it.
//!
//! A [`Journal`] appends a line of JSON for each [`KeyEvent`]: which key (by its public id), of which epoch, from which
//! source, when, and why. There is no key material in it and no address: it can be shown to an auditor, or be sent away.
//!
//! ```json
//! {"entry":1,"time":"2026-03-01T00:00:00.012Z","event":"minted","key":"7d0f…","epoch":20513,"until":"2026-03-02T00:00:00.000Z","source":"redis","origin":"adopted","protection":"memfd_secret","chain":"90ab…"}
//! ```
//!
//! Each line ends with the BLAKE3 hash of itself and of the line before it, so that [`verify`] finds a line that was
//! changed, removed, added or moved.
//!
//! # What the chain is worth
//!
//! The hashes have no key. Whoever can write the file can cut lines off its end, or write all of it anew. So note the
//! [head](Verified::head) somewhere else now and then, or forward key events with the feature `tracing`: [`verify`] says
//! whether a journal still goes on from a head that was noted.
//!
//! ```
//! use ipveil::keys::{Epochs, KeyRing, MemorySource, journal::{self, Journal}};
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("keys.jsonl");
//!
//! let journal = Journal::open(&path)?;
//! let keys = KeyRing::builder(MemorySource, Epochs::hourly()).on_event(journal.recorder()).start()?;
//! keys.rotate()?;
//! drop(keys);
//! journal.flush();
//!
//! let verified = journal::verify(std::io::BufReader::new(std::fs::File::open(&path)?), None)?;
//! assert!(verified.entries > 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{
    fmt::{self, Write as _},
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use super::{KeyEvent, seconds};

/// A file to which every event is appended, by a thread of its own: a disk that takes its time delays no key's
/// destruction.
///
/// When it is dropped, what it was told so far has been written. Its [recorders](Self::recorder) go on, and the file stays
/// locked, until they are dropped too: the ring's is when the ring has ended.
#[derive(Debug)]
pub struct Journal {
    writer: Arc<Writer>,
}

impl Journal {
    /// Goes on with the journal at `path`, or begins one, for this user's eyes only.
    ///
    /// What a crash left of a last line is cut off, and an entry says so. The rest is not verified: it may be long.
    ///
    /// # Errors
    ///
    /// A [`JournalError`] if the file can't be used, or does not end like a journal.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Locked),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let (end, torn) = Chain::resume(&mut file)?;
        let mut written = Written { file, chain: end };
        if torn > 0 {
            written.append(SystemTime::now(), &format!("\"event\":\"repaired\",\"bytes\":{torn}"))?;
        }
        let (told, entries) = mpsc::sync_channel(QUEUE);
        let lost = Arc::new(Lost::default());
        let counted = Arc::clone(&lost);
        let thread = thread::Builder::new()
            .name("ipveil-journal".to_owned())
            .spawn(move || write_all(&mut written, &entries, &counted))?;
        Ok(Self { writer: Arc::new(Writer { told, lost, thread: Some(thread) }) })
    }

    /// For [`KeyRingBuilder::on_event`](super::KeyRingBuilder::on_event). It records whether or not the journal is kept.
    pub fn recorder(&self) -> impl Fn(KeyEvent) + Send + Sync + 'static {
        let writer = Arc::clone(&self.writer);
        move |event| {
            if let Err(TrySendError::Full(_)) = writer.told.try_send(Told::Event(SystemTime::now(), event)) {
                writer.lost.one();
            }
        }
    }

    /// How many events could not be written since it was opened: the disk is full, or too slow.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.writer.lost.all.load(Ordering::Relaxed)
    }

    /// Whether events are missing in it of which it does not say so: the last one could not be written. When the next one
    /// can be, an entry before it says how many are missing.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.writer.lost.unsaid.load(Ordering::Relaxed) > 0
    }

    /// Waits until all that was told is written.
    pub fn flush(&self) {
        let (done, is_done) = mpsc::channel();
        if self.writer.told.send(Told::Flush(done)).is_ok() {
            let _ = is_done.recv();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The thread that writes, and how it is told. Journal and recorders hold it in common: a recorder that outlived it would
/// lose all that happens from then on, and the chain would still look whole.
#[derive(Debug)]
struct Writer {
    told: SyncSender<Told>,
    lost: Arc<Lost>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.told.send(Told::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How many events could not be written: in all, and since an entry said so.
#[derive(Debug, Default)]
struct Lost {
    all: AtomicU64,
    unsaid: AtomicU64,
}

impl Lost {
    fn one(&self) {
        self.all.fetch_add(1, Ordering::Relaxed);
        self.unsaid.fetch_add(1, Ordering::Relaxed);
    }
}

enum Told {
    Event(SystemTime, KeyEvent),
    Flush(mpsc::Sender<()>),
    End,
}

/// More events than a bad day has in the time that a disk takes to wake up.
const QUEUE: usize = 4096;

fn write_all(written: &mut Written, told: &mpsc::Receiver<Told>, lost: &Lost) {
    while let Ok(told) = told.recv() {
        match told {
            Told::Event(time, event) => {
                let missing = lost.unsaid.load(Ordering::Relaxed);
                if missing > 0 && written.append(time, &format!("\"event\":\"lost\",\"events\":{missing}")).is_err() {
                    lost.one();
                    continue;
                }
                if written.append(time, &fields(event)).is_err() {
                    lost.one();
                }
                // Only now: who looks in between sees that something is missing, not that all is well.
                lost.unsaid.fetch_sub(missing, Ordering::Relaxed);
            }
            Told::Flush(done) => {
                let _ = written.file.sync_data();
                let _ = done.send(());
            }
            Told::End => return,
        }
    }
}

/// A line without its beginning and end. All that is in it is ours: numbers, names, and words that need no escaping, but for
/// notices.
fn fields(event: KeyEvent) -> String {
    match event {
        KeyEvent::Minted { key, epoch, until, protection, origin, source, .. } => format!(
            "\"event\":\"minted\",\"key\":\"{key}\",\"epoch\":{epoch},\"until\":\"{}\",\"source\":{},\
             \"origin\":\"{origin}\",\"protection\":\"{protection}\"",
            Utc(until),
            Quoted(source)
        ),
        KeyEvent::Destroyed { key, epoch, reason } => {
            format!("\"event\":\"destroyed\",\"key\":\"{key}\",\"epoch\":{epoch},\"reason\":\"{reason}\"")
        }
        KeyEvent::SourceFailed { epoch, error } => {
            format!("\"event\":\"degraded\",\"epoch\":{epoch},\"reason\":{}", Quoted(&error.to_string()))
        }
        KeyEvent::Noticed { notice } => {
            format!("\"event\":\"noticed\",\"reason\":{}", Quoted(&notice.to_string()))
        }
    }
}

struct Written {
    file: File,
    chain: Chain,
}

impl Written {
    fn append(&mut self, time: SystemTime, fields: &str) -> io::Result<()> {
        let next = self.chain.entry + 1;
        let body = format!("{{\"entry\":{next},\"time\":\"{}\",{fields}", Utc(time));
        let link = self.chain.link(body.as_bytes());
        let line = format!("{body}{LINK}{}\"}}\n", link.to_hex());
        let length = self.file.metadata()?.len();
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // Part of a line would spoil the next one.
            let _ = self.file.set_len(length);
            return Err(error);
        }
        self.chain = Chain { entry: next, link };
        Ok(())
    }
}

/// Where the chain is: the number of its last entry, and that entry's hash.
struct Chain {
    entry: u64,
    link: blake3::Hash,
}

impl Chain {
    fn new() -> Self {
        Self { entry: 0, link: blake3::hash(b"ipveil key journal 1") }
    }

    fn link(&self, body: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.link.as_bytes());
        hasher.update(body);
        hasher.finalize()
    }

    /// The end of what is there, and how many bytes of an unfinished line were cut off it.
    fn resume(file: &mut File) -> Result<(Self, u64), JournalError> {
        let length = file.seek(SeekFrom::End(0))?;
        let tail = length.min(2 * LONGEST_LINE as u64);
        file.seek(SeekFrom::Start(length - tail))?;
        let mut bytes = Vec::new();
        Read::by_ref(file).take(tail).read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |place| place + 1);
        let begins = b"{\"entry\":1,";
        let is_first_line = bytes.iter().zip(begins).all(|(byte, begin)| byte == begin);
        // Nothing is cut off a file that never was a journal.
        if whole == 0 && (length > tail || !is_first_line) {
            return Err(JournalError::Broken { line: 0, what: "it does not end like a journal" });
        }
        let torn = (bytes.len() - whole) as u64;
        if torn > 0 {
            file.set_len(length - torn)?;
        }
        let Some(before) = whole.checked_sub(1) else { return Ok((Self::new(), torn)) };
        let begin = bytes[..before].iter().rposition(|&byte| byte == b'\n').map_or(0, |place| place + 1);
        let line = Line::parse(&bytes[begin..before])
            .ok_or(JournalError::Broken { line: 0, what: "its last line is not an entry" })?;
        Ok((Self { entry: line.entry, link: line.link }, torn))
    }
}

/// A journal whose chain is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// How many entries it has.
    pub entries: u64,
    /// The hash of the last one, in hexadecimal: whoever notes it can tell later whether anything before was changed.
    pub head: String,
    /// The last line is not finished: a crash, or somebody is writing it now.
    pub is_torn: bool,
}

/// Follows the chain from the first entry to the last. With `noted`, a head from earlier, that entry has to be in it.
///
/// # Errors
///
/// [`JournalError::Broken`] at the first line that is not what it was.
pub fn verify(journal: impl BufRead, noted: Option<&str>) -> Result<Verified, JournalError> {
    let mut chain = Chain::new();
    let mut is_torn = false;
    let mut seen = noted.is_none_or(|noted| noted.eq_ignore_ascii_case(&chain.link.to_hex()));
    let mut journal = BufReader::new(journal);
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = Read::by_ref(&mut journal).take(LONGEST_LINE as u64).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            break;
        }
        if is_torn {
            return Err(JournalError::Broken { line: number - 1, what: "the line is too long" });
        }
        let Some(line) = bytes.strip_suffix(b"\n") else {
            is_torn = true;
            continue;
        };
        let broken = |what| JournalError::Broken { line: number, what };
        let line = Line::parse(line).ok_or(broken("the line is not an entry"))?;
        if line.entry != chain.entry + 1 {
            return Err(broken("an entry is missing before this one, or this one was moved"));
        }
        if chain.link(line.body) != line.link {
            return Err(broken("this entry was changed, or one before it"));
        }
        chain = Chain { entry: line.entry, link: line.link };
        seen = seen || noted.is_some_and(|noted| noted.eq_ignore_ascii_case(&line.link.to_hex()));
    }
    if !seen {
        return Err(JournalError::Broken {
            line: chain.entry,
            what: "the head that was noted is not in it: lines were cut off, or all was written anew",
        });
    }
    Ok(Verified { entries: chain.entry, head: chain.link.to_hex().to_string(), is_torn })
}

/// One line, taken apart as far as the chain needs.
struct Line<'a> {
    entry: u64,
    body: &'a [u8],
    link: blake3::Hash,
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_suffix(b"\"}")?;
        let (rest, hex) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let body = rest.strip_suffix(LINK.as_bytes())?;
        let digits = body.strip_prefix(b"{\"entry\":")?;
        let digits = &digits[..digits.iter().position(|&byte| byte == b',')?];
        // One spelling for each: what is not exactly what was written was changed.
        if !hex.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let entry = std::str::from_utf8(digits).ok()?.parse().ok()?;
        Some(Self { entry, body, link: blake3::Hash::from_hex(hex).ok()? })
    }
}

/// Why there is no journal, or none that can be believed.
#[derive(Debug)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process writes it.
    Locked,
    /// The chain is broken.
    #[non_exhaustive]
    Broken {
        /// In which line it was noticed; 0 if that is not known.
        line: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The system said no.
    Io(io::Error),
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str("another process writes the key journal"),
            Self::Broken { line: 0, what } => write!(f, "the key journal is broken: {what}"),
            Self::Broken { line, what } => write!(f, "the key journal is broken at line {line}: {what}"),
            Self::Io(error) => write!(f, "the key journal can't be used: {error}"),
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Text in a JSON string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                '\0'..='\x1f' => write!(f, "\\u{:04x}", u32::from(character))?,
                _ => f.write_char(character)?,
            }
        }
        f.write_char('"')
    }
}

/// A point in time as RFC 3339 writes it.
struct Utc(SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, second) = (seconds(self.0) / 86_400, seconds(self.0) % 86_400);
        // In years that begin with March, the leap day is the last.
        let shifted = days + 719_468;
        let (era, day) = (shifted / 146_097, shifted % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day_of_month = day - (153 * month + 2) / 5 + 1;
        let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + next_year;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            since.subsec_millis()
        )
    }
}

const LINK: &str = ",\"chain\":\"";
const LONGEST_LINE: usize = 4096;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::Notice, *};

    #[test]
    fn when_it_can_be_written_again_it_says_how_many_events_are_missing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.jsonl");
        let file = File::create(&path).unwrap();
        let (told, entries) = mpsc::sync_channel(QUEUE);
        let lost = Lost::default();
        let tell = |written: &mut Written, events: usize| {
            for _ in 0..events {
                let event = KeyEvent::Noticed { notice: Notice::StoreReached };
                told.send(Told::Event(SystemTime::UNIX_EPOCH, event)).unwrap();
            }
            told.send(Told::End).unwrap();
            write_all(written, &entries, &lost);
            (lost.all.load(Ordering::Relaxed), lost.unsaid.load(Ordering::Relaxed))
        };
        let mut written = Written { file, chain: Chain::new() };
        assert_eq!(tell(&mut written, 1), (0, 0));
        let writable = std::mem::replace(&mut written.file, File::open(&path).unwrap());
        assert_eq!(tell(&mut written, 2), (2, 2));
        assert_eq!(tell(&mut written, 1), (3, 3));
        written.file = writable;
        assert_eq!(tell(&mut written, 1), (3, 0));
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains("\"event\":\"lost\",\"events\":3,"), "{text}");
        assert_eq!(verify(text.as_bytes(), None).unwrap().entries, 3);
    }

    #[test]
    fn times_are_written_as_in_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
