//! `ipveil scrub`: logs without addresses.

pub(crate) mod codec;
mod days;
pub(crate) mod files;
mod follow;
mod pipeline;
mod running;

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    io::{self, IsTerminal as _, Read, Write},
    path::PathBuf,
    process::ExitCode,
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ipveil::{
    KeyRing, Networks, Policy, Scrubber,
    keys::{Epochs, MemorySource},
    policy::{Scope, View},
};

use self::{
    files::Input,
    pipeline::{Problem, Summary, Work},
};

/// Takes IP addresses out of logs: IPv4 and IPv6, in any place.
///
/// Reads files, directories, patterns, or standard input, as text, gzip or zstd. Pseudonyms are made under a key that is fresh for
/// each run, changes at 00:00 UTC, and is destroyed at its end: the same address is the same pseudonym until then, and never
/// again. Whoever reads what is written can join its lines by that; with `--as network` or `word`, or `--by-day`, less so.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 done; 1 with --check, an address was found; 2 something went wrong, or with --check was skipped; 130 interrupted.

Examples:
  ipveil scrub access.log > clean.log
  ipveil scrub --in-place --by-day /var/log/nginx '/var/log/app/*.log.gz'
  ipveil scrub --check clean.log

  nginx, which writes to files and pipes:
    mkfifo /run/access.fifo; ipveil scrub --follow /run/access.fifo --output /var/log/nginx/access.log
    access_log /run/access.fifo combined;
  Apache, which starts a program:
    CustomLog \"|/usr/bin/ipveil scrub --follow --output /var/log/apache2/access.log\" combined

A log that a server has open is replaced under its hands by --in-place: rotate it first.")]
pub(crate) struct Arguments {
    /// Files, directories, or patterns such as '*.log.gz'; `-` or nothing for standard input. Links inside of directories are
    /// skipped, and told.
    paths: Vec<PathBuf>,

    /// What stands in for an address: `token`, `address`, `network` (or `network=/24,/48`, or coarser), `word=TEXT`.
    #[arg(long = "as", value_name = "WHAT", default_value = "token", value_parser = StandIn::parse)]
    stand_in: StandIn,

    /// The pseudonyms are those of a running proxy's view `log`: the text is given to it, through this admin socket, so that its
    /// keys stay where they are. Addresses in a text have no session: under `per session` each gets a pseudonym of its own.
    #[cfg(feature = "proxy")]
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["stand_in", "by_day", "keep", "products", "follow"])]
    running: Option<PathBuf>,

    /// Each day in the log has pseudonyms of its own, so that days can't be joined. Lines without a date are of the day before; a
    /// log without any is an error.
    #[arg(long, conflicts_with = "follow")]
    by_day: bool,

    /// Addresses that stay: CIDRs, addresses, or loopback, private, link-local. Separated by commas, or several times.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    keep: Vec<String>,

    /// Products whose versions look like addresses, instead of those of common browsers; an empty one for none.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    products: Option<Vec<String>>,

    /// Writes each file over itself: at once, when it is done, with its mode and owner. What is clean already is not touched.
    #[arg(long, short = 'i', conflicts_with_all = ["output", "check", "follow"])]
    in_place: bool,

    /// Writes to this file, or for several inputs into this directory, instead of standard output.
    #[arg(long, short = 'o', value_name = "PATH", conflicts_with = "check")]
    output: Option<PathBuf>,

    /// What is written is compressed: `same` as the input for files, `none` for standard output.
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "check")]
    compress: Option<Compress>,

    /// Changes nothing; the exit code is 1 if there is any address, 2 if something could not be looked at.
    #[arg(long, conflicts_with = "follow")]
    check: bool,

    /// Goes on for as long as there is input, and writes each line at once: for pipes. A signal ends it when what is in the pipe by
    /// then has been written.
    #[arg(long)]
    follow: bool,

    /// Scrubs also what is no text. Only addresses in text are found, and what counts bytes no longer fits.
    #[arg(long)]
    binary: bool,

    /// How many threads scrub; one for each core by default.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,

    /// Says nothing unless something goes wrong.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compress {
    Same,
    None,
    Gzip,
    Zstd,
}

#[derive(Clone)]
enum StandIn {
    Token,
    Address,
    Network(u8, u8),
    Word(String),
}

