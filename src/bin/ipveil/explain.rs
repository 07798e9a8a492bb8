//! `ipveil explain`: why is this the client?

use std::{
    io::{self, Write},
    net::IpAddr,
    num::NonZeroU8,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipveil::{
    ClientAddr, KeyRing, Policy, Resolver, TrustedProxies,
    keys::{Epochs, MemorySource},
    policy::{Scope, View},
    resolve::{Source, explain::Explanation},
};
use serde::{Deserialize, Serialize};

/// This is the one place where ipveil prints addresses: those that you type.
#[derive(Args)]
#[command(after_help = "\
Example:
  ipveil explain --peer 10.0.0.1:4711 --trusted 10.0.0.0/8 --source x-forwarded-for \\
      --header 'X-Forwarded-For: 192.0.2.1, 203.0.113.7, 10.0.0.2'

With --jsonl, each line of standard input is a case:
  {\"peer\":\"10.0.0.1:4711\",\"headers\":[[\"X-Forwarded-For\",\"203.0.113.7\"]],\"trusted\":[\"10.0.0.0/8\"],\
\"source\":\"x-forwarded-for\",\"hops\":null}
and each line of standard output says what became of it:
  {\"client\":\"203.0.113.7\",\"from\":\"x-forwarded-for\",\"why\":\"…\",\"error\":null}")]
pub(crate) struct Arguments {
    /// The other end of the connection: an address, with or without a port, or `unix`. Without it, what headers say is
    /// believed.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "jsonl")]
    peer: Option<String>,

    /// A request header, as in curl. Can be given several times; order matters.
    #[arg(long, short = 'H', value_name = "NAME: VALUE", conflicts_with = "jsonl")]
    header: Vec<String>,

    /// Trusted proxies: CIDRs, addresses, or loopback, private, link-local, unix. Separated by commas, or several times.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', conflicts_with = "jsonl")]
    trusted: Vec<String>,

    /// What to believe of a trusted proxy: `peer` for nothing, `x-forwarded-for`, `forwarded`, or another header's name.
    #[arg(long, value_name = "SOURCE", default_value = "peer", conflicts_with = "jsonl")]
    source: String,

    /// Count this many proxies instead of looking for the first that is not trusted.
    #[arg(long, value_name = "COUNT", conflicts_with = "jsonl", allow_negative_numbers = true)]
    hops: Option<i64>,

    /// When every hop is trusted, take the furthest.
    #[arg(long, conflicts_with = "jsonl")]
    furthest_hop: bool,

    /// Read cases from standard input, one JSON object a line, and answer each with a line.
    #[arg(long)]
    jsonl: bool,
}

/// One question, however it was asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    peer: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    trusted: Vec<String>,
    source: String,
    #[serde(default)]
    hops: Option<i64>,
    #[serde(default)]
    furthest_hop: bool,
}

#[derive(Serialize)]
struct Answer {
    client: Option<IpAddr>,
    from: Option<String>,
    why: String,
    error: Option<String>,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    if arguments.jsonl {
        return answer_lines(io::stdin().lock(), io::stdout().lock());
    }
    let case = Case {
        peer: arguments.peer,
        headers: arguments.header.iter().map(|line| split_header(line)).collect::<Result<_>>()?,
        trusted: arguments.trusted,
        source: arguments.source,
        hops: arguments.hops,
        furthest_hop: arguments.furthest_hop,
    };
    let explanation = case.explain()?;
    show(&case, &explanation, &mut io::stdout().lock())
}

