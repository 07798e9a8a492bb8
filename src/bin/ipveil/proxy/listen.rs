//! Sockets to listen on: opened here, or by the service manager.

use std::{
    env, fs, io,
    net::SocketAddr,
    os::{
        fd::AsFd,
        unix::{fs::FileTypeExt as _, net::UnixStream},
    },
    path::Path,
    sync::Mutex,
};

use anyhow::{Context as _, anyhow, bail};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::config::Address;

/// A socket that listens, as threads share it.
pub(crate) enum Listening {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listening {
    pub(crate) fn open(address: &Address) -> anyhow::Result<Self> {
        match address {
            Address::Tcp(address) => tcp(*address).map(Self::Tcp).with_context(|| address.to_string()),
            Address::Unix(path) => unix(path).map(Self::Unix).with_context(|| path.display().to_string()),
            Address::Systemd(name) => inherited(name).with_context(|| format!("systemd:{name}")),
        }
    }

    /// The same socket, for another thread.
    pub(crate) fn share(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }

    /// Where it listens now; nothing if that is no address.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // `[::]` is everybody, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    begin(&socket)?;
    Ok(socket.into())
}

/// What a socket passes on to all connections that it takes.
fn begin(socket: impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    socket.set_nonblocking(true)?;
    // What is written is complete, so there is nothing to wait for.
    socket.set_tcp_nodelay(true)
}

fn unix(path: &Path) -> anyhow::Result<std::os::unix::net::UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => bail!("is there, and is no socket"),
        Ok(_) if UnixStream::connect(path).is_ok() => bail!("somebody else listens there"),
        // Left behind by a process that is gone.
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The service manager's sockets, each for whoever asks first: `sd_listen_fds(3)`.
fn inherited(name: &str) -> anyhow::Result<Listening> {
    static SOCKETS: Mutex<Option<listenfd::ListenFd>> = Mutex::new(None);
    let mut sockets = SOCKETS.lock().map_err(|_| anyhow!("no sockets"))?;
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let sockets = sockets.get_or_insert_with(listenfd::ListenFd::from_env);
    let index = match name.parse() {
        Ok(index) => index,
        Err(_) => {
            names.split(':').position(|other| other == name).context("the service manager gave no such socket")?
        }
    };
    if let Ok(Some(socket)) = sockets.take_tcp_listener(index) {
        begin(&socket)?;
        return Ok(Listening::Tcp(socket));
    }
    let socket = sockets.take_unix_listener(index)?.context("the service manager gave no such socket")?;
    socket.set_nonblocking(true)?;
    Ok(Listening::Unix(socket))
}

const BACKLOG: i32 = 4096;
