//! How old our picture of the mesh is. A lost control plane alone refuses nothing; a picture older than its limit does,
//! because policies may have come that we never saw (design decision 5).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mesh_xds::client::Contact;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Refusal;

/// Since when the control plane has not been heard. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Freshness(Arc<Heard>);

#[derive(Debug)]
struct Heard {
    begun: Instant,
    limit: Duration,
    /// Milliseconds after `begun` at which the control plane was lost; `CONNECTED` while it is there.
    lost_at: AtomicU64,
}

const CONNECTED: u64 = u64::MAX;

impl Freshness {
    /// A picture that counts as fresh now.
    pub fn new(limit: Duration) -> Freshness {
        Freshness(Arc::new(Heard { begun: Instant::now(), limit, lost_at: AtomicU64::new(CONNECTED) }))
    }

    pub fn connected(&self) {
        self.0.lost_at.store(CONNECTED, Relaxed);
    }

    /// The control plane is gone; the earliest such moment counts.
    pub fn lost(&self) {
        let now = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(CONNECTED - 1);
        let _ = self.0.lost_at.compare_exchange(CONNECTED, now, Relaxed, Relaxed);
    }

    /// Notes what the client of the control plane says about its stream, for as long as that lives.
    pub async fn follow(self, mut contact: watch::Receiver<Contact>) {
        loop {
            if contact.borrow_and_update().connected { self.connected() } else { self.lost() }
            if contact.changed().await.is_err() {
                return self.lost();
            }
        }
    }

    /// How long the control plane has been gone; zero while it is there.
    pub fn age(&self) -> Duration {
        match self.0.lost_at.load(Relaxed) {
            CONNECTED => Duration::ZERO,
            lost_at => self.0.begun.elapsed().saturating_sub(Duration::from_millis(lost_at)),
        }
    }

    /// # Errors
    /// [`Refusal::Stale`].
    pub fn check(&self) -> Result<(), Refusal> {
        let age = self.age();
        if age > self.0.limit { Err(Refusal::Stale { age }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_picture_older_than_its_limit_refuses() {
        let freshness = Freshness::new(Duration::from_secs(100));
        tokio::time::advance(Duration::from_secs(1_000)).await;
        assert_eq!(freshness.check(), Ok(()));
        freshness.lost();
        tokio::time::advance(Duration::from_secs(90)).await;
        freshness.lost();
        assert_eq!((freshness.check(), freshness.age().as_secs()), (Ok(()), 90));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(matches!(freshness.check(), Err(Refusal::Stale { .. })));
        freshness.connected();
        assert_eq!(freshness.check(), Ok(()));
    }
}
