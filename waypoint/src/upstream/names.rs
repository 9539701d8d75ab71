//! Names outside of the mesh, resolved by the system's resolver when they are dialled, and kept for a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::{ConnectError, Kind};

/// Names kept. More are resolved each time: a wildcard host lets clients name what they like.
const NAMES_MAX: usize = 4_096;
/// How long an answer is used: the system's resolver does not tell how long it holds, and names of this kind move.
const LIFE: Duration = Duration::from_secs(30);
/// How long an answer that has run out stands in while there is no newer one.
const STALE: Duration = Duration::from_secs(600);
/// The resolver's own patience, of two servers asked twice, is longer than a client's.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct Names {
    known: Mutex<HashMap<Arc<str>, Known>>,
}

#[derive(Clone)]
struct Known {
    since: Instant,
    addresses: Vec<IpAddr>,
}

impl Names {
    /// The addresses of a name, in the order in which they should be tried.
    ///
    /// # Errors
    /// There are none.
    pub async fn resolve(&self, name: &Arc<str>) -> Result<Vec<IpAddr>, ConnectError> {
        let known = self.known.lock().get(name).cloned();
        if let Some(known) = &known
            && known.since.elapsed() < LIFE
        {
            return Ok(known.addresses.clone());
        }
        match look_up(name).await {
            Ok(addresses) => {
                self.keep(name, addresses.clone());
                Ok(addresses)
            }
            Err(why) => match known.filter(|known| known.since.elapsed() < STALE) {
                Some(known) => Ok(known.addresses),
                None => Err(ConnectError::new(Kind::Name, format!("{name}: {why}"))),
            },
        }
    }

    fn keep(&self, name: &Arc<str>, addresses: Vec<IpAddr>) {
        let mut known = self.known.lock();
        if known.len() >= NAMES_MAX {
            known.retain(|_, one| one.since.elapsed() < LIFE);
        }
        if known.len() < NAMES_MAX {
            known.insert(name.clone(), Known { since: Instant::now(), addresses });
        }
    }
}

async fn look_up(name: &str) -> Result<Vec<IpAddr>, String> {
    // A final dot keeps the search list of the pod's resolv.conf out of it: what is written in full is meant in full.
    let full = if name.contains('.') && !name.ends_with('.') { format!("{name}.") } else { name.to_owned() };
    let found = timeout(PATIENCE, tokio::net::lookup_host((full, 0))).await;
    let found = found.map_err(|_| format!("no answer from the name servers within {PATIENCE:?}"))?;
    let mut addresses: Vec<IpAddr> = found.map_err(|why| why.to_string())?.map(|address| address.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    // Whoever resolves often spreads what it opens over all of them.
    use rand::seq::SliceRandom;
    addresses.shuffle(&mut rand::rng());
    if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
}
