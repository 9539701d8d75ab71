//! Far ends that were found gone a moment ago: other endpoints of a service are drawn in their place while there are any.
//!
//! It decides about nobody: what is named here may be drawn again when nothing else is, and is forgotten soon.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_hbone::OpenError;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A node that is back is used again after this; one that is not costs one connection of its service so often.
const REMEMBERED: Duration = Duration::from_secs(10);
/// More dead endpoints than a node meets within that time.
const ADDRESSES_MAX: usize = 1024;

/// The addresses and when they were found gone.
#[derive(Debug, Default)]
pub struct Gone(Mutex<HashMap<SocketAddr, Instant>>);

impl Gone {
    /// What a failed opening says about its far end.
    pub fn learn(&self, address: SocketAddr, why: &OpenError) {
        let gone = match why {
            OpenError::ConnectTimeout { .. } | OpenError::Silent { .. } => true,
            OpenError::Dial(why) => {
                matches!(why.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
            }
            _ => false,
        };
        if !gone {
            return;
        }
        let mut addresses = self.0.lock();
        if addresses.len() >= ADDRESSES_MAX {
            addresses.retain(|_, found| found.elapsed() < REMEMBERED);
        }
        if addresses.len() < ADDRESSES_MAX {
            addresses.insert(address, Instant::now());
        }
    }

    pub fn holds(&self, address: SocketAddr) -> bool {
        self.0.lock().get(&address).is_some_and(|found| found.elapsed() < REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn only_what_does_not_answer_is_gone_and_not_for_long() {
        let at = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let dial = |kind: ErrorKind| OpenError::Dial(Arc::new(kind.into()));
        let rows = [
            (OpenError::ConnectTimeout { after: REMEMBERED }, true),
            (OpenError::Silent { after: REMEMBERED }, true),
            (dial(ErrorKind::TimedOut), true),
            (dial(ErrorKind::HostUnreachable), true),
            (dial(ErrorKind::ConnectionRefused), false),
            (OpenError::Draining, false),
        ];
        let gone = Gone::default();
        for (port, (why, expected)) in (1..).zip(&rows) {
            gone.learn(at(port), why);
            assert_eq!(gone.holds(at(port)), *expected, "{why}");
        }
        tokio::time::advance(REMEMBERED).await;
        assert!(!gone.holds(at(1)));
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let gone = Gone::default();
        for port in 1..3000 {
            gone.learn(SocketAddr::from(([10, 0, 0, 1], port)), &OpenError::Silent { after: REMEMBERED });
        }
        assert_eq!(gone.0.lock().len(), ADDRESSES_MAX);
    }
}
