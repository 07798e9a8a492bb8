//! A fleet and its store: agreement on good days and bad ones, and what whoever controls the store can do.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it measured and installed")]

/// A store.
#[path = "../store/mod.rs"]
mod store;

/// A gate in front of it, which can be shut.
#[path = "../store/gate.rs"]
mod gate;

/// What whoever has stolen the fleet's secret writes there.
#[path = "../store/stolen.rs"]
mod stolen;

/// What a ring noticed.
#[path = "../notices.rs"]
mod notices;

/// A fleet for a test: nodes that share a clock, and what each of them saw.
mod node;

/// How soon nodes have one key, and how a fleet that was in parts has one again.
mod agreement;

/// What clocks cost that are set, that differ, or that stood still.
mod clock;

/// What a store costs that is away, slow, silent or forgetful, or that answers without end.
mod outage;

/// How a rotation comes to all nodes, whoever asks for it, and whatever is in its way.
mod rotation;

/// How a secret is replaced, and what a node with another one sees.
mod secret;

/// Which stores there may be, and how nodes reach them: passwords, TLS, sentinels, clusters.
mod connection;

/// What whoever controls the store can not do.
mod attacker;
