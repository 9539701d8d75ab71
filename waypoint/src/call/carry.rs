//! One call to one endpoint, over the connections that are kept.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HOST, HeaderValue};
use http::{Request, Response};
use http_body_util::BodyExt;

use super::{CallError, Limits, Reply, Version};
use crate::body::Body;
use crate::exchange::{self, Exchange, Fault, Rules};
use crate::upstream::Endpoint;

pub async fn carry(exchange: &Exchange, to: &Endpoint, version: Version, request: Request<Bytes>, limits: Limits) -> Result<Reply, CallError> {
    let request = in_form(version, request)?;
    let version = match version {
        Version::Http1 => exchange::Version::Http1,
        Version::Http2 => exchange::Version::Http2,
    };
    within(limits.timeout, async {
        let response = exchange.send(to, version, &Rules::default(), request).await.map_err(fault)?;
        whole(response, limits.max_body).await
    })
    .await
}

/// HTTP/1.1 has the host in a header and a target without it, HTTP/2 the other way about.
fn in_form(version: Version, request: Request<Bytes>) -> Result<Request<Body>, CallError> {
    let mut request = request.map(Body::full);
    let uri = request.uri().clone();
    match version {
        Version::Http2 => drop(request.headers_mut().remove(HOST)),
        Version::Http1 => {
            let authority = uri.authority().map_or("", |authority| authority.as_str());
            let host = HeaderValue::from_str(authority).map_err(|error| CallError::Broken(error.to_string()))?;
            request.headers_mut().entry(HOST).or_insert(host);
            *request.uri_mut() = uri.path_and_query().cloned().map_or_else(|| http::Uri::from_static("/"), http::Uri::from);
        }
    }
    Ok(request)
}

async fn within<T>(timeout: Duration, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    tokio::time::timeout(timeout, call).await.unwrap_or(Err(CallError::Timeout))
}

fn fault(fault: Fault) -> CallError {
    match fault {
        Fault::Connect(error) => CallError::Connect(error.to_string()),
        other => CallError::Broken(other.to_string()),
    }
}

async fn whole(response: Response<Body>, max_body: usize) -> Result<Reply, CallError> {
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CallError::Broken(error.to_string()))?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > max_body => return Err(CallError::TooLarge(max_body)),
            Ok(data) => bytes.extend_from_slice(&data),
            Err(other) => trailers = other.into_trailers().ok(),
        }
    }
    Ok(Reply { status: head.status, headers: head.headers, body: bytes.freeze(), trailers })
}

#[cfg(test)]
pub(crate) mod testing {
    //! A caller for tests that reaches one address over plain TCP, whomever it is asked to reach.

    use std::net::SocketAddr;
    use std::sync::Arc;

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use tokio::net::TcpStream;

    use super::*;
    use crate::call::{Caller, To};
    use crate::exchange::{Connect, Stream};
    use crate::upstream::{ConnectError, Kind};

    pub struct Tcp {
        exchange: Exchange,
        to: SocketAddr,
    }

    struct Plain(SocketAddr);

    impl Connect for Plain {
        fn connect(&self, _: &Endpoint) -> BoxFuture<'static, Result<Box<dyn Stream>, ConnectError>> {
            let to = self.0;
            async move {
                let stream = TcpStream::connect(to).await.map_err(|error| ConnectError::new(Kind::Refused, error.to_string()))?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            }
            .boxed()
        }
    }

    impl Tcp {
        pub fn new(to: SocketAddr) -> Tcp {
            Tcp { exchange: Exchange::new(Arc::new(Plain(to))), to }
        }
    }

    impl Caller for Tcp {
        fn call<'a>(&'a self, _: To<'a>, version: Version, request: Request<Bytes>, limits: Limits) -> BoxFuture<'a, Result<Reply, CallError>> {
            async move { carry(&self.exchange, &Endpoint::of_address(self.to), version, request, limits).await }.boxed()
        }
    }
}

#[cfg(test)]
mod tests;
