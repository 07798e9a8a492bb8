//! Cases from other projects' own tests: who the client is, and what never reaches an application.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

/// Cases of other projects, and what ipveil makes of them.
mod case;

/// A server behind a trusted proxy, which reads a client from any header that it can be in.
mod edge;

/// Who the client is: as other projects say, or not for a reason.
mod client;

/// What holds whatever a client sends.
mod hostile;

/// Which headers never reach an application.
mod strip;
