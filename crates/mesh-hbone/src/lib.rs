//! HBONE: one TCP stream per HTTP/2 CONNECT stream, over any byte stream.
//!
//! Reading order: `connect` (where to), the three request headers, `limits` (every bound), `stream` (the tunnel
//! itself), `serve` and `dial` (the two ends), `ledger` (who may ride which connection, pure) and `pool` (its shell).
//! Below them: `flood`, `guard`, `keepalive`, `window`, `pulse` keep one connection honest and alive; `Guard` does it for
//! other HTTP/2 connections, too.
//!
//! Not here: TLS and certificates (the caller hands in a stream), Kubernetes, policy, metrics, and what a tunnel is for.

pub mod connect;
pub mod baggage;
pub mod forwarded;
pub mod traceparent;
pub mod limits;
pub mod stream;
pub mod serve;
pub mod dial;
pub mod ledger;
pub mod pool;
pub mod error;
mod flood;
mod guard;
mod keepalive;
mod window;
mod pulse;
#[cfg(test)]
mod testing;

pub use baggage::Baggage;
pub use connect::{ConnectHead, ConnectRequest};
pub use error::{Flood, Malformed, OpenError, ServeError};
pub use guard::{Guard, Wire};
pub use limits::Limits;
pub use pool::Pool;
pub use serve::{Connect, Stop, serve};
pub use stream::Tunnel;
pub use traceparent::TraceParent;
