//! What is remembered of destinations: what is under way, who has failed, whose turn it is.
//!
//! One `Destination` for each backend that requests go to, found without a lock; counters are atomic. A lock is taken only
//! where an endpoint goes out or comes back, and where the table of endpoints is made anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use rpds::HashTrieMapSync;

use crate::choose::backend::BackendKey;
use crate::choose::breaker::{Gauge, Held, Queue};
use crate::choose::ewma::Ewma;
use crate::choose::outcome::Outcome;
use crate::choose::outlier::{Rows, Standing, duration, marks, may_eject};
use crate::choose::policy::Outlier;
use crate::choose::table::Table;
use crate::retry::budget::Window;

/// By names of the configuration, which no peer chooses.
type ByKey = HashTrieMapSync<BackendKey, Arc<Destination>, RandomState>;

/// The process's destinations.
#[derive(Debug)]
pub struct Backends {
    by_key: ArcSwap<ByKey>,
    epoch: Instant,
}

#[derive(Debug)]
pub struct Destination {
    /// Times are kept as nanoseconds from here.
    epoch: Instant,
    pub(crate) connections: Gauge,
    pub(crate) pending: Gauge,
    pub(super) queue: Queue,
    pub(crate) requests: Gauge,
    pub(crate) retries: Gauge,
    pub(crate) window: Mutex<Window>,
    /// Whose turn it is.
    pub(super) round: AtomicU64,
    pub(super) table: ArcSwapOption<Table>,
    pub(super) states: Mutex<States>,
    /// Grows when an endpoint goes out or comes back: what was worked out from the standings is stale then.
    pub(super) version: AtomicU64,
    /// When something is due: the end of an ejection, or of an interval.
    due: AtomicU64,
}

/// Of each endpoint that the destination has, by its id.
#[derive(Debug, Default)]
pub(super) struct States {
    pub by_id: HashMap<Arc<str>, Arc<State>>,
    pub ejected: usize,
    interval_began: u64,
}

/// What is remembered of one endpoint.
#[derive(Debug, Default)]
pub struct State {
    pub(super) active: AtomicU32,
    /// When it was first seen; 0: it was there from the start.
    pub(super) since: u64,
    pub(super) ewma: Ewma,
    standing: AtomicU8,
    rows: [AtomicU32; 3],
    until: AtomicU64,
    ejections: AtomicU32,
}

/// A request that is under way at an endpoint.
#[derive(Debug)]
#[must_use = "the request counts as active as long as this lives"]
pub struct Active {
    held: Held,
    /// Its place among the connections, where it has one to itself.
    connection: Option<Held>,
    state: Arc<State>,
    outlier: Outlier,
    /// The one request that tries an endpoint whose ejection is over.
    probe: bool,
    ended: bool,
}

impl Backends {
    pub fn new(now: Instant) -> Backends {
        Backends { by_key: ArcSwap::from_pointee(ByKey::default()), epoch: now }
    }

    pub fn destination(&self, key: &BackendKey) -> Arc<Destination> {
        if let Some(known) = self.by_key.load().get(key) {
            return known.clone();
        }
        let made = Arc::new(Destination::new(self.epoch));
        let mut found = made.clone();
        self.by_key.rcu(|all| match all.get(key) {
            Some(known) => {
                found = known.clone();
                ByKey::clone(all)
            }
            None => {
                found = made.clone();
                all.insert(key.clone(), made.clone())
            }
        });
        found
    }

    /// Forgets those that are no more. Requests under way keep theirs until they end.
    pub fn keep(&self, wanted: impl Fn(&BackendKey) -> bool) {
        self.by_key.rcu(|all| {
            let mut left = ByKey::clone(all);
            for key in all.keys().filter(|key| !wanted(key)) {
                left.remove_mut(key);
            }
            left
        });
    }

    /// Every destination, for what explains the proxy's state.
    pub fn all(&self) -> Vec<(BackendKey, Arc<Destination>)> {
        self.by_key.load().iter().map(|(key, destination)| (key.clone(), destination.clone())).collect()
    }
}

impl Destination {
    pub fn new(epoch: Instant) -> Destination {
        Destination {
            epoch,
            connections: Gauge::default(),
            pending: Gauge::default(),
            queue: Queue::default(),
            requests: Gauge::default(),
            retries: Gauge::default(),
            window: Mutex::default(),
            round: AtomicU64::default(),
            table: ArcSwapOption::empty(),
            states: Mutex::default(),
            version: AtomicU64::default(),
            due: AtomicU64::new(u64::MAX),
        }
    }

    /// Requests that are under way.
    pub fn active(&self) -> u32 {
        self.requests.now()
    }

    /// Endpoints that are out.
    pub fn ejected(&self) -> usize {
        self.states.lock().ejected
    }

    pub(crate) fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Lets endpoints come back whose time is over, and forgives old failures. Costs one comparison when nothing is due.
    pub(super) fn sweep(&self, outlier: &Outlier, now: Instant) {
        let now = self.nanos(now);
        if now < self.due.load(Relaxed) {
            return;
        }
        let mut states = self.states.lock();
        let interval = nanos(outlier.interval);
        let interval_over = now.saturating_sub(states.interval_began) >= interval;
        if interval_over {
            states.interval_began = now;
        }
        // Where only connections count, nobody stays out for what a policy that is gone has found.
        let longest = if outlier.of_connections { now.saturating_add(nanos(outlier.ejection)) } else { u64::MAX };
        let mut due = u64::MAX;
        let mut back = 0;
        for state in states.by_id.values() {
            let until = state.until.load(Relaxed);
            match state.standing() {
                Standing::Out if until <= now || until > longest => {
                    state.stand(Standing::Probe);
                    back += 1;
                }
                Standing::Out => due = due.min(until),
                Standing::In if state.ejections.load(Relaxed) > 0 => {
                    if interval_over {
                        state.ejections.fetch_sub(1, Relaxed);
                    }
                    due = due.min(states.interval_began + interval);
                }
                Standing::In | Standing::Probe | Standing::Probed => {}
            }
        }
        states.ejected -= back;
        self.due.store(due, Relaxed);
        if back > 0 {
            self.version.fetch_add(1, Relaxed);
        }
    }

