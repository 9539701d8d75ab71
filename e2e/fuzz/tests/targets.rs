//! Every target for a moment, in each run of the tests; and everything that is kept in `inputs/`. `make fuzz` goes on for
//! longer. `FUZZ_SEED` plays a run again, `FUZZ_SECONDS` makes it longer.

use std::thread;
use std::time::Duration;

use fuzz::engine::{self, Budget};
use fuzz::targets;
use parking_lot::Mutex;

/// A second each: long enough for each input to begin with and some thousands made of them.
const SECONDS: f64 = 1.0;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn what_is_kept_holds() {
    for target in targets::ALL {
        let kept = engine::kept_inputs(target.name);
        for (path, input) in &kept {
            if let Err(failure) = engine::run(target, input) {
                panic!("{}: {}", path.display(), failure.why);
            }
        }
    }
}

// spec/reliability.md 7.5
#[test]
fn every_target_holds_for_a_moment() {
    let seed = setting("FUZZ_SEED").unwrap_or_else(rand::random);
    let limit = Duration::from_secs_f64(setting("FUZZ_SECONDS").unwrap_or(SECONDS));
    println!("FUZZ_SEED={seed}");
    let (next, failed) = (Mutex::new(targets::ALL.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let running = engine::watched();
                loop {
                    let Some(target) = next.lock().next() else { return };
                    let outcome = engine::campaign(target, seed, Budget::Time(limit), &running);
                    println!("{:20} {:>8} runs, {} kept", target.name, outcome.executions, outcome.kept);
                    if let Some(failure) = outcome.failure {
                        let input = failure.input.escape_ascii().to_string();
                        failed.lock().push(format!("{}: {}\n  input: {input}", target.name, failure.why));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(failed.is_empty(), "FUZZ_SEED={seed}\n{}", failed.join("\n"));
}

#[test]
fn targets_have_names_of_their_own_and_something_to_begin_with() {
    let mut names: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
    assert!(names.len() >= 20);
    for target in targets::ALL {
        assert!(!(target.seeds)().is_empty() || !engine::kept_inputs(target.name).is_empty(), "{} begins with nothing", target.name);
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), targets::ALL.len());
    // Each folder of inputs belongs to a target.
    let folder = engine::folder("");
    for entry in std::fs::read_dir(folder).expect("there are inputs").flatten() {
        assert!(fuzz::target(&entry.file_name().to_string_lossy()).is_some(), "{} is nobody's", entry.path().display());
    }
}
