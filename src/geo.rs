//! The country of a client: from a file in MaxMind's format, looked up before the address is dropped.
//!
//! [`View::country`](crate::policy::View::country) shows it: two letters, and nothing finer, whatever else the file says of
//! an address. [`Countries::replace`] takes a newer file into use while requests go on.
//!
//! ```no_run
//! use ipveil::{
//!     geo::Countries,
//!     policy::{Policy, Scope, Session, View},
//! };
//!
//! let countries = Countries::open("/var/lib/GeoIP/GeoLite2-Country.mmdb")?;
//! let policy = Policy::new(
//!     Scope::per_session(Session::cookie("sid")),
//!     [View::token("log"), View::country("geo", &countries).header(http::HeaderName::from_static("x-country"))],
//! )?;
//!
//! // When there is a newer file:
//! countries.replace(&Countries::open("/var/lib/GeoIP/GeoLite2-Country.mmdb")?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is read
//!
//! `country.iso_code`: where the file says that the address is used. Where it does not say,
//! `registered_country.iso_code`: where its network is registered. `represented_country`, which tells an army's base from
//! its neighbors, is not looked at. What is not two capital letters is no country.
//!
//! # What it gives away
//!
//! Little of most clients, and for ever, as with networks: no destroyed key takes it back. In a country with few users
//! it may be one of them.

use std::{
    collections::HashSet,
    error, fmt, fs, io,
    net::IpAddr,
    num::NonZeroU16,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, WithinOptions};

use crate::lend::{Lent, reader};

/// Which addresses are in which country. See the [module](self).
///
/// Cheap to clone, and what [replaces](Self::replace) it replaces it in all clones. It is held in memory as a whole.
#[derive(Clone)]
pub struct Countries {
    lent: Arc<Lent<Arc<Database>>>,
}

type Database = Reader<Vec<u8>>;

impl Countries {
    /// Reads a file in MaxMind's format (MMDB), of countries or of something finer.
    ///
    /// # Errors
    ///
    /// [`CountriesError`] if it can't be read, any of it is malformed, or there is no country in it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CountriesError> {
        let bytes = fs::read(path).map_err(|error| CountriesError(Problem::Unreadable(error)))?;
        Self::from_bytes(bytes)
    }

    /// Reads what such a file holds.
    ///
    /// # Errors
    ///
    /// [`CountriesError`] if any of it is malformed, or there is no country in it.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, CountriesError> {
        let malformed = |error| CountriesError(Problem::Malformed(error));
        let database = Reader::from_source(bytes.into()).map_err(malformed)?;
        if !has_countries(&database).map_err(malformed)? {
            return Err(CountriesError(Problem::NoCountries));
        }
        let lent = Lent::new(thread::available_parallelism().map_or(1, usize::from));
        lent.replace(Some(Arc::new(database)));
        Ok(Self { lent: Arc::new(lent) })
    }

    /// Has the countries of `newer` from now on, and so have all policies with views of this one.
    pub fn replace(&self, newer: &Self) {
        // Not while its lock is held: it may be this very one.
        let newer = newer.lent.with(0, Arc::clone);
        self.lent.replace(newer);
    }

    /// When the file was made, as it says.
    #[must_use]
    pub fn built(&self) -> Option<SystemTime> {
        let seconds = self.lent.with(0, |database| database.metadata().build_epoch)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// The country of an address.
    pub(crate) fn of(&self, address: IpAddr) -> Option<Country> {
        self.lent
            .with(reader(), |database| {
                // Which would be an error, with a text.
                if address.is_ipv6() && database.metadata().ip_version == 4 {
                    return None;
                }
                country(&database.lookup(address).ok()?).ok()?
            })
            .flatten()
    }

    /// Whether the two are always the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.lent, &other.lent)
    }
}

impl fmt::Debug for Countries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Countries(..)")
    }
}

/// Whether any address has a country, after a look at what is known of each.
fn has_countries(database: &Database) -> Result<bool, MaxMindDbError> {
    // A tree with n inner nodes has n + 1 leaves. Some are reached on two ways; where there are many more, there is no end.
    let mut leaves = 3 * u64::from(database.metadata().node_count);
    let mut seen = HashSet::new();
    let mut has_countries = false;
    for network in database.networks(WithinOptions::default().include_networks_without_data())? {
        let network = network?;
        leaves = leaves
            .checked_sub(1)
            .ok_or_else(|| MaxMindDbError::invalid_database("the search tree leads back into itself"))?;
        if network.offset().is_some_and(|offset| seen.insert(offset)) {
            has_countries |= country(&network)?.is_some();
        }
    }
    Ok(has_countries)
}

fn country(record: &LookupResult<'_, Vec<u8>>) -> Result<Option<Country>, MaxMindDbError> {
    for key in ["country", "registered_country"] {
        let code = record.decode_path::<&str>(&[PathElement::Key(key), PathElement::Key("iso_code")])?;
        if let Some(code) = code {
            return Ok(Country::new(code.as_bytes()));
        }
    }
    Ok(None)
}

/// A country: the two letters that ISO 3166-1 has for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country(
    // Its place among all pairs of letters, from 1, so that no country takes no more room than one.
    NonZeroU16,
);

impl Country {
    fn new(code: &[u8]) -> Option<Self> {
        let [first, second] = *code else { return None };
        let place = |letter: u8| letter.is_ascii_uppercase().then(|| u16::from(letter - b'A'));
        NonZeroU16::new(26 * place(first)? + place(second)? + 1).map(Self)
    }

    /// The two letters, which are capital.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        std::str::from_utf8(&PAIRS[usize::from(self.0.get()) - 1]).expect("it is made of ASCII letters")
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Country({self})")
    }
}

/// All pairs of letters.
static PAIRS: [[u8; 2]; 26 * 26] = {
    let mut pairs = [[0; 2]; 26 * 26];
    let mut place = 0;
    while place < pairs.len() {
        pairs[place] = [b'A' + (place / 26) as u8, b'A' + (place % 26) as u8];
        place += 1;
    }
    pairs
};

/// Why there are no countries.
#[derive(Debug)]
pub struct CountriesError(Problem);

#[derive(Debug)]
enum Problem {
    Unreadable(io::Error),
    Malformed(MaxMindDbError),
    NoCountries,
}

impl fmt::Display for CountriesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Problem::Unreadable(_) => "the file of countries can't be read",
            Problem::Malformed(_) => "the file of countries is malformed (expected MaxMind's format, MMDB)",
            Problem::NoCountries => {
                "the file has no countries in it (expected country.iso_code or registered_country.iso_code)"
            }
        })
    }
}

impl error::Error for CountriesError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.0 {
            Problem::Unreadable(error) => Some(error),
            Problem::Malformed(error) => Some(error),
            Problem::NoCountries => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_country_is_two_capital_letters() {
        for code in ["AA", "AZ", "BA", "DE", "ZZ"] {
            let country = Country::new(code.as_bytes()).unwrap();
            assert_eq!(format!("{country} {country:?} {country:>3}"), format!("{code} Country({code})  {code}"));
        }
        for code in ["", "D", "DEU", "de", "D1", "D ", "\u{dc}"] {
            assert_eq!(Country::new(code.as_bytes()), None, "{code}");
        }
    }
}
