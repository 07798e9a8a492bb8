//! What a pseudonym may be compared within, and how a request says it.

use std::num::NonZeroU16;

use http::{HeaderMap, Uri, header};

use super::Problem;
use crate::{
    headers::Lines,
    pseudonym::{Credential, Credentials, Handle},
};

/// What a pseudonym may be compared within. See the [module](super) for which to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Unscoped,
    Host(Vec<String>),
    Session(Session),
}

impl Scope {
    /// Everything: equal for everybody behind one address, for as long as the rows exist. Never next to an account.
    #[must_use]
    pub fn unscoped() -> Self {
        Self(Kind::Unscoped)
    }

    /// One of these hosts, by exact name. A request for any other gets a pseudonym of its own, the session's if the
    /// policy knows sessions: what a client sends as `Host` must not choose its scope.
    #[must_use]
    pub fn per_host<T: Into<String>>(hosts: impl IntoIterator<Item = T>) -> Self {
        Self(Kind::Host(hosts.into_iter().map(Into::into).collect()))
    }

    /// A session: equal for one login at one address. A request without a session gets a fresh random pseudonym, as RFC
    /// 7239, 8.3, recommends; the login itself is usually one of these, so what is stored there should be
    /// [scoped](crate::Client::scoped) to the user.
    #[must_use]
    pub fn per_session(session: Session) -> Self {
        Self(Kind::Session(session))
    }

    /// Notes what a request has to be asked for, once for all views.
    pub(super) fn register(
        &self,
        hosts: &mut Option<Hosts>,
        session: &mut Option<Session>,
    ) -> Result<Meaning, Problem> {
        match &self.0 {
            Kind::Unscoped => Ok(Meaning::Unscoped),
            Kind::Host(names) => {
                Hosts::register(names, hosts)?;
                Ok(Meaning::Host)
            }
            Kind::Session(new) => {
                if new.cookies.iter().any(String::is_empty) || (new.cookies.is_empty() && !new.authorization) {
                    return Err(Problem::NoCredentials);
                }
                if !new.cookies.iter().all(|name| is_cookie(name)) {
                    return Err(Problem::BadCookie);
                }
                if let Some(names) = &new.anonymous_hosts {
                    Hosts::register(names, hosts)?;
                }
                match session {
                    Some(session) if session != new => return Err(Problem::SessionsDiffer),
                    session => *session = Some(new.clone()),
                }
                Ok(match new.anonymous_hosts {
                    Some(_) => Meaning::SessionOrHost,
                    None => Meaning::Session,
                })
            }
        }
    }
}

/// What identifies a session in a request: the values are hashed, and never kept.
///
/// They identify it to us, and prove nothing: a client can send what it likes, and so have as many pseudonyms as it
/// likes. That is what [`LimitKey`](crate::LimitKey)s are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    cookies: Vec<String>,
    authorization: bool,
    anonymous_hosts: Option<Vec<String>>,
}

impl Session {
    /// A cookie of this name, if it has a value: not one that programs leave behind where there is none, such as `null`,
    /// `undefined` or `deleted`.
    ///
    /// If there are several of this name, as of different paths, the session is all of them together.
    #[must_use]
    pub fn cookie(name: impl Into<String>) -> Self {
        Self { cookies: vec![name.into()], authorization: false, anonymous_hosts: None }
    }

    /// The `Authorization` header, if it has credentials: not a scheme alone, nor one that authenticates connections
    /// (`Negotiate` and `NTLM`, RFC 4559), whose first words are the same for everybody.
    ///
    /// Whoever sends the same credentials at the same address is one session. A key that a whole application sends, or a
    /// password that all users share, is none: don't scope by it.
    #[must_use]
    pub fn authorization() -> Self {
        Self { cookies: Vec::new(), authorization: true, anonymous_hosts: None }
    }

    /// This cookie, too: the session is all that are there, together.
    #[must_use]
    pub fn or_cookie(mut self, name: impl Into<String>) -> Self {
        self.cookies.push(name.into());
        self
    }

    /// The `Authorization` header, too.
    #[must_use]
    pub fn or_authorization(mut self) -> Self {
        self.authorization = true;
        self
    }

