//! The threads that serve. Each has connections of its own, to both sides, and waits for no other.

use std::{
    io, iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ipveil::Peer;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    runtime,
    sync::{Barrier, mpsc},
    task::JoinSet,
};

use super::{
    access_log,
    connection::{self, Accepted},
    listen::Listening,
    metrics::{Counters, Ended},
    rarely::Rarely,
    room::Room,
    site::{self, Site},
    this_thread, watch,
};
use crate::wipe::{let_go, wipe_stack, wipe_stack_soon};

/// What a thread is told.
pub(crate) enum Message {
    /// Serve like that from here on, and listen there in place of where you listened, if that changes.
    Serve(Arc<Site>, Option<Vec<Listening>>),
    /// Take no more connections, and end when those that are there have ended, or at that time.
    Drain(Instant),
}

/// All threads that serve.
pub(crate) struct Workers {
    threads: Vec<Worker>,
    shared: Arc<Shared>,
}

struct Worker {
    messages: mpsc::UnboundedSender<Message>,
    counters: Arc<Counters>,
}

/// What threads have in common.
struct Shared {
    room: Arc<Room>,
    full: Rarely,
    reloads: AtomicU64,
    reload_errors: AtomicU64,
    // Where all threads meet when they listen no more.
    closed: Barrier,
}

impl Workers {
    /// Starts threads, which serve `site`; and gives what to wait for when they were told to end.
    pub(crate) fn start(count: usize, site: &Arc<Site>) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let shared = Arc::new(Shared {
            room: Arc::default(),
            full: Rarely::default(),
            reloads: AtomicU64::new(0),
            reload_errors: AtomicU64::new(0),
            closed: Barrier::new(count),
        });
        let (mut threads, mut handles) = (Vec::new(), Vec::new());
        for index in 0..count {
            let (messages, told) = mpsc::unbounded_channel();
            let counters = Arc::new(Counters::default());
            let work = Work {
                counters: Arc::clone(&counters),
                shared: Arc::clone(&shared),
                listening: JoinSet::new(),
                sockets: Vec::new(),
            };
            let runtime = runtime::Builder::new_current_thread().enable_all().on_thread_park(wipe_stack).build()?;
            let site = Arc::clone(site);
            let run = move || {
                this_thread::set_index(index);
                site::set_current(site);
                runtime.spawn(wipe_stack_soon());
                runtime.block_on(work.run(told));
                access_log::flush();
            };
            handles.push(thread::Builder::new().name(format!("proxy-{index}")).spawn(run)?);
            threads.push(Worker { messages, counters });
        }
        Ok((Self { threads, shared }, handles))
    }

    /// Tells every thread the same, or none anything.
    pub(crate) fn tell(&self, message: impl FnMut() -> io::Result<Message>) -> io::Result<()> {
        let messages: Vec<_> = iter::repeat_with(message).take(self.threads.len()).collect::<io::Result<_>>()?;
        for (worker, message) in self.threads.iter().zip(messages) {
            // One that has ended needs to know nothing.
            let _ = worker.messages.send(message);
        }
        Ok(())
    }

    pub(crate) fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.threads.iter().map(|worker| &*worker.counters)
    }

    /// How many connections there are.
    pub(crate) fn open(&self) -> usize {
        self.shared.room.open()
    }

    pub(crate) fn reloaded(&self, is_well: bool) {
        let count = if is_well { &self.shared.reloads } else { &self.shared.reload_errors };
        count.fetch_add(1, Relaxed);
    }

    pub(crate) fn reloads(&self) -> u64 {
        self.shared.reloads.load(Relaxed)
    }

    pub(crate) fn reload_errors(&self) -> u64 {
        self.shared.reload_errors.load(Relaxed)
    }
}

/// One thread's part.
struct Work {
    counters: Arc<Counters>,
    shared: Arc<Shared>,
    listening: JoinSet<()>,
    // The same ones again, for what is left there at the end.
    sockets: Vec<Listening>,
}

impl Work {
    async fn run(mut self, mut told: mpsc::UnboundedReceiver<Message>) {
        tokio::spawn(watch::sweep(Instant::now()));
        tokio::spawn(tidy());
        while let Some(message) = told.recv().await {
            match message {
                Message::Serve(site, sockets) => {
                    site::set_current(site);
                    if let Some(sockets) = sockets {
                        self.listen(sockets);
                    }
                }
                Message::Drain(end) => {
                    self.listening.shutdown().await;
                    self.take_the_last();
                    // Who is told to go comes again at once, and must not be let in by a thread that is about to close its door.
                    let _ = tokio::time::timeout_at(end.into(), self.shared.closed.wait()).await;
                    drain(end, told).await;
                    return;
                }
            }
        }
    }

