//! Which headers pass a proxy, and in which form: RFC 9110, 7.6.

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, EXPECT, Entry, FORWARDED, HOST,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
};
use ipveil::headers::are_alike;

/// Removes what is between two ends of one connection only: RFC 9110, 7.6.1.
///
/// What is `kept` can't be removed by naming it: a client could make its pseudonym disappear. An error, if the body is coded in
/// a way that nobody here takes back: then it would go on without a word about that.
pub(super) fn hop_by_hop(headers: &mut HeaderMap, kept: impl Fn(&HeaderName) -> bool) -> Result<(), StatusCode> {
    // One look at what is there, which is little, is cheaper than asking for each that could be.
    let found = headers.keys().fold(0, |found, name| found | hop_by_hop_bit(name));
    if found == 0 {
        return Ok(());
    }
    let mut coding = Ok(());
    for (place, name) in HOP_BY_HOP.iter().enumerate().filter(|(place, _)| found >> place & 1 == 1) {
        match place {
            CONNECTION_PLACE => remove_named(headers, &kept),
            TE_PLACE => keep_trailers(headers),
            // A length beside it is not the body's: RFC 9112, 6.1.
            TRANSFER_ENCODING_PLACE => {
                headers.remove(CONTENT_LENGTH);
                coding = body_coding(elements(headers, name));
            }
            _ => {}
        }
        if place != TE_PLACE {
            headers.remove(name);
        }
    }
    coding
}

/// Of `Transfer-Encoding`, whose name goes no further: what it says must have been taken back.
fn body_coding<'a>(codings: impl Iterator<Item = &'a [u8]>) -> Result<(), StatusCode> {
    let mut chunked = 0;
    for coding in codings {
        if coding.eq_ignore_ascii_case(b"chunked") {
            chunked += 1;
        } else if !coding.eq_ignore_ascii_case(b"identity") {
            return Err(StatusCode::NOT_IMPLEMENTED);
        }
    }
    if chunked > 1 { Err(StatusCode::BAD_REQUEST) } else { Ok(()) }
}

/// Removes from behind a body what has a meaning only before it: RFC 9110, 6.5.1.
pub(super) fn only_trailers(trailers: &mut HeaderMap) {
    let is_before = |name: &HeaderName| HOP_BY_HOP.contains(name) || BEFORE_BODY.contains(name);
    while let Some(name) = trailers.keys().find(|name| is_before(name)).cloned() {
        trailers.remove(name);
    }
}

/// All elements of a list, on however many lines it stands: RFC 9110, 5.6.1. Without quotes, which none of these lists has.
pub(super) fn elements<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let lines = headers.get_all(name).into_iter();
    let elements = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether there are several lines of that name.
pub(super) fn are_several(headers: &HeaderMap, name: &HeaderName) -> bool {
    // Mostly there is one line of each.
    headers.len() > headers.keys_len() && headers.get_all(name).iter().nth(1).is_some()
}

fn hop_by_hop_bit(name: &HeaderName) -> u16 {
    let text = name.as_str();
    // Most names are of another length than all of these.
    if !matches!(text.len(), 2 | 6 | 7 | 10 | 14 | 16..=19) {
        return 0;
    }
    HOP_BY_HOP.iter().position(|hop| hop == name).map_or(0, |place| 1 << place)
}

/// Removes the headers that `Connection` names.
fn remove_named(headers: &mut HeaderMap, kept: impl Fn(&HeaderName) -> bool) {
    let is_about_itself = |name: &[u8]| {
        [&b"keep-alive"[..], b"close", b"upgrade", b"te"].iter().any(|option| name.eq_ignore_ascii_case(option))
    };
    let mut named = Vec::new();
    for name in elements(headers, &CONNECTION) {
        if !is_about_itself(name)
            && let Ok(name) = HeaderName::from_bytes(name)
            && !NEEDED.contains(&name)
            && !kept(&name)
        {
            named.push(name);
        }
    }
    for name in named {
        headers.remove(name);
    }
}

/// Of what a client takes, only trailers are for us to pass on.
fn keep_trailers(headers: &mut HeaderMap) {
    let takes_trailers = elements(headers, &TE).any(|element| element.eq_ignore_ascii_case(b"trailers"));
    headers.remove(TE);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

pub(super) fn is_number(length: &[u8]) -> bool {
    !length.is_empty() && length.iter().all(u8::is_ascii_digit)
}

/// Says once what a server says several times: RFC 9110, 8.6. False, if these are not one number: in an answer to HEAD nobody
/// else looks.
#[must_use]
pub(super) fn one_length(headers: &mut HeaderMap) -> bool {
    let Some(first) = headers.get(CONTENT_LENGTH) else { return true };
    if is_number(first.as_bytes()) && !are_several(headers, &CONTENT_LENGTH) {
        return true;
    }
    let lines = headers.get_all(CONTENT_LENGTH).iter();
    let mut lengths = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    let length = lengths.next().unwrap_or_default();
    if !is_number(length) || lengths.any(|other| other != length) {
        return false;
    }
    if let Ok(length) = HeaderValue::from_bytes(length) {
        headers.insert(CONTENT_LENGTH, length);
    }
    true
}

/// What a proxy says of itself, and of what it hides.
pub(super) fn ours(headers: &mut HeaderMap, version: Version, host: HeaderValue, is_secure: bool, is_believed: bool) {
    let via = match version {
        Version::HTTP_2 => HeaderValue::from_static("2.0 ipveil"),
        Version::HTTP_10 => HeaderValue::from_static("1.0 ipveil"),
        _ => HeaderValue::from_static("1.1 ipveil"),
    };
    headers.append(VIA, via);
    if !is_believed {
        while let Some(name) = headers.keys().find(|name| is_forged(name)).cloned() {
            headers.remove(name);
        }
    }
    let protocol = HeaderValue::from_static(if is_secure { "https" } else { "http" });
    for (name, value) in [(X_FORWARDED_PROTO, protocol), (X_FORWARDED_HOST, host)] {
        match headers.entry(name) {
            // A trusted proxy in front knows better; anybody else doesn't.
            Entry::Occupied(_) if is_believed => {}
            Entry::Occupied(mut entry) => drop(entry.insert(value)),
            Entry::Vacant(entry) => drop(entry.insert(value)),
        }
    }
}

/// Whether an application may take it for one that we set.
fn is_forged(name: &HeaderName) -> bool {
    // Most names are of another length.
    matches!(name.as_str().len(), 16 | 17)
        && [X_FORWARDED_PROTO, X_FORWARDED_HOST].iter().any(|ours| name != ours && are_alike(name, ours))
}

/// What is between two ends of one connection, and what a proxy has to answer by itself.
static HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    EXPECT,
    UPGRADE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];
const CONNECTION_PLACE: usize = 0;
const TE_PLACE: usize = 1;
const TRANSFER_ENCODING_PLACE: usize = 2;

/// Besides: what says where a message ends, for whom it is, and how its body is to be read.
static BEFORE_BODY: [HeaderName; 6] = [HOST, CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_TYPE, CONTENT_RANGE, TRAILER];

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What no `Connection` header removes: without it a request is another one.
static NEEDED: [HeaderName; 10] = [
    HOST,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    TE,
    TRAILER,
    VIA,
    FORWARDED,
    http::header::COOKIE,
    http::header::AUTHORIZATION,
    X_FORWARDED_PROTO,
];
