//! A fleet as whoever operates it sees it, and its panic button.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, SystemTime},
};

use redis::{Cmd, FromRedisValue, Value, cmd};

use super::{
    super::{Epoch, Epochs, KeyId, until},
    FleetError, Names, is_name,
    record::{Claim, Fleet, Generation, Node, Place, Record, Unbelievable},
    secrets::FleetSecret,
    source::{field, milliseconds},
    store::{Away, Store, StoreAddress},
};

/// Looks at a fleet through its store, and tells it to rotate. It is no node: it never gets a key.
#[derive(Debug)]
pub struct Console {
    store: Store,
    namespace: String,
    secret: FleetSecret,
}

impl Console {
    /// For one namespace of a store.
    ///
    /// # Errors
    ///
    /// [`FleetError::Name`] as in [`RedisSource::namespace`](super::RedisSource::namespace).
    pub fn new(store: StoreAddress, namespace: &str, secret: FleetSecret) -> Result<Self, FleetError> {
        if !is_name(namespace) {
            return Err(FleetError::Name);
        }
        Ok(Self { store: Store::new(store), namespace: namespace.to_owned(), secret })
    }

    /// How the fleet is at `now`.
    ///
    /// # Errors
    ///
    /// A [`FleetError`] if the store can't be used, or holds no fleet of this secret.
    pub fn status(&mut self, now: SystemTime) -> Result<FleetStatus, FleetError> {
        self.store.begin();
        let epochs = self.epochs()?;
        let epoch = epochs.at(now);
        let generation = self.generation(epoch.0)?;
        let names = Names(&self.namespace);
        let number = generation.map_or(0, |generation| generation.number);
        let commands = [
            cmd("GET").arg(names.claim(epoch.0, number)).take(),
            cmd("HGETALL").arg(names.nodes()).take(),
            cmd("TIME").take(),
        ];
        let mut answers = self.ask(&commands)?.into_iter();
        let claim: Option<Vec<u8>> = value(answers.next())?;
        let nodes: HashMap<String, Vec<u8>> = value(answers.next())?;
        let (second, _): (u64, u64) = value(answers.next())?;
        let place = Place { namespace: &self.namespace, epoch: epoch.0, generation: number };
        let claim = claim.map(|record| Claim::believe(&record, &self.secret, place)).transpose();
        let mut status = FleetStatus {
            namespace: self.namespace.clone(),
            epoch,
            period: epochs.period(),
            left: until(epochs.end(epoch), now),
            generation: number,
            key: None,
            nodes: Vec::new(),
            strangers: Vec::new(),
            store_persists: self.store.persists,
            store_is_ahead: i64::try_from(second).unwrap_or(i64::MAX)
                - i64::try_from(milliseconds(now) / 1000).unwrap_or(0),
        };
        match claim {
            Ok(claim) => status.key = claim.map(|claim| KeyId(claim.key.to_be_bytes())),
            Err(Unbelievable::ForeignSecret(id)) => status.strangers.push(id),
            Err(Unbelievable::Forged) => return Err(FleetError::Forged),
        }
        let anywhere = Place { namespace: &self.namespace, epoch: 0, generation: 0 };
        for (name, record) in &nodes {
            match Node::believe(record, &self.secret, anywhere) {
                Ok(node) if field(node.member) == *name => {
                    let seen = Duration::from_millis(milliseconds(now).saturating_sub(node.at));
                    if seen < LOST {
                        status.nodes.push(NodeStatus::new(node, seen));
                    }
                }
                Err(Unbelievable::ForeignSecret(id)) if !status.strangers.contains(&id) => status.strangers.push(id),
                _ => {}
            }
        }
        status.nodes.sort_by(|one, other| (&one.name, one.member).cmp(&(&other.name, other.member)));
        Ok(status)
    }

