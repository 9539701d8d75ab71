//! The `forwarded` header: for whom a CONNECT is made, and by which service name; and `x-forwarded-network`, from which
//! network, on the inner CONNECT of a double tunnel. Pure (spec/dataplane.md 1.3, 1.9).

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue};

/// The header's name.
pub const FORWARDED: &str = "forwarded";

/// Carries the source's network id, on the inner CONNECT only.
pub const X_FORWARDED_NETWORK: &str = "x-forwarded-network";

/// `for="<source>"`, and `;host=<service>` when the destination was addressed by a service. A host that cannot stand
/// in a header is left out: it is for telemetry only.
pub fn emit(source: SocketAddr, host: Option<&str>) -> HeaderValue {
    let by_service = host
        .filter(|host| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b';' | b'"')))
        .and_then(|host| HeaderValue::try_from(format!("for=\"{source}\";host={host}")).ok());
    by_service.unwrap_or_else(|| HeaderValue::try_from(format!("for=\"{source}\"")).expect("an address prints as visible ASCII"))
}

/// The service name the peer asked for: the first `host=` element of the first line, one pair of quotes stripped.
pub fn host(headers: &HeaderMap) -> Option<&str> {
    let line = headers.get(FORWARDED)?.to_str().ok()?;
    let host = line.split(';').find_map(|element| element.trim().strip_prefix("host="))?;
    let host = host.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(host);
    (!host.is_empty()).then_some(host)
}

/// The client that the peer asks for: the first `for=` element of the first line, if it is an address with a port.
pub fn source(headers: &HeaderMap) -> Option<SocketAddr> {
    let line = headers.get(FORWARDED)?.to_str().ok()?;
    let source = line.split(';').find_map(|element| element.trim().strip_prefix("for="))?;
    let source = source.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(source);
    let source: SocketAddr = source.parse().ok()?;
    Some(SocketAddr::new(source.ip().to_canonical(), source.port()))
}

/// Whether the request came through a gateway from another network than `ours`: the TCP source is not the workload
/// then. Names are compared without regard to case; a value that is not visible ASCII says nothing.
pub fn from_other_network(headers: &HeaderMap, ours: &str) -> bool {
    let network = headers.get(X_FORWARDED_NETWORK).and_then(|value| value.to_str().ok());
    network.is_some_and(|network| !network.eq_ignore_ascii_case(ours))
}

#[cfg(test)]
mod tests;
