//! A real `redis-server` for a test, and a gate in front of it that can be shut.

#![allow(dead_code, reason = "each test uses what it needs of it")]

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    within(Duration::from_secs(30), what, &mut answer)
}

/// Asks until there is an answer, which has to come within `time`, or ten times that: machines that run tests are busy.
#[track_caller]
pub(crate) fn within<T>(time: Duration, what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(begun.elapsed() < time * 10, "not within ten times {time:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A server, and the directory in which it writes.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) directory: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// One that forgets everything when it stops.
    pub(crate) fn start() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "no"])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::start_at(free_port(), arguments)
    }

    /// One on a port that others have to know before it is there.
    pub(crate) fn start_at(port: u16, arguments: &[&str]) -> Self {
        install();
        let directory = tempfile::tempdir().unwrap();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut server = Self { port, directory, arguments, child: None };
        server.begin();
        server
    }

    /// One that watches a master; it writes to its settings.
    pub(crate) fn start_sentinel(settings: &Path) -> Self {
        install();
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let arguments = vec![settings.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
        let mut server = Self { port, directory, arguments, child: None };
        server.begin();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn begin(&mut self) {
        // A file with settings comes first.
        let (files, options): (Vec<_>, Vec<_>) =
            self.arguments.iter().partition(|argument| argument.ends_with(".conf"));
        let child = Command::new("redis-server")
            .args(files)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(self.directory.path())
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server was installed above");
        self.child = Some(child);
        let port = self.port;
        until("redis-server answers", || {
            let mut connection = TcpStream::connect(("127.0.0.1", port)).ok()?;
            connection.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
            connection.write_all(b"PING\r\n").ok()?;
            let mut answer = [0; 1];
            connection.read_exact(&mut answer).ok()
        });
    }

    /// As a crash would.
    pub(crate) fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The connection of somebody who controls the store.
    pub(crate) fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port that nobody has, and that no other test of this process gets.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Without a server there is nothing to test, and then the test fails: it is never skipped.
fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let is_there = || Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
        if is_there() {
            return;
        }
        eprintln!("redis-server is missing: installing it from the system's packages");
        let _ = Command::new("apt-get").args(["update", "-qq"]).status();
        let _ = Command::new("apt-get").args(["install", "-y", "-qq", "redis-server"]).status();
        assert!(
            is_there(),
            "redis-server is needed for this test and could not be installed (apt-get install redis-server)"
        );
    });
}

/// The record of a generation as somebody who has stolen the fleet's secret writes it, for the namespace `edge`.
pub(crate) fn stolen(secret: &str, epoch: u64, number: u64) -> Vec<u8> {
    let digits = &secret.trim()["ipveil-fleet-1-".len()..][..64];
    let bytes: Vec<u8> =
        (0..32).map(|place| u8::from_str_radix(&digits[2 * place..2 * place + 2], 16).unwrap()).collect();
    let id = blake3::derive_key("ipveil fleet secret v1 public id", &bytes);
    let mac = blake3::derive_key("ipveil fleet secret v1 records", &bytes);
    let record = [&[1], &id[..8], &number.to_be_bytes(), &[0; 8]].concat();
    let place = [&b"generat.\x04edge"[..], &epoch.to_be_bytes(), &[0; 8]].concat();
    let signature = blake3::keyed_hash(&mac, &[&place[..], &record].concat());
    [&record[..], signature.as_bytes()].concat()
}

/// What a node's connection goes through: it can be cut, and then nothing passes, old connections or new.
pub(crate) struct Gate {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct State {
    is_shut: AtomicBool,
    // Takes connections, and says nothing.
    is_silent: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    // Connections stay, and nothing gets through: what a pulled cable looks like.
    is_frozen: AtomicBool,
    // Questions get answers that never end: so much, so often.
    endless: Mutex<Option<(usize, Duration)>>,
    longest_answer: AtomicUsize,
}

impl State {
    fn pass_on(&self, from: &mut TcpStream, to: &mut TcpStream, is_question: bool) -> io::Result<()> {
        let mut bytes = [0; 16_384];
        loop {
            let read = from.read(&mut bytes)?;
            if self.endless().is_some() && read > 0 {
                if is_question {
                    self.answer_without_end(from)?;
                }
                continue;
            }
            while self.is_frozen.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
            if read == 0 {
                return Ok(());
            }
            to.write_all(&bytes[..read])?;
        }
    }
}

impl State {
    fn endless(&self) -> Option<(usize, Duration)> {
        *self.endless.lock().unwrap()
    }

    fn answer_without_end(&self, to: &mut TcpStream) -> io::Result<()> {
        to.write_all(b"$2000000000\r\n")?;
        let mut length = 0;
        while let Some((bytes, rest)) = self.endless() {
            to.write_all(&vec![b'x'; bytes])?;
            length += bytes;
            self.longest_answer.fetch_max(length, Ordering::SeqCst);
            thread::sleep(rest);
        }
        to.shutdown(Shutdown::Both)
    }
}

impl Gate {
    pub(crate) fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::new(State {
                is_shut: AtomicBool::new(false),
                is_silent: AtomicBool::new(false),
                open: Mutex::default(),
                is_frozen: AtomicBool::new(false),
                endless: Mutex::new(None),
                longest_answer: AtomicUsize::new(0),
            }),
        };
        let state = gate.state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if state.is_shut.load(Ordering::SeqCst) {
                    continue;
                }
                if state.is_silent.load(Ordering::SeqCst) {
                    state.open.lock().unwrap().push(client);
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to, is_question) in [(&client, &server, true), (&server, &client, false)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let state = state.clone();
                    thread::spawn(move || {
                        let _ = state.pass_on(&mut from, &mut to, is_question);
                        let _ = to.shutdown(Shutdown::Both);
                        let _ = from.shutdown(Shutdown::Both);
                    });
                }
                state.open.lock().unwrap().extend([client, server]);
            }
        });
        gate
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn shut(&self) {
        self.state.is_shut.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Connections are taken, and nothing comes back.
    pub(crate) fn silence(&self) {
        self.state.is_silent.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub(crate) fn freeze(&self) {
        self.state.is_frozen.store(true, Ordering::SeqCst);
    }

    /// From now on no answer ends: so many bytes, and again after `rest`.
    pub(crate) fn answer_without_end(&self, bytes: usize, rest: Duration) {
        *self.state.endless.lock().unwrap() = Some((bytes, rest));
    }

    /// How much of such an answer was taken.
    pub(crate) fn longest_answer(&self) -> usize {
        self.state.longest_answer.load(Ordering::SeqCst)
    }

    pub(crate) fn open(&self) {
        *self.state.endless.lock().unwrap() = None;
        self.state.is_frozen.store(false, Ordering::SeqCst);
        self.state.is_shut.store(false, Ordering::SeqCst);
        self.state.is_silent.store(false, Ordering::SeqCst);
        self.cut();
    }

    fn cut(&self) {
        for connection in self.state.open.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}
