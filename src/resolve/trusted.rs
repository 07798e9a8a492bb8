//! The proxies whose word about a client is believed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::addr::{Canonical, Peer};

/// A set of CIDRs, and maybe Unix sockets.
///
/// Looking an address up takes about as long for ten thousand CIDRs as for one. IPv4-mapped CIDRs (`::ffff:10.0.0.0/104`)
/// are their IPv4 ones; `::/0` is all of IPv6, and none of IPv4.
///
/// ```
/// use ipveil::TrustedProxies;
///
/// let trusted = TrustedProxies::parse(["10.0.0.0/8", "2001:db8::5", "loopback", "unix"])?;
/// # Ok::<(), ipveil::resolve::TrustedError>(())
/// ```
#[derive(Clone, Default)]
pub struct TrustedProxies {
    // Sorted, apart from each other, ends included.
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
    unix: bool,
}

impl TrustedProxies {
    /// Nobody.
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
    /// | `unix` | peers on Unix sockets |
    ///
    /// `64:ff9b::/96` is none of them: clients behind NAT64 are IPv4 clients here, so it would be all of IPv4 or nothing.
    ///
    /// # Errors
    ///
    /// [`TrustedError`] for the first entry that is none of these.
    pub fn parse<T: AsRef<str>>(entries: impl IntoIterator<Item = T>) -> Result<Self, TrustedError> {
        let mut nets = Vec::new();
        let mut unix = false;
        for (place, entry) in entries.into_iter().enumerate() {
            let entry = entry.as_ref().trim();
            match NAMED.iter().find(|(name, _)| entry.eq_ignore_ascii_case(name)) {
                Some((_, set)) => {
                    nets.extend(set.iter().map(|net| net.parse::<IpNet>().expect("the named sets are made of CIDRs")))
                }
                None if entry.eq_ignore_ascii_case("unix") => unix = true,
                None => nets.push(parse_net(entry).ok_or_else(|| TrustedError { place, entry: entry.to_owned() })?),
            }
        }
        let mut trusted = Self::from_iter(nets);
        trusted.unix = unix;
        Ok(trusted)
    }

    /// Peers on Unix sockets, too.
    #[must_use]
    pub fn and_unix_sockets(mut self) -> Self {
        self.unix = true;
        self
    }

    #[inline]
    pub(crate) fn trust(&self, peer: Peer) -> bool {
        match peer.address() {
            Some(address) => self.contains(address),
            None => self.unix && peer.is_unix(),
        }
    }

    #[inline]
    pub(crate) fn contains(&self, address: Canonical) -> bool {
        match address {
            Canonical::V4(octets) => is_in(&self.v4, u32::from_be_bytes(octets)),
            Canonical::V6(octets) => is_in(&self.v6, u128::from_be_bytes(octets)),
        }
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

impl FromIterator<IpNet> for TrustedProxies {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match canonical(net) {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { v4: merge(v4, |end| end.checked_add(1)), v6: merge(v6, |end| end.checked_add(1)), unix: false }
    }
}

impl From<IpNet> for TrustedProxies {
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

impl fmt::Debug for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustedProxies")
            .field("ranges", &(self.v4.len() + self.v6.len()))
            .field("unix", &self.unix)
            .finish()
    }
}

/// An entry that is neither a CIDR nor the name of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedError {
    place: usize,
    entry: String,
}

impl fmt::Display for TrustedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "trusted proxy {} is not usable: {:?} (expected an address, a CIDR such as 10.0.0.0/8, or one of loopback, private, link-local, unix)",
            self.place + 1,
            self.entry
        )
    }
}

impl std::error::Error for TrustedError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted(entries: &[&str]) -> TrustedProxies {
        TrustedProxies::parse(entries).unwrap()
    }

    #[track_caller]
    fn contains(trusted: &TrustedProxies, address: &str) -> bool {
        trusted.contains(address.parse::<IpAddr>().unwrap().into())
    }

    #[test]
    fn named_sets() {
        let all = trusted(&["loopback", "Private", "link-local"]);
        for address in
            ["127.0.0.1", "::1", "10.1.2.3", "172.31.0.1", "192.168.0.1", "fd00::1", "169.254.1.1", "fe80::1"]
        {
            assert!(contains(&all, address), "{address}");
        }
        for address in ["128.0.0.1", "::2", "172.32.0.1", "2001:db8::1"] {
            assert!(!contains(&all, address), "{address}");
        }
        assert!(!all.trust(Peer::unix()));
        assert!(trusted(&["unix"]).trust(Peer::unix()));
        assert!(!trusted(&["unix", "0.0.0.0/0", "::/0"]).trust(Peer::unknown()));
    }

    #[test]
    fn mapped_networks_are_ipv4_networks() {
        let mapped = trusted(&["::ffff:10.0.0.0/104"]);
        assert!(contains(&mapped, "10.200.0.1"));
        assert!(contains(&mapped, "::ffff:10.200.0.1"));
        assert!(!contains(&mapped, "11.0.0.1"));
        assert!(!contains(&trusted(&["::/0"]), "10.0.0.1"));
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
        ] {
            let error = TrustedProxies::parse(["10.0.0.0/8", entry]).unwrap_err();
            assert!(error.to_string().contains("trusted proxy 2"), "{entry}: {error}");
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
            let set = TrustedProxies::from_iter(nets.clone());
            prop_assert_eq!(set.contains(address.into()), nets.iter().any(|net| net.contains(&address)));
        }
    }
}
