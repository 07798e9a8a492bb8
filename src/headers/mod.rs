//! Request headers that say who or where a client is, and what removes them.
//!
//! One table, each entry with what it carries and where that is documented, or was seen. Names are compared as CGI-like
//! applications see them: in lower case, and all but letters and digits as `-`, so that `X_Forwarded_For` is
//! `X-Forwarded-For`. What is in no table and has a name that ends in `-ip`, `-forwarded-for` or `-remote-addr` is
//! taken for the client's address, too.

mod look;
mod names;
mod table;

use std::fmt;

use http::{HeaderMap, HeaderName};

pub(crate) use self::{
    look::{Lines, Look},
    table::takes_address,
};
pub use self::{
    names::are_alike,
    table::{Kind, known},
};
use self::{
    names::{Filter, Names, fold, says_address},
    table::TABLE,
};

/// Removes what it is told to from a request's headers.
///
/// By default that is every [known](known()) header that carries an address, a port, or a location finer than a country, or
/// tells of the way that the request came; and those whose names say that they carry an address: see the [module](self).
///
/// ```
/// use ipveil::headers::Strip;
///
/// let strip = Strip::new().join_keys().also("x-client-geo-*")?;
/// let mut trailers = http::HeaderMap::new();
/// trailers.insert("x_real_ip", http::HeaderValue::from_static("203.0.113.7"));
/// strip.strip(&mut trailers);
/// assert!(trailers.is_empty());
/// # Ok::<(), ipveil::headers::StripError>(())
/// ```
#[derive(Clone)]
pub struct Strip {
    names: Names,
    globs: Vec<Glob>,
    kept: Vec<String>,
}

impl Strip {
    /// What is removed by default.
    #[must_use]
    pub fn new() -> Self {
        Self { names: Names::new(), globs: Vec::new(), kept: Vec::new() }.kinds(Kind::is_removed_by_default)
    }

    /// Countries and continents, too.
    #[must_use]
    pub fn countries(self) -> Self {
        self.kinds(|kind| kind == Kind::Country)
    }

    /// Client certificates, too.
    #[must_use]
    pub fn certificates(self) -> Self {
        self.kinds(|kind| kind == Kind::Certificate)
    }

    /// TLS fingerprints, too.
    #[must_use]
    pub fn fingerprints(self) -> Self {
        self.kinds(|kind| kind == Kind::Fingerprint)
    }

    /// Ids that join with other systems' logs, too: trace ids and request ids.
    #[must_use]
    pub fn join_keys(self) -> Self {
        self.kinds(|kind| kind == Kind::JoinKey)
    }

    /// Headers of this name, too; `*` stands for any number of characters.
    ///
    /// # Errors
    ///
    /// [`StripError::NotAName`] if no header can have that name, [`StripError::Everything`] if all would.
    pub fn also(mut self, glob: &str) -> Result<Self, StripError> {
        let glob = Glob::parse(glob)?;
        match glob.0.as_slice() {
            [name] if Names::can_hold(name) => self.names.insert(name),
            _ => self.globs.push(glob),
        }
        Ok(self)
    }

    /// Not headers of this name, whatever else says so: for one that means something else in your application, such as an
    /// `X-Region` that a user chose.
    ///
    /// # Errors
    ///
    /// [`StripError::Address`] if it is known to carry an address: those are always removed.
    pub fn keep(mut self, name: &HeaderName) -> Result<Self, StripError> {
        let name = fold(name.as_str());
        if TABLE.iter().any(|&(known, kind, _)| known == name && kind.is_always_removed()) {
            return Err(StripError::Address);
        }
        self.kept.push(name);
        Ok(self)
    }

    /// Removes them from a request's headers, or from its trailers; behind a layer,
    /// [`Anonymizer::strip_trailers`](crate::layer::Anonymizer::strip_trailers) also knows what that writes.
    pub fn strip(&self, headers: &mut HeaderMap) {
        self.strip_except(headers, |_| false);
    }

    /// Says no to most names of headers that are not removed.
    fn filter(&self) -> Filter {
        match self.globs.is_empty() {
            true => self.names.filter(),
            false => Filter::full(),
        }
    }

