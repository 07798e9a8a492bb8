//! The results as one page that needs nothing else.

use crate::{
    score::Spread,
    study::{Attack, Row, Study},
    words::{amount, figure, memory, percent, points, range},
};

/// As the template has it, with the figures filled in.
pub(crate) fn page(study: &Study) -> String {
    let colocate = |place: usize| figure(study.rows[place].colocate.auc.mean);
    let [.., unscoped, host, session, user] = &study.rows[..] else { return String::new() };
    let filled = [
        ("seeds", study.seeds.to_string()),
        ("requests", amount(study.requests)),
        ("bot-requests", amount(study.bot_requests)),
        ("accounts", amount(study.accounts)),
        ("sightings", amount(study.sightings)),
        ("pairs", amount(study.pairs)),
        ("colocate-raw", colocate(0)),
        ("colocate-static", colocate(3)),
        ("colocate-daily", colocate(4)),
        ("colocate-unscoped", figure(unscoped.colocate.auc.mean)),
        ("colocate-host", figure(host.colocate.auc.mean)),
        ("colocate-user", figure(user.colocate.auc.mean)),
        ("visitors-session", format!("{} too many", points(session.visitors.mean))),
        ("unknown", percent(user.sessions_unknown.mean)),
        ("unknown-host", percent(host.sessions_unknown.mean)),
        ("bots-session", percent(study.left.bots_refused_by_session.mean)),
        ("acted", figure(study.left.acted.mean)),
        ("moments", format!("{} ({})", figure(study.left.moments.mean), range(&study.left.moments, figure))),
        ("memory", memory(study.memory)),
        ("attacks", lines(study, attacks)),
        ("business", lines(study, |row| business(row, &study.rows[0]))),
        ("attack-figures", lines(study, attack_figures)),
        ("business-figures", lines(study, business_figures)),
    ];
    filled.into_iter().fold(include_str!("page.html").to_owned(), |page, (name, value)| {
        page.replace(&format!("{{{{{name}}}}}"), &value)
    })
}

fn lines(study: &Study, line: impl Fn(&Row) -> String) -> String {
    study.rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A row of a chart, whose first cell says what is stored.
fn chart_row(row: &Row, cells: [String; 4]) -> String {
    let class = match row.method {
        method if method.is_recommended() => " class=\"best\"",
        method if method.begins_ipveil() => " class=\"begins\"",
        _ => "",
    };
    let note = row.method.note();
    format!("<tr{class}><th scope=\"row\">{} <small>{note}</small></th>{}</tr>", row.method.name(), cells.concat())
}

fn attacks(row: &Row) -> String {
    chart_row(
        row,
        row.attacks().map(|(_, attack)| {
            let auc = &attack.auc;
            // From a coin toss, where bars begin.
            let at = |auc: f64| ((auc - 0.5) * 2.0).clamp(0.0, 1.0);
            let is_toss = auc.mean < 0.55;
            let word = if is_toss { "coin toss" } else { "" };
            let bar = bar(at(auc.mean), Some((at(auc.min), at(auc.max))));
            let class = if is_toss { "good" } else { "bad" };
            format!(
                "<td class=\"{class}\">{bar}<strong>{}</strong> {word}<small>{}</small></td>",
                figure(auc.mean),
                range(auc, figure).replace(" to ", "–"),
            )
        }),
    )
}

fn business(row: &Row, raw: &Row) -> String {
    let cell = |found: Option<f64>, raw: Option<f64>, write: fn(f64) -> String| {
        let Some(found) = found else {
            return format!("<td class=\"bad\">{}<strong>none</strong></td>", bar(1.0, None));
        };
        let is_as_good = raw.is_some_and(|raw| (found - raw).abs() < 0.01 || found.abs() < raw.abs());
        let class = if is_as_good { "good" } else { "bad" };
        format!("<td class=\"{class}\">{}<strong>{}</strong></td>", bar(found.abs().min(1.0), None), write(found))
    };
    chart_row(
        row,
        [
            cell(Some(row.visitors.mean), Some(raw.visitors.mean), points),
            cell(Some(row.bots()), Some(raw.bots()), points),
            cell(Some(row.sessions.mean), Some(raw.sessions.mean), percent),
            cell(row.countries.map(|off| off.mean), raw.countries.map(|off| off.mean), percent),
        ],
    )
}

/// Figures stand beside it, so it need not be read out.
fn bar(value: f64, spread: Option<(f64, f64)>) -> String {
    let width = value * 100.0;
    let spread = spread.map_or(String::new(), |(min, max)| {
        let (min, max) = (min * 100.0, max * 100.0);
        format!("<path class=\"spread\" d=\"M{min:.1} 5H{max:.1}\"/>")
    });
    format!(
        "<svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <rect class=\"track\" width=\"100\" height=\"10\"/>\
         <rect class=\"bar\" width=\"{width:.1}\" height=\"10\"/>{spread}</svg>"
    )
}

fn attack_figures(row: &Row) -> String {
    let with = |spread: &Spread, write: fn(f64) -> String| {
        format!("{} <small>{}</small>", write(spread.mean), range(spread, write))
    };
    let line = |(name, attack): (&str, &Attack)| {
        let precision = attack.precision.as_ref().map_or("none".to_owned(), |precision| with(precision, percent));
        format!(
            "<tr><th scope=\"row\">{}</th><td>{name}</td><td>{}</td><td>{}</td><td>{precision}</td></tr>",
            row.method.name(),
            with(&attack.auc, |auc| format!("{auc:.3}")),
            with(&attack.recall, percent),
        )
    };
    row.attacks().map(line).join("\n")
}

fn business_figures(row: &Row) -> String {
    let cell = |spread: &Spread, write: fn(f64) -> String| {
        format!("<td>{} <small>{}</small></td>", write(spread.mean), range(spread, write))
    };
    format!(
        "<tr><th scope=\"row\">{}</th>{}{}{}{}{}{}</tr>",
        row.method.name(),
        cell(&row.visitors, points),
        cell(&row.bots_refused, percent),
        cell(&row.people_refused, percent),
        cell(&row.sessions, percent),
        cell(&row.sessions_unknown, percent),
        row.countries.as_ref().map_or("<td>none</td>".to_owned(), |off| cell(off, percent)),
    )
}
