//! Where in a configuration file something is.

use std::{ops::Range, path::Path};

use anyhow::anyhow;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Key, check::Wrong};

pub(super) struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text }
    }

    /// What the parser says, without the line that it would show.
    pub(super) fn error(&self, error: &toml::de::Error) -> anyhow::Error {
        let key = error.span().map(|span| self.key_at(&span)).unwrap_or_default();
        self.at(error.span(), &key, &expected(error.message()))
    }

    /// What turned out to be wrong when it was put to use: the error begins with the key.
    pub(super) fn late(&self, Key(key): &Key, error: &anyhow::Error) -> anyhow::Error {
        let (path, line) = (self.path.display(), self.line(self.span_of(key)));
        anyhow!("{path}{line}: {error:#}")
    }

    pub(super) fn wrong(&self, Wrong { key, what }: &Wrong) -> anyhow::Error {
        self.at(self.span_of(key), key, what)
    }

    fn at(&self, span: Option<Range<usize>>, key: &[String], what: &str) -> anyhow::Error {
        let (path, line) = (self.path.display(), self.line(span));
        let key = if key.is_empty() { String::new() } else { format!(" {}:", key.join(".")) };
        let what = what.trim_end().replace('\n', "; ");
        anyhow!("{path}{line}:{key} {what}")
    }

    fn line(&self, span: Option<Range<usize>>) -> String {
        let line = span.and_then(|span| self.text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        line.map(|line| format!(":{line}")).unwrap_or_default()
    }

    /// The nearest that is there: what lacks is reported at what should hold it.
    fn span_of(&self, key: &[String]) -> Option<Range<usize>> {
        let table = DeTable::parse(self.text).ok()?;
        let mut found = None;
        let mut value: Option<&DeValue<'_>> = None;
        for part in key {
            let next = match value {
                None => table.get_ref().iter().find(|(name, _)| name.get_ref() == part).map(|(_, value)| value),
                Some(DeValue::Table(table)) => {
                    table.iter().find(|(name, _)| name.get_ref() == part).map(|(_, value)| value)
                }
                Some(DeValue::Array(array)) => part.parse().ok().and_then(|index: usize| array.get(index)),
                Some(_) => None,
            };
            let Some(next) = next else { break };
            found = Some(next.span());
            value = Some(next.get_ref());
        }
        found
    }

    /// The keys down to the innermost value around a place.
    fn key_at(&self, place: &Range<usize>) -> Vec<String> {
        let table = DeTable::parse(self.text).ok();
        table.and_then(|table| in_table(table.get_ref(), place)).unwrap_or_default()
    }
}

// A table of its own is around its header only, so every one is looked into.
fn in_table(table: &DeTable<'_>, place: &Range<usize>) -> Option<Vec<String>> {
    table.iter().find_map(|(name, value)| {
        in_value(name.get_ref(), value, place)
            .or_else(|| is_around(&name.span(), place).then(|| vec![name.get_ref().to_string()]))
    })
}

fn in_value(name: &str, value: &Spanned<DeValue<'_>>, place: &Range<usize>) -> Option<Vec<String>> {
    let within = match value.get_ref() {
        DeValue::Table(table) => in_table(table, place),
        DeValue::Array(array) => {
            array.iter().enumerate().find_map(|(index, value)| in_value(&index.to_string(), value, place))
        }
        _ => None,
    };
    let within = within.or_else(|| is_around(&value.span(), place).then(Vec::new))?;
    Some(std::iter::once(name.to_owned()).chain(within).collect())
}

fn is_around(span: &Range<usize>, place: &Range<usize>) -> bool {
    span.start <= place.start && place.end <= span.end
}

/// What serde says, without the value that it quotes.
fn expected(message: &str) -> String {
    let is_quoting = |what: &&str| message.starts_with(what);
    match message.rsplit_once(", expected ") {
        Some((_, expected)) if message.starts_with("unknown field") => format!("unknown key (expected {expected})"),
        Some((_, expected)) if ["invalid ", "unknown "].iter().any(is_quoting) => format!("expected {expected}"),
        _ => message.to_owned(),
    }
}
