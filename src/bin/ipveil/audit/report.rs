//! What an audit tells: what was sent, where it turned up, and what that is good for.
//!
//! Of what was searched nothing is shown but the place, and of addresses only those that the audit made up itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
};

use serde_json::{Value, json};

use super::{
    canary::Canary,
    forms::Form,
    search::{Find, Place},
};

/// All of it.
pub(crate) struct Report {
    pub(crate) canaries: Vec<Canary>,
    /// Or else the user knows them, and they are not shown.
    pub(crate) are_made_up: bool,
    /// Of the target: how many of each kind, and none at all.
    pub(crate) answers: BTreeMap<Answer, u64>,
    pub(crate) searched: Vec<Searched>,
    pub(crate) trouble: Vec<String>,
}

/// A text that was searched, or several that belong together.
pub(crate) struct Searched {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// Places are addresses in memory.
    pub(crate) is_memory: bool,
    pub(crate) finds: Vec<Find>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    Status(u16),
    Closed,
    Unreachable,
}

impl Answer {
    /// The request went through; also to an application that has no such page, or wants it otherwise.
    pub(crate) fn is_served(self) -> bool {
        matches!(self, Self::Status(200..=399 | 404 | 405 | 410))
    }
}

impl Report {
    pub(crate) fn has_findings(&self) -> bool {
        self.finds(false).next().is_some()
    }

    /// Those that count, or those that chance explains.
    fn finds(&self, possible: bool) -> impl Iterator<Item = (&Searched, &Find)> {
        let all = self.searched.iter().flat_map(|searched| searched.finds.iter().map(move |find| (searched, find)));
        all.filter(move |(_, find)| find.is_possible == possible)
    }

    fn name_of(&self, canary: usize) -> String {
        let Canary { address, path } = &self.canaries[canary];
        if self.are_made_up { format!("{address}, sent as {path}") } else { path.clone() }
    }

    pub(crate) fn human(&self) -> String {
        let mut text = String::new();
        self.write_human(&mut text).expect("a string takes everything");
        text
    }

    fn write_human(&self, out: &mut String) -> fmt::Result {
        if self.are_made_up {
            let paths: BTreeSet<_> = self.canaries.iter().map(|canary| &canary.path).collect();
            writeln!(out, "sent      {} addresses by {} paths", self.canaries.len(), paths.len())?;
            let answers: Vec<_> = self.answers.iter().map(|(answer, count)| format!("{count} {answer}")).collect();
            writeln!(out, "answers   {}", answers.join(", "))?;
        }
        let bytes: u64 = self.searched.iter().map(|searched| searched.bytes).sum();
        let many = if self.searched.len() == 1 { "place" } else { "places" };
        writeln!(out, "searched  {} {many}, {:.1} MB", self.searched.len(), bytes as f64 / 1e6)?;

        // One line for each form in each place: what leaks one header, leaks a hundred.
        type Group<'r> = Vec<(&'r Searched, &'r Find)>;
        let mut groups: BTreeMap<(&str, Form), Group<'_>> = BTreeMap::new();
        for (searched, find) in self.finds(false) {
            groups.entry((&searched.name, find.form)).or_default().push((searched, find));
        }
        if groups.is_empty() {
            let limits = if self.trouble.is_empty() { "" } else { " in what could be searched" };
            writeln!(out, "found     nothing{limits}")?;
        }
        let mut allowed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for ((name, form), finds) in &groups {
            let count: u64 = finds.iter().map(|(_, find)| find.seen.count).sum();
            let first = finds.iter().min_by_key(|(_, find)| find.seen.places.first());
            let Some((searched, find)) = first else { continue };
            let Some(place) = find.seen.places.first() else { continue };
            let more = if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
            writeln!(out, "found     {}: {form}{more}", shown(searched, place))?;
            const FEW: usize = 4;
            for (_, find) in finds.iter().take(FEW) {
                writeln!(out, "            {}", self.name_of(find.canary))?;
            }
            if finds.len() > FEW {
                let rest = finds.len() - FEW;
                writeln!(out, "            and {rest} {}", if rest == 1 { "other" } else { "others" })?;
            }
            allowed.entry(form.allows()).or_default().insert(name);
        }
        for (allowed, names) in allowed {
            let names: Vec<_> = names.into_iter().collect();
            writeln!(out, "insider   with {}: {allowed}", names.join(", "))?;
        }
        let mut possible: BTreeMap<&str, u64> = BTreeMap::new();
        for (searched, find) in self.finds(true) {
            *possible.entry(&searched.name).or_default() += find.seen.count;
        }
        for (name, count) in possible {
            writeln!(out, "possible  {name}: {count} values of 32 bits, as many as chance explains")?;
        }
        for trouble in &self.trouble {
            writeln!(out, "trouble   {trouble}")?;
        }
        Ok(())
    }

