//! What is left of a key after its end: nothing in any memory, stacks included, nothing in a core dump, and nothing that the
//! store, the fleet's secret and the memory of every node together give.
//!
//! Nodes are processes of their own, whose memory is read from outside. Nothing that is looked for is in it by way of the test.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "processes tell each other what they have done")]

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    hint::black_box,
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream},
    os::unix::{
        fs::FileExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    process::Command,
    sync::{Arc, Barrier, Mutex, mpsc},
    thread,
    time::Duration,
};

use ipveil::{
    ClientAddr, KeyRing, Policy,
    keys::{
        EpochKey, Epochs, KeyError, KeyEvent, KeyRequest, KeySource, ManualClock, RuntimeFile,
        fleet::{FleetSecret, RedisSource, StoreAddress},
    },
    policy::{Scope, View},
};
use redis::Commands as _;
use tempfile::TempDir;
use zeroize::{Zeroize as _, zeroize_stack};

use self::{
    process::{Process, say},
    store::{Server, until::until},
};

mod process;
mod store;

const DAY: Duration = Duration::from_secs(86_400);
const THREADS: usize = 4;

/// A process that plays a part of this test, and does what it is told line by line.
struct Player {
    process: Process,
    // Where it is, and where its core dump comes to be.
    folder: TempDir,
}

/// Which part this process plays, if it is not the test itself.
fn part() -> Option<String> {
    std::env::var("IPVEIL_TEST_PART").ok()
}

impl Player {
    fn start(test: &str, part: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // It does what a program can do to have all of its memory dumped, its code left out, and nothing against it.
        let mut command = Command::new("sh");
        command
            .arg0("player")
            .args(["-c", "ulimit -Sc $(ulimit -Hc); echo 0x3b > /proc/self/coredump_filter; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env("IPVEIL_TEST_PART", part)
            .current_dir(folder.path());
        Self { process: Process::start(&mut command), folder }
    }

    /// Shows each part of its memory that can be read and written.
    fn memory(&self, mut show: impl FnMut(&str, &[u8])) {
        self.mappings(|_, mode| mode.starts_with("rw"), &mut show);
    }

    fn mappings(&self, is_wanted: impl Fn(&str, &str) -> bool, show: &mut impl FnMut(&str, &[u8])) {
        let process = self.process.child.id();
        let memory = File::open(format!("/proc/{process}/mem")).unwrap();
        for line in fs::read_to_string(format!("/proc/{process}/maps")).unwrap().lines() {
            let mut words = line.split_ascii_whitespace();
            let (range, mode) = (words.next().unwrap(), words.next().unwrap());
            if !is_wanted(range, mode) {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
            show_in_parts(&memory, start, end, |part| show(line, part));
        }
    }

    fn holds(&self, needle: &[u8]) -> Option<String> {
        let mut found = None;
        self.memory(|place, part| {
            if contains(part, needle) {
                found.get_or_insert_with(|| place.to_owned());
            }
        });
        found
    }

    /// What a core dump of it would hold whatever is set: every mapping but those that the kernel was told to leave out, for which
    /// `smaps` has the flag `dd`. Gives how many those were.
    fn dumpable_memory(&self, mut show: impl FnMut(&str, &[u8])) -> usize {
        let process = self.process.child.id();
        let mut left_out = HashSet::new();
        let mut mapping = String::new();
        for line in fs::read_to_string(format!("/proc/{process}/smaps")).unwrap().lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("VmFlags:") if words.any(|flag| flag == "dd") => {
                    left_out.insert(mapping.clone());
                }
                Some(range) if !range.ends_with(':') => range.clone_into(&mut mapping),
                _ => {}
            }
        }
        self.mappings(|range, _| !left_out.contains(range), &mut show);
        left_out.len()
    }

    /// Ends it as a crash would, and shows the core dump that the kernel writes. False if this system gives cores to a program, or
    /// puts them where only its administrator knows, or allows none: then [`dumpable_memory`](Self::dumpable_memory) has to do.
    fn crash(mut self, mut show: impl FnMut(&str, &[u8])) -> bool {
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.process.child.id())).unwrap();
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        let is_written = !pattern.starts_with('|') && !pattern.contains('/') && !pattern.trim().is_empty();
        let is_allowed = limit.split_ascii_whitespace().next() == Some("unlimited");
        let kill =
            Command::new("sh").args(["-c", &format!("kill -ABRT {}", self.process.child.id())]).status().unwrap();
        assert!(kill.success());
        let status = self.process.child.wait().unwrap();
        if !is_written || !is_allowed {
            eprintln!("no core dump: the pattern is {:?}, the limit {}", pattern.trim(), limit.trim());
            return false;
        }
        assert!(status.core_dumped(), "{status}");
        let cores: Vec<_> = walk(self.folder.path());
        let [core] = &cores[..] else { panic!("{cores:?}") };
        let file = File::open(core).unwrap();
        show_in_parts(&file, 0, file.metadata().unwrap().len(), |part| show("a core dump", part));
        true
    }
}

