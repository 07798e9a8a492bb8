//! A node of the fleet: how it gets the epoch's key, and gives it to others.

mod agree;
mod hand_over;
mod look;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use redis::cmd;

use super::{
    super::{Epoch, EpochKey, KeyError, KeyId, KeyRequest, KeySource, Notice, RingHandle, until},
    FleetError, LINGER, Names, expiry, is_name, random_number,
    record::{Claim, Generation, Node, Place, Record, Unbelievable},
    sealed::{self, Pair},
    secrets::FleetSecret,
    store::{Away, Store, StoreAddress},
};

/// A [`KeySource`] that agrees with the other nodes of its fleet: see the [module](super).
///
/// A ring that starts with it waits for the store: some milliseconds if another node has the key, two thirds of a second if it
/// is the first of its fleet, and a few seconds at most if the store does not answer.
pub struct RedisSource {
    store: Store,
    node: Identity,
    newer: SecretHandle,
    ring: Option<RingHandle>,
    slots: BTreeMap<u64, Slot>,
    // The highest that was heard of for each epoch. It never goes down.
    generations: BTreeMap<u64, Generation>,
    // Whose generation in the store, if there is one, is signed with the secret that this node has now. Once, or two nodes of
    // different opinion would never end.
    signed: HashSet<u64>,
    // After a rotation of our own, until the store has it.
    unspread: HashSet<u64>,
    // What the ring has destroyed. It never gets any of that again, whoever else has it still.
    destroyed: VecDeque<KeyId>,
    said: Said,
    renewed: Option<Instant>,
    greeted: Option<Instant>,
    tidied: Option<Instant>,
    // Which record of a fleet keeps this node out with nobody behind it, by who signed it and for which period; and since when,
    // by the ring's clock.
    alone_since: Option<((u64, u64), Instant)>,
    turned: Option<Instant>,
    // When it was last looked at, by the store's own clock, and for which epoch.
    time: Duration,
    looking_at: u64,
    // For which epochs there is something of a type that can't be read.
    cluttered: HashSet<u64>,
    // The last epoch for which this node got a key.
    latest: u64,
    // There is more in the place of the nodes than can be read.
    crowded: bool,
}

/// The fleet secret of a source that is in use, to be replaced: made by [`RedisSource::secret_handle`].
#[derive(Clone, Default)]
pub struct SecretHandle(Arc<Mutex<Option<FleetSecret>>>);

impl SecretHandle {
    /// Has the source use `secret` from now on, and forget the one before. The key that the ring has stays.
    ///
    /// It waits for nothing: the source does so when it looks at the store the next time, and then says so
    /// ([`Notice::SecretReplaced`]). One and the same secret is no news.
    pub fn replace(&self, secret: FleetSecret) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret);
    }

    fn take(&self) -> Option<FleetSecret> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for SecretHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretHandle").finish_non_exhaustive()
    }
}

/// Who this node is.
struct Identity {
    namespace: String,
    name: String,
    member: u64,
    secret: FleetSecret,
}

impl Identity {
    /// Where what concerns no epoch stands.
    fn anywhere(&self) -> Place<'_> {
        Place::of_fleet(&self.namespace)
    }
}

/// What this node has to do with one epoch's key.
struct Slot {
    generation: u64,
    pair: Pair,
    // The ring got this one.
    given: Option<KeyId>,
    // Since when nobody answers.
    waiting: Option<Instant>,
    // Nobody can have this key already: its generation has just begun.
    is_fresh: bool,
    // The claim that others have signed, this node has signed too, with the secret that it has now.
    is_signed: bool,
}

impl Slot {
    fn new(generation: u64, is_fresh: bool) -> Result<Self, KeyError> {
        Ok(Self { generation, pair: Pair::random()?, given: None, waiting: None, is_fresh, is_signed: false })
    }
}

/// What was said already, so that it is said once.
#[derive(Default)]
struct Said {
    // All that was wrong since the store could be used.
    away: HashSet<&'static str>,
    persists: bool,
    foreign: HashSet<u64>,
    // Since when nothing more of that is said.
    foreign_is_full: Option<Instant>,
    forged: HashSet<&'static str>,
    period: Option<u64>,
    skewed: bool,
}

