//! Which connections a pool has, and who may ride on which. Pure: questions, events and times in, answers out.
//!
//! A connection's life, as the ledger sees it:
//!
//! ```text
//!   Open (dial) --> unsettled: one rider --> live: min(limit, peer's) riders --> idle --300 s (20 s beside others), or evicted--> forgotten
//!        |                                      |  GOAWAY, error, retired
//!        +--> failed                            +--> shut: riders finish, no new ones --> forgotten with the last
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A connection, for as long as the ledger lives; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A running dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// What the ledger goes by.
#[derive(Clone, Debug)]
pub struct Rules {
    pub streams_per_connection: usize,
    pub connections_per_key: usize,
    pub streams_before_spread: usize,
    pub idle_connections: usize,
    pub idle_release: Duration,
    pub surplus_release: Duration,
}

/// The answer to a request for a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Take a seat on this connection; it is counted already. `used`: others have ridden on it before, so it may be
    /// stale. With `dial`, also dial another one for those to come.
    Ride { connection: ConnectionId, used: bool, dial: Option<DialId> },
    /// Dial, tell `opened` or `failed`, then ask again.
    Open(DialId),
    /// Something is under way that will make room or fail: ask again when it has.
    Wait,
    /// No new seats for anyone.
    Draining,
}

/// A row for the operator's eyes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<K> {
    pub key: K,
    pub connection: ConnectionId,
    pub riders: usize,
    /// `None` until the peer's SETTINGS are known.
    pub limit: Option<usize>,
    /// Takes no new riders.
    pub shut: bool,
}

/// The book of one pool.
#[derive(Clone, Debug)]
pub struct Ledger<K> {
    rules: Rules,
    next: u64,
    connections: BTreeMap<ConnectionId, Entry<K>>,
    keys: HashMap<K, Lane>,
    /// Unused connections, the least recently used one first.
    idle: BTreeSet<(Instant, ConnectionId)>,
    draining: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry<K> {
    key: K,
    riders: usize,
    /// The peer's MAX_CONCURRENT_STREAMS, once known.
    limit: Option<usize>,
    /// It has refused a stream below its own limit; full until a rider leaves.
    refusing: bool,
    shut: bool,
    used: bool,
    idle_since: Option<Instant>,
}

/// What is open or being opened for one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lane {
    /// Those that may take riders; shut ones are not in here.
    connections: Vec<ConnectionId>,
    dial: Option<DialId>,
}

impl<K: Clone + Eq + Hash> Ledger<K> {
    pub fn new(rules: Rules) -> Self {
        Ledger { rules, next: 0, connections: BTreeMap::new(), keys: HashMap::new(), idle: BTreeSet::new(), draining: false }
    }

    /// A seat for one more stream to `key`.
    pub fn ask(&mut self, key: &K) -> Answer {
        if self.draining {
            return Answer::Draining;
        }
        if let Some(connection) = self.seat(key) {
            let used = self.board(connection);
            let dial = self.wants_spread(key, connection).then(|| self.begin_dial(key));
            return Answer::Ride { connection, used, dial };
        }
        if self.is_opening(key) { Answer::Wait } else { Answer::Open(self.begin_dial(key)) }
    }

    /// A dial has succeeded. `None`: nobody wants the connection any more (retired, draining); close it.
    pub fn opened(&mut self, dial: DialId, key: &K, now: Instant) -> Option<ConnectionId> {
        let lane = self.keys.get_mut(key).filter(|lane| lane.dial == Some(dial))?;
        lane.dial = None;
        self.next += 1;
        let id = ConnectionId(self.next);
        lane.connections.push(id);
        let entry =
            Entry { key: key.clone(), riders: 0, limit: None, refusing: false, shut: false, used: false, idle_since: Some(now) };
        self.connections.insert(id, entry);
        self.idle.insert((now, id));
        Some(id)
    }

    /// A dial has failed. False: it had been given up before, so its failure is no news to those who wait now.
    pub fn failed(&mut self, dial: DialId, key: &K) -> bool {
        let Some(lane) = self.keys.get_mut(key).filter(|lane| lane.dial == Some(dial)) else { return false };
        lane.dial = None;
        self.sweep(key);
        true
    }

    /// The peer's limit became known, or changed.
    pub fn limited(&mut self, id: ConnectionId, limit: usize) {
        if let Some(entry) = self.connections.get_mut(&id) {
            entry.limit = Some(limit);
        }
    }

    /// The peer refused a stream that we thought it would take, and that rider has left. Full until another leaves;
    /// when there is none, shut. True: let it go.
    pub fn refused(&mut self, id: ConnectionId) -> bool {
        let Some(entry) = self.connections.get_mut(&id) else { return false };
        entry.refusing = true;
        entry.riders == 0 && self.shut(id)
    }

    /// A rider has left. True: it was shut and this was the last one; let it go.
    pub fn left(&mut self, id: ConnectionId, now: Instant) -> bool {
        let Some(entry) = self.connections.get_mut(&id) else { return false };
        entry.riders -= 1;
        entry.refusing = false;
        if entry.riders > 0 {
            return false;
        }
        if entry.shut {
            self.forget(id);
            return true;
        }
        entry.idle_since = Some(now);
        self.idle.insert((now, id));
        false
    }

    /// The least recently used of the unused connections, while there are more of them than the rules allow: let it go.
    pub fn evict(&mut self) -> Option<ConnectionId> {
        if self.idle.len() <= self.rules.idle_connections {
            return None;
        }
        let (_, oldest) = *self.idle.first()?;
        self.shut(oldest).then_some(oldest)
    }

