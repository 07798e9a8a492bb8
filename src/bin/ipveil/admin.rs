//! Commands for a proxy that runs, through its admin socket.

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, runtime};

/// What the proxy answers; an error, if it is one.
pub(crate) fn ask(socket: &Path, method: &str, target: &str) -> anyhow::Result<Vec<u8>> {
    send(socket, method, target, Bytes::new())
}

/// As [`ask`], with something to send.
pub(crate) fn send(socket: &Path, method: &str, target: &str, body: Bytes) -> anyhow::Result<Vec<u8>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let unreachable =
            || format!("{}: no proxy takes commands there (expected admin.listen = [\"unix:{0}\"])", socket.display());
        let stream = UnixStream::connect(socket).await.with_context(unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(target).header(HOST, "ipveil").body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        connection.abort();
        if !status.is_success() {
            bail!("{}", String::from_utf8_lossy(&answer).trim_end());
        }
        Ok(answer.to_vec())
    })
}

/// Puts an answer on standard output.
pub(crate) fn say(answer: &[u8]) -> anyhow::Result<()> {
    io::stdout().write_all(answer)?;
    Ok(())
}
