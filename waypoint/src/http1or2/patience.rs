//! How long a client of HTTP/1.1 may take for a head that it has begun.
//!
//! hyper's own timer runs from the end of the answer before, and would end a kept connection that is idle as soon as a slow
//! head; and it is made anew for each request. Here it is set when a head has begun and there is no more to read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::conduct::Conduct;

/// A head that takes longer is an attack, or a client whose answer nobody waits for any more.
pub(super) const HEAD_MAX: Duration = Duration::from_secs(30);

pub(super) struct Patience<T> {
    io: T,
    conduct: Arc<Conduct>,
    /// When the head began that is not whole, and how many requests there had been before it.
    begun: Option<(Instant, u32)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T> Patience<T> {
    pub fn new(io: T, conduct: Arc<Conduct>) -> Patience<T> {
        Patience { io, conduct, begun: None, timer: None }
    }

    /// When it began, if the head that came after so many requests has begun and is not whole.
    fn begun(&self, requests: u32) -> Option<Instant> {
        self.begun.filter(|(_, before)| *before == requests).map(|(at, _)| at)
    }

    fn is_late(&mut self, requests: u32, cx: &mut Context<'_>) -> bool {
        let Some(begun) = self.begun(requests) else { return false };
        let due = begun + HEAD_MAX;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patience<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        let Some(requests) = this.conduct.waiting() else { return polled };
        match polled {
            Poll::Ready(Ok(())) if buf.filled().len() > before && this.begun(requests).is_none() => {
                this.begun = Some((Instant::now(), requests));
            }
            Poll::Pending if this.is_late(requests, cx) => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            _ => {}
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patience<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
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
