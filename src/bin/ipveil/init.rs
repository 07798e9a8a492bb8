//! `ipveil init`: a configuration to begin with.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, bail};

use crate::config::TEMPLATE;

/// Writes a configuration with every key, its default, and what it is for.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to; `-` is standard output.
    #[arg(default_value = "ipveil.toml")]
    to: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.to.as_os_str() == "-" {
        io::stdout().write_all(TEMPLATE.as_bytes())?;
        return Ok(());
    }
    let name = || arguments.to.display().to_string();
    let file = OpenOptions::new().write(true).create_new(true).open(&arguments.to);
    match file {
        Ok(mut file) => file.write_all(TEMPLATE.as_bytes()).with_context(name),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{} is there already (expected another name)", name())
        }
        Err(error) => Err(error).with_context(name),
    }
}
