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
    pub mod rollouts;
    pub mod rules;
    pub mod size;
    pub mod stand;
    pub mod traffic;
    pub mod tutorial;
    pub mod upgrade;
}

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kube::cluster::Cluster;
use kube::{
    authority, chart, churn, crowd, enrolment, entries, inputs, install, membership, policy, probes, rollouts, rules, stand, traffic, tutorial,
    upgrade,
};

/// Held on the cluster once, not yet several times: run when they are named in full.
const HELD_ONCE: [&str; 10] = [
    "labels_say_who_is_in_the_mesh",
    "a_list_of_plugins_that_others_write_is_mended",
    "a_nodes_sockets_are_for_root_alone",
    "what_nobody_knows_is_reached_as_without_a_mesh",
    "service_entries_are_seen_by_whom_they_are_for",
    "a_daemons_metrics_are_read_through_a_tunnel",
    "a_node_gets_certificates_of_its_own_pods_only",
    "the_controllers_ports_tell_strangers_nothing",
    "certificates_of_a_short_life_are_renewed_under_load",
    "a_node_is_rebooted",
];

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
    ];
    if std::env::var_os("ISTHMUS_E2E_ROTATE").is_some() {
        take_turns(&mut scenarios, SystemTime::now());
    }
    let rooms = way.into_iter().chain(scenarios).chain([stand::last_checks()]);
    let mut checks: Vec<e2e::Check<Cluster>> = rooms.flatten().collect();
    for check in checks.iter_mut().filter(|check| HELD_ONCE.contains(&check.name)) {
        check.known = check.known.or(Some("it has held on the cluster once, and not yet several times"));
    }
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
