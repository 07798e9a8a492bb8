//! What comes through a writer, however it is cut.

use std::io::Write as _;

use ipveil::scrub::{ScrubWriter, cut};

use crate::scrubber::word;

#[test]
fn a_line_is_scrubbed_however_it_is_cut() {
    let text = "IP 1.2.3.4.51234 > 2.3.4.5.443: Flags [S]\nx -> 2.3.4.5.443\nfrom 203.0.113.7 to [2001:db8::7]:443\n\n\x1b[3mfe80::7%eth0\x1b[0m ec2-203-0-113-7.example, last 203.0.113.7";
    for size in 1..text.len() {
        let mut writer = ScrubWriter::new(word(), Vec::new());
        for piece in text.as_bytes().chunks(size) {
            assert_eq!(writer.write(piece).unwrap(), piece.len());
            writer.flush().unwrap();
        }
        let written = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        assert!(word().count(written.as_bytes()).is_empty(), "in pieces of {size}: {written}");
        assert_eq!(written, word().scrub_str(text), "in pieces of {size}");
    }
}

#[test]
fn a_line_without_an_end_is_scrubbed_and_let_go() {
    let mut writer = ScrubWriter::new(word(), Vec::new());
    for _ in 0..20_000 {
        writer.write_all(b"some text and 203.0.113.7, then").unwrap();
    }
    let written = writer.into_inner().unwrap();
    let text = String::from_utf8(written).unwrap();
    assert_eq!(text.matches("(ip)").count(), 20_000);
    assert!(!text.contains("203"));
}

#[test]
fn a_word_without_an_end_is_cut_between_addresses() {
    for (address, separator) in [
        ("203.0.113.77", "%20"),
        ("203.0.113.77", "%2520"),
        ("203.0.113.77", "%2f"),
        ("2001:db8:1:2:3:4:5:6", "%20"),
        ("2001:db8:1:2:3:4:5:6", "%0A"),
    ] {
        let mut writer = ScrubWriter::new(word(), Vec::new());
        for _ in 0..20_000 {
            writer.write_all(format!("{address}{separator}").as_bytes()).unwrap();
        }
        let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        assert!(!text.contains(address), "{address}{separator}");
        assert_eq!(text.matches("(ip)").count(), 20_000, "{address}{separator}");
    }
}

/// Takes a few bytes at a time, and fails in between.
struct Unwilling {
    taken: Vec<u8>,
    calls: usize,
}

impl std::io::Write for Unwilling {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.calls += 1;
        match self.calls % 3 {
            0 => Err(std::io::ErrorKind::Interrupted.into()),
            1 => Err(std::io::ErrorKind::WouldBlock.into()),
            _ => {
                let length = bytes.len().min(7);
                self.taken.extend_from_slice(&bytes[..length]);
                Ok(length)
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_fails_loses_nothing() {
    let mut writer = ScrubWriter::new(word(), Unwilling { taken: Vec::new(), calls: 0 });
    let mut expected = String::new();
    for number in 0..200 {
        let line = format!("line {number} from 203.0.113.7, and more of it\n");
        expected.push_str(&word().scrub_str(&line));
        while writer.write(line.as_bytes()).is_err() {}
    }
    while writer.flush().is_err() {}
    let Ok(inner) = writer.into_inner() else { panic!("nothing is left to be written") };
    assert_eq!(String::from_utf8(inner.taken).unwrap(), expected);
}

#[test]
fn cuts_are_where_no_address_is() {
    for (text, place) in [
        ("a\nb", 2),
        ("a b203.0", 2),
        ("203.0.113.7,203.0", 12),
        ("xyz203.0", 3),
        ("1.2.3.4-1.2", 7),
        ("1.2.3.4%201.2.3.4", 10),
        ("1.2.3.4%25252c1.2", 14),
        ("1.2.3.4%411.2", 13),
        ("1.2.3.4%25", 10),
        ("a 1.2.3.4.5 > ", 12),
        ("a 1.2.3.4.5 -> ", 12),
        ("IP 1", 3),
        ("12:00 IP ", 6),
        ("> 1", 2),
        ("123", 3),
        ("", 0),
    ] {
        assert_eq!(cut(text.as_bytes()), place, "{text}");
    }
}
