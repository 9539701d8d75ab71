//! Stopping a mesh, or removing what is left of one that crashed.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;

use crate::lab::clean::{How, remove_all};
use crate::lab::state::{State, base, names};
use crate::lab::machine::{inner_process, outer_file, outer_process};
use crate::lab::{netns, process};
use crate::say;

/// A running `up` removes everything itself; this is how long it may take.
const UP_ENDS_WITHIN: Duration = Duration::from_secs(20);

pub async fn down(mesh: &Option<String>) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        return own_down().await;
    }
    let meshes = match mesh {
        Some(name) => meshes_left().into_iter().filter(|left| left == name).collect(),
        None => meshes_left(),
    };
    if meshes.is_empty() {
        say::line(&format!("no mesh{} runs here", mesh.as_ref().map(|name| format!(" called {name}")).unwrap_or_default()));
    }
    if meshes.len() > 1 {
        bail!("several meshes run here; say which with --name: {}", meshes.join(", "));
    }
    for mesh in meshes {
        stop(&mesh).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A normal user's mesh lives in namespaces that end with their first process.
async fn own_down() -> anyhow::Result<ExitCode> {
    let (base, outer_file) = (base(), outer_file(&base()));
    if let Some(outer) = outer_process(&outer_file).filter(|outer| outer.is_alive()) {
        say::line("stopping your mesh ...");
        if let Some(inner) = inner_process(outer) {
            process::signal(inner, Signal::SIGTERM);
        }
        if !outer.gone_within(UP_ENDS_WITHIN).await {
            outer.signal(Signal::SIGKILL);
            outer.gone_within(UP_ENDS_WITHIN).await;
        }
    }
    match std::fs::remove_dir_all(&base) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(|| format!("cannot remove {}", base.display())),
        _ => {
            say::line("no mesh of yours is left");
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn stop(mesh: &str) -> anyhow::Result<()> {
    let run = base().join(mesh);
    let up = State::load(&run).ok().map(|state| state.up);
    if let Some(up) = up.filter(|up| up.is_alive()) {
        say::line(&format!("stopping mesh {mesh} ..."));
        up.signal(Signal::SIGTERM);
        if up.gone_within(UP_ENDS_WITHIN).await && !run.exists() {
            say::line(&format!("mesh {mesh} is gone"));
            return Ok(());
        }
        up.signal(Signal::SIGKILL);
    }
    let removed = remove_all(mesh, &run, How::Gently).await?;
    say::line(&format!("removed what was left of mesh {mesh}: {} processes, {} network namespaces", removed.processes, removed.namespaces));
    Ok(())
}

/// Meshes with a run directory, and those of which only namespaces are left.
fn meshes_left() -> Vec<String> {
    let mut found = names();
    let namespaces = netns::with_prefix("isthmus-");
    found.extend(namespaces.iter().filter_map(|name| Some(name.strip_prefix("isthmus-")?.strip_suffix("-wire")?.to_owned())));
    found.sort();
    found.dedup();
    found
}