/// Why there is no key now.
enum Trouble {
    Away(Away),
    /// This node may not take part, and has said why.
    StayOut,
    Key(KeyError),
}

impl From<Away> for Trouble {
    fn from(away: Away) -> Self {
        Self::Away(away)
    }
}

impl From<KeyError> for Trouble {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl RedisSource {
    /// How long nobody who has the key may be silent until the fleet takes another.
    pub const PATIENCE: Duration = Duration::from_secs(3);
    /// How far a node's clock may be from the store's until it is said.
    pub const SKEW: Duration = Duration::from_secs(60);

    /// A node of the fleet that has this secret, in the namespace `default`.
    #[must_use]
    pub fn new(store: StoreAddress, secret: FleetSecret) -> Self {
        let node = Identity { namespace: "default".to_owned(), name: String::new(), member: 0, secret };
        Self {
            store: Store::new(store),
            node,
            newer: SecretHandle::default(),
            ring: None,
            slots: BTreeMap::new(),
            generations: BTreeMap::new(),
            signed: HashSet::new(),
            unspread: HashSet::new(),
            destroyed: VecDeque::new(),
            said: Said::default(),
            renewed: None,
            greeted: None,
            tidied: None,
            alone_since: None,
            turned: None,
            time: Duration::ZERO,
            looking_at: 0,
            cluttered: HashSet::new(),
            latest: 0,
            crowded: false,
        }
    }

    /// Which fleet of several on one store.
    ///
    /// # Errors
    ///
    /// [`FleetError::Name`] unless it has 1 to 64 letters, digits, `-`, `_` and `.`.
    pub fn namespace(mut self, namespace: &str) -> Result<Self, FleetError> {
        if !is_name(namespace) {
            return Err(FleetError::Name);
        }
        namespace.clone_into(&mut self.node.namespace);
        Ok(self)
    }

    /// What this node is called in a status. It need not be unique.
    ///
    /// # Errors
    ///
    /// As [`namespace`](Self::namespace).
    pub fn node(mut self, name: &str) -> Result<Self, FleetError> {
        if !is_name(name) {
            return Err(FleetError::Name);
        }
        name.clone_into(&mut self.node.name);
        Ok(self)
    }

    /// By which its secret can be replaced when a ring has it already: see [`FleetSecret`].
    #[must_use]
    pub fn secret_handle(&self) -> SecretHandle {
        self.newer.clone()
    }

    fn notice(&self, notice: Notice) {
        if let Some(ring) = &self.ring {
            ring.notice(notice);
        }
    }

    /// A generation that was never heard of is 0.
    fn generation(&self, epoch: u64) -> u64 {
        self.generations.get(&epoch).map_or(0, |generation| generation.number)
    }

    fn place(&self, epoch: u64) -> Place<'_> {
        Place { namespace: &self.node.namespace, epoch, generation: self.generation(epoch) }
    }

