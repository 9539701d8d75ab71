//! The authority that signs, for all who need it while it changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use mesh_identity::derived::Seed;
use mesh_identity::sign::{Ca, Issued};
use tokio::sync::watch;

#[derive(Debug)]
pub struct Live {
    ca: watch::Sender<Arc<Ca>>,
    bundle: watch::Sender<String>,
    session_seeds: watch::Sender<Vec<Seed>>,
    /// Seconds of the longest life that was handed out.
    longest_life: AtomicU64,
}

impl Live {
    pub fn new(ca: Ca, longest_life: Duration, session_seeds: Vec<Seed>) -> Live {
        let longest_life = AtomicU64::new(longest_life.as_secs());
        let bundle = watch::Sender::new(ca.root_bundle());
        Live { bundle, ca: watch::Sender::new(Arc::new(ca)), session_seeds: watch::Sender::new(session_seeds), longest_life }
    }

    pub fn ca(&self) -> Arc<Ca> {
        self.ca.borrow().clone()
    }

    /// The trust bundle, for those who pass it on.
    pub fn bundle(&self) -> watch::Receiver<String> {
        self.bundle.subscribe()
    }

    /// What waypoints' sessions are sealed with (`Stored::session_seeds`).
    pub fn session_seeds(&self) -> watch::Receiver<Vec<Seed>> {
        self.session_seeds.subscribe()
    }

    pub fn replace(&self, ca: Ca, session_seeds: Vec<Seed>) {
        let bundle = ca.root_bundle();
        self.ca.send_replace(Arc::new(ca));
        self.bundle.send_if_modified(|before| std::mem::replace(before, bundle.clone()) != bundle);
        self.session_seeds.send_if_modified(|before| std::mem::replace(before, session_seeds.clone()) != session_seeds);
    }

    /// Notes how long a certificate lives: a change of the root waits for the longest.
    pub fn issued(&self, issued: &Issued, now: SystemTime) {
        let life = issued.not_after.duration_since(now).unwrap_or_default();
        // Rounded up: a life is never thought to be shorter than it is.
        self.longest_life.fetch_max(life.as_secs() + 1, Ordering::Relaxed);
    }

    pub fn longest_life(&self) -> Duration {
        Duration::from_secs(self.longest_life.load(Ordering::Relaxed))
    }
}
