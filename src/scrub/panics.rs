//! What a panic says, without addresses.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::Write as _,
    panic::{self, PanicHookInfo},
    thread,
};

use super::Scrubber;

/// From now on, panics of this process are told to standard error without addresses.
///
/// The message of a panic may hold whatever the code was at: a header that did not parse, the `Debug` of a connection. This
/// takes the place of the hook that was set before, since that would print the message as it is; one that is set afterwards
/// takes the place of this one. The text is about the standard library's, and so is the backtrace (`RUST_BACKTRACE=1`).
///
/// Who catches a panic still has its message, addresses and all.
pub fn scrub_panics(scrubber: Scrubber) {
    panic::set_hook(Box::new(move |info| {
        let text = text(info);
        // Nobody is left to tell if that fails.
        let _ = std::io::stderr().write_all(&scrubber.scrub(text.as_bytes()));
    }));
}

fn text(info: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("<unnamed>");
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let payload = info.payload();
    let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text.as_str(),
        (None, None) => "Box<dyn Any>",
    };
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("stack backtrace:\n{backtrace}"),
        BacktraceStatus::Disabled => {
            "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n".to_owned()
        }
        _ => String::new(),
    };
    format!("\nthread '{thread}' panicked at {place}:\n{message}\n{backtrace}")
}
