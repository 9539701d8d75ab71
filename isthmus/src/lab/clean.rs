//! Removing a mesh: every process, namespace (with the interfaces and rules in it) and file. Works from the state file
//! and, beyond it, from the names that we give, so that it also finds what a crash left half made.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;

use crate::lab::process::{self, ProcessId};
use crate::lab::state::{State, base};
use crate::lab::{machine, netns};

/// How long programs have to end by themselves; ztunnel drains for at most 5 s (spec/dataplane.md 9.1).
const END_WITHIN: Duration = Duration::from_secs(6);
/// After SIGKILL only the kernel's own work is left.
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// What was there and is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub processes: usize,
    pub namespaces: usize,
}

/// Removes what the mesh `mesh` left, this process excepted.
pub async fn remove_all(mesh: &str, run: &Path, how: How) -> anyhow::Result<Removed> {
    let state = State::load(run).ok();
    let mut names: BTreeSet<String> = netns::with_prefix(&format!("isthmus-{mesh}-")).into_iter().collect();
    if let Some(state) = &state {
        names.extend(state.netns.iter().filter(|name| netns::exists(name)).cloned());
    }
    let is_left = |process: &ProcessId| process.is_alive() && Some(*process) != ProcessId::own();
    let programs: Vec<ProcessId> = state.iter().flat_map(|state| &state.programs).filter_map(|program| program.process).filter(is_left).collect();
    let mut all = programs.clone();
    all.extend(names.iter().flat_map(|name| netns::processes(name)).filter_map(ProcessId::of).filter(is_left));
    all.sort_by_key(|process| process.pid);
    all.dedup();
    if how == How::Gently {
        all.iter().for_each(|process| process.signal(Signal::SIGTERM));
        // The mesh's programs drain; pods are not waited for, their process 1 heeds no SIGTERM.
        wait(&programs, END_WITHIN).await;
    }
    kill(&all).await?;
    for name in &names {
        // A process that was just being started when the list was made.
        for pid in netns::processes(name) {
            process::signal(pid, Signal::SIGKILL);
        }
        netns::delete(name)?;
    }
    match fs::remove_dir_all(run) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(|| format!("cannot remove {}", run.display())),
        _ => {}
    }
    // The folder of all meshes goes with the last one; a normal user has one mesh, and it is this.
    if machine::is_inside() {
        let _ = fs::remove_file(machine::outer_file(&base()));
    }
    if let Some(base) = run.parent() {
        let _ = fs::remove_dir(base);
    }
    Ok(Removed { processes: all.len(), namespaces: names.len() })
}

/// Whether programs get time to end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Gently,
    AtOnce,
}

async fn kill(processes: &[ProcessId]) -> anyhow::Result<()> {
    processes.iter().for_each(|process| process.signal(Signal::SIGKILL));
    wait(processes, KILL_WITHIN).await;
    if let Some(stuck) = processes.iter().find(|process| process.is_alive()) {
        anyhow::bail!("process {} does not end, even when killed (see /proc/{}/stack); nothing more was removed", stuck.pid, stuck.pid);
    }
    Ok(())
}

async fn wait(processes: &[ProcessId], limit: Duration) {
    let _ = tokio::time::timeout(limit, async {
        for process in processes {
            process.gone_within(limit).await;
        }
    })
    .await;
}
