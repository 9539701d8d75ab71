//! Makes up inputs: takes one that it has, changes it in a few places, runs the target, and keeps what led somewhere new
//! (`crate::saw`). All chance comes from a seed, so the same seed with the same inputs to begin with makes the same
//! inputs in the same order.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::{Target, seen};

/// Inputs grow no longer: each parser has its own bound on what it reads, and a short input is tried sooner.
const BYTES_MAX: usize = 8 << 10;
/// Inputs kept at a time; then a new one takes the place of an old one.
const KEPT_MAX: usize = 2048;
/// No input may take longer. A thousand times what the slowest target takes, since other programs run too.
const SLOWEST: Duration = Duration::from_secs(10);

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    Time(Duration),
    Executions(u64),
}

/// What a campaign came to.
#[derive(Debug)]
pub struct Outcome {
    pub executions: u64,
    /// Inputs that led somewhere new.
    pub kept: usize,
    pub took: Duration,
    pub failure: Option<Failure>,
}

/// An input for which something does not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    pub input: Vec<u8>,
    pub why: String,
}

/// The input that is being run, for whoever watches for one that never ends.
pub type Running = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

/// Runs a target on its seeds, on what is kept for it, and on what can be made of them.
pub fn campaign(target: &Target, seed: u64, budget: Budget, running: &Running) -> Outcome {
    let began = Instant::now();
    let mut rng = SmallRng::seed_from_u64(seed ^ digest(target.name.as_bytes()));
    let (mut known, mut corpus, mut executions) = (HashSet::new(), Vec::new(), 0);
    let mut beginnings = (target.seeds)();
    beginnings.extend(kept_inputs(target.name).into_iter().map(|(_, bytes)| bytes));
    beginnings.push(Vec::new());
    let mut queue = beginnings.into_iter();
    loop {
        let over = match budget {
            Budget::Time(limit) => executions % 16 == 0 && began.elapsed() >= limit,
            Budget::Executions(limit) => executions >= limit,
        };
        let (input, given) = match queue.next() {
            Some(input) => (input, true),
            None if over => return Outcome { executions, kept: corpus.len(), took: began.elapsed(), failure: None },
            None => (mutated(&mut rng, &corpus, target.words), false),
        };
        executions += 1;
        *running.lock() = Some((Instant::now(), input.clone()));
        let ended = run(target, &input);
        *running.lock() = None;
        if let Err(failure) = ended {
            return Outcome { executions, kept: corpus.len(), took: began.elapsed(), failure: Some(failure) };
        }
        let news = seen().into_iter().filter(|feature| known.insert(*feature)).count();
        if news > 0 || given {
            if corpus.len() < KEPT_MAX {
                corpus.push(input);
            } else {
                let old = rng.random_range(0..corpus.len());
                corpus[old] = input;
            }
        }
    }
}

/// One run.
///
/// # Errors
/// The panic's words, or that it took too long.
pub fn run(target: &Target, input: &[u8]) -> Result<(), Failure> {
    quietly();
    let failure = |why: String| Failure { input: input.to_vec(), why };
    let began = Instant::now();
    LAST_WORDS.set(Some(String::new()));
    // A panic in a task of a runtime ends the task and not the run; it is told all the same.
    let ended = catch_unwind(AssertUnwindSafe(|| target.run(input)));
    let told = LAST_WORDS.take().unwrap_or_default();
    if ended.is_err() || !told.is_empty() {
        return Err(failure(told));
    }
    if began.elapsed() > SLOWEST {
        return Err(failure(format!("it took {:?}", began.elapsed())));
    }
    Ok(())
}

thread_local! {
    /// While a target runs: what a panic on this thread said, and where.
    static LAST_WORDS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of targets are told as failures, not as they come.
fn quietly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let in_target = LAST_WORDS.with_borrow_mut(|last| match last {
                Some(last) if last.is_empty() => {
                    *last = info.to_string();
                    true
                }
                Some(_) => true,
                None => false,
            });
            if !in_target {
                usual(info);
            }
        }));
    });
}

/// A place to show what is running; the process ends, and says with which input, when it does not move on.
pub fn watched() -> Running {
    let running = Running::default();
    let looked_at = Arc::downgrade(&running);
    std::thread::spawn(move || {
        while let Some(running) = looked_at.upgrade() {
            if let Some((since, input)) = &*running.lock()
                && since.elapsed() > SLOWEST * 3
            {
                eprintln!("an input of {} bytes does not end: {}", input.len(), input.escape_ascii());
                std::process::exit(1);
            }
            drop(running);
            std::thread::park_timeout(Duration::from_secs(1));
        }
    });
    running
}

