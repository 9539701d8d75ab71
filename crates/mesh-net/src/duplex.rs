//! `Duplex`: one end of a relay. Bytes come out as owned chunks and go in as owned chunks, so that an idle
//! connection holds no buffer and a tunnel's frames are never copied to be passed on.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

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
    fn reset(&mut self);
}
