//! A fleet as whoever operates it sees it, and its panic button.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, SystemTime},
};

use redis::{Cmd, Value, cmd};

use super::{
    super::{Epoch, Epochs, KeyId, until},
    FleetError, Names, expiry, is_name,
    record::{Claim, Fleet, Generation, Node, Place, Record, Unbelievable},
    secrets::FleetSecret,
    source::{field, milliseconds},
    store::{Away, Store, StoreAddress, value},
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
        let mut strangers = Vec::new();
        let nodes = self.nodes(&mut strangers)?;
        let (number, _) = self.generation(epoch.0, &nodes, &mut strangers)?;
        let commands = [cmd("GET").arg(Names(&self.namespace).claim(epoch.0, number)).take(), cmd("TIME").take()];
        let mut answers = self.ask(&commands)?.into_iter();
        let claim: Option<Vec<u8>> = value(answers.next())?;
        let (second, _): (u64, u64) = value(answers.next())?;
        let place = Place { namespace: &self.namespace, epoch: epoch.0, generation: number };
        let claim = match claim.map(|record| Claim::believe(&record, &self.secret, place)).transpose() {
            Err(Unbelievable::ForeignSecret(id)) => {
                strangers.push(id);
                None
            }
            claim => claim?,
        };
        strangers.sort_unstable();
        strangers.dedup();
        let mut status = FleetStatus {
            namespace: self.namespace.clone(),
            epoch,
            period: epochs.period(),
            left: until(epochs.end(epoch), now),
            generation: number,
            key: claim.map(|claim| KeyId(claim.key.to_be_bytes())),
            nodes: Vec::new(),
            strangers,
            store_persists: self.store.persists,
            store_is_ahead: i64::try_from(second).unwrap_or(i64::MAX)
                - i64::try_from(milliseconds(now) / 1000).unwrap_or(0),
        };
        for node in nodes {
            let seen = Duration::from_millis(milliseconds(now).saturating_sub(node.at));
            if seen < LOST {
                status.nodes.push(NodeStatus::new(node, seen));
            }
        }
        status.nodes.sort_by(|one, other| (&one.name, one.member).cmp(&(&other.name, other.member)));
        Ok(status)
    }

    /// The panic button: every node destroys its key as soon as it hears of this, in less than a second if it can reach the
    /// store, and the fleet takes another. Gives the generation that nodes will be in, which [`status`](Self::status) shows.
    ///
    /// Whatever else is in the place of a generation, such as what another secret has signed, is overwritten.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub fn rotate_now(&mut self, now: SystemTime) -> Result<u64, FleetError> {
        self.store.begin();
        let epochs = self.epochs()?;
        let nodes = self.nodes(&mut Vec::new())?;
        let present = epochs.at(now).0;
        // What is in use comes first: nobody can have the next key in use yet.
        let rotated = self.rotate(present, epochs, &nodes, now)?;
        self.rotate(present + 1, epochs, &nodes, now)?;
        Ok(rotated)
    }

    fn rotate(&mut self, epoch: u64, epochs: Epochs, nodes: &[Node], now: SystemTime) -> Result<u64, FleetError> {
        let (known, is_written) = self.generation(epoch, nodes, &mut Vec::new())?;
        // Nodes may be ahead of what they have said. None has had more keys than can be counted.
        let number = known.checked_add(if is_written { 1 } else { AHEAD }).ok_or(FleetError::Forged)?;
        let place = Place::of_epoch(&self.namespace, epoch);
        let record = Generation { number, at: milliseconds(now) }.sign(&self.secret, place);
        let record = record.ok_or(FleetError::Random)?;
        let name = Names(&self.namespace).generation(epoch);
        self.ask(&[cmd("SET").arg(name).arg(record).arg("PX").arg(expiry(epochs, epoch, now)).take()])?;
        Ok(number)
    }

    fn epochs(&mut self) -> Result<Epochs, FleetError> {
        let name = Names(&self.namespace).fleet();
        let record: Option<Vec<u8>> = value(self.ask(&[cmd("GET").arg(name).take()])?.pop())?;
        let place = Place::of_fleet(&self.namespace);
        let fleet = Fleet::believe(&record.ok_or(FleetError::Nobody)?, &self.secret, place)?;
        Epochs::every(Duration::from_secs(fleet.period)).map_err(|_| FleetError::Forged)
    }

    /// All nodes that say how they are.
    fn nodes(&mut self, strangers: &mut Vec<u64>) -> Result<Vec<Node>, FleetError> {
        let name = Names(&self.namespace).nodes();
        let records: HashMap<String, Vec<u8>> = value(self.ask(&[cmd("HGETALL").arg(name).take()])?.pop())?;
        let place = Place::of_fleet(&self.namespace);
        let mut nodes = Vec::new();
        for (name, record) in &records {
            match Node::believe(record, &self.secret, place) {
                Ok(node) if field(node.member) == *name => nodes.push(node),
                Err(Unbelievable::ForeignSecret(id)) => strangers.push(id),
                _ => {}
            }
        }
        Ok(nodes)
    }

    /// In which generation of `epoch` the fleet is, and whether that is written: otherwise it is what nodes say.
    fn generation(&mut self, epoch: u64, nodes: &[Node], strangers: &mut Vec<u64>) -> Result<(u64, bool), FleetError> {
        let name = Names(&self.namespace).generation(epoch);
        let record: Option<Vec<u8>> = value(self.ask(&[cmd("GET").arg(name).take()])?.pop())?;
        let known = nodes.iter().filter(|node| node.epoch == epoch).map(|node| node.generation).max().unwrap_or(0);
        let place = Place::of_epoch(&self.namespace, epoch);
        match record.map(|record| Generation::believe(&record, &self.secret, place)) {
            Some(Ok(written)) if written.follows(known) => return Ok((known.max(written.number), true)),
            None => return Ok((known, known == 0)),
            Some(Err(Unbelievable::ForeignSecret(id))) => strangers.push(id),
            // What is no generation for nodes is none here.
            _ => {}
        }
        Ok((known, false))
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

/// How often nodes may rotate before they say so.
const AHEAD: u64 = 10;
/// A node that was not seen for this long is not shown.
const LOST: Duration = Duration::from_secs(60);
