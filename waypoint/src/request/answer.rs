//! An answer on its way to the client: its body is counted and timed, and when it has ended the account is closed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{Entered, lasting};
use crate::account::{Account, Tap};
use crate::body::{Body, BodyError};
use crate::choose::{Active, Failure, Outcome};
use crate::error::Reason;
use crate::reply;

/// The body of an answer. Dropped before its end, the client has gone: dropping what it holds takes the request back.
#[derive(Default)]
pub struct Answer {
    body: Body,
    end: Option<Box<End>>,
}

/// What has to be told when the answer has ended.
pub struct End {
    pub account: Account,
    pub tap: Tap,
    /// The endpoint that answered.
    pub asked: Option<Asked>,
    /// Of the whole request: what is not there by then will not come.
    pub deadline: Option<Pin<Box<Sleep>>>,
    pub idle: Option<Idle>,
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

/// A stream may be silent for so long.
pub struct Idle {
    pub after: Duration,
    pub timer: Pin<Box<Sleep>>,
}

impl Idle {
    pub fn new(after: Duration) -> Idle {
        Idle { after, timer: Box::pin(sleep(after)) }
    }
}

impl Answer {
    pub fn new(body: Body, end: End) -> Answer {
        let mut answer = Answer { body, end: Some(Box::new(end)) };
        // Nobody asks for the frames of an empty body.
        if answer.body.is_end_stream() {
            answer.finish();
        }
        answer
    }

    fn finish(&mut self) {
        if let Some(end) = self.end.take() {
            let End { account, asked, .. } = *end;
            if let Some(Asked { mut active, status, grpc, took, .. }) = asked.filter(|asked| !asked.judged) {
                active.saw(Outcome::Answered { status, grpc, took }, Instant::now());
            }
            account.close();
        }
    }

    fn broken(&mut self, reason: &Reason) {
        self.body = Body::Empty;
        if let Some(end) = self.end.take() {
            let End { mut account, asked, .. } = *end;
            if let Some(Asked { mut active, .. }) = asked.filter(|asked| !asked.judged) {
                active.saw(Outcome::Failed(Failure::Reset), Instant::now());
            }
            account.because(reason);
            account.close();
        }
    }
}

/// For answers that nobody keeps an account of.
impl From<Body> for Answer {
    fn from(body: Body) -> Answer {
        Answer { body, end: None }
    }
}

impl End {
    /// Whether the time is over, of the request or of its silence.
    fn is_late(&mut self, cx: &mut Context<'_>) -> Option<Reason> {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Some(Reason::RequestTimeout);
        }
        if self.idle.as_mut().is_some_and(|idle| idle.timer.as_mut().poll(cx).is_ready()) {
            return Some(Reason::StreamIdle);
        }
        None
    }

    fn saw(&mut self, frame: &Frame<Bytes>) {
        if let Some(idle) = &mut self.idle {
            idle.timer.as_mut().reset(tokio::time::Instant::now() + idle.after);
        }
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
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Pending => {
                if let Some(late) = this.end.as_mut().and_then(|end| end.is_late(cx)) {
                    this.broken(&late);
                    return Poll::Ready(Some(Err(late.words().details.into())));
                }
            }
            Poll::Ready(None) => this.finish(),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(end) = &mut this.end {
                    end.saw(frame);
                }
                if frame.is_trailers() || this.body.is_end_stream() {
                    this.finish();
                }
            }
            Poll::Ready(Some(Err(error))) => this.broken(&lasting::reason(error)),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
