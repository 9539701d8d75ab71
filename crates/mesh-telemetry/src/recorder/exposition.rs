//! The text of a scrape: OpenMetrics whoever asks, only the content type follows the request (spec/dataplane.md 8.1).

use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::series::Value;
use crate::families::{Family, Kind};

/// What a scrape is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposition {
    pub content_type: &'static str,
    /// `Some("gzip")` when the body is compressed.
    pub content_encoding: Option<&'static str>,
    pub body: Vec<u8>,
}

const OPEN_METRICS: &str = "application/openmetrics-text;charset=utf-8;version=1.0.0";
const PLAIN: &str = "text/plain; charset=utf-8";

pub(super) fn expose(body: Vec<u8>, accept: Option<&str>, accept_encoding: Option<&str>) -> Exposition {
    let content_type = if lists(accept, "application/openmetrics-text") { OPEN_METRICS } else { PLAIN };
    if !lists(accept_encoding, "gzip") {
        return Exposition { content_type, content_encoding: None, body };
    }
    // Fast: a scrape costs the cores that carry traffic, and labels compress well at any level.
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    match encoder.write_all(&body).and_then(|()| encoder.finish()) {
        Ok(packed) => Exposition { content_type, content_encoding: Some("gzip"), body: packed },
        Err(_) => Exposition { content_type, content_encoding: None, body },
    }
}

/// Whether a header's list names this item without refusing it by `q=0`.
fn lists(header: Option<&str>, item: &str) -> bool {
    header.into_iter().flat_map(|header| header.split(',')).any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(item));
        let refused = parts.any(|part| part.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()) == Some(0.0));
        named && !refused
    })
}

/// Writes one family: what it is, then its series.
pub(super) fn family(body: &mut Vec<u8>, family: &Family, series: &[(Arc<str>, Value)]) {
    let (name, kind) = match family.kind {
        Kind::Counter | Kind::CounterOfFractions => (family.name.strip_suffix("_total").unwrap_or(&family.name), "counter"),
        Kind::Gauge => (&*family.name, "gauge"),
        Kind::Histogram(_) => (&*family.name, "histogram"),
    };
    for part in ["# HELP ", name, " ", &family.help, "\n# TYPE ", name, " ", kind, "\n"] {
        body.extend_from_slice(part.as_bytes());
    }
    for (labels, value) in series {
        match value {
            Value::Count(count) => sample(body, &family.name, "", labels, "", |body| number(body, count.now())),
            Value::Level(level) => sample(body, &family.name, "", labels, "", |body| fraction(body, level.now())),
            Value::Spread(spread) => {
                let (sum, below) = spread.now();
                let total = below.last().copied().unwrap_or_default();
                sample(body, &family.name, "_sum", labels, "", |body| fraction(body, sum));
                sample(body, &family.name, "_count", labels, "", |body| number(body, total));
                let bounds = spread.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
                for (bound, count) in bounds.zip(below) {
                    sample(body, &family.name, "_bucket", labels, &format!("le=\"{bound}\""), |body| number(body, count));
                }
            }
        }
    }
}

fn sample(body: &mut Vec<u8>, name: &str, suffix: &str, labels: &str, more: &str, value: impl FnOnce(&mut Vec<u8>)) {
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(suffix.as_bytes());
    if !labels.is_empty() || !more.is_empty() {
        body.push(b'{');
        body.extend_from_slice(labels.as_bytes());
        if !labels.is_empty() && !more.is_empty() {
            body.push(b',');
        }
        body.extend_from_slice(more.as_bytes());
        body.push(b'}');
    }
    body.push(b' ');
    value(body);
    body.push(b'\n');
}

fn number(body: &mut Vec<u8>, value: u64) {
    let _ = write!(body, "{value}");
}

fn fraction(body: &mut Vec<u8>, value: f64) {
    let _ = write!(body, "{value}");
}
