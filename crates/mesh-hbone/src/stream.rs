//! The tunnel: one CONNECT stream as a byte stream, whichever end opened it.
//!
//! Chunks are the `Bytes` that h2 holds, never copied. What the peer may send is given back to it when the reader
//! comes for more, so what is buffered for a slow reader never exceeds the window. A reset is an error and never an
//! end: `END_STREAM` alone ends a direction (also when a reset follows it, which is how peers of this family say that
//! they need no more of ours). Dropping a tunnel whose two directions have not both ended resets it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use mesh_net::duplex::Duplex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use crate::guard::{Count, Wire};

/// What one call asks of the windows at most: more than the send buffer holds would only be kept from other streams.
const PIECE_MAX: usize = 256 << 10;

/// One DATA frame of bulk: what TLS takes with one call. The far end passes each on when it is whole, so that it delivers
/// the first while the next ones arrive.
const FRAME_BYTES: usize = 64 << 10;

/// One stream inside an HBONE connection.
pub struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// The rest of a chunk that an `AsyncRead` reader took only a part of.
    held: Bytes,
    /// Bytes given to the reader and not yet to the peer's window.
    owed: usize,
    sent_end: bool,
    read_end: bool,
    reset: bool,
    /// What its place in the connection is accounted to; given back on drop.
    _lease: Lease,
    /// On a connection that counts its tunnels.
    _count: Option<Count>,
}

/// Whose account a stream is on.
pub(crate) enum Lease {
    /// Its connection carries nothing else.
    Alone,
    /// A place among the streams that a server works on.
    Served { _place: OwnedSemaphorePermit },
    /// A seat on a pooled connection.
    Pooled { _seat: Seat },
}

/// A seat on a pooled connection: the pool hears when it is free.
pub(crate) struct Seat {
    pub connection: u64,
    pub pool: Arc<dyn Seats>,
}

/// The pool, as a seat sees it.
pub(crate) trait Seats: Send + Sync {
    fn left(&self, connection: u64);
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pool.left(self.connection);
    }
}

impl Tunnel {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream, lease: Lease) -> Self {
        Tunnel { send, recv, held: Bytes::new(), owed: 0, sent_end: false, read_end: false, reset: false, _lease: lease, _count: None }
    }

    /// Counts among the tunnels of its connection for as long as it lives.
    pub(crate) fn counted(mut self, wire: Arc<Wire>) -> Self {
        self._count = Some(Count::of(wire));
        self
    }

    /// The next chunk as h2 has it.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.give_back();
        loop {
            match ready!(self.recv.poll_data(cx)) {
                // An empty DATA frame, usually the one that carries END_STREAM.
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    self.owed = chunk.len();
                    return Poll::Ready(Ok(Some(chunk)));
                }
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => {
                    self.read_end = true;
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    fn give_back(&mut self) {
        if self.owed > 0 {
            // It fails only for a stream that is gone; its connection window is given back by h2 then.
            let _ = self.recv.flow_control().release_capacity(self.owed);
            self.owed = 0;
        }
    }

    /// Room for at least one byte; at most `want` is asked for, so that the others' share is not held back.
    fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(want.min(PIECE_MAX));
        loop {
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Err(self.write_error(cx))),
            }
        }
    }

    fn send_piece(&mut self, cx: &mut Context<'_>, piece: Bytes, end: bool) -> io::Result<()> {
        self.send.send_data(piece, end).map_err(|_| self.write_error(cx))
    }

    /// Why h2 takes nothing more on this stream.
    fn write_error(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.poll_broken(cx) {
            Poll::Ready(error) => error,
            Poll::Pending => io::Error::new(io::ErrorKind::BrokenPipe, "this direction of the tunnel has ended"),
        }
    }

    fn abort(&mut self) {
        if !self.reset {
            self.reset = true;
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

impl Duplex for Tunnel {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Bytes>>> {
        if !self.held.is_empty() {
            let length = self.held.len().min(max);
            return Poll::Ready(Ok(Some(self.held.split_to(length))));
        }
        self.poll_chunk(cx)
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        while !chunk.is_empty() {
            let room = ready!(self.poll_room(cx, chunk.len()))?;
            let piece = chunk.split_to(room.min(chunk.len()).min(FRAME_BYTES));
            self.send_piece(cx, piece, false)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sent_end {
            return Poll::Ready(Ok(()));
        }
        self.send_piece(cx, Bytes::new(), true)?;
        self.sent_end = true;
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {
        self.abort();
    }

    /// Ready when the far end has reset the stream, or the connection broke, although nothing is being written.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Poll::Ready(reset_error(reason)),
            Poll::Ready(Err(error)) => Poll::Ready(io_error(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !(self.sent_end && self.read_end) {
            // Left to itself h2 would say NO_ERROR when our direction has ended: the peer would take it for an end.
            self.abort();
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            match ready!(self.poll_chunk(cx))? {
                Some(chunk) => self.held = chunk,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..length]);
        self.held.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let length = ready!(self.poll_room(cx, buf.len()))?.min(buf.len());
        self.send_piece(cx, Bytes::copy_from_slice(&buf[..length]), false)?;
        Poll::Ready(Ok(length))
    }

    /// Gathers the slices into one DATA frame.
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        if offered == 0 {
            return Poll::Ready(Ok(0));
        }
        let length = ready!(self.poll_room(cx, offered))?.min(offered);
        let mut piece = BytesMut::with_capacity(length);
        for buf in bufs {
            let taken = buf.len().min(length - piece.len());
            piece.extend_from_slice(&buf[..taken]);
        }
        self.send_piece(cx, piece.freeze(), false)?;
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The connection's own task moves what was taken; there is nothing to wait for.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(cx)
    }
}

/// A reset of whatever reason is a reset: the kind says it, the text says which.
fn reset_error(reason: Reason) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, h2::Error::from(reason))
}

/// Keeps what h2 says as the source; a transport's own error keeps its kind.
pub(crate) fn io_error(error: h2::Error) -> io::Error {
    let kind = match error.get_io() {
        Some(io) => io.kind(),
        None if error.is_reset() => io::ErrorKind::ConnectionReset,
        None => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests;
