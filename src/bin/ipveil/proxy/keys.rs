//! The keys that the configuration asks for.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
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

/// Whether the fleet has been told of this process's rotations. A process has one ring.
pub(super) static SPREAD: Spread = Spread { state: Mutex::new(None), changed: Condvar::new() };

pub(super) struct Spread {
    // None without a fleet.
    state: Mutex<Option<Told>>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Told {
    // How often it was said of a rotation whether the fleet has been told.
    count: u64,
    is_untold: bool,
}

impl Spread {
    /// Whether the fleet has been told of all rotations; nothing without a fleet.
    pub(super) fn is_told(&self) -> Option<bool> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).map(|told| !told.is_untold)
    }

    /// Does what rotates, and waits until it is known whether the fleet has been told; nothing without a fleet.
    pub(super) fn after<R>(&self, rotate: impl FnOnce() -> R) -> (R, Option<bool>) {
        let before = self.state.lock().unwrap_or_else(PoisonError::into_inner).map(|told| told.count);
        let rotated = rotate();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_unknown = |told: &mut Option<Told>| told.map(|told| told.count) == before && before.is_some();
        let (told, wait) =
            self.changed.wait_timeout_while(state, LONGEST_SPREAD, is_unknown).unwrap_or_else(PoisonError::into_inner);
        (rotated, told.map(|told| !told.is_untold && !wait.timed_out()))
    }

    fn hear(&self, notice: Notice) {
        if let Notice::RotationSpread | Notice::RotationNotSpread = notice {
            let mut told = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let count = told.map_or(0, |told| told.count);
            *told = Some(Told { count: count + 1, is_untold: notice == Notice::RotationNotSpread });
            self.changed.notify_all();
        }
    }
}

pub(super) fn epochs(config: &Config) -> anyhow::Result<Epochs> {
    Epochs::every(config.keys.period).context(Key::new(["keys", "period"]))
}

/// The key ring, how its fleet's secret is replaced, and where it writes down what becomes of its keys.
pub(super) fn ring(
    config: &Config,
    bans: &Arc<Bans>,
) -> anyhow::Result<(KeyRing, Option<SecretHandle>, Option<Journal>)> {
    let settings = &config.keys;
    let when = match settings.when_unavailable {
        config::WhenUnavailable::Degrade => WhenUnavailable::Degrade,
        config::WhenUnavailable::Withhold => WhenUnavailable::Withhold,
    };
    let epochs = epochs(config)?;
    let mut secret = None;
    let builder = match (&settings.file, &settings.redis) {
        (Some(path), _) if settings.file_may_be_on_a_disk => KeyRing::builder(
            RuntimeFile::open_even_on_a_disk_that_remembers_keys(path).context(Key::new(["keys", "file"]))?,
            epochs,
        ),
        (Some(path), _) => KeyRing::builder(RuntimeFile::open(path).context(Key::new(["keys", "file"]))?, epochs),
        (None, Some(fleet)) => {
            let source = self::fleet(fleet)?;
            secret = Some(source.secret_handle());
            *SPREAD.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(Told::default());
            KeyRing::builder(source, epochs)
        }
        (None, None) => KeyRing::builder(MemorySource, epochs),
    };
    let journal = settings.journal.as_ref().map(Journal::open).transpose().context(Key::new(["keys", "journal"]))?;
    let record = journal.as_ref().map(Journal::recorder);
    let bans = Arc::clone(bans);
    let ring = builder.when_unavailable(when).on_event(move |event| {
        match event {
            KeyEvent::Destroyed { .. } => bans.forget_names(),
            KeyEvent::Noticed { notice, .. } => SPREAD.hear(notice),
            _ => {}
        }
        if let Some(record) = &record {
            record(event);
        }
    });
    Ok((ring.start()?, secret, journal))
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
    // The thread that reads it also hears signals, and answers whoever asks how the proxy is. The error says all that is in it.
    FleetSecret::read_at_once(&fleet.secret)
        .map_err(|error| anyhow!("{}: {error}", fleet.secret.display()))
        .context(Key::new(["keys", "redis", "secret"]))
}

/// How long a source may take to end a turn, and to find that it can't tell the fleet: twice four seconds, and some.
const LONGEST_SPREAD: Duration = Duration::from_secs(10);
