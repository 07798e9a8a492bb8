//! Request headers that say who or where a client is, and what removes them.
//!
//! One table, each entry with what it carries and where that is documented. Names are compared as CGI-like
//! applications see them: in lower case, with `_` and `.` as `-`, so that `X_Forwarded_For` is `X-Forwarded-For`.

use std::fmt;

use http::{HeaderMap, HeaderName};

/// What a header gives away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The client's address, or a list of addresses that it is in. Always removed.
    Address,
    /// The client's port: with a time it identifies a subscriber behind carrier NAT. Always removed.
    Port,
    /// A hash of the address that anybody can compute. Always removed.
    PseudoAddress,
    /// Where the client is, finer than a country. Removed.
    Location,
    /// Which of a CDN's sites the client is near, alone or inside a request id (`CF-Ray`). Removed.
    PointOfPresence,
    /// How far the client is away. Removed.
    RoundTrip,
    /// Which proxies the request came through: an office's proxy is an office. Removed.
    ProxyHop,
    /// The client's country or continent. Kept, unless [asked for](Strip::countries).
    Country,
    /// A client's certificate, or something from it. Kept, unless [asked for](Strip::certificates).
    Certificate,
    /// A fingerprint of the client's TLS. Kept, unless [asked for](Strip::fingerprints).
    Fingerprint,
    /// An id under which a CDN, a load balancer or a tracer logs the same request, with its address maybe. Kept,
    /// unless [asked for](Strip::join_keys).
    JoinKey,
}

impl Kind {
    fn is_always_removed(self) -> bool {
        matches!(self, Self::Address | Self::Port | Self::PseudoAddress)
    }

    fn is_removed_by_default(self) -> bool {
        self.is_always_removed()
            || matches!(self, Self::Location | Self::PointOfPresence | Self::RoundTrip | Self::ProxyHop)
    }
}

/// The known headers: name, what it gives away, and where that is documented.
pub fn known() -> impl Iterator<Item = (&'static str, Kind, &'static str)> {
    TABLE.iter().copied()
}

/// Whether an application expects an address in it.
pub(crate) fn takes_address(name: &str) -> bool {
    TABLE.iter().any(|&(known, kind, _)| known == name && kind == Kind::Address && name != "forwarded")
}

/// Removes what it is told to from a request's headers.
///
/// By default that is every [known](known()) header that carries an address, a port, or a location finer than a country.
///
/// ```
/// use ipveil::headers::Strip;
///
/// let strip = Strip::new().join_keys().also("x-client-geo-*")?;
/// let mut trailers = http::HeaderMap::new();
/// trailers.insert("x_real_ip", http::HeaderValue::from_static("203.0.113.7"));
/// strip.strip(&mut trailers);
/// assert!(trailers.is_empty());
/// # Ok::<(), ipveil::headers::StripError>(())
/// ```
#[derive(Clone)]
pub struct Strip {
    names: Names,
    globs: Vec<Glob>,
}

impl Strip {
    /// What is removed by default.
    #[must_use]
    pub fn new() -> Self {
        Self { names: Names::new(), globs: Vec::new() }.kinds(Kind::is_removed_by_default)
    }

    /// Countries and continents, too.
    #[must_use]
    pub fn countries(self) -> Self {
        self.kinds(|kind| kind == Kind::Country)
    }

    /// Client certificates, too.
    #[must_use]
    pub fn certificates(self) -> Self {
        self.kinds(|kind| kind == Kind::Certificate)
    }

    /// TLS fingerprints, too.
    #[must_use]
    pub fn fingerprints(self) -> Self {
        self.kinds(|kind| kind == Kind::Fingerprint)
    }

    /// Ids that join with other systems' logs, too: trace ids and request ids.
    #[must_use]
    pub fn join_keys(self) -> Self {
        self.kinds(|kind| kind == Kind::JoinKey)
    }

