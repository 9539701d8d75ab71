//! What the HTTP client needs of whoever makes connections: one byte stream to one endpoint.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::upstream::{ConnectError, Connector, Endpoint};

/// A connection to an endpoint, whatever carries it: a tunnel, a socket, TLS in one of them.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Makes connections. Dropping the future gives the attempt up.
pub trait Connect: Send + Sync + 'static {
    fn connect(&self, to: &Endpoint) -> BoxFuture<'static, Result<Box<dyn Stream>, ConnectError>>;
}

impl Connect for Connector {
    fn connect(&self, to: &Endpoint) -> BoxFuture<'static, Result<Box<dyn Stream>, ConnectError>> {
        let (connector, to) = (self.clone(), to.clone());
        async move { Ok(Box::new(connector.open(&to).await?) as Box<dyn Stream>) }.boxed()
    }
}
