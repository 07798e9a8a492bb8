//! A gate in front of a store, which can be shut.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

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
