//! Spans as Zipkin's second format has them: JSON, posted to `/api/v2/spans`.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::{Span, hex};

pub fn spans(spans: &[Span]) -> Vec<u8> {
    let spans: Vec<Value> = spans.iter().map(one).collect();
    Value::Array(spans).to_string().into_bytes()
}

fn one(span: &Span) -> Value {
    let micros = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let (start, end) = (micros(span.start), micros(span.end));
    let tags: Map<String, Value> =
        span.tags.iter().map(|(name, value)| (name.to_string(), Value::from(value.as_str()))).collect();
    let mut endpoint = json!({ "serviceName": &*span.service });
    if let Some(address) = span.address {
        endpoint[if address.is_ipv4() { "ipv4" } else { "ipv6" }] = address.to_string().into();
    }
    let mut wire = json!({
        "traceId": span.trace.id_text(),
        "id": span.trace.span_text(),
        "name": span.name,
        "kind": "SERVER",
        "timestamp": start,
        // Zipkin takes no duration below one.
        "duration": end.saturating_sub(start).max(1),
        "localEndpoint": endpoint,
        "tags": tags,
    });
    if let Some(parent) = &span.trace.parent {
        wire["parentId"] = hex(parent).into();
    }
    wire
}
