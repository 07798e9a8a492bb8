//! HTTP/2 on either side, and a protocol of the other version behind it.

pub(crate) use self::peers::{ACCEPT, Body, HANDSHAKE, Server, agree, body, over, run};

/// Clients and servers of HTTP/2.
mod peers;

/// What arrives of requests and answers, whichever version is on the other side.
mod messages;

/// Other protocols in a stream, or in a connection of the other version.
mod tunnels;

/// Connections that end, that are reset, or that do not go on, and what becomes of their requests.
mod connections;