    /// No new riders on this connection; those on it stay. True when nobody is on it: let it go.
    pub fn shut(&mut self, id: ConnectionId) -> bool {
        let Some(entry) = self.connections.get_mut(&id) else { return false };
        entry.shut = true;
        let (key, empty) = (entry.key.clone(), entry.riders == 0);
        if let Some(lane) = self.keys.get_mut(&key) {
            lane.connections.retain(|other| *other != id);
        }
        self.sweep(&key);
        if empty {
            self.forget(id);
        }
        empty
    }

    /// Whether the connection has come to stand: its peer's SETTINGS are known.
    pub fn is_settled(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|entry| entry.limit.is_some())
    }

    /// Whether anybody rides on the connection.
    pub fn is_used(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|entry| entry.riders > 0)
    }

    /// The connection is over; whoever was on it knows.
    pub fn gone(&mut self, id: ConnectionId) {
        self.shut(id);
        self.forget(id);
    }

    /// Whether this connection has been unused for too long; it is forgotten then.
    pub fn expired(&mut self, id: ConnectionId, now: Instant) -> bool {
        let Some(entry) = self.connections.get(&id) else { return false };
        let surplus = self.is_surplus(&entry.key).then_some(self.rules.surplus_release);
        let most = surplus.map_or(self.rules.idle_release, |surplus| surplus.min(self.rules.idle_release));
        let over = entry.idle_since.is_some_and(|since| now.saturating_duration_since(since) >= most);
        over && self.shut(id)
    }

    /// Whether there are more connections for this key than one that carries little would have.
    fn is_surplus(&self, key: &K) -> bool {
        self.keys.get(key).is_some_and(|lane| lane.connections.len() > self.rules.connections_per_key)
    }

    /// Every connection and dial whose key is no longer wanted takes no new riders. Returns all connections concerned
    /// and whether each is empty.
    pub fn retire(&mut self, mut unwanted: impl FnMut(&K) -> bool) -> Vec<(ConnectionId, bool)> {
        for (_, lane) in self.keys.iter_mut().filter(|(key, _)| unwanted(key)) {
            lane.dial = None;
        }
        let ids: Vec<_> = self.connections.iter().filter(|(_, entry)| unwanted(&entry.key)).map(|(id, _)| *id).collect();
        let retired = ids.into_iter().map(|id| (id, self.shut(id))).collect();
        self.keys.retain(|_, lane| !lane.is_empty());
        retired
    }

    /// From now on no seats. Returns what `retire` of everything returns.
    pub fn drain(&mut self) -> Vec<(ConnectionId, bool)> {
        self.draining = true;
        self.retire(|_| true)
    }

    /// The key of a connection that is still known.
    pub fn key(&self, id: ConnectionId) -> Option<&K> {
        self.connections.get(&id).map(|entry| &entry.key)
    }

    /// Oldest connection first.
    pub fn rows(&self) -> Vec<Row<K>> {
        let row = |(id, entry): (&ConnectionId, &Entry<K>)| Row {
            key: entry.key.clone(),
            connection: *id,
            riders: entry.riders,
            limit: entry.limit,
            shut: entry.shut,
        };
        self.connections.iter().map(row).collect()
    }

    /// The connection to ride on: with one per key the oldest with room, so that others fall idle and go; with a
    /// spread the one that carries least.
    fn seat(&self, key: &K) -> Option<ConnectionId> {
        let open = self.keys.get(key)?.connections.iter().copied().filter(|id| self.has_room(*id));
        if self.rules.connections_per_key > 1 { open.min_by_key(|id| self.connections[id].riders) } else { open.min() }
    }

    fn has_room(&self, id: ConnectionId) -> bool {
        let entry = &self.connections[&id];
        // Before its SETTINGS a peer might take none but the first.
        let limit = entry.limit.map_or(1, |peers| peers.min(self.rules.streams_per_connection));
        !entry.refusing && entry.riders < limit
    }

    fn board(&mut self, id: ConnectionId) -> bool {
        let entry = self.connections.get_mut(&id).expect("a seat is found on a connection of the ledger only");
        entry.riders += 1;
        if let Some(since) = entry.idle_since.take() {
            self.idle.remove(&(since, id));
        }
        std::mem::replace(&mut entry.used, true)
    }

    fn wants_spread(&self, key: &K, boarded: ConnectionId) -> bool {
        let lane = &self.keys[key];
        lane.dial.is_none()
            && lane.connections.len() < self.rules.connections_per_key
            && self.connections[&boarded].riders > self.rules.streams_before_spread
    }

    /// Whether waiting makes sense: a dial is running, or a connection's limit is about to be known, or is zero (a
    /// second connection to that peer would take nothing either).
    fn is_opening(&self, key: &K) -> bool {
        self.keys.get(key).is_some_and(|lane| {
            lane.dial.is_some() || lane.connections.iter().any(|id| matches!(self.connections[id].limit, None | Some(0)))
        })
    }

    fn begin_dial(&mut self, key: &K) -> DialId {
        self.next += 1;
        let dial = DialId(self.next);
        self.keys.entry(key.clone()).or_default().dial = Some(dial);
        dial
    }

    fn forget(&mut self, id: ConnectionId) {
        if let Some(entry) = self.connections.remove(&id)
            && let Some(since) = entry.idle_since
        {
            self.idle.remove(&(since, id));
        }
    }

    fn sweep(&mut self, key: &K) {
        if self.keys.get(key).is_some_and(Lane::is_empty) {
            self.keys.remove(key);
        }
    }
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.dial.is_none()
    }
}

#[cfg(test)]
mod tests;
