//! What the HTTP client needs of whoever makes connections: one byte stream to one endpoint.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to an endpoint, whatever carries it: a tunnel, a socket, TLS in one of them.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Makes connections. Dropping the future gives the attempt up.
pub trait Connect: Send + Sync + 'static {
    fn connect(&self, to: &Hop) -> BoxFuture<'static, Result<Box<dyn Stream>, ConnectError>>;
}

/// The next hop: all that a connection depends on, so requests with equal hops may share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Of the endpoint: a workload's uid, so that another pod under the same address gets no connection of the first.
    pub id: Arc<str>,
    pub port: u16,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    pub kind: ConnectErrorKind,
    /// For the log and the body of the answer: one line, without addresses of the mesh's inside that a client must not see.
    pub message: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectErrorKind {
    Timeout,
    /// Nobody listens, or the far ztunnel refused.
    Refused,
    /// The peer is not who it must be, or TLS failed otherwise.
    Tls,
    /// A name that has no address.
    Name,
    /// Circuit breaking: no more connections to there.
    Overflow,
    Other,
}

impl ConnectError {
    pub fn new(kind: ConnectErrorKind, message: impl Into<Arc<str>>) -> ConnectError {
        ConnectError { kind, message: message.into() }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConnectError {}
