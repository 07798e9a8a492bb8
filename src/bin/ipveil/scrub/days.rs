//! Of which day a log line is.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

/// A day, as far as a line names it: syslog's has no year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Day {
    year: u16,
    month: u8,
    day: u8,
    // By seconds since 1970, which any number may seem to be.
    is_counted: bool,
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

impl Day {
    /// The first date in a line, as in the common and combined formats, RFC 3339 (also inside JSON), the error logs of nginx and
    /// Apache, syslog, and others; where no line `before` had one, the first number that could be the seconds since 1970.
    ///
    /// Where the lines before had such a number it goes before a date, which is what a client has sent then.
    pub(crate) fn of(line: &[u8], before: Option<Self>) -> Option<Self> {
        let by_name = || Self::by_name(line);
        let day = match before {
            None => Self::of_epoch(first_word(line)).or_else(by_name).or_else(|| Self::counted(line)),
            Some(Self { is_counted: true, .. }) => Self::counted(line).or_else(by_name),
            Some(_) => by_name(),
        };
        day.or(before)
    }

    /// What the days of all lines come to.
    pub(crate) fn last_in(text: &[u8], before: Option<Self>) -> Option<Self> {
        // From the last line on whose day no line before it matters for.
        let mut from = text.len();
        for line in text.rsplit(|&byte| byte == b'\n') {
            from -= line.len();
            if Self::counted(line).is_none() && Self::by_name(line).is_some() {
                break;
            }
            from = from.saturating_sub(1);
        }
        text[from..].split(|&byte| byte == b'\n').fold(before, |before, line| Self::of(line, before))
    }

    fn counted(line: &[u8]) -> Option<Self> {
        line.split(|byte| !byte.is_ascii_alphanumeric()).find_map(Self::of_epoch)
    }

    fn by_name(line: &[u8]) -> Option<Self> {
        Self::at_start(line).or_else(|| (0..line.len()).find_map(|at| Self::at(line, at)))
    }

    fn at(line: &[u8], at: usize) -> Option<Self> {
        let is_free = at == 0 || !line[at - 1].is_ascii_alphanumeric();
        match line[at..] {
            [a, b, b'/', m, o, n, b'/', y, e, r, s, b':', ..] if is_free => {
                Self::new(number(&[y, e, r, s])?, month(&[m, o, n])?, number(&[a, b])?)
            }
            [y, e, r, s, dash @ (b'-' | b'/'), m, n, other, d, f, after, ..]
                if is_free && dash == other && matches!(after, b'T' | b't' | b' ' | b'\t' | b',' | b'_') =>
            {
                Self::new(number(&[y, e, r, s])?, number(&[m, n])? as u8, number(&[d, f])?)
            }
            // `20261125T`
            [y, e, r, s, m, n, d, f, b'T', ..] if is_free => {
                Self::new(number(&[y, e, r, s])?, number(&[m, n])? as u8, number(&[d, f])?)
            }
            // `25-Nov-2026`, `25 Nov 2026`
            [a, b, dash @ (b'-' | b' '), m, o, n, other, y, e, r, s, ..] if is_free && dash == other => {
                Self::new(number(&[y, e, r, s])?, month(&[m, o, n])?, number(&[a, b])?)
            }
            // `Wed Nov 25 12:`
            [m, o, n, b' ', d, f, b' ', _, _, b':', ..] if is_free => Self::without_year([m, o, n], d, f),
            // `11/25/2026`, where days may also come first.
            [m, n, b'/', d, f, b'/', y, e, r, s, after, ..] if is_free && !after.is_ascii_digit() => {
                let (month, day) = (number(&[m, n])?, number(&[d, f])?);
                let (month, day) = if month > 12 { (day, month) } else { (month, day) };
                Self::new(number(&[y, e, r, s])?, month as u8, day)
            }
            _ => None,
        }
    }

    fn without_year(name: [u8; 3], tens: u8, ones: u8) -> Option<Self> {
        let tens = if tens == b' ' { b'0' } else { tens };
        Self::new(0, month(&name)?, number(&[tens, ones])?)
    }

    /// Seconds since 1970, or thousandths of them, of this century.
    fn of_epoch(word: &[u8]) -> Option<Self> {
        let seconds: u64 = std::str::from_utf8(word.get(..10)?).ok()?.parse().ok()?;
        if !matches!(word.len(), 10 | 13 | 16) || !(1_000_000_000..4_000_000_000).contains(&seconds) {
            return None;
        }
        let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        let day = Self::at(date.as_bytes(), 0)?;
        Some(Self { is_counted: true, ..day })
    }

    /// RFC 3164, 4.1.2, also after a priority in angle brackets; and glog's `I1125 `.
    fn at_start(line: &[u8]) -> Option<Self> {
        let line = match line.iter().take(6).position(|&byte| byte == b'>') {
            Some(end) if line.first() == Some(&b'<') => &line[end + 1..],
            _ => line,
        };
        match *line {
            [m, o, n, b' ', d, f, b' ', ..] => Self::without_year([m, o, n], d, f),
            [b'D' | b'I' | b'W' | b'E' | b'F', m, n, d, f, b' ', ..] => {
                Self::new(0, number(&[m, n])? as u8, number(&[d, f])?)
            }
            _ => None,
        }
    }

