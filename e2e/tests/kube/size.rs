//! How much each scenario does: little where time is short, all of it where figures are wanted.

use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Changes of a namespace's label under load, each way; requests meanwhile.
    pub turns: usize,
    pub turns_requests: u64,
    /// Pods that start while programs of the mesh are killed.
    pub starting: usize,
    /// New connections per second while daemons are replaced; how often they are.
    pub rate: u32,
    pub rollouts: usize,
    /// For how long there is no controller.
    pub without_controller: Duration,
    /// Life of certificates, and for how long they are used.
    pub short_life: Duration,
    pub short_lives_for: Duration,
    /// Policies whose way to both nodes is timed.
    pub timed_policies: usize,
    /// Within which 99 of 100 are in force; a busy machine is given more.
    pub in_force_within: Duration,
    /// Connections that are held at a time through one pod's tunnels.
    pub tunnels: u32,
    /// Addresses that a pod tries one after the other.
    pub addresses: u32,
    /// Installs of the other build and of this one, in turn; requests in all.
    pub upgrades: usize,
    pub upgrade_requests: u64,
}

impl Size {
    const SMALL: Size = Size {
        turns: 5,
        turns_requests: 5_000,
        starting: 24,
        rate: 200,
        rollouts: 1,
        without_controller: Duration::from_secs(30),
        short_life: Duration::from_secs(30),
        short_lives_for: Duration::from_secs(75),
        timed_policies: 20,
        in_force_within: Duration::from_millis(500),
        tunnels: 2_000,
        addresses: 2_000,
        upgrades: 1,
        upgrade_requests: 10_000,
    };

    /// The figures that are promised.
    const FULL: Size = Size {
        turns: 20,
        turns_requests: 20_000,
        starting: 200,
        rate: 500,
        rollouts: 3,
        without_controller: Duration::from_secs(600),
        short_life: Duration::from_secs(120),
        short_lives_for: Duration::from_secs(600),
        timed_policies: 200,
        in_force_within: Duration::from_millis(100),
        tunnels: 10_000,
        addresses: 50_000,
        upgrades: 3,
        upgrade_requests: 30_000,
    };

    /// `ISTHMUS_E2E_SIZE=full`, or the small one.
    pub fn of_the_environment() -> Size {
        if e2e::is_full() { Size::FULL } else { Size::SMALL }
    }
}
