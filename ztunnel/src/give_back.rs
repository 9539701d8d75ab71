//! Memory of connections that have closed goes back to the kernel: every so often each thread that carries traffic gives
//! back what it does not use.
//!
//! Only a thread itself can do that, and nobody can hand a task to a certain worker. So there is a task for each worker,
//! which steps aside until all of them have been met.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use mesh_net::heap;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::sleep;

/// How often: four times in the minute in which memory is to be back, and seldom enough to cost nothing.
const EVERY: Duration = Duration::from_secs(15);
/// How often a task steps aside for a worker that was not met yet. Sleeping workers come to steal within a few; one that
/// carries a load for all this time has its turn in the next round.
const STEPS_MAX: usize = 1_000;

thread_local! {
    /// The last round in which this thread gave back.
    static DONE: Cell<u64> = const { Cell::new(0) };
}

/// Gives back until the runtime ends: the workers first, then the calling thread, which also returns what they let go of.
pub async fn run(workers: Handle) {
    for round in 1.. {
        sleep(EVERY).await;
        one_round(round, &workers).await;
        heap::give_back();
    }
}

/// How many of the workers have given back.
async fn one_round(round: u64, workers: &Handle) -> usize {
    let all = workers.metrics().num_workers();
    let met = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..all)
        .map(|_| {
            let met = met.clone();
            workers.spawn(async move {
                for _ in 0..STEPS_MAX {
                    if DONE.replace(round) != round {
                        heap::give_back();
                        met.fetch_add(1, Relaxed);
                    }
                    if met.load(Relaxed) == all {
                        break;
                    }
                    yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        let _ = task.await; // it ends early only with the runtime
    }
    met.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn each_worker_gives_back_once_in_a_round() {
        let mut round = 0;
        let mut met = 0;
        while met < 3 {
            round += 1;
            let now = one_round(round, &Handle::current()).await;
            assert!(now <= 3, "a worker was counted twice");
            met = now;
        }
    }
}
