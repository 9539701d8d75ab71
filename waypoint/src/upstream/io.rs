//! A connection of whatever kind: a socket, a tunnel, TLS over either.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use mesh_identity::outside::TlsStream;
use mesh_net::duplex::Duplex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What both HTTP and the relay of bytes can use.
pub trait Io: Duplex + AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: Duplex + AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

pub type BoxIo = Box<dyn Io>;

impl Duplex for BoxIo {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Bytes>>> {
        (**self).poll_read_chunk(cx, max)
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        (**self).poll_write_chunk(cx, chunk)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_finish(cx)
    }

    fn reset(&mut self) {
        (**self).reset();
    }

    fn broken(&self) -> Option<io::Error> {
        (**self).broken()
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        (**self).poll_broken(cx)
    }
}

/// TLS over a connection. Its reset is the connection's; its end is a `close_notify`.
pub(super) struct Sealed(pub TlsStream<BoxIo>);

impl AsyncRead for Sealed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Sealed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The most that a TLS record holds (RFC 8446 5.1): a larger read would come back with no more.
const RECORD_BYTES: usize = 16 * 1024;

impl Duplex for Sealed {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Bytes>>> {
        let mut buffer = BytesMut::with_capacity(max.min(RECORD_BYTES));
        let read = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut self.0), cx, &mut buffer))?;
        Poll::Ready(Ok((read > 0).then(|| buffer.freeze())))
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        while !chunk.is_empty() {
            let written = ready!(Pin::new(&mut self.0).poll_write(cx, chunk))?;
            chunk.advance(written);
        }
        // What TLS has sealed must leave before the relay sleeps.
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn reset(&mut self) {
        self.0.get_mut().0.reset();
    }
}
