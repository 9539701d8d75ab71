//! The end of the mesh on a cluster. Helm deletes the DaemonSet and, before its pods have ended, what they may do in
//! Kubernetes: an agent that only then began to undo its work could no longer say so. So the agents are told before: a job of
//! the chart marks the DaemonSet, each agent releases its pods in the ordinary order, takes its plugin away and says on its
//! own pod that it has left; the job waits for that.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// On the DaemonSet: its agents are to leave.
pub const LEAVING: &str = "isthmus.io/leaving";
/// On an agent's pod: it has left.
pub const LEFT: &str = "isthmus.io/left";
/// Between two looks at the agents' pods.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Whether this agent stays. It goes one way only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    WithPlugin,
    WithoutPlugin,
    /// It is to leave: the plugin goes first.
    Leaving,
    /// The plugin is gone, or never was there.
    Unplugged,
}

impl Stay {
    pub fn is_over(self) -> bool {
        matches!(self, Stay::Leaving | Stay::Unplugged)
    }

    /// The mark was seen.
    pub fn ended(self) -> Stay {
        match self {
            Stay::WithPlugin => Stay::Leaving,
            Stay::WithoutPlugin => Stay::Unplugged,
            leaving => leaving,
        }
    }
}

/// The agent's own pod, and the DaemonSet that it is of.
#[derive(Clone, Debug)]
pub struct Own {
    pub namespace: String,
    pub pod: Option<String>,
}

impl Own {
    /// The DaemonSet of a pod is called as the pod is, without the five letters that tell its pods apart.
    pub fn daemon_set(&self) -> Option<&str> {
        let (name, suffix) = self.pod.as_deref()?.rsplit_once('-')?;
        (suffix.len() == 5).then_some(name)
    }

    /// Whether the mesh is being removed: the DaemonSet is gone, going, or marked. What cannot be found out counts as no: a
    /// role that is broken would else open the mesh.
    pub async fn is_removed(&self, client: &Client) -> bool {
        let Some(name) = self.daemon_set() else { return false };
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &self.namespace);
        match sets.get_opt(name).await {
            Ok(set) => set.is_none_or(|set| is_leaving(&set)),
            Err(error) => {
                tracing::warn!(%error, name, "whether this agent is to be replaced is not known; everything stays in force");
                false
            }
        }
    }

    /// Says on the agent's own pod that it has left.
    ///
    /// # Errors
    /// The API server's.
    pub async fn say_left(&self, client: &Client) -> kube::Result<()> {
        let Some(pod) = &self.pod else { return Ok(()) };
        let pods: Api<v1::Pod> = Api::namespaced(client.clone(), &self.namespace);
        let patch = json!({"metadata": {"annotations": {LEFT: "true"}}});
        pods.patch_status(pod, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    }
}

/// Whether the agents of this DaemonSet are to leave.
pub fn is_leaving(set: &DaemonSet) -> bool {
    set.metadata.deletion_timestamp.is_some() || set.annotations().get(LEAVING).is_some_and(|value| value == "true")
}

/// Whether this agent has something to undo that it has not undone: one that never ran has not.
fn has_work(pod: &v1::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && !pod.annotations().contains_key(LEFT)
}

/// Has all agents leave, and waits until they have. What is left to wait for at the end is told, and no error: an uninstall
/// goes on.
///
/// # Errors
/// When they cannot be told.
pub async fn everywhere(client: Client, namespace: &str, daemon_set: &str, wait: Duration) -> anyhow::Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let Some(set) = sets.get_opt(daemon_set).await.context("cannot look at the DaemonSet")? else {
        tracing::info!("there is no DaemonSet {namespace}/{daemon_set}: no agent has anything to leave");
        return Ok(());
    };
    let mark = json!({"metadata": {"annotations": {LEAVING: "true"}}});
    sets.patch(daemon_set, &PatchParams::default(), &Patch::Merge(&mark)).await.context("cannot mark the DaemonSet")?;
    let selected = set.spec.and_then(|spec| spec.selector.match_labels).unwrap_or_default();
    let selected = selected.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let pods: Api<v1::Pod> = Api::namespaced(client, namespace);
    let until = Instant::now() + wait;
    loop {
        let listed = pods.list(&ListParams::default().labels(&selected)).await;
        let missing = match listed {
            Ok(all) => all.items.iter().filter(|pod| has_work(pod)).map(ResourceExt::name_any).collect::<Vec<_>>().join(", "),
            Err(error) => format!("cannot look at the agents' pods: {error}"),
        };
        if missing.is_empty() {
            tracing::info!("every agent has left");
            return Ok(());
        }
        if Instant::now() >= until {
            tracing::warn!(missing, "not every agent has left in time; they undo the rest when they end");
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_names_its_daemon_set() {
        for (pod, expected) in [(Some("istio-cni-node-x7k2p"), Some("istio-cni-node")), (Some("cni"), None), (Some("cni-a"), None), (None, None)] {
            let own = Own { namespace: String::new(), pod: pod.map(str::to_owned) };
            assert_eq!(own.daemon_set(), expected);
        }
    }

    #[test]
    fn who_is_waited_for() {
        for (phase, annotations, expected) in [
            ("Running", json!({}), true),
            ("Running", json!({LEFT: "true"}), false),
            ("Pending", json!({}), false),
            ("Failed", json!({}), false),
        ] {
            let pod = json!({"metadata": {"annotations": annotations}, "status": {"phase": phase}});
            assert_eq!(has_work(&serde_json::from_value(pod.clone()).unwrap()), expected, "{pod}");
        }
    }

    #[test]
    fn who_is_to_leave() {
        for (meta, expected) in [
            (json!({}), false),
            (json!({"annotations": {LEAVING: "true"}}), true),
            (json!({"annotations": {LEAVING: "false"}}), false),
            (json!({"deletionTimestamp": "2026-01-02T03:04:05Z"}), true),
        ] {
            let set: DaemonSet = serde_json::from_value(json!({"metadata": meta.clone()})).unwrap();
            assert_eq!(is_leaving(&set), expected, "{meta}");
        }
    }
}
