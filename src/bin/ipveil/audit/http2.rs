//! The same headers again, in HTTP/2: all on one connection, if the target speaks it.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ipveil::headers::{Strip, known};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    runtime,
    time::{self, Instant},
};
use tokio_rustls::TlsConnector;

use super::{
    canary::Canaries,
    send::{LONGEST_ANSWER, Reply, Shot, Style, Target, value},
};

/// One request.
pub(crate) struct Stream {
    pub(crate) path: String,
    target: String,
    headers: HeaderMap,
}

/// What to say before the first of them, and all of them.
pub(crate) fn plan(style: &Style<'_>, canaries: &mut Canaries) -> anyhow::Result<(Shot, Vec<Stream>)> {
    let start = Shot::start(style, canaries)?;
    let strip = Strip::new();
    let mut streams = Vec::new();
    for (number, (name, ..)) in known().enumerate() {
        let name = HeaderName::from_static(name);
        if !strip.removes(&name) {
            continue;
        }
        let path = format!("{name}, in HTTP/2");
        // There are not that many of IPv4.
        let client: IpAddr = if number % 4 == 0 { canaries.v4(&path)? } else { canaries.v6(&path)? };
        let mut headers: HeaderMap = style.extra.iter().cloned().collect();
        headers.append(&name, value(name.as_str(), client).parse().context("an address is a header's value")?);
        streams.push(Stream { path, target: style.path.to_owned(), headers });
    }
    Ok((start, streams))
}

/// Whether the target speaks it: with TLS if it says so, without if it understands.
pub(crate) fn is_spoken(target: &Target, style: &Style<'_>) -> anyhow::Result<bool> {
    let greeting = Stream { path: String::new(), target: style.path.to_owned(), headers: HeaderMap::new() };
    let mut is_spoken = false;
    send(target, style, &Shot::greeting_before(style), &[greeting], |_, answer| is_spoken = answer.is_ok())?;
    Ok(is_spoken)
}

/// Sends all, and gives what was answered to `see`: the status, and everything else.
pub(crate) fn send(
    target: &Target,
    style: &Style<'_>,
    start: &Shot,
    streams: &[Stream],
    mut see: impl FnMut(&Stream, io::Result<(StatusCode, Reply)>),
) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut sender = None;
        for stream in streams {
            let deadline = Instant::now() + target.timeout;
            let exchange = async {
                let sender = match &mut sender {
                    Some(sender) => sender,
                    none => none.insert(in_time(deadline, connect(target, start)).await??),
                };
                ask(sender, target, style, stream, deadline).await
            };
            let answer = exchange.await;
            // Whoever refuses a request may refuse the connection.
            if answer.is_err() {
                sender = None;
            }
            see(stream, answer);
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(())
}

async fn connect(target: &Target, start: &Shot) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = target.connect(None)?;
    stream.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(stream)?;
    stream.write_all(start.bytes()).await?;
    match target.http2_tls() {
        None => handshake(stream).await,
        Some((config, name)) => {
            let stream = TlsConnector::from(Arc::clone(&config)).connect(name, stream).await?;
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => handshake(stream).await,
                _ => Err(io::ErrorKind::Unsupported.into()),
            }
        }
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<SendRequest<Full<Bytes>>> {
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    target: &Target,
    style: &Style<'_>,
    stream: &Stream,
    deadline: Instant,
) -> io::Result<(StatusCode, Reply)> {
    let scheme = if target.is_tls() { "https" } else { "http" };
    let uri = format!("{scheme}://{}{}", style.host, stream.target);
    let mut request = Request::get(uri).body(Full::default()).map_err(io::Error::other)?;
    *request.headers_mut() = stream.headers.clone();
    in_time(deadline, sender.ready()).await?.map_err(io::Error::other)?;
    let answer = in_time(deadline, sender.send_request(request)).await?.map_err(io::Error::other)?;
    let (head, mut body) = answer.into_parts();
    let mut answer = Reply::default();
    for (name, value) in &head.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            answer.bytes.extend_from_slice(part);
        }
    }
    // What has come before it broke off, or before it was late, counts.
    while let Ok(Some(Ok(frame))) = in_time(deadline, body.frame()).await {
        answer.bytes.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
        if answer.cut_if_longer_than(LONGEST_ANSWER) {
            break;
        }
    }
    Ok((head.status, answer))
}

async fn in_time<T>(deadline: Instant, future: impl Future<Output = T>) -> io::Result<T> {
    time::timeout_at(deadline, future).await.map_err(|_| io::ErrorKind::TimedOut.into())
}
