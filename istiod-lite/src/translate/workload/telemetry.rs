//! The names that telemetry shows for a workload, guessed without asking an API (spec/controlplane.md 4.3).

use std::sync::Arc;

use mesh_model::workload::Workload;

use crate::objects::{Labels, Pod};

pub struct Named {
    workload_name: Arc<str>,
    canonical_name: Arc<str>,
    canonical_revision: Arc<str>,
}

impl Named {
    pub fn by_labels(workload_name: Arc<str>, labels: &Labels) -> Named {
        let first = |keys: [&str; 3]| keys.into_iter().find_map(|key| labels.get(key)).cloned();
        Named {
            canonical_name: first(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]).unwrap_or_else(|| workload_name.clone()),
            canonical_revision: first(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]).unwrap_or_else(|| "latest".into()),
            workload_name,
        }
    }

    pub fn write(self, workload: &mut Workload) {
        workload.workload_name = self.workload_name;
        workload.canonical_name = self.canonical_name;
        workload.canonical_revision = self.canonical_revision;
    }
}

pub fn of_pod(pod: &Pod) -> Named {
    Named::by_labels(owner_like_name(pod), &pod.meta.labels)
}

fn owner_like_name(pod: &Pod) -> Arc<str> {
    let labels = &pod.meta.labels;
    if let Some(told) = labels.get("service.istio.io/workload-name") {
        return told.clone();
    }
    let (Some(_), Some(owner)) = (&pod.generate_name, &pod.owner) else { return pod.meta.name.clone() };
    let without_hash = |label: &str| labels.get(label).and_then(|hash| owner.name.strip_suffix(&**hash)?.strip_suffix('-'));
    let derived = match &*owner.kind {
        "ReplicaSet" => without_hash("pod-template-hash").or_else(|| without_hash("rollouts-pod-template-hash")),
        "ReplicationController" => labels.get("deploymentconfig").map(|name| &**name),
        "Job" => cron_job(&owner.name),
        _ => None,
    };
    derived.map_or_else(|| owner.name.clone(), Into::into)
}

/// A CronJob names its Jobs `name-<8 to 10 digits>`, the minute they were due.
fn cron_job(job: &str) -> Option<&str> {
    let (name, due) = job.rsplit_once('-')?;
    ((8..=10).contains(&due.len()) && due.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}
