//! Moves bytes between two ends until both are done: one task, both directions in one poll, no lock.
//!
//! An idle connection holds no buffer (a chunk exists only between a read and its write, at most one per direction, so
//! a slow reader slows its writer). A clean end travels as a clean end, one direction at a time; a reset or a failure of
//! one side becomes a reset of the other, never a clean end.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::duplex::Duplex;

/// What the first read asks for, and what an interactive connection stays at: a request fits, and 10,000 of them at once are 40 MB.
const SMALL_BYTES: usize = 4 * 1024;
/// What bulk grows to: beyond this, larger reads save no measurable CPU and cost cache.
const LARGE_BYTES: usize = 256 * 1024;
/// Chunks moved in one direction before other tasks of the thread get their turn.
const CHUNKS_PER_POLL: u32 = 16;
/// How long a connection of which one direction has ended may live (spec/reliability.md F-32): longer than any answer
/// that somebody waits for, short enough that forgotten ones do not pile up.
pub const HALF_CLOSED_MAX: Duration = Duration::from_secs(3600);
/// How often a half-closed connection is asked whether its socket broke, since nobody reads there any more.
const HALF_CLOSED_CHECK: Duration = Duration::from_secs(10);

/// Is told of bytes when they were delivered, not when they were read. Called from the relay's own poll: must be cheap.
pub trait Meter {
    /// From the first end to the second.
    fn forward(&self, bytes: u64);
    /// From the second end to the first.
    fn backward(&self, bytes: u64);
}

impl Meter for () {
    fn forward(&self, _: u64) {}
    fn backward(&self, _: u64) {}
}

/// One of the two ends, in the order in which they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    First,
    Second,
}

/// Why a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both directions ended cleanly.
    Finished,
    /// This side reset the connection; the other side has been reset.
    Reset(Side),
    /// This side failed otherwise; the other side has been reset.
    Failed(Side, io::Error),
    /// One direction ended and the other, read from this side, was not over in [`HALF_CLOSED_MAX`]; both were reset.
    HalfClosedTooLong(Side),
}

/// What a relay moved, and why it ended.
#[derive(Debug)]
pub struct Relayed {
    /// Bytes delivered from the first end to the second.
    pub forward: u64,
    /// Bytes delivered from the second end to the first.
    pub backward: u64,
    pub end: End,
}

/// Relays until both directions are over. Both ends are still the caller's afterwards: drop them.
///
/// Cancel-safe in the sense that matters: when the future is dropped, no byte was counted that was not delivered;
/// whoever drops it because the connection must end calls [`Duplex::reset`] on both ends.
pub async fn relay<A, B, M>(first: &mut A, second: &mut B, meter: &M) -> Relayed
where
    A: Duplex,
    B: Duplex,
    M: Meter,
{
    relay_within(first, second, meter, HALF_CLOSED_MAX).await
}

/// [`relay`], with another bound on the life of a half-closed connection.
pub async fn relay_within<A, B, M>(first: &mut A, second: &mut B, meter: &M, half_closed_max: Duration) -> Relayed
where
    A: Duplex,
    B: Duplex,
    M: Meter,
{
    let mut forward = Direction::default();
    let mut backward = Direction::default();
    let mut half_closed = None;
    let end = poll_fn(|cx| {
        let there = forward.poll(cx, first, second, |bytes| meter.forward(bytes));
        if let Poll::Ready(Err(fault)) = there {
            return Poll::Ready(fault.end(Side::First, Side::Second));
        }
        let back = backward.poll(cx, second, first, |bytes| meter.backward(bytes));
        if let Poll::Ready(Err(fault)) = back {
            return Poll::Ready(fault.end(Side::Second, Side::First));
        }
        let reader = match (there.is_ready(), back.is_ready()) {
            (true, true) => return Poll::Ready(End::Finished),
            (false, false) => return Poll::Pending,
            (true, false) => Side::Second,
            (false, true) => Side::First,
        };
        let wait = half_closed.get_or_insert_with(|| Box::new(HalfClosed::begin(half_closed_max)));
        wait.poll(cx, reader, first, second)
    })
    .await;
    if !matches!(end, End::Finished) {
        first.reset();
        second.reset();
    }
    Relayed { forward: forward.moved, backward: backward.moved, end }
}

