//! The listener for whoever operates the proxy: metrics and health, and commands about bans, keys and texts to scrub.
//!
//! Whoever can reach a TCP address can read; commands are taken on a Unix socket only, whose file says who may use it.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipveil::{Scrubber, keys::Origin};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::JoinSet,
};

use super::{
    listen::{Listening, SocketFile},
    metrics,
    site::{LOG, Site},
    worker::Workers,
};
use crate::{
    bans::MOST_SECONDS,
    config::{self, Address, Key},
};

/// What is shown.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) site: Arc<Site>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) is_draining: Arc<AtomicBool>,
}

pub(crate) struct Admin {
    shown: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
    // Removed at the end.
    _files: Vec<SocketFile>,
}

/// Opens what operators come by.
pub(crate) fn open(settings: &config::Admin) -> anyhow::Result<Vec<Listening>> {
    for config::Text(address) in &settings.listen {
        if let Address::Tcp(address) = address
            && !address.ip().is_loopback()
        {
            tracing::warn!(port = address.port(), "metrics can be read from other machines");
        }
    }
    let open = |(index, address): (usize, &config::Text<Address>)| {
        Listening::open(&address.0, Some(0o600)).context(Key::new(["admin", "listen", &index.to_string()]))
    };
    settings.listen.iter().enumerate().map(open).collect()
}

impl Admin {
    pub(crate) fn serve(sockets: Vec<Listening>, state: State) -> anyhow::Result<Self> {
        let shown = Arc::new(Mutex::new(state));
        let (mut tasks, mut files) = (JoinSet::new(), Vec::new());
        for socket in sockets {
            let shown = Arc::clone(&shown);
            match socket {
                Listening::Tcp(socket) => {
                    let socket = TcpListener::from_std(socket)?;
                    tasks.spawn(async move {
                        loop {
                            rest_if_failed(socket.accept().await.map(|(stream, _)| serve(stream, false, &shown))).await;
                        }
                    });
                }
                Listening::Unix(socket, file) => {
                    files.extend(file);
                    let socket = UnixListener::from_std(socket)?;
                    tasks.spawn(async move {
                        loop {
                            rest_if_failed(socket.accept().await.map(|(stream, _)| serve(stream, true, &shown))).await;
                        }
                    });
                }
            }
        }
        Ok(Self { shown, _tasks: tasks, _files: files })
    }

    /// From now on something else.
    pub(crate) fn show(&self, state: State) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Most likely there is no room for one more, and soon there will be.
async fn rest_if_failed(accepted: io::Result<()>) {
    if accepted.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn serve<S>(stream: S, may_command: bool, shown: &Arc<Mutex<State>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shown = Arc::clone(shown);
    let service = service_fn(move |request: Request<Incoming>| {
        let state = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        async move { Ok::<_, Infallible>(answer(request, may_command, state).await) }
    });
    tokio::spawn(async move {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    });
}

async fn answer(request: Request<Incoming>, may_command: bool, state: State) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    // RFC 9110, 9.3.2: whoever asks for a head gets it, and the library leaves out the rest.
    let method = if *request.method() == Method::HEAD { &Method::GET } else { request.method() };
    match (method, path) {
        (&Method::GET, "/healthz") => text(StatusCode::OK, "well\n"),
        (&Method::GET, "/readyz") => ready(&state),
        (&Method::GET, "/metrics") => {
            let mut response = text(StatusCode::OK, &metrics::render(state.site, state.workers));
            let format = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, format);
            response
        }
        (_, "/bans" | "/keys/rotate" | "/keys" | "/scrub") if !may_command => {
            text(StatusCode::FORBIDDEN, "commands are taken on a Unix socket only\n")
        }
        (method, "/bans") => bans(method, request.uri().query().unwrap_or_default(), &state),
        (&Method::POST, "/scrub") => scrub(request, &state).await,
        (&Method::GET, "/keys") => keys(&state, state.site.spread.as_ref().map(|spread| spread.is_told())),
        (&Method::POST, "/keys/rotate") => {
            let (ring, spread) = (state.site.keys.clone(), state.site.spread.clone());
            let rotate = move || match spread {
                Some(spread) => {
                    let (rotated, is_told) = spread.after(|| ring.rotate());
                    (rotated, Some(is_told))
                }
                None => (ring.rotate(), None),
            };
            match tokio::task::spawn_blocking(rotate).await {
                Ok((Ok(_), is_told)) => keys(&state, is_told),
                Ok((Err(_), Some(false))) => text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the old key is destroyed here, and there is no new one yet; the fleet has not been told yet\n",
                ),
                _ => text(StatusCode::SERVICE_UNAVAILABLE, "the old key is destroyed, and there is no new one yet\n"),
            }
        }
        (_, "/healthz" | "/readyz" | "/metrics" | "/keys") => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        _ => {
            text(StatusCode::NOT_FOUND, "expected /metrics, /healthz, /readyz, /bans, /keys, /keys/rotate or /scrub\n")
        }
    }
}

