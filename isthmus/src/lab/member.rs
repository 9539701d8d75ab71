//! One pod of a running mesh, from its namespaces to its end: how far it is, what its node's agent says of it, when its
//! commands may start, and how they fare.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::lab::fate::Fates;
use crate::lab::pod::{Prepared, Running};
use crate::lab::process::{ProcessId, last_words};
use crate::lab::state::{PodPhase, PodState};
use crate::lab::supervise;
use crate::mesh::agent::Enrolment;
use crate::plan::PodPlan;
use crate::published::Seen;
use crate::say;

/// A pod that could not be started is tried again after this; what is wrong with it is said each time.
const RETRY_AFTER: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct Member {
    pub plan: PodPlan,
    pub enrolment: Enrolment,
    log: PathBuf,
    stage: Stage,
    fates: Fates,
}

#[derive(Debug)]
enum Stage {
    /// The namespaces stand; the commands wait for the mesh. Taken out when the pod starts.
    Prepared(Option<Prepared>),
    Running(Running),
    Failed { since: Instant },
}

impl Stage {
    fn failed() -> Stage {
        Stage::Failed { since: Instant::now() }
    }
}

impl Member {
    /// What came of the preparation is said if it failed.
    pub fn new(plan: PodPlan, log: PathBuf, prepared: anyhow::Result<Prepared>) -> Member {
        let stage = match prepared {
            Ok(prepared) => Stage::Prepared(Some(prepared)),
            Err(error) => {
                say::warning(&format!("{error:#}"));
                Stage::failed()
            }
        };
        Member { plan, enrolment: Enrolment::default(), fates: Fates::of(&log), log, stage }
    }

    /// Whether it failed so long ago that it is to be tried again.
    pub fn is_to_be_tried_again(&self) -> bool {
        matches!(self.stage, Stage::Failed { since } if since.elapsed() > RETRY_AFTER)
    }

    pub fn is_settled(&self) -> bool {
        !matches!(self.stage, Stage::Prepared(_))
    }

    pub fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }

    /// What the controller is to know of it; none while there is nothing that could be called.
    ///
    /// Its address goes out as a kubelet would tell it, when the network is whole: for a pod of the mesh that is when its
    /// traffic is captured. So nobody ever knows it as a pod outside of the mesh.
    pub fn seen(&self) -> Option<Seen> {
        let running = match self.stage {
            Stage::Failed { .. } => return None,
            Stage::Prepared(_) => false,
            Stage::Running(_) => true,
        };
        let has_address = running || !self.plan.enrolled || self.enrolment.is_captured();
        Some(Seen { redirection: self.enrolment.annotation(), has_address, running })
    }

    /// Notices the end of the pod, and of its commands.
    pub fn look(&mut self) {
        if let Stage::Running(running) = &mut self.stage
            && !running.is_up()
        {
            say::warning(&format!("pod {} ended: {}", self.plan.name, last_words(&self.log)));
            self.stage = Stage::failed();
        }
        supervise::empty_if_large(&self.log);
        for news in self.fates.read() {
            say::warning(&format!("pod {}: {news}; its log is {}", self.plan.name, self.log.display()));
        }
    }

    /// Starts the commands of a pod that need not wait, or waits no longer (design decision 13: rules and the daemon's
    /// acknowledgement come first).
    pub async fn start_if_ready(&mut self, meshed: bool) {
        if meshed && self.plan.enrolled && !self.enrolment.is_captured() {
            return;
        }
        let Stage::Prepared(prepared) = &mut self.stage else { return };
        let Some(prepared) = prepared.take() else { return };
        self.stage = match prepared.start().await {
            Ok(running) => Stage::Running(running),
            Err(error) => {
                say::warning(&format!("pod {}: {error:#}", self.plan.name));
                Stage::failed()
            }
        };
    }

    pub async fn stop(self) {
        match self.stage {
            Stage::Prepared(Some(prepared)) => prepared.discard().await,
            Stage::Running(running) => running.stop().await,
            Stage::Prepared(None) | Stage::Failed { .. } => {}
        }
        say::line(&format!("pod {} is gone", self.plan.name));
    }

    pub fn state(&self) -> PodState {
        let plan = &self.plan;
        let (phase, init) = match &self.stage {
            Stage::Prepared(_) => (PodPhase::Pending, None),
            Stage::Running(running) => (PodPhase::Running, ProcessId::of(running.init as i32)),
            Stage::Failed { .. } => (PodPhase::Failed, None),
        };
        PodState {
            name: plan.name.clone(),
            uid: plan.uid.clone(),
            node: plan.node.clone(),
            netns: plan.netns.clone(),
            veth: plan.veth.clone(),
            addresses: plan.addresses,
            service_account: plan.service_account.clone(),
            labels: plan.labels.clone(),
            user: plan.containers.first().and_then(|run| run.user),
            group: plan.containers.first().and_then(|run| run.group),
            wanted: plan.enrolled,
            phase,
            redirection: self.enrolment.to_string(),
            restarts: self.fates.restarts(),
            trouble: self.fates.trouble().map(|fate| fate.to_string()),
            init,
            log: self.log.clone(),
        }
    }
}
