//! `ipveil audit`: looks for leaks in a deployment.
//!
//! ```text
//!  canaries ─► send ─► the deployment ─► logs, answers, memory, …
//!     │                                        │
//!     └─► forms ─► index ─────────────────► search ─► chance ─► report
//! ```

mod canary;
mod chance;
mod forms;
mod http2;
mod index;
mod memory;
mod report;
mod search;
mod send;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{self, Write as _},
    net::IpAddr,
    ops::Range,
    path::PathBuf,
    process::ExitCode,
    slice,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use http::{HeaderName, HeaderValue, Uri};

use self::{
    canary::{Canaries, Canary},
    http2::Stream,
    memory::Memory,
    report::{Answer, Report, Searched},
    search::{Outcome, Searcher},
    send::{LONGEST_ANSWER, LONGEST_PAGE, ProxyProtocol, Reply, Shot, Style, Target},
};
use crate::{
    config::{Server, ServerAt, Text},
    scrub::{
        codec,
        files::{self, Input, Inputs},
    },
};

/// Looks for leaks in a deployment: sends clients' addresses by every path, and searches for them in every form.
///
/// The addresses are made up for each run, from the ranges for documentation, and go to the target in PROXY headers, in each header that is
/// known to carry one, in malformed ones, and with requests that fail. Then logs, answers, metrics and memory are searched
/// for each of them as text, as number, as bytes, encoded, and hashed without a key.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 nothing was found; 1 an address was found; 2 none was found, but something went wrong, so that not all was searched.

Examples:
  ipveil audit --target http://127.0.0.1:8080 --search /var/log/app /var/log/ipveil --fetch http://127.0.0.1:9090/metrics
  journalctl -f --no-tail --since today -o export > FILE & ipveil audit --target https://example.com --search FILE
  pg_dump app | ipveil audit --search-only 198.51.100.23 --stdin --junit audit.xml

Compressed files are gzip or zstd. What a database or a journal compresses by itself is not looked into: dump it, or export it.
Values of 32 bits turn up in large binary data by chance. Where that explains them, they are shown as possible, and the
exit code is 0. The memory of a process has to be read as root, or with CAP_SYS_PTRACE; what it keeps in memfd_secret, nobody
else can read.")]
pub(crate) struct Arguments {
    /// What to send to: http://HOST:PORT, https://HOST:PORT or unix:PATH.
    #[arg(long, value_name = "URL", required_unless_present = "search_only")]
    target: Option<Text<Server>>,
    /// The target wants a PROXY header on each connection.
    #[arg(long, value_enum, value_name = "VERSION", requires = "target")]
    proxy_protocol: Option<ProxyProtocol>,
    /// What to ask for: best a page that the application makes itself.
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = path)]
    path: String,
    /// The name to ask for, instead of the target's own.
    #[arg(long, value_name = "NAME", requires = "target")]
    host: Option<String>,
    /// A header for each request, such as a session's. Can be given several times.
    #[arg(long, short = 'H', value_name = "NAME: VALUE", requires = "target", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Sends addresses in a query string, too, under this name. Those are the application's own affair.
    #[arg(long, value_name = "NAME", requires = "target", value_parser = word)]
    query: Option<String>,
    /// Roots to check certificates with, in PEM, instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How long an answer may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// How long to wait at most for what was sent to be written, in seconds. It is over when files no longer grow.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=600))]
    wait: u64,

    /// Sends nothing, and searches for these: they are not shown.
    #[arg(long, value_name = "ADDRESS", num_args = 1.., conflicts_with = "target")]
    search_only: Vec<IpAddr>,

    /// Files, directories, or patterns: logs, journals, dumps, captures.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    search: Vec<PathBuf>,
    /// What a server answers there, up to 64 MiB: http://HOST:PORT/metrics, an upstream that shows what it got.
    #[arg(long, value_name = "URL", num_args = 1.., value_parser = page)]
    fetch: Vec<Page>,
    /// The memory of a process.
    #[arg(long, value_name = "PID", num_args = 1..)]
    pid: Vec<u32>,
    /// Standard input, to its end. Not with --target: it may have ended before anything is sent.
    #[arg(long)]
    stdin: bool,

    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
    /// Writes the report as JUnit XML, too.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

fn path(text: &str) -> Result<String> {
    let is_path = text.starts_with('/') && text.parse::<Uri>().is_ok();
    if is_path { Ok(text.to_owned()) } else { bail!("expected a path, such as /login") }
}

fn word(text: &str) -> Result<String> {
    let is_word = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if is_word { Ok(text.to_owned()) } else { bail!("expected letters, digits, _, - and .") }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').context("expected NAME: VALUE")?;
    let name = name.trim().parse().context("expected the name of a header before the colon")?;
    let value = value.trim().parse().context("expected the value of a header behind the colon")?;
    Ok((name, value))
}

