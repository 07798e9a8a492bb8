//! Reads a text, scrubs it on all cores, and writes it in the same order.
//!
//! Each thread reads a piece that ends with a line, scrubs it, and writes it when it is its turn: what a core has read it has
//! still in its cache when it scrubs it. There is no queue, so memory is bounded.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    ops::AddAssign,
    path::Path,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use ipveil::{
    Scrubber,
    scrub::{Found, cut},
};

use super::{days::Day, running};

/// What happens to a text.
pub(crate) struct Work<'w> {
    pub(crate) scrubber: &'w Scrubber,
    /// Each day's pseudonyms are in a scope of their own.
    pub(crate) by_day: bool,
    /// Somebody else scrubs: a running proxy.
    pub(crate) running: Option<&'w Path>,
    /// Nothing is written.
    pub(crate) only_count: bool,
    pub(crate) threads: usize,
    /// Set when somebody wants it to end.
    pub(crate) stop: &'w AtomicBool,
    /// How many bytes have been read.
    pub(crate) read: &'w AtomicU64,
}

/// What there was in a text.
#[derive(Clone, Copy, Default)]
pub(crate) struct Summary {
    pub(crate) lines: u64,
    pub(crate) found: Found,
    /// The number of the first line in which something was found, if nothing is written.
    pub(crate) first: Option<u64>,
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.first = self.first.or(other.first.map(|line| self.lines + line));
        self.lines += other.lines;
        self.found += other.found;
    }
}

/// How much is read at once: as much as a core has room for in its own cache, with what becomes of it.
const PIECE: usize = 128 * 1024;

/// Why a text was not scrubbed to its end.
pub(crate) enum Problem {
    Read(io::Error),
    Write(io::Error),
    /// The proxy that was to scrub did not.
    Running(anyhow::Error),
    /// Days were to be apart, and no line says of which it is.
    NoDay,
    /// A thread did, and what it had read is lost.
    Panicked,
    Stopped,
}

/// What is read from, and where that is.
struct Source<R> {
    input: R,
    // The beginning of the next piece.
    rest: Vec<u8>,
    // Of the last line that has one.
    day: Option<Day>,
    pieces: u64,
    is_over: bool,
}

/// What is written to, and whose turn it is.
struct Sink<W> {
    output: W,
    turn: u64,
    all: Summary,
    problem: Option<Problem>,
}

