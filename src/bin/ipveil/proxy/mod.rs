//! `ipveil proxy`: an edge in front of any server.
//!
//! ```text
//!  main thread            threads that serve, one for each core
//!  ───────────            ─────────────────────────────────────
//!  configuration ─► Site ─► accept ─► PROXY header, TLS ─► HTTP ─► layers ─► server
//!  signals, admin,                                                  │
//!  health checks                              access log ◄──────────┘
//! ```

mod access_log;
mod admin;
mod body;
mod connection;
mod files;
mod forward;
mod greeting;
mod guard;
mod health;
mod hop;
mod keys;
mod listen;
mod metrics;

mod rarely;
mod record;
mod room;
mod service;
mod site;
mod small_write;
mod this_thread;
pub(crate) mod tls;
mod tunnel;
mod upstream;
mod watch;
mod worker;

use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use ipveil::{
    KeyRing, Scrubber,
    keys::MemorySource,
    scrub::{scrub_panics, tracing::MakeScrubWriter},
};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::MissedTickBehavior,
};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use self::{
    files::Seen,
    guard::Bans,
    keys::Keys,
    listen::Listening,
    site::{Lasting, Listener, Site},
    worker::{Message, Workers},
};
use crate::{
    config::{self, Address, Config, Key, Server, Text},
    wipe,
};

/// Puts an edge in front of a server: requests go on with a pseudonym in place of the client's address.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen: 127.0.0.1:8080, [::]:80, unix:PATH, or systemd:NAME.
    #[arg(long, value_name = "ADDRESS", requires = "upstream")]
    listen: Vec<Text<Address>>,
    /// Where requests go: http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:PATH.
    #[arg(long, value_name = "URL", requires = "listen")]
    upstream: Option<Text<Server>>,
    /// A configuration file, as `ipveil init` writes one.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "upstream"], required_unless_present = "listen")]
    config: Option<PathBuf>,
    /// Says whether the configuration is well, and ends.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { listen, upstream, config: path, check } = arguments;
    let config = match (&path, upstream) {
        (Some(path), _) => Config::read(path)?,
        (None, Some(server)) => Config::simple(listen, server)?,
        (None, None) => bail!("expected --listen and --upstream, or --config"),
    };
    let place = |error| Config::place(path.as_deref(), error);
    if check {
        self::check(config).map_err(place)?;
        return Ok(ExitCode::SUCCESS);
    }
    let _log = log_to_stderr(&config.log).map_err(place)?;
    harden();
    warn_of_the_kernel();
    Proxy::start(config, path.clone()).map_err(place)?.run()?;
    Ok(ExitCode::SUCCESS)
}

fn check(mut config: Config) -> anyhow::Result<()> {
    filter(&config.log)?;
    config.keys.redis.as_ref().map(keys::fleet).transpose()?;
    let ring = KeyRing::start(MemorySource, keys::epochs(&config)?)?;
    let keys = Keys { ring, journal: None, secret: None, spread: None };
    // What is checked is not written to.
    config.access_log.to = "off".into();
    Site::new(&config, &Lasting { keys: &keys, bans: None, threads: 1, before: None }).map(drop)
}

/// A proxy that runs.
pub(crate) struct Proxy {
    path: Option<PathBuf>,
    config: Config,
    seen: Seen,
    site: Arc<Site>,
    keys: Keys,
    // It was said that the journal can't be written.
    is_journal_failing: bool,
    bans: Arc<Bans>,
    listening: Vec<(Address, Listening)>,
    admin: Vec<Listening>,
    workers: Arc<Workers>,
    threads: Vec<thread::JoinHandle<()>>,
    is_draining: Arc<AtomicBool>,
}

