//! `isthmus check`: what has to hold on a cluster, one line each, with the command that repairs what does not. Exit status
//! 1 if something fails.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cli::{self, Format};
use crate::cluster::check::{Check, Outcome, after, all_hold, before};
use crate::cluster::client::Cluster;
use crate::cluster::gather;
use crate::report;
use crate::say::{self, BAD, GOOD, NOTE, STRONG};
use crate::site::connect;

/// Between two looks of `--wait`.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub async fn check(options: &cli::Check) -> anyhow::Result<ExitCode> {
    let cluster = connect(&options.at).await?;
    let until = options.wait.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let checks = loop {
        let checks = look(&cluster, options).await?;
        if all_hold(&checks) || until.is_none_or(|until| Instant::now() >= until) {
            break checks;
        }
        sleep(LOOK_EVERY).await;
    };
    match options.output {
        Format::Json => say::out(serde_json::to_string_pretty(&checks)?),
        Format::Table => show(&cluster.about, &checks),
    }
    Ok(if all_hold(&checks) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look(cluster: &Cluster, options: &cli::Check) -> anyhow::Result<Vec<Check>> {
    let facts = gather::gather(cluster).await?;
    if options.pre {
        return Ok(before(&facts, &gather::denied(cluster, &options.into).await?, &options.into));
    }
    let whole = report::cluster::report(&facts);
    let shown = match &options.at.namespace {
        Some(namespace) => whole.only(namespace),
        None => whole,
    };
    Ok(after(&facts, &shown))
}

fn show(about: &str, checks: &[Check]) {
    say::out(about);
    let mut category = "";
    for check in checks {
        if check.category != category {
            category = check.category;
            say::out(format!("\n{STRONG}{category}{STRONG:#}"));
        }
        let (style, sign, more) = match &check.outcome {
            Outcome::Holds => (GOOD, "√", None),
            Outcome::Warning { why, repair } => (NOTE, "‼", Some((why, repair))),
            Outcome::Fails { why, repair } => (BAD, "×", Some((why, repair))),
        };
        say::out(format!("{style}{sign}{style:#} {}", check.what));
        if let Some((why, repair)) = more {
            say::out(format!("    {why}"));
            repair.iter().for_each(|repair| say::out(format!("    {repair}")));
        }
    }
    let count = |wanted: fn(&Outcome) -> bool| checks.iter().filter(|check| wanted(&check.outcome)).count();
    let (failed, warned) = (count(|outcome| matches!(outcome, Outcome::Fails { .. })), count(|outcome| matches!(outcome, Outcome::Warning { .. })));
    say::out(match (failed, warned) {
        (0, 0) => format!("\n{GOOD}√{GOOD:#} all {} checks hold", checks.len()),
        (0, _) => format!("\n{GOOD}√{GOOD:#} nothing fails; {warned} of {} checks warn", checks.len()),
        _ => format!("\n{BAD}×{BAD:#} {failed} of {} checks fail", checks.len()),
    });
}
