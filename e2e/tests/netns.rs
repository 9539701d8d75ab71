//! The mesh on the real kernel: `isthmus up` on a folder of pods on two nodes, unmodified programs in them, and checks
//! that look only at what programs, sockets, the wire and the daemons' own pages show.
//!
//! One mesh serves all checks, one after the other; each prints its name and `ok`, `FAILED` or `SKIPPED`. Arguments are
//! parts of names to run: `cargo test -p e2e --test netns -- redis half_close`. Without root all are counted SKIPPED.

mod netns {
    pub mod annex;
    pub mod app;
    pub mod attacks;
    pub mod backends;
    pub mod enrolment;
    pub mod faults;
    pub mod gate;
    pub mod layer7;
    pub mod lifecycle;
    pub mod machine;
    pub mod mesh;
    pub mod own;
    pub mod peer;
    pub mod policy;
    pub mod programs;
    pub mod real;
    pub mod rolling;
    pub mod sandwich;
    pub mod start;
    pub mod streams;
    pub mod waypoint;
    pub mod web;
}

use std::process::ExitCode;
use std::time::Instant;

use netns::mesh::Mesh;
use netns::{attacks, backends, enrolment, faults, layer7, lifecycle, machine, own, policy, programs, real, rolling, sandwich, start, streams, waypoint};

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let rooms = [
        programs::checks(),
        policy::checks(),
        enrolment::checks(),
        attacks::checks(),
        waypoint::checks(),
        layer7::checks(),
        real::checks(),
        streams::checks(),
        backends::checks(),
        rolling::checks(),
        sandwich::checks(),
        own::checks(),
        machine::checks(),
        lifecycle::checks(),
        faults::checks(),
        start::checks(),
    ];
    let mut checks: Vec<e2e::Check<Mesh>> = rooms.into_iter().flatten().collect();
    checks.retain(|check| e2e::is_wanted(check.name, &wanted));
    if std::env::args().any(|argument| argument == "--list") {
        checks.iter().for_each(|check| println!("{}: test", check.name));
        return ExitCode::SUCCESS;
    }
    if checks.is_empty() {
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED {} checks of the mesh in network namespaces: they need root", checks.len());
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let mesh = match Mesh::up() {
        Ok(mesh) => mesh,
        Err(error) => {
            println!("the mesh does not come up: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    println!("mesh up in {:.1} s", began.elapsed().as_secs_f32());
    let tally = e2e::run(&mesh, &checks, &wanted, Mesh::is_up, None);
    drop(mesh);
    if tally.close(began.elapsed().as_secs_f32()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