impl Work<'_> {
    /// Does it.
    pub(crate) fn run(&self, input: impl Read + Send, output: impl Write + Send) -> Result<Summary, Problem> {
        let source = Source { input, rest: Vec::new(), day: None, pieces: 0, is_over: false };
        let source = Mutex::new(source);
        let sink = Mutex::new(Sink { output, turn: 0, all: Summary::default(), problem: None });
        let turned = Condvar::new();
        thread::scope(|scope| {
            let start = |_| scope.spawn(|| self.work(&source, &sink, &turned));
            let threads: Vec<_> = (0..self.threads).map(start).collect();
            for thread in threads {
                // Whether it panicked the sink says.
                let _ = thread.join();
            }
        });
        let mut sink = sink.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = sink.problem {
            return Err(problem);
        }
        sink.output.flush().map_err(Problem::Write)?;
        if self.by_day && !sink.all.found.is_empty() && lock(&source).day.is_none() {
            return Err(Problem::NoDay);
        }
        Ok(sink.all)
    }

    fn work<R: Read, W: Write>(&self, source: &Mutex<Source<R>>, sink: &Mutex<Sink<W>>, turned: &Condvar) {
        // First, so that it is dropped when the locks are free.
        let _guard = Guard { sink, turned };
        let mut pass = self.scrubber.pass();
        let (mut text, mut out) = (Vec::new(), Vec::new());
        loop {
            text.clear();
            out.clear();
            let (turn, day) = match self.read(&mut lock(source), &mut text) {
                Ok(Some(piece)) => piece,
                Ok(None) => return,
                Err(problem) => {
                    lock(sink).problem.get_or_insert(problem);
                    turned.notify_all();
                    return;
                }
            };
            let found = match (self.only_count, self.running, self.by_day) {
                (true, ..) => self.scrubber.count(&text),
                (false, Some(socket), _) => match running::scrub(socket, &text) {
                    Ok(scrubbed) => {
                        out = scrubbed;
                        self.scrubber.count(&text)
                    }
                    Err(error) => {
                        lock(sink).problem.get_or_insert(Problem::Running(error));
                        turned.notify_all();
                        return;
                    }
                },
                (false, None, false) => pass.scrub_into(&text, &mut out),
                (false, None, true) => self.scrub_days(&text, day, &mut out),
            };
            let lines = memchr::memchr_iter(b'\n', &text).count() as u64;
            let first = if self.only_count && !found.is_empty() { self.first_line(&text) } else { None };

            let mut sink = turned
                .wait_while(lock(sink), |sink| sink.turn != turn && sink.problem.is_none())
                .unwrap_or_else(PoisonError::into_inner);
            if sink.problem.is_some() {
                return;
            }
            match sink.output.write_all(&out) {
                Ok(()) => sink.all += Summary { lines, found, first },
                Err(error) => sink.problem = Some(Problem::Write(error)),
            }
            sink.turn += 1;
            drop(sink);
            turned.notify_all();
        }
    }

    /// Reads the next piece, and says which it is, and of which day the line before it was; nothing at the end.
    fn read(&self, source: &mut Source<impl Read>, text: &mut Vec<u8>) -> Result<Option<(u64, Option<Day>)>, Problem> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Problem::Stopped);
        }
        if source.is_over {
            return Ok(None);
        }
        text.append(&mut source.rest);
        let wanted = PIECE as u64;
        let read = (&mut source.input).take(wanted).read_to_end(text).map_err(|error| {
            source.is_over = true;
            Problem::Read(error)
        })?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        source.is_over = (read as u64) < wanted;
        if !source.is_over {
            let end = cut(text);
            source.rest.extend_from_slice(&text[end..]);
            text.truncate(end);
        }
        if text.is_empty() {
            return Ok(None);
        }
        let day = source.day;
        if self.by_day {
            source.day = Day::last_in(text, day);
        }
        source.pieces += 1;
        Ok(Some((source.pieces - 1, day)))
    }

    fn first_line(&self, text: &[u8]) -> Option<u64> {
        let place = self.scrubber.find(text).next()?;
        Some(memchr::memchr_iter(b'\n', &text[..place.start]).count() as u64 + 1)
    }

    /// Line by line, each in the scope of its day, or of the last one before it that has any.
    fn scrub_days(&self, text: &[u8], mut day: Option<Day>, out: &mut Vec<u8>) -> Found {
        let mut found = Found::default();
        let mut scrubbers = HashMap::new();
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            day = Day::of(line, day);
            let scrubber = scrubbers.entry(day).or_insert_with(|| {
                let name = day.map_or_else(|| "no day".to_owned(), |day| day.to_string());
                self.scrubber.clone().scoped(name)
            });
            found += scrubber.scrub_into(line, out);
        }
        found
    }
}

/// Tells the other threads if this one panics: its turn would never end, and they would wait for theirs.
struct Guard<'g, W> {
    sink: &'g Mutex<Sink<W>>,
    turned: &'g Condvar,
}

impl<W> Drop for Guard<'_, W> {
    fn drop(&mut self) {
        if thread::panicking() {
            lock(self.sink).problem.get_or_insert(Problem::Panicked);
            self.turned.notify_all();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    /// Panics in the first turn.
    struct Panicking;

    impl Write for Panicking {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("as it was told to")
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_thread_that_panics_ends_the_others() {
        let (sender, result) = mpsc::channel();
        thread::spawn(move || {
            let work = Work {
                scrubber: &Scrubber::word("x").expect("it is clean"),
                by_day: false,
                running: None,
                only_count: false,
                threads: 4,
                stop: &AtomicBool::new(false),
                read: &AtomicU64::new(0),
            };
            let log = "from 203.0.113.7\n".repeat(100_000);
            let result = work.run(log.as_bytes(), Panicking);
            let _ = sender.send(matches!(result, Err(Problem::Panicked)));
        });
        // Long enough for a slow machine: it takes no time, or for ever.
        assert_eq!(result.recv_timeout(Duration::from_secs(60)), Ok(true));
    }
}
