//! Version 2: binary.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Header, HeaderError, Part, Progress, Version, Whom, crc32c::crc32c};
use crate::addr::Peer;

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, version and command, family and transport, and how many bytes follow.
pub(super) const HEAD: usize = 16;

pub(super) const LOCAL: u8 = 0x20;
pub(super) const PROXY: u8 = 0x21;
pub(super) const UNSPECIFIED: u8 = 0x00;
pub(super) const TCP4: u8 = 0x11;
pub(super) const TCP6: u8 = 0x21;

/// `bytes` begin with the signature, or with as much of it as is there.
pub(super) fn read(sender: Peer, bytes: &[u8], longest: usize) -> Result<Progress, HeaderError> {
    let malformed = |part| Err(HeaderError::Malformed(part));
    let mut is_local = false;
    match bytes.get(12) {
        Some(&LOCAL) => is_local = true,
        Some(&PROXY) | None => {}
        Some(0x20..=0x2f) => return malformed(Part::Command),
        Some(_) => return malformed(Part::Version),
    }
    // What follows LOCAL means nothing.
    let family = bytes.get(13).filter(|_| !is_local).map_or(Ok(Family::Nobodys), |&byte| Family::of(byte));
    let family = family.map_err(HeaderError::Malformed)?;
    let Some(&[.., high, low]) = bytes.first_chunk::<HEAD>() else {
        return Ok(Progress::Incomplete(HEAD - bytes.len()));
    };
    let following = usize::from(u16::from_be_bytes([high, low]));
    let length = HEAD + following;
    if length > longest {
        return Err(HeaderError::TooLong);
    }
    if following < family.length() {
        return malformed(Part::Length);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(Progress::Incomplete(length - bytes.len()));
    };
    let whom = if is_local { Whom::Itself } else { family.whom(&header[HEAD..]) };
    let is_tls = match family {
        Family::Nobodys => false,
        _ => Extensions::check(header, HEAD + family.length())?.is_tls,
    };
    Ok(Progress::Complete(Header { version: Version::V2, length, peer: whom.peer(sender), is_tls }))
}

/// The kind of addresses.
#[derive(Clone, Copy)]
enum Family {
    /// Unspecified: what follows means nothing.
    Nobodys,
    V4,
    V6,
    Unix,
}

impl Family {
    fn of(byte: u8) -> Result<Self, Part> {
        match (byte >> 4, byte & 15) {
            (0, 0..=2) => Ok(Self::Nobodys),
            // Of no specified transport, over a stream, or over datagrams.
            (1, 0..=2) => Ok(Self::V4),
            (2, 0..=2) => Ok(Self::V6),
            (3, 0..=2) => Ok(Self::Unix),
            _ => Err(Part::Family),
        }
    }

    /// Of both addresses, and of their ports.
    fn length(self) -> usize {
        match self {
            Self::Nobodys => 0,
            Self::V4 => 2 * (4 + 2),
            Self::V6 => 2 * (16 + 2),
            Self::Unix => 2 * 108,
        }
    }

    fn whom(self, addresses: &[u8]) -> Whom {
        let source = match self {
            Self::V4 => addresses.first_chunk().map(|octets: &[u8; 4]| IpAddr::V4(Ipv4Addr::from(*octets))),
            Self::V6 => addresses.first_chunk().map(|octets: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*octets))),
            Self::Nobodys | Self::Unix => None,
        };
        source.map_or(Whom::Nobody, Whom::Client)
    }
}

/// What is of interest in the extensions, which are type, length and value.
#[derive(Default)]
struct Extensions {
    is_tls: bool,
}

const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const TLS: u8 = 0x20;

impl Extensions {
    fn check(header: &[u8], start: usize) -> Result<Self, HeaderError> {
        const MALFORMED: HeaderError = HeaderError::Malformed(Part::Extensions);

        let mut extensions = Self::default();
        let mut has_checksum = false;
        let mut rest = &header[start..];
        while let Some((kind, value)) = next(&mut rest).map_err(|Torn| MALFORMED)? {
            match (kind, value) {
                (CRC32C, value) => {
                    let expected = value.try_into().map(u32::from_be_bytes).map_err(|_| MALFORMED)?;
                    if has_checksum {
                        return Err(MALFORMED);
                    }
                    has_checksum = true;
                    // Its own bytes count as zeros.
                    let (before, after) = (&header[..header.len() - rest.len() - 4], rest);
                    if crc32c([before, &[0; 4], after]) != expected {
                        return Err(HeaderError::Checksum);
                    }
                }
                (UNIQUE_ID, value) if value.len() > 128 => return Err(MALFORMED),
                // Flags, whether the certificate was good, and extensions of their own.
                (TLS, [flags, _, _, _, _, inner @ ..]) => {
                    let mut inner = inner;
                    while next(&mut inner).map_err(|Torn| MALFORMED)?.is_some() {}
                    extensions.is_tls |= flags & 1 != 0;
                }
                (TLS, _) => return Err(MALFORMED),
                _ => {}
            }
        }
        Ok(extensions)
    }
}

/// An extension ends behind the end.
struct Torn;

/// Takes the next extension.
fn next<'h>(rest: &mut &'h [u8]) -> Result<Option<(u8, &'h [u8])>, Torn> {
    match **rest {
        [] => Ok(None),
        [kind, high, low, ref behind @ ..] => {
            let (value, behind) = behind.split_at_checked(u16::from_be_bytes([high, low]).into()).ok_or(Torn)?;
            *rest = behind;
            Ok(Some((kind, value)))
        }
        _ => Err(Torn),
    }
}
