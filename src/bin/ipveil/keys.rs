//! `ipveil keys`: secrets of fleets, how a fleet is, its panic button, and what happened to keys.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use ipveil::keys::{
    fleet::{Console, FleetSecret, FleetStatus, NodeStatus, StoreAddress},
    journal::{self, JournalError, Verified},
};
use serde_json::{Value, json};

/// Keys: those of a fleet that shares them through a Redis or Valkey, and the journal of what happened to them.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 all is well; 1 the journal is broken, or a node has not heard of the rotation; 2 something went wrong.

Examples:
  ipveil keys new-secret --output fleet.secret
  ipveil keys status --redis rediss://keys.example.com --namespace edge --secret-file fleet.secret
  ipveil keys rotate-now --redis-file redis.url --namespace edge --secret-file fleet.secret
  ipveil keys journal verify /var/log/ipveil/keys.jsonl --head 90ab…")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the secret by which the nodes of a fleet know each other.
    NewSecret(NewSecret),
    /// Shows how a fleet is: its key's public name, its nodes, and what is wrong.
    Status(Fleet),
    /// The panic button: every node destroys its key now, and the fleet takes another.
    RotateNow(RotateNow),
    /// What happened to keys.
    #[command(subcommand)]
    Journal(Journal),
}

#[derive(Args)]
struct NewSecret {
    /// Writes it to this new file, which only you can read, instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Answers in JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Fleet {
    /// The store: redis://host:6379/0, rediss:// with TLS, unix:///path. A password in here can be seen by everybody on this
    /// machine: with one, use --redis-file. Several times for --sentinel and --cluster.
    #[arg(long, value_name = "URL", required_unless_present_any = ["redis_file", "admin"])]
    redis: Vec<String>,

    /// A file that holds such URLs, one a line.
    #[arg(long, value_name = "FILE", conflicts_with = "redis")]
    redis_file: Option<PathBuf>,

    /// The URLs are those of sentinels, which know a master of this name.
    #[arg(long, value_name = "MASTER", conflicts_with = "cluster")]
    sentinel: Option<String>,

    /// The URLs are those of nodes of a cluster.
    #[arg(long)]
    cluster: bool,

    /// Which fleet of several on one store.
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: String,

    /// The file with the fleet's secret.
    #[arg(long, value_name = "FILE", required_unless_present = "admin")]
    secret_file: Option<PathBuf>,

    /// Not a fleet, but the proxy that takes commands at this Unix socket, whatever its keys come from.
    #[arg(long, value_name = "SOCKET", conflicts_with_all = FLEET_ONLY)]
    admin: Option<PathBuf>,

    /// Answers in JSON.
    #[arg(long)]
    json: bool,
}

/// What says which fleet, and how it is reached.
const FLEET_ONLY: [&str; 6] = ["redis", "redis_file", "sentinel", "cluster", "namespace", "secret_file"];

#[derive(Args)]
struct RotateNow {
    #[command(flatten)]
    fleet: Fleet,

    /// How many seconds to wait until all nodes have heard of it.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, conflicts_with = "admin")]
    wait: u64,
}

