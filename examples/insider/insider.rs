//! The insider: he reads what was written, and says who was where, and with whom.

use std::collections::HashMap;

use crate::{
    method::Method,
    record::{Column, Record},
    score::{Answer, Outcome, outcome},
    trials::{Pair, Sighting, Trials},
    world::{DAYS, HOUR, Meeting, World},
};

/// What he achieves against one method.
#[derive(Clone, Copy)]
pub(crate) struct Attacks {
    /// He computes what was written for an address, with all keys that are left when the days are over.
    pub(crate) locate: Outcome,
    /// He compares the rows of two accounts.
    pub(crate) colocate: Outcome,
    /// On the same day he logs in from an address, and compares his row with the user's.
    pub(crate) confirm: Outcome,
    /// He does so when the days are over.
    pub(crate) confirm_later: Outcome,
}

impl Attacks {
    pub(crate) fn on<'a>(method: Method, world: &World, trials: &Trials, record: &'a Record) -> Self {
        let column = record.by(method);
        let log = |sighting: &Sighting| column.log[sighting.row].as_str();
        let planted = |sighting: &Sighting, day| {
            let request = &world.requests[sighting.row];
            column.planted(day, sighting.address, request.host).into_iter().collect::<Vec<_>>()
        };
        let sightings = |values: &dyn Fn(usize, &Sighting) -> Vec<&'a str>| {
            let answers = trials.sightings.iter().enumerate().map(|(number, sighting)| Answer {
                evidence: likeness(&[log(sighting)], &values(number, sighting)),
                is_true: sighting.is_true,
            });
            outcome(answers.collect())
        };
        Self {
            locate: sightings(&|number, _| column.computed[number].iter().map(String::as_str).collect()),
            colocate: outcome(trials.pairs.iter().map(|pair| compared(column, pair)).collect()),
            confirm: sightings(&|_, sighting| planted(sighting, world.requests[sighting.row].day())),
            confirm_later: sightings(&|_, sighting| planted(sighting, DAYS)),
        }
    }
}

/// He acts as the user, with a session id from the database, while the epoch lasts.
pub(crate) fn act(method: Method, trials: &Trials, record: &Record) -> Outcome {
    let column = record.by(method);
    let answers = trials.sightings.iter().zip(&column.acted).filter_map(|(sighting, acted)| {
        let evidence = likeness(&[column.log[sighting.row].as_str()], &[acted.as_deref()?]);
        Some(Answer { evidence, is_true: sighting.is_true })
    });
    outcome(answers.collect())
}

fn compared(column: &Column, pair: &Pair) -> Answer {
    let [first, second] = &pair.rows;
    let values = |rows: &[usize]| {
        let mut values: Vec<_> = rows.iter().map(|&row| column.log[row].as_str()).collect();
        values.dedup();
        values
    };
    Answer { evidence: likeness(&values(first), &values(second)), is_true: pair.is_true }
}

/// Whoever came together changed address at nearly the same moment, and so did what was written. The values need not be
/// alike for that.
pub(crate) fn moments(method: Method, world: &World, record: &Record) -> Outcome {
    let log = &record.by(method).log;
    let mut last = HashMap::new();
    let mut changes = HashMap::<u32, Vec<u64>>::new();
    for (row, request) in world.requests.iter().enumerate() {
        let Some(account) = request.account else { continue };
        if let Some(before) = last.insert(account, row)
            && log[before] != log[row]
        {
            changes.entry(account).or_default().push(request.second);
        }
    }
    let gap = |accounts: [u32; 2], around: u64| {
        let [first, second] = accounts.map(|account| {
            let near = changes.get(&account).into_iter().flatten();
            near.filter(|change| change.abs_diff(around) < HOUR / 4).collect::<Vec<_>>()
        });
        first.iter().flat_map(|a| second.iter().map(|b| a.abs_diff(**b))).min()
    };
    let answer = |accounts, meeting: &Meeting, is_true| {
        let gap = gap(accounts, meeting.start);
        Answer { evidence: gap.map_or(0.0, |gap| 0.5 / (1.0 + gap as f64)), is_true }
    };
    let mut answers = Vec::new();
    for meeting in &world.meetings {
        answers.push(answer(meeting.accounts, meeting, true));
        // Others who met somebody else, in the same quarter of an hour.
        let others = world
            .meetings
            .iter()
            .filter(|other| other.accounts != meeting.accounts && other.start.abs_diff(meeting.start) < HOUR / 4);
        answers.extend(others.map(|other| answer([meeting.accounts[0], other.accounts[1]], meeting, false)));
    }
    outcome(answers)
}

/// 1 if any two are equal. If none are, how much the most similar have in common, which is less than a half: whoever has
/// nothing else bets on that. Addresses that are not equal are just different.
fn likeness(first: &[&str], second: &[&str]) -> f64 {
    let pairs = first.iter().flat_map(|a| second.iter().map(move |b| (a, b)));
    let alike = pairs.map(|(a, b)| {
        if a == b {
            return 1.0;
        }
        if a.contains(['.', ':']) {
            return 0.0;
        }
        let same = a.bytes().zip(b.bytes()).filter(|(a, b)| a == b).count();
        same as f64 / a.len().max(b.len()).max(1) as f64 / 2.0
    });
    alike.fold(0.0, f64::max)
}
