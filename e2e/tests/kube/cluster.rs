//! Hands on a cluster: kubectl, helm, its nodes and the wire between them. Nothing here knows of a mesh.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use isthmus::tour::wire::Wire;
use serde_json::Value;

/// For what should happen at once and may be slow on a machine that does other things.
pub const SOON: Duration = Duration::from_secs(20);
/// For pods that are pulled up, with their images there.
pub const PODS: Duration = Duration::from_secs(120);

pub struct Cluster {
    /// The names of two nodes, different ones.
    pub nodes: [String; 2],
    /// Our own cluster, whose nodes can be entered; a user's cannot.
    pub ours: bool,
}

impl Cluster {
    /// The cluster of KUBECONFIG, with two nodes that are ready.
    pub fn of_the_environment() -> Result<Cluster> {
        let mut cluster = Cluster { nodes: Default::default(), ours: false };
        let nodes = cluster.json(&["get", "nodes"])?;
        let ready = |node: &&Value| {
            let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            let tainted = node["spec"]["taints"].as_array().is_some_and(|taints| taints.iter().any(|taint| taint["effect"] == "NoSchedule"));
            !tainted && conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
        };
        let mut names = nodes["items"].as_array().into_iter().flatten().filter(ready).map(|node| text(&node["metadata"]["name"]));
        let (Some(one), Some(other)) = (names.next(), names.next()) else { bail!("two ready nodes that take pods are needed") };
        cluster.nodes = [one, other];
        cluster.ours = cluster.on(0, &["true"]).is_ok();
        Ok(cluster)
    }

    pub fn answers(&self) -> bool {
        self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
    }

    /// What it prints; what it complains about is the error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        said(bounded("kubectl").args(arguments).output()?, "kubectl", arguments)
    }

    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        said(bounded("helm").args(arguments).output()?, "helm", arguments)
    }

    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&[arguments, &["-o", "json"]].concat())?)?)
    }

    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.feed(&["apply", "-f", "-"], yaml).map(drop)
    }

    pub fn delete(&self, yaml: &str) -> Result<()> {
        self.feed(&["delete", "--ignore-not-found", "-f", "-"], yaml).map(drop)
    }

    /// kubectl with something on its standard input.
    pub fn feed(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut child =
            bounded("kubectl").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("standard input is a pipe")?.write_all(input.as_bytes())?;
        said(child.wait_with_output()?, "kubectl", arguments)
    }

    /// Makes a namespace anew, with labels.
    pub fn namespace(&self, name: &str, labels: &[&str]) -> Result<()> {
        self.kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait=true"])?;
        self.kubectl(&["create", "namespace", name])?;
        if !labels.is_empty() {
            self.kubectl(&[&["label", "namespace", name], labels].concat())?;
        }
        Ok(())
    }

    /// A command in a pod's first container.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        let (namespace, name) = pod.split_once('/').context("NAMESPACE/POD")?;
        self.kubectl(&[&["exec", "-n", namespace, name, "--"], command].concat())
    }

    /// A command on one of the nodes: only in our own cluster.
    pub fn on(&self, node: usize, command: &[&str]) -> Result<String> {
        let program = root().join("e2e/cluster/cluster").display().to_string();
        let arguments = [&["on", &self.nodes[node]], command].concat();
        said(bounded(&program).args(&arguments).output()?, "e2e/cluster/cluster", &arguments)
    }

    /// Everything that passes between the first node and the others from now on; only in our own cluster.
    pub fn wire(&self, words: &[&'static str]) -> Result<Wire> {
        Wire::tap(&switch(), &self.nodes[0], words)
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace")
}

/// Where our own cluster keeps itself, its logs included.
pub fn state() -> PathBuf {
    std::env::var_os("ISTHMUS_E2E_STATE").map_or_else(|| Path::new("/var/lib").join(own_name()), PathBuf::from)
}

/// What everything of our own cluster is called in the kernel; settings.sh has the same.
pub fn own_name() -> String {
    std::env::var("ISTHMUS_E2E_NAME").unwrap_or_else(|_| "isthmus-e2e".to_owned())
}

/// The network namespace of our own cluster in which all nodes' cables end.
pub fn switch() -> String {
    format!("{}-control", own_name())
}

/// The address there of the control plane.
pub fn control() -> String {
    format!("{}.1", std::env::var("ISTHMUS_E2E_NETWORK").unwrap_or_else(|_| "10.90.0".to_owned()))
}

pub fn chart() -> PathBuf {
    root().join("charts/isthmus")
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Nothing that is asked of a cluster takes longer than this, helm's waiting included.
const ANSWER: &str = "300";

/// A command that ends, whatever does not answer it.
pub fn bounded(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", ANSWER, program]);
    command
}

fn said(output: Output, program: &str, arguments: &[&str]) -> Result<String> {
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} {}: {} {}", arguments.join(" "), said.trim(), complaint.trim());
    Ok(said.into_owned())
}

/// Looks until there is something, and says what there was instead when it does not come in time.
pub fn until<T>(within: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if began.elapsed() > within {
            let because = last.map_or(String::new(), |error| format!(": {error:#}"));
            bail!("not within {within:?}: {what}{because}");
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
}
