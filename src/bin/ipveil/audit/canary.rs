//! Clients that nobody else has: addresses from the ranges for documentation, chosen anew for each run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;

/// An address, and how it was sent.
pub(crate) struct Canary {
    pub(crate) address: IpAddr,
    pub(crate) path: String,
}

/// What is sent in this run.
pub(crate) struct Canaries {
    list: Vec<Canary>,
    v4: Vec<Ipv4Addr>,
}

impl Canaries {
    pub(crate) fn new() -> anyhow::Result<Self> {
        // RFC 5737. Without the first and the last of each, which can be a network's.
        let networks = [[192, 0, 2], [198, 51, 100], [203, 0, 113]];
        let mut v4: Vec<_> =
            networks.iter().flat_map(|&[a, b, c]| (1..=254).map(move |d| Ipv4Addr::new(a, b, c, d))).collect();
        for last in (1..v4.len()).rev() {
            v4.swap(last, (random::<8>()? as usize) % (last + 1));
        }
        Ok(Self { list: Vec::new(), v4 })
    }

    /// One that says by which way it went; of IPv6, if there is no more IPv4.
    pub(crate) fn v4(&mut self, path: impl Into<String>) -> anyhow::Result<IpAddr> {
        match self.v4.pop() {
            Some(address) => Ok(self.add(address.into(), path.into())),
            None => self.v6(path),
        }
    }

    /// RFC 3849.
    pub(crate) fn v6(&mut self, path: impl Into<String>) -> anyhow::Result<IpAddr> {
        let bits = 0x2001_0db8_u128 << 96 | random::<12>()?;
        Ok(self.add(Ipv6Addr::from_bits(bits).into(), path.into()))
    }

    /// On the loopback network, all of which is this machine.
    pub(crate) fn loopback(&mut self, path: impl Into<String>) -> anyhow::Result<Ipv4Addr> {
        let [b, c, d] = [random::<1>()?, random::<1>()?, random::<1>()?].map(|byte| (byte % 253) as u8 + 2);
        let address = Ipv4Addr::new(127, b, c, d);
        self.add(address.into(), path.into());
        Ok(address)
    }

    fn add(&mut self, address: IpAddr, path: String) -> IpAddr {
        self.list.push(Canary { address, path });
        address
    }

    pub(crate) fn into_list(self) -> Vec<Canary> {
        self.list
    }
}

/// So many random bytes, as a number.
pub(crate) fn random<const BYTES: usize>() -> anyhow::Result<u128> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).context("the system has no random numbers")?;
    Ok(bytes.iter().fold(0, |value, &byte| value << 8 | u128::from(byte)))
}
