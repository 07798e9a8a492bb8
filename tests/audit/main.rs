//! `ipveil audit`, as people and scripts run it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

/// Ports to listen on.
#[path = "../port.rs"]
mod port;

/// The program.
#[path = "../program.rs"]
mod program;

/// A folder with files.
#[path = "../folder.rs"]
mod folder;

/// Bytes that are written as digits.
#[path = "../hex.rs"]
mod hex;

/// What an audit reports.
mod report;

/// Servers that answer as they are told to.
mod server;

/// Which forms of an address are found, and what is none.
mod form;

/// Where is searched, and what is said of what is found there, or could not be searched.
mod place;

/// What applications do with requests that have addresses in them.
mod target;

/// What is found behind `ipveil proxy`: nothing.
mod proxy;
