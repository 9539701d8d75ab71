//! The laws that every simulated run keeps, whatever its faults (design section 3.8). A run records facts; at its end
//! the book is asked which laws they break.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::identity::SpiffeId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a connection may outlive the policy that refuses it: a push, a publication and a wake-up.
pub const SETTLE: Duration = Duration::from_secs(2);

/// What happened. Shared by everything that tells.
#[derive(Clone, Default)]
pub struct Book(Arc<Mutex<Facts>>);

#[derive(Default)]
struct Facts {
    opened: BTreeMap<u64, &'static str>,
    closed: BTreeMap<u64, u32>,
    closed_without_reason: u32,
    /// Per connection: bytes the application wrote into it, and bytes the other application was given.
    bytes: BTreeMap<(u64, Way), Bytes>,
    markers_on_wire: u32,
    broken: Vec<String>,
    left_after_drain: Vec<String>,
}

#[derive(Default)]
struct Bytes {
    counted: u64,
    delivered: u64,
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    ToServer,
    ToClient,
}

impl Book {
    pub fn opened(&self, account: u64, side: &'static str) {
        let mut facts = self.0.lock();
        if facts.opened.insert(account, side).is_some() {
            facts.broken.push(format!("law 1: account {account} was opened twice"));
        }
    }

    pub fn closed(&self, account: u64, reason: &str) {
        let mut facts = self.0.lock();
        *facts.closed.entry(account).or_default() += 1;
        if reason.is_empty() {
            facts.closed_without_reason += 1;
        }
    }

    /// The account of a connection says that so many bytes went this way.
    pub fn counted(&self, connection: u64, way: Way, bytes: u64) {
        self.0.lock().bytes.entry((connection, way)).or_default().counted += bytes;
    }

    /// An application was given so many bytes.
    pub fn delivered(&self, connection: u64, way: Way, bytes: u64) {
        self.0.lock().bytes.entry((connection, way)).or_default().delivered += bytes;
    }

    pub fn marker_on_wire(&self) {
        self.0.lock().markers_on_wire += 1;
    }

    /// A connection carried bytes at `now` although policy refuses it since `refused_since`.
    pub fn relayed_while_refused(&self, what: &str, refused_since: Instant, now: Instant) {
        if now.duration_since(refused_since) > SETTLE {
            self.0.lock().broken.push(format!("law 4: {what} still relays {:?} after it was refused", now - refused_since));
        }
    }

    /// The peer that an application was connected to, and the one that the directory says is there.
    pub fn peer(&self, what: &str, presented: &SpiffeId, expected: &SpiffeId) {
        if presented != expected {
            self.0.lock().broken.push(format!("law 5: {what}: the peer proved {presented}, the directory says {expected}"));
        }
    }

    pub fn left_after_drain(&self, what: String) {
        self.0.lock().left_after_drain.push(what);
    }

    /// Every law that was broken; empty after a good run. `bytes_must_match`: the run cut no connection.
    pub fn broken(&self, bytes_must_match: bool) -> Vec<String> {
        let facts = self.0.lock();
        let mut broken = facts.broken.clone();
        for (account, side) in &facts.opened {
            match facts.closed.get(account) {
                Some(1) => {}
                times => broken.push(format!("law 1: account {account} ({side}) was closed {} times", times.unwrap_or(&0))),
            }
        }
        if facts.closed_without_reason > 0 {
            broken.push(format!("law 1: {} accounts were closed without a reason", facts.closed_without_reason));
        }
        for ((connection, way), bytes) in &facts.bytes {
            // What was counted was delivered to a socket; a cut may lose it there, but nothing arrives uncounted.
            if bytes.delivered > bytes.counted || (bytes_must_match && bytes.delivered != bytes.counted) {
                broken.push(format!(
                    "law 2: connection {connection} {way:?}: {} bytes counted, {} delivered",
                    bytes.counted, bytes.delivered
                ));
            }
        }
        if facts.markers_on_wire > 0 {
            broken.push(format!("law 3: the plain-text marker was on a wire {} times", facts.markers_on_wire));
        }
        broken.extend(facts.left_after_drain.iter().map(|left| format!("law 6: left after the drain: {left}")));
        broken
    }
}
