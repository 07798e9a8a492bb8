//! What is hashed, how it is framed, and under which key: see the format in the module's docs.

use crate::keys::EpochKey;

/// A client under one epoch key: all its pseudonyms come from here, and its address can't.
// Aligned, so that moving it is cheap: it is moved on every request.
#[derive(Clone, Copy)]
#[repr(align(8))]
pub(crate) struct Handle([u8; 32]);

/// Which octets of a client are hashed.
#[derive(Clone, Copy)]
pub(crate) enum Octets<'a> {
    V4(&'a [u8; 4]),
    V6(&'a [u8]),
    Pseudonym(&'a [u8; 16]),
}

impl Handle {
    /// Of no client, and never asked.
    pub(crate) const NOBODY: Self = Self([0; 32]);

    #[inline(always)]
    pub(crate) fn new(key: &EpochKey, octets: Octets<'_>) -> Option<Self> {
        let mut input = Block::new(b'H');
        match octets {
            Octets::V4(octets) => {
                input.push(&[4]);
                input.push(octets);
            }
            Octets::V6(octets) => {
                input.push(&[6]);
                input.push(octets);
            }
            Octets::Pseudonym(octets) => {
                input.push(&[16]);
                input.push(octets);
            }
        }
        key.hash(input.as_bytes()).map(Self)
    }
}

/// What a view asks for: first byte of what a handle is asked.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Pseudonyms = b'P' as isize,
    Limits = b'L' as isize,
}

/// What a handle is asked in one view: the input of a pseudonym's hash, put together beforehand as far as it can be.
#[derive(Clone)]
pub(crate) struct Question {
    // Up to and with the view's name.
    view: Block,
    // All of it, if the pseudonym is unscoped and has no window.
    unscoped: Option<Block>,
}

impl Question {
    pub(crate) fn new(purpose: Purpose, view: &str, has_window: bool) -> Self {
        let mut block = Block::new(purpose as u8);
        // Checked when the policy was made: a view's name has at most 32 bytes.
        block.push(&[view.len() as u8]);
        block.push(view.as_bytes());
        let unscoped = (!has_window).then(|| Self::short(block, 0, &[], 0));
        Self { view: block, unscoped }
    }

    /// The pseudonym's first 16 bytes, before they take a shape.
    #[inline(always)]
    pub(crate) fn ask(&self, handle: &Handle, scope: ScopeValue<'_>, window: impl FnOnce() -> u64) -> [u8; 16] {
        let hash = match (scope, &self.unscoped) {
            (ScopeValue::Unscoped, Some(block)) => block.hash(&handle.0),
            (ScopeValue::Unscoped, None) => Self::short(self.view, 0, &[], window()).hash(&handle.0),
            (ScopeValue::Session(session), _) => Self::short(self.view, 2, session, window()).hash(&handle.0),
            (ScopeValue::Fresh(random), _) => Self::short(self.view, 3, random, window()).hash(&handle.0),
            (ScopeValue::Host(host), _) => self.long(1, host, window()).hash(&handle.0),
            (ScopeValue::Named(scope), _) => self.long(4, scope, window()).hash(&handle.0),
        };
        *hash.first_chunk().expect("32 bytes hold 16")
    }

    /// With a scope that always fits into the block.
    #[inline]
    fn short<const N: usize>(mut block: Block, kind: u8, scope: &[u8; N], window: u64) -> Block {
        block.push(&[kind]);
        block.push(&length(scope));
        block.push(scope);
        block.push(&window.to_be_bytes());
        block
    }

    fn long(&self, kind: u8, scope: &str, window: u64) -> Input {
        let mut input = Input::from(self.view);
        input.push(&[kind]);
        input.push(&length(scope.as_bytes()));
        input.push(scope.as_bytes());
        input.push(&window.to_be_bytes());
        input
    }
}

/// What identifies a session in a request.
#[derive(Clone, Copy)]
pub(crate) enum Credential<'a> {
    Cookie(&'a str, &'a [u8]),
    Authorization(&'a [u8]),
}

/// All that identify one request's session, as they are hashed: in the order in which they are put in.
pub(crate) struct Credentials {
    input: Input,
    any: bool,
}

impl Credentials {
    #[inline]
    pub(crate) fn new() -> Self {
        Self { input: Input::from(Block::new(b'S')), any: false }
    }

    #[inline]
    pub(crate) fn push(&mut self, credential: Credential<'_>) {
        self.any = true;
        let (kind, parts) = match credential {
            Credential::Cookie(name, value) => (b'C', [name.as_bytes(), value]),
            Credential::Authorization(value) => (b'A', [b"", value]),
        };
        self.input.push(&[kind]);
        for part in parts {
            self.input.push(&length(part));
            self.input.push(part);
        }
    }

    /// Nothing, if there are none.
    #[inline]
    pub(crate) fn hash(&self, handle: &Handle) -> Option<[u8; 16]> {
        self.any.then(|| *self.input.hash(&handle.0).first_chunk().expect("32 bytes hold 16"))
    }
}

// No request and no scope has 4 GiB.
fn length(part: &[u8]) -> [u8; 4] {
    u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// Within what a pseudonym may be compared, as it is hashed.
#[derive(Clone, Copy)]
pub(crate) enum ScopeValue<'a> {
    Unscoped,
    Host(&'a str),
    Session(&'a [u8; 16]),
    Fresh(&'a [u8; 16]),
    Named(&'a str),
}

/// The input of a hash that fits into one block of BLAKE3.
#[derive(Clone, Copy)]
struct Block {
    bytes: [u8; 64],
    length: usize,
}

impl Block {
    #[inline]
    fn new(first: u8) -> Self {
        let mut bytes = [0; 64];
        bytes[0] = first;
        Self { bytes, length: 1 }
    }

    /// For what is known to fit.
    #[inline(always)]
    fn push(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        self.bytes[self.length..end].copy_from_slice(bytes);
        self.length = end;
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    #[inline]
    fn hash(&self, key: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(key, self.as_bytes()).as_bytes()
    }
}

/// The input of a hash, put together on the stack as long as it fits there.
struct Input {
    block: Block,
    // All of it, if it does not.
    rest: Vec<u8>,
}

impl From<Block> for Input {
    #[inline]
    fn from(block: Block) -> Self {
        Self { block, rest: Vec::new() }
    }
}

impl Input {
    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        if self.rest.is_empty() && bytes.len() <= self.block.bytes.len() - self.block.length {
            self.block.push(bytes);
        } else {
            self.push_more(bytes);
        }
    }

    #[cold]
    fn push_more(&mut self, bytes: &[u8]) {
        if self.rest.is_empty() {
            self.rest.extend_from_slice(self.block.as_bytes());
        }
        self.rest.extend_from_slice(bytes);
    }

    #[inline]
    fn hash(&self, key: &[u8; 32]) -> [u8; 32] {
        match self.rest.is_empty() {
            true => self.block.hash(key),
            false => *blake3::keyed_hash(key, &self.rest).as_bytes(),
        }
    }
}

impl Drop for Input {
    #[inline]
    fn drop(&mut self) {
        // Credentials may be in there.
        if !self.rest.is_empty() {
            zeroize::Zeroize::zeroize(&mut self.rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn inputs_longer_than_a_block_are_hashed_whole(view in "[a-z]{1,32}", scope in ".{0,200}") {
            let question = Question::new(Purpose::Pseudonyms, &view, true);
            let mut plain = vec![b'P', view.len() as u8];
            plain.extend_from_slice(view.as_bytes());
            plain.push(4);
            plain.extend_from_slice(&(scope.len() as u32).to_be_bytes());
            plain.extend_from_slice(scope.as_bytes());
            plain.extend_from_slice(&7_u64.to_be_bytes());
            let expected = blake3::keyed_hash(&[3; 32], &plain);
            let hash = question.ask(&Handle([3; 32]), ScopeValue::Named(&scope), || 7);
            prop_assert_eq!(&hash, &expected.as_bytes()[..16]);
        }
    }
}
