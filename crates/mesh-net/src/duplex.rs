//! `Duplex`: one end of a relay. Bytes come out as owned chunks and go in as owned chunks, so that an idle
//! connection holds no buffer and a tunnel's frames are never copied to be passed on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

/// One end of a relay: a TCP socket, or a stream inside a tunnel.
///
/// Errors carry their meaning in `io::ErrorKind`: `ConnectionReset` is a reset by the far end (never shown as a clean
/// end), everything else is a failure.
pub trait Duplex: Send {
    /// The next bytes, at most `max` (a stream that already holds a larger chunk may return it whole).
    /// `None` is the far end's clean end of stream. No buffer is held while this is pending.
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Bytes>>>;

    /// Takes bytes from the front of `chunk`; `Ready` when it is empty, `Pending` when there is no room now
    /// (what was taken until then is gone from `chunk`).
    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>>;

    /// Ends our direction cleanly (FIN, END_STREAM); the other direction goes on.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Aborts both directions at once, so that the far end sees a reset (RST, RST_STREAM with CANCEL).
    /// What needs the socket closed for that does it when this end is dropped.
    fn reset(&mut self);

    /// An error that came in while nobody was reading, if this kind of stream can tell. Asked now and then of
    /// connections of which one direction is over.
    fn broken(&self) -> Option<io::Error> {
        None
    }

    /// As `broken`, for a stream that can wake the task when it happens.
    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

impl Duplex for TcpStream {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Bytes>>> {
        ready!(self.poll_read_ready(cx))?; // the buffer comes after the readiness: waiting costs no memory
        let mut buffer = BytesMut::with_capacity(max);
        let read = ready!(tokio_util::io::poll_read_buf(Pin::new(self), cx, &mut buffer))?;
        Poll::Ready(Ok((read > 0).then(|| buffer.freeze())))
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        while !chunk.is_empty() {
            let written = ready!(Pin::new(&mut *self).poll_write(cx, chunk))?;
            chunk.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }

    fn reset(&mut self) {
        // RST instead of FIN when the descriptor is closed. It fails only for a socket that is no longer connected,
        // which has nobody left to tell.
        let _ = self.set_zero_linger();
    }

    fn broken(&self) -> Option<io::Error> {
        self.take_error().ok().flatten()
    }
}