/// With some of the part before, for what lies across.
fn show_in_parts(file: &File, start: u64, end: u64, mut show: impl FnMut(&[u8])) {
    let mut at = start;
    while at < end {
        let from = at.saturating_sub(64).max(start);
        let mut part = vec![0; usize::try_from((end - from).min(1 << 20)).unwrap()];
        // What can't be read from outside (memfd_secret) no image has either.
        if file.read_exact_at(&mut part, from).is_ok() {
            show(&part);
        }
        at = from + part.len() as u64;
    }
}

fn contains(part: &[u8], needle: &[u8]) -> bool {
    // Most of memory is nothing at all.
    part.iter().any(|&byte| byte != 0) && part.windows(needle.len()).any(|window| window == needle)
}

fn listen() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

const MASK: u8 = 0xa5;

/// The first key comes from outside, masked; all others are fresh.
struct Given {
    masked: Option<[u8; 32]>,
}

impl KeySource for Given {
    fn key(&mut self, _: KeyRequest) -> Result<EpochKey, KeyError> {
        let Some(masked) = self.masked.take() else { return EpochKey::random() };
        let key = unmask(masked);
        zeroize_stack::<4096>();
        key
    }
}

#[inline(never)]
fn unmask(masked: [u8; 32]) -> Result<EpochKey, KeyError> {
    EpochKey::take(&mut masked.map(|byte| byte ^ MASK))
}

#[inline(never)]
fn hash_carelessly(masked: [u8; 32]) -> [u8; 32] {
    let mut key = masked.map(|byte| byte ^ MASK);
    let hash = *blake3::keyed_hash(black_box(&key), b"as anybody would").as_bytes();
    key.zeroize();
    hash
}

