//! Waiting for what happens in another thread or process.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn until<T>(what: &str, answer: impl FnMut() -> Option<T>) -> T {
    within(Duration::from_secs(30), what, answer)
}

/// Asks until there is an answer, which has to come within `time`, or ten times that: machines that run tests are busy.
#[track_caller]
pub(crate) fn within<T>(time: Duration, what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    // Most answers come at once, and to ask may be work for whoever is to give one.
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(begun.elapsed() < time * 10, "not within ten times {time:?}: {what}");
        thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(10));
    }
}