impl Proxy {
    /// Opens all that the configuration names, and serves.
    pub(crate) fn start(config: Config, path: Option<PathBuf>) -> anyhow::Result<Self> {
        if !config.memory.wipe {
            wipe::turn_off();
        }
        let count = match config.threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        // Kept even if they are off now, since a later configuration may turn them on.
        let bans = Arc::new(Bans::new(config.bans.tokens, count));
        let keys = keys::start(&config, &bans)?;
        let lasting = Lasting { keys: &keys, bans: Some(&bans), threads: count, before: None };
        let site = Arc::new(Site::new(&config, &lasting)?);
        let listening = site.listeners.iter().map(|listener| Ok((listener.address.clone(), listener.open()?)));
        let listening: Vec<_> = listening.collect::<anyhow::Result<_>>()?;
        // All that can be refused comes before the first client.
        let admin = admin::open(&config.admin)?;
        let (workers, threads) = Workers::start(count, &site).context("a thread can't be started")?;
        workers.tell(|| Ok(Message::Serve(Arc::clone(&site), Some(share(&listening)?))))?;
        let seen = Seen::of(path.as_deref(), &config);
        let (workers, is_draining) = (Arc::new(workers), Arc::new(AtomicBool::new(false)));
        Ok(Self {
            path,
            config,
            seen,
            site,
            keys,
            is_journal_failing: false,
            bans,
            listening,
            admin,
            workers,
            threads,
            is_draining,
        })
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listening.iter().filter_map(|(_, socket)| socket.local())
    }

    /// The key ring.
    pub(crate) fn keys(&self) -> &KeyRing {
        &self.keys.ring
    }

