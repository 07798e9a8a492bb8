//! What the site still learns, measured against the truth.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use crate::{
    method::{Method, cut, unit},
    record::{Record, country_in},
    world::{COUNTRIES, PUBLIC, World},
};

/// All are shares, 0.01 being one percent.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// By how much the unique visitors of a day are miscounted: positive is too many.
    pub(crate) visitors: f64,
    /// Of the bots' requests, how many are refused.
    pub(crate) bots_refused: f64,
    /// The same, if each bot could be told by its face.
    pub(crate) bots_refused_at_best: f64,
    /// Of the people's requests, how many are refused.
    pub(crate) people_refused: f64,
    /// Of a session's steps from one request to the next, how many are misjudged: the same address, or another one?
    pub(crate) sessions: f64,
    /// Steps over an epoch's end, of which nothing can be said.
    pub(crate) sessions_unknown: f64,
    /// By how much the countries' shares of the visits are off, in sum; nothing if there are none.
    pub(crate) countries: Option<f64>,
}

impl Figures {
    pub(crate) fn of(method: Method, world: &World, record: &Record) -> Self {
        let (bots_refused, people_refused) = match method {
            // What is written serves the log. Limits have a view of their own.
            method if method.is_ipveil() => refused(world, |row| record.limit_keys[row]),
            Method::Raw => refused(world, |row| cut(world.requests[row].address, 32, 56)),
            _ => refused(world, |row| &record.by(method).log[row]),
        };
        let (sessions, sessions_unknown) = sessions(method, world, record);
        Self {
            visitors: visitors(method, world, record),
            bots_refused,
            bots_refused_at_best: refused(world, |row| world.requests[row].who).0,
            people_refused,
            sessions,
            sessions_unknown,
            countries: countries(method, world, record),
        }
    }
}

/// Clients are told apart by what is written and by their browser.
fn visitors(method: Method, world: &World, record: &Record) -> f64 {
    let column = record.by(method);
    let mut counted = HashSet::new();
    let mut people = HashSet::new();
    for (row, request) in world.requests.iter().enumerate().filter(|(_, request)| !request.is_bot()) {
        if request.host == PUBLIC {
            counted.insert((request.day(), &column.visitors[row], request.agent));
            people.insert((request.day(), request.who));
        }
    }
    counted.len() as f64 / people.len() as f64 - 1.0
}

/// The shares of the bots' and of the people's requests that are refused, if each client has an allowance per minute.
pub(crate) fn refused<K: Hash + Eq>(world: &World, key: impl Fn(usize) -> K) -> (f64, f64) {
    const ALLOWANCE: u32 = 30;
    let mut counts = HashMap::new();
    let (mut bots, mut people) = ((0, 0), (0, 0));
    for (row, request) in world.requests.iter().enumerate() {
        let count = counts.entry((request.second / 60, key(row))).or_insert(0);
        *count += 1;
        let (refused, all) = if request.is_bot() { &mut bots } else { &mut people };
        *all += 1;
        *refused += u32::from(*count > ALLOWANCE);
    }
    let share = |(refused, all)| f64::from(refused) / f64::from(all);
    (share(bots), share(people))
}

/// Misjudged steps, and those that can't be judged.
fn sessions(method: Method, world: &World, record: &Record) -> (f64, f64) {
    let column = record.by(method);
    let is_daily = method.is_ipveil() || method == Method::DailyKey;
    let written = |row: usize| &column.log[row];
    let mut last = HashMap::new();
    let (mut wrong, mut judged, mut unknown) = (0, 0, 0);
    for (row, request) in world.requests.iter().enumerate().filter(|(_, request)| !request.is_bot()) {
        let Some(session) = request.session else { continue };
        // Per host, a request for the other host says nothing.
        let host = (method == Method::PerHost).then_some(request.host);
        let Some(before) = last.insert((session, host), row) else { continue };
        let past = &world.requests[before];
        if is_daily && past.day() != request.day() {
            unknown += 1;
            continue;
        }
        let is_same = unit(past.address) == unit(request.address);
        judged += 1;
        wrong += u32::from(is_same != (written(before) == written(row)));
    }
    (f64::from(wrong) / f64::from(judged), f64::from(unknown) / f64::from(judged + unknown))
}

/// Visits of one person a day, by country.
fn countries(method: Method, world: &World, record: &Record) -> Option<f64> {
    let column = record.by(method);
    let mut seen = HashSet::new();
    let (mut truth, mut found) = ([0.0_f64; COUNTRIES.len()], [0.0; COUNTRIES.len()]);
    let mut all = 0.0;
    for (row, request) in world.requests.iter().enumerate() {
        if request.is_bot() || request.host != PUBLIC || !seen.insert((request.day(), request.who)) {
            continue;
        }
        let country = match method {
            Method::Raw | Method::Truncated => country_in(&column.log[row]),
            method if method.is_ipveil() => record.countries[row],
            _ => None,
        };
        truth[request.country] += 1.0;
        found[country?] += 1.0;
        all += 1.0;
    }
    // Each visit in a wrong country is missing in another.
    Some(truth.iter().zip(found).map(|(truth, found)| (truth - found).abs()).sum::<f64>() / 2.0 / all)
}
