//! How an address can be written down: what to look for, and what to call it.

use std::{fmt, net::IpAddr};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use md5::Digest as _;

/// What of an address is written, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Form {
    pub(crate) subject: Subject,
    pub(crate) encoding: Encoding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subject {
    Text(Spelling),
    Octets(Order),
    Digest(Algorithm, Of),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Spelling {
    Dotted,
    Mapped,
    Compressed,
    Full,
    UpperCase,
    FullUpperCase,
    /// As the scrubber reads it, and nobody else writes it.
    Other,
    /// Another address of the same /64, which is the same subscriber.
    Neighbor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Order {
    Network,
    Reversed,
    Mapped,
}

/// Hashes without a key: whoever has the address has the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Blake3,
    Crc32,
    Xxh32,
    Xxh64,
    Xxh3,
}

/// What is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Of {
    Text(Spelling),
    /// With the end of the line, as a shell's pipe does.
    Line(Spelling),
    Octets(Order),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Encoding {
    Plain,
    Percent,
    Utf16,
    Base64,
    Arpa,
    ReversedParts,
    HostName,
    Dashed,
    Hex,
    HexPairs,
    HexEscapes,
    HexGroups,
    DottedHex,
    DottedOctal,
    Octal,
    OctalEscapes,
    Decimal,
    Signed,
    Array,
    Raw,
    /// With the low byte first.
    HexSwapped,
    RawSwapped,
}

/// What must not stand next to it, for it to be this and not a part of something longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    None,
    Digits,
    HexDigits,
    /// Hexadecimal digits and colons.
    Groups,
    Base64,
}

impl Bound {
    pub(crate) fn allows(self, byte: Option<u8>) -> bool {
        let Some(byte) = byte else { return true };
        match self {
            Self::None => true,
            Self::Digits => !byte.is_ascii_digit(),
            Self::HexDigits => !byte.is_ascii_hexdigit(),
            Self::Groups => !byte.is_ascii_hexdigit() && byte != b':',
            Self::Base64 => !byte.is_ascii_alphanumeric() && !b"+/_-".contains(&byte),
        }
    }
}

/// What has so few bits that it turns up by chance, in what it turns up: each is counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    RawAddress,
    RawDigest,
    HexWord,
    HexPairs,
    Number,
    Base64Word,
    Literal,
}

impl Class {
    pub(crate) const ALL: [Self; 7] = [
        Self::RawAddress,
        Self::RawDigest,
        Self::HexWord,
        Self::HexPairs,
        Self::Number,
        Self::Base64Word,
        Self::Literal,
    ];
}

/// Something to look for.
pub(crate) struct Sought<'b> {
    pub(crate) form: Form,
    pub(crate) bytes: &'b [u8],
    /// So much from the beginning suffices: hashes get cut.
    pub(crate) enough: usize,
    pub(crate) bound: Bound,
    pub(crate) class: Option<Class>,
}

