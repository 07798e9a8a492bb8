//! TLS, on both sides.

use std::{
    fmt, fs, io,
    path::Path,
    sync::{Arc, OnceLock},
};

use anyhow::{Context as _, bail};
use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, server::TlsStream};

use crate::config;

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        let mut provider = aws_lc_rs::default_provider();
        // Most processors have instructions for SHA-256, and none for SHA-384, which takes a fifth of a handshake.
        provider.cipher_suites.sort_by_key(|suite| !AES_128.contains(&suite.suite()));
        Arc::new(provider)
    }))
}

const AES_128: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// What a listener's clients are met with.
pub(crate) struct Acceptor {
    ours: Arc<ServerConfig>,
    theirs: Arc<ServerConfig>,
}

impl Acceptor {
    /// Agrees with a client on keys. The cipher is the one that is quickest here, unless the client is quickest with
    /// ChaCha20: then it has no instructions for AES.
    pub(crate) async fn accept<Io>(&self, io: Io) -> io::Result<TlsStream<Io>>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
        let hello = start.client_hello();
        let known =
            |suite: &&CipherSuite| self.ours.crypto_provider().cipher_suites.iter().any(|ours| ours.suite() == **suite);
        let config = match hello.cipher_suites().iter().find(known) {
            Some(&first) if CHACHA20.contains(&first) => &self.theirs,
            _ => &self.ours,
        };
        let config = Arc::clone(config);
        start.into_stream(config).await
    }
}

const CHACHA20: [CipherSuite; 3] = [
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// For a listener.
pub(crate) fn server(settings: &config::Tls) -> anyhow::Result<Acceptor> {
    let certificates = settings.certificates.iter().map(certificate).collect::<anyhow::Result<_>>()?;
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().context("TLS")?;
    let builder = match &settings.client_ca {
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider());
            builder.with_client_cert_verifier(verifier.build().with_context(|| path.display().to_string())?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates(certificates)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if settings.client_ca.is_some() {
        // Whoever goes on with a session shows no certificate: it may be from before this was asked for, or from another listener.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = ticketer()?;
    }
    config.max_early_data_size = 0;
    let theirs = Arc::new(config.clone());
    config.ignore_client_order = true;
    Ok(Acceptor { ours: Arc::new(config), theirs })
}

/// For all whose clients show no certificates, for as long as the process lives, so that sessions outlive a change of
/// configuration. Its keys rotate by themselves.
fn ticketer() -> anyhow::Result<Arc<dyn ProducesTickets>> {
    static TICKETER: OnceLock<Arc<dyn ProducesTickets>> = OnceLock::new();
    if let Some(ticketer) = TICKETER.get() {
        return Ok(Arc::clone(ticketer));
    }
    let ticketer = aws_lc_rs::Ticketer::new().context("TLS")?;
    Ok(Arc::clone(TICKETER.get_or_init(|| ticketer)))
}

/// For servers: with whatever protocol they choose, and with HTTP/1.1 only.
pub(crate) fn client(ca: Option<&Path>) -> anyhow::Result<(TlsConnector, TlsConnector)> {
    let roots = match ca {
        Some(path) => roots(path)?,
        None => {
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                bail!("the system has no certificates to check servers with (expected upstream.NAME.ca)");
            }
            roots
        }
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let h1 = TlsConnector::from(Arc::new(config.clone()));
    config.alpn_protocols.insert(0, b"h2".to_vec());
    Ok((TlsConnector::from(Arc::new(config)), h1))
}

fn roots(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(path)? {
        roots.add(certificate).with_context(|| path.display().to_string())?;
    }
    Ok(roots)
}

fn read_chain(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let name = || path.display().to_string();
    let text = fs::read(path).with_context(name)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let Ok(chain) = chain else { bail!("{}: expected certificates in PEM", name()) };
    if chain.is_empty() {
        bail!("{}: there is no certificate (expected PEM)", name());
    }
    Ok(chain)
}

fn certificate(settings: &config::Certificate) -> anyhow::Result<Certificate> {
    let chain = read_chain(&settings.chain)?;
    let name = || settings.key.display().to_string();
    let text = zeroize::Zeroizing::new(fs::read(&settings.key).with_context(name)?);
    let Ok(key) = PrivateKeyDer::from_pem_slice(&text) else { bail!("{}: expected a private key in PEM", name()) };
    let key = match CertifiedKey::from_der(chain, key, &provider()) {
        Err(rustls::Error::InconsistentKeys(_)) => {
            bail!("{}: it is not the key of the certificate in {}", name(), settings.chain.display())
        }
        key => key.with_context(|| format!("{} and {}", settings.chain.display(), name()))?,
    };
    let names = rustls::server::ParsedCertificate::try_from(key.end_entity_cert()?)
        .with_context(|| settings.chain.display().to_string())?;
    drop(names);
    Ok(Certificate { key: Arc::new(key) })
}

struct Certificate {
    key: Arc<CertifiedKey>,
}

/// Which certificate a client gets: the first that is for the name it asked for, or else the first.
struct Certificates(Vec<Certificate>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = self.0.first()?;
        let Some(name) = hello.server_name().filter(|_| self.0.len() > 1) else {
            return Some(Arc::clone(&first.key));
        };
        let name = rustls::pki_types::ServerName::try_from(name).ok()?;
        let is_for = |certificate: &&Certificate| {
            let certificate = certificate.key.end_entity_cert().ok();
            let parsed = certificate.and_then(|der| rustls::server::ParsedCertificate::try_from(der).ok());
            parsed.is_some_and(|parsed| rustls::client::verify_server_name(&parsed, &name).is_ok())
        };
        Some(Arc::clone(&self.0.iter().find(is_for).unwrap_or(first).key))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates(..)")
    }
}
