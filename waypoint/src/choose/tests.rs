//! Choices over a directory, with seeded chance and a clock of the test's own (spec/waypoint.md 5.4 to 5.8; 11, row 17).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_model::address::NamespacedHostname;
use mesh_model::fixture::{Fixture, parse};
use mesh_model::identity::SpiffeId;
use mesh_model::workload::Uid;
use mesh_xds::messages::waypoint as wire;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::facts::Target;

struct World {
    fixture: Fixture,
    backend: Arc<Backend>,
    destination: Arc<Destination>,
    chance: SmallRng,
    start: Instant,
    now: Instant,
}

/// What one question has beside the usual.
#[derive(Clone, Copy, Default)]
struct With<'a> {
    hash: Option<u64>,
    wanted: Option<&'a str>,
    tried: &'a [Arc<str>],
    host: Option<&'a str>,
    from_client: bool,
}

const PLAIN: With<'static> = With { hash: None, wanted: None, tried: &[], host: None, from_client: false };

fn by_hash(hash: u64) -> With<'static> {
    With { hash: Some(hash), ..PLAIN }
}

/// A policy as it stands in the file of a waypoint.
fn policy(yaml: &str) -> Policy {
    compile(&serde_saphyr::from_str::<wire::BackendPolicy>(yaml).unwrap()).unwrap()
}

fn arrival(dialled: Option<&str>) -> Arrival {
    Arrival {
        identity: SpiffeId { trust_domain: "cluster.local".into(), namespace: "shop".into(), service_account: "client".into() },
        peer: "10.0.9.9:4000".parse().unwrap(),
        source: "10.0.0.1:4000".parse().unwrap(),
        source_workload: None,
        dialled: dialled.map(|address| address.parse().unwrap()),
        hops: 0,
        target: Target::Service { key: web(), port: 80 },
    }
}

fn web() -> NamespacedHostname {
    NamespacedHostname::new("shop", "web.shop.svc.cluster.local")
}

fn key(subset: &str) -> BackendKey {
    BackendKey { host: web(), port: 80, subset: subset.into() }
}

impl World {
    fn new(text: &str, yaml: &str) -> World {
        let start = Instant::now();
        World {
            fixture: parse(text).unwrap(),
            backend: Arc::new(Backend::new(key(""), Kind::Workloads, 0, Members::All, policy(yaml))),
            destination: Backends::new(start).destination(&key("")),
            chance: SmallRng::seed_from_u64(5),
            start,
            now: start,
        }
    }

    /// `count` endpoints `e1`, `e2`, … without anything else.
    fn of(count: usize, yaml: &str) -> World {
        World::new(&mesh(count), yaml)
    }

