//! What is told of keys: what happened to one, and what a source has to say.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::{Epoch, KeyError, KeyId, Protection};

/// What happened to a key. Names keys by their public id; holds nothing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyEvent {
    /// There is a new key.
    #[non_exhaustive]
    Minted {
        /// Its name.
        key: KeyId,
        /// The epoch in which it is used.
        epoch: Epoch,
        /// When its epoch ends, by the wall clock.
        until: SystemTime,
        /// How its bytes are protected.
        protection: Protection,
        /// Where it was made.
        origin: Origin,
        /// What the ring's source is called.
        source: &'static str,
    },
    /// No reader holds the key any more, and its bytes are overwritten.
    #[non_exhaustive]
    Destroyed {
        /// Its name.
        key: KeyId,
        /// The epoch in which it was used.
        epoch: Epoch,
        /// Why.
        reason: Reason,
    },
    /// The source had no key; it will be asked again. Told when it begins, for each epoch and each cause, and every five minutes
    /// while it lasts; not each time that it is asked.
    #[non_exhaustive]
    SourceFailed {
        /// The epoch that it was asked for.
        epoch: Epoch,
        /// Why.
        error: KeyError,
    },
    /// The source has something to say to whoever operates it.
    #[non_exhaustive]
    Noticed {
        /// What.
        notice: Notice,
    },
}

/// Where a key was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// By this process, for all that share its source.
    Minted,
    /// By another node, from which this one got it.
    Adopted,
    /// By this process before it was restarted.
    Restored,
    /// By this process for itself, because the source had none.
    Local,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minted => "minted",
            Self::Adopted => "adopted",
            Self::Restored => "restored",
            Self::Local => "local",
        })
    }
}

/// Why a key was destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Its time was over.
    EpochEnded,
    /// Somebody pressed the panic button, here or elsewhere in the fleet.
    Rotated,
    /// Another key took its place: the source's own, or the one on which the fleet agreed.
    Superseded,
    /// The ring is gone.
    RingDropped,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EpochEnded => "epoch-ended",
            Self::Rotated => "rotated",
            Self::Superseded => "superseded",
            Self::RingDropped => "ring-dropped",
        })
    }
}

/// What a source has to say to whoever operates it. Told when it begins, not each time that it is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A key file that could not be used was wiped.
    FileWiped(&'static str),
    /// The key file is on a disk, which was allowed by name.
    FileOnDisk,
    /// The key file could not be read or written.
    FileFailed(std::io::ErrorKind),
    /// The store does not answer, or not as a store should.
    StoreUnreachable(&'static str),
    /// The store answers again.
    StoreReached,
    /// The store writes what it holds to a disk. No key can be found there; it is said all the same.
    StorePersists,
    /// Something in the namespace is under a fleet secret that is not among this node's. The number is the public name of
    /// that secret, not the secret.
    ForeignSecret {
        /// The name of the other secret.
        theirs: u64,
        /// The name of this node's.
        ours: u64,
    },
    /// The fleet secret was replaced while the node runs. The number is the public name of the one that it signs with now.
    SecretReplaced {
        /// The name of this node's.
        ours: u64,
    },
    /// Something in the namespace was not written by any node of the fleet, or was changed since.
    Forged(&'static str),
    /// Nodes with epochs of another length use the same namespace: this one stays out.
    PeriodDiffers {
        /// Their length of an epoch.
        theirs: Duration,
    },
    /// This node's clock is not the store's.
    ClockDiffers {
        /// How far ahead of the store's it is, in seconds; behind it if negative.
        seconds: i64,
    },
    /// The fleet was told to rotate while this node could not hear of it. It has rotated now.
    RotationHeardLate {
        /// How late.
        by: Duration,
    },
    /// This node was told to rotate, and can't tell the fleet. It will as soon as it can: unless it is restarted before, and then
    /// the key that the others still have comes back to it.
    RotationNotSpread,
    /// This node was told to rotate, and has told the fleet.
    RotationSpread,
    /// After [`RotationNotSpread`](Self::RotationNotSpread): the fleet has been told since, or has no key any more of which it would
    /// have to be told.
    RotationSettled,
    /// Two keys were made for one epoch; this node now has the one that the store names.
    SplitHealed,
    /// Nobody who has the epoch's key answers; the fleet takes another.
    HoldersGone,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileWiped(why) => write!(f, "the key file was wiped: {why}"),
            Self::FileOnDisk => f.write_str(
                "the key file is on a disk: what is overwritten or removed there can often be read again, so keys may \
                 outlive their epochs",
            ),
            Self::FileFailed(kind) => write!(f, "the key file can't be used: {kind}"),
            Self::StoreUnreachable(why) => write!(f, "the store can't be used: {why}"),
            Self::StoreReached => f.write_str("the store answers again"),
            Self::StorePersists => f.write_str("the store writes to a disk; it holds no key"),
            Self::ForeignSecret { theirs, ours } => write!(
                f,
                "another fleet secret is in use in this namespace: {theirs:016x}, while this node has {ours:016x}"
            ),
            Self::SecretReplaced { ours } => {
                write!(f, "the fleet secret was replaced: this node signs with {ours:016x}")
            }
            Self::Forged(what) => write!(f, "{what} in the store was not written by the fleet, or was changed"),
            Self::PeriodDiffers { theirs } => write!(
                f,
                "nodes with epochs of {} s use this namespace, so this node stays out of it",
                theirs.as_secs()
            ),
            Self::ClockDiffers { seconds } => {
                let where_it_is = if *seconds < 0 { "behind" } else { "ahead of" };
                write!(f, "this node's clock is {} s {where_it_is} the store's", seconds.unsigned_abs())
            }
            Self::RotationHeardLate { by } => {
                write!(f, "the fleet was told to rotate {} s ago; this node has done so only now", by.as_secs())
            }
            Self::RotationNotSpread => f.write_str(
                "this node has rotated and can't tell the fleet yet; if it is restarted before it can, the fleet goes on \
                 with the old key, and so does this node",
            ),
            Self::RotationSpread => f.write_str("this node has rotated and has told the fleet"),
            Self::RotationSettled => f.write_str(
                "the fleet has been told that this node has rotated, or has no key any more of which it would have to be told",
            ),
            Self::SplitHealed => f.write_str("two keys were made for one epoch; this node has given up its own"),
            Self::HoldersGone => f.write_str("nobody who has the epoch's key answers; the fleet takes another"),
        }
    }
}

#[cfg(feature = "tracing")]
pub(super) fn trace(event: KeyEvent) {
    const TARGET: &str = "ipveil::keys";

    match event {
        KeyEvent::Minted { key, epoch, protection, origin, source, .. } => {
            tracing::info!(target: TARGET, %key, %epoch, %protection, %origin, source, "key minted")
        }
        KeyEvent::Destroyed { key, epoch, reason } => {
            tracing::info!(target: TARGET, %key, %epoch, %reason, "key destroyed")
        }
        KeyEvent::SourceFailed { epoch, error } => {
            tracing::warn!(target: TARGET, %epoch, %error, "no key from the source")
        }
        KeyEvent::Noticed { notice } => tracing::warn!(target: TARGET, %notice, "the key source says"),
    }
}
