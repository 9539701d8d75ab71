//! Stopping: first everybody is asked to finish, later everybody is told to, and the caller learns which it was.
//!
//! ```text
//!   running ── shutdown() ──> soft: accept nothing new, send GOAWAY ── deadline ──> forced: let go of what is left
//! ```
//! A part (one pod of the node) is a `child`: it can be stopped alone, and stops with the whole.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long tasks may take to unwind once they were told to let go; a cut has to be over within a second (Z-228),
/// half of which is left for what runs after the drain.
const UNWIND: Duration = Duration::from_millis(500);

/// The two levels of stopping and the work that has to end before the process does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    soft: CancellationToken,
    forced: CancellationToken,
    /// What `forced` says, to be looked at without its lock.
    cut: Arc<Cut>,
    tracker: TaskTracker,
    whole: Option<Arc<Drain>>,
}

#[derive(Debug, Default)]
struct Cut {
    here: AtomicBool,
    whole: Option<Arc<Cut>>,
}

impl Cut {
    fn is_told(&self) -> bool {
        self.here.load(Ordering::Acquire) || self.whole.as_ref().is_some_and(|whole| whole.is_told())
    }
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a forced drain is worth a line in the log"]
pub enum Drained {
    /// All work ended by itself before the deadline.
    Clean,
    /// The deadline came first. `left` tasks did not even unwind when they were told to.
    Forced { left: usize },
}

/// Counts as work in progress until it is dropped.
#[derive(Debug)]
pub struct Busy {
    _own: TaskTrackerToken,
    _whole: Option<Box<Busy>>,
}

impl Drain {
    pub fn new() -> Drain {
        Drain {
            soft: CancellationToken::new(),
            forced: CancellationToken::new(),
            cut: Arc::default(),
            tracker: TaskTracker::new(),
            whole: None,
        }
    }

    /// A part of this whole: stops with it, can be stopped alone before, and the whole waits for its work.
    pub fn child(&self) -> Drain {
        Drain {
            soft: self.soft.child_token(),
            forced: self.forced.child_token(),
            cut: Arc::new(Cut { whole: Some(self.cut.clone()), ..Cut::default() }),
            tracker: TaskTracker::new(),
            whole: Some(Arc::new(self.clone())),
        }
    }

    /// Resolves when no new work should be taken on. A level: it stays resolved.
    pub fn soft(&self) -> WaitForCancellationFuture<'_> {
        self.soft.cancelled()
    }

    /// Resolves when work in progress has to be let go. A level: it stays resolved.
    ///
    /// Every connection polls this whenever it is woken. The token is asked only when there is news or somebody else is
    /// to be woken: asking takes a lock that all connections share.
    pub async fn forced(&self) {
        let mut told = pin!(self.forced.cancelled());
        let mut registered: Option<Waker> = None;
        poll_fn(|cx| {
            let is_registered = registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            if is_registered && !self.cut.is_told() {
                return Poll::Pending;
            }
            registered = Some(cx.waker().clone());
            told.as_mut().poll(cx)
        })
        .await;
    }

    pub fn is_soft(&self) -> bool {
        self.soft.is_cancelled()
    }

    pub fn is_forced(&self) -> bool {
        self.forced.is_cancelled()
    }

    /// The same levels as tokens, for a function that only needs to know when to stop.
    pub fn soft_token(&self) -> CancellationToken {
        self.soft.clone()
    }

    pub fn forced_token(&self) -> CancellationToken {
        self.forced.clone()
    }

    /// Counts as work in progress, in this part and in the whole, until the guard is dropped.
    pub fn busy(&self) -> Busy {
        Busy { _own: self.tracker.token(), _whole: self.whole.as_ref().map(|whole| Box::new(whole.busy())) }
    }

    /// How much work is in progress.
    pub fn in_progress(&self) -> usize {
        self.tracker.len()
    }

