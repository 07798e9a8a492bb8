//! The key journal: what is in it, and what shows that somebody changed it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io::Write as _,
    net::IpAddr,
    path::PathBuf,
    sync::mpsc,
    thread,
    time::Duration,
};

use ipveil::{
    ClientAddr, KeyRing, Policy,
    keys::{
        EpochKey, Epochs, KeyError, KeyEvent, KeyRequest, KeySource, ManualClock, MemorySource, Reason,
        journal::{self, Journal, JournalError, Verified},
    },
    policy::{Scope, View},
};
use serde_json::Value;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.jsonl");
    (directory, path)
}

fn verify(bytes: &[u8]) -> Result<Verified, JournalError> {
    journal::verify(bytes, None)
}

/// What a ring writes that starts, rotates twice and ends.
fn write(path: &PathBuf) -> Vec<u8> {
    let journal = Journal::open(path).unwrap();
    let record = journal.recorder();
    let (end, has_ended) = mpsc::channel();
    let observer = move |event| {
        record(event);
        if matches!(event, KeyEvent::Destroyed { reason: Reason::RingDropped, .. }) {
            end.send(()).unwrap();
        }
    };
    let keys = KeyRing::builder(MemorySource, Epochs::daily()).on_event(observer).start().unwrap();
    keys.rotate().unwrap();
    keys.rotate().unwrap();
    drop(keys);
    // By whichever of the ring's threads was the last to look at it.
    has_ended.recv().unwrap();
    drop(journal);
    // The ring's thread drops its recorder a moment after the last event.
    while matches!(Journal::open(path), Err(JournalError::Locked)) {
        thread::yield_now();
    }
    fs::read(path).unwrap()
}

