//! Logs as they are written: each line goes on at once.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use ipveil::{Scrubber, scrub::ScrubWriter};

use super::{
    codec::{self, Format, OnlyText},
    files::Input,
};

/// How long the beginning of a line waits for its end.
const PATIENCE: Duration = Duration::from_millis(500);

/// Nothing has come for so long: what was in the pipe has been read.
const QUIET: Duration = Duration::from_millis(300);

/// For how long at most there is still read when it is to end. Apache kills after three seconds.
const REST: Duration = Duration::from_secs(2);

/// When it ends though nobody takes what is written.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// What was read. An empty piece is the end, or if it is to end before that, only a sign to look.
pub(crate) type Piece = io::Result<Vec<u8>>;

pub(crate) fn channel() -> (SyncSender<Piece>, Receiver<Piece>) {
    sync_channel(16)
}

/// Reads standard input, or a pipe that has a name, until it ends. A named one ends never: when all who write to it have
/// closed it, the next one is waited for.
pub(crate) fn read(input: Input, pieces: SyncSender<Piece>) {
    // Not joined: it may wait for input when nobody takes the output any more.
    thread::spawn(move || {
        let end = match &input {
            Input::Standard => read_to_end(io::stdin(), &pieces),
            Input::File(path) => read_file(path, &pieces),
        };
        // Whoever would be told may have gone.
        let _ = pieces.send(end.map(|()| Vec::new()));
    });
}

fn read_file(path: &Path, pieces: &SyncSender<Piece>) -> io::Result<()> {
    let mut file = open(path)?;
    read_to_end(&file, pieces)?;
    while is_fifo(path) {
        // The old one is closed after that: what is written meanwhile would be lost.
        file = open(path)?;
        read_to_end(&file, pieces)?;
    }
    Ok(())
}

fn read_to_end(mut input: impl Read, pieces: &SyncSender<Piece>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => {
                let piece = buffer[..result?].to_vec();
                pieces.send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe)?;
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if is_fifo(path) {
        // Also to write to it: so there is always somebody who could, and no end between one who does and the next.
        match OpenOptions::new().read(true).write(true).open(path) {
            // Who may only read it opens it again after each end.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            result => return result,
        }
    }
    File::open(path)
}

/// How it goes from input to output.
pub(crate) struct Follow<'f> {
    pub(crate) scrubber: &'f Scrubber,
    /// Also what is no text.
    pub(crate) is_binary: bool,
    /// Set when somebody wants it to end.
    pub(crate) stop: &'f AtomicBool,
    pub(crate) input_name: String,
    pub(crate) output_name: String,
}

impl Follow<'_> {
    /// To the end; or until somebody wants it to end, and then what has been read or is in the pipe by now.
    pub(crate) fn write(&self, pieces: &Receiver<Piece>, output: impl Write) -> Result<()> {
        let read = |error: io::Error| anyhow::Error::new(error).context(self.input_name.clone());
        let written = |error: io::Error| anyhow::Error::new(error).context(self.output_name.clone());
        let mut seen = Seen::new(self.is_binary);
        let mut writer = ScrubWriter::new(self.scrubber.clone(), output);
        let mut is_waiting = false;
        let mut last = None;
        loop {
            let is_over = self.stop.load(Ordering::Relaxed);
            if is_over && Instant::now() > *last.get_or_insert_with(|| Instant::now() + REST) {
                break;
            }
            let patience = match (is_over, is_waiting) {
                (true, _) => QUIET,
                (false, true) => PATIENCE,
                (false, false) => Duration::MAX,
            };
            match pieces.recv_timeout(patience) {
                Ok(Ok(piece)) if piece.is_empty() => {
                    if !self.stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                Ok(piece) => {
                    let piece = piece.map_err(read)?;
                    seen.look(&piece).map_err(read)?;
                    is_waiting = piece.last() != Some(&b'\n');
                    writer.write_all(&piece).map_err(written)?;
                    if !is_waiting {
                        writer.flush().map_err(written)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) if !is_over => {
                    // All but what may be the beginning of an address.
                    writer.flush().map_err(written)?;
                    is_waiting = false;
                }
                Err(_) => break,
            }
        }
        writer.into_inner().and_then(|mut output| output.flush()).map_err(written)?;
        seen.end().map_err(read)
    }
}

/// What has come so far, as far as that says whether it is text.
struct Seen {
    start: Vec<u8>,
    only_text: Option<OnlyText>,
}

impl Seen {
    fn new(is_binary: bool) -> Self {
        Self { start: Vec::new(), only_text: (!is_binary).then(OnlyText::new) }
    }

    fn look(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.start.len() < codec::START {
            self.start.extend(piece.iter().take(codec::START - self.start.len()));
            if Format::of(&self.start)? != Format::Plain {
                let text = "is compressed, which --follow can't read (expected text)";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        self.only_text.as_mut().map_or(Ok(()), |text| text.look(piece))
    }

    fn end(&self) -> io::Result<()> {
        self.only_text.as_ref().map_or(Ok(()), OnlyText::end)
    }
}

#[cfg(unix)]
fn is_fifo(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;

    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

#[cfg(not(unix))]
fn is_fifo(_: &Path) -> bool {
    false
}
