//! How an attempt ended, as far as the next choice and the next attempt care.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was an answer. `grpc`: its status, from the headers, or from the trailers when they have come.
    Answered { status: u16, grpc: Option<u16>, took: Duration },
    Failed(Failure),
}

/// There was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or not the endpoint it should be.
    Connect,
    /// The endpoint said that it has not looked at the request (REFUSED_STREAM, GOAWAY).
    Refused,
    /// The connection ended before anything of the request was sent.
    ResetBeforeRequest,
    /// A connection that had carried earlier requests ended before the first byte of an answer: most likely it was being
    /// closed already, but the endpoint may have seen the request.
    Stale,
    /// The connection ended, or what came was no HTTP, before the answer's headers.
    Reset,
    /// The attempt's own time ran out.
    AttemptTimeout,
}

/// The HTTP status that a gRPC status stands for (spec/waypoint.md 5.5).
pub fn http_of_grpc(status: u16) -> Option<u16> {
    Some(match status {
        2 | 13 => 500,
        4 => 504,
        8 => 429,
        14 => 503,
        _ => return None,
    })
}

impl Outcome {
    /// The status that counts: the one that a failed call says, else the answer's own.
    pub fn status(&self) -> Option<u16> {
        match self {
            Outcome::Answered { status, grpc, .. } => Some(grpc.and_then(http_of_grpc).unwrap_or(*status)),
            Outcome::Failed(_) => None,
        }
    }
}
