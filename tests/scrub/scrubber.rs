//! Scrubbers for tests, and what they do with a line.

use std::borrow::Cow;

use ipveil::{
    KeyRing, Policy, Scrubber,
    keys::{Epochs, MemorySource},
    policy::{Scope, View},
};

pub(crate) fn word() -> Scrubber {
    Scrubber::word("(ip)").unwrap()
}

pub(crate) fn with(view: View) -> Scrubber {
    with_scope(Scope::unscoped(), view)
}

pub(crate) fn with_scope(scope: Scope, view: View) -> Scrubber {
    let name = view.name().to_owned();
    let keys = KeyRing::start(MemorySource, Epochs::daily()).unwrap();
    Scrubber::new(&Policy::new(scope, [view]).unwrap(), &name, keys).unwrap()
}

#[track_caller]
pub(crate) fn scrubbed(line: &str, expected: &str) {
    assert_eq!(word().scrub_str(line), expected, "from {line}");
}

#[track_caller]
pub(crate) fn stays(line: &str) {
    assert!(
        matches!(word().scrub_str(line), Cow::Borrowed(same) if same == line),
        "{line} became {}",
        word().scrub_str(line)
    );
}