fn answer_lines(input: impl io::BufRead, mut output: impl Write) -> Result<()> {
    for (place, line) in input.split(b'\n').enumerate() {
        let line = line.with_context(|| format!("standard input, line {}", place + 1))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let answer = serde_json::from_slice::<Case>(&line)
            .map_err(|error| unusable(place + 1, &error))
            .and_then(|case| case.explain())
            .map_or_else(|error| Answer::error(&error), |explanation| Answer::of(&explanation));
        serde_json::to_writer(&mut output, &answer).map_err(io::Error::from)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

/// The line is ours: to the parser each case is a line 1.
fn unusable(line: usize, error: &serde_json::Error) -> anyhow::Error {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    anyhow!("line {line}, column {}: {what}", error.column())
}

impl Answer {
    fn of(explanation: &Explanation) -> Self {
        Self {
            client: explanation.client.ok(),
            from: explanation.client.ok().map(|_| from(explanation)),
            why: explanation.why(),
            error: None,
        }
    }

    fn error(error: &anyhow::Error) -> Self {
        Self { client: None, from: None, why: "the case is not usable".to_owned(), error: Some(format!("{error:#}")) }
    }
}

fn from(explanation: &Explanation) -> String {
    explanation.header.as_ref().map_or_else(|| "peer".to_owned(), |name| name.as_str().to_owned())
}

impl Case {
    fn explain(&self) -> Result<Explanation> {
        let resolver = self.resolver()?;
        let mut headers = HeaderMap::new();
        for (place, (name, value)) in self.headers.iter().enumerate() {
            let place = place + 1;
            let name = HeaderName::try_from(name).map_err(|_| {
                anyhow!("header {place}: {name:?} is not the name of a header (expected letters, digits and -)")
            })?;
            let value = HeaderValue::try_from(value)
                .map_err(|_| anyhow!("header {place}: the value of {name} has a control character"))?;
            headers.append(name, value);
        }
        Ok(resolver.explain(self.peer.as_deref(), &headers)?)
    }

    fn resolver(&self) -> Result<Resolver> {
        let trusted = TrustedProxies::parse(&self.trusted)?;
        let hops = match self.hops {
            None => None,
            Some(hops) => match u8::try_from(hops) {
                Ok(hops) => Some(hops),
                Err(_) => bail!("hops: {hops} is not usable (expected 0 to 255)"),
            },
        };
        let source = match self.source.as_str() {
            "peer" => return Ok(Resolver::direct()),
            name => HeaderName::try_from(name).map(Source::header).map_err(|_| {
                anyhow!("source: {name:?} is not usable (expected peer, x-forwarded-for, forwarded, or the name of a header)")
            })?,
        };
        let resolver = match hops.map(NonZeroU8::new) {
            None => Resolver::behind(trusted, source),
            // No proxy in between.
            Some(None) => Resolver::direct(),
            Some(Some(hops)) if self.trusted.is_empty() => Resolver::hops(hops, source),
            Some(Some(hops)) => Resolver::hops(hops, source).only_from(trusted),
        };
        Ok(match self.furthest_hop {
            true => resolver.furthest_hop(),
            false => resolver,
        })
    }
}

fn split_header(line: &str) -> Result<(String, String)> {
    let (name, value) =
        line.split_once(':').with_context(|| format!("header {line:?} has no colon (expected NAME: VALUE)"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn show(case: &Case, explanation: &Explanation, output: &mut impl Write) -> Result<()> {
    let peer = case.peer.as_deref().unwrap_or("(not given)");
    let believed = match (explanation.peer_is_believed, case.peer.is_some()) {
        (true, true) => "a trusted proxy",
        (true, false) => "taken for a trusted proxy",
        (false, _) if !explanation.reads_header => "taken for the client: no header is read",
        (false, _) => "not a trusted proxy",
    };
    let width = explanation.hops.iter().map(|hop| hop.text.len()).chain([peer.len()]).max().unwrap_or(0);
    writeln!(output, "peer    {peer:width$}  {believed}")?;
    for (place, hop) in explanation.hops.iter().enumerate() {
        writeln!(output, "hop {:<3} {:width$}  {}", place + 1, hop.text, hop.verdict)?;
    }
    match explanation.client {
        Err(why) => writeln!(output, "client  withheld: {why}")?,
        Ok(client) => {
            writeln!(output, "client  {client}, from {}: {}", from(explanation), explanation.why())?;
            writeln!(output, "\nunder a key made for this run, unscoped, it is shown as")?;
            show_views(client, output)?;
        }
    }
    Ok(())
}

fn show_views(client: IpAddr, output: &mut impl Write) -> Result<()> {
    let views =
        [View::address("address"), View::token("token"), View::address_v4("address-v4"), View::network("network")];
    let policy = Policy::new(Scope::unscoped(), views)?;
    let keys = KeyRing::start(MemorySource, Epochs::daily())?;
    let client = policy.client(&ClientAddr::from(client), &keys);
    for view in policy.views() {
        writeln!(output, "  {:<11} {}", view.name(), client.shown(view.name()))?;
    }
    Ok(())
}