    fn passes(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn backend(&mut self, change: impl FnOnce(&mut Backend)) {
        let mut backend = Backend::clone(&self.backend);
        change(&mut backend);
        self.backend = Arc::new(backend);
    }

    fn ask(&mut self, with: With<'_>) -> Result<Picked, NoEndpoint> {
        self.ask_from(&arrival(Some("10.96.0.1:80")), with)
    }

    fn ask_from(&mut self, arrival: &Arrival, with: With<'_>) -> Result<Picked, NoEndpoint> {
        let With { hash, wanted, tried, host, from_client } = with;
        let question = Question {
            directory: &self.fixture.directory,
            backend: &self.backend,
            proxy: &self.fixture.workload("wp"),
            from_client,
            arrival,
            host,
            hash,
            wanted,
            tried,
            now: self.now,
        };
        pick(&question, &self.destination, &mut self.chance)
    }

    fn one(&mut self) -> Picked {
        self.ask(PLAIN).unwrap()
    }

    /// So many requests, each over before the next: how many each endpoint had.
    fn spread(&mut self, count: usize, outcome: impl Fn(&str) -> Outcome) -> BTreeMap<String, usize> {
        let mut had = BTreeMap::new();
        for _ in 0..count {
            let picked = self.one();
            *had.entry(short(&picked)).or_default() += 1;
            let outcome = outcome(&short(&picked));
            picked.active.ended(outcome, self.now);
        }
        had
    }

    fn fail(&mut self, id: &str, outcome: Outcome) {
        let picked = self.ask(With { wanted: Some(id), ..PLAIN }).unwrap();
        assert_eq!(&*picked.endpoint.id, id);
        picked.active.ended(outcome, self.now);
    }
}

fn mesh(count: usize) -> String {
    let node: String = (1..=count).map(|n| format!("node b: e{n} 10.0.1.{n} sa=shop/web\n")).collect();
    let names: Vec<String> = (1..=count).map(|n| format!("e{n}")).collect();
    format!("node a: wp 10.0.9.9 sa=shop/wp locality=r1/z1/s1\n{node}service web.shop 10.96.0.1 80->8080 : {}", names.join(" "))
}

fn short(picked: &Picked) -> String {
    match &picked.endpoint.place {
        Place::Workload(workload) => workload.name.to_string(),
        Place::Name(name) => name.to_string(),
        Place::Address(address) => address.to_string(),
    }
}

fn ok(_: &str) -> Outcome {
    Outcome::Answered { status: 200, grpc: None, took: Duration::from_millis(1) }
}

const BROKEN: Outcome = Outcome::Answered { status: 503, grpc: None, took: Duration::from_millis(1) };

fn near(count: Option<&usize>, expected: usize, by: usize) -> bool {
    count.copied().unwrap_or(0).abs_diff(expected) <= by
}

#[test]
fn each_algorithm_spreads_by_weight() {
    let text = "node a: wp 10.0.9.9 sa=shop/wp
        node b: e1 10.0.1.1 sa=shop/web capacity=1
        node b: e2 10.0.1.2 sa=shop/web capacity=3
        node b: e3 10.0.1.3 sa=shop/web capacity=4
        service web.shop 10.96.0.1 80->8080 : e1 e2 e3";
    for (balance, by) in [("LEAST_REQUEST", 200), ("RANDOM", 200), ("ROUND_ROBIN", 0)] {
        let mut world = World::new(text, &format!("{{loadBalancer: {{balance: {balance}}}}}"));
        let had = world.spread(8000, ok);
        for (name, expected) in [("e1", 1000), ("e2", 3000), ("e3", 4000)] {
            assert!(near(had.get(name), expected, by), "{balance}: {had:?}");
        }
    }
    assert_eq!(World::new(text, "{}").one().endpoint.port, 8080);
}

#[test]
fn round_robin_is_a_turn_for_each() {
    let mut world = World::of(3, "{loadBalancer: {balance: ROUND_ROBIN}}");
    let turns: Vec<String> = (0..6).map(|_| short(&world.one())).collect();
    assert_eq!(turns, ["e1", "e2", "e3", "e1", "e2", "e3"]);
}

#[test]
fn least_request_looks_at_what_is_under_way() {
    let mut world = World::of(2, "{}");
    let held: Vec<Picked> = (0..100).map(|_| world.one()).collect();
    let at_first = held.iter().filter(|picked| short(picked) == "e1").count();
    assert_eq!(at_first, 50, "100 requests that do not end are 50 and 50");
    assert_eq!(world.destination.active(), 100);
    drop(held);
    assert_eq!(world.destination.active(), 0);
}

#[test]
fn peak_ewma_prefers_the_fast_and_punishes_failures() {
    let mut world = World::of(3, "{loadBalancer: {balance: PEAK_EWMA}}");
    let outcome = |name: &str| match name {
        "e1" => Outcome::Answered { status: 200, grpc: None, took: Duration::from_millis(2) },
        "e2" => Outcome::Answered { status: 200, grpc: None, took: Duration::from_millis(200) },
        _ => Outcome::Failed(Failure::Connect),
    };
    world.spread(50, outcome);
    let had = world.spread(1000, outcome);
    assert!(had["e1"] > 600 && !had.contains_key("e3"), "of two drawn the faster: {had:?}");
    world.passes(100);
    assert!(world.spread(100, ok).contains_key("e3"), "it is tried again after a while");
}

// spec/waypoint.md 11, row 17
#[test]
fn an_endpoint_that_fails_goes_out_and_comes_back_by_one_request() {
    let mut world = World::of(10, "{outlier: {consecutive5xx: 5, intervalMs: 10000, baseEjectionTimeMs: 30000}}");
    let id = world.ask(PLAIN).unwrap().endpoint.id.clone();
    for _ in 0..4 {
        world.fail(&id, BROKEN);
    }
    assert_eq!(world.destination.ejected(), 0);
    world.fail(&id, BROKEN);
    assert_eq!(world.destination.ejected(), 1, "at once, not at the next interval");
    let name = id.rsplit('/').next().unwrap().to_owned();
    assert!(!world.spread(1000, ok).contains_key(&name));

    world.passes(29);
    assert!(!world.spread(300, ok).contains_key(&name));
    world.passes(1);
    // The one that tries it, and nobody beside.
    let probe = loop {
        let picked = world.one();
        if short(&picked) == name {
            break picked;
        }
    };
    assert!(!world.spread(300, ok).contains_key(&name), "half open");
    probe.active.ended(BROKEN, world.now);
    assert_eq!(world.destination.ejected(), 1);
    world.passes(59);
    assert!(!world.spread(300, ok).contains_key(&name), "the second time is twice as long");
    world.passes(1);
    let had = world.spread(1000, ok);
    assert!(near(had.get(&name), 100, 50), "it is in again: {had:?}");
    // What it did is forgiven, one ejection an interval.
    for _ in 0..3 {
        world.passes(10);
        world.spread(1, ok);
    }
    for _ in 0..5 {
        world.fail(&id, BROKEN);
    }
    world.passes(30);
    assert!(world.spread(1000, ok).contains_key(&name), "as if it were the first time");
}

#[test]
fn a_client_that_leaves_says_nothing_of_the_endpoint() {
    let mut world = World::of(1, "{outlier: {consecutive5xx: 1, maxEjectionPercent: 100}}");
    drop(world.one());
    assert_eq!(world.destination.ejected(), 0);
    world.one().active.ended(BROKEN, world.now);
    world.passes(30);
    drop(world.one());
    let again = world.one();
    assert!(!again.last_resort, "the try that was not finished may be made again");
    again.active.ended(ok(""), world.now);
    assert_eq!(world.destination.ejected(), 0);
}

#[test]
fn not_more_go_out_than_may_and_the_last_resort_is_everybody() {
    let mut world = World::of(10, "{outlier: {consecutive5xx: 1, maxEjectionPercent: 20}}");
    world.spread(200, |_| BROKEN);
    assert_eq!(world.destination.ejected(), 2);
    let mut world = World::of(4, "{outlier: {consecutive5xx: 1, maxEjectionPercent: 100}}");
    world.spread(200, |_| BROKEN);
    assert_eq!(world.destination.ejected(), 4);
    let picked = world.one();
    assert!(picked.last_resort, "rather an endpoint that failed than none");
    drop(picked);
    assert_eq!(world.spread(200, |_| BROKEN).len(), 4);
}

#[test]
fn panic_ignores_ejections() {
    let mut world = World::of(4, "{outlier: {consecutive5xx: 1, maxEjectionPercent: 100, minHealthPercent: 50}}");
    let bad = |name: &str| if name == "e4" { ok("") } else { BROKEN };
    world.spread(300, bad);
    assert_eq!(world.destination.ejected(), 3);
    assert_eq!(world.spread(300, ok).len(), 4, "one of four is less than half");
}

#[test]
fn no_detection_no_ejection_and_it_ends_with_its_policy() {
    let mut world = World::of(2, "{}");
    world.spread(100, |_| BROKEN);
    assert_eq!(world.destination.ejected(), 0);
    world.backend(|backend| backend.policy = policy("{outlier: {consecutive5xx: 1}}"));
    world.spread(100, |_| BROKEN);
    assert_eq!(world.destination.ejected(), 1);
    world.backend(|backend| backend.policy = policy("{}"));
    assert_eq!(world.spread(100, ok).len(), 2);
    assert_eq!(world.destination.ejected(), 0);
}

#[test]
fn who_takes_no_connection_is_asked_again_after_a_second_by_one_request() {
    let dead = |name: &str| if name == "e1" { Outcome::Failed(Failure::Connect) } else { ok("") };
    let mut world = World::of(2, "{}");
    for turn in 0..5 {
        assert_eq!(world.spread(100, dead)["e1"], 1, "turn {turn}: once a second, and never longer");
        world.passes(1);
    }
    assert!(world.spread(100, ok)["e1"] > 20, "it is there");
    let mut world = World::of(2, "{}");
    world.spread(100, |_| Outcome::Failed(Failure::Reset));
    assert_eq!(world.destination.ejected(), 0, "what breaks later is no such thing");
    world.spread(10, |_| Outcome::Failed(Failure::Connect));
    assert_eq!(world.destination.ejected(), 2);
    let picked = world.one();
    assert!(picked.last_resort, "nobody is there, and somebody is asked");
    drop(picked);
}

const PLACES: &str = "node a: wp 10.0.9.9 sa=shop/wp locality=r1/z1
    node a: far-client 10.0.0.1 sa=shop/client locality=r2/z1
    node b: e1 10.0.1.1 sa=shop/web locality=r1/z1
    node b: e2 10.0.1.2 sa=shop/web locality=r1/z1
    node c: e3 10.0.1.3 sa=shop/web locality=r2/z1
    node c: e4 10.0.1.4 sa=shop/web locality=r2/z1
    service web.shop 10.96.0.1 80->8080 : e1 e2 e3 e4";

// spec/waypoint.md 11, row 17
#[test]
fn failover_with_outlier_detection_and_without() {
    let mut world = World::new(PLACES, "{loadBalancer: {locality: {}}}");
    assert_eq!(world.spread(400, ok).len(), 4, "nobody could tell that the near ones are ill");
    let mut world = World::new(PLACES, "{loadBalancer: {locality: {}}, outlier: {consecutive5xx: 1, maxEjectionPercent: 100}}");
    assert_eq!(world.spread(400, ok).len(), 2);
    let id = world.fixture.workload("e1").uid.0.clone();
    world.fail(&id, BROKEN);
    let had = world.spread(2000, ok);
    assert!(near(had.get("e2"), 1400, 100), "half of the level times 1.4: {had:?}");
    assert!(near(had.get("e3"), 300, 80) && near(had.get("e4"), 300, 80), "{had:?}");

    let mut arrival = arrival(Some("10.96.0.1:80"));
    arrival.source_workload = Some(world.fixture.workload("far-client").clone());
    for _ in 0..100 {
        let picked = world.ask_from(&arrival, With { from_client: true, ..PLAIN }).unwrap();
        assert!(["e3", "e4"].contains(&&*short(&picked)), "near to the client");
    }
}

#[test]
fn distribution_by_place() {
    let yaml = "{loadBalancer: {locality: {distribute: [{from: r1/*, to: {r1/z1: 80, r2/*: 20}}]}}}";
    let had = World::new(PLACES, yaml).spread(4000, ok);
    for (name, expected) in [("e1", 1600), ("e2", 1600), ("e3", 400), ("e4", 400)] {
        assert!(near(had.get(name), expected, 150), "{had:?}");
    }
}

#[test]
fn what_the_service_prefers_and_what_it_demands() {
    let with = |lb: &str| PLACES.replace("80->8080", &format!("80->8080 {lb}"));
    assert_eq!(World::new(&with("lb=failover:region,zone"), "{}").spread(200, ok).into_keys().collect::<Vec<_>>(), ["e1", "e2"]);
    assert_eq!(World::new(&with("lb=strict:node"), "{}").ask(PLAIN).unwrap_err(), NoEndpoint::NoEndpoints);
    let unhealthy = PLACES.replace("10.0.1.1 sa=shop/web", "10.0.1.1 sa=shop/web unhealthy");
    assert_eq!(World::new(&unhealthy, "{}").spread(400, ok).len(), 3);
    assert_eq!(World::new(&unhealthy.replace("80->8080", "80->8080 health=all"), "{}").spread(400, ok).len(), 4);
}

#[test]
fn a_retry_goes_elsewhere_while_there_is_an_elsewhere() {
    let mut world = World::of(3, "{}");
    let id = |world: &World, name: &str| world.fixture.workload(name).uid.0.clone();
    let tried = [id(&world, "e1"), id(&world, "e3")];
    for _ in 0..50 {
        assert_eq!(short(&world.ask(With { tried: &tried, ..PLAIN }).unwrap()), "e2");
    }
    let tried = [id(&world, "e1"), id(&world, "e2"), id(&world, "e3")];
    assert!(world.ask(With { tried: &tried, ..PLAIN }).is_ok(), "rather again than not");
}

#[test]
fn a_key_keeps_its_endpoint_and_a_session_its_own() {
    for hash in ["{header: x-user}", "{header: x-user, maglevTableSize: 1021}"] {
        let hash = hash.replace("{header: x-user", "{kind: {header: x-user}");
        let yaml = format!("{{loadBalancer: {{balance: CONSISTENT_HASH, hash: {hash}}}, outlier: {{consecutive5xx: 1}}}}");
        let mut world = World::of(5, &yaml);
        let mut twin = World::of(5, &yaml);
        twin.chance = SmallRng::seed_from_u64(77);
        let mut owners = BTreeSet::new();
        for key in 0..100 {
            let owner = short(&world.ask(by_hash(ring::hash(&[key], 0))).unwrap());
            let again = twin.ask(by_hash(ring::hash(&[key], 0))).unwrap();
            assert_eq!(owner, short(&again), "the same at every replica");
            owners.insert(owner);
        }
        assert_eq!(owners.len(), 5);
        // Of the one that is out, the keys go elsewhere, and nobody else's do.
        let out = world.fixture.workload("e1").uid.0.clone();
        world.fail(&out, BROKEN);
        for key in 0..100 {
            let with = by_hash(ring::hash(&[key], 0));
            let (now, before) = (short(&world.ask(with).unwrap()), short(&twin.ask(with).unwrap()));
            assert!(now != "e1" && (now == before || before == "e1"), "{before} {now}");
            let tried = [twin.fixture.workload(&before).uid.0.clone()];
            let next = twin.ask(With { tried: &tried, ..with }).unwrap();
            assert_ne!(short(&next), before, "a retry walks on");
        }
    }
    let mut world = World::of(5, "{}");
    let e4 = world.fixture.workload("e4").uid.0.clone();
    assert_eq!(short(&world.ask(With { wanted: Some(&e4), ..PLAIN }).unwrap()), "e4");
    assert!(world.ask(With { wanted: Some("gone"), ..PLAIN }).is_ok());
}

#[test]
fn a_new_endpoint_warms_up() {
    let yaml = "{loadBalancer: {balance: ROUND_ROBIN, warmup: {durationMs: 100000}}}";
    let mut world = World::of(2, yaml);
    assert!(near(world.spread(100, ok).get("e1"), 50, 0), "those that were there from the start are warm");
    world.fixture = parse(&mesh(3)).unwrap();
    world.passes(1);
    let share = |world: &mut World| world.spread(3000, ok).get("e3").copied().unwrap_or(0);
    assert!(near(Some(&share(&mut world)), 143, 60), "a tenth at first");
    world.passes(50);
    assert!(near(Some(&share(&mut world)), 600, 120), "half of its weight");
    world.passes(50);
    assert_eq!(share(&mut world), 1000);
    let steep = policy::Warmup { duration: Duration::from_secs(100), minimum: 0.1, aggression: 2.0 };
    assert!((draw::warmth(steep, 25_000_000_000) - 0.5).abs() < 1e-9, "the square root of a quarter");
}

#[test]
fn circuit_breakers() {
    let mut world = World::of(2, "{pool: {maxRequests: 2, maxConnections: 1, maxPendingRequests: 1}}");
    let (_one, two) = (world.one(), world.one());
    let refused = world.ask(PLAIN).unwrap_err();
    assert_eq!((refused, refused.status(), refused.flag()), (NoEndpoint::Overflow(Overflow::Requests), 503, "UO"));
    drop(two);
    let _three = world.one();
    let held = world.destination.connection(&world.backend.policy).unwrap();
    assert_eq!(world.destination.connection(&world.backend.policy).unwrap_err(), Overflow::Connections);
    drop(held);
    assert!(world.destination.connection(&world.backend.policy).is_ok());
    let held = futures_util::FutureExt::now_or_never(world.destination.turn(&world.backend.policy).unwrap()).unwrap();
    let waits = world.destination.turn(&world.backend.policy).unwrap();
    assert_eq!(world.destination.turn(&world.backend.policy).unwrap_err(), Overflow::Pending);
    drop((held, waits));
    assert!(futures_util::FutureExt::now_or_never(world.destination.turn(&world.backend.policy).unwrap()).is_some());
}

#[test]
fn subsets() {
    let mut world = World::of(4, "{}");
    let uids: BTreeSet<Uid> = ["e2", "e3"].iter().map(|name| world.fixture.workload(name).uid.clone()).collect();
    world.backend(|backend| backend.members = Members::Only(uids));
    assert_eq!(world.spread(100, ok).into_keys().collect::<Vec<_>>(), ["e2", "e3"]);
    world.backend(|backend| backend.members = Members::Only(BTreeSet::new()));
    let empty = world.ask(PLAIN).unwrap_err();
    assert_eq!((empty.status(), empty.flag()), (503, "UH"));
    world.backend(|backend| backend.members = Members::Missing);
    let missing = world.ask(PLAIN).unwrap_err();
    assert_eq!((missing.status(), missing.flag()), (503, "NC"));
}

#[test]
fn the_dialled_endpoint_where_the_policy_says_so() {
    let mut world = World::of(5, "{loadBalancer: {balance: PASSTHROUGH}}");
    for _ in 0..20 {
        assert_eq!(short(&world.ask_from(&arrival(Some("10.0.1.4:80")), PLAIN).unwrap()), "e4");
    }
    assert!(world.spread(200, ok).len() > 1, "a VIP is nobody's own address");
}

#[test]
fn changes_of_the_service_are_seen_and_what_is_known_of_endpoints_stays() {
    let mut world = World::of(2, "{outlier: {consecutive5xx: 1}}");
    let e1 = world.fixture.workload("e1").uid.0.clone();
    world.fail(&e1, BROKEN);
    world.fixture = parse(&mesh(3)).unwrap();
    assert_eq!(world.spread(300, ok).into_keys().collect::<Vec<_>>(), ["e2", "e3"], "e1 is still out");
    world.fixture = parse(&mesh(0)).unwrap();
    assert_eq!(world.ask(PLAIN).unwrap_err(), NoEndpoint::NoEndpoints);
    assert_eq!(world.destination.ejected(), 0);
}

#[test]
fn destinations_are_one_for_a_key_and_go_with_it() {
    let book = Backends::new(Instant::now());
    let (a, b) = (book.destination(&key("")), book.destination(&key("v1")));
    assert!(!Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&a, &book.destination(&key(""))));
    book.keep(|key| key.subset.is_empty());
    assert_eq!(book.all().len(), 1);
    assert!(!Arc::ptr_eq(&b, &book.destination(&key("v1"))));
}

