//! Small writes: most answers and requests are a head and a short body.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncWrite, ReadBuf};

/// Writes to a socket what is in several pieces; as one piece, if they are small. To copy them takes a few nanoseconds, and
/// `writev` hundreds more than `send`: it goes to a socket as if that were a file.
#[inline]
pub(crate) fn poll_write_pieces<S: AsyncWrite + Unpin>(
    mut socket: Pin<&mut S>,
    context: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [piece] = pieces {
        return socket.poll_write(context, piece);
    }
    let mut room = [const { MaybeUninit::uninit() }; SMALL];
    let mut joined = ReadBuf::uninit(&mut room);
    for piece in pieces {
        if piece.len() > joined.remaining() {
            return socket.poll_write_vectored(context, pieces);
        }
        joined.put_slice(piece);
    }
    socket.as_mut().poll_write(context, joined.filled())
}

/// In bytes.
const SMALL: usize = 2048;
