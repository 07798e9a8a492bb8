//! The bulletin board: what is read from it and written to it, and how it can fail.

use std::{
    error::Error,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo as _, RedisError, RedisResult,
    ServerErrorKind, Value, cmd, from_redis_value,
};
use rustls::CertificateError;

use super::{FleetError, connection::Connection};

/// Where the store is. Redis 7 or later, or Valkey.
///
/// Addresses are URLs: `redis://host:6379/0`, with an ACL user `redis://user:password@host`, with TLS `rediss://host`
/// (roots are the system's, or those that `SSL_CERT_FILE` names), `unix:///path/to/socket`. A password in a URL on a command
/// line can be seen by everybody on that machine: read it from a file.
///
/// A user of its own needs no more than `~ipveil:{edge}:*` for the namespace `edge`, and
/// `+get +set +del +hset +hget +hgetall +hkeys +hdel +pexpire +time`. With `+config|get` a store that writes to a disk is
/// reported. It should not evict (`maxmemory-policy noeviction`), or nodes have to write again what it has forgotten. Each
/// node looks at it four times a second, and reads the members of the running epoch.
#[derive(Clone)]
pub struct StoreAddress(Kind);

#[derive(Clone)]
enum Kind {
    Single(ConnectionInfo),
    Sentinels { master: String, sentinels: Vec<ConnectionInfo> },
    Cluster(Vec<ConnectionInfo>),
}

impl StoreAddress {
    /// One server, or what looks like one.
    ///
    /// # Errors
    ///
    /// [`FleetError::Address`] if it is not such a URL. It is never quoted.
    pub fn single(url: &str) -> Result<Self, FleetError> {
        address(url).map(Kind::Single).map(Self)
    }

    /// The master of that name, as sentinels know it. Its user, password, database and TLS are those of the first URL.
    ///
    /// # Errors
    ///
    /// As [`single`](Self::single).
    pub fn sentinels<'a>(master: &str, urls: impl IntoIterator<Item = &'a str>) -> Result<Self, FleetError> {
        let sentinels: Vec<_> = urls.into_iter().map(address).collect::<Result<_, _>>()?;
        if sentinels.is_empty() || master.is_empty() {
            return Err(FleetError::Address);
        }
        Ok(Self(Kind::Sentinels { master: master.to_owned(), sentinels }))
    }

    /// A cluster, of which these nodes are known. All of a namespace is in one hash slot.
    ///
    /// # Errors
    ///
    /// As [`single`](Self::single).
    pub fn cluster<'a>(urls: impl IntoIterator<Item = &'a str>) -> Result<Self, FleetError> {
        let nodes: Vec<_> = urls.into_iter().map(address).collect::<Result<_, _>>()?;
        if nodes.is_empty() {
            return Err(FleetError::Address);
        }
        Ok(Self(Kind::Cluster(nodes)))
    }

    fn connect(&self, until: Instant) -> RedisResult<Connection> {
        let first = |all: &[ConnectionInfo], connect: &dyn Fn(&ConnectionInfo) -> RedisResult<Connection>| {
            let mut last = RedisError::from((ErrorKind::EmptySentinelList, "no server"));
            for one in all {
                match connect(one) {
                    Ok(connection) => return Ok(connection),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        match &self.0 {
            Kind::Single(server) => Connection::open(server, until),
            Kind::Sentinels { master, sentinels } => {
                let like = sentinels.first();
                first(sentinels, &|sentinel| {
                    let (host, port) = master_of(sentinel, master, until)?;
                    Connection::open(&elsewhere(like.unwrap_or(sentinel), host, port)?, until)
                })
            }
            Kind::Cluster(nodes) => first(nodes, &|node| Connection::open(node, until)),
        }
    }

    /// Where a node of a cluster says that the namespace is, which is all in one place.
    fn moved(&self, error: &RedisError) -> Option<ConnectionInfo> {
        let Kind::Cluster(nodes) = &self.0 else { return None };
        if error.kind() != ErrorKind::Server(ServerErrorKind::Moved) {
            return None;
        }
        let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
        elsewhere(nodes.first()?, host.to_owned(), port.parse().ok()?).ok()
    }
}

impl std::fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A URL may hold a password.
        f.debug_struct("StoreAddress").finish_non_exhaustive()
    }
}

fn address(url: &str) -> Result<ConnectionInfo, FleetError> {
    let information = url.into_connection_info().map_err(|_| FleetError::Address)?;
    if let ConnectionAddr::TcpTls { insecure, .. } = information.addr() {
        if *insecure {
            return Err(FleetError::Address);
        }
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(FleetError::NoTls);
        }
    }
    Ok(information)
}

fn master_of(sentinel: &ConnectionInfo, master: &str, until: Instant) -> RedisResult<(String, u16)> {
    let command = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).take();
    let answer = Connection::open(sentinel, until)?.ask(&[command], until)?.pop();
    let address: Option<(String, u16)> = answer.map(from_redis_value).transpose()?.flatten();
    address.ok_or_else(|| (ErrorKind::MasterNameNotFoundBySentinel, "no such master").into())
}

/// Another server that is reached in the same way.
fn elsewhere(like: &ConnectionInfo, host: String, port: u16) -> RedisResult<ConnectionInfo> {
    let address = match like.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    Ok(address.into_connection_info()?.set_redis_settings(like.redis_settings().clone()))
}

/// A connection that is made when it is needed, and given up when it fails.
pub(super) struct Store {
    address: StoreAddress,
    connection: Option<Connection>,
    // Nothing is waited for beyond that time.
    until: Instant,
    // After a failure: not again before.
    rest_until: Option<Instant>,
    last: Away,
    pub(super) persists: bool,
}

