//! The results on a terminal.

use crate::{
    score::Spread,
    study::{Attack, Row, Study},
    words::{amount, figure, memory, percent, points, range},
};

pub(crate) fn table(study: &Study) -> String {
    let left = &study.left;
    let with = |spread: &Spread| format!("{} ({})", figure(spread.mean), range(spread, figure));
    let lines = |line: fn(&Row) -> String| study.rows.iter().map(line).collect::<String>();
    format!(
        "\
{seeds} simulated towns, {requests} requests. What the insider finds: the chance that he tells a right answer from a
wrong one, with the lowest and the highest; 0.50 is a coin toss.

{attacks}
How much of what is true he says yes to, and how often that is right with a hundred suspects.

{yes}
What the site still learns: errors against the truth.

{business}
bots: of their requests, {refused} are refused where addresses are known, {by_session} where the session's pseudonym is counted
sessions: {unknown} of the steps are over the end of a daily epoch and can't be judged

What scopes do not take away: acting as the user on the same day, {acted};
moments at which two users' pseudonyms change, if their devices ask every minute, {moments}

When the days are over: {memory}.
",
        seeds = study.seeds,
        requests = amount(study.requests),
        attacks = head(["locate", "co-locate", "confirm", "confirm later"]) + &lines(attacks),
        yes = head(["locate", "co-locate", "confirm", "confirm later"]) + &lines(yes),
        business = head(["visitors", "bots refused", "session checks", "countries"]) + &lines(business),
        refused = study.rows.first().map_or(String::new(), |raw| percent(raw.bots_refused.mean)),
        by_session = percent(left.bots_refused_by_session.mean),
        unknown = study.rows.last().map_or(String::new(), |user| percent(user.sessions_unknown.mean)),
        acted = with(&left.acted),
        moments = with(&left.moments),
        memory = memory(study.memory),
    )
}

fn head(names: [&str; 4]) -> String {
    line("", names.map(str::to_owned))
}

fn line(name: &str, cells: [String; 4]) -> String {
    let cells: String = cells.iter().map(|cell| format!("  {cell:<20}")).collect();
    format!("{}\n", format!("{name:<19}{cells}").trim_end())
}

fn attacks(row: &Row) -> String {
    let cell = |(_, attack): (&str, &Attack)| match &attack.auc {
        auc if figure(auc.min) == figure(auc.max) => figure(auc.mean),
        auc => format!("{} ({})", figure(auc.mean), range(auc, figure)),
    };
    line(row.method.name(), row.attacks().map(cell))
}

fn yes(row: &Row) -> String {
    let cell = |(_, attack): (&str, &Attack)| match &attack.precision {
        Some(precision) => format!("{}, {}", percent(attack.recall.mean), percent(precision.mean)),
        None => "never".to_owned(),
    };
    line(row.method.name(), row.attacks().map(cell))
}

fn business(row: &Row) -> String {
    let countries = row.countries.as_ref().map_or("none".to_owned(), |off| percent(off.mean));
    line(row.method.name(), [points(row.visitors.mean), points(row.bots()), percent(row.sessions.mean), countries])
}
