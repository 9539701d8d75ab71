//! One authority for all replicas, however they start and whoever of them changes it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_identity::SystemClock;
use mesh_identity::sign::{Ca, Lifetimes};
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
const TIMES: Times = Times { distribution: Duration::ZERO, renew_below_percent: 20 };

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

fn lives() -> Lifetimes {
    Lifetimes { default: LIFE, max: LIFE }
}

async fn started(server: &ApiServer) -> anyhow::Result<(Source, Stored)> {
    started_with(server, std::path::Path::new("/nothing-is-here"), now()).await
}

async fn started_with(server: &ApiServer, plugged_in: &std::path::Path, now: SystemTime) -> anyhow::Result<(Source, Stored)> {
    let nothing = std::path::Path::new("/nothing-is-here");
    let start = Start { plugged_in, own: nothing, trust_domain: "cluster.local", root_life: 100 * DAY, published: "", lifetimes: lives(), times: TIMES };
    root::load_in_cluster(&start, Api::namespaced(server.client(), "istio-system"), Api::namespaced(server.client(), "istio-system"), now).await
}

/// What the leader writes for everybody.
fn publish(server: &ApiServer, bundle: &str) {
    server.put("/api/v1/configmaps", json!({ "metadata": { "namespace": "istio-system", "name": "istio-ca-root-cert" }, "data": { "root-cert.pem": bundle } }));
}

/// A Secret `cacerts` as a kubelet mounts it: the files are links into a folder that is swapped whole.
fn mount(folder: &std::path::Path, version: &str, ca: &Ca) {
    let data = folder.join(version);
    std::fs::create_dir(&data).unwrap();
    let files = [("ca-cert.pem", ca.certificate_pem()), ("ca-key.pem", ca.private_pem()), ("cert-chain.pem", String::new()), ("root-cert.pem", ca.root_bundle())];
    for (name, text) in files {
        std::fs::write(data.join(name), text).unwrap();
        let _ = std::os::unix::fs::symlink(format!("..data/{name}"), folder.join(name));
    }
    std::os::unix::fs::symlink(version, folder.join("..new")).unwrap();
    std::fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
}

fn authority() -> Ca {
    Ca::self_signed("cluster.local", 100 * DAY, lives(), now()).unwrap()
}

// spec/controlplane.md 3.6: from a self-signed root to `cacerts`, in three steps and over restarts
#[tokio::test]
async fn a_self_signed_root_gives_way_to_a_plugged_in_one() {
    let server = ApiServer::new();
    let own = started(&server).await.unwrap().1.book.bundle();
    publish(&server, &own);
    let folder = tempfile::tempdir().unwrap();
    let plugged = authority();
    mount(folder.path(), "..1", &plugged);

    let wait = TIMES.wait(LIFE);
    let starts = |at: SystemTime| started_with(&server, folder.path(), at);
    let state = |stored: &Stored| (*stored.book.signer.certificate == *own, stored.book.roots.len());
    let (source, stored) = starts(now()).await.unwrap();
    assert_eq!(state(&stored), (true, 2), "it signs on, and the other is announced");
    assert!(!format!("{:?}", server.object(SECRETS, "istio-system", NAME)).contains("next-ca-key"), "the key of the other stays where it is");

    // The leader tells the bundle; a restart goes on with the wait that has begun.
    publish(&server, &stored.book.bundle());
    let (again, stored_again) = starts(now() + wait / 2).await.unwrap();
    assert_eq!(state(&stored_again), (true, 2));
    let keep = |(source, stored): (Source, Stored), at: SystemTime| {
        let live = Arc::new(Live::new(stored.ca(lives(), at).unwrap(), LIFE, stored.session_seeds()));
        Keep { source, stored, is_told: true, live, lifetimes: lives(), times: TIMES, clock: Arc::new(SystemClock) }
    };
    for mut keep in [keep((source, stored), now()), keep((again, stored_again), now() + wait / 2)] {
        keep.turn(now() + wait - Duration::from_secs(1)).unwrap();
        assert_eq!(state(&keep.stored), (true, 2), "not everybody knows it yet");
        keep.turn(now() + wait).unwrap();
        assert_eq!(state(&keep.stored), (false, 2), "everybody does");
        keep.turn(now() + 2 * wait).unwrap();
        assert_eq!(state(&keep.stored), (false, 1), "nobody needs the old one");
    }

    // A start after the wait signs with the other at once.
    assert_eq!(state(&starts(now() + wait).await.unwrap().1), (false, 2));

    // One that was stored and never told is told from the start on that tells it.
    publish(&server, &own);
    let later = now() + 10 * wait;
    let stored = starts(later).await.unwrap().1;
    assert_eq!((state(&stored), stored.book.roots[&*plugged.certificate_pem()].since), ((true, 2), later));

    // What nodes do not trust any more does not sign again.
    publish(&server, &plugged.root_bundle());
    assert_eq!(state(&starts(later).await.unwrap().1), (false, 1));
}

// spec/controlplane.md 3.6: `cacerts` changed while no controller ran
#[tokio::test]
async fn roots_that_were_told_before_a_restart_stay_for_a_wait() {
    let server = ApiServer::new();
    let (old, new) = (authority(), authority());
    let folder = tempfile::tempdir().unwrap();
    mount(folder.path(), "..1", &old);
    let mut keep = {
        let (source, stored) = started_with(&server, folder.path(), now()).await.unwrap();
        assert_eq!(stored.book.bundle(), old.root_bundle());
        let live = Arc::new(Live::new(stored.ca(lives(), now()).unwrap(), LIFE, stored.session_seeds()));
        Keep { source, stored, is_told: true, live, lifetimes: lives(), times: TIMES, clock: Arc::new(SystemClock) }
    };
    publish(&server, &old.root_bundle());
    mount(folder.path(), "..2", &new);
    let restarted = started_with(&server, folder.path(), now()).await.unwrap().1;
    assert_eq!((&*restarted.book.signer.certificate, restarted.book.roots.len()), (&*new.certificate_pem(), 2));
    // One that runs on sees the mount change, and waits.
    keep.turn(now()).unwrap();
    assert_eq!((&*keep.stored.book.signer.certificate, keep.stored.book.roots.len()), (&*old.certificate_pem(), 2));
}

#[tokio::test]
async fn a_bundle_that_somebody_spoilt_keeps_nobody_from_starting() {
    let server = ApiServer::new();
    publish(&server, "-----BEGIN CERTIFICATE-----\njunk");
    let folder = tempfile::tempdir().unwrap();
    let plugged = authority();
    mount(folder.path(), "..1", &plugged);
    assert_eq!(started_with(&server, folder.path(), now()).await.unwrap().1.book.bundle(), plugged.root_bundle());
}

async fn replica(server: &ApiServer) -> Keep {
    let (source, stored) = started(server).await.unwrap();
    let live = Arc::new(Live::new(stored.ca(lives(), now()).unwrap(), LIFE, stored.session_seeds()));
    Keep { source, stored, is_told: true, live, lifetimes: lives(), times: TIMES, clock: Arc::new(SystemClock) }
}

/// One look, and everybody is told what follows.
async fn turn(keep: &mut Keep, now: SystemTime) {
    if let (_, Some(ca)) = keep.turn_in_cluster(now).await.unwrap() {
        keep.live.replace(ca, keep.stored.session_seeds());
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
