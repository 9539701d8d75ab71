//! Bodies that know their connection: the request's says when it has been sent, the response's gives the connection back.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use tokio::time::Instant;

use super::kept::Kept;
use super::{Active, BodyFault, Progress};
use crate::body::Body;
use crate::upstream::Endpoint;

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
#[allow(clippy::large_enum_variant, reason = "nearly every one is the large variant, and a box would be an allocation for each response")]
pub(super) enum Lease {
    Http1 {
        sender: http1::SendRequest<Outgoing>,
        uses: u32,
        idle: Duration,
        hop: Endpoint,
        kept: Arc<Kept>,
        progress: Option<Arc<Progress>>,
    },
    /// A connection that is not used again.
    Last {
        _sender: http1::SendRequest<Outgoing>,
    },
    Http2 {
        _seat: Seat,
    },
    Returned,
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

    /// The response has ended. If the request has too, its connection is idle in a moment; else it would wait for the
    /// rest of a request that nobody needs, and is closed.
    fn give_back(&mut self) {
        if let Lease::Http1 { sender, uses, idle, hop, kept, progress } = std::mem::replace(&mut self.lease, Lease::Returned)
            && progress.is_none_or(|progress| progress.has_ended())
            && !sender.is_closed()
        {
            kept.put(hop, sender, uses, Instant::now() + idle);
        }
    }
}

impl http_body::Body for Leased {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx));
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
