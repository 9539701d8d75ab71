//! How long to wait before the next try: doubling, up to a limit, spread so that a thousand nodes do not come at once.

use std::time::Duration;

use rand::Rng;

/// A doubling wait. Pure: the caller sleeps, and gives the randomness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    tries: u32,
}

impl Backoff {
    /// `first` is the wait after one failure, `longest` the wait that is never exceeded.
    pub fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { first, longest, tries: 0 }
    }

    /// The wait after one more failure: between half of the step and the whole step.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let step = self.step();
        self.tries = self.tries.saturating_add(1);
        step.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// After a success the next failure waits for `first` again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// Failures since the last success.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    fn step(&self) -> Duration {
        let factor = 1u32.checked_shl(self.tries).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn doubles_within_its_bounds_and_never_overflows() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(15));
        let mut whole = Duration::from_millis(100);
        for _ in 0..10_000 {
            let wait = backoff.next(&mut rng);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} is not in [{whole:?}/2, {whole:?}]");
            whole = (whole * 2).min(Duration::from_secs(15));
        }
        assert_eq!(backoff.tries(), 10_000);
        backoff.reset();
        assert!(backoff.next(&mut rng) <= Duration::from_millis(100));
    }

    #[test]
    fn the_waits_of_two_processes_differ() {
        let wait = |seed| Backoff::new(Duration::from_secs(1), Duration::from_secs(9)).next(&mut SmallRng::seed_from_u64(seed));
        assert_ne!(wait(1), wait(2));
    }
}