fn ready(state: &State) -> Response<Full<Bytes>> {
    if state.is_draining.load(Relaxed) {
        return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    if state.site.keys.key_id().is_none() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "there is no key\n");
    }
    // One application that is ill takes no other from the network.
    let mut servers = state.site.upstreams().iter().flat_map(|upstream| upstream.servers());
    if !servers.any(|server| server.is_well()) {
        return text(StatusCode::SERVICE_UNAVAILABLE, "no server is well\n");
    }
    text(StatusCode::OK, "ready\n")
}

fn bans(method: &Method, query: &str, state: &State) -> Response<Full<Bytes>> {
    let Some(bans) = &state.site.bans else {
        return text(StatusCode::NOT_FOUND, "bans are off (expected bans.enabled = true)\n");
    };
    let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    match *method {
        Method::GET => {
            let list = bans.list();
            let list: Vec<_> =
                list.iter().map(|ban| json!({ "name": ban.name, "seconds": ban.rest.as_secs() })).collect();
            text(StatusCode::OK, &format!("{}\n", json!(list)))
        }
        Method::POST => {
            let seconds = value("seconds").and_then(|seconds| seconds.parse().ok());
            let (Some(name), Some(seconds @ 1..)) = (value("name"), seconds) else {
                return text(StatusCode::BAD_REQUEST, "expected name and seconds, at least one\n");
            };
            let time = Duration::from_secs(seconds).min(Duration::from_secs(MOST_SECONDS));
            if bans.ban(name, time) {
                tracing::info!(name, seconds = time.as_secs(), "banned by command");
                text(StatusCode::OK, "banned\n")
            } else {
                text(
                    StatusCode::NOT_FOUND,
                    "no client has that name in the log of this epoch, or it was too long ago to know which one it was\n",
                )
            }
        }
        Method::DELETE => match value("name") {
            Some(name) if bans.unban(name) => {
                tracing::info!(name, "not banned any more, by command");
                text(StatusCode::OK, "not banned any more\n")
            }
            Some(_) => text(StatusCode::NOT_FOUND, "nobody is banned under that name\n"),
            None => text(StatusCode::BAD_REQUEST, "expected name\n"),
        },
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "expected GET, POST or DELETE\n"),
    }
}

/// A text as the access log would show it, for `ipveil scrub --running`.
async fn scrub(request: Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    let Ok(scrubber) = Scrubber::new(&state.site.policy, LOG, state.site.keys.clone()) else {
        return text(StatusCode::NOT_FOUND, "there is no view \"log\" that can stand in a text\n");
    };
    match tokio::time::timeout(LONGEST_TEXT, Limited::new(request.into_body(), MOST_TEXT).collect()).await {
        Ok(Ok(body)) => {
            let body = body.to_bytes();
            // Where pseudonyms are unscoped, addresses can be tried out here for as long as the key lives.
            tracing::info!(bytes = body.len(), "text scrubbed by command");
            Response::new(Full::new(Bytes::copy_from_slice(&scrubber.scrub(&body))))
        }
        _ => text(StatusCode::PAYLOAD_TOO_LARGE, "the text did not come whole, or is too long\n"),
    }
}

fn keys(state: &State, is_fleet_told: Option<bool>) -> Response<Full<Bytes>> {
    let key = state.site.keys.status();
    let keys = json!({
        "key": key.map(|key| key.id.to_string()),
        "epoch": key.map(|key| key.epoch.number()),
        "ends": key.map(|key| seconds(key.until)),
        "degraded": key.is_some_and(|key| key.origin == Origin::Local),
        "protection": key.map(|key| key.protection.to_string()),
        "fleet_told": is_fleet_told,
    });
    text(StatusCode::OK, &format!("{keys}\n"))
}

/// Since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// For a text to come.
const LONGEST_TEXT: Duration = Duration::from_secs(60);

/// Of a text to scrub at once. What is longer comes in pieces, except for a line that is.
const MOST_TEXT: usize = 64 * 1024 * 1024;
