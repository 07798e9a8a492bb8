//! What a rotation costs the requests that it meets: how long each takes while a key is destroyed and another made, next to
//! how long they take when nobody rotates.
//!
//! Whoever has to share a core waits for milliseconds, and that is not ours: on Linux, the time in which a thread was ready and
//! had no core is taken off those that took long. What is left of it shows in the rows without rotations, which come first.

#![expect(clippy::print_stdout, reason = "it says what it measured")]

use std::{
    fs,
    hint::black_box,
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use ipveil::{
    ClientAddr, KeyRing, Policy,
    keys::{Epochs, MemorySource},
    policy::{Scope, View},
};

#[cfg(feature = "redis")]
#[path = "../tests/store/mod.rs"]
#[expect(clippy::print_stderr, clippy::unwrap_used, reason = "it is made for tests, which say what they install")]
mod store;

const REQUESTS: usize = 4_000_000;
const PAUSE: Duration = Duration::from_millis(5);
const MOST: Duration = Duration::from_millis(1);

fn main() {
    // Run by `cargo test` with the others.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let keys = KeyRing::start(MemorySource, Epochs::daily()).expect("a ring in memory starts");
    measure("memory", &keys);
    #[cfg(feature = "redis")]
    {
        use ipveil::keys::fleet::{FleetSecret, RedisSource, StoreAddress};

        let server = store::Server::start();
        let secret = FleetSecret::generate().expect("there is randomness");
        let join = || {
            let secret = FleetSecret::parse(secret.as_bytes()).expect("it was just made");
            let address = StoreAddress::single(&server.url()).expect("it is a URL");
            KeyRing::start(RedisSource::new(address, secret), Epochs::daily()).expect("a ring of a fleet starts")
        };
        let (keys, _other) = (join(), join());
        measure("redis", &keys);
    }
}

fn measure(source: &str, keys: &KeyRing) {
    println!(
        "{source}, {REQUESTS} requests on each thread, a rotation every {PAUSE:?} or when the one before has its key"
    );
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for threads in [cores, 2 * cores] {
        show(&format!("{threads} threads, no rotations"), &run(keys, threads, false).0);
        let (all, met, rotations) = run(keys, threads, true);
        show(&format!("{threads} threads, {rotations} rotations"), &all);
        show("  of these, during a rotation", &met);
    }
}

/// How long each request took, in nanoseconds and in order; how long those that met a rotation; and how many rotations there
/// were.
fn run(keys: &KeyRing, threads: usize, is_rotating: bool) -> (Vec<u32>, Vec<u32>, u64) {
    // Odd while one is under way.
    let (turns, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let policy = Policy::new(Scope::unscoped(), [View::token("log")]).expect("one view is a policy");
    let request = || {
        let mut times = Vec::with_capacity(REQUESTS);
        let mut without_core = without_core();
        for place in 0..REQUESTS {
            if place % 256 == 0 {
                without_core = self::without_core();
            }
            let (before, begun) = (turns.load(SeqCst), Instant::now());
            let client = policy.client(&ClientAddr::from(IpAddr::from([203, 0, 113, 7])), keys);
            black_box(client.pseudonym("log"));
            let mut time = begun.elapsed();
            let is_met = before % 2 == 1 || turns.load(SeqCst) != before;
            if time > MOST / 10 {
                let now = self::without_core();
                time = time.saturating_sub(now - without_core);
                without_core = now;
            }
            times.push((u32::try_from(time.as_nanos()).unwrap_or(u32::MAX), is_met));
        }
        times
    };
    let times: Vec<_> = thread::scope(|scope| {
        let rotating = scope.spawn(|| {
            while is_rotating && !is_over.load(SeqCst) {
                turns.fetch_add(1, SeqCst);
                let _ = black_box(keys.rotate());
                turns.fetch_add(1, SeqCst);
                thread::sleep(PAUSE);
            }
        });
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(request)).collect();
        let times = running.into_iter().flat_map(|thread| thread.join().expect("it counts only")).collect();
        is_over.store(true, SeqCst);
        rotating.join().expect("it rotates only");
        times
    });
    let mut all: Vec<_> = times.iter().map(|(time, _)| *time).collect();
    let mut met: Vec<_> = times.iter().filter(|(_, is_met)| *is_met).map(|(time, _)| *time).collect();
    all.sort_unstable();
    met.sort_unstable();
    (all, met, turns.load(SeqCst) / 2)
}

/// For how long this thread has been ready and had no core, so far.
fn without_core() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited = text.split_ascii_whitespace().nth(1).and_then(|text| text.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}

fn show(what: &str, times: &[u32]) {
    if times.is_empty() {
        return println!("{what}: none");
    }
    let within = |parts: usize| Duration::from_nanos(times[(times.len() - 1) * parts / 100_000].into());
    let late = times.iter().filter(|time| u128::from(**time) > MOST.as_nanos()).count();
    println!(
        "{what}: half within {:?}, 99.9 % within {:?}, 99.999 % within {:?}, all within {:?}; {late} of {} longer than {MOST:?}",
        within(50_000),
        within(99_900),
        within(99_999),
        within(100_000),
        times.len(),
    );
}
