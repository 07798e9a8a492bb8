//! `ipveil demo`: an application behind the proxy, that shows what each of them knows.

use std::{
    convert::Infallible,
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::SystemTime,
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use ipveil::KeyRing;
use serde_json::json;

use crate::{
    config::{Address, Config, Text},
    proxy::{self, Proxy},
};

/// Shows, on a web page, what a client sends, what the application behind the proxy sees, and what the log says.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("ipveil-demo").tempdir()?;
    let log = folder.path().join("access.log");
    let application = TcpListener::bind("127.0.0.1:0")?;
    let upstream = format!("http://{}", application.local_addr()?);
    let listen = Text(Address::Tcp(arguments.listen));
    let server = upstream.parse().map_err(anyhow::Error::msg)?;
    let mut config = Config::simple(vec![listen], Text(server))?;
    // Whoever plays with it plays the proxy in front, too, and may name any client.
    config.client.source = Some("x-forwarded-for".parse().map_err(anyhow::Error::msg)?);
    config.client.trusted = vec!["loopback".to_owned()];
    config.access_log.to.clone_from(&log);
    config.log.level = "warn".to_owned();
    proxy::harden();
    let _log = proxy::log_to_stderr(&config.log)?;
    let proxy = Proxy::start(config, None)?;
    let address = proxy.addresses().next().unwrap_or(arguments.listen);
    let state = Arc::new(State { keys: proxy.keys().clone(), log });
    thread::Builder::new().name("demo-application".to_owned()).spawn(move || serve(application, state))?;
    let mut out = std::io::stdout();
    writeln!(out, "An application behind ipveil: http://{address}/\n")?;
    writeln!(out, "    curl -H 'X-Forwarded-For: 203.0.113.7' http://{address}/see\n")?;
    writeln!(out, "Ctrl-C ends it, and destroys the key.")?;
    proxy.run().context("the demo ended early")
}

/// What the application knows, and, for this demo only, what the operator can read.
struct State {
    keys: KeyRing,
    log: PathBuf,
}

fn serve(listener: TcpListener, state: Arc<State>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        if listener.set_nonblocking(true).is_err() {
            return;
        }
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        while let Ok((stream, _)) = listener.accept().await {
            let state = Arc::clone(&state);
            let service = service_fn(move |request| {
                let answer = answer(&request, &state);
                async move { Ok::<_, Infallible>(answer) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
}

fn answer(request: &Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/" => page("text/html; charset=utf-8", PAGE.to_owned()),
        "/see" => page("application/json", format!("{}\n", json!({ "application": seen(request.headers()) }))),
        "/log" => page("text/plain; charset=utf-8", last_lines(&state.log)),
        "/key" => page("application/json", key(&state.keys)),
        _ => {
            let mut response = page("text/plain", "expected /, /see, /log or /key\n".to_owned());
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            response
        }
    }
}

/// All headers, as they come.
fn seen(headers: &HeaderMap) -> serde_json::Value {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), json!(text(value))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("GET /see")).collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    last.iter().map(|line| format!("{line}\n")).collect()
}

fn key(keys: &KeyRing) -> String {
    let key = keys.status();
    let rest = key.and_then(|key| key.until.duration_since(SystemTime::now()).ok()).unwrap_or_default();
    json!({
        "key": key.map(|key| key.id.to_string()),
        "seconds": rest.as_secs(),
        "protection": key.map(|key| key.protection.to_string()),
    })
    .to_string()
}

fn page(kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const PAGE: &str = include_str!("demo.html");

/// How much of the log is shown.
const LINES: usize = 8;
