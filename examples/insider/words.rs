//! Numbers as they are read.

use crate::{score::Spread, world::DAYS};

pub(crate) fn figure(number: f64) -> String {
    format!("{number:.2}")
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A difference: with its sign, unless it is none.
pub(crate) fn points(share: f64) -> String {
    let rounded = (share * 1_000.0).round() / 10.0;
    let text = match rounded {
        0.0 => "0 %".to_owned(),
        _ if rounded.abs() >= 100.0 => format!("{rounded:+.0} %"),
        _ => format!("{rounded:+.1} %"),
    };
    text.replace('-', "−")
}

pub(crate) fn range(spread: &Spread, write: fn(f64) -> String) -> String {
    let (min, max) = (write(spread.min), write(spread.max));
    if min == max { "each time".to_owned() } else { format!("{} to {max}", min.trim_end_matches(" %")) }
}

/// With commas.
pub(crate) fn amount(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect();
    groups.join(",")
}

/// What a search of the memory came to.
pub(crate) fn memory(found: Option<(usize, u64)>) -> String {
    match found {
        Some((keys, bytes)) => format!("{keys} of {DAYS} destroyed keys in {} MB of memory", bytes / 1_000_000),
        None => "that memory can’t be read on this system".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([amount(7), amount(1_234), amount(1_234_567)], ["7", "1,234", "1,234,567"]);
        assert_eq!(
            [points(0.1804), points(-0.08), points(0.0001), points(3.528)],
            ["+18.0 %", "−8.0 %", "0 %", "+353 %"]
        );
    }
}
