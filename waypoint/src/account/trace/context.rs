//! The headers that carry a trace from hop to hop: W3C's, and B3's in both of its forms. What cannot be read is as if it
//! were not there.

use http::{HeaderMap, HeaderValue};

pub const TRACEPARENT: &str = "traceparent";
pub const B3_SINGLE: &str = "b3";
pub const B3_TRACE: &str = "x-b3-traceid";
pub const B3_SPAN: &str = "x-b3-spanid";
pub const B3_PARENT: &str = "x-b3-parentspanid";
pub const B3_SAMPLED: &str = "x-b3-sampled";
pub const B3_FLAGS: &str = "x-b3-flags";

/// What the hop before said.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    pub id: [u8; 16],
    pub span: [u8; 8],
    /// None: to be decided here.
    pub sampled: Option<bool>,
    pub debug: bool,
}

/// The forms in which a trace is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    pub w3c: bool,
    pub b3_multi: bool,
    pub b3_single: bool,
}

/// The trace of these headers, and the forms that it came in. Of two that disagree, B3's counts where the collector
/// speaks B3 (`b3_first`).
pub fn extract(headers: &HeaderMap, b3_first: bool) -> Option<(Context, Forms)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let w3c = text(TRACEPARENT).and_then(traceparent);
    let single = text(B3_SINGLE).and_then(b3_single);
    let multi = b3_multi(text(B3_TRACE), text(B3_SPAN), text(B3_SAMPLED), text(B3_FLAGS));
    let forms = Forms { w3c: w3c.is_some(), b3_multi: multi.is_some(), b3_single: single.is_some() };
    let b3 = single.or(multi);
    let found = if b3_first { b3.or(w3c) } else { w3c.or(b3) };
    found.map(|context| (context, forms))
}

/// `00-TRACE-SPAN-FLAGS`; a later version may have more behind (W3C Trace Context, 3.2).
fn traceparent(text: &str) -> Option<Context> {
    let mut parts = text.split('-');
    let version = bytes::<1>(parts.next()?)?;
    let (id, span) = (bytes(parts.next()?)?, bytes(parts.next()?)?);
    let [flags] = bytes::<1>(parts.next()?)?;
    let more = parts.next().is_some();
    let known = version != [0xff] && !(version == [0] && more);
    (known && id != [0; 16] && span != [0; 8]).then_some(Context { id, span, sampled: Some(flags & 1 == 1), debug: false })
}

/// `TRACE-SPAN[-STATE[-PARENT]]`. A state alone names no trace.
fn b3_single(text: &str) -> Option<Context> {
    let mut parts = text.split('-');
    let (id, span) = (b3_id(parts.next()?)?, bytes(parts.next()?)?);
    let (sampled, debug) = match parts.next() {
        None => (None, false),
        Some("1") => (Some(true), false),
        Some("0") => (Some(false), false),
        Some("d") => (Some(true), true),
        Some(_) => return None,
    };
    (span != [0; 8]).then_some(Context { id, span, sampled, debug })
}

fn b3_multi(id: Option<&str>, span: Option<&str>, sampled: Option<&str>, flags: Option<&str>) -> Option<Context> {
    let (id, span) = (b3_id(id?)?, bytes(span?)?);
    let debug = flags == Some("1");
    let sampled = match sampled {
        _ if debug => Some(true),
        Some("1" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        _ => None,
    };
    (span != [0; 8]).then_some(Context { id, span, sampled, debug })
}

/// A short id is the lower half of a long one.
fn b3_id(text: &str) -> Option<[u8; 16]> {
    let id = match text.len() {
        16 => {
            let mut id = [0; 16];
            id[8..].copy_from_slice(&bytes::<8>(text)?);
            id
        }
        _ => bytes(text)?,
    };
    (id != [0; 16]).then_some(id)
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

/// For a copy of a request: the same trace, and nobody behind reports a span of it (spec/waypoint.md 5.9).
pub fn unsampled(headers: &mut HeaderMap) {
    let forms = [(TRACEPARENT, traceparent_unsampled as fn(&str) -> Option<String>), (B3_SINGLE, b3_unsampled)];
    for (name, unsampled) in forms {
        let Some(value) = headers.get(name) else { continue };
        match value.to_str().ok().and_then(unsampled).and_then(|text| HeaderValue::try_from(text).ok()) {
            Some(value) => drop(headers.insert(name, value)),
            // What cannot be read here may be read elsewhere.
            None => drop(headers.remove(name)),
        }
    }
    if headers.remove(B3_FLAGS).is_some() || headers.contains_key(B3_TRACE) || headers.contains_key(B3_SAMPLED) {
        headers.insert(B3_SAMPLED, HeaderValue::from_static("0"));
    }
}

fn traceparent_unsampled(text: &str) -> Option<String> {
    let Context { id, span, .. } = traceparent(text.trim())?;
    Some(format!("00-{}-{}-00", super::hex(&id), super::hex(&span)))
}

fn b3_unsampled(text: &str) -> Option<String> {
    // A state alone is a decision without a trace.
    if matches!(text.trim(), "0" | "1" | "d") {
        return Some("0".to_owned());
    }
    let Context { id, span, .. } = b3_single(text.trim())?;
    Some(format!("{}-{}-0", super::hex(&id), super::hex(&span)))
}

/// What an `x-request-id` says about tracing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// A proxy before us decided so.
    pub sampled: bool,
    /// Where this id falls of 10,000.
    pub of_10_000: u32,
}

/// The field's proxies write into the fifteenth character of the UUID what they decided: `9` by chance, `a` because the
/// client asked, `b` because it was forced.
pub fn request_id_says(id: &str) -> Option<Hint> {
    let bytes = id.as_bytes();
    let uuid = bytes.len() == 36 && [8, 13, 18, 23].iter().all(|at| bytes[*at] == b'-');
    if !uuid {
        return None;
    }
    let first = u32::from_str_radix(id.get(..8)?, 16).ok()?;
    Some(Hint { sampled: matches!(bytes[14], b'9' | b'a' | b'b'), of_10_000: first % 10_000 })
}
