//! What tower-http traces.

use axum::{Router, routing::get};
use ipveil::policy::{Scope, View};

use crate::{
    edge::{ANN, X_FORWARDED_FOR, ask_here, edge},
    log::Log,
};

#[tokio::test]
async fn the_trace_of_a_request_shows_the_pseudonym() {
    use tower_http::trace::{DefaultMakeSpan, DefaultOnRequest, TraceLayer};
    use tracing::Level;

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // For this thread, on which the request is handled, too.
    let _guard = tracing::subscriber::set_default(subscriber);

    let edge = edge(Scope::unscoped(), [View::address("app").header(X_FORWARDED_FOR)]);
    let trace = TraceLayer::new_for_http()
        .make_span_with(DefaultMakeSpan::new().include_headers(true).level(Level::INFO))
        .on_request(DefaultOnRequest::new().level(Level::INFO));
    let app = Router::new().route("/", get(async || "welcome")).layer(trace).layer(edge.proxied());
    ask_here(&app, &[("x-forwarded-for", ANN), ("x-real-ip", ANN)]).await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains(&format!(r#""x-forwarded-for": "{}""#, edge.pseudonym(ANN))), "{log}");
    assert!(!log.contains(ANN), "{log}");
}
