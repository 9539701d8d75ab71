//! The `traceparent` header (W3C Trace Context): names the span of one connection in both nodes' logs. Pure.

use std::fmt;

use http::{HeaderMap, HeaderValue};

/// The header's name.
pub const TRACEPARENT: &str = "traceparent";

/// `version-trace-parent-flags`, 2-32-16-2 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    version: u8,
    trace: u128,
    parent: u64,
    flags: u8,
}

impl TraceParent {
    /// A fresh one, unsampled; the caller brings the randomness.
    pub fn new(trace: u128, parent: u64) -> Self {
        TraceParent { version: 0, trace, parent, flags: 0 }
    }

    /// The peer's, if the first line is one; else the caller makes its own.
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        Self::from_text(headers.get(TRACEPARENT)?.to_str().ok()?)
    }

    /// Exactly 55 characters in four fields of fixed width.
    fn from_text(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let [version, trace, parent, flags] = [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
        if fields.next().is_some() || [version.len(), trace.len(), parent.len(), flags.len()] != [2, 32, 16, 2] {
            return None;
        }
        Some(TraceParent {
            version: hex(version)? as u8,
            trace: hex(trace)?,
            parent: hex(parent)? as u64,
            flags: hex(flags)? as u8,
        })
    }

    /// The trace id as it stands in logs.
    pub fn trace(&self) -> u128 {
        self.trace
    }

    pub fn emit(&self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).expect("hexadecimal digits and dashes are visible ASCII")
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}-{:032x}-{:016x}-{:02x}", self.version, self.trace, self.parent, self.flags)
    }
}

/// Digits only: `from_str_radix` would also take a sign.
fn hex(text: &str) -> Option<u128> {
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests;
