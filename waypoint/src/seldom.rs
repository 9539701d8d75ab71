//! A future that is polled only when something has woken it: for what hardly ever happens beside what happens all the
//! time. Without it each wake-up of a connection asks all that it waits for, and a cancellation token is asked under a
//! lock that all connections share.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

pub struct Seldom<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Bell>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future> Seldom<F> {
    pub fn new(future: F) -> Seldom<F> {
        // Nobody has asked it yet.
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Seldom { future: Box::pin(future), waker: Waker::from(bell.clone()), bell }
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // First where it will ring, then whether it has: what comes between the two is not missed.
        this.bell.task.register(cx.waker());
        if !this.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        this.future.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn it_is_asked_once_and_again_when_it_was_woken() {
        let asked = Cell::new(0);
        let token = CancellationToken::new();
        let mut cancelled = Box::pin(token.cancelled());
        let mut seldom = Seldom::new(std::future::poll_fn(|cx| {
            asked.set(asked.get() + 1);
            cancelled.as_mut().poll(cx)
        }));
        for _ in 0..3 {
            assert!(futures_util::poll!(&mut seldom).is_pending());
        }
        assert_eq!(asked.get(), 1);
        token.cancel();
        seldom.await;
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test]
    async fn who_sleeps_on_it_is_woken() {
        let token = CancellationToken::new();
        let waiting = tokio::spawn(Seldom::new(token.clone().cancelled_owned()));
        tokio::task::yield_now().await;
        token.cancel();
        waiting.await.unwrap();
    }
}
