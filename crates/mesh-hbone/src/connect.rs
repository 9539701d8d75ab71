//! Where a CONNECT goes: the `:authority`, parsed and printed, and the request a client sends.
//!
//! Pure. Whether the target is allowed, and what a hostname stands for, is decided elsewhere (`admit`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use bytes::Bytes;
use http::uri::{Authority, Parts, Uri};
use http::{HeaderMap, Method, Request};

/// A DNS name has at most 253 characters (RFC 1035 2.3.4 without the final dot).
const HOSTNAME_LENGTH_MAX: usize = 253;

/// The target of a CONNECT: `a.b.c.d:port`, `[v6]:port` or `hostname:port` (spec/dataplane.md 1.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConnectHead {
    /// A pod address, or a virtual address on the hop to a waypoint. An IPv4-mapped IPv6 address is stored as IPv4,
    /// so that one address has one spelling for policy.
    Address(SocketAddr),
    /// A service hostname with the service's port (double HBONE).
    Host { name: String, port: u16 },
}

/// Why an authority is not a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    #[error("it is missing")]
    Missing,
    #[error("it has no port")]
    NoPort,
    #[error("its port is not a number from 1 to 65535")]
    BadPort,
    #[error("its address in brackets is not an IPv6 address")]
    BadAddress,
    #[error("its hostname is empty, longer than 253 characters, or has a character that no hostname has")]
    BadHostname,
}

/// What a client asks for: the target and the headers to go with it.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    pub to: ConnectHead,
    /// Sent in insertion order; `baggage`, `forwarded`, `traceparent`, then `x-forwarded-network` where it applies.
    pub headers: HeaderMap,
}

impl ConnectHead {
    pub fn port(&self) -> u16 {
        match self {
            ConnectHead::Address(address) => address.port(),
            ConnectHead::Host { port, .. } => *port,
        }
    }

    /// A hostname target; refuses what `parse` would refuse.
    pub fn host(name: &str, port: u16) -> Result<Self, BadAuthority> {
        if port == 0 {
            return Err(BadAuthority::BadPort);
        }
        if !is_hostname(name) {
            return Err(BadAuthority::BadHostname);
        }
        Ok(ConnectHead::Host { name: name.to_owned(), port })
    }
}

impl From<SocketAddr> for ConnectHead {
    fn from(address: SocketAddr) -> Self {
        ConnectHead::Address(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl FromStr for ConnectHead {
    type Err = BadAuthority;

    fn from_str(authority: &str) -> Result<Self, BadAuthority> {
        if authority.is_empty() {
            return Err(BadAuthority::Missing);
        }
        if let Some(rest) = authority.strip_prefix('[') {
            let (ip, port) = rest.split_once(']').ok_or(BadAuthority::BadAddress)?;
            let ip: std::net::Ipv6Addr = ip.parse().map_err(|_| BadAuthority::BadAddress)?;
            let port = parse_port(port.strip_prefix(':').ok_or(BadAuthority::NoPort)?)?;
            return Ok(SocketAddr::new(IpAddr::V6(ip), port).into());
        }
        let (host, port) = authority.rsplit_once(':').ok_or(BadAuthority::NoPort)?;
        let port = parse_port(port)?;
        match host.parse::<Ipv4Addr>() {
            Ok(ip) => Ok(SocketAddr::new(IpAddr::V4(ip), port).into()),
            Err(_) => ConnectHead::host(host, port),
        }
    }
}

impl fmt::Display for ConnectHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectHead::Address(address) => write!(f, "{address}"),
            ConnectHead::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

impl ConnectRequest {
    pub fn new(to: impl Into<ConnectHead>) -> Self {
        ConnectRequest { to: to.into(), headers: HeaderMap::new() }
    }

    /// The request as h2 wants it: CONNECT with only an authority, no scheme and no path (RFC 9113 8.5).
    pub(crate) fn to_http(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = authority_uri(&self.to);
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn authority_uri(to: &ConnectHead) -> Uri {
    let authority = Authority::from_maybe_shared(Bytes::from(to.to_string()))
        .expect("an address and a checked hostname are made of characters that an authority may have");
    let mut parts = Parts::default();
    parts.authority = Some(authority);
    Uri::from_parts(parts).expect("a URI of an authority alone is the form that CONNECT uses")
}

/// Digits only: `u16::from_str` would also take `+80`.
fn parse_port(text: &str) -> Result<u16, BadAuthority> {
    if text.is_empty() {
        return Err(BadAuthority::NoPort);
    }
    if text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadAuthority::BadPort);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(BadAuthority::BadPort),
        Ok(port) => Ok(port),
    }
}

/// Letters, digits, `-`, `_`, `.`, and `*` because a service may be named by a wildcard.
fn is_hostname(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= HOSTNAME_LENGTH_MAX
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'*'))
}

#[cfg(test)]
mod tests;
