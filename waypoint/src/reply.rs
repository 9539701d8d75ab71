//! Pure: answers of our own (spec/waypoint.md 1.7). A gRPC client gets HTTP 200 and its status in the headers.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::body::Body;
use crate::error::{Reason, Words, grpc_of_status};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What `grpc-message` has to encode: everything that is not printable ASCII, and the percent sign.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// The answer for a reason.
pub fn of(reason: &Reason, grpc: bool) -> Response<Body> {
    let Words { status, text, grpc: code, .. } = reason.words();
    match grpc {
        true => of_grpc(code.unwrap_or_else(|| grpc_of_status(status)), &text),
        false => plain(status, Bytes::from(text.into_owned())),
    }
}

/// A text of our own.
pub fn plain(status: StatusCode, text: Bytes) -> Response<Body> {
    let empty = text.is_empty();
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    if !empty {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// Where the client finds what it asked for in another spelling.
pub fn redirect(to: &PathAndQuery) -> Response<Body> {
    let mut response = plain(StatusCode::TEMPORARY_REDIRECT, Bytes::new());
    if let Ok(location) = HeaderValue::from_str(to.as_str()) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// A response that consists of trailers only.
pub fn of_grpc(code: u16, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    if !message.is_empty() {
        let encoded = utf8_percent_encode(message, ENCODED).to_string();
        headers.insert(GRPC_MESSAGE, HeaderValue::from_str(&encoded).expect("printable ASCII after encoding"));
    }
    response
}

/// An answer that somebody else composed, for a client that may speak gRPC: its status is translated, its headers stay.
pub fn composed(status: StatusCode, headers: HeaderMap, body: Bytes, grpc: bool) -> Response<Body> {
    let mut response = match grpc {
        true => of_grpc(grpc_of_status(status), &String::from_utf8_lossy(&body)),
        false => {
            let mut response = Response::new(Body::full(body));
            *response.status_mut() = status;
            response
        }
    };
    let ours = response.headers_mut();
    for (name, value) in &headers {
        if !grpc || *name != CONTENT_TYPE {
            ours.append(name, value.clone());
        }
    }
    response
}

/// The status of a response that is over: gRPC says it in the trailers, or in the headers where there is nothing else.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_client_reads_its_own_status() {
        // HTTP status of the reason, gRPC status that is sent
        let table: &[(Reason, &str, &str)] = &[
            (Reason::RouteNotFound, "12", "no route"),
            (Reason::Rbac { details: "x".into() }, "7", "RBAC: access denied"),
            (Reason::NoHealthyUpstream, "14", "no healthy upstream"),
            (Reason::DeadlineExceeded, "4", "deadline exceeded"),
            (Reason::RequestTimeout, "14", "upstream request timeout"),
            (Reason::Jwt { text: "Jwt is expired", details: "x".into() }, "16", "Jwt is expired"),
            (Reason::RateLimited { status: StatusCode::TOO_MANY_REQUESTS, grpc: None }, "14", "too many requests"),
            (Reason::RateLimited { status: StatusCode::TOO_MANY_REQUESTS, grpc: Some(8) }, "8", "too many requests"),
            (Reason::FaultAbort { status: StatusCode::OK, grpc: Some(10) }, "10", "fault filter abort"),
            (Reason::Internal, "2", "internal error"),
        ];
        for (reason, status, message) in table {
            let response = of(reason, true);
            assert_eq!(response.status(), StatusCode::OK, "{reason:?}");
            assert_eq!(response.headers()[GRPC_STATUS], *status, "{reason:?}");
            assert_eq!(response.headers()[GRPC_MESSAGE], *message, "{reason:?}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
            assert_ne!(of(reason, false).headers().get(GRPC_STATUS), Some(&HeaderValue::from_static("0")));
        }
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let response = of_grpc(2, "50 %\nü");
        assert_eq!(response.headers()[GRPC_MESSAGE], "50 %25%0A%C3%BC");
        assert_eq!(grpc_status(response.headers()), Some(2));
    }
}
