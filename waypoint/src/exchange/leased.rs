//! Bodies that know their connection: the request's says when it has been sent, the response's gives the connection back.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::kept::{self, Place};
use super::wire::Wire;
use super::{Active, BodyFault, Progress};
use crate::body::Body;

/// The body of a request to an endpoint.
pub struct Outgoing {
    pub(super) body: Body,
    pub(super) progress: Option<Arc<Progress>>,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(progress) = &self.progress {
            match &frame {
                Some(Err(_)) => progress.failed(),
                Some(Ok(_)) if !self.body.is_end_stream() => {}
                _ => progress.ended(),
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyFault)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a response holds on to until it has ended.
pub(super) enum Lease {
    /// A connection that this response has for itself. `back`: none where it is not used again.
    Http1 {
        wire: Box<Wire>,
        back: Option<Back>,
    },
    /// One that runs by itself: its request goes on while this response does, or both have become streams of bytes.
    Runs {
        _wire: Box<Wire>,
    },
    Http2 {
        _seat: Seat,
    },
    Returned,
}

/// Where a connection goes when its response has ended.
pub(super) struct Back {
    pub place: Place,
    pub uses: u32,
    pub idle: Duration,
}

/// One stream on a connection that carries many.
pub(super) struct Seat(pub Active);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of a response.
pub struct Leased {
    incoming: Incoming,
    lease: Lease,
}

impl Leased {
    pub(super) fn body(incoming: Incoming, lease: Lease) -> Body {
        let mut leased = Leased { incoming, lease };
        if leased.incoming.is_end_stream() {
            leased.give_back();
            // A stream of HTTP/2 that has ended needs no seat, and an upgraded connection is held by its upgrade.
            return Body::Empty;
        }
        Body::Leased(Box::new(leased))
    }

    /// The response has ended, and its request before it.
    fn give_back(&mut self) {
        if let Lease::Http1 { mut wire, back } = std::mem::replace(&mut self.lease, Lease::Returned)
            && wire.is_idle()
            && let Some(Back { place, uses, idle }) = back
        {
            kept::put(&place, wire, uses, Instant::now() + idle);
        }
    }
}

impl http_body::Body for Leased {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Leased { incoming, lease } = &mut *self;
        let polled = match lease {
            Lease::Http1 { wire, .. } => wire.poll_frame(incoming, cx),
            Lease::Runs { .. } | Lease::Http2 { .. } | Lease::Returned => Pin::new(incoming).poll_frame(cx),
        };
        let frame = std::task::ready!(polled);
        match &frame {
            Some(Err(_)) => self.lease = Lease::Returned,
            Some(Ok(_)) if !self.incoming.is_end_stream() => {}
            _ => self.give_back(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
