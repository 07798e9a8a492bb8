//! How a key comes from one node to another.

use std::time::SystemTime;

use redis::cmd;

use super::{
    super::{
        super::{Epoch, EpochKey, RingHandle},
        Names,
        record::{Claim, Member, Record, Unbelievable},
        sealed::{self, Address},
        store::value,
    },
    RedisSource, Trouble, field,
    look::Board,
};

impl RedisSource {
    /// The claimed key, if somebody has sealed it for this node.
    pub(super) fn open(
        &mut self,
        epoch: u64,
        board: &Board,
        claim: &Claim,
        ring: &RingHandle,
    ) -> Result<Option<EpochKey>, Trouble> {
        let member = self.node.member;
        let envelope = envelope(member, &claim.commitment);
        if !board.sealed.contains(&envelope) {
            return Ok(None);
        }
        let name = Names(&self.node.namespace).sealed(epoch, self.generation(epoch));
        let sealed: Option<Vec<u8>> = value(self.ask(&[cmd("HGET").arg(&name).arg(&envelope).take()])?.pop())?;
        let Some(sealed) = sealed else { return Ok(None) };
        let address = Address { place: self.place(epoch), member, commitment: &claim.commitment };
        let slot = self.slots.get(&epoch).ok_or(Trouble::StayOut)?;
        let Some((key, left)) = slot.pair.open(&sealed, &self.node.secret, address) else {
            self.forged("a sealed key");
            // Room for one that is none.
            self.ask(&[cmd("HDEL").arg(&name).arg(&envelope).take()])?;
            return Ok(None);
        };
        // Whatever name the claim had for it.
        self.refuse_the_dead(key.id())?;
        let now = ring.now().ok_or(Trouble::StayOut)?.monotonic;
        let last = now.checked_add(left).ok_or(Trouble::StayOut)?;
        self.give(epoch, Some(&key));
        Ok(Some(key.over_by(last)))
    }

    /// Seals the key for everybody who has none yet.
    pub(super) fn answer(
        &mut self,
        epoch: u64,
        board: &Board,
        claim: &Claim,
        ring: &RingHandle,
        wall: SystemTime,
    ) -> Result<(), Trouble> {
        let mut sealed = Vec::new();
        let (ours, end) = (field(self.node.member), envelope_end(&claim.commitment));
        let waiting =
            board.members.iter().filter(|(name, _)| **name != ours && !board.sealed.contains(&format!("{name}.{end}")));
        for (name, record) in waiting.take(MOST_ANSWERS) {
            let place = self.place(epoch);
            let member = match Member::believe(record, &self.node.secret, place) {
                Ok(member) if field(member.member) == *name => member,
                Err(Unbelievable::ForeignSecret(theirs)) => {
                    // Not for him; and not a reason to stay out.
                    let _ = self.foreign(theirs);
                    continue;
                }
                _ => {
                    self.forged("a member");
                    continue;
                }
            };
            let address = Address { place, member: member.member, commitment: &claim.commitment };
            // One at a time, so that the key can be destroyed in between.
            let lent = ring.lend(Epoch(epoch), |key| {
                if sealed::commitment(key, place) != Some(claim.commitment) {
                    return None;
                }
                let left = key.last?.saturating_duration_since(ring.now()?.monotonic);
                sealed::seal(key, left, &member.public, &self.node.secret, address)
            });
            if let Some(text) = lent.flatten() {
                sealed.push((envelope(member.member, &claim.commitment), text));
            }
        }
        if sealed.is_empty() {
            return Ok(());
        }
        let name = Names(&self.node.namespace).sealed(epoch, self.generation(epoch));
        let mut set = cmd("HSET");
        set.arg(&name);
        for (envelope, text) in sealed {
            set.arg(envelope).arg(text);
        }
        let expiry = self.expiry(epoch, wall).ok_or(Trouble::StayOut)?;
        self.ask(&[set, cmd("PEXPIRE").arg(&name).arg(expiry).take()])?;
        Ok(())
    }
}

/// Where a member finds the key of that commitment.
fn envelope(member: u64, commitment: &[u8; 32]) -> String {
    format!("{}.{}", field(member), envelope_end(commitment))
}

fn envelope_end(commitment: &[u8; 32]) -> String {
    let start = commitment.first_chunk().expect("32 bytes hold 8");
    format!("{:016x}", u64::from_be_bytes(*start))
}

/// How many are answered in one turn. The others are in the next: which ones come first is different each time.
const MOST_ANSWERS: usize = 256;