/// Where inputs of a target lie: those to begin with that cannot be written in code, and every one that broke something.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("inputs").join(name)
}

/// What lies there.
pub fn kept_inputs(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder(name)).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.filter_map(|entry| Some((entry.path(), fs::read(entry.path()).ok()?))).collect();
    found.sort();
    found
}

/// The same on every machine and in every version (FNV-1a).
pub fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A new input of one that there is.
fn mutated(rng: &mut SmallRng, corpus: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut input = corpus.choose(rng).cloned().unwrap_or_default();
    for _ in 0..1 << rng.random_range(0..4) {
        change(rng, &mut input, corpus, words);
    }
    input.truncate(BYTES_MAX);
    input
}

/// Numbers at which parsers change their minds.
const EDGES: [u64; 12] = [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x3fff, 0x4000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX];

fn change(rng: &mut SmallRng, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
    let at = rng.random_range(0..=input.len());
    let length = rng.random_range(0..=(input.len() - at).min(64));
    match rng.random_range(0..10) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 if at < input.len() => input[at] = input[at].wrapping_add(rng.random_range(0..9)).wrapping_sub(4),
        3 => drop(input.drain(at..at + length)),
        4 => {
            let copy = input[at..at + length].to_vec();
            let to = rng.random_range(0..=input.len());
            input.splice(to..to, copy);
        }
        5 => {
            let bytes: Vec<u8> = (0..rng.random_range(1..9)).map(|_| rng.random()).collect();
            input.splice(at..at, bytes);
        }
        6 => {
            // An edge, in one of the widths, in either order, over what is there or before it.
            let width = [1, 2, 4, 8][rng.random_range(0..4)];
            let edge = EDGES[rng.random_range(0..EDGES.len())].wrapping_add(rng.random_range(0..3)).wrapping_sub(1);
            let mut bytes = edge.to_be_bytes()[8 - width..].to_vec();
            if rng.random() {
                bytes.reverse();
            }
            let end = if rng.random() { (at + width).min(input.len()) } else { at };
            input.splice(at..end, bytes);
        }
        7 if !words.is_empty() => {
            let word = words.choose(rng).copied().unwrap_or_default();
            let end = if rng.random() { (at + word.len()).min(input.len()) } else { at };
            input.splice(at..end, word.bytes());
        }
        8 => {
            let Some(other) = corpus.choose(rng).filter(|other| !other.is_empty()) else { return };
            let from = rng.random_range(0..other.len());
            let to = rng.random_range(from..=other.len());
            input.splice(at..at + length, other[from..to].iter().copied());
        }
        // Much of the same.
        _ => {
            let byte = input.get(at).copied().unwrap_or_else(|| rng.random());
            let times = 1 << rng.random_range(0..10);
            input.splice(at..at, std::iter::repeat_n(byte, times));
        }
    }
    input.truncate(BYTES_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks on a number that only guidance finds: each right byte is news.
    fn guarded(bytes: &[u8]) {
        let right = bytes.iter().zip(b"\x05mesh").take_while(|(byte, wanted)| byte == wanted).count();
        crate::saw(right);
        assert!(right < 5, "found");
    }

    const GUARDED: Target = Target { name: "guarded", check: guarded, seeds: Vec::new, words: &[] };

    #[test]
    fn what_is_guarded_by_several_bytes_is_found_and_the_same_seed_finds_the_same() {
        let find = || campaign(&GUARDED, 7, Budget::Executions(3_000_000), &Running::default());
        let (first, second) = (find(), find());
        let failure = first.failure.expect("an engine that finds nothing finds no fault either");
        assert!(failure.why.contains("found") && failure.input.starts_with(b"\x05mesh"), "{failure:?}");
        assert_eq!(failure.input, second.failure.expect("the same again").input);
        assert_eq!(first.executions, second.executions);
        assert!(run(&GUARDED, &failure.input).is_err(), "the input alone shows it");
    }

    #[test]
    fn a_panic_in_a_task_is_a_failure_too() {
        fn in_a_task(_: &[u8]) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let _ = runtime.block_on(async { tokio::spawn(async { panic!("in a task") }).await });
        }
        let target = Target { name: "task", check: in_a_task, seeds: Vec::new, words: &[] };
        assert!(run(&target, b"").expect_err("it panicked").why.contains("in a task"));
    }
}
