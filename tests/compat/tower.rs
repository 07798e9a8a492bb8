//! hyper without a framework, and what a layer of tower leaves as it is.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::{IpAddr, SocketAddr},
    task::{Context, Poll, Waker},
};

use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use ipveil::{
    Anonymize, Client, Peer, Pseudonym, Resolver,
    policy::{Scope, View},
};
use tokio::net::TcpStream;
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};

use crate::{
    edge::{ANN, BOB, X_FORWARDED_FOR, ask, edge, plain, read, request},
    listener::listen,
};

#[tokio::test]
async fn a_layer_may_be_told_whose_connection_it_is() {
    let edge = plain();
    let address = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 40_000);
    let service = edge.proxied().peer(address("127.0.0.1")).layer(service_fn(async |request: Request<()>| {
        let client = request.extensions().get::<Client>().unwrap().pseudonym("app").address();
        Ok::<_, Infallible>((client, request.extensions().get::<SocketAddr>().copied()))
    }));
    let ask = async |other: Option<SocketAddr>| {
        let mut request = request(&[("x-forwarded-for", ANN)]);
        if let Some(other) = other {
            request.extensions_mut().insert(other);
        }
        service.clone().oneshot(request).await.unwrap()
    };
    let shown = edge.pseudonym(ANN);
    assert_eq!(ask(None).await, (Some(shown), None));
    // What else says who it is is not believed, and not left there.
    assert_eq!(ask(Some(address(BOB))).await, (Some(shown), Some(SocketAddr::new(shown, 0))));
}

#[tokio::test]
async fn hyper_serves_the_layer_without_a_framework() {
    let edge = edge(Scope::unscoped(), [View::address("app").header(X_FORWARDED_FOR)]);
    let (listener, server) = listen().await;
    let layer = edge.layer(Resolver::direct());
    tokio::spawn(async move {
        for http2 in [false, true] {
            let (stream, address) = listener.accept().await.unwrap();
            let peer = Peer::from(address);
            let service = ServiceBuilder::new()
                .map_request(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(peer);
                    request
                })
                .layer(layer.clone())
                .service_fn(async |request: Request<Incoming>| {
                    let client = request.extensions().get::<Client>().unwrap().pseudonym("app");
                    let peer = request.extensions().get::<Peer>();
                    let header = request.headers()[X_FORWARDED_FOR].to_str().unwrap();
                    Ok::<_, Infallible>(Response::new(format!("{client} {header} {peer:?} {:?}", request.version())))
                });
            let service = TowerToHyperService::new(service);
            let io = TokioIo::new(stream);
            match http2 {
                false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await.unwrap(),
                true => {
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    builder.serve_connection(io, service).await.unwrap();
                }
            }
        }
    });

    let shown = edge.pseudonym("127.0.0.1");
    let seen = ask(server, &[("x-forwarded-for", ANN)]).await.into_body();
    assert_eq!(seen, format!("{shown} {shown} None HTTP/1.1"));

    let stream = TcpStream::connect(server).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://app.example/").header(X_FORWARDED_FOR, ANN);
    let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(read(answer).await.into_body(), format!("{shown} {shown} None HTTP/2.0"));
}

/// A service that is seldom ready, and whose error is its own.
struct Moody {
    moods: Vec<Poll<Result<(), Tired>>>,
}

#[derive(Debug, PartialEq)]
struct Tired;

impl Service<Request<String>> for Moody {
    type Response = (Pseudonym, String);
    type Error = Tired;
    type Future = Ready<Result<Self::Response, Tired>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Tired>> {
        self.moods.pop().unwrap()
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let client = request.extensions().get::<Client>().unwrap();
        ready(Ok((client.pseudonym("app"), request.into_body())))
    }
}

#[test]
fn the_inner_service_keeps_its_error_its_future_and_its_moods() {
    fn nothing_changes<S, R>(service: S) -> S
    where
        S: Service<
                R,
                Response = (Pseudonym, String),
                Error = Tired,
                Future = Ready<Result<(Pseudonym, String), Tired>>,
            >,
    {
        service
    }

    let edge = plain();
    let moods = vec![Poll::Ready(Err(Tired)), Poll::Ready(Ok(())), Poll::Pending];
    let service: Anonymize<Moody> = edge.layer(Resolver::direct()).layer(Moody { moods });
    let mut service = nothing_changes::<_, Request<String>>(service);
    let mut context = Context::from_waker(Waker::noop());

    assert_eq!(service.poll_ready(&mut context), Poll::Pending);
    assert_eq!(service.poll_ready(&mut context), Poll::Ready(Ok(())));
    let mut request = request(&[]).map(|()| "body".to_owned());
    request.extensions_mut().insert(Peer::from(ANN.parse::<IpAddr>().unwrap()));
    let (pseudonym, body) = service.call(request).into_inner().unwrap();
    assert_eq!(pseudonym.address(), Some(edge.pseudonym(ANN)));
    assert_eq!(body, "body");
    assert_eq!(service.poll_ready(&mut context), Poll::Ready(Err(Tired)));
    assert!(service.into_inner().moods.is_empty());
}

#[test]
fn a_request_keeps_everything_else() {
    let edge = plain();
    let mut request = request(&[("x-real-ip", ANN), ("accept", "a"), ("x-forwarded-for", ANN), ("accept", "b")]);
    *request.method_mut() = http::Method::PUT;
    *request.version_mut() = http::Version::HTTP_10;
    *request.uri_mut() = "/path?query".parse().unwrap();
    request.extensions_mut().insert("mine");
    let mut service = edge.layer(Resolver::direct()).layer(service_fn(|request: Request<()>| {
        assert_eq!(request.method(), http::Method::PUT);
        assert_eq!(request.version(), http::Version::HTTP_10);
        assert_eq!(request.uri(), "/path?query");
        assert_eq!(request.extensions().get(), Some(&"mine"));
        let headers: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(headers, [("host", &b"app.example"[..]), ("accept", b"a"), ("accept", b"b")]);
        ready(Ok::<_, Infallible>(()))
    }));
    service.call(request).into_inner().unwrap();
}