    /// Removes them, except those that are about to be written over.
    fn strip_except(&self, headers: &mut HeaderMap, ours: impl Fn(&HeaderName) -> bool) {
        // As many as have room here are removed in one go. Nobody sends more, except to cost us time.
        const ROOM: usize = 16;
        loop {
            let mut doomed = [const { None::<HeaderName> }; ROOM];
            let names = headers.keys().filter(|name| self.removes(name) && !ours(name));
            let mut count = 0;
            for (place, name) in doomed.iter_mut().zip(names) {
                *place = Some(name.clone());
                count += 1;
            }
            for name in doomed.iter().flatten() {
                headers.remove(name);
            }
            if count < ROOM {
                return;
            }
        }
    }

    /// Whether a header of this name is removed.
    #[must_use]
    #[inline]
    pub fn removes(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        let named = self.names.contains(name)
            || says_address(name)
            || (!self.globs.is_empty() && self.globs.iter().any(|glob| glob.fits(&fold(name))));
        named && (self.kept.is_empty() || !self.kept.contains(&fold(name)))
    }

    /// This one in any case, in every spelling.
    fn always(&mut self, name: &HeaderName) {
        let name = fold(name.as_str());
        self.kept.retain(|kept| *kept != name);
        match Names::can_hold(&name) {
            true => self.names.insert(&name),
            false => self.globs.push(Glob(vec![name])),
        }
    }

    fn kinds(mut self, removed: impl Fn(Kind) -> bool) -> Self {
        for &(name, kind, _) in TABLE {
            if removed(kind) {
                self.names.insert(name);
            }
        }
        self
    }
}

impl Default for Strip {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Strip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strip").field("names", &self.names.sorted.len()).field("globs", &self.globs).finish()
    }
}

/// Why a header can't be stripped, or can't be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StripError {
    /// No header can have that name.
    NotAName,
    /// Every header would be removed.
    Everything,
    /// It carries an address.
    Address,
}

impl fmt::Display for StripError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAName => "not the name of a header (expected letters, digits, - and _, with * for any of them)",
            Self::Everything => "every header would be removed (expected a name with something besides *)",
            Self::Address => "a header that carries the client's address can't be kept",
        })
    }
}

impl std::error::Error for StripError {}

/// The parts of a name between asterisks, folded.
#[derive(Clone, Debug)]
struct Glob(Vec<String>);

impl Glob {
    fn parse(glob: &str) -> Result<Self, StripError> {
        if glob.is_empty() || glob.split('*').any(|part| !part.is_empty() && HeaderName::try_from(part).is_err()) {
            return Err(StripError::NotAName);
        }
        let parts: Vec<_> = glob.split('*').map(fold).collect();
        if parts.iter().all(String::is_empty) {
            return Err(StripError::Everything);
        }
        Ok(Self(parts))
    }

