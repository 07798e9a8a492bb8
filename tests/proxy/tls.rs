//! TLS on both sides: protocols, certificates by name, of clients, and new ones.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    CipherSuite, ClientConfig, ProtocolVersion as Version, RootCertStore, ServerConfig, SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::{
    client::{ask, connect, get},
    edge::{Edge, SOON, Setup, before, until},
    http2::{ACCEPT, Body, HANDSHAKE, agree, body, over, run},
    listener::listen,
    server::{Server, yes},
};

/// Who signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// What was signed.
struct Signed {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn sign(&self, name: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        Signed { certificate: params.signed_by(&key, &self.issuer).unwrap(), key }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        roots
    }

    fn client(&self, protocols: &[&str], as_whom: Option<&Signed>) -> TlsConnector {
        self.client_with(aws_lc_rs::default_provider(), protocols, as_whom)
    }

    fn client_with(&self, provider: CryptoProvider, protocols: &[&str], as_whom: Option<&Signed>) -> TlsConnector {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match as_whom {
            Some(signed) => builder.with_client_auth_cert(vec![signed.der()], signed.key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

impl Signed {
    fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    fn acceptor(&self, protocols: &[&str]) -> TlsAcceptor {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der()], self.key())
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A proxy with certificates for example.com and example.org.
fn secure(server: &Server, authority: &Authority, more: &str) -> Edge {
    let config = before(server.address).replace(
        "[upstream.app]",
        &format!(
            "[listener.tls]\ncertificates = [{{ chain = \"com.pem\", key = \"com.key\" }}, {{ chain = \"org.pem\", key = \"org.key\" }}]\n{more}[upstream.app]"
        ),
    );
    let (com, org) = (authority.sign("example.com"), authority.sign("*.example.org"));
    Setup::new(&config)
        .file("ca.pem", authority.certificate.pem())
        .file("com.pem", com.certificate.pem())
        .file("com.key", com.key.serialize_pem())
        .file("org.pem", org.certificate.pem())
        .file("org.key", org.key.serialize_pem())
        .start()
}

async fn handshake(port: u16, connector: &TlsConnector, name: &'static str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    connector.connect(ServerName::try_from(name).unwrap(), stream).await
}

async fn ask_h1(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    stream.write_all(get("/", "").as_bytes()).await?;
    let mut said = Vec::new();
    while !said.ends_with(b"yes") {
        if stream.read_buf(&mut said).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(String::from_utf8(said).unwrap())
}

#[test]
fn the_cipher_is_the_quickest_for_who_is_slower() {
    let (server, authority) = (yes(), Authority::new());
    let edge = secure(&server, &authority, "");
    let cipher = |versions: Version, first: &[CipherSuite], last: &[CipherSuite]| {
        let mut provider = aws_lc_rs::default_provider();
        let place = |suite: &SupportedCipherSuite| {
            let is_in = |suites: &[CipherSuite]| suites.contains(&suite.suite());
            if is_in(first) { 0 } else { 1 + u8::from(is_in(last)) }
        };
        provider.cipher_suites.retain(|suite| suite.version().version == versions);
        provider.cipher_suites.sort_by_key(place);
        let connector = authority.client_with(provider, &[], None);
        run(async move {
            let stream = handshake(edge.port, &connector, "example.com").await.unwrap();
            stream.get_ref().1.negotiated_cipher_suite().unwrap().suite()
        })
    };
    use CipherSuite as Suite;
    for (version, [aes_128, aes_256, chacha]) in [
        (
            Version::TLSv1_3,
            [Suite::TLS13_AES_128_GCM_SHA256, Suite::TLS13_AES_256_GCM_SHA384, Suite::TLS13_CHACHA20_POLY1305_SHA256],
        ),
        (
            Version::TLSv1_2,
            [
                Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            ],
        ),
    ] {
        assert_eq!(cipher(version, &[aes_256], &[aes_128]), aes_128);
        assert_eq!(cipher(version, &[aes_128], &[chacha]), aes_128);
        // Who has no instructions for AES asks for this first.
        assert_eq!(cipher(version, &[chacha], &[aes_256]), chacha);
    }
}

#[test]
fn a_client_speaks_what_it_agreed_to() {
    let (server, authority) = (yes(), Authority::new());
    let edge = secure(&server, &authority, "");
    run(async {
        for protocols in [&["http/1.1"][..], &[]] {
            let connector = authority.client(protocols, None);
            let mut stream = handshake(edge.port, &connector, "example.com").await.unwrap();
            for _ in 0..2 {
                assert!(ask_h1(&mut stream).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
            }
        }
        let stream = handshake(edge.port, &authority.client(&["h2", "http/1.1"], None), "example.com").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let asked = Request::builder().method(Method::GET).uri("https://example.com/").body(body(&[], &[])).unwrap();
        assert_eq!(over(stream).await.send_request(asked).await.unwrap().status(), 200);
        // Nothing else is spoken here.
        assert!(handshake(edge.port, &authority.client(&["ftp"], None), "example.com").await.is_err());
    });
    assert!(server.requests().iter().all(|request| request.value("x-forwarded-proto") == Some("https")));
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn a_certificate_is_the_one_for_the_name() {
    let (server, authority) = (yes(), Authority::new());
    let edge = secure(&server, &authority, "");
    run(async {
        let connector = authority.client(&[], None);
        for name in ["example.com", "www.example.org"] {
            // That it is accepted is the proof.
            let mut stream = handshake(edge.port, &connector, name).await.unwrap();
            ask_h1(&mut stream).await.unwrap();
        }
        for name in ["example.net", "example.org", "127.0.0.1"] {
            assert!(handshake(edge.port, &connector, name).await.is_err(), "{name}");
        }
    });
}

#[test]
fn a_new_certificate_is_used_and_an_old_connection_stays() {
    let (server, authority) = (yes(), Authority::new());
    let edge = secure(&server, &authority, "");
    let connector = authority.client(&[], None);
    let certificate = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let mut stream = run(handshake(edge.port, &connector, "example.com")).unwrap();
    let old = certificate(&stream);
    let new = authority.sign("example.com");
    // The key comes a moment later, as it does when somebody else writes them: nothing changes in between.
    edge.write("com.pem", new.certificate.pem());
    edge.reload();
    assert!(edge.log().contains("com.pem"), "{}", edge.log());
    assert_eq!(certificate(&run(handshake(edge.port, &authority.client(&[], None), "example.com")).unwrap()), old);
    edge.write("com.key", new.key.serialize_pem());
    until(|| {
        let connector = authority.client(&[], None);
        let stream = run(handshake(edge.port, &connector, "example.com")).unwrap();
        (certificate(&stream) == new.der()).then_some(())
    });
    run(async { ask_h1(&mut stream).await.unwrap() });
}

#[test]
fn only_clients_with_a_certificate_are_served_if_that_is_asked_for() {
    let (server, authority) = (yes(), Authority::new());
    let edge = secure(&server, &authority, "client_ca = \"ca.pem\"\n");
    let (known, stranger) = (authority.sign("client"), Authority::new().sign("client"));
    run(async {
        let connector = authority.client(&[], Some(&known));
        let mut stream = handshake(edge.port, &connector, "example.com").await.unwrap();
        ask_h1(&mut stream).await.unwrap();
        for as_whom in [None, Some(&stranger)] {
            let connector = authority.client(&[], as_whom);
            // A client of TLS 1.3 learns it after its own part of the handshake.
            if let Ok(mut stream) = handshake(edge.port, &connector, "example.com").await {
                assert!(ask_h1(&mut stream).await.is_err());
            }
        }
    });
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn no_session_from_elsewhere_replaces_a_certificate() {
    let (server, authority) = (yes(), Authority::new());
    let edge = secure(&server, &authority, "");
    // It remembers sessions, and offers them to whoever has that name.
    let connector = authority.client(&[], None);
    let ask = || async {
        let mut stream = handshake(edge.port, &connector, "example.com").await?;
        ask_h1(&mut stream).await?;
        Ok::<_, std::io::Error>(stream.get_ref().1.handshake_kind())
    };
    run(async {
        ask().await.unwrap();
        assert_eq!(ask().await.unwrap(), Some(rustls::HandshakeKind::Resumed));
    });
    let open = std::fs::read_to_string(edge.path("ipveil.toml")).unwrap();
    edge.write("ipveil.toml", open.replace("[listener.tls]", "[listener.tls]\nclient_ca = \"ca.pem\""));
    edge.reload();
    run(async { assert!(ask().await.is_err()) });
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn what_is_no_handshake_ends() {
    let (server, authority) = (yes(), Authority::new());
    let edge = secure(&server, &authority, "");
    edge.write(
        "ipveil.toml",
        std::fs::read_to_string(edge.path("ipveil.toml")).unwrap() + "[deadlines]\ntls_handshake = \"500ms\"\n",
    );
    edge.reload();
    let mut client = connect(edge.port);
    client.send(get("/", ""));
    client.rest();
    for said in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut client = connect(edge.port);
        client.send(said);
        client.stream.set_read_timeout(Some(SOON / 2)).unwrap();
        assert!(client.is_closed(), "{said:?}");
    }
    assert_eq!(server.requests(), []);
}

/// A server with TLS, which says how it was asked, and agrees to other protocols over HTTP/2.
fn serve_tls(signed: &Signed, protocols: &[&str]) -> std::net::SocketAddr {
    serve_tls_by(signed, protocols, async |request| {
        if request.method() == Method::CONNECT {
            return agree(request).await;
        }
        let said = format!("{:?} {}", request.version(), request.uri().path());
        Ok(Response::new(http_body_util::Full::from(said).boxed()))
    })
}

/// Over HTTP/2, a server may want to be asked for what it is: RFC 9113, 8.3.1.
fn serve_tls_by<F>(
    signed: &Signed,
    protocols: &[&str],
    each: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> std::net::SocketAddr
where
    F: Future<Output = Result<Response<Body>, &'static str>> + Send + 'static,
{
    let acceptor = signed.acceptor(protocols);
    run(async {
        let (socket, address) = listen().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (acceptor, each) = (acceptor.clone(), each.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        if request.version() == http::Version::HTTP_2 {
                            assert_eq!(request.uri().scheme_str(), Some("https"));
                        }
                        each(request)
                    });
                    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    builder.http2().enable_connect_protocol();
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        address
    })
}

fn before_tls(address: std::net::SocketAddr, ca: &Authority) -> Edge {
    before_tls_with(address, ca, "")
}

fn before_tls_with(address: std::net::SocketAddr, ca: &Authority, more: &str) -> Edge {
    let config =
        before(address).replace(&format!("http://{address}"), &format!("https://localhost:{}", address.port()));
    Setup::new(&(config + "ca = \"ca.pem\"\n" + more)).file("ca.pem", ca.certificate.pem()).start()
}

#[test]
fn a_server_with_tls_is_asked_if_it_is_the_right_one() {
    let authority = Authority::new();
    let right = authority.sign("localhost");
    let wrong = authority.sign("example.com");
    for (signed, protocols, ca, said) in [
        (&right, &["h2", "http/1.1"][..], &authority, "HTTP/2.0 /a"),
        (&right, &["http/1.1"], &authority, "HTTP/1.1 /a"),
        (&right, &[], &authority, "HTTP/1.1 /a"),
        (&wrong, &[], &authority, "502 Bad Gateway\n"),
        (&right, &[], &Authority::new(), "502 Bad Gateway\n"),
    ] {
        let edge = before_tls(serve_tls(signed, protocols), ca);
        for _ in 0..2 {
            assert_eq!(ask(edge.port, get("/a", "")).text(), said, "{protocols:?}");
        }
    }
}

#[test]
fn a_server_may_have_a_certificate_for_another_name_than_its_url() {
    let authority = Authority::new();
    let address = serve_tls(&authority.sign("example.com"), &["h2", "http/1.1"]);
    for (name, said) in [("example.com", "HTTP/2.0 /a"), ("example.org", "502 Bad Gateway\n")] {
        let edge = before_tls_with(address, &authority, &format!("server_name = \"{name}\"\n"));
        assert_eq!(ask(edge.port, get("/a", "")).text(), said, "{name}");
    }
}

#[test]
fn a_server_with_tls_is_well_if_it_says_so() {
    let authority = Authority::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = serve_tls_by(&authority.sign("localhost"), &["h2"], move |_| {
        count.fetch_add(1, SeqCst);
        std::future::ready(Ok(Response::new(http_body_util::Empty::new().map_err(|never| match never {}).boxed())))
    });
    let edge = before_tls_with(address, &authority, "[upstream.app.health]\npath = \"/\"\nevery = \"1s\"\n");
    until(|| (asked.load(SeqCst) >= 2).then_some(()));
    assert!(!edge.log().contains("health changed"), "{}", edge.log());
}

#[test]
fn a_server_with_tls_is_asked_for_another_protocol_in_the_older_version_that_it_speaks() {
    let authority = Authority::new();
    let signed = authority.sign("localhost");
    for (protocols, status, said) in
        [(&["h2"][..], 101, ""), (&["h2", "http/1.1"], 200, "HTTP/1.1 /a"), (&["http/1.1"], 200, "HTTP/1.1 /a")]
    {
        let edge = before_tls(serve_tls(&signed, protocols), &authority);
        let mut client = connect(edge.port);
        client.send(get("/a", HANDSHAKE));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text()), (status, said), "{protocols:?}");
        if status == 101 {
            assert_eq!(answer.value("sec-websocket-accept"), Some(ACCEPT));
            client.send("ping");
            assert_eq!(client.exactly(4).unwrap(), b"ping");
        }
    }
}

#[test]
fn a_proxy_header_comes_before_the_handshake() {
    let (server, authority) = (yes(), Authority::new());
    let com = authority.sign("example.com");
    let config = before(server.address).replace(
        "[upstream.app]",
        "proxy_protocol = \"required\"\n[listener.tls]\ncertificates = [{ chain = \"com.pem\", key = \"com.key\" }]\n[client]\ntrusted = [\"loopback\"]\n[upstream.app]",
    );
    let edge =
        Setup::new(&config).file("com.pem", com.certificate.pem()).file("com.key", com.key.serialize_pem()).start();
    run(async {
        let mut stream = TcpStream::connect(("127.0.0.1", edge.port)).await.unwrap();
        stream.write_all(b"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n").await.unwrap();
        let name = ServerName::try_from("example.com").unwrap();
        let mut stream = authority.client(&[], None).connect(name, stream).await.unwrap();
        ask_h1(&mut stream).await.unwrap();
    });
}
