//! What an application may write down instead of an address.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Raw,
    Truncated,
    Hash,
    StaticKey,
    DailyKey,
    Unscoped,
    PerHost,
    PerSession,
    PerUser,
}

impl Method {
    pub(crate) const ALL: [Self; 9] = [
        Self::Raw,
        Self::Truncated,
        Self::Hash,
        Self::StaticKey,
        Self::DailyKey,
        Self::Unscoped,
        Self::PerHost,
        Self::PerSession,
        Self::PerUser,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "the address",
            Self::Truncated => "/24 · /48",
            Self::Hash => "plain hash",
            Self::StaticKey => "hash, one key",
            Self::DailyKey => "hash, daily key",
            Self::Unscoped => "ipveil, unscoped",
            Self::PerHost => "ipveil, per host",
            Self::PerSession => "ipveil, per session",
            Self::PerUser => "ipveil, per user",
        }
    }

    /// What is to be known besides.
    pub(crate) fn note(self) -> &'static str {
        match self {
            Self::Raw => "",
            Self::Truncated => "the first bits, the rest zero",
            Self::Hash => "anybody can compute it",
            Self::StaticKey => "its key in the configuration",
            Self::DailyKey => "its keys in a database",
            Self::Unscoped => "one pseudonym for all",
            Self::PerHost => "another on each site",
            Self::PerSession => "another for each session",
            Self::PerUser => "another for each user; the rest counted in views of their own",
        }
    }

    pub(crate) fn begins_ipveil(self) -> bool {
        self == Self::Unscoped
    }

    pub(crate) fn is_recommended(self) -> bool {
        self == Self::PerUser
    }

    pub(crate) fn is_ipveil(self) -> bool {
        matches!(self, Self::Unscoped | Self::PerHost | Self::PerSession | Self::PerUser)
    }
}

/// The keys of the methods that are not ipveil, and where the insider finds them.
pub(crate) struct Keys {
    in_config: [u8; 32],
    by_day: Vec<[u8; 32]>,
}

impl Keys {
    pub(crate) fn new(seed: u64, days: u64) -> Self {
        let key = |number: u64| {
            let mut key = [0; 32];
            random::write_key(random::key(&[seed, 10, number]), &mut key);
            key
        };
        Self { in_config: key(0), by_day: (1..=days + 1).map(key).collect() }
    }

    /// What is written for an address on a day; nothing for ipveil's methods, which only ipveil can answer for.
    pub(crate) fn written(&self, method: Method, address: IpAddr, day: u64) -> Option<String> {
        Some(match method {
            Method::Raw => address.to_string(),
            Method::Truncated => cut(address, 24, 48).to_string(),
            Method::Hash => blake3::hash(&octets(address)).to_hex()[..32].to_owned(),
            Method::StaticKey => keyed(&self.in_config, address),
            Method::DailyKey => keyed(&self.by_day[day as usize], address),
            _ => return None,
        })
    }

    /// What the insider can compute for an address when the days are over, with the keys that he finds.
    pub(crate) fn computed(&self, method: Method, address: IpAddr) -> Vec<String> {
        let days = self.by_day.len() as u64;
        let days = match method {
            // The store has today's key and yesterday's. Last night's backup of it has the one before, too.
            Method::DailyKey => days - 3..days,
            _ => 0..1,
        };
        days.filter_map(|day| self.written(method, address, day)).collect()
    }
}

fn keyed(key: &[u8; 32], address: IpAddr) -> String {
    blake3::keyed_hash(key, &octets(address)).to_hex()[..32].to_owned()
}

/// What is hashed: the first 64 bits of IPv6, as ipveil does it, so that only the methods differ.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets()[..8].to_vec(),
    }
}

/// One subscriber's: all of an IPv4 address, a /64 of IPv6.
pub(crate) fn unit(address: IpAddr) -> IpAddr {
    cut(address, 32, 64).addr()
}

pub(crate) fn cut(address: IpAddr, v4: u8, v6: u8) -> IpNet {
    let length = if address.is_ipv4() { v4 } else { v6 };
    IpNet::new(address, length).map_or(address.into(), |network| network.trunc())
}
