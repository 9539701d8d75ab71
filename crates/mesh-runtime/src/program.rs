//! How a program of the data plane begins: its `main`, and its threads.

use std::fmt::Display;
use std::future::Future;
use std::process::ExitCode;

use tokio::runtime::{Builder, Handle};

use crate::knobs::{self, Knob};

/// The whole of a `main`. There are no flags: `--help` shows the settings of the environment, and other words, with which
/// charts of this family start their programs, change nothing.
pub fn main<E: Display>(name: &str, is: &str, knobs: fn() -> Vec<Knob>, start: impl FnOnce() -> Result<(), E>) -> ExitCode {
    if std::env::args().skip(1).any(|word| word == "--help" || word == "-h") {
        println!("{name}: {is}. It takes no flags; it is set by its environment:\n{}", knobs::help(&knobs()));
        return ExitCode::SUCCESS;
    }
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{name}: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `control`, which is given the threads for traffic, on a thread of its own: a scrape or a large update never delays a
/// byte. When it has ended the threads are left to end by themselves.
///
/// # Errors
/// The threads cannot be had.
pub fn run<F: Future>(name: &str, workers: usize, control: impl FnOnce(Handle) -> F) -> std::io::Result<F::Output> {
    let traffic = Builder::new_multi_thread().worker_threads(workers).thread_name(format!("{name}-worker")).enable_all().build()?;
    let own = Builder::new_current_thread().enable_all().build()?;
    let ended = own.block_on(control(traffic.handle().clone()));
    traffic.shutdown_background();
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_has_other_threads_than_control() {
        let threads = run("test", 2, |traffic| async move {
            let worker = traffic.spawn(async { std::thread::current().name().map(str::to_owned) }).await;
            (worker.expect("it does not panic"), std::thread::current().name().map(str::to_owned))
        });
        let (worker, control) = threads.expect("threads");
        assert_eq!(worker.as_deref(), Some("test-worker"));
        assert_ne!(worker, control);
    }

    #[test]
    fn what_keeps_it_from_starting_is_its_end() {
        let ended = |start| format!("{:?}", main("p", "a test", Vec::new, || start));
        assert_eq!(ended(Ok(())), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(ended(Err("no")), format!("{:?}", ExitCode::FAILURE));
    }
}
