//! Who may know what of a client: views, scopes, and what they show.
//!
//! 1. A [`View`] is a named purpose: the application's log, its analytics, its rate limiter. Each sees a pseudonym in
//!    one shape, or a network, or a country, or a key that only a limiter can use. Views can't be joined: the same client has
//!    another pseudonym in each. (Networks and countries can, and so can a pseudonym that an edge before this one has made: see [`View::address`].)
//! 2. A [`Scope`] is what a pseudonym may be compared within: everything, a host, a session. It is always chosen,
//!    there is no default. What is outside can't be joined either.
//! 3. A [`Policy`] is some views and their scope.
//! 4. A [`Client`] is one client under a policy and an epoch's key. Handlers get it from the request's extensions and
//!    ask it for pseudonyms; once they know who the user is, for [scoped](Client::scoped) ones.
//!
//! ```
//! use ipveil::policy::{Policy, Scope, Session, View};
//!
//! let policy = Policy::new(
//!     Scope::per_session(Session::cookie("sid").or_authorization()),
//!     [
//!         View::address("app").header(http::HeaderName::from_static("x-forwarded-for")),
//!         View::token("log"),
//!         View::network("statistics"),
//!         View::limit("api"),
//!     ],
//! )?;
//! # Ok::<(), ipveil::policy::PolicyError>(())
//! ```
//!
//! # Which scope
//!
//! The attack to think of is the colleague who logs in from the office, reads the pseudonym in his own row, and looks
//! for it in a journalist's. **Any value that is equal for two accounts behind one address answers him**, for as long
//! as the rows exist, and no rotation of keys takes that back.
//!
//! For IPv6, one address means one /64.
//!
//! | scope | equal for | may stand next to an account |
//! |---|---|---|
//! | [`Client::scoped`] with the user's id | one user at one address | **yes** |
//! | [`Scope::per_session`] | one session at one address | **yes** |
//! | [`Scope::per_host`] | everybody at one address, on one site | no: for counting visitors |
//! | [`Scope::unscoped`] | everybody at one address | no |
//! | [`View::network`] | everybody in a neighborhood, for ever | no |
//! | a country | everybody in it, for ever | where it is large |

mod client;
#[cfg(feature = "geo")]
mod country;
mod scope;
mod view;

