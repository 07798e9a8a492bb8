//! Any bytes: nothing panics, what the oracle knows is found, and pieces are scrubbed like the whole.
#![no_main]

#[path = "../oracle.rs"]
mod oracle;

use std::io::Write as _;

use ipveil::{Scrubber, scrub::ScrubWriter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let scrubber = Scrubber::word("(ip)").expect("it is clean");
    let found: Vec<_> = scrubber.find(bytes).collect();
    oracle::check(bytes, &found);

    let mut writer = ScrubWriter::new(scrubber.clone(), Vec::new());
    for piece in bytes.chunks(1 + bytes.len() / 3) {
        writer.write_all(piece).expect("a vector takes all");
    }
    let in_pieces = writer.into_inner().expect("a vector takes all");
    let lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let whole: Vec<u8> = lines.flat_map(|line| scrubber.scrub(line).into_owned()).collect();
    assert_eq!(in_pieces, whole);
});
