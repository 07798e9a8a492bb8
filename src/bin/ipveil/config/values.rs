//! What stands in a configuration, and on the command line, as text: parsed at once, or refused with what was expected.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use http::{HeaderName, Uri, uri::Authority};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Deserializer, de};

/// A value that is written as text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Text<T>(pub(crate) T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(de::Error::custom)
    }
}

impl<T: FromStr> FromStr for Text<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Where to listen, or to ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// The socket of this name that the service manager has opened.
    Systemd(String),
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            return Ok(Self::Systemd(name.to_owned()));
        }
        text.parse().map(Self::Tcp).map_err(
            |_| "expected an address with a port, such as 127.0.0.1:8080 or [::]:443, or unix:PATH, or systemd:NAME",
        )
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// Who may connect to the file of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode(pub(crate) u32);

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && text.len() >= 3);
        mode.map(Self).ok_or("expected who may connect in octal, such as \"0660\"")
    }
}

/// A server that requests go to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub(crate) at: ServerAt,
    pub(crate) tls: bool,
    /// HTTP/2 without asking.
    pub(crate) h2c: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ServerAt {
    Tcp(Authority, u16),
    Unix(PathBuf),
}

impl FromStr for Server {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT or unix:PATH, without a path";
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self { at: ServerAt::Unix(path.into()), tls: false, h2c: false });
        }
        let uri: Uri = text.parse().map_err(|_| EXPECTED)?;
        let (tls, h2c, port) = match uri.scheme_str() {
            Some("http") => (false, false, 80),
            Some("https") => (true, false, 443),
            Some("h2c") => (false, true, 80),
            _ => return Err(EXPECTED),
        };
        let authority = uri.authority().ok_or(EXPECTED)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(EXPECTED);
        }
        // A port that is none would be left out without a word, and another server asked.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => port,
            _ => authority.port_u16().filter(|&port| port > 0).ok_or(EXPECTED)?,
        };
        Ok(Self { at: ServerAt::Tcp(authority.clone(), port), tls, h2c })
    }
}

impl Server {
    /// What `Host` says of it.
    pub(crate) fn authority(&self) -> &str {
        match &self.at {
            ServerAt::Tcp(authority, _) => authority.as_str(),
            ServerAt::Unix(_) => self.host(),
        }
    }

    /// The name to ask for, without the port.
    pub(crate) fn host(&self) -> &str {
        match &self.at {
            ServerAt::Tcp(authority, _) => authority.host().trim_start_matches('[').trim_end_matches(']'),
            ServerAt::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            ServerAt::Tcp(authority, _) => authority.fmt(f),
            ServerAt::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The name of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header(pub(crate) HeaderName);

impl Header {
    pub(crate) fn named(name: &'static str) -> Self {
        Self(HeaderName::from_static(name))
    }
}

impl FromStr for Header {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "expected the name of a header, such as x-forwarded-for")
    }
}

/// The name of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host(pub(crate) String);

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let name = text.strip_prefix("*.").unwrap_or(text);
        if name.is_empty() || !name.bytes().all(fits) {
            return Err("expected the name of a host, such as example.com or *.example.com, without a port");
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// For whom a certificate is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CertifiedName(pub(crate) ServerName<'static>);

impl FromStr for CertifiedName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = ServerName::try_from(text.to_owned());
        name.map(Self).map_err(|_| "expected the name of a host, such as app.internal, or its address, without a port")
    }
}

/// How long: a number with a unit, such as `10s` or `1h 30m`.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, de};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let duration = humantime::parse_duration(&text)
            .map_err(|_| de::Error::custom("expected a duration with a unit, such as \"10s\", \"5m\" or \"24h\""))?;
        if duration.is_zero() || duration > Duration::from_secs(30 * 24 * 60 * 60) {
            return Err(de::Error::custom("expected a duration between 1ms and 30 days"));
        }
        Ok(duration)
    }
}

/// As [`duration`], where there may be none.
pub(crate) mod optional_duration {
    use std::time::Duration;

    use serde::Deserializer;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(deserializer).map(Some)
    }
}
