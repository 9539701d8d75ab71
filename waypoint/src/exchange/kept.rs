//! The connections that are kept, by hop. Its locks are held for a look-up, never over an await.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hyper::client::conn::http2;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::leased::{Outgoing, Seat};
use super::wire::Wire;
use super::{Active, Fault, Rules};
use crate::upstream::Endpoint;

/// Locks that requests to different endpoints share: enough that the workers of one process seldom meet.
const SHARDS: usize = 16;
/// Idle HTTP/1.1 connections to one endpoint: more than this many at once come from a burst that is over.
const IDLE_PER_HOP_MAX: usize = 256;

pub(super) struct Kept {
    shards: [Mutex<HashMap<Endpoint, Place>>; SHARDS],
    hasher: RandomState,
    began: Instant,
}

/// Where the connections to one hop are kept. A request looks for it once. One that is in no shard any more is kept by those
/// whose connections are still in use, and goes with the last of them.
pub(super) type Place = Arc<Mutex<Connections>>;

#[derive(Default)]
pub(super) struct Connections {
    /// The one that was used last comes last, and is taken first: the others get old and are closed.
    idle: Vec<Idle>,
    links: Vec<Link>,
    dial: Option<Dial>,
}

struct Idle {
    wire: Box<Wire>,
    uses: u32,
    until: Instant,
}

/// An HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Link {
    pub sender: http2::SendRequest<Outgoing>,
    active: Active,
    uses: Arc<AtomicU32>,
    /// When it was last taken, in milliseconds since the book was begun.
    taken: Arc<AtomicU64>,
    idle: Duration,
}

/// A connection that is being made, for all who wait for it.
pub(super) type Dial = Shared<BoxFuture<'static, Result<Link, Fault>>>;

impl Default for Kept {
    fn default() -> Kept {
        Kept { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new(), began: Instant::now() }
    }
}

impl Link {
    pub fn new(sender: http2::SendRequest<Outgoing>, idle: Duration) -> Link {
        Link { sender, active: Active::default(), uses: Arc::default(), taken: Arc::default(), idle }
    }

    pub fn seat(&self) -> Seat {
        self.active.fetch_add(1, Ordering::AcqRel);
        self.uses.fetch_add(1, Ordering::AcqRel);
        Seat(self.active.clone())
    }

    fn has_room(&self, rules: &Rules) -> bool {
        let spent = rules.requests_per_connection.is_some_and(|most| self.uses.load(Ordering::Acquire) >= most);
        !self.sender.is_closed() && !spent && self.active.load(Ordering::Acquire) < rules.streams_per_connection
    }
}

impl Kept {
    pub fn place(&self, hop: &Endpoint) -> Place {
        let mut shard = self.shards[(self.hasher.hash_one(&hop.id) as usize) % SHARDS].lock();
        match shard.get(hop) {
            Some(place) => place.clone(),
            None => shard.entry(hop.clone()).or_default().clone(),
        }
    }

    /// The HTTP/2 connection with room that is used most: the others run empty and are closed.
    pub fn link(&self, place: &Place, rules: &Rules, now: Instant) -> Option<Link> {
        let connections = place.lock();
        let link = connections.links.iter().find(|link| link.has_room(rules))?;
        link.taken.store(self.at(now), Ordering::Release);
        Some(link.clone())
    }

    /// The dial that is under way, else the one that `begin` makes.
    pub fn dial(&self, place: &Place, begin: impl FnOnce() -> BoxFuture<'static, Result<Link, Fault>>) -> Dial {
        let dial = &mut place.lock().dial;
        // One that nobody waited for to its end is not taken up again: it may be as old as it likes.
        if let Some(dial) = dial.as_ref().filter(|dial| is_awaited(dial)) {
            return dial.clone();
        }
        dial.insert(begin().shared()).clone()
    }

    pub fn dialled(&self, place: &Place, link: Option<&Link>) {
        let mut connections = place.lock();
        connections.dial = None;
        if let Some(link) = link {
            link.taken.store(self.at(Instant::now()), Ordering::Release);
            connections.links.push(link.clone());
        }
    }

    pub fn retain(&self, mut wanted: impl FnMut(&Endpoint) -> bool) {
        for shard in &self.shards {
            shard.lock().retain(|hop, place| {
                let wanted = wanted(hop);
                if !wanted {
                    *place.lock() = Connections::default();
                }
                wanted
            });
        }
    }

    pub fn sweep(&self, now: Instant) {
        let at = self.at(now);
        for shard in &self.shards {
            shard.lock().retain(|_, place| {
                let mut connections = place.lock();
                connections.idle.retain_mut(|idle| idle.until > now && idle.wire.is_idle());
                connections.links.retain(|link| !link.sender.is_closed() && !link.is_idle(at));
                connections.dial.take_if(|dial| !is_awaited(dial));
                let empty = connections.idle.is_empty() && connections.links.is_empty() && connections.dial.is_none();
                // Whoever holds it brings a connection back to it.
                !empty || Arc::strong_count(place) > 1
            });
        }
    }

    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

/// An idle HTTP/1.1 connection, and how many requests it has carried.
pub(super) fn take(place: &Place, now: Instant) -> Option<(Box<Wire>, u32)> {
    loop {
        let mut last = place.lock().idle.pop()?;
        if last.until > now && last.wire.is_idle() {
            return Some((last.wire, last.uses));
        }
    }
}

pub(super) fn put(place: &Place, wire: Box<Wire>, uses: u32, until: Instant) {
    wire.rests();
    let mut connections = place.lock();
    if connections.idle.len() < IDLE_PER_HOP_MAX {
        connections.idle.push(Idle { wire, uses, until });
    }
}

/// Somebody holds it beside the book.
fn is_awaited(dial: &Dial) -> bool {
    dial.strong_count().is_some_and(|holders| holders > 1)
}

impl Link {
    fn is_idle(&self, at: u64) -> bool {
        let since = Duration::from_millis(at.saturating_sub(self.taken.load(Ordering::Acquire)));
        self.active.load(Ordering::Acquire) == 0 && since > self.idle
    }
}
