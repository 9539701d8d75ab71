//! The program: flags to config, config to a running controller, a signal to its end. Or definitions, printed.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use istiod_lite::config::{Config, Instead};
use istiod_lite::{controller, crds};
use mesh_identity::SystemClock;
use mesh_runtime::signal::Signals;
use mesh_runtime::{Drain, Drained};
use mesh_telemetry::access_log::Format;
use mesh_telemetry::lines::{Lines, ROOM_BYTES, WhenFull};
use mesh_telemetry::log::log;

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    let done = match &config.instead {
        Some(Instead::Crds { output }) => print_crds(output.as_deref()),
        None => run(config).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("istiod-lite: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_crds(folder: Option<&Path>) -> anyhow::Result<()> {
    for definition in crds::definitions() {
        let text = crds::yaml(&definition)?;
        match folder.map(|folder| folder.join(crds::file_name(&definition))) {
            Some(path) => std::fs::write(&path, text).with_context(|| format!("{} cannot be written; does its folder exist?", path.display()))?,
            None => writeln!(std::io::stdout(), "---\n{}", text.trim_end())?,
        }
    }
    Ok(())
}

async fn run(config: Config) -> anyhow::Result<()> {
    let format = if config.log_as_json { Format::Json } else { Format::Text };
    // No user's byte passes here, so the log may wait for its reader.
    let lines = Lines::to(std::io::stdout(), ROOM_BYTES, WhenFull::Wait)?;
    let (log, subscriber) = log(lines, format, std::env::var("RUST_LOG").ok().as_deref())?;
    tracing::subscriber::set_global_default(subscriber)?;

    let mut signals = Signals::install()?;
    let drain = Drain::new();
    let deadline = config.shutdown_duration;
    let started = controller::start(config, Arc::new(SystemClock), &drain).await?;
    tracing::info!(grpc = %started.grpc, monitoring = %started.monitoring, http = %started.http, version = env!("CARGO_PKG_VERSION"), "istiod-lite listens");

    signals.next().await;
    tracing::info!("stopping");
    tokio::select! {
        drained = drain.shutdown(deadline) => if let Drained::Forced { left } = drained {
            tracing::warn!(left, "stopped before everything had ended");
        },
        _ = signals.next() => tracing::warn!("a second signal: stopping at once"),
    }
    log.lines().flush(Duration::from_secs(1));
    Ok(())
}
