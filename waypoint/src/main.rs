//! The environment becomes settings, the settings become a proxy; the rest is in the library.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use mesh_runtime::knobs;
use mesh_telemetry::lines::{Lines, ROOM_BYTES, WhenFull};
use waypoint::config::{Config, Told};
use waypoint::proxy;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // As in ztunnel: pages of 2 MiB would be held whole for a byte of each.
    let _ = nix::sys::prctl::set_thp_disable(true);
    // `proxy waypoint` is how charts of this family start the proxy; the words change nothing.
    if std::env::args().skip(1).any(|word| word == "--help" || word == "-h") {
        println!("waypoint: the L7 proxy of a namespace or service. It takes no flags; it is set by its environment:\n{}", knobs::help(&Config::knobs()));
        return ExitCode::SUCCESS;
    }
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("waypoint: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let is_file = |path: &Path| path.is_file();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let config = Config::parse(&Told { environment: &environment, is_file: &is_file, cores })?;

    let lines = Lines::to(std::io::stdout(), ROOM_BYTES, WhenFull::Drop)?;
    let (log, subscriber) = mesh_telemetry::log::log(lines.clone(), config.log.format, config.log.levels.as_deref())?;
    tracing::subscriber::set_global_default(subscriber)?;
    match mesh_net::rlimit::raise_nofile() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }

    let workers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers)
        .thread_name("waypoint-worker")
        .enable_all()
        .build()?;
    // Control has a thread of its own: a scrape or a large update never delays a byte.
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = control.block_on(proxy::run(config, log, workers.handle().clone()));
    workers.shutdown_background();
    lines.flush(Duration::from_secs(1));
    ended
}
