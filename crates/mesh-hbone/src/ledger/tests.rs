//! Tests of `ledger`: single facts, and then every reachable state of a small pool.

use std::collections::HashSet;
use std::fmt::Write;

use super::*;

const S: Duration = Duration::from_secs(1);

fn rules() -> Rules {
    Rules {
        streams_per_connection: 2,
        connections_per_key: 1,
        streams_before_spread: 4,
        idle_connections: 2,
        idle_release: 300 * S,
        surplus_release: 20 * S,
    }
}

fn pool(rules: Rules) -> (Ledger<char>, Instant) {
    (Ledger::new(rules), Instant::now())
}

/// Dials a connection for `key` with this limit of the peer's.
fn connect(ledger: &mut Ledger<char>, key: char, limit: usize, now: Instant) -> ConnectionId {
    let Answer::Open(dial) = ledger.ask(&key) else { panic!("{key} is not to be dialled") };
    let connection = ledger.opened(dial, &key, now).expect("it was asked for");
    ledger.limited(connection, limit);
    connection
}

fn ride(ledger: &mut Ledger<char>, key: char) -> ConnectionId {
    match ledger.ask(&key) {
        Answer::Ride { connection, .. } => connection,
        other => panic!("no ride for {key}: {other:?}"),
    }
}

// Z-098, Z-103
#[test]
fn a_connection_is_reused_and_the_second_rider_knows_it_was_used() {
    let (mut ledger, now) = pool(rules());
    let connection = connect(&mut ledger, 'a', 100, now);
    assert_eq!(ledger.ask(&'a'), Answer::Ride { connection, used: false, dial: None });
    assert!(!ledger.left(connection, now));
    assert_eq!(ledger.ask(&'a'), Answer::Ride { connection, used: true, dial: None });
}

// Z-100
#[test]
fn keys_do_not_share() {
    let (mut ledger, now) = pool(rules());
    let a = connect(&mut ledger, 'a', 100, now);
    let b = connect(&mut ledger, 'b', 100, now);
    assert_ne!(a, b);
    assert_eq!((ride(&mut ledger, 'a'), ride(&mut ledger, 'b')), (a, b));
}

#[test]
fn one_dial_at_a_time_per_key_and_its_failure_makes_room_for_another() {
    let (mut ledger, _) = pool(rules());
    let Answer::Open(dial) = ledger.ask(&'a') else { panic!() };
    assert_eq!(ledger.ask(&'a'), Answer::Wait);
    assert!(matches!(ledger.ask(&'b'), Answer::Open(_)));
    assert!(ledger.failed(dial, &'a'));
    assert!(matches!(ledger.ask(&'a'), Answer::Open(_)));
}

// Z-101, interop 13.10: the stream above the limit gets a second connection; and the first comes back into use
#[test]
fn a_full_connection_makes_a_second_and_serves_again_when_a_rider_leaves() {
    let (mut ledger, now) = pool(rules());
    let first = connect(&mut ledger, 'a', 100, now);
    assert_eq!((ride(&mut ledger, 'a'), ride(&mut ledger, 'a')), (first, first));
    let second = connect(&mut ledger, 'a', 100, now);
    assert_eq!(ride(&mut ledger, 'a'), second);
    ledger.left(first, now);
    assert_eq!(ride(&mut ledger, 'a'), first, "the oldest with room");
}

#[test]
fn the_peers_limit_counts_when_it_is_lower_and_before_it_is_known_one_may_ride() {
    let (mut ledger, now) = pool(rules());
    let Answer::Open(dial) = ledger.ask(&'a') else { panic!() };
    let connection = ledger.opened(dial, &'a', now).unwrap();
    assert_eq!(ride(&mut ledger, 'a'), connection);
    assert_eq!(ledger.ask(&'a'), Answer::Wait, "its SETTINGS are about to come");
    ledger.limited(connection, 1);
    assert!(matches!(ledger.ask(&'a'), Answer::Open(_)));
}

// F-36
#[test]
fn a_peer_that_takes_no_stream_now_is_waited_for_and_not_dialled_again() {
    let (mut ledger, now) = pool(rules());
    let connection = connect(&mut ledger, 'a', 0, now);
    assert_eq!(ledger.ask(&'a'), Answer::Wait);
    ledger.limited(connection, 100);
    assert_eq!(ride(&mut ledger, 'a'), connection);
}

// F-36
#[test]
fn a_connection_that_refuses_is_full_until_a_rider_leaves() {
    let (mut ledger, now) = pool(rules());
    let connection = connect(&mut ledger, 'a', 100, now);
    ride(&mut ledger, 'a');
    ride(&mut ledger, 'a');
    ledger.left(connection, now);
    assert!(!ledger.refused(connection));
    let Answer::Open(dial) = ledger.ask(&'a') else { panic!() };
    ledger.failed(dial, &'a');
    ledger.left(connection, now);
    assert_eq!(ride(&mut ledger, 'a'), connection);
    ledger.left(connection, now);
    assert!(ledger.refused(connection), "refusing with nobody on it: of no use");
    assert!(ledger.rows().is_empty());
}

