//! Calls of our own to services: to those whom policy asks, to those who count, to those who publish keys. Here: what a call
//! is. `over_mesh` finds where it goes, `carry` makes it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, StatusCode};
use mesh_xds::messages::waypoint::BackendRef;

mod carry;
mod over_mesh;

pub use over_mesh::OverMesh;

/// Whom a call is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum To<'a> {
    /// A service of the mesh, as a route would name it.
    Backend(&'a BackendRef),
    /// What a URL names: a service of the mesh that has this host, and is then reached as such; else whatever DNS says,
    /// with TLS and the roots of the system where `tls`.
    Url { tls: bool, host: &'a str, port: u16 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http1,
    /// From the first byte.
    Http2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From here to the last byte of the answer.
    pub timeout: Duration,
    /// Bytes of the answer's body.
    pub max_body: usize,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("no answer in time")]
    Timeout,
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the exchange broke off: {0}")]
    Broken(String),
}

/// Carries one call. The request's URI is absolute; its authority is what the service is to see as its host. An answer
/// is handed back as it is: no redirect is followed, nothing is tried again.
pub trait Caller: Send + Sync {
    fn call<'a>(&'a self, to: To<'a>, version: Version, request: Request<Bytes>, limits: Limits) -> BoxFuture<'a, Result<Reply, CallError>>;
}

#[cfg(test)]
pub(crate) use carry::testing::Tcp;
