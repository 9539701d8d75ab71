//! Requests of a minute against backends that fail, in a time of their own: what clients get, and what backends bear.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use http::Method;
use mesh_model::address::NamespacedHostname;
use mesh_model::fixture::parse;
use mesh_model::identity::SpiffeId;
use mesh_xds::messages::waypoint as wire;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::choose::{Active, Backend, BackendKey, Backends, Kind, Members, NoEndpoint, Question, compile, pick};
use crate::facts::{Arrival, Target};

/// What became of the requests.
#[derive(Debug, Default)]
struct Report {
    asked: u32,
    succeeded: u32,
    attempts: u32,
    overflowed: u32,
}

struct Request {
    tried: Vec<Arc<str>>,
    made: u32,
    permit: Option<Held>,
}

enum Event {
    Begin(u64),
    End(u64, Active, Arc<str>),
}

/// `rate` requests a second for `seconds`; an attempt at endpoint `e1`, `e2`, … fails with the chance that `fails` says.
fn run(seconds: u64, rate: u64, plan: &Plan, policy_yaml: &str, fails: &[f64]) -> Report {
    let text: String = (1..=fails.len()).map(|n| format!("node b: e{n} 10.0.1.{n} sa=shop/web\n")).collect();
    let names: Vec<String> = (1..=fails.len()).map(|n| format!("e{n}")).collect();
    let fixture = parse(&format!("node a: wp 10.0.9.9 sa=shop/wp\n{text}service web.shop 10.96.0.1 80 : {}", names.join(" "))).unwrap();
    let host = NamespacedHostname::new("shop", "web.shop.svc.cluster.local");
    let key = BackendKey { host: host.clone(), port: 80, subset: "".into() };
    let policy = compile(&serde_saphyr::from_str::<wire::BackendPolicy>(policy_yaml).unwrap()).unwrap();
    let backend = Arc::new(Backend::new(key.clone(), Kind::Workloads, 0, Members::All, policy));
    let start = Instant::now();
    let destination = Backends::new(start).destination(&key);
    let arrival = Arrival {
        identity: SpiffeId { trust_domain: "cluster.local".into(), namespace: "shop".into(), service_account: "client".into() },
        peer: "10.0.9.9:4000".parse().unwrap(),
        source: "10.0.0.1:4000".parse().unwrap(),
        source_workload: None,
        dialled: None,
        hops: 0,
        target: Target::Service { key: host, port: 80 },
    };
    let mut chance = SmallRng::seed_from_u64(11);
    let mut report = Report::default();
    let mut requests: HashMap<u64, Request> = HashMap::new();
    let mut events: HashMap<u64, Event> = HashMap::new();
    let mut queue: BinaryHeap<Reverse<(Duration, u64)>> = BinaryHeap::new();
    let mut number = 0;
    let mut put = |queue: &mut BinaryHeap<_>, events: &mut HashMap<u64, Event>, at: Duration, event| {
        number += 1;
        events.insert(number, event);
        queue.push(Reverse((at, number)));
    };
    for nth in 0..seconds * rate {
        requests.insert(nth, Request { tried: Vec::new(), made: 0, permit: None });
        put(&mut queue, &mut events, Duration::from_nanos(nth * 1_000_000_000 / rate), Event::Begin(nth));
    }
    report.asked = (seconds * rate) as u32;
    while let Some(Reverse((at, event))) = queue.pop() {
        let now = start + at;
        match events.remove(&event).unwrap() {
            Event::Begin(nth) => {
                let request = &requests[&nth];
                let picked = pick(
                    &Question {
                        directory: &fixture.directory,
                        backend: &backend,
                        proxy: &fixture.workload("wp"),
                        from_client: false,
                        arrival: &arrival,
                        host: None,
                        hash: None,
                        wanted: None,
                        tried: &request.tried,
                        now,
                    },
                    &destination,
                    &mut chance,
                );
                let picked = picked.unwrap_or_else(|none: NoEndpoint| panic!("{none}"));
                report.attempts += 1;
                let took = Duration::from_micros(chance.random_range(1_000..20_000));
                put(&mut queue, &mut events, at + took, Event::End(nth, picked.active, picked.endpoint.id));
            }
            Event::End(nth, active, id) => {
                let at_endpoint: usize = id.rsplit("/e").next().unwrap().parse().unwrap();
                let failed = chance.random::<f64>() < fails[at_endpoint - 1];
                let status = if failed { 503 } else { 200 };
                let outcome = Outcome::Answered { status, grpc: None, took: Duration::from_millis(5) };
                active.ended(outcome, now);
                let mut request = requests.remove(&nth).unwrap();
                request.permit = None;
                request.tried.push(id);
                if !failed {
                    report.succeeded += 1;
                    continue;
                }
                let attempt =
                    Attempt { outcome, headers: None, method: &Method::GET, sent: true, replayable: true, made: request.made, left: None };
                match again(plan, &attempt, &destination, &backend.policy, now, &mut chance) {
                    Next::Again { after, permit } => {
                        request.made += 1;
                        request.permit = Some(permit);
                        requests.insert(nth, request);
                        put(&mut queue, &mut events, at + after, Event::Begin(nth));
                    }
                    Next::Stop(stop) => report.overflowed += u32::from(stop == Stop::Overflow),
                }
            }
        }
    }
    assert_eq!((destination.active(), destination.retries.now(), requests.len()), (0, 0, 0));
    report
}

