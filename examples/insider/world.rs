//! The truth: who was where, from which address, and what they asked of the site.
//!
//! Its Internet is 198.18.0.0/15 and 2001:db8::/32, which are set aside for benchmarks and for documentation.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use crate::random::{Random, mixed};

pub(crate) const DAYS: u64 = 3;
pub(crate) const DAY: u64 = 86_400;
pub(crate) const HOUR: u64 = 3_600;

const PEOPLE: usize = 1_500;
const BOTS: usize = 16;
const AGENTS: usize = 60;

/// What happened on the site in three days.
pub(crate) struct World {
    /// In the order of time.
    pub(crate) requests: Vec<Request>,
    pub(crate) meetings: Vec<Meeting>,
}

/// Two come to a café at nearly the same time, each with a device that asks for something every minute.
#[derive(Clone, Copy)]
pub(crate) struct Meeting {
    /// Since the first midnight.
    pub(crate) start: u64,
    pub(crate) people: [usize; 2],
    pub(crate) accounts: [u32; 2],
}

/// A request, and what nobody but the simulation knows of it.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    /// Since the first midnight.
    pub(crate) second: u64,
    pub(crate) who: Who,
    /// Who is logged in, or has just done so.
    pub(crate) account: Option<u32>,
    /// The session's cookie, if one was sent.
    pub(crate) session: Option<u64>,
    pub(crate) host: &'static str,
    pub(crate) agent: usize,
    pub(crate) address: IpAddr,
    /// A home, an office or a café: where the device really is, whatever its address says.
    pub(crate) place: Option<usize>,
    pub(crate) country: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    Person(usize),
    Bot(usize),
}

impl Request {
    pub(crate) fn day(&self) -> u64 {
        self.second / DAY
    }

    pub(crate) fn is_bot(&self) -> bool {
        matches!(self.who, Who::Bot(_))
    }
}

/// The site's public pages, and what is behind the login.
pub(crate) const PUBLIC: &str = "www.example.com";
pub(crate) const PRIVATE: &str = "app.example.com";

pub(crate) const COUNTRIES: [&str; 5] = ["DE", "FR", "NL", "CH", "LU"];
const SHARES: [usize; COUNTRIES.len()] = [40, 25, 20, 10, 5];

/// Where VPNs and bots have their servers.
const HOSTING: usize = 2;

/// The networks of each country, for a file of countries.
pub(crate) fn networks() -> Vec<(String, &'static str)> {
    let v4 =
        (0..32).map(|block| (format!("198.{}.{}.0/20", 18 + block / 16, block % 16 * 16), COUNTRIES[owner(block)]));
    let v6 = COUNTRIES.iter().enumerate().map(|(number, &country)| (format!("2001:db8:{number}000::/36"), country));
    v4.chain(v6).chain([("2001:db8:f000::/36".to_owned(), COUNTRIES[HOSTING])]).collect()
}

/// The country of an address in the simulated Internet.
pub(crate) fn country_of(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(address) => {
            let [_, second, third, _] = address.octets();
            owner(usize::from(second - 18) * 16 + usize::from(third / 16))
        }
        IpAddr::V6(address) => match usize::from(address.segments()[2] >> 12) {
            0xf => HOSTING,
            country => country,
        },
    }
}

// The last two /20 are for servers.
const BLOCKS: [Range<usize>; COUNTRIES.len()] = [0..12, 12..19, 19..25, 25..28, 28..30];
const SERVERS: Range<usize> = 30..32;

fn owner(block: usize) -> usize {
    BLOCKS.iter().position(|blocks| blocks.contains(&block)).unwrap_or(HOSTING)
}

struct Person {
    country: usize,
    home: usize,
    office: Option<usize>,
    agent: usize,
    account: Option<u32>,
    // Stays logged in for all the days.
    remembered: bool,
    has_vpn: bool,
    is_v4_only: bool,
}

struct Place {
    country: usize,
    v4: Ipv4Addr,
    // Another one each night.
    is_dynamic: bool,
    // The first 64 bits.
    v6: Option<u64>,
}

