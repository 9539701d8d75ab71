//! When to ask for which certificate: a state machine without clock, network or tasks.
//!
//! ```text
//!            Asked / Prefetch                    slot free                Fetched
//!   (none) ──────────────────▶ waiting ───────────────────▶ in flight ───────────▶ good ──┐
//!                                 ▲  ▲                          │ Failed                   │ 40–50 % of life
//!                                 │  └── back-off over, or ─────┘                          │
//!                                 │      a connection asks (sooner)                        │
//!                                 └────────────────────────────────────────────────────────┘
//! ```
//!
//! At most `CONCURRENCY` requests are in flight; those who wait are ordered by priority, then by arrival. An identity is
//! in here once, however many ask, so the queue is bounded by `MAX_IDENTITIES`. `store` owns the clock and the network.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use mesh_model::identity::SpiffeId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Requests in flight at once: enough to start a node's pods quickly, few enough that a thousand nodes which restart
/// together do not fell the authority (spec/dataplane.md 10).
pub const CONCURRENCY: usize = 8;
/// Identities of one node. Kubernetes runs at most a few hundred pods per node; beyond this something is wrong.
pub const MAX_IDENTITIES: usize = 4096;
/// First pause after a failure; doubles up to the cap, ±20 % so that nodes which failed together part.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_CAP: Duration = Duration::from_secs(150);
const BACKOFF_JITTER: f64 = 0.2;
/// A waiting connection shortens the pause to this: a recovered authority serves within two seconds of the first wish,
/// and one that stays away sees at most one request per identity in this time.
const PAUSE_WHEN_ASKED: Duration = Duration::from_secs(1);
/// Part of the remaining life after which a certificate is renewed. Spread below one half, so that certificates issued
/// together are not renewed together, and more than half of the life is left for an authority that is away.
const RENEW_FROM: f64 = 0.40;
const RENEW_TO: f64 = 0.50;
/// Never renew more often, whatever lifetime the authority hands out.
const RENEW_AT_LEAST_AFTER: Duration = Duration::from_millis(500);
/// The wall clock may jump; it is compared with our times at least this often (spec/reliability.md F-11).
const LOOK_AT_CLOCK: Duration = Duration::from_secs(5);

/// Two clocks: certificates live by the wall clock, which may jump; pauses by the monotonic one.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since some fixed moment of this process.
    pub monotonic: Duration,
    pub wall: SystemTime,
}

/// Who waits for a certificate, most urgent last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Nobody: a renewal.
    Background,
    /// A workload that will soon have connections.
    WarmUp,
    /// A connection.
    RealTime,
}

/// Names one request, so that an answer to a forgotten one is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(u64);

#[derive(Debug, Clone)]
pub enum Event {
    /// A connection needs this identity and there is no valid certificate for it.
    Asked(SpiffeId),
    /// A workload with this identity runs on the node: keep a certificate ready until `Forget`.
    Prefetch(SpiffeId),
    /// The last workload with this identity left.
    Forget(SpiffeId),
    Fetched { attempt: Attempt, not_after: SystemTime },
    Failed { attempt: Attempt },
    /// Time has passed; due at `next_timeout`.
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ask the authority, and report `Fetched` or `Failed` with the same attempt.
    Fetch { identity: SpiffeId, attempt: Attempt, priority: Priority },
    /// The certificate's life is over; it must not be used any more.
    Expire(SpiffeId),
    /// The identity is not kept any more.
    Drop(SpiffeId),
    /// The identity cannot be kept: there are `MAX_IDENTITIES` already.
    Refuse(SpiffeId),
}

#[derive(Debug)]
pub struct Rotation {
    entries: BTreeMap<SpiffeId, Entry>,
    /// Most urgent first, then in order of arrival.
    waiting: BTreeSet<(Reverse<Priority>, u64, SpiffeId)>,
    in_flight: BTreeMap<Attempt, SpiffeId>,
    counter: u64,
    rng: SmallRng,
}

#[derive(Debug, Default)]
struct Entry {
    /// A workload is known to have it. Without one, the entry goes when its certificate does.
    held: bool,
    waits: Option<(Priority, u64)>,
    attempt: Option<Attempt>,
    /// When the next request is due, if none waits or is in flight.
    due: Option<Moment>,
    good_until: Option<Moment>,
    failures: u32,
    last_failure: Option<Duration>,
    asked: bool,
}

