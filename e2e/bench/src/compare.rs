//! One load, carried by ours and by the chain in turns; medians over the rounds.

use std::time::Duration;

use serde::Serialize;

use crate::load::{Load, Moved};
use crate::process;
use crate::world::{Carrier, World};

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub load: &'static str,
    pub ours: Figures,
    pub chain: Figures,
    /// Median over the rounds of the two neighbours' ratio: what disturbs a round disturbs both.
    pub cpu_ratio: f64,
    pub cpu_target: Option<f64>,
    /// Ours minus the chain's, microseconds.
    pub added_latency: Option<f64>,
    pub latency_target: Option<f64>,
    pub cpu_unit: &'static str,
    pub rate_unit: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Processor time of both proxies for one unit of work.
    pub cpu: f64,
    /// The client's side of it.
    pub cpu_near: f64,
    pub rate: f64,
    /// Median latency, microseconds.
    pub median: Option<f64>,
    /// Failed requests, of all rounds together.
    pub failed: u64,
}

struct Round {
    near: f64,
    far: f64,
    moved: Moved,
}

pub fn compare(world: &World, load: &Load, rounds: usize, time: Duration) -> anyhow::Result<Row> {
    // The first connections find caches cold, and the first tunnel needs a handshake.
    for carrier in [Carrier::Ours, Carrier::Chain] {
        load.kind.run(world, carrier, Duration::from_secs(1))?;
    }
    let (mut ours, mut chain) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("{}: round {} of {rounds}", load.name, round + 1);
        ours.push(one(world, load, Carrier::Ours, time)?);
        chain.push(one(world, load, Carrier::Chain, time)?);
    }
    let ratios = ours.iter().zip(&chain).map(|(ours, chain)| ours.cpu() / chain.cpu());
    let (cpu_ratio, ours, chain) = (median(ratios), figures(load, &ours), figures(load, &chain));
    Ok(Row {
        load: load.name,
        added_latency: ours.median.zip(chain.median).map(|(ours, chain)| ours - chain),
        ours,
        chain,
        cpu_ratio,
        cpu_target: load.cpu_target,
        latency_target: load.latency_target,
        cpu_unit: load.kind.unit(),
        rate_unit: load.kind.rate_unit(),
    })
}

fn one(world: &World, load: &Load, carrier: Carrier, time: Duration) -> anyhow::Result<Round> {
    let [near, far] = world.pids(carrier);
    let before = [process::cpu(&[near])?, process::cpu(&[far])?];
    let moved = load.kind.run(world, carrier, time)?;
    let per_unit = |pid: i32, before: Duration| anyhow::Ok((process::cpu(&[pid])? - before).as_secs_f64() / moved.units);
    Ok(Round { near: per_unit(near, before[0])?, far: per_unit(far, before[1])?, moved })
}

impl Round {
    fn cpu(&self) -> f64 {
        self.near + self.far
    }
}

fn figures(load: &Load, rounds: &[Round]) -> Figures {
    let scale = load.kind.scale();
    let latencies: Vec<f64> = rounds.iter().filter_map(|round| round.moved.median).collect();
    Figures {
        cpu: median(rounds.iter().map(Round::cpu)) * scale,
        cpu_near: median(rounds.iter().map(|round| round.near)) * scale,
        rate: median(rounds.iter().map(|round| round.moved.rate)),
        median: (!latencies.is_empty()).then(|| median(latencies)),
        failed: rounds.iter().map(|round| round.moved.failed).sum(),
    }
}

/// The middle one; of an even number the mean of the two in the middle. Not a number for none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        for (values, want) in [(vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 2.0, 100.0], 3.0)] {
            assert_eq!(median(values), want);
        }
        assert!(median([]).is_nan());
    }
}
