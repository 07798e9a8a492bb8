//! What tonic shows as the remote address.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Extensions, Request, Response};
use ipveil::{
    Client, Resolver,
    policy::{Scope, View},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use crate::{
    codec::Plain,
    edge::{ANN, X_FORWARDED_FOR, edge, plain},
    listener::listen,
};

/// What a method is told about its client.
async fn who(request: tonic::Request<Bytes>) -> Result<tonic::Response<Bytes>, tonic::Status> {
    let told = |extensions: &Extensions| {
        let tcp = extensions.get::<TcpConnectInfo>();
        let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>().map(TlsConnectInfo::get_ref);
        let [tcp, tls] = [tcp, tls].map(|info| info.map(|info| (info.remote_addr(), info.local_addr().is_some())));
        format!("tcp {tcp:?} tls {tls:?}")
    };
    let certificates = match request.extensions().get::<TlsConnectInfo<ipveil::tonic::Ends>>() {
        Some(info) => info.peer_certs(),
        None => request.peer_certs(),
    };
    let pseudonym = request.extensions().get::<Client>().map(|client| client.pseudonym("app"));
    let header = request.metadata().get("x-forwarded-for").map(|value| value.to_str().unwrap());
    let text = format!(
        "address {:?} certificates {:?} {} client {:?} header {header:?}",
        request.remote_addr(),
        certificates.map(|certificates| certificates.len()),
        told(request.extensions()),
        pseudonym.and_then(|pseudonym| pseudonym.address()),
    );
    Ok(tonic::Response::new(text.into()))
}

/// What tonic-build makes of a service with one method.
#[derive(Clone)]
struct Who;

impl tonic::server::NamedService for Who {
    const NAME: &'static str = "example.Who";
}

impl Service<Request<tonic::body::Body>> for Who {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async { Ok(tonic::server::Grpc::new(Plain).unary(service_fn(who), request).await) })
    }
}

/// Asks with tonic's own client, as a proxy would for Ann.
async fn call(endpoint: tonic::transport::Endpoint) -> String {
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    let mut request = tonic::Request::new(Bytes::from("who am I?"));
    request.metadata_mut().insert("x-forwarded-for", ANN.parse().unwrap());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/example.Who/AmI");
    let answer = client.unary(request, path, Plain).await.unwrap().into_inner();
    String::from_utf8(answer.into()).unwrap()
}

fn endpoint(server: SocketAddr) -> tonic::transport::Endpoint {
    tonic::transport::Endpoint::try_from(format!("http://{server}")).unwrap()
}

#[tokio::test]
async fn tonic_shows_a_pseudonym_as_the_remote_address() {
    for (resolver, client) in [(None, ANN), (Some(Resolver::direct()), "127.0.0.1")] {
        let edge = edge(Scope::unscoped(), [View::address("app").header(X_FORWARDED_FOR)]);
        let layer = resolver.map_or_else(|| edge.proxied(), |resolver| edge.layer(resolver));
        let (listener, server) = listen().await;
        let router = tonic::transport::Server::builder().layer(layer).add_service(Who);
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));

        let shown = edge.pseudonym(client);
        let address = Some(SocketAddr::new(shown, 0));
        let expected = format!(
            "address {address:?} certificates None tcp {:?} tls None client {:?} header {:?}",
            Some((address, true)),
            Some(shown),
            Some(shown.to_string()),
        );
        assert_eq!(call(endpoint(server)).await, expected);
    }
}

#[tokio::test]
async fn tonic_shows_a_pseudonym_as_the_remote_address_of_connections_that_name_no_peer() {
    let edge = plain();
    let (listener, server) = listen().await;
    let incoming = ipveil::tonic::Incoming::new(TcpListenerStream::new(listener));
    let router = tonic::transport::Server::builder().layer(edge.proxied()).add_service(Who);
    tokio::spawn(router.serve_with_incoming(incoming));

    let seen = call(endpoint(server)).await;
    let shown = edge.pseudonym(ANN);
    assert!(seen.contains(&format!("client {:?}", Some(shown))), "{seen}");
    assert!(seen.starts_with(&format!("address {:?}", Some(SocketAddr::new(shown, 0)))), "{seen}");
}

#[cfg(unix)]
#[tokio::test]
async fn tonic_on_a_unix_socket_is_behind_a_proxy() {
    use tonic::transport::server::{Connected as _, UdsConnectInfo};

    let edge = plain();
    let service = edge.proxied().layer(service_fn(async |request: Request<()>| {
        Ok::<_, Infallible>(request.extensions().get::<Client>().map(|client| client.pseudonym("app")))
    }));
    let (stream, _other) = tokio::net::UnixStream::pair().unwrap();
    let info: UdsConnectInfo = stream.connect_info();
    let mut request = Request::new(());
    request.headers_mut().insert(X_FORWARDED_FOR, ANN.parse().unwrap());
    request.extensions_mut().insert(info);
    let seen = service.oneshot(request).await.unwrap().and_then(|pseudonym| pseudonym.address());
    assert_eq!(seen, Some(edge.pseudonym(ANN)));
}

/// A server and a client that know each other's certificates.
struct Tls {
    server: tonic::transport::ServerTlsConfig,
    client: tonic::transport::ClientTlsConfig,
}

fn tls() -> Tls {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let identity = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        Identity::from_pem(certificate.pem(), key.serialize_pem())
    };
    let root = Certificate::from_pem(authority.pem());
    Tls {
        server: ServerTlsConfig::new().identity(identity("server.example")).client_ca_root(root.clone()),
        client: ClientTlsConfig::new()
            .domain_name("server.example")
            .ca_certificate(root)
            .identity(identity("client.example")),
    }
}

#[tokio::test]
async fn tonic_shows_a_pseudonym_over_tls_too() {
    // The second time there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let edge = plain();
    let tls = tls();
    let (listener, server) = listen().await;
    let builder = tonic::transport::Server::builder().tls_config(tls.server).unwrap();
    let router = builder.layer(edge.proxied()).add_service(Who);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));

    let endpoint = tonic::transport::Endpoint::try_from(format!("https://{server}")).unwrap();
    let shown = edge.pseudonym(ANN);
    let address = Some(SocketAddr::new(shown, 0));
    let info = Some((address, true));
    let expected = format!(
        "address {address:?} certificates Some(1) tcp {info:?} tls {info:?} client {:?} header None",
        Some(shown)
    );
    assert_eq!(call(endpoint.tls_config(tls.client).unwrap()).await, expected);
}

#[tokio::test]
async fn certificates_come_with_connections_that_name_no_peer() {
    // The second time there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let edge = plain();
    let tls = tls();
    let (listener, server) = listen().await;
    let incoming = ipveil::tonic::Incoming::new(TcpListenerStream::new(listener));
    let builder = tonic::transport::Server::builder().tls_config(tls.server).unwrap();
    let router = builder.layer(edge.proxied()).add_service(Who);
    tokio::spawn(router.serve_with_incoming(incoming));

    let endpoint = tonic::transport::Endpoint::try_from(format!("https://{server}")).unwrap();
    let seen = call(endpoint.tls_config(tls.client).unwrap()).await;
    assert!(seen.contains("certificates Some(1)"), "{seen}");
    assert!(seen.contains(&format!("client {:?}", Some(edge.pseudonym(ANN)))), "{seen}");
}
