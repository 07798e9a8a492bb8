//! `ipveil scrub`, as people and scripts run it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

/// The program.
#[path = "../program.rs"]
mod program;

/// A folder with files.
#[path = "../folder.rs"]
mod folder;

/// Runs of `ipveil scrub`.
mod scrub;

/// What arguments choose: what stands in, what is kept, what is only looked for, and what is refused.
mod option;

/// What becomes of files: in place, to an output, compressed, damaged, or written to meanwhile.
mod file;

/// What is scrubbed while it is written, and how that ends.
mod follow;