    /// Visitors without a session share a pseudonym per host, instead of a fresh one for each request: for counting
    /// them. Such pseudonyms are equal for everybody behind one address, so they must never stand next to an account.
    #[must_use]
    pub fn anonymous_per_host<T: Into<String>>(mut self, hosts: impl IntoIterator<Item = T>) -> Self {
        self.anonymous_hosts = Some(hosts.into_iter().map(Into::into).collect());
        self
    }

    pub(super) fn of(&self, handle: &Handle, lines: &impl Lines) -> Option<[u8; 16]> {
        let mut credentials = Credentials::new();
        for names in self.cookies.chunks(AT_ONCE) {
            let mut more = More::default();
            let values = first_of(lines, names, &mut more);
            for (place, (name, first)) in names.iter().zip(values).enumerate() {
                if let Some(value) = first.filter(|value| !says_nothing(value)) {
                    credentials.push(Credential::Cookie(name, value));
                }
                if !more.0.is_empty() {
                    more.push_to(&mut credentials, place, name);
                }
            }
        }
        for value in lines.authorization() {
            if self.authorization && has_credentials(value.as_bytes()) {
                credentials.push(Credential::Authorization(value.as_bytes()));
            }
        }
        credentials.hash(handle)
    }
}

/// Whether a value is nobody's: all who have it would be in one session.
fn says_nothing(value: &[u8]) -> bool {
    const NOTHING: [&[u8]; 11] =
        // The last is the base64 of ":".
        [b"", b"0", b"-", b"null", b"nil", b"none", b"undefined", b"nan", b"false", b"deleted", b"og=="];
    // Most are longer than all of these.
    if value.len() > 11 {
        return false;
    }
    let value = value.trim_ascii();
    let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value).trim_ascii();
    NOTHING.iter().any(|nothing| value.eq_ignore_ascii_case(nothing))
}

/// Whether `Authorization` says who asks.
fn has_credentials(value: &[u8]) -> bool {
    // What has no scheme may be a key, if it is long enough for one.
    const SHORTEST_KEY: usize = 16;
    let value = value.trim_ascii();
    let Some(end) = value.iter().position(u8::is_ascii_whitespace) else {
        return value.len() >= SHORTEST_KEY;
    };
    let (scheme, credentials) = value.split_at(end);
    let is_of_a_connection = scheme.eq_ignore_ascii_case(b"negotiate") || scheme.eq_ignore_ascii_case(b"ntlm");
    !is_of_a_connection && !says_nothing(credentials.trim_ascii())
}

/// How many names are looked for in one pass over the cookies.
const AT_ONCE: usize = 16;

/// The values of cookies that have the name of one before them. Nobody needs two of one name, but whoever may write cookies
/// for another path or host can plant one: if only the first counted, all to whom it was given would be in one session.
#[derive(Default)]
struct More<'a>(Vec<(usize, &'a [u8])>);

impl<'a> More<'a> {
    #[cold]
    fn push(&mut self, place: usize, value: &'a [u8]) {
        self.0.push((place, value));
    }

    /// Of the name at that place, in the order in which they came.
    #[cold]
    fn push_to(&self, credentials: &mut Credentials, place: usize, name: &str) {
        for &(_, value) in self.0.iter().filter(|&&(other, value)| other == place && !says_nothing(value)) {
            credentials.push(Credential::Cookie(name, value));
        }
    }
}

/// The value of the first cookie of each name. All others are `more`.
fn first_of<'a>(lines: &'a impl Lines, names: &[String], more: &mut More<'a>) -> [Option<&'a [u8]>; AT_ONCE] {
    let mut values = [None; AT_ONCE];
    // Most cookies have a name of another length than all that are looked for.
    let lengths = names.iter().fold(0, |lengths, name| lengths | length_bit(name.as_bytes()));
    for line in lines.cookies() {
        let mut rest = Some(line.as_bytes());
        while let Some(line) = rest {
            let pair;
            (pair, rest) = match semicolon(line) {
                Some(end) => (&line[..end], Some(&line[end + 1..])),
                None => (line, None),
            };
            let Some(end) = pair.iter().position(|&byte| byte == b'=') else { continue };
            let name = pair[..end].trim_ascii();
            if lengths & length_bit(name) == 0 {
                continue;
            }
            for (place, (wanted, first)) in names.iter().zip(&mut values).enumerate() {
                if wanted.as_bytes() == name {
                    let value = pair[end + 1..].trim_ascii();
                    match first {
                        None => *first = Some(value),
                        Some(_) => more.push(place, value),
                    }
                }
            }
        }
    }
    values
}

