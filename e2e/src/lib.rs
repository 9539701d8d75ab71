//! One set of scenarios, three worlds: simulation, network namespaces, Kubernetes. Here: how the checks of one world run
//! one after the other, and are counted also when they cannot look; and what is made of what they saw (`clear.rs`).

pub mod clear;

use std::time::Instant;

/// What a check found: nothing to say, or why it could not look.
pub enum Outcome {
    Held,
    Skipped(String),
}

/// A named check of the world `W`.
pub struct Check<W> {
    pub name: &'static str,
    pub run: fn(&W) -> anyhow::Result<Outcome>,
    /// A fault of the product that is known and stands here until it is gone. Runs only when it is named in full.
    pub known: Option<&'static str>,
}

/// Checks that always can look.
#[macro_export]
macro_rules! checks {
    ($($(#[known = $known:literal])? $name:path),* $(,)?) => {
        vec![$($crate::Check {
            name: stringify!($name),
            run: |world| $name(world).map(|()| $crate::Outcome::Held),
            known: { let known: &[&'static str] = &[$($known)?]; known.first().copied() },
        }),*]
    };
}

#[derive(Default)]
pub struct Tally {
    pub ok: usize,
    pub skipped: usize,
    pub known: usize,
    pub failed: Vec<&'static str>,
}

/// Whether one of the words, which are parts of names, means this name. No words: all are meant.
pub fn is_wanted(name: &str, words: &[String]) -> bool {
    words.is_empty() || words.iter().any(|part| name.contains(part.as_str()))
}

/// Runs them in order and prints each. `stands`: whether the world is still there, to end when it is not; after `end` no
/// check begins.
pub fn run<W>(world: &W, checks: &[Check<W>], wanted: &[String], stands: impl Fn(&W) -> bool, end: Option<Instant>) -> Tally {
    let mut tally = Tally::default();
    for check in checks {
        if let Some(why) = check.known.filter(|_| !wanted.iter().any(|name| name == check.name)) {
            println!("{} ... known: {why}", check.name);
            tally.known += 1;
            continue;
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            println!("{} ... SKIPPED: no time is left", check.name);
            tally.skipped += 1;
            continue;
        }
        if !stands(world) {
            println!("{} ... FAILED: the mesh was stopped from outside", check.name);
            tally.failed.push(check.name);
            break;
        }
        let began = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (check.run)(world)));
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

impl Tally {
    /// The closing lines, and whether nothing failed.
    pub fn close(&self, seconds: f32) -> bool {
        println!("{} ok, {} FAILED, {} SKIPPED, {} known, in {seconds:.0} s", self.ok, self.failed.len(), self.skipped, self.known);
        if !self.failed.is_empty() {
            println!("FAILED: {}", self.failed.join(", "));
        }
        self.failed.is_empty()
    }
}
