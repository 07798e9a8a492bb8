//! The socket of a connection to a server.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{
    proxy::{small_write::poll_write_pieces, this_thread},
    wipe::Used,
};

/// Any connection to a server.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection to a server.
pub(super) struct Socket {
    socket: Kind,
    used: Used,
}

/// There is no need of dynamic dispatch for what is most frequent.
enum Kind {
    Tcp(TcpStream),
    Other(Box<dyn Stream>),
}

impl Socket {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        Self { socket: Kind::Tcp(stream), used: Used::default() }
    }

    pub(super) fn other(stream: impl Stream + 'static) -> Self {
        Self { socket: Kind::Other(Box::new(stream)), used: Used::default() }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        ready!(this_thread::woken(context, |context| match &mut this.socket {
            Kind::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Kind::Other(stream) => Pin::new(stream).poll_read(context, buffer),
        }))?;
        this.used.note(buffer, before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        this_thread::woken(context, |context| match &mut self.socket {
            Kind::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Kind::Other(stream) => Pin::new(stream).poll_write(context, bytes),
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        this_thread::woken(context, |context| match &mut self.socket {
            Kind::Tcp(stream) => poll_write_pieces(Pin::new(stream), context, slices),
            Kind::Other(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        })
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Kind::Tcp(stream) => stream.is_write_vectored(),
            Kind::Other(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        this_thread::woken(context, |context| match &mut self.socket {
            Kind::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Kind::Other(stream) => Pin::new(stream).poll_flush(context),
        })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        this_thread::woken(context, |context| match &mut self.socket {
            Kind::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Kind::Other(stream) => Pin::new(stream).poll_shutdown(context),
        })
    }
}
