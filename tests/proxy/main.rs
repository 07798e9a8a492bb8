//! `ipveil proxy`, as clients, servers and operators meet it: the program itself, and sockets on both sides.

// Sockets of both kinds, signals, and /proc.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

/// The program.
#[path = "../program.rs"]
mod program;

/// A proxy, started with a configuration, and gone at the end.
mod edge;

/// Clients that write bytes and read answers.
mod client;

/// Servers that say what they are told to say, and remember what they were asked.
mod server;

/// A store for the keys of a fleet.
#[path = "../store/mod.rs"]
#[expect(clippy::print_stderr, reason = "a test that installs something says so")]
mod store;

/// Messages of gRPC that are bytes.
#[path = "../codec.rs"]
mod codec;

/// Where servers listen.
#[path = "../listener.rs"]
mod listener;

/// How addresses are written.
#[path = "../canaries.rs"]
mod canaries;

/// Nothing raw comes out, whatever goes in.
mod leak;

/// What is read as a request is one, for both sides.
mod smuggling;

/// Servers that are not there, that fail, or whose answers are none.
mod failure;

/// Clients and servers that dawdle, and more connections than there may be.
mod delay;

/// An end in the middle of work.
mod end;

/// What is wrong with a configuration is said with its place, and never quoted.
mod config;

/// Another configuration, another key: without a request that is lost.
mod reload;

/// Who is not served: denied networks, banned clients, and those who ask too often.
mod guards;

/// HTTP/1 on both sides: framing, streams, upgrades, sockets, and where requests go.
mod http1;

/// HTTP/2 on either side, and a protocol of the other version behind it.
mod http2;

/// TLS on both sides: protocols, certificates by name, of clients, and new ones.
mod tls;

/// gRPC: calls with one message and with many, in both directions at once, and how they end.
mod grpc;

/// What operators see: the command line, sockets, health, metrics, and too little of something.
mod operation;

/// What a server sees of a client: what is equal for whom, and nothing that a client can forge.
mod privacy;