    /// Runs a task that shutdown waits for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let busy = self.busy();
        // `map` and no `async` block, which would hold the task twice: where it was caught and where it is awaited.
        tokio::spawn(task.map(move |output| {
            drop(busy);
            output
        }))
    }

    /// Asks for an end without waiting for it.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Asks everybody to finish, waits for `deadline`, then tells everybody to let go. A deadline of zero cuts at once.
    pub async fn shutdown(&self, deadline: Duration) -> Drained {
        self.soft.cancel();
        self.tracker.close();
        if !deadline.is_zero() && tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok() {
            self.force();
            return Drained::Clean;
        }
        if self.tracker.is_empty() {
            self.force();
            return Drained::Clean;
        }
        self.force();
        // Whoever is left after this is reported, not waited for: a stuck task must not hold the process.
        let _ = tokio::time::timeout(UNWIND, self.tracker.wait()).await;
        Drained::Forced { left: self.tracker.len() }
    }

    /// First what is looked at, then what wakes: whoever is woken sees it.
    fn force(&self) {
        self.cut.here.store(true, Ordering::Release);
        self.forced.cancel();
    }
}

impl Default for Drain {
    fn default() -> Drain {
        Drain::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Z-227
    #[tokio::test(start_paused = true)]
    async fn work_that_ends_in_time_is_not_cut() {
        let drain = Drain::new();
        let watch = drain.clone();
        let work = drain.spawn(async move {
            watch.soft().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            watch.is_forced()
        });
        assert_eq!(drain.shutdown(Duration::from_secs(5)).await, Drained::Clean);
        assert!(!work.await.unwrap(), "forced came although there was time");
        assert!(drain.is_forced(), "the levels stay up after the end");
    }

    // Z-228
    #[tokio::test(start_paused = true)]
    async fn work_that_does_not_end_is_cut_at_the_deadline() {
        let drain = Drain::new();
        let watch = drain.clone();
        let cut_after = drain.spawn(async move {
            let begun = tokio::time::Instant::now();
            watch.forced().await;
            begun.elapsed()
        });
        assert_eq!(drain.shutdown(Duration::from_secs(5)).await, Drained::Forced { left: 0 });
        assert_eq!(cut_after.await.unwrap().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_cut_is_counted_and_left_behind() {
        let drain = Drain::new();
        let _stuck = drain.spawn(std::future::pending::<()>());
        let begun = tokio::time::Instant::now();
        assert_eq!(drain.shutdown(Duration::ZERO).await, Drained::Forced { left: 1 });
        assert!(begun.elapsed() <= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_stops_alone_and_the_whole_waits_for_it() {
        let node = Drain::new();
        let (pod, other) = (node.child(), node.child());
        let watch = pod.clone();
        let _work = pod.spawn(async move { watch.soft().await });
        assert_eq!(node.in_progress(), 1);
        assert_eq!(pod.shutdown(Duration::from_secs(1)).await, Drained::Clean);
        assert_eq!((node.is_soft(), other.is_soft(), node.in_progress()), (false, false, 0));

        let watch = other.clone();
        let _work = other.spawn(async move { watch.forced().await });
        assert_eq!(node.shutdown(Duration::from_secs(1)).await, Drained::Forced { left: 0 });
        assert!(other.is_soft());
    }

    #[tokio::test]
    async fn whoever_polled_last_is_told() {
        use std::sync::atomic::AtomicUsize;
        use std::task::{Context, Wake};
        #[derive(Default)]
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let node = Drain::new();
        let pod = node.child();
        let mut forced = pin!(pod.forced());
        let (first, last) = (Arc::new(Count::default()), Arc::new(Count::default()));
        for count in [&first, &first, &last, &last] {
            let waker = Waker::from(count.clone());
            assert!(forced.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        let _ = node.shutdown(Duration::ZERO).await;
        assert_eq!((first.0.load(Ordering::Relaxed), last.0.load(Ordering::Relaxed)), (0, 1));
        let waker = Waker::from(last.clone());
        assert!(forced.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    }

    #[tokio::test]
    async fn nothing_to_do_is_a_clean_end_even_without_time() {
        assert_eq!(Drain::new().shutdown(Duration::ZERO).await, Drained::Clean);
    }
}
