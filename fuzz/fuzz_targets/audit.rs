//! Any bytes as what `ipveil audit` searches: nothing panics, what is planted in them is found, and where it is said to be
//! there is something.
#![no_main]
#![expect(dead_code, reason = "a part of the program, all of which uses it")]

use std::{net::IpAddr, sync::LazyLock};

use libfuzzer_sys::fuzz_target;

#[path = "../../src/bin/ipveil/audit/chance.rs"]
mod chance;
#[path = "../../src/bin/ipveil/audit/forms.rs"]
mod forms;
#[path = "../../src/bin/ipveil/audit/index.rs"]
mod index;
#[path = "../../src/bin/ipveil/audit/search.rs"]
mod search;

const CANARIES: [&str; 4] = ["203.0.113.7", "198.51.100.201", "2001:db8:4bb0:1c:99::f7", "127.93.28.4"];

/// A searcher of all canaries, and everything that they can look like, except for what is so short that only binary data is
/// searched for it.
static SOUGHT: LazyLock<(search::Searcher, Vec<(usize, Vec<u8>)>)> = LazyLock::new(|| {
    let canaries = CANARIES.map(|canary| canary.parse::<IpAddr>().expect("it is an address"));
    let mut all = Vec::new();
    for (number, canary) in canaries.iter().enumerate() {
        forms::sought(*canary, |sought| {
            if sought.bytes.len() >= 6 {
                all.push((number, sought.bytes.to_vec()));
            }
        });
    }
    (search::Searcher::new(&canaries).expect("the system has random numbers"), all)
});

fuzz_target!(|input: (u16, u16, &[u8])| {
    let (which, place, around) = input;
    let (searcher, sought) = &*SOUGHT;
    let (canary, planted) = &sought[usize::from(which) % sought.len()];
    let (before, behind) = around.split_at(usize::from(place).min(around.len()));
    let text = [before, b"\n", planted, b"\n", behind].concat();
    let outcome = searcher.search(&text[..], None, 0, 1);
    assert_eq!(outcome.missing, None, "memory can be read");
    assert_eq!(outcome.bytes, text.len() as u64);
    let finds = searcher.judge(&outcome);
    assert!(finds.iter().any(|find| find.canary == *canary), "{:?} is not found", String::from_utf8_lossy(planted));
    for place in finds.iter().flat_map(|find| &find.seen.places) {
        assert!(place.offset < text.len() as u64, "there is no such place");
        let lines = 1 + text.iter().filter(|&&byte| byte == b'\n').count() as u64;
        assert!(place.line.is_none_or(|line| (1..=lines).contains(&line)), "there is no such line");
    }
});
