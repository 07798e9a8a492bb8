//! How nodes agree on one key for an epoch.

use std::time::{Duration, Instant, SystemTime};

use redis::cmd;

use super::{
    super::{
        super::{Epoch, EpochKey, Epochs, KeyId, Notice, Now, Reason, RingHandle},
        Names,
        record::{Claim, Generation, Member, Record, signer},
        sealed,
        store::value,
    },
    RedisSource, Slot, Trouble, field,
    look::Board,
    milliseconds,
};

impl RedisSource {
    pub(super) fn enter(&mut self, epoch: u64, generation: Generation, is_fresh: bool) {
        self.generations.insert(epoch, generation);
        // What rotates an epoch rotates the next one, too: this node looks there again.
        self.signed.retain(|signed| *signed != epoch && epoch.checked_add(1) != Some(*signed));
        // Whoever has rotated waits for it to be seen.
        self.greeted = None;
        // Dropped: what was sealed for the one before opens no more.
        self.slots.remove(&epoch);
        if let Ok(slot) = Slot::new(generation.number, is_fresh) {
            self.slots.insert(epoch, slot);
        }
    }

    /// Has the store name this generation. Gives what it has named meanwhile, if that is another which is no earlier.
    pub(super) fn spread(
        &mut self,
        epoch: u64,
        generation: Generation,
        wall: SystemTime,
    ) -> Result<Option<Generation>, Trouble> {
        let record = generation.sign(&self.node.secret, self.place_of(epoch)).ok_or(Trouble::StayOut)?;
        let expiry = self.expiry(epoch, wall).ok_or(Trouble::StayOut)?;
        let name = Names(&self.node.namespace).generation(epoch);
        let set = |record: Vec<u8>| cmd("SET").arg(&name).arg(record).arg("GET").arg("PX").arg(expiry).take();
        let before: Option<Vec<u8>> = value(self.ask(&[set(record)])?.pop())?;
        // Somebody has rotated since this node has looked, and has the last word.
        if let Some(before) = before
            && let Ok(there) = Generation::believe(&before, &self.node.secret, self.place_of(epoch))
            && there.number >= generation.number
            && there.follows(generation.number)
        {
            if there.number > generation.number {
                self.ask(&[set(before)])?;
            }
            return Ok((there.number > generation.number || there.at != generation.at).then_some(there));
        }
        Ok(None)
    }

    /// Tells the fleet that this node was told to rotate. Whatever the fleet has come to without having heard of that, it leaves:
    /// else its key would be one of another rotation, from before.
    pub(super) fn spread_a_rotation(
        &mut self,
        epoch: u64,
        mut generation: Generation,
        wall: SystemTime,
    ) -> Result<(), Trouble> {
        while let Some(there) = self.spread(epoch, generation, wall)? {
            generation.number = there.number.checked_add(1).ok_or(Trouble::StayOut)?;
            self.enter(epoch, generation, true);
        }
        Ok(())
    }

    /// What the fleet has been told of rotations, or need not hear any more.
    pub(super) fn spread_no_more(&mut self, is_spread: impl Fn(&u64) -> bool) {
        let was_empty = self.unspread.is_empty();
        self.unspread.retain(|epoch| !is_spread(epoch));
        if !was_empty && self.unspread.is_empty() {
            self.notice(Notice::RotationSettled);
        }
    }

    pub(super) fn next_generation(&mut self, epoch: u64, wall: SystemTime) -> Result<(), Trouble> {
        let generation = Generation { number: self.generation(epoch) + 1, at: milliseconds(wall) };
        self.enter(epoch, generation, true);
        if let Some(ring) = &self.ring {
            ring.destroy(Epoch(epoch), Reason::Superseded);
        }
        self.spread(epoch, generation, wall)?;
        Ok(())
    }

    /// Puts this node's public half where the others look for it.
    pub(super) fn introduce(&mut self, epoch: u64, board: &Board, wall: SystemTime) -> Result<(), Trouble> {
        let member = self.node.member;
        let public = self.slots.get(&epoch).ok_or(Trouble::StayOut)?.pair.public;
        let is_there = board.members.get(&field(member)).is_some_and(|record| {
            signer(record) == Some(self.node.secret.id())
                && Member::believe(record, &self.node.secret, self.place(epoch))
                    .is_ok_and(|there| there.member == member && there.public == public)
        });
        if is_there {
            return Ok(());
        }
        let record = Member { member, public }.sign(&self.node.secret, self.place(epoch)).ok_or(Trouble::StayOut)?;
        let name = Names(&self.node.namespace).members(epoch, self.generation(epoch));
        self.set_field(name, field(member), record, epoch, wall)
    }

    pub(super) fn set_field(
        &mut self,
        name: String,
        field: String,
        value: Vec<u8>,
        epoch: u64,
        wall: SystemTime,
    ) -> Result<(), Trouble> {
        let expiry = self.expiry(epoch, wall).ok_or(Trouble::StayOut)?;
        self.ask(&[cmd("HSET").arg(&name).arg(field).arg(value).take(), cmd("PEXPIRE").arg(&name).arg(expiry).take()])?;
        Ok(())
    }

