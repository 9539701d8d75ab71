//! Places for TLS handshakes that are not finished: bounded per source address and in all, so that ten thousand silent
//! connections from one pod leave every other client served (spec/reliability.md T-09).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// From one address: more than a busy node's burst of first connections, each of which takes milliseconds.
pub const PER_SOURCE_MAX: usize = 256;
/// In all, for one pod: some 20 KiB each while they last, at most five seconds.
pub const TOTAL_MAX: usize = 4_096;

#[derive(Clone, Debug, Default)]
pub struct Handshakes(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A place; leaving is `Drop`.
#[derive(Debug)]
pub struct Shaking {
    book: Handshakes,
    source: IpAddr,
}

impl Handshakes {
    /// `None`: this source has as many as it may.
    pub fn enter(&self, source: IpAddr) -> Option<Shaking> {
        let mut book = self.0.lock();
        let total: usize = if book.len() > 16 { book.values().sum() } else { 0 };
        let own = book.entry(source).or_default();
        if *own >= PER_SOURCE_MAX || (total >= TOTAL_MAX && *own > 0) {
            return None;
        }
        *own += 1;
        Some(Shaking { book: self.clone(), source })
    }

    pub fn len(&self) -> usize {
        self.0.lock().values().sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        let mut book = self.book.0.lock();
        if let Some(own) = book.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                book.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip(last: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + last).into()
    }

    // T-09
    #[test]
    fn one_source_cannot_take_the_places_of_others() {
        let book = Handshakes::default();
        let held: Vec<_> = (0..10_000).map_while(|_| book.enter(ip(1))).collect();
        assert_eq!(held.len(), PER_SOURCE_MAX);
        assert!(book.enter(ip(2)).is_some());
        drop(held);
        assert!(book.is_empty() && book.enter(ip(1)).is_some());
    }

    #[test]
    fn many_sources_are_bounded_and_a_new_one_still_gets_its_first() {
        let book = Handshakes::default();
        let mut held = Vec::new();
        for source in 0..100 {
            held.extend((0..PER_SOURCE_MAX).map_while(|_| book.enter(ip(source))));
        }
        assert!(held.len() <= TOTAL_MAX + 100, "{}", held.len());
        assert!(book.enter(ip(5_000)).is_some());
    }
}
