//! An access log, the same every time, and where the addresses are in it.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
};

/// A log, and what of it is an address.
pub(crate) struct Log {
    /// The lines.
    pub(crate) text: Vec<u8>,
    /// Where the addresses are, from the beginning of the text.
    pub(crate) truth: Vec<Range<usize>>,
}

/// At least so many bytes: mostly lines in the combined format, some of error logs and of a firewall, with a third of the
/// clients on IPv6, and with much that looks like an address: versions, times, MAC addresses, paths, identifiers.
pub(crate) fn lines(bytes: usize) -> Log {
    let mut random = Random(0x5eed_0123_4567_89ab);
    let mut log = Log { text: Vec::with_capacity(bytes + 1024), truth: Vec::new() };
    let mut seconds = 0;
    let mut line = Line::default();
    while log.text.len() < bytes {
        line.text.clear();
        line.truth.clear();
        seconds += random.below(3);
        write_line(&mut line, &mut random, seconds);
        let start = log.text.len();
        log.truth.extend(line.truth.iter().map(|place| start + place.start..start + place.end));
        log.text.extend_from_slice(line.text.as_bytes());
        log.text.push(b'\n');
    }
    log
}

#[derive(Default)]
struct Line {
    text: String,
    truth: Vec<Range<usize>>,
}

impl Line {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn address(&mut self, address: &str) {
        let start = self.text.len();
        self.text.push_str(address);
        self.truth.push(start..self.text.len());
    }
}

/// Xorshift: all that matters is that it is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn of<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.below(texts.len() as u64) as usize]
    }
}

fn v4(number: u64) -> String {
    let mut random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    random.next();
    let mut octet = |from: u64, to: u64| (from + random.below(to - from)) as u8;
    Ipv4Addr::new(octet(1, 224), octet(0, 256), octet(0, 256), octet(1, 255)).to_string()
}

fn v6(number: u64) -> String {
    let mut random = Random((number + 77).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    random.next();
    let prefix = [0x2001_0db8_u128, 0x2a02_8108, 0x2600_1700, 0x2003_00e4, 0xfd12_3456][random.below(5) as usize] << 96;
    let low = u128::from(random.next() & 0xffff) + 1;
    match random.below(8) {
        0 => Ipv6Addr::from(prefix | low).to_string(),
        1 => Ipv6Addr::from(prefix | u128::from(random.next() & 0xffff) << 80 | low).to_string(),
        2 => format!("::ffff:{}", v4(number)),
        3 => Ipv6Addr::from(prefix | u128::from(random.next()) << 48 | low).to_string().to_uppercase(),
        _ => {
            let rest = u128::from(random.next()) << 48 | u128::from(random.next());
            Ipv6Addr::from(prefix | rest & (u128::MAX >> 32)).to_string()
        }
    }
}

const AGENTS: [&str; 7] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.3595.53",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "python-requests/2.32.5",
    "curl/8.17.0",
];

const PATHS: [&str; 9] = [
    "/",
    "/index.html?id=",
    "/api/v1/items/",
    "/static/js/app.3f9a1c.js?v=1.2.300.",
    "/search?q=std::vector+",
    "/oid/1.3.6.1.4.1.311.",
    "/at/12:34:56/",
    "/id/550e8400-e29b-41d4-a716-446655440000/",
    "/go?to=https%3A%2F%2Fexample.com%2F",
];

fn write_line(line: &mut Line, random: &mut Random, seconds: u64) {
    // Few clients come often, many seldom.
    let skewed = random.below(1 << 20);
    let number = (skewed * skewed) >> 24;
    let client = if random.below(100) < 65 { v4(number) } else { v6(number) };
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let time = format!("{hour:02}:{minute:02}:{second:02}");
    match random.below(100) {
        0..2 => {
            line.push(&format!(
                "2026/11/25 {time} [error] 1234#1234: *{} connect() failed, client: ",
                random.below(100_000)
            ));
            line.address(&client);
            line.push(", server: example.com, upstream: \"http://");
            line.address(&v4(random.below(16)));
            line.push(":8080/\"");
        }
        2..4 => {
            line.push(&format!(
                "Nov 25 {time} gw kernel: [{}.{:06}] IN=eth0 OUT= MAC=",
                random.below(100_000),
                random.below(1_000_000)
            ));
            for place in 0..14 {
                let _ = write!(line.text, "{}{:02x}", if place == 0 { "" } else { ":" }, random.below(256));
            }
            line.push(" SRC=");
            line.address(&client);
            line.push(" DST=");
            line.address(&v4(7));
            line.push(" LEN=60 TTL=52 PROTO=TCP");
        }
        _ => {
            line.address(&client);
            line.push(&format!(" - - [25/Nov/2026:{time} +0000] \"GET {}{}", random.of(&PATHS), random.below(100_000)));
            if random.below(100) == 0 {
                line.push("/lookup/");
                line.address(&v4(random.below(5000)));
            }
            line.push(&format!(
                " HTTP/1.1\" {} {} \"",
                random.of(&["200", "304", "404", "500"]),
                random.below(100_000)
            ));
            match random.below(20) {
                0 => {
                    line.push("http://");
                    line.address(&v4(9));
                    line.push("/a");
                }
                1 => {
                    line.push("http://[");
                    line.address(&v6(9));
                    line.push("]:8080/b");
                }
                2..9 => line.push("https://www.example.com/page"),
                _ => line.push("-"),
            }
            line.push(&format!("\" \"{}\" \"", random.of(&AGENTS)));
            if random.below(10) < 3 {
                line.address(&client);
                line.push(", ");
                line.address(&format!("10.0.{}.{}", random.below(4), 1 + random.below(250)));
                line.push("\"");
            } else {
                line.push("-\"");
            }
        }
    }
}
