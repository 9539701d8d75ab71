//! A message's body on its way through: streamed, whoever made it.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::exchange::Leased;

pub type BodyError = Box<dyn Error + Send + Sync>;

#[derive(Default)]
pub enum Body {
    #[default]
    Empty,
    Full(Bytes),
    /// Straight from a connection that was accepted.
    Incoming(Incoming),
    /// An endpoint's response; its connection is free again when it has ended.
    Leased(Box<Leased>),
    /// Whatever stands in between: replay, a bridge to another format.
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError> + Send>>),
}

impl Body {
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) }
    }

    pub fn boxed<B>(body: B) -> Body
    where
        B: http_body::Body<Data = Bytes, Error = BodyError> + Send + 'static,
    {
        Body::Boxed(Box::pin(body))
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Body {
        if http_body::Body::is_end_stream(&incoming) { Body::Empty } else { Body::Incoming(incoming) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Body::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Body::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Body::Leased(leased) => Pin::new(&mut **leased).poll_frame(cx).map_err(BodyError::from),
            Body::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(_) => false,
            Body::Incoming(incoming) => incoming.is_end_stream(),
            Body::Leased(leased) => leased.is_end_stream(),
            Body::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Incoming(incoming) => incoming.size_hint(),
            Body::Leased(leased) => leased.size_hint(),
            Body::Boxed(body) => body.size_hint(),
        }
    }
}
