//! What operators see of the daemon, and how it ends.

use std::path::PathBuf;
use std::time::Duration;

use mesh_runtime::knobs::Knobs;
use mesh_telemetry::access_log::Format;

use super::mesh_file::MeshFile;
use super::{Log, Mode, OperatorPorts};

pub(super) fn operator_ports(knobs: &mut Knobs<'_>, mode: &Mode, file: &MeshFile) -> OperatorPorts {
    knobs.section("Operators");
    let socket: Option<PathBuf> = knobs.optional(
        "ADMIN_UDS",
        "`/var/run/ztunnel/admin.sock` in dedicated mode, else none",
        "A unix socket with the admin paths; in dedicated mode the only place for those that change something.",
    );
    let dedicated = matches!(mode, Mode::Dedicated { .. });
    OperatorPorts {
        admin: file.admin_port.unwrap_or(15000),
        admin_socket: socket.or_else(|| dedicated.then(|| "/var/run/ztunnel/admin.sock".into())),
        metrics: file.stats_port.unwrap_or(15020),
        readiness: 15021,
    }
}

pub(super) fn drain(knobs: &mut Knobs<'_>) -> Duration {
    knobs.section("End");
    let deadline: Option<Duration> = knobs.optional(
        "CONNECTION_TERMINATION_DEADLINE",
        "from TERMINATION_GRACE_PERIOD_SECONDS, else 5s",
        "How long open connections may go on after SIGTERM.",
    );
    let grace: Option<u64> = knobs.optional(
        "TERMINATION_GRACE_PERIOD_SECONDS",
        "–",
        "When the orchestrator will kill us; connections get 5 s less (1 s less if it is 10 or below).",
    );
    deadline.or(grace.map(after_grace)).unwrap_or(Duration::from_secs(5))
}

/// Some of the grace is left for our own end (spec/dataplane.md 9.1).
pub(super) fn after_grace(seconds: u64) -> Duration {
    Duration::from_secs(if seconds > 10 { seconds - 5 } else { seconds.saturating_sub(1).max(1) })
}

pub(super) fn log(knobs: &mut Knobs<'_>) -> (Log, mesh_telemetry::recorder::Limits) {
    knobs.section("Log and metrics");
    let levels: Option<String> = knobs.optional(
        "RUST_LOG",
        "info",
        "Levels, like `debug` or `access=debug,info`; changed while running by POST /logging.",
    );
    if let Some(Err(bad)) = levels.as_deref().map(|levels| mesh_telemetry::levels::Directives::standard().with(levels)) {
        knobs.refuse("RUST_LOG", format!("levels ({bad})"));
    }
    let format = knobs.choice(
        "LOG_FORMAT",
        &[("text", Format::Text), ("plain", Format::Text), ("json", Format::Json)],
        "How log lines look.",
    );
    knobs.declare("RUST_BACKTRACE", "0 \\| 1 \\| full".to_owned(), "0", "Whether a crash shows where it came from.");
    let limits = mesh_telemetry::recorder::Limits {
        series: knobs.within(
            "METRICS_SERIES_MAX",
            "20000",
            100..=10_000_000,
            "Series of metrics; what does not fit is counted together.",
        ),
        idle: knobs.value("METRICS_SERIES_IDLE", "10m", "How long a series stays that nobody uses and that does not move."),
    };
    (Log { levels, format }, limits)
}