use std::{fmt, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

pub(crate) use self::scope::Host;
pub use self::{
    client::Client,
    scope::{Scope, Session},
    view::{Shown, View},
};
use self::{
    client::Known,
    scope::{Hosts, Meaning},
    view::{Form, Method},
};
use crate::{
    addr::{ClientAddr, Keep},
    geo::Countries,
    headers::Lines,
    keys::KeyRing,
    lend::reader,
    pseudonym::{PseudonymRange, Purpose, Question, Shape},
    resolve::Withheld,
};

/// What each view sees of a client. Cheap to clone. See the [module](self).
#[derive(Clone)]
pub struct Policy {
    inner: Arc<Inner>,
}

// Away from its neighbors in memory, since its reference count is written to on every request.
#[derive(Clone)]
#[repr(align(128))]
struct Inner {
    views: Vec<Entry>,
    hosts: Option<Hosts>,
    session: Option<Session>,
    range: PseudonymRange,
    // What has to be known of a client so that all views can be shown later.
    limits: bool,
    members: bool,
    keep: Option<Keep>,
    countries: Option<Countries>,
    windows: bool,
    is_scoped: bool,
    // The view in which typed addresses are shown.
    typed: Option<usize>,
}

/// What a view sees of a client.
pub(crate) enum Sees {
    Pseudonym {
        /// The same for the same client, as long as the key lives.
        is_stable: bool,
        has_window: bool,
        shape: Shape,
    },
    Network(Keep),
    Country(Countries),
    Nothing,
}

/// A view, and its scope as one of few kinds.
#[derive(Clone)]
struct Entry {
    view: View,
    meaning: Meaning,
    form: Form,
    question: Question,
    is_typed: bool,
}

impl Policy {
    /// These views, in this scope, unless a view says [otherwise](View::scope).
    ///
    /// The first [`View::address`] or [`View::address_v4`] is also what typed addresses show, such as axum's
    /// `ConnectInfo<SocketAddr>`. Without one they are `[::]:0` for everybody: whatever counts by them counts all clients as one.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], with the view and what is wrong with it.
    pub fn new(scope: Scope, views: impl IntoIterator<Item = View>) -> Result<Self, PolicyError> {
        let mut inner = Inner {
            views: Vec::new(),
            hosts: None,
            session: None,
            range: PseudonymRange::default(),
            limits: false,
            members: false,
            keep: None,
            countries: None,
            windows: false,
            is_scoped: false,
            typed: None,
        };
        for view in views {
            if let Err(problem) = inner.add(&scope, &view) {
                let view = view.name().to_owned();
                return Err(PolicyError { view, problem });
            }
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Another range for pseudonyms of address shape.
    #[must_use]
    pub fn range(mut self, range: PseudonymRange) -> Self {
        Arc::make_mut(&mut self.inner).range = range;
        self
    }

    /// The views, in the order given.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.inner.views.iter().map(|entry| &entry.view)
    }

    /// A client outside of a request, which is on no host and in no session.
    ///
    /// ```
    /// # use ipveil::{policy::*, keys::*, ClientAddr};
    /// # let keys = KeyRing::start(MemorySource, Epochs::daily())?;
    /// let policy = Policy::new(Scope::unscoped(), [View::token("log")])?;
    /// let address: std::net::IpAddr = "203.0.113.7".parse()?;
    /// let client = policy.client(&ClientAddr::from(address), &keys);
    /// assert!(client.pseudonym("log").to_string().starts_with('_'));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn client(&self, address: &ClientAddr, keys: &KeyRing) -> Client {
        let known = Known::new(&self.inner, address, keys, reader(), None, &HeaderMap::new());
        Client::new(self.clone(), known)
    }

    /// The same policy in memory of its own: what threads share, they wait for.
    pub(crate) fn copy(&self) -> Self {
        Self { inner: Arc::new(Inner::clone(&self.inner)) }
    }

    /// The host that a request is for, if any view asks.
    #[inline]
    pub(crate) fn host_of(&self, uri: &Uri, headers: &HeaderMap) -> Option<Host> {
        self.inner.hosts.as_ref()?.of(uri, headers)
    }

    /// Whether any view asks for a request's session.
    pub(crate) fn has_sessions(&self) -> bool {
        self.inner.session.is_some()
    }

    /// The client of a request.
    #[inline]
    pub(crate) fn client_of(
        &self,
        address: Result<ClientAddr, Withheld>,
        keys: &KeyRing,
        reader: usize,
        host: Option<Host>,
        lines: &impl Lines,
    ) -> Client {
        Client::new(
            self.clone(),
            address.and_then(|address| Known::new(&self.inner, &address, keys, reader, host, lines)),
        )
    }

    /// The headers that the policy sets, or unsets because there is nothing to show.
    #[inline]
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.inner.views.iter().filter_map(|entry| Some(Line { entry, name: entry.view.header_name()? }))
    }

    /// The headers that the policy sets.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.views().filter_map(View::header_name)
    }

    /// What a view sees, for whoever shows it many clients; nothing if there is no such view.
    pub(crate) fn sees(&self, view: &str) -> Option<Sees> {
        let entry = self.inner.views.iter().find(|entry| entry.view.name() == view)?;
        Some(match entry.view.method() {
            Method::Limit | Method::Member => Sees::Nothing,
            Method::Country => entry.view.countries().cloned().map_or(Sees::Nothing, Sees::Country),
            Method::Network(keep) => Sees::Network(keep),
            Method::Pseudonym(shape) => Sees::Pseudonym {
                is_stable: entry.meaning == Meaning::Unscoped,
                has_window: entry.view.window_length().is_some(),
                shape,
            },
        })
    }

    /// The range that pseudonyms of address shape are in.
    pub(crate) fn pseudonym_range(&self) -> PseudonymRange {
        self.inner.range
    }

    /// What stands in typed addresses; nothing if it is withheld.
    #[inline]
    pub(crate) fn typed(&self, client: &Client) -> Option<IpAddr> {
        let entry = &self.inner.views[self.inner.typed?];
        client.what(entry).address()
    }
}

/// A header that a policy sets.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    entry: &'a Entry,
    pub(crate) name: &'a HeaderName,
}

impl Line<'_> {
    /// What stands in it; nothing if the client is withheld. Notes the address that typed addresses show, if it is that
    /// one.
    #[inline(always)]
    pub(crate) fn value(&self, client: &Client, typed: &mut Option<IpAddr>) -> Option<HeaderValue> {
        let shown = client.what(self.entry);
        let address = shown.address();
        if self.entry.is_typed {
            *typed = address;
        }
        self.entry.form.text(shown, address)
    }
}

