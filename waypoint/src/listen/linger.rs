//! The end of an HTTP connection: our side ends it while the client's is still open, as after `connection: close`. A tunnel
//! that is dropped then is reset, and the answer may be lost with it; so we listen on until the client has ended, too
//! (RFC 9112 9.6).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, copy, sink};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// A client closes when it has read the answer; one that does not has lost its right to a clean end.
const LINGER: Duration = Duration::from_secs(5);
/// What a client may still say meanwhile.
const BYTES_MAX: u64 = 1 << 20;

/// A stream that outlives its owner until its client has ended.
pub struct Lingering<T: AsyncRead + Unpin + Send + 'static> {
    io: Option<T>,
    /// Our direction has ended in order.
    ended: bool,
}

impl<T: AsyncRead + Unpin + Send + 'static> Lingering<T> {
    pub fn new(io: T) -> Lingering<T> {
        Lingering { io: Some(io), ended: false }
    }

    fn io(&mut self) -> Pin<&mut T> {
        Pin::new(self.io.as_mut().expect("it is taken when this is dropped"))
    }
}

impl<T: AsyncRead + Unpin + Send + 'static> Drop for Lingering<T> {
    fn drop(&mut self) {
        let Some(mut io) = self.io.take().filter(|_| self.ended) else { return };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = timeout(LINGER, copy(&mut (&mut io).take(BYTES_MAX), &mut sink())).await;
            });
        }
    }
}

impl<T: AsyncRead + Unpin + Send + 'static> AsyncRead for Lingering<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Lingering<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(T::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.io().poll_shutdown(cx))?;
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}
