//! Talking to the nodes' agents (`mesh-cni agent --pods FOLDER`): one file per pod for them, one status file per pod
//! from them. The formats are theirs (`cni/src/podfile.rs`, `cni/src/status.rs`).

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use crate::lab::netns;
use crate::objects::PodName;
use crate::plan::{MODE_LABEL, PodPlan};

/// The folder that a node's agent watches.
pub fn folder(run: &Path, node: &str) -> PathBuf {
    run.join("nodes").join(node).join("pods")
}

pub fn pod_file(run: &Path, node: &str, name: &PodName) -> PathBuf {
    folder(run, node).join(format!("{}.{}.json", name.namespace, name.name))
}

/// What the agent is told of a pod. Whether it is in the mesh was decided from the labels of namespace and pod; the
/// agent sees only the pod's, so the decision is written there.
pub fn pod_file_content(pod: &PodPlan, running: bool) -> Vec<u8> {
    let mut labels = pod.labels.clone();
    labels.insert(MODE_LABEL.to_owned(), if pod.enrolled { "ambient" } else { "none" }.to_owned());
    let file = json!({
        "uid": pod.uid, "name": pod.name.name, "namespace": pod.name.namespace, "serviceAccount": pod.service_account,
        "netns": netns::path(&pod.netns), "ips": pod.addresses.all(), "hostInterface": pod.veth,
        "labels": labels, "annotations": pod.annotations, "phase": if running { "running" } else { "starting" },
    });
    file.to_string().into_bytes()
}

/// What an agent says of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirection {
    state: Option<String>,
    reason: String,
}

#[derive(Deserialize)]
struct StatusFile {
    #[serde(default)]
    uid: String,
    state: String,
    #[serde(default)]
    reason: String,
}

/// Reads the status that the node's agent keeps; nothing while there is none for this very pod.
pub fn redirection(run: &Path, node: &str, name: &PodName, uid: &str) -> Redirection {
    let path = pod_file(run, node, name).with_extension("status.json");
    let Ok(text) = fs::read(&path) else { return Redirection::default() };
    match serde_json::from_slice::<StatusFile>(&text) {
        // An empty uid: the agent could not read the pod's file, and says why.
        Ok(status) if status.uid == uid || status.uid.is_empty() => Redirection { state: Some(status.state), reason: status.reason },
        _ => Redirection::default(),
    }
}

impl Redirection {
    pub fn is_enabled(&self) -> bool {
        self.state.as_deref() == Some("enabled")
    }

    /// The value of the annotation that the controller reads (spec/dataplane.md 4.5): a pod that is leaving is no
    /// longer to be called by tunnel.
    pub fn annotation(&self) -> Option<String> {
        self.state.clone().filter(|state| state == "enabled" || state == "pending")
    }
}

impl fmt::Display for Redirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.state, self.reason.is_empty()) {
            (None, _) => f.write_str("-"),
            (Some(state), true) => f.write_str(state),
            (Some(state), false) => write!(f, "{state}: {}", self.reason),
        }
    }
}
