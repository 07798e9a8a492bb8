//! What nodes write into the store: short records, each signed with the fleet secret for the place where it stands.

use std::time::Duration;

use super::secrets::FleetSecret;

/// Where a record stands. Moved anywhere else, it is not believed: not in another epoch, not in another namespace.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) namespace: &'a str,
    pub(super) epoch: u64,
    pub(super) generation: u64,
}

impl<'a> Place<'a> {
    /// Of what concerns no epoch.
    pub(super) fn of_fleet(namespace: &'a str) -> Self {
        Self::of_epoch(namespace, 0)
    }

    /// Of what concerns an epoch, whichever key it has: its generation.
    pub(super) fn of_epoch(namespace: &'a str, epoch: u64) -> Self {
        Self { namespace, epoch, generation: 0 }
    }

    /// In which no two places are alike.
    pub(super) fn framed(&self, purpose: &[u8; 8]) -> Vec<u8> {
        let mut framed = Vec::with_capacity(256);
        framed.extend_from_slice(purpose);
        // Checked when the source was made: a namespace has at most 64 bytes.
        framed.push(self.namespace.len() as u8);
        framed.extend_from_slice(self.namespace.as_bytes());
        framed.extend_from_slice(&self.epoch.to_be_bytes());
        framed.extend_from_slice(&self.generation.to_be_bytes());
        framed
    }
}

/// Why a record is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unbelievable {
    /// It is signed with a secret that is not ours; this is that secret's public name.
    ForeignSecret(u64),
    /// Its signature does not fit, or there is none.
    Forged,
}

pub(super) trait Record: Sized {
    const PURPOSE: &'static [u8; 8];

    fn write(&self, body: &mut Vec<u8>);

    fn read(body: &mut Reader<'_>) -> Option<Self>;

    /// Nothing in a forked child, which has no secret.
    fn sign(&self, secret: &FleetSecret, place: Place<'_>) -> Option<Vec<u8>> {
        let keys = secret.first();
        let mut record = vec![VERSION];
        record.extend_from_slice(&keys.id.to_be_bytes());
        self.write(&mut record);
        let mut signed = place.framed(Self::PURPOSE);
        signed.extend_from_slice(&record);
        record.extend_from_slice(&keys.mac.hash(&signed)?);
        Some(record)
    }

    fn believe(record: &[u8], secret: &FleetSecret, place: Place<'_>) -> Result<Self, Unbelievable> {
        let forged = Unbelievable::Forged;
        if record.len() > LONGEST_RECORD || record.first() != Some(&VERSION) {
            return Err(forged);
        }
        let (content, mac) = record.split_last_chunk::<32>().ok_or(forged)?;
        let mut reader = Reader(content.get(1..).ok_or(forged)?);
        let id = reader.number().ok_or(forged)?;
        let keys = secret.with_id(id).ok_or(Unbelievable::ForeignSecret(id))?;
        let mut signed = place.framed(Self::PURPOSE);
        signed.extend_from_slice(content);
        let expected = keys.mac.hash(&signed).ok_or(forged)?;
        // As hashes: that comparison takes the same time wherever they differ.
        if blake3::Hash::from_bytes(expected) != blake3::Hash::from_bytes(*mac) {
            return Err(forged);
        }
        let read = Self::read(&mut reader).ok_or(forged)?;
        if reader.0.is_empty() { Ok(read) } else { Err(forged) }
    }
}

/// The public name of the secret that a record says it was signed with. That it was is for [`Record::believe`] to say.
pub(super) fn signer(record: &[u8]) -> Option<u64> {
    record.get(1..).and_then(|content| Reader(content).number())
}

/// When a node's record says that it was written. That it was is for [`Record::believe`] to say.
pub(super) fn written(record: &[u8]) -> Option<u64> {
    // After the version, the signer and the member.
    record.get(17..).and_then(|content| Reader(content).number())
}

/// Until when a node's record says that the node may have a key: not for ever, whatever it says. That it may is for
/// [`Record::believe`] to say.
pub(super) fn said_until(record: &[u8]) -> Option<u64> {
    let at = written(record)?;
    // Right after when it was written.
    let until = record.get(8..).and_then(written)?;
    Some(until.clamp(at, at.saturating_add(LONGEST_LIFE)))
}

/// Whether whoever has written a node's record is there, or may still have the key that it had then, as the record says. That it
/// is true is for [`Record::believe`] to say.
pub(super) fn may_have_a_key(record: &[u8], time: u64) -> bool {
    let Some(at) = written(record) else { return false };
    let is_past = at <= time.saturating_add(LOST.as_millis() as u64);
    !is_lost(at, time) || is_past && said_until(record).is_some_and(|until| time < until)
}

/// Whether a node that has written at that time has not been seen of late. Both are in milliseconds, by the store's clock.
pub(super) fn is_lost(at: u64, time: u64) -> bool {
    Duration::from_millis(at.abs_diff(time)) >= LOST
}

/// How long this namespace's epochs are.
pub(super) struct Fleet {
    pub(super) period: u64,
}

impl Record for Fleet {
    const PURPOSE: &'static [u8; 8] = b"fleet...";

    fn write(&self, body: &mut Vec<u8>) {
        body.extend_from_slice(&self.period.to_be_bytes());
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self { period: body.number()? })
    }
}

