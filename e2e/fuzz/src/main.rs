//! `fuzz`: runs the targets, each for a while, as many at a time as there are processors. `make fuzz` calls it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use fuzz::engine::{self, Budget, Failure, Outcome};
use fuzz::{Target, targets};
use parking_lot::Mutex;

/// Makes up bytes and feeds them to each parser of bytes that a peer sends.
#[derive(Parser)]
struct Cli {
    /// Parts of the names of targets; all of them when none is given.
    names: Vec<String>,
    /// For each target.
    #[arg(long, default_value_t = 10)]
    seconds_each: u64,
    /// Chance begins here; printed, so that a run can be had again.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs the one named target on this file and nothing else.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Only the names.
    #[arg(long)]
    list: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let wanted = |target: &&Target| cli.names.is_empty() || cli.names.iter().any(|name| target.name.contains(name.as_str()));
    let chosen: VecDeque<&Target> = targets::ALL.iter().filter(wanted).collect();
    anyhow::ensure!(!chosen.is_empty(), "no target is called like {:?}; `fuzz --list` names them", cli.names);
    if cli.list {
        chosen.iter().for_each(|target| println!("{}", target.name));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &cli.input {
        return replay(chosen[0], path);
    }
    let seed = cli.seed.unwrap_or_else(rand::random);
    println!("seed {seed}, {} targets, {} s each", chosen.len(), cli.seconds_each);
    let failed = Mutex::new(Vec::new());
    let queue = Mutex::new(chosen);
    let next = || queue.lock().pop_front();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let running = engine::watched();
                while let Some(target) = next() {
                    let outcome = engine::campaign(target, seed, Budget::Time(Duration::from_secs(cli.seconds_each)), &running);
                    println!("{}", report(target, &outcome));
                    if let Some(failure) = outcome.failure {
                        failed.lock().push((target.name, failure));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    for (name, failure) in &failed {
        println!("\n{name}: {}\n  seed {seed}\n  {}", failure.why, kept(name, failure)?);
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn replay(target: &Target, path: &PathBuf) -> anyhow::Result<ExitCode> {
    let input = std::fs::read(path).with_context(|| path.display().to_string())?;
    match engine::run(target, &input) {
        Ok(()) => {
            println!("{}: everything holds for {}", target.name, path.display());
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            println!("{}: {}", target.name, failure.why);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn report(target: &Target, outcome: &Outcome) -> String {
    let per_second = outcome.executions as f64 / outcome.took.as_secs_f64().max(0.001);
    let ended = if outcome.failure.is_some() { "FAILED" } else { "ok" };
    format!("{:24} {ended:6} {:>9} runs {per_second:>8.0}/s {:>5} kept", target.name, outcome.executions, outcome.kept)
}

/// Writes a failing input to where the tests find it from now on.
fn kept(name: &str, failure: &Failure) -> anyhow::Result<String> {
    let folder = engine::folder(name);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("found-{:016x}", engine::digest(&failure.input)));
    std::fs::write(&path, &failure.input)?;
    Ok(format!("its {} bytes are in {}; give the file a name that says what it is", failure.input.len(), path.display()))
}
