//! All that the site has written in the simulated days, by each method, and what the insider had it write besides.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    net::IpAddr,
};

use ipveil::LimitKey;

use crate::{
    edge::{Edge, Known},
    method::{Keys, Method, unit},
    trials::Trials,
    world::{COUNTRIES, DAY, DAYS, PRIVATE, PUBLIC, Request, World, country_of},
};

pub(crate) struct Record {
    by_method: Vec<Column>,
    pub(crate) limit_keys: Vec<LimitKey>,
    /// What `View::country` shows, by its place in the world's list.
    pub(crate) countries: Vec<Option<usize>>,
    pub(crate) keys_destroyed: u64,
    /// When the days are over.
    pub(crate) keys_held: u64,
    /// Keys of past days in the memory of the process then, and the bytes that were searched. In one town only, since it
    /// takes a moment.
    pub(crate) memory: Option<(usize, u64)>,
}

/// What one method has written.
#[derive(Default)]
pub(crate) struct Column {
    /// Next to each request, and to the account if it has one. As it is read: see [`comparable`].
    pub(crate) log: Vec<String>,
    /// What visitors are counted by.
    pub(crate) visitors: Vec<String>,
    /// In the rows of the insider's own account, on each day and one day later, at each address that he suspects.
    planted: HashMap<(u64, IpAddr, &'static str), String>,
    /// For each sighting: what he can compute when the days are over, or have computed by what runs then.
    pub(crate) computed: Vec<Vec<String>>,
    /// For each sighting: what is shown on the same day if he acts as the user, with a session id from the database.
    pub(crate) acted: Vec<Option<String>>,
}

const INSIDER: u32 = u32::MAX;
const HIS_SESSION: u64 = u64::MAX;

impl Record {
    pub(crate) fn new(world: &World, trials: &Trials, seed: u64) -> Result<Self, Box<dyn Error>> {
        let mut edge = Edge::new(seed)?;
        let keys = Keys::new(seed, DAYS);
        let mut new = Self {
            by_method: Method::ALL.map(|_| Column::default()).into(),
            limit_keys: Vec::new(),
            countries: Vec::new(),
            keys_destroyed: 0,
            keys_held: 0,
            memory: None,
        };
        let mut requests = world.requests.iter().peekable();
        for day in 0..DAYS {
            while let Some(request) = requests.next_if(|request| request.day() == day) {
                edge.advance_to(request.second)?;
                new.write(request, &edge.client(request)?, &keys);
            }
            new.plant(day, day, world, trials, &edge, &keys)?;
            new.act(day, world, trials, &edge)?;
        }

        edge.advance_to(DAYS * DAY)?;
        for day in 0..DAYS {
            new.plant(day, DAYS, world, trials, &edge, &keys)?;
        }
        new.compute(world, trials, &edge, &keys)?;
        (new.keys_destroyed, new.keys_held) = (edge.keys_destroyed(), edge.keys_held());
        if seed == 1 {
            new.memory = edge.search_memory();
        }
        Ok(new)
    }

    pub(crate) fn by(&self, method: Method) -> &Column {
        &self.by_method[method as usize]
    }

    fn write(&mut self, request: &Request, client: &Known, keys: &Keys) {
        for (column, method) in self.by_method.iter_mut().zip(Method::ALL) {
            let written = keys.written(method, request.address, request.day());
            let log = written.clone().or_else(|| client.written(method, request.account));
            let visitor = written.or_else(|| client.visitor(method));
            column.log.push(comparable(log));
            column.visitors.push(comparable(visitor));
        }
        self.limit_keys.push(client.limit_key());
        let country = client.country().and_then(|country| COUNTRIES.iter().position(|&code| code == country.as_str()));
        self.countries.push(country);
    }

    /// The insider logs in from each address that a sighting of `day` asks for.
    fn plant(
        &mut self,
        day: u64,
        when: u64,
        world: &World,
        trials: &Trials,
        edge: &Edge,
        keys: &Keys,
    ) -> Result<(), Box<dyn Error>> {
        let of_day = trials.sightings.iter().filter(|sighting| world.requests[sighting.row].day() == day);
        let units: BTreeSet<_> = of_day.map(|sighting| unit(sighting.address)).collect();
        for unit in units {
            for host in [PUBLIC, PRIVATE] {
                let client = edge.client_at(unit, host, Some(HIS_SESSION))?;
                for (column, method) in self.by_method.iter_mut().zip(Method::ALL) {
                    let row = keys.written(method, unit, when).or_else(|| client.written(method, Some(INSIDER)));
                    column.planted.insert((when, unit, host), comparable(row));
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, day: u64, world: &World, trials: &Trials, edge: &Edge) -> Result<(), Box<dyn Error>> {
        // A part of the sightings is enough to see what it comes to.
        for (number, sighting) in trials.sightings.iter().enumerate() {
            let request = &world.requests[sighting.row];
            if request.day() != day {
                continue;
            }
            let client = match number % 8 {
                0..3 => Some(edge.client_at(sighting.address, request.host, request.session)?),
                _ => None,
            };
            for (column, method) in self.by_method.iter_mut().zip(Method::ALL) {
                column.acted.resize(trials.sightings.len(), None);
                column.acted[number] = client.as_ref().and_then(|client| client.written(method, request.account));
            }
        }
        Ok(())
    }

    fn compute(&mut self, world: &World, trials: &Trials, edge: &Edge, keys: &Keys) -> Result<(), Box<dyn Error>> {
        for sighting in &trials.sightings {
            let request = &world.requests[sighting.row];
            // He knows the session's id and the account's, too.
            let client = edge.client_at(sighting.address, request.host, request.session)?;
            for (column, method) in self.by_method.iter_mut().zip(Method::ALL) {
                let computed = keys.computed(method, sighting.address).into_iter().map(Some);
                let shown = client.written(method, request.account).map(Some);
                column.computed.push(computed.chain(shown).map(comparable).collect());
            }
        }
        Ok(())
    }
}

impl Column {
    /// What the insider reads in his own row, if he was at that address on that day.
    pub(crate) fn planted(&self, day: u64, address: IpAddr, host: &'static str) -> Option<&str> {
        self.planted.get(&(day, unit(address), host)).map(String::as_str)
    }
}

/// As it is read: privacy addresses fool nobody who can, since of an IPv6 address the first 64 bits are the subscriber's.
fn comparable(written: Option<String>) -> String {
    let written = written.unwrap_or_default();
    match written.parse() {
        Ok(address @ IpAddr::V6(_)) => unit(address).to_string(),
        _ => written,
    }
}

/// What can be said of a country from what is written.
pub(crate) fn country_in(written: &str) -> Option<usize> {
    let address = written.split('/').next()?.parse().ok()?;
    Some(country_of(address))
}
