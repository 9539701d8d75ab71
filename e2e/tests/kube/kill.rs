//! Programs of the mesh that end without being asked.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;
use serde_json::Value;

use super::cluster::{Cluster, own_name, text};
use super::mesh::SYSTEM;

/// Kills a pod of the mesh: its processes where they can be reached from here and `process` says so, else the pod itself,
/// without grace.
pub fn kill(cluster: &Cluster, pod: &Value, process: bool) -> Result<()> {
    if process && cluster.ours {
        return kill_process(pod);
    }
    let name = text(&pod["metadata"]["name"]);
    cluster.kubectl(&["delete", "pod", "-n", SYSTEM, &name, "--grace-period=0", "--force", "--wait=false", "--ignore-not-found"]).map(drop)
}

/// SIGKILL to what runs in the pod's first container.
pub fn kill_process(pod: &Value) -> Result<()> {
    let id = text(&pod["status"]["containerStatuses"][0]["containerID"]);
    let id = id.rsplit('/').next().filter(|id| !id.is_empty()).context("the pod has no container yet")?;
    let processes = processes(id);
    ensure!(!processes.is_empty(), "no process of container {id} was found in the cgroups of this machine");
    for process in processes {
        // It may have ended by itself meanwhile.
        let _ = signal(Pid::from_raw(process), Signal::SIGKILL);
    }
    Ok(())
}

/// The processes of a container of our own cluster, as this machine counts them.
fn processes(container: &str) -> Vec<i32> {
    let roots = ["", "pids", "memory"].map(|hierarchy| Path::new("/sys/fs/cgroup").join(hierarchy).join(own_name()));
    let found = roots.iter().find_map(|root| folder(root, container));
    let listed = found.and_then(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok()).unwrap_or_default();
    listed.lines().filter_map(|line| line.parse().ok()).collect()
}

fn folder(root: &Path, name: &str) -> Option<std::path::PathBuf> {
    let mut folders: Vec<_> = fs::read_dir(root).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    while let Some(folder) = folders.pop() {
        if folder.file_name().is_some_and(|file| file.to_string_lossy().contains(name)) {
            return Some(folder);
        }
        folders.extend(fs::read_dir(&folder).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    None
}
