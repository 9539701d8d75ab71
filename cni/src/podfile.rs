//! The file by which a pod is announced to `mesh-cni agent --pods FOLDER` where there is no Kubernetes.
//!
//! One file per pod, `ANYTHING.json`, `.yaml` or `.yml`; write it under another name (a leading dot is ignored) and
//! rename it into place. Beside it the agent keeps `ANYTHING.status.json` ([`crate::status`]), the equivalent of the
//! annotation `ambient.istio.io/redirection`.
//!
//! Removing the file releases the pod. If `netns` no longer opens (or opens another namespace) the pod has ended, and is
//! dropped at once; if it still does, the pod lives on outside the mesh: its peers get 5 s to hear of that, then nothing
//! new is captured, and the rules go when the last captured connection has ended. So for a pod that ended, remove its
//! namespace first.
//!
//! ```json
//! { "uid": "0f3a…", "name": "cart-1", "namespace": "shop", "serviceAccount": "cart",
//!   "netns": "/run/isthmus/netns/cart-1", "ips": ["10.0.1.5", "fd00:1::5"], "hostInterface": "veth-cart-1",
//!   "labels": {"app": "cart"}, "annotations": {"ambient.istio.io/dns-capture": "false"}, "phase": "starting" }
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Larger files are refused: a pod's facts fit in a few hundred bytes, labels and annotations in some KiB.
pub const MAX_BYTES: u64 = 64 * 1024;

/// One pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// Kubernetes `metadata.uid`: what the daemon knows the pod by. Unique on the node.
    pub uid: String,
    pub name: String,
    pub namespace: String,
    #[serde(default = "default_account")]
    pub service_account: String,
    /// A path that opens the pod's network namespace (a bind mount, or `/proc/PID/ns/net`). Absolute.
    pub netns: PathBuf,
    /// The pod's own addresses, at least one; what the host table of probes names.
    pub ips: Vec<IpAddr>,
    /// The host's end of the pod's link. Packets from it that claim the probes' source address are dropped there;
    /// without it that check is made for routed packets only (not for those a bridge passes on).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_interface: Option<String>,
    /// `istio.io/dataplane-mode: none` keeps the pod out, or takes it out while it runs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The ones that matter are listed in `crate::pod`.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Decides the order of enrolment (design decision 13). Looked at when the pod is first seen, not afterwards.
    #[serde(default)]
    pub phase: Phase,
    #[serde(default)]
    pub host_network: bool,
}

/// Whether a process of the pod may already be talking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing of the pod runs yet: it is closed by a guard until the daemon has acknowledged it. Wait for
    /// `"state": "enabled"` in the status file, then start its processes.
    Starting,
    /// Connections may be open: they live on, only new ones are captured.
    #[default]
    Running,
}

fn default_account() -> String {
    "default".to_owned()
}

/// Reads one pod file's text. `path` only names it in errors and tells JSON from YAML.
///
/// # Errors
/// What is wrong, with file, line where the parser knows it, and field.
pub fn parse(path: &Path, text: &str) -> Result<Pod, String> {
    let json = path.extension().is_some_and(|e| e == "json");
    let pod: Pod = if json {
        serde_json::from_str(text).map_err(|e| format!("{}: {e}", path.display()))?
    } else {
        serde_saphyr::from_str(text).map_err(|e| format!("{}: {}", path.display(), first_line(&e.to_string())))?
    };
    pod.check().map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(pod)
}

/// The rest is a drawing of the place in the file.
fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line)
}

impl Pod {
    /// What the type cannot say. The lengths are Kubernetes' own; together they keep a ZDS packet under 1,024 bytes
    /// (spec/dataplane.md 3.1).
    fn check(&self) -> Result<(), String> {
        for (field, value, max) in [
            ("uid", &self.uid, 128),
            ("name", &self.name, 253),
            ("namespace", &self.namespace, 63),
            ("serviceAccount", &self.service_account, 253),
        ] {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if value.is_empty() || value.len() > max || !value.chars().all(plain) {
                return Err(format!("{field}: {value:?} must have 1 to {max} characters of a-z, A-Z, 0-9, '-', '.', '_'"));
            }
        }
        if self.ips.is_empty() {
            return Err("ips: a pod needs at least one address".to_owned());
        }
        if let Some(ip) = self.ips.iter().find(|ip| ip.is_unspecified() || ip.is_loopback() || ip.is_multicast()) {
            return Err(format!("ips: {ip} cannot be a pod's address"));
        }
        if !self.netns.is_absolute() {
            return Err(format!("netns: {} must be an absolute path", self.netns.display()));
        }
        match &self.host_interface {
            Some(name) if !interface_name(name) => Err(format!("hostInterface: {name:?} is not an interface name")),
            _ => Ok(()),
        }
    }
}

/// Whether this may name a Linux interface (at most 15 bytes) and can be put in a ruleset between quotes.
pub fn interface_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '@' | ':');
    (1..=15).contains(&name.len()) && name.chars().all(plain)
}

/// Whether the agent reads this file as a pod: not hidden, not one of its own status files, a known ending.
pub fn is_pod_file(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return false };
    let known = [".json", ".yaml", ".yml"].iter().any(|end| name.ends_with(end));
    known && !name.starts_with('.') && !name.ends_with(".status.json")
}

/// `cart-1.yaml` -> `cart-1.status.json`.
pub fn status_path(pod: &Path) -> PathBuf {
    let stem = pod.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    pod.with_file_name(format!("{stem}.status.json"))
}

#[cfg(test)]
mod tests;
