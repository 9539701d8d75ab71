//! Again or stop, and what retries do to a backend (spec/waypoint.md 5.2; 11, row 11).

use http::HeaderValue;
use mesh_xds::messages::waypoint as wire;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::choose::compile;

fn plan(yaml: &str) -> Plan {
    Plan::compile(&serde_saphyr::from_str::<RetryPolicy>(yaml).unwrap())
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, grpc: None, took: Duration::ZERO }
}

fn grpc(status: u16) -> Outcome {
    Outcome::Answered { status: 200, grpc: Some(status), took: Duration::ZERO }
}

fn attempt(outcome: Outcome) -> Attempt<'static> {
    Attempt { outcome, headers: None, method: &Method::GET, sent: true, replayable: true, made: 0, left: None }
}

fn verdict(plan: &Plan, attempt: &Attempt<'_>) -> Result<Duration, Stop> {
    judge(plan, attempt, &mut SmallRng::seed_from_u64(3))
}

#[test]
fn every_word() {
    use Failure::{AttemptTimeout, Connect, Refused, Reset, ResetBeforeRequest, Stale};
    let failures = [Connect, Refused, ResetBeforeRequest, Stale, Reset, AttemptTimeout];
    let statuses = [200, 404, 409, 429, 500, 501, 502, 503, 504];
    for (word, failing, answering, calls) in [
        ("connect-failure", vec![Connect], vec![], vec![]),
        ("refused-stream", vec![Refused], vec![], vec![]),
        ("reset-before-request", vec![Connect, ResetBeforeRequest, Stale], vec![], vec![]),
        ("reset", failures.to_vec(), vec![], vec![]),
        ("5xx", failures.to_vec(), vec![500, 501, 502, 503, 504], vec![]),
        ("gateway-error", failures.to_vec(), vec![502, 503, 504], vec![]),
        ("retriable-4xx", vec![], vec![409], vec![]),
        ("retriable-status-codes", vec![], vec![404, 501], vec![]),
        ("attempt-timeout", vec![AttemptTimeout], vec![], vec![]),
        ("cancelled", vec![], vec![], vec![1]),
        ("deadline-exceeded", vec![], vec![], vec![4]),
        ("resource-exhausted", vec![], vec![], vec![8]),
        ("internal", vec![], vec![], vec![13]),
        ("unavailable", vec![], vec![], vec![14]),
        ("envoy-ratelimited", vec![], vec![], vec![]),
    ] {
        let plan = plan(&format!("{{attempts: 1, on: [{word}], codes: [404, 501]}}"));
        let again = |outcome| verdict(&plan, &attempt(outcome)).is_ok();
        assert_eq!(failures.into_iter().filter(|failure| again(Outcome::Failed(*failure))).collect::<Vec<_>>(), failing, "{word}");
        assert_eq!(statuses.into_iter().filter(|status| again(answered(*status))).collect::<Vec<_>>(), answering, "{word}");
        assert_eq!((0..17).filter(|status| again(grpc(*status))).collect::<Vec<_>>(), calls, "{word}");
    }
    let limited = plan("{attempts: 1, on: [envoy-ratelimited]}");
    let headers = HeaderMap::from_iter([(RATE_LIMITED.parse().unwrap(), HeaderValue::from_static("true"))]);
    assert!(verdict(&limited, &Attempt { headers: Some(&headers), ..attempt(answered(429)) }).is_ok());
}

#[test]
fn who_stops_and_why() {
    let plan = plan("{attempts: 3, on: [connect-failure, gateway-error, attempt-timeout], perTryTimeoutMs: 10}");
    let post = &Method::POST;
    let reset = attempt(Outcome::Failed(Failure::Reset));
    let timeout = attempt(Outcome::Failed(Failure::AttemptTimeout));
    for (attempt, expected) in [
        (attempt(answered(503)), Ok(())),
        (Attempt { made: 2, ..attempt(answered(503)) }, Ok(())),
        (Attempt { made: 3, ..attempt(answered(503)) }, Err(Stop::Exhausted)),
        (Attempt { made: 3, ..attempt(answered(200)) }, Err(Stop::NotRetriable)),
        (Attempt { replayable: false, ..attempt(answered(503)) }, Err(Stop::NotReplayable)),
        (Attempt { method: post, ..attempt(answered(503)) }, Ok(())),
        (reset, Ok(())),
        (Attempt { method: post, ..reset }, Err(Stop::NotIdempotent)),
        (Attempt { method: post, sent: false, ..reset }, Ok(())),
        (Attempt { method: post, ..timeout }, Ok(())),
        (Attempt { method: post, ..attempt(Outcome::Failed(Failure::Connect)) }, Ok(())),
        (Attempt { left: Some(Duration::ZERO), ..reset }, Err(Stop::TooLate)),
    ] {
        assert_eq!(verdict(&plan, &attempt).map(|_| ()), expected, "{attempt:?}");
    }
    let risk = self::plan("{attempts: 1, on: [reset]}");
    assert!(verdict(&risk, &Attempt { method: post, ..reset }).is_ok(), "who asks for it by name gets it");
    assert_eq!(verdict(&Plan::NONE, &attempt(answered(503))), Err(Stop::NotRetriable), "nothing to run out of");
    assert_eq!([Stop::Exhausted.flag(), Stop::Overflow.flag(), Stop::TooLate.flag()], [Some("URX"), Some("UO"), None]);
}

