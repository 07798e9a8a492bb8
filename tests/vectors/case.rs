//! Cases of other projects, and what ipveil makes of them.

use std::{net::IpAddr, num::NonZeroU8};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use ipveil::{
    Peer, Resolver, TrustedProxies,
    resolve::{Source, Withheld},
};
use serde::Deserialize;
use serde_json::Value;

const CASES: [&str; 10] = [
    include_str!("clientip-axum-client-ip.json"),
    include_str!("clientip-caddy.json"),
    include_str!("clientip-envoy.json"),
    include_str!("clientip-proxy-addr.json"),
    include_str!("clientip-python-ipware.json"),
    include_str!("clientip-rack.json"),
    include_str!("clientip-rails.json"),
    include_str!("clientip-realclientip-go.json"),
    include_str!("clientip-rust-forwarded.json"),
    include_str!("clientip-trusted-proxies.json"),
];

#[derive(Deserialize)]
pub(crate) struct Cases<C> {
    pub(crate) cases: Vec<C>,
}

pub(crate) fn cases() -> impl Iterator<Item = Case> {
    CASES.iter().flat_map(|file| serde_json::from_str::<Cases<Case>>(file).unwrap().cases)
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) peer: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) trusted: Trusted,
    pub(crate) expected: Value,
    expected_kind: String,
    expected_rfc7239: Option<Value>,
    pub(crate) expected_peer_trusted: Option<bool>,
}

#[derive(Deserialize)]
pub(crate) struct Trusted {
    strategy: String,
    pub(crate) header: Option<String>,
    #[serde(default)]
    headers_precedence: Vec<String>,
    cidrs: Option<Vec<Value>>,
    #[serde(default)]
    trust_unix: bool,
    #[serde(default)]
    pub(crate) hops: i64,
    #[serde(default)]
    use_remote_address: bool,
    all_trusted_returns: Option<String>,
}

/// A configuration that can't be expressed.
#[derive(Debug)]
pub(crate) struct Unusable;

impl Case {
    /// What the project gives; where it says that RFC 7239 wants something else, that.
    pub(crate) fn theirs(&self) -> String {
        let expected = self.expected_rfc7239.as_ref().unwrap_or(&self.expected);
        match self.expected_kind.as_str() {
            "address" | "raw-token" | "node" => their_node(expected),
            "none" | "reject" => "none".to_owned(),
            "config-error" => "config error".to_owned(),
            "list" | "chain" => expected.as_array().unwrap().iter().map(their_node).collect::<Vec<_>>().join(", "),
            kind => panic!("{}: {kind} is not known", self.id),
        }
    }

    /// What ipveil gives; nothing if it has no such strategy.
    pub(crate) fn ours(&self) -> Option<String> {
        let given = match self.trusted.strategy.as_str() {
            "parse-cidrs" => self.networks(),
            "parse-node" | "parse-node-usable" | "parse-forwarded-node" => Ok(self.node()),
            "parse-forwarded-list" => Ok(self.forwarded_list()),
            "chain-list" => Ok(self.chain()),
            // They go from the left, where anybody can write; or have a rule of their own.
            "leftmost-forwarded-for"
            | "leftmost-nonprivate"
            | "leftmost-valid"
            | "leftmost-valid-if-peer-trusted"
            | "rightmost-forwarded-for"
            | "rightmost-nonprivate"
            | "chain"
            | "ipware"
            | "rack"
            | "rails-remote-ip" => return None,
            _ => self.resolver().map(|resolver| self.client(&resolver)),
        };
        Some(given.unwrap_or_else(|Unusable| "config error".to_owned()))
    }

    pub(crate) fn resolver(&self) -> Result<Resolver, Unusable> {
        let trusted = &self.trusted;
        Ok(match trusted.strategy.as_str() {
            "peer" => Resolver::direct(),
            "single-header" | "cloudfront-viewer-address" | "rightmost" => Resolver::hops(hops(1)?, self.source()?),
            "parse-forwarded-item" => Resolver::hops(hops(1)?, Source::forwarded()),
            "single-header-if-peer-trusted" | "last-if-peer-trusted" => {
                Resolver::hops(hops(1)?, self.source()?).only_from(self.trusted_proxies()?)
            }
            "rightmost-count" => Resolver::hops(hops(trusted.hops)?, self.source()?),
            "nth-from-right" => Resolver::hops(hops(trusted.hops + 1)?, self.source()?),
            "envoy-hcm" => match (trusted.use_remote_address, trusted.hops) {
                (true, 0) => Resolver::direct(),
                (true, count) => Resolver::hops(hops(count)?, self.source()?),
                (false, count) => Resolver::hops(hops(count + 1)?, self.source()?),
            },
            "rightmost-untrusted" => {
                let resolver = Resolver::behind(self.trusted_proxies()?, self.source()?);
                match trusted.all_trusted_returns.as_deref() {
                    Some("leftmost") => resolver.furthest_hop(),
                    _ => resolver,
                }
            }
            strategy => panic!("{}: {strategy} is not known", self.id),
        })
    }

