//! A purpose, and what it sees of a client.

use std::{fmt, net::IpAddr, time::Duration};

use http::{HeaderName, HeaderValue, header};
use ipnet::IpNet;

use super::{Problem, scope::Scope};
use crate::{
    addr::Keep,
    geo::{Countries, Country},
    headers,
    networks::Networks,
    pseudonym::{Pseudonym, Shape, Text},
};

/// A named purpose, and what it sees of a client.
///
/// The name is part of the hash: a view that is renamed has other pseudonyms.
#[derive(Clone, Debug)]
pub struct View {
    name: String,
    method: Method,
    header: Option<HeaderName>,
    scope: Option<Scope>,
    window: Option<Duration>,
    keeps_nothing: bool,
    pub(super) countries: Option<Countries>,
    networks: Option<Networks>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Pseudonym(Shape),
    Network(Keep),
    Country,
    Limit,
    Member,
}

impl View {
    pub(super) const LONGEST_NAME: usize = 32;

    /// Sees a pseudonym in the shape of an IPv6 address that is nobody's, in `2001:20::/28` (RFC 7343): what
    /// `X-Forwarded-For`, typed addresses and database columns for addresses accept. 100 bits.
    ///
    /// A pseudonym of this shape that a trusted proxy passes on was made by an ipveil before this one. It is shown as it is,
    /// in every view of this shape, whatever scope they have here: the first edge has decided that.
    #[must_use]
    pub fn address(name: impl Into<String>) -> Self {
        Self::new(name, Method::Pseudonym(Shape::Address))
    }

    /// Sees a pseudonym in the shape of an RFC 7239 obfuscated identifier: `_` and 26 letters and digits. For
    /// `Forwarded`, logs and analytics. 128 bits.
    #[must_use]
    pub fn token(name: impl Into<String>) -> Self {
        Self::new(name, Method::Pseudonym(Shape::Token))
    }

    /// Sees a pseudonym in the shape of an IPv4 address in `240.0.0.0/4`: for consumers that know no IPv6. 28 bits, so
    /// that clients collide: with 20,000 of them, some pair more likely than not.
    #[must_use]
    pub fn address_v4(name: impl Into<String>) -> Self {
        Self::new(name, Method::Pseudonym(Shape::AddressV4))
    }

    /// Sees the client's network: the first 24 bits of IPv4, 48 of IPv6.
    ///
    /// Weaker than a pseudonym: it says roughly where the client is, it is the same for all its neighbors, and no
    /// destroyed key ever takes that back.
    #[must_use]
    pub fn network(name: impl Into<String>) -> Self {
        Self::new(name, Method::Network(Keep::FINEST))
    }

    /// Counts a client's requests, and sees nothing of it: a [`LimitKey`](crate::LimitKey), the same in all sessions.
    /// Its window is 10 minutes unless [set](Self::window), and at its end the count begins anew: take one longer than the
    /// limiter's own. All of an IPv6 /56 is one client.
    #[must_use]
    pub fn limit(name: impl Into<String>) -> Self {
        Self::new(name, Method::Limit).window(Duration::from_secs(600))
    }

    /// Whether the client is in one of these networks, and nothing else: for lists of whom to serve, and whom not. It is
    /// asked for with [`Client::is_member`](super::Client::is_member), and can't be written into a header.
    ///
    /// The networks are compared with the address, so the answer is the same for ever and for every host and session.
    /// A long list of short networks is a list of places: don't keep what it says next to an account.
    #[must_use]
    pub fn member(name: impl Into<String>, networks: Networks) -> Self {
        Self { networks: Some(networks), ..Self::new(name, Method::Member) }
    }

    pub(super) fn new(name: impl Into<String>, method: Method) -> Self {
        Self {
            name: name.into(),
            method,
            header: None,
            scope: None,
            window: None,
            keeps_nothing: false,
            countries: None,
            networks: None,
        }
    }

    /// Is told to the application in this request header, too, in the form that the header takes: RFC 7239's in
    /// `Forwarded`, with a port of 0 in `CloudFront-Viewer-Address`, a network without its width in headers for
    /// addresses. If the client is withheld, `Forwarded` says `for=unknown`, and other headers are absent.
    #[must_use]
    pub fn header(mut self, name: HeaderName) -> Self {
        self.header = Some(name);
        self
    }

    /// Has another scope than the policy. Only pseudonyms have one: a [policy](super::Policy::new) refuses other views with it.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Changes its pseudonyms after this time, counted from 1970-01-01 00:00 UTC, though the key is still the same. The
    /// end of the epoch changes them in any case. For pseudonyms and limits: a [policy](super::Policy::new) refuses other views
    /// with it.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = Some(window);
        self
    }

    /// Sees a network of this many bits of IPv4 and IPv6 addresses. At most 24 and 48; a [policy](super::Policy::new) refuses
    /// more, and views that see no network.
    #[must_use]
    pub fn keep(mut self, v4: u8, v6: u8) -> Self {
        match &mut self.method {
            Method::Network(keep) => *keep = Keep { v4, v6 },
            _ => self.keeps_nothing = true,
        }
        self
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The header that it is told in.
    #[must_use]
    pub fn header_name(&self) -> Option<&HeaderName> {
        self.header.as_ref()
    }

    pub(super) fn countries(&self) -> Option<&Countries> {
        self.countries.as_ref()
    }

    pub(super) fn method(&self) -> Method {
        self.method
    }

    pub(super) fn own_scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    pub(super) fn networks(&self) -> Option<&Networks> {
        self.networks.as_ref()
    }

    /// Whether bits were to be kept of what is no network.
    pub(super) fn keeps_nothing(&self) -> bool {
        self.keeps_nothing
    }

    pub(super) fn window_length(&self) -> Option<Duration> {
        self.window
    }

    /// The number of the window at a time since 1970; 0 without windows.
    #[inline]
    pub(super) fn window_at(&self, seconds: u64) -> u64 {
        match self.window {
            Some(window) => seconds / window.as_secs().max(1),
            None => 0,
        }
    }
}

