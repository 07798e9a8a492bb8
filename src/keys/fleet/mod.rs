//! One key for many nodes, by way of a Redis or Valkey that never sees it.
//!
//! No engine destroys a value when it expires: log files, replicas, backups and freed memory keep copies. So the store is a
//! bulletin board that nobody trusts. It never holds a key, nor anything from which one can be computed later:
//!
//! 1. For each epoch, every node makes a fresh X25519 key pair. The private half stays in locked memory; the public half
//!    goes to the board, signed with the [`FleetSecret`].
//! 2. The first node to claim the epoch (`SET … NX GET`) mints its key. The claim holds a commitment to the key, signed.
//! 3. A node that has the key seals it to the public half of each that does not (X25519, ChaCha20-Poly1305, bound to
//!    namespace, epoch, generation, member and commitment). One that comes later asks, and any that has the key answers.
//!    With the key it seals how much longer that may live by a monotonic clock, which was decided by the node that made it:
//!    until its epoch's end, and a tenth of an epoch more (ten minutes at most) for nodes whose clocks are slow. So nobody
//!    prolongs a key's life by setting clocks back and restarting nodes one after the other.
//! 4. At the epoch's end all private halves and the key are destroyed. From then on the whole history of the store, the
//!    fleet secret, and root on every node *together* recover nothing: what was sealed can be opened by nobody.
//!    What a node has destroyed it never takes again, even if its clock was set back and others have it still.
//! 5. A node whose key is not the one that was claimed (the store failed over, and forgot the first claim) takes over the
//!    one that was. If nobody who has the claimed key answers for [`RedisSource::PATIENCE`], the fleet goes on to another
//!    *generation*: a new key for the same epoch.
//! 6. The panic button is a generation too: [`KeyRing::rotate`](super::KeyRing::rotate) on any node, or
//!    [`Console::rotate_now`], and all nodes destroy the key that they have as soon as they hear of it.
//!
//! ```no_run
//! use ipveil::keys::{Epochs, KeyRing, fleet::{FleetSecret, RedisSource, StoreAddress}};
//!
//! let secret = FleetSecret::read("/run/credentials/edge.service/fleet")?;
//! let source = RedisSource::new(StoreAddress::single("rediss://keys.example.com")?, secret).namespace("edge")?;
//! let keys = KeyRing::start(source, Epochs::hourly())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! TLS, `rediss://`, is rustls: the program chooses who does its cryptography, once, with
//! `rustls::crypto::CryptoProvider::install_default`.
//!
//! # What the store's controller can do
//!
//! Delay, delete, and bring back what was there before in the same place. So pseudonyms may differ between nodes, or change
//! in the middle of an epoch; each node that has no key of the fleet makes its own, or withholds
//! ([`WhenUnavailable`](super::WhenUnavailable)). To keep a fleet out he has to go on: what another secret has signed for all of
//! it, or this one for epochs of another length, is overwritten after a minute in which no node was behind it, what another one has
//! signed for an epoch at once, and the panic button is heard meanwhile. If he holds back what was sealed for a node whose clock is set back, too, that node has the key longer by the time
//! that he did. He can't read a key, nor become a member, nor have a node take a key that no node of this epoch has minted. Answers
//! that come slowly, or never end, are given up: a node listens for four seconds in one turn, to four megabytes in one answer.
//!
//! # What a thief of the fleet secret can do
//!
//! Together with access to the store: join, and have the keys of the epochs from then on, until the secret is replaced. Not
//! those of epochs that have ended. He can rotate the fleet as often as he likes, but can't keep it from rotating: a generation
//! more than a thousand ahead of the one that a node knows is none. One that knows of none starts from what the others say.
//!
//! # Bad days
//!
//! No request waits for the store. While it is away the keys that nodes have remain in use until their epoch ends. Everything
//! in the store expires with the epoch, by the store's own clock, counted from when it was written: a store whose clock is
//! wrong does not lose claims. What is wrong is told as a [`Notice`](super::Notice): another secret or another length
//! of epochs in the namespace, a clock that differs by more than [`RedisSource::SKEW`], a rotation that was heard of late. A
//! rotation that a node could not tell the fleet is kept in mind until it can, but not through a restart: then the node gets the
//! key again that the others still have. [`Notice::RotationNotSpread`](super::Notice::RotationNotSpread) says so.
//!
//! Every second each node says in the store how it is, for a [`Console`]: by the store's clock, since its own may differ. It is listed
//! for as long as it may have a key, whether or not it is seen.
//!
//! Private halves are destroyed by the thread that talks to the store. It is busy for at most four seconds with one turn,
//! however the store behaves, and has no more than two to end before it hears that an epoch has ended or that somebody has
//! rotated. So private halves may outlive their epoch, or a rotation, by eight seconds, and by as long as the system takes to
//! find the store's address (a number in the place of a name takes no time). The key itself does not wait for that.

