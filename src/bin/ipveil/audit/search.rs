//! Searches what is read for the canaries, on all cores.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    io::{self, Read},
    net::{IpAddr, Ipv4Addr},
    ops::{AddAssign, Range},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use ipveil::{
    KeyRing, Policy, Scrubber,
    keys::{Epochs, KeyId, MemorySource},
    policy::{Scope, View},
};

use super::{
    chance::{self, Counts},
    forms::{Class, Encoding, Form, Spelling},
    index::{Hit, Index, PADDING, REACH},
};

/// Knows what to look for.
pub(crate) struct Searcher {
    index: Index,
    spelled: Spelled,
    threads: usize,
}

/// What was found in one text, or several that belong together.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) bytes: u64,
    /// Why this is not all.
    pub(crate) missing: Option<String>,
    found: BTreeMap<(usize, Form), Seen>,
    counts: Counts,
}

/// Where one form of one canary was.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) class: Option<Class>,
    pub(crate) count: u64,
    /// The first of them.
    pub(crate) places: Vec<Place>,
}

/// Where something was found.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The part of a larger whole, if it has parts.
    pub(crate) part: Option<Arc<str>>,
    pub(crate) offset: u64,
    /// In a text.
    pub(crate) line: Option<u64>,
}

/// One form of one canary.
pub(crate) struct Find {
    pub(crate) canary: usize,
    pub(crate) form: Form,
    pub(crate) seen: Seen,
    /// Chance explains it.
    pub(crate) is_possible: bool,
}

const PLACES: usize = 5;
/// How much is read at once, and of that searched in one go.
const PIECE: usize = 256 * 1024;
const BLOCK: usize = 4096;
/// One block of so many is looked at closely.
const SAMPLE: usize = 16;

