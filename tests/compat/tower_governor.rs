//! Whom tower_governor counts as one.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, routing::get};
use http::Request;
use ipveil::{
    Client, LimitKey,
    policy::{Scope, Session, View},
};
use tower_governor::{
    GovernorError, GovernorLayer,
    governor::GovernorConfigBuilder,
    key_extractor::{KeyExtractor, PeerIpKeyExtractor, SmartIpKeyExtractor},
};

use crate::edge::{ANN, BOB, Edge, X_FORWARDED_FOR, ask, edge, plain, serve, serve_plainly};

/// Two requests for each client, and hours until there is a third.
fn governed<K>(edge: &Edge, key: K) -> Router
where
    K: KeyExtractor<Key: Send + Sync> + Send + Sync + 'static,
{
    let config = GovernorConfigBuilder::default().per_second(86_400).burst_size(2).key_extractor(key).finish();
    Router::new()
        .route("/", get(async || "welcome"))
        .layer(GovernorLayer::new(Arc::new(config.unwrap())))
        .layer(edge.proxied())
}

async fn statuses<const N: usize>(server: SocketAddr, headers: [&[(&str, &str)]; N]) -> [u16; N] {
    let mut statuses = [0; N];
    for (status, headers) in statuses.iter_mut().zip(headers) {
        *status = ask(server, headers).await.status().as_u16();
    }
    statuses
}

#[tokio::test]
async fn tower_governor_counts_each_client_by_its_pseudonym() {
    let written = || edge(Scope::unscoped(), [View::address("app").header(X_FORWARDED_FOR)]);
    for app in [
        governed(&written(), SmartIpKeyExtractor),
        governed(&plain(), SmartIpKeyExtractor),
        governed(&written(), PeerIpKeyExtractor),
        governed(&plain(), PeerIpKeyExtractor),
    ] {
        let server = serve_plainly(app).await;
        let [ann, bob] = [ANN, BOB].map(|client| [("x-forwarded-for", client)]);
        let statuses = statuses(server, [&ann[..], &ann, &ann, &bob, &bob, &bob, &ann]).await;
        assert_eq!(statuses, [200, 200, 429, 200, 200, 429, 429]);
    }
}

#[tokio::test]
async fn tower_governor_finds_a_client_behind_our_listener() {
    let server = serve(governed(&plain(), PeerIpKeyExtractor)).await;
    let ann = [("x-forwarded-for", ANN)];
    assert_eq!(statuses(server, [&ann[..], &ann, &ann, &[("x-forwarded-for", BOB)]]).await, [200, 200, 429, 200]);
}

#[tokio::test]
async fn all_who_are_withheld_share_one_allowance() {
    for app in [governed(&plain(), SmartIpKeyExtractor), governed(&plain(), PeerIpKeyExtractor)] {
        let server = serve(app).await;
        let hidden = ["unknown", "_a", "_b"].map(|client| [("x-forwarded-for", client)]);
        let statuses = statuses(server, [&hidden[0][..], &hidden[1], &hidden[2], &[("x-forwarded-for", ANN)]]).await;
        assert_eq!(statuses, [200, 200, 429, 200]);
    }
}

/// The way to count where pseudonyms are scoped.
#[derive(Clone)]
struct ByLimitKey;

impl KeyExtractor for ByLimitKey {
    type Key = LimitKey;

    fn name(&self) -> &'static str {
        "client"
    }

    fn extract<T>(&self, request: &Request<T>) -> Result<LimitKey, GovernorError> {
        let client = request.extensions().get::<Client>().ok_or(GovernorError::UnableToExtractKey)?;
        Ok(client.limit_key("api"))
    }
}

#[tokio::test]
async fn tower_governor_can_count_by_limit_keys_which_no_cookie_gets_around() {
    let views = [View::address("app").header(X_FORWARDED_FOR), View::limit("api")];
    let edge = edge(Scope::per_session(Session::cookie("sid")), views);
    let ann = [1, 2, 3].map(|session| format!("sid={session}"));
    let ann = ann.each_ref().map(|cookie| [("x-forwarded-for", ANN), ("cookie", cookie)]);
    let bob = [("x-forwarded-for", BOB), ("cookie", "sid=1")];

    let server = serve(governed(&edge, ByLimitKey)).await;
    assert_eq!(statuses(server, [&ann[0][..], &ann[1], &ann[2], &bob]).await, [200, 200, 429, 200]);
    // What it is better than.
    let server = serve(governed(&edge, SmartIpKeyExtractor)).await;
    assert_eq!(statuses(server, [&ann[0][..], &ann[1], &ann[2], &bob]).await, [200, 200, 200, 200]);
}
