//! `ipveil ban`, `unban` and `bans`: who is not served, named by the pseudonym that the log shows.

use std::{path::PathBuf, time::Duration};

use crate::admin;

/// Bans the client that has this pseudonym in the log, whatever session it will claim.
#[derive(clap::Args)]
pub(crate) struct Ban {
    /// As the log of the running epoch shows it.
    #[arg(value_parser = pseudonym)]
    pseudonym: String,
    /// How long, such as 30m, 1h or 7d. It lasts beyond a rotation of the key as long as the client keeps coming.
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = time)]
    time: Duration,
    #[command(flatten)]
    socket: Socket,
}

/// Serves a client again.
#[derive(clap::Args)]
pub(crate) struct Unban {
    /// The pseudonym under which it was banned.
    #[arg(value_parser = pseudonym)]
    pseudonym: String,
    #[command(flatten)]
    socket: Socket,
}

/// Lists who is banned, by the pseudonym under which it was, and for how many seconds.
#[derive(clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    socket: Socket,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Where the running proxy takes commands.
#[derive(clap::Args)]
pub(crate) struct Socket {
    /// The Unix socket under `admin.listen` in the configuration.
    #[arg(long, value_name = "PATH", default_value = "/run/ipveil/admin.sock")]
    admin: PathBuf,
}

fn time(text: &str) -> Result<Duration, &'static str> {
    let seconds = |time: &Duration| (1..=MOST_SECONDS).contains(&time.as_secs());
    humantime::parse_duration(text).ok().filter(seconds).ok_or("expected a time such as 30m or 7d, from 1s to a year")
}

/// A year: nobody counts to the end of time.
pub(crate) const MOST_SECONDS: u64 = 366 * 24 * 60 * 60;

/// As it may stand in a log: letters, digits, and what is between them in addresses.
fn pseudonym(text: &str) -> Result<String, &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'.');
    let is_one = !text.is_empty() && text.bytes().all(fits);
    is_one
        .then(|| text.to_owned())
        .ok_or("expected a pseudonym as the log shows it, such as _6qpsnxvybs3di53pzcj5qclrvq")
}

pub(crate) fn ban(arguments: &Ban) -> anyhow::Result<()> {
    let target = format!("/bans?name={}&seconds={}", arguments.pseudonym, arguments.time.as_secs());
    admin::say(&admin::ask(&arguments.socket.admin, "POST", &target)?)
}

pub(crate) fn unban(arguments: &Unban) -> anyhow::Result<()> {
    let target = format!("/bans?name={}", arguments.pseudonym);
    admin::say(&admin::ask(&arguments.socket.admin, "DELETE", &target)?)
}

pub(crate) fn list(arguments: &List) -> anyhow::Result<()> {
    let answer = admin::ask(&arguments.socket.admin, "GET", "/bans")?;
    if arguments.json {
        return admin::say(&answer);
    }
    let bans: Vec<serde_json::Value> = serde_json::from_slice(&answer)?;
    let lines = bans.iter().map(|ban| {
        let name = ban["name"].as_str().unwrap_or("?");
        format!("{name}  {}s\n", ban["seconds"])
    });
    admin::say(lines.collect::<String>().as_bytes())
}
