//! How large a receive window a connection's streams get. Pure: bytes received per round trip in, a size out.
//!
//! A window is what a stalled receiver lets pile up, and what a long path needs to be filled. So it starts small,
//! doubles while a round trip brings most of a window, and falls back when the connection has been quiet. The more streams
//! share the connection's own window, the smaller it is: those that stall one after the other must not use all of it up.

use std::time::{Duration, Instant};

/// Not more often than this is a round trip measured: ten PINGs per second are no load for anyone.
const MEASURE_EVERY: Duration = Duration::from_millis(100);

/// The window of one connection's streams, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    least: u32,
    most: u32,
    /// The connection's own window.
    room: u32,
    /// What a stream that has the connection to itself may have.
    now: u32,
    /// What the peer was told last.
    told: u32,
    measured: Option<Instant>,
    /// Count of DATA bytes when the running measurement began.
    from: Option<u64>,
    /// Count of DATA bytes at the last `quiet`.
    seen: u64,
}

impl Window {
    pub fn new(least: u32, most: u32, room: u32) -> Self {
        Window { least, most: most.max(least), room, now: least, told: least, measured: None, from: None, seen: 0 }
    }

    /// The size that the peer is to be told, if it is another one: an eighth of the room with one stream, of two half of
    /// that, of three and four a quarter. So the first sixteen can hold five eighths of it at most, whenever they came.
    pub fn fit(&self, streams: usize) -> Option<u32> {
        let sharing = u32::try_from(streams.max(1).next_power_of_two()).unwrap_or(u32::MAX);
        let share = (self.room / 8).checked_div(sharing).unwrap_or(0);
        Some(self.now.min(share).max(self.least)).filter(|size| *size != self.told)
    }

    pub fn told(&mut self, size: u32) {
        self.told = size;
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

    /// Its answer is here.
    pub fn end(&mut self, data: u64) {
        let Some(from) = self.from.take() else { return };
        self.seen = data;
        if self.now < self.most && data.saturating_sub(from) >= u64::from(self.now) * 2 / 3 {
            self.now = self.now.saturating_mul(2).min(self.most);
        }
    }

    /// Called once per keepalive interval: it falls back if less than one least window came in it.
    pub fn quiet(&mut self, data: u64) {
        let received = data.saturating_sub(std::mem::replace(&mut self.seen, data));
        if received < u64::from(self.least) {
            self.now = self.least;
        }
    }
}

#[cfg(test)]
mod tests;