    pub(crate) fn json(&self) -> Value {
        let canary = |number: usize| {
            let Canary { address, path } = &self.canaries[number];
            match self.are_made_up {
                true => json!({"address": address.to_string(), "path": path}),
                false => json!({"number": number + 1}),
            }
        };
        let find = |(searched, find): (&Searched, &Find)| {
            let place = |place: &Place| {
                let line = place.line.filter(|_| !searched.is_memory);
                json!({"offset": place.offset, "line": line, "part": place.part.as_deref()})
            };
            let places: Vec<_> = find.seen.places.iter().map(place).collect();
            json!({
                "in": searched.name,
                "form": find.form.to_string(),
                "canary": canary(find.canary),
                "count": find.seen.count,
                "places": places,
                "insider": find.form.allows(),
            })
        };
        let answers: BTreeMap<_, _> = self.answers.iter().map(|(answer, count)| (answer.to_string(), count)).collect();
        let searched = |searched: &Searched| json!({"name": searched.name, "bytes": searched.bytes});
        json!({
            "sent": if self.are_made_up { (0..self.canaries.len()).map(canary).collect() } else { Vec::new() },
            "answers": answers,
            "searched": self.searched.iter().map(searched).collect::<Vec<_>>(),
            "findings": self.finds(false).map(find).collect::<Vec<_>>(),
            "possible": self.finds(true).map(find).collect::<Vec<_>>(),
            "trouble": self.trouble,
        })
    }

    /// A case for each path, and one more for trouble.
    pub(crate) fn junit(&self) -> String {
        let mut cases: Vec<(&str, Vec<String>)> = Vec::new();
        let mut numbers = BTreeMap::new();
        for canary in &self.canaries {
            numbers.entry(canary.path.as_str()).or_insert_with(|| {
                cases.push((&canary.path, Vec::new()));
                cases.len() - 1
            });
        }
        for (searched, find) in self.finds(false) {
            let path = self.canaries[find.canary].path.as_str();
            for place in &find.seen.places {
                cases[numbers[path]].1.push(format!("{}: {}", shown(searched, place), find.form));
            }
        }
        let failures = cases.iter().filter(|(_, failures)| !failures.is_empty()).count();
        let errors = usize::from(!self.trouble.is_empty());
        let tests = cases.len() + errors;
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let counts = format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\"");
        let mut write = || -> fmt::Result {
            writeln!(out, "<testsuites {counts}>")?;
            writeln!(out, "<testsuite name=\"ipveil audit\" {counts}>")?;
            for (path, failures) in &cases {
                write!(out, "<testcase classname=\"ipveil.audit\" name=\"{}\"", escaped(path))?;
                match failures.as_slice() {
                    [] => writeln!(out, "/>")?,
                    failures => {
                        let text = escaped(&failures.join("\n"));
                        writeln!(
                            out,
                            "><failure message=\"the client's address was found\">{text}</failure></testcase>"
                        )?;
                    }
                }
            }
            if !self.trouble.is_empty() {
                let text = escaped(&self.trouble.join("\n"));
                write!(out, "<testcase classname=\"ipveil.audit\" name=\"everything could be searched\">")?;
                writeln!(out, "<error message=\"something could not\">{text}</error></testcase>")?;
            }
            writeln!(out, "</testsuite>\n</testsuites>")
        };
        write().expect("a string takes everything");
        out
    }
}

fn shown(searched: &Searched, place: &Place) -> String {
    let name = &searched.name;
    let part = place.part.as_ref().map_or_else(String::new, |part| format!(", {part}"));
    match place.line {
        _ if searched.is_memory => format!("{name}{part}, at {:#x}", place.offset),
        Some(line) => format!("{name}{part}, line {line}"),
        None => format!("{name}{part}, offset {}", place.offset),
    }
}

/// For XML, which has no control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push('\n'),
            character if character.is_control() || matches!(character, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            character => out.push(character),
        }
    }
    out
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "with status {status}"),
            Self::Closed => f.write_str("closed without one"),
            Self::Unreachable => f.write_str("not reached"),
        }
    }
}
