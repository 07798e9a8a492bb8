//! What a server of HTTP/2 says first.
//!
//! Whether it takes CONNECT for other protocols is in there, and how much can be asked at a time: both have to be known before
//! it is asked. The HTTP library says that it takes CONNECT, once it has been told, but not that it was told nothing of the
//! kind, and what can't be asked yet waits in there where nobody sees it.

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
    listener: Option<oneshot::Sender<Greeting>>,
}

/// What of it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// For other protocols: RFC 8441.
    pub(crate) takes_connect: bool,
    /// At a time.
    pub(crate) streams: u32,
}

/// That connection, and what the server says, as soon as it has.
pub(crate) fn listen<Io>(io: Io) -> (Greeted<Io>, oneshot::Receiver<Greeting>) {
    let (listener, greeting) = oneshot::channel();
    (Greeted { io, seen: Vec::new(), listener: Some(listener) }, greeting)
}

impl<Io> Greeted<Io> {
    fn look(&mut self, bytes: &[u8]) {
        if self.listener.is_none() {
            return;
        }
        self.seen.extend_from_slice(bytes);
        if let Poll::Ready(greeting) = greeting(&self.seen) {
            self.seen = Vec::new();
            if let (Some(listener), Some(greeting)) = (self.listener.take(), greeting) {
                let _ = listener.send(greeting);
            }
        }
    }
}

/// What the first frame says, as soon as it is complete; nothing, if it is not what a server of HTTP/2 says.
fn greeting(bytes: &[u8]) -> Poll<Option<Greeting>> {
    let Some((head, rest)) = bytes.split_first_chunk::<9>() else { return Poll::Pending };
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    // RFC 9113, 3.4: it is SETTINGS, and not longer than anybody may send without being told more.
    if head[3] != 4 || length > 1 << 14 {
        return Poll::Ready(None);
    }
    let Some(settings) = rest.get(..length) else { return Poll::Pending };
    let mut greeting = Greeting { takes_connect: false, streams: u32::MAX };
    for setting in settings.as_chunks().0 {
        match *setting {
            // RFC 9113, 6.5.2: SETTINGS_MAX_CONCURRENT_STREAMS.
            [0, 3, a, b, c, d] => greeting.streams = u32::from_be_bytes([a, b, c, d]),
            // RFC 8441, 3: SETTINGS_ENABLE_CONNECT_PROTOCOL is 1.
            [0, 8, 0, 0, 0, 1] => greeting.takes_connect = true,
            [_, _, _, _, _, _] => {}
        }
    }
    Poll::Ready(Some(greeting))
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
    use super::{Greeting, Poll, greeting};

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
        let all = u32::MAX;
        for (settings, takes_connect, streams) in [
            (&[][..], false, all),
            (&[OTHER], false, 1),
            (&[NO], false, all),
            (&[YES], true, all),
            (&[OTHER, YES, OTHER], true, 1),
        ] {
            let expected = Greeting { takes_connect, streams };
            let mut bytes = frame(4, settings);
            for end in 0..bytes.len() {
                assert_eq!(greeting(&bytes[..end]), Poll::Pending);
            }
            assert_eq!(greeting(&bytes), Poll::Ready(Some(expected)));
            // What follows says nothing more.
            bytes.extend(frame(4, &[YES]));
            assert_eq!(greeting(&bytes), Poll::Ready(Some(expected)));
        }
    }

    #[test]
    fn what_is_no_greeting_says_nothing() {
        for bytes in [&frame(6, &[YES])[..], b"HTTP/1.1 400 Bad Request\r\n"] {
            assert_eq!(greeting(bytes), Poll::Ready(None));
        }
    }
}