/// Something to fetch.
#[derive(Clone)]
struct Page {
    server: Server,
    path: String,
    text: String,
}

fn page(text: &str) -> Result<Page> {
    const EXPECTED: &str = "expected http://HOST:PORT/PATH or https://HOST:PORT/PATH";
    let uri: Uri = text.parse().ok().context(EXPECTED)?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { bail!(EXPECTED) };
    let server = format!("{scheme}://{authority}").parse().ok().context(EXPECTED)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Ok(Page { server, path, text: text.to_owned() })
}

const FOUND: u8 = 1;
const FAILED: u8 = 2;

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { search, fetch, pid, stdin, .. } = arguments;
    if search.is_empty() && fetch.is_empty() && pid.is_empty() && !stdin {
        bail!("there is nothing to search (expected --search, --fetch, --pid or --stdin)");
    }
    let reads_standard_input = *stdin || search.iter().any(|path| path.as_os_str() == "-");
    if arguments.target.is_some() && reads_standard_input {
        bail!(
            "--stdin: what comes from there may have ended before anything is sent (expected, with --target, --search of a file \
             that is written meanwhile: `journalctl -f --no-tail --since today -o export > FILE`)"
        );
    }
    let before = list(search);
    let (mut audit, inputs) = match &arguments.target {
        Some(server) => {
            let mut audit = sent(arguments, &server.0)?;
            let inputs = audit.settle(search, before.unwrap_or_default(), Duration::from_secs(arguments.wait));
            (audit, inputs)
        }
        None => (known(&arguments.search_only)?, before?),
    };
    audit.search(arguments, &inputs);
    let report = audit.report;

    let text = match arguments.json {
        true => format!("{:#}\n", report.json()),
        false => report.human(),
    };
    if let Some(path) = &arguments.junit {
        fs::write(path, report.junit()).with_context(|| path.display().to_string())?;
    }
    io::stdout().write_all(text.as_bytes())?;
    Ok(match (report.has_findings(), report.trouble.is_empty()) {
        (true, _) => ExitCode::from(FOUND),
        (false, false) => ExitCode::from(FAILED),
        (false, true) => ExitCode::SUCCESS,
    })
}

fn list(paths: &[PathBuf]) -> Result<Inputs> {
    // Nothing is no standard input.
    if paths.is_empty() { Ok(Inputs::default()) } else { files::inputs(paths) }
}

/// Knows what to look for, and what has been found.
struct Audit {
    searcher: Searcher,
    report: Report,
    answered: Answered,
}

/// What the target answered.
#[derive(Default)]
struct Answered {
    kinds: BTreeMap<Answer, u64>,
    found: Outcome,
    // Plain requests, and how many of them went through.
    plain: u64,
    served: u64,
}

impl Answered {
    fn add(&mut self, kind: Answer, is_plain: bool, found: Outcome) {
        *self.kinds.entry(kind).or_insert(0) += 1;
        self.found += found;
        self.plain += u64::from(is_plain);
        self.served += u64::from(is_plain && kind.is_served());
    }
}

/// The addresses are the user's own.
fn known(addresses: &[IpAddr]) -> Result<Audit> {
    let mut canaries: Vec<Canary> = Vec::new();
    for (number, address) in addresses.iter().enumerate() {
        let address = address.to_canonical();
        let is_nobodys = address.is_unspecified() || matches!(address, IpAddr::V4(v4) if v4.octets()[0] >= 240);
        if is_nobodys {
            bail!("--search-only: address {} is nobody's (expected a client's)", number + 1);
        }
        canaries.push(Canary { address, path: format!("address {}", number + 1) });
    }
    Audit::new(canaries, false)
}

/// Sends them all.
fn sent(arguments: &Arguments, server: &Server) -> Result<Audit> {
    let timeout = Duration::from_secs(arguments.timeout);
    let target = Target::new(server, arguments.ca.as_deref(), timeout)?;
    let own = server.to_string();
    let style = Style {
        host: arguments.host.as_deref().unwrap_or(if own.starts_with("unix:") { "localhost" } else { &own }),
        path: &arguments.path,
        extra: &arguments.header,
        query: arguments.query.as_deref(),
        proxy_protocol: arguments.proxy_protocol,
        is_loopback: target.is_loopback(),
    };
    let greeting = target.shoot(&Shot::greeting(&style), LONGEST_ANSWER);
    let greeting = greeting.with_context(|| format!("{own}: can't be reached"))?;
    let Some(greeted) = greeting.status() else {
        bail!("{own}: does not answer in HTTP/1.1 (expected that; is it --proxy-protocol that is missing, or https?)");
    };
    let mut canaries = Canaries::new()?;
    let shots = send::plan(&style, &mut canaries)?;
    // Over a Unix socket nobody speaks it.
    let speaks_http2 = matches!(server.at, ServerAt::Tcp(..)) && http2::is_spoken(&target, &style)?;
    let streams = if speaks_http2 { Some(http2::plan(&style, &mut canaries)?) } else { None };
    let mut audit = Audit::new(canaries.into_list(), true)?;
    audit.shoot(&target, &shots);
    if let Some((start, streams)) = streams {
        audit.shoot_http2(&target, &style, &start, &streams)?;
    }
    audit.sum_up(greeted);
    Ok(audit)
}

