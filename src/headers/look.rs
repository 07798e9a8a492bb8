//! What is in a request's headers, found in one look at their names.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, COOKIE},
};

use super::{Strip, names::Filter};

/// Where those lines are that are read.
pub(crate) trait Lines {
    /// Those of the header that clients are read from.
    fn source<'a>(&'a self, name: &HeaderName) -> impl DoubleEndedIterator<Item = &'a HeaderValue>;
    /// Those of `Cookie`.
    fn cookies(&self) -> impl Iterator<Item = &HeaderValue>;
    /// Those of `Authorization`.
    fn authorization(&self) -> impl Iterator<Item = &HeaderValue>;
}

/// Each is looked up.
impl Lines for HeaderMap {
    fn source<'a>(&'a self, name: &HeaderName) -> impl DoubleEndedIterator<Item = &'a HeaderValue> {
        self.get_all(name).into_iter()
    }

    fn cookies(&self) -> impl Iterator<Item = &HeaderValue> {
        self.get_all(COOKIE).into_iter()
    }

    fn authorization(&self) -> impl Iterator<Item = &HeaderValue> {
        self.get_all(AUTHORIZATION).into_iter()
    }
}

/// What to look for.
#[derive(Clone)]
pub(crate) struct Look {
    strip: Strip,
    source: Option<HeaderName>,
    // Written over, so not removed.
    ours: Vec<HeaderName>,
    keeps_source: bool,
    sessions: bool,
    // All of these.
    filter: Filter,
}

impl Look {
    /// For what is removed; for `source`, and for `ours` in another spelling, which are removed too; for credentials if
    /// there are `sessions`.
    pub(crate) fn new(mut strip: Strip, source: Option<&HeaderName>, ours: Vec<HeaderName>, sessions: bool) -> Self {
        for name in source.into_iter().chain(&ours) {
            strip.always(name);
        }
        let mut filter = strip.filter();
        source.into_iter().for_each(|name| filter.insert(name.as_str()));
        if sessions {
            filter.insert(COOKIE.as_str());
            filter.insert(AUTHORIZATION.as_str());
        }
        let keeps_source = source.is_some_and(|name| ours.contains(name));
        Self { strip, source: source.cloned(), ours, keeps_source, sessions, filter }
    }

    /// Finds it, where no name has several values.
    pub(crate) fn find<'h>(&self, headers: &'h mut HeaderMap) -> Found<'h> {
        let mut found = Found { source: None, cookie: None, authorization: None, strip: false };
        for (name, value) in headers.iter_mut() {
            // Most names are nothing to us.
            if self.filter.may_contain_or_say(name.as_str()) {
                self.note(&mut found, name, value);
            }
        }
        found
    }

    // Apart from the loop, so that the loop is small.
    #[inline(never)]
    fn note<'h>(&self, found: &mut Found<'h>, name: &HeaderName, value: &'h mut HeaderValue) {
        if self.source.as_ref() == Some(name) {
            found.source = Some(value);
            found.strip |= !self.keeps_source;
            return;
        }
        found.strip |= self.strip.removes(name) && !self.is_ours(name);
        if self.sessions && *name == COOKIE {
            found.cookie = Some(value);
        } else if self.sessions && *name == AUTHORIZATION {
            found.authorization = Some(value);
        }
    }

    /// Removes what is to be removed.
    #[cold]
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        self.strip.strip_except(headers, |name| self.is_ours(name));
    }

    /// What is removed wherever nothing is ours.
    pub(crate) fn removed(&self) -> &Strip {
        &self.strip
    }

    fn is_ours(&self, name: &HeaderName) -> bool {
        self.ours.contains(name)
    }
}

/// What there was to find.
pub(crate) struct Found<'h> {
    /// The line that the client is read from. Ours may be written in its place.
    pub(crate) source: Option<&'h mut HeaderValue>,
    cookie: Option<&'h HeaderValue>,
    authorization: Option<&'h HeaderValue>,
    /// Whether there is anything to remove.
    pub(crate) strip: bool,
}

impl Lines for Found<'_> {
    #[inline]
    fn source<'a>(&'a self, _: &HeaderName) -> impl DoubleEndedIterator<Item = &'a HeaderValue> {
        self.source.as_deref().into_iter()
    }

    #[inline]
    fn cookies(&self) -> impl Iterator<Item = &HeaderValue> {
        self.cookie.into_iter()
    }

    #[inline]
    fn authorization(&self) -> impl Iterator<Item = &HeaderValue> {
        self.authorization.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 12] = [
        "host",
        "cookie",
        "authorization",
        "x-forwarded-for",
        "x_forwarded_for",
        "x-forwarded.for",
        "forwarded",
        "x-client",
        "x_client",
        "via",
        "x-csrf-token",
        "user-agent",
    ];

    fn name(text: &str) -> HeaderName {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn one_look_finds_what_many_would(
            present in proptest::sample::subsequence(&NAMES[..], 0..=NAMES.len()),
            source in proptest::option::of(proptest::sample::select(&NAMES[..])),
            ours in proptest::sample::subsequence(&NAMES[6..8], 0..=2),
            sessions: bool,
            glob: bool,
        ) {
            let mut headers: HeaderMap =
                present.iter().map(|text| (name(text), HeaderValue::from_static(text))).collect();
            let whole = headers.clone();
            let strip = if glob { Strip::new().also("x-c*").unwrap() } else { Strip::new() };
            let source = source.map(name);
            let ours: Vec<_> = ours.into_iter().map(name).collect();
            let look = Look::new(strip, source.as_ref(), ours.clone(), sessions);

            let found = look.find(&mut headers);
            if let Some(source) = &source {
                prop_assert!(found.source(source).eq(Lines::source(&whole, source)));
            }
            if sessions {
                // What the client is read from is nobody's credential.
                if source != Some(COOKIE) {
                    prop_assert!(found.cookies().eq(whole.cookies()));
                }
                if source != Some(AUTHORIZATION) {
                    prop_assert!(found.authorization().eq(whole.authorization()));
                }
            }
            let doomed = |name: &HeaderName| look.strip.removes(name) && !ours.contains(name);
            prop_assert_eq!(found.strip, whole.keys().any(doomed));

            look.strip(&mut headers);
            let kept: HeaderMap =
                whole.iter().filter(|(name, _)| !doomed(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
            prop_assert_eq!(headers, kept);
        }
    }
}
