//! The access log: one line for each request, with the pseudonym of the view `log`, and without any address.
//!
//! A thread collects lines in a buffer of its own and hands it over when it is full, or has waited for some time. Another
//! thread scrubs and writes them, so that no request waits for a disk.

use std::{
    borrow::Cow,
    cell::RefCell,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{self, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use http::{HeaderValue, Version, uri::PathAndQuery};
use ipveil::Scrubber;

use super::record::Line;
use crate::config::LogFormat;

/// Where lines go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    format: LogFormat,
    // Goes with the lines, since another configuration may have another one.
    scrubber: Arc<Scrubber>,
}

struct Shared {
    to: PathBuf,
    writer: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    // Whether the file has to be opened again.
    is_moved: Arc<AtomicBool>,
}

enum Message {
    Lines(Vec<u8>, Arc<Scrubber>),
    /// The file was moved away: known already to a thread that has other things to do.
    Moved,
    /// Says when all before it is written.
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Starts the thread that writes.
    pub(crate) fn start(to: &Path, format: LogFormat, scrubber: Scrubber) -> anyhow::Result<Self> {
        let mut out = open(to).with_context(|| to.display().to_string())?;
        let (writer, messages) = mpsc::sync_channel(MOST_WAITING);
        let shared = Arc::new(Shared { to: to.to_owned(), writer, lost: Arc::default(), is_moved: Arc::default() });
        let (path, is_moved, lost) = (to.to_owned(), Arc::clone(&shared.is_moved), Arc::clone(&shared.lost));
        // It ends with the last who writes to it, and nobody waits for it: it may wait for a disk.
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            let complain = |error: io::Error| {
                tracing::error!(file = %path.display(), kind = ?error.kind(), "the access log can't be written");
            };
            for message in messages {
                if is_moved.swap(false, Relaxed) {
                    match open(&path) {
                        Ok(new) => out = new,
                        Err(error) => {
                            let (file, kind) = (path.display(), error.kind());
                            tracing::error!(%file, ?kind, "the access log can't be opened again: the old file is used");
                        }
                    }
                }
                match message {
                    Message::Lines(lines, scrubber) => {
                        let written = out.write_all(&scrubber.scrub(&lines)).and_then(|()| out.flush());
                        if let Err(error) = written {
                            lost.fetch_add(count(&lines), Relaxed);
                            complain(error);
                        }
                    }
                    Message::Moved => {}
                    Message::Flush(done) => {
                        let _ = done.send(());
                    }
                }
            }
        })?;
        Ok(Self { shared, format, scrubber: Arc::new(scrubber) })
    }

    /// The same, for another configuration; nothing if it writes somewhere else.
    pub(crate) fn again(&self, to: &Path, format: LogFormat, scrubber: Scrubber) -> Option<Self> {
        let is_there = self.shared.to == to;
        is_there.then(|| Self { shared: Arc::clone(&self.shared), format, scrubber: Arc::new(scrubber) })
    }

    /// Opens the file again, which somebody may have moved away. Does not wait for a disk.
    pub(crate) fn reopen(&self) {
        self.shared.is_moved.store(true, Relaxed);
        // If there is no room, there is something to write, and it will be noticed.
        let _ = self.shared.writer.try_send(Message::Moved);
    }

    /// How many lines were lost because they could not be written, or not as fast as requests came.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }

    /// Returns when everything that was handed over is written, or at that time, but not at once.
    pub(crate) fn finish(&self, end: Instant) {
        let (done, is_done) = mpsc::sync_channel(1);
        let end = end.max(Instant::now() + LAST_WRITE);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.shared.writer.try_send(message) {
            if Instant::now() >= end {
                return;
            }
            message = back;
            thread::sleep(Duration::from_millis(10));
        }
        let _ = is_done.recv_timeout(end.saturating_duration_since(Instant::now()));
    }

    fn hand_over(&self, lines: Vec<u8>) {
        let message = Message::Lines(lines, Arc::clone(&self.scrubber));
        if let Err(TrySendError::Full(Message::Lines(lines, _))) = self.shared.writer.try_send(message) {
            self.shared.lost.fetch_add(count(&lines), Relaxed);
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|&&byte| byte == b'\n').count() as u64
}

