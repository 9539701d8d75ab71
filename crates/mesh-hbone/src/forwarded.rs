//! The `forwarded` header: for whom a CONNECT is made, and by which service name. Pure (spec/dataplane.md 1.3).

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue};

/// The header's name.
pub const FORWARDED: &str = "forwarded";

/// `for="<source>"`, and `;host=<service>` when the destination was addressed by a service. A host that cannot stand
/// in a header is left out: it is for telemetry only.
pub fn emit(source: SocketAddr, host: Option<&str>) -> HeaderValue {
    let by_service = host
        .filter(|host| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b';' | b'"')))
        .and_then(|host| HeaderValue::try_from(format!("for=\"{source}\";host={host}")).ok());
    by_service.unwrap_or_else(|| {
        HeaderValue::try_from(format!("for=\"{source}\"")).expect("an address prints as visible ASCII")
    })
}

/// The service name the peer asked for: the first `host=` element of the first line, one pair of quotes stripped.
pub fn host(headers: &HeaderMap) -> Option<&str> {
    let line = headers.get(FORWARDED)?.to_str().ok()?;
    let host = line.split(';').find_map(|element| element.trim().strip_prefix("host="))?;
    let host = host.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(host);
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests;
