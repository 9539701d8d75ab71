//! The environment becomes settings, the settings become a node; the rest is in the library.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use mesh_runtime::program;
use ztunnel::config::{Config, Told};
use ztunnel::{give_back, node};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for pages of 2 MiB, and touching one byte of one takes it whole: the daemon at rest would hold
    // 11 MB instead of 6, and connections that came and went would leave their pages behind (docs/decisions/speed.md).
    // A kernel that refuses costs memory only.
    let _ = nix::sys::prctl::set_thp_disable(true);
    program::main("ztunnel", "the node daemon of the mesh", Config::knobs, start)
}

fn start() -> anyhow::Result<()> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let read = |path: &Path| std::fs::read_to_string(path);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let config = Config::parse(&Told { environment: &environment, read: &read, cores })?;

    let log = mesh_telemetry::log::to_stdout(config.log.format, config.log.levels.as_deref())?;
    let lines = log.lines().clone();
    match mesh_net::rlimit::raise_nofile() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }

    let ended = program::run("ztunnel", config.workers, |workers| async move {
        tokio::spawn(give_back::run(workers.clone()));
        node::run(config, log, workers).await
    })?;
    lines.flush(Duration::from_secs(1));
    ended
}