/// From when on somebody is somewhere; nowhere is on the way, with a phone.
type Stay = (u64, Option<usize>);

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut internet = Internet::default();
        let mut places = Vec::new();

        let offices: Vec<_> = (0..8).map(|_| internet.place(&mut places, &mut random, 30, 0)).collect();
        let cafes: Vec<_> = (0..40).map(|_| internet.place(&mut places, &mut random, 30, 10)).collect();
        let people = people(&mut places, &mut internet, &offices, &mut random);
        let exits: Vec<_> = (0..6).map(|_| internet.server(&mut random)).collect();

        let (mut requests, mut meetings) = (Vec::new(), Vec::new());
        for day in 0..DAYS {
            let mut stays: Vec<_> = people.iter().map(|person| stays(person, &places, &cafes, &mut random)).collect();
            let first = meetings.len();
            meet(day, &people, &places, &cafes, &mut stays, &mut meetings, &mut random);
            for (number, person) in people.iter().enumerate() {
                let visitor = Visitor { seed, number, person, places: &places, exits: &exits, stays: &stays[number] };
                for _ in 0..random.weighted(&[15, 30, 30, 15, 10]) {
                    visitor.visit(day, &mut requests, &mut random);
                }
                for meeting in meetings[first..].iter().filter(|meeting: &&Meeting| meeting.people.contains(&number)) {
                    visitor.wait(meeting.start, &mut requests, &mut random);
                }
            }
            for bot in 0..BOTS {
                flood(bot, day, seed, &mut internet, &mut requests, &mut random);
            }
        }
        requests.retain(|request| request.second < DAYS * DAY);
        requests.sort_by_key(|request| request.second);
        // The first of each session is the login, which gets the cookie.
        let mut begun = HashSet::new();
        for request in requests.iter_mut().filter(|request| request.account.is_some()) {
            if begun.insert(request.session) {
                (request.session, request.host) = (None, PRIVATE);
            }
        }
        Self { requests, meetings }
    }
}

fn people(places: &mut Vec<Place>, internet: &mut Internet, offices: &[usize], random: &mut Random) -> Vec<Person> {
    let mut people = Vec::new();
    while people.len() < PEOPLE {
        let home = internet.home(places, random);
        let country = places[home].country;
        let near: Vec<_> = offices.iter().copied().filter(|&office| places[office].country == country).collect();
        for _ in 0..1 + random.weighted(&[30, 35, 20, 15]) {
            people.push(Person {
                country,
                home,
                office: (random.chance(60) && !near.is_empty()).then(|| *random.pick(&near)),
                // A few browsers are what most people have.
                agent: random.below(AGENTS).min(random.below(AGENTS)),
                account: random.chance(75).then_some(people.len() as u32),
                remembered: random.chance(50),
                has_vpn: random.chance(4),
                is_v4_only: random.chance(10),
            });
        }
    }
    people
}

/// Addresses that are given to places.
#[derive(Default)]
struct Internet {
    used: HashSet<Ipv4Addr>,
    v6: u64,
    // The last address of carrier NAT in each country, and how many homes it has.
    shared: [Option<(Ipv4Addr, usize)>; COUNTRIES.len()],
}

impl Internet {
    fn place(&mut self, places: &mut Vec<Place>, random: &mut Random, v6: usize, dynamic: usize) -> usize {
        let country = random.weighted(&SHARES);
        let v4 = self.v4(BLOCKS[country].clone(), random);
        let v6 = random.chance(v6).then(|| self.v6(country));
        places.push(Place { country, v4, is_dynamic: random.chance(dynamic), v6 });
        places.len() - 1
    }

    fn home(&mut self, places: &mut Vec<Place>, random: &mut Random) -> usize {
        let home = self.place(places, random, 50, 25);
        // Behind carrier NAT, with a dozen others.
        if random.chance(30) {
            let place = &mut places[home];
            let (v4, homes) = match self.shared[place.country] {
                Some((v4, homes)) if homes < 12 => (v4, homes + 1),
                _ => (place.v4, 1),
            };
            self.shared[place.country] = Some((v4, homes));
            place.v4 = v4;
            place.is_dynamic = false;
        }
        home
    }

    fn server(&mut self, random: &mut Random) -> Ipv4Addr {
        self.v4(SERVERS, random)
    }

