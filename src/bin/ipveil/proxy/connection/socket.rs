//! The socket of a connection, which looks at what comes first, and notes who dawdles.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use ipveil::{
    Peer,
    proxy_protocol::{Header, Progress, Receiver},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::state::{Protocol, State, millis};
use crate::proxy::{small_write::poll_write_pieces, watch::Due};

/// A connection as it was accepted.
pub(crate) trait Accepted: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether the other end has sent all that it will send, or else something that is still to be read. Reads nothing.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>>;
}

impl Accepted for TcpStream {
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut byte = [0];
        self.poll_peek(context, &mut ReadBuf::new(&mut byte)).map_ok(|count| count == 0)
    }
}

impl Accepted for UnixStream {
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            ready!(self.poll_read_ready(context))?;
            let mut byte = [MaybeUninit::uninit()];
            let peeked = self.try_io(Interest::READABLE, || SockRef::from(&*self).peek(&mut byte));
            if !matches!(&peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(peeked.map(|count| count == 0));
            }
        }
    }
}

/// The socket of a connection. Notes when its other end begins to ask, and when it takes nothing any more.
pub(super) struct Socket<S> {
    stream: S,
    // Read while looking for what it speaks.
    prefix: Vec<u8>,
    read: usize,
    // There is something to be read, and its end is behind that.
    has_more: bool,
    state: Arc<State>,
}

impl<S: Accepted> Socket<S> {
    pub(super) fn new(stream: S, state: Arc<State>) -> Self {
        Self { stream, prefix: Vec::new(), read: 0, has_more: false, state }
    }

    /// Who is at the other end, as its first bytes say.
    pub(super) async fn read_proxy_header(&mut self, receiver: &Receiver, sender: Peer) -> io::Result<Header> {
        loop {
            match receiver.read(sender, &self.prefix) {
                Ok(Progress::Complete(header)) => {
                    self.prefix.drain(..header.length());
                    return Ok(header);
                }
                Ok(Progress::Incomplete(_)) => self.read_more().await?,
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    async fn read_more(&mut self) -> io::Result<()> {
        self.prefix.reserve(FIRST_READ);
        match self.stream.read_buf(&mut self.prefix).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Whether a connection in clear text begins like HTTP/2.
    pub(super) async fn is_h2(&mut self) -> io::Result<bool> {
        loop {
            let seen = self.prefix.len().min(PREFACE.len());
            if seen > 0 && self.prefix[..seen] != PREFACE[..seen] {
                return Ok(false);
            }
            if seen == PREFACE.len() {
                return Ok(true);
            }
            self.read_more().await?;
        }
    }
}

impl<S: Accepted> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read < this.prefix.len() {
            let rest = &this.prefix[this.read..];
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..count]);
            this.read += count;
            if this.read == this.prefix.len() {
                this.prefix = Vec::new();
                this.read = 0;
            }
            return Poll::Ready(Ok(()));
        }
        this.has_more = false;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let state = &*this.state;
        if buffer.filled().len() > before
            && state.speaks(Protocol::H1)
            && state.requests.load(Relaxed) == 0
            && !state.in_head.load(Relaxed)
        {
            state.in_head.store(true, Relaxed);
            state.watch.within(Due::Phase, millis(&state.head));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Accepted> Socket<S> {
    /// An error, if the client has gone before it was answered.
    fn look_for_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let state = &*self.state;
        if self.has_more || !state.looks_for_end.load(Relaxed) || state.requests.load(Relaxed) == 0 {
            return Ok(());
        }
        match self.stream.poll_end(context)? {
            Poll::Ready(true) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Ready(false) => self.has_more = true,
            Poll::Pending => {}
        }
        Ok(())
    }

    /// Time passes for the other end only while it takes nothing.
    fn wrote(state: &State, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        // In HTTP/2 the rest of a body may be on its way for long when its request is over.
        if matches!(written, Poll::Ready(Ok(count)) if count > LONGEST_SIGN_OF_LIFE)
            && state.speaks(Protocol::H2)
            && state.requests.load(Relaxed) == 0
        {
            state.watch.within(Due::Phase, millis(&state.idle));
        }
        match written.is_pending() {
            true if !state.is_stalled.load(Relaxed) => {
                state.is_stalled.store(true, Relaxed);
                state.watch.within(Due::Progress, millis(&state.stall));
            }
            false if state.is_stalled.load(Relaxed) => {
                state.is_stalled.store(false, Relaxed);
                state.progressed();
            }
            _ => {}
        }
        written
    }
}

impl<S: Accepted> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        Self::wrote(&self.state, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = poll_write_pieces(Pin::new(&mut self.stream), context, slices);
        Self::wrote(&self.state, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // Called each time that the connection is polled, and that is when something wakes it.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look_for_end(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

// RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most first requests fit.
const FIRST_READ: usize = 2048;

/// Of what HTTP/2 answers to whoever only asks whether it is there: a frame, and what TLS puts around it.
const LONGEST_SIGN_OF_LIFE: usize = 64;
