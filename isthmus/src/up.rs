//! `isthmus up`: claims a name, builds, shows, and removes everything at the end, however the end comes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::cli;
use crate::folder::Folder;
use crate::lab::clean::{How, remove_all};
use crate::lab::keep::Lab;
use crate::lab::state::{PodPhase, State, base, private_folder};
use crate::lab::{machine, netns};
use crate::plan::Machine;
use crate::tour::{Pace, tour, wait_for_enter};
use crate::view::live::{Wish, live};
use crate::{sample, say};

/// The name of a mesh that was given none.
pub const DEFAULT_NAME: &str = "demo";
/// How often the keeper looks around: a changed file is noticed well within a second.
const ROUND: Duration = Duration::from_millis(100);
/// Something is said at least this often while the operator waits.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// A mesh on one machine that is not up after this will not come up.
const READY_WITHIN: Duration = Duration::from_secs(90);

pub async fn up(mesh: &Option<String>, options: cli::Up) -> anyhow::Result<ExitCode> {
    machine::provide_packages()?;
    machine::prepare_run()?;
    let mesh = mesh.as_deref().unwrap_or(DEFAULT_NAME);
    // Before anything is made: a folder that is not there needs no clearing up.
    let folder = options.folder.as_deref().map(Folder::new).transpose()?;
    let mut end = End::listen()?;
    let run = claim(mesh).await?;
    let outcome = tokio::select! {
        outcome = run_mesh(mesh, &run, folder, &options) => outcome,
        () = end.comes() => Ok(ExitCode::SUCCESS),
    };
    say::release();
    say::line("stopping ...");
    let removed = remove_all(mesh, &run, How::Gently).await?;
    say::line(&format!("everything is removed: {} processes, {} network namespaces", removed.processes, removed.namespaces));
    outcome
}

/// Takes the name: makes the run directory, which only one process can. What a crash left behind is removed first.
async fn claim(mesh: &str) -> anyhow::Result<PathBuf> {
    private_folder(&base())?;
    let run = base().join(mesh);
    if run.exists() {
        if let Some(state) = State::load(&run).ok().filter(|state| state.up.is_alive()) {
            bail!("mesh {mesh} already runs (process {}, folder {}); stop it with `isthmus down`, or start another with --name", state.up.pid, state.folder.display());
        }
        say::line(&format!("removing what an earlier mesh {mesh} left behind"));
    }
    if run.exists() || !netns::with_prefix(&format!("isthmus-{mesh}-")).is_empty() {
        remove_all(mesh, &run, How::AtOnce).await?;
        private_folder(&base())?;
    }
    private_folder(&run)?;
    for folder in ["logs", "pods", "nodes", "objects"] {
        private_folder(&run.join(folder))?;
    }
    Ok(run)
}

/// Builds, then keeps the mesh and shows it until the showing ends.
async fn run_mesh(mesh: &str, run: &Path, folder: Option<Folder>, options: &cli::Up) -> anyhow::Result<ExitCode> {
    let folder = match folder {
        Some(folder) => folder,
        None => {
            let folder = run.join("folder");
            private_folder(&folder)?;
            sample::write(&folder)?;
            Folder::new(&folder)?
        }
    };
    let machine = Machine { mesh: mesh.to_owned(), ipv6: machine::has_ipv6(), ids: machine::ids() };
    if let Some(left_out) = machine::left_out(machine.ids) {
        say::warning(left_out);
    }
    say::line("building two nodes and the wire between them ...");
    let mut lab = Lab::build(machine, folder, run, !options.no_mesh).await?;
    let shown = show(options.clone(), lab.watch());
    let kept = async {
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            round.tick().await;
            lab.tick().await?;
        }
    };
    tokio::select! {
        outcome = tokio::spawn(shown) => outcome.context("the view panicked")?,
        never = kept => never,
    }
}

async fn show(options: cli::Up, mut state: watch::Receiver<State>) -> anyhow::Result<ExitCode> {
    wait_until_ready(&mut state).await?;
    let now = state.borrow().clone();
    say::line(&format!(
        "mesh {} is up: {} nodes, {} pods. Put YAML into {} and watch it take effect.",
        now.mesh,
        now.nodes.len(),
        now.pods.len(),
        now.folder.display()
    ));
    if !now.meshed {
        return std::future::pending().await;
    }
    if options.once {
        return Ok(if tour(&now, Pace::ByItself).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    loop {
        match live(state.clone()).await? {
            Wish::Leave => return Ok(ExitCode::SUCCESS),
            Wish::Tour => {
                let now = state.borrow().clone();
                if let Err(error) = tour(&now, Pace::WaitForEnter).await {
                    say::error(&error);
                }
                wait_for_enter("Enter: back to the view").await?;
            }
        }
    }
}

/// Says what is waited for, and gives up when it will not come.
async fn wait_until_ready(state: &mut watch::Receiver<State>) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        match timeout(PROGRESS_EVERY, state.wait_for(|state| state.ready)).await.map(|waited| waited.is_ok()) {
            Ok(true) => return Ok(()),
            Ok(false) => bail!("the keeper ended"),
            Err(_) => {}
        }
        let missing = waiting_for(&state.borrow());
        if began.elapsed() > READY_WITHIN {
            bail!("after {} s this still does not run: {missing}; see `isthmus status` and the logs named there", READY_WITHIN.as_secs());
        }
        say::line(&format!("  {:>3} s: waiting for {missing}", began.elapsed().as_secs()));
    }
}

fn waiting_for(state: &State) -> String {
    let pods: Vec<String> = state.pods.iter().filter(|pod| pod.phase == PodPhase::Pending).map(|pod| format!("{} (mesh: {})", pod.name, pod.redirection)).collect();
    if pods.is_empty() { "the first pods".to_owned() } else { pods.join(", ") }
}

/// Ctrl-C, a closed terminal, or `isthmus down`.
struct End {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl End {
    fn listen() -> anyhow::Result<End> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(End { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())?, hangup: listen(SignalKind::hangup())? })
    }

    async fn comes(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
