//! An HTTP request, top to bottom.

use std::pin::Pin;
use std::task;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::body::{Body, BodyError};
use crate::error::Reason;
use crate::exchange::{Exchange, Rules, Version};
use crate::facts::Arrival;
use crate::http1or2::Connection;
use crate::reply;
use crate::upstream::Endpoint;

/// What requests share.
pub struct Context {
    pub exchange: Exchange,
    /// Where an arrival's requests go.
    pub upstream: Box<dyn Fn(&Arrival) -> Option<(Endpoint, Version)> + Send + Sync>,
}

pub async fn request(incoming: Request<Incoming>, connection: &Connection, cx: &Context) -> Response<Answer> {
    match forward(incoming, connection, cx).await {
        Ok(response) => response.map(Answer::from),
        Err(reason) => reply::of(&reason, false).map(Answer::from),
    }
}

async fn forward(incoming: Request<Incoming>, connection: &Connection, cx: &Context) -> Result<Response<Body>, Reason> {
    let (hop, version) = (cx.upstream)(&connection.arrival).ok_or(Reason::NoHealthyUpstream)?;
    let (parts, body) = incoming.into_parts();
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = parts.headers;
    cx.exchange.send(&hop, version, &Rules::default(), request).await.map_err(Reason::Fault)
}

/// The body of an answer to a client.
pub struct Answer {
    body: Body,
}

impl From<Body> for Answer {
    fn from(body: Body) -> Answer {
        Answer { body }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