    fn fits(&self, name: &str) -> bool {
        let (first, middle, last) = match self.0.as_slice() {
            [] => return false,
            [whole] => return name == whole,
            [first, middle @ .., last] => (first, middle, last),
        };
        let Some(rest) = name.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else {
            return false;
        };
        // The leftmost place of each part leaves the most room for the next.
        middle.iter().try_fold(rest, |rest, part| rest.find(part.as_str()).map(|at| &rest[at + part.len()..])).is_some()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> HeaderName {
        text.parse().unwrap()
    }

    #[test]
    fn every_spelling_of_a_known_header_is_removed() {
        let strip = Strip::new().countries().certificates().fingerprints().join_keys();
        for (known, ..) in known() {
            for spelling in ["-", "_", ".", "~", "$"].map(|between| known.replace('-', between)) {
                assert!(strip.removes(&name(&spelling)), "{spelling}");
            }
        }
    }

    #[test]
    fn names_in_the_table_are_folded_and_unique() {
        let mut seen = std::collections::HashSet::new();
        for (known, ..) in known() {
            assert_eq!(known, fold(known));
            assert!(seen.insert(known), "{known} twice");
        }
    }

    #[test]
    fn what_says_nothing_of_the_client_stays() {
        let strip = Strip::new();
        for kept in
            ["host", "cookie", "user-agent", "x-forwarded-proto", "x-forwarded-host", "cf-ipcountry", "traceparent"]
        {
            assert!(!strip.removes(&name(kept)), "{kept}");
        }
        assert!(Strip::new().countries().removes(&name("CF-IPCountry")));
        assert!(Strip::new().join_keys().removes(&name("traceparent")));
        assert!(strip.removes(&name("cf-ray")), "it names the site near the client");
    }

    #[test]
    fn more_headers_than_there_is_room_for_are_all_removed() {
        let mut headers = HeaderMap::new();
        for (known, ..) in known() {
            headers.append(name(known), HeaderValue::from_static("203.0.113.7"));
            headers.append(name(known), HeaderValue::from_static("203.0.113.8"));
        }
        headers.insert("host", HeaderValue::from_static("example.com"));
        Strip::new().countries().certificates().fingerprints().join_keys().strip(&mut headers);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn globs() {
        for (glob, fitting, other) in [
            ("x-client-geo-*", "X_Client_Geo_City", "x-client-geo"),
            ("*-city", "my-city", "city"),
            ("a*b*c", "a1b2c", "acb"),
            ("a*a", "aba", "a"),
            ("x-exact", "X.Exact", "x-exact-not"),
            ("x-dash-", "x_dash_", "x-dash"),
        ] {
            let strip = Strip::new().also(glob).unwrap();
            assert!(strip.removes(&name(fitting)), "{glob} {fitting}");
            assert!(!strip.removes(&name(other)), "{glob} {other}");
        }
        assert_eq!(Strip::new().also("*").unwrap_err(), StripError::Everything);
        assert_eq!(Strip::new().also("").unwrap_err(), StripError::NotAName);
        assert_eq!(Strip::new().also("x y").unwrap_err(), StripError::NotAName);
    }

    #[test]
    fn an_address_can_not_be_kept() {
        assert_eq!(Strip::new().keep(&name("X_Forwarded_For")).unwrap_err(), StripError::Address);
        let strip = Strip::new().keep(&name("x-region")).unwrap().also("x-*").unwrap();
        assert!(!strip.removes(&name("X_Region")));
        assert!(strip.removes(&name("x-other")));
    }

    /// Each one that does is looked up, on every request: another factor in the filter's hash may be better.
    #[test]
    fn the_names_that_browsers_send_pass_no_filter() {
        let filter = Strip::new().filter();
        for usual in [
            "host",
            "connection",
            "user-agent",
            "accept",
            "accept-language",
            "accept-encoding",
            "cookie",
            "origin",
            "content-type",
            "content-length",
            "cache-control",
            "upgrade-insecure-requests",
            "sec-fetch-dest",
            "sec-fetch-mode",
            "sec-fetch-site",
            "priority",
        ] {
            assert!(!filter.may_contain_or_say(usual), "{usual}");
        }
    }

    #[test]
    fn a_name_may_say_that_it_carries_an_address() {
        let strip = Strip::new();
        for unlisted in ["x-example-ip", "X_Example_IP", "x-example-forwarded-for", "my-remote-addr"] {
            assert!(!known().any(|(known, ..)| known == fold(unlisted)));
            assert!(strip.removes(&name(unlisted)), "{unlisted}");
        }
        for other in ["x-zip", "x-relationship", "x-ip-version", "-ip", "x-shipping-address", "x-waiting-for"] {
            assert!(!strip.removes(&name(other)), "{other}");
        }
        let strip = strip.keep(&name("x-server-ip")).unwrap();
        assert!(!strip.removes(&name("x-server-ip")) && strip.removes(&name("x-example-ip")));
    }

    proptest! {
        #[test]
        fn only_known_names_are_removed(text in "[a-z0-9_.-]{1,30}") {
            let is_known = |&(known, kind, _): &(&str, Kind, _)| known == fold(&text) && kind.is_removed_by_default();
            let expected = TABLE.iter().any(is_known) || says_address(&text);
            prop_assert_eq!(Strip::new().removes(&name(&text)), expected);
        }
    }
}
