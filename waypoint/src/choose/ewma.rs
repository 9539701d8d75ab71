//! How long an endpoint takes to answer, weighted towards the present and towards the worst (Peak EWMA).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What was seen this long ago counts for a third (the field's).
const DECAY: Duration = Duration::from_secs(10);
/// What is thought of an endpoint before it has answered: little, so that it is tried soon, but not nothing.
const START_NANOS: f64 = 1_000_000.0;
/// A failure counts as an answer that took this long: an endpoint that fails fast is not a fast endpoint.
const PENALTY: Duration = Duration::from_secs(1);

/// Written by many without a lock: of two observations at one moment one may be lost, which an average can bear.
#[derive(Debug)]
pub struct Ewma {
    /// Bits of an `f64` of nanoseconds.
    value: AtomicU64,
    /// Nanoseconds of the destination's clock.
    at: AtomicU64,
}

impl Default for Ewma {
    fn default() -> Ewma {
        Ewma { value: AtomicU64::new(START_NANOS.to_bits()), at: AtomicU64::new(0) }
    }
}

impl Ewma {
    pub fn observe(&self, took: Duration, now: u64) {
        let (old, before) = (f64::from_bits(self.value.load(Relaxed)), self.at.swap(now, Relaxed));
        self.value.store(next(old, took.as_nanos() as f64, now.saturating_sub(before)).to_bits(), Relaxed);
    }

    pub fn punish(&self, now: u64) {
        self.observe(PENALTY, now);
    }

    /// What it would be by now had nothing else been seen: an endpoint that was slow is tried again after a while.
    pub fn now(&self, now: u64) -> f64 {
        let (value, before) = (f64::from_bits(self.value.load(Relaxed)), self.at.load(Relaxed));
        START_NANOS.min(value).max(value * weight_of_old(now.saturating_sub(before)))
    }
}

fn next(old: f64, seen: f64, elapsed: u64) -> f64 {
    if seen > old {
        return seen;
    }
    let weight = weight_of_old(elapsed);
    old * weight + seen * (1.0 - weight)
}

fn weight_of_old(elapsed: u64) -> f64 {
    (-(elapsed as f64) / DECAY.as_nanos() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_jumps_up_and_comes_down_slowly() {
        let ewma = Ewma::default();
        ewma.observe(Duration::from_millis(100), SECOND);
        assert_eq!(ewma.now(SECOND), 100e6);
        ewma.observe(Duration::from_millis(10), 11 * SECOND);
        let expected = 100e6 / std::f64::consts::E + 10e6 * (1.0 - 1.0 / std::f64::consts::E);
        assert!((ewma.now(11 * SECOND) - expected).abs() < 1.0, "{}", ewma.now(11 * SECOND));
        ewma.punish(11 * SECOND);
        assert_eq!(ewma.now(11 * SECOND), 1e9);
        assert_eq!(ewma.now(11 * SECOND + 1000 * SECOND), START_NANOS, "forgotten");
    }
}
