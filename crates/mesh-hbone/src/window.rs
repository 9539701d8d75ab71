//! How large a receive window a connection's streams get. Pure: bytes received per round trip in, a size out.
//!
//! A window is what a stalled receiver lets pile up, and what a long path needs to be filled. So it starts small,
//! doubles while a round trip brings most of a window, and falls back when the connection has been quiet.

use std::time::{Duration, Instant};

/// Not more often than this is a round trip measured: ten PINGs per second are no load for anyone.
const MEASURE_EVERY: Duration = Duration::from_millis(100);

/// The window of one connection's streams, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    least: u32,
    most: u32,
    now: u32,
    measured: Option<Instant>,
    /// Count of DATA bytes when the running measurement began.
    from: Option<u64>,
    /// Count of DATA bytes at the last `quiet`.
    seen: u64,
}

impl Window {
    pub fn new(least: u32, most: u32) -> Self {
        Window { least, most: most.max(least), now: least, measured: None, from: None, seen: 0 }
    }

    /// Whether it could still grow, and half a window has come since the last time.
    pub fn has_news(&self, data: u64) -> bool {
        self.now < self.most && self.from.is_none() && data.saturating_sub(self.seen) >= u64::from(self.now) / 2
    }

    /// There is news and a PING could be sent: whether to measure a round trip now.
    pub fn begin(&mut self, data: u64, now: Instant) -> bool {
        let due = self.measured.is_none_or(|then| now.saturating_duration_since(then) >= MEASURE_EVERY);
        if due {
            self.from = Some(data);
            self.measured = Some(now);
        }
        due
    }

    /// Its answer is here: the new size, if it changes.
    pub fn end(&mut self, data: u64) -> Option<u32> {
        let received = data.saturating_sub(self.from.take()?);
        self.seen = data;
        if self.now < self.most && received >= u64::from(self.now) * 2 / 3 {
            self.now = self.now.saturating_mul(2).min(self.most);
            return Some(self.now);
        }
        None
    }

    /// Called once per keepalive interval: the size to fall back to, if less than one least window came in it.
    pub fn quiet(&mut self, data: u64) -> Option<u32> {
        let received = data.saturating_sub(std::mem::replace(&mut self.seen, data));
        if self.now > self.least && received < u64::from(self.least) {
            self.now = self.least;
            return Some(self.now);
        }
        None
    }
}

#[cfg(test)]
mod tests;
