//! The mesh on the real kernel: `isthmus up` on a folder of pods on two nodes, unmodified programs in them, and checks
//! that look only at what programs, sockets, the wire and the daemons' own pages show.
//!
//! One mesh serves all checks, one after the other; each prints its name and `ok`, `FAILED` or `SKIPPED`. Arguments are
//! parts of names to run: `cargo test -p e2e --test netns -- redis half_close`. Without root all are counted SKIPPED.

mod netns {
    pub mod app;
    pub mod attacks;
    pub mod enrolment;
    pub mod faults;
    pub mod lifecycle;
    pub mod mesh;
    pub mod peer;
    pub mod policy;
    pub mod programs;
}

use std::process::ExitCode;
use std::time::Instant;

use netns::mesh::Mesh;
use netns::{attacks, enrolment, faults, lifecycle, policy, programs};

/// What a check found: nothing to say, or why it could not look.
pub enum Outcome {
    Held,
    Skipped(String),
}

/// A named check.
pub struct Check {
    pub name: &'static str,
    pub run: fn(&Mesh) -> anyhow::Result<Outcome>,
    /// A fault of the product that is known and stands here until it is gone. Runs only when it is named in full.
    pub known: Option<&'static str>,
}

/// A check that always can look.
#[macro_export]
macro_rules! checks {
    ($($(#[known = $known:literal])? $name:path),* $(,)?) => {
        vec![$($crate::Check {
            name: stringify!($name),
            run: |mesh| $name(mesh).map(|()| $crate::Outcome::Held),
            known: { let known: &[&'static str] = &[$($known)?]; known.first().copied() },
        }),*]
    };
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut checks: Vec<Check> = [
        programs::checks(),
        policy::checks(),
        enrolment::checks(),
        attacks::checks(),
        lifecycle::checks(),
        faults::checks(),
    ]
        .into_iter()
        .flatten()
        .collect();
    checks.retain(|check| wanted.is_empty() || wanted.iter().any(|part| check.name.contains(part.as_str())));
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
    let tally = run(&mesh, &checks, &wanted);
    drop(mesh);
    println!(
        "{} ok, {} FAILED, {} SKIPPED, {} known, in {:.0} s",
        tally.ok,
        tally.failed.len(),
        tally.skipped,
        tally.known,
        began.elapsed().as_secs_f32()
    );
    if tally.failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("FAILED: {}", tally.failed.join(", "));
    ExitCode::FAILURE
}

#[derive(Default)]
struct Tally {
    ok: usize,
    skipped: usize,
    known: usize,
    failed: Vec<&'static str>,
}

fn run(mesh: &Mesh, checks: &[Check], wanted: &[String]) -> Tally {
    let mut tally = Tally::default();
    for check in checks {
        if let Some(why) = check.known.filter(|_| !wanted.iter().any(|name| name == check.name)) {
            println!("{} ... known: {why}", check.name);
            tally.known += 1;
            continue;
        }
        if !mesh.is_up() {
            println!("{} ... FAILED: the mesh was stopped from outside", check.name);
            tally.failed.push(check.name);
            break;
        }
        let began = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (check.run)(mesh)));
        let took = began.elapsed().as_secs_f32();
        match outcome {
            Ok(Ok(Outcome::Held)) => {
                println!("{} ... ok ({took:.1} s)", check.name);
                tally.ok += 1;
            }
            Ok(Ok(Outcome::Skipped(why))) => {
                println!("{} ... SKIPPED: {why}", check.name);
                tally.skipped += 1;
            }
            Ok(Err(error)) => {
                println!("{} ... FAILED ({took:.1} s): {error:#}", check.name);
                tally.failed.push(check.name);
            }
            Err(_) => {
                println!("{} ... FAILED ({took:.1} s): it panicked", check.name);
                tally.failed.push(check.name);
            }
        }
    }
    tally
}
