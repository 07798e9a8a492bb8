//! A rate limiter that knows no address, and that a forged cookie does not get around.
//!
//! ```text
//! $ cargo run --example limit --features axum
//! $ for i in 1 2 3 4 5; do
//! >   curl -b sid=$i -H 'X-Forwarded-For: 203.0.113.7' -w '%{http_code}\n' http://127.0.0.1:3000/
//! > done
//! hello, _veqh5ejiftct72mab7l3ffsxqi
//! 200
//! hello, _ebkkgqzdk3huw6cgguacruaxx4
//! 200
//! hello, _s7fwueicjq5o56x25hfaockxzq
//! 200
//! 429
//! 429
//! ```
//!
//! Five sessions, five pseudonyms, one allowance. The networks of one IPv6 /56 share theirs, too:
//!
//! ```text
//! $ for i in 1 2 3 4; do
//! >   curl -H "X-Forwarded-For: 2001:db8:0:ff0$i::1" -w '%{http_code}\n' http://127.0.0.1:3000/
//! > done
//! hello, _f366ulsjju4bb73y2n537neyiq
//! 200
//! hello, _jv6b3jnkr7ukxvbk4c2lubcg5a
//! 200
//! hello, _hlyhhkdbr6uh3veqjhnnqt4jly
//! 200
//! 429
//! ```
#![expect(clippy::print_stdout, reason = "a program says where it listens")]

use std::{
    collections::HashMap,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use ipveil::{
    AnonymizeLayer, Client, KeyRing, LimitKey, Peer, Policy, Resolver, TrustedProxies,
    keys::{Epochs, MemorySource},
    policy::{Scope, Session, View},
    resolve::Source,
};
use tokio::{net::TcpListener, sync::Mutex};

/// Requests per window, client and route.
const ALLOWANCE: u32 = 3;
/// Shorter than the ten minutes after which a client's key changes.
const WINDOW: Duration = Duration::from_secs(60);
const MOST_CLIENTS: usize = 100_000;

struct Limiter {
    counts: HashMap<(LimitKey, String), u32>,
    window_start: Instant,
}

impl Limiter {
    fn new() -> Self {
        Self { counts: HashMap::new(), window_start: Instant::now() }
    }

    fn allows(&mut self, client: LimitKey, route: &str) -> bool {
        if self.window_start.elapsed() >= WINDOW {
            *self = Self::new();
        }
        let key = (client, route.to_owned());
        // When it is full, newcomers wait for the next window.
        if self.counts.len() >= MOST_CLIENTS && !self.counts.contains_key(&key) {
            return false;
        }
        let count = self.counts.entry(key).or_default();
        *count = count.saturating_add(1);
        *count <= ALLOWANCE
    }
}

async fn limit(
    State(limiter): State<Arc<Mutex<Limiter>>>,
    route: MatchedPath,
    client: Client,
    request: Request,
    next: Next,
) -> Result<Response, StatusCode> {
    match limiter.lock().await.allows(client.limit_key("api"), route.as_str()) {
        true => Ok(next.run(request).await),
        false => Err(StatusCode::TOO_MANY_REQUESTS),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let resolver = Resolver::behind(TrustedProxies::parse(["loopback"])?, Source::x_forwarded_for());
    let policy = Policy::new(Scope::per_session(Session::cookie("sid")), [View::token("log"), View::limit("api")])?;
    let keys = KeyRing::start(MemorySource, Epochs::hourly())?;

    let app = Router::new()
        .route("/", get(async |client: Client| format!("hello, {}\n", client.pseudonym("log"))))
        .route_layer(middleware::from_fn_with_state(Arc::new(Mutex::new(Limiter::new())), limit))
        .layer(AnonymizeLayer::new(resolver, policy, keys));

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}/", listener.local_addr()?);
    let app = app.into_make_service_with_connect_info::<Peer>();
    Ok(axum::serve(ipveil::axum::Listener::new(listener), app).await?)
}
