//! A connection that waits without a buffer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::wipe::Used;

/// A connection whose first bytes may have been read already, while nobody had a buffer for more.
pub(super) struct Parked<S> {
    pub(super) io: S,
    pub(super) first: Bytes,
    used: Used,
}

impl<S> Parked<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, first: Bytes::new(), used: Used::default() }
    }
}

impl<S: AsyncRead + Unpin> Parked<S> {
    /// Waits until there is something to read; false if there will be nothing.
    pub(super) async fn wait(&mut self) -> io::Result<bool> {
        let mut byte = [0];
        let count = self.io.read(&mut byte).await?;
        self.first = Bytes::copy_from_slice(&byte[..count]);
        Ok(count > 0)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Parked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if !this.first.is_empty() {
            buffer.put_slice(&this.first.split_to(this.first.len().min(buffer.remaining())));
            // What came with it is most likely there.
            let _ = Pin::new(&mut this.io).poll_read(context, buffer)?;
        } else {
            ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        }
        this.used.note(buffer, before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Parked<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