    /// The endpoints or the policy changed: look at everything at the next request.
    pub(super) fn due_now(&self) {
        self.due.store(0, Relaxed);
        self.version.fetch_add(1, Relaxed);
    }

    fn eject(&self, state: &State, outlier: &Outlier, now: u64) {
        let mut states = self.states.lock();
        if state.standing() == Standing::Out || !may_eject(outlier, states.ejected, states.by_id.len()) {
            if state.standing() == Standing::Probed {
                state.stand(Standing::Probe);
            }
            return;
        }
        let nth = state.ejections.fetch_add(1, Relaxed) + 1;
        let until = now.saturating_add(nanos(duration(outlier, nth)));
        state.until.store(until, Relaxed);
        state.forget_rows();
        state.stand(Standing::Out);
        states.ejected += 1;
        self.due.fetch_min(until, Relaxed);
        self.version.fetch_add(1, Relaxed);
    }

    /// The endpoint is in again; its ejections are forgiven one an interval.
    fn restore(&self, state: &State, outlier: &Outlier, now: u64) {
        let mut states = self.states.lock();
        state.come_back();
        // A full interval has to pass before the first is forgiven.
        states.interval_began = now;
        self.due.fetch_min(now.saturating_add(nanos(outlier.interval)), Relaxed);
    }
}

impl States {
    /// Keeps those of the endpoints that there are, and makes those of new ones.
    pub fn renew(&mut self, ids: impl Iterator<Item = Arc<str>>, first: bool, now: u64) -> Vec<Arc<State>> {
        let mut old = std::mem::take(&mut self.by_id);
        let made = || Arc::new(State { since: if first { 0 } else { now.max(1) }, ..State::default() });
        let renewed: Vec<Arc<State>> = ids
            .map(|id| {
                let state = self.by_id.get(&id).cloned().or_else(|| old.remove(&id)).unwrap_or_else(made);
                self.by_id.insert(id, state.clone());
                state
            })
            .collect();
        self.ejected = self.by_id.values().filter(|state| state.standing() == Standing::Out).count();
        renewed
    }
}

impl State {
    pub fn standing(&self) -> Standing {
        Standing::of(self.standing.load(Relaxed))
    }

    fn stand(&self, standing: Standing) {
        self.standing.store(standing as u8, Relaxed);
    }

    fn come_back(&self) {
        self.forget_rows();
        self.stand(Standing::In);
    }

    fn forget_rows(&self) {
        for row in &self.rows {
            row.store(0, Relaxed);
        }
    }

    fn rows(&self) -> Rows {
        let [server, gateway, local] = &self.rows;
        Rows { server: server.load(Relaxed), gateway: gateway.load(Relaxed), local: local.load(Relaxed) }
    }

    fn keep_rows(&self, rows: Rows) {
        for (row, value) in self.rows.iter().zip([rows.server, rows.gateway, rows.local]) {
            row.store(value, Relaxed);
        }
    }

    /// Takes the endpoint for a request, if it may be taken. `Some(true)`: the request is the one that tries it.
    pub(super) fn claim(&self, last_resort: bool) -> Option<bool> {
        match self.standing() {
            Standing::In => Some(false),
            Standing::Probe => {
                let (from, to) = (Standing::Probe as u8, Standing::Probed as u8);
                self.standing.compare_exchange(from, to, Relaxed, Relaxed).ok().map(|_| true)
            }
            Standing::Out | Standing::Probed => last_resort.then_some(false),
        }
    }
}

impl Active {
    /// Counts a request at an endpoint that was claimed for it.
    pub(super) fn begin(held: Held, state: Arc<State>, outlier: Outlier, probe: bool) -> Active {
        state.active.fetch_add(1, Relaxed);
        Active { held, connection: None, state, outlier, probe, ended: false }
    }

    /// As long as it counts, it has this connection.
    pub fn occupies(&mut self, connection: Held) {
        self.connection = Some(connection);
    }

    /// How it ended; it counts no more.
    pub fn ended(mut self, outcome: Outcome, now: Instant) {
        self.saw(outcome, now);
    }

    /// What came of it, said once; it counts as under way until this is dropped. Dropped without: the client left, which
    /// says nothing of the endpoint.
    pub fn saw(&mut self, outcome: Outcome, now: Instant) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let now = self.held.destination.nanos(now);
        match outcome {
            Outcome::Answered { took, .. } => self.state.ewma.observe(took, now),
            Outcome::Failed(_) => self.state.ewma.punish(now),
        }
        let outlier = &self.outlier;
        let marks = marks(outlier, &outcome);
        let before = self.state.rows();
        let rows = before.after(marks);
        if rows != before {
            self.state.keep_rows(rows);
        }
        if self.probe {
            if marks.all_good() {
                self.held.destination.restore(&self.state, outlier, now);
            } else {
                self.held.destination.eject(&self.state, outlier, now);
            }
        } else if rows.suffice(outlier) && self.state.standing() == Standing::In {
            self.held.destination.eject(&self.state, outlier, now);
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if self.probe && !self.ended {
            self.state.stand(Standing::Probe);
        }
        self.state.active.fetch_sub(1, Relaxed);
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
