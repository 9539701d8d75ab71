//! A pod whose own description comes late, or never: what its connections wait for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::change::Change;
use mesh_sim::fabric::SimNet;
use mesh_xds::world::Edit;
use tokio::time::{Instant, sleep};
use ztunnel::enroll::{PodInfo, PodUid};
use ztunnel::error::Refusal;
use ztunnel::pod::Pod;

use crate::sim::mesh::{NAMESPACE, Place, Sabotage, Sim, workload};

/// A node with one pod that the control plane has not described.
async fn undescribed() -> (Sim, Arc<Pod<SimNet>>, Place) {
    let mut sim = Sim::new(1, Sabotage::Nothing);
    sim.add_node("a");
    let ip: IpAddr = "10.0.0.1".parse().expect("an address");
    let place = Place { node: "a".into(), ip, account: "web".into(), name: "web-1".into(), enrolled: true };
    sim.fabric.add_pod("a", ip);
    sim.fabric.enrol(ip, true);
    let info = PodInfo { name: "web-1".into(), namespace: NAMESPACE.into(), service_account: "web".into() };
    let node = &sim.nodes["a"];
    let started = Pod::start(PodUid("web-1".into()), info, sim.fabric.daemon(ip), node.mesh.clone(), node.drain.child()).await;
    (sim, started.expect("ports of a simulated pod are free"), place)
}

// Z-129
#[tokio::test(start_paused = true)]
async fn a_pod_that_nobody_describes_is_refused_after_five_seconds() {
    let (_sim, pod, _) = undescribed().await;
    let began = Instant::now();
    let refused = pod.me().await.expect_err("nobody knows the pod");
    assert!(matches!(refused, Refusal::UnknownOwnWorkload { .. }), "{refused}");
    assert_eq!(began.elapsed().as_secs(), 5);
}

// Z-128, Z-130
#[tokio::test(start_paused = true)]
async fn a_description_that_comes_late_is_waited_for_and_one_that_is_there_is_not() {
    let (mut sim, pod, place) = undescribed().await;
    let began = Instant::now();
    let described = Arc::new(workload(&place));
    let telling = async {
        sleep(Duration::from_secs(3)).await;
        sim.push(Edit::Address(Change::Workload(described.clone())));
    };
    let (me, ()) = tokio::join!(pod.me(), telling);
    assert_eq!(*me.expect("it came within the five seconds"), *described);
    let waited = began.elapsed();
    assert!((3..4).contains(&waited.as_secs()), "woken {waited:?} after the question");

    let asked = Instant::now();
    assert!(pod.me().await.is_ok());
    assert_eq!(asked.elapsed(), Duration::ZERO);
}