    fn new(year: u16, month: u8, day: u16) -> Option<Self> {
        let fits = (1..=12).contains(&month) && (1..=31).contains(&day);
        fits.then_some(Self { year, month, day: day as u8, is_counted: false })
    }
}

fn first_word(line: &[u8]) -> &[u8] {
    line.split(|byte| !byte.is_ascii_alphanumeric()).next().unwrap_or_default()
}

fn month(name: &[u8; 3]) -> Option<u8> {
    let place = MONTHS.iter().position(|month| *month == name)?;
    u8::try_from(place + 1).ok()
}

fn number(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u16::from(digit - b'0')))
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_found_in_the_formats_of_common_logs() {
        for (line, day) in [
            ("203.0.113.7 - - [25/Nov/2026:12:34:56 +0000] \"GET / HTTP/1.1\"", "2026-11-25"),
            ("2026/11/25 12:34:56 [error] 1#1: client: 203.0.113.7", "2026-11-25"),
            ("2026-11-25T12:34:56.789Z INFO listening", "2026-11-25"),
            ("2026-11-25 12:34:56 INFO listening", "2026-11-25"),
            ("{\"level\":\"info\",\"time\":\"2026-11-25T12:34:56Z\"}", "2026-11-25"),
            ("Nov 25 12:34:56 gw kernel: x", "0000-11-25"),
            ("Nov  5 12:34:56 gw kernel: x", "0000-11-05"),
            ("<34>Nov  5 12:34:56 gw kernel: x", "0000-11-05"),
            ("<34>1 2026-11-25T12:34:56Z gw app - - -", "2026-11-25"),
            ("[Wed Nov 25 12:34:56.789 2026] [core:error] [pid 1]", "0000-11-25"),
            ("2026-11-25\t12:34:56\tFRA6", "2026-11-25"),
            ("2026-11-25,12:34:56", "2026-11-25"),
            ("25-Nov-2026 12:34:56.789 queries: info", "2026-11-25"),
            ("1:M 25 Nov 2026 12:34:56.789 * Ready", "2026-11-25"),
            ("I1125 12:34:56.789 1 main.go:1]", "0000-11-25"),
            ("20261125T123456Z x", "2026-11-25"),
            ("11/25/2026 12:34:56 x", "2026-11-25"),
            ("25/11/2026 12:34:56 x", "2026-11-25"),
            ("1795610096.789 1 203.0.113.7 TCP_MISS/200", "2026-11-25"),
            ("{\"ts\":1795610096.789,\"msg\":\"x\"}", "2026-11-25"),
            (
                "2 123456789010 eni-1 203.0.113.7 10.0.0.5 4711 22 6 20 4249 1795610096 1795610156 ACCEPT OK",
                "2026-11-25",
            ),
            ("1709164800 x", "2024-02-29"),
            ("1735689599999 x", "2024-12-31"),
        ] {
            assert_eq!(Day::of(line.as_bytes(), None).map(|day| day.to_string()).as_deref(), Some(day), "{line}");
        }
        for line in ["", "nothing", "2026-13-25T", "2026-11-32T", "12026-11-25T", "2026-11-25", "99/Xyz/2026:"] {
            assert_eq!(Day::of(line.as_bytes(), None), None, "{line}");
        }
    }

    #[test]
    fn the_last_day_is_that_of_the_last_line_that_has_one() {
        let text = b"2026-11-24T1\n2026-11-25T1\n  at main.rs\n";
        let day = Day::new(2026, 11, 25);
        assert_eq!(Day::last_in(text, None), day);
        assert_eq!(Day::last_in(b"nothing\n", day), day);
        assert_eq!(Day::last_in(b"nothing\n", None), None);
        // A number is a time only where no line says what day it is.
        assert_eq!(Day::of(b"  order 1234567890 failed", day), day);
        assert_eq!(Day::last_in(b"1234567890 x\n1795610096 x\nnothing\n", day), day);
        let counted = Day::last_in(b"1234567890 x\n1795610096 x\nnothing\n", None);
        assert_eq!(counted.map(|day| day.to_string()).as_deref(), Some("2026-11-25"));
        assert_eq!(Day::last_in(b"nothing\n", counted), counted);
        // A date that a client sends is none.
        let line = b"1795610096.789 1 203.0.113.7 TCP_MISS/200 http://example/2020-01-01T00:00 -";
        assert_eq!(Day::of(line, None), counted);
        assert_eq!(Day::of(b"{\"url\":\"/2020-01-01T\",\"ts\":1795610096}", counted), counted);
        assert_eq!(Day::last_in(line, None), counted);
        assert_eq!(Day::last_in(b"2026-11-24T1\n1795610096 x\n", counted), Day::new(2026, 11, 24));
    }
}