impl Searcher {
    pub(crate) fn new(canaries: &[IpAddr]) -> anyhow::Result<Self> {
        let index = Index::new(canaries.iter().copied());
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { index, spelled: Spelled::new(canaries)?, threads })
    }

    /// Reads to the end, or as far as it can. Offsets count from `start`.
    pub(crate) fn search(
        &self,
        input: impl Read + Send,
        part: Option<Arc<str>>,
        start: u64,
        threads: usize,
    ) -> Outcome {
        let source = Source { input, held: Vec::new(), before: 0, offset: start, line: 1, is_over: false, error: None };
        let source = Mutex::new(source);
        let whole = Mutex::new(Outcome::default());
        let work = || {
            let mut outcome = Outcome::default();
            let mut piece = Piece::default();
            let mut hits = Vec::new();
            while lock(&source).next(&mut piece) {
                self.search_piece(&piece, &mut hits, &mut outcome);
                outcome.take(&piece, &mut hits, part.as_ref());
            }
            *lock(&whole) += outcome;
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        let mut outcome = whole.into_inner().unwrap_or_else(PoisonError::into_inner);
        let source = source.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcome.bytes = source.offset - start;
        outcome.missing = source.error.map(|error| error.to_string());
        outcome
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// On all cores.
    pub(crate) fn search_all(&self, input: impl Read + Send) -> Outcome {
        self.search(input, None, 0, self.threads)
    }

    fn search_piece(&self, piece: &Piece, hits: &mut Vec<Hit>, outcome: &mut Outcome) {
        let whole = &piece.text[..piece.text.len() - PADDING];
        // Memory that was never used, and there is much of it.
        if whole.iter().fold(0, |any, byte| any | byte) == 0 {
            return;
        }
        let literals = self.spelled.search(whole, &piece.main, hits);
        // Eight groups of an address could be those of another.
        outcome.counts.add_words(Class::Literal, literals * 8);
        let blocks = piece.main.len().div_ceil(BLOCK);
        let sampled = blocks.div_ceil(SAMPLE);
        for (number, start) in piece.main.clone().step_by(BLOCK).enumerate() {
            let block = start..(start + BLOCK).min(piece.main.end);
            // With enough around it for the four bytes of an address that begin or end in it.
            let is_binary = !is_text(&whole[block.start.saturating_sub(3)..(block.end + 3).min(whole.len())]);
            if is_binary {
                outcome.counts.add_bytes(&whole[block.clone()]);
            }
            if number % SAMPLE == 0 {
                outcome.counts.add_sample(&whole[block.clone()], blocks.div_ceil(sampled) as u64);
            }
            self.index.search(&piece.text, block, is_binary, hits);
        }
    }

    /// All finds, and whether chance explains them.
    pub(crate) fn judge(&self, outcome: &Outcome) -> Vec<Find> {
        let is_possible: HashMap<_, _> = Class::ALL
            .iter()
            .map(|&class| {
                let of_class = outcome.found.values().filter(|seen| seen.class == Some(class));
                let found = of_class.map(|seen| chance::chances(seen.count)).sum();
                (class, found > 0 && chance::explains(outcome.counts.expected(class, &self.index), found))
            })
            .collect();
        let find = |(&(canary, form), seen): (&(usize, Form), &Seen)| Find {
            canary,
            form,
            seen: seen.clone(),
            is_possible: seen.class.is_some_and(|class| is_possible[&class]),
        };
        outcome.found.iter().map(find).collect()
    }
}

/// Whether bytes are of a text, and not packed.
fn is_text(block: &[u8]) -> bool {
    // A character may begin before it, or end behind it.
    let start = block.iter().take(3).take_while(|&&byte| byte & 0xc0 == 0x80).count();
    let is_utf8 = match std::str::from_utf8(&block[start..]) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    // Without the tab, the ends of lines and pages, and escape.
    const CONTROLS: u32 = !(1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 27);
    let is_control = |&byte: &u8| byte < 32 && CONTROLS >> byte & 1 == 1;
    is_utf8 && !block.iter().fold(false, |any, byte| any | is_control(byte))
}

impl Outcome {
    /// Of several finds of one canary at one place, the longest is what is there.
    fn take(&mut self, piece: &Piece, hits: &mut Vec<Hit>, part: Option<&Arc<str>>) {
        hits.sort_by_key(|hit| (hit.canary, Reverse(hit.place.len()), hit.class.is_some(), hit.place.start));
        let mut taken: Vec<(usize, Range<usize>)> = Vec::new();
        for hit in hits.drain(..) {
            let others = taken.iter().rev().take_while(|(canary, _)| *canary == hit.canary);
            let overlaps = |place: &Range<usize>| place.start < hit.place.end && hit.place.start < place.end;
            if others.into_iter().any(|(_, place)| overlaps(place)) {
                continue;
            }
            taken.push((hit.canary, hit.place.clone()));
            let text = &piece.text[..hit.place.start];
            let line = if hit.place.start >= piece.main.start {
                piece.line + memchr::memchr_iter(b'\n', &text[piece.main.start..]).count() as u64
            } else {
                piece.line - memchr::memchr_iter(b'\n', &piece.text[hit.place.start..piece.main.start]).count() as u64
            };
            let around = &piece.text[hit.place.start.saturating_sub(64)..hit.place.start];
            let place = Place {
                part: part.cloned(),
                offset: piece.offset + hit.place.start as u64,
                line: is_text(around).then_some(line),
            };
            let seen = Seen { class: hit.class, count: 1, places: vec![place] };
            self.add((hit.canary, hit.form), seen);
        }
    }

    fn add(&mut self, key: (usize, Form), seen: Seen) {
        match self.found.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(seen);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let all = entry.get_mut();
                all.count += seen.count;
                all.places.extend(seen.places);
                all.places.sort();
                all.places.truncate(PLACES);
            }
        }
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.missing = self.missing.take().or(other.missing);
        self.counts += &other.counts;
        for (key, seen) in other.found {
            self.add(key, seen);
        }
    }
}

