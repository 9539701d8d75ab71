//! The processes of the mesh's pods, where they are this machine's too: what they hold, and their end without being asked.

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
    // One that is dead already has none.
    if process && cluster.ours && kill_process(pod).is_ok() {
        return Ok(());
    }
    let name = text(&pod["metadata"]["name"]);
    cluster.kubectl(&["delete", "pod", "-n", SYSTEM, &name, "--grace-period=0", "--force", "--wait=false", "--ignore-not-found"]).map(drop)
}

/// SIGKILL to what runs in the pod's first container.
pub fn kill_process(pod: &Value) -> Result<()> {
    for process in processes(pod)? {
        // It may have ended by itself meanwhile.
        let _ = signal(Pid::from_raw(process), Signal::SIGKILL);
    }
    Ok(())
}

/// Bytes in memory of what runs there (proc(5): the second number of statm, in pages).
pub fn memory(pod: &Value) -> Result<u64> {
    const PAGE: u64 = 4096;
    let mut bytes = 0;
    for process in processes(pod)? {
        let statm = fs::read_to_string(format!("/proc/{process}/statm"))?;
        bytes += statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).context("statm")? * PAGE;
    }
    Ok(bytes)
}

/// The processes of a pod's first container in our own cluster, as this machine counts them.
fn processes(pod: &Value) -> Result<Vec<i32>> {
    let id = text(&pod["status"]["containerStatuses"][0]["containerID"]);
    let id = id.rsplit('/').next().filter(|id| !id.is_empty()).context("the pod has no container yet")?;
    let roots = ["", "pids", "memory"].map(|hierarchy| Path::new("/sys/fs/cgroup").join(hierarchy).join(own_name()));
    let found = roots.iter().find_map(|root| folder(root, id));
    let listed = found.and_then(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok()).unwrap_or_default();
    let processes: Vec<i32> = listed.lines().filter_map(|line| line.parse().ok()).collect();
    ensure!(!processes.is_empty(), "no process of container {id} was found in the cgroups of this machine");
    Ok(processes)
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
