//! The body of an answer without a length of its own. It may last for days: gRPC, events, logs. So it is judged again when its
//! policies change, as what became a stream of bytes is.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};

use super::Again;
use crate::body::{Body, BodyError};
use crate::error::Reason;

/// Frames after which an answer lasts that never had to be waited for.
const FRAMES: u8 = 16;

pub struct Lasting {
    body: Body,
    frames: u8,
    /// Until it is known to last: most answers are over before, and nobody watches for them.
    again: Option<Box<Again>>,
    lost: Option<BoxFuture<'static, Reason>>,
}

/// Policy does not allow it any more.
#[derive(Debug)]
pub struct Lost(Reason);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy has changed: {}", self.0.words().details)
    }
}

impl std::error::Error for Lost {}

impl Lasting {
    pub fn new(body: Body, again: Again) -> Lasting {
        Lasting { body, frames: 0, again: Some(Box::new(again)), lost: None }
    }
}

/// Why a body broke.
pub fn reason(error: &BodyError) -> Reason {
    match error.downcast_ref::<Lost>() {
        Some(Lost(reason)) => reason.clone(),
        None => Reason::UpstreamBroke(error.to_string().into()),
    }
}

impl http_body::Body for Lasting {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(lost) = &mut this.lost
            && let Poll::Ready(reason) = lost.as_mut().poll(cx)
        {
            (this.body, this.lost) = (Body::Empty, None);
            return Poll::Ready(Some(Err(Box::new(Lost(reason)))));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        this.frames = this.frames.saturating_add(1);
        if (polled.is_pending() || this.frames >= FRAMES)
            && let Some(again) = this.again.take()
        {
            this.lost = Some(Box::pin(again.lost()));
            // It has to be polled once to be woken.
            cx.waker().wake_by_ref();
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

/// Whether an answer has no length of its own.
pub fn lasts(body: &Body) -> bool {
    !body.is_end_stream() && body.size_hint().exact().is_none()
}