    /// The panic button: every node destroys its key as soon as it hears of this, in less than a second if it can reach the
    /// store, and the fleet takes another. Gives the generation that nodes will be in, which [`status`](Self::status) shows.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub fn rotate_now(&mut self, now: SystemTime) -> Result<u64, FleetError> {
        self.store.begin();
        let epochs = self.epochs()?;
        let present = epochs.at(now).0;
        let mut rotated = 0;
        for epoch in [present + 1, present] {
            let number = self.generation(epoch)?.map_or(0, |generation| generation.number).saturating_add(1);
            let place = Place { namespace: &self.namespace, epoch, generation: 0 };
            let record = Generation { number, at: milliseconds(now) }.sign(&self.secret, place);
            let record = record.ok_or(FleetError::Random)?;
            let left = until(epochs.end(Epoch(epoch)), now) + epochs.period();
            let name = Names(&self.namespace).generation(epoch);
            self.ask(&[cmd("SET").arg(name).arg(record).arg("PX").arg(left.as_millis() as u64).take()])?;
            rotated = number;
        }
        Ok(rotated)
    }

    fn epochs(&mut self) -> Result<Epochs, FleetError> {
        let name = Names(&self.namespace).fleet();
        let record: Option<Vec<u8>> = value(self.ask(&[cmd("GET").arg(name).take()])?.pop())?;
        let place = Place { namespace: &self.namespace, epoch: 0, generation: 0 };
        let fleet = Fleet::believe(&record.ok_or(FleetError::Nobody)?, &self.secret, place)?;
        Epochs::every(Duration::from_secs(fleet.period)).map_err(|_| FleetError::Forged)
    }

    fn generation(&mut self, epoch: u64) -> Result<Option<Generation>, FleetError> {
        let name = Names(&self.namespace).generation(epoch);
        let record: Option<Vec<u8>> = value(self.ask(&[cmd("GET").arg(name).take()])?.pop())?;
        let place = Place { namespace: &self.namespace, epoch, generation: 0 };
        Ok(record.map(|record| Generation::believe(&record, &self.secret, place)).transpose()?)
    }

    fn ask(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, FleetError> {
        Ok(self.store.ask(commands)?)
    }
}

/// A fleet at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FleetStatus {
    /// Which one.
    pub namespace: String,
    /// The epoch by the clock of whoever asks.
    pub epoch: Epoch,
    /// The length of an epoch.
    pub period: Duration,
    /// How much of the epoch is left.
    pub left: Duration,
    /// How often the epoch's key was replaced by another.
    pub generation: u64,
    /// The name of the key that was claimed; nothing if none was.
    pub key: Option<KeyId>,
    /// The nodes that were seen of late.
    pub nodes: Vec<NodeStatus>,
    /// Public names of other fleet secrets that are used in this namespace.
    pub strangers: Vec<u64>,
    /// Whether the store says that it writes to a disk.
    pub store_persists: bool,
    /// How far the store's clock is ahead of that of whoever asks, in seconds.
    pub store_is_ahead: i64,
}

/// A node as it was when it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// What it is called, if it has a name.
    pub name: String,
    /// Its number, which is another after a restart.
    pub member: u64,
    /// The epoch by its clock.
    pub epoch: Epoch,
    /// The generation that it is in.
    pub generation: u64,
    /// The name of the key that it got from the fleet; nothing if it has none: it is degraded, or withholds.
    pub key: Option<KeyId>,
    /// How long ago that was.
    pub seen: Duration,
}

impl NodeStatus {
    fn new(node: Node, seen: Duration) -> Self {
        Self {
            name: node.name,
            member: node.member,
            epoch: Epoch(node.epoch),
            generation: node.generation,
            key: (node.key != 0).then(|| KeyId(node.key.to_be_bytes())),
            seen,
        }
    }
}

impl From<Away> for FleetError {
    fn from(away: Away) -> Self {
        Self::Store(away.0)
    }
}

impl From<Unbelievable> for FleetError {
    fn from(unbelievable: Unbelievable) -> Self {
        match unbelievable {
            Unbelievable::ForeignSecret(id) => Self::ForeignSecret(id),
            Unbelievable::Forged => Self::Forged,
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

fn value<T: FromRedisValue>(answer: Option<Value>) -> Result<T, FleetError> {
    answer
        .and_then(|answer| T::from_redis_value(answer).ok())
        .ok_or(FleetError::Store("it does not answer as a store should"))
}

/// A node that was not seen for this long is not shown.
const LOST: Duration = Duration::from_secs(60);
