//! Sockets to listen on: opened here, or by the service manager.

use std::{
    env,
    fs::{self, File, Permissions},
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context as _, anyhow, bail};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::config::Address;

/// A socket that listens, as threads share it.
pub(crate) enum Listening {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Option<SocketFile>),
}

impl Listening {
    /// If it is a file, it has that mode from the moment that it is there.
    pub(crate) fn open(address: &Address, mode: Option<u32>) -> anyhow::Result<Self> {
        match address {
            Address::Tcp(address) => tcp(*address).map(Self::Tcp).with_context(|| format!("port {}", address.port())),
            Address::Unix(path) => unix(path, mode).with_context(|| path.display().to_string()),
            Address::Systemd(name) => inherited(name).with_context(|| format!("systemd:{name}")),
        }
    }

    /// The same socket, for another thread. Its file stays with this one.
    pub(crate) fn share(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket, _) => Self::Unix(socket.try_clone()?, None),
        })
    }

    /// Has its file say who may connect.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        match self {
            Self::Unix(_, Some(file)) => fs::set_permissions(&file.path, Permissions::from_mode(mode)),
            _ => Ok(()),
        }
    }

    /// Where it listens now; nothing if that is no address.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }
}

/// The file of a socket that was made here. It is removed when this is dropped, unless it is somebody else's by then.
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    number: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let there = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: there.dev(), number: there.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |there: &fs::Metadata| there.dev() == self.device && there.ino() == self.number;
        if fs::symlink_metadata(&self.path).is_ok_and(|there| is_ours(&there)) {
            // It may be gone, or the folder not ours any more: whoever comes next takes care of it.
            let _ = fs::remove_file(&self.path);
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

fn unix(path: &Path, mode: Option<u32>) -> anyhow::Result<Listening> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => bail!("is there, and is no socket"),
        Ok(_) if UnixStream::connect(path).is_ok() => bail!("somebody else listens there"),
        // Left behind by a process that is gone.
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let mut socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if let Some(mode) = mode {
        // Linux gives the file the mode of its socket.
        let file = File::from(OwnedFd::from(socket));
        file.set_permissions(Permissions::from_mode(mode))?;
        socket = OwnedFd::from(file).into();
    }
    socket.bind(&SockAddr::unix(path)?)?;
    if let Some(mode) = mode {
        // Others may not, but nobody can connect before it listens.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    let file = SocketFile::of(path)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Listening::Unix(socket.into(), Some(file)))
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
    Ok(Listening::Unix(socket, None))
}

const BACKLOG: i32 = 4096;
