//! From another build to this one and back, under load (G1). Which one is `ISTHMUS_TAG_BEFORE`: images of that tag have to
//! be where the cluster finds them.

use anyhow::Result;
use e2e::{Check, Outcome};

use super::cluster::Cluster;
use super::load::{Demand, Report, under_load};
use super::mesh::install;
use super::stand::{Stand, judge};

pub fn checks() -> Vec<Check<Cluster>> {
    vec![Check { name: "upgrades_and_rollbacks_lose_no_connection", run: upgrades_and_rollbacks_lose_no_connection, known: None }]
}

fn upgrades_and_rollbacks_lose_no_connection(cluster: &Cluster) -> Result<Outcome> {
    let Ok(before) = std::env::var("ISTHMUS_TAG_BEFORE") else {
        return Ok(Outcome::Skipped("ISTHMUS_TAG_BEFORE names no other build".into()));
    };
    let stand = Stand::up(cluster)?;
    let wire = stand.watch()?;
    if let Some(wire) = &wire {
        let pairs = stand.pairs()?;
        wire.look(|clear| clear.require(pairs));
    }
    let turns = || {
        for _ in 0..stand.size.upgrades {
            install(cluster, &[&format!("image.tag={before}")])?;
            install(cluster, &[])?;
        }
        Ok(())
    };
    let held = under_load(Demand::fresh(stand.size.rate / 2), stand.size.upgrade_requests, turns, Report::all_held);
    install(cluster, &[])?;
    held?;
    judge(&wire)?;
    stand.wait()?;
    Ok(Outcome::Held)
}
