//! Counts what a relay moves for another, and sees when nothing does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_net::relay::Meter;

pub struct Watched<'m, M> {
    meter: &'m M,
    moved: AtomicU64,
}

impl<'m, M: Meter> Watched<'m, M> {
    pub fn new(meter: &'m M) -> Watched<'m, M> {
        Watched { meter, moved: AtomicU64::new(0) }
    }

    /// Resolves when nothing has moved for `max`. Looked at a few times within it, so late by a quarter at most.
    pub async fn idle(&self, max: Duration) {
        if max.is_zero() {
            return std::future::pending().await;
        }
        let (mut before, mut still) = (self.moved.load(Ordering::Relaxed), 0);
        while still < LOOKS {
            tokio::time::sleep(max / LOOKS).await;
            let now = self.moved.load(Ordering::Relaxed);
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
    }
}

/// A timer for each would be one more piece of work per chunk; four looks an hour cost nothing.
const LOOKS: u32 = 4;

impl<M: Meter> Meter for Watched<'_, M> {
    fn forward(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        self.meter.forward(bytes);
    }

    fn backward(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        self.meter.backward(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn idle_is_who_has_moved_nothing_for_so_long() {
        let watched = Watched::new(&());
        let began = Instant::now();
        watched.idle(Duration::from_secs(40)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(40));
        let began = Instant::now();
        let moving = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(15)).await;
                watched.forward(1);
            }
            std::future::pending::<()>().await
        };
        tokio::select! { () = watched.idle(Duration::from_secs(40)) => {}, () = moving => {} }
        let took = began.elapsed().as_secs();
        assert!((190..=200).contains(&took), "{took}");
    }
}
