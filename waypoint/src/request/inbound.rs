//! The body of a request as it comes in: counted, and not asked for before the endpoint wants it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::expect::Expectation;
use crate::account::Tap;
use crate::body::{Body, BodyError};

pub struct Inbound {
    body: Body,
    expectation: Option<Expectation>,
    tap: Tap,
}

impl Inbound {
    pub fn new(body: Body, expectation: Option<Expectation>, tap: Tap) -> Inbound {
        Inbound { body, expectation, tap }
    }
}

impl http_body::Body for Inbound {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(expectation) = &mut this.expectation {
            ready!(expectation.poll_wanted(cx));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                this.tap.data(data);
            } else if let Some(trailers) = frame.trailers_ref() {
                this.tap.trailers(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
