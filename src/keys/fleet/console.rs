//! A fleet as whoever operates it sees it, and its panic button.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, SystemTime},
};

use redis::{Cmd, Value, cmd};

use super::{
    super::{Epoch, Epochs, KeyId, until},
    FleetError, LINGER, Names, expiry, is_name,
    record::{Claim, Fleet, Generation, LONGEST_LIFE, Node, Place, Record, Unbelievable, is_lost, may_have_a_key},
    secrets::FleetSecret,
    source::{field, milliseconds, whole_milliseconds},
    store::{Away, Store, StoreAddress, value},
};

/// Looks at a fleet through its store, and tells it to rotate. It is no node: it never gets a key.
#[derive(Debug)]
pub struct Console {
    store: Store,
    namespace: String,
    secret: FleetSecret,
    // In which generation nodes will be in each epoch when they have heard of the last rotation.
    rotated: BTreeMap<u64, u64>,
}

/// What a console sees at first.
struct Look {
    // How long the fleet's epochs are.
    epochs: Epochs,
    // All that were seen of late, or may still have a key.
    nodes: Vec<Node>,
    // The same of those whose secret is another.
    strange_nodes: usize,
    strangers: Vec<u64>,
    // The store's clock, in milliseconds since 1970.
    time: u64,
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
        Ok(Self { store: Store::new(store), namespace: namespace.to_owned(), secret, rotated: BTreeMap::new() })
    }

    /// How the fleet is at `now`.
    ///
    /// # Errors
    ///
    /// A [`FleetError`] if the store can't be used, or holds no fleet of this secret.
    pub fn status(&mut self, now: SystemTime) -> Result<FleetStatus, FleetError> {
        self.store.begin();
        let Look { epochs, nodes, strange_nodes, mut strangers, time } = self.look()?;
        let epoch = epochs.at(now);
        let (number, _) = self.generation(epoch.0, &nodes, &mut strangers)?;
        let claim = cmd("GET").arg(Names(&self.namespace).claim(epoch.0, number)).take();
        let claim: Option<Vec<u8>> = value(self.ask(&[claim])?.pop())?;
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
        let mut nodes: Vec<_> = nodes.into_iter().map(|node| NodeStatus::new(node, time)).collect();
        nodes.sort_by(|one, other| (&one.name, one.member).cmp(&(&other.name, other.member)));
        let seconds = |milliseconds: u64| i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
        Ok(FleetStatus {
            namespace: self.namespace.clone(),
            epoch,
            period: epochs.period(),
            left: until(epochs.end(epoch), now),
            generation: number,
            key: claim.map(|claim| KeyId(claim.key.to_be_bytes())),
            nodes,
            strange_nodes,
            strangers,
            store_persists: self.store.persists,
            store_is_ahead: seconds(time).saturating_sub(seconds(milliseconds(now))),
        })
    }

    /// The panic button: every node destroys its key as soon as it hears of this, in less than a second if it can reach the
    /// store, and the fleet takes another. Gives the generation that nodes will be in, which [`status`](Self::status) shows;
    /// who has heard of it, [`has_rotated`](Self::has_rotated) says.
    ///
    /// What rotates is the epoch at `now`, those in which nodes say that they are, because their clocks differ, and the ones
    /// that come next. Whatever else is in the place of a generation, such as what another secret has signed, is overwritten.
    ///
    /// # Errors
    ///
    /// As [`status`](Self::status).
    pub fn rotate_now(&mut self, now: SystemTime) -> Result<u64, FleetError> {
        self.store.begin();
        let look = self.look()?;
        let present = look.epochs.at(now).0;
        let mut in_use = vec![present];
        for node in &look.nodes {
            if !in_use.contains(&node.epoch) && in_use.len() < MOST_EPOCHS {
                in_use.push(node.epoch);
            }
        }
        let next: Vec<_> = in_use.iter().filter_map(|epoch| epoch.checked_add(1)).collect();
        // What is in use comes first: nobody can have the next key in use yet.
        self.rotated.clear();
        for epoch in in_use.into_iter().chain(next) {
            if !self.rotated.contains_key(&epoch) {
                let number = self.rotate(epoch, &look, now)?;
                self.rotated.insert(epoch, number);
            }
        }
        self.rotated.get(&present).copied().ok_or(FleetError::Forged)
    }

    /// Whether this node, as a [`status`](Self::status) has shown it since, has heard of the last rotation that this console has
    /// asked for, and so has destroyed the key that it had.
    #[must_use]
    pub fn has_rotated(&self, node: &NodeStatus) -> bool {
        self.rotated.get(&node.epoch.0).is_some_and(|asked| node.generation >= *asked)
    }

    fn rotate(&mut self, epoch: u64, look: &Look, now: SystemTime) -> Result<u64, FleetError> {
        let (known, is_written) = self.generation(epoch, &look.nodes, &mut Vec::new())?;
        // Nodes may be ahead of what they have said. None has had more keys than can be counted.
        let number = known.checked_add(if is_written { 1 } else { AHEAD }).ok_or(FleetError::Forged)?;
        let place = Place::of_epoch(&self.namespace, epoch);
        let record = Generation { number, at: milliseconds(now) }.sign(&self.secret, place);
        let record = record.ok_or(FleetError::Random)?;
        // Until nobody has a key that has to hear of it, by any clock.
        let last = look.nodes.iter().map(|node| node.until.saturating_sub(look.time)).max().unwrap_or(0);
        let expiry = expiry(look.epochs, epoch, now).max(last.min(LONGEST_LIFE)) + whole_milliseconds(LINGER);
        let name = Names(&self.namespace).generation(epoch);
        self.ask(&[cmd("SET").arg(name).arg(record).arg("PX").arg(expiry).take()])?;
        Ok(number)
    }

    fn look(&mut self) -> Result<Look, FleetError> {
        let names = Names(&self.namespace);
        let commands =
            [cmd("GET").arg(names.fleet()).take(), cmd("HGETALL").arg(names.nodes()).take(), cmd("TIME").take()];
        let mut answers = self.ask(&commands)?.into_iter();
        let fleet: Option<Vec<u8>> = value(answers.next())?;
        let records: HashMap<String, Vec<u8>> = value(answers.next())?;
        let (second, micros): (u64, u64) = value(answers.next())?;
        let time = second.saturating_mul(1000).saturating_add(micros / 1000);

        let place = Place::of_fleet(&self.namespace);
        let (mut nodes, mut strange_nodes, mut strangers) = (Vec::new(), 0, Vec::new());
        for (name, record) in &records {
            match Node::believe(record, &self.secret, place) {
                Ok(node) if field(node.member) == *name && (!is_lost(node.at, time) || time < node.until) => {
                    nodes.push(node);
                }
                // A node whose keys are over is no stranger any more, nor is what somebody has written once.
                Err(Unbelievable::ForeignSecret(id)) if may_have_a_key(record, time) => {
                    strange_nodes += 1;
                    strangers.push(id);
                }
                _ => {}
            }
        }
        let fleet = match fleet.map(|record| Fleet::believe(&record, &self.secret, place)) {
            Some(Ok(fleet)) => epochs(fleet.period).ok_or(FleetError::Forged),
            Some(Err(error)) => Err(error.into()),
            None => Err(FleetError::Nobody),
        };
        let epochs = match fleet {
            Ok(epochs) => epochs,
            // Another fleet's namespace.
            Err(FleetError::ForeignSecret(id)) if strangers.contains(&id) => return Err(FleetError::ForeignSecret(id)),
            // Whatever somebody has put there: nodes say what they have signed.
            Err(error) => {
                if let FleetError::ForeignSecret(id) = error {
                    strangers.push(id);
                }
                usual(&nodes).ok_or(error)?
            }
        };
        Ok(Look { epochs, nodes, strange_nodes, strangers, time })
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
    /// The nodes that were seen of late, and those that were not but may still have a key: see [`NodeStatus::is_lost`].
    pub nodes: Vec<NodeStatus>,
    /// How many nodes there are with other fleet secrets, or were, and may still have a key: after the secret was replaced, it
    /// may be this fleet's. As their records say; this console's secret says nothing of whether they are true.
    pub strange_nodes: usize,
    /// Public names of other fleet secrets that are used in this namespace now.
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
    /// The length of its epochs.
    pub period: Duration,
    /// The generation that it is in.
    pub generation: u64,
    /// The name of the key that it got from the fleet; nothing if it has none: it is degraded, or withholds.
    pub key: Option<KeyId>,
    /// How long ago that was, by the store's clock.
    pub seen: Duration,
    /// Whether that is so long ago that the node can't have heard of anything since. It is gone, or cut off from the store, and
    /// may still have the key of an epoch that is not over.
    pub is_lost: bool,
}

impl NodeStatus {
    fn new(node: Node, time: u64) -> Self {
        Self {
            name: node.name,
            member: node.member,
            epoch: Epoch(node.epoch),
            period: Duration::from_secs(node.period),
            generation: node.generation,
            key: (node.key != 0).then(|| KeyId(node.key.to_be_bytes())),
            seen: Duration::from_millis(time.saturating_sub(node.at)),
            is_lost: is_lost(node.at, time),
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

/// What most of these nodes have.
fn usual(nodes: &[Node]) -> Option<Epochs> {
    let count = |period: u64| nodes.iter().filter(|node| node.period == period).count();
    nodes.iter().filter_map(|node| epochs(node.period)).max_by_key(|epochs| count(epochs.period().as_secs()))
}

fn epochs(seconds: u64) -> Option<Epochs> {
    Epochs::every(Duration::from_secs(seconds)).ok()
}

/// How often nodes may rotate before they say so.
const AHEAD: u64 = 10;
/// In how many epochs nodes are at once, however their clocks differ.
const MOST_EPOCHS: usize = 64;
