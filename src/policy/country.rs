//! Views that see a country.

use super::{
    Client, View,
    view::{Method, What},
};
use crate::geo::{Countries, Country};

impl View {
    /// Sees the client's country, as two letters, and nothing finer. See [`geo`](crate::geo).
    ///
    /// The address is looked up before it is dropped. Where there is nothing to be shown (the client is withheld, its address
    /// has no country, or an edge before this one has made it a pseudonym), the header is absent. All views
    /// of countries in a policy have the same file.
    #[must_use]
    pub fn country(name: impl Into<String>, countries: &Countries) -> Self {
        let mut new = Self::new(name, Method::Country);
        new.countries = Some(countries.clone());
        new
    }
}

impl Client {
    /// Its country in a view that sees countries; nothing if that is not known, or the client is withheld.
    #[must_use]
    pub fn country(&self, view: &str) -> Option<Country> {
        match self.shown(view).0 {
            What::Country(country) => Some(country),
            _ => None,
        }
    }
}