    /// Claims the epoch for a key; gives the claim that was there before, if there was one.
    pub(super) fn claim(
        &mut self,
        epoch: u64,
        commitment: [u8; 32],
        key: KeyId,
        wall: SystemTime,
    ) -> Result<Option<Vec<u8>>, Trouble> {
        let claim = Claim { commitment, key: u64::from_be_bytes(key.0), minter: self.node.member };
        let record = claim.sign(&self.node.secret, self.place(epoch)).ok_or(Trouble::StayOut)?;
        let expiry = self.expiry(epoch, wall).ok_or(Trouble::StayOut)?;
        let name = Names(&self.node.namespace).claim(epoch, self.generation(epoch));
        let set = cmd("SET").arg(name).arg(record).arg("NX").arg("GET").arg("PX").arg(expiry).take();
        Ok(value(self.ask(&[set])?.pop())?)
    }

    /// Signs the claim to this key with the secret by which this node signs, if another was used: by the time that all nodes
    /// sign with a new one, nothing needs the old one any more. Once, as generations are.
    pub(super) fn sign_too(
        &mut self,
        epoch: u64,
        board: &Board,
        claim: &Claim,
        wall: SystemTime,
    ) -> Result<(), Trouble> {
        if self.slots.get(&epoch).is_none_or(|slot| slot.is_signed) {
            return Ok(());
        }
        let ours = self.node.secret.id();
        if let Some(there) = board.claim.as_ref().filter(|there| signer(there) != Some(ours)) {
            let record = claim.sign(&self.node.secret, self.place(epoch)).ok_or(Trouble::StayOut)?;
            let expiry = self.expiry(epoch, wall).ok_or(Trouble::StayOut)?;
            let name = Names(&self.node.namespace).claim(epoch, self.generation(epoch));
            let set = cmd("SET").arg(&name).arg(record).arg("XX").arg("GET").arg("PX").arg(expiry).take();
            let before: Option<Vec<u8>> = value(self.ask(&[set])?.pop())?;
            // Whoever has written something else meanwhile has the last word.
            if let Some(before) = before.filter(|before| before != there) {
                self.ask(&[cmd("SET").arg(&name).arg(before).arg("PX").arg(expiry).take()])?;
                return Ok(());
            }
        }
        if let Some(slot) = self.slots.get_mut(&epoch) {
            slot.is_signed = true;
        }
        Ok(())
    }

    pub(super) fn mint(&mut self, epoch: u64, ring: &RingHandle, now: Now) -> Result<Option<EpochKey>, Trouble> {
        let is_next = ring.epoch().is_some_and(|present| epoch > present.0);
        let slot = self.slots.get_mut(&epoch).ok_or(Trouble::StayOut)?;
        let waiting = *slot.waiting.get_or_insert_with(Instant::now);
        // A store that has just forgotten all: whoever has the key says so within two of his turns.
        if !is_next && !slot.is_fresh && waiting.elapsed() < GRACE {
            return Ok(None);
        }
        let epochs = ring.epochs().ok_or(Trouble::StayOut)?;
        let last = now.monotonic + epochs.life(Epoch(epoch), now.wall) + allowance(epochs);
        let key = EpochKey::random()?.over_by(last);
        let commitment = sealed::commitment(&key, self.place(epoch)).ok_or(Trouble::StayOut)?;
        let before = self.claim(epoch, commitment, key.id(), now.wall)?;
        self.await_nobody(epoch);
        // Somebody was quicker: the next turn sees who.
        let key = before.is_none().then_some(key);
        self.give(epoch, key.as_ref());
        Ok(key)
    }

    pub(super) fn give(&mut self, epoch: u64, key: Option<&EpochKey>) {
        if let (Some(slot), Some(key)) = (self.slots.get_mut(&epoch), key) {
            slot.given = Some(key.id());
            self.latest = self.latest.max(epoch);
        }
    }

    pub(super) fn await_nobody(&mut self, epoch: u64) {
        if let Some(slot) = self.slots.get_mut(&epoch) {
            slot.waiting = None;
            slot.is_fresh = false;
        }
    }

    pub(super) fn lose_patience(&mut self, epoch: u64, wall: SystemTime) -> Result<(), Trouble> {
        let Some(slot) = self.slots.get_mut(&epoch) else { return Ok(()) };
        if slot.waiting.get_or_insert_with(Instant::now).elapsed() < Self::PATIENCE {
            return Ok(());
        }
        self.notice(Notice::HoldersGone);
        self.next_generation(epoch, wall)
    }
}

/// How much longer than on the node that makes it a key may live anywhere: for nodes whose clocks are slow.
fn allowance(epochs: Epochs) -> Duration {
    (epochs.period() / 10).min(Duration::from_secs(600))
}

/// How long a store that knows of no claim is given to hear of one.
const GRACE: Duration = Duration::from_millis(600);
