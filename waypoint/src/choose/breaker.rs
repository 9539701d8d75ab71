//! Circuit breaking: how much may be under way to one destination from this proxy (spec/waypoint.md 5.4).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::choose::book::Destination;
use crate::choose::policy::Policy;

/// What there was too much of. The request is answered 503 with the flag `UO`, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overflow {
    #[error("maxConnections of the destination are open")]
    Connections,
    #[error("maxPendingRequests of the destination are waiting")]
    Pending,
    #[error("maxRequests of the destination are under way")]
    Requests,
    #[error("retries of the destination are at their bound")]
    Retries,
}

#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU32);

/// Requests that wait for a connection, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Queue(Mutex<VecDeque<Waker>>);

/// The wait for a connection.
#[derive(Debug)]
#[must_use = "it waits when it is polled"]
pub struct Turn {
    destination: Arc<Destination>,
    bound: Option<u32>,
    now: Option<Held>,
    waits: Option<Held>,
}

/// One of what is counted, until it is dropped.
#[derive(Debug)]
#[must_use = "it counts as long as this lives"]
pub struct Held {
    pub(super) destination: Arc<Destination>,
    kind: Overflow,
}

impl Gauge {
    pub fn now(&self) -> u32 {
        self.0.load(Relaxed)
    }

    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub fn sub(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// One more, unless there are `bound` already.
    pub fn add_below(&self, bound: Option<u32>) -> bool {
        let Some(bound) = bound else {
            self.add();
            return true;
        };
        self.0.fetch_update(Relaxed, Relaxed, |now| (now < bound).then_some(now + 1)).is_ok()
    }
}

impl Destination {
    /// Asked before a connection is opened that cannot wait; held as long as it is open.
    ///
    /// # Errors
    /// When `maxConnections` are open.
    pub fn connection(self: &Arc<Destination>, policy: &Policy) -> Result<Held, Overflow> {
        self.hold(Overflow::Connections, policy.pool().connections)
    }

    /// A connection for one exchange, now or when another is over.
    ///
    /// # Errors
    /// When `maxPendingRequests` wait already.
    pub fn turn(self: &Arc<Destination>, policy: &Policy) -> Result<Turn, Overflow> {
        let bound = policy.pool().connections;
        let now = self.hold(Overflow::Connections, bound).ok();
        let waits = if now.is_some() { None } else { Some(self.hold(Overflow::Pending, policy.pool().pending)?) };
        Ok(Turn { destination: self.clone(), bound, now, waits })
    }

    pub(crate) fn hold(self: &Arc<Destination>, kind: Overflow, bound: Option<u32>) -> Result<Held, Overflow> {
        if self.gauge(kind).add_below(bound) { Ok(Held { destination: self.clone(), kind }) } else { Err(kind) }
    }

    fn gauge(&self, kind: Overflow) -> &Gauge {
        match kind {
            Overflow::Connections => &self.connections,
            Overflow::Pending => &self.pending,
            Overflow::Requests => &self.requests,
            Overflow::Retries => &self.retries,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.destination.gauge(self.kind).sub();
        if self.kind == Overflow::Connections {
            self.destination.queue.wake();
        }
    }
}

impl Queue {
    fn wake(&self) {
        let first = self.0.lock().pop_front();
        if let Some(first) = first {
            first.wake();
        }
    }

    fn join(&self, waker: &Waker) {
        let mut queue = self.0.lock();
        if !queue.iter().any(|known| known.will_wake(waker)) {
            queue.push_back(waker.clone());
        }
    }
}

impl Future for Turn {
    type Output = Held;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Held> {
        let (destination, bound) = (self.destination.clone(), self.bound);
        let free = || destination.hold(Overflow::Connections, bound).ok();
        let held = self.now.take().or_else(free).or_else(|| {
            destination.queue.join(cx.waker());
            // What became free between the look and the place in the queue.
            free()
        });
        match held {
            Some(held) => {
                self.waits = None;
                Poll::Ready(held)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Whoever was woken and left wakes the next.
        self.destination.queue.wake();
    }
}
