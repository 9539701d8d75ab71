//! The programs of waypoints: one in the network of each waypoint's pod, started with the pod and ended with it, and
//! whether each is ready.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::timeout;

use crate::lab::supervise::{ProgramSpec, Supervised};
use crate::mesh::ask;
use crate::objects::PodName;
use crate::waypoint::lab::STATUS_PORT;

/// One that is busy is asked again in the next round; the others are not to wait for it.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);

#[derive(Debug, Default)]
pub struct Waypoints {
    running: BTreeMap<PodName, Waypoint>,
    /// Gateways that had an instance that was ready.
    were_ready: BTreeSet<PodName>,
}

#[derive(Debug)]
struct Waypoint {
    /// Of the pod: another pod of the same name has another program.
    uid: String,
    gateway: PodName,
    program: Supervised,
    is_ready: bool,
    restarts: u32,
}

impl Waypoints {
    pub fn has(&self, pod: &PodName, uid: &str) -> bool {
        self.running.get(pod).is_some_and(|waypoint| waypoint.uid == uid)
    }

    pub fn is_ready(&self, pod: &PodName) -> bool {
        self.running.get(pod).is_some_and(|waypoint| waypoint.is_ready)
    }

    /// Whether services may be bound to it: once they are, they stay bound while it restarts, so that nothing goes past it.
    pub fn was_ready(&self, gateway: &PodName) -> bool {
        self.were_ready.contains(gateway)
    }

    pub fn programs(&self) -> impl Iterator<Item = &Supervised> {
        self.running.values().map(|waypoint| &waypoint.program)
    }

    pub async fn start(&mut self, pod: PodName, uid: String, gateway: PodName, spec: ProgramSpec) -> anyhow::Result<()> {
        let program = Supervised::start(spec)?;
        if let Some(before) = self.running.insert(pod, Waypoint { uid, gateway, program, is_ready: false, restarts: 0 }) {
            before.program.stop().await;
        }
        Ok(())
    }

    /// Looks after the programs; what happened is worth a word.
    pub async fn tend(&mut self, runs: impl Fn(&PodName, &str) -> bool) -> Vec<String> {
        let gone: Vec<PodName> = self.running.iter().filter(|(pod, waypoint)| !runs(pod, &waypoint.uid)).map(|(pod, _)| pod.clone()).collect();
        for pod in gone {
            if let Some(waypoint) = self.running.remove(&pod) {
                waypoint.program.stop().await;
            }
        }
        let mut news = Vec::new();
        for waypoint in self.running.values_mut() {
            news.extend(waypoint.program.tend());
            if waypoint.program.process().is_none() || waypoint.program.restarts != waypoint.restarts {
                (waypoint.is_ready, waypoint.restarts) = (false, waypoint.program.restarts);
            }
            // One that stops says so before it stops to listen. Silence says nothing.
            if let Ok(answer) = timeout(ANSWER_WITHIN, ask::get(&waypoint.program.spec.netns, STATUS_PORT, "/healthz/ready")).await {
                waypoint.is_ready = answer.is_ok();
            }
            if waypoint.is_ready {
                self.were_ready.insert(waypoint.gateway.clone());
            }
        }
        news
    }
}