/// What a [`View`] shows of one client, whatever it sees: from [`Client::shown`](super::Client::shown). Prints as that, and as
/// `unknown` if it is nothing.
#[derive(Clone, Copy, Default)]
pub struct Shown(pub(super) What);

impl Shown {
    /// The pseudonym, if it is one.
    #[must_use]
    pub fn pseudonym(&self) -> Option<Pseudonym> {
        match self.0 {
            What::Pseudonym(pseudonym) => Some(pseudonym),
            What::Network(_) | What::Country(_) | What::Nothing => None,
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            What::Pseudonym(pseudonym) => pseudonym.fmt(f),
            What::Network(network) => network.fmt(f),
            What::Country(country) => f.pad(country.as_str()),
            What::Nothing => Pseudonym::Withheld.fmt(f),
        }
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shown({self})")
    }
}

/// Each kind of it.
#[derive(Clone, Copy, Default)]
pub(super) enum What {
    Pseudonym(Pseudonym),
    Network(IpNet),
    Country(Country),
    #[default]
    Nothing,
}

impl What {
    #[inline]
    pub(super) fn address(self) -> Option<IpAddr> {
        match self {
            Self::Pseudonym(pseudonym) => pseudonym.address(),
            Self::Network(network) => Some(network.addr()),
            Self::Country(_) | Self::Nothing => None,
        }
    }
}

/// The form of a header's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// RFC 7239.
    Forwarded,
    /// An address, as in `X-Forwarded-For`.
    Address,
    /// An address and a port, as in `CloudFront-Viewer-Address`.
    AddressAndPort,
    /// As it prints.
    Text,
}

impl Form {
    pub(super) fn of(name: &HeaderName, method: Method) -> Result<Self, Problem> {
        const NOT_OURS: [HeaderName; 25] = [
            header::HOST,
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::CONTENT_ENCODING,
            header::TRANSFER_ENCODING,
            header::TRAILER,
            header::TE,
            header::UPGRADE,
            header::EXPECT,
            header::COOKIE,
            header::AUTHORIZATION,
            header::PROXY_AUTHORIZATION,
            header::ORIGIN,
            header::RANGE,
            header::ACCEPT,
            header::ACCEPT_ENCODING,
            header::CONTENT_RANGE,
            header::DATE,
            header::REFERER,
            header::SET_COOKIE,
            header::USER_AGENT,
            HeaderName::from_static("http2-settings"),
            HeaderName::from_static("keep-alive"),
            HeaderName::from_static("proxy-connection"),
        ];
        // Conditions, what a browser says of a request, CORS, and what gRPC has around a call.
        const NOT_OURS_EITHER: [&str; 4] = ["if-", "sec-", "access-control-", "grpc-"];
        match method {
            Method::Limit => return Err(Problem::LimitInHeader),
            Method::Member => return Err(Problem::MemberInHeader),
            Method::Pseudonym(_) | Method::Network(_) | Method::Country => {}
        }
        if NOT_OURS.contains(name) || NOT_OURS_EITHER.iter().any(|prefix| name.as_str().starts_with(prefix)) {
            return Err(Problem::HeaderNotOurs);
        }
        let form = match name.as_str() {
            "forwarded" => Self::Forwarded,
            "cloudfront-viewer-address" => Self::AddressAndPort,
            name if headers::takes_address(name) => Self::Address,
            _ => Self::Text,
        };
        if form != Self::Text && method == Method::Country {
            return Err(Problem::CountryInHeader);
        }
        // A token there makes many a framework answer 500, or take the peer instead.
        if matches!(form, Self::Address | Self::AddressAndPort) && method == Method::Pseudonym(Shape::Token) {
            return Err(Problem::HeaderTakesAddress);
        }
        Ok(form)
    }

    /// `address` is the one that is shown, if it is one.
    #[inline(always)]
    pub(super) fn text(self, shown: What, address: Option<IpAddr>) -> Option<HeaderValue> {
        let mut text = Text::of(b"");
        match (self, shown) {
            (Self::Address, _) => text.push_address(address?),
            (Self::AddressAndPort, _) => {
                text.push_address(address?);
                text.extend(b":0");
            }
            (Self::Forwarded, shown) => push_forwarded(&mut text, shown, address),
            (Self::Text, What::Nothing | What::Pseudonym(Pseudonym::Withheld)) => return None,
            (Self::Text, What::Pseudonym(pseudonym)) => text = pseudonym.text(),
            (Self::Text, What::Country(country)) => text = Text::of(country.as_str().as_bytes()),
            (Self::Text, What::Network(network)) => {
                return HeaderValue::try_from(network.to_string()).ok();
            }
        }
        HeaderValue::from_bytes(text.as_bytes()).ok()
    }
}

// RFC 7239, 6: an IPv6 address is in brackets, and what has brackets or colons is quoted.
fn push_forwarded(text: &mut Text, shown: What, address: Option<IpAddr>) {
    text.extend(b"for=");
    match (address, shown) {
        (Some(IpAddr::V4(address)), _) => text.push_ipv4(address),
        (Some(IpAddr::V6(address)), _) => {
            text.extend(b"\"[");
            text.push_ipv6(address);
            text.extend(b"]\"");
        }
        (None, What::Pseudonym(pseudonym)) => text.extend(pseudonym.text().as_bytes()),
        (None, _) => text.extend(b"unknown"),
    }
}