/// A point in time that is reached when either clock says so: a wall clock that was set back does not put off a renewal,
/// and a machine that slept (its monotonic clock stood still) does not miss one.
#[derive(Debug, Clone, Copy)]
struct Moment {
    monotonic: Duration,
    wall: Option<SystemTime>,
}

impl Moment {
    fn after(now: Now, pause: Duration) -> Moment {
        Moment { monotonic: now.monotonic + pause, wall: now.wall.checked_add(pause) }
    }

    fn in_machine_time(at: Duration) -> Moment {
        Moment { monotonic: at, wall: None }
    }

    fn left(&self, now: Now) -> Duration {
        let by_wall = self.wall.map(|wall| wall.duration_since(now.wall).unwrap_or_default());
        let monotonic = self.monotonic.saturating_sub(now.monotonic);
        by_wall.map_or(monotonic, |wall| wall.min(monotonic))
    }

    fn reached(&self, now: Now) -> bool {
        self.left(now).is_zero()
    }
}

impl Rotation {
    pub fn new(seed: u64) -> Rotation {
        Rotation {
            entries: BTreeMap::new(),
            waiting: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            counter: 0,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Asked(identity) => self.asked(identity, now, &mut commands),
            Event::Prefetch(identity) => self.prefetch(identity, &mut commands),
            Event::Forget(identity) => self.forget(identity, &mut commands),
            Event::Fetched { attempt, not_after } => self.fetched(attempt, not_after, now),
            Event::Failed { attempt } => self.failed(attempt, now),
            Event::Tick => self.tick(now, &mut commands),
        }
        self.start(&mut commands);
        commands
    }

    /// How long nothing happens unless an event comes. `None`: for ever.
    pub fn next_timeout(&self, now: Now) -> Option<Duration> {
        let times = self.entries.values().flat_map(|entry| {
            // A certificate that nobody needs is not renewed, so its renewal is no reason to wake up.
            let acts = entry.is_idle() && (entry.is_needed() || entry.good_until.is_none());
            [entry.due.filter(|_| acts), entry.good_until]
        });
        let next = times.flatten().map(|moment| {
            let look = if moment.wall.is_some() { LOOK_AT_CLOCK } else { Duration::MAX };
            moment.left(now).min(look)
        });
        next.min()
    }

    /// Identities that are kept, waited for or asked for.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Is this the request that the identity waits for now, or one that was forgotten meanwhile?
    pub fn is_current(&self, identity: &SpiffeId, attempt: Attempt) -> bool {
        self.entries.get(identity).is_some_and(|entry| entry.attempt == Some(attempt))
    }

    fn asked(&mut self, identity: SpiffeId, now: Now, commands: &mut Vec<Command>) {
        if !self.entries.contains_key(&identity) {
            return self.insert(identity, Entry { asked: true, ..Entry::default() }, Priority::RealTime, commands);
        }
        let entry = self.entries.get_mut(&identity).expect("looked up above");
        entry.asked = true;
        if entry.attempt.is_some() {
            return; // its answer is for all who ask
        }
        let soon = entry.last_failure.map_or(Duration::ZERO, |failed| failed + PAUSE_WHEN_ASKED);
        if entry.waits.is_some() || soon <= now.monotonic {
            self.wait(&identity, Priority::RealTime);
        } else if entry.due.is_none_or(|due| due.monotonic > soon) {
            entry.due = Some(Moment::in_machine_time(soon));
        }
    }

    fn prefetch(&mut self, identity: SpiffeId, commands: &mut Vec<Command>) {
        match self.entries.get_mut(&identity) {
            Some(entry) => entry.held = true,
            None => self.insert(identity, Entry { held: true, ..Entry::default() }, Priority::WarmUp, commands),
        }
    }

    fn insert(&mut self, identity: SpiffeId, entry: Entry, priority: Priority, commands: &mut Vec<Command>) {
        if self.entries.len() >= MAX_IDENTITIES {
            return commands.push(Command::Refuse(identity));
        }
        self.entries.insert(identity.clone(), entry);
        self.wait(&identity, priority);
    }

    /// The answer to a request in flight, if any, is dropped when it comes.
    fn forget(&mut self, identity: SpiffeId, commands: &mut Vec<Command>) {
        if let Some(entry) = self.entries.remove(&identity) {
            if let Some((priority, order)) = entry.waits {
                self.waiting.remove(&(Reverse(priority), order, identity.clone()));
            }
            commands.push(Command::Drop(identity));
        }
    }

