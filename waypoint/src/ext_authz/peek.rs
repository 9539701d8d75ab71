//! The beginning of a request's body, for a service that wants to see it; and the whole body again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::body::{Body, BodyError};

/// How much of a body the service is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimit {
    pub max_bytes: usize,
    /// The first `max_bytes` of a longer body are shown; else such a request is refused (413).
    pub allow_partial: bool,
}

/// What the service is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub bytes: Bytes,
    /// There is more of it.
    pub partial: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum PeekError {
    #[error("the body is larger than the authorization service may be shown")]
    TooLarge,
    #[error("the body broke off: {0}")]
    Broken(BodyError),
}

/// Holds no more than `max_bytes` and one frame.
pub async fn peek(mut body: Body, limit: BodyLimit) -> Result<(Shown, Body), PeekError> {
    let lower = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if lower > limit.max_bytes && !limit.allow_partial {
        return Err(PeekError::TooLarge);
    }
    let mut first: VecDeque<Frame<Bytes>> = VecDeque::new();
    let mut held = 0;
    while held <= limit.max_bytes {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(PeekError::Broken)?;
        held += frame.data_ref().map_or(0, Bytes::len);
        first.push_back(frame);
    }
    let partial = held > limit.max_bytes;
    if partial && !limit.allow_partial {
        return Err(PeekError::TooLarge);
    }
    let mut shown = BytesMut::with_capacity(held.min(limit.max_bytes));
    for bytes in first.iter().filter_map(|frame| frame.data_ref()) {
        let room = limit.max_bytes - shown.len();
        shown.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    Ok((Shown { bytes: shown.freeze(), partial }, Body::boxed(Whole { first, rest: body })))
}

/// What was read already, then the rest.
struct Whole {
    first: VecDeque<Frame<Bytes>>,
    rest: Body,
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.first.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first: u64 = self.first.iter().filter_map(|frame| frame.data_ref()).map(|bytes| bytes.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(first));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(first));
        }
        hint
    }
}
