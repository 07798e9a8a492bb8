//! Sets of networks.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::addr::Canonical;

/// A set of networks: of clients in a [member view](crate::policy::View::member), of what a
/// [`Scrubber`](crate::Scrubber::keep) keeps, of [trusted proxies](crate::TrustedProxies).
///
/// Looking an address up takes about as long for ten thousand networks as for one. IPv4-mapped ones
/// (`::ffff:10.0.0.0/104`) are their IPv4 ones; `::/0` is all of IPv6, and none of IPv4.
///
/// ```
/// let networks = ipveil::Networks::parse(["10.0.0.0/8", "2001:db8::5", "loopback"])?;
/// # Ok::<(), ipveil::NetworksError>(())
/// ```
#[derive(Clone, Default)]
pub struct Networks {
    // Sorted, apart from each other, ends included.
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Networks {
    /// No network.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads CIDRs (`10.0.0.0/8`), addresses (`2001:db8::5`), networks with a mask (`10.0.0.0/255.0.0.0`) and named sets:
    ///
    /// | name | is |
    /// |---|---|
    /// | `loopback` | `127.0.0.0/8`, `::1` |
    /// | `private` | `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16`, `fc00::/7` |
    /// | `link-local` | `169.254.0.0/16`, `fe80::/10` |
    ///
    /// `64:ff9b::/96` is none of them: clients behind NAT64 are IPv4 clients here, so it would be all of IPv4 or nothing.
    ///
    /// # Errors
    ///
    /// [`NetworksError`] for the first entry that is none of these.
    pub fn parse<T: AsRef<str>>(entries: impl IntoIterator<Item = T>) -> Result<Self, NetworksError> {
        let mut all = Vec::new();
        for (place, entry) in entries.into_iter().enumerate() {
            all.extend(named(entry.as_ref()).ok_or_else(|| NetworksError::new(place, entry.as_ref()))?);
        }
        Ok(Self::from_iter(all))
    }

    #[inline]
    pub(crate) fn contains(&self, address: Canonical) -> bool {
        match address {
            Canonical::V4(octets) => is_in(&self.v4, u32::from_be_bytes(octets)),
            Canonical::V6(octets) => is_in(&self.v6, u128::from_be_bytes(octets)),
        }
    }
}

/// What an entry stands for; nothing if that is no network.
pub(crate) fn named(entry: &str) -> Option<Vec<IpNet>> {
    let entry = entry.trim();
    match NAMED.iter().find(|(name, _)| entry.eq_ignore_ascii_case(name)) {
        Some((_, set)) => Some(set.iter().map(|net| net.parse().expect("the named sets are made of CIDRs")).collect()),
        None => parse_net(entry).map(|net| vec![net]),
    }
}

const NAMED: [(&str, &[&str]); 3] = [
    ("loopback", &["127.0.0.0/8", "::1/128"]),
    ("private", &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]),
    ("link-local", &["169.254.0.0/16", "fe80::/10"]),
];

fn parse_net(entry: &str) -> Option<IpNet> {
    let Some((address, width)) = entry.split_once('/') else {
        return entry.parse::<IpAddr>().ok().map(IpNet::from);
    };
    if let Ok(mask) = width.parse::<Ipv4Addr>() {
        return Ipv4Net::with_netmask(address.parse().ok()?, mask).ok().map(IpNet::V4);
    }
    // "+8" and "08" are numbers to the standard library.
    if width.starts_with(['+', '0']) && width != "0" {
        return None;
    }
    let net = IpNet::new(address.parse().ok()?, width.parse().ok()?).ok()?;
    // In canonical form these are IPv4 addresses, so this would trust all of IPv4. Who wants that says 0.0.0.0/0.
    (net != IpNet::V6(NAT64)).then_some(net)
}

// RFC 6052, 2.1.
const NAT64: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

#[inline]
fn is_in<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|&(start, _)| start <= address);
    after > 0 && address <= ranges[after - 1].1
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match canonical(net) {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { v4: merge(v4, |end| end.checked_add(1)), v6: merge(v6, |end| end.checked_add(1)) }
    }
}

impl From<IpNet> for Networks {
    fn from(net: IpNet) -> Self {
        Self::from_iter([net])
    }
}

