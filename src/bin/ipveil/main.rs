//! `ipveil`: what the library does, for people at a terminal.

#[cfg(feature = "proxy")]
mod admin;
#[cfg(feature = "audit")]
mod audit;
#[cfg(feature = "proxy")]
mod bans;
#[cfg(feature = "proxy")]
mod config;
#[cfg(feature = "proxy")]
mod demo;
mod explain;
#[cfg(feature = "proxy")]
mod init;
#[cfg(feature = "redis")]
mod keys;
#[cfg(feature = "proxy")]
mod proxy;
mod scrub;
#[cfg(feature = "proxy")]
mod wipe;

use std::{io::Write, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

// A request costs some twenty allocations, which take half of the time there that they take in the system's allocator.
#[cfg(feature = "proxy")]
#[global_allocator]
static ALLOCATOR: wipe::Wiping = wipe::Wiping;

/// IP-address anonymization: an edge that no address passes, and what belongs to it.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Why is this the client? Shows the walk from the peer to the client, and what each view would show.
    Explain(explain::Arguments),
    #[cfg(feature = "redis")]
    Keys(keys::Arguments),
    Scrub(scrub::Arguments),
    #[cfg(feature = "proxy")]
    Proxy(proxy::Arguments),
    #[cfg(feature = "audit")]
    Audit(Box<audit::Arguments>),
    #[cfg(feature = "proxy")]
    Init(init::Arguments),
    #[cfg(feature = "proxy")]
    Demo(demo::Arguments),
    #[cfg(feature = "proxy")]
    Ban(bans::Ban),
    #[cfg(feature = "proxy")]
    Unban(bans::Unban),
    #[cfg(feature = "proxy")]
    Bans(bans::List),
    /// Writes what a shell needs to complete commands.
    Completions {
        /// For which one.
        shell: clap_complete::Shell,
    },
    /// Writes the manual page.
    Man,
}

fn main() -> ExitCode {
    // One for all that speaks TLS here. There is no other yet.
    #[cfg(feature = "proxy")]
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let command = Arguments::parse().command;
    #[cfg(feature = "proxy")]
    if !matches!(command, Command::Proxy(_) | Command::Demo(_)) {
        wipe::turn_off();
    }
    let result = match command {
        Command::Explain(arguments) => explain::run(arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "redis")]
        Command::Keys(arguments) => keys::run(&arguments),
        Command::Scrub(arguments) => scrub::run(&arguments),
        #[cfg(feature = "proxy")]
        Command::Proxy(arguments) => proxy::run(arguments),
        #[cfg(feature = "audit")]
        Command::Audit(arguments) => audit::run(&arguments),
        #[cfg(feature = "proxy")]
        Command::Init(arguments) => init::run(&arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "proxy")]
        Command::Demo(arguments) => demo::run(&arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "proxy")]
        Command::Ban(arguments) => bans::ban(&arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "proxy")]
        Command::Unban(arguments) => bans::unban(&arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "proxy")]
        Command::Bans(arguments) => bans::list(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "ipveil", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => man().map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        // Whoever reads has had enough: that is how pipes end.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a program says what went wrong")]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::from(2)
        }
    }
}

/// One page: each command has a part of it.
fn man() -> anyhow::Result<()> {
    let mut command = Arguments::command();
    command.build();
    let mut out = std::io::stdout().lock();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    // There are no pages of their own.
    let mut page = String::from_utf8(page)?;
    for part in command.get_subcommands() {
        page = page.replace(&format!("ipveil\\-{}(1)", part.get_name()), &format!("ipveil {}", part.get_name()));
    }
    write!(out, "{page}")?;
    man_of_parts(&command, "ipveil", &mut out)
}

fn man_of_parts(command: &clap::Command, above: &str, out: &mut impl Write) -> anyhow::Result<()> {
    for part in command.get_subcommands().filter(|part| part.get_name() != "help") {
        let name = format!("{above} {}", part.get_name());
        writeln!(out, ".SH \"{}\"", name.to_uppercase())?;
        let page = clap_mangen::Man::new(part.clone());
        page.render_synopsis_section(out)?;
        page.render_description_section(out)?;
        page.render_options_section(out)?;
        man_of_parts(part, &name, out)?;
    }
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
