//! The PROXY protocol: cases from other projects' own tests, any bytes in any pieces, and what is told to the next server.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    borrow::Cow,
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use http::HeaderMap;
use ipveil::{
    Client, KeyRing, Peer, Policy, Resolver, TrustedProxies,
    keys::{Epochs, MemorySource},
    policy::{Scope, View},
    proxy_protocol::{Announcement, Header, HeaderError, Part, Progress, Receiver, Version, begins},
    resolve::Withheld,
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde::Deserialize;

mod hex;

const CASES: [&str; 3] = [
    include_str!("vectors/proxyproto-envoy.json"),
    include_str!("vectors/proxyproto-go-proxyproto.json"),
    include_str!("vectors/proxyproto-ppp.json"),
];

/// Where ipveil differs on purpose: the case, what it gives, and why.
const DIFFERENT: &[(&str, Outcome, &str)] = &[
    ("gopp-002", Outcome::Incomplete, ENDED),
    ("gopp-007", Outcome::Incomplete, ENDED),
    ("gopp-032", Outcome::Incomplete, ENDED),
    ("gopp-034", Outcome::Incomplete, ENDED),
    ("gopp-035", Outcome::Incomplete, "an unspecified family is legal, and the length is not there yet"),
    ("gopp-038", Outcome::Incomplete, ENDED),
    ("gopp-043", Outcome::Incomplete, ENDED),
    ("gopp-049", Outcome::Incomplete, ENDED),
    ("gopp-059", Outcome::Invalid(HeaderError::Malformed(Part::Extensions)), TORN),
    ("gopp-064", Outcome::Invalid(HeaderError::Malformed(Part::Extensions)), TORN),
    ("gopp-065", Outcome::Invalid(HeaderError::Malformed(Part::Extensions)), TORN),
    ("gopp-067", Outcome::Invalid(HeaderError::Malformed(Part::Extensions)), TORN),
    (
        "ppp-v2-049",
        Outcome::Complete { length: 28, peer: Cow::Borrowed(SENDER) },
        "after LOCAL the family means nothing, and is ignored",
    ),
    ("ppp-v2-051", Outcome::Invalid(HeaderError::Malformed(Part::Extensions)), TORN),
];
const ENDED: &str = "it was the end of the connection, of which the reader is not told";
const TORN: &str = "extensions that end behind the end are an error, also where none of them is asked for";

#[test]
fn cases_of_other_projects_come_out_alike_or_differ_for_a_reason() {
    let edge = Edge::new();
    let mut wrong = Vec::new();
    let mut different = HashSet::new();
    for case in cases() {
        let (ours, theirs) = (edge.outcome(&case.bytes()), case.theirs(&edge));
        let alike = match (&ours, &theirs) {
            (Outcome::Invalid(_), Theirs::Invalid) | (Outcome::Incomplete, Theirs::Incomplete) => true,
            (ours, Theirs::Valid(theirs)) => ours == theirs,
            _ => false,
        };
        match DIFFERENT.iter().find(|(id, ..)| *id == case.id) {
            Some((id, expected, _)) => {
                different.insert(*id);
                if alike {
                    wrong.push(format!("{id}: agrees on {ours:?}, so it is no difference any more"));
                } else if ours != *expected {
                    wrong.push(format!("{id}: gives {ours:?}, not {expected:?}"));
                }
            }
            None if !alike => wrong.push(format!("{}: gives {ours:?}, not {theirs:?} ({})", case.id, case.note)),
            None => {}
        }
    }
    wrong.extend(DIFFERENT.iter().filter(|(id, ..)| !different.contains(id)).map(|(id, ..)| format!("{id}: no case")));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_case_in_every_two_pieces_is_incomplete_until_it_is_complete() {
    for case in cases() {
        assert_read_in_pieces(&case.bytes());
    }
}

#[test]
fn lines_are_read_strictly() {
    use Part::{Destination, DestinationPort, Family, LineEnd, Source, SourcePort, Words};
    for (line, part) in [
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2 \r\n", Words),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1\r\n", Words),
        ("PROXY TCP4 203.0.113.7  192.0.2.1 1 2\r\n", Words),
        ("PROXY TCP4\r\n", Words),
        ("PROXY TCP4 203.0.113.07 192.0.2.1 1 2\r\n", Source),
        ("PROXY TCP4 2001:db8::7 192.0.2.1 1 2\r\n", Source),
        ("PROXY TCP6 203.0.113.7 2001:db8::1 1 2\r\n", Source),
        ("PROXY TCP6 2001:db8::7%eth0 2001:db8::1 1 2\r\n", Source),
        ("PROXY TCP6 [2001:db8::7] 2001:db8::1 1 2\r\n", Source),
        ("PROXY TCP4 203.0.113.7 192.0.2.256 1 2\r\n", Destination),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 01 2\r\n", SourcePort),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 65536 2\r\n", SourcePort),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 +2\r\n", DestinationPort),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2\n", LineEnd),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\r\n", LineEnd),
        ("PROXY UNKNOWN some\nthing\r\n", LineEnd),
        ("PROXY UNKNOWNS\r\n", Family),
        ("PROXY tcp4 203.0.113.7 192.0.2.1 1 2\r\n", Family),
        ("PROXY UDP4 203.0.113.7 192.0.2.1 1 2\r\n", Family),
    ] {
        assert_eq!(read(line.as_bytes()).err(), Some(HeaderError::Malformed(part)), "{line}");
    }
    for line in ["proxy TCP4 203.0.113.7 192.0.2.1 1 2\r\n", "PROXY\tTCP4", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n"]
    {
        assert_eq!(read(line.as_bytes()).err(), Some(HeaderError::Missing), "{line}");
    }
}

