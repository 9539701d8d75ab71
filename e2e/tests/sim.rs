//! Many nodes in one thread: the daemons' own code with rustls and h2 in it, over a simulated network, with seeded
//! faults; after each run the laws are checked. A seed that breaks one is printed:
//! `MESH_SEED=… cargo test -p e2e --test sim seeded` plays it again.

mod sim {
    pub mod app;
    pub mod authority;
    mod late;
    pub mod mesh;
    pub mod run;
    mod scenarios;
}

use sim::mesh::Sabotage;
use sim::run;

/// How many seeds are played (`MESH_SEEDS`); CI plays a thousand.
fn seeds() -> Vec<u64> {
    if let Ok(seed) = std::env::var("MESH_SEED") {
        return vec![seed.parse().expect("MESH_SEED is a number")];
    }
    let count = std::env::var("MESH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    (1..=count).collect()
}

/// Laws 1 to 6 over random scenarios: policy flips, pod churn, held and reset links, a failing authority, jumping clocks.
#[test]
fn seeded() {
    let mut broken = Vec::new();
    let (mut calls, mut answered) = (0, 0);
    for seed in seeds() {
        let outcome = run::run(seed, Sabotage::Nothing);
        calls += outcome.calls;
        answered += outcome.answered;
        if !outcome.broken.is_empty() {
            eprintln!("seed {seed}: {}", outcome.broken.join("; "));
            broken.push(seed);
        }
        assert!(broken.len() < 10, "laws are broken; play one again with MESH_SEED={}", broken[0]);
    }
    println!("{calls} calls, {answered} answered");
    assert!(broken.is_empty(), "laws are broken; play one again with MESH_SEED={}", broken[0]);
    // A simulation in which nothing works would keep every law.
    assert!(answered * 3 > calls, "only {answered} of {calls} calls were answered");
}

/// A law that cannot be broken says nothing: each of these meshes is wrong on purpose, and the named law notices.
#[test]
fn the_laws_can_be_broken() {
    for (sabotage, law) in [(Sabotage::DeafNode, "law 4"), (Sabotage::NoCapture, "law 3"), (Sabotage::LostBytes, "law 2")] {
        let noticed = (1..=100).any(|seed| run::run(seed, sabotage).broken.iter().any(|broken| broken.starts_with(law)));
        assert!(noticed, "{sabotage:?} was not noticed by {law}");
    }
}