#[test]
fn the_more_specific_group_wins_whole() {
    let service = policy("{pool: {maxRequests: 1, maxRetries: 5}, outlier: {}}");
    let port = policy("{pool: {maxConnections: 7}}");
    let merged = Policy::merged([&port, &service]);
    assert_eq!((merged.pool().connections, merged.pool().requests), (Some(7), None));
    assert!(merged.outlier.is_some() && merged.balancer.is_none());
}

proptest::proptest! {
    /// Nothing that the counters hold outlives the requests.
    #[test]
    fn counters_come_to_nothing(script in proptest::collection::vec((0_u8..4, 0_u8..6), 0..200)) {
        let mut world = World::of(5, "{outlier: {consecutive5xx: 2, maxEjectionPercent: 60, baseEjectionTimeMs: 1000, intervalMs: 1000}}");
        let mut held = Vec::new();
        for (what, seconds) in script {
            match what {
                0 => world.passes(u64::from(seconds)),
                1 => drop(held.pop()),
                2 => held.push(world.one()),
                _ => {
                    if let Some(picked) = held.pop() {
                        let picked: Picked = picked;
                        picked.active.ended(if seconds < 4 { BROKEN } else { ok("") }, world.now);
                    }
                }
            }
            proptest::prop_assert_eq!(world.destination.active() as usize, held.len());
            proptest::prop_assert!(world.destination.ejected() <= 3);
        }
        held.clear();
        world.passes(3600);
        proptest::prop_assert_eq!(world.spread(500, ok).len(), 5, "all are in again after an hour");
        proptest::prop_assert_eq!(world.destination.active(), 0);
        proptest::prop_assert!(world.now >= world.start);
    }
}

mod affinity;
mod kinds;
