use super::*;
use crate::testing::{DAY, HOUR, id, start};

/// A rotation with both clocks in hand.
struct Bench {
    rotation: Rotation,
    now: Now,
}

impl Bench {
    fn new() -> Bench {
        Bench { rotation: Rotation::new(1), now: Now { monotonic: Duration::from_secs(100), wall: start() } }
    }

    fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.wall += time;
    }

    fn handle(&mut self, event: Event) -> Vec<Command> {
        self.rotation.handle(event, self.now)
    }

    /// Sleeps exactly as the shell does and returns what comes of it, until there is something or `limit` is over.
    fn sleep_until_command(&mut self, limit: Duration) -> Vec<Command> {
        let end = self.now.monotonic + limit;
        while self.now.monotonic < end {
            let Some(timeout) = self.rotation.next_timeout(self.now) else { return Vec::new() };
            self.pass(timeout.min(end - self.now.monotonic));
            let commands = self.handle(Event::Tick);
            if !commands.is_empty() {
                return commands;
            }
            assert_ne!(self.rotation.next_timeout(self.now), Some(Duration::ZERO), "the shell would spin");
        }
        Vec::new()
    }

    fn fetched(&mut self, attempt: Attempt, life: Duration) -> Vec<Command> {
        let not_after = self.now.wall + life;
        self.handle(Event::Fetched { attempt, not_after })
    }

    fn failed(&mut self, attempt: Attempt) -> Vec<Command> {
        self.handle(Event::Failed { attempt })
    }
}