/// Addresses are compared in their canonical form, so networks of addresses that have another are changed alike.
fn canonical(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && v6 != NAT64
        && let Some(bits) = v6.prefix_len().checked_sub(96)
        && let Canonical::V4(octets) = Canonical::v6(v6.network().octets())
        && let Ok(v4) = Ipv4Net::new(octets.into(), bits)
    {
        return v4.into();
    }
    net
}

fn merge<T: Ord + Copy>(mut ranges: Vec<(T, T)>, following: impl Fn(T) -> Option<T>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::new();
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if following(last.1).is_none_or(|next| start <= next) => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged.shrink_to_fit();
    merged
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Networks").field("ranges", &(self.v4.len() + self.v6.len())).finish()
    }
}

/// An entry that is neither a network nor the name of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworksError {
    place: usize,
    entry: String,
}

impl NetworksError {
    pub(crate) fn new(place: usize, entry: &str) -> Self {
        Self { place, entry: entry.to_owned() }
    }

    /// With what such an entry is called, and what else it may be.
    pub(crate) fn tell(&self, f: &mut fmt::Formatter<'_>, what: &str, or: &str) -> fmt::Result {
        write!(
            f,
            "{what} {} is not usable: {:?} (expected an address, a CIDR such as 10.0.0.0/8, or one of loopback, private, link-local{or})",
            self.place + 1,
            self.entry
        )
    }
}

impl fmt::Display for NetworksError {
    /// Says which entry it is, and quotes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell(f, "network", "")
    }
}

impl std::error::Error for NetworksError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(entries: &[&str]) -> Networks {
        Networks::parse(entries).unwrap()
    }

    #[track_caller]
    fn contains(networks: &Networks, address: &str) -> bool {
        networks.contains(address.parse::<IpAddr>().unwrap().into())
    }

    #[test]
    fn named_sets() {
        let all = networks(&["loopback", "Private", "link-local"]);
        for address in
            ["127.0.0.1", "::1", "10.1.2.3", "172.31.0.1", "192.168.0.1", "fd00::1", "169.254.1.1", "fe80::1"]
        {
            assert!(contains(&all, address), "{address}");
        }
        for address in ["128.0.0.1", "::2", "172.32.0.1", "2001:db8::1"] {
            assert!(!contains(&all, address), "{address}");
        }
    }

    #[test]
    fn mapped_networks_are_ipv4_networks() {
        let mapped = networks(&["::ffff:10.0.0.0/104"]);
        assert!(contains(&mapped, "10.200.0.1"));
        assert!(contains(&mapped, "::ffff:10.200.0.1"));
        assert!(!contains(&mapped, "11.0.0.1"));
        assert!(!contains(&networks(&["::/0"]), "10.0.0.1"));
    }

    #[test]
    fn an_entry_that_is_no_network_is_refused_by_place() {
        for entry in [
            "",
            "blargh",
            "10.0.300.1",
            "10.0.0.1/internet",
            "10.0.0.1/33",
            "10.0.0.1/-1",
            "10.0.0.1/+8",
            "10.0.0.1/08",
            "10.0.0.1/255.0.255.0",
            "10.0.0.1/ffc0::",
            "fe80::/255.255.255.0",
            "fe80::/ffc0::",
            "fe80::1%eth0/64",
            "::ffff:a00:2/136",
            "64:ff9b::/96",
            "unix",
        ] {
            let error = Networks::parse(["10.0.0.0/8", entry]).unwrap_err();
            assert!(error.to_string().contains("network 2"), "{entry}: {error}");
        }
    }

    proptest! {
        #[test]
        fn the_set_contains_what_one_of_its_networks_contains(
            nets in proptest::collection::vec((0_u32..64, 24_u8..=32), 0..12),
            address in 0_u32..64,
        ) {
            let nets: Vec<_> = nets
                .into_iter()
                .map(|(bits, width)| IpNet::new(IpAddr::from(bits.to_be_bytes()), width).unwrap())
                .collect();
            let address = IpAddr::from(address.to_be_bytes());
            let set = Networks::from_iter(nets.clone());
            prop_assert_eq!(set.contains(address.into()), nets.iter().any(|net| net.contains(&address)));
        }
    }
}