    /// Where an epoch's generation stands.
    fn place_of(&self, epoch: u64) -> Place<'_> {
        Place::of_epoch(&self.node.namespace, epoch)
    }

    fn expiry(&self, epoch: u64, wall: SystemTime) -> Option<u64> {
        Some(expiry(self.ring.as_ref()?.epochs()?, epoch, wall))
    }

    /// What the ring's call begins with: so that the store, whatever it answers, keeps private halves no longer than one such
    /// call may take.
    fn begin(&mut self) {
        self.forget_the_past();
        self.store.begin();
    }

    /// Forgets what is over: with the private halves goes whatever was sealed for this node.
    fn forget_the_past(&mut self) {
        let present = self.ring.as_ref().and_then(RingHandle::epoch);
        let is_kept = |epoch: &u64| present.is_some_and(|present| (present.0..=present.0 + 1).contains(epoch));
        self.slots.retain(|epoch, _| is_kept(epoch));
        self.generations.retain(|epoch, _| is_kept(epoch));
        self.signed.retain(is_kept);
        self.cluttered.retain(is_kept);
        self.spread_no_more(|epoch| !is_kept(epoch));
    }

    /// Uses the secret that came in the place of the one before, if one has.
    fn take_secret(&mut self) {
        let Some(secret) = self.newer.take().filter(|secret| !secret.is_same(&self.node.secret)) else { return };
        self.node.secret = secret;
        // What is in the store is signed anew, soon, so that nodes that have only the new one believe it.
        (self.renewed, self.greeted) = (None, None);
        self.signed.clear();
        self.slots.values_mut().for_each(|slot| slot.is_signed = false);
        // Who was a stranger may be none now, or still be one.
        self.said.foreign.clear();
        self.said.foreign_is_full = None;
        self.notice(Notice::SecretReplaced { ours: self.node.secret.id() });
    }

    /// Looks at the store, and does for `epoch` what is to be done: whether or not the ring wants a key. Gives one if the ring
    /// wants it and it can be had.
    fn turn(&mut self, epoch: u64, is_wanted: bool) -> Result<Option<EpochKey>, Trouble> {
        let ring = self.ring.clone().ok_or(Trouble::StayOut)?;
        let now = ring.now().ok_or(Trouble::StayOut)?;
        self.take_secret();
        let board = self.read(epoch)?;
        self.look_at_the_clock(now.wall, board.time);
        let fleet = self.look_at_the_fleet(&board);
        // Whoever keeps this node out does not keep it from hearing of the panic button.
        let written = self.written_generation(epoch, &board)?;
        if self.hear_of_a_rotation(epoch, written, now.wall)? {
            // What else was read is of an earlier one.
            return Ok(None);
        }
        fleet?;
        let generation = self.generation(epoch);
        self.keep_the_generation(epoch, &board, written, now.wall)?;
        if self.generation(epoch) != generation {
            return Ok(None);
        }

        let held =
            ring.lend(Epoch(epoch), |key| Some((key.id(), sealed::commitment(key, self.place(epoch))?))).flatten();
        if held.is_none() && !is_wanted {
            return Ok(None);
        }
        let claim = match &board.claim {
            None => None,
            Some(record) => match Claim::believe(record, &self.node.secret, self.place(epoch)) {
                Ok(claim) => Some(claim),
                Err(unbelievable) => {
                    match unbelievable {
                        Unbelievable::ForeignSecret(theirs) => {
                            self.look_behind(theirs, &board, "the claim to an epoch")?
                        }
                        Unbelievable::Forged => self.forged("the claim to an epoch"),
                    }
                    // Out of the way: whoever has the key claims again, before anybody mints another.
                    let name = Names(&self.node.namespace).claim(epoch, generation);
                    self.ask(&[cmd("DEL").arg(name).take()])?;
                    return Ok(None);
                }
            },
        };
        if let Some(claim) = &claim {
            // Before anybody can seal it for this node once more.
            self.refuse_the_dead(KeyId(claim.key.to_be_bytes()))?;
        }
        if self.slots.get(&epoch).is_none_or(|slot| slot.generation != generation) {
            self.slots.insert(epoch, Slot::new(generation, false)?);
        }
        self.introduce(epoch, &board, now.wall)?;

        let Some(claim) = claim else {
            return match held {
                // The store has forgotten it.
                Some((key, commitment)) => self.claim(epoch, commitment, key, now.wall).map(|_| None),
                None => self.mint(epoch, &ring, now),
            };
        };
        match held {
            Some((_, commitment)) if commitment == claim.commitment => {
                self.await_nobody(epoch);
                self.sign_too(epoch, &board, &claim, now.wall)?;
                self.answer(epoch, &board, &claim, &ring, now.wall)?;
                Ok(None)
            }
            Some((old, _)) => {
                if let Some(key) = self.open(epoch, &board, &claim, &ring)? {
                    self.await_nobody(epoch);
                    ring.notice(Notice::SplitHealed);
                    ring.replace(Epoch(epoch), old, key);
                } else {
                    self.lose_patience(epoch, now.wall)?;
                }
                Ok(None)
            }
            None => {
                let key = self.open(epoch, &board, &claim, &ring)?;
                match key {
                    Some(_) => self.await_nobody(epoch),
                    None => self.lose_patience(epoch, now.wall)?,
                }
                Ok(key)
            }
        }
    }

    /// What this node's ring has destroyed is gone for it, even if the epoch is not over by a clock that was set back.
    fn refuse_the_dead(&self, key: KeyId) -> Result<(), Trouble> {
        if self.destroyed.contains(&key) { Err(KeyError::Unavailable.into()) } else { Ok(()) }
    }

    /// Tells whoever looks how this node is.
    fn greet(&mut self) -> Result<(), Trouble> {
        if self.greeted.is_some_and(|greeted| greeted.elapsed() < GREETING) {
            return Ok(());
        }
        let ring = self.ring.clone().ok_or(Trouble::StayOut)?;
        let (now, epochs) = ring.now().zip(ring.epochs()).ok_or(Trouble::StayOut)?;
        let epoch = epochs.at(now.wall);
        let mut left = until(epochs.end(epoch), now.wall);
        // A key of a later epoch is in use until its own end if the clock was set back.
        let later = Epoch(self.latest.max(epoch.0.saturating_add(1)));
        if left < NEXT_IS_NEAR || ring.lend(later, |_| ()).is_some() {
            left += epochs.period();
        }
        let key = ring.lend(epoch, EpochKey::id).map_or(0, |key| u64::from_be_bytes(key.0));
        let at = whole_milliseconds(self.time);
        let node = Node {
            member: self.node.member,
            at,
            until: at.saturating_add(whole_milliseconds(left)),
            epoch: epoch.0,
            period: epochs.period().as_secs(),
            generation: self.generation(epoch.0),
            key,
            name: self.node.name.clone(),
        };
        let record = node.sign(&self.node.secret, self.node.anywhere()).ok_or(Trouble::StayOut)?;
        let name = Names(&self.node.namespace).nodes();
        // A node that was cut off is listed for as long as it may have a key, even if nobody else is there.
        let expiry = whole_milliseconds(left.max(NODES_EXPIRY) + LINGER);
        self.ask(&[
            cmd("HSET").arg(&name).arg(field(self.node.member)).arg(record).take(),
            cmd("PEXPIRE").arg(&name).arg(expiry).take(),
        ])?;
        self.greeted = Some(Instant::now());
        Ok(())
    }

    /// All that is not asked for: others are answered, splits are healed, rotations are heard of.
    fn attend(&mut self) -> Result<(), Trouble> {
        self.begin();
        let ring = self.ring.clone().ok_or(Trouble::StayOut)?;
        let present = ring.epoch().ok_or(Trouble::StayOut)?;
        let turned = self.turn(present.0, false);
        // Also if this node stays out: so that a status shows that there is such a one.
        self.greet()?;
        turned?;
        if ring.lend(present, |_| ()).is_none() {
            // It may be one of its own, or none at all.
            ring.ask_again();
        }
        let next = Epoch(present.0 + 1);
        // Its generation is there from the last rotation on, long before its key.
        if ring.lend(next, |_| ()).is_some() || self.unspread.contains(&next.0) || !self.signed.contains(&next.0) {
            self.turn(next.0, false)?;
        }
        // Last: nothing waits for it, and a node that stays out does not know what is the fleet's.
        let _ = self.tidy();
        Ok(())
    }
}