fn entries(bytes: &[u8]) -> Vec<Value> {
    bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[test]
fn every_key_is_minted_once_and_destroyed_once() {
    let (_directory, path) = place();
    let bytes = write(&path);
    let entries = entries(&bytes);
    let keys = |event: &str| -> Vec<String> {
        let of = entries.iter().filter(|entry| entry["event"] == event);
        of.map(|entry| entry["key"].as_str().unwrap().to_owned()).collect()
    };
    let (minted, destroyed) = (keys("minted"), keys("destroyed"));
    assert_eq!(minted.len(), 3);
    assert_eq!(minted.iter().collect::<HashSet<_>>(), destroyed.iter().collect::<HashSet<_>>());
    let reasons: Vec<_> = entries.iter().filter_map(|entry| entry["reason"].as_str()).collect();
    assert_eq!(reasons, ["rotated", "rotated", "ring-dropped"]);
    assert!(entries.iter().all(|entry| entry["event"] != "minted" || entry["source"] == "memory"));
    assert_eq!(verify(&bytes).unwrap().entries, entries.len() as u64);
}

#[test]
fn a_recorder_goes_on_when_the_journal_is_dropped() {
    let (_directory, path) = place();
    let recorder = Journal::open(&path).unwrap().recorder();
    let keys = KeyRing::builder(MemorySource, Epochs::daily()).on_event(recorder).start().unwrap();
    for _ in 0..3 {
        keys.rotate().unwrap();
    }
    assert!(matches!(Journal::open(&path), Err(JournalError::Locked)), "it is written still");
    drop(keys);
    while matches!(Journal::open(&path), Err(JournalError::Locked)) {
        thread::yield_now();
    }
    let bytes = fs::read(&path).unwrap();
    let entries = entries(&bytes);
    let count = |event: &str| entries.iter().filter(|entry| entry["event"] == event).count();
    assert_eq!((count("minted"), count("destroyed")), (4, 4));
    assert_eq!(verify(&bytes).unwrap().entries, entries.len() as u64);
}

#[test]
fn degradation_is_in_it() {
    struct Nothing;
    impl KeySource for Nothing {
        fn key(&mut self, _: KeyRequest) -> Result<EpochKey, KeyError> {
            Err(KeyError::Unavailable)
        }
    }
    let (_directory, path) = place();
    let journal = Journal::open(&path).unwrap();
    let clock = ManualClock::at(DAY * 20_000);
    let keys = KeyRing::builder(Nothing, Epochs::daily()).clock(clock).on_event(journal.recorder()).start().unwrap();
    assert!(keys.is_degraded());
    journal.flush();
    let entries = entries(&fs::read(&path).unwrap());
    assert_eq!(entries[0]["event"], "degraded");
    assert_eq!((&entries[1]["event"], &entries[1]["origin"]), (&"minted".into(), &"local".into()));
    assert_eq!(entries[1]["until"], "2024-10-05T00:00:00.000Z");
}

#[test]
fn there_is_no_key_in_it_and_no_address() {
    struct Known(u8);
    impl KeySource for Known {
        fn key(&mut self, _: KeyRequest) -> Result<EpochKey, KeyError> {
            self.0 += 1;
            EpochKey::take(&mut [self.0; 32])
        }
    }
    let (_directory, path) = place();
    let journal = Journal::open(&path).unwrap();
    let keys = KeyRing::builder(Known(0x40), Epochs::daily()).on_event(journal.recorder()).start().unwrap();
    let policy = Policy::new(Scope::unscoped(), [View::token("log")]).unwrap();
    for _ in 0..3 {
        let client = policy.client(&ClientAddr::from(IpAddr::from([203, 0, 113, 7])), &keys);
        assert!(!client.pseudonym("log").is_withheld());
        keys.rotate().unwrap();
    }
    journal.flush();
    let text = fs::read_to_string(&path).unwrap();
    // Four of the bytes in a row, as they are or in hexadecimal, are more than chance gives.
    for part in ["203.0.113", "AAAA", "41414141", "BBBB", "42424242", "65, 65"] {
        assert!(!text.contains(part), "{part} is in {text}");
    }
}

#[test]
fn it_goes_on_after_a_restart() {
    let (_directory, path) = place();
    let first = verify(&write(&path)).unwrap();
    let both = write(&path);
    let second = journal::verify(&both[..], Some(&first.head)).unwrap();
    assert_eq!(second.entries, 2 * first.entries);
}

#[test]
fn a_line_that_was_changed_removed_moved_or_added_shows() {
    let (_directory, path) = place();
    let bytes = write(&path);
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    for place in 0..lines.len() {
        let last = place == lines.len() - 1;
        let without = [&lines[..place], &lines[place + 1..]].concat().concat();
        // The last line can be cut off, and then only a head that was noted shows it.
        assert_eq!(verify(&without).is_ok(), last, "{place} removed");
        let twice = [&lines[..=place], &lines[place..]].concat().concat();
        assert!(verify(&twice).is_err(), "{place} doubled");
        if !last {
            let mut moved = lines.clone();
            moved.swap(place, place + 1);
            assert!(verify(&moved.concat()).is_err(), "{place} moved");
        }
    }
    for place in 0..bytes.len() - 1 {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        assert!(verify(&changed).is_err(), "byte {place} changed");
    }
    let head = verify(&bytes).unwrap().head;
    let cut = lines[..lines.len() - 1].concat();
    assert!(journal::verify(&cut[..], Some(&head)).is_err());
}

#[test]
fn a_torn_last_line_is_tolerated_and_cut_off_when_the_journal_goes_on() {
    let (_directory, path) = place();
    let whole = write(&path);
    let entries_before = verify(&whole).unwrap().entries;
    for torn in [1, 30, 100] {
        fs::write(&path, &whole[..whole.len() - torn]).unwrap();
        let verified = verify(&fs::read(&path).unwrap()).unwrap();
        assert!(verified.is_torn);
        assert_eq!(verified.entries, entries_before - 1);
        let after = write(&path);
        let verified = verify(&after).unwrap();
        assert!(!verified.is_torn);
        assert!(entries(&after).iter().any(|entry| entry["event"] == "repaired"));
    }
}

#[test]
fn a_file_that_is_no_journal_is_left_alone() {
    let (_directory, path) = place();
    for text in ["hello\n".to_owned(), "hello".to_owned(), "x".repeat(100_000), "{}\n".repeat(10_000)] {
        fs::write(&path, &text).unwrap();
        let error = Journal::open(&path).unwrap_err();
        assert!(matches!(error, JournalError::Broken { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_could_not_be_written_is_counted() {
    // A file on a disk that is always full.
    let journal = Journal::open("/dev/full").unwrap();
    assert_eq!((journal.lost(), journal.is_failing()), (0, false));
    let keys = KeyRing::builder(MemorySource, Epochs::daily()).on_event(journal.recorder()).start().unwrap();
    journal.flush();
    assert_eq!((journal.lost(), journal.is_failing()), (1, true));
    for count in [3, 5] {
        keys.rotate().unwrap();
        // Told by a thread of the ring's.
        while journal.lost() < count {
            thread::yield_now();
        }
    }
    assert_eq!((journal.lost(), journal.is_failing()), (5, true));
}

#[test]
fn two_processes_can_not_write_one_journal() {
    let (_directory, path) = place();
    let _journal = Journal::open(&path).unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::Locked)));
}

#[test]
fn garbage_never_makes_it_panic() {
    let (_directory, path) = place();
    let bytes = write(&path);
    for cut in 0..bytes.len() {
        let _ = verify(&bytes[cut..]);
        let _ = verify(&bytes[..cut]);
    }
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&[0xff; 10_000]).unwrap();
    assert!(verify(&fs::read(&path).unwrap()).is_err());
    for text in ["\n", "\"}\n", ",\"chain\":\"\"}\n", "{\"entry\":99999999999999999999,\n"] {
        assert!(verify(text.as_bytes()).is_err(), "{text:?}");
    }
}
