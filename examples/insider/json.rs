//! The results for programs.

use serde_json::{Value, json};

use crate::{
    score::Spread,
    study::{Attack, Row, Study},
};

pub(crate) fn json(study: &Study) -> Value {
    json!({
        "seeds": study.seeds,
        "requests": study.requests,
        "bot_requests": study.bot_requests,
        "accounts": study.accounts,
        "questions": { "pairs": study.pairs, "addresses": study.sightings },
        "methods": study.rows.iter().map(row).collect::<Vec<_>>(),
        "memory": study.memory.map(|(keys, bytes)| json!({ "destroyed_keys": keys, "bytes": bytes })),
        "left": {
            "acting_as_the_user_auc": spread(&study.left.acted),
            "moments_auc": spread(&study.left.moments),
            "bots_refused_by_session": spread(&study.left.bots_refused_by_session),
        },
    })
}

fn row(row: &Row) -> Value {
    let attacks = row.attacks().map(|(name, attack)| (name.replace(' ', "_"), self::attack(attack)));
    json!({
        "name": row.method.name(),
        "is_ipveil": row.method.is_ipveil(),
        "attacks": Value::Object(attacks.into_iter().collect()),
        "errors": {
            "visitors": spread(&row.visitors),
            "bots": row.bots(),
            "sessions": spread(&row.sessions),
            "countries": row.countries.as_ref().map(spread),
        },
        "bots_refused": spread(&row.bots_refused),
        "bots_refused_at_best": spread(&row.bots_refused_at_best),
        "people_refused": spread(&row.people_refused),
        "sessions_not_comparable": spread(&row.sessions_unknown),
    })
}

fn attack(attack: &Attack) -> Value {
    json!({
        "auc": spread(&attack.auc),
        "recall": spread(&attack.recall),
        "precision": attack.precision.as_ref().map(spread),
    })
}

fn spread(spread: &Spread) -> Value {
    json!({ "mean": spread.mean, "min": spread.min, "max": spread.max })
}
