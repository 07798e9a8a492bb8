//! Visitors of a web site, and the site: work for a proxy between them, from which a compiler learns what the proxy does often.
//!
//! `train PROGRAM [VISITS]` runs `PROGRAM proxy`, and ends with an error if an answer is not the right one. It is for
//! `contrib/build-optimized`.

use std::{
    convert::Infallible, env, error::Error, fs, io, net::SocketAddr, path::Path, process, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustix::process::{Pid, Signal, kill_process};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

type Failure = Box<dyn Error + Send + Sync>;

/// How visitors come.
#[derive(Clone, Copy, Debug)]
struct Way {
    tls: bool,
    h2: bool,
    connections: usize,
    /// On one connection after each other, or at a time.
    requests: usize,
    path: &'static str,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut arguments = env::args_os().skip(1);
    let program = arguments.next().ok_or("expected the program to run")?;
    let visits = arguments.next().map_or(Ok(20_000), |count| count.to_string_lossy().parse::<usize>())?;
    let folder = tempfile::tempdir()?;
    let tls = certificate(folder.path())?;
    let site = TcpListener::bind("127.0.0.1:0").await?;
    let (clear, secure) = (free().await?, free().await?);
    fs::write(folder.path().join("ipveil.toml"), config(site.local_addr()?, clear, secure))?;
    tokio::spawn(serve(site));
    let mut proxy = process::Command::new(program);
    let mut proxy = proxy.arg("proxy").arg("--config").arg(folder.path().join("ipveil.toml")).spawn()?;
    let edge = Edge { clear, secure, tls };
    let result = visit_all(&edge, visits).await;
    kill_process(Pid::from_child(&proxy), Signal::TERM)?;
    let ended = proxy.wait()?;
    result?;
    if ended.success() { Ok(()) } else { Err("the proxy did not end well".into()) }
}

async fn visit_all(edge: &Edge, visits: usize) -> Result<(), Failure> {
    edge.wait().await?;
    let kept = Way { tls: false, h2: false, connections: 64, requests: visits / 64, path: "/" };
    let new = Way { connections: visits / 8, requests: 1, ..kept };
    let few = Way { requests: visits / 64 / 8, ..kept };
    for way in [
        Way { requests: visits / 64 * 2, ..kept },
        Way { connections: 256, requests: visits / 256, ..kept },
        Way { tls: true, ..kept },
        Way { h2: true, connections: 16, requests: visits / 16, ..kept },
        Way { tls: true, h2: true, connections: 16, requests: visits / 32, ..kept },
        new,
        Way { tls: true, connections: visits / 32, ..new },
        Way { path: "/upload", ..few },
        Way { path: "/upload", h2: true, ..few },
        Way { path: "/pieces", ..few },
        Way { path: "/missing", ..few },
        Way { path: "/h2/", ..few },
        Way { path: "/large", connections: 8, requests: visits / 1000, ..kept },
    ] {
        edge.visit(way).await.map_err(|error| format!("{way:?}: {error}"))?;
    }
    Ok(())
}

struct Edge {
    clear: SocketAddr,
    secure: SocketAddr,
    tls: TlsConnector,
}

impl Edge {
    async fn wait(&self) -> Result<(), Failure> {
        for _ in 0..1000 {
            if TcpStream::connect(self.secure).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("the proxy does not listen".into())
    }

    async fn visit(&self, way: Way) -> Result<(), Failure> {
        let mut visitors = JoinSet::new();
        for number in 0..way.connections {
            // As many as come at a time.
            if visitors.len() == 256 {
                visitors.join_next().await.transpose()?.transpose()?;
            }
            let stream = TcpStream::connect(if way.tls { self.secure } else { self.clear }).await?;
            stream.set_nodelay(true)?;
            let tls = way.tls.then(|| self.tls.clone());
            visitors.spawn(async move {
                let Some(tls) = tls else { return browse(stream, way, number).await };
                let mut config = ClientConfig::clone(tls.config());
                config.alpn_protocols = vec![if way.h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
                let name = ServerName::try_from("localhost")?;
                browse(TlsConnector::from(Arc::new(config)).connect(name, stream).await?, way, number).await
            });
        }
        while let Some(visited) = visitors.join_next().await {
            visited??;
        }
        Ok(())
    }
}

/// Asks over one connection.
async fn browse<S>(stream: S, way: Way, number: usize) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    if !way.h2 {
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        for turn in 0..way.requests {
            sender.ready().await?;
            look(sender.send_request(request(way, number + turn)?).await?, way).await?;
        }
        return Ok(());
    }
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    let mut streams = JoinSet::new();
    for turn in 0..way.requests {
        if streams.len() == 16 {
            streams.join_next().await.transpose()?.transpose()?;
        }
        let (mut sender, request) = (sender.clone(), request(way, number + turn)?);
        streams.spawn(async move {
            sender.ready().await?;
            look(sender.send_request(request).await?, way).await
        });
    }
    while let Some(seen) = streams.join_next().await {
        seen??;
    }
    Ok(())
}

/// What a browser asks, or a program, for someone who is somewhere else each time.
fn request(way: Way, number: usize) -> Result<Request<Full<Bytes>>, http::Error> {
    let [.., high, low] = number.to_be_bytes();
    let client = match number % 4 {
        0 => format!("2001:db8:{high:x}::{low:x}"),
        1 => format!("198.51.100.{low}, 203.0.{high}.{low}"),
        _ => format!("203.0.{high}.{low}"),
    };
    let page = ["", "articles/2026/the-sea?page=2", "static/app.4f1c.js", "search?q=tide&from=192.0.2.7"][number % 4];
    let path = format!("{}{}", way.path, if way.path.ends_with('/') { page } else { "" });
    let mut request = Request::builder().header("x-forwarded-for", client).header(header::ACCEPT, "*/*");
    request = if way.h2 {
        request.uri(format!("http://localhost{path}"))
    } else {
        request.uri(path).header(header::HOST, "localhost")
    };
    if !number.is_multiple_of(8) {
        const BROWSER: &str =
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
        request = request
            .header(header::USER_AGENT, BROWSER)
            .header(header::ACCEPT_ENCODING, "gzip, deflate, br")
            .header(header::ACCEPT_LANGUAGE, "en-US,en;q=0.9")
            .header(header::REFERER, "https://localhost/articles/")
            .header(header::COOKIE, format!("theme=dark; sid={number:016x}"));
    }
    if way.path == "/upload" {
        return request.method(Method::POST).body(Full::from(vec![b'x'; 2048]));
    }
    request.body(Full::default())
}

/// Whether it is the right answer.
async fn look(response: Response<Incoming>, way: Way) -> Result<(), Failure> {
    let (status, length) = match way.path {
        "/missing" => (StatusCode::NOT_FOUND, 0),
        "/large" => (StatusCode::OK, 1 << 20),
        "/upload" => (StatusCode::OK, 2048),
        _ => (StatusCode::OK, 1024),
    };
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    if (parts.status, body.len()) == (status, length) {
        return Ok(());
    }
    Err(format!("the answer was {} with {} octets", parts.status, body.len()).into())
}

/// The site, in both versions.
async fn serve(socket: TcpListener) {
    while let Ok((stream, _)) = socket.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Failure> {
    let whole = |octets: Vec<u8>| Full::from(octets).boxed();
    let response = Response::builder()
        .header(header::SERVER, "site")
        .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
        .header(header::CACHE_CONTROL, "private, max-age=0")
        .header(header::SET_COOKIE, "theme=dark; Path=/; SameSite=Lax");
    let path = request.uri().path().to_owned();
    Ok(match &*path {
        "/missing" => response.status(StatusCode::NOT_FOUND).body(whole(Vec::new()))?,
        "/large" => response.body(whole(vec![b'x'; 1 << 20]))?,
        "/upload" => response.body(whole(request.into_body().collect().await?.to_bytes().to_vec()))?,
        "/pieces" => {
            let piece = || Ok(Frame::data(Bytes::from_static(&[b'x'; 256])));
            response.body(StreamBody::new(tokio_stream::iter([piece(), piece(), piece(), piece()])).boxed())?
        }
        _ => response.body(whole(vec![b'x'; 1024]))?,
    })
}

/// For the name `localhost`.
fn certificate(folder: &Path) -> Result<TlsConnector, Failure> {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    fs::write(folder.join("chain.pem"), signed.cert.pem())?;
    fs::write(folder.join("key.pem"), signed.signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(signed.cert.der().clone())?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An address where nobody listens now.
async fn free() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").await?.local_addr()
}

fn config(site: SocketAddr, clear: SocketAddr, secure: SocketAddr) -> String {
    format!(
        r#"threads = 1
[[listener]]
address = "{clear}"
[[listener]]
address = "{secure}"
[listener.tls]
certificates = [{{ chain = "chain.pem", key = "key.pem" }}]
[client]
source = "x-forwarded-for"
trusted = ["loopback"]
[upstream.h1]
servers = ["http://{site}"]
[upstream.h2]
servers = ["h2c://{site}"]
[[route]]
path = "/h2/"
upstream = "h2"
[[route]]
path = "/"
upstream = "h1"
[access_log]
to = "access.log"
"#
    )
}