    /// Headers of this name, too; `*` stands for any number of characters.
    ///
    /// # Errors
    ///
    /// [`StripError::NotAName`] if no header can have that name, [`StripError::Everything`] if all would.
    pub fn also(mut self, glob: &str) -> Result<Self, StripError> {
        let glob = Glob::parse(glob)?;
        match glob.0.as_slice() {
            [name] if Names::can_hold(name) => self.names.insert(name),
            _ => self.globs.push(glob),
        }
        Ok(self)
    }

    /// Not headers of this name after all: for one that means something else in your application, such as a `Region`
    /// that a user chose.
    ///
    /// # Errors
    ///
    /// [`StripError::Address`] if it is known to carry an address: those are always removed.
    pub fn keep(mut self, name: &HeaderName) -> Result<Self, StripError> {
        let name = fold(name.as_str());
        if TABLE.iter().any(|&(known, kind, _)| known == name && kind.is_always_removed()) {
            return Err(StripError::Address);
        }
        self.names.remove(&name);
        Ok(self)
    }

    /// Removes them: from a request's headers, or from its trailers, which come with the body and have to be brought
    /// here from there.
    pub fn strip(&self, headers: &mut HeaderMap) {
        self.strip_except(headers, |_| false);
    }

    /// Looks through the names once: for one that is `ours` to write, and for any other that is to be removed. Ours are
    /// found if they are among those that would be removed.
    #[inline]
    pub(crate) fn find(&self, headers: &HeaderMap, ours: impl Fn(&HeaderName) -> bool) -> Found {
        let mut found = Found { ours: None, strip: false };
        for (place, name) in headers.keys().enumerate() {
            if self.names.may_contain(name.as_str()) || !self.globs.is_empty() {
                if ours(name) {
                    found.ours = Some(place);
                } else {
                    found.strip |= self.removes(name);
                }
            }
        }
        found
    }

    /// Removes them, except those that are about to be written over.
    #[cold]
    pub(crate) fn strip_except(&self, headers: &mut HeaderMap, ours: impl Fn(&HeaderName) -> bool) {
        // As many as have room here are removed in one go. Nobody sends more, except to cost us time.
        const ROOM: usize = 16;
        loop {
            let mut doomed = [const { None::<HeaderName> }; ROOM];
            let names = headers.keys().filter(|name| self.removes(name) && !ours(name));
            let mut count = 0;
            for (place, name) in doomed.iter_mut().zip(names) {
                *place = Some(name.clone());
                count += 1;
            }
            for name in doomed.iter().flatten() {
                headers.remove(name);
            }
            if count < ROOM {
                return;
            }
        }
    }

    /// Whether a header of this name is removed.
    #[must_use]
    #[inline]
    pub fn removes(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        self.names.contains(name) || (!self.globs.is_empty() && self.globs.iter().any(|glob| glob.fits(&fold(name))))
    }

    /// This one in any case, in every spelling.
    pub(crate) fn always(&mut self, name: &HeaderName) {
        let name = fold(name.as_str());
        match Names::can_hold(&name) {
            true => self.names.insert(&name),
            false => self.globs.push(Glob(vec![name])),
        }
    }

    fn kinds(mut self, removed: impl Fn(Kind) -> bool) -> Self {
        for &(name, kind, _) in TABLE {
            if removed(kind) {
                self.names.insert(name);
            }
        }
        self
    }
}

impl Default for Strip {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Strip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strip").field("names", &self.names.sorted.len()).field("globs", &self.globs).finish()
    }
}

/// What there was to find in a request's headers.
pub(crate) struct Found {
    /// Where a header of ours is, counted in names.
    pub(crate) ours: Option<usize>,
    /// Whether there is anything to remove.
    pub(crate) strip: bool,
}

/// Why a header can't be stripped, or can't be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StripError {
    /// No header can have that name.
    NotAName,
    /// Every header would be removed.
    Everything,
    /// It carries an address.
    Address,
}

impl fmt::Display for StripError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAName => "not the name of a header (expected letters, digits, - and _, with * for any of them)",
            Self::Everything => "every header would be removed (expected a name with something besides *)",
            Self::Address => "a header that carries the client's address can't be kept",
        })
    }
}

