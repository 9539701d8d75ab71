//! One writer at a time, whatever happens to the API server.

use kube::Client;

use super::*;
use crate::testing::api_server::ApiServer;

const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

fn lease(holder: &str, seconds: i32) -> Lease {
    let spec = LeaseSpec { holder_identity: Some(holder.into()), lease_duration_seconds: Some(seconds), lease_transitions: Some(3), ..LeaseSpec::default() };
    Lease { spec: Some(spec), ..Lease::default() }
}

#[tokio::test(start_paused = true)]
async fn whose_turn_it_is() {
    let at = Instant::now();
    let time = || MicroTime(jiff::Timestamp::UNIX_EPOCH);
    // holder, life, seconds since it changed, what is done: transitions after it
    let table = [
        ("other", 15, 0, None),
        ("other", 15, 14, None),
        ("other", 15, 15, Some(4)),
        ("", 15, 0, Some(4)),
        ("me", 15, 0, Some(3)),
        ("me", 15, 100, Some(3)),
        ("other", 0, 0, Some(4)),
    ];
    for (holder, life, since, done) in table {
        let seen = Seen { lease: lease(holder, life), at };
        let answer = match step(Some(&seen), "me", at + Duration::from_secs(since), time()) {
            Step::Update(lease) => {
                let spec = lease.spec.unwrap();
                assert_eq!(spec.holder_identity.as_deref(), Some("me"));
                spec.lease_transitions
            }
            Step::Wait => None,
            Step::Create(_) => panic!("it is there"),
        };
        assert_eq!(answer, done, "{holder:?} {life} {since}");
    }
    assert!(matches!(step(None, "me", at, time()), Step::Create(_)));
}

struct Replica {
    leadership: Leadership,
    stop: CancellationToken,
}

fn replica(client: Client, me: &str) -> Replica {
    let (candidate, leadership) = Candidate::new(Api::namespaced(client, "istio-system"), "istiod-lite", me);
    let stop = CancellationToken::new();
    tokio::spawn(candidate.run(stop.clone()));
    Replica { leadership, stop }
}

impl Replica {
    async fn until(&mut self, held: bool) {
        self.leadership.0.wait_for(|now| *now == held).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_next_takes_over_at_once_when_it_stops() {
    let server = ApiServer::new();
    let mut first = replica(server.client(), "a");
    first.until(true).await;
    let mut second = replica(server.client(), "b");
    tokio::time::sleep(LIFE * 4).await;
    assert!(first.leadership.is_held() && !second.leadership.is_held());
    let begin = Instant::now();
    first.stop.cancel();
    second.until(true).await;
    assert!(begin.elapsed() <= EVERY * 2 && !first.leadership.is_held(), "{:?}", begin.elapsed());
    let spec = server.object(LEASES, "istio-system", "istiod-lite").unwrap()["spec"].clone();
    assert_eq!((&spec["holderIdentity"], &spec["leaseTransitions"]), (&"b".into(), &1.into()));
}

// loss of the lease stops writing before anybody else may begin
#[tokio::test(start_paused = true)]
async fn who_cannot_renew_stops_before_another_begins() {
    let server = ApiServer::new();
    let mut first = replica(server.client(), "a");
    first.until(true).await;
    tokio::time::sleep(EVERY * 3).await;
    let begin = Instant::now();
    server.set_down(true);
    first.until(false).await;
    assert!(begin.elapsed() <= RENEW_DEADLINE && begin.elapsed() >= RENEW_DEADLINE - EVERY * 2, "{:?}", begin.elapsed());
    server.set_down(false);
    first.until(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_has_taken_is_lost_at_the_next_look() {
    let server = ApiServer::new();
    let mut first = replica(server.client(), "a");
    first.until(true).await;
    let mut taken = server.object(LEASES, "istio-system", "istiod-lite").unwrap();
    taken["spec"]["holderIdentity"] = "b".into();
    let begin = Instant::now();
    server.put(LEASES, taken);
    first.until(false).await;
    assert!(begin.elapsed() <= EVERY, "{:?}", begin.elapsed());
    // b never renews
    first.until(true).await;
    assert!(begin.elapsed() >= LIFE, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn work_stops_where_it_stands_and_begins_again() {
    let (held, receiver) = watch::channel(false);
    let leadership = Leadership(receiver);
    let (steps, mut done) = tokio::sync::mpsc::unbounded_channel();
    let work = move || {
        let steps = steps.clone();
        async move {
            steps.send("begins").unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            steps.send("has written").unwrap();
            std::future::pending().await
        }
    };
    tokio::spawn(leadership.while_held(work));
    held.send_replace(true);
    assert_eq!(done.recv().await, Some("begins"));
    held.send_replace(false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(done.try_recv().is_err(), "nothing is written after the loss");
    held.send_replace(true);
    assert_eq!((done.recv().await, done.recv().await), (Some("begins"), Some("has written")));
}