    fn v4(&mut self, blocks: Range<usize>, random: &mut Random) -> Ipv4Addr {
        loop {
            let address = v4_in(blocks.clone(), random.number());
            if self.used.insert(address) {
                return address;
            }
        }
    }

    /// A /56 of its own, of which one /64 is used. 256 of them are in a /48.
    fn v6(&mut self, country: usize) -> u64 {
        self.v6 += 1;
        let region = (country as u64) << 12 | (self.v6 / 256);
        0x2001_0db8 << 32 | region << 16 | (self.v6 % 256) << 8 | 1
    }
}

/// Only the lower quarter of each block is in use: neighbors are in one /24.
fn v4_in(blocks: Range<usize>, number: u64) -> Ipv4Addr {
    let number = number as usize;
    let block = blocks.start + number % blocks.len();
    let third = block % 16 * 16 + number / 64 % 4;
    Ipv4Addr::new(198, 18 + (block / 16) as u8, third as u8, 1 + (number / 4_096 % 254) as u8)
}

/// Where somebody is on one day.
fn stays(person: &Person, places: &[Place], cafes: &[usize], random: &mut Random) -> Vec<Stay> {
    const MINUTE: u64 = 60;
    let mut stays = vec![(0, Some(person.home))];
    let mut at = 7 * HOUR + random.below(120) as u64 * MINUTE;
    let mut go = |to: Option<usize>, minutes: usize, at: &mut u64| {
        stays.push((*at, None));
        *at += (10 + random.below(30)) as u64 * MINUTE;
        stays.push((*at, to));
        *at += (minutes + random.below(45)) as u64 * MINUTE;
        random.number()
    };
    let near: Vec<_> = cafes.iter().copied().filter(|&cafe| places[cafe].country == person.country).collect();
    let cafe = |number: u64| near.get(number as usize % near.len().max(1)).copied();
    if let Some(office) = person.office {
        let lunch = go(Some(office), 180, &mut at);
        if lunch % 100 < 40
            && let Some(cafe) = cafe(lunch / 100)
        {
            go(Some(cafe), 30, &mut at);
        }
        let evening = go(Some(office), 180, &mut at);
        if evening % 100 < 25
            && let Some(cafe) = cafe(evening / 100)
        {
            go(Some(cafe), 60, &mut at);
        }
    } else {
        at += 2 * HOUR;
        let out = go(Some(person.home), 60, &mut at);
        if out % 100 < 40
            && let Some(cafe) = cafe(out / 100)
        {
            go(Some(cafe), 60, &mut at);
        }
    }
    go(Some(person.home), 0, &mut at);
    stays
}

/// Some meet: they come to a café at nearly the same time, and go home.
fn meet(
    day: u64,
    people: &[Person],
    places: &[Place],
    cafes: &[usize],
    stays: &mut [Vec<Stay>],
    meetings: &mut Vec<Meeting>,
    random: &mut Random,
) {
    let mut busy = HashSet::new();
    for _ in 0..150 {
        let pair = [random.below(people.len()), random.below(people.len())];
        let cafe = *random.pick(cafes);
        let [Some(first), Some(second)] = pair.map(|person| people[person].account) else { continue };
        if pair.iter().any(|person| people[*person].country != places[cafe].country || !busy.insert(*person)) {
            continue;
        }
        let start = 20 * HOUR + random.below(3_600) as u64;
        meetings.push(Meeting { start: day * DAY + start, people: pair, accounts: [first, second] });
        for person in pair {
            let stays = &mut stays[person];
            stays.retain(|&(from, _)| from < start - HOUR);
            stays.push((start - HOUR / 2, None));
            stays.push((start + random.below(300) as u64, Some(cafe)));
            stays.push((start + HOUR, None));
            stays.push((start + HOUR * 3 / 2, Some(people[person].home)));
        }
    }
}

struct Visitor<'a> {
    seed: u64,
    number: usize,
    person: &'a Person,
    places: &'a [Place],
    exits: &'a [Ipv4Addr],
    stays: &'a [Stay],
}