impl StandIn {
    fn parse(text: &str) -> Result<Self> {
        const EXPECTED: &str = "expected token, address, network, network=/24,/48 or word=TEXT";
        let width = |text: &str| text.strip_prefix('/').and_then(|width| width.parse().ok());
        match text.split_once('=') {
            None if text == "token" => Ok(Self::Token),
            None if text == "address" => Ok(Self::Address),
            None if text == "network" => Ok(Self::Network(24, 48)),
            Some(("network", widths)) => {
                let widths = widths.split_once(',').and_then(|(v4, v6)| Some((width(v4)?, width(v6)?)));
                widths.map(|(v4, v6)| Self::Network(v4, v6)).ok_or_else(|| anyhow!(EXPECTED))
            }
            Some(("word", word)) => Ok(Self::Word(word.to_owned())),
            _ => bail!(EXPECTED),
        }
    }

    fn scrubber(&self) -> Result<Scrubber> {
        let view = match self {
            Self::Word(word) => return Scrubber::word(word.as_str()).context("--as word"),
            Self::Token => View::token("scrub"),
            Self::Address => View::address("scrub"),
            Self::Network(v4, v6) => View::network("scrub").keep(*v4, *v6),
        };
        // Only within one run, or one day of it.
        let policy = Policy::new(Scope::unscoped(), [view]).context("--as network")?;
        let keys = KeyRing::start(MemorySource, Epochs::daily())?;
        Ok(Scrubber::new(&policy, "scrub", keys)?)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut scrubber = arguments.stand_in.scrubber()?;
    if !arguments.keep.is_empty() {
        scrubber = scrubber.keep(Networks::parse(&arguments.keep).context("--keep")?);
    }
    if let Some(products) = &arguments.products {
        scrubber = scrubber.products(products.iter().filter(|product| !product.is_empty()));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let job = Job { arguments, scrubber: &scrubber, stop: &stop };
    if arguments.follow {
        return job.follow(&stop);
    }
    let inputs = files::inputs(&arguments.paths)?;
    job.check_targets(&inputs.read)?;
    stop_on_signals(&stop, PATIENCE, || ())?;
    for path in &inputs.skipped {
        print_line(&format!("warning: {}: is no file, and was skipped (name what a link leads to)", path.display()));
    }
    // What was not looked at is not clean.
    let is_incomplete = arguments.check && !inputs.skipped.is_empty();
    Ok(job.run(&inputs.read, if is_incomplete { FAILED } else { 0 }))
}

/// The first signal ends what is under way, and leaves nothing half done; `tell` wakes who would not notice. The next one ends
/// the program, and so does time: what is under way may wait for somebody else.
fn stop_on_signals(stop: &Arc<AtomicBool>, patience: Duration, tell: impl Fn() + Send + 'static) -> Result<()> {
    let stop = Arc::clone(stop);
    ctrlc::set_handler(move || {
        if stop.swap(true, Ordering::Relaxed) {
            give_up();
        }
        tell();
        thread::spawn(move || {
            thread::sleep(patience);
            give_up();
        });
    })
    .context("signals can't be handled")
}

fn give_up() -> ! {
    let unfinished = files::unfinished();
    if let Some(path) = &*unfinished {
        // It may have its place by now.
        let _ = fs::remove_file(path);
    }
    std::process::exit(INTERRUPTED.into());
}

/// Much longer than what is under way takes if nothing has to be waited for.
const PATIENCE: Duration = Duration::from_secs(1);

const FOUND: u8 = 1;
const FAILED: u8 = 2;
const INTERRUPTED: u8 = 130;

struct Job<'j> {
    arguments: &'j Arguments,
    scrubber: &'j Scrubber,
    stop: &'j AtomicBool,
}

impl Job<'_> {
    fn follow(&self, stop: &Arc<AtomicBool>) -> Result<ExitCode> {
        let Arguments { paths, output, binary, .. } = self.arguments;
        let input = match paths.as_slice() {
            [] => Input::Standard,
            [path] if path.as_os_str() == "-" => Input::Standard,
            [path] => Input::File(path.clone()),
            _ => bail!("--follow reads one pipe (expected standard input or one path)"),
        };
        if self.arguments.compress.is_some_and(|compress| compress != Compress::None) {
            bail!("--follow writes each line at once, which compression can't (expected no --compress)");
        }
        self.check_loops(slice::from_ref(&input))?;
        let (sender, pieces) = follow::channel();
        let teller = sender.clone();
        // Where there is no room for it, nobody waits for it.
        stop_on_signals(stop, follow::DEADLINE, move || drop(teller.try_send(Ok(Vec::new()))))?;
        let (output, output_name): (Box<dyn Write>, _) = match output {
            Some(path) => (Box::new(files::append_to(path)?), path.display().to_string()),
            None => (Box::new(io::stdout().lock()), "standard output".to_owned()),
        };
        let follow =
            follow::Follow { scrubber: self.scrubber, is_binary: *binary, stop, input_name: input.name(), output_name };
        follow::read(input, sender);
        follow.write(&pieces, output)?;
        Ok(ExitCode::from(if stop.load(Ordering::Relaxed) { INTERRUPTED } else { 0 }))
    }