#[test]
fn a_line_has_107_bytes_at_most() {
    let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16)).into_bytes();
    assert_eq!(complete(&line(107)).length(), 107);
    for length in [108, 500] {
        assert_eq!(read(&line(length)).err(), Some(HeaderError::TooLong));
        assert_read_in_pieces(&line(length));
        assert_eq!(read(&line(length)[..106]).err(), Some(HeaderError::TooLong));
    }
    for end in ["\n", "\r", "\rx"] {
        assert_read_in_pieces(format!("PROXY UNKNOWN {}{end}", "x".repeat(91)).as_bytes());
        assert_read_in_pieces(format!("PROXY UNKNOWN {}{end}", "x".repeat(92)).as_bytes());
    }
}

#[test]
fn a_header_that_is_too_long_is_refused_when_it_says_so() {
    let v2 = |length: u16| [V2, &[0x21, 0x00], &length.to_be_bytes()].concat();
    assert_eq!(read(&v2(4096 - 16 + 1)).err(), Some(HeaderError::TooLong));
    assert!(matches!(read(&v2(4096 - 16)), Ok(Progress::Incomplete(4080))));
    let receiver = Receiver::new(trusted()).longest(600);
    assert_eq!(receiver.read(sender(), &v2(600 - 16 + 1)).err(), Some(HeaderError::TooLong));
    // And where that would be less than every receiver takes:
    let receiver = Receiver::new(trusted()).longest(0);
    assert!(matches!(receiver.read(sender(), &v2(536 - 16)), Ok(Progress::Incomplete(520))));
}

#[test]
fn what_is_wrong_in_the_head_is_known_from_the_head() {
    use Part::{Command, Family, Length, Version};
    for (head, part) in [
        (&[0x11][..], Version),
        (&[0x31], Version),
        (&[0x22], Command),
        (&[0x21, 0x41], Family),
        (&[0x21, 0x13], Family),
        (&[0x21, 0x11, 0, 11], Length),
        (&[0x21, 0x21, 0, 35], Length),
        (&[0x21, 0x31, 0, 215], Length),
    ] {
        assert_eq!(read(&[V2, head].concat()).err(), Some(HeaderError::Malformed(part)), "{head:x?}");
    }
}