impl Visitor<'_> {
    fn visit(&self, day: u64, requests: &mut Vec<Request>, random: &mut Random) {
        const HOURS: [usize; 24] = [2, 1, 0, 0, 0, 1, 3, 6, 8, 9, 9, 8, 10, 8, 8, 8, 8, 8, 9, 10, 11, 10, 8, 5];
        let mut second = day * DAY + random.weighted(&HOURS) as u64 * HOUR + random.below(3_600) as u64;
        let account = self.person.account.filter(|_| random.chance(80));
        let session = account.map(|_| self.session(random));
        for _ in 0..random.between(1, 8) {
            let host = if account.is_some() && random.chance(70) { PRIVATE } else { PUBLIC };
            requests.push(self.request(second, account, session, host));
            second += random.between(5, 400) as u64;
        }
    }

    /// A device asks every minute, from a quarter of an hour before until after.
    fn wait(&self, meeting: u64, requests: &mut Vec<Request>, random: &mut Random) {
        let session = Some(self.session(random));
        let offset = random.below(60) as u64;
        let minutes = (0..30).map(|minute| meeting - 15 * 60 + minute * 60 + offset);
        requests.extend(minutes.map(|second| self.request(second, self.person.account, session, PRIVATE)));
    }

    fn session(&self, random: &mut Random) -> u64 {
        let visit = if self.person.remembered { 0 } else { random.number() };
        mixed(&[self.seed, 1, self.number as u64, visit])
    }

    fn request(&self, second: u64, account: Option<u32>, session: Option<u64>, host: &'static str) -> Request {
        let (address, place) = self.address(second / DAY, second % DAY);
        let Person { agent, country, .. } = *self.person;
        Request { second, who: Who::Person(self.number), account, session, host, agent, address, place, country }
    }

    /// The device's address, and where it is.
    fn address(&self, day: u64, second: u64) -> (IpAddr, Option<usize>) {
        let person = self.person;
        let of_today = |what: u64| mixed(&[self.seed, what, self.number as u64, day]);
        let at = self.stays.iter().rev().find(|&&(from, _)| from <= second);
        let place = at.and_then(|&(_, place)| place);
        let address = if person.has_vpn {
            self.exits[of_today(2) as usize % self.exits.len()].into()
        } else if let Some(number) = place {
            let place = &self.places[number];
            match place.v6 {
                Some(network) if !person.is_v4_only => {
                    // A privacy address (RFC 8981): another one each day, and in each network.
                    v6(network, mixed(&[of_today(3), number as u64])).into()
                }
                _ if place.is_dynamic => {
                    v4_in(BLOCKS[place.country].clone(), mixed(&[self.seed, 4, number as u64, day])).into()
                }
                _ => place.v4.into(),
            }
        } else if of_today(5).is_multiple_of(2) && !person.is_v4_only {
            // Phones have a /64 each.
            v6(0x2001_0db8 << 32 | (person.country as u64) << 28 | 0x0fff_0000 | of_today(6) & 0xffff, of_today(7))
                .into()
        } else {
            // The carrier's NAT has few addresses for many phones.
            let block = BLOCKS[person.country].end - 1;
            let [first, second, third, _] = v4_in(block..block + 1, 0).octets();
            Ipv4Addr::new(first, second, third + 8, 1 + (of_today(8) % 8) as u8).into()
        };
        (address, place)
    }
}

fn v6(network: u64, interface: u64) -> Ipv6Addr {
    (u128::from(network) << 64 | u128::from(interface)).into()
}

/// A bot asks for more than it may, and forges a cookie each time.
fn flood(bot: usize, day: u64, seed: u64, internet: &mut Internet, requests: &mut Vec<Request>, random: &mut Random) {
    let address = internet.server(random);
    let start = day * DAY + random.below(DAY as usize - 300) as u64;
    for second in 0..random.between(60, 180) as u64 {
        for _ in 0..random.between(1, 4) {
            // Some have a /56, and use all of it.
            let address = match bot % 4 {
                0 => v6(
                    0x2001_0db8_f000 << 16 | (bot as u64) << 8 | random.number() & 0xff,
                    mixed(&[seed, 9, bot as u64]),
                )
                .into(),
                _ => address.into(),
            };
            requests.push(Request {
                second: start + second,
                who: Who::Bot(bot),
                account: None,
                session: Some(random.number()),
                host: PUBLIC,
                agent: AGENTS,
                address,
                place: None,
                country: HOSTING,
            });
        }
    }
}
