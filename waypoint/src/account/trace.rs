//! Traces: which one a request belongs to, whether it is reported, and what is passed on (spec/waypoint.md 6.4). Pure.

pub mod context;
pub mod otlp;
pub mod span;
pub mod zipkin;

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::Rng;

use self::context::{Context, Forms};
pub use self::span::Span;
use super::plan::Tracing;
use super::provider::Kind;

/// One request's place in its trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    pub id: [u8; 16],
    pub span: [u8; 8],
    pub parent: Option<[u8; 8]>,
    pub sampled: bool,
    /// B3's debug flag: passed on as it came.
    debug: bool,
    /// In which forms it is passed on.
    forms: Forms,
}

impl Trace {
    /// The trace that the request's headers continue, or a new one. A decision that was made before is kept; else that
    /// of the request id counts, else chance.
    pub fn begin(headers: &HeaderMap, tracing: &Tracing, chance: &mut impl Rng) -> Trace {
        let zipkin = matches!(tracing.provider.kind, Kind::Zipkin { .. });
        let found = context::extract(headers, zipkin);
        let mut forms = found.as_ref().map(|(_, forms)| *forms).unwrap_or_default();
        // What came in is continued in its form; the collector's own form is written always.
        if zipkin {
            forms.b3_multi |= !forms.b3_single;
        } else {
            forms.w3c = true;
        }
        let span = id(chance);
        match found {
            Some((Context { id, span: parent, sampled, debug }, _)) => {
                let sampled = sampled.unwrap_or_else(|| decide(headers, tracing, chance));
                Trace { id, span, parent: Some(parent), sampled, debug, forms }
            }
            None => Trace { id: id(chance), span, parent: None, sampled: decide(headers, tracing, chance), debug: false, forms },
        }
    }

    /// Writes it into the request that is forwarded.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if self.forms.w3c {
            let text = format!("00-{}-{}-0{}", self.id_text(), self.span_text(), u8::from(self.sampled));
            put(headers, context::TRACEPARENT, &text);
        }
        if self.forms.b3_multi {
            put(headers, context::B3_TRACE, &self.id_text());
            put(headers, context::B3_SPAN, &self.span_text());
            match &self.parent {
                Some(parent) => put(headers, context::B3_PARENT, &hex(parent)),
                None => {
                    headers.remove(context::B3_PARENT);
                }
            }
            // The debug flag says that it is sampled.
            if !self.debug {
                put(headers, context::B3_SAMPLED, if self.sampled { "1" } else { "0" });
            }
        }
        if self.forms.b3_single {
            let state = if self.debug {
                "d"
            } else if self.sampled {
                "1"
            } else {
                "0"
            };
            let mut text = format!("{}-{}-{state}", self.id_text(), self.span_text());
            if let Some(parent) = &self.parent {
                text.push('-');
                text.push_str(&hex(parent));
            }
            put(headers, context::B3_SINGLE, &text);
        }
    }

    pub fn id_text(&self) -> String {
        hex(&self.id)
    }

    pub fn span_text(&self) -> String {
        hex(&self.span)
    }
}

/// Without a parent's decision.
fn decide(headers: &HeaderMap, tracing: &Tracing, chance: &mut impl Rng) -> bool {
    let request_id = headers.get("x-request-id").filter(|_| tracing.use_request_id).and_then(|id| id.to_str().ok());
    if let Some(id) = request_id
        && let Some(known) = context::request_id_says(id)
    {
        // One id has one fate, at whichever proxy it comes by.
        return known.sampled || f64::from(known.of_10_000) < tracing.percent * 100.0;
    }
    chance.random::<f64>() * 100.0 < tracing.percent
}

/// Never all zero: that stands for none.
fn id<const N: usize>(chance: &mut impl Rng) -> [u8; N] {
    loop {
        let mut id = [0; N];
        chance.fill(&mut id[..]);
        if id != [0; N] {
            return id;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests;
