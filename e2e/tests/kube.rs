//! The mesh on a real Kubernetes, from `helm install` to `helm uninstall`. `make e2e-kubernetes` brings the cluster up,
//! loads the images and sets what is asked for here; without that nothing is touched, whatever KUBECONFIG says.
//!
//! The checks build on each other and run in this order: the chart alone, install, pods, wire, policy, enrolment under
//! load, removal, the tutorial; then scenarios, of which each can be run by itself. Words after `--` are parts of names:
//! `make e2e-kubernetes ARGS="wire policy"`. ISTHMUS_E2E_SECONDS: after so many, no further check begins.
//! ISTHMUS_E2E_ROTATE: of the rooms of scenarios one a day, in turn.

mod kube {
    pub mod api;
    pub mod authority;
    pub mod chart;
    pub mod churn;
    pub mod cluster;
    pub mod crowd;
    pub mod enrolment;
    pub mod entries;
    pub mod inputs;
    pub mod install;
    pub mod kill;
    pub mod load;
    pub mod membership;
    pub mod mesh;
    pub mod policy;
    pub mod probes;
    pub mod recipes;
    pub mod rollouts;
    pub mod rules;
    pub mod size;
    pub mod stand;
    pub mod traffic;
    pub mod tutorial;
    pub mod upgrade;
    pub mod waypoint;
}

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kube::cluster::Cluster;
use kube::{
    authority, chart, churn, crowd, enrolment, entries, inputs, install, membership, policy, probes, recipes, rollouts, rules, stand, traffic, tutorial,
    upgrade, waypoint,
};

/// Leaves one room of the day.
fn take_turns(rooms: &mut [Vec<e2e::Check<Cluster>>], now: SystemTime) {
    let days = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / (24 * 3600));
    let turn = days as usize % rooms.len();
    for check in rooms.iter_mut().enumerate().filter(|(at, _)| *at != turn).flat_map(|(_, room)| room) {
        check.run = |_| Ok(e2e::Outcome::Skipped("another room of scenarios has its turn today (ISTHMUS_E2E_ROTATE)".into()));
    }
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    // Whoever has little time gets the whole way first, and of the scenarios what there is time for.
    let way = [
        chart::checks(),
        install::checks(),
        traffic::checks(),
        policy::checks(),
        enrolment::checks(),
        install::last_checks(),
        tutorial::checks(),
    ];
    let mut scenarios = [
        membership::checks(),
        rules::checks(),
        probes::checks(),
        entries::checks(),
        authority::checks(),
        inputs::checks(),
        churn::checks(),
        rollouts::checks(),
        crowd::checks(),
        upgrade::checks(),
        waypoint::checks(),
        recipes::checks(),
    ];
    if std::env::var_os("ISTHMUS_E2E_ROTATE").is_some() {
        take_turns(&mut scenarios, SystemTime::now());
    }
    let rooms = way.into_iter().chain(scenarios).chain([stand::last_checks()]);
    let mut checks: Vec<e2e::Check<Cluster>> = rooms.flatten().collect();
    checks.retain(|check| e2e::is_wanted(check.name, &wanted));
    if std::env::args().any(|argument| argument == "--list") {
        checks.iter().for_each(|check| println!("{}: test", check.name));
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("ISTHMUS_E2E_KUBERNETES").is_none() {
        println!("SKIPPED {} checks of the mesh on Kubernetes: `make e2e-kubernetes` runs them", checks.len());
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let cluster = match Cluster::of_the_environment() {
        Ok(cluster) => cluster,
        Err(error) => {
            println!("the cluster cannot be used: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let seconds = std::env::var("ISTHMUS_E2E_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = seconds.map(|seconds| began + Duration::from_secs(seconds));
    let tally = e2e::run(&cluster, &checks, &wanted, Cluster::answers, end);
    if tally.close(began.elapsed().as_secs_f32()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