#[test]
fn a_checksum_is_checked() {
    let header = |crc: [u8; 4]| v2(0x11, &[&V4[..], &[3, 0, 4], &crc, &[4, 0, 1, 0]].concat());
    let right = crc32c(&header([0; 4])).to_be_bytes();
    complete(&header(right));
    for place in 0..4 {
        let mut wrong = right;
        wrong[place] ^= 1;
        assert_eq!(read(&header(wrong)).err(), Some(HeaderError::Checksum));
    }
    // Of what was sent, not of what arrived.
    let mut other = header(right);
    other[16] ^= 1;
    assert_eq!(read(&other).err(), Some(HeaderError::Checksum));
}

#[test]
fn extensions_have_to_hold_together() {
    let malformed = Some(HeaderError::Malformed(Part::Extensions));
    for extensions in [
        &[1][..],
        &[1, 0],
        &[1, 0, 2, b'h'],
        // A checksum of three bytes, and two checksums.
        &[3, 0, 3, 0, 0, 0],
        &[0x20, 0, 4, 1, 0, 0, 0],
        // Torn inside of TLS's.
        &[0x20, 0, 8, 1, 0, 0, 0, 0, 0x21, 0, 1],
    ] {
        assert_eq!(read(&v2(0x11, &[&V4[..], extensions].concat())).err(), malformed, "{extensions:x?}");
    }
    let unique_id = |length: u8| v2(0x11, &[&V4[..], &[5, 0, length], &vec![7; length.into()]].concat());
    complete(&unique_id(128));
    assert_eq!(read(&unique_id(129)).err(), malformed);
}

#[test]
fn whether_the_client_speaks_tls_is_said() {
    let header = |flags: u8| complete(&v2(0x11, &[&V4[..], &[0x20, 0, 5, flags, 0, 0, 0, 0]].concat()));
    assert!(header(1).is_tls());
    assert!(header(7).is_tls());
    assert!(!header(0).is_tls());
    assert!(!complete(&v2(0x11, &V4)).is_tls());
}

#[test]
fn the_peer_is_whom_the_header_names_and_else_nobody() {
    let edge = Edge::new();
    let v6 = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0; 20]].concat();
    for (bytes, peer) in [
        (v2(0x11, &V4), Some("203.0.113.7")),
        (v2(0x12, &V4), Some("203.0.113.7")),
        (v2(0x21, &v6), Some("2001:db8::7")),
        (v2(0x21, &[&[0; 10][..], &[255, 255, 203, 0, 113, 7], &[0; 20]].concat()), Some("203.0.113.7")),
        // Unspecified, a Unix socket, the unspecified address.
        (v2(0x00, &V4), None),
        (v2(0x00, b"\xff"), None),
        (v2(0x31, &[b'/'; 216]), None),
        (v2(0x11, &[0; 12]), None),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN 203.0.113.7 192.0.2.1 1 2\r\n".to_vec(), None),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n".to_vec(), Some("2001:db8::7")),
        (b"PROXY TCP6 ::ffff:203.0.113.7 2001:db8::1 0 65535\r\n".to_vec(), Some("203.0.113.7")),
    ] {
        let expected = peer.map_or_else(Peer::unknown, peer_at);
        assert_eq!(edge.shown(complete(&bytes).peer()), edge.shown(expected), "{peer:?}");
    }
}

#[test]
fn local_is_the_sender_whatever_else_it_says() {
    let edge = Edge::new();
    for (family, block) in [(0x00, &[][..]), (0x11, &V4), (0x11, &[1, 2]), (0x77, b"\xff")] {
        let mut bytes = v2(family, block);
        bytes[12] = 0x20;
        let header = complete(&bytes);
        assert_eq!(header.length(), bytes.len());
        assert_eq!(edge.shown(header.peer()), edge.shown(sender()));
    }
}

#[test]
fn an_unknown_client_is_not_believed_in_the_name_of_the_proxy() {
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", "198.51.100.9".parse().unwrap());
    let resolver = Resolver::behind(trusted(), ipveil::resolve::Source::x_forwarded_for());
    let peer = complete(b"PROXY UNKNOWN\r\n").peer();
    assert_eq!(resolver.resolve(peer, &headers).err(), Some(Withheld::NoPeerAddress));
}