impl std::error::Error for StripError {}

/// The parts of a name between asterisks, folded.
#[derive(Clone, Debug)]
struct Glob(Vec<String>);

impl Glob {
    fn parse(glob: &str) -> Result<Self, StripError> {
        let parts: Vec<_> = glob.split('*').map(fold).collect();
        if parts.iter().any(|part| !part.is_empty() && HeaderName::try_from(part).is_err()) || glob.is_empty() {
            return Err(StripError::NotAName);
        }
        if parts.iter().all(String::is_empty) {
            return Err(StripError::Everything);
        }
        Ok(Self(parts))
    }

    fn fits(&self, name: &str) -> bool {
        let (first, middle, last) = match self.0.as_slice() {
            [] => return false,
            [whole] => return name == whole,
            [first, middle @ .., last] => (first, middle, last),
        };
        let Some(rest) = name.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else {
            return false;
        };
        // The leftmost place of each part leaves the most room for the next.
        middle.iter().try_fold(rest, |rest, part| rest.find(part.as_str()).map(|at| &rest[at + part.len()..])).is_some()
    }
}

fn fold(name: &str) -> String {
    name.bytes().map(|byte| char::from(fold_byte(byte))).collect()
}

#[inline]
fn fold_byte(byte: u8) -> u8 {
    match byte {
        b'_' | b'.' => b'-',
        byte => byte.to_ascii_lowercase(),
    }
}

/// A set of folded names that is quick to say no.
#[derive(Clone)]
struct Names {
    // A bit for each hash: most headers of most requests fail here.
    filter: [u64; 64],
    // By hash.
    sorted: Vec<(u16, String)>,
}

impl Names {
    fn new() -> Self {
        Self { filter: [0; 64], sorted: Vec::new() }
    }

    fn can_hold(name: &str) -> bool {
        !name.starts_with('-') && !name.ends_with('-')
    }

    fn insert(&mut self, name: &str) {
        let hash = Self::hash(name.as_bytes());
        let entry = (hash, name.to_owned());
        if let Err(place) = self.sorted.binary_search(&entry) {
            self.sorted.insert(place, entry);
            self.filter[usize::from(hash / 64)] |= 1 << (hash % 64);
        }
    }

    fn remove(&mut self, name: &str) {
        // The filter may go on saying maybe.
        self.sorted.retain(|(_, known)| known != name);
    }

    fn contains(&self, name: &str) -> bool {
        if !self.may_contain(name) {
            return false;
        }
        let hash = Self::hash(name.as_bytes());
        let start = self.sorted.partition_point(|&(known, _)| known < hash);
        self.sorted[start..]
            .iter()
            .take_while(|&&(known, _)| known == hash)
            .any(|(_, known)| known.len() == name.len() && known.bytes().eq(name.bytes().map(fold_byte)))
    }

    /// Rarely wrong when it says yes, never when it says no.
    #[inline]
    fn may_contain(&self, name: &str) -> bool {
        let hash = Self::hash(name.as_bytes());
        self.filter[usize::from(hash / 64) % self.filter.len()] >> (hash % 64) & 1 == 1
    }

    /// Of a name's length and ends, in 12 bits. Ends are never folded: no name in the set begins or ends with "-".
    #[inline]
    fn hash(name: &[u8]) -> u16 {
        let (Some(first), Some(last)) = (name.first(), name.last()) else {
            return 0;
        };
        let mixed = u32::from(*first) | u32::from(*last) << 8 | (name.len() as u32) << 16;
        (mixed.wrapping_mul(0x9e37_79b1) >> 20) as u16
    }
}

