//! What holds where a configuration says nothing.

use std::{collections::BTreeMap, time::Duration};

use super::{
    AccessLog, Bans, Deadlines, Header, Keys, Limits, Log, LogFormat, Memory, Privacy, ScopeKind, Text, View,
    ViewShape, WhenUnavailable,
};

pub(super) fn views() -> BTreeMap<String, View> {
    let view = |shape, header| View { shape, header, scope: None, window: None, keep: None };
    BTreeMap::from([
        ("app".to_owned(), view(ViewShape::Address, Some(Text(Header::named("x-forwarded-for"))))),
        ("log".to_owned(), view(ViewShape::Token, None)),
    ])
}

pub(super) fn yes() -> bool {
    true
}

pub(super) fn slash() -> String {
    "/".to_owned()
}

pub(super) fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

impl Default for Memory {
    fn default() -> Self {
        Self { wipe: true }
    }
}

impl Default for Privacy {
    fn default() -> Self {
        // The session cookies of the frameworks that most sites are made with.
        let cookies = [
            "sid",
            "session",
            "sessionid",
            "session_id",
            "connect.sid",
            "PHPSESSID",
            "JSESSIONID",
            "ASP.NET_SessionId",
            "laravel_session",
            "_session_id",
            "__Host-session",
            "__Secure-session",
        ];
        Self {
            scope: ScopeKind::Session,
            cookies: cookies.map(str::to_owned).to_vec(),
            authorization: true,
            hosts: Vec::new(),
            anonymous_per_host: false,
            strip: Vec::new(),
            keep: Vec::new(),
            strip_countries: false,
            strip_certificates: false,
            strip_fingerprints: false,
            strip_join_keys: false,
            range: None,
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(24 * 60 * 60),
            when_unavailable: WhenUnavailable::Degrade,
            file: None,
            file_may_be_on_a_disk: false,
            redis: None,
            journal: None,
        }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { format: LogFormat::Combined, to: "stdout".into() }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), json: false }
    }
}

impl Default for Bans {
    fn default() -> Self {
        Self { enabled: true, tokens: 100_000 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_client: 0,
            streams: 100,
            headers: 100,
            header_bytes: 64 * 1024,
            body_bytes: 0,
            idle_upstream_connections: 256,
        }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            proxy_header: seconds(3),
            tls_handshake: seconds(10),
            first_bytes: seconds(10),
            request_head: seconds(10),
            keep_alive: seconds(75),
            client_idle: seconds(60),
            connect: seconds(5),
            first_byte: seconds(60),
            upstream_idle: seconds(60),
            upstream_keep_alive: seconds(60),
            upstream_lifetime: seconds(5 * 60),
            upgraded_idle: seconds(3600),
            drain: seconds(30),
        }
    }
}
