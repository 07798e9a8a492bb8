//! No countries: what stands for `geo` without that feature, so that nothing else has to ask for it.

use std::net::IpAddr;

/// There are none.
#[derive(Clone, Debug)]
pub(crate) enum Countries {}

impl Countries {
    pub(crate) fn of(&self, _: IpAddr) -> Option<Country> {
        match *self {}
    }

    pub(crate) fn is(&self, _: &Self) -> bool {
        match *self {}
    }
}

/// There is none.
#[derive(Clone, Copy)]
pub(crate) enum Country {}

impl Country {
    pub(crate) fn as_str(&self) -> &str {
        match *self {}
    }
}
