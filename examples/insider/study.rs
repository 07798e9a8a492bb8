//! Many worlds, and what comes of all of them together.

use std::{error::Error, sync::Mutex, thread};

use crate::{
    business::{self, Figures},
    insider::{self, Attacks},
    method::Method,
    record::Record,
    score::Spread,
    trials::Trials,
    world::{DAYS, World},
};

pub(crate) struct Study {
    pub(crate) seeds: u64,
    pub(crate) requests: usize,
    pub(crate) bot_requests: usize,
    pub(crate) accounts: usize,
    pub(crate) pairs: usize,
    pub(crate) sightings: usize,
    pub(crate) rows: Vec<Row>,
    pub(crate) left: Left,
    /// Keys of past days in memory, and the bytes that were searched.
    pub(crate) memory: Option<(usize, u64)>,
}

/// One method's.
pub(crate) struct Row {
    pub(crate) method: Method,
    pub(crate) locate: Attack,
    pub(crate) colocate: Attack,
    pub(crate) confirm: Attack,
    pub(crate) confirm_later: Attack,
    pub(crate) visitors: Spread,
    pub(crate) bots_refused: Spread,
    pub(crate) bots_refused_at_best: Spread,
    pub(crate) people_refused: Spread,
    pub(crate) sessions: Spread,
    pub(crate) sessions_unknown: Spread,
    pub(crate) countries: Option<Spread>,
}

impl Row {
    pub(crate) fn attacks(&self) -> [(&'static str, &Attack); 4] {
        [
            ("locate", &self.locate),
            ("co-locate", &self.colocate),
            ("confirm", &self.confirm),
            ("confirm later", &self.confirm_later),
        ]
    }

    /// Of what would be refused if each bot were known, how much less is.
    pub(crate) fn bots(&self) -> f64 {
        self.bots_refused.mean / self.bots_refused_at_best.mean - 1.0
    }
}

/// One attack's.
pub(crate) struct Attack {
    pub(crate) auc: Spread,
    pub(crate) recall: Spread,
    /// Nothing if in some run he never said yes.
    pub(crate) precision: Option<Spread>,
}

/// What scopes do not take away.
pub(crate) struct Left {
    /// He acts as the user in the same epoch.
    pub(crate) acted: Spread,
    /// He compares moments.
    pub(crate) moments: Spread,
    /// Of the bots' requests, how many are refused if a limiter counts by what the session is given.
    pub(crate) bots_refused_by_session: Spread,
}

/// One world's.
struct Run {
    requests: usize,
    bot_requests: usize,
    accounts: usize,
    pairs: usize,
    sightings: usize,
    methods: Vec<(Attacks, Figures)>,
    acted: f64,
    moments: f64,
    bots_refused_by_session: f64,
    memory: Option<(usize, u64)>,
}

impl Study {
    /// As many worlds as there are seeds, on all processors.
    pub(crate) fn new(seeds: u64) -> Result<Self, Box<dyn Error>> {
        let left = Mutex::new(1..=seeds);
        let runs = Mutex::new(Vec::new());
        let work = || -> Result<(), String> {
            loop {
                let Some(seed) = left.lock().map_err(|error| error.to_string())?.next() else { return Ok(()) };
                let run = Run::new(seed).map_err(|error| error.to_string())?;
                runs.lock().map_err(|error| error.to_string())?.push((seed, run));
            }
        };
        thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker has panicked".to_owned())?)
        })?;
        let mut runs = runs.into_inner()?;
        runs.sort_by_key(|&(seed, _)| seed);
        Self::of(runs.into_iter().map(|(_, run)| run).collect()).ok_or_else(|| "there are no runs".into())
    }

    fn of(runs: Vec<Run>) -> Option<Self> {
        let spread = |number: &dyn Fn(&Run) -> f64| Spread::of(runs.iter().map(|run| Some(number(run))));
        let rows = Method::ALL.map(|method| {
            let attack = |attack: fn(&Attacks) -> crate::score::Outcome| {
                let outcomes = || runs.iter().map(|run| attack(&run.methods[method as usize].0));
                Some(Attack {
                    auc: Spread::of(outcomes().map(|outcome| Some(outcome.auc)))?,
                    recall: Spread::of(outcomes().map(|outcome| Some(outcome.recall)))?,
                    precision: Spread::of(outcomes().map(|outcome| outcome.precision)),
                })
            };
            let optional = |number: fn(&Figures) -> Option<f64>| {
                Spread::of(runs.iter().map(|run| number(&run.methods[method as usize].1)))
            };
            Some(Row {
                method,
                locate: attack(|attacks| attacks.locate)?,
                colocate: attack(|attacks| attacks.colocate)?,
                confirm: attack(|attacks| attacks.confirm)?,
                confirm_later: attack(|attacks| attacks.confirm_later)?,
                visitors: optional(|figures| Some(figures.visitors))?,
                bots_refused: optional(|figures| Some(figures.bots_refused))?,
                bots_refused_at_best: optional(|figures| Some(figures.bots_refused_at_best))?,
                people_refused: optional(|figures| Some(figures.people_refused))?,
                sessions: optional(|figures| Some(figures.sessions))?,
                sessions_unknown: optional(|figures| Some(figures.sessions_unknown))?,
                countries: optional(|figures| figures.countries),
            })
        });
        Some(Self {
            seeds: runs.len() as u64,
            requests: runs.iter().map(|run| run.requests).sum(),
            bot_requests: runs.iter().map(|run| run.bot_requests).sum(),
            accounts: runs.iter().map(|run| run.accounts).sum(),
            pairs: runs.iter().map(|run| run.pairs).sum(),
            sightings: runs.iter().map(|run| run.sightings).sum(),
            memory: runs.iter().find_map(|run| run.memory),
            rows: rows.into_iter().collect::<Option<_>>()?,
            left: Left {
                acted: spread(&|run| run.acted)?,
                moments: spread(&|run| run.moments)?,
                bots_refused_by_session: spread(&|run| run.bots_refused_by_session)?,
            },
        })
    }
}

impl Run {
    fn new(seed: u64) -> Result<Self, Box<dyn Error>> {
        let world = World::new(seed);
        let trials = Trials::new(&world, seed);
        let record = Record::new(&world, &trials, seed)?;
        if record.keys_destroyed < DAYS || record.keys_held != 1 {
            return Err("a key has outlived its epoch".into());
        }
        let accounts: std::collections::HashSet<_> =
            world.requests.iter().filter_map(|request| request.account).collect();
        let of = |method| (Attacks::on(method, &world, &trials, &record), Figures::of(method, &world, &record));
        let by_session = &record.by(Method::PerSession).log;
        Ok(Self {
            requests: world.requests.len(),
            bot_requests: world.requests.iter().filter(|request| request.is_bot()).count(),
            accounts: accounts.len(),
            pairs: trials.pairs.len(),
            sightings: trials.sightings.len(),
            methods: Method::ALL.map(of).into(),
            acted: insider::act(Method::PerUser, &trials, &record).auc,
            moments: insider::moments(Method::PerUser, &world, &record).auc,
            bots_refused_by_session: business::refused(&world, |row| &by_session[row]).0,
            memory: record.memory,
        })
    }
}
