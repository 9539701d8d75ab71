//! `Expect: 100-continue`, end to end: the client is asked for its body only when the endpoint wants it
//! (spec/waypoint.md 1.7). hyper asks a client the first time that the body is read, so the body is not read before.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http::StatusCode;
use tokio::time::{Sleep, sleep};

/// An endpoint that says neither yes nor no for so long is one that does not know the header: the body is sent.
const GRACE: Duration = Duration::from_secs(1);

const WAITS: u8 = 0;
const OPEN: u8 = 1;
const SHUT: u8 = 2;

/// Whether the body is wanted.
#[derive(Default)]
pub struct Expectation {
    inner: Arc<Inner>,
    grace: Option<Pin<Box<Sleep>>>,
}

#[derive(Default)]
struct Inner {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Expectation {
    /// The endpoint said `100 Continue`.
    pub fn wanted(&self) {
        let _ = self.inner.state.compare_exchange(WAITS, OPEN, Ordering::AcqRel, Ordering::Acquire);
        self.inner.waker.wake();
    }

    /// The endpoint has answered already. Where it refused, nobody needs the body.
    pub fn answered(&self, status: StatusCode) {
        match status.is_success() {
            true => self.wanted(),
            false => {
                let _ = self.inner.state.compare_exchange(WAITS, SHUT, Ordering::AcqRel, Ordering::Acquire);
            }
        }
    }

    /// Ready when the body is to be read; for whoever reads it.
    pub fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.waker.register(cx.waker());
        match self.inner.state.load(Ordering::Acquire) {
            OPEN => Poll::Ready(()),
            SHUT => Poll::Pending,
            _ => {
                ready!(self.grace.get_or_insert_with(|| Box::pin(sleep(GRACE))).as_mut().poll(cx));
                let _ = self.inner.state.compare_exchange(WAITS, OPEN, Ordering::AcqRel, Ordering::Acquire);
                Poll::Ready(())
            }
        }
    }
}

/// What asks the endpoint's side shares with the body.
impl Clone for Expectation {
    fn clone(&self) -> Expectation {
        Expectation { inner: self.inner.clone(), grace: None }
    }
}
