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

/// What the agent said of a pod, over time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enrolment {
    now: Redirection,
    /// It was enabled once, and has not been released since.
    captured: bool,
}

impl Enrolment {
    pub fn hear(&mut self, now: Redirection) {
        match now.state.as_deref() {
            Some("enabled") => self.captured = true,
            Some("releasing" | "released") => self.captured = false,
            // An agent that starts anew says `pending` of a pod whose rules stand: nothing has left it in the clear.
            _ => {}
        }
        self.now = now;
    }

    /// Whether all of its traffic is in the mesh's hands, also while its agent or daemon is away.
    pub fn is_captured(&self) -> bool {
        self.captured
    }

    /// The value of the annotation that the controller reads (spec/dataplane.md 4.5): a pod that is leaving is no
    /// longer to be called by tunnel.
    pub fn annotation(&self) -> Option<&'static str> {
        if self.captured {
            return Some("enabled");
        }
        (self.now.state.as_deref() == Some("pending")).then_some("pending")
    }
}

impl fmt::Display for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.now.fmt(f)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_captured_pod_stays_so_until_it_is_released() {
        let mut enrolment = Enrolment::default();
        for (said, captured, annotation) in [
            (None, false, None),
            (Some("pending"), false, Some("pending")),
            (Some("refused"), false, None),
            (Some("enabled"), true, Some("enabled")),
            // The agent was restarted: it has said nothing yet, then it enrols what it finds.
            (None, true, Some("enabled")),
            (Some("pending"), true, Some("enabled")),
            (Some("refused"), true, Some("enabled")),
            (Some("releasing"), false, None),
            (Some("pending"), false, Some("pending")),
            (Some("enabled"), true, Some("enabled")),
            (Some("released"), false, None),
        ] {
            enrolment.hear(Redirection { state: said.map(str::to_owned), reason: String::new() });
            assert_eq!((enrolment.is_captured(), enrolment.annotation()), (captured, annotation), "{said:?}");
        }
    }
}
