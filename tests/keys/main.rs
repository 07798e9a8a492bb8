//! Keys: when they are used, when they are destroyed, and what a bad day does to them.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

/// A ring for a test, its clock, and what its observer was told.
mod scene;

/// How long a key lives, whatever the clock says.
mod lifetime;

/// What a rotation destroys, and when.
mod rotation;

/// What an observer can do to a ring, and what it can not.
mod observer;

/// What a source is asked and told, and what a ring does with one that is slow, away, or wrong.
mod source;