/// Calls `add` with everything that an address looks like, except for the spellings that a scrubber finds anyway.
pub(crate) fn sought(address: IpAddr, mut add: impl FnMut(Sought<'_>)) {
    let mut writer = Writer { add: &mut add, is_v4: address.is_ipv4() };
    let texts = texts(address);
    for (spelling, text) in &texts {
        writer.text(*spelling, text);
    }
    let octets = octets(address);
    for (order, octets) in &octets {
        writer.octets(*order, octets);
    }
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            writer.parts(Encoding::ReversedParts, &format!("{d}.{c}.{b}.{a}"));
            writer.parts(Encoding::Dashed, &format!("{a}-{b}-{c}-{d}"));
            writer.parts(Encoding::DottedHex, &format!("0x{a:02x}.0x{b:02x}.0x{c:02x}.0x{d:02x}"));
            writer.parts(Encoding::DottedHex, &format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"));
            writer.parts(Encoding::DottedHex, &format!("{a:02x}.{b:02x}.{c:02x}.{d:02x}"));
            writer.parts(Encoding::DottedOctal, &format!("0{a:03o}.0{b:03o}.0{c:03o}.0{d:03o}"));
            writer.parts(Encoding::DottedOctal, &format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"));
            writer.parts(Encoding::HexGroups, &format!("{a:02x}{b:02x}:{c:02x}{d:02x}"));
        }
        IpAddr::V6(address) => {
            writer.parts(Encoding::Dashed, &address.to_string().replace(':', "-"));
            writer.parts(Encoding::Dashed, &full(address).replace(':', "-"));
            let nibbles: Vec<_> = full(address).chars().rev().filter(|&c| c != ':').map(String::from).collect();
            writer.parts(Encoding::ReversedParts, &nibbles.join("."));
        }
    }
    for (spelling, text) in &texts {
        writer.digests(Of::Text(*spelling), text.as_bytes());
        writer.digests(Of::Line(*spelling), format!("{text}\n").as_bytes());
    }
    for (order, octets) in &octets {
        writer.digests(Of::Octets(*order), octets);
    }
}

/// The usual spellings.
pub(crate) fn texts(address: IpAddr) -> Vec<(Spelling, String)> {
    match address {
        IpAddr::V4(address) => {
            vec![(Spelling::Dotted, address.to_string()), (Spelling::Mapped, format!("::ffff:{address}"))]
        }
        IpAddr::V6(address) => {
            let (short, full) = (address.to_string(), full(address));
            vec![
                (Spelling::UpperCase, short.to_uppercase()),
                (Spelling::FullUpperCase, full.to_uppercase()),
                (Spelling::Compressed, short),
                (Spelling::Full, full),
            ]
        }
    }
}

fn full(address: std::net::Ipv6Addr) -> String {
    address.segments().map(|segment| format!("{segment:04x}")).join(":")
}

fn octets(address: IpAddr) -> Vec<(Order, Vec<u8>)> {
    let (octets, mapped) = match address {
        IpAddr::V4(address) => (address.octets().to_vec(), Some(address.to_ipv6_mapped().octets().to_vec())),
        IpAddr::V6(address) => (address.octets().to_vec(), None),
    };
    let reversed = octets.iter().rev().copied().collect();
    let orders = [(Order::Network, octets), (Order::Reversed, reversed)];
    orders.into_iter().chain(mapped.map(|octets| (Order::Mapped, octets))).collect()
}

struct Writer<'a> {
    add: &'a mut dyn FnMut(Sought<'_>),
    is_v4: bool,
}

/// So many bits are no chance: what is longer may be cut to this.
const ENOUGH_BITS: usize = 64;

/// One number of 32 bits in forty has fewer digits. Ports, counts and fractions of seconds are everywhere, and any of a
/// thousand values may be one of these.
pub(crate) const SHORTEST_NUMBER: usize = 8;

