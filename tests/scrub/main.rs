//! What is scrubbed from a text, and what stays.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

/// A slow way to find addresses, which is plainly right.
#[path = "../../fuzz/oracle.rs"]
mod oracle;

/// A long log, and where its addresses are.
#[path = "../../benches/log.rs"]
mod log;

/// Scrubbers for tests, and what they do with a line.
mod scrubber;

/// Which addresses are found, and what is none.
mod address;

/// What stands there instead of an address.
mod stand_in;

/// What comes through a writer, however it is cut.
mod writer;

/// What holds for any line.
mod random;

/// What other projects find and replace, and where ipveil differs for a reason.
mod others;