    /// Of several headers the last, which is the one that has the client in every case.
    pub(crate) fn source(&self) -> Result<Source, Unusable> {
        let name = self.trusted.header.as_deref().or(self.trusted.headers_precedence.last().map(String::as_str));
        Ok(Source::header(HeaderName::try_from(name.unwrap_or("Forwarded")).map_err(|_| Unusable)?))
    }

    pub(crate) fn trusted_proxies(&self) -> Result<TrustedProxies, Unusable> {
        let trusted = match &self.trusted.cidrs {
            Some(cidrs) => {
                let cidrs = cidrs.iter().map(|cidr| cidr.as_str().map_or_else(|| cidr.to_string(), str::to_owned));
                TrustedProxies::parse(cidrs).map_err(|_| Unusable)?
            }
            None => TrustedProxies::parse(["loopback", "private"]).unwrap(),
        };
        Ok(match self.trusted.trust_unix {
            true => trusted.and_unix_sockets(),
            false => trusted,
        })
    }

    pub(crate) fn header_map(&self) -> HeaderMap {
        header_map(&self.headers)
    }

    pub(crate) fn client(&self, resolver: &Resolver) -> String {
        match resolver.explain(self.peer.as_deref(), &self.header_map()) {
            Ok(explanation) => shown(explanation.client),
            // What is not an address is nobody that a server could name.
            Err(_) => {
                assert!(resolver.resolve(Peer::unknown(), &self.header_map()).is_err(), "{}", self.id);
                "none".to_owned()
            }
        }
    }

    /// What becomes of the one value where an address is expected.
    fn node(&self) -> String {
        let [(_, value)] = self.headers.as_slice() else { panic!("{}: one value was expected", self.id) };
        let name = HeaderName::from_static("x-test-value");
        let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::try_from(value).unwrap())]);
        match Resolver::hops(NonZeroU8::MIN, Source::header(name)).explain(None, &headers).unwrap().client {
            Err(Withheld::Hidden) => "hidden".to_owned(),
            client => shown(client),
        }
    }

    /// The elements, each as the client of as many proxies as it takes.
    fn forwarded_list(&self) -> String {
        let mut list: Vec<_> = (1..=u8::MAX)
            .map(|hops| Resolver::hops(NonZeroU8::new(hops).unwrap(), Source::forwarded()))
            .map(|resolver| resolver.explain(None, &self.header_map()).unwrap().client)
            .take_while(|client| !matches!(client, Err(Withheld::TooFewHops)))
            .map(shown)
            .collect();
        list.reverse();
        list.join(", ")
    }

    /// All that a walk sees that trusts everybody.
    pub(crate) fn chain(&self) -> String {
        let everybody = TrustedProxies::parse(["0.0.0.0/0", "::/0"]).unwrap();
        let resolver = Resolver::behind(everybody, Source::header(HeaderName::from_static("x-forwarded-for")));
        let hops = resolver.explain(self.peer.as_deref(), &self.header_map()).unwrap().hops;
        self.peer
            .iter()
            .map(String::as_str)
            .chain(hops.iter().map(|hop| hop.text.as_str()))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The networks that were expected if both ends of each are trusted, and their neighbors are not.
    fn networks(&self) -> Result<String, Unusable> {
        let resolver = Resolver::behind(self.trusted_proxies()?, Source::x_forwarded_for());
        let is_trusted =
            |address: IpAddr| resolver.explain(Some(&address.to_string()), &HeaderMap::new()).unwrap().peer_is_believed;
        let networks = self.expected.as_array().into_iter().flatten().map(|network| {
            let network: IpNet = network.as_str().unwrap().parse().unwrap();
            let (first, last) = (network.network(), network.broadcast());
            let fits = is_trusted(first) && is_trusted(last) && !is_trusted(before(first)) && !is_trusted(after(last));
            if fits { network.to_string() } else { format!("not {network}") }
        });
        Ok(networks.collect::<Vec<_>>().join(", "))
    }
}

pub(crate) fn hops(count: i64) -> Result<NonZeroU8, Unusable> {
    u8::try_from(count).ok().and_then(NonZeroU8::new).ok_or(Unusable)
}

/// Values that no server lets through are left out.
pub(crate) fn header_map(headers: &[(String, String)]) -> HeaderMap {
    let pairs = headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::try_from(value)));
    pairs.filter_map(|(name, value): (HeaderName, _)| Some((name, value.ok()?))).collect()
}

fn shown(client: Result<IpAddr, Withheld>) -> String {
    client.map_or_else(|_| "none".to_owned(), |address| address.to_string())
}

fn their_node(node: &Value) -> String {
    match node {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.parse::<IpAddr>().map_or_else(|_| text.clone(), |address| address.to_string()),
        node => match (node["ip"].as_str(), &node["port"]) {
            (Some(ip), Value::Null) => ip.to_owned(),
            (Some(ip), port) => format!("{ip}:{port}"),
            (None, _) => "hidden".to_owned(),
        },
    }
}

pub(crate) fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() - 1).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() - 1).into()),
    }
}

fn after(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() + 1).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() + 1).into()),
    }
}

pub(crate) fn network(address: IpAddr) -> IpNet {
    IpNet::new(address, if address.is_ipv4() { 24 } else { 48 }).unwrap().trunc()
}

#[track_caller]
pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