#[test]
fn whoever_is_not_trusted_is_not_read() {
    let receiver = Receiver::new(trusted());
    for peer in [peer_at("198.51.100.9"), Peer::unix(), Peer::unknown()] {
        for bytes in [&b""[..], b"PROXY UNKNOWN\r\n", b"GET / HTTP/1.1\r\n"] {
            assert_eq!(receiver.read(peer, bytes).err(), Some(HeaderError::Untrusted));
        }
    }
}

#[test]
fn a_header_is_known_by_how_it_begins() {
    for (bytes, answer) in [
        (&b""[..], None),
        (b"P", None),
        (b"PROXY", None),
        (b"PROXY ", Some(true)),
        (b"PRI * HTTP/2.0", Some(false)),
        (b"POST / HTTP/1.1", Some(false)),
        (b"\r\n", None),
        (b"\r\n\r\nGET /", Some(false)),
        (V2, Some(true)),
        (b"\x16\x03\x01", Some(false)),
    ] {
        assert_eq!(begins(bytes), answer, "{bytes:?}");
    }
}

#[test]
fn errors_and_headers_name_no_address() {
    let edge = Edge::new();
    let bytes = b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n";
    let error = read(&bytes[..40].iter().copied().chain(*b"\n").collect::<Vec<_>>()).unwrap_err();
    let announcement = edge.announce(Version::V1, "203.0.113.7", "address", "192.0.2.1:443");
    for text in [format!("{error} {error:?}"), format!("{:?}", complete(bytes)), format!("{announcement:?}")] {
        assert!(!text.contains("203.0.113") && !text.contains("40000"), "{text}");
    }
    assert!(!std::str::from_utf8(announcement.as_bytes()).unwrap().contains("203.0.113"));
}

#[test]
fn a_pseudonym_is_announced_in_the_family_that_holds_both_ends() {
    let edge = Edge::new();
    let ours = |view: &str| edge.client("203.0.113.7").pseudonym(view).to_string();
    let (v4, v6) = (ours("v4"), ours("address"));
    for (view, destination, line) in [
        ("address", "[2001:db8::1]:443", format!("PROXY TCP6 {v6} 2001:db8::1 0 443\r\n")),
        ("address", "192.0.2.1:443", format!("PROXY TCP6 {v6} ::ffff:192.0.2.1 0 443\r\n")),
        ("address", "0.0.0.0:0", format!("PROXY TCP6 {v6} :: 0 0\r\n")),
        ("v4", "192.0.2.1:443", format!("PROXY TCP4 {v4} 192.0.2.1 0 443\r\n")),
        ("v4", "[2001:db8::1]:443", format!("PROXY TCP6 ::ffff:{v4} 2001:db8::1 0 443\r\n")),
        ("v4", "[::]:0", format!("PROXY TCP4 {v4} 0.0.0.0 0 0\r\n")),
        ("token", "192.0.2.1:443", "PROXY UNKNOWN\r\n".to_owned()),
        ("network", "192.0.2.1:443", "PROXY UNKNOWN\r\n".to_owned()),
        ("none", "192.0.2.1:443", "PROXY UNKNOWN\r\n".to_owned()),
    ] {
        let announcement = edge.announce(Version::V1, "203.0.113.7", view, destination);
        assert_eq!(std::str::from_utf8(announcement.as_bytes()), Ok(&*line), "{view} {destination}");

        let binary = edge.announce(Version::V2, "203.0.113.7", view, destination);
        let (ours, theirs) = (complete(binary.as_bytes()), complete(line.as_bytes()));
        assert_eq!(ours.length(), binary.as_bytes().len());
        if line.contains("UNKNOWN") {
            assert_eq!(binary.as_bytes(), [V2, &[0x20, 0, 0, 0]].concat());
        } else {
            assert_eq!(edge.shown(ours.peer()), edge.shown(theirs.peer()));
        }
    }
    let withheld = edge.announce(Version::V1, "0.0.0.0", "address", "192.0.2.1:443");
    assert_eq!(withheld.as_bytes(), b"PROXY UNKNOWN\r\n");
}

