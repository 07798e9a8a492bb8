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
        record::{Fleet, Generation, Node, Record, Unbelievable, is_lost, said_until, signer, written},
        store::{Away, OF_ANOTHER_TYPE, TOO_LONG, value},
    },
    NODES_EXPIRY, RedisSource, Trouble, field, milliseconds, whole_milliseconds,
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
        self.looking_at = epoch;
        let generation = self.generation(epoch);
        if self.cluttered.remove(&epoch) {
            // What others have put there, they put there again: as for a store that forgets.
            let names = Names(&self.node.namespace);
            let all = [
                names.fleet(),
                names.nodes(),
                names.generation(epoch),
                names.claim(epoch, generation),
                names.members(epoch, generation),
                names.sealed(epoch, generation),
            ];
            self.ask(&[cmd("DEL").arg(&all).take()])?;
        }
        let names = Names(&self.node.namespace);
        let commands = [
            cmd("GET").arg(names.fleet()).take(),
            cmd("GET").arg(names.generation(epoch)).take(),
            cmd("GET").arg(names.claim(epoch, generation)).take(),
            cmd("HGETALL").arg(names.members(epoch, generation)).take(),
            cmd("HKEYS").arg(names.sealed(epoch, generation)).take(),
            cmd("TIME").take(),
        ];
        let answers = self.ask(&commands);
        if let Err(Trouble::Away(Away(TOO_LONG))) = answers {
            self.cluttered.insert(epoch);
        }
        let answers = answers?;
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
        if let Err(away) = &answer {
            // A store that can be read only is of no use: this node has to write before the store is back.
            self.greeted = None;
            if away.0 == OF_ANOTHER_TYPE {
                self.cluttered.insert(self.looking_at);
            }
            if self.said.away.insert(away.0) {
                self.notice(Notice::StoreUnreachable(away.0));
            }
        }
        if self.store.persists && !mem::replace(&mut self.said.persists, true) {
            self.notice(Notice::StorePersists);
        }
        Ok(answer?)
    }

    /// What is said when a whole turn has come to its end.
    pub(super) fn look_at_the_store(&mut self, is_away: bool) {
        if !is_away && self.greeted.is_some() && !self.said.away.is_empty() {
            self.said.away.clear();
            self.notice(Notice::StoreReached);
        }
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
                    let nodes = self.recent_nodes()?;
                    let node = |record: &Vec<u8>| Node::believe(record, &self.node.secret, self.node.anywhere()).ok();
                    let is_behind = nodes.iter().filter_map(node).any(|node| node.period == fleet.period);
                    if self.said.period.replace(fleet.period) != Some(fleet.period) {
                        self.notice(Notice::PeriodDiffers { theirs: Duration::from_secs(fleet.period) });
                    }
                    if !self.is_in_the_way(self.node.secret.id(), fleet.period, is_behind) {
                        return Err(Trouble::StayOut);
                    }
                    is_new = true;
                }
                Ok(_) => (self.said.period, self.alone_since) = (None, None),
                Err(Unbelievable::ForeignSecret(theirs)) => {
                    let is_behind = self.is_behind(theirs)?;
                    let trouble = self.foreign(theirs);
                    if !self.is_in_the_way(theirs, 0, is_behind) {
                        return Err(trouble);
                    }
                    is_new = true;
                }
                Err(Unbelievable::Forged) => {
                    self.forged("the record of the fleet");
                    (is_new, self.alone_since) = (true, None);
                }
            }
        } else {
            self.alone_since = None;
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

    /// This node stays out of what another secret has signed in an epoch, unless the namespace is its own fleet's and nobody is
    /// behind that: then it is as good as forged. Else whoever controls the store would write it beforehand for all epochs.
    pub(super) fn look_behind(&mut self, theirs: u64, board: &Board, what: &'static str) -> Result<(), Trouble> {
        let believe = |record: &Vec<u8>| Fleet::believe(record, &self.node.secret, self.node.anywhere()).is_ok();
        let is_ours = board.fleet.as_ref().is_some_and(believe);
        if is_ours && !self.is_behind(theirs)? {
            self.forged(what);
            return Ok(());
        }
        Err(self.foreign(theirs))
    }

    /// Whether there is a node that signs with that secret.
    fn is_behind(&mut self, theirs: u64) -> Result<bool, Trouble> {
        Ok(self.recent_nodes()?.iter().any(|node| signer(node) == Some(theirs)))
    }

    /// Whether the record of a fleet that keeps this node out has had no node behind it for as long as such a record stays. It is of
    /// a fleet that is gone, or was written once by whoever controls the store, and must not keep a fleet out for ever.
    fn is_in_the_way(&mut self, signer: u64, period: u64, is_behind: bool) -> bool {
        let Some(now) = self.ring.as_ref().and_then(RingHandle::now) else { return false };
        if is_behind {
            self.alone_since = None;
            return false;
        }
        let before = self.alone_since.filter(|(whose, _)| *whose == (signer, period));
        let (_, since) = *self.alone_since.insert(before.unwrap_or(((signer, period), now.monotonic)));
        now.monotonic.saturating_duration_since(since) >= FLEET_EXPIRY
    }

    /// What those have written who say that they have done so of late, whether it is believed or not.
    fn recent_nodes(&mut self) -> Result<Vec<Vec<u8>>, Trouble> {
        let time = whole_milliseconds(self.time);
        let is_recent = |record: &Vec<u8>| written(record).is_some_and(|at| !is_lost(at, time));
        Ok(self.nodes()?.into_values().filter(is_recent).collect())
    }

    fn nodes(&mut self) -> Result<HashMap<String, Vec<u8>>, Trouble> {
        self.disperse()?;
        let name = Names(&self.node.namespace).nodes();
        let answers = self.ask(&[cmd("HGETALL").arg(name).take()]);
        // Said to the store when it is asked again: it is left alone for a moment now.
        self.crowded = matches!(answers, Err(Trouble::Away(Away(TOO_LONG))));
        Ok(value(answers?.pop())?)
    }

    /// Removes what all nodes have said if it was more than can be read. They say it again within a second.
    fn disperse(&mut self) -> Result<(), Trouble> {
        if self.crowded {
            let name = Names(&self.node.namespace).nodes();
            self.ask(&[cmd("DEL").arg(name).take()])?;
            (self.crowded, self.greeted) = (false, None);
        }
        Ok(())
    }

    /// Removes what nodes have left behind that did not end by themselves, and what never was of a node. It stays for an hour
    /// after a node can have had a key.
    pub(super) fn tidy(&mut self) -> Result<(), Trouble> {
        self.disperse()?;
        if self.tidied.is_some_and(|tidied| tidied.elapsed() < FLEET_EXPIRY) {
            return Ok(());
        }
        // Whatever comes of it: what can't be read now is not asked for in each turn.
        self.tidied = Some(Instant::now());
        let nodes = self.nodes()?;
        let (time, hour) = (whole_milliseconds(self.time), whole_milliseconds(NODES_EXPIRY));
        let is_old = |(name, record): &(&String, &Vec<u8>)| {
            match Node::believe(record, &self.node.secret, self.node.anywhere()) {
                Ok(node) if field(node.member) == **name => node.until.max(node.at).saturating_add(hour) < time,
                // Of the fleet all the same, if it is this node that has a wrong secret. Whoever it is, what he says of the time
                // is believed as far as it makes sense.
                _ => written(record)
                    .zip(said_until(record))
                    .is_none_or(|(at, until)| at.saturating_sub(time) > hour || until.saturating_add(hour) < time),
            }
        };
        let old: Vec<_> = nodes.iter().filter(is_old).map(|(name, _)| name).collect();
        if !old.is_empty() {
            let name = Names(&self.node.namespace).nodes();
            self.ask(&[cmd("HDEL").arg(name).arg(old).take()])?;
        }
        Ok(())
    }

    /// What is written of the epoch's generation, if it is believed.
    pub(super) fn written_generation(&mut self, epoch: u64, board: &Board) -> Result<Option<Generation>, Trouble> {
        let Some(record) = &board.generation else { return Ok(None) };
        match Generation::believe(record, &self.node.secret, self.place_of(epoch)) {
            Ok(generation) if generation.follows(self.generation(epoch)) => Ok(Some(generation)),
            // Whoever comes late has not heard of all those before.
            Ok(generation)
                if !self.generations.contains_key(&epoch) && generation.follows(self.told_generation(epoch)?) =>
            {
                Ok(Some(generation))
            }
            Err(Unbelievable::ForeignSecret(theirs)) => {
                self.look_behind(theirs, board, "the generation of an epoch").map(|()| None)
            }
            Ok(_) | Err(Unbelievable::Forged) => {
                self.forged("the generation of an epoch");
                Ok(None)
            }
        }
    }

    /// The highest generation that nodes say they are in. What rotates an epoch rotates the next one, too.
    fn told_generation(&mut self, epoch: u64) -> Result<u64, Trouble> {
        let nodes = self.recent_nodes()?;
        let node = |record: &Vec<u8>| Node::believe(record, &self.node.secret, self.node.anywhere()).ok();
        let nodes =
            nodes.iter().filter_map(node).filter(|node| epoch.checked_sub(node.epoch).is_some_and(|by| by <= 1));
        // A number that can't grow is no bound, whoever has signed it.
        Ok(nodes.map(|node| node.generation).filter(|told| *told <= u64::MAX / 2).max().unwrap_or(0))
    }

    /// Whether the epoch's key is another than the one known here, which is destroyed then.
    pub(super) fn hear_of_a_rotation(
        &mut self,
        epoch: u64,
        written: Option<Generation>,
        wall: SystemTime,
    ) -> Result<bool, Trouble> {
        let ours = self.generation(epoch);
        let known = self.generations.get(&epoch).copied().filter(|_| self.unspread.contains(&epoch));
        if let Some((mut known, written)) = known.zip(written)
            && written.number >= ours
            && (written.number > ours || written.at != known.at)
        {
            // Of another rotation: of the one that this node was told to do nobody has heard.
            known.number = written.number.checked_add(1).ok_or(Trouble::StayOut)?;
            self.enter(epoch, known, true);
            if let Some(ring) = &self.ring {
                ring.destroy(Epoch(epoch), Reason::Rotated);
            }
            self.spread_a_rotation(epoch, known, wall)?;
            self.spread_no_more(|spread| *spread == epoch);
            return Ok(true);
        }
        if let Some(written) = written.filter(|written| written.number > ours) {
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
        Ok(false)
    }

    /// Has the store say which of the epoch's keys is the one.
    pub(super) fn keep_the_generation(
        &mut self,
        epoch: u64,
        board: &Board,
        written: Option<Generation>,
        wall: SystemTime,
    ) -> Result<(), Trouble> {
        let known = self.generations.get(&epoch).copied();
        let ours = self.generation(epoch);
        let theirs = written.map_or(0, |written| written.number);
        match known {
            // Forgotten by the store, or not there yet, or brought back from before.
            Some(known) if theirs < ours && self.unspread.contains(&epoch) => {
                self.spread_a_rotation(epoch, known, wall)?;
            }
            Some(known) if theirs < ours => {
                self.spread(epoch, known, wall)?;
            }
            Some(known) if !self.signed.contains(&epoch) => {
                let ours = self.node.secret.id();
                if board.generation.as_ref().is_some_and(|there| signer(there) != Some(ours)) {
                    self.spread(epoch, known, wall)?;
                }
            }
            _ => {}
        }
        self.signed.insert(epoch);
        self.spread_no_more(|spread| *spread == epoch);
        Ok(())
    }

    pub(super) fn foreign(&mut self, theirs: u64) -> Trouble {
        if self.said.foreign_is_full.is_some_and(|full| full.elapsed() >= NODES_EXPIRY) {
            self.said.foreign.clear();
            self.said.foreign_is_full = None;
        }
        if self.said.foreign.len() >= MOST_SAID {
            self.said.foreign_is_full.get_or_insert_with(Instant::now);
        } else if self.said.foreign.insert(theirs) {
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
