//! Very many connections in turn: memory after them is what it was before. Minutes, so only on demand
//! (`--only turnover`).

use std::time::Duration;

use serde::Serialize;

use crate::load::Kind;
use crate::process::{self, Memory};
use crate::world::{Carrier, World};

/// Connections at one time.
const CLIENTS: u32 = 64;
/// Between two looks at memory.
const STRETCH: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, Serialize)]
pub struct Turnover {
    /// How many connections there had been, and the memory of both daemons then.
    pub seen: Vec<(u64, [Memory; 2])>,
    pub failed: u64,
}

pub fn measure(world: &World, connections: u64) -> anyhow::Result<Turnover> {
    let [near, far] = world.pids(Carrier::Ours);
    let look = || anyhow::Ok([process::memory(near)?, process::memory(far)?]);
    let mut turnover = Turnover { seen: vec![(0, look()?)], failed: 0 };
    let mut had = 0;
    while had < connections {
        let moved = Kind::Connections(CLIENTS).run(world, Carrier::Ours, STRETCH)?;
        had += moved.units as u64;
        turnover.failed += moved.failed;
        turnover.seen.push((had, look()?));
        eprintln!("{had} of {connections} connections");
    }
    Ok(turnover)
}