/// A part of what is read, with enough before and behind it for everything that is in it to be whole.
#[derive(Default)]
struct Piece {
    text: Vec<u8>,
    main: Range<usize>,
    offset: u64,
    line: u64,
}

struct Source<R> {
    input: R,
    // The end of what has been read: what was before, and what is next.
    held: Vec<u8>,
    before: usize,
    // Of the beginning of what is next.
    offset: u64,
    line: u64,
    is_over: bool,
    // What was read before it counts nevertheless.
    error: Option<io::Error>,
}

impl<R: Read> Source<R> {
    fn next(&mut self, piece: &mut Piece) -> bool {
        piece.text.clear();
        if self.is_over {
            return false;
        }
        piece.text.append(&mut self.held);
        let read = (&mut self.input).take(PIECE as u64).read_to_end(&mut piece.text);
        // After an error there is nothing more.
        self.is_over = !read.as_ref().is_ok_and(|&length| length == PIECE);
        self.error = read.err();
        let end = if self.is_over { piece.text.len() } else { piece.text.len() - REACH };
        piece.main = self.before..end;
        piece.offset = self.offset - self.before as u64;
        piece.line = self.line;
        self.offset += piece.main.len() as u64;
        self.line += memchr::memchr_iter(b'\n', &piece.text[piece.main.clone()]).count() as u64;
        self.before = end.min(REACH);
        self.held.extend_from_slice(&piece.text[end - self.before..]);
        piece.text.extend_from_slice(&[0; PADDING]);
        !piece.main.is_empty()
    }
}

/// Finds the spellings of addresses: whatever a scrubber would replace.
struct Spelled {
    scrubber: Scrubber,
    keys: KeyRing,
    canaries: Vec<IpAddr>,
    v4: HashMap<[u8; 4], usize>,
    // By network: what is in the same /64 is the same client.
    v6: HashMap<u64, usize>,
    // What the scrubber makes of each, under the key in use.
    tokens: Mutex<Tokens>,
}

#[derive(Default)]
struct Tokens {
    key: Option<KeyId>,
    canaries: HashMap<Vec<u8>, usize>,
}

/// `_` and 26 characters.
const TOKEN: usize = 27;
/// How much of a line says whether something is the name of a host.
const AROUND: usize = 80;

impl Spelled {
    fn new(canaries: &[IpAddr]) -> anyhow::Result<Self> {
        let keys = KeyRing::start(MemorySource, Epochs::daily())?;
        let policy = Policy::new(Scope::unscoped(), [View::token("audit")])?;
        let scrubber = Scrubber::new(&policy, "audit", keys.clone())?.products(Vec::<String>::new());
        let (mut v4, mut v6) = (HashMap::new(), HashMap::new());
        for (number, canary) in canaries.iter().enumerate() {
            match canary.to_canonical() {
                IpAddr::V4(address) => drop(v4.insert(address.octets(), number)),
                IpAddr::V6(address) => drop(v6.insert((address.to_bits() >> 64) as u64, number)),
            }
        }
        Ok(Self { scrubber, keys, canaries: canaries.to_vec(), v4, v6, tokens: Mutex::default() })
    }

    /// Says how many addresses there are at all.
    fn search(&self, text: &[u8], main: &Range<usize>, hits: &mut Vec<Hit>) -> u64 {
        let mut count = 0;
        let mut end_of_last = 0;
        for place in self.scrubber.find(text) {
            let is_here = main.contains(&place.start);
            count += u64::from(is_here);
            if is_here && let Some(canary) = self.look_up(text, &place, end_of_last) {
                let form = self.form(text, &place, canary);
                hits.push(Hit { place: place.clone(), canary, form, class: None });
            }
            end_of_last = place.end;
        }
        count
    }

