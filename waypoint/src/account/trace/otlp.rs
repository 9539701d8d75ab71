//! OTLP: spans and log records as the messages of opentelemetry-proto 1.x, of which this has what is sent. The field
//! numbers are the protocol's; a collector of the official package reads them in `e2e`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::Span;

/// `opentelemetry.proto.collector.trace.v1.TraceService`.
pub const EXPORT_TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
pub const EXPORT_LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportTraces {
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<WireSpan>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Scope {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
    #[prost(int32, tag = "6")]
    pub kind: i32,
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    pub flags: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    #[prost(int32, tag = "3")]
    pub code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    #[prost(oneof = "AnyKind", tags = "1")]
    pub kind: Option<AnyKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AnyKind {
    #[prost(string, tag = "1")]
    Text(String),
}

/// The answer to either; what was not taken.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Exported {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportLogs {
    #[prost(message, repeated, tag = "1")]
    pub resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub log_records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LogRecord {
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    #[prost(message, optional, tag = "5")]
    pub body: Option<AnyValue>,
    #[prost(bytes = "vec", tag = "9")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    pub span_id: Vec<u8>,
    #[prost(fixed64, tag = "11")]
    pub observed_time_unix_nano: u64,
}

/// One line of the access log, for a collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub at: SystemTime,
    pub body: String,
    pub trace: Option<([u8; 16], [u8; 8])>,
    pub service: std::sync::Arc<str>,
}

/// SPAN_KIND_SERVER and STATUS_CODE_ERROR of the protocol.
const KIND_SERVER: i32 = 2;
const STATUS_ERROR: i32 = 2;
/// `TraceFlags`: sampled.
const SAMPLED: u32 = 1;

fn scope() -> Scope {
    Scope { name: "isthmus-waypoint".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

pub fn traces(spans: &[Span]) -> ExportTraces {
    // The resource is this process: the same for all of them but for what a setting changed in between.
    let mut by_service: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        by_service.entry(&span.service).or_default().push(span);
    }
    let resource_spans = by_service.into_iter().map(|(service, spans)| {
        let mut attributes = vec![pair("service.name", service)];
        attributes.extend(spans.first().iter().flat_map(|span| &span.resource).map(|(name, value)| pair(name, value)));
        ResourceSpans {
            resource: Some(Resource { attributes }),
            scope_spans: vec![ScopeSpans { scope: Some(scope()), spans: spans.into_iter().map(wire).collect() }],
        }
    });
    ExportTraces { resource_spans: resource_spans.collect() }
}

fn wire(span: &Span) -> WireSpan {
    WireSpan {
        trace_id: span.trace.id.to_vec(),
        span_id: span.trace.span.to_vec(),
        parent_span_id: span.trace.parent.map(Vec::from).unwrap_or_default(),
        name: span.name.clone(),
        kind: KIND_SERVER,
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end),
        attributes: span.tags.iter().map(|(name, value)| pair(name, value)).collect(),
        status: span.error.then_some(Status { code: STATUS_ERROR }),
        flags: SAMPLED,
    }
}

pub fn logs(records: &[Record]) -> ExportLogs {
    let mut by_service: BTreeMap<&str, Vec<LogRecord>> = BTreeMap::new();
    for record in records {
        let (trace_id, span_id) = record.trace.map(|(trace, span)| (trace.to_vec(), span.to_vec())).unwrap_or_default();
        by_service.entry(&record.service).or_default().push(LogRecord {
            time_unix_nano: nanos(record.at),
            body: Some(any(&record.body)),
            trace_id,
            span_id,
            observed_time_unix_nano: nanos(record.at),
        });
    }
    let resource_logs = by_service.into_iter().map(|(service, log_records)| ResourceLogs {
        resource: Some(Resource { attributes: vec![pair("service.name", service), pair("log_name", "otel_envoy_accesslog")] }),
        scope_logs: vec![ScopeLogs { scope: Some(scope()), log_records }],
    });
    ExportLogs { resource_logs: resource_logs.collect() }
}

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any(value)) }
}

fn any(text: &str) -> AnyValue {
    AnyValue { kind: Some(AnyKind::Text(text.to_owned())) }
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
