//! A fleet of processes, each on a network of its own, whose cables are pulled and which are killed, while they have work.
//!
//! All of it is in a network namespace that ends with the test: nothing of the machine's own network is touched.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "processes tell each other what they have done")]

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, TcpStream},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ipveil::{
    ClientAddr, KeyRing, Policy,
    keys::{
        Clock as _, Epochs, KeyEvent, ManualClock,
        fleet::{FleetSecret, RedisSource, StoreAddress},
    },
    policy::{Scope, View},
};

use self::{
    process::{Process, say},
    store::{Server, port::free_port, until::until},
};

mod process;
mod store;

const TEST: &str = "processes_on_networks_of_their_own_agree_through_cuts_and_kills";
const PART: &str = "IPVEIL_TEST_PART";
const DAY: Duration = Duration::from_secs(86_400);
/// How soon nodes that can reach the store are to agree. How often it was later is for whoever measures: a test does not know
/// what else the machine does.
const SOON: Duration = Duration::from_secs(2);
const NODES: usize = 8;
const FIRST_DAY: u64 = 20_000;

#[test]
fn processes_on_networks_of_their_own_agree_through_cuts_and_kills() {
    match std::env::var(PART).as_deref() {
        Err(_) => enter_arena(),
        Ok("arena") => arena(),
        Ok(_) => node(),
    }
}

/// Becomes the root of a network that nobody else has.
fn enter_arena() {
    let mut arena = Command::new("unshare");
    arena.args(["--user", "--map-root-user", "--net", "--"]);
    let status = arena
        .arg(std::env::current_exe().unwrap())
        .args([TEST, "--exact", "--nocapture"])
        .env(PART, "arena")
        .status()
        .expect("unshare(1) is part of util-linux");
    assert!(status.success(), "see above (a system that allows no user namespaces can't run this test)");
}

