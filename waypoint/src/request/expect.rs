//! `Expect: 100-continue`, end to end: the client is asked for its body only when the endpoint wants it
//! (spec/waypoint.md 1.7). hyper asks a client the first time that the body is read, so the body is not read before.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::StatusCode;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::body::{Body, BodyError};

/// An endpoint that says neither yes nor no for so long is one that does not know the header: the body is sent.
const GRACE: Duration = Duration::from_secs(1);

const WAITS: u8 = 0;
const OPEN: u8 = 1;
const SHUT: u8 = 2;

/// Whether the body is wanted.
#[derive(Clone, Default)]
pub struct Expectation {
    inner: Arc<Inner>,
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

    /// The body, which begins when it is wanted.
    pub fn gate(&self, body: Body) -> Body {
        Body::boxed(Gate { body, inner: self.inner.clone(), grace: None })
    }
}

struct Gate {
    body: Body,
    inner: Arc<Inner>,
    grace: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Gate {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        this.inner.waker.register(cx.waker());
        match this.inner.state.load(Ordering::Acquire) {
            OPEN => {}
            SHUT => return Poll::Pending,
            _ => {
                ready!(this.grace.get_or_insert_with(|| Box::pin(sleep(GRACE))).as_mut().poll(cx));
                let _ = this.inner.state.compare_exchange(WAITS, OPEN, Ordering::AcqRel, Ordering::Acquire);
            }
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