    /// What would go wrong only after some files are done, if nobody looked before.
    fn check_targets(&self, inputs: &[Input]) -> Result<()> {
        let Arguments { in_place, output, .. } = self.arguments;
        self.check_loops(inputs)?;
        if *in_place && inputs.iter().any(|input| matches!(input, Input::Standard)) {
            bail!("--in-place changes files (expected paths, not standard input)");
        }
        let Some(output) = output else {
            return Ok(());
        };
        if inputs.len() > 1 && !output.is_dir() {
            bail!("{}: is no directory (expected one for several inputs)", output.display());
        }
        let mut targets = HashSet::new();
        match inputs.iter().find(|input| !targets.insert(input.target_in(output))) {
            Some(input) => {
                bail!("{}: another input has the same name (expected one of each in an output)", input.name())
            }
            None => Ok(()),
        }
    }

    /// A file that is written while it is read would have no end, or lose what --in-place looks after.
    fn check_loops(&self, inputs: &[Input]) -> Result<()> {
        let Arguments { in_place, output, check, .. } = self.arguments;
        if *in_place || *check {
            return Ok(());
        }
        let read: HashSet<_> = inputs.iter().filter_map(Input::identity).collect();
        let is_read = |target: Option<_>| target.is_some_and(|target| read.contains(&target));
        let Some(output) = output else {
            if is_read(files::identity_of_output()) {
                bail!("standard output is one of the inputs (expected another one, or --in-place)");
            }
            return Ok(());
        };
        let mut targets = inputs.iter().map(|input| input.target_in(output));
        match targets.find(|target| is_read(files::identity_at(target))) {
            Some(target) => {
                bail!("{}: is one of the inputs (expected another output, or --in-place)", target.display())
            }
            None => Ok(()),
        }
    }

