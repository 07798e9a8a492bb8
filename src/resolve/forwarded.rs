//! `Forwarded` (RFC 7239) and comma lists such as `X-Forwarded-For`, read from the right.
//!
//! What stands to the left of an element was there before the proxy that wrote the element, and may have been sent
//! by anybody. So nothing to the left has a say in where an element begins: a quote that a client left open can't
//! swallow what a trusted proxy put behind it.

use super::node::Node;

/// The elements of a comma list without quotes, from the right, without the white space around them.
#[inline]
pub(super) fn list_from_right(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let mut start = line.len();
        while start > 0 && line[start - 1] != b',' {
            start -= 1;
        }
        rest = line[..start].split_last().map(|(_, rest)| rest);
        Some(trim(&line[start..]))
    })
}

/// The elements of a `Forwarded` line, from the right.
///
/// A quoted string is entered by its closing quote, which only the writer of the element can have put there, and left
/// by its opening one. Where none opens, the rest of the line is one element, that no parser will accept.
pub(super) fn elements_from_right(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let comma = last_comma(line);
        rest = comma.map(|comma| &line[..comma]);
        Some(trim(&line[comma.map_or(0, |comma| comma + 1)..]))
    })
}

fn last_comma(line: &[u8]) -> Option<usize> {
    let mut end = line.len();
    loop {
        let place = line[..end].iter().rposition(|&byte| matches!(byte, b',' | b'"'))?;
        if line[place] == b',' {
            return Some(place);
        }
        // An escaped quote can't close a string, so this one was never opened where the line is sound.
        if is_escaped(line, place) {
            return None;
        }
        end = opening_quote(&line[..place])?;
    }
}

fn opening_quote(text: &[u8]) -> Option<usize> {
    let mut end = text.len();
    loop {
        let place = text[..end].iter().rposition(|&byte| byte == b'"')?;
        if !is_escaped(text, place) {
            return Some(place);
        }
        end = place;
    }
}

fn is_escaped(text: &[u8], place: usize) -> bool {
    let backslashes = text[..place].iter().rev().take_while(|&&byte| byte == b'\\').count();
    backslashes % 2 == 1
}

/// What a `Forwarded` element says of the hop before.
pub(super) fn parse_element(element: &[u8]) -> Node {
    let mut node = None;
    let mut rest = element;
    while !rest.is_empty() {
        let Some((name, value, after)) = parse_pair(rest) else {
            return Node::Malformed;
        };
        if name.eq_ignore_ascii_case(b"for") {
            // RFC 7239, 4: "Each parameter MUST NOT occur more than once per field-value."
            if node.is_some() {
                return Node::Malformed;
            }
            node = Some(Node::parse(value.as_bytes()));
        }
        rest = after;
    }
    // A hop that says nothing of its client.
    node.unwrap_or(Node::Hidden)
}

/// One `name=value`, and what follows its semicolon. Empty names for empty pairs.
fn parse_pair(text: &[u8]) -> Option<(&[u8], Value, &[u8])> {
    if let [b';', after @ ..] = text {
        return Some((b"", Value::EMPTY, trim(after)));
    }
    let equals = text.iter().position(|&byte| byte == b'=')?;
    let name = &text[..equals];
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        return None;
    }
    let (value, after) = match &text[equals + 1..] {
        [b'"', quoted @ ..] => parse_quoted(quoted)?,
        bare => {
            let end = bare.iter().position(|&byte| byte == b';').unwrap_or(bare.len());
            let (value, after) = bare.split_at(end);
            let value = trim_end(value);
            // More than a token: many senders leave out the quotes that RFC 7239 wants around colons and brackets.
            if value.is_empty() || !value.iter().all(|&byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
                return None;
            }
            (Value::of(value), after)
        }
    };
    match trim(after) {
        [] => Some((name, value, b"")),
        [b';', after @ ..] => Some((name, value, trim(after))),
        _ => None,
    }
}

// RFC 9110, 5.6.4.
fn parse_quoted(text: &[u8]) -> Option<(Value, &[u8])> {
    let mut value = Value::EMPTY;
    let mut bytes = text.iter();
    loop {
        match bytes.next()? {
            b'"' => return Some((value, bytes.as_slice())),
            b'\\' => match bytes.next()? {
                &escaped if escaped == b'\t' || escaped == b' ' || !escaped.is_ascii_control() => value.push(escaped),
                _ => return None,
            },
            &byte => value.push(byte),
        }
    }
}

/// An unquoted value, as much of it as an address can need; longer ones are no address.
struct Value {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

impl Value {
    // An address in brackets with a zone and a port, generously.
    const LONGEST: usize = 96;
    const EMPTY: Self = Self { bytes: [0; Self::LONGEST], length: 0 };

