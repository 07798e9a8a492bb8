//! What an audit reports.

use std::{collections::BTreeSet, process::Output};

use serde_json::Value;

use crate::program::{ipveil, text};

#[track_caller]
pub(crate) fn audit(arguments: &[&str]) -> Output {
    ipveil().arg("audit").args(arguments).output().unwrap()
}

/// The report, and the exit code.
#[track_caller]
pub(crate) fn report(arguments: &[&str]) -> (Value, i32) {
    let output = audit(&[&["--json"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    (report, output.status.code().unwrap())
}

pub(crate) fn forms(report: &Value, list: &str) -> BTreeSet<String> {
    report[list].as_array().unwrap().iter().map(|find| find["form"].as_str().unwrap().to_owned()).collect()
}