    fn run(&self, inputs: &[Input], mut code: u8) -> ExitCode {
        let start = Instant::now();
        let read = AtomicU64::new(0);
        let mut total = Summary::default();
        let progress = self.progress(inputs);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let (done, progress, read) = (&done, &progress, &read);
            let ticker = scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    progress.set_position(read.load(Ordering::Relaxed));
                    thread::park_timeout(Duration::from_millis(100));
                }
            });
            for input in inputs {
                if self.stop.load(Ordering::Relaxed) {
                    break;
                }
                match self.one(input, read) {
                    Ok(summary) => {
                        if self.arguments.check && !summary.found.is_empty() {
                            code = code.max(FOUND);
                            progress.suspend(|| self.say(&finding(input, &summary)));
                        }
                        total += summary;
                    }
                    // Whoever reads has had enough: that is how pipes end.
                    Err(error) if crate::is_broken_pipe(&error) => break,
                    Err(error) => {
                        code = FAILED;
                        progress.suspend(|| complain(&format!("{error:#}")));
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
            ticker.thread().unpark();
        });
        progress.finish_and_clear();
        if self.stop.load(Ordering::Relaxed) {
            complain("interrupted: what was under way is as it was before");
            return ExitCode::from(INTERRUPTED);
        }
        self.say(&summary(inputs.len(), &total, read.into_inner(), start.elapsed()));
        ExitCode::from(code)
    }

    fn one(&self, input: &Input, read: &AtomicU64) -> Result<Summary> {
        let Arguments { in_place, output, check, .. } = self.arguments;
        let (format, mut reader) = codec::decode(input.open()?).with_context(|| input.name())?;
        if !self.arguments.binary {
            reader = Box::new(codec::only_text(reader));
        }
        let format_of_files = match self.arguments.compress.unwrap_or(Compress::Same) {
            Compress::Same => format,
            Compress::None => codec::Format::Plain,
            Compress::Gzip => codec::Format::Gzip,
            Compress::Zstd => codec::Format::Zstd,
        };
        if *check {
            return self.scrub(input, reader, io::sink(), read);
        }
        match (in_place, output) {
            (true, _) => {
                let target = files::Replacement::of(input.path())?;
                self.to_file(input, reader, target, format_of_files, read)
            }
            (false, Some(output)) => {
                let path = input.target_in(output);
                match files::special(&path)? {
                    Some(file) => self.straight(input, reader, file, format_of_files, read),
                    None => self.to_file(input, reader, files::Replacement::at(&path)?, format_of_files, read),
                }
            }
            (false, None) => {
                let format = match self.arguments.compress {
                    None => codec::Format::Plain,
                    Some(_) => format_of_files,
                };
                self.straight(input, reader, io::stdout(), format, read)
            }
        }
    }

    fn straight(
        &self,
        input: &Input,
        reader: impl Read + Send,
        output: impl Write + Send,
        format: codec::Format,
        read: &AtomicU64,
    ) -> Result<Summary> {
        let mut writer = format.encode(output)?;
        let summary = self.scrub(input, reader, &mut writer, read)?;
        writer.finish().context("the output can't be written")?;
        Ok(summary)
    }

    fn to_file(
        &self,
        input: &Input,
        reader: impl Read + Send,
        mut target: files::Replacement,
        format: codec::Format,
        read: &AtomicU64,
    ) -> Result<Summary> {
        let mut writer = format.encode(target.file())?;
        let summary = self.scrub(input, reader, &mut writer, read)?;
        writer.finish().with_context(|| target.name())?;
        // What is clean already stays the file that it is.
        let stays = self.arguments.in_place && self.arguments.compress.is_none() && summary.found.is_empty();
        if !stays {
            target.put_in_place()?;
        }
        Ok(summary)
    }

    fn scrub(
        &self,
        input: &Input,
        reader: impl Read + Send,
        writer: impl Write + Send,
        read: &AtomicU64,
    ) -> Result<Summary> {
        let work = Work {
            scrubber: self.scrubber,
            by_day: self.arguments.by_day,
            only_count: self.arguments.check,
            threads: self.arguments.threads.map_or_else(cores, usize::from),
            #[cfg(feature = "proxy")]
            running: self.arguments.running.as_deref(),
            #[cfg(not(feature = "proxy"))]
            running: None,
            stop: self.stop,
            read,
        };
        work.run(reader, writer).map_err(|problem| match problem {
            Problem::Read(error) => anyhow::Error::new(error).context(input.name()),
            // `main` knows the end of a pipe from other errors.
            Problem::Running(error) => error.context(input.name()),
            Problem::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => error.into(),
            Problem::Write(error) => anyhow::Error::new(error).context(format!("{}: can't be written", input.name())),
            Problem::NoDay => anyhow!(
                "{}: no line says of which day it is, so days can't be kept apart (expected a date such as 2026-11-25T, \
                 [25/Nov/2026: or Nov 25, or the seconds since 1970; without --by-day it is not looked for)",
                input.name()
            ),
            Problem::Panicked => anyhow!("{}: a thread panicked, which is a bug in this program", input.name()),
            Problem::Stopped => anyhow!("{}: interrupted", input.name()),
        })
    }

    /// On a terminal; hidden elsewhere.
    fn progress(&self, inputs: &[Input]) -> ProgressBar {
        if self.arguments.quiet || !io::stderr().is_terminal() {
            return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        }
        // Of compressed files only what they hold can be told, and not how much of it there will be.
        let sizes: Option<u64> = inputs.iter().map(Input::size_of_text).sum();
        let (bar, template) = match sizes {
            Some(size) => (ProgressBar::new(size), "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"),
            None => (ProgressBar::no_length(), "{spinner} {bytes}, {bytes_per_sec}"),
        };
        bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    fn say(&self, text: &str) {
        if !self.arguments.quiet {
            print_line(text);
        }
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn complain(text: &str) {
    print_line(&format!("error: {text}"));
}

fn print_line(text: &str) {
    // Nobody is left to tell if that fails.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn finding(input: &Input, summary: &Summary) -> String {
    let line = summary.first.map_or_else(String::new, |line| format!(", the first in line {line}"));
    format!("{}: {} found{line}", input.name(), count(summary.found.total(), "address", "addresses"))
}

fn summary(files: usize, total: &Summary, bytes: u64, time: Duration) -> String {
    let found = &total.found;
    let mut text = format!(
        "{} in {}: {} ({} IPv4, {} IPv6",
        count(total.lines, "line", "lines"),
        count(files as u64, "input", "inputs"),
        count(found.total(), "address", "addresses"),
        found.v4,
        found.v6
    );
    for (number, what) in
        [(found.unclear, "unclear"), (found.in_names, "of them in names"), (found.encoded, "of them percent-encoded")]
    {
        if number > 0 {
            // Writing to a string can't fail.
            let _ = write!(text, ", {number} {what}");
        }
    }
    let megabytes = bytes as f64 / 1e6;
    let _ = write!(text, "); {megabytes:.1} MB in {:.1} s", time.as_secs_f64());
    text
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