fn length_bit(name: &[u8]) -> u64 {
    1 << (name.len() & 63)
}

/// Where the first one is. Eight bytes at a time: browsers send more bytes of cookies than of all else.
fn semicolon(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (eights, tail) = text.as_chunks::<8>();
    for (place, eight) in eights.iter().enumerate() {
        // The bytes that are semicolons are zero here; from the first of them a borrow sets its top bit.
        let other = u64::from_le_bytes(*eight) ^ (ONES * u64::from(b';'));
        let found = other.wrapping_sub(ONES) & !other & (ONES << 7);
        if found != 0 {
            return Some(8 * place + found.trailing_zeros() as usize / 8);
        }
    }
    tail.iter().position(|&byte| byte == b';').map(|place| text.len() - tail.len() + place)
}

/// A scope without its details, which are the same for all views of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Unscoped,
    Host,
    Session,
    SessionOrHost,
}

impl Meaning {
    /// Whether a request without a session has this scope.
    pub(super) fn is_given(self, host: bool) -> bool {
        match self {
            Self::Unscoped => true,
            Self::Host | Self::SessionOrHost => host,
            Self::Session => false,
        }
    }
}

/// The hosts that there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hosts(
    // Sorted, in lower case.
    Vec<String>,
);

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Host(
    // Its place in the list, from 1.
    NonZeroU16,
);

impl Hosts {
    fn register(names: &[String], hosts: &mut Option<Self>) -> Result<(), Problem> {
        if names.is_empty() || names.len() > usize::from(u16::MAX) {
            return Err(Problem::NoHosts);
        }
        let mut new: Vec<_> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        if new.iter().any(|name| !is_host(name)) {
            return Err(Problem::BadHost);
        }
        new.sort_unstable();
        match hosts {
            Some(hosts) if hosts.0 != new => Err(Problem::HostsDiffer),
            hosts => {
                *hosts = Some(Self(new));
                Ok(())
            }
        }
    }

    pub(super) fn of(&self, uri: &Uri, headers: &HeaderMap) -> Option<Host> {
        // RFC 9112, 3.2.2: an absolute target overrides Host.
        let host = match uri.host() {
            Some(host) => host.as_bytes(),
            None => {
                let mut hosts = headers.get_all(header::HOST).into_iter();
                let host = hosts.next().filter(|_| hosts.next().is_none())?;
                without_port(host.as_bytes())
            }
        };
        let host = host.strip_suffix(b".").unwrap_or(host);
        let folded = || host.iter().map(u8::to_ascii_lowercase);
        let place = self.0.binary_search_by(|name| name.bytes().cmp(folded())).ok()?;
        u16::try_from(place + 1).ok().and_then(NonZeroU16::new).map(Host)
    }

    pub(super) fn name(&self, host: Host) -> &str {
        &self.0[usize::from(host.0.get()) - 1]
    }
}

/// Whether a request can have a cookie of that name. RFC 6265, 4.1.1, allows less, and browsers allow more.
fn is_cookie(name: &str) -> bool {
    name.trim() == name && !name.contains(|character: char| matches!(character, '=' | ';') || character.is_control())
}

fn is_host(name: &str) -> bool {
    let bracketed = name.starts_with('[') && name.ends_with(']');
    !name.is_empty()
        && !name.ends_with('.')
        && name.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') || (bracketed && b"[]:".contains(&byte))
        })
}

fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|&byte| byte == b':') {
        Some(colon) if host[colon + 1..].iter().all(u8::is_ascii_digit) => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// For each name, in the order in which they came.
    fn values<'a>(headers: &'a HeaderMap, names: &[String]) -> Vec<Vec<&'a str>> {
        let mut more = More::default();
        let first = first_of(headers, names, &mut more);
        let text = |value: &'a [u8]| std::str::from_utf8(value).unwrap();
        let of = |place: usize| {
            let more = more.0.iter().filter(move |(other, _)| *other == place).map(|(_, value)| *value);
            first[place].into_iter().chain(more).map(text).collect()
        };
        (0..names.len()).map(of).collect()
    }

    proptest! {
        #[test]
        fn the_first_semicolon_is_found(text in "[;:<\u{0}\u{bb}=a-z ]{0,40}") {
            let text = text.as_bytes();
            prop_assert_eq!(semicolon(text), text.iter().position(|&byte| byte == b';'));
        }

        #[test]
        fn cookies_are_found_where_a_plain_search_finds_them(lines in proptest::collection::vec("[ab=; ]{0,40}", 0..3)) {
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append(header::COOKIE, HeaderValue::from_str(line).unwrap());
            }
            let plain = |name: &str| {
                let pairs = lines.iter().flat_map(|line| line.split(';'));
                let values = pairs.filter_map(|pair| {
                    let rest = pair.trim_ascii_start().strip_prefix(name)?;
                    Some(rest.trim_ascii_start().strip_prefix('=')?.trim_ascii())
                });
                values.collect::<Vec<_>>()
            };
            let names = ["ab", "b", "aa", "ab"].map(String::from);
            for (found, name) in values(&headers, &names).iter().zip(&names) {
                prop_assert_eq!(found, &plain(name));
            }
        }
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let sid = ["sid".to_owned()];
        for (line, expected) in [
            ("sid=abc", &["abc"][..]),
            ("a=b; sid=abc; c=d", &["abc"]),
            ("a=b;sid = abc", &["abc"]),
            ("sid=a=b", &["a=b"]),
            ("sid=abc; a=b; sid=def;sid=abc", &["abc", "def", "abc"]),
            ("xsid=abc", &[]),
            ("sidx=abc", &[]),
            ("sid=", &[""]),
            ("sid", &[]),
            ("SID=abc", &[]),
            (";;;", &[]),
        ] {
            let headers = headers(&[("cookie", line)]);
            assert_eq!(values(&headers, &sid), [expected], "{line}");
        }
        let headers = headers(&[("cookie", "sid=def; a=b"), ("cookie", "sid=abc")]);
        assert_eq!(values(&headers, &sid), [["def", "abc"]]);
    }

    #[test]
    fn each_host_of_a_long_list_is_found_and_no_other() {
        let names: Vec<_> = (0..1000).map(|number| format!("Host-{number}.example")).collect();
        let mut hosts = None;
        Hosts::register(&names, &mut hosts).unwrap();
        let hosts = hosts.unwrap();
        let of = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            hosts.of(&Uri::from_static("/"), &headers).map(|host| hosts.name(host).to_owned())
        };
        for name in &names {
            assert_eq!(of(&name.to_ascii_uppercase()), Some(name.to_ascii_lowercase()));
        }
        for host in ["", "a", "host-", "host-1000.example", "host-7.exampl", "host-7.example.", "zzz"] {
            let expected = (host == "host-7.example.").then(|| "host-7.example".to_owned());
            assert_eq!(of(host), expected, "{host}");
        }
    }

    #[test]
    fn a_host_is_one_of_the_list_or_nothing() {
        let mut hosts = None;
        Hosts::register(&["Example.com".into(), "[2001:db8::1]".into()], &mut hosts).unwrap();
        let hosts = hosts.unwrap();
        for (uri, host, found) in [
            ("/", "example.com", Some("example.com")),
            ("/", "EXAMPLE.com:8080", Some("example.com")),
            ("/", "example.com.", Some("example.com")),
            ("/", "[2001:db8::1]:443", Some("[2001:db8::1]")),
            ("/", "evil.example", None),
            ("/", "example.com.evil.example", None),
            ("http://example.com/", "evil.example", Some("example.com")),
            ("http://evil.example/", "example.com", None),
        ] {
            let headers = headers(&[("host", host)]);
            let result = hosts.of(&uri.parse().unwrap(), &headers).map(|host| hosts.name(host));
            assert_eq!(result, found, "{uri} {host}");
        }
        let twice = headers(&[("host", "example.com"), ("host", "evil.example")]);
        assert!(hosts.of(&Uri::from_static("/"), &twice).is_none());
    }
}