    /// Which canary it is, if it is any.
    fn look_up(&self, text: &[u8], place: &Range<usize>, end_of_last: usize) -> Option<usize> {
        let literal = &text[place.clone()];
        // In a name the parts of an address may be reversed.
        if matches!(text[place.end..], [b'.', next, ..] if next.is_ascii_alphanumeric()) {
            return self.look_up_unusual(text, place, end_of_last);
        }
        match std::str::from_utf8(literal).ok().and_then(|literal| literal.parse::<IpAddr>().ok()) {
            // NAT64 (RFC 6052) is IPv4, but the standard library doesn't say so.
            Some(IpAddr::V6(address)) if address.segments()[0] == 0x64 => {
                self.look_up_unusual(text, place, end_of_last)
            }
            Some(address) => match address.to_canonical() {
                IpAddr::V4(address) => self.v4.get(&address.octets()).copied(),
                IpAddr::V6(address) => self.v6.get(&((address.to_bits() >> 64) as u64)).copied(),
            },
            None => self.look_up_unusual(text, place, end_of_last),
        }
    }

    /// The scrubber reads all spellings, and what stands around decides some: so it gets the line as it is.
    #[cold]
    fn look_up_unusual(&self, text: &[u8], place: &Range<usize>, end_of_last: usize) -> Option<usize> {
        let tokens = self.tokens();
        let before = place.start.saturating_sub(AROUND).max(end_of_last);
        let behind = (place.end + AROUND).min(text.len());
        let window = &text[before..behind];
        let scrubbed = self.scrubber.scrub(window);
        let token = scrubbed.get(place.start - before..)?.get(..TOKEN)?;
        tokens.canaries.get(token).copied()
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        let mut tokens = lock(&self.tokens);
        let key = self.keys.key_id();
        if tokens.key != key || tokens.canaries.is_empty() {
            let token = |canary: &IpAddr| self.scrubber.scrub(canary.to_string().as_bytes()).into_owned();
            tokens.canaries =
                self.canaries.iter().enumerate().map(|(number, canary)| (token(canary), number)).collect();
            tokens.key = key;
        }
        tokens
    }

    fn form(&self, text: &[u8], place: &Range<usize>, canary: usize) -> Form {
        let literal = String::from_utf8_lossy(&text[place.clone()]);
        let usual = super::forms::texts(self.canaries[canary]);
        if let Some((spelling, _)) = usual.iter().find(|(_, usual)| *usual == literal) {
            return Form::text(*spelling, Encoding::Plain);
        }
        let other = |encoding| Form::text(Spelling::Other, encoding);
        let parsed = literal.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        match parsed.filter(|address| address.is_ipv6() || literal.contains(':')) {
            Some(IpAddr::V4(_)) => Form::text(Spelling::Mapped, Encoding::Plain),
            Some(address) if address != self.canaries[canary] && self.canaries[canary].is_ipv6() => {
                Form::text(Spelling::Neighbor, Encoding::Plain)
            }
            Some(_) => other(Encoding::Plain),
            None if is_below_arpa(&literal, &text[place.end..]) => other(Encoding::Arpa),
            None if literal.contains('%') => other(Encoding::Percent),
            None if literal.contains(':') => other(Encoding::Plain),
            // As it stands in a host name.
            None if literal.replace('-', ":").parse() == Ok(self.canaries[canary]) => Form::dashed(),
            // Zeros before its parts, or another order of them.
            None => match self.canaries[canary] {
                IpAddr::V4(v4) if same_parts(&literal, v4) => other(Encoding::Plain),
                _ => other(Encoding::HostName),
            },
        }
    }
}

fn is_below_arpa(literal: &str, behind: &[u8]) -> bool {
    let behind = behind.get(..b".in-addr.arpa".len()).unwrap_or(behind).to_ascii_lowercase();
    literal.to_ascii_lowercase().contains("arpa")
        || behind.starts_with(b".in-addr.arpa")
        || behind.starts_with(b".ip6.arpa")
}

/// In this order, between dots.
fn same_parts(literal: &str, address: Ipv4Addr) -> bool {
    let parts: Option<Vec<u8>> = literal.split('.').map(|part| part.parse().ok()).collect();
    parts.is_some_and(|parts| parts == address.octets())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
