//! The insider, simulated: what he finds in the logs of a site, by what it writes instead of addresses, and what the site
//! still learns.
//!
//! ```text
//! $ cargo run --release --example insider --features geo                          # tables
//! $ cargo run --release --example insider --features geo -- --html insider.html   # a page with charts
//! $ cargo run --release --example insider --features geo -- --json                # for programs
//! ```
//!
//! # What is simulated
//!
//! A town of 1,500 people for three days, once for each seed: homes, offices, cafés, phones, carrier NAT, VPNs, dynamic
//! addresses, IPv6 with privacy addresses; accounts, anonymous visits, bots with forged cookies. A site writes an access log next
//! to its accounts, by nine methods. Then an insider who can read all of it asks:
//!
//! 1. **Locate**: was this user at this address? He computes what would have been written, with every key that he can
//!    still find when the days are over.
//! 2. **Co-locate**: were these two users at one place in this hour? He compares their rows.
//! 3. **Confirm**: the first question again, but he logs in from that address himself, on the same day or later, and
//!    compares his own row.
//!
//! Where nothing is equal he bets on the most similar, so a coin toss is what values have come to, not what he was
//! not allowed to try.
//!
//! # What is not
//!
//! ipveil is not a model of itself: its rows are made by its policy, ring, layer, country view and limit keys. When the
//! days are over the insider has the ring compute for him, with the key that it holds then. That there is no other, the
//! ring's events say, and for the first town, where the system lets a process read itself, a search for the destroyed ones in all
//! of the memory. Only the source of the keys is not a real one: they come from the seed, so that each run has the same
//! result. (What requests without a session get is random, and never equal to anything.)
//!
//! The people are made up, and so are their habits: other towns have other numbers. What the insider could learn
//! from cookies, fingerprints or the network is left out.
#![expect(clippy::print_stdout, reason = "a program says what it has found")]

mod business;
mod edge;
mod insider;
mod json;
mod memory;
mod method;
#[path = "../../tests/mmdb.rs"]
mod mmdb;
mod page;
mod random;
mod record;
mod score;
mod study;
mod table;
mod trials;
mod words;
mod world;

use std::{env, error::Error, fs, path::PathBuf};

use self::study::Study;

