//! Version 1: a line of text.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::{Header, HeaderError, Part, Progress, Version, Whom};
use crate::addr::Peer;

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// With both addresses and ports as long as can be.
pub(super) const LONGEST: usize = 107;

const SHORTEST: usize = b"PROXY UNKNOWN\r\n".len();

/// `bytes` begin with the signature, or with as much of it as is there.
pub(super) fn read(sender: Peer, bytes: &[u8]) -> Result<Progress, HeaderError> {
    // With room for the LF.
    let line = &bytes[..bytes.len().min(LONGEST - 1)];
    let Some(end) = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        // And for the CR.
        if line.len() == LONGEST - 1 {
            return Err(HeaderError::TooLong);
        }
        return Ok(Progress::Incomplete(SHORTEST.saturating_sub(line.len()).max(2)));
    };
    if line[end] == b'\n' {
        return Err(HeaderError::Malformed(Part::LineEnd));
    }
    let words = line[..end].strip_prefix(SIGNATURE).ok_or(HeaderError::Missing)?;
    let peer = whom(words).map_err(HeaderError::Malformed)?.peer(sender);
    match bytes.get(end + 1) {
        Some(b'\n') => Ok(Progress::Complete(Header { version: Version::V1, length: end + 2, peer, is_tls: false })),
        Some(_) => Err(HeaderError::Malformed(Part::LineEnd)),
        None => Ok(Progress::Incomplete(1)),
    }
}

fn whom(words: &[u8]) -> Result<Whom, Part> {
    let mut words = words.split(|&byte| byte == b' ');
    let client = match words.next() {
        // What follows may be anything.
        Some(b"UNKNOWN") => return Ok(Whom::Nobody),
        Some(b"TCP4") => addresses::<Ipv4Addr>(&mut words)?.into(),
        Some(b"TCP6") => addresses::<Ipv6Addr>(&mut words)?.into(),
        _ => return Err(Part::Family),
    };
    port(words.next(), Part::SourcePort)?;
    port(words.next(), Part::DestinationPort)?;
    match words.next() {
        None => Ok(Whom::Client(client)),
        Some(_) => Err(Part::Words),
    }
}

/// The source, if the destination is one, too.
fn addresses<'w, A: FromStr>(words: &mut impl Iterator<Item = &'w [u8]>) -> Result<A, Part> {
    let mut address = |part| {
        let word = words.next().filter(|word| !word.is_empty()).ok_or(Part::Words)?;
        std::str::from_utf8(word).ok().and_then(|word| word.parse::<A>().ok()).ok_or(part)
    };
    let source = address(Part::Source)?;
    address(Part::Destination)?;
    Ok(source)
}

/// Which one it is, is not of interest.
fn port(word: Option<&[u8]>, part: Part) -> Result<(), Part> {
    let word = word.filter(|word| !word.is_empty()).ok_or(Part::Words)?;
    let port = word.iter().try_fold(0_u16, |port, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        port.checked_mul(10)?.checked_add(digit.into())
    });
    match (word, port) {
        ([b'0', _, ..], _) | (_, None) => Err(part),
        _ => Ok(()),
    }
}