fn open(to: &Path) -> io::Result<Box<dyn io::Write + Send>> {
    if to.as_os_str() == "stdout" {
        return Ok(Box::new(io::stdout()));
    }
    if let Some(parent) = to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    Ok(Box::new(OpenOptions::new().create(true).append(true).open(to)?))
}

thread_local! {
    static LINES: RefCell<Buffer> = const { RefCell::new(Buffer { lines: Vec::new(), second: 0, time: String::new(), log: None }) };
}

/// The lines of one thread.
struct Buffer {
    lines: Vec<u8>,
    // The time as text changes once a second.
    second: u64,
    time: String,
    log: Option<AccessLog>,
}

/// Writes a line of the thread's buffer.
pub(crate) fn write(log: &AccessLog, line: &Line, status: u16, sent: u64, took: Duration) {
    LINES.with_borrow_mut(|buffer| {
        // Each configuration's log has a scrubber of its own.
        if !buffer.log.as_ref().is_some_and(|there| Arc::ptr_eq(&there.scrubber, &log.scrubber)) {
            buffer.flush();
            buffer.log = Some(log.clone());
            buffer.second = 0;
        }
        buffer.tell_time(log.format);
        let Buffer { lines, time, .. } = buffer;
        match log.format {
            LogFormat::Combined => combined(lines, time, line, status, sent),
            LogFormat::Json => json(lines, time, line, status, sent, took),
        }
        if lines.len() >= FULL {
            buffer.flush();
        }
    });
}

/// Hands over what the thread has.
pub(crate) fn flush() {
    LINES.with_borrow_mut(Buffer::flush);
}

impl Buffer {
    fn flush(&mut self) {
        if let Some(log) = &self.log
            && !self.lines.is_empty()
        {
            let room = self.lines.len().min(FULL) + FULL / 8;
            log.hand_over(std::mem::replace(&mut self.lines, Vec::with_capacity(room)));
        }
    }

    fn tell_time(&mut self, format: LogFormat) {
        let second = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second == self.second {
            return;
        }
        self.second = second;
        self.time.clear();
        let time = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        let _ = write!(self.time, "{time}");
        if format == LogFormat::Combined {
            self.time = as_in_common_log(&self.time).unwrap_or_default();
        }
    }
}

fn combined(lines: &mut Vec<u8>, time: &str, line: &Line, status: u16, sent: u64) {
    let _ = write!(lines, "{}", line.who);
    lines.extend_from_slice(b" - - [");
    lines.extend_from_slice(time.as_bytes());
    lines.extend_from_slice(b"] \"");
    lines.extend_from_slice(line.method.as_str().as_bytes());
    lines.push(b' ');
    push_escaped(lines, target(line).as_bytes());
    lines.push(b' ');
    lines.extend_from_slice(version(line.version).as_bytes());
    lines.extend_from_slice(b"\" ");
    push_number(lines, status.into());
    lines.push(b' ');
    push_number(lines, sent);
    for value in [&line.referer, &line.user_agent] {
        lines.extend_from_slice(b" \"");
        push_escaped(lines, value.as_ref().map_or(b"-", HeaderValue::as_bytes));
        lines.push(b'"');
    }
    lines.push(b'\n');
}

