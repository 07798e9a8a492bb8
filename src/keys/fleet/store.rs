//! The bulletin board: what is read from it and written to it, and how it can fail.

use std::time::{Duration, Instant};

use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, ConnectionLike, ErrorKind, IntoConnectionInfo as _, RedisError,
    RedisResult, ServerErrorKind, Value,
    cluster::{ClusterClient, ClusterClientBuilder},
    cmd, pipe,
};

use super::FleetError;

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
    Single(Client),
    Sentinels { master: String, sentinels: Vec<Client> },
    Cluster(ClusterClient),
}

impl StoreAddress {
    /// One server, or what looks like one.
    ///
    /// # Errors
    ///
    /// [`FleetError::Address`] if it is not such a URL. It is never quoted.
    pub fn single(url: &str) -> Result<Self, FleetError> {
        client(url).map(Kind::Single).map(Self)
    }

    /// The master of that name, as sentinels know it. Its user, password, database and TLS are those of the first URL.
    ///
    /// # Errors
    ///
    /// As [`single`](Self::single).
    pub fn sentinels<'a>(master: &str, urls: impl IntoIterator<Item = &'a str>) -> Result<Self, FleetError> {
        let sentinels: Vec<_> = urls.into_iter().map(client).collect::<Result<_, _>>()?;
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
        let nodes: Vec<_> = urls
            .into_iter()
            .map(|url| client(url).map(|client| client.get_connection_info().clone()))
            .collect::<Result<_, _>>()?;
        ClusterClientBuilder::new(nodes)
            .connection_timeout(TIMEOUT)
            .response_timeout(TIMEOUT)
            .retries(1)
            .build()
            .map(|client| Self(Kind::Cluster(client)))
            .map_err(|_| FleetError::Address)
    }

    fn connect(&self) -> RedisResult<Box<dyn ConnectionLike + Send>> {
        match &self.0 {
            Kind::Single(client) => connect(client),
            Kind::Sentinels { master, sentinels } => {
                let mut last = RedisError::from((ErrorKind::EmptySentinelList, "no sentinel"));
                for sentinel in sentinels {
                    match master_of(sentinel, master, sentinels).and_then(|master| connect(&master)) {
                        Ok(connection) => return Ok(connection),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Kind::Cluster(client) => Ok(Box::new(client.get_connection()?)),
        }
    }
}

impl std::fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A URL may hold a password.
        f.debug_struct("StoreAddress").finish_non_exhaustive()
    }
}

fn client(url: &str) -> Result<Client, FleetError> {
    let information = url.into_connection_info().map_err(|_| FleetError::Address)?;
    let is_secure = matches!(information.addr(), ConnectionAddr::TcpTls { .. });
    if is_secure && rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err(FleetError::NoTls);
    }
    Client::open(information).map_err(|_| FleetError::Address)
}

fn connect(client: &Client) -> RedisResult<Box<dyn ConnectionLike + Send>> {
    let connection = client.get_connection_with_timeout(TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_write_timeout(Some(TIMEOUT))?;
    Ok(Box::new(connection))
}

fn master_of(sentinel: &Client, master: &str, sentinels: &[Client]) -> RedisResult<Client> {
    let unknown = || RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "no such master"));
    let mut connection = connect(sentinel)?;
    let address: Option<(String, u16)> =
        cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).query(&mut *connection)?;
    let (host, port) = address.ok_or_else(unknown)?;
    let like = sentinels.first().ok_or_else(unknown)?.get_connection_info();
    let address = match like.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    let information: ConnectionInfo = address.into_connection_info()?;
    Client::open(information.set_redis_settings(like.redis_settings().clone()))
}

/// A connection that is made when it is needed, and given up when it fails.
pub(super) struct Store {
    address: StoreAddress,
    connection: Option<Box<dyn ConnectionLike + Send>>,
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
        Self { address, connection: None, rest_until: None, last: Away("not tried yet"), persists: false }
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
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let mut connection = self.address.connect()?;
                self.persists = persists(&mut *connection);
                self.connection.insert(connection)
            }
        };
        if matches!(self.address.0, Kind::Cluster(_)) {
            // Which has no pipelines for commands without a key, as TIME is.
            return commands.iter().map(|command| command.query(&mut **connection)).collect();
        }
        let mut pipeline = pipe();
        for command in commands {
            pipeline.add_command(command.clone());
        }
        pipeline.query(&mut **connection)
    }
}

/// Whether the store says that it writes to a disk. One that does not say is taken at its word.
fn persists(connection: &mut dyn ConnectionLike) -> bool {
    let setting = |connection: &mut dyn ConnectionLike, name: &str| -> Option<String> {
        let pair: Vec<String> = cmd("CONFIG").arg("GET").arg(name).query(connection).ok()?;
        pair.into_iter().nth(1)
    };
    setting(connection, "appendonly").is_some_and(|value| value == "yes")
        || setting(connection, "save").is_some_and(|value| !value.is_empty())
}

fn reason(error: &RedisError) -> &'static str {
    match error.kind() {
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
            Some("OOM") => "it has no memory left",
            Some("MISCONF") => "it can't write to its disk, and refuses commands",
            _ => "it does not know a command (expected Redis 7 or later, or Valkey), or refuses it",
        },
        ErrorKind::Io => "the connection failed",
        _ => "it does not answer as a store should",
    }
}

/// How long one step may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
/// How long a store that has failed is left alone.
const REST: Duration = Duration::from_millis(250);
