//! `Known`: a stream together with what is known of its peer, which may end it. Reads and writes pass through.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::crl::Registered;

/// A stream whose peer is known.
#[derive(Debug)]
pub struct Known<S, P> {
    pub stream: S,
    pub peer: P,
}

/// What is known of the peer of a stream.
pub trait Peer: Unpin {
    /// Why nothing is to be heard from this peer any more. Asked before each wait for its bytes, also after the answer.
    fn poll_over(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

/// The kind of error by which a cut for a revoked certificate is known further up, where HTTP/2 has wrapped it in an error
/// of its own: no socket that is open already gives it.
pub const REVOKED: io::ErrorKind = io::ErrorKind::PermissionDenied;

/// A peer that is heard until a certificate of its path is revoked.
pub struct UntilRevoked {
    _registered: Registered,
    /// Gone when it has come.
    revoked: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl UntilRevoked {
    pub fn new(registered: Registered) -> UntilRevoked {
        let revoked = Some(Box::pin(registered.token().cancelled_owned()));
        UntilRevoked { _registered: registered, revoked }
    }
}

impl Peer for UntilRevoked {
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Some(revoked) = &mut self.revoked {
            std::task::ready!(revoked.as_mut().poll(cx));
            self.revoked = None;
        }
        Poll::Ready(io::Error::new(REVOKED, "peer certificate revoked by CRL"))
    }
}

impl<S: AsyncRead + Unpin, P: Peer> AsyncRead for Known<S, P> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        // Asked only before a wait, which every connection comes to when its socket is drained: bulk pays nothing for it.
        if read.is_pending()
            && let Poll::Ready(over) = self.peer.poll_over(cx)
        {
            return Poll::Ready(Err(over));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Known<S, P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    // HTTP/2 writes header and data in one call; without these two it would write twice.
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crl::Registered;
    use tokio::io::AsyncReadExt as _;

    // A driver may poll a connection that broke once more, to say goodbye.
    #[tokio::test]
    async fn a_stream_stays_broken_after_its_peer_was_revoked() {
        let (near, _far) = tokio::io::duplex(64);
        let registered = Registered::alone();
        let token = registered.token();
        let mut known = Known { stream: near, peer: UntilRevoked::new(registered) };
        let mut byte = [0];
        let early = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut known).poll_read(cx, &mut ReadBuf::new(&mut byte)))).await;
        assert!(early.is_pending(), "nobody is revoked yet");
        token.cancel();
        for _ in 0..3 {
            assert_eq!(known.read(&mut [0]).await.expect_err("the peer is revoked").kind(), REVOKED);
        }
    }
}
