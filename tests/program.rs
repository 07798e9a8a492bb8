//! The program, as people and scripts run it.

use std::process::{Command, Stdio};

/// It reads nothing, unless it is given something.
pub(crate) fn ipveil() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipveil"));
    command.stdin(Stdio::null());
    command
}

/// What it said.
#[track_caller]
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