/// Names are folded.
const TABLE: &[(&str, Kind, &str)] = &[
    ("akamai-client-ip", Kind::Address, "Akamai"),
    ("ali-cdn-real-ip", Kind::Address, "code that reads Alibaba and Tencent headers"),
    ("ali-real-client-ip", Kind::Address, "code that reads Alibaba and Tencent headers"),
    ("ar-real-ip", Kind::Address, "code that reads Imperva, Sucuri and others"),
    ("cdn-client-ip", Kind::Address, "seen in the wild"),
    ("cdn-real-ip", Kind::Address, "WebLogic and its imitators"),
    ("cdn-src-ip", Kind::Address, "WebLogic and its imitators"),
    ("cdn-viewer-ip", Kind::Address, "code that reads Imperva, Sucuri and others"),
    ("cf-client-ip", Kind::Address, "seen in the wild"),
    ("cf-connecting-ip", Kind::Address, "Cloudflare docs, HTTP headers"),
    ("cf-connecting-ipv6", Kind::Address, "Cloudflare docs, HTTP headers"),
    ("client-ip", Kind::Address, "python-ipware"),
    ("cloudfront-viewer-address", Kind::Address, "CloudFront developer guide"),
    ("coming-from", Kind::Address, "code that scans for proxies"),
    ("do-connecting-ip", Kind::Address, "umami"),
    ("eo-client-ip", Kind::Address, "code that reads Alibaba and Tencent headers"),
    ("fastly-client-ip", Kind::Address, "Fastly"),
    ("fly-client-ip", Kind::Address, "Fly.io docs"),
    ("forwarded", Kind::Address, "RFC 7239"),
    ("forwarded-for", Kind::Address, "python-ipware"),
    ("forwarded-for-ip", Kind::Address, "code that scans for proxies"),
    ("geoip-addr", Kind::Address, "nginx and PHP geoip modules"),
    ("http-client-ip", Kind::Address, "code that scans for proxies"),
    ("http-x-forwarded-for", Kind::Address, "code that scans for proxies"),
    ("incap-client-ip", Kind::Address, "code that reads Imperva, Sucuri and others"),
    ("proxy-client-ip", Kind::Address, "WebLogic and its imitators"),
    ("remote-addr", Kind::Address, "seen in the wild"),
    ("remote-host", Kind::Address, "CGI, RFC 3875"),
    ("true-client-ip", Kind::Address, "Cloudflare docs, managed transforms"),
    ("tx-client-ip", Kind::Address, "code that reads Alibaba and Tencent headers"),
    ("wl-proxy-client-ip", Kind::Address, "WebLogic and its imitators"),
    ("x-akamai-client-ip", Kind::Address, "Akamai"),
    ("x-appengine-remote-addr", Kind::Address, "App Engine docs"),
    ("x-appengine-user-ip", Kind::Address, "umami"),
    ("x-azure-client-ip", Kind::Address, "seen in the wild"),
    ("x-azure-clientip", Kind::Address, "Azure Front Door docs"),
    ("x-azure-socketip", Kind::Address, "Azure Front Door docs"),
    ("x-client-ip", Kind::Address, "python-ipware"),
    ("x-client-ip-address", Kind::Address, "Google load balancer docs, custom headers"),
    ("x-cluster-client-ip", Kind::Address, "python-ipware"),
    ("x-coming-from", Kind::Address, "code that scans for proxies"),
    ("x-envoy-client-ip", Kind::Address, "seen in the wild"),
    ("x-envoy-external-address", Kind::Address, "Envoy"),
    ("x-forwarded", Kind::Address, "python-ipware"),
    ("x-forwarded-by", Kind::Address, "seen in the wild"),
    ("x-forwarded-client-ip", Kind::Address, "seen in the wild"),
    ("x-forwarded-for", Kind::Address, "RFC 7239, 7.4"),
    ("x-forwarded-for-ip", Kind::Address, "code that scans for proxies"),
    ("x-forwarded-server-ip", Kind::Address, "seen in the wild"),
    ("x-gateway-client-ip", Kind::Address, "seen in the wild"),
    ("x-host", Kind::Address, "seen in the wild"),
    ("x-ms-forwarded-client-ip", Kind::Address, "AD FS, MS-ADFSPIP"),
    ("x-nf-client-connection-ip", Kind::Address, "umami"),
    ("x-nokia-ipaddress", Kind::Address, "mobile gateways"),
    ("x-original-client-ip", Kind::Address, "seen in the wild"),
    ("x-original-forwarded-for", Kind::Address, "ingress header lists"),
    ("x-original-ip", Kind::Address, "seen in the wild"),
    ("x-original-remote-addr", Kind::Address, "seen in the wild"),
    ("x-originating-ip", Kind::Address, "WebLogic and its imitators"),
    ("x-proxy-client-ip", Kind::Address, "WebLogic and its imitators"),
    ("x-proxyuser-ip", Kind::Address, "WebLogic and its imitators"),
    ("x-qihoo-ip", Kind::Address, "seen in the wild"),
    ("x-real-client-ip", Kind::Address, "seen in the wild"),
    ("x-real-ip", Kind::Address, "client-ip crate"),
    ("x-remote-addr", Kind::Address, "WebLogic and its imitators"),
    ("x-remote-host", Kind::Address, "seen in the wild"),
    ("x-remote-ip", Kind::Address, "WebLogic and its imitators"),
    ("x-source-ip", Kind::Address, "seen in the wild"),
    ("x-sp-forwarding-ip", Kind::Address, "code that reads Imperva, Sucuri and others"),
    ("x-sucuri-clientip", Kind::Address, "code that reads Imperva, Sucuri and others"),
    ("x-true-client-ip", Kind::Address, "seen in the wild"),
    ("x-up-forwarded-for", Kind::Address, "mobile gateways"),
    ("x-user-ip", Kind::Address, "Google APIs"),
    ("x-vercel-forwarded-for", Kind::Address, "code that reads Vercel headers"),
    ("x-vercel-proxied-for", Kind::Address, "code that reads Vercel headers"),
    ("x-wap-network-client-ip", Kind::Address, "mobile gateways"),
    ("remote-port", Kind::Port, "CGI, RFC 3875 convention"),
    ("x-client-port", Kind::Port, "Azure App Service"),
    ("x-forwarded-client-port", Kind::Port, "seen in the wild"),
    ("x-real-port", Kind::Port, "nginx convention"),
    ("x-remote-port", Kind::Port, "nginx convention"),
    ("x-source-port", Kind::Port, "seen in the wild"),
    ("cf-pseudo-ipv4", Kind::PseudoAddress, "Cloudflare docs, HTTP headers"),
    ("cdn-requeststatecode", Kind::Location, "Bunny"),
    ("cf-ipcity", Kind::Location, "Cloudflare docs, managed transforms"),
    ("cf-iplatitude", Kind::Location, "Cloudflare docs, managed transforms"),
    ("cf-iplongitude", Kind::Location, "Cloudflare docs, managed transforms"),
    ("cf-metro-code", Kind::Location, "Cloudflare docs, managed transforms"),
    ("cf-postal-code", Kind::Location, "Cloudflare docs, managed transforms"),
    ("cf-region", Kind::Location, "Cloudflare docs, managed transforms"),
    ("cf-region-code", Kind::Location, "Cloudflare docs, managed transforms"),
    ("cf-timezone", Kind::Location, "Cloudflare docs, managed transforms"),
    ("cloudfront-viewer-asn", Kind::Location, "CloudFront developer guide"),
    ("cloudfront-viewer-city", Kind::Location, "CloudFront developer guide"),
    ("cloudfront-viewer-country-region", Kind::Location, "CloudFront developer guide"),
    ("cloudfront-viewer-country-region-name", Kind::Location, "CloudFront developer guide"),
    ("cloudfront-viewer-latitude", Kind::Location, "CloudFront developer guide"),
    ("cloudfront-viewer-longitude", Kind::Location, "CloudFront developer guide"),
    ("cloudfront-viewer-metro-code", Kind::Location, "CloudFront developer guide"),
    ("cloudfront-viewer-postal-code", Kind::Location, "CloudFront developer guide"),
    ("cloudfront-viewer-time-zone", Kind::Location, "CloudFront developer guide"),
    ("fastly-geo-city", Kind::Location, "code that reads CDN geography headers"),
    ("fastly-geo-region", Kind::Location, "code that reads CDN geography headers"),
    ("fastly-geoip-country-code", Kind::Location, "code that reads CDN geography headers"),
    ("geoip-city", Kind::Location, "nginx and PHP geoip modules"),
    ("geoip-latitude", Kind::Location, "nginx and PHP geoip modules"),
    ("geoip-longitude", Kind::Location, "nginx and PHP geoip modules"),
    ("geoip-postal-code", Kind::Location, "nginx and PHP geoip modules"),
    ("geoip-region", Kind::Location, "nginx and PHP geoip modules"),
    ("geoip-region-name", Kind::Location, "nginx and PHP geoip modules"),
    ("x-akamai-edgescape", Kind::Location, "code that reads CDN geography headers"),
    ("x-appengine-city", Kind::Location, "App Engine docs"),
    ("x-appengine-citylatlong", Kind::Location, "App Engine docs"),
    ("x-appengine-region", Kind::Location, "App Engine docs"),
    ("x-city", Kind::Location, "code that reads CDN geography headers"),
    ("x-client-city", Kind::Location, "Google load balancer docs, custom headers"),
    ("x-client-city-lat-long", Kind::Location, "Google load balancer docs, custom headers"),
    ("x-client-citylatlong", Kind::Location, "Google load balancer docs, custom headers"),
    ("x-client-geo-location", Kind::Location, "Google load balancer docs, custom headers"),
    ("x-client-geo-location-city", Kind::Location, "Google load balancer docs, custom headers"),
    ("x-client-geo-location-coordinates", Kind::Location, "Google load balancer docs, custom headers"),
    ("x-client-geo-location-region-subdivision", Kind::Location, "Google load balancer docs, custom headers"),
    ("x-client-lat-long", Kind::Location, "Google load balancer docs, custom headers"),
    ("x-client-region-subdivision", Kind::Location, "Google load balancer docs, custom headers"),
    ("x-gclb-city", Kind::Location, "Google load balancer docs, custom headers"),
    ("x-gclb-citylatlong", Kind::Location, "Google load balancer docs, custom headers"),
    ("x-geo-city", Kind::Location, "nginx convention"),
    ("x-geo-latitude", Kind::Location, "nginx convention"),
    ("x-geo-longitude", Kind::Location, "nginx convention"),
    ("x-geo-postal-code", Kind::Location, "nginx convention"),
    ("x-geo-region", Kind::Location, "nginx convention"),
    ("x-geoip-city", Kind::Location, "nginx convention"),
    ("x-geoip-region", Kind::Location, "nginx convention"),
    ("x-nf-geo", Kind::Location, "Netlify"),
    ("x-nf-geo-city", Kind::Location, "Netlify"),
    ("x-nf-geo-region", Kind::Location, "Netlify"),
    ("x-nf-geo-subdivision", Kind::Location, "Netlify"),
    ("x-region", Kind::Location, "code that reads CDN geography headers"),
    ("x-vercel-ip-as-number", Kind::Location, "seen in the wild"),
    ("x-vercel-ip-city", Kind::Location, "Vercel functions package"),
    ("x-vercel-ip-country-region", Kind::Location, "Vercel functions package"),
    ("x-vercel-ip-latitude", Kind::Location, "Vercel functions package"),
    ("x-vercel-ip-longitude", Kind::Location, "Vercel functions package"),
    ("x-vercel-ip-postal-code", Kind::Location, "seen in the wild"),
    ("x-vercel-ip-timezone", Kind::Location, "code that reads Vercel headers"),
    ("cdn-serverid", Kind::PointOfPresence, "Bunny"),
    ("cdn-serverzone", Kind::PointOfPresence, "Bunny"),
    ("cf-ray", Kind::PointOfPresence, "Cloudflare docs, HTTP headers"),
    ("fly-region", Kind::PointOfPresence, "Fly.io docs"),
    ("x-azure-ref", Kind::PointOfPresence, "Azure Front Door docs"),
    ("x-vercel-id", Kind::PointOfPresence, "Vercel functions package"),
    ("x-client-rtt-msec", Kind::RoundTrip, "Google load balancer docs, custom headers"),
    ("via", Kind::ProxyHop, "RFC 9110, 7.6.3"),
    ("x-bluecoat-via", Kind::ProxyHop, "Rails"),
    ("cdn-requestcountrycode", Kind::Country, "Bunny"),
    ("cf-ipcontinent", Kind::Country, "Cloudflare docs, managed transforms"),
    ("cf-ipcountry", Kind::Country, "Cloudflare docs, managed transforms"),
    ("cloudfront-viewer-country", Kind::Country, "CloudFront developer guide"),
    ("cloudfront-viewer-country-name", Kind::Country, "CloudFront developer guide"),
    ("x-appengine-country", Kind::Country, "App Engine docs"),
    ("x-azure-country", Kind::Country, "code that reads CDN geography headers"),
    ("x-client-region", Kind::Country, "Alokai docs"),
    ("x-country", Kind::Country, "code that reads CDN geography headers"),
    ("x-keycdn-country", Kind::Country, "code that reads CDN geography headers"),
    ("x-nf-geo-country-code", Kind::Country, "Netlify"),
    ("x-vercel-ip-continent", Kind::Country, "seen in the wild"),
    ("x-vercel-ip-country", Kind::Country, "Vercel functions package"),
    ("cf-cert-fingerprint-sha1", Kind::Certificate, "Cloudflare docs, managed transforms"),
    ("cf-cert-fingerprint-sha256", Kind::Certificate, "Cloudflare docs, managed transforms"),
    ("cf-cert-issuer-dn", Kind::Certificate, "Cloudflare docs, managed transforms"),
    ("cf-cert-serial", Kind::Certificate, "Cloudflare docs, managed transforms"),
    ("cf-cert-ski", Kind::Certificate, "Cloudflare docs, managed transforms"),
    ("cf-cert-subject-dn", Kind::Certificate, "Cloudflare docs, managed transforms"),
    ("x-amzn-mtls-clientcert", Kind::Certificate, "seen in the wild"),
    ("x-amzn-mtls-clientcert-subject", Kind::Certificate, "seen in the wild"),
    ("x-client-cert", Kind::Certificate, "seen in the wild"),
    ("x-forwarded-client-cert", Kind::Certificate, "ingress header lists"),
    ("x-forwarded-tls-client-cert", Kind::Certificate, "Traefik"),
    ("x-forwarded-tls-client-cert-info", Kind::Certificate, "Traefik"),
    ("x-ssl-client-cert", Kind::Certificate, "seen in the wild"),
    ("x-ssl-client-s-dn", Kind::Certificate, "seen in the wild"),
    ("cdn-connectionid", Kind::Fingerprint, "Bunny"),
    ("cdn-ja4", Kind::Fingerprint, "Bunny"),
    ("cf-ja3-hash", Kind::Fingerprint, "Cloudflare docs, managed transforms"),
    ("cf-ja4", Kind::Fingerprint, "Cloudflare docs, managed transforms"),
    ("cloudfront-viewer-ja3-fingerprint", Kind::Fingerprint, "CloudFront developer guide"),
    ("cloudfront-viewer-ja4-fingerprint", Kind::Fingerprint, "CloudFront developer guide"),
    ("cloudfront-viewer-tls", Kind::Fingerprint, "CloudFront developer guide"),
    ("x-vercel-ja4-digest", Kind::Fingerprint, "seen in the wild"),
    ("b3", Kind::JoinKey, "Zipkin"),
    ("traceparent", Kind::JoinKey, "W3C Trace Context"),
    ("tracestate", Kind::JoinKey, "W3C Trace Context"),
    ("x-amz-cf-id", Kind::JoinKey, "CloudFront developer guide"),
    ("x-amzn-trace-id", Kind::JoinKey, "AWS load balancer docs"),
    ("x-b3-parentspanid", Kind::JoinKey, "Zipkin"),
    ("x-b3-spanid", Kind::JoinKey, "Zipkin"),
    ("x-b3-traceid", Kind::JoinKey, "Zipkin"),
    ("x-cloud-trace-context", Kind::JoinKey, "App Engine docs"),
    ("x-correlation-id", Kind::JoinKey, "seen in the wild"),
    ("x-request-id", Kind::JoinKey, "Envoy"),
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> HeaderName {
        text.parse().unwrap()
    }

    #[test]
    fn every_spelling_of_a_known_header_is_removed() {
        let strip = Strip::new().countries().certificates().fingerprints().join_keys();
        for (known, ..) in known() {
            for spelling in [known.to_owned(), known.replace('-', "_"), known.replace('-', ".")] {
                assert!(strip.removes(&name(&spelling)), "{spelling}");
            }
        }
    }

    #[test]
    fn names_in_the_table_are_folded_and_unique() {
        let mut seen = std::collections::HashSet::new();
        for (known, ..) in known() {
            assert_eq!(known, fold(known));
            assert!(seen.insert(known), "{known} twice");
        }
    }

    #[test]
    fn what_says_nothing_of_the_client_stays() {
        let strip = Strip::new();
        for kept in
            ["host", "cookie", "user-agent", "x-forwarded-proto", "x-forwarded-host", "cf-ipcountry", "traceparent"]
        {
            assert!(!strip.removes(&name(kept)), "{kept}");
        }
        assert!(Strip::new().countries().removes(&name("CF-IPCountry")));
        assert!(Strip::new().join_keys().removes(&name("traceparent")));
        assert!(strip.removes(&name("cf-ray")), "it names the site near the client");
    }

    #[test]
    fn more_headers_than_there_is_room_for_are_all_removed() {
        let mut headers = HeaderMap::new();
        for (known, ..) in known() {
            headers.append(name(known), HeaderValue::from_static("203.0.113.7"));
            headers.append(name(known), HeaderValue::from_static("203.0.113.8"));
        }
        headers.insert("host", HeaderValue::from_static("example.com"));
        Strip::new().countries().certificates().fingerprints().join_keys().strip(&mut headers);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn globs() {
        for (glob, fitting, other) in [
            ("x-client-geo-*", "X_Client_Geo_City", "x-client-geo"),
            ("*-city", "my-city", "city"),
            ("a*b*c", "a1b2c", "acb"),
            ("a*a", "aba", "a"),
            ("x-exact", "X.Exact", "x-exact-not"),
            ("x-dash-", "x_dash_", "x-dash"),
        ] {
            let strip = Strip::new().also(glob).unwrap();
            assert!(strip.removes(&name(fitting)), "{glob} {fitting}");
            assert!(!strip.removes(&name(other)), "{glob} {other}");
        }
        assert_eq!(Strip::new().also("*").unwrap_err(), StripError::Everything);
        assert_eq!(Strip::new().also("").unwrap_err(), StripError::NotAName);
        assert_eq!(Strip::new().also("x y").unwrap_err(), StripError::NotAName);
    }

    #[test]
    fn an_address_can_not_be_kept() {
        assert_eq!(Strip::new().keep(&name("X_Forwarded_For")).unwrap_err(), StripError::Address);
        assert!(!Strip::new().keep(&name("x-region")).unwrap().removes(&name("x-region")));
    }

    proptest! {
        #[test]
        fn only_known_names_are_removed(text in "[a-z0-9_.-]{1,30}") {
            let expected = TABLE.iter().any(|&(known, kind, _)| known == fold(&text) && kind.is_removed_by_default());
            prop_assert_eq!(Strip::new().removes(&name(&text)), expected);
        }
    }
}
