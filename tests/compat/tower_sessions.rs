//! How sessions of tower-sessions and pseudonyms go together.

use std::net::{IpAddr, SocketAddr};

use axum::{Router, extract::ConnectInfo, routing::get};
use http::{HeaderMap, header};
use ipveil::{
    Client,
    policy::{Scope, Session, View},
};
use tower_sessions::{MemoryStore, SessionManagerLayer};

use crate::edge::{ANN, BOB, X_FORWARDED_FOR, X_TOKEN, ask, edge, serve, serve_plainly};

#[tokio::test]
async fn a_session_goes_on_and_has_one_pseudonym() {
    let edge = edge(Scope::per_session(Session::cookie("id")), [View::address("app").header(X_FORWARDED_FOR)]);
    let app = Router::new()
        .route(
            "/",
            get(async |session: tower_sessions::Session, client: Client| {
                let visits = session.get::<u32>("visits").await.unwrap().unwrap_or_default() + 1;
                session.insert("visits", visits).await.unwrap();
                format!("{visits} {}", client.pseudonym("app"))
            }),
        )
        .layer(SessionManagerLayer::new(MemoryStore::default()).with_secure(false))
        .layer(edge.proxied());
    let server = serve(app).await;
    let visit = async |client: &str, cookie: Option<&str>| {
        let mut headers = vec![("x-forwarded-for", client)];
        headers.extend(cookie.map(|cookie| ("cookie", cookie)));
        let answer = ask(server, &headers).await;
        let cookie = answer.headers().get(header::SET_COOKIE).map(|cookie| cookie.to_str().unwrap());
        let cookie = cookie.and_then(|cookie| cookie.split(';').next()).map(str::to_owned);
        let (visits, pseudonym) = answer.body().split_once(' ').unwrap();
        (cookie, visits.parse::<u32>().unwrap(), pseudonym.parse::<IpAddr>().unwrap())
    };

    let (ann, first, before) = visit(ANN, None).await;
    let (_, second, ann_now) = visit(ANN, ann.as_deref()).await;
    let (_, third, ann_later) = visit(ANN, ann.as_deref()).await;
    assert_eq!([first, second, third], [1, 2, 3]);
    assert_eq!(ann_now, ann_later);
    assert_ne!(before, ann_now);

    // A colleague behind the same address.
    let (colleague, first, _) = visit(ANN, None).await;
    let (_, second, colleague_now) = visit(ANN, colleague.as_deref()).await;
    assert_eq!([first, second], [1, 2]);
    assert_ne!(colleague_now, ann_now);

    // Ann goes home.
    let (_, fourth, ann_elsewhere) = visit(BOB, ann.as_deref()).await;
    assert_eq!(fourth, 4);
    assert_ne!(ann_elsewhere, ann_now);
}

#[tokio::test]
async fn two_accounts_behind_one_address_can_not_be_compared() {
    let views = [View::address("app").header(X_FORWARDED_FOR), View::token("log").header(X_TOKEN)];
    let edge = edge(Scope::per_session(Session::cookie("sid")), views);
    let app = Router::new()
        .route(
            "/",
            get(async |ConnectInfo(address): ConnectInfo<SocketAddr>, client: Client, headers: HeaderMap| {
                let user = headers["x-user"].to_str().unwrap();
                let mut seen = vec![address.ip().to_string()];
                seen.extend(["app", "log"].map(|view| client.pseudonym(view).to_string()));
                seen.extend(["app", "log"].map(|view| client.scoped(view, user).to_string()));
                seen.extend(["x-forwarded-for", "x-token"].map(|name| headers[name].to_str().unwrap().to_owned()));
                seen.join(" ")
            }),
        )
        .layer(edge.proxied());
    let server = serve_plainly(app).await;
    let seen = async |cookie: &str, user: &str| {
        let headers = [("x-forwarded-for", ANN), ("cookie", cookie), ("x-user", user)];
        let seen = ask(server, &headers).await.into_body();
        seen.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };

    let ann = seen("sid=1", "user:1").await;
    let colleague = seen("sid=2", "user:2").await;
    assert!(ann.iter().all(|value| !colleague.contains(value)), "{ann:?} {colleague:?}");
    assert_eq!(ann, seen("a=b; sid=1", "user:1").await);

    let [address, app, log, scoped_app, scoped_log, x_forwarded_for, x_token] = &ann[..] else { panic!("{ann:?}") };
    assert_eq!([address, log], [app, x_token]);
    assert_eq!(app, x_forwarded_for);

    // The next day Ann logs in again: only what is in her own scope is the same.
    let again = seen("sid=3", "user:1").await;
    let in_common: Vec<_> = ann.iter().filter(|value| again.contains(value)).collect();
    assert_eq!(in_common, [scoped_app, scoped_log]);
}
