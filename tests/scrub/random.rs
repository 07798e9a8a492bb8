//! What holds for any line.

use std::io::Write as _;

use ipveil::{policy::View, scrub::ScrubWriter};
use proptest::{collection::vec, prelude::*};

use crate::scrubber::{with, word};

/// Pieces that come close to addresses, with nothing between them.
fn line() -> impl Strategy<Value = Vec<u8>> {
    vec(piece(), 0..12).prop_map(|pieces| pieces.concat().into_bytes())
}

/// The same, with something between them.
fn words() -> impl Strategy<Value = Vec<u8>> {
    let between = prop_oneof!["[ \"=,;\\[\\]()<>/@|\\n]", Just(": ".to_owned()), Just("://".to_owned())];
    vec((piece(), between), 0..12).prop_map(|pieces| {
        pieces.into_iter().flat_map(|(piece, between)| [piece, between]).collect::<String>().into_bytes()
    })
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<[u8; 4]>().prop_map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
        4 => (any::<u128>(), any::<u128>()).prop_map(|(bits, mask)| std::net::Ipv6Addr::from(bits & mask).to_string()),
        1 => any::<u128>().prop_map(|bits| std::net::Ipv6Addr::from(bits & 0xffff << 112 | bits & 0xffff).to_string()),
        3 => "[0-9a-fA-F]{0,4}:{1,2}",
        1 => "([0-9a-f]\\.){31,33}",
        1 => (any::<u128>(), any::<u128>()).prop_map(|(bits, mask)| {
            std::net::Ipv6Addr::from(0x2001_0db8 << 96 | bits & mask & (u128::MAX >> 32)).to_string().replace(':', "-")
        }),
        3 => "[0-9]{1,3}[.-]",
        2 => "[ \"=,;\\[\\]()<>/@|\\n]",
        1 => "(%3A|%2E|%25|%22|\\\\n|\\\\x22|\\\\u0022|\x1b\\[3m|#011|%eth0|%12|%br-4f|%en0\\.1|\\.in-addr\\.arpa|\\.ip6\\.arpa|/24|/48|:443|:51234|::| port 51234|#51234|\\(51234\\)|/51234)",
        1 => "[a-z_]{1,4}",
        1 => "(IP |> |->|-|Chrome/|std::)",
        1 => any::<([u8; 4], u16)>().prop_map(|(octets, port)| format!("{}.{port}", std::net::Ipv4Addr::from(octets))),
        1 => "\\.?[0-9]{5,10}\\.",
        1 => "(:?[0-9]{5,10}:?|:[0-9a-f]{5,10}|E|node|12:00:00:|00:16:3e:5e:6c:00:|[23][0-9a-f]{3}:)",
        1 => (any::<u128>(), any::<u128>()).prop_map(|(bits, mask)| {
            std::net::Ipv6Addr::from(0x2001_0db8 << 96 | bits & mask & (u128::MAX >> 32)).to_string()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn what_the_oracle_knows_is_found_and_no_more(line in line(), words in words()) {
        let found: Vec<_> = word().find(&words).collect();
        crate::oracle::check(&words, &found);
        let found: Vec<_> = word().find(&line).collect();
        crate::oracle::check(&line, &found);
    }

    #[test]
    fn no_part_of_an_address_is_left_whatever_it_is_joined_to(
        before in prop::sample::select(BEFORE), (bits, mask) in any::<(u128, u128)>(), after in prop::sample::select(AFTER),
    ) {
        let address = std::net::Ipv6Addr::from(0x2001_0db8 << 96 | bits & mask & (u128::MAX >> 32)).to_string();
        let line = format!("{before}{address}{after}");
        let place = before.len()..before.len() + address.len();
        let is_whole = word().find(line.as_bytes()).any(|found| found.start <= place.start && place.end <= found.end);
        prop_assert!(is_whole, "{line} became {}", word().scrub_str(&line));
    }

    #[test]
    fn to_scrub_twice_does_no_more_than_to_scrub_once(line in words()) {
        for scrubber in [word(), word().products(["x"])] {
            let once = scrubber.scrub(&line);
            prop_assert_eq!(&scrubber.scrub(&once), &once, "{:?}", String::from_utf8_lossy(&line));
        }
    }

    #[test]
    fn pieces_are_scrubbed_like_the_whole(line in line(), size in 1_usize..20) {
        let mut writer = ScrubWriter::new(word(), Vec::new());
        for piece in line.chunks(size) {
            writer.write_all(piece).unwrap();
        }
        prop_assert_eq!(&writer.into_inner().unwrap()[..], &*lines(&line));
    }

    #[test]
    fn any_bytes_are_scrubbed(bytes: Vec<u8>) {
        let found: Vec<_> = word().find(&bytes).collect();
        crate::oracle::check(&bytes, &found);
    }
}

/// What stands before and behind an address with nothing between.
const BEFORE: &[&str] = &[
    "",
    ":",
    "1:",
    "rl:",
    "login::",
    "E",
    "ip=3D",
    "node",
    "TYPE",
    "1700000000:",
    "cafebabe:",
    "12:00:00:",
    "1:12:00:00:",
    "00:16:3e:5e:6c:00:",
    "::1:",
    "fe80::1:",
    "3000:",
    "64:ff9b::1:",
    "a::b:",
];

const AFTER: &[&str] = &[
    "",
    ":",
    "::",
    ":80",
    ":51234",
    ":65536",
    ":1700000000",
    ":51234:1700000000",
    ":cafebabe01",
    "::443",
    ":dead",
    ":dead:",
    ":failed",
    ".",
    ".443",
    ":fe80::2",
    "::2",
    ":2001:db8::8",
    ":203.0.113.7",
    "%eth0",
];

/// Scrubbed line by line.
fn lines(text: &[u8]) -> Vec<u8> {
    text.split_inclusive(|&byte| byte == b'\n').flat_map(|line| word().scrub(line).into_owned()).collect()
}

#[test]
fn stand_ins_are_clean() {
    let scrubbers = [
        with(View::token("t")),
        with(View::address("a")),
        with(View::address_v4("v")),
        with(View::network("n")),
        with(View::network("n").keep(20, 40)),
    ];
    proptest!(ProptestConfig::with_cases(2_000), |(line in words())| {
        for scrubber in &scrubbers {
            let once = scrubber.scrub(&line);
            let twice = scrubber.scrub(&once);
            prop_assert_eq!(&twice, &once, "{:?}", String::from_utf8_lossy(&line));
        }
    });
}
