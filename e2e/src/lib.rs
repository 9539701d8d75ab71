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
    /// Names, and why, in one line each.
    pub failed: Vec<(&'static str, String)>,
}

/// `ISTHMUS_E2E_SIZE=full`: the sizes that are promised; otherwise smaller ones, for which there is always time.
pub fn is_full() -> bool {
    std::env::var("ISTHMUS_E2E_SIZE").is_ok_and(|size| size == "full")
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
            tally.fail(check.name, "", "the mesh was stopped from outside");
            break;
        }
        let began = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (check.run)(world)));
        let took = format!(" ({:.1} s)", began.elapsed().as_secs_f32());
        match outcome {
            Ok(Ok(Outcome::Held)) => {
                println!("{} ... ok{took}", check.name);
                tally.ok += 1;
            }
            Ok(Ok(Outcome::Skipped(why))) => {
                println!("{} ... SKIPPED: {why}", check.name);
                tally.skipped += 1;
            }
            Ok(Err(error)) => tally.fail(check.name, &took, &format!("{error:#}")),
            Err(panic) => tally.fail(check.name, &took, &format!("it panicked: {}", words_of(panic.as_ref()))),
        }
    }
    tally
}

/// What a panic was raised with.
fn words_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}

impl Tally {
    fn fail(&mut self, name: &'static str, took: &str, why: &str) {
        // One line: it is printed again at the end, and looked for there.
        let why = why.trim().replace('\n', " | ");
        println!("{name} ... FAILED{took}: {why}");
        self.failed.push((name, why));
    }

    /// The closing lines, with the reason of each failure, and whether nothing failed.
    pub fn close(&self, seconds: f32) -> bool {
        println!("{} ok, {} FAILED, {} SKIPPED, {} known, in {seconds:.0} s", self.ok, self.failed.len(), self.skipped, self.known);
        // Where the reasons were first printed is far above by now.
        self.failed.iter().for_each(|(name, why)| println!("FAILED: {name}: {why}"));
        self.failed.is_empty()
    }
}