#[test]
fn an_announced_pseudonym_passes_the_next_edge_unchanged() {
    let (first, second) = (Edge::new(), Edge::new());
    let pseudonym = first.client("203.0.113.7").pseudonym("address");
    for version in [Version::V1, Version::V2] {
        let announcement = first.announce(version, "203.0.113.7", "address", "192.0.2.1:443");
        assert_eq!(second.shown(complete(announcement.as_bytes()).peer()), pseudonym.to_string());
    }
    // From a client itself it would be somebody else's.
    assert_eq!(second.shown(Peer::from(pseudonym.address().unwrap())), "unknown");
}

proptest! {
    #[test]
    fn nothing_panics_and_pieces_are_read_like_the_whole(bytes in bytes()) {
        assert_read_in_pieces(&bytes);
    }

    #[test]
    fn what_is_announced_is_read(client: [u8; 16], is_v4: bool, destination: IpAddr, port: u16, in_v4: bool) {
        let address = if is_v4 { IpAddr::from(*client.first_chunk::<4>().unwrap()) } else { client.into() };
        let edge = Edge::new();
        let client = edge.client_at(Peer::from(address));
        let view = if in_v4 { "v4" } else { "address" };
        for version in [Version::V1, Version::V2] {
            let announcement = Announcement::new(version, &client, view, SocketAddr::new(destination, port));
            let header = complete(announcement.as_bytes());
            prop_assert_eq!(header.length(), announcement.as_bytes().len());
            prop_assert_eq!(header.version(), version);
            if let Some(pseudonym) = client.pseudonym(view).address().filter(|_| !in_v4) {
                prop_assert_eq!(edge.shown(header.peer()), pseudonym.to_string());
            }
        }
    }
}

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// From 203.0.113.7.
const V4: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0x9c, 0x40, 1, 0xbb];

fn v2(family: u8, block: &[u8]) -> Vec<u8> {
    [V2, &[0x21, family], &u16::try_from(block.len()).unwrap().to_be_bytes(), block].concat()
}

/// Bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// Any, and such as nearly are headers.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let words = select(vec![
        "PROXY ",
        "TCP4",
        "TCP6",
        "UNKNOWN",
        " ",
        "  ",
        "203.0.113.7",
        "2001:db8::7",
        "0",
        "65535",
        "65536",
        "\r",
        "\n",
        "\r\n",
        "x",
    ]);
    let line = vec(words, 0..12).prop_map(|words| format!("PROXY {}", words.concat()).into_bytes());
    let extensions = vec((any::<u8>(), vec(any::<u8>(), 0..12)), 0..5).prop_map(|extensions| {
        let whole = |(kind, value): (u8, Vec<u8>)| [vec![kind % 0x40, 0, value.len() as u8], value].concat();
        extensions.into_iter().flat_map(whole).collect::<Vec<_>>()
    });
    let binary =
        (any::<bool>(), select(vec![0x00, 0x10, 0x11, 0x21, 0x22, 0x31, 0x51]), vec(any::<u8>(), 0..60), extensions)
            .prop_map(|(fits, family, mut block, extensions)| {
                if fits {
                    block.resize([0, 12, 36, 216][usize::from(family >> 4) & 3], 0);
                }
                v2(family, &[block, extensions].concat())
            });
    prop_oneof![vec(any::<u8>(), 0..200), line, binary]
}

#[track_caller]
fn assert_read_in_pieces(bytes: &[u8]) {
    let whole = read(bytes);
    let mut missing = 0;
    for length in 0..=bytes.len() {
        match (read(&bytes[..length]), &whole) {
            (Ok(Progress::Incomplete(more)), _) => {
                assert!(more > 0 && length + more >= missing, "{length}: what was missing is not any more");
                missing = length + more;
            }
            (Ok(Progress::Complete(header)), Ok(Progress::Complete(whole))) => {
                assert!(length >= missing && header.length() <= length);
                assert_eq!(header.length(), whole.length());
                assert!(header.length() == length || length > whole.length(), "{length}: complete too late");
            }
            (Err(error), Err(whole)) => assert_eq!(error, *whole),
            (now, whole) => panic!("{length}: {now:?}, and {whole:?} in the end"),
        }
    }
}

