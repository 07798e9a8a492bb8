//! Small writes: most answers and requests are a head and a short body.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

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
    let mut joined = [0; SMALL];
    let mut length = 0;
    for piece in pieces {
        let Some(place) = joined.get_mut(length..length + piece.len()) else {
            return socket.poll_write_vectored(context, pieces);
        };
        place.copy_from_slice(piece);
        length += piece.len();
    }
    socket.as_mut().poll_write(context, &joined[..length])
}

/// In bytes.
const SMALL: usize = 2048;