impl Inner {
    fn add(&mut self, scope: &Scope, view: &View) -> Result<(), Problem> {
        let name = view.name();
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if !(1..=View::LONGEST_NAME).contains(&name.len()) || !name.bytes().all(fits) {
            return Err(Problem::Name);
        }
        if self.views.iter().any(|other| other.view.name() == name) {
            return Err(Problem::NameTwice);
        }
        if self.views.len() >= Known::MOST_VIEWS {
            return Err(Problem::TooManyViews);
        }
        let form = match view.header_name() {
            Some(header) if self.views.iter().any(|other| other.view.header_name() == Some(header)) => {
                return Err(Problem::HeaderTwice);
            }
            Some(header) => Form::of(header, view.method())?,
            None => Form::Text,
        };
        if view.window_length().is_some_and(|window| window.as_secs() == 0 || window.subsec_nanos() != 0) {
            return Err(Problem::Window);
        }
        let has_scope = matches!(view.method(), Method::Pseudonym(_));
        if view.keeps_nothing() {
            return Err(Problem::KeepsNothing);
        } else if view.own_scope().is_some() && !has_scope {
            return Err(Problem::HasNoScope);
        } else if view.window_length().is_some() && !has_scope && view.method() != Method::Limit {
            return Err(Problem::HasNoWindow);
        }
        match view.method() {
            Method::Network(keep) => {
                if keep.v4 > Keep::FINEST.v4 || keep.v6 > Keep::FINEST.v6 {
                    return Err(Problem::TooFine);
                }
                let finest = self.keep.unwrap_or(keep);
                self.keep = Some(Keep { v4: finest.v4.max(keep.v4), v6: finest.v6.max(keep.v6) });
            }
            Method::Country => match (&self.countries, view.countries()) {
                (Some(countries), Some(others)) if !countries.is(others) => return Err(Problem::CountriesDiffer),
                (_, countries) => self.countries = countries.cloned(),
            },
            Method::Limit => self.limits = true,
            Method::Member => self.members = true,
            Method::Pseudonym(shape) => {
                if self.typed.is_none() && shape != Shape::Token {
                    self.typed = Some(self.views.len());
                }
            }
        }
        let meaning = match has_scope {
            true => view.own_scope().unwrap_or(scope).register(&mut self.hosts, &mut self.session)?,
            false => Meaning::Unscoped,
        };
        self.is_scoped |= meaning != Meaning::Unscoped;
        let has_window = view.window_length().is_some();
        self.windows |= has_window;
        let purpose = if view.method() == Method::Limit { Purpose::Limits } else { Purpose::Pseudonyms };
        let question = Question::new(purpose, name, has_window);
        let is_typed = self.typed == Some(self.views.len());
        self.views.push(Entry { view: view.clone(), meaning, form, question, is_typed });
        Ok(())
    }

    fn host(&self, host: Host) -> &str {
        self.hosts.as_ref().map_or("", |hosts| hosts.name(host))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.views()).finish()
    }
}

/// A policy that can't be had, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    view: String,
    problem: Problem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    Name,
    NameTwice,
    HeaderTwice,
    HeaderNotOurs,
    HeaderTakesAddress,
    CountryInHeader,
    LimitInHeader,
    MemberInHeader,
    TooManyViews,
    TooFine,
    Window,
    KeepsNothing,
    HasNoScope,
    HasNoWindow,
    NoHosts,
    BadHost,
    HostsDiffer,
    NoCredentials,
    BadCookie,
    SessionsDiffer,
    CountriesDiffer,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.problem {
            Problem::Name => "has an unusable name (expected 1 to 32 of a-z, 0-9, - and _)",
            Problem::NameTwice => "has the name of another view",
            Problem::HeaderTwice => "writes the header of another view",
            Problem::HeaderNotOurs => {
                "writes a header that is not about the client (expected one that no protocol or login needs)"
            }
            Problem::HeaderTakesAddress => {
                "writes a token into a header that takes an address (expected View::address)"
            }
            Problem::CountryInHeader => {
                "writes a country into a header that takes an address (expected another header)"
            }
            Problem::LimitInHeader => "writes a limit key into a header (limit keys can't be shown)",
            Problem::MemberInHeader => "writes membership into a header (it is for Client::is_member)",
            Problem::TooManyViews => "is one too many (expected at most 64)",
            Problem::TooFine => "keeps too many bits of the address (expected at most 24 of IPv4 and 48 of IPv6)",
            Problem::Window => "has an unusable window (expected whole seconds, at least one)",
            Problem::KeepsNothing => "keeps bits of an address, and sees no network",
            Problem::HasNoScope => "has a scope (only pseudonyms have one)",
            Problem::HasNoWindow => "has a window (only pseudonyms and limits have one)",
            Problem::NoHosts => "has a scope per host without hosts",
            Problem::BadHost => {
                "has a scope with an unusable host (expected a name such as example.com, without a port)"
            }
            Problem::HostsDiffer => "has other hosts than another view (expected one list of hosts in a policy)",
            Problem::NoCredentials => "has a scope per session without the name of a cookie",
            Problem::BadCookie => {
                "has a scope per session with a cookie that no request can have (expected a name without =, ; and \
                 control characters, nor spaces around it)"
            }
            Problem::SessionsDiffer => {
                "has other sessions than another view (expected one kind of session in a policy)"
            }
            Problem::CountriesDiffer => "has other countries than another view (expected one file in a policy)",
        };
        write!(f, "view {:?} {what}", self.view)
    }
}

impl std::error::Error for PolicyError {}
