//! What axum's `ConnectInfo` and extractors show.

use std::{
    convert::Infallible,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, connect_info::MockConnectInfo},
    response::IntoResponse as _,
    routing::get,
};
use http::{HeaderMap, HeaderName, Request, StatusCode, header};
use ipveil::{
    Client, ClientAddr, Peer, Resolver,
    policy::{Scope, View},
    resolve::Withheld,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::{
    edge::{
        ANN, BOB, X_FORWARDED_FOR, X_TOKEN, ask, ask_over, connect_info, edge, plain, read, request, serve,
        serve_plainly, with_port_0,
    },
    listener::listen,
};

#[tokio::test]
async fn connect_info_holds_a_pseudonym_whatever_the_listener_is() {
    let edge = plain();
    let app = Router::new().route("/", get(connect_info));
    for (layer, client) in [(edge.proxied(), ANN), (edge.layer(Resolver::direct()), "127.0.0.1")] {
        let app = app.clone().layer(layer);
        for server in [serve(app.clone()).await, serve_plainly(app).await] {
            let seen = ask(server, &[("x-forwarded-for", ANN)]).await.into_body();
            assert_eq!(seen, with_port_0(edge.pseudonym(client)));
        }
    }
}

#[tokio::test]
async fn a_fallback_is_behind_the_layer_too() {
    let edge = plain();
    let server = serve(Router::new().fallback(connect_info).layer(edge.proxied())).await;
    let seen = ask(server, &[("x-forwarded-for", BOB)]).await.into_body();
    assert_eq!(seen, with_port_0(edge.pseudonym(BOB)));
}

#[tokio::test]
async fn around_a_router_the_layer_is_in_front_of_all_of_it() {
    let edge = plain();
    let app = edge.proxied().layer(Router::new().route("/", get(connect_info)).fallback(connect_info));
    let (listener, server) = listen().await;
    let app = axum::ServiceExt::<Request<Body>>::into_make_service_with_connect_info::<Peer>(app);
    tokio::spawn(async { axum::serve(ipveil::axum::Listener::new(listener), app).await });
    let seen = ask(server, &[("x-forwarded-for", BOB)]).await.into_body();
    assert_eq!(seen, with_port_0(edge.pseudonym(BOB)));
}

#[tokio::test]
async fn a_mocked_connect_info_holds_a_pseudonym() {
    let edge = plain();
    let mock: SocketAddr = SocketAddr::new(ANN.parse().unwrap(), 40_000);
    let app = Router::new().route("/", get(connect_info)).layer(edge.layer(Resolver::direct()));
    // Whichever of the two types a server has.
    for app in [app.clone().layer(MockConnectInfo(mock)), app.layer(MockConnectInfo(Peer::from(mock)))] {
        let request = request(&[]).map(|()| Body::empty());
        let seen = read(app.oneshot(request).await.unwrap()).await.into_body();
        assert_eq!(seen, with_port_0(edge.pseudonym(ANN)));
    }
}

#[tokio::test]
async fn a_bare_socket_address_is_a_pseudonym() {
    let edge = plain();
    let service = edge.layer(Resolver::direct()).layer(service_fn(async |request: Request<()>| {
        Ok::<_, Infallible>(request.extensions().get::<SocketAddr>().copied())
    }));
    let mut request = request(&[]);
    request.extensions_mut().insert(SocketAddr::new(ANN.parse().unwrap(), 40_000));
    let seen = service.clone().oneshot(request).await.unwrap();
    assert_eq!(seen, Some(SocketAddr::new(edge.pseudonym(ANN), 0)));

    // Where none was, none is.
    assert_eq!(service.oneshot(self::request(&[])).await.unwrap(), None);
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_a_proxy_without_an_address() {
    let edge = plain();
    let path = std::env::temp_dir().join(format!("ipveil-compat-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let app = Router::new().route("/", get(connect_info)).layer(edge.proxied());
    let app = app.into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async { axum::serve(ipveil::axum::Listener::new(listener), app).await });

    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let seen = ask_over(stream, &[("x-forwarded-for", ANN)]).await.into_body();
    assert_eq!(seen, with_port_0(edge.pseudonym(ANN)));
}

#[tokio::test]
async fn a_handler_can_ask_for_the_client() {
    let edge = edge(Scope::unscoped(), [View::address("app"), View::token("log"), View::network("geo")]);
    let app = Router::new().route(
        "/",
        get(async |client: Client| {
            let [app, log] = ["app", "log"].map(|view| client.pseudonym(view));
            format!("{app} {log} {:?} {client:?}", client.network("geo"))
        }),
    );
    let seen = ask(serve(app.layer(edge.proxied())).await, &[("x-forwarded-for", ANN)]).await.into_body();
    let client = edge.policy.client(&ClientAddr::from(ANN.parse::<IpAddr>().unwrap()), &edge.keys);
    let [app, log] = ["app", "log"].map(|view| client.pseudonym(view));
    assert_eq!(seen, format!("{app} {log} Some(203.0.113.0/24) Client(..)"));
}

#[tokio::test]
async fn without_the_layer_there_is_no_client_but_an_answer() {
    let app = Router::new().route("/", get(async |client: Client| format!("{client:?}")));
    let answer = ask(serve(app).await, &[("x-forwarded-for", ANN)]).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(ipveil::axum::NoLayer.into_response().status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.body().contains("AnonymizeLayer"), "{}", answer.body());
    assert!(!answer.body().contains(ANN));
    let error: Box<dyn std::error::Error> = ipveil::axum::NoLayer.into();
    assert_eq!(*answer.body(), error.to_string());
}

#[tokio::test]
async fn a_handler_can_do_without_a_client() {
    let app = || Router::new().route("/", get(async |client: Option<Client>| format!("{client:?}")));
    assert_eq!(ask(serve(app()).await, &[]).await.into_body(), "None");
    assert_eq!(ask(serve(app().layer(plain().proxied())).await, &[]).await.into_body(), "Some(Client(..))");
}

#[tokio::test]
async fn a_withheld_client_is_nobody_and_fails_nothing() {
    let views = [
        View::address("app").header(X_FORWARDED_FOR),
        View::token("forwarded").header(header::FORWARDED),
        View::token("log").header(X_TOKEN),
        View::network("geo").header(HeaderName::from_static("x-network")),
        View::address("cloud").header(HeaderName::from_static("cloudfront-viewer-address")),
    ];
    let edge = edge(Scope::unscoped(), views);
    let layer = edge.proxied();
    let anonymizer = layer.anonymizer().clone();
    let app = Router::new()
        .route(
            "/",
            get(async |ConnectInfo(address): ConnectInfo<SocketAddr>, client: Client, headers: HeaderMap| {
                let mut text = format!("{address} {} {:?}", client.pseudonym("app"), client.withheld().unwrap());
                for (name, value) in &headers {
                    write!(text, " {name}: {}", value.to_str().unwrap()).unwrap();
                }
                text
            }),
        )
        .layer(layer);
    let server = serve_plainly(app).await;
    for (sent, why) in [
        (None, Withheld::NoHeader),
        (Some("unknown"), Withheld::Hidden),
        (Some("_hidden"), Withheld::Hidden),
        (Some("203.0.113.7, garbage"), Withheld::Malformed),
        (Some("203.0.113.7, 127.0.0.9 127.0.0.9"), Withheld::Malformed),
        (Some("127.0.0.9"), Withheld::AllTrusted),
    ] {
        let mut headers = vec![("forwarded", "for=192.0.2.1"), ("x-token", "_forged"), ("x-network", "192.0.2.0/24")];
        headers.push(("cloudfront-viewer-address", "192.0.2.1:40000"));
        headers.extend(sent.map(|sent| ("x-forwarded-for", sent)));
        let before = anonymizer.withheld_count(why);
        let answer = ask(server, &headers).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let expected = format!("[::]:0 unknown {why:?} host: app.example forwarded: for=unknown");
        assert_eq!(answer.into_body(), expected, "{sent:?}");
        assert_eq!(anonymizer.withheld_count(why), before + 1);
    }
}
