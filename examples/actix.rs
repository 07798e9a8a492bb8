//! actix-web, which has no Tower layers: a middleware around `Anonymizer`.
//!
//! ```text
//! $ cargo run --example actix
//! $ curl -H 'X-Forwarded-For: 203.0.113.7' http://127.0.0.1:3000/
//! peer_addr        Some([2001:2b:a776:9119:51c1:7c0b:fee9:c681]:0)
//! realip           Some("2001:2b:a776:9119:51c1:7c0b:fee9:c681")
//! X-Forwarded-For  Some("2001:2b:a776:9119:51c1:7c0b:fee9:c681")
//! for the log      _76zotc7nwd72hbr3pvscaaae6m
//! ```
#![expect(clippy::print_stdout, reason = "a program says where it listens")]

use std::{error::Error, net::SocketAddr};

use actix_web::{
    App, HttpMessage as _, HttpRequest, HttpServer,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    error::ErrorInternalServerError,
    http::header,
    middleware::{Next, from_fn},
    web,
};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use ipveil::{
    Anonymizer, Client, KeyRing, Policy, Resolver, TrustedProxies,
    keys::{Epochs, MemorySource},
    policy::{Scope, Session, View},
    resolve::Source,
};

/// Takes the peer and the headers out, anonymizes them, and puts back what is left.
async fn anonymize(
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let anonymizer = request.app_data::<web::Data<Anonymizer>>().cloned();
    let anonymizer = anonymizer.ok_or_else(|| ErrorInternalServerError("the app has no Anonymizer"))?;

    let uri = request.uri().to_string().parse().unwrap_or_default();
    let head = request.head_mut();
    let mut extensions = Extensions::new();
    if let Some(peer) = head.peer_addr.take() {
        extensions.insert(peer);
    }
    // actix-web has the types of http 0.2.
    let mut headers: HeaderMap = head
        .headers
        .iter()
        .filter_map(|(name, value)| {
            Some((name.as_str().parse().ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        })
        .collect();
    head.headers.clear();

    anonymizer.anonymize_in(&uri, &mut headers, &mut extensions);

    for (name, value) in &headers {
        if let (Ok(name), Ok(value)) =
            (header::HeaderName::try_from(name.as_str()), header::HeaderValue::from_bytes(value.as_bytes()))
        {
            head.headers.append(name, value);
        }
    }
    head.peer_addr = extensions.remove::<SocketAddr>();
    if let Some(client) = extensions.remove::<Client>() {
        request.extensions_mut().insert(client);
    }
    next.call(request).await
}

/// All that there is to see of a client.
async fn show(request: HttpRequest, client: web::ReqData<Client>) -> String {
    format!(
        "peer_addr        {:?}\nrealip           {:?}\nX-Forwarded-For  {:?}\nfor the log      {}\n",
        request.peer_addr(),
        request.connection_info().realip_remote_addr(),
        request.headers().get("x-forwarded-for"),
        client.pseudonym("log"),
    )
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let resolver = Resolver::behind(TrustedProxies::parse(["loopback"])?, Source::x_forwarded_for());
    let policy = Policy::new(
        Scope::per_session(Session::cookie("sid")),
        [View::address("app").header(HeaderName::from_static("x-forwarded-for")), View::token("log")],
    )?;
    let keys = KeyRing::start(MemorySource, Epochs::hourly())?;
    let anonymizer = web::Data::new(Anonymizer::new(resolver, policy, keys));

    println!("listening on http://127.0.0.1:3000/");
    // The last `wrap` is the outermost.
    HttpServer::new(move || {
        App::new().app_data(anonymizer.clone()).route("/", web::get().to(show)).wrap(from_fn(anonymize))
    })
    .bind("127.0.0.1:3000")?
    .run()
    .await?;
    Ok(())
}
