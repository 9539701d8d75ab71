//! `make bench`: the mesh and a chain of two plain HAProxy carry the same load between the same two pods, turn by turn;
//! printed are both and their ratio.
//!
//! ```text
//! client -> ztunnel (node-1) == HBONE, mutual TLS ==> ztunnel (node-2) -> nginx, iperf3
//! client -> haproxy (client) ------- plain TCP -----> haproxy (server) -> the same nginx, iperf3
//! ```
//! Processor time is counted for the proxies alone; each figure is the median of short rounds in which the two alternate.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::report::Report;
use crate::world::World;

mod beside;
mod chain;
mod change;
mod compare;
mod grpc;
mod idle;
mod load;
mod plot;
mod process;
mod report;
mod resolving;
mod turnover;
mod way;
mod world;

/// Speed and memory of the mesh beside a chain of two plain HAProxy.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    /// Rounds per load; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load in each round.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Connections held idle in the mesh.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// New connections in turn for the long run (`--only turnover`).
    #[arg(long, default_value_t = 1_000_000)]
    turnover: u64,
    /// Where to draw the ratios as a PNG (needs gnuplot).
    #[arg(long)]
    png: Option<std::path::PathBuf>,
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// Measure nothing, and be the gRPC server of the loads at this port.
    #[arg(long, hide = true)]
    serve_grpc: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Bulk,
    Requests,
    Connections,
    Idle,
    Changes,
    Resolve,
    /// The waypoint's HTTP engine beside Envoy and HAProxy.
    Http,
    /// Client, node daemon, waypoint, node daemon, server.
    Way,
    /// A million connections in turn: minutes, so only when asked for.
    Turnover,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(port) = cli.serve_grpc {
        let Err(why) = grpc::serve(port) else { return ExitCode::SUCCESS };
        eprintln!("bench: {why:#}");
        return ExitCode::FAILURE;
    }
    match run(&cli) {
        Ok(report) => {
            match cli.output {
                Output::Table => println!("{report}"),
                Output::Json => println!("{}", report.json()),
            }
            if let Some(why) = cli.png.as_deref().and_then(|png| plot::png(&report, png).err()) {
                eprintln!("no plot: {why:#}");
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("bench: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Report> {
    let wants = |part: Part| if cli.only.is_empty() { part != Part::Turnover } else { cli.only.contains(&part) };
    let mut report = Report::default();
    if wants(Part::Resolve) {
        report.resolve = Some(resolving::measure()?);
    }
    if wants(Part::Http) {
        report.beside = Some(beside::measure(cli.rounds, Duration::from_secs(cli.seconds))?);
    }
    if !cli.only.is_empty() && cli.only.iter().all(|part| matches!(part, Part::Resolve | Part::Http)) {
        return Ok(report);
    }
    process::raise_descriptors()?;
    let world = World::up()?;
    report.at_rest = Some(world.at_rest()?);
    let each = Duration::from_secs(cli.seconds);
    for load in load::ALL.iter().filter(|load| wants(load.part)) {
        report.rows.push(compare::compare(&world, load, cli.rounds, each)?);
    }
    if wants(Part::Way) {
        report.way = Some(way::measure(&world, cli.rounds, each)?);
    }
    if wants(Part::Idle) {
        report.idle = idle::measure(&world, cli.idle)?;
    }
    if wants(Part::Changes) {
        report.changes = Some(change::measure(&world, cli.idle)?);
    }
    if wants(Part::Turnover) {
        report.turnover = Some(turnover::measure(&world, cli.turnover)?);
    }
    Ok(report)
}