fn play_known_key(part: &str) {
    let line = listen();
    let mut masked = [0; 32];
    for (byte, digits) in masked.iter_mut().zip(line.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    if part == "careless" {
        // To show that the search would find it: a copy in memory that is not wiped.
        let thread = thread::spawn(move || {
            black_box(hash_carelessly(masked));
            thread::park();
        });
        let leak: Vec<u8> = masked.iter().map(|byte| byte ^ MASK).collect();
        say("leaked");
        listen();
        black_box((leak, thread));
        return;
    }
    let keys = KeyRing::start(Given { masked: Some(masked) }, Epochs::daily()).unwrap();
    let policy = Policy::new(Scope::unscoped(), [View::token("log"), View::limit("api")]).unwrap();
    let hashed = Arc::new(Barrier::new(THREADS + 1));
    for thread in 0..THREADS {
        let (keys, policy, hashed) = (keys.clone(), policy.clone(), hashed.clone());
        thread::spawn(move || {
            for host in 0..50 {
                let address = match thread % 2 {
                    0 => IpAddr::from([203, 0, 113, host]),
                    _ => IpAddr::from([0x2001, 0xdb8, 0, u16::from(host), 0, 0, 0, 1]),
                };
                let client = policy.client(&ClientAddr::from(address), &keys);
                black_box((client.pseudonym("log").to_string(), client.scoped("log", "user:42")));
            }
            hashed.wait();
            // Has no work again.
            loop {
                thread::park();
            }
        });
    }
    hashed.wait();
    say("hashed");
    listen();
    keys.rotate().unwrap();
    say("destroyed");
    listen();
}

#[test]
fn the_memory_of_a_process_holds_nothing_of_a_destroyed_key() {
    const TEST: &str = "the_memory_of_a_process_holds_nothing_of_a_destroyed_key";
    if let Some(part) = part() {
        return play_known_key(&part);
    }
    let mut key = [0; 32];
    File::open("/dev/urandom").unwrap().read_exact(&mut key).unwrap();
    let masked: String = key.iter().map(|byte| format!("{:02x}", byte ^ MASK)).collect();

    let mut careless = Player::start(TEST, "careless");
    careless.process.tell(&masked);
    assert_eq!(careless.process.hear(), "leaked");
    assert!(careless.holds(&key).is_some(), "the search finds what is there");

    let mut careful = Player::start(TEST, "careful");
    careful.process.tell(&masked);
    assert_eq!(careful.process.hear(), "hashed");
    let while_it_lives = careful.holds(&key);
    eprintln!("while the key lives it can be read in: {while_it_lives:?}");
    careful.process.tell("go on");
    assert_eq!(careful.process.hear(), "destroyed");
    // Also halves of it, as they are moved through wide registers.
    for needle in [&key[..], &key[..16], &key[16..]] {
        assert_eq!(careful.holds(needle), None, "{} bytes of it", needle.len());
    }
}

#[test]
fn a_core_dump_holds_no_key_while_it_lives_and_none_when_it_is_destroyed() {
    const TEST: &str = "a_core_dump_holds_no_key_while_it_lives_and_none_when_it_is_destroyed";
    if let Some(part) = part() {
        return play_known_key(&part);
    }
    let mut key = [0; 32];
    File::open("/dev/urandom").unwrap().read_exact(&mut key).unwrap();
    let masked: String = key.iter().map(|byte| format!("{:02x}", byte ^ MASK)).collect();
    let start = |part: &str, what: &str| {
        let mut player = Player::start(TEST, part);
        player.process.tell(&masked);
        assert_eq!(player.process.hear(), what);
        player
    };
    // Also halves of it, as they are moved through wide registers.
    let needles = [&key[..], &key[..16], &key[16..]];
    let search = |player: Player| {
        let (mut found, mut size) = (HashSet::new(), 0);
        let mut show = |place: &str, part: &[u8]| {
            size += part.len();
            if needles.iter().any(|needle| contains(part, needle)) {
                found.insert(place.to_owned());
            }
        };
        let left_out = player.dumpable_memory(&mut show);
        let is_written = player.crash(&mut show);
        eprintln!("{left_out} mappings are left out, a core dump was written: {is_written}; {size} bytes in all");
        (found, left_out, is_written)
    };

    let (found, _, is_written) = search(start("careless", "leaked"));
    assert!(found.len() > usize::from(is_written), "the search finds what is there: {found:?}");
    assert_eq!(found.contains("a core dump"), is_written);

    let (found, left_out, _) = search(start("careful", "hashed"));
    assert_eq!(found, HashSet::new(), "while the key lives");
    assert_ne!(left_out, 0, "the key is in memory that is left out");

    let mut careful = start("careful", "hashed");
    careful.process.tell("go on");
    assert_eq!(careful.process.hear(), "destroyed");
    let (found, ..) = search(careful);
    assert_eq!(found, HashSet::new(), "when it is destroyed");
}

fn play_restarted(path: &str) {
    let keys = KeyRing::start(RuntimeFile::open(path).unwrap(), Epochs::daily()).unwrap();
    let policy = Policy::new(Scope::unscoped(), [View::token("log")]).unwrap();
    let client = policy.client(&ClientAddr::from(IpAddr::from([203, 0, 113, 7])), &keys);
    black_box(client.pseudonym("log"));
    say("started");
    listen();
    keys.rotate().unwrap();
    say("destroyed");
    listen();
}

#[test]
fn neither_the_file_nor_the_memory_of_one_that_restored_a_key_holds_it_when_it_is_destroyed() {
    const TEST: &str = "neither_the_file_nor_the_memory_of_one_that_restored_a_key_holds_it_when_it_is_destroyed";
    if let Some(path) = part() {
        return play_restarted(&path);
    }
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("keys");
    let mut first = Player::start(TEST, path.to_str().unwrap());
    assert_eq!(first.process.hear(), "started");
    let key: [u8; 32] = fs::read(&path).unwrap()[48..80].try_into().unwrap();
    assert_ne!(key, [0; 32]);
    drop(first);
    // Another process goes on with it, and then it is destroyed.
    let mut second = Player::start(TEST, path.to_str().unwrap());
    assert_eq!(second.process.hear(), "started");
    assert_eq!(fs::read(&path).unwrap()[48..80], key);
    second.process.tell("rotate");
    assert_eq!(second.process.hear(), "destroyed");
    for needle in [&key[..], &key[..16], &key[16..]] {
        assert!(!fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle));
        assert_eq!(second.holds(needle), None, "{} bytes of it", needle.len());
    }
}

