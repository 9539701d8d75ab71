//! A connected pair of streams in memory, with half-close, back-pressure and reset like TCP's: what the simulator and
//! tests relay over. No clock, no task, no randomness: it runs the same way every time.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::duplex::Duplex;

/// One end of the pair. Dropping it ends it like closing a socket: cleanly, or by a reset when bytes were left unread.
#[derive(Debug)]
pub struct Memory {
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
}

/// One direction.
#[derive(Debug)]
struct Pipe {
    chunks: VecDeque<Bytes>,
    /// Bytes in `chunks`, never more than `room`.
    held: usize,
    room: usize,
    finished: bool,
    /// Whoever reads or writes from now on gets a reset; what was on the way is lost.
    reset: bool,
    /// The reading end was dropped: writing is answered by a reset, ending is still clean.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Two ends; each direction holds at most `room` bytes that were written and not yet read.
pub fn pair(room: usize) -> (Memory, Memory) {
    let there = Pipe::new(room);
    let back = Pipe::new(room);
    (Memory { incoming: back.clone(), outgoing: there.clone() }, Memory { incoming: there, outgoing: back })
}

impl Pipe {
    fn new(room: usize) -> Arc<Mutex<Pipe>> {
        assert!(room > 0, "a pipe without room never moves a byte");
        Arc::new(Mutex::new(Pipe {
            chunks: VecDeque::new(),
            held: 0,
            room,
            finished: false,
            reset: false,
            unread: false,
            reader: None,
            writer: None,
        }))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Bytes>>> {
        if self.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let Some(first) = self.chunks.front_mut() else {
            if self.finished {
                return Poll::Ready(Ok(None));
            }
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let chunk = first.split_to(first.len().min(max));
        if first.is_empty() {
            self.chunks.pop_front();
        }
        self.held -= chunk.len();
        wake(&mut self.writer);
        Poll::Ready(Ok(Some(chunk)))
    }

    /// Takes as much as there is room for; how much.
    fn poll_write(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        if self.finished && !self.reset {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.reset || self.unread {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let taken = chunk.len().min(self.room - self.held);
        if taken == 0 && !chunk.is_empty() {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if taken > 0 {
            self.chunks.push_back(chunk.split_to(taken));
            self.held += taken;
            wake(&mut self.reader);
        }
        Poll::Ready(Ok(taken))
    }

    fn finish(&mut self) {
        self.finished = true;
        wake(&mut self.reader);
    }

    fn reset(&mut self) {
        self.reset = true;
        self.discard();
    }

    /// Forgets what nobody will read, and lets a waiting writer see why.
    fn discard(&mut self) {
        self.chunks.clear();
        self.held = 0;
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().expect("no code that holds this lock can panic")
}

impl Duplex for Memory {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Bytes>>> {
        lock(&self.incoming).poll_read(cx, max)
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.outgoing);
        while !chunk.is_empty() {
            std::task::ready!(pipe.poll_write(cx, chunk))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.outgoing);
        if pipe.reset {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        pipe.finish();
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {
        lock(&self.incoming).reset();
        lock(&self.outgoing).reset();
    }

    fn broken(&self) -> Option<io::Error> {
        lock(&self.incoming).reset.then(|| io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(chunk) = std::task::ready!(self.poll_read_chunk(cx, buffer.remaining()))? {
            buffer.put_slice(&chunk);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.outgoing);
        let fits = bytes.len().min((pipe.room - pipe.held).max(1));
        let mut chunk = Bytes::copy_from_slice(&bytes[..fits]);
        pipe.poll_write(cx, &mut chunk)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(cx)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut incoming = lock(&self.incoming);
        let unread = incoming.chunks.iter().any(Buf::has_remaining);
        incoming.unread = true;
        incoming.discard();
        drop(incoming);
        let mut outgoing = lock(&self.outgoing);
        if unread { outgoing.reset() } else { outgoing.finish() }
    }
}

#[cfg(test)]
mod tests;