/// Which of an epoch's keys is the one: all of an earlier generation are to be destroyed.
#[derive(Clone, Copy)]
pub(super) struct Generation {
    pub(super) number: u64,
    // Milliseconds since 1970.
    pub(super) at: u64,
}

impl Generation {
    /// Whether somebody who knows of the generation `known` takes this one for what has come of it. Nobody rotates a thousand
    /// times before anybody hears of it; and from a number that can't grow the fleet could not rotate any more.
    pub(super) fn follows(&self, known: u64) -> bool {
        self.number.saturating_sub(known) <= MOST_ROTATIONS
    }
}

impl Record for Generation {
    const PURPOSE: &'static [u8; 8] = b"generat.";

    fn write(&self, body: &mut Vec<u8>) {
        body.extend_from_slice(&self.number.to_be_bytes());
        body.extend_from_slice(&self.at.to_be_bytes());
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self { number: body.number()?, at: body.number()? })
    }
}

/// Which key the fleet has.
pub(super) struct Claim {
    pub(super) commitment: [u8; 32],
    pub(super) key: u64,
    pub(super) minter: u64,
}

impl Record for Claim {
    const PURPOSE: &'static [u8; 8] = b"claim...";

    fn write(&self, body: &mut Vec<u8>) {
        body.extend_from_slice(&self.commitment);
        body.extend_from_slice(&self.key.to_be_bytes());
        body.extend_from_slice(&self.minter.to_be_bytes());
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self { commitment: body.bytes()?, key: body.number()?, minter: body.number()? })
    }
}

/// Who wants the key, and how it can be sealed for them.
pub(super) struct Member {
    pub(super) member: u64,
    pub(super) public: [u8; 32],
}

impl Record for Member {
    const PURPOSE: &'static [u8; 8] = b"member..";

    fn write(&self, body: &mut Vec<u8>) {
        body.extend_from_slice(&self.member.to_be_bytes());
        body.extend_from_slice(&self.public);
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self { member: body.number()?, public: body.bytes()? })
    }
}

/// How a node is. For people; nodes agree on keys without it.
pub(super) struct Node {
    pub(super) member: u64,
    // When it was written, and when all is over that the node may have a key for: milliseconds since 1970, both by the store's
    // clock, as the node saw it. Clocks of nodes differ.
    pub(super) at: u64,
    pub(super) until: u64,
    // By the node's own clock.
    pub(super) epoch: u64,
    // In seconds.
    pub(super) period: u64,
    pub(super) generation: u64,
    // 0 if it has none of the fleet's.
    pub(super) key: u64,
    pub(super) name: String,
}

impl Record for Node {
    const PURPOSE: &'static [u8; 8] = b"node....";

    fn write(&self, body: &mut Vec<u8>) {
        for number in [self.member, self.at, self.until, self.epoch, self.period, self.generation, self.key] {
            body.extend_from_slice(&number.to_be_bytes());
        }
        body.extend_from_slice(self.name.as_bytes());
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            member: body.number()?,
            at: body.number()?,
            until: body.number()?,
            epoch: body.number()?,
            period: body.number()?,
            generation: body.number()?,
            key: body.number()?,
            name: String::from_utf8(std::mem::take(&mut body.0).to_vec()).ok()?,
        })
    }
}

pub(super) struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn number(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }
}

/// How many milliseconds a node may have a key that it has now: the longest epoch, and the next.
pub(super) const LONGEST_LIFE: u64 = 2 * 86_400_000;
/// A node that says nothing for this long does not look at the store, or can't write to it.
const LOST: Duration = Duration::from_secs(60);
const VERSION: u8 = 1;
const LONGEST_RECORD: usize = 256;
const MOST_ROTATIONS: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> FleetSecret {
        FleetSecret::parse(FleetSecret::generate().unwrap().as_bytes()).unwrap()
    }

    const HERE: Place<'_> = Place { namespace: "edge", epoch: 7, generation: 1 };

    #[test]
    fn a_record_is_believed_where_it_was_put_and_nowhere_else() {
        let secret = secret();
        let record = Member { member: 5, public: [9; 32] }.sign(&secret, HERE).unwrap();
        assert_eq!(Member::believe(&record, &secret, HERE).ok().map(|member| member.member), Some(5));
        for elsewhere in [
            Place { epoch: 8, ..HERE },
            Place { generation: 2, ..HERE },
            Place { namespace: "edge2", ..HERE },
            Place { namespace: "edg", ..HERE },
        ] {
            assert_eq!(Member::believe(&record, &secret, elsewhere).err(), Some(Unbelievable::Forged));
        }
        assert_eq!(Claim::believe(&record, &secret, HERE).err(), Some(Unbelievable::Forged));
    }

    #[test]
    fn a_record_that_was_cut_or_changed_is_not_believed() {
        let (ours, theirs) = (secret(), secret());
        let record = Generation { number: 3, at: 4 }.sign(&ours, HERE).unwrap();
        for length in 0..record.len() {
            assert!(Generation::believe(&record[..length], &ours, HERE).is_err(), "{length}");
        }
        for place in 0..record.len() {
            let mut changed = record.clone();
            changed[place] ^= 1;
            assert!(Generation::believe(&changed, &ours, HERE).is_err(), "{place}");
        }
        let foreign = Unbelievable::ForeignSecret(ours.id());
        assert_eq!(Generation::believe(&record, &theirs, HERE).err(), Some(foreign));
    }
}
