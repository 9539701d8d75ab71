//! When to send PING and when a peer is dead. Pure: times and counts in, a step out (spec/dataplane.md 1.7).
//!
//! ```text
//!   Opening --first SETTINGS--> Quiet --ping_after, or asked--> Pinged --answer--> Quiet
//!      |                                                          |
//!      +-- handshake limit --> Dead          ping_timeout without a byte --> Dead
//! ```

use std::time::{Duration, Instant};

/// The state of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    after: Duration,
    timeout: Duration,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Opening {
        until: Instant,
    },
    Quiet {
        until: Instant,
    },
    /// `heard` is the count of bytes when the limit began to run.
    Pinged {
        until: Instant,
        heard: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Wait,
    Ping,
    /// No SETTINGS within the handshake limit.
    Unsettled,
    Dead,
}

impl Keepalive {
    pub fn new(after: Duration, timeout: Duration, settle_by: Instant) -> Self {
        Keepalive { after, timeout, phase: Phase::Opening { until: settle_by } }
    }

    /// When `at` wants to be called next, at the latest.
    pub fn due(&self) -> Instant {
        match self.phase {
            Phase::Opening { until } | Phase::Quiet { until } | Phase::Pinged { until, .. } => until,
        }
    }

    /// The time has come, or may have. `heard` is the number of bytes received so far.
    pub fn at(&mut self, now: Instant, heard: u64) -> Step {
        match self.phase {
            Phase::Opening { until } if now >= until => Step::Unsettled,
            Phase::Quiet { until } if now >= until => Step::Ping,
            // Bytes that arrive are a sign of life, even when the answer is stuck behind them.
            Phase::Pinged { until, heard: then } if now >= until && heard > then => {
                self.phase = Phase::Pinged { until: now + self.timeout, heard };
                Step::Wait
            }
            Phase::Pinged { until, .. } if now >= until => Step::Dead,
            _ => Step::Wait,
        }
    }

    /// The peer's first SETTINGS are here; later calls change nothing.
    pub fn settled(&mut self, now: Instant) -> bool {
        let first = matches!(self.phase, Phase::Opening { .. });
        if first {
            self.phase = Phase::Quiet { until: now + self.after };
        }
        first
    }

    /// Whether a PING may be sent now: one at a time.
    pub fn may_ping(&self) -> bool {
        matches!(self.phase, Phase::Quiet { .. })
    }

    /// The time for a PING had come, and none was wanted.
    pub fn skipped(&mut self, now: Instant) {
        self.phase = Phase::Quiet { until: now + self.after };
    }

    pub fn pinged(&mut self, now: Instant, heard: u64) {
        self.phase = Phase::Pinged { until: now + self.timeout, heard };
    }

    pub fn answered(&mut self, now: Instant) {
        self.phase = Phase::Quiet { until: now + self.after };
    }
}

#[cfg(test)]
mod tests;
