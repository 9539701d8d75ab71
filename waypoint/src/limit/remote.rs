//! The protocol of a service that counts for many proxies (`envoy.service.ratelimit.v3`; spec/waypoint.md 5.10).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_xds::messages::waypoint::BackendRef;

use crate::call::{Caller, To};
use crate::grpc;

const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Bytes of the service's own text that a client is shown.
const BODY_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, PartialEq, prost::Message)]
pub struct RateLimitRequest {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(message, repeated, tag = "2")]
    pub descriptors: Vec<RateLimitDescriptor>,
    #[prost(uint32, tag = "3")]
    pub hits_addend: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RateLimitDescriptor {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<DescriptorEntry>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DescriptorEntry {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RateLimitResponse {
    #[prost(enumeration = "Code", tag = "1")]
    pub overall_code: i32,
    #[prost(message, repeated, tag = "2")]
    pub statuses: Vec<DescriptorStatus>,
    #[prost(message, repeated, tag = "3")]
    pub response_headers_to_add: Vec<Header>,
    #[prost(message, repeated, tag = "4")]
    pub request_headers_to_add: Vec<Header>,
    #[prost(bytes = "vec", tag = "5")]
    pub raw_body: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Code {
    Unknown = 0,
    Ok = 1,
    OverLimit = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct DescriptorStatus {
    #[prost(enumeration = "Code", tag = "1")]
    pub code: i32,
    #[prost(message, optional, tag = "2")]
    pub current_limit: Option<CurrentLimit>,
    #[prost(uint32, tag = "3")]
    pub limit_remaining: u32,
    #[prost(message, optional, tag = "4")]
    pub duration_until_reset: Option<prost_types::Duration>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CurrentLimit {
    #[prost(uint32, tag = "1")]
    pub requests_per_unit: u32,
    #[prost(enumeration = "Unit", tag = "2")]
    pub unit: i32,
    #[prost(string, tag = "3")]
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Unit {
    Unknown = 0,
    Second = 1,
    Minute = 2,
    Hour = 3,
    Day = 4,
    Month = 5,
    Year = 6,
    Week = 7,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Header {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
    #[prost(bytes = "vec", tag = "3")]
    pub raw_value: Vec<u8>,
}

/// What the service said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    pub over: bool,
    /// The tightest of the limits that it told of.
    pub tightest: Option<Told>,
    pub answer_headers: HeaderMap,
    pub request_headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A limit as clients are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub limit: u32,
    pub window: Duration,
    pub remaining: u32,
    pub reset: Duration,
}

/// # Errors
/// When the service gave no answer in time, or none that says yes or no.
pub async fn ask(caller: &dyn Caller, backend: &BackendRef, question: &RateLimitRequest, timeout: Duration) -> Result<Said, grpc::Failure> {
    let host = backend.host.as_ref().map_or("", |host| host.hostname.as_str());
    let authority = format!("{host}:{}", backend.port);
    let answer: RateLimitResponse =
        grpc::unary(caller, To::Backend(backend), &authority, SHOULD_RATE_LIMIT, HeaderMap::new(), question, timeout).await?;
    said(answer)
}

pub fn said(answer: RateLimitResponse) -> Result<Said, grpc::Failure> {
    let over = match answer.overall_code() {
        Code::Ok => false,
        Code::OverLimit => true,
        Code::Unknown => {
            return Err(grpc::Failure { code: grpc::UNKNOWN, message: "the rate limit service said neither yes nor no".into() });
        }
    };
    let mut body = answer.raw_body;
    body.truncate(BODY_BYTES_MAX);
    Ok(Said {
        over,
        tightest: answer.statuses.iter().filter_map(told).min_by_key(|told| told.remaining),
        answer_headers: headers(&answer.response_headers_to_add),
        request_headers: headers(&answer.request_headers_to_add),
        body,
    })
}

fn told(status: &DescriptorStatus) -> Option<Told> {
    let limit = status.current_limit.as_ref()?;
    let seconds = match limit.unit() {
        Unit::Unknown => return None,
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3_600,
        Unit::Day => 86_400,
        Unit::Week => 604_800,
        // As the reference server counts them.
        Unit::Month => 2_592_000,
        Unit::Year => 31_536_000,
    };
    let reset = status.duration_until_reset.as_ref().and_then(|duration| u64::try_from(duration.seconds).ok()).unwrap_or(0);
    Some(Told {
        limit: limit.requests_per_unit,
        window: Duration::from_secs(seconds),
        remaining: status.limit_remaining,
        reset: Duration::from_secs(reset),
    })
}

/// Those that can be headers; what frames a message is not the service's to say.
fn headers(wire: &[Header]) -> HeaderMap {
    let framing = ["connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"];
    let one = |header: &Header| {
        let name: HeaderName = header.key.parse().ok()?;
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        let value = HeaderValue::from_bytes(value).ok()?;
        (!framing.contains(&name.as_str())).then_some((name, value))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in wire.iter().filter_map(one) {
        headers.append(name, value);
    }
    headers
}
