//! An answer on its way to the client: its body is counted and timed, and when it has ended the account is closed.
//!
//! A client that does not take what is offered has its body polled by nobody, so time is not kept in the body. An answer
//! with limits that is not over at once is put under a lock that it shares with a task, `watch`, which ends it when it is
//! late, whoever waits for whom.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Entered, lasting};
use crate::account::{Account, Tap};
use crate::body::{Body, BodyError};
use crate::choose::{Active, Failure, Outcome};
use crate::error::Reason;
use crate::reply;

/// The body of an answer. Dropped before its end, the client has gone: dropping what it holds takes the request back.
#[derive(Default)]
pub struct Answer {
    state: State,
    limits: Limits,
    alone: Option<Alone>,
}

/// A connection that carries one answer at a time.
pub trait Carrier: Send + Sync {
    /// The answer is over, one way or another.
    fn done(&self);
}

struct Alone {
    on: Arc<dyn Carrier>,
    cut: CancellationToken,
}

enum State {
    Unwatched(Open),
    Watched {
        open: Arc<Mutex<Open>>,
        _watch: Watch,
    },
}

/// An answer that is not over.
#[derive(Default)]
struct Open {
    body: Body,
    end: Option<Box<End>>,
    /// When there was something last.
    moved: Option<Instant>,
    waiting: Option<Waker>,
    late: Option<Reason>,
}

/// The task that looks at the clock; it ends with the answer.
struct Watch {
    task: AbortHandle,
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of the whole request: what is not there by then will not come.
    pub deadline: Option<Instant>,
    /// A stream may be silent, or not be taken, for so long.
    pub idle: Option<Duration>,
}

/// What has to be told when the answer has ended.
pub struct End {
    pub account: Account,
    pub tap: Tap,
    /// The endpoint that answered.
    pub asked: Option<Asked>,
    /// Its place among what is in flight.
    pub _entered: Option<Entered>,
}

/// An endpoint that has begun to answer.
pub struct Asked {
    pub active: Active,
    /// Its outcome has been told.
    pub judged: bool,
    pub status: u16,
    pub grpc: Option<u16>,
    pub took: Duration,
}

impl Answer {
    pub fn new(body: Body, end: End, limits: Limits) -> Answer {
        let mut open = Open { body, end: Some(Box::new(end)), ..Open::default() };
        // Nobody asks for the frames of an empty body.
        if open.body.is_end_stream() {
            open.finish();
        }
        Answer { state: State::Unwatched(open), limits, alone: None }
    }

    /// In HTTP/1.1: who is told of its end, and what ends the whole connection, which is all that can be done about a client
    /// that does not read.
    pub fn alone(mut self, on: Arc<dyn Carrier>, cut: CancellationToken) -> Answer {
        self.alone = Some(Alone { on, cut });
        self
    }

    fn watch(&mut self) {
        let State::Unwatched(open) = &mut self.state else { return };
        if self.limits == Limits::default() || open.end.is_none() {
            return;
        }
        let shared = Arc::new(Mutex::new(std::mem::take(open)));
        let watching = tokio::spawn(watch(Arc::downgrade(&shared), self.limits, self.alone.as_ref().map(|alone| alone.cut.clone())));
        self.state = State::Watched { open: shared, _watch: Watch { task: watching.abort_handle() } };
    }
}

/// Ends the answer when it is late.
async fn watch(answer: Weak<Mutex<Open>>, limits: Limits, cut: Option<CancellationToken>) {
    let began = Instant::now();
    loop {
        let moved = match answer.upgrade() {
            Some(open) => open.lock().moved.unwrap_or(began),
            None => return,
        };
        let idle = limits.idle.map(|idle| moved + idle);
        let Some(next) = limits.deadline.into_iter().chain(idle).min() else { return };
        sleep_until(next).await;
        let Some(open) = answer.upgrade() else { return };
        let mut open = open.lock();
        let reason = match limits.deadline {
            Some(deadline) if deadline <= Instant::now() => Reason::RequestTimeout,
            _ if open.moved.unwrap_or(began) > moved => continue,
            _ => Reason::StreamIdle,
        };
        if open.end.is_some() {
            open.broken(&reason);
            open.late = Some(reason);
            if let Some(waiting) = open.waiting.take() {
                waiting.wake();
            }
            if let Some(cut) = &cut {
                cut.cancel();
            }
        }
        return;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.on.done();
    }
}

impl Default for State {
    fn default() -> State {
        State::Unwatched(Open::default())
    }
}

impl Open {
    fn finish(&mut self) {
        if let Some(end) = self.end.take() {
            let End { account, asked, .. } = *end;
            if let Some(Asked { mut active, status, grpc, took, .. }) = asked.filter(|asked| !asked.judged) {
                active.saw(Outcome::Answered { status, grpc, took }, std::time::Instant::now());
            }
            account.close();
        }
    }

    fn broken(&mut self, reason: &Reason) {
        self.body = Body::Empty;
        if let Some(end) = self.end.take() {
            let End { mut account, asked, .. } = *end;
            if let Some(Asked { mut active, .. }) = asked.filter(|asked| !asked.judged) {
                active.saw(Outcome::Failed(Failure::Reset), std::time::Instant::now());
            }
            account.because(reason);
            account.close();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(late) = self.late.take() {
            return Poll::Ready(Some(Err(late.words().details.into())));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending => self.waiting = Some(cx.waker().clone()),
            Poll::Ready(None) => self.finish(),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(end) = &mut self.end {
                    end.saw(frame);
                }
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.finish();
                }
            }
            Poll::Ready(Some(Err(error))) => self.broken(&lasting::reason(error)),
        }
        polled
    }
}

/// For answers that nobody keeps an account of.
impl From<Body> for Answer {
    fn from(body: Body) -> Answer {
        Answer { state: State::Unwatched(Open { body, ..Open::default() }), ..Answer::default() }
    }
}

impl End {
    fn saw(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.tap.data(data);
        } else if let Some(trailers) = frame.trailers_ref() {
            self.tap.trailers(trailers);
            if let Some(asked) = &mut self.asked {
                asked.grpc = reply::grpc_status(trailers).or(asked.grpc);
            }
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match &mut this.state {
            State::Unwatched(open) => {
                let polled = open.poll(cx);
                this.watch();
                polled
            }
            State::Watched { open, .. } => {
                let mut open = open.lock();
                let polled = open.poll(cx);
                if polled.is_ready() {
                    open.moved = Some(Instant::now());
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Unwatched(open) => open.body.is_end_stream(),
            State::Watched { open, .. } => {
                let open = open.lock();
                open.late.is_none() && open.body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Unwatched(open) => open.body.size_hint(),
            State::Watched { open, .. } => open.lock().body.size_hint(),
        }
    }
}