    /// Serves until it is told to end.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = runtime.block_on(async { Signals::new() })?;
        let admin = runtime.block_on(self.attend(&mut signals))?;
        self.is_draining.store(true, Relaxed);
        let end = Instant::now() + self.config.deadlines.drain;
        tracing::info!(connections = self.workers.open(), "draining");
        // Held any longer, they would take connections that nobody serves.
        self.listening.clear();
        self.workers.tell(|| Ok(Message::Drain(end)))?;
        let Self { site, keys: Keys { ring, journal, .. }, threads, workers, .. } = self;
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        // Until then whoever asks is told that this one is not ready any more.
        let end = runtime.block_on(async {
            let mut ended = tokio::task::spawn_blocking(join);
            let mut end = end;
            loop {
                tokio::select! {
                    joined = &mut ended => return joined.map(|()| end),
                    () = signals.end.recv() => {
                        end = Instant::now();
                        tracing::info!(connections = workers.open(), "told to end twice: at once");
                        // A thread that has ended does not mind.
                        let _ = workers.tell(|| Ok(Message::Drain(end)));
                    }
                    _ = signals.rotate.recv() => rotate(&ring),
                }
            }
        })?;
        drop(admin);
        if let Some(log) = &site.log {
            log.finish(end);
        }
        // The last to go is the key, and the journal says so.
        drop(runtime);
        drop((site, workers, ring));
        if let Some(journal) = &journal {
            journal.flush();
        }
        tracing::info!("ended");
        Ok(())
    }

    async fn attend(&mut self, signals: &mut Signals) -> anyhow::Result<admin::Admin> {
        let admin = admin::Admin::serve(std::mem::take(&mut self.admin), self.state())?;
        for (address, _) in &self.listening {
            tracing::info!(address = %InLog(address), "listening");
        }
        let mut _health = health::Checks::start(&self.site);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_asked = tokio::select! {
                () = signals.end.recv() => return Ok(admin),
                _ = signals.rotate.recv() => {
                    rotate(&self.keys.ring);
                    continue;
                }
                _ = signals.reload.recv() => true,
                _ = look.tick() => {
                    self.tidy();
                    self.look_at_the_journal();
                    false
                }
            };
            if (is_asked || self.has_changed()) && self.path.is_some() {
                match self.reload() {
                    Ok(()) => {
                        tracing::info!("the configuration was put in place");
                        admin.show(self.state());
                        _health = health::Checks::start(&self.site);
                    }
                    Err(error) => tracing::error!(error = %format!("{error:#}"), "the configuration stays as it was"),
                }
            }
            if is_asked && let Some(log) = &self.site.log {
                log.reopen();
            }
        }
    }

    fn state(&self) -> admin::State {
        admin::State {
            site: Arc::clone(&self.site),
            workers: Arc::clone(&self.workers),
            is_draining: Arc::clone(&self.is_draining),
        }
    }

    fn has_changed(&self) -> bool {
        self.seen.have_changed()
    }

    /// Puts another configuration in place; if anything is wrong with it, nothing changes.
    fn reload(&mut self) -> anyhow::Result<()> {
        let result = self.try_reload().map_err(|error| Config::place(self.path.as_deref(), error));
        self.workers.reloaded(result.is_ok());
        result
    }

    fn try_reload(&mut self) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        // Before anything is read: what changes from here on is read again, and what is wrong not before it changes.
        self.seen.look();
        let config = Config::read(path)?;
        self.seen.name(&config);
        let fleet = config.keys.redis.clone();
        let read = fleet.as_ref().zip(self.keys.secret.as_ref());
        let secret = read.map(|(fleet, handle)| Ok::<_, anyhow::Error>((handle, keys::secret(fleet)?))).transpose()?;
        let (config, stays) = self.config.changed_to(config);
        // With a fleet that is for the next start, its secret is, too.
        let secret = secret.filter(|_| config.keys.redis == fleet);
        for key in stays {
            tracing::warn!(key, "this changes with a restart only");
        }
        let threads = self.threads.len();
        let before = Some((&self.config, &*self.site));
        let lasting = Lasting { keys: &self.keys, bans: Some(&self.bans), threads, before };
        let site = Arc::new(Site::new(&config, &lasting)?);
        let addresses = || site.listeners.iter().map(|listener| &listener.address);
        let is_same = addresses().eq(self.listening.iter().map(|(address, _)| address));
        let is_new = |listener: &&Listener| self.listening.iter().all(|(there, _)| *there != listener.address);
        let opened = site.listeners.iter().filter(is_new).map(|new| Ok((new.address.clone(), new.open()?)));
        let opened: Vec<_> = opened.collect::<anyhow::Result<_>>()?;
        self.set_modes(&site)?;
        let all = || self.listening.iter().chain(&opened);
        let ordered: Vec<_> = addresses().filter_map(|address| all().find(|(there, _)| there == address)).collect();
        let message = || {
            let sockets = if is_same { None } else { Some(share(ordered.iter().copied())?) };
            Ok(Message::Serve(Arc::clone(&site), sockets))
        };
        self.workers.tell(message)?;
        // Those that are not among them any more are closed.
        let mut all: Vec<_> = std::mem::take(&mut self.listening).into_iter().chain(opened).map(Some).collect();
        let taken = |address: &Address| all.iter_mut().find_map(|slot| slot.take_if(|(there, _)| there == address));
        self.listening = site.listeners.iter().map(|listener| &listener.address).filter_map(taken).collect();
        std::mem::replace(&mut self.site, site).retire();
        if let Some((handle, secret)) = secret {
            handle.replace(secret);
        }
        self.config = config;
        Ok(())
    }

    /// Has the files of sockets that stay say who may connect now.
    fn set_modes(&self, site: &Site) -> anyhow::Result<()> {
        for (index, listener) in site.listeners.iter().enumerate() {
            let is_it = |other: &Address| *other == listener.address;
            let before = self.site.listeners.iter().find(|before| is_it(&before.address));
            let socket = self.listening.iter().find(|(address, _)| is_it(address));
            let (Some(before), Some((_, socket))) = (before, socket) else { continue };
            match listener.mode {
                mode if mode == before.mode => {}
                Some(mode) => socket.set_mode(mode).context(Key::new(["listener", &index.to_string(), "mode"]))?,
                None => tracing::warn!(key = "listener.mode", "this changes with a restart only"),
            }
        }
        Ok(())
    }

    /// Says when writing it begins to fail, and when that is over.
    fn look_at_the_journal(&mut self) {
        let Some(journal) = &self.keys.journal else { return };
        let (is_failing, lost) = (journal.is_failing(), journal.lost());
        match (self.is_journal_failing, is_failing) {
            (false, true) => tracing::warn!(lost, "the key journal can't be written"),
            (true, false) => tracing::info!(lost, "the key journal is written again"),
            _ => {}
        }
        self.is_journal_failing = is_failing;
    }

    fn tidy(&self) {
        if let Some(limiter) = &self.site.limiter {
            limiter.tidy();
        }
        self.bans.tidy();
    }
}