const SEEDS: u64 = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut seeds, mut is_json, mut html) = (SEEDS, false, None);
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.len()) {
            ("--json", _) => is_json = true,
            ("--html", 1..) => html = arguments.next().map(PathBuf::from),
            ("--seeds", 1..) => seeds = arguments.next().unwrap_or_default().parse()?,
            _ => return Err("usage: insider [--seeds NUMBER] [--json] [--html FILE]".into()),
        }
    }

    let study = Study::new(seeds)?;
    if let Some(file) = html {
        fs::write(file, page::page(&study))?;
    }
    match is_json {
        true => println!("{:#}", json::json(&study)),
        false => println!("{}", table::table(&study)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::{
        method::Method,
        study::{Attack, Row},
    };

    /// The same in each run, since its keys are: what holds here once holds always. (Per session, one in twenty of the
    /// values is random, and moves an AUC by less than 0.001.)
    static STUDY: LazyLock<Study> = LazyLock::new(|| Study::new(SEEDS).unwrap());

    fn row(method: Method) -> &'static Row {
        &STUDY.rows[method as usize]
    }

    /// With some 30,000 questions of each answer, the noise of an AUC has a standard deviation below 0.002.
    #[track_caller]
    fn assert_coin_toss(attack: &Attack) {
        assert!((attack.auc.mean - 0.5).abs() < 0.01, "{:?}", attack.auc);
        assert_eq!(attack.recall.max, 0.0, "no two values are equal");
    }

    #[test]
    fn scoped_to_the_user_or_the_session_the_insider_tosses_a_coin() {
        for method in [Method::PerUser, Method::PerSession] {
            for (_, attack) in row(method).attacks() {
                assert_coin_toss(attack);
            }
        }
    }

    #[test]
    fn without_a_scope_accounts_can_be_compared_as_if_by_address() {
        let by_address = row(Method::Raw).colocate.recall.mean;
        for method in [Method::Hash, Method::StaticKey, Method::DailyKey, Method::Unscoped] {
            let Row { colocate, confirm, .. } = row(method);
            assert!((colocate.recall.mean - by_address).abs() < 0.001, "{method:?}");
            assert!(colocate.auc.mean > 0.85 && confirm.auc.mean > 0.999, "{method:?}");
        }
        assert!(row(Method::PerHost).colocate.auc.mean > 0.85);
    }

    #[test]
    fn once_the_epoch_is_over_no_address_can_be_found_or_confirmed_without_a_scope_either() {
        for method in [Method::Unscoped, Method::PerHost] {
            assert_eq!(row(method).locate.recall.max, 0.0);
            assert_eq!(row(method).confirm_later.recall.max, 0.0);
        }
        assert!(row(Method::StaticKey).locate.auc.mean > 0.999);
        assert!(row(Method::DailyKey).locate.auc.mean > 0.75, "some keys are in the store and its backup");
    }

    #[test]
    fn the_site_learns_what_it_learns_from_addresses() {
        let raw = row(Method::Raw);
        for method in [Method::Unscoped, Method::PerHost, Method::PerUser] {
            let row = row(method);
            assert!((row.visitors.mean - raw.visitors.mean).abs() < 0.01, "{method:?}");
            assert!((row.bots_refused.mean - raw.bots_refused.mean).abs() < 0.01, "{method:?}");
            assert!((row.people_refused.mean - raw.people_refused.mean).abs() < 0.01, "{method:?}");
            assert!((row.sessions.mean - raw.sessions.mean).abs() < 0.01, "{method:?}");
            let off = |row: &Row| row.countries.unwrap().mean;
            assert!((off(row) - off(raw)).abs() < 0.01, "{method:?}");
        }
    }

    #[test]
    fn what_a_scope_makes_impossible_is_in_the_figures() {
        let session = row(Method::PerSession);
        assert!(session.visitors.mean > 1.0, "who has no session is new each time");
        assert!(session.sessions.mean < 0.01 && session.sessions_unknown.mean > 0.0);
        assert!(STUDY.left.bots_refused_by_session.mean < 0.01, "a cookie buys a new allowance");
        assert!(STUDY.left.acted.mean > 0.99);
        assert!(STUDY.left.moments.mean > 0.6);
    }

    #[test]
    fn destroyed_keys_are_nowhere_in_memory() {
        if let Some((keys, bytes)) = STUDY.memory {
            assert_eq!(keys, 0);
            assert!(bytes > 0);
        }
    }

    #[test]
    fn a_study_is_the_same_each_time() {
        let study = || {
            let mut json = json::json(&Study::new(1).unwrap());
            // What logins get under this scope is random.
            json["methods"][Method::PerSession as usize].take();
            // Not the site's.
            json["memory"].take();
            json
        };
        assert_eq!(study(), study());
    }

    #[test]
    fn the_page_needs_nothing_else_and_has_all_figures() {
        let page = page::page(&STUDY);
        for outside in ["http:", "https:", "url(", "src=", "@import", "<script", "<link", "{{"] {
            assert!(!page.contains(outside), "{outside}");
        }
        for method in Method::ALL {
            assert_eq!(page.matches(&format!("<th scope=\"row\">{}", method.name())).count(), 7, "{method:?}");
        }
    }

    #[test]
    fn the_json_has_what_the_tables_have() {
        let json = json::json(&STUDY);
        assert_eq!(json["methods"].as_array().map(Vec::len), Some(Method::ALL.len()));
        let auc = &json["methods"][Method::PerUser as usize]["attacks"]["co-locate"]["auc"]["mean"];
        assert_eq!(auc.as_f64(), Some(row(Method::PerUser).colocate.auc.mean));
        assert!(json["methods"][Method::Hash as usize]["errors"]["countries"].is_null());
    }
}