fn json(lines: &mut Vec<u8>, time: &str, line: &Line, status: u16, sent: u64, took: Duration) {
    lines.extend_from_slice(b"{\"time\":\"");
    lines.extend_from_slice(time.as_bytes());
    lines.extend_from_slice(b"\",\"client\":\"");
    let _ = write!(lines, "{}", line.who);
    lines.extend_from_slice(b"\",\"method\":\"");
    lines.extend_from_slice(line.method.as_str().as_bytes());
    for (name, value) in [
        // What the target says counts, and in HTTP/2 nothing else says it. Without a password.
        (
            "host",
            line.uri
                .authority()
                .map(|host| without_user(host.as_str()))
                .or(line.host.as_ref().map(HeaderValue::as_bytes)),
        ),
        ("target", Some(target(line).as_bytes())),
        ("referer", line.referer.as_ref().map(HeaderValue::as_bytes)),
        ("user_agent", line.user_agent.as_ref().map(HeaderValue::as_bytes)),
        ("protocol", Some(version(line.version).as_bytes())),
    ] {
        let Some(value) = value else { continue };
        lines.extend_from_slice(b"\",\"");
        lines.extend_from_slice(name.as_bytes());
        lines.extend_from_slice(b"\":\"");
        push_json(lines, value);
    }
    lines.extend_from_slice(b"\",\"status\":");
    push_number(lines, status.into());
    lines.extend_from_slice(b",\"bytes\":");
    push_number(lines, sent);
    lines.extend_from_slice(b",\"milliseconds\":");
    push_number(lines, u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    lines.extend_from_slice(b"}\n");
}

fn without_user(authority: &str) -> &[u8] {
    authority.rsplit('@').next().unwrap_or(authority).as_bytes()
}

/// As it was sent on: of CONNECT it is the host, and before a query there is a path.
fn target(line: &Line) -> Cow<'_, str> {
    match (line.uri.path_and_query().map(PathAndQuery::as_str), line.uri.authority()) {
        (Some(query), _) if query.starts_with('?') => format!("/{query}").into(),
        (Some(target), _) => target.into(),
        (None, Some(host)) => String::from_utf8_lossy(without_user(host.as_str())),
        (None, None) => line.uri.path().into(),
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

fn push_number(lines: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    lines.extend_from_slice(&digits[start..]);
}

/// A client writes no second line, and ends no quotes: as nginx has it.
fn push_escaped(lines: &mut Vec<u8>, text: &[u8]) {
    push_with(lines, text, |lines, byte| {
        let _ = write!(lines, "\\x{byte:02X}");
    });
}

fn push_json(lines: &mut Vec<u8>, text: &[u8]) {
    // A terminal shows what is ASCII without harm.
    let escape = |lines: &mut Vec<u8>, unit: u16| {
        let _ = write!(lines, "\\u{unit:04x}");
    };
    match std::str::from_utf8(text) {
        Ok(text) if !text.is_ascii() => {
            for unit in text.encode_utf16() {
                match u8::try_from(unit) {
                    Ok(byte) if !is_special(byte) => lines.push(byte),
                    _ => escape(lines, unit),
                }
            }
        }
        _ => push_with(lines, text, |lines, byte| escape(lines, byte.into())),
    }
}

fn is_special(byte: u8) -> bool {
    !(0x20..0x7f).contains(&byte) || matches!(byte, b'"' | b'\\')
}

fn push_with(lines: &mut Vec<u8>, text: &[u8], special: impl Fn(&mut Vec<u8>, u8)) {
    // Nearly all texts have nothing special in them.
    if !text.iter().fold(false, |any, &byte| any | is_special(byte)) {
        lines.extend_from_slice(text);
        return;
    }
    for &byte in text {
        if is_special(byte) {
            special(lines, byte);
        } else {
            lines.push(byte);
        }
    }
}

/// `2026-11-25T12:34:56Z`, as Apache's common log format has it.
fn as_in_common_log(time: &str) -> Option<String> {
    let month: usize = time.get(5..7)?.parse().ok()?;
    let (day, month, year) = (time.get(8..10)?, MONTHS.get(month.checked_sub(1)?)?, time.get(..4)?);
    Some(format!("{day}/{month}/{year}:{} +0000", time.get(11..19)?))
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// For the last lines, however late it is.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// How many bytes of lines a thread collects.
const FULL: usize = 64 * 1024;

/// How many full buffers wait before lines are lost: 16 MiB.
const MOST_WAITING: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_log_readers_expect() {
        assert_eq!(as_in_common_log("2000-02-29T00:00:09Z").as_deref(), Some("29/Feb/2000:00:00:09 +0000"));
        assert_eq!(as_in_common_log("2026-12-31T23:59:59Z").as_deref(), Some("31/Dec/2026:23:59:59 +0000"));
        assert_eq!(as_in_common_log("2026-13-31T23:59:59Z"), None);
    }
}