    fn listen(&mut self, sockets: Vec<Listening>) {
        let before = std::mem::take(&mut self.listening);
        self.sockets = sockets.iter().filter_map(|socket| socket.share().ok()).collect();
        for (listener, socket) in sockets.into_iter().enumerate() {
            let accept = Accept { listener, counters: Arc::clone(&self.counters), shared: Arc::clone(&self.shared) };
            // Without a runtime there would be no thread to be here.
            let result = match socket {
                Listening::Tcp(socket) => TcpListener::from_std(socket).map(|socket| {
                    self.listening.spawn(async move { accept.tcp(socket).await });
                }),
                Listening::Unix(socket, _) => UnixListener::from_std(socket).map(|socket| {
                    self.listening.spawn(async move { accept.unix(socket).await });
                }),
            };
            if let Err(error) = result {
                tracing::error!(kind = ?error.kind(), "a thread can't listen");
            }
        }
        drop(before);
    }

    /// Serves those who have come already, and closes the door: whoever comes now is refused at once.
    fn take_the_last(&mut self) {
        for (listener, socket) in std::mem::take(&mut self.sockets).into_iter().enumerate() {
            let accept = Accept { listener, counters: Arc::clone(&self.counters), shared: Arc::clone(&self.shared) };
            while accept.has_room() && accept.one_more(&socket).is_ok() {}
        }
    }
}

/// Lets connections end by themselves, and ends those that don't.
async fn drain(mut end: Instant, mut told: mpsc::UnboundedReceiver<Message>) {
    let mut is_late = false;
    while watch::count() > 0 {
        while let Ok(Message::Drain(sooner)) = told.try_recv() {
            end = end.min(sooner);
        }
        // Again and again, since a connection may just have begun.
        watch::drain();
        if Instant::now() >= end {
            if is_late {
                return;
            }
            is_late = true;
            watch::close();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What has to be done now and then.
async fn tidy() {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        this_thread::tick();
        access_log::flush();
        let site = site::current();
        for server in site.upstreams().iter().flat_map(|upstream| upstream.servers()) {
            server.tidy(site.deadlines.upstream_keep_alive);
        }
        let_go();
    }
}

/// Takes connections from one socket.
struct Accept {
    listener: usize,
    counters: Arc<Counters>,
    shared: Arc<Shared>,
}

impl Accept {
    async fn tcp(self, socket: TcpListener) {
        loop {
            self.wait_for_room().await;
            // At once, so that the address is not in here until the next connection.
            let served = socket.accept().await.map(|(stream, address)| self.serve(stream, address.into()));
            if let Err(error) = served {
                self.failed(&error).await;
            }
        }
    }

    async fn unix(self, socket: UnixListener) {
        loop {
            self.wait_for_room().await;
            match socket.accept().await {
                Ok((stream, _)) => self.serve(stream, Peer::unix()),
                Err(error) => self.failed(&error).await,
            }
        }
    }

    fn serve(&self, stream: impl Accepted, peer: Peer) {
        let site = site::current();
        self.counters.accepted_one();
        let Some(place) = self.shared.room.enter(&site, self.listener, peer) else {
            return self.counters.ended(Ended::TooMany);
        };
        tokio::spawn(connection::serve(stream, peer, self.listener, site, Arc::clone(&self.counters), place));
    }

    /// Takes a connection that has come already, and does not wait for one.
    fn one_more(&self, socket: &Listening) -> io::Result<()> {
        match socket {
            Listening::Tcp(socket) => {
                let (stream, address) = socket.accept()?;
                stream.set_nonblocking(true)?;
                self.serve(TcpStream::from_std(stream)?, address.into());
            }
            Listening::Unix(socket, _) => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(true)?;
                self.serve(UnixStream::from_std(stream)?, Peer::unix());
            }
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.shared.room.open() < site::current().limits.connections
    }

    /// Connections that nobody has room for wait where they cost nothing.
    async fn wait_for_room(&self) {
        if !self.has_room() {
            self.counters.waited();
            if let Some(times) = self.shared.full.tell() {
                tracing::warn!(times, "there are as many connections as limits.connections allows: others wait");
            }
        }
        while !self.has_room() {
            watch::make_room();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn failed(&self, error: &io::Error) {
        self.counters.accept_failed();
        // A connection that has ended already says nothing about the next one; no room for descriptors does.
        if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            tracing::warn!(kind = ?error.kind(), "a connection can't be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
