//! The connections that are kept, by hop. Its locks are held for a look-up, never over an await.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hyper::client::conn::{http1, http2};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::leased::{Outgoing, Seat};
use super::{Active, Fault, Rules};
use crate::upstream::Endpoint;

/// Locks that requests to different endpoints share: enough that the workers of one process seldom meet.
const SHARDS: usize = 16;
/// Idle HTTP/1.1 connections to one endpoint: more than this many at once come from a burst that is over.
const IDLE_PER_HOP_MAX: usize = 256;

pub(super) struct Kept {
    shards: [Mutex<HashMap<Endpoint, Connections>>; SHARDS],
    hasher: RandomState,
    began: Instant,
}

#[derive(Default)]
struct Connections {
    /// The one that was used last comes last, and is taken first: the others get old and are closed.
    idle: Vec<Idle>,
    links: Vec<Link>,
    dial: Option<Dial>,
}

struct Idle {
    sender: http1::SendRequest<Outgoing>,
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
    fn shard(&self, hop: &Endpoint) -> &Mutex<HashMap<Endpoint, Connections>> {
        &self.shards[(self.hasher.hash_one(hop) as usize) % SHARDS]
    }

    /// An idle HTTP/1.1 connection, and how many requests it has carried.
    pub fn take(&self, hop: &Endpoint, now: Instant) -> Option<(http1::SendRequest<Outgoing>, u32)> {
        let mut shard = self.shard(hop).lock();
        let idle = &mut shard.get_mut(hop)?.idle;
        while let Some(last) = idle.pop() {
            if !last.sender.is_closed() && last.until > now {
                return Some((last.sender, last.uses));
            }
        }
        None
    }

    pub fn put(&self, hop: Endpoint, sender: http1::SendRequest<Outgoing>, uses: u32, until: Instant) {
        let mut shard = self.shard(&hop).lock();
        let idle = &mut shard.entry(hop).or_default().idle;
        if idle.len() < IDLE_PER_HOP_MAX {
            idle.push(Idle { sender, uses, until });
        }
    }

    /// The HTTP/2 connection with room that is used most: the others run empty and are closed.
    pub fn link(&self, hop: &Endpoint, rules: &Rules, now: Instant) -> Option<Link> {
        let shard = self.shard(hop).lock();
        let links = &shard.get(hop)?.links;
        let link = links.iter().find(|link| link.has_room(rules))?;
        link.taken.store(self.at(now), Ordering::Release);
        Some(link.clone())
    }

    /// The dial that is under way, else the one that `begin` makes.
    pub fn dial(&self, hop: &Endpoint, begin: impl FnOnce() -> BoxFuture<'static, Result<Link, Fault>>) -> Dial {
        let mut shard = self.shard(hop).lock();
        let dial = &mut shard.entry(hop.clone()).or_default().dial;
        // One that nobody waited for to its end is not taken up again: it may be as old as it likes.
        if let Some(dial) = dial.as_ref().filter(|dial| is_awaited(dial)) {
            return dial.clone();
        }
        dial.insert(begin().shared()).clone()
    }

    pub fn dialled(&self, hop: &Endpoint, link: Option<&Link>) {
        let mut shard = self.shard(hop).lock();
        let connections = shard.entry(hop.clone()).or_default();
        connections.dial = None;
        if let Some(link) = link {
            link.taken.store(self.at(Instant::now()), Ordering::Release);
            connections.links.push(link.clone());
        }
    }

    pub fn retain(&self, mut wanted: impl FnMut(&Endpoint) -> bool) {
        for shard in &self.shards {
            shard.lock().retain(|hop, _| wanted(hop));
        }
    }

    pub fn sweep(&self, now: Instant) {
        let at = self.at(now);
        for shard in &self.shards {
            shard.lock().retain(|_, connections| {
                connections.idle.retain(|idle| !idle.sender.is_closed() && idle.until > now);
                connections.links.retain(|link| !link.sender.is_closed() && !link.is_idle(at));
                connections.dial.take_if(|dial| !is_awaited(dial));
                !(connections.idle.is_empty() && connections.links.is_empty() && connections.dial.is_none())
            });
        }
    }

    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
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