fn play_node() {
    let (url, secret) = (listen(), listen());
    let secret = FleetSecret::parse(secret.as_bytes()).unwrap();
    let clock = ManualClock::at(DAY * 20_000);
    let source = RedisSource::new(StoreAddress::single(&url).unwrap(), secret).namespace("edge").unwrap();
    let destroyed: Arc<Mutex<HashSet<String>>> = Arc::default();
    let told = destroyed.clone();
    let keys = KeyRing::builder(source, Epochs::daily())
        .clock(clock.clone())
        .on_event(move |event| {
            if let KeyEvent::Destroyed { key, .. } = event {
                told.lock().unwrap().insert(key.to_string());
            }
        })
        .start()
        .unwrap();
    let policy = Policy::new(Scope::unscoped(), [View::token("log")]).unwrap();
    let of_the_fleet = || keys.key_id().filter(|_| !keys.is_degraded()).map(|key| key.to_string());
    let key = until("a key", of_the_fleet);
    let client = policy.client(&ClientAddr::from(IpAddr::from([203, 0, 113, 7])), &keys);
    black_box(client.pseudonym("log"));
    say(&key);
    listen();
    clock.advance(DAY);
    until("destroyed", || destroyed.lock().unwrap().contains(&key).then_some(()));
    until("the next key", || of_the_fleet().filter(|next| *next != key));
    say("over");
    listen();
}

/// Whether these bytes may be random ones: nearly all that is not is left out, and of what is, one in ten thousand.
fn is_random(window: &[u8]) -> bool {
    let zeros = window.iter().filter(|&&byte| byte == 0).count();
    let high = window.iter().filter(|&&byte| byte >= 0x80).count();
    zeros <= 3 && (4..=28).contains(&high) && window.iter().collect::<HashSet<_>>().len() >= 22
}

/// Somebody who has everything, afterwards: he knows by its public id whether 32 bytes are the key, and by their public
/// halves whether they are a private half.
struct Thief {
    key: String,
    publics: HashSet<[u8; 32]>,
    tried: HashSet<[u8; 32]>,
    found: Vec<&'static str>,
}

impl Thief {
    fn search(&mut self, bytes: &[u8], step: usize) {
        for window in bytes.windows(32).step_by(step) {
            if window[..4] == [0; 4] || !is_random(window) {
                continue;
            }
            let candidate: [u8; 32] = window.try_into().unwrap();
            if !self.tried.insert(candidate) {
                continue;
            }
            if EpochKey::take(&mut { candidate }).unwrap().id().to_string() == self.key {
                self.found.push("the key");
            }
            // Curve arithmetic takes long: only where a secret would lie.
            if (step == 1 || (window.as_ptr() as usize).is_multiple_of(8))
                && self.publics.contains(&x25519_dalek::x25519(candidate, x25519_dalek::X25519_BASEPOINT_BYTES))
            {
                self.found.push("a private half");
            }
        }
    }
}

/// What `MONITOR` prints, with bytes as they were.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        match rest {
            [b'x', high, low, after @ ..] => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = after;
            }
            [letter, after @ ..] => {
                bytes.push(match letter {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 7,
                    b'b' => 8,
                    other => *other,
                });
                rest = after;
            }
            [] => {}
        }
    }
    bytes
}

