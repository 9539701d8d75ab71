//! Wall-clock time for certificates and tokens that follows tokio's (paused) clock, and that can jump.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_identity::clock::Clock;
use parking_lot::Mutex;
use tokio::time::Instant;

/// 2030-01-01T00:00:00Z: any fixed date will do; one in the future of the build shows code that asks the machine instead.
const START: Duration = Duration::from_secs(1_893_456_000);

#[derive(Clone, Debug)]
pub struct SimClock {
    begun: Instant,
    /// Seconds by which the clock was set forward (negative: back).
    jump: Arc<Mutex<i64>>,
}

impl SimClock {
    /// Starts now; call it inside the runtime whose time it follows.
    pub fn start() -> SimClock {
        SimClock { begun: Instant::now(), jump: Arc::default() }
    }

    /// Somebody sets the clock.
    pub fn jump(&self, seconds: i64) {
        *self.jump.lock() += seconds;
    }
}

impl Clock for SimClock {
    fn now(&self) -> SystemTime {
        let steady = UNIX_EPOCH + START + self.begun.elapsed();
        let jump = *self.jump.lock();
        if jump >= 0 { steady + Duration::from_secs(jump as u64) } else { steady - Duration::from_secs(jump.unsigned_abs()) }
    }
}
