//! What is in the store, and whether it can be believed.

use std::{
    collections::{HashMap, HashSet},
    mem,
    time::{Duration, Instant, SystemTime},
};

use redis::{Cmd, Value, cmd};

use super::{
    super::{
        super::{Epoch, Notice, Reason, RingHandle},
        Names,
        record::{Fleet, Generation, Record, Unbelievable, signer},
        store::value,
    },
    RedisSource, Trouble, milliseconds,
};

/// What is in the store for one epoch.
pub(super) struct Board {
    pub(super) fleet: Option<Vec<u8>>,
    pub(super) generation: Option<Vec<u8>>,
    pub(super) claim: Option<Vec<u8>>,
    pub(super) members: HashMap<String, Vec<u8>>,
    pub(super) sealed: HashSet<String>,
    // By the store's clock, since 1970.
    pub(super) time: Duration,
}

impl RedisSource {
    pub(super) fn read(&mut self, epoch: u64) -> Result<Board, Trouble> {
        let names = Names(&self.node.namespace);
        let generation = self.generation(epoch);
        let commands = [
            cmd("GET").arg(names.fleet()).take(),
            cmd("GET").arg(names.generation(epoch)).take(),
            cmd("GET").arg(names.claim(epoch, generation)).take(),
            cmd("HGETALL").arg(names.members(epoch, generation)).take(),
            cmd("HKEYS").arg(names.sealed(epoch, generation)).take(),
            cmd("TIME").take(),
        ];
        let answers = self.ask(&commands)?;
        let mut answers = answers.into_iter();
        let (second, micros): (u64, u64);
        let board = Board {
            fleet: value(answers.next())?,
            generation: value(answers.next())?,
            claim: value(answers.next())?,
            members: value(answers.next())?,
            sealed: value(answers.next())?,
            time: {
                (second, micros) = value(answers.next())?;
                Duration::from_secs(second) + Duration::from_micros(micros.min(999_999))
            },
        };
        self.time = board.time;
        Ok(board)
    }

    pub(super) fn ask(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Trouble> {
        let answer = self.store.ask(commands);
        match (&answer, self.said.away) {
            (Err(away), said) if said != Some(*away) => {
                self.said.away = Some(*away);
                self.notice(Notice::StoreUnreachable(away.0));
            }
            (Ok(_), Some(_)) => {
                self.said.away = None;
                self.notice(Notice::StoreReached);
            }
            _ => {}
        }
        if self.store.persists && !mem::replace(&mut self.said.persists, true) {
            self.notice(Notice::StorePersists);
        }
        Ok(answer?)
    }

    pub(super) fn look_at_the_clock(&mut self, wall: SystemTime, store: Duration) {
        let ours = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let is_skewed = ours.abs_diff(store) > Self::SKEW;
        if is_skewed && !self.said.skewed {
            let seconds = i64::try_from(ours.as_secs()).unwrap_or(i64::MAX);
            let theirs = i64::try_from(store.as_secs()).unwrap_or(i64::MAX);
            self.notice(Notice::ClockDiffers { seconds: seconds.saturating_sub(theirs) });
        }
        self.said.skewed = is_skewed;
    }

    /// Whether this node is one of those that use the namespace.
    pub(super) fn look_at_the_fleet(&mut self, board: &Board) -> Result<(), Trouble> {
        let period = self.ring.as_ref().and_then(RingHandle::epochs).ok_or(Trouble::StayOut)?.period().as_secs();
        let mut is_new = board.fleet.is_none();
        if let Some(record) = &board.fleet {
            match Fleet::believe(record, &self.node.secret, self.node.anywhere()) {
                Ok(fleet) if fleet.period != period => {
                    if self.said.period.replace(fleet.period) != Some(fleet.period) {
                        self.notice(Notice::PeriodDiffers { theirs: Duration::from_secs(fleet.period) });
                    }
                    return Err(Trouble::StayOut);
                }
                Ok(_) => self.said.period = None,
                Err(Unbelievable::ForeignSecret(theirs)) => return Err(self.foreign(theirs)),
                Err(Unbelievable::Forged) => {
                    self.forged("the record of the fleet");
                    is_new = true;
                }
            }
        }
        // Gone some time after the last node has.
        if is_new || self.renewed.is_none_or(|renewed| renewed.elapsed() > FLEET_EXPIRY / 4) {
            let record = Fleet { period }.sign(&self.node.secret, self.node.anywhere()).ok_or(Trouble::StayOut)?;
            let mut set = cmd("SET");
            set.arg(Names(&self.node.namespace).fleet()).arg(record).arg("PX").arg(FLEET_EXPIRY.as_millis() as u64);
            if board.fleet.is_none() {
                // So that of two that begin at once with different periods, one notices.
                set.arg("NX");
            }
            self.ask(&[set])?;
            self.renewed = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether the epoch's key is another than the one known here.
    pub(super) fn look_at_the_generation(
        &mut self,
        epoch: u64,
        board: &Board,
        wall: SystemTime,
    ) -> Result<bool, Trouble> {
        let known = self.generations.get(&epoch).copied();
        let ours = self.generation(epoch);
        let place = self.place_of(epoch);
        let written = match &board.generation {
            None => None,
            Some(record) => match Generation::believe(record, &self.node.secret, place) {
                Ok(generation) if generation.follows(ours) => Some(generation),
                Err(Unbelievable::ForeignSecret(theirs)) => return Err(self.foreign(theirs)),
                Ok(_) | Err(Unbelievable::Forged) => {
                    self.forged("the generation of an epoch");
                    None
                }
            },
        };
        let theirs = written.map_or(0, |written| written.number);
        if let Some(written) = written.filter(|_| theirs > ours) {
            let late = milliseconds(wall).saturating_sub(written.at);
            let ring = self.ring.clone().ok_or(Trouble::StayOut)?;
            let had = ring.lend(Epoch(epoch), |_| ()).is_some();
            self.enter(epoch, written, had);
            ring.destroy(Epoch(epoch), Reason::Rotated);
            if had && Duration::from_millis(late) > LATE {
                ring.notice(Notice::RotationHeardLate { by: Duration::from_millis(late) });
            }
            return Ok(true);
        }
        match known {
            // Forgotten by the store, or not there yet, or brought back from before.
            Some(known) if theirs < ours => self.spread(epoch, known, wall)?,
            Some(known) if !self.signed.contains(&epoch) => {
                let ours = self.node.secret.id();
                if board.generation.as_ref().is_some_and(|there| signer(there) != Some(ours)) {
                    self.spread(epoch, known, wall)?;
                }
            }
            _ => {}
        }
        self.signed.insert(epoch);
        if self.unspread.remove(&epoch) && self.unspread.is_empty() {
            self.said.unspread = false;
        }
        Ok(false)
    }

    pub(super) fn foreign(&mut self, theirs: u64) -> Trouble {
        if self.said.foreign.len() < MOST_SAID && self.said.foreign.insert(theirs) {
            self.notice(Notice::ForeignSecret { theirs, ours: self.node.secret.id() });
        }
        Trouble::StayOut
    }

    pub(super) fn forged(&mut self, what: &'static str) {
        if self.said.forged.insert(what) {
            self.notice(Notice::Forged(what));
        }
    }
}

/// How late a rotation may be heard of until it is said.
const LATE: Duration = Duration::from_secs(5);
const FLEET_EXPIRY: Duration = Duration::from_secs(60);
const MOST_SAID: usize = 64;