// Z-102, F-35
#[test]
fn a_shut_connection_keeps_its_riders_and_gets_no_new_ones() {
    let (mut ledger, now) = pool(rules());
    let connection = connect(&mut ledger, 'a', 100, now);
    ride(&mut ledger, 'a');
    assert!(!ledger.shut(connection));
    let second = connect(&mut ledger, 'a', 100, now);
    assert_eq!(ride(&mut ledger, 'a'), second);
    assert!(ledger.left(connection, now), "the last rider takes it along");
    assert_eq!(ledger.rows().len(), 1);
}

// Z-107, Z-108
#[test]
fn an_unused_connection_goes_after_its_time_and_a_used_one_stays() {
    let (mut ledger, now) = pool(rules());
    let a = connect(&mut ledger, 'a', 100, now);
    let b = connect(&mut ledger, 'b', 100, now);
    ride(&mut ledger, 'a');
    ride(&mut ledger, 'b');
    ledger.left(b, now + S);
    assert!(!ledger.expired(b, now + 300 * S));
    assert!(ledger.expired(b, now + 301 * S));
    assert!(!ledger.expired(a, now + 10_000 * S));
    assert!(matches!(ledger.ask(&'b'), Answer::Open(_)));
}

#[test]
fn what_a_burst_left_behind_goes_soon_and_one_connection_stays() {
    let (mut ledger, now) = pool(rules());
    let burst: Vec<ConnectionId> = (0..3)
        .map(|_| {
            let connection = connect(&mut ledger, 'a', 1, now);
            assert_eq!(ride(&mut ledger, 'a'), connection);
            connection
        })
        .collect();
    for connection in &burst[..2] {
        ledger.left(*connection, now);
    }
    assert!(!ledger.expired(burst[0], now + 19 * S));
    assert!(ledger.expired(burst[0], now + 20 * S));
    assert!(ledger.expired(burst[1], now + 20 * S), "the third has a rider, and is one that a key may have");
    ledger.left(burst[2], now + 20 * S);
    assert!(!ledger.expired(burst[2], now + 319 * S), "the last one has the whole time");
    assert!(ledger.expired(burst[2], now + 320 * S));
}

#[test]
fn above_the_limit_the_least_recently_used_goes() {
    let (mut ledger, now) = pool(rules());
    let connections: Vec<_> = ('a'..='d').map(|key| connect(&mut ledger, key, 100, now)).collect();
    for key in 'a'..='d' {
        ride(&mut ledger, key);
    }
    for (order, index) in [2, 0, 1].into_iter().enumerate() {
        ledger.left(connections[index], now + S * order as u32);
    }
    assert_eq!(ledger.evict(), Some(connections[2]));
    assert_eq!(ledger.evict(), None);
    assert_eq!(ledger.rows().len(), 3);
}

#[test]
fn a_retired_key_is_dialled_anew_and_its_running_dial_is_not_admitted() {
    let (mut ledger, now) = pool(rules());
    let idle = connect(&mut ledger, 'a', 100, now);
    let busy = connect(&mut ledger, 'b', 100, now);
    ride(&mut ledger, 'b');
    let Answer::Open(dial) = ledger.ask(&'c') else { panic!() };
    assert_eq!(ledger.retire(|key| *key != 'x'), [(idle, true), (busy, false)]);
    assert_eq!(ledger.opened(dial, &'c', now), None);
    for key in ['a', 'b', 'c'] {
        assert!(matches!(ledger.ask(&key), Answer::Open(_)), "{key}");
    }
    assert!(!ledger.failed(dial, &'c'), "the old dial's failure is not the new one's");
}

#[test]
fn draining_seats_nobody() {
    let (mut ledger, now) = pool(rules());
    let connection = connect(&mut ledger, 'a', 100, now);
    ride(&mut ledger, 'a');
    assert_eq!(ledger.drain(), [(connection, false)]);
    assert_eq!(ledger.ask(&'a'), Answer::Draining);
    assert!(ledger.left(connection, now));
    assert!(ledger.rows().is_empty() && ledger.keys.is_empty());
}

