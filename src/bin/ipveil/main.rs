//! `ipveil`: what the library does, for people at a terminal.

#[cfg(feature = "proxy")]
mod config;
mod explain;
#[cfg(feature = "proxy")]
mod proxy;
mod scrub;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// IP-address anonymization: tools.
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
    Scrub(scrub::Arguments),
    #[cfg(feature = "proxy")]
    Proxy(proxy::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Explain(arguments) => explain::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Scrub(arguments) => scrub::run(&arguments),
        #[cfg(feature = "proxy")]
        Command::Proxy(arguments) => proxy::run(arguments),
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

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
