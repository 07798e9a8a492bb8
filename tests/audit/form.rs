//! Which forms of an address are found, and what is none.

use std::collections::BTreeSet;

use crate::{
    folder::Folder,
    hex,
    report::{forms, report},
};

#[test]
fn every_form_is_found_and_called_what_it_is() {
    let folder = Folder::new();
    for address in ["203.0.113.7", "2001:db8:85a3:8d3:1319:8a2e:370:7348"] {
        let known = include_str!("../vectors/audit.tsv").lines().filter(|line| !line.starts_with('#'));
        let known: Vec<Vec<&str>> = known.map(|line| line.split('\t').collect()).collect();
        // Four bytes that can be printed are any four letters of any text.
        let is_word = |fields: &[&str]| {
            let bytes = hex::bytes(fields[2]);
            bytes.len() == 4 && bytes.iter().all(|byte| (b' '..=b'~').contains(byte))
        };
        let known: Vec<_> = known.into_iter().filter(|fields| fields[0] == address && !is_word(fields)).collect();
        assert!(known.len() > 400, "{}", known.len());
        // Each in a file of its own, with a log around.
        let name = |number: usize| format!("{}/{number}.log", address.replace(':', "-"));
        for (number, fields) in known.iter().enumerate() {
            let line = [b"at 12:34:56 somebody <", hex::bytes(fields[2]).as_slice(), b"> did it\n"].concat();
            folder.write(&name(number), &[b"nothing here\n".repeat(3).as_slice(), &line, b"and on\n"].concat());
        }
        let (report, code) = report(&["--search-only", address, "--search", &folder.path(&address.replace(':', "-"))]);
        assert_eq!(code, 1);
        let mut wrong = Vec::new();
        for (number, fields) in known.iter().enumerate() {
            let path = folder.path(&name(number));
            let found: Vec<_> =
                report["findings"].as_array().unwrap().iter().filter(|find| find["in"] == path).collect();
            let is_right = found.iter().any(|find| find["form"] == fields[1] && find["count"] == 1);
            if !is_right || found.len() != 1 {
                let found: Vec<_> = found.iter().map(|find| &find["form"]).collect();
                wrong.push(format!("{} {}: {found:?}", fields[1], fields[2]));
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), known.len(), wrong.join("\n"));
    }
}

#[test]
fn what_only_looks_like_it_is_not_found() {
    let folder = Folder::new();
    let log = folder.write(
        "a.log",
        b"203.0.113.77 1203.0.113.7 203.0.113.71 203.0.113.0/24 2001:db8::7:12 2001:db8:0:1::7:1 34058037830 acb007107 cb0071070 \
          7.113.0.2031 [203,0,113,77] 203-0-113-77 YywBxBw 0313.0.0161.070\n",
    );
    let (found, code) = report(&["--search-only", "203.0.113.7", "2001:db8:0:2::7:1", "--search", &log]);
    assert_eq!((forms(&found, "findings"), code), (BTreeSet::new(), 0));
}

#[test]
fn a_place_is_found_wherever_pieces_are_cut() {
    let folder = Folder::new();
    for before in [0, 200, 4090, 4096, 262_144 - 300, 262_144 - 256, 262_144 - 10, 262_144 + 3] {
        for planted in ["203.0.113.7", "cb007107", "203.0.113.7 and base64 MjAzLjAuMTEzLjc="] {
            let log = folder.write("a.log", format!("{}{planted}{}", " ".repeat(before), " ".repeat(1000)).as_bytes());
            let (report, code) = report(&["--search-only", "203.0.113.7", "--search", &log]);
            let finds = report["findings"].as_array().unwrap();
            assert_eq!(code, 1, "{before} {planted}");
            assert_eq!(finds.len(), 1 + usize::from(planted.contains("base64")), "{before} {planted}");
            assert!(finds.iter().all(|find| find["count"] == 1), "{before} {planted}");
        }
    }
}

#[test]
fn packed_bytes_are_found_in_a_text_wherever_blocks_are_cut() {
    let folder = Folder::new();
    for before in 4092..=4096 {
        for (address, packed, form) in [
            ("203.0.113.7", [203, 0, 113, 7], "packed bytes"),
            ("203.0.113.13", [0x82, 0xb2, 0x4b, 0x61], "CRC32 of the text, dotted; packed bytes"),
        ] {
            let text = [vec![b'x'; before], packed.to_vec(), vec![b'x'; 4000]].concat();
            let log = folder.write("a.log", &text);
            let (found, code) = report(&["--search-only", address, "--search", &log]);
            assert_eq!((forms(&found, "findings"), code), (BTreeSet::from([form.to_owned()]), 1), "{before}");
        }
    }
}

#[test]
fn what_chance_explains_is_possible_and_no_finding() {
    let folder = Folder::new();
    let mut state = 0x5eed_0123_4567_89ab_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()
    };
    let noise: Vec<u8> = (0..4 << 20).flat_map(|_| random()).collect();
    let addresses: Vec<_> = (1..255).map(|last| format!("203.0.113.{last}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let noisy = folder.write("noise", &noise);
    let search = |path: &str| report(&[&["--search-only"], addresses.as_slice(), &["--search", path]].concat());
    let (found, code) = search(&noisy);
    assert_eq!((forms(&found, "findings"), code), (BTreeSet::new(), 0));
    assert!(!forms(&found, "possible").is_empty());

    // A number that is the CRC32 of one address by chance may be logged twice, but not ten times.
    let numbers: String = (0..10_000).map(|_| format!("{} ", u64::from_be_bytes(random()) >> 32)).collect();
    let checksum = {
        let mut checksum = flate2::Crc::new();
        checksum.update(b"203.0.113.7");
        checksum.sum()
    };
    for (times, code) in [(2, 0), (10, 1)] {
        let log = format!("{numbers}\n{}", format!("of stream {checksum}\n").repeat(times));
        let (found, exit) = search(&folder.write("log", log.as_bytes()));
        assert_eq!(exit, code);
        let kind = if code == 0 { "possible" } else { "findings" };
        assert!(!forms(&found, kind).is_empty(), "{times}");
    }

    // More than chance explains.
    let leaks: Vec<u8> = (1..255).flat_map(|last| [203, 0, 113, last, 9, 9]).collect();
    let (found, code) = search(&folder.write("leak", &[noise, leaks].concat()));
    assert_eq!(code, 1);
    assert!(forms(&found, "findings").contains("packed bytes"));
}