impl KeySource for RedisSource {
    fn key(&mut self, request: KeyRequest) -> Result<EpochKey, KeyError> {
        self.begin();
        if self.node.member == 0 {
            self.node.member = random_number().ok_or(KeyError::Random)?;
        }
        let begun = Instant::now();
        let generation = self.generation(request.epoch.0);
        loop {
            match self.turn(request.epoch.0, true) {
                // With the generation's key the ring's question has gone: it would drop the answer, a key that is claimed.
                Ok(None) if self.generation(request.epoch.0) != generation => return Err(KeyError::Unavailable),
                Ok(Some(key)) => {
                    // Soon: others wait for it.
                    self.turned = None;
                    return Ok(key);
                }
                Ok(None) if begun.elapsed() < ANSWER => {}
                Err(Trouble::Key(error)) => return Err(error),
                Ok(None) | Err(_) => return Err(KeyError::Unavailable),
            }
            // Two that wait for each other, one for this epoch and one for the next, would wait for ever.
            let ring = self.ring.clone().ok_or(KeyError::Unavailable)?;
            if let Some(present) = ring.epoch().filter(|present| *present != request.epoch) {
                let _ = self.turn(present.0, false);
                if ring.lend(present, |_| ()).is_none() {
                    // The fleet has rotated: the present key is needed first.
                    return Err(KeyError::Unavailable);
                }
            }
            thread::sleep(STEP);
        }
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    fn attach(&mut self, ring: RingHandle) {
        self.ring = Some(ring);
    }

    fn destroyed(&mut self, _: Epoch, key: KeyId) {
        self.destroyed.push_back(key);
        if self.destroyed.len() > MOST_DESTROYED {
            self.destroyed.pop_front();
        }
        // Whatever opens what was sealed for this node, too.
        self.slots.retain(|_, slot| slot.given != Some(key));
        self.forget_the_past();
    }

    fn rotated(&mut self, epoch: Epoch) {
        let Some(now) = self.ring.as_ref().and_then(RingHandle::now) else { return };
        self.begin();
        self.take_secret();
        let at = milliseconds(now.wall);
        // All private halves first: the store takes its time.
        let entered = [epoch.0, epoch.0 + 1].map(|epoch| {
            let generation = Generation { number: self.generation(epoch) + 1, at };
            self.enter(epoch, generation, true);
            (epoch, generation)
        });
        for (epoch, generation) in entered {
            if self.spread_a_rotation(epoch, generation, now.wall).is_err() {
                self.unspread.insert(epoch);
            } else {
                self.unspread.remove(&epoch);
            }
        }
        // Each time one or the other: whoever has rotated waits for it.
        let is_spread = self.unspread.is_empty();
        self.notice(if is_spread { Notice::RotationSpread } else { Notice::RotationNotSpread });
    }

    fn tend(&mut self) -> Option<Duration> {
        let rest = self.turned.and_then(|turned| TURN.checked_sub(turned.elapsed()));
        if let Some(rest) = rest.filter(|rest| !rest.is_zero()) {
            return Some(rest);
        }
        self.turned = Some(Instant::now());
        // Whatever is wrong was said.
        let attended = self.attend();
        self.look_at_the_store(matches!(attended, Err(Trouble::Away(_))));
        Some(TURN)
    }
}

impl Drop for RedisSource {
    fn drop(&mut self) {
        // A node that ends is no longer listed; if the store is away it goes from the list by itself.
        if self.node.member != 0 {
            self.slots.clear();
            self.store.begin();
            let name = Names(&self.node.namespace).nodes();
            let _ = self.store.ask(&[cmd("HDEL").arg(name).arg(field(self.node.member)).take()]);
        }
    }
}

impl fmt::Debug for RedisSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSource").field("namespace", &self.node.namespace).finish_non_exhaustive()
    }
}

pub(super) fn field(member: u64) -> String {
    format!("{member:016x}")
}

pub(super) fn milliseconds(wall: SystemTime) -> u64 {
    whole_milliseconds(wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

pub(super) fn whole_milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How often the store is looked at.
const TURN: Duration = Duration::from_millis(250);
/// How often while the ring waits for a key, and for how long.
const STEP: Duration = Duration::from_millis(40);
const ANSWER: Duration = Duration::from_millis(1500);
const GREETING: Duration = Duration::from_secs(1);
/// How long before an epoch's end a node may be about to get the key of the next: a ring asks half a minute before, and a node
/// says how it is some seconds later.
const NEXT_IS_NEAR: Duration = Duration::from_secs(40);
const NODES_EXPIRY: Duration = Duration::from_secs(3600);
/// More than a node has of keys in any epoch that a clock is set back to.
const MOST_DESTROYED: usize = 4096;
