//! Of which day a log line is.

use std::fmt;

/// A day, as far as a line names it: syslog's has no year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Day {
    year: u16,
    month: u8,
    day: u8,
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

impl Day {
    /// The first date in a line: `[25/Nov/2026:`, `2026-11-25T`, `2026/11/25 `, or `Nov 25 ` at its beginning, as in the common
    /// and combined formats, RFC 3339 (also inside JSON), nginx's error log and syslog.
    pub(crate) fn of(line: &[u8]) -> Option<Self> {
        Self::syslog(line).or_else(|| (0..line.len()).find_map(|at| Self::at(line, at)))
    }

    /// The date of the last line that has one.
    pub(crate) fn last_in(text: &[u8]) -> Option<Self> {
        text.rsplit(|&byte| byte == b'\n').find_map(Self::of)
    }

    fn at(line: &[u8], at: usize) -> Option<Self> {
        let is_free = at == 0 || !line[at - 1].is_ascii_alphanumeric();
        match line[at..] {
            [a, b, b'/', m, o, n, b'/', y, e, r, s, b':', ..] if is_free => {
                Self::new(number(&[y, e, r, s])?, month(&[m, o, n])?, number(&[a, b])?)
            }
            [y, e, r, s, dash @ (b'-' | b'/'), m, n, other, d, f, after, ..]
                if is_free && dash == other && matches!(after, b'T' | b't' | b' ') =>
            {
                Self::new(number(&[y, e, r, s])?, number(&[m, n])? as u8, number(&[d, f])?)
            }
            _ => None,
        }
    }

    /// RFC 3164, 4.1.2, also after a priority in angle brackets.
    fn syslog(line: &[u8]) -> Option<Self> {
        let line = match line.iter().take(6).position(|&byte| byte == b'>') {
            Some(end) if line.first() == Some(&b'<') => &line[end + 1..],
            _ => line,
        };
        match *line {
            [m, o, n, b' ', d, f, b' ', ..] => {
                let tens = if d == b' ' { b'0' } else { d };
                Self::new(0, month(&[m, o, n])?, number(&[tens, f])?)
            }
            _ => None,
        }
    }

    fn new(year: u16, month: u8, day: u16) -> Option<Self> {
        let fits = (1..=12).contains(&month) && (1..=31).contains(&day);
        fits.then_some(Self { year, month, day: day as u8 })
    }
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
        ] {
            assert_eq!(Day::of(line.as_bytes()).map(|day| day.to_string()).as_deref(), Some(day), "{line}");
        }
        for line in ["", "nothing", "2026-13-25T", "2026-11-32T", "12026-11-25T", "2026-11-25", "99/Xyz/2026:"] {
            assert_eq!(Day::of(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn the_last_day_is_that_of_the_last_line_that_has_one() {
        let text = b"2026-11-24T1\n2026-11-25T1\n  at main.rs\n";
        assert_eq!(Day::last_in(text), Day::new(2026, 11, 25));
        assert_eq!(Day::last_in(b"nothing\n"), None);
    }
}