    fn of(text: &[u8]) -> Self {
        let mut value = Self::EMPTY;
        text.iter().for_each(|&byte| value.push(byte));
        value
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(b"too long")
    }
}

// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

// RFC 9110, 5.6.3: white space is spaces and tabs.
#[inline]
pub(super) fn trim(text: &[u8]) -> &[u8] {
    let mut text = text;
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    trim_end(text)
}

#[inline]
fn trim_end(text: &[u8]) -> &[u8] {
    let mut text = text;
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::addr::Canonical;

    fn address(text: &str) -> Node {
        Node::Address(Canonical::from(text.parse::<IpAddr>().unwrap()))
    }

    #[track_caller]
    fn elements(line: &str) -> Vec<&str> {
        elements_from_right(line.as_bytes()).map(|element| std::str::from_utf8(element).unwrap()).collect()
    }

    #[test]
    fn elements_end_at_commas_outside_quotes() {
        assert_eq!(elements("for=a, for=b,for=c"), ["for=c", "for=b", "for=a"]);
        assert_eq!(elements(r#"for="a, b", for=c"#), ["for=c", r#"for="a, b""#]);
        assert_eq!(elements(r#"x="a\", b", y="\\", z=1"#), ["z=1", r#"y="\\""#, r#"x="a\", b""#]);
        assert_eq!(elements(""), [""]);
        assert_eq!(elements(","), ["", ""]);
    }

    #[test]
    fn a_list_is_split_at_commas() {
        for (list, elements) in [
            ("a, b,c", &["c", "b", "a"][..]),
            (" a\t", &["a"]),
            ("", &[""]),
            (",", &["", ""]),
            ("a,,b ,", &["", "b", "", "a"]),
        ] {
            assert!(list_from_right(list.as_bytes()).eq(elements.iter().map(|element| element.as_bytes())), "{list}");
        }
    }

    #[test]
    fn an_open_quote_swallows_nothing_to_its_right() {
        assert_eq!(elements(r#"for="evil, for=203.0.113.7"#), ["for=203.0.113.7", r#"for="evil"#]);
        assert_eq!(
            elements(r#"for=", for="[2001:db8::1]", for=203.0.113.7"#),
            ["for=203.0.113.7", r#"for="[2001:db8::1]""#, r#"for=""#]
        );
    }

    #[test]
    fn what_an_element_says() {
        let v4 = address("203.0.113.7");
        let v6 = address("2001:db8::17");
        for (element, node) in [
            ("for=203.0.113.7", v4),
            ("For=203.0.113.7:80", v4),
            (r#"FOR="203.0.113.7""#, v4),
            (r#"for="203.0.113.\7""#, v4),
            (r#"for="[2001:db8::17]:4711""#, v6),
            ("for=[2001:db8::17]:4711", v6),
            (r#"for="2001:db8::17""#, v6),
            ("proto=https;for=203.0.113.7;by=203.0.113.43", v4),
            ("for=203.0.113.7; proto=https", v4),
            (";;for=203.0.113.7;", v4),
            (r#"host="a;b=\"c";for=203.0.113.7"#, v4),
            ("for=unknown", Node::Hidden),
            ("for=_hidden", Node::Hidden),
            (r#"for="_mdn""#, Node::Hidden),
            ("proto=https", Node::Hidden),
        ] {
            assert!(parse_element(element.as_bytes()) == node, "{element}");
        }
        for element in [
            "for",
            "for=",
            "=1.2.3.4",
            "1.2.3.4",
            r#"for="1.2.3.4"#,
            r#"for="1.2.3.4"x"#,
            "for=1.1.1.\\1",
            "for = 1.2.3.4",
            "for= 1.2.3.4",
            "for=1.2.3.4;for=5.6.7.8",
            "for=1.1.1.1;@!=x",
            r#"for="[1.1.1.1]""#,
            "for=1.2.3.4 5.6.7.8",
            "for=host",
            "for=1.2.3.4;x=\u{e9}",
        ] {
            assert!(parse_element(element.as_bytes()) == Node::Malformed, "{element}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(line: Vec<u8>) {
            for element in elements_from_right(&line) {
                parse_element(element);
            }
        }

        #[test]
        fn nothing_to_the_left_changes_what_was_appended(left in "[a-z=\"\\\\,;. ]{0,40}", quoted: bool) {
            let appended = if quoted { r#"for="[2001:db8::17]";host="x, \"y""# } else { "for=203.0.113.7" };
            let line = format!("{left}, {appended}");
            prop_assert_eq!(elements(&line)[0], appended);
        }

        #[test]
        fn sound_lines_are_split_as_from_the_left(
            line in proptest::collection::vec(r#"[a-z]{1,3}=([a-z]{1,3}|"([a-z,; ]|\\["\\a])*")"#, 1..6)
        ) {
            let mut from_right = elements(&line.join(","))
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>();
            from_right.reverse();
            prop_assert_eq!(from_right, line);
        }
    }
}
