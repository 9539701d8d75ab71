//! `ReadAhead`: large reads from a socket for a reader that asks for little at a time.
//!
//! TLS asks for 4 KiB, so a record of 16 KiB costs five system calls. As long as its reads come back full, this layer
//! reads more than was asked for and hands it out in pieces; else it passes them through. It holds memory only while
//! there are bytes to hand out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read asks for while there is much to read: four TLS records. Twice as much saves nothing that shows, and
/// would not stay in the processor's cache until it is deciphered.
const AHEAD_BYTES: usize = 64 * 1024;

/// A stream that is read in large pieces when it has much to give.
#[derive(Debug)]
pub struct ReadAhead<S> {
    io: S,
    /// Read and not yet asked for.
    held: BytesMut,
    /// The last read was filled: there is more.
    more: bool,
}

impl<S> ReadAhead<S> {
    pub fn new(io: S) -> ReadAhead<S> {
        ReadAhead { io, held: BytesMut::new(), more: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = buf.remaining();
        if this.held.is_empty() {
            if !this.more || room >= AHEAD_BYTES {
                ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
                this.more = room > 0 && buf.remaining() == 0;
                return Poll::Ready(Ok(()));
            }
            let mut ahead = BytesMut::with_capacity(AHEAD_BYTES);
            let read = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut this.io), cx, &mut ahead))?;
            this.more = read > room;
            this.held = ahead;
        }
        let length = this.held.len().min(room);
        buf.put_slice(&this.held[..length]);
        this.held.advance(length);
        if this.held.is_empty() {
            this.held = BytesMut::new(); // gives the memory back before the next wait
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use tokio::io::AsyncReadExt;

    /// Gives at most what is asked for; remembers what was asked for.
    struct Source {
        bytes: VecDeque<u8>,
        asked: Vec<usize>,
    }

    impl AsyncRead for Source {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.asked.push(buf.remaining());
            let length = buf.remaining().min(self.bytes.len());
            let taken: Vec<u8> = self.bytes.drain(..length).collect();
            buf.put_slice(&taken);
            Poll::Ready(Ok(()))
        }
    }

    async fn read(bytes: usize, piece: usize) -> Vec<usize> {
        let all: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        let mut ahead = ReadAhead::new(Source { bytes: all.iter().copied().collect(), asked: vec![] });
        let (mut got, mut buffer) = (vec![], vec![0; piece]);
        loop {
            let length = ahead.read(&mut buffer).await.expect("it has no errors");
            if length == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..length]);
        }
        assert_eq!(got, all);
        assert_eq!(ahead.held.capacity(), 0, "memory is held only while there are bytes");
        ahead.io.asked
    }

    #[tokio::test]
    async fn little_is_passed_through() {
        assert_eq!(read(100, 4096).await, [4096, 4096]);
    }

    #[tokio::test]
    async fn much_is_read_in_large_pieces() {
        // The first read is filled, so the next ones ask for more; the last large one says that this is over.
        assert_eq!(read(4096 + AHEAD_BYTES + 100, 4096).await, [4096, AHEAD_BYTES, AHEAD_BYTES, 4096]);
    }

    #[tokio::test]
    async fn a_reader_with_a_large_buffer_gets_it_filled() {
        assert_eq!(read(AHEAD_BYTES, AHEAD_BYTES).await, [AHEAD_BYTES, AHEAD_BYTES]);
    }
}
