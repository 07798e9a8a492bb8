//! A site with logins behind ipveil: what its handlers see, and what an insider can still find out.
//!
//! ```text
//! cargo run --example axum --features axum,tracing
//! ```
//!
//! The address to listen on can be given after `--`. Whoever connects from this machine counts as a trusted proxy, so
//! that `X-Forwarded-For` says who the client is. Alice logs in twice and Bob once, from the same address:
//!
//! ```text
//! $ curl -H 'X-Forwarded-For: 203.0.113.7' http://127.0.0.1:3000/
//! user             nobody
//! ConnectInfo      [2001:27:771d:f016:c2d0:a8e8:f39c:2079]:0
//! X-Forwarded-For  2001:27:771d:f016:c2d0:a8e8:f39c:2079
//! in the trace     _audjnq4kmrrgnmok4wy6jctidi
//! $ curl -H 'X-Forwarded-For: 203.0.113.7' -X POST 'http://127.0.0.1:3000/login?user=alice'
//! hello, alice
//! $ curl -H 'X-Forwarded-For: 203.0.113.7' -X POST 'http://127.0.0.1:3000/login?user=bob'
//! hello, bob
//! $ curl -H 'X-Forwarded-For: 203.0.113.7' -X POST 'http://127.0.0.1:3000/login?user=alice'
//! hello, alice
//! $ curl http://127.0.0.1:3000/insider
//! login  alice  _gb5esavognfawf2qyd2veuo7s4
//! login  bob    _ksn72gbisxty7g353uhix33vdu
//! login  alice  _gb5esavognfawf2qyd2veuo7s4
//! alice: 1 pseudonym(s) over all logins
//! alice and bob: 0 pseudonym(s) in common
//! bob: 1 pseudonym(s) over all logins
//! ```

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    env,
    error::Error,
    fmt::Write as _,
    net::SocketAddr,
    sync::Arc,
};

use axum::{
    Router,
    extract::{ConnectInfo, Query, Request, State},
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{COOKIE, SET_COOKIE},
    },
    response::{AppendHeaders, IntoResponse},
    routing::{get, post},
};
use ipveil::{
    AnonymizeLayer, Client, KeyRing, Peer, Policy, Pseudonym, Resolver, TrustedProxies,
    keys::{Epochs, MemorySource},
    policy::{Scope, Session, View},
    resolve::Source,
};
use tokio::{net::TcpListener, sync::Mutex};
use tower_http::trace::TraceLayer;
use tracing::{Span, field::display};
use tracing_subscriber::EnvFilter;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,tower_http::trace::on_response=debug".into());
    tracing_subscriber::fmt().with_env_filter(filter).init();

    let resolver = Resolver::behind(TrustedProxies::parse(["loopback"])?, Source::x_forwarded_for());
    let policy = Policy::new(
        Scope::per_session(Session::cookie("sid")),
        [View::address("app").header(X_FORWARDED_FOR), View::token("log")],
    )?;
    let keys = KeyRing::start(MemorySource, Epochs::hourly())?;

    let app = Router::new()
        .route("/", get(home))
        .route("/login", post(login))
        .route("/insider", get(insider))
        .with_state(Site::default())
        .layer(TraceLayer::new_for_http().make_span_with(span))
        // Added last, so that it is outermost: whatever the trace shows is a pseudonym, too.
        .layer(AnonymizeLayer::new(resolver, policy, keys));

    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    let here = listener.local_addr()?;
    tracing::info!("listening; try: curl -H 'X-Forwarded-For: 203.0.113.7' http://{here}/");
    let app = app.into_make_service_with_connect_info::<Peer>();
    Ok(axum::serve(ipveil::axum::Listener::new(listener), app).await?)
}

type Site = Arc<Mutex<Records>>;

#[derive(Default)]
struct Records {
    sessions: HashMap<String, String>,
    log: Vec<(&'static str, String, Pseudonym)>,
}

impl Records {
    /// The user's own scope: what stands next to an account must not be comparable with another's.
    fn note(&mut self, what: &'static str, user: &str, client: &Client) {
        self.log.push((what, user.to_owned(), client.scoped("log", &format!("user:{user}"))));
    }
}

async fn home(
    State(site): State<Site>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    client: Client,
) -> String {
    let mut site = site.lock().await;
    let cookies = headers.get(COOKIE).and_then(|cookies| cookies.to_str().ok()).unwrap_or_default();
    let sid = cookies.split(';').find_map(|cookie| cookie.trim().strip_prefix("sid=")).unwrap_or_default();
    let user = site.sessions.get(sid).cloned();
    if let Some(user) = &user {
        site.note("home", user, &client);
    }
    format!(
        "user             {}\nConnectInfo      {address}\nX-Forwarded-For  {}\nin the trace     {}\n",
        user.as_deref().unwrap_or("nobody"),
        headers.get(X_FORWARDED_FOR).and_then(|value| value.to_str().ok()).unwrap_or("absent"),
        client.pseudonym("log"),
    )
}

async fn login(
    State(site): State<Site>,
    Query(query): Query<HashMap<String, String>>,
    client: Client,
) -> Result<impl IntoResponse, StatusCode> {
    let user = query.get("user").ok_or(StatusCode::BAD_REQUEST)?;
    let random = || getrandom::u64().map_err(|_| StatusCode::SERVICE_UNAVAILABLE);
    let sid = format!("{:016x}{:016x}", random()?, random()?);
    let mut site = site.lock().await;
    site.note("login", user, &client);
    site.sessions.insert(sid.clone(), user.clone());
    Ok((AppendHeaders([(SET_COOKIE, format!("sid={sid}; HttpOnly; SameSite=Lax"))]), format!("hello, {user}\n")))
}

/// All that the site has stored, and the join that an insider would run on it.
async fn insider(State(site): State<Site>) -> String {
    let mut text = String::new();
    let mut users = BTreeMap::<_, HashSet<_>>::new();
    for (what, user, pseudonym) in &site.lock().await.log {
        let _ = writeln!(text, "{what:<5}  {user:<5}  {pseudonym}");
        let own = users.entry(user.clone()).or_default();
        if !pseudonym.is_withheld() {
            own.insert(*pseudonym);
        }
    }
    for (user, own) in &users {
        let _ = writeln!(text, "{user}: {} pseudonym(s) over all logins", own.len());
        for (other, others) in users.range(user.clone()..).skip(1) {
            let _ = writeln!(text, "{user} and {other}: {} pseudonym(s) in common", own.intersection(others).count());
        }
    }
    text
}

fn span(request: &Request) -> Span {
    let client = request.extensions().get::<Client>().map(|client| display(client.pseudonym("log")));
    tracing::info_span!("request", method = %request.method(), path = request.uri().path(), client)
}