// Z-099 is helped by it: one slow stream need not share with all others
#[test]
fn a_spread_key_gets_more_connections_when_the_least_loaded_is_busy() {
    let (mut ledger, now) =
        pool(Rules { streams_per_connection: 100, connections_per_key: 2, streams_before_spread: 1, ..rules() });
    let first = connect(&mut ledger, 'a', 100, now);
    assert_eq!(ride(&mut ledger, 'a'), first);
    let Answer::Ride { connection, dial: Some(dial), .. } = ledger.ask(&'a') else { panic!("no second dial") };
    assert_eq!(connection, first);
    assert!(matches!(ledger.ask(&'a'), Answer::Ride { dial: None, .. }), "one dial at a time");
    let second = ledger.opened(dial, &'a', now).unwrap();
    ledger.limited(second, 100);
    for _ in 0..3 {
        assert_eq!(ride(&mut ledger, 'a'), second);
    }
    assert!(matches!(ledger.ask(&'a'), Answer::Ride { dial: None, .. }), "two are enough");
}

/// What happens to a pool, from outside.
#[derive(Clone, Copy, Debug)]
enum Event {
    Ask(char),
    Opened(char),
    Failed(char),
    Limited(usize, usize),
    Refused(usize),
    Left(usize),
    Shut(usize),
    Gone(usize),
    Expired(usize),
    Retire(char),
    Drain,
}

/// The ledger and what is known outside of it.
#[derive(Clone)]
struct Model {
    ledger: Ledger<char>,
    dials: BTreeMap<char, DialId>,
    /// The connections in the order they were made, with riders; `None` when let go or gone.
    made: Vec<(char, ConnectionId, Option<usize>)>,
    clock: Instant,
}

impl Model {
    /// Numbers that grow and names are taken out, so that equal situations are equal.
    fn signature(&self) -> String {
        let mut names: Vec<char> = Vec::new();
        let mut name = |key: char| match names.iter().position(|other| *other == key) {
            Some(place) => place,
            None => {
                names.push(key);
                names.len() - 1
            }
        };
        let mut text = String::new();
        for (key, id, _) in self.made.iter().filter(|(_, _, riders)| riders.is_some()) {
            let entry = &self.ledger.connections[id];
            let age = self.ledger.idle.iter().position(|(_, other)| other == id);
            let facts = [entry.refusing, entry.shut, entry.used].map(u8::from);
            write!(text, "{} {} {:?} {facts:?} {age:?};", name(*key), entry.riders, entry.limit).unwrap();
        }
        let wanted = |key, dial: &DialId| self.ledger.keys.get(key).is_some_and(|lane| lane.dial == Some(*dial));
        let mut dials: Vec<_> = self.dials.iter().map(|(key, dial)| (name(*key), wanted(key, dial))).collect();
        dials.sort();
        write!(text, "{dials:?}{}{}", self.made.len(), self.ledger.draining).unwrap();
        text
    }

    fn events(&self, keys: &[char], limits: &[usize]) -> Vec<Event> {
        let mut events = vec![Event::Drain];
        for key in keys {
            events.extend([Event::Ask(*key), Event::Retire(*key)]);
            if self.dials.contains_key(key) {
                events.extend([Event::Opened(*key), Event::Failed(*key)]);
            }
        }
        for (index, (_, _, riders)) in self.made.iter().enumerate() {
            let Some(riders) = riders else { continue };
            events.extend([Event::Shut(index), Event::Gone(index), Event::Expired(index)]);
            events.extend(limits.iter().map(|limit| Event::Limited(index, *limit)));
            if *riders > 0 {
                events.extend([Event::Left(index), Event::Refused(index)]);
            }
        }
        events
    }

    fn let_go(&mut self, id: ConnectionId) {
        let (_, _, riders) = self.made.iter_mut().find(|(_, other, _)| *other == id).expect("it was made");
        assert!(matches!(riders, Some(0)), "let go with riders, or twice");
        *riders = None;
    }

    /// A rider leaves; a connection that nobody needs then goes.
    fn leave(&mut self, index: usize) {
        let (_, id, riders) = &mut self.made[index];
        let id = *id;
        *riders.as_mut().expect("only a living connection has riders") -= 1;
        if self.ledger.left(id, self.clock) {
            self.let_go(id);
        }
        while let Some(evicted) = self.ledger.evict() {
            self.let_go(evicted);
        }
    }

