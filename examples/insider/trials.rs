//! The questions that the insider is asked, and the right answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    method::unit,
    random::{Random, mixed},
    world::{HOUR, World},
};

pub(crate) struct Trials {
    pub(crate) sightings: Vec<Sighting>,
    pub(crate) pairs: Vec<Pair>,
}

/// Was this account, in this row, at this address?
pub(crate) struct Sighting {
    pub(crate) row: usize,
    pub(crate) address: IpAddr,
    pub(crate) is_true: bool,
}

/// Were these two accounts at one place in this hour?
pub(crate) struct Pair {
    /// Their rows in this hour.
    pub(crate) rows: [Vec<usize>; 2],
    pub(crate) is_true: bool,
}

/// Wrong answers for each right one: sampling noise shrinks with both.
const WRONG: usize = 2;
const MOST_PAIRS: usize = 6_000;

impl Trials {
    pub(crate) fn new(world: &World, seed: u64) -> Self {
        let mut random = Random::new(mixed(&[seed, 12]));
        Self { sightings: sightings(world, &mut random), pairs: pairs(world, &mut random) }
    }
}

/// Each account at each of its addresses once a day, in a row with a session if there is one.
fn sightings(world: &World, random: &mut Random) -> Vec<Sighting> {
    let mut rows = BTreeMap::new();
    let mut in_use = BTreeMap::<_, BTreeSet<_>>::new();
    for (row, request) in world.requests.iter().enumerate() {
        let Some(account) = request.account else { continue };
        in_use.entry(request.day()).or_default().insert(unit(request.address));
        let known = rows.entry((request.day(), account, unit(request.address))).or_insert(row);
        if world.requests[*known].session.is_none() {
            *known = row;
        }
    }
    let in_use: BTreeMap<_, Vec<_>> =
        in_use.into_iter().map(|(day, units)| (day, units.into_iter().collect())).collect();
    let mut sightings = Vec::new();
    for ((day, _, own), row) in rows {
        sightings.push(Sighting { row, address: world.requests[row].address, is_true: true });
        for _ in 0..WRONG {
            let address = *random.pick(&in_use[&day]);
            if address != own {
                sightings.push(Sighting { row, address, is_true: false });
            }
        }
    }
    sightings
}

fn pairs(world: &World, random: &mut Random) -> Vec<Pair> {
    let mut hours = BTreeMap::<u64, BTreeMap<u32, Vec<usize>>>::new();
    let mut places = BTreeMap::<(u64, usize), BTreeSet<u32>>::new();
    for (row, request) in world.requests.iter().enumerate() {
        let Some(account) = request.account else { continue };
        let hour = request.second / HOUR;
        hours.entry(hour).or_default().entry(account).or_default().push(row);
        if let Some(place) = request.place {
            places.entry((hour, place)).or_default().insert(account);
        }
    }

    // Each pair once a day, since for as long as nobody moves its rows say the same.
    let mut seen = BTreeSet::new();
    let mut together = Vec::new();
    for ((hour, _), accounts) in &places {
        for (number, &first) in accounts.iter().enumerate() {
            for &second in accounts.iter().skip(number + 1) {
                if seen.insert((hour / 24, first, second)) {
                    together.push((*hour, [first, second]));
                }
            }
        }
    }
    while together.len() > MOST_PAIRS {
        together.swap_remove(random.below(together.len()));
    }

    let was_at = |rows: &[usize]| -> BTreeSet<_> { rows.iter().filter_map(|&row| world.requests[row].place).collect() };
    let mut pairs = Vec::new();
    for (hour, accounts) in together {
        let active = &hours[&hour];
        let rows = accounts.map(|account| active[&account].clone());
        let others: Vec<_> = active.keys().copied().collect();
        for _ in 0..WRONG {
            // A suspect who was on the site in the same hour, and elsewhere.
            let wrong = [accounts[0], *random.pick(&others)];
            let wrong_rows = wrong.map(|account| active[&account].clone());
            if was_at(&wrong_rows[0]).is_disjoint(&was_at(&wrong_rows[1])) && wrong[0] != wrong[1] {
                pairs.push(Pair { rows: wrong_rows, is_true: false });
            }
        }
        pairs.push(Pair { rows, is_true: true });
    }
    pairs
}