/// The bytes of one direction.
struct Direction {
    /// Read and not yet written; empty when there is nothing on the way.
    chunk: Bytes,
    /// How much the next read asks for.
    ask: usize,
    stage: Stage,
    moved: u64,
}

enum Stage {
    Moving,
    Finishing,
    Done,
}

/// Which end of a direction broke.
enum Fault {
    Reading(io::Error),
    Writing(io::Error),
}

impl Default for Direction {
    fn default() -> Direction {
        Direction { chunk: Bytes::new(), ask: SMALL_BYTES, stage: Stage::Moving, moved: 0 }
    }
}

impl Direction {
    /// `Ready(Ok)` once this direction is over, its clean end passed on.
    fn poll<R: Duplex, W: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        delivered: impl Fn(u64),
    ) -> Poll<Result<(), Fault>> {
        for _ in 0..CHUNKS_PER_POLL {
            match self.stage {
                Stage::Moving if self.chunk.is_empty() => match ready!(from.poll_read_chunk(cx, self.ask)) {
                    Ok(Some(chunk)) => {
                        self.ask = next_ask(self.ask, chunk.len());
                        self.chunk = chunk;
                    }
                    Ok(None) => self.stage = Stage::Finishing,
                    Err(error) => return Poll::Ready(Err(Fault::Reading(error))),
                },
                Stage::Moving => {
                    let before = self.chunk.len();
                    let written = to.poll_write_chunk(cx, &mut self.chunk);
                    let taken = (before - self.chunk.len()) as u64;
                    if taken > 0 {
                        self.moved += taken;
                        delivered(taken);
                    }
                    ready!(written).map_err(Fault::Writing)?;
                    self.chunk = Bytes::new(); // gives the buffer back before the next wait
                }
                Stage::Finishing => {
                    ready!(to.poll_finish(cx)).map_err(Fault::Writing)?;
                    self.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
        if let Stage::Done = self.stage {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Grows fast while reads come back full, shrinks slowly when they come back nearly empty.
fn next_ask(ask: usize, got: usize) -> usize {
    if got >= ask {
        (ask * 4).min(LARGE_BYTES)
    } else if got < ask / 4 {
        (ask / 2).max(SMALL_BYTES)
    } else {
        ask
    }
}

impl Fault {
    fn end(self, reader: Side, writer: Side) -> End {
        let (side, error) = match self {
            Fault::Reading(error) => (reader, error),
            Fault::Writing(error) => (writer, error),
        };
        end_of(side, error)
    }
}

/// What an error of this side means. A write to a socket whose peer has reset it says `BrokenPipe`, ending it `NotConnected`.
fn end_of(side: Side, error: io::Error) -> End {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    match error.kind() {
        ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected => End::Reset(side),
        _ => End::Failed(side, error),
    }
}

/// The bounded wait for the second direction. It exists, and its timer, only then: a connection with both directions open
/// has none.
struct HalfClosed {
    until: Instant,
    check: Pin<Box<Sleep>>,
}

impl HalfClosed {
    fn begin(max: Duration) -> HalfClosed {
        let now = Instant::now();
        let until = now + max;
        HalfClosed { until, check: Box::pin(sleep_until(until.min(now + HALF_CLOSED_CHECK))) }
    }

    fn poll<A: Duplex, B: Duplex>(&mut self, cx: &mut Context<'_>, reader: Side, a: &mut A, b: &mut B) -> Poll<End> {
        if let Poll::Ready(error) = a.poll_broken(cx) {
            return Poll::Ready(end_of(Side::First, error));
        }
        if let Poll::Ready(error) = b.poll_broken(cx) {
            return Poll::Ready(end_of(Side::Second, error));
        }
        loop {
            ready!(self.check.as_mut().poll(cx));
            for (side, broken) in [(Side::First, a.broken()), (Side::Second, b.broken())] {
                if let Some(error) = broken {
                    return Poll::Ready(end_of(side, error));
                }
            }
            let now = Instant::now();
            if now >= self.until {
                return Poll::Ready(End::HalfClosedTooLong(reader));
            }
            self.check.as_mut().reset(self.until.min(now + HALF_CLOSED_CHECK));
        }
    }
}

#[cfg(test)]
mod tests;