#[track_caller]
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip(8) is installed (iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Node {
    process: Process,
    cable: String,
    is_cut: bool,
}

impl Node {
    /// `place` is its address on the network, `serial` tells its cable from those before.
    fn start(place: usize, serial: usize, url: &str, secret: &str, day: u64) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--"])
            .arg(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(PART, "node");
        let mut process = Process::start(&mut command);
        assert_eq!(process.hear(), "in a network of its own");
        let (cable, id) = (format!("cable{serial}"), process.child.id());
        ip(&format!("link add {cable} type veth peer name eth0 netns {id}"));
        ip(&format!("link set {cable} master bridge up"));
        for line in [format!("10.77.0.{}", place + 10), url.to_owned(), secret.to_owned(), day.to_string()] {
            process.tell(&line);
        }
        assert_eq!(process.hear(), "started");
        Self { process, cable, is_cut: false }
    }

    fn ask(&mut self, what: &str) -> String {
        self.process.tell(what);
        self.process.hear()
    }

    fn cut(&mut self) {
        ip(&format!("link set {} down", self.cable));
        self.is_cut = true;
    }

    fn mend(&mut self) {
        ip(&format!("link set {} up", self.cable));
        // The kernel takes up to a second to notice, and that is not what is measured.
        assert_eq!(self.ask("the store"), "it can be reached");
        self.is_cut = false;
    }
}

fn arena() {
    let rotations: u64 = std::env::var("IPVEIL_TEST_ROTATIONS").map_or(12, |count| count.parse().unwrap());
    ip("link set lo up");
    // With an address of its own: else it would have the lowest of its cables', and be another with each that comes.
    ip("link add bridge address 02:00:00:00:00:01 type bridge");
    ip("addr add 10.77.0.1/24 dev bridge");
    ip("link set bridge up");
    let port = free_port();
    let open = ["--save", "", "--bind", "10.77.0.1", "127.0.0.1", "--protected-mode", "no"];
    let _server = Server::start_at(port, &open);
    let url = format!("redis://10.77.0.1:{port}");
    let secret = FleetSecret::generate().unwrap();

    let mut serial = 0;
    let mut start = |place: usize, day: u64| {
        serial += 1;
        Node::start(place, serial, &url, &secret, day)
    };
    let mut nodes: Vec<Option<Node>> = (0..NODES).map(|place| Some(start(place, FIRST_DAY))).collect();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let (mut times, mut seen) = (Vec::new(), HashSet::new());
    let (mut cuts, mut kills, mut asked) = (0, 0, 0);
    for rotation in 0..rotations {
        let place = next(NODES);
        match (next(4), &mut nodes[place]) {
            (0, node @ Some(_)) => {
                *node = None;
                kills += 1;
            }
            (1, Some(node)) if !node.is_cut => {
                node.cut();
                cuts += 1;
            }
            (2, _) => nodes.iter_mut().flatten().filter(|node| node.is_cut).for_each(Node::mend),
            (_, node @ None) => *node = Some(start(place, FIRST_DAY + rotation)),
            _ => {}
        }
        for node in nodes.iter_mut().flatten() {
            assert_eq!(node.ask("a day passes"), "it is another day");
        }
        if let Some((key, time)) = agreement(&mut nodes, rotation) {
            if time > SOON {
                let why: Vec<_> = nodes.iter_mut().flatten().map(|node| (node.is_cut, node.ask("why"))).collect();
                eprintln!(
                    "rotation {rotation} took {time:?}; of each node, whether it is cut off, and what it says: {why:#?}"
                );
            }
            times.push(time);
            assert!(seen.insert(key), "a key of the past");
        }
        for node in nodes.iter_mut().flatten() {
            let said = node.ask("requests");
            let counts: HashMap<_, u64> = said
                .split(' ')
                .map(|pair| pair.split_once('=').unwrap())
                .map(|(name, count)| (name, count.parse().unwrap()))
                .collect();
            assert_eq!((counts["expired"], counts["blocked"]), (0, 0), "{said}");
            asked += counts["asked"];
        }
    }
    times.sort();
    let within = |part: usize| times[(times.len() - 1) * part / 100];
    let late = times.iter().filter(|time| **time > SOON).count();
    eprintln!(
        "{rotations} rotations, {cuts} cuts, {kills} kills, {asked} requests: {} agreements, half within {:?}, 99 % within {:?}, \
         all within {:?}, {late} later than {SOON:?}",
        times.len(),
        within(50),
        within(99),
        within(100),
    );
}

/// The key that all who can reach the store have, and how long that took. None if all cables are pulled: there is nobody who could
/// agree.
#[track_caller]
fn agreement(nodes: &mut [Option<Node>], rotation: u64) -> Option<(String, Duration)> {
    if nodes.iter().flatten().all(|node| node.is_cut) {
        return None;
    }
    let begun = Instant::now();
    loop {
        if begun.elapsed() > Duration::from_secs(20) {
            let why: Vec<_> = nodes.iter_mut().flatten().map(|node| node.ask("why")).collect();
            panic!("no agreement in rotation {rotation}: {why:#?}");
        }
        let mut keys = nodes.iter_mut().flatten().filter(|node| !node.is_cut).map(|node| node.ask("key"));
        let Some(first) = keys.next().filter(|first| first != "none") else { continue };
        // All of them are asked: none has an answer left over.
        if keys.filter(|key| *key != first).count() == 0 {
            return Some((first, begun.elapsed()));
        }
    }
}

fn node() {
    say("in a network of its own");
    let mut lines = std::io::stdin().lines().map(Result::unwrap);
    let mut line = || lines.next().unwrap();
    let (address, url, secret, day) = (line(), line(), line(), line());
    ip("link set lo up");
    ip(&format!("addr add {address}/24 dev eth0"));
    ip("link set eth0 up");

    let clock = ManualClock::at(DAY * day.parse().unwrap());
    let secret = FleetSecret::parse(secret.as_bytes()).unwrap();
    let source = RedisSource::new(StoreAddress::single(&url).unwrap(), secret).namespace("edge").unwrap();
    let events: Arc<Mutex<Vec<(Instant, KeyEvent)>>> = Arc::default();
    let told = events.clone();
    let keys = KeyRing::builder(source, Epochs::daily())
        .clock(clock.clone())
        .on_event(move |event| told.lock().unwrap().push((Instant::now(), event)))
        .start()
        .unwrap();
    let (asked, expired, blocked) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    thread::spawn({
        let (clock, keys) = (clock.clone(), keys.clone());
        let (asked, expired, blocked) = (asked.clone(), expired.clone(), blocked.clone());
        let policy = Policy::new(Scope::unscoped(), [View::token("log")]).unwrap();
        let today = move || clock.now().wall.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / DAY.as_secs();
        move || {
            loop {
                let (before, begun) = (today(), Instant::now());
                let client = policy.client(&ClientAddr::from(IpAddr::from([203, 0, 113, 7])), &keys);
                std::hint::black_box(client.pseudonym("log"));
                let epoch = keys.epoch();
                let took = begun.elapsed();
                // The next epoch's may be there already, if its time has come in between.
                if before == today() && epoch.is_some_and(|epoch| epoch.number() != before) {
                    expired.fetch_add(1, Ordering::Relaxed);
                }
                // The store's time-out is a second; other work of the machine may take some of that.
                if took > Duration::from_millis(500) {
                    blocked.fetch_add(1, Ordering::Relaxed);
                }
                asked.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(500));
            }
        }
    });
    say("started");
    for line in lines {
        match line.as_str() {
            "a day passes" => {
                clock.advance(DAY);
                say("it is another day");
            }
            "key" => match keys.key_id().filter(|_| !keys.is_degraded()) {
                Some(key) => say(&key.to_string()),
                None => say("none"),
            },
            "the store" => {
                let store = url.strip_prefix("redis://").unwrap().parse().unwrap();
                until("the store can be reached", || {
                    TcpStream::connect_timeout(&store, Duration::from_millis(100)).ok()
                });
                say("it can be reached");
            }
            "why" => {
                let events = events.lock().unwrap();
                let last = events.iter().rev().take(6).map(|(at, event)| (at.elapsed(), event));
                say(&format!("{:?}", last.collect::<Vec<_>>()));
            }
            _ => {
                let count = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
                say(&format!("asked={} expired={} blocked={}", count(&asked), count(&expired), count(&blocked)));
            }
        }
    }
}
