//! Circuit breaking: how much may be under way to one destination from this proxy (spec/waypoint.md 5.4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

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
    /// Asked before a connection is opened; held as long as it is open.
    ///
    /// # Errors
    /// When `maxConnections` are open.
    pub fn connection(self: &Arc<Destination>, policy: &Policy) -> Result<Held, Overflow> {
        self.hold(Overflow::Connections, policy.pool().connections)
    }

    /// Asked before a request waits for a connection; held as long as it waits.
    ///
    /// # Errors
    /// When `maxPendingRequests` wait.
    pub fn pending(self: &Arc<Destination>, policy: &Policy) -> Result<Held, Overflow> {
        self.hold(Overflow::Pending, policy.pool().pending)
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
    }
}
