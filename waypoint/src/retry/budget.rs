//! How much retries may add to what a backend has to bear (spec/waypoint.md 5.2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::choose::policy::{Budget, Policy};
use crate::choose::{Destination, Held, Overflow};

/// First tries and retries of the last interval: this one, and the part of the one before that is not over yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Number of the interval, counted from the destination's beginning.
    number: u64,
    now: Counts,
    before: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    asked: u64,
    retried: u64,
}

impl Window {
    pub fn asked(&mut self, interval: Duration, now: u64) {
        self.roll(interval, now);
        self.now.asked += 1;
    }

    /// Counts a retry, if there is room for it.
    pub fn retry(&mut self, share: f64, least_per_second: u32, interval: Duration, now: u64) -> bool {
        self.roll(interval, now);
        let interval_nanos = nanos(interval);
        let old = 1.0 - (now % interval_nanos) as f64 / interval_nanos as f64;
        let asked = self.now.asked as f64 + self.before.asked as f64 * old;
        let retried = self.now.retried as f64 + self.before.retried as f64 * old;
        let bound = (share * asked).max(f64::from(least_per_second) * interval.as_secs_f64());
        let room = retried + 1.0 <= bound;
        if room {
            self.now.retried += 1;
        }
        room
    }

    fn roll(&mut self, interval: Duration, now: u64) {
        let number = now / nanos(interval);
        if number != self.number {
            self.before = if number == self.number + 1 { self.now } else { Counts::default() };
            self.now = Counts::default();
            self.number = number;
        }
    }
}

fn nanos(interval: Duration) -> u64 {
    u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1)
}

impl Destination {
    /// A request that is no retry.
    pub(crate) fn count_first_try(&self, budget: Budget, now: Instant) {
        if let Budget::Rate { interval, .. } = budget {
            self.window.lock().asked(interval, self.nanos(now));
        }
    }

    /// A place for one retry, held until it has ended.
    pub(super) fn retry(self: &Arc<Destination>, policy: &Policy, now: Instant) -> Result<Held, Overflow> {
        let cap = policy.pool().retries;
        match policy.budget() {
            Budget::Concurrent { share, least } => {
                let bound = ((share * f64::from(self.active())) as u32).max(least);
                self.hold(Overflow::Retries, Some(cap.map_or(bound, |cap| cap.min(bound))))
            }
            Budget::Rate { share, least_per_second, interval } => {
                let held = self.hold(Overflow::Retries, cap)?;
                let room = self.window.lock().retry(share, least_per_second, interval, self.nanos(now));
                if room { Ok(held) } else { Err(Overflow::Retries) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_share_of_what_was_asked_and_a_rate_that_is_always_there() {
        let mut window = Window::default();
        let at = |ms: u64| ms * 1_000_000;
        for _ in 0..100 {
            window.asked(SECOND, at(10));
        }
        let retries = |window: &mut Window, now| (0..100).filter(|_| window.retry(0.2, 5, SECOND, now)).count();
        assert_eq!(retries(&mut window, at(500)), 20);
        assert_eq!(retries(&mut window, at(1000)), 0, "all of the last interval still counts");
        assert_eq!(retries(&mut window, at(1500)), 0, "half of it: 10 of 50, and 10 were made");
        assert_eq!(retries(&mut window, at(3000)), 5, "nothing was asked: the least rate");
    }
}
