//! Each parser of bytes that a peer sends, as a function of bytes with something that must hold (spec/reliability.md 7.5).
//!
//! `targets` has the functions, `engine` makes up inputs and tells what broke, `inputs/` keeps what to begin with and what
//! broke once. A target is `fn(&[u8])`, so any other engine can call it too:
//! `fuzz_target!(|bytes: &[u8]| fuzz::target("dns_message").expect("it exists").run(bytes))`.
//!
//! Not here: what only an operator can write (settings), and what a run of several programs shows (`e2e/tests`).

pub mod engine;
pub mod input;
pub mod targets;

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};

/// One parser and what must hold for it.
pub struct Target {
    pub name: &'static str,
    pub check: fn(&[u8]),
    /// Inputs to begin with, beside those in `inputs/NAME`.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What the format is made of; put into inputs as it is.
    pub words: &'static [&'static str],
}

impl Target {
    /// Panics when what must hold does not.
    pub fn run(&self, bytes: &[u8]) {
        (self.check)(bytes);
    }
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    targets::ALL.iter().find(|target| target.name == name)
}

thread_local! {
    static SEEN: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Tells the engine what an input led to: one that leads somewhere new is kept and mutated further. It takes the place
/// of coverage counters, which need a compiler of their own.
pub fn saw(what: impl Hash) {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    SEEN.with_borrow_mut(|seen| seen.push(hasher.finish()));
}

/// As `saw` for a text from an error: its numbers and quotations are not news.
pub fn saw_text(what: &str) {
    let mut quoted = false;
    let plain = |c: &char| {
        quoted ^= *c == '"';
        !quoted && !c.is_ascii_digit()
    };
    saw(what.chars().filter(plain).take(200).collect::<String>());
}

/// What was told since the last time.
fn seen() -> Vec<u64> {
    SEEN.with_borrow_mut(std::mem::take)
}
