//! Where in a configuration file something is.

use std::{ops::Range, path::Path};

use anyhow::anyhow;
use toml::de::{DeTable, DeValue};

use super::Wrong;

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
        let message = error.message();
        // A value that does not fit may be a secret in the wrong place. The name of a key is none.
        let is_about_value =
            ["invalid type", "invalid value", "unknown variant"].iter().any(|it| message.starts_with(it));
        let expected = message.rfind("expected ").filter(|_| is_about_value);
        let message = expected.map_or(message, |start| &message[start..]);
        let is_number = ["expected usize", "expected u64", "expected u32", "expected u8"].contains(&message);
        self.at(error.span(), &key, if is_number { "expected a whole number" } else { message })
    }

    /// What is wrong with a value that was used, if the outermost of what is said is its key.
    pub(super) fn found(&self, error: &anyhow::Error) -> anyhow::Error {
        let key: Vec<_> = error.to_string().split('.').map(str::to_owned).collect();
        match self.span_of(&key) {
            Some(span) => {
                let what: Vec<_> = error.chain().skip(1).map(ToString::to_string).collect();
                self.at(Some(span), &key, &what.join(": "))
            }
            None => anyhow!("{}: {error:#}", self.path.display()),
        }
    }

    pub(super) fn wrong(&self, Wrong { key, what }: &Wrong) -> anyhow::Error {
        self.at(self.span_of(key), key, what)
    }

    fn at(&self, span: Option<Range<usize>>, key: &[String], what: &str) -> anyhow::Error {
        let path = self.path.display();
        let line = span.and_then(|span| self.text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        let key = if key.is_empty() { String::new() } else { format!(" {}:", key.join(".")) };
        let what = what.trim_end().replace('\n', "; ");
        anyhow!("{path}{line}:{key} {what}")
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
        let Ok(table) = DeTable::parse(self.text) else {
            return Vec::new();
        };
        let mut keys = Vec::new();
        let mut here: Option<&DeValue<'_>> = None;
        loop {
            let is_around = |span: Range<usize>| span.start <= place.start && place.end <= span.end;
            let next = match here {
                None => in_table(table.get_ref(), is_around),
                Some(DeValue::Table(table)) => in_table(table, is_around),
                Some(DeValue::Array(array)) => array
                    .iter()
                    .enumerate()
                    .find(|(_, value)| is_around(value.span()))
                    .map(|(index, value)| (index.to_string(), value.get_ref())),
                Some(_) => None,
            };
            let Some((key, value)) = next else {
                // A table is where its name is; what is in it stands on lines of its own.
                keys.extend(self.key_on_line(place.start).filter(|key| keys.last() != Some(key)));
                return keys;
            };
            keys.push(key);
            here = Some(value);
        }
    }
}

impl Source<'_> {
    fn key_on_line(&self, place: usize) -> Option<String> {
        let start = self.text.get(..place)?.rfind('\n').map_or(0, |end| end + 1);
        let (key, _) = self.text[start..].lines().next()?.split_once('=')?;
        let key = key.trim();
        (!key.is_empty() && !key.starts_with('#')).then(|| key.to_owned())
    }
}

fn in_table<'t, 'i>(
    table: &'t DeTable<'i>,
    is_around: impl Fn(Range<usize>) -> bool,
) -> Option<(String, &'t DeValue<'i>)> {
    table
        .iter()
        .find(|(name, value)| is_around(name.span()) || is_around(value.span()))
        .map(|(name, value)| (name.get_ref().to_string(), value.get_ref()))
}
