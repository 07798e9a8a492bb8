//! What a server of HTTP/2 says first.
//!
//! Whether it takes CONNECT for other protocols is in there, and has to be known before it is asked so. The HTTP library
//! says that it does, once it has been told, but not that it was told nothing of the kind.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// A connection whose first frame is looked at as it passes.
pub(crate) struct Greeted<Io> {
    io: Io,
    seen: Vec<u8>,
    listener: Option<oneshot::Sender<bool>>,
}

/// That connection, and whether the server takes CONNECT for other protocols, as soon as it has said.
pub(crate) fn listen<Io>(io: Io) -> (Greeted<Io>, oneshot::Receiver<bool>) {
    let (listener, takes_connect) = oneshot::channel();
    (Greeted { io, seen: Vec::new(), listener: Some(listener) }, takes_connect)
}

impl<Io> Greeted<Io> {
    fn look(&mut self, bytes: &[u8]) {
        if self.listener.is_none() {
            return;
        }
        self.seen.extend_from_slice(bytes);
        if let Poll::Ready(takes_connect) = takes_connect(&self.seen) {
            self.seen = Vec::new();
            if let (Some(listener), Some(takes_connect)) = (self.listener.take(), takes_connect) {
                let _ = listener.send(takes_connect);
            }
        }
    }
}

/// What the first frame says of it, as soon as that is complete; nothing, if it is not what a server of HTTP/2 says.
fn takes_connect(bytes: &[u8]) -> Poll<Option<bool>> {
    let Some((head, rest)) = bytes.split_first_chunk::<9>() else { return Poll::Pending };
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    // RFC 9113, 3.4: it is SETTINGS, and not longer than anybody may send without being told more.
    if head[3] != 4 || length > 1 << 14 {
        return Poll::Ready(None);
    }
    let Some(settings) = rest.get(..length) else { return Poll::Pending };
    // RFC 8441, 3: SETTINGS_ENABLE_CONNECT_PROTOCOL is 1.
    Poll::Ready(Some(settings.chunks_exact(6).any(|setting| setting == [0, 8, 0, 0, 0, 1])))
}

impl<Io: AsyncRead + Unpin> AsyncRead for Greeted<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        self.look(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Greeted<Io> {
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

#[cfg(test)]
mod tests {
    use super::{Poll, takes_connect};

    const YES: [u8; 6] = [0, 8, 0, 0, 0, 1];
    const NO: [u8; 6] = [0, 8, 0, 0, 0, 0];
    const OTHER: [u8; 6] = [0, 3, 0, 0, 0, 1];

    fn frame(kind: u8, settings: &[[u8; 6]]) -> Vec<u8> {
        let mut frame = vec![0, 0, u8::try_from(settings.len() * 6).expect("it is short"), kind, 0, 0, 0, 0, 0];
        frame.extend(settings.as_flattened());
        frame
    }

    #[test]
    fn it_is_known_as_soon_as_the_frame_is_complete() {
        for (settings, expected) in
            [(&[][..], false), (&[OTHER], false), (&[NO], false), (&[YES], true), (&[OTHER, YES, OTHER], true)]
        {
            let mut bytes = frame(4, settings);
            for end in 0..bytes.len() {
                assert_eq!(takes_connect(&bytes[..end]), Poll::Pending);
            }
            assert_eq!(takes_connect(&bytes), Poll::Ready(Some(expected)));
            // What follows says nothing more.
            bytes.extend(frame(4, &[YES]));
            assert_eq!(takes_connect(&bytes), Poll::Ready(Some(expected)));
        }
    }

    #[test]
    fn what_is_no_greeting_says_nothing() {
        for bytes in [&frame(6, &[YES])[..], b"HTTP/1.1 400 Bad Request\r\n"] {
            assert_eq!(takes_connect(bytes), Poll::Ready(None));
        }
    }
}
