//! The environment becomes settings, the settings become a node; the rest is in the library.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use mesh_runtime::knobs;
use mesh_telemetry::lines::{Lines, ROOM_BYTES, WhenFull};
use ztunnel::config::{Config, Told};
use ztunnel::{give_back, node};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for pages of 2 MiB, and touching one byte of one takes it whole: the daemon at rest would hold
    // 11 MB instead of 6, and connections that came and went would leave their pages behind (docs/decisions/speed.md).
    // A kernel that refuses costs memory only.
    let _ = nix::sys::prctl::set_thp_disable(true);
    // `proxy ztunnel` is how charts of this family start the daemon; the words change nothing.
    if std::env::args().skip(1).any(|word| word == "--help" || word == "-h") {
        println!("ztunnel: the node daemon of the mesh. It takes no flags; it is set by its environment:\n{}", knobs::help(&Config::knobs()));
        return ExitCode::SUCCESS;
    }
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("ztunnel: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let read = |path: &Path| std::fs::read_to_string(path);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let config = Config::parse(&Told { environment: &environment, read: &read, cores })?;

    let lines = Lines::to(std::io::stdout(), ROOM_BYTES, WhenFull::Drop)?;
    let (log, subscriber) = mesh_telemetry::log::log(lines.clone(), config.log.format, config.log.levels.as_deref())?;
    tracing::subscriber::set_global_default(subscriber)?;
    match mesh_net::rlimit::raise_nofile() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }

    let workers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers)
        .thread_name("ztunnel-worker")
        .enable_all()
        .build()?;
    // Control has a thread of its own: a scrape or a large update never delays a byte.
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    control.spawn(give_back::run(workers.handle().clone()));
    let ended = control.block_on(node::run(config, log, workers.handle().clone()));
    workers.shutdown_background();
    lines.flush(Duration::from_secs(1));
    ended
}