fn trusted() -> TrustedProxies {
    TrustedProxies::parse(["10.0.0.0/8"]).unwrap()
}

const SENDER: &str = "the sender";

fn sender() -> Peer {
    peer_at("10.0.0.1")
}

#[track_caller]
fn peer_at(address: &str) -> Peer {
    address.parse::<IpAddr>().unwrap().into()
}

fn read(bytes: &[u8]) -> Result<Progress, HeaderError> {
    Receiver::new(trusted()).read(sender(), bytes)
}

#[track_caller]
fn complete(bytes: &[u8]) -> Header {
    match read(bytes) {
        Ok(Progress::Complete(header)) => header,
        other => panic!("{other:?}"),
    }
}

/// Peers can't be compared, but what a policy shows of them can.
struct Edge {
    policy: Policy,
    keys: KeyRing,
}

impl Edge {
    fn new() -> Self {
        let views = [View::address("address"), View::address_v4("v4"), View::token("token"), View::network("network")];
        let policy = Policy::new(Scope::unscoped(), views).unwrap();
        Self { policy, keys: KeyRing::start(MemorySource, Epochs::daily()).unwrap() }
    }

    fn client(&self, address: &str) -> Client {
        self.client_at(peer_at(address))
    }

    fn client_at(&self, peer: Peer) -> Client {
        let nobody = || IpAddr::from([0; 4]).into();
        let client = Resolver::direct().resolve(peer, &HeaderMap::new()).unwrap_or_else(|_| nobody());
        self.policy.client(&client, &self.keys)
    }

    fn shown(&self, peer: Peer) -> String {
        self.client_at(peer).pseudonym("address").to_string()
    }

    fn named(&self, peer: Peer) -> Cow<'static, str> {
        let shown = self.shown(peer);
        if shown == self.shown(sender()) { SENDER.into() } else { shown.into() }
    }

    fn announce(&self, version: Version, client: &str, view: &str, destination: &str) -> Announcement {
        Announcement::new(version, &self.client(client), view, destination.parse().unwrap())
    }

    fn outcome(&self, bytes: &[u8]) -> Outcome {
        match read(bytes) {
            Ok(Progress::Complete(header)) => {
                Outcome::Complete { length: header.length(), peer: self.named(header.peer()) }
            }
            Ok(Progress::Incomplete(_)) => Outcome::Incomplete,
            Err(error) => Outcome::Invalid(error),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Complete { length: usize, peer: Cow<'static, str> },
    Incomplete,
    Invalid(HeaderError),
}

#[derive(Debug)]
enum Theirs {
    Valid(Outcome),
    Invalid,
    Incomplete,
}

fn cases() -> impl Iterator<Item = Case> {
    CASES.iter().flat_map(|file| serde_json::from_str::<Cases>(file).unwrap().cases)
}

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    hex: String,
    valid: bool,
    #[serde(default)]
    incomplete: bool,
    note: String,
    fields: Option<Fields>,
}

#[derive(Deserialize)]
struct Fields {
    consumed: usize,
    command: Option<String>,
    src: Option<String>,
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        hex::bytes(&self.hex)
    }

    fn theirs(&self, edge: &Edge) -> Theirs {
        if self.incomplete {
            return Theirs::Incomplete;
        }
        if !self.valid {
            return Theirs::Invalid;
        }
        let fields = self.fields.as_ref().unwrap();
        let peer = match (fields.command.as_deref(), fields.src.as_deref().map(str::parse::<IpAddr>)) {
            (Some("LOCAL"), _) => sender(),
            (_, Some(Ok(address))) => address.into(),
            _ => Peer::unknown(),
        };
        Theirs::Valid(Outcome::Complete { length: fields.consumed, peer: edge.named(peer) })
    }
}
