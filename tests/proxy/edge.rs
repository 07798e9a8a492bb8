//! A proxy, started with a configuration, and gone at the end.

use std::{
    fs,
    io::Read,
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) use crate::store::port::free_port;
use crate::{client::Client, program::ipveil, store::until::within};

/// Nothing takes longer, even on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Long enough to be seen.
pub(crate) const HALF: Duration = Duration::from_millis(500);

/// A proxy that runs until this is dropped.
pub(crate) struct Edge {
    child: Child,
    folder: TempDir,
    pub(crate) port: u16,
    stdout: Heard,
    stderr: Heard,
}

/// What a process has said so far.
#[derive(Clone, Default)]
struct Heard {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// What to start.
#[derive(Default)]
pub(crate) struct Setup {
    config: String,
    files: Vec<(String, Vec<u8>)>,
    secret_files: Vec<(String, String)>,
    variables: Vec<(String, String)>,
}

/// A configuration: one thread and one listener in front of one server, whose table is still open.
pub(crate) fn before(server: SocketAddr) -> String {
    format!(
        "threads = 1\n[[listener]]\naddress = \"127.0.0.1:$PORT\"\n[upstream.app]\nservers = [\"http://{server}\"]\n"
    )
}

/// Starts with that configuration, in which `$PORT` is a free one and `$FOLDER` is where files are.
#[track_caller]
pub(crate) fn start(config: &str) -> Edge {
    Setup::new(config).start()
}

impl Setup {
    pub(crate) fn new(config: &str) -> Self {
        Self { config: config.to_owned(), ..Self::default() }
    }

    pub(crate) fn file(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), bytes.into()));
        self
    }

    /// One that nobody else may read.
    pub(crate) fn secret_file(mut self, name: &str, text: &str) -> Self {
        self.secret_files.push((name.to_owned(), text.to_owned()));
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    #[track_caller]
    pub(crate) fn start(self) -> Edge {
        for _ in 0..10 {
            // Somebody else may take the port before the program does.
            if let Some(edge) = self.try_start() {
                return edge;
            }
        }
        panic!("there is no port to listen on");
    }

    #[track_caller]
    fn try_start(&self) -> Option<Edge> {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in &self.files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        for (name, text) in &self.secret_files {
            write_secret(&folder.path().join(name), text);
        }
        let port = free_port();
        let config = filled_in(&self.config, port, &folder);
        fs::write(folder.path().join("ipveil.toml"), config).unwrap();
        let mut command = ipveil();
        command.arg("proxy").arg("--config").arg(folder.path().join("ipveil.toml")).env_remove("RUST_LOG");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let edge = Edge::spawn(command, folder, port);
        edge.is_listening().then_some(edge)
    }
}

fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn filled_in(config: &str, port: u16, folder: &TempDir) -> String {
    config.replace("$PORT", &port.to_string()).replace("$FOLDER", folder.path().to_str().unwrap())
}

impl Edge {
    pub(crate) fn spawn(mut command: Command, folder: TempDir, port: u16) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = Heard::listen(child.stdout.take().unwrap());
        let stderr = Heard::listen(child.stderr.take().unwrap());
        Self { child, folder, port, stdout, stderr }
    }

    /// Waits until it does; false if the port is somebody else's.
    #[track_caller]
    fn is_listening(&self) -> bool {
        until(|| match self.log() {
            log if log.contains("Address already in use") => Some(false),
            log if log.contains("error:") => panic!("{log}"),
            log => log.contains("listening").then_some(true),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file as a whole.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let new = self.path("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    /// Replaces a file that nobody else may read.
    pub(crate) fn write_secret(&self, name: &str, text: &str) {
        let new = self.path("new");
        write_secret(&new, text);
        fs::rename(new, self.path(name)).unwrap();
    }

    /// Replaces the configuration.
    pub(crate) fn configure(&self, config: &str) {
        self.write("ipveil.toml", filled_in(config, self.port, &self.folder));
    }

    /// Asks its socket `admin` for something.
    pub(crate) fn command(&self, method: &str, target: &str) -> Client<UnixStream> {
        let mut client = Client::new(UnixStream::connect(self.path("admin")).unwrap());
        client.send(format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
        client
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Puts the configuration in place as it is now, well or not.
    #[track_caller]
    pub(crate) fn reload(&self) {
        let count = || self.log().matches("the configuration ").count();
        let before = count();
        self.signal(Signal::HUP);
        until(|| (count() > before).then_some(()));
    }

    /// Its own log so far.
    pub(crate) fn log(&self) -> String {
        self.stderr.text()
    }

    /// Its access log so far, if that is standard output.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.stdout.text().lines().map(str::to_owned).collect()
    }

    /// Waits until the access log has so many lines.
    #[track_caller]
    pub(crate) fn lines_when(&self, count: usize) -> Vec<String> {
        until(|| Some(self.lines()).filter(|lines| lines.len() >= count))
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = until(|| child.try_wait().unwrap());
        self.stdout.end();
        self.stderr.end();
        status
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let start = log.char_indices().rev().nth(3000).map_or(0, |(start, _)| start);
            #[expect(clippy::print_stderr, reason = "says why a test fails")]
            {
                eprintln!("the proxy's log: {}", &log[start..]);
            }
        }
    }
}

impl Heard {
    fn listen(mut from: impl Read + Send + 'static) -> Self {
        let heard = Self::default();
        let bytes = Arc::clone(&heard.bytes);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                bytes.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        *heard.reader.lock().unwrap() = Some(reader);
        heard
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// Waits until nothing more can be said.
    fn end(&self) {
        if let Some(reader) = self.reader.lock().unwrap().take() {
            reader.join().unwrap();
        }
    }
}

/// Asks again and again, since what is waited for happens in another process.
#[track_caller]
pub(crate) fn until<T>(ask: impl FnMut() -> Option<T>) -> T {
    within(SOON / 10, "what is waited for", ask)
}
