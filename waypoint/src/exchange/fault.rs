//! Why an exchange with an endpoint failed, told apart as retries and telemetry need it (spec/waypoint.md 5.2).

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::upstream::ConnectError;

#[derive(Clone, Debug)]
pub enum Fault {
    /// No connection: the endpoint has seen nothing.
    Connect(ConnectError),
    /// The endpoint has said that it did not process the request (REFUSED_STREAM, a GOAWAY before it).
    Refused(Arc<str>),
    /// The connection ended before any byte of a response. `reused`: it had carried earlier requests, so the end may have
    /// nothing to do with this one.
    Closed { reused: bool, why: Arc<str> },
    /// The stream was reset by the endpoint before its response began.
    Reset(Arc<str>),
    /// What came is no HTTP.
    Protocol(Arc<str>),
    /// The body of the request ended with an error: the client's doing.
    Body(Arc<str>),
}

impl Fault {
    pub(super) fn of_http1(error: &hyper::Error, reused: bool) -> Fault {
        let why = chain(error);
        if body_failed(error) {
            Fault::Body(why)
        } else if error.is_parse() {
            Fault::Protocol(why)
        } else {
            Fault::Closed { reused, why }
        }
    }

    pub(super) fn of_http2(error: &hyper::Error, reused: bool) -> Fault {
        let why = chain(error);
        if body_failed(error) {
            return Fault::Body(why);
        }
        let Some(h2) = cause::<h2::Error>(error) else {
            return Fault::Closed { reused, why };
        };
        match h2.reason() {
            Some(h2::Reason::REFUSED_STREAM) => Fault::Refused(why),
            // A graceful GOAWAY: streams above its id were not processed, and this is the error that they get.
            Some(h2::Reason::NO_ERROR) if h2.is_go_away() && h2.is_remote() => Fault::Refused(why),
            Some(h2::Reason::PROTOCOL_ERROR | h2::Reason::FRAME_SIZE_ERROR | h2::Reason::COMPRESSION_ERROR)
                if h2.is_library() =>
            {
                Fault::Protocol(why)
            }
            _ if h2.is_reset() => Fault::Reset(why),
            _ => Fault::Closed { reused, why },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Connect(error) => write!(f, "no connection: {error}"),
            Fault::Refused(why) => write!(f, "the endpoint refused the request: {why}"),
            Fault::Closed { why, .. } => write!(f, "the connection ended before the response: {why}"),
            Fault::Reset(why) => write!(f, "the endpoint reset the request: {why}"),
            Fault::Protocol(why) => write!(f, "what the endpoint sent is no HTTP: {why}"),
            Fault::Body(why) => write!(f, "the request's body: {why}"),
        }
    }
}

impl Error for Fault {}

/// An error in a body that we forward: it comes back as the cause of the exchange's error.
#[derive(Debug)]
pub struct BodyFault(pub Box<dyn Error + Send + Sync>);

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for BodyFault {}

fn body_failed(error: &hyper::Error) -> bool {
    error.is_user() && cause::<BodyFault>(error).is_some()
}

fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn chain(error: &(dyn Error + 'static)) -> Arc<str> {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = error.source();
    }
    text.into()
}