/// Whether there was no connection.
fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::TimedOut
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::AddrNotAvailable
            | Kind::NotFound
            | Kind::PermissionDenied
    )
}

impl Audit {
    fn new(canaries: Vec<Canary>, are_made_up: bool) -> Result<Self> {
        let addresses: Vec<_> = canaries.iter().map(|canary| canary.address).collect();
        let searcher = Searcher::new(&addresses)?;
        let report =
            Report { canaries, are_made_up, answers: BTreeMap::new(), searched: Vec::new(), trouble: Vec::new() };
        Ok(Self { searcher, report, answered: Answered::default() })
    }

    /// Several at a time, and searches what comes back.
    fn shoot(&mut self, target: &Target, shots: &[Shot]) {
        const AT_ONCE: usize = 4;
        let next = AtomicUsize::new(0);
        let searcher = &self.searcher;
        let answered = Mutex::new(&mut self.answered);
        let work = || {
            while let Some(shot) = shots.get(next.fetch_add(1, Ordering::Relaxed)) {
                let answer = target.shoot(shot, LONGEST_ANSWER);
                let kind = match &answer {
                    Ok(answer) => answer.status().map_or(Answer::Closed, Answer::Status),
                    Err(error) if is_unreachable(error) => Answer::Unreachable,
                    // Whoever refuses may close before it has read all.
                    Err(_) => Answer::Closed,
                };
                let answer = answer.unwrap_or_default();
                let mut found = searcher.search(answer.bytes.as_slice(), Some(shot.path.as_str().into()), 0, 1);
                found.missing = answer.too_long();
                answered.lock().unwrap_or_else(PoisonError::into_inner).add(kind, shot.is_plain, found);
            }
        };
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(work);
            }
        });
    }

    fn shoot_http2(&mut self, target: &Target, style: &Style<'_>, start: &Shot, streams: &[Stream]) -> Result<()> {
        let Self { searcher, answered, .. } = self;
        http2::send(target, style, start, streams, |stream, answer| {
            let kind = answer.as_ref().map_or(Answer::Closed, |(status, _)| Answer::Status(status.as_u16()));
            let answer = answer.map_or_else(|_| Reply::default(), |(_, answer)| answer);
            let mut found = searcher.search(answer.bytes.as_slice(), Some(stream.path.as_str().into()), 0, 1);
            found.missing = answer.too_long();
            answered.add(kind, true, found);
        })
    }

    /// What the target said, and whether it heard all.
    fn sum_up(&mut self, greeted: u16) {
        let Answered { kinds, found, plain, served } = std::mem::take(&mut self.answered);
        let mut trouble = |text: String| self.report.trouble.push(format!("the target: {text}"));
        if let Some(count) = kinds.get(&Answer::Unreachable) {
            trouble(format!("could not be reached {count} times, so not all was sent"));
        }
        for (status, advice) in [
            (429, "raise its limits"),
            (502, "see what is behind it"),
            (503, "see what is behind it"),
            (504, "see what is behind it"),
        ] {
            if let Some(count) = kinds.get(&Answer::Status(status)) {
                trouble(format!("answered {count} times with {status}, so not all went through ({advice})"));
            }
        }
        let advice = "expected an answer of what is behind it: --path, --host and -H can say what it wants";
        if !Answer::Status(greeted).is_served() {
            trouble(format!("answered a plain request with {greeted}, so it may not look at others ({advice})"));
        } else if served * 2 < plain {
            trouble(format!("let only {served} of {plain} plain requests through ({advice})"));
        }
        self.report.answers = kinds;
        self.note("the target's answers", Ok(found), false);
    }

    fn add(&mut self, name: String, outcome: Outcome, is_memory: bool) {
        let finds = self.searcher.judge(&outcome);
        self.report.searched.push(Searched { name, bytes: outcome.bytes, is_memory, finds });
    }

    /// Waits until files no longer grow: most programs write what they log when there is enough of it, or every second.
    ///
    /// Says what there is to search then, and what was there `before`: a log may be made by the first line in it, or get
    /// another name meanwhile.
    fn settle(&mut self, paths: &[PathBuf], before: Inputs, longest: Duration) -> Inputs {
        const STILL: Duration = Duration::from_millis(1500);
        let size = |listed: &Result<Inputs>| {
            let inputs = listed.iter().flat_map(|inputs| &inputs.read);
            inputs.filter_map(|input| Some(fs::metadata(input.path()).ok()?.len())).sum::<u64>()
        };
        let start = Instant::now();
        let mut listed = list(paths);
        let (mut last, mut since) = (size(&listed), start);
        while start.elapsed() < longest && since.elapsed() < STILL {
            thread::sleep(Duration::from_millis(100));
            listed = list(paths);
            let now = size(&listed);
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        match listed {
            Ok(mut now) => {
                let known: HashSet<_> = now.read.iter().map(|input| input.path().to_owned()).collect();
                now.read.extend(before.read.into_iter().filter(|input| !known.contains(input.path())));
                now
            }
            Err(error) => {
                self.report.trouble.push(format!("{error:#}"));
                before
            }
        }
    }

    fn search(&mut self, arguments: &Arguments, Inputs { read: inputs, skipped }: &Inputs) {
        for path in skipped {
            let text = format!("{}: is no file, and was not searched (name what a link leads to)", path.display());
            self.report.trouble.push(text);
        }
        for path in arguments.search.iter().filter(|path| path.is_dir()) {
            let inside = list(slice::from_ref(path));
            if inside.is_ok_and(|inside| inside.read.is_empty() && inside.skipped.is_empty()) {
                self.report.trouble.push(format!("{}: there is no file in it", path.display()));
            }
        }
        for page in &arguments.fetch {
            let outcome = self.fetch(arguments, page);
            self.note(&page.text, outcome, false);
        }
        for input in inputs {
            let outcome = self.read(input);
            self.note(&input.name(), outcome, false);
        }
        for &process in &arguments.pid {
            let outcome = self.remember(process);
            self.note(&format!("memory of process {process}"), outcome, true);
        }
        if arguments.stdin && !inputs.iter().any(|input| matches!(input, Input::Standard)) {
            let outcome = self.read(&Input::Standard);
            self.note("standard input", outcome, false);
        }
    }

    fn note(&mut self, name: &str, outcome: Result<Outcome>, is_memory: bool) {
        match outcome {
            Ok(outcome) => {
                self.report.trouble.extend(outcome.missing.iter().map(|why| format!("{name}: {why}")));
                self.add(name.to_owned(), outcome, is_memory);
            }
            Err(error) => self.report.trouble.push(format!("{error:#}")),
        }
    }

    fn read(&self, input: &Input) -> Result<Outcome> {
        let name = || input.name();
        let (_, reader) = codec::decode(input.open()?).with_context(name)?;
        Ok(self.searcher.search_all(reader))
    }

    fn fetch(&self, arguments: &Arguments, page: &Page) -> Result<Outcome> {
        let target = Target::new(&page.server, arguments.ca.as_deref(), Duration::from_secs(arguments.timeout))?;
        let shot = Shot::page(&page.server.to_string(), &page.path);
        let answer = target.shoot(&shot, LONGEST_PAGE).with_context(|| format!("{}: can't be reached", page.text))?;
        match answer.status() {
            Some(200) => {
                let mut outcome = self.searcher.search_all(answer.bytes.as_slice());
                outcome.missing = answer.missing();
                Ok(outcome)
            }
            Some(status) => bail!("{}: answers with status {status} (expected 200)", page.text),
            None => bail!("{}: does not answer in HTTP/1", page.text),
        }
    }

    fn remember(&self, process: u32) -> Result<Outcome> {
        let memory = Memory::of(process)?;
        let (mut all, mut unread) = (Outcome::default(), Vec::new());
        for region in &memory.regions {
            let threads = if region.end - region.start > 1024 * 1024 { self.searcher.threads() } else { 1 };
            let mut reader = memory.read(region);
            all += self.searcher.search(&mut reader, Some(region.name.clone()), region.start, threads);
            unread.append(&mut reader.unread);
        }
        let size = |places: &[Range<u64>]| places.iter().map(|place| place.end - place.start).sum::<u64>();
        all.bytes = all.bytes.saturating_sub(size(&unread));
        if all.bytes == 0 && all.missing.is_none() {
            bail!("the memory of process {process} can't be read (expected to be root, or to have CAP_SYS_PTRACE)");
        }
        if all.missing.is_none() && !unread.is_empty() {
            // What the process has given back meanwhile is not its own any more.
            all.missing = match Memory::of(process).map(|now| now.parts(&unread)) {
                Ok(parts) => parts
                    .first()
                    .map(|first| format!("{} bytes of it can't be read, from {:#x} on", size(&parts), first.start)),
                Err(error) => Some(format!("{error:#}")),
            };
        }
        Ok(all)
    }
}
