//! The configuration: a TOML file as it is written, checked as a whole before anything uses it.
//!
//! What is wrong is said with file, line and key, and never by quoting the file: somebody may have pasted a secret.

mod check;
mod defaults;
mod source;
mod values;

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU8,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

pub(crate) use self::values::{Address, Header, Host, Mode, Server, ServerAt, Text};
use self::{check::Wrong, source::Source, values::CertifiedName};

/// What `ipveil init` writes: every key, with its default and why.
pub(crate) const TEMPLATE: &str = include_str!("template.toml");

/// The file as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) listener: Vec<Listener>,
    pub(crate) client: Client,
    pub(crate) privacy: Privacy,
    pub(crate) view: BTreeMap<String, View>,
    pub(crate) keys: Keys,
    pub(crate) upstream: BTreeMap<String, Upstream>,
    pub(crate) route: Vec<Route>,
    pub(crate) access_log: AccessLog,
    pub(crate) log: Log,
    pub(crate) admin: Admin,
    pub(crate) geo: Option<Geo>,
    pub(crate) deny: Lists,
    pub(crate) allow: Lists,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) bans: Bans,
    pub(crate) limits: Limits,
    pub(crate) deadlines: Deadlines,
    /// Threads that serve; as many as there are cores, if 0.
    pub(crate) threads: usize,
    pub(crate) memory: Memory,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    pub(crate) address: Text<Address>,
    #[serde(default)]
    pub(crate) mode: Option<Text<Mode>>,
    #[serde(default)]
    pub(crate) proxy_protocol: ProxyProtocol,
    #[serde(default)]
    pub(crate) tls: Option<Tls>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProxyProtocol {
    /// What looks like a header is a malformed request.
    #[default]
    Forbidden,
    /// Every peer has to be trusted and to send one.
    Required,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    pub(crate) certificates: Vec<Certificate>,
    #[serde(default)]
    pub(crate) client_ca: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Client {
    /// The header that the nearest trusted proxy writes; the peer itself, if there is none.
    pub(crate) source: Option<Text<Header>>,
    pub(crate) trusted: Vec<String>,
    pub(crate) hops: Option<NonZeroU8>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Privacy {
    pub(crate) scope: ScopeKind,
    pub(crate) cookies: Vec<String>,
    pub(crate) authorization: bool,
    pub(crate) hosts: Vec<String>,
    pub(crate) anonymous_per_host: bool,
    pub(crate) strip: Vec<String>,
    pub(crate) keep: Vec<Text<Header>>,
    pub(crate) strip_countries: bool,
    pub(crate) strip_certificates: bool,
    pub(crate) strip_fingerprints: bool,
    pub(crate) strip_join_keys: bool,
    pub(crate) range: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ScopeKind {
    Session,
    Host,
    Unscoped,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct View {
    pub(crate) shape: ViewShape,
    #[serde(default)]
    pub(crate) header: Option<Text<Header>>,
    #[serde(default)]
    pub(crate) scope: Option<ScopeKind>,
    #[serde(default, with = "values::optional_duration")]
    pub(crate) window: Option<Duration>,
    /// Bits of IPv4 and of IPv6 that a network keeps.
    #[serde(default)]
    pub(crate) keep: Option<(u8, u8)>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ViewShape {
    Address,
    Ipv4,
    Token,
    Network,
    Country,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Keys {
    #[serde(with = "values::duration")]
    pub(crate) period: Duration,
    pub(crate) when_unavailable: WhenUnavailable,
    /// In memory only, if neither this nor `redis` is there.
    pub(crate) file: Option<PathBuf>,
    /// Takes a file on a disk, which remembers what was overwritten.
    pub(crate) file_may_be_on_a_disk: bool,
    pub(crate) redis: Option<Fleet>,
    pub(crate) journal: Option<PathBuf>,
}

/// The store by which nodes agree on keys.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fleet {
    /// One server; or all that are known of the sentinels, or of the cluster.
    pub(crate) urls: Vec<String>,
    /// The master's name, for sentinels.
    #[serde(default)]
    pub(crate) master: Option<String>,
    #[serde(default)]
    pub(crate) cluster: bool,
    /// The file with the fleet's secret.
    pub(crate) secret: PathBuf,
    #[serde(default)]
    pub(crate) namespace: Option<String>,
    #[serde(default)]
    pub(crate) node: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WhenUnavailable {
    Degrade,
    Withhold,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upstream {
    pub(crate) servers: Vec<Text<Server>>,
    /// Roots to check the servers' certificates with; the system's, if there is none.
    #[serde(default)]
    pub(crate) ca: Option<PathBuf>,
    /// For whom their certificates have to be, and who is asked for; what their URLs say, if there is none.
    #[serde(default)]
    pub(crate) server_name: Option<Text<CertifiedName>>,
    #[serde(default)]
    pub(crate) health: Option<Health>,
    /// Sends a PROXY header of this version with the pseudonym of the view `app`.
    #[serde(default)]
    pub(crate) proxy_protocol: Option<NonZeroU8>,
    /// Keeps the client's `Host`.
    #[serde(default = "defaults::yes")]
    pub(crate) preserve_host: bool,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    pub(crate) path: String,
    #[serde(default = "defaults::five_seconds", with = "values::duration")]
    pub(crate) every: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    #[serde(default)]
    pub(crate) host: Option<Text<Host>>,
    #[serde(default = "defaults::slash")]
    pub(crate) path: String,
    pub(crate) upstream: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AccessLog {
    pub(crate) format: LogFormat,
    /// `stdout`, `off`, or a file's path.
    pub(crate) to: PathBuf,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Combined,
    Json,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// As in `RUST_LOG`.
    pub(crate) level: String,
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Admin {
    pub(crate) listen: Vec<Text<Address>>,
}

/// Where countries are looked up.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Geo {
    pub(crate) database: PathBuf,
}

/// What is done so that nothing of a request is left in memory.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Memory {
    /// Overwrites memory before it is given back, and the stacks of threads that wait.
    pub(crate) wipe: bool,
}

/// CIDRs, here and in files of one for each line.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Lists {
    pub(crate) networks: Vec<String>,
    pub(crate) files: Vec<PathBuf>,
}

impl Lists {
    pub(crate) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.files.is_empty()
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateLimit {
    /// Requests in a second, on average.
    pub(crate) rate: std::num::NonZeroU32,
    pub(crate) burst: std::num::NonZeroU32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Bans {
    pub(crate) enabled: bool,
    /// How many tokens of the log can be banned: the ones seen last.
    pub(crate) tokens: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) connections_per_client: u32,
    pub(crate) streams: u32,
    pub(crate) headers: usize,
    pub(crate) header_bytes: usize,
    pub(crate) body_bytes: u64,
    pub(crate) idle_upstream_connections: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Deadlines {
    #[serde(with = "values::duration")]
    pub(crate) proxy_header: Duration,
    #[serde(with = "values::duration")]
    pub(crate) tls_handshake: Duration,
    #[serde(with = "values::duration")]
    pub(crate) first_bytes: Duration,
    #[serde(with = "values::duration")]
    pub(crate) request_head: Duration,
    #[serde(with = "values::duration")]
    pub(crate) keep_alive: Duration,
    #[serde(with = "values::duration")]
    pub(crate) client_idle: Duration,
    #[serde(with = "values::duration")]
    pub(crate) connect: Duration,
    #[serde(with = "values::duration")]
    pub(crate) first_byte: Duration,
    #[serde(with = "values::duration")]
    pub(crate) upstream_idle: Duration,
    #[serde(with = "values::duration")]
    pub(crate) upstream_keep_alive: Duration,
    #[serde(with = "values::duration")]
    pub(crate) upstream_lifetime: Duration,
    #[serde(with = "values::duration")]
    pub(crate) upgraded_idle: Duration,
    #[serde(with = "values::duration")]
    pub(crate) drain: Duration,
}

impl Config {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut config = Self::parse(path, &text)?;
        // A file's paths are seen from where it is.
        let home = path.parent().unwrap_or(Path::new(""));
        config.paths(|path| *path = home.join(&*path));
        config.made_paths(|path| *path = home.join(&*path));
        let Keys { file, journal, .. } = &mut config.keys;
        for path in [file.as_mut(), journal.as_mut()].into_iter().flatten() {
            *path = home.join(&*path);
        }
        Ok(config)
    }

    /// Checks a text that was in a file.
    pub(crate) fn parse(path: &Path, text: &str) -> anyhow::Result<Self> {
        let source = Source::new(path, text);
        let mut config: Self = toml::from_str(text).map_err(|error| source.error(&error))?;
        config.check().map_err(|wrong| source.wrong(&wrong))?;
        Ok(config)
    }

    /// What an error of its use says, with the place in the file.
    pub(crate) fn place(path: Option<&Path>, error: anyhow::Error) -> anyhow::Error {
        let (Some(path), Some(key)) = (path, error.downcast_ref::<Key>()) else { return error };
        // If the file is gone, there are no lines.
        let text = fs::read_to_string(path).unwrap_or_default();
        Source::new(path, &text).late(key, &error)
    }

    /// One listener in front of one upstream, and defaults.
    pub(crate) fn simple(listen: Vec<Text<Address>>, server: Text<Server>) -> anyhow::Result<Self> {
        let upstream = Upstream {
            servers: vec![server],
            ca: None,
            server_name: None,
            health: None,
            proxy_protocol: None,
            preserve_host: true,
        };
        let mut config = Self {
            listener: listen
                .into_iter()
                .map(|address| Listener { address, mode: None, proxy_protocol: ProxyProtocol::Forbidden, tls: None })
                .collect(),
            upstream: BTreeMap::from([("app".to_owned(), upstream)]),
            ..Self::default()
        };
        if let Err(Wrong { key, what }) = config.check() {
            bail!("{}: {what}", key.join("."));
        }
        Ok(config)
    }

    /// All files that it names, so that a change of one is seen.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut copy = self.clone();
        copy.paths(|path| files.push(path.clone()));
        files
    }

    /// What is in use after a reload with `new`, and the keys of what stays as it is: that changes with a restart only.
    pub(crate) fn changed_to(&self, mut new: Self) -> (Self, Vec<&'static str>) {
        let mut stays = Vec::new();
        let mut keys = self.keys.clone();
        // The secret is read again with each configuration, from wherever that says. But another fleet's is not this one's.
        if let (Some(now), Some(new)) = (&mut keys.redis, &new.keys.redis)
            && (Fleet { secret: new.secret.clone(), ..now.clone() }) == *new
        {
            now.secret.clone_from(&new.secret);
        }
        stay("keys", &keys, &mut new.keys, &mut stays);
        stay("threads", &self.threads, &mut new.threads, &mut stays);
        stay("admin", &self.admin, &mut new.admin, &mut stays);
        stay("memory", &self.memory, &mut new.memory, &mut stays);
        stay("log", &self.log, &mut new.log, &mut stays);
        stay("bans.tokens", &self.bans.tokens, &mut new.bans.tokens, &mut stays);
        (new, stays)
    }

    fn paths(&mut self, mut each: impl FnMut(&mut PathBuf)) {
        for tls in self.listener.iter_mut().filter_map(|listener| listener.tls.as_mut()) {
            for certificate in &mut tls.certificates {
                each(&mut certificate.chain);
                each(&mut certificate.key);
            }
            tls.client_ca.as_mut().map(&mut each);
        }
        for upstream in self.upstream.values_mut() {
            upstream.ca.as_mut().map(&mut each);
        }
        self.geo.iter_mut().for_each(|geo| each(&mut geo.database));
        self.deny.files.iter_mut().for_each(&mut each);
        self.allow.files.iter_mut().for_each(&mut each);
        self.keys.redis.iter_mut().for_each(|fleet| each(&mut fleet.secret));
    }

    /// What is made when it runs, or made by others.
    fn made_paths(&mut self, mut each: impl FnMut(&mut PathBuf)) {
        let listeners = self.listener.iter_mut().map(|listener| &mut listener.address);
        for Text(address) in listeners.chain(&mut self.admin.listen) {
            if let Address::Unix(path) = address {
                each(path);
            }
        }
        for Text(server) in self.upstream.values_mut().flat_map(|upstream| &mut upstream.servers) {
            if let ServerAt::Unix(path) = &mut server.at {
                each(path);
            }
        }
        if self.access_log.is_on() && self.access_log.to.as_os_str() != "stdout" {
            each(&mut self.access_log.to);
        }
    }
}

/// Has `new` say what is in use `now`, and writes down its key if it said something else.
fn stay<T: Clone + PartialEq>(key: &'static str, now: &T, new: &mut T, stays: &mut Vec<&'static str>) {
    if now != new {
        new.clone_from(now);
        stays.push(key);
    }
}

impl AccessLog {
    pub(crate) fn is_on(&self) -> bool {
        self.to.as_os_str() != "off"
    }
}

/// Where an error is in the file, as its outermost context: the keys from the top of the file down.
#[derive(Debug)]
pub(crate) struct Key(pub(crate) Vec<String>);

impl Key {
    pub(crate) fn new<const PARTS: usize>(parts: [&str; PARTS]) -> Self {
        Self(parts.map(str::to_owned).to_vec())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("."))
    }
}