#[derive(Subcommand)]
enum Journal {
    /// Prints the entries.
    Show {
        /// The journal; `-` for standard input.
        file: PathBuf,
        /// As they are in the file: JSON, a line each.
        #[arg(long)]
        json: bool,
    },
    /// Says whether an entry was changed, removed or added.
    Verify {
        /// The journal; `-` for standard input.
        file: PathBuf,
        /// A head that was noted earlier: it has to be in there still. Without one, nobody can tell whether lines were cut off the
        /// end.
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
        /// Answers in JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut output = io::stdout().lock();
    match &arguments.command {
        Command::NewSecret(arguments) => new_secret(arguments, &mut output),
        Command::Status(fleet) => status(fleet, &mut output),
        Command::RotateNow(arguments) => rotate_now(arguments, &mut output),
        Command::Journal(Journal::Show { file, json }) => show(file, *json, &mut output),
        Command::Journal(Journal::Verify { file, head, json }) => verify(file, head.as_deref(), *json, &mut output),
    }
}

fn new_secret(arguments: &NewSecret, output: &mut impl Write) -> Result<ExitCode> {
    let secret = FleetSecret::generate()?;
    let id = format!("{:016x}", FleetSecret::parse(secret.as_bytes())?.id());
    match &arguments.output {
        Some(path) => {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(path).with_context(|| format!("{}", path.display()))?;
            writeln!(file, "{}", &*secret)?;
            file.sync_all()?;
            if arguments.json {
                writeln!(output, "{}", json!({ "id": id, "file": path.display().to_string() }))?;
            } else {
                writeln!(output, "fleet secret {id} is in {}", path.display())?;
            }
        }
        None if arguments.json => writeln!(output, "{}", json!({ "id": id, "secret": &**secret }))?,
        None => writeln!(output, "{}", &*secret)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Fleet {
    fn console(&self) -> Result<Console> {
        let urls = match &self.redis_file {
            Some(path) => read_lines(path)?,
            None => self.redis.clone(),
        };
        let mut all = urls.iter().map(String::as_str);
        let store = match &self.sentinel {
            Some(master) => StoreAddress::sentinels(master, all)?,
            None if self.cluster => StoreAddress::cluster(all)?,
            None => match (all.next(), all.next()) {
                (Some(url), None) => StoreAddress::single(url)?,
                _ => bail!("one URL is needed (several are for --sentinel and --cluster)"),
            },
        };
        let path = self.secret_file.as_deref().context("expected --secret-file")?;
        let secret = FleetSecret::read(path).with_context(|| path.display().to_string())?;
        Ok(Console::new(store, &self.namespace, secret)?)
    }
}

/// Asks one running proxy, and shows what it says of its key.
#[cfg(feature = "proxy")]
fn one_proxy(socket: &Path, method: &str, target: &str, json: bool, output: &mut impl Write) -> Result<ExitCode> {
    let answer = crate::admin::ask(socket, method, target)?;
    let key: Value = serde_json::from_slice(&answer)?;
    let is_untold = key["fleet_told"] == json!(false);
    let code = if is_untold && method == "POST" { ExitCode::from(1) } else { ExitCode::SUCCESS };
    if json {
        output.write_all(&answer)?;
        return Ok(code);
    }
    let text = |name: &str| key[name].as_str().unwrap_or("none").to_owned();
    writeln!(output, "key         {}", text("key"))?;
    writeln!(output, "in memory   {}", text("protection"))?;
    let own =
        if key["degraded"] == json!(true) { "this node's own, since the source has none" } else { "the source's" };
    writeln!(output, "it is       {own}")?;
    if let Some(ends) = key["ends"].as_u64() {
        let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(ends);
        writeln!(output, "destroyed   {}", humantime::format_rfc3339_seconds(ends))?;
    }
    if is_untold {
        writeln!(
            output,
            "rotation    not told to the fleet yet: the others still have the old key, and a restart brings it back here"
        )?;
    }
    Ok(code)
}

/// There is none without the feature.
#[cfg(not(feature = "proxy"))]
fn one_proxy(_: &Path, _: &str, _: &str, _: bool, _: &mut impl Write) -> Result<ExitCode> {
    bail!("this program was built without the proxy (expected --redis)")
}

fn read_lines(path: &Path) -> Result<Vec<String>> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(64 * 1024).read_to_string(&mut text));
    read.with_context(|| format!("{}", path.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn status(fleet: &Fleet, output: &mut impl Write) -> Result<ExitCode> {
    if let Some(socket) = &fleet.admin {
        return one_proxy(socket, "GET", "/keys", fleet.json, output);
    }
    let status = fleet.console()?.status(SystemTime::now())?;
    if fleet.json {
        writeln!(output, "{}", in_json(&status))?;
        return Ok(ExitCode::SUCCESS);
    }
    let key = status.key.map_or_else(|| "none yet".to_owned(), |key| key.to_string());
    let (period, left) = (status.period.as_secs(), status.left.as_secs());
    writeln!(output, "namespace  {}", status.namespace)?;
    writeln!(output, "epoch      {}, of {period} s; {left} s are left", status.epoch)?;
    writeln!(output, "key        {key}, generation {}", status.generation)?;
    let store = if status.store_persists { "writes to a disk; it holds no key" } else { "says of no disk" };
    writeln!(output, "store      {store}")?;
    if status.store_is_ahead.abs() > 60 {
        let where_it_is = if status.store_is_ahead < 0 { "behind" } else { "ahead of" };
        writeln!(
            output,
            "clock      the store's is {} s {where_it_is} this machine's",
            status.store_is_ahead.unsigned_abs()
        )?;
    }
    for stranger in &status.strangers {
        writeln!(output, "stranger   another fleet secret is in use here: {stranger:016x}")?;
    }
    writeln!(output, "nodes      {}", status.nodes.len())?;
    for node in &status.nodes {
        let name = if node.name.is_empty() { "(no name)" } else { &node.name };
        let (member, seen) = (node.member, node.seen.as_secs());
        if node.is_lost {
            writeln!(output, "  {name}  {member:016x}  not seen for {seen} s; may still have its key")?;
        } else {
            writeln!(output, "  {name}  {member:016x}  {}, {seen} s ago", how_it_is(node, &status))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn how_it_is(node: &NodeStatus, fleet: &FleetStatus) -> &'static str {
    match node.key {
        _ if node.period != fleet.period => "stays out: its epochs are of another length",
        _ if node.epoch != fleet.epoch => "in another epoch: its clock differs",
        Some(_) if node.key == fleet.key => "has the fleet's key",
        Some(_) => "has another key",
        None => "has no key of the fleet",
    }
}

fn in_json(status: &FleetStatus) -> Value {
    let node = |node: &NodeStatus| {
        json!({
            "name": node.name,
            "member": format!("{:016x}", node.member),
            "epoch": node.epoch.number(),
            "period_seconds": node.period.as_secs(),
            "generation": node.generation,
            "key": node.key.map(|key| key.to_string()),
            "seen_seconds_ago": node.seen.as_secs(),
            "lost": node.is_lost,
            "agrees": !node.is_lost && node.epoch == status.epoch && node.key.is_some() && node.key == status.key,
        })
    };
    json!({
        "namespace": status.namespace,
        "epoch": status.epoch.number(),
        "period_seconds": status.period.as_secs(),
        "left_seconds": status.left.as_secs(),
        "generation": status.generation,
        "key": status.key.map(|key| key.to_string()),
        "nodes": status.nodes.iter().map(node).collect::<Vec<_>>(),
        "strange_nodes": status.strange_nodes,
        "strangers": status.strangers.iter().map(|id| format!("{id:016x}")).collect::<Vec<_>>(),
        "store_persists": status.store_persists,
        "store_ahead_seconds": status.store_is_ahead,
    })
}

fn rotate_now(arguments: &RotateNow, output: &mut impl Write) -> Result<ExitCode> {
    if let Some(socket) = &arguments.fleet.admin {
        return one_proxy(socket, "POST", "/keys/rotate", arguments.fleet.json, output);
    }
    let mut console = arguments.fleet.console()?;
    // What can't be shown can be rotated all the same.
    let before = console.status(SystemTime::now()).ok();
    let generation = console.rotate_now(SystemTime::now())?;
    let begun = Instant::now();
    let has_rotated = |console: &Console, node: &NodeStatus| {
        console.has_rotated(node) && !before.as_ref().is_some_and(|it| had_key(it, node))
    };
    let status = loop {
        let is_late = begun.elapsed() >= Duration::from_secs(arguments.wait);
        match console.status(SystemTime::now()) {
            Ok(status) if is_late || status.nodes.iter().all(|node| has_rotated(&console, node)) => break status,
            Err(error) if is_late => return Err(error.into()),
            _ => thread::sleep(Duration::from_millis(200)),
        }
    };
    let late: Vec<_> = status.nodes.iter().filter(|node| !has_rotated(&console, node)).collect();
    let rotated = status.nodes.len() - late.len();
    if arguments.fleet.json {
        let mut answer = in_json(&status);
        answer["rotated"] = json!(rotated);
        answer["not_rotated"] = json!(late.iter().map(|node| format!("{:016x}", node.member)).collect::<Vec<_>>());
        writeln!(output, "{answer}")?;
    } else {
        writeln!(
            output,
            "{rotated} of {} nodes have destroyed their key: generation {generation}",
            status.nodes.len()
        )?;
        for node in &late {
            let name = if node.name.is_empty() { "(no name)" } else { &node.name };
            let (member, seen) = (node.member, node.seen.as_secs());
            let how = if node.is_lost {
                format!(
                    "was not seen for {seen} s, and may still have its key unless it has ended: if it has not, it will destroy it"
                )
            } else {
                format!("has not: it was last seen {seen} s ago, and will")
            };
            writeln!(output, "  {name}  {member:016x}  {how} as soon as it can reach the store")?;
        }
        if status.strange_nodes > 0 {
            writeln!(
                output,
                "  {} more with another fleet secret, of which nothing is known (expected --secret-file with both secrets, if it was replaced)",
                status.strange_nodes
            )?;
        }
    }
    Ok(if late.is_empty() && status.strange_nodes == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Whether the key that `node` has now was in use then. A generation is a number that somebody wrote; a key is what it is about.
fn had_key(before: &FleetStatus, node: &NodeStatus) -> bool {
    node.key.is_some() && (node.key == before.key || before.nodes.iter().any(|there| there.key == node.key))
}

fn show(file: &Path, json: bool, output: &mut impl Write) -> Result<ExitCode> {
    for (place, line) in open(file)?.split(b'\n').enumerate() {
        let line = line.with_context(|| format!("{}, line {}", file.display(), place + 1))?;
        let Ok(entry) = serde_json::from_slice::<Value>(&line) else {
            // A line that is being written, or that a crash has torn; `verify` says more.
            continue;
        };
        if json {
            writeln!(output, "{entry}")?;
            continue;
        }
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        write!(output, "{:>6}  {}  {:<9}", entry["entry"], text("time"), text("event"))?;
        for name in ["key", "epoch", "source", "origin", "protection", "reason", "until", "events", "bytes"] {
            match &entry[name] {
                Value::Null => {}
                Value::String(value) => write!(output, "  {name} {value}")?,
                value => write!(output, "  {name} {value}")?,
            }
        }
        writeln!(output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(file: &Path, head: Option<&str>, json: bool, output: &mut impl Write) -> Result<ExitCode> {
    match journal::verify(open(file)?, head) {
        Ok(Verified { entries, head, is_torn, .. }) => {
            if json {
                writeln!(output, "{}", json!({ "whole": true, "entries": entries, "head": head, "torn": is_torn }))?;
            } else {
                writeln!(output, "{entries} entries, none changed, removed or added in between")?;
                if is_torn {
                    writeln!(output, "the last line is not finished: a crash, or it is being written now")?;
                }
                writeln!(output, "head {head}")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(JournalError::Broken { line, what, .. }) => {
            if json {
                writeln!(output, "{}", json!({ "whole": false, "line": line, "what": what }))?;
            } else {
                writeln!(output, "broken at line {line}: {what}")?;
            }
            Ok(ExitCode::from(1))
        }
        Err(error) => Err(error).with_context(|| format!("{}", file.display())),
    }
}

fn open(file: &Path) -> Result<Box<dyn BufRead>> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    let opened = File::open(file).with_context(|| format!("{}", file.display()))?;
    Ok(Box::new(BufReader::new(opened)))
}
