//! A real `redis-server` for a test.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::Once,
    time::Duration,
};

use tempfile::TempDir;

use self::{port::free_port, until::until};

#[path = "../port.rs"]
pub(crate) mod port;

#[path = "../until.rs"]
pub(crate) mod until;

/// A server, and the directory in which it writes.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) directory: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// One that forgets everything when it stops.
    #[allow(dead_code, reason = "not all tests need one")]
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
    #[allow(dead_code, reason = "not all tests look into it")]
    pub(crate) fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
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
