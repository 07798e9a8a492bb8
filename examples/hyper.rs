//! hyper without a framework: each connection has a service, with a layer in front that knows its peer.
//!
//! ```text
//! $ cargo run --example hyper --features tokio
//! $ curl -H 'X-Forwarded-For: 192.0.2.1' -H 'X-Real-IP: 192.0.2.1' http://127.0.0.1:3000/
//! host: 127.0.0.1:3000
//! user-agent: curl/7.88.1
//! accept: */*
//! x-forwarded-for: 2001:25:dcd7:6edf:401f:96ad:f61f:63ae
//! for the log: _ldzvi2tz6w4p6oumy3xkpma4pu
//! ```
//!
//! Both change with each request until there is a session: `-b sid=1`.
#![expect(clippy::print_stdout, reason = "a program says where it listens")]

use std::{convert::Infallible, error::Error, fmt::Write as _};

use http::{Request, Response, header::HeaderName};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use ipveil::{
    AnonymizeLayer, Client, KeyRing, Policy, Resolver,
    keys::{Epochs, MemorySource},
    layer::Connection,
    policy::{Scope, Session, View},
};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let policy = Policy::new(
        Scope::per_session(Session::cookie("sid")),
        [View::address("app").header(HeaderName::from_static("x-forwarded-for")), View::token("log")],
    )?;
    let keys = KeyRing::start(MemorySource, Epochs::hourly())?;
    let layer = AnonymizeLayer::new(Resolver::direct(), policy, keys);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}/", listener.local_addr()?);
    loop {
        let (stream, address) = listener.accept().await?;
        // A handler that takes the connection over can't ask it for the address either.
        let stream = Connection::new(stream);
        let service = ServiceBuilder::new().layer(layer.clone().peer(address)).service_fn(show);
        tokio::spawn(async move {
            // An error is the client's: it went away, or does not speak HTTP.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .await;
        });
    }
}

/// All that there is to see of a client.
async fn show(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let mut text = String::new();
    for (name, value) in request.headers() {
        let _ = writeln!(text, "{name}: {}", value.to_str().unwrap_or("not text"));
    }
    if let Some(client) = request.extensions().get::<Client>() {
        let _ = writeln!(text, "for the log: {}", client.pseudonym("log"));
    }
    Ok(Response::new(text))
}