    fn fetched(&mut self, attempt: Attempt, not_after: SystemTime, now: Now) {
        let part = self.rng.random_range(RENEW_FROM..RENEW_TO);
        let Some(entry) = self.finish(attempt) else { return };
        // Measured from now, not from the certificate's start: that lies minutes in the past to bridge clock skew, and
        // would make a short certificate due at once.
        let life = not_after.duration_since(now.wall).unwrap_or_default();
        entry.good_until = Some(Moment { monotonic: now.monotonic.saturating_add(life), wall: Some(not_after) });
        entry.due = Some(Moment::after(now, life.mul_f64(part).max(RENEW_AT_LEAST_AFTER)));
        entry.failures = 0;
        entry.last_failure = None;
        entry.asked = false;
    }

    fn failed(&mut self, attempt: Attempt, now: Now) {
        let jitter = 1.0 + self.rng.random_range(-BACKOFF_JITTER..BACKOFF_JITTER);
        let Some(entry) = self.finish(attempt) else { return };
        let doubled = BACKOFF_FIRST.saturating_mul(1 << entry.failures.min(16)).min(BACKOFF_CAP);
        let pause = doubled.mul_f64(jitter).min(BACKOFF_CAP);
        entry.failures += 1;
        entry.last_failure = Some(now.monotonic);
        entry.asked = false;
        // One more try at the moment of expiry, when connections begin to fail.
        let pause = entry.good_until.map_or(pause, |end| pause.min(end.left(now).max(RENEW_AT_LEAST_AFTER)));
        entry.due = Some(Moment::in_machine_time(now.monotonic + pause));
    }

    /// Ends an attempt. `None` when its identity was forgotten meanwhile.
    fn finish(&mut self, attempt: Attempt) -> Option<&mut Entry> {
        let identity = self.in_flight.remove(&attempt)?;
        let entry = self.entries.get_mut(&identity)?;
        if entry.attempt != Some(attempt) {
            return None;
        }
        entry.attempt = None;
        Some(entry)
    }

    fn tick(&mut self, now: Now, commands: &mut Vec<Command>) {
        let mut wanted = Vec::new();
        let mut gone = Vec::new();
        for (identity, entry) in &mut self.entries {
            if entry.good_until.is_some_and(|end| end.reached(now)) {
                entry.good_until = None;
                if entry.is_idle() && !entry.is_needed() {
                    gone.push(identity.clone());
                    continue;
                }
                commands.push(Command::Expire(identity.clone()));
            }
            if !entry.is_idle() || !entry.due.is_some_and(|due| due.reached(now)) {
                continue;
            }
            if entry.is_needed() {
                wanted.push((identity.clone(), entry.urgency()));
            } else if entry.good_until.is_none() {
                gone.push(identity.clone()); // it failed, and whoever asked has gone
            }
        }
        for (identity, priority) in wanted {
            self.wait(&identity, priority);
        }
        for identity in gone {
            self.forget(identity, commands);
        }
    }

    /// Puts an identity into the queue, or moves it forward there.
    fn wait(&mut self, identity: &SpiffeId, priority: Priority) {
        self.counter += 1;
        let fresh = self.counter;
        let entry = self.entries.get_mut(identity).expect("only known identities wait");
        let order = match entry.waits {
            Some((present, _)) if present >= priority => return,
            Some((present, order)) => {
                self.waiting.remove(&(Reverse(present), order, identity.clone()));
                order
            }
            None => fresh,
        };
        entry.waits = Some((priority, order));
        entry.due = None;
        self.waiting.insert((Reverse(priority), order, identity.clone()));
    }

    fn start(&mut self, commands: &mut Vec<Command>) {
        while self.in_flight.len() < CONCURRENCY {
            let Some((Reverse(priority), _, identity)) = self.waiting.pop_first() else { return };
            self.counter += 1;
            let attempt = Attempt(self.counter);
            let entry = self.entries.get_mut(&identity).expect("who waits is known");
            entry.waits = None;
            entry.attempt = Some(attempt);
            self.in_flight.insert(attempt, identity.clone());
            commands.push(Command::Fetch { identity, attempt, priority });
        }
    }
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.waits.is_none() && self.attempt.is_none()
    }

    /// Without a workload nobody needs a renewal; a connection that does will ask.
    fn is_needed(&self) -> bool {
        self.held || self.asked
    }

    fn urgency(&self) -> Priority {
        match (self.asked, self.good_until.is_some()) {
            (true, _) => Priority::RealTime,
            (false, false) => Priority::WarmUp,
            (false, true) => Priority::Background,
        }
    }
}

#[cfg(test)]
mod tests;
