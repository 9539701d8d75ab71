//! One authority for all replicas, however they start and whoever of them changes it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_identity::SystemClock;
use mesh_identity::sign::Lifetimes;
use serde_json::{Value, json};

use super::*;
use crate::ca::keep::{Keep, Source};
use crate::ca::live::Live;
use crate::ca::root::{self, Start};
use crate::ca::rotation::Times;
use crate::ca::stored::Stored;
use crate::testing::api_server::ApiServer;

const SECRETS: &str = "/api/v1/secrets";
const DAY: Duration = Duration::from_secs(24 * 3600);
const LIFE: Duration = Duration::from_secs(100);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

fn lives() -> Lifetimes {
    Lifetimes { default: LIFE, max: LIFE }
}

async fn started(server: &ApiServer) -> anyhow::Result<(Source, Stored)> {
    let nothing = std::path::Path::new("/nothing-is-here");
    let start = Start { plugged_in: nothing, own: nothing, trust_domain: "cluster.local", root_life: 100 * DAY, published: "", lifetimes: lives() };
    root::load_in_cluster(&start, Api::namespaced(server.client(), "istio-system"), now()).await
}

async fn replica(server: &ApiServer) -> Keep {
    let (source, stored) = started(server).await.unwrap();
    let live = Arc::new(Live::new(stored.ca(lives(), now()).unwrap(), LIFE));
    let times = Times { distribution: Duration::ZERO, renew_below_percent: 20 };
    Keep { source, stored, is_told: true, live, lifetimes: lives(), times, clock: Arc::new(SystemClock) }
}

/// One look, and everybody is told what follows.
async fn turn(keep: &mut Keep, now: SystemTime) {
    if let (_, Some(ca)) = keep.turn_in_cluster(now).await.unwrap() {
        keep.live.replace(ca);
        keep.is_told = true;
    }
}

#[tokio::test]
async fn replicas_that_start_together_have_one_root() {
    let server = ApiServer::new();
    let all = futures_util::future::join_all((0..8).map(|_| started(&server))).await;
    let bundles: Vec<String> = all.into_iter().map(|started| started.unwrap().1.book.bundle()).collect();
    assert!(bundles.iter().all(|bundle| *bundle == bundles[0]));
    assert_eq!(started(&server).await.unwrap().1.book.bundle(), bundles[0], "and one that comes later has it too");
    let secret = server.object(SECRETS, "istio-system", NAME).unwrap();
    assert_eq!(secret["type"], Value::from("istio.io/ca-root"));
    for name in ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "key.pem", "root-cert.pem"] {
        assert!(secret["data"][name].is_string(), "{name}");
    }
}

// root rotation in three steps, by whichever replica looks first
#[tokio::test]
async fn replicas_change_the_root_together() {
    let server = ApiServer::new();
    let (mut one, mut other) = (replica(&server).await, replica(&server).await);
    let old = one.live.ca().root_bundle();
    let late = now() + 81 * DAY;
    turn(&mut one, late).await;
    turn(&mut other, late).await;
    assert_eq!(one.live.ca().roots().len(), 2, "the new root is announced");
    assert_eq!(one.live.ca().root_bundle(), other.live.ca().root_bundle());
    assert_eq!(one.live.ca().certificate_pem(), old, "and does not sign yet");

    let known = late + LIFE + Duration::from_secs(600);
    turn(&mut other, known).await;
    turn(&mut one, known).await;
    assert_ne!(other.live.ca().certificate_pem(), old, "it signs");
    assert_eq!(one.live.ca().certificate_pem(), other.live.ca().certificate_pem());

    let unused = known + LIFE + Duration::from_secs(600);
    turn(&mut one, unused).await;
    turn(&mut other, unused).await;
    assert_eq!((one.live.ca().roots().len(), other.live.ca().roots().len()), (1, 1), "the old root is gone");
}

#[tokio::test]
async fn of_two_steps_at_a_time_one_counts() {
    let server = ApiServer::new();
    let (mut one, mut other) = (replica(&server).await, replica(&server).await);
    let late = now() + 81 * DAY;
    let (first, second) = tokio::join!(one.turn_in_cluster(late), other.turn_in_cluster(late));
    let announced = [first, second].into_iter().filter(|turned| turned.as_ref().unwrap().1.is_some()).count();
    assert!(announced >= 1);
    turn(&mut one, late).await;
    turn(&mut other, late).await;
    turn(&mut one, late).await;
    assert_eq!(one.stored.book.bundle(), other.stored.book.bundle());
    assert_eq!(one.stored.book.roots.len(), 2);
}

#[tokio::test]
async fn a_secret_that_somebody_deleted_comes_back_as_it_was() {
    let server = ApiServer::new();
    let mut keep = replica(&server).await;
    let bundle = keep.live.ca().root_bundle();
    server.delete(SECRETS, "istio-system", NAME);
    turn(&mut keep, now()).await;
    assert_eq!(started(&server).await.unwrap().1.book.bundle(), bundle);
}

#[tokio::test]
async fn what_cannot_be_used_stops_the_start_and_says_why() {
    for (data, said) in [
        (json!({ "ca-cert.pem": "anVuaw==" }), "Secret istio-ca-secret cannot be used: complete it, or delete it for a new root: ca-key.pem is missing"),
        (json!({ "ca-cert.pem": "anVuaw==", "ca-key.pem": "anVuaw==" }), "Secret istio-ca-secret cannot be used: "),
        (json!({}), "Secret istio-ca-secret cannot be used: complete it, or delete it for a new root"),
    ] {
        let server = ApiServer::new();
        server.put(SECRETS, json!({ "metadata": { "namespace": "istio-system", "name": NAME }, "data": data }));
        let error = format!("{:#}", started(&server).await.map(drop).unwrap_err());
        assert!(error.starts_with(said), "{error}");
    }
    let server = ApiServer::new();
    server.forbid("/api/v1/namespaces/istio-system/secrets");
    let error = format!("{:#}", started(&server).await.map(drop).unwrap_err());
    assert!(error.starts_with("Secret istio-ca-secret: this controller's ServiceAccount needs get of it"), "{error}");
}