impl Writer<'_> {
    fn add(&mut self, subject: Subject, encoding: Encoding, bytes: &[u8], bound: Bound, class: Option<Class>) {
        let form = Form { subject, encoding };
        (self.add)(Sought { form, bytes, enough: bytes.len(), bound, class });
    }

    /// Of `bits` bits, which may be cut if they are many.
    fn value(&mut self, subject: Subject, encoding: Encoding, bytes: &[u8], bits: usize) {
        let form = Form { subject, encoding };
        let (per_byte, bound, class) = match encoding {
            Encoding::Raw | Encoding::RawSwapped => {
                let is_digest = matches!(subject, Subject::Digest(..));
                (8, Bound::None, if is_digest { Class::RawDigest } else { Class::RawAddress })
            }
            Encoding::Base64 => (6, Bound::Base64, Class::Base64Word),
            Encoding::Decimal | Encoding::Signed | Encoding::Octal => (0, Bound::Digits, Class::Number),
            _ => (4, Bound::HexDigits, Class::HexWord),
        };
        let is_short = bits < ENOUGH_BITS;
        if per_byte == 0 && bytes.len() < SHORTEST_NUMBER {
            return;
        }
        // Numbers have their high digits first, which say little: they are not cut.
        let enough = match per_byte {
            0 => bytes.len(),
            per_byte => ENOUGH_BITS.div_ceil(per_byte).min(bytes.len()),
        };
        let bound = if is_short || per_byte == 0 { bound } else { Bound::None };
        (self.add)(Sought { form, bytes, enough, bound, class: is_short.then_some(class) });
    }

    /// In both cases.
    fn hex(&mut self, subject: Subject, encoding: Encoding, octets: &[u8]) {
        let text = hex(octets);
        self.value(subject, encoding, text.as_bytes(), octets.len() * 8);
        let upper = text.to_uppercase();
        if upper != text {
            self.value(subject, encoding, upper.as_bytes(), octets.len() * 8);
        }
    }

    fn base64(&mut self, subject: Subject, octets: &[u8]) {
        let standard = STANDARD_NO_PAD.encode(octets);
        let url = URL_SAFE_NO_PAD.encode(octets);
        self.value(subject, Encoding::Base64, standard.as_bytes(), octets.len() * 8);
        if url != standard {
            self.value(subject, Encoding::Base64, url.as_bytes(), octets.len() * 8);
        }
    }

    fn text(&mut self, spelling: Spelling, text: &str) {
        let subject = Subject::Text(spelling);
        let bound = if text.contains(':') { Bound::Groups } else { Bound::Digits };
        self.add(subject, Encoding::Plain, text.as_bytes(), bound, None);
        for encoded in [
            text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>(),
            text.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        ] {
            self.add(subject, Encoding::Percent, encoded.as_bytes(), Bound::None, None);
        }
        let wide: Vec<u8> = text.bytes().flat_map(|byte| [byte, 0]).collect();
        self.add(subject, Encoding::Utf16, &wide[..wide.len() - 1], Bound::None, None);
        for before in 0..3 {
            let padded = [&[0; 2][..before], text.as_bytes()].concat();
            let (standard, url) = (STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded));
            // Without the characters that depend on what is around.
            let whole = (before * 8).div_ceil(6)..padded.len() * 8 / 6;
            self.add(subject, Encoding::Base64, &standard.as_bytes()[whole.clone()], Bound::None, None);
            if url != standard {
                self.add(subject, Encoding::Base64, &url.as_bytes()[whole], Bound::None, None);
            }
        }
        let hex = hex(text.as_bytes());
        self.add(subject, Encoding::Hex, hex.as_bytes(), Bound::None, None);
        self.add(subject, Encoding::Hex, hex.to_uppercase().as_bytes(), Bound::None, None);
    }

    fn octets(&mut self, order: Order, octets: &[u8]) {
        let subject = Subject::Octets(order);
        let is_short = octets.len() * 8 < ENOUGH_BITS;
        match order {
            // Its prefix alone says nothing.
            Order::Mapped => {
                self.add(subject, Encoding::Raw, octets, Bound::None, None);
                let hex = hex(octets);
                self.add(subject, Encoding::Hex, hex.as_bytes(), Bound::None, None);
                self.add(subject, Encoding::Hex, hex.to_uppercase().as_bytes(), Bound::None, None);
                self.add(subject, Encoding::Base64, STANDARD_NO_PAD.encode(octets).as_bytes(), Bound::None, None);
                self.add(subject, Encoding::Base64, URL_SAFE_NO_PAD.encode(octets).as_bytes(), Bound::None, None);
                let number = octets.iter().fold(0_u128, |value, &octet| value << 8 | u128::from(octet)).to_string();
                self.add(subject, Encoding::Decimal, number.as_bytes(), Bound::Digits, None);
            }
            Order::Network | Order::Reversed => {
                self.value(subject, Encoding::Raw, octets, octets.len() * 8);
                self.hex(subject, Encoding::Hex, octets);
                self.base64(subject, octets);
                let value = octets.iter().fold(0_u128, |value, &octet| value << 8 | u128::from(octet));
                self.value(subject, Encoding::Decimal, value.to_string().as_bytes(), octets.len() * 8);
                for octal in [format!("{value:o}"), format!("0{value:o}")] {
                    self.value(subject, Encoding::Octal, octal.as_bytes(), octets.len() * 8);
                }
                if let (Ok(value), true) = (u32::try_from(value), self.is_v4) {
                    let signed = value.cast_signed();
                    if signed < 0 {
                        self.value(subject, Encoding::Signed, signed.to_string().as_bytes(), 32);
                    }
                }
            }
        }
        for separator in [", ", ",", " "] {
            let numbers: Vec<_> = octets.iter().map(u8::to_string).collect();
            self.add(subject, Encoding::Array, numbers.join(separator).as_bytes(), Bound::Digits, None);
        }
        let class = is_short.then_some(Class::HexPairs);
        for separator in [" ", ":", "-"] {
            let pairs: Vec<_> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
            let text = pairs.join(separator);
            self.add(subject, Encoding::HexPairs, text.as_bytes(), Bound::HexDigits, class);
            self.add(subject, Encoding::HexPairs, text.to_uppercase().as_bytes(), Bound::HexDigits, class);
        }
        let escapes: String = octets.iter().map(|octet| format!("\\x{octet:02x}")).collect();
        self.add(subject, Encoding::HexEscapes, escapes.as_bytes(), Bound::None, None);
        // As Python and Rust print bytes.
        let escapes: String = octets.iter().map(|&octet| shown(octet)).collect();
        self.add(subject, Encoding::HexEscapes, escapes.as_bytes(), Bound::None, None);
        let escapes: String = octets.iter().map(|octet| format!("\\{octet:03o}")).collect();
        self.add(subject, Encoding::OctalEscapes, escapes.as_bytes(), Bound::None, None);
    }

    fn parts(&mut self, encoding: Encoding, text: &str) {
        let subject = Subject::Octets(Order::Network);
        let (bound, class) = match encoding {
            Encoding::DottedHex | Encoding::HexGroups => (Bound::HexDigits, None),
            // It is somebody else's address, too.
            Encoding::ReversedParts if self.is_v4 => (Bound::Digits, Some(Class::Literal)),
            _ if self.is_v4 => (Bound::Digits, None),
            _ => (Bound::HexDigits, None),
        };
        let class = if encoding == Encoding::HexGroups { Some(Class::Literal) } else { class };
        self.add(subject, encoding, text.as_bytes(), bound, class);
        let upper = text.to_uppercase().replace("0X", "0x");
        if upper != text {
            self.add(subject, encoding, upper.as_bytes(), bound, class);
        }
    }

    fn digests(&mut self, of: Of, input: &[u8]) {
        for (algorithm, digest) in digests(input) {
            let subject = Subject::Digest(algorithm, of);
            self.value(subject, Encoding::Raw, &digest, digest.len() * 8);
            self.hex(subject, Encoding::Hex, &digest);
            self.base64(subject, &digest);
            if let Algorithm::Crc32 | Algorithm::Xxh32 | Algorithm::Xxh64 | Algorithm::Xxh3 = algorithm {
                let swapped: Vec<_> = digest.iter().rev().copied().collect();
                self.value(subject, Encoding::RawSwapped, &swapped, digest.len() * 8);
                self.hex(subject, Encoding::HexSwapped, &swapped);
                let value = digest.iter().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
                self.value(subject, Encoding::Decimal, value.to_string().as_bytes(), digest.len() * 8);
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shown(byte: u8) -> String {
    match byte {
        b'\\' => "\\\\".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    }
}

fn digests(input: &[u8]) -> [(Algorithm, Vec<u8>); 8] {
    [
        (Algorithm::Md5, md5::Md5::digest(input).to_vec()),
        (Algorithm::Sha1, sha1::Sha1::digest(input).to_vec()),
        (Algorithm::Sha256, sha2::Sha256::digest(input).to_vec()),
        (Algorithm::Blake3, blake3::hash(input).as_bytes().to_vec()),
        (Algorithm::Crc32, crc32fast::hash(input).to_be_bytes().to_vec()),
        (Algorithm::Xxh32, twox_hash::XxHash32::oneshot(0, input).to_be_bytes().to_vec()),
        (Algorithm::Xxh64, twox_hash::XxHash64::oneshot(0, input).to_be_bytes().to_vec()),
        (Algorithm::Xxh3, twox_hash::XxHash3_64::oneshot(input).to_be_bytes().to_vec()),
    ]
}

impl Form {
    pub(crate) fn dashed() -> Self {
        Self { subject: Subject::Octets(Order::Network), encoding: Encoding::Dashed }
    }

    pub(crate) const fn text(spelling: Spelling, encoding: Encoding) -> Self {
        Self { subject: Subject::Text(spelling), encoding }
    }

    /// What somebody who reads it can do.
    pub(crate) fn allows(self) -> &'static str {
        match self.subject {
            Subject::Text(_) | Subject::Octets(_) => {
                "locate (the address can be read), co-locate (it is equal for all who share it), confirm"
            }
            Subject::Digest(_, Of::Text(spelling) | Of::Line(spelling)) if spelling.is_v6() => {
                "locate (the networks of those who are suspected can be tried), co-locate (it is equal for all who share it), \
                 confirm"
            }
            Subject::Digest(..) => {
                "locate (all of IPv4 can be hashed in seconds), co-locate (it is equal for all who share it), confirm"
            }
        }
    }
}

impl Spelling {
    fn is_v6(self) -> bool {
        matches!(self, Self::Compressed | Self::Full | Self::UpperCase | Self::FullUpperCase)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoding = self.encoding;
        match self.subject {
            Subject::Text(spelling) => match encoding {
                Encoding::Plain => write!(f, "{spelling}"),
                Encoding::Arpa | Encoding::HostName => write!(f, "{encoding}"),
                Encoding::Percent if spelling == Spelling::Other => write!(f, "{encoding} of the text"),
                _ => write!(f, "{encoding} of the text, {spelling}"),
            },
            Subject::Octets(order) => match order {
                Order::Network => write!(f, "{encoding}"),
                Order::Reversed => write!(f, "{encoding}, low byte first"),
                Order::Mapped => write!(f, "{encoding}, mapped to IPv6"),
            },
            Subject::Digest(algorithm, of) => {
                write!(f, "{algorithm} of the ")?;
                match of {
                    Of::Text(spelling) => write!(f, "text, {spelling}")?,
                    Of::Line(spelling) => write!(f, "line, {spelling}")?,
                    Of::Octets(Order::Network) => f.write_str("bytes")?,
                    Of::Octets(Order::Reversed) => f.write_str("bytes, low byte first")?,
                    Of::Octets(Order::Mapped) => f.write_str("bytes, mapped to IPv6")?,
                }
                write!(f, "; {encoding}")
            }
        }
    }
}

impl fmt::Display for Spelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dotted => "dotted",
            Self::Mapped => "mapped to IPv6",
            Self::Compressed => "compressed",
            Self::Full => "full",
            Self::UpperCase => "upper-case",
            Self::FullUpperCase => "full upper-case",
            Self::Other => "in another spelling",
            Self::Neighbor => "another address of its /64",
        })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Blake3 => "BLAKE3",
            Self::Crc32 => "CRC32",
            Self::Xxh32 => "XXH32",
            Self::Xxh64 => "XXH64",
            Self::Xxh3 => "XXH3",
        })
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "text",
            Self::Percent => "percent encoding",
            Self::Utf16 => "UTF-16",
            Self::Base64 => "base64",
            Self::Arpa => "name below arpa",
            Self::ReversedParts => "reversed",
            Self::HostName => "host name",
            Self::Dashed => "with dashes",
            Self::Hex => "hexadecimal",
            Self::HexPairs => "hexadecimal pairs",
            Self::HexEscapes => "hexadecimal escapes",
            Self::HexGroups => "hexadecimal groups",
            Self::DottedHex => "dotted hexadecimal",
            Self::DottedOctal => "dotted octal",
            Self::Octal => "octal integer",
            Self::OctalEscapes => "octal escapes",
            Self::Decimal => "decimal integer",
            Self::Signed => "signed decimal integer",
            Self::Array => "array of bytes",
            Self::Raw => "packed bytes",
            Self::HexSwapped => "hexadecimal, low byte first",
            Self::RawSwapped => "packed bytes, low byte first",
        })
    }
}