fn share(report: &Report) -> f64 {
    f64::from(report.succeeded) / f64::from(report.asked)
}

fn extra(report: &Report) -> f64 {
    f64::from(report.attempts - report.asked) / f64::from(report.asked)
}

const RETRY: &str = "{attempts: 3, on: [5xx]}";

#[test]
fn one_backend_that_fails_three_of_ten_is_not_noticed() {
    let report = run(20, 500, &plan(RETRY), "{}", &[0.3, 0.0, 0.0, 0.0]);
    assert!(share(&report) >= 0.999 && extra(&report) < 0.2, "{report:?}");
    let without = run(20, 500, &Plan::NONE, "{}", &[0.3, 0.0, 0.0, 0.0]);
    assert!(share(&without) < 0.95, "the retries did it: {without:?}");
}

#[test]
fn all_backends_that_fail_three_of_ten_need_a_budget_for_it() {
    let report = run(20, 500, &plan("{attempts: 7, on: [5xx]}"), "{retryBudget: {percent: 100, intervalMs: 10000}}", &[0.3, 0.3, 0.3]);
    assert!(share(&report) >= 0.999, "{report:?}");
}

#[test]
fn backends_that_are_down_are_not_beaten_further_down() {
    for policy in ["{}", "{retryBudget: {percent: 15, minConcurrency: 5, intervalMs: 10000}}", "{retryBudget: {percent: 10}}"] {
        let report = run(20, 2000, &plan(RETRY), policy, &[1.0, 1.0, 1.0]);
        assert!(extra(&report) <= 0.2 && report.overflowed > 0, "{policy}: {} more, {report:?}", extra(&report));
    }
    let unbounded = run(5, 2000, &plan(RETRY), "{retryBudget: {percent: 100, minConcurrency: 1000000}}", &[1.0, 1.0, 1.0]);
    assert!(extra(&unbounded) > 2.9, "the budget did it: {unbounded:?}");
}

#[test]
fn with_outlier_detection_a_dead_backend_costs_next_to_nothing() {
    let policy = "{outlier: {consecutive5xx: 3, maxEjectionPercent: 50}}";
    let report = run(20, 500, &plan(RETRY), policy, &[1.0, 0.0, 0.0, 0.0]);
    assert!(share(&report) == 1.0 && extra(&report) < 0.01, "{report:?}");
}
