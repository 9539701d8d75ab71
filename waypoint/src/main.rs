//! The environment becomes settings, the settings become a proxy; the rest is in the library.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use mesh_runtime::program;
use waypoint::config::{Config, Told};
use waypoint::proxy;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // As in ztunnel: pages of 2 MiB would be held whole for a byte of each.
    let _ = nix::sys::prctl::set_thp_disable(true);
    program::main("waypoint", "the L7 proxy of a namespace or service", Config::knobs, start)
}

fn start() -> anyhow::Result<()> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let is_file = |path: &Path| path.is_file();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let config = Config::parse(&Told { environment: &environment, is_file: &is_file, cores })?;

    let log = mesh_telemetry::log::to_stdout(config.log.format, config.log.levels.as_deref())?;
    let lines = log.lines().clone();
    match mesh_net::rlimit::raise_nofile() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }

    let ended = program::run("waypoint", config.workers, |workers| proxy::run(config, log, workers))?;
    lines.flush(Duration::from_secs(1));
    ended
}