#[test]
fn all_that_the_store_ever_held_and_the_secret_and_the_memory_of_every_node_give_no_key_of_the_past() {
    const TEST: &str =
        "all_that_the_store_ever_held_and_the_secret_and_the_memory_of_every_node_give_no_key_of_the_past";
    if part().is_some() {
        return play_node();
    }
    // A store that writes down everything, and one who listens besides.
    let server = Server::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (heard, hearing) = mpsc::channel::<()>();
    let mut monitor = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    monitor.write_all(b"MONITOR\r\n").unwrap();
    let mut is_listening = [0; 5];
    monitor.read_exact(&mut is_listening).unwrap();
    let listener = thread::spawn(move || {
        let mut all = Vec::new();
        let _ = monitor.set_read_timeout(Some(Duration::from_millis(200)));
        let mut part = [0; 65_536];
        while hearing.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            if let Ok(read) = monitor.read(&mut part) {
                all.extend_from_slice(&part[..read]);
            }
        }
        all
    });

    let secret = FleetSecret::generate().unwrap();
    let mut nodes: Vec<_> = (0..2).map(|_| Player::start(TEST, "node")).collect();
    let mut keys = HashSet::new();
    for node in &mut nodes {
        node.process.tell(&server.url());
        node.process.tell(&secret);
        keys.insert(node.process.hear());
    }
    assert_eq!(keys.len(), 1, "they agree");
    let key = keys.into_iter().next().unwrap();
    let mut connection = server.connection();
    let members: HashMap<String, Vec<u8>> = connection.hgetall("ipveil:{edge}:20000:0:members").unwrap();
    let publics: HashSet<[u8; 32]> = members.values().map(|record| record[17..49].try_into().unwrap()).collect();
    assert_eq!(publics.len(), 2);
    let sealed: HashMap<String, Vec<u8>> = connection.hgetall("ipveil:{edge}:20000:0:sealed").unwrap();
    // By the one that minted it for the other, and perhaps the other way round.
    assert!(matches!(sealed.len(), 1 | 2), "{}", sealed.len());

    for node in &mut nodes {
        node.process.tell("your epoch ends");
    }
    for node in &mut nodes {
        assert_eq!(node.process.hear(), "over");
    }
    drop(heard);
    let monitored = unescape(&listener.join().unwrap());
    let mut thief = Thief { key, publics, tried: HashSet::new(), found: Vec::new() };

    // He would know the key and a private half if he saw them.
    check_that_the_thief_is_able();

    let record = sealed.values().next().unwrap();
    assert!(monitored.windows(record.len()).any(|window| window == record), "he has heard everything");
    thief.search(&monitored, 1);
    let mut written = 0;
    for entry in walk(server.directory.path()) {
        let bytes = fs::read(entry).unwrap();
        written += bytes.windows(record.len()).filter(|window| window == record).count();
        thief.search(&bytes, 1);
    }
    assert_ne!(written, 0, "it is on the disk, for ever");
    thief.search(secret.as_bytes(), 1);
    let from_the_store = thief.tried.len();
    for node in nodes {
        node.memory(|_, part| thief.search(part, 4));
        node.crash(|_, part| thief.search(part, 4));
    }
    eprintln!("tried {from_the_store} from the store, {} in all", thief.tried.len());
    assert!(from_the_store > 100 && thief.tried.len() > from_the_store);
    assert!(thief.found.is_empty(), "{:?}", thief.found);
}

fn check_that_the_thief_is_able() {
    let mut bytes = vec![0; 4096];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    let place = bytes.windows(32).step_by(8).position(is_random).unwrap() * 8;
    let window: [u8; 32] = bytes[place..place + 32].try_into().unwrap();
    let key = EpochKey::take(&mut { window }).unwrap().id().to_string();
    let publics = HashSet::from([x25519_dalek::x25519(window, x25519_dalek::X25519_BASEPOINT_BYTES)]);
    let mut thief = Thief { key, publics, tried: HashSet::new(), found: Vec::new() };
    thief.search(&bytes[place..place + 40], 1);
    assert_eq!(thief.found, ["the key", "a private half"]);
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path);
        }
    }
    files
}
