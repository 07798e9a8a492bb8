//! What other projects find and replace, and where ipveil differs for a reason.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::scrubber::word;

/// Cases where ipveil finds something else than the project says, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("go-003", PADDED),
    ("go-041", UNCLEAR),
    ("go-062", ZONE),
    ("go-063", ZONE),
    ("go-066", PADDED),
    ("go-067", PADDED),
    ("py-070", UNCLEAR),
    ("py-071", UNCLEAR),
    ("py-072", UNCLEAR),
    ("py-079", UNCLEAR),
    ("py-080", UNCLEAR),
    ("py-081", UNCLEAR),
    ("py-088", UNCLEAR),
    ("py-128", UNCLEAR),
    ("py-132", UNCLEAR),
    ("whatwg-007", NUMBER),
    ("whatwg-012", NUMBER),
    ("whatwg-015", NUMBER),
    ("whatwg-027", "the dot behind it stays"),
    ("whatwg-030", NUMBER),
    ("whatwg-032", NUMBER),
    ("whatwg-060", PADDED),
    ("whatwg-062", PADDED),
    ("whatwg-063", PADDED),
];

const PADDED: &str = "logs pad octets with zeros, and whoever reads them knows the address";
const UNCLEAR: &str = "too much like an address to be left there";
const ZONE: &str = "net.ParseIP knows no zones";
const NUMBER: &str = "browsers take it for an address; in a log it would be every number";

#[track_caller]
fn cases(file: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(file).unwrap();
    file["cases"].as_array().unwrap().clone()
}

#[test]
fn literals_of_other_projects_are_found() {
    let mut unexplained = Vec::new();
    let mut different: BTreeMap<_, _> = DIFFERENT.iter().copied().collect();
    for file in [
        include_str!("../vectors/ipliteral-cpython.json"),
        include_str!("../vectors/ipliteral-go.json"),
        include_str!("../vectors/ipliteral-whatwg.json"),
    ] {
        for case in cases(file) {
            let text = case["text"].as_str().unwrap();
            let scrubbed = word().scrub_str(text).into_owned();
            let is_found = ["(ip)", "[(ip)]", "[(ip)]:80"].contains(&scrubbed.as_str());
            // Nobody's, so there is nothing to find.
            let is_nobodys = case["canonical"].as_str().is_some_and(|canonical| ["0.0.0.0", "::"].contains(&canonical));
            let is_expected = is_found == (case["valid"].as_bool().unwrap() && !is_nobodys);
            let id = case["id"].as_str().unwrap();
            if !is_expected && different.remove(id).is_none() {
                unexplained.push(format!("(\"{id}\", \"{text} became {scrubbed}\"),"));
            }
        }
    }
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
    assert!(different.is_empty(), "these are as expected: {different:?}");
}

/// Lines where ipveil replaces something else than the project does, and why.
const DIFFERENT_LINES: &[(&str, &str)] = &[
    ("anonip-037", COLUMN),
    ("anonip-038", COLUMN),
    ("anonip-043", "white space stays"),
    ("anonip-049", COLUMN),
    ("mmanon-020", NOBODY),
    ("mmanon-024", "all groups before the quad are an address, too"),
    ("mmanon-025", NOBODY),
    ("mmanon-034", NAME),
    ("mmanon-044", NOBODY),
    ("mmanon-045", MORE),
    ("mmanon-064", NOBODY),
    ("mmanon-065", NOBODY),
    ("mmanon-071", NAME),
    ("mmanon-073", "no part of a longer text is cut out"),
    ("mmanon-074", NAME),
    ("mmanon-076", NAME),
    ("mmanon-078", NOBODY),
    ("mmanon-079", SHAPE),
    ("mmanon-080", SHAPE),
    ("mmanon-082", SHAPE),
    ("mmanon-083", SHAPE),
    ("mmanon-084", SHAPE),
    ("mmanon-086", SHAPE),
    ("mmanon-088", SHAPE),
    ("mmanon-089", SHAPE),
    ("mmanon-090", NOBODY),
    ("mmanon-092", SHAPE),
    ("mmanon-094", SHAPE),
    ("mmanon-095", SHAPE),
    ("mmanon-096", SHAPE),
    ("mmanon-103", "a number of four digits is no octet"),
    ("mmanon-105", SHAPE),
    ("mmanon-106", SHAPE),
    ("mmanon-107", SHAPE),
    ("mmanon-108", NOBODY),
    ("mmanon-109", SHAPE),
    ("mmanon-126", NAME),
    ("mmanon-132", NOBODY),
    ("mmanon-138", NOBODY),
    ("mmanon-139", NOBODY),
    ("mmanon-146", NOBODY),
    ("mmanon-150", NOBODY),
    ("mmanon-156", NOBODY),
    ("mmanon-157", NOBODY),
    ("mmanon-159", NAME),
];

const COLUMN: &str = "a column that is no address is replaced there; here only addresses are";
const NOBODY: &str = "the unspecified address is nobody's";
const MORE: &str = "numbers that begin with 0, 1 or 2 are an object identifier";
const NAME: &str = "what stands before a colon is a name, where it is not like a group";
const SHAPE: &str = "an address is replaced whole, not by as many asterisks as it had digits";

#[test]
fn what_other_projects_replace_in_lines_is_replaced() {
    let mut unexplained = Vec::new();
    let mut different: BTreeMap<_, _> = DIFFERENT_LINES.iter().copied().collect();
    for file in [include_str!("../vectors/log-anonip.json"), include_str!("../vectors/log-rsyslog-mmanon.json")] {
        for case in cases(file) {
            let (input, expected) = (case["input"].as_str().unwrap(), case["expected"].as_str().unwrap());
            // What is all zeros is an address that was cut, not nobody's; what is left of it in asterisks, too.
            let expected = expected
                .replace("0:0:0:0:0:0:0.0.0.0", "(ip)")
                .replace("0:0:0:0:0:0:0:0", "(ip)")
                .replace("0.0.0.0", "(ip)");
            let (scrubbed, expected) = (word().scrub_str(input), word().scrub_str(&expected).into_owned());
            let id = case["id"].as_str().unwrap();
            if scrubbed != expected && different.remove(id).is_none() {
                unexplained.push(format!("(\"{id}\", \"{input:?} became {scrubbed:?}, not {expected:?}\"),"));
            }
        }
    }
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
    assert!(different.is_empty(), "these are as expected: {different:?}");
}