#[test]
fn defaults_with_a_route_and_without() {
    let mesh = MeshSettings::default();
    let routed = Plan::of(None, true, &mesh);
    let bare = Plan::of(None, false, &mesh);
    let again = |plan: &Plan, outcome, method| verdict(plan, &Attempt { method, ..attempt(outcome) }).is_ok();
    use Failure::{Connect, Refused, Reset, ResetBeforeRequest, Stale};
    let (get, post) = (&Method::GET, &Method::POST);
    for (outcome, method, with, without) in [
        (Outcome::Failed(Connect), post, true, true),
        (Outcome::Failed(Refused), post, true, true),
        (Outcome::Failed(ResetBeforeRequest), post, true, true),
        // The endpoint may have seen it.
        (Outcome::Failed(Stale), get, true, true),
        (Outcome::Failed(Stale), post, false, false),
        (Outcome::Failed(Reset), get, false, false),
        (answered(503), get, false, false),
        (grpc(14), post, true, false),
        (grpc(1), post, true, false),
    ] {
        assert_eq!((again(&routed, outcome, method), again(&bare, outcome, method)), (with, without), "{outcome:?} {method}");
    }
    assert_eq!((routed.retries, bare.retries), (2, 2));
    let of = |attempts| Some(RetryPolicy { attempts, ..RetryPolicy::default() });
    let mesh = MeshSettings { default_retry: of(7), default_inbound_retry: of(0), ..mesh };
    assert_eq!(Plan::of(None, true, &mesh).retries, 7);
    assert!(!Plan::of(None, false, &mesh).may_retry());
    assert_eq!(Plan::of(of(1).as_ref(), true, &mesh).retries, 1, "the rule's own");
}

#[test]
fn waits_grow_and_have_bounds() {
    let mut chance = SmallRng::seed_from_u64(1);
    let mut range = |plan: &Plan, made| {
        let waits: Vec<u128> = (0..2000).map(|_| plan.backoff.after(made, &mut chance).as_millis()).collect();
        (*waits.iter().min().unwrap(), *waits.iter().max().unwrap())
    };
    let field = plan("{attempts: 9}");
    for (made, most) in [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (90, 250)] {
        let (least, longest) = range(&field, made);
        assert!(least <= 2 && longest <= most && longest >= most - most / 10, "{made}: {least} to {longest}");
    }
    // Gateway API: what the user sets is the least wait.
    let set = plan("{attempts: 9, backoffBaseMs: 100}");
    for (made, most) in [(0, 100), (1, 200), (4, 1000), (9, 1000)] {
        let (least, longest) = range(&set, made);
        assert!(least >= 100 && longest <= most && longest >= most - most / 10, "{made}: {least} to {longest}");
    }
}

#[test]
fn retry_after_is_waited_for_where_that_is_wanted() {
    let headers = |text: &str| HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::try_from(text).unwrap())]);
    let (wanted, not) = (plan("{attempts: 1, on: [5xx], retryAfter: true}"), plan("{attempts: 1, on: [5xx]}"));
    for (plan, status, text, expected) in [
        (&wanted, 503, "2", Ok(true)),
        (&wanted, 503, "11", Err(Stop::TooLate)),
        (&wanted, 500, "2", Ok(false)),
        (&wanted, 503, "soon", Ok(false)),
        (&not, 503, "2", Ok(false)),
    ] {
        let headers = headers(text);
        let waits = verdict(plan, &Attempt { headers: Some(&headers), ..attempt(answered(status)) });
        assert_eq!(waits.map(|wait| wait >= Duration::from_secs(2)), expected, "{text}");
    }
}

#[test]
fn the_cap_and_the_budget_hold_and_are_given_back() {
    let start = Instant::now();
    let destination = Arc::new(Destination::new(start));
    let plan = plan("{attempts: 9, on: [5xx]}");
    let mut chance = SmallRng::seed_from_u64(1);
    let policy = |yaml: &str| compile(&serde_saphyr::from_str::<wire::BackendPolicy>(yaml).unwrap()).unwrap();
    let mut permits = |policy: &Policy| -> Vec<Held> {
        let next = || again(&plan, &attempt(answered(503)), &destination, policy, start, &mut chance);
        std::iter::repeat_with(next).map_while(|next| if let Next::Again { permit, .. } = next { Some(permit) } else { None }).take(1000).collect()
    };
    assert_eq!(permits(&policy("{retryBudget: {}}")).len(), 3, "three, however few requests there are");
    assert_eq!(permits(&policy("{}")).len(), 100, "ten a second");
    assert_eq!(permits(&policy("{retryBudget: {minConcurrency: 50}}")).len(), 50);
    assert_eq!(permits(&policy("{retryBudget: {minConcurrency: 50}, pool: {maxRetries: 2}}")).len(), 2);
    assert_eq!(permits(&policy("{retryBudget: {minConcurrency: 12, intervalMs: 10000}}")).len(), 20, "of 120 there were 100");
    assert_eq!(destination.retries.now(), 0);
    let refused = again(&plan, &attempt(answered(503)), &destination, &policy("{retryBudget: {minConcurrency: 0}}"), start, &mut chance);
    assert!(matches!(refused, Next::Stop(Stop::Overflow)));
}

mod simulation;
