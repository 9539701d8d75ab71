//! What a thousand changes a second to other workloads cost ten thousand idle connections: the workers that carry
//! connections are counted apart from the thread that takes in the changes.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::idle;
use crate::process;
use crate::world::{Carrier, World};

/// As many objects as one file of the folder is meant to hold; each second each of them changes.
const CHANGED: usize = 1_000;
const SECONDS: u32 = 10;
/// After connections were opened or files came: what they caused is over.
const SETTLE: Duration = Duration::from_secs(5);
const FILE: &str = "others.yaml";
/// The name of the threads of a daemon that carry connections.
const WORKERS: &str = "ztunnel-worker";

#[derive(Clone, Debug, Serialize)]
pub struct Changes {
    pub connections: usize,
    pub per_second: usize,
    /// Of both daemons, in thousandths of a second per second.
    pub quiet: Spent,
    pub changing: Spent,
    pub changing_without_connections: Spent,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spent {
    /// By the threads that carry connections.
    pub workers: f64,
    pub whole: f64,
}

pub fn measure(world: &World, connections: usize) -> anyhow::Result<Changes> {
    eprintln!("{CHANGED} changes per second, without connections");
    apply(world, 0)?;
    std::thread::park_timeout(SETTLE);
    let changing_without_connections = spent(world, |second| apply(world, second))?;
    eprintln!("{connections} idle connections, nothing changes");
    let held = idle::hold(world, Carrier::Ours, connections)?;
    std::thread::park_timeout(SETTLE);
    let quiet = spent(world, |_| Ok(()))?;
    eprintln!("{connections} idle connections, {CHANGED} changes per second");
    let changing = spent(world, |second| apply(world, second + SECONDS))?;
    drop(held);
    world.remove(FILE)?;
    Ok(Changes { connections, per_second: CHANGED, quiet, changing, changing_without_connections })
}

/// Processor time over the seconds in which `each` is called once a second.
fn spent(world: &World, mut each: impl FnMut(u32) -> anyhow::Result<()>) -> anyhow::Result<Spent> {
    let pids = world.pids(Carrier::Ours);
    let before = (process::cpu_of_threads(&pids, WORKERS)?, process::cpu(&pids)?);
    let began = Instant::now();
    for second in 1..=SECONDS {
        each(second)?;
        let next = began + Duration::from_secs(1) * second;
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
    }
    let per_second = |now: Duration, before: Duration| (now - before).as_secs_f64() * 1e3 / began.elapsed().as_secs_f64();
    Ok(Spent {
        workers: per_second(process::cpu_of_threads(&pids, WORKERS)?, before.0),
        whole: per_second(process::cpu(&pids)?, before.1),
    })
}

/// Workloads that nobody talks to, each with something new in it.
fn apply(world: &World, round: u32) -> anyhow::Result<()> {
    let mut yaml = String::new();
    for number in 0..CHANGED {
        let (high, low) = (number / 250, number % 250 + 1);
        writeln!(
            yaml,
            "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{namespace: bench, name: other-{number}, labels: {{app: other, version: v{round}}}}}\nspec: {{address: 10.250.{high}.{low}, serviceAccount: other}}"
        )?;
    }
    world.apply(FILE, &yaml)
}