mod connection;
mod console;
mod record;
mod sealed;
mod secrets;
mod source;
mod store;

use std::{
    fmt,
    time::{Duration, SystemTime},
};

pub use self::{
    console::{Console, FleetStatus, NodeStatus},
    secrets::{FleetSecret, FleetSecretError},
    source::{RedisSource, SecretHandle},
    store::StoreAddress,
};
use super::{Epoch, Epochs, until};

/// Why there is no fleet. For whoever configures it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FleetError {
    /// The store's address is not one.
    Address,
    /// The address asks for TLS, and the program has not chosen who does rustls's cryptography:
    /// `rustls::crypto::CryptoProvider::install_default`.
    NoTls,
    /// The namespace, or the node's name, is empty, too long, or has characters that it can't have.
    Name,
    /// The operating system gave no randomness.
    Random,
    /// The store can't be used.
    Store(&'static str),
    /// Nobody uses the namespace.
    Nobody,
    /// The namespace is in use under another fleet secret, which has this public name.
    ForeignSecret(u64),
    /// What is in the store was not written by the fleet.
    Forged,
}

impl fmt::Display for FleetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => {
                "the store's address is not usable (expected a URL such as rediss://user:password@host:6379/0)"
            }
            Self::NoTls => {
                "the store's address asks for TLS (expected the program to install a CryptoProvider for rustls)"
            }
            Self::Name => "a namespace or a node's name has 1 to 64 letters, digits, `-`, `_` and `.`",
            Self::Random => "the operating system gave no random bytes",
            Self::Store(why) => return write!(f, "the store can't be used: {why}"),
            Self::Nobody => "no node uses this namespace",
            Self::ForeignSecret(id) => {
                return write!(f, "the namespace is in use under another fleet secret, {id:016x}");
            }
            Self::Forged => "what is in the store was not written by the fleet, or was changed",
        })
    }
}

impl std::error::Error for FleetError {}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn random_number() -> Option<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// How many milliseconds what is written for `epoch` has to stay: some minutes longer than the epoch, for nodes whose clocks are
/// slow.
fn expiry(epochs: Epochs, epoch: u64, wall: SystemTime) -> u64 {
    source::whole_milliseconds(until(epochs.end(Epoch(epoch)), wall) + epochs.period().min(LINGER))
}

const LINGER: Duration = Duration::from_secs(600);

/// What things are called in the store. The braces have a cluster keep all of a namespace in one place.
struct Names<'a>(&'a str);

impl Names<'_> {
    fn fleet(&self) -> String {
        format!("ipveil:{{{}}}:fleet", self.0)
    }

    fn nodes(&self) -> String {
        format!("ipveil:{{{}}}:nodes", self.0)
    }

    fn generation(&self, epoch: u64) -> String {
        format!("ipveil:{{{}}}:{epoch}:generation", self.0)
    }

    fn claim(&self, epoch: u64, generation: u64) -> String {
        format!("ipveil:{{{}}}:{epoch}:{generation}:claim", self.0)
    }

    fn members(&self, epoch: u64, generation: u64) -> String {
        format!("ipveil:{{{}}}:{epoch}:{generation}:members", self.0)
    }

    fn sealed(&self, epoch: u64, generation: u64) -> String {
        format!("ipveil:{{{}}}:{epoch}:{generation}:sealed", self.0)
    }
}
