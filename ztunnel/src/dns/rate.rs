//! How many questions a pod may ask: so many a second, with a burst of one second's worth. Pure: time is an argument.

use tokio::time::Instant;

/// A bucket of permissions that fills at a steady rate.
#[derive(Debug)]
pub struct Rate {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Rate {
    pub fn new(per_second: u32, now: Instant) -> Rate {
        let per_second = f64::from(per_second);
        Rate { per_second, left: per_second, at: now }
    }

    /// Takes one permission, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.per_second).min(self.per_second);
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    // T-15
    #[test]
    fn a_burst_of_a_second_then_the_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(100, start);
        let taken = |rate: &mut Rate, now| (0..1000).filter(|_| rate.take(now)).count();
        assert_eq!(taken(&mut rate, start), 100);
        assert_eq!(taken(&mut rate, start + Duration::from_millis(50)), 5);
        assert_eq!(taken(&mut rate, start + Duration::from_secs(3600)), 100);
        assert_eq!(taken(&mut rate, start), 0, "a clock that goes back gives nothing");
    }
}
