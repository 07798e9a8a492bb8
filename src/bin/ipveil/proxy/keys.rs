//! The keys that the configuration asks for.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use ipveil::{
    KeyRing,
    keys::{
        Epochs, KeyEvent, MemorySource, Notice, RuntimeFile, WhenUnavailable,
        fleet::{FleetSecret, RedisSource, SecretHandle, StoreAddress},
        journal::Journal,
    },
};

use super::guard::Bans;
use crate::config::{self, Config, Key};

/// The key ring, and what belongs to it.
pub(crate) struct Keys {
    pub(super) ring: KeyRing,
    /// Where it is written down what becomes of its keys.
    pub(super) journal: Option<Arc<Journal>>,
    /// If the keys are a fleet's: how its secret is replaced.
    pub(super) secret: Option<SecretHandle>,
    /// If the keys are a fleet's.
    pub(super) spread: Option<Arc<Spread>>,
}

/// Whether the fleet has been told of this node's rotations.
#[derive(Default)]
pub(crate) struct Spread {
    state: Mutex<Told>,
    turn: Mutex<()>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Told {
    // How often it was said of a rotation whether the fleet has been told.
    count: u64,
    is_untold: bool,
}

impl Spread {
    /// Whether the fleet has been told of all rotations.
    pub(super) fn is_told(&self) -> bool {
        !self.told().is_untold
    }

    /// Does what rotates, and waits until it is known whether the fleet has been told.
    pub(super) fn after<R>(&self, rotate: impl FnOnce() -> R) -> (R, bool) {
        // Each is told of by itself.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.told().count;
        let rotated = rotate();
        let is_unknown = |told: &mut Told| told.count == before;
        let waited = self.changed.wait_timeout_while(self.told(), LONGEST_SPREAD, is_unknown);
        let (told, wait) = waited.unwrap_or_else(PoisonError::into_inner);
        (rotated, !told.is_untold && !wait.timed_out())
    }

    fn hear(&self, notice: Notice) {
        let mut told = self.told();
        match notice {
            Notice::RotationSpread => *told = Told { count: told.count + 1, is_untold: false },
            Notice::RotationNotSpread => *told = Told { count: told.count + 1, is_untold: true },
            // Of one before: it says nothing of the one that somebody may be waiting for.
            Notice::RotationSettled => told.is_untold = false,
            _ => return,
        }
        self.changed.notify_all();
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn epochs(config: &Config) -> anyhow::Result<Epochs> {
    Epochs::every(config.keys.period).context(Key::new(["keys", "period"]))
}

/// Starts the ring.
pub(super) fn start(config: &Config, bans: &Arc<Bans>) -> anyhow::Result<Keys> {
    let settings = &config.keys;
    let when = match settings.when_unavailable {
        config::WhenUnavailable::Degrade => WhenUnavailable::Degrade,
        config::WhenUnavailable::Withhold => WhenUnavailable::Withhold,
    };
    let epochs = epochs(config)?;
    let (mut secret, mut spread) = (None, None);
    let builder = match (&settings.file, &settings.redis) {
        (Some(path), _) if settings.file_may_be_on_a_disk => KeyRing::builder(
            RuntimeFile::open_even_on_a_disk_that_remembers_keys(path).context(Key::new(["keys", "file"]))?,
            epochs,
        ),
        (Some(path), _) => KeyRing::builder(RuntimeFile::open(path).context(Key::new(["keys", "file"]))?, epochs),
        (None, Some(fleet)) => {
            let source = self::fleet(fleet)?;
            secret = Some(source.secret_handle());
            spread = Some(Arc::<Spread>::default());
            KeyRing::builder(source, epochs)
        }
        (None, None) => KeyRing::builder(MemorySource, epochs),
    };
    let journal = settings.journal.as_ref().map(Journal::open).transpose().context(Key::new(["keys", "journal"]))?;
    let record = journal.as_ref().map(Journal::recorder);
    let (bans, hears) = (Arc::clone(bans), spread.clone());
    let ring = builder.when_unavailable(when).on_event(move |event| {
        match event {
            KeyEvent::Destroyed { .. } => bans.forget_names(),
            KeyEvent::Noticed { notice, .. } => hears.iter().for_each(|spread| spread.hear(notice)),
            _ => {}
        }
        if let Some(record) = &record {
            record(event);
        }
    });
    Ok(Keys { ring: ring.start()?, journal: journal.map(Arc::new), secret, spread })
}

pub(super) fn fleet(settings: &config::Fleet) -> anyhow::Result<RedisSource> {
    let secret = secret(settings)?;
    let urls = settings.urls.iter().map(String::as_str);
    // What is wrong with a URL is said without it: there may be a password in there.
    let address = match (&settings.master, settings.cluster, urls.clone().next()) {
        (Some(master), ..) => StoreAddress::sentinels(master, urls),
        (None, true, _) => StoreAddress::cluster(urls),
        (None, false, url) => StoreAddress::single(url.unwrap_or_default()),
    };
    let mut source = RedisSource::new(address.context(Key::new(["keys", "redis", "urls"]))?, secret);
    if let Some(namespace) = &settings.namespace {
        source = source.namespace(namespace).context(Key::new(["keys", "redis", "namespace"]))?;
    }
    if let Some(node) = &settings.node {
        source = source.node(node).context(Key::new(["keys", "redis", "node"]))?;
    }
    Ok(source)
}

pub(super) fn secret(fleet: &config::Fleet) -> anyhow::Result<FleetSecret> {
    // The thread that reads it also hears signals, and answers whoever asks how the proxy is.
    FleetSecret::read_at_once(&fleet.secret)
        .with_context(|| fleet.secret.display().to_string())
        .context(Key::new(["keys", "redis", "secret"]))
}

/// How long a source may take to end a turn, and to find that it can't tell the fleet: twice four seconds, and some.
const LONGEST_SPREAD: Duration = Duration::from_secs(10);
