//! A connection to the store that ends on time, and takes only so much, whatever the store answers.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::{Duration, Instant},
};
#[cfg(unix)]
use std::{os::unix::net::UnixStream, path::Path};

use redis::{Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Parser, RedisError, RedisResult, Value, cmd};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};

use super::store::is_answer;

/// To one server.
///
/// The client of the crate `redis` has a time limit for each read of its socket, and none for an answer: it listens for ever
/// to a store that sends a byte now and then. So only that crate's commands and its parser are used.
pub(super) struct Connection {
    stream: Box<dyn Stream + Send>,
    parser: Parser,
}

impl Connection {
    /// With TLS, user and database, before `until`; but the system takes its time to find the address.
    pub(super) fn open(to: &ConnectionInfo, until: Instant) -> RedisResult<Self> {
        let stream: Box<dyn Stream + Send> = match to.addr() {
            ConnectionAddr::Tcp(host, port) => Box::new(Bounded::new(tcp(host, *port, until)?)),
            ConnectionAddr::TcpTls { host, port, .. } => {
                let name = ServerName::try_from(host.clone())?;
                let tls = ClientConnection::new(Arc::new(settings()?), name)?;
                Box::new(StreamOwned::new(tls, Bounded::new(tcp(host, *port, until)?)))
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => Box::new(Bounded::new(unix(path, until)?)),
            _ => return Err((ErrorKind::Client, "not an address on this system").into()),
        };
        let mut connection = Self { stream, parser: Parser::new() };
        let redis = to.redis_settings();
        if let Some(password) = redis.password() {
            let command = cmd("AUTH").arg(redis.username()).arg(password).take();
            let refused = || RedisError::from((ErrorKind::AuthenticationFailed, "it refuses them"));
            let answer = connection.ask(&[command], until);
            answer.map_err(|error| if is_answer(&error) { refused() } else { error })?;
        }
        if redis.db() != 0 {
            connection.ask(&[cmd("SELECT").arg(redis.db()).take()], until)?;
        }
        Ok(connection)
    }

    /// Sends all commands at once, and gives the answers in their order. After an error that the server has not given as an
    /// answer, the connection is of no more use.
    pub(super) fn ask(&mut self, commands: &[Cmd], until: Instant) -> RedisResult<Vec<Value>> {
        let bounds = self.stream.bounds();
        (bounds.until, bounds.left) = (until, LONGEST_ANSWER);
        let mut question = Vec::new();
        commands.iter().for_each(|command| command.write_packed_command(&mut question));
        self.stream.write_all(&question)?;
        self.stream.flush()?;
        let answers: Vec<Value> =
            commands.iter().map(|_| self.parser.parse_value(&mut *self.stream)).collect::<Result<_, _>>()?;
        answers.into_iter().map(Value::extract_error).collect()
    }
}

fn tcp(host: &str, port: u16, until: Instant) -> io::Result<Socket> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, step(until)?) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(Socket::Tcp(socket));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One that takes no connections is waited for no longer than one that says nothing.
#[cfg(unix)]
fn unix(path: &Path, until: Instant) -> io::Result<Socket> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    // On Linux it holds for `connect`, too. Other systems refuse at once.
    socket.set_write_timeout(Some(step(until)?))?;
    socket.connect(&socket2::SockAddr::unix(path)?)?;
    Ok(Socket::Unix(socket.into()))
}

/// The system's roots, or those that `SSL_CERT_FILE` names.
fn settings() -> RedisResult<ClientConfig> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let is_whole = found.errors.is_empty() && found.certs.into_iter().all(|root| roots.add(root).is_ok());
    if !is_whole || roots.is_empty() {
        return Err((ErrorKind::InvalidClientConfig, "no roots").into());
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

trait Stream: Read + Write {
    fn bounds(&mut self) -> &mut Bounded;
}

impl Stream for Bounded {
    fn bounds(&mut self) -> &mut Bounded {
        self
    }
}

impl Stream for StreamOwned<ClientConnection, Bounded> {
    fn bounds(&mut self) -> &mut Bounded {
        &mut self.sock
    }
}

/// A socket that nobody waits for beyond a time, and that gives no more than so many bytes.
struct Bounded {
    socket: Socket,
    until: Instant,
    left: usize,
}

impl Bounded {
    fn new(socket: Socket) -> Self {
        Self { socket, until: Instant::now(), left: 0 }
    }
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = into.len().min(self.left);
        if room == 0 && !into.is_empty() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let step = Some(step(self.until)?);
        let into = &mut into[..room];
        let read = match &mut self.socket {
            Socket::Tcp(socket) => socket.set_read_timeout(step).and_then(|()| socket.read(into)),
            #[cfg(unix)]
            Socket::Unix(socket) => socket.set_read_timeout(step).and_then(|()| socket.read(into)),
        }?;
        self.left -= read;
        Ok(read)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let step = Some(step(self.until)?);
        match &mut self.socket {
            Socket::Tcp(socket) => socket.set_write_timeout(step).and_then(|()| socket.write(bytes)),
            #[cfg(unix)]
            Socket::Unix(socket) => socket.set_write_timeout(step).and_then(|()| socket.write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// How long the next step may take.
fn step(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.min(LONGEST_STEP)) }
}

/// How long one step may take: so that of several servers one that says nothing leaves time for the others.
const LONGEST_STEP: Duration = Duration::from_secs(1);
/// What more than 20,000 nodes write in one epoch.
const LONGEST_ANSWER: usize = 4 << 20;