fn only_fetch(commands: &[Command]) -> (SpiffeId, Attempt, Priority) {
    match commands {
        [Command::Fetch { identity, attempt, priority }] => (identity.clone(), *attempt, *priority),
        other => panic!("expected one request, got {other:?}"),
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

// Z-030, Z-033, Z-034, Z-035
#[test]
fn an_identity_is_asked_for_once_however_many_want_it() {
    let mut bench = Bench::new();
    let (_, attempt, priority) = only_fetch(&bench.handle(Event::Prefetch(id("a", "b"))));
    assert_eq!(priority, Priority::WarmUp);
    for _ in 0..100 {
        assert_eq!(bench.handle(Event::Asked(id("a", "b"))), []);
        assert_eq!(bench.handle(Event::Prefetch(id("a", "b"))), []);
    }
    assert_eq!(bench.fetched(attempt, DAY), []);
    assert_eq!(bench.handle(Event::Prefetch(id("a", "b"))), []);
    assert_eq!((bench.rotation.len(), bench.rotation.in_flight()), (1, 0));
}

// Z-032, Z-036
#[test]
fn eight_at_once_and_connections_first() {
    let mut bench = Bench::new();
    let mut flying = Vec::new();
    for number in 0..20 {
        flying.extend(bench.handle(Event::Prefetch(id("warm", &number.to_string()))));
    }
    assert_eq!(flying.len(), CONCURRENCY);
    assert_eq!(bench.handle(Event::Asked(id("real", "first"))), []);
    assert_eq!(bench.handle(Event::Asked(id("real", "second"))), []);
    // A prefetched identity moves forward when a connection wants it, and keeps its place among equals.
    assert_eq!(bench.handle(Event::Asked(id("warm", "19"))), []);
    let mut order = Vec::new();
    while let Some(Command::Fetch { attempt, .. }) = flying.pop() {
        assert!(bench.rotation.in_flight() <= CONCURRENCY);
        for command in bench.fetched(attempt, DAY) {
            if let Command::Fetch { identity, priority, .. } = &command {
                order.push((identity.to_string(), *priority));
            }
            flying.insert(0, command);
        }
    }
    let name = |text: &str| format!("spiffe://td/ns/{text}");
    let first: Vec<String> = order.iter().take(4).map(|(identity, _)| identity.clone()).collect();
    assert_eq!(first, [name("warm/sa/19"), name("real/sa/first"), name("real/sa/second"), name("warm/sa/8")]);
    assert!(order.is_sorted_by_key(|(_, priority)| Reverse(*priority)));
    assert_eq!(order.len(), 14);
    assert_eq!(bench.rotation.in_flight(), 0);
}

// A renewal waits behind both (spec/dataplane.md 10)
#[test]
fn renewals_are_the_least_urgent() {
    let mut bench = Bench::new();
    let (_, attempt, _) = only_fetch(&bench.handle(Event::Prefetch(id("old", "one"))));
    bench.fetched(attempt, DAY);
    bench.pass(13 * HOUR);
    let (_, _, priority) = only_fetch(&bench.handle(Event::Tick));
    assert_eq!(priority, Priority::Background);
}

// Z-191, Z-031: between 40 and 50 % of what is left, spread, never in a spin
#[test]
fn renewal_is_due_before_half_of_the_life() {
    let mut moments = Vec::new();
    for seed in 0..50 {
        let mut bench = Bench { rotation: Rotation::new(seed), ..Bench::new() };
        let (_, attempt, _) = only_fetch(&bench.handle(Event::Prefetch(id("a", "b"))));
        bench.fetched(attempt, DAY);
        let began = bench.now.monotonic;
        only_fetch(&bench.sleep_until_command(DAY));
        moments.push(bench.now.monotonic - began);
    }
    assert!(moments.iter().all(|moment| *moment >= DAY.mul_f64(0.40) && *moment <= DAY.mul_f64(0.50)), "{moments:?}");
    moments.sort();
    assert!(moments[49] - moments[0] > HOUR, "nodes that start together renew together: {moments:?}");
}

// F-13: two seconds of life; a certificate that is over when it comes
#[test]
fn short_lives_make_no_storm() {
    for (life, least) in [(secs(2), Duration::from_millis(800)), (secs(1), RENEW_AT_LEAST_AFTER), (secs(0), RENEW_AT_LEAST_AFTER)] {
        let mut bench = Bench::new();
        let (_, mut attempt, _) = only_fetch(&bench.handle(Event::Prefetch(id("a", "b"))));
        let began = bench.now.monotonic;
        let mut count = 0;
        while bench.now.monotonic < began + secs(60) {
            bench.fetched(attempt, life);
            let fetch = loop {
                let commands = bench.sleep_until_command(secs(10));
                if let Some(fetch) = commands.into_iter().find(|command| matches!(command, Command::Fetch { .. })) {
                    break fetch;
                }
            };
            attempt = only_fetch(&[fetch]).1;
            count += 1;
        }
        let most = secs(60).as_millis() / least.as_millis() + 1;
        assert!(count <= most, "{count} requests in a minute for a life of {life:?}");
    }
}

// spec/dataplane.md 10: first ≈1 s, ×2, ±20 %, cap 150 s; Z-040: success resets
#[test]
fn failures_back_off_and_success_resets() {
    let mut bench = Bench::new();
    let (_, mut attempt, _) = only_fetch(&bench.handle(Event::Prefetch(id("a", "b"))));
    for expect in [1, 2, 4, 8, 16, 32, 64, 128, 150, 150, 150] {
        bench.failed(attempt);
        let began = bench.now.monotonic;
        attempt = only_fetch(&bench.sleep_until_command(secs(1000))).1;
        let pause = (bench.now.monotonic - began).as_secs_f64();
        let (low, high) = (f64::from(expect) * 0.8, (f64::from(expect) * 1.2).min(150.0));
        assert!(pause >= low.min(150.0 * 0.8) && pause <= high + 0.001, "paused {pause}, expected {expect} ± 20 %");
    }
    bench.fetched(attempt, DAY);
    attempt = only_fetch(&bench.sleep_until_command(DAY)).1;
    bench.failed(attempt);
    let began = bench.now.monotonic;
    only_fetch(&bench.sleep_until_command(DAY));
    assert!(bench.now.monotonic - began <= Duration::from_millis(1200));
}

// Weakness 42 of spec/dataplane.md 11; F-09: ok within 2 s after the authority is back
#[test]
fn a_waiting_connection_shortens_the_pause_but_not_below_a_second() {
    let mut bench = Bench::new();
    let (_, mut attempt, _) = only_fetch(&bench.handle(Event::Prefetch(id("a", "b"))));
    for _ in 0..10 {
        bench.failed(attempt);
        attempt = only_fetch(&bench.sleep_until_command(secs(1000))).1;
    }
    bench.failed(attempt); // the next try is more than a hundred seconds away
    for _ in 0..100 {
        assert_eq!(bench.handle(Event::Asked(id("a", "b"))), []);
    }
    let began = bench.now.monotonic;
    let (_, attempt, priority) = only_fetch(&bench.sleep_until_command(secs(1000)));
    assert_eq!(priority, Priority::RealTime);
    assert_eq!(bench.now.monotonic - began, PAUSE_WHEN_ASKED);
    bench.failed(attempt);
    bench.pass(secs(30));
    only_fetch(&bench.handle(Event::Asked(id("a", "b")))); // long enough ago: at once
}

// Without further wishes the pause is the long one again.
#[test]
fn a_wish_speeds_up_one_try_only() {
    let mut bench = Bench::new();
    let (_, mut attempt, _) = only_fetch(&bench.handle(Event::Prefetch(id("a", "b"))));
    for _ in 0..10 {
        bench.failed(attempt);
        attempt = only_fetch(&bench.sleep_until_command(secs(1000))).1;
    }
    bench.failed(attempt);
    bench.handle(Event::Asked(id("a", "b")));
    let attempt = only_fetch(&bench.sleep_until_command(secs(1000))).1;
    bench.failed(attempt);
    let began = bench.now.monotonic;
    only_fetch(&bench.sleep_until_command(secs(1000)));
    assert!(bench.now.monotonic - began >= secs(120));
}

// Z-042, F-09
#[test]
fn the_old_certificate_stays_until_its_end_and_the_end_is_tried_at_once() {
    let mut bench = Bench::new();
    let (_, attempt, _) = only_fetch(&bench.handle(Event::Prefetch(id("a", "b"))));
    bench.fetched(attempt, secs(600));
    let (began, mut tries, mut expired) = (bench.now.monotonic, 0, None);
    while expired.is_none() {
        for command in bench.sleep_until_command(secs(600)) {
            match command {
                Command::Fetch { attempt, .. } => {
                    tries += 1;
                    bench.failed(attempt);
                }
                Command::Expire(_) => expired = Some(bench.now.monotonic - began),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(expired, Some(secs(600)));
    assert!((6..=12).contains(&tries), "{tries} tries in five minutes");
    assert_eq!(bench.rotation.len(), 1, "it is kept and asked for again");
    let again = bench.sleep_until_command(secs(151));
    assert!(matches!(again.as_slice(), [Command::Fetch { priority: Priority::WarmUp, .. }]), "{again:?}");
}

// Z-037, Z-038, Z-039
#[test]
fn forgetting_leaves_nothing_in_any_state() {
    let mut bench = Bench::new();
    let one = || id("a", "b");
    // in flight: the late answer is nobody's
    let (_, attempt, _) = only_fetch(&bench.handle(Event::Prefetch(one())));
    assert!(bench.rotation.is_current(&one(), attempt));
    assert_eq!(bench.handle(Event::Forget(one())), [Command::Drop(one())]);
    assert!(!bench.rotation.is_current(&one(), attempt));
    assert_eq!(bench.rotation.in_flight(), 1, "the slot is taken until the request ends");
    // wanted again before the late answer comes: a request of its own
    let (_, second, _) = only_fetch(&bench.handle(Event::Prefetch(one())));
    assert_eq!(bench.fetched(attempt, DAY), []);
    assert!(bench.rotation.is_current(&one(), second));
    assert_eq!(bench.fetched(second, DAY), []);
    // good
    assert_eq!(bench.handle(Event::Forget(one())), [Command::Drop(one())]);
    // backing off
    let (_, third, _) = only_fetch(&bench.handle(Event::Prefetch(one())));
    bench.failed(third);
    assert_eq!(bench.handle(Event::Forget(one())), [Command::Drop(one())]);
    // waiting for a slot
    let flying: Vec<_> = (0..8).flat_map(|number| bench.handle(Event::Prefetch(id("x", &number.to_string())))).collect();
    bench.handle(Event::Prefetch(one()));
    assert_eq!(bench.handle(Event::Forget(one())), [Command::Drop(one())]);
    for command in flying {
        let (identity, attempt, _) = only_fetch(&[command]);
        assert_eq!(bench.failed(attempt), []);
        bench.handle(Event::Forget(identity));
    }
    // unknown
    assert_eq!(bench.handle(Event::Forget(one())), []);
    assert!(bench.rotation.is_empty());
    assert_eq!(bench.rotation.in_flight(), 0);
    assert_eq!(bench.rotation.waiting.len(), 0);
    assert_eq!(bench.rotation.next_timeout(bench.now), None);
}

// Nothing grows: an identity that no workload is known to have goes with its certificate, or with its failure.
#[test]
fn an_identity_that_was_only_asked_for_does_not_stay() {
    let mut bench = Bench::new();
    let (_, attempt, _) = only_fetch(&bench.handle(Event::Asked(id("a", "b"))));
    bench.fetched(attempt, HOUR);
    let began = bench.now.monotonic;
    assert_eq!(bench.sleep_until_command(DAY), [Command::Drop(id("a", "b"))]);
    assert_eq!(bench.now.monotonic - began, HOUR);
    let (_, attempt, _) = only_fetch(&bench.handle(Event::Asked(id("a", "b"))));
    bench.failed(attempt);
    assert_eq!(bench.sleep_until_command(DAY), [Command::Drop(id("a", "b"))]);
    assert!(bench.rotation.is_empty());
    // A workload that appears meanwhile makes it stay.
    let (_, attempt, _) = only_fetch(&bench.handle(Event::Asked(id("a", "b"))));
    bench.fetched(attempt, HOUR);
    bench.handle(Event::Prefetch(id("a", "b")));
    only_fetch(&bench.sleep_until_command(DAY));
}

// F-11: the wall clock jumps, the monotonic one does not
#[test]
fn clock_jumps_are_noticed_and_make_no_storm() {
    for (forward, jump, expect_fetch, expect_expire) in [
        (true, HOUR, false, false),
        (true, 13 * HOUR, true, false),
        (true, 365 * DAY, true, true),
        (false, HOUR, false, false),
        (false, 365 * DAY, false, false),
    ] {
        let mut bench = Bench::new();
        for number in 0..20 {
            bench.handle(Event::Prefetch(id("a", &number.to_string())));
        }
        while let Some((&attempt, _)) = bench.rotation.in_flight.first_key_value() {
            bench.fetched(attempt, DAY);
        }
        bench.now.wall = if forward { bench.now.wall + jump } else { bench.now.wall - jump };
        let began = bench.now.monotonic;
        let commands = bench.sleep_until_command(LOOK_AT_CLOCK);
        assert!(bench.now.monotonic - began <= LOOK_AT_CLOCK, "noticed within five seconds");
        let fetches = commands.iter().filter(|command| matches!(command, Command::Fetch { .. })).count();
        let expired = commands.iter().filter(|command| matches!(command, Command::Expire(_))).count();
        assert_eq!(fetches, if expect_fetch { CONCURRENCY } else { 0 }, "jump by {jump:?}");
        assert_eq!(expired, if expect_expire { 20 } else { 0 });
    }
}

// A wall clock that was set back does not put off a renewal.
#[test]
fn a_clock_that_went_back_does_not_delay_renewal() {
    let mut bench = Bench::new();
    let (_, attempt, _) = only_fetch(&bench.handle(Event::Prefetch(id("a", "b"))));
    bench.fetched(attempt, DAY);
    bench.now.wall -= 365 * DAY;
    let began = bench.now.monotonic;
    only_fetch(&bench.sleep_until_command(2 * DAY));
    assert!(bench.now.monotonic - began <= DAY / 2);
}

#[test]
fn identities_are_bounded() {
    let mut bench = Bench::new();
    for number in 0..MAX_IDENTITIES {
        let commands = bench.handle(Event::Prefetch(id("a", &number.to_string())));
        assert!(!commands.contains(&Command::Refuse(id("a", &number.to_string()))));
    }
    for event in [Event::Prefetch(id("one", "more")), Event::Asked(id("one", "more"))] {
        assert_eq!(bench.handle(event), [Command::Refuse(id("one", "more"))]);
    }
    bench.handle(Event::Forget(id("a", "77")));
    assert_eq!(bench.handle(Event::Prefetch(id("one", "more"))), []);
    assert_eq!(bench.rotation.len(), MAX_IDENTITIES);
}

// Random events: the shell can always go on, and the bounds hold.
#[test]
fn any_order_of_events_keeps_the_bounds() {
    for seed in 0..200 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut bench = Bench { rotation: Rotation::new(seed), ..Bench::new() };
        let mut flying: Vec<(SpiffeId, Attempt)> = Vec::new();
        for _ in 0..500 {
            let identity = id("a", &rng.random_range(0..15).to_string());
            let event = match rng.random_range(0..7) {
                0 => Event::Asked(identity),
                1 => Event::Prefetch(identity),
                2 => Event::Forget(identity),
                3 | 4 if !flying.is_empty() => {
                    let (_, attempt) = flying.swap_remove(rng.random_range(0..flying.len()));
                    let life = secs(rng.random_range(0..5000));
                    let not_after = bench.now.wall + life;
                    if rng.random() { Event::Fetched { attempt, not_after } } else { Event::Failed { attempt } }
                }
                _ => {
                    bench.pass(secs(rng.random_range(0..2000)));
                    Event::Tick
                }
            };
            for command in bench.handle(event) {
                if let Command::Fetch { identity, attempt, .. } = command {
                    assert!(bench.rotation.is_current(&identity, attempt));
                    assert!(!flying.iter().any(|(other, flight)| *other == identity && bench.rotation.is_current(other, *flight)),
                        "seed {seed}: two current requests for {identity}");
                    flying.push((identity, attempt));
                }
            }
            assert_eq!(flying.len(), bench.rotation.in_flight());
            assert!(flying.len() <= CONCURRENCY);
            assert!(bench.rotation.len() <= 15);
            let waiting = bench.rotation.entries.values().filter(|entry| entry.waits.is_some()).count();
            assert_eq!(waiting, bench.rotation.waiting.len());
            assert!(waiting == 0 || flying.len() == CONCURRENCY, "seed {seed}: a slot is free while someone waits");
        }
    }
}
