//! How many requests are in flight here, of one client and of all: one client must not have all the room there is
//! (spec/waypoint.md 5.4, spec/reliability.md T-13).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use mesh_model::identity::SpiffeId;
use parking_lot::Mutex;

/// Of all clients together. One costs some 20 KiB while it waits for its endpoint, so this is about a gigabyte.
const REQUESTS_MAX: u32 = 50_000;
/// Of one identity: a busy service with a thousand requests per second and ten seconds for each has as many.
const REQUESTS_PER_CLIENT_MAX: u32 = 10_000;
/// Identities that are remembered before those without a connection are looked for.
const SWEEP_AT: usize = 1024;

/// The clients that are here.
pub struct Guests {
    all: Arc<AtomicU32>,
    most: u32,
    most_per_client: u32,
    known: Mutex<HashMap<SpiffeId, Weak<AtomicU32>>>,
}

/// One client, for as long as it has a stream.
#[derive(Clone)]
pub struct Guest {
    all: Arc<AtomicU32>,
    own: Arc<AtomicU32>,
    most: u32,
    most_per_client: u32,
}

/// One request in flight.
pub struct Entered(Guest);

impl Default for Guests {
    fn default() -> Guests {
        Guests::new(REQUESTS_MAX, REQUESTS_PER_CLIENT_MAX)
    }
}

impl Guests {
    pub fn new(most: u32, most_per_client: u32) -> Guests {
        Guests { all: Arc::default(), most, most_per_client, known: Mutex::default() }
    }

    /// Once per stream.
    pub fn of(&self, identity: &SpiffeId) -> Guest {
        let mut known = self.known.lock();
        if known.len() >= SWEEP_AT {
            known.retain(|_, guest| guest.strong_count() > 0);
        }
        let own = match known.get(identity).and_then(Weak::upgrade) {
            Some(own) => own,
            None => {
                let own = Arc::default();
                known.insert(identity.clone(), Arc::downgrade(&own));
                own
            }
        };
        Guest { all: self.all.clone(), own, most: self.most, most_per_client: self.most_per_client }
    }

    /// Requests in flight.
    pub fn requests(&self) -> u32 {
        self.all.load(Ordering::Relaxed)
    }
}

impl Guest {
    /// None: there is no room for another.
    pub fn enter(&self) -> Option<Entered> {
        let below = |most: u32| move |now: u32| (now < most).then_some(now + 1);
        self.own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below(self.most_per_client)).ok()?;
        if self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below(self.most)).is_err() {
            self.own.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Entered(self.clone()))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.own.fetch_sub(1, Ordering::Relaxed);
        self.0.all.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_have_all_the_room() {
        let guests = Guests::new(5, 3);
        let (noisy, quiet) = (guests.of(&SpiffeId::new("t", "n", "noisy")), guests.of(&SpiffeId::new("t", "n", "quiet")));
        let held: Vec<_> = (0..4).map(|_| noisy.enter()).collect();
        assert_eq!(held.iter().flatten().count(), 3);
        assert!(guests.of(&SpiffeId::new("t", "n", "noisy")).enter().is_none(), "another stream of the same client");
        let _two = (quiet.enter().unwrap(), quiet.enter().unwrap());
        assert!(quiet.enter().is_none(), "all of the room");
        drop(held);
        assert_eq!(guests.requests(), 2);
        assert!(noisy.enter().is_some());
    }
}