/// Why the store is of no use now. A text that holds nothing of what the store said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Away(pub(super) &'static str);

impl Store {
    pub(super) fn new(address: StoreAddress) -> Self {
        Self {
            address,
            connection: None,
            until: Instant::now(),
            rest_until: None,
            last: Away("not tried yet"),
            persists: false,
        }
    }

    /// From now on all questions together take no longer than [`PATIENCE`], whatever the store does.
    pub(super) fn begin(&mut self) {
        self.until = Instant::now() + PATIENCE;
    }

    /// Sends all commands at once, and gives the answers in their order.
    pub(super) fn ask(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Away> {
        if self.rest_until.is_some_and(|until| Instant::now() < until) {
            return Err(self.last);
        }
        let answers = self.try_ask(commands);
        answers.map_err(|error| {
            self.connection = None;
            self.rest_until = Some(Instant::now() + REST);
            self.last = Away(reason(&error));
            self.last
        })
    }

    fn try_ask(&mut self, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        let until = self.until;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let connection = self.address.connect(until)?;
                self.take(connection)?
            }
        };
        let answers = connection.ask(commands, until);
        match answers.as_ref().err().and_then(|error| self.address.moved(error)) {
            None => answers,
            Some(to) => self.take(Connection::open(&to, until)?)?.ask(commands, until),
        }
    }

    fn take(&mut self, mut connection: Connection) -> RedisResult<&mut Connection> {
        self.persists = persists(&mut connection, self.until)?;
        Ok(self.connection.insert(connection))
    }
}

/// Whether the store says that it writes to a disk. One that does not say is taken at its word.
fn persists(connection: &mut Connection, until: Instant) -> RedisResult<bool> {
    let mut setting = |name: &str| {
        let answers = connection.ask(&[cmd("CONFIG").arg("GET").arg(name).take()], until);
        match answers {
            Ok(answers) => {
                let pair: Option<Vec<String>> = answers.into_iter().next().and_then(|pair| from_redis_value(pair).ok());
                Ok(pair.and_then(|pair| pair.into_iter().nth(1)).unwrap_or_default())
            }
            Err(error) if is_answer(&error) => Ok(String::new()),
            Err(error) => Err(error),
        }
    };
    Ok(setting("appendonly")? == "yes" || !setting("save")?.is_empty())
}

/// Whether the store has answered, with an error.
pub(super) fn is_answer(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// An answer as what it has to be.
pub(super) fn value<T: FromRedisValue>(answer: Option<Value>) -> Result<T, Away> {
    answer.and_then(|answer| T::from_redis_value(answer).ok()).ok_or(Away(UNFIT))
}

fn reason(error: &RedisError) -> &'static str {
    if let Some(error) = in_tls(error) {
        return reason_in_tls(error);
    }
    if is_too_long(error) {
        return TOO_LONG;
    }
    match error.kind() {
        ErrorKind::InvalidClientConfig => {
            "this machine's roots of trust are missing or can't be read (SSL_CERT_FILE names others)"
        }
        _ if error.is_timeout() => "it does not answer in time",
        _ if error.is_connection_refusal() => "it takes no connections",
        ErrorKind::AuthenticationFailed => "it refuses the user or the password",
        ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::EmptySentinelList => "no sentinel knows the master",
        ErrorKind::ClusterConnectionNotFound => "no node of the cluster can be reached",
        ErrorKind::Server(ServerErrorKind::ReadOnly) => "it is a replica, which can't be written to",
        ErrorKind::Server(ServerErrorKind::NoPerm) => "the user may not do what is needed",
        ErrorKind::Server(ServerErrorKind::BusyLoading) => "it is still loading",
        ErrorKind::Server(_) | ErrorKind::Extension => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => "it refuses the user or the password",
            Some("WRONGTYPE") => OF_ANOTHER_TYPE,
            Some("OOM") => "it has no memory left",
            Some("MISCONF") => "it can't write to its disk, and refuses commands",
            _ => "it does not know a command (expected Redis 7 or later, or Valkey), or refuses it",
        },
        ErrorKind::Io => "the connection failed",
        _ => UNFIT,
    }
}

/// What rustls says, which is inside of what the system would say, if anything is.
fn in_tls(error: &RedisError) -> Option<&rustls::Error> {
    let inside: &Arc<dyn Error + Send + Sync> = error.source()?.downcast_ref()?;
    inside.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

/// Whether the answer was longer than this node takes.
fn is_too_long(error: &RedisError) -> bool {
    let inside = error.source().and_then(|inside| inside.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let inside = inside.and_then(|inside| inside.downcast_ref::<io::Error>());
    inside.is_some_and(|error| error.kind() == io::ErrorKind::FileTooLarge)
}

fn reason_in_tls(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            // The second, if one has the name of a root.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "nobody whom this machine trusts has signed its certificate"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet"
            }
            _ => "its certificate is of no use",
        },
        rustls::Error::AlertReceived(_) => "it ends the handshake of TLS (does it ask for a client's certificate?)",
        rustls::Error::InvalidMessage(_) => "it does not speak TLS",
        _ => "it speaks another TLS",
    }
}

/// Nobody of the fleet has put that there.
pub(super) const OF_ANOTHER_TYPE: &str = "something in it is of another type";
/// What is asked for is more than a fleet writes there.
pub(super) const TOO_LONG: &str = "something in it is longer than a node takes";
const UNFIT: &str = "it does not answer as a store should";
/// How long the store may take to answer all that is asked in one turn.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
/// How long a store that has failed is left alone.
const REST: Duration = Duration::from_millis(250);
