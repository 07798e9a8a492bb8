//! No address comes out of an application whose output is scrubbed, whoever wrote the line.
//!
//! The application is this test's own program, started again: what it prints to its standard output and error is searched.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    env,
    io::{self, Write as _},
    process::{Command, Output},
    thread,
};

use axum::{Router, body::Body, http::Request, routing::get};
use ipveil::{
    Scrubber,
    scrub::{ScrubWriter, scrub_panics, tracing::MakeScrubWriter},
};
use tower::ServiceExt as _;
use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, prelude::*};

/// One for each place, so that what is missed has a name.
const CANARIES: &[&str] = &[
    "198.51.100.1",
    "198.51.100.2",
    "2001:db8::3",
    "198.51.100.4",
    "2001:db8:0:0:1::5",
    "198.51.100.6",
    "198.51.100.7",
    "198.51.100.8",
    "2001:db8::9",
    "198.51.100.10",
    "198.51.100.11",
    "2001:db8::12",
];

#[derive(Debug)]
#[expect(dead_code, reason = "it is printed")]
struct Connection {
    peer: std::net::SocketAddr,
}

/// What runs in the child.
fn application(format: &str) {
    let scrubber = Scrubber::word("(ip)").unwrap();
    let is_scrubbed = env::var_os("SCRUBBED").is_some();
    if is_scrubbed {
        scrub_panics(scrubber.clone());
        subscribe(format, MakeScrubWriter::new(scrubber.clone(), io::stderr));
    } else {
        subscribe(format, io::stderr);
    }

    tracing::info!("message with 198.51.100.1");
    tracing::info!(client = "198.51.100.2", "in a field");
    let span = tracing::info_span!("request", client = %"2001:db8::3");
    span.in_scope(|| tracing::debug!("in a span"));
    tracing::error!(error = ?io::Error::other("no route to 198.51.100.4:51234"), "in an error");
    let connection = Connection { peer: "[2001:db8:0:0:1::5]:443".parse().unwrap() };
    tracing::trace!(?connection, "in a Debug");
    tracing::warn!(client = "198.51.100.6\n198.51.100.6", "in two lines");
    log::warn!("a record of the log crate with 198.51.100.7");

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let app = Router::new()
            .route("/", get(async || "hello"))
            .route("/panic", get(async || -> &'static str { panic!("a handler panicked for 198.51.100.10") }))
            .layer(CatchPanicLayer::new())
            .layer(TraceLayer::new_for_http().make_span_with(
                tower_http::trace::DefaultMakeSpan::new().include_headers(true).level(tracing::Level::INFO),
            ));
        for uri in ["/?from=198.51.100.8", "/panic"] {
            let request =
                Request::builder().uri(uri).header("x-forwarded-for", "2001:db8::9").body(Body::empty()).unwrap();
            app.clone().oneshot(request).await.unwrap();
        }
    });

    let thread = thread::Builder::new().name("198.51.100.11".to_owned());
    let _ = thread.spawn(|| panic!("of a thread that is named after its client")).unwrap().join();

    let line = "printed for 2001:db8::12\n";
    if is_scrubbed {
        let mut writer = ScrubWriter::new(scrubber, io::stdout());
        for piece in line.as_bytes().chunks(5) {
            writer.write_all(piece).unwrap();
        }
    } else {
        io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

fn subscribe<W: for<'w> MakeWriter<'w> + Send + Sync + 'static>(format: &str, writer: W) {
    let registry = tracing_subscriber::registry().with(EnvFilter::new("trace"));
    let layer = tracing_subscriber::fmt::layer().with_thread_names(true).log_internal_errors(false).with_writer(writer);
    match format {
        "full" => registry.with(layer.with_ansi(false)).init(),
        "ansi" => registry.with(layer.with_ansi(true)).init(),
        "compact" => registry.with(layer.with_ansi(true).compact()).init(),
        "pretty" => registry.with(layer.with_ansi(true).pretty()).init(),
        "json" => registry.with(layer.json()).init(),
        other => panic!("{other} is no format"),
    }
}

/// Not a test of its own: nothing happens unless it is started as the application.
#[test]
fn application_itself() {
    if let Ok(format) = env::var("APPLICATION") {
        application(&format);
    }
}

fn start(format: &str, is_scrubbed: bool) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "application_itself", "--nocapture"])
        .env("APPLICATION", format)
        .env("RUST_BACKTRACE", "1");
    match is_scrubbed {
        true => command.env("SCRUBBED", "1"),
        false => command.env_remove("SCRUBBED"),
    };
    command.output().unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], b"\n", &output.stderr].concat()).into_owned()
}

#[test]
fn no_address_comes_out_in_any_format() {
    for format in ["full", "ansi", "compact", "pretty", "json"] {
        let raw = printed(&start(format, false));
        for canary in CANARIES {
            // As the standard library prints it.
            let canary = canary.parse::<std::net::IpAddr>().unwrap().to_string();
            assert!(raw.contains(&canary), "{canary} is not even there without a scrubber, in {format}: {raw}");
        }
        let output = start(format, true);
        assert!(output.status.success(), "{format}: {}", printed(&output));
        let scrubbed = printed(&output);
        assert!(!scrubbed.contains("198.51.100") && !scrubbed.contains("2001:db8"), "{format}: {scrubbed}");
        assert!(Scrubber::word("x").unwrap().count(scrubbed.as_bytes()).is_empty(), "{format}: {scrubbed}");
        assert!(scrubbed.matches("(ip)").count() >= CANARIES.len(), "{format}: {scrubbed}");
        assert!(scrubbed.contains("panicked at") && scrubbed.contains("stack backtrace"), "{format}: {scrubbed}");
    }
}
