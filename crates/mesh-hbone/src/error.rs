//! How opening and serving tunnels fails, in the words that operators of this family of proxies know
//! (spec/dataplane.md 5.8).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::connect::BadAuthority;

/// Why a tunnel was not opened. Cheap to clone: all who wait for one dial get the same one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The `connect` function failed: TCP, or TLS.
    #[error("io error: {0}")]
    Dial(#[source] Arc<io::Error>),
    /// No connection within the limit (ours, or the kernel's).
    #[error("connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008 (waited {after:?})")]
    ConnectTimeout { after: Duration },
    /// The connection stands, and HTTP/2 on it does not: bad preface, silence instead of SETTINGS.
    #[error("http2 handshake failed: {0}")]
    Handshake(Arc<str>),
    /// A reset, a GOAWAY or a broken connection instead of an answer.
    #[error("h2 failed: {0}")]
    Http2(#[source] Arc<h2::Error>),
    /// The peer answered, and not with 200.
    #[error("http status: {}", .0.as_u16())]
    Status(StatusCode),
    /// The peer did not answer the CONNECT within the limit.
    #[error("no answer to CONNECT within {after:?}")]
    ResponseTimeout { after: Duration },
    /// The peer has stopped to answer anything on this connection.
    #[error("the peer has sent nothing for {after:?} and no answer to PING")]
    Silent { after: Duration },
    /// The pool is closed for new tunnels.
    #[error("pool draining")]
    Draining,
}

/// Why a served connection ended other than by both sides being done.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("http2 handshake failed: nothing complete within {after:?}")]
    HandshakeTimeout { after: Duration },
    #[error("http2 handshake failed: {0}")]
    Handshake(#[source] h2::Error),
    #[error("h2 failed: {0}")]
    Http2(#[source] h2::Error),
    #[error("the peer floods this connection: {0}")]
    Flood(Flood),
    #[error("HBONE ping timeout/error: the peer has sent nothing for {after:?} after a PING")]
    Silent { after: Duration },
    #[error("connection closed due to connection drain")]
    Forced,
}

/// What a peer sent too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    #[error("RST_STREAM")]
    Resets,
    #[error("PING")]
    Pings,
    #[error("SETTINGS")]
    Settings,
    #[error("WINDOW_UPDATE")]
    WindowUpdates,
    #[error("PRIORITY and unknown frames")]
    Others,
    #[error("one header block without end")]
    HeaderBlock,
}

/// A request that is no tunnel; it has been answered with 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("expected method CONNECT, got {0}")]
    Method(Method),
    #[error("invalid CONNECT address {authority:?}: {why}")]
    Authority { authority: String, why: BadAuthority },
}