    fn apply(&mut self, event: Event) {
        self.clock += S;
        match event {
            Event::Ask(key) => self.ask(key),
            Event::Opened(key) => {
                let dial = self.dials.remove(&key).expect("only running dials open");
                if let Some(id) = self.ledger.opened(dial, &key, self.clock) {
                    self.made.push((key, id, Some(0)));
                }
            }
            Event::Failed(key) => {
                let dial = self.dials.remove(&key).expect("only running dials fail");
                self.ledger.failed(dial, &key);
            }
            Event::Limited(index, limit) => self.ledger.limited(self.made[index].1, limit),
            Event::Left(index) => self.leave(index),
            Event::Refused(index) => {
                self.leave(index);
                if self.made[index].2.is_some() && self.ledger.refused(self.made[index].1) {
                    self.let_go(self.made[index].1);
                }
            }
            Event::Shut(index) => {
                if self.ledger.shut(self.made[index].1) {
                    self.let_go(self.made[index].1);
                }
            }
            Event::Gone(index) => {
                self.ledger.gone(self.made[index].1);
                self.made[index].2 = None;
            }
            Event::Expired(index) => {
                if self.ledger.expired(self.made[index].1, self.clock + 300 * S) {
                    self.let_go(self.made[index].1);
                }
            }
            Event::Retire(key) => {
                for (id, empty) in self.ledger.retire(|other| *other == key) {
                    if empty {
                        self.let_go(id);
                    }
                }
            }
            Event::Drain => {
                for (id, empty) in self.ledger.drain() {
                    if empty {
                        self.let_go(id);
                    }
                }
            }
        }
    }

    fn ask(&mut self, key: char) {
        let before = self.ledger.clone();
        match self.ledger.ask(&key) {
            Answer::Draining => assert!(before.draining),
            Answer::Open(dial) => {
                // A dial that was retired may still run beside its successor; the pool then hears of both. The model
                // follows the newer one, and the older one's end must do no harm.
                if let Some(old) = self.dials.insert(key, dial) {
                    let harmless = self.ledger.clone().opened(old, &key, self.clock);
                    assert_eq!(harmless, None, "a retired dial was admitted");
                }
            }
            Answer::Wait => {
                let lane = &before.keys[&key];
                let pending = |id: &ConnectionId| matches!(before.connections[id].limit, None | Some(0));
                assert!(lane.dial.is_some() || lane.connections.iter().any(pending), "nothing will wake this waiter");
            }
            Answer::Ride { connection, used, dial } => {
                let entry = &before.connections[&connection];
                let (_, _, riders) = self.made.iter_mut().find(|(_, other, _)| *other == connection).expect("it was made");
                let riders = riders.as_mut().expect("a connection that was let go is not ridden on");
                assert_eq!(entry.key, key);
                assert!(!entry.shut && !entry.refusing && !before.draining);
                assert!(*riders < entry.limit.unwrap_or(1).min(2), "seated above the limit");
                assert!(used || *riders == 0);
                assert_eq!(dial, None, "no spread by these rules");
                *riders += 1;
            }
        }
    }

    /// What must hold in every state.
    fn check(&self) {
        let ledger = &self.ledger;
        for (key, id, riders) in &self.made {
            let known = ledger.connections.get(id);
            assert_eq!(known.map(|entry| (entry.key, entry.riders)), riders.map(|riders| (*key, riders)));
        }
        for (id, entry) in &ledger.connections {
            let idle = ledger.idle.iter().any(|(_, other)| other == id);
            assert_eq!(idle, entry.idle_since.is_some());
            assert_eq!(idle, entry.riders == 0, "idle exactly when nobody rides");
            assert!(!(entry.shut && entry.riders == 0), "shut and empty is gone");
            let listed = ledger.keys.get(&entry.key).is_some_and(|lane| lane.connections.contains(id));
            assert_eq!(listed, !entry.shut);
        }
        assert!(ledger.idle.len() <= ledger.connections.len());
        for lane in ledger.keys.values() {
            assert!(!lane.is_empty(), "a key with nothing is forgotten");
            assert!(lane.connections.iter().all(|id| ledger.connections.contains_key(id)));
        }
        assert!(!ledger.draining || ledger.keys.is_empty());
    }
}

/// Every situation that three connections can be brought into.
fn explore(keys: &[char], connections: usize, streams: usize, limits: &[usize]) -> usize {
    let start = Model {
        ledger: Ledger::new(Rules { idle_connections: 1, streams_per_connection: streams, ..rules() }),
        dials: BTreeMap::new(),
        made: Vec::new(),
        clock: Instant::now(),
    };
    let mut seen = HashSet::from([start.signature()]);
    let mut todo = vec![start];
    while let Some(model) = todo.pop() {
        for event in model.events(keys, limits) {
            if matches!(event, Event::Opened(_)) && model.made.len() == connections {
                continue;
            }
            let mut next = model.clone();
            next.apply(event);
            next.check();
            if seen.insert(next.signature()) {
                todo.push(next);
            }
        }
    }
    seen.len()
}

#[test]
fn every_situation_of_one_key_and_three_connections_is_sound() {
    let states = explore(&['a'], 3, 2, &[0, 1, 9]);
    assert!(states > 10_000, "{states} situations only: the model does not bite");
}

#[test]
fn every_situation_of_three_keys_and_three_connections_is_sound() {
    let states = explore(&['a', 'b', 'c'], 3, 1, &[9]);
    assert!(states > 10_000, "{states} situations only: the model does not bite");
}
