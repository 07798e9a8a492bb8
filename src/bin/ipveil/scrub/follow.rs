//! Logs as they are written: each line goes on at once.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use ipveil::{Scrubber, scrub::ScrubWriter};

/// How long the beginning of a line waits for its end.
const PATIENCE: Duration = Duration::from_millis(500);

/// Reads standard input, or a pipe that has a name, until it ends. A named one ends never: when all who write to it have
/// closed it, the next one is waited for.
pub(crate) fn follow(scrubber: &Scrubber, path: Option<&Path>, output: impl Write) -> Result<()> {
    let name = path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    let (sender, pieces) = sync_channel(16);
    let path = path.map(Path::to_owned);
    // Not joined: it may wait for input when nobody takes the output any more.
    thread::spawn(move || {
        let read = |mut input: Box<dyn Read>| {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match input.read(&mut buffer) {
                    Ok(0) => return true,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => {
                        let is_error = result.is_err();
                        let piece = result.map(|length| buffer[..length].to_vec());
                        if sender.send(piece).is_err() || is_error {
                            return false;
                        }
                    }
                }
            }
        };
        let Some(path) = path else {
            read(Box::new(io::stdin()));
            return;
        };
        loop {
            match File::open(&path) {
                Ok(file) => {
                    if !(read(Box::new(file)) && is_fifo(&path)) {
                        return;
                    }
                }
                Err(error) => {
                    // Whoever would be told has gone.
                    let _ = sender.send(Err(error));
                    return;
                }
            }
        }
    });
    write(scrubber, &pieces, output).with_context(|| name)
}

fn write(scrubber: &Scrubber, pieces: &Receiver<io::Result<Vec<u8>>>, output: impl Write) -> io::Result<()> {
    let mut writer = ScrubWriter::new(scrubber.clone(), output);
    let mut is_waiting = false;
    loop {
        let piece = match is_waiting {
            true => pieces.recv_timeout(PATIENCE),
            false => pieces.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match piece {
            Ok(piece) => {
                let piece = piece?;
                is_waiting = piece.last() != Some(&b'\n');
                writer.write_all(&piece)?;
                if !is_waiting {
                    writer.flush()?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                // All but what may be the beginning of an address.
                writer.flush()?;
                is_waiting = false;
            }
            Err(RecvTimeoutError::Disconnected) => return writer.into_inner()?.flush(),
        }
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
