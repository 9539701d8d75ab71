//! Unary gRPC calls to services of the mesh, for those whom policy asks: one message there, one message back.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use percent_encoding::percent_decode;

use crate::call::{CallError, Caller, Limits, Reply, To, Version};

/// An answer that is larger is no answer to a question of policy.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// A flag of compression and a length.
const PREFIX: usize = 5;
/// Characters of a server's message that are kept: it goes to logs.
const MESSAGE_CHARS_MAX: usize = 256;

/// Codes of gRPC that this side gives.
pub const DEADLINE_EXCEEDED: i32 = 4;
pub const UNIMPLEMENTED: i32 = 12;
pub const INTERNAL: i32 = 13;
pub const UNAVAILABLE: i32 = 14;
pub const UNKNOWN: i32 = 2;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gRPC status {code}: {message}")]
pub struct Failure {
    pub code: i32,
    pub message: String,
}

impl Failure {
    fn new(code: i32, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        let code = match error {
            CallError::Timeout => DEADLINE_EXCEEDED,
            CallError::TooLarge(_) => INTERNAL,
            CallError::Connect(_) | CallError::Broken(_) => UNAVAILABLE,
        };
        Failure::new(code, error.to_string())
    }
}

/// `path`: `/package.Service/Method`. `authority`: what the service is to see as its host.
///
/// # Errors
/// The status that the service gave, or one for what went wrong on the way.
pub async fn unary<Q: prost::Message, A: prost::Message + Default>(
    caller: &dyn Caller,
    to: To<'_>,
    authority: &str,
    path: &str,
    metadata: HeaderMap,
    question: &Q,
    timeout: Duration,
) -> Result<A, Failure> {
    let request = request(authority, path, metadata, frame(question), timeout)?;
    let reply = caller.call(to, Version::Http2, request, Limits { timeout, max_body: ANSWER_BYTES_MAX }).await?;
    answer(&reply)
}

fn request(authority: &str, path: &str, metadata: HeaderMap, body: Bytes, timeout: Duration) -> Result<Request<Bytes>, Failure> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = format!("http://{authority}{path}").parse().map_err(|error| Failure::new(INTERNAL, format!("{authority}{path}: {error}")))?;
    let headers = request.headers_mut();
    *headers = metadata;
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    // At most eight digits.
    let milliseconds = timeout.as_millis().min(99_999_999);
    headers.insert("grpc-timeout", HeaderValue::from_str(&format!("{milliseconds}m")).expect("digits and a letter"));
    Ok(request)
}

fn frame<Q: prost::Message>(question: &Q) -> Bytes {
    let length = question.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    question.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

/// The status stands in the trailers, or in the headers of an answer that has nothing else.
fn answer<A: prost::Message + Default>(reply: &Reply) -> Result<A, Failure> {
    if reply.status != StatusCode::OK {
        return Err(Failure::new(of_http(reply.status), format!("HTTP status {}", reply.status.as_u16())));
    }
    let status = reply.trailers.as_ref().filter(|trailers| trailers.contains_key("grpc-status")).unwrap_or(&reply.headers);
    let Some(code) = status.get("grpc-status") else {
        return Err(Failure::new(UNKNOWN, "the answer has no gRPC status"));
    };
    let code = code.to_str().ok().and_then(|code| code.parse::<i32>().ok()).unwrap_or(UNKNOWN);
    if code != 0 {
        let message = status.get("grpc-message").map(|text| percent_decode(text.as_bytes()).decode_utf8_lossy().into_owned());
        return Err(Failure::new(code, message.unwrap_or_default().chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect::<String>()));
    }
    let Some((prefix, message)) = reply.body.split_at_checked(PREFIX) else {
        return Err(Failure::new(INTERNAL, "the answer holds no message"));
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 {
        return Err(Failure::new(UNIMPLEMENTED, "the answer is compressed, which was not offered"));
    }
    if usize::try_from(length).ok() != Some(message.len()) {
        return Err(Failure::new(INTERNAL, "the answer is not one whole message"));
    }
    A::decode(message).map_err(|error| Failure::new(INTERNAL, format!("the answer cannot be read: {error}")))
}

/// What an answer without a gRPC status means.
fn of_http(status: StatusCode) -> i32 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests;
