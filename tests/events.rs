//! What the ring tells of its keys through `tracing`. Alone in its process, since a subscriber is for all threads.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::thread;

use ipveil::{
    KeyRing,
    keys::{Epochs, MemorySource},
};

use self::log::Log;

mod log;

#[test]
fn events_name_keys_by_their_public_id_and_say_how_they_are_protected() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();

    let keys = KeyRing::start(MemorySource, Epochs::daily()).unwrap();
    let (first, protection) = (keys.key_id().unwrap(), keys.protection().unwrap());
    let second = keys.rotate().unwrap();

    let expected = [
        format!("INFO ipveil::keys: key minted key={first}"),
        format!("protection={protection}"),
        format!("INFO ipveil::keys: key destroyed key={first}"),
        format!("INFO ipveil::keys: key minted key={second}"),
    ];
    // The last one is told by the thread that got the key.
    loop {
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        if expected.iter().all(|line| log.contains(line)) {
            return;
        }
        assert!(log.lines().count() < 10, "{log}");
        thread::yield_now();
    }
}
