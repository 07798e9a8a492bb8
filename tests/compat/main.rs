//! Unmodified crates go on working behind the layer: each finds an address where it looks for one, a pseudonym.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

/// Messages of gRPC that are bytes.
#[path = "../codec.rs"]
mod codec;

/// Where servers listen.
#[path = "../listener.rs"]
mod listener;

/// A log in memory.
#[path = "../log.rs"]
mod log;

/// A layer for a test, servers behind it, and whoever asks them.
mod edge;

/// What axum's `ConnectInfo` and extractors show.
mod axum;

/// What axum-client-ip reads.
mod axum_client_ip;

/// Whom tower_governor counts as one.
mod tower_governor;

/// What tower-http traces.
mod tower_http;

/// How sessions of tower-sessions and pseudonyms go together.
mod tower_sessions;

/// What tonic shows as the remote address.
mod tonic;

/// hyper without a framework, and what a layer of tower leaves as it is.
mod tower;
