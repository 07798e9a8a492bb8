//! What a dump of this process's memory would show, where the system has `/proc`.

use std::{
    fs::{self, File},
    io::{BufRead, Read, Seek, SeekFrom},
};

use crate::random::write_key;

/// A key that is searched for, changed in each byte: so that it is not found here.
pub(crate) struct Masked([u8; 32]);

const MASK: u8 = 0xa5;

impl Masked {
    pub(crate) fn new(words: [u64; 4]) -> Self {
        let mut masked = [0; 32];
        write_key(words.map(|word| word ^ u64::from_ne_bytes([MASK; 8])), &mut masked);
        Self(masked)
    }

    fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() >= 32 && bytes.iter().zip(self.0).all(|(&byte, masked)| byte ^ MASK == masked)
    }
}

/// Which of these keys are anywhere in memory, and how many bytes were searched. Nothing if memory can't be read.
pub(crate) fn search(keys: &[Masked]) -> Option<(Vec<bool>, u64)> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let mut memory = File::open("/proc/self/mem").ok()?;
    let mut found = vec![false; keys.len()];
    let mut searched = 0;
    let mut chunk = vec![0; 1 << 20];
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let [mut start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap_or(u64::MAX));
        while rest.starts_with('r') && start < end && memory.seek(SeekFrom::Start(start)).is_ok() {
            let length = chunk.len().min(usize::try_from(end - start).ok()?);
            // What can't be read, no dump has either: that is where the ring keeps its keys, if it can.
            if memory.read_exact(&mut chunk[..length]).is_err() {
                break;
            }
            for (key, found) in keys.iter().zip(&mut found) {
                *found |= is_in(&chunk[..length], key);
            }
            // Chunks overlap, so that no key is cut in two.
            let step = if length < chunk.len() { length } else { length - 31 };
            start += step as u64;
            searched += step as u64;
        }
    }
    Some((found, searched))
}

fn is_in(bytes: &[u8], key: &Masked) -> bool {
    let first = key.0[0] ^ MASK;
    let mut rest = bytes;
    // The library's search for one byte is fast in a debug build, too.
    while rest.skip_until(first).is_ok_and(|skipped| skipped > 0) {
        let place = bytes.len() - rest.len();
        if key.is(&bytes[place - 1..]) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_memory_is_found_and_nothing_else() {
        let words = [0x0102_0304_0506_0708, 2, 3, 0x1112_1314_1516_1718];
        let mut kept = vec![[0; 32]];
        write_key(words, &mut kept[0]);
        let keys = [Masked::new(words), Masked::new([0x0102_0304_0506_0708, 2, 3, 0x2122_2324_2526_2728])];
        if let Some((found, searched)) = search(&keys) {
            assert_eq!(found, [true, false]);
            assert!(searched > 0);
        }
        drop(kept);
    }
}
