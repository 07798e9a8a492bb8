//! IP-address anonymization for Rust servers.
//!
//! At the edge, before application code or a log can see it, the client's IP address becomes a pseudonym, under a key
//! that is destroyed on schedule. Rate limits, visitor counts and session checks go on working. Two questions can't be
//! answered any more, not even by an insider with all logs and databases: *where was this user?*, and *were these two
//! users at the same place?*
//!
//! ```text
//!             raw, unprintable            │            pseudonyms and networks only
//!  socket ─► Peer ─► Resolver ─► ClientAddr ─► Policy (views) ─► headers, extensions ─► application
//!                    ▲ headers            │        ▲
//!                    TrustedProxies       │     KeyRing ◄── KeySource
//! ```
//!
//! Left of the line nothing can be printed: raw types have no `Display`, no accessor, no comparison. Right of it nothing
//! can be turned back into an address.
//!
//! | to | see |
//! |---|---|
//! | put it in front of a server | [`layer`] |
//! | say who the client is | [`resolve`] |
//! | take the client from a PROXY header, or tell the next server of it | [`proxy_protocol`] |
//! | decide who may know what | [`policy`] |
//! | rotate and destroy keys | [`keys`] |
//! | know which headers are removed | [`headers`] |
//! | remove addresses from text | [`scrub`] |
#![cfg_attr(feature = "geo", doc = "| show the country of a client | [`geo`] |")]
#![cfg_attr(feature = "axum", doc = "| use axum | [`axum`](mod@axum) |")]
#![cfg_attr(feature = "tonic", doc = "| use tonic | [`tonic`](mod@tonic) |")]
//!
//! # What is out of reach
//!
//! An operator who changes the edge so that it records addresses; the network below HTTP (flow records, captures); other
//! identifiers in the request, such as cookies and TLS fingerprints; an insider who holds the live key of the running
//! epoch. Query strings, bodies, and whatever else of the application's own holds an address.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod addr;
#[cfg(feature = "geo")]
pub mod geo;
#[cfg(not(feature = "geo"))]
#[path = "no_geo.rs"]
mod geo;
pub mod headers;
pub mod keys;
pub mod layer;
mod lend;
mod networks;
pub mod policy;
pub mod proxy_protocol;
mod pseudonym;
pub mod resolve;
pub mod scrub;

#[cfg(feature = "axum")]
pub use self::layer::axum;
#[cfg(feature = "tonic")]
pub use self::layer::tonic;
pub use self::{
    addr::{ClientAddr, Peer},
    keys::KeyRing,
    layer::{Anonymize, AnonymizeLayer, Anonymizer},
    networks::{Networks, NetworksError},
    policy::{Client, Policy},
    pseudonym::{LimitKey, Pseudonym, PseudonymRange, RangeError, Token},
    resolve::{Resolver, TrustedProxies},
    scrub::Scrubber,
};

/// Its program compiles.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
