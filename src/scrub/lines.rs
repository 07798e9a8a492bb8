//! What is written line by line, in as many pieces as it comes.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Write},
};

use super::Scrubber;

/// Writes everything without addresses, line by line.
///
/// A line may come in several pieces; it goes on when it is complete. [`flush`](Write::flush) lets go of what is there of
/// it, except what may be the beginning of an address; dropping the writer lets go of the rest. At most 128 KiB of a line are
/// held back.
///
/// ```
/// use std::io::Write as _;
///
/// let scrubber = ipveil::Scrubber::word("(address)")?;
/// let mut writer = ipveil::scrub::ScrubWriter::new(scrubber, Vec::new());
/// write!(writer, "from 203.0.")?;
/// writeln!(writer, "113.7")?;
/// assert_eq!(writer.into_inner()?, b"from (address)\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Those of the inner writer. What could not be written is kept, and tried again at the next call; an error that came up
/// when a line was already taken is told then.
pub struct ScrubWriter<W: Write> {
    scrubber: Scrubber,
    // Only `into_inner` takes it.
    inner: Option<W>,
    // The line that is not complete.
    line: Vec<u8>,
    // Scrubbed, and not yet written.
    ready: Vec<u8>,
}

/// From here on a line is cut.
const LONGEST_LINE: usize = 64 * 1024;

impl<W: Write> ScrubWriter<W> {
    /// Writes to `inner`.
    pub fn new(scrubber: Scrubber, inner: W) -> Self {
        Self { scrubber, inner: Some(inner), line: Vec::new(), ready: Vec::new() }
    }

    /// The inner writer, after all that is left has been written to it.
    ///
    /// # Errors
    ///
    /// Those of the inner writer.
    pub fn into_inner(mut self) -> io::Result<W> {
        self.finish()?;
        self.inner.take().ok_or_else(|| io::Error::other("the writer is gone"))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.take_line(self.line.len());
        self.write_ready()
    }

    /// Scrubs so much of the line.
    fn take_line(&mut self, length: usize) {
        self.scrubber.scrub_into(&self.line[..length], &mut self.ready);
        self.line.drain(..length);
    }

    fn write_ready(&mut self) -> io::Result<()> {
        let Some(inner) = &mut self.inner else {
            return Ok(());
        };
        let (mut written, mut result) = (0, Ok(()));
        while written < self.ready.len() && result.is_ok() {
            match inner.write(&self.ready[written..]) {
                Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => result = Err(error),
            }
        }
        self.ready.drain(..written);
        result
    }

    /// Whole lines, with nothing before them: nothing has to be copied.
    fn write_lines(&mut self, lines: &[u8]) {
        match self.scrubber.scrub(lines) {
            Cow::Owned(scrubbed) => self.ready = scrubbed,
            Cow::Borrowed(lines) => {
                let written = self.inner.as_mut().map_or(Ok(lines.len()), |inner| inner.write(lines));
                // What is not written now is later.
                self.ready.extend_from_slice(&lines[written.unwrap_or(0)..]);
            }
        }
    }
}

impl<W: Write> Write for ScrubWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_ready()?;
        let mut rest = bytes;
        if self.line.is_empty() && rest.last() == Some(&b'\n') {
            self.write_lines(rest);
            rest = &[];
        }
        for piece in rest.chunks(LONGEST_LINE) {
            self.line.extend_from_slice(piece);
            let end = match self.line.iter().rposition(|&byte| byte == b'\n') {
                Some(end) => end + 1,
                None if self.line.len() > LONGEST_LINE => cut(&self.line),
                None => 0,
            };
            self.take_line(end);
        }
        if !self.ready.is_empty() {
            // It is taken: an error is told at the next call.
            let _ = self.write_ready();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.take_line(boundary(&self.line).unwrap_or(0));
        self.write_ready()?;
        self.inner.as_mut().map_or(Ok(()), W::flush)
    }
}

impl<W: Write> Drop for ScrubWriter<W> {
    fn drop(&mut self) {
        // Who wants to know calls `into_inner`.
        let _ = self.finish();
    }
}

impl<W: Write> fmt::Debug for ScrubWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScrubWriter(..)")
    }
}

/// Where a text that goes on can be cut, so that no address is: after its last line, or if it has none, where no address
/// can be. All of it, if it has no such place.
///
/// ```
/// use ipveil::scrub::cut;
///
/// assert_eq!(cut(b"from 203.0.113.7\nfrom 203.0"), 17);
/// assert_eq!(cut(b"from 203.0"), 5);
/// ```
#[must_use]
pub fn cut(text: &[u8]) -> usize {
    let after = |is: fn(&u8) -> bool| text.iter().rposition(is).map(|place| place + 1);
    after(|&byte| byte == b'\n')
        .or_else(|| boundary(text))
        .or_else(|| encoded_boundary(text))
        // Thousands of characters without a space or a quote: nobody's log, so what is cut is at most a word.
        .or_else(|| after(|byte| !byte.is_ascii_hexdigit() && !b".:%-".contains(byte)))
        .or_else(|| text.iter().rposition(|&byte| byte == b'-').filter(|&place| place > 0))
        .unwrap_or(text.len())
}

/// After the last character in percent-encoding, however often encoded, that is in no address and no word.
fn encoded_boundary(text: &[u8]) -> Option<usize> {
    let is_end = |byte: u8| !byte.is_ascii_alphanumeric() && !b".:%-_".contains(&byte);
    let ends = |place: usize| {
        let mut rest = text[place..].strip_prefix(b"%")?;
        while let Some(more) = rest.strip_prefix(b"25") {
            rest = more;
        }
        let digit = |place: usize| char::from(*rest.get(place)?).to_digit(16);
        let byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        is_end(byte).then(|| text.len() - rest.len() + 2)
    };
    (0..text.len()).rev().filter(|&place| text[place] == b'%').find_map(ends)
}

/// After the last character that is in no address, and in nothing that is looked at around one; not after the marks by which
/// tcpdump's addresses are known.
fn boundary(text: &[u8]) -> Option<usize> {
    const ENDS: [bool; 256] = {
        let characters = b" \t\r\n\"'`,;=()<>{}|&?!*+@~^$";
        let mut table = [false; 256];
        let mut place = 0;
        while place < characters.len() {
            table[characters[place] as usize] = true;
            place += 1;
        }
        table
    };
    let mut end = text.len();
    loop {
        end = text[..end].iter().rposition(|&byte| ENDS[usize::from(byte)])? + 1;
        let word = text[..end].strip_suffix(b" ").unwrap_or(&text[..end]);
        let marks = [&b" >"[..], b" ->", b" IP"];
        if marks.iter().any(|mark| word == &mark[1..]) {
            return None;
        }
        match marks.iter().find(|mark| word.ends_with(mark)) {
            // The space before it is a boundary, too.
            Some(mark) => end = word.len() - mark.len() + 1,
            None => return Some(end),
        }
    }
}