/// What whoever operates the proxy tells it. Also while it ends.
struct Signals {
    reload: Signal,
    rotate: Signal,
    end: End,
}

struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            rotate: signal(SignalKind::user_defined1())?,
            end: End { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? },
        })
    }
}

impl End {
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The panic button. It may take a while, and here nobody waits for it.
fn rotate(keys: &KeyRing) {
    let keys = keys.clone();
    tokio::task::spawn_blocking(move || {
        let _ = keys.rotate();
    });
}

fn share<'a>(listening: impl IntoIterator<Item = &'a (Address, Listening)>) -> io::Result<Vec<Listening>> {
    listening.into_iter().map(|(_, socket)| socket.share()).collect()
}

/// What runs here is not to be read by other processes, nor written to a disk when it fails.
pub(crate) fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if setrlimit(Resource::Core, none).is_err() || set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        tracing::warn!("core dumps can't be turned off");
    }
    // Every connection is a descriptor, and most systems give few to begin with.
    let now = rustix::process::getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
}

/// Says if the system keeps what is forgotten here.
fn warn_of_the_kernel() {
    let keeps = fs::read_to_string("/proc/sys/net/ipv4/tcp_no_metrics_save").is_ok_and(|value| value.trim() == "0");
    if keeps {
        tracing::warn!(
            "the kernel remembers the addresses of clients, for anybody on this machine to read by `ip tcp_metrics` \
             (expected sysctl net.ipv4.tcp_no_metrics_save=1)"
        );
    }
}

/// The program's own log. Whatever is written there, and by whom, has no address in it; and nobody waits for whoever reads it.
/// What waits is written until what is returned is dropped.
#[must_use = "the log ends with it"]
pub(crate) fn log_to_stderr(log: &config::Log) -> anyhow::Result<WorkerGuard> {
    let scrubber = Scrubber::word("address")?;
    scrub_panics(scrubber.clone());
    let filter = filter(log)?;
    let (stderr, guard) = NonBlockingBuilder::default().buffered_lines_limit(MOST_LINES).finish(io::stderr());
    let writer = MakeScrubWriter::new(scrubber, stderr);
    // What could not be formatted would be printed as it is.
    let builder = tracing_subscriber::fmt()
        .with_ansi(false)
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(writer);
    let begun = if log.json { builder.json().try_init() } else { builder.try_init() };
    begun.map_err(|_| anyhow!("there is a log already"))?;
    Ok(guard)
}

fn filter(log: &config::Log) -> anyhow::Result<EnvFilter> {
    const EXPECTED: &str = "expected a level such as info, or several such as warn,ipveil=debug";
    // A word that is no level is taken for the name of a module, and then nothing else is told.
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok() && !word.is_empty();
    let parse = |text: String| {
        let is_one = text.split(',').all(|part| part.contains('=') || is_level(part.trim()));
        EnvFilter::builder().parse(&text).ok().filter(|_| is_one).ok_or_else(|| anyhow!(EXPECTED))
    };
    match std::env::var("RUST_LOG") {
        Ok(levels) => parse(levels).context("RUST_LOG"),
        Err(_) => parse(log.level.clone()).context(Key::new(["log", "level"])),
    }
}

/// An address of our own, as the log may show it: the port, which is what says which listener it is.
struct InLog<'a>(&'a Address);

impl std::fmt::Display for InLog<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Address::Tcp(address) => write!(f, "port {}", address.port()),
            other => other.fmt(f),
        }
    }
}

/// Of the log, for whoever reads it slowly; what is more is lost.
const MOST_LINES: usize = 4096;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);
