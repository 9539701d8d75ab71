//! Pure: what a request may look like, and what of it is forwarded (spec/waypoint.md 1.6, 9).
//!
//! After `clean` a request has one form, whatever version it came in: the target is a path (or `*`), the name that it was
//! sent to is in `host`, once; nothing that concerns one connection only is left; what identifies the client is ours.

use std::net::IpAddr;
use std::time::Duration;

use http::header::{self, Entry, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri, Version};
use rand::Rng;

use mesh_xds::messages::waypoint::{EscapedSlash, PathNormalization, PortProtocol};

use crate::error::{Malformed, Reason};
use crate::facts::Arrival;

pub mod path;

/// A target that is longer has no honest reason: browsers and servers of the field stop at half of this.
const TARGET_BYTES_MAX: usize = 16 << 10;
/// HTTP/2 counts bytes and not fields; HTTP/1.1's parser stops at half of this.
pub const HEADERS_MAX: usize = 200;
/// Longer ones are replaced: they go into every log on the way.
const REQUEST_ID_BYTES_MAX: usize = 256;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// What proxies of the mesh say to each other when they open a tunnel, and to nobody else.
const BETWEEN_PROXIES: [HeaderName; 2] =
    [HeaderName::from_static("x-istio-source"), HeaderName::from_static("x-forwarded-network")];
/// Of one of these there is one, or two parties on the way read different ones.
const SINGLE: [HeaderName; 5] = [header::AUTHORIZATION, header::CONTENT_TYPE, header::CONTENT_LENGTH, X_REQUEST_ID, GRPC_TIMEOUT];

/// How requests of a service are taken.
#[derive(Clone, Debug)]
pub struct Manner {
    pub normalization: PathNormalization,
    pub escaped_slash: EscapedSlash,
    pub http10: bool,
    pub append_client_ip: bool,
    /// Hops before the client that are believed what they write into `x-forwarded-for`.
    pub trusted_proxies: u32,
    /// Our identity, where endpoints are told the client's.
    pub xfcc_by: Option<std::sync::Arc<str>>,
}

impl Default for Manner {
    fn default() -> Manner {
        Manner {
            normalization: PathNormalization::Base,
            escaped_slash: EscapedSlash::Keep,
            http10: false,
            append_client_ip: true,
            trusted_proxies: 0,
            xfcc_by: None,
        }
    }
}

/// What was found out about a request beside its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub kind: Kind,
    pub scheme: &'static str,
    pub grpc: bool,
    /// The client behind trusted proxies.
    pub remote: IpAddr,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// A gRPC client's deadline.
    pub grpc_timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// HTTP/1.1 with `Upgrade: websocket`.
    WebSocket,
    /// HTTP/2 with `:protocol: websocket` (RFC 8441). After `clean` its method is GET, as in HTTP/1.1.
    ExtendedConnect,
    /// A tunnel through a proxy of the application's.
    Connect,
}

/// Why a request goes no further.
#[derive(Debug)]
pub enum Turned {
    Refused(Reason),
    Redirect(PathAndQuery),
}

impl From<Reason> for Turned {
    fn from(reason: Reason) -> Turned {
        Turned::Refused(reason)
    }
}

impl From<Malformed> for Turned {
    fn from(what: Malformed) -> Turned {
        Turned::Refused(Reason::Malformed(what))
    }
}

/// # Errors
/// What no proxy may forward.
pub fn clean(
    parts: &mut http::request::Parts,
    arrival: &Arrival,
    class: PortProtocol,
    manner: &Manner,
    chance: &mut impl Rng,
) -> Result<Found, Turned> {
    match parts.version {
        Version::HTTP_11 | Version::HTTP_2 => {}
        Version::HTTP_10 if manner.http10 => {}
        _ => return Err(Reason::OldVersion.into()),
    }
    let scheme = check_target(&parts.method, &parts.uri)?;
    let authority = authority(parts)?;
    if parts.headers.len() > HEADERS_MAX {
        return Err(Malformed::HeaderCount.into());
    }
    let seen = Seen::of(&parts.headers);
    if seen.twice {
        single(&parts.headers)?;
    }
    let kind = kind(parts, class, &seen)?;
    if kind == Kind::ExtendedConnect {
        // What an endpoint will be asked, and so what policies and routes are to see, is a GET.
        parts.method = Method::GET;
    }
    strip_hop_by_hop(&mut parts.headers, &seen)?;
    if seen.others {
        strip_internal(&mut parts.headers);
    }
    if seen.twice {
        join_cookies(&mut parts.headers);
    }
    if let Some(authority) = authority {
        parts.headers.insert(header::HOST, authority);
    }
    if let Some(target) = target(&parts.uri, kind, manner)? {
        parts.uri = target;
    }
    let remote = identify(&mut parts.headers, arrival, scheme, manner, chance);
    let grpc = parts.version == Version::HTTP_2 && is_grpc(&parts.headers);
    let grpc_timeout = if grpc { grpc_timeout(&parts.headers)? } else { None };
    let expects = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    let expects_continue = parts.headers.get(header::EXPECT).is_some_and(expects);
    Ok(Found { kind, scheme, grpc, remote, expects_continue, grpc_timeout })
}

/// What of a head is looked at further; mostly nothing, and then one look at its names is all that it costs.
struct Seen {
    /// `connection` is there.
    connection: bool,
    /// Another name that is for one connection only, or for proxies among themselves.
    others: bool,
    /// Some name stands there more than once.
    twice: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Seen {
        let mut seen = Seen { connection: false, others: false, twice: headers.len() > headers.keys_len() };
        for name in headers.keys() {
            match name.as_str() {
                "connection" => seen.connection = true,
                // Every name that is taken away below stands here.
                "te" | "forwarded" | "upgrade" | "keep-alive" | "http2-settings" | "proxy-connection" | "transfer-encoding" => seen.others = true,
                "proxy-authorization" | "proxy-authenticate" => seen.others = true,
                name if name.starts_with("x-") => seen.others |= is_internal(name) || name == X_FORWARDED_CLIENT_CERT,
                _ => {}
            }
        }
        seen
    }
}

/// The form that the target has for the method (RFC 9112 3.2), and its scheme.
fn check_target(method: &Method, uri: &Uri) -> Result<&'static str, Turned> {
    let long = uri.path_and_query().is_some_and(|target| target.as_str().len() > TARGET_BYTES_MAX);
    if long || uri.authority().is_some_and(|authority| authority.as_str().len() > TARGET_BYTES_MAX) {
        return Err(Reason::UriTooLong.into());
    }
    // The first line of HTTP/2's preface, on a connection that is not HTTP/2.
    if method.as_str() == "PRI" {
        return Err(Malformed::Method.into());
    }
    let scheme = match uri.scheme_str() {
        None | Some("http") => "http",
        Some("https") => "https",
        Some(_) => return Err(Malformed::Target.into()),
    };
    let path = uri.path();
    let fits = match *method {
        Method::CONNECT => true,
        Method::OPTIONS => path == "*" || path.starts_with(['/', '\\']) || (path.is_empty() && uri.scheme().is_some()),
        _ => path.starts_with(['/', '\\']) || (path.is_empty() && uri.scheme().is_some()),
    };
    if fits { Ok(scheme) } else { Err(Malformed::Target.into()) }
}

/// The one name that the request was sent to; none where it stands in `host` already.
fn authority(parts: &http::request::Parts) -> Result<Option<HeaderValue>, Malformed> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Malformed::ManyHosts);
    }
    let named = parts.uri.authority();
    let authority = match (named, host) {
        (None, None) => return Err(Malformed::NoHost),
        (None, Some(host)) => return if is_authority(host.as_bytes()) { Ok(None) } else { Err(Malformed::Authority) },
        (Some(named), None) if parts.version == Version::HTTP_2 => {
            HeaderValue::from_str(named.as_str()).map_err(|_| Malformed::Authority)?
        }
        (Some(_), None) => return Err(Malformed::NoHost),
        (Some(named), Some(host)) if same_name(named.as_str().as_bytes(), host.as_bytes()) => host.clone(),
        (Some(_), Some(_)) => return Err(Malformed::HostConflict),
    };
    if is_authority(authority.as_bytes()) { Ok(Some(authority)) } else { Err(Malformed::Authority) }
}

/// Names are compared without case, and the port that plain HTTP implies may be left out.
fn same_name(one: &[u8], other: &[u8]) -> bool {
    let bare = |name: &'_ [u8]| -> usize { name.len() - if name.ends_with(b":80") { 3 } else { 0 } };
    one[..bare(one)].eq_ignore_ascii_case(&other[..bare(other)])
}

/// `host`, `host:port`, `[IPv6]:port`; no user, and no character that parsers disagree about.
fn is_authority(name: &[u8]) -> bool {
    let (host, port) = match name {
        [b'[', ..] => match name.iter().position(|byte| *byte == b']') {
            Some(end) => (&name[..=end], &name[end + 1..]),
            None => return false,
        },
        _ => name.split_at(name.iter().position(|byte| *byte == b':').unwrap_or(name.len())),
    };
    let host_ok = match host {
        [b'[', inner @ .., b']'] => std::str::from_utf8(inner).is_ok_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok()),
        _ => {
            !host.is_empty() && host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
        }
    };
    let port_ok = match port {
        [] => true,
        [b':', digits @ ..] => {
            !digits.is_empty()
                && digits.iter().all(u8::is_ascii_digit)
                && std::str::from_utf8(digits).is_ok_and(|port| port.parse::<u16>().is_ok())
        }
        _ => false,
    };
    host_ok && port_ok
}

fn single(headers: &HeaderMap) -> Result<(), Malformed> {
    match SINGLE.iter().any(|name| headers.get_all(name).iter().nth(1).is_some()) {
        true => Err(Malformed::Duplicate),
        false => Ok(()),
    }
}

fn kind(parts: &http::request::Parts, class: PortProtocol, seen: &Seen) -> Result<Kind, Turned> {
    if parts.method == Method::CONNECT {
        return match parts.extensions.get::<hyper::ext::Protocol>() {
            Some(protocol) if protocol.as_str().eq_ignore_ascii_case("websocket") && parts.uri.path().starts_with('/') => {
                Ok(Kind::ExtendedConnect)
            }
            None if class == PortProtocol::HttpProxy => Ok(Kind::Connect),
            _ => Err(Reason::ConnectRefused.into()),
        };
    }
    let asked = seen.connection
        && seen.others
        && parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && has_token(&parts.headers, &header::CONNECTION, "upgrade")
        && has_token(&parts.headers, &header::UPGRADE, "websocket");
    Ok(if asked { Kind::WebSocket } else { Kind::Plain })
}

/// What concerns the connection that a message came on (RFC 9110 7.6.1). `Trailer` stays, as the trailers do.
fn strip_hop_by_hop(headers: &mut HeaderMap, seen: &Seen) -> Result<(), Malformed> {
    if !seen.others {
        strip_connection(headers, seen);
        return Ok(());
    }
    for coding in headers.get_all(header::TRANSFER_ENCODING) {
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed::Transfer);
        }
    }
    let trailers = has_token(headers, &header::TE, "trailers");
    strip_connection(headers, seen);
    headers.remove(header::TE);
    headers.remove(header::PROXY_AUTHORIZATION);
    headers.remove(HTTP2_SETTINGS);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

fn strip_connection(headers: &mut HeaderMap, seen: &Seen) {
    if seen.connection && (seen.twice || !is_plain(headers.get(header::CONNECTION))) {
        let values: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
        for name in values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
            // What frames a message, and whom it is for, is not for a client to take away.
            match HeaderName::from_bytes(name.trim_ascii()) {
                Ok(header::HOST | header::CONTENT_LENGTH) | Err(_) => {}
                Ok(name) => drop(headers.remove(name)),
            }
        }
    }
    if seen.connection {
        headers.remove(header::CONNECTION);
    }
    if !seen.others {
        return;
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
}

/// `connection` says what nearly everybody says, and names no other header.
fn is_plain(connection: Option<&HeaderValue>) -> bool {
    connection.is_some_and(|value| [&b"keep-alive"[..], b"close"].iter().any(|word| value.as_bytes().eq_ignore_ascii_case(word)))
}

fn is_internal(name: &str) -> bool {
    name.starts_with("x-envoy-") || BETWEEN_PROXIES.iter().any(|known| known.as_str() == name)
}

/// What only proxies of the mesh say, and what would be believed as said by one (spec/reliability.md V-45).
fn strip_internal(headers: &mut HeaderMap) {
    let internal = |name: &HeaderName| is_internal(name.as_str());
    if headers.keys().any(internal) {
        let found: Vec<HeaderName> = headers.keys().filter(|name| internal(name)).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }
    headers.remove(X_FORWARDED_CLIENT_CERT);
    // Nodes say it of tunnels. In a request it is the client's own story, which servers of the field believe; `x-forwarded-for`
    // and `-proto` are what we vouch for. `baggage` stays: it is the application's, and nobody here reads it.
    headers.remove(header::FORWARDED);
}

/// HTTP/2 may send a cookie in pieces; elsewhere it is one header (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// The path that is judged and forwarded, where it is not the one that stands there.
fn target(uri: &Uri, kind: Kind, manner: &Manner) -> Result<Option<Uri>, Turned> {
    if kind == Kind::Connect {
        return Ok(None);
    }
    let given = if uri.path().is_empty() { "/" } else { uri.path() };
    if given == "*" {
        return Ok(Some(Uri::from_static("*")));
    }
    let rest = |path: &str| -> Result<PathAndQuery, Malformed> {
        let target = match uri.query() {
            Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
            None => PathAndQuery::try_from(path),
        };
        target.map_err(|_| Malformed::Target)
    };
    match path::canonical(given, manner.normalization, manner.escaped_slash) {
        Ok(same) if same == uri.path() && !same.is_empty() && uri.authority().is_none() && uri.scheme().is_none() => Ok(None),
        Ok(same) if same == uri.path() => match uri.path_and_query().cloned().map(Uri::from) {
            Some(target) if target.path() == same => Ok(Some(target)),
            // `http://web#x`: without the host before it there would be no path at all.
            _ => Ok(Some(rest(&same)?.into())),
        },
        Ok(path) => Ok(Some(rest(&path)?.into())),
        Err(path::Turned::Refused(what)) => Err(what.into()),
        Err(path::Turned::Redirect(path)) => Err(Turned::Redirect(rest(&path)?)),
    }
}

/// Who asks, as endpoints and logs are told; the client's address as policies see it.
fn identify(headers: &mut HeaderMap, arrival: &Arrival, scheme: &'static str, manner: &Manner, chance: &mut impl Rng) -> IpAddr {
    if let Entry::Vacant(empty) = headers.entry(X_REQUEST_ID) {
        empty.insert(request_id(chance));
    } else if headers[X_REQUEST_ID].len() > REQUEST_ID_BYTES_MAX {
        headers.insert(X_REQUEST_ID, request_id(chance));
    }
    let source = arrival.source.ip();
    let remote = remote(headers, source, manner.trusted_proxies);
    if manner.append_client_ip {
        append_forwarded_for(headers, source);
    }
    if let Entry::Vacant(empty) = headers.entry(X_FORWARDED_PROTO) {
        empty.insert(HeaderValue::from_static(scheme));
    }
    if let Some(by) = &manner.xfcc_by
        && let Ok(value) = HeaderValue::from_str(&format!("By={by};URI={}", arrival.identity))
    {
        headers.insert(X_FORWARDED_CLIENT_CERT, value);
    }
    remote
}

/// The address that the outermost trusted proxy saw; what is further left could be anybody's.
fn remote(headers: &HeaderMap, source: IpAddr, trusted: u32) -> IpAddr {
    let Some(back) = usize::try_from(trusted).ok().and_then(|trusted| trusted.checked_sub(1)) else {
        return source;
    };
    let values: Vec<&str> = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut hops = values.iter().rev().flat_map(|value| value.rsplit(','));
    hops.nth(back).and_then(|hop| hop.trim().parse().ok()).unwrap_or(source)
}

fn append_forwarded_for(headers: &mut HeaderMap, source: IpAddr) {
    let mut hops = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        hops.extend_from_slice(value.as_bytes());
        hops.extend_from_slice(b", ");
    }
    write_address(&mut hops, source);
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(hops)) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// As `Display` does, which takes ten times as long for the addresses that nearly all have.
fn write_address(text: &mut Vec<u8>, ip: IpAddr) {
    let IpAddr::V4(ip) = ip else { return text.extend_from_slice(ip.to_string().as_bytes()) };
    text.reserve(15);
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            text.push(b'.');
        }
        if octet >= 100 {
            text.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            text.push(b'0' + octet / 10 % 10);
        }
        text.push(b'0' + octet % 10);
    }
}

/// A UUID of version 4 (RFC 9562 5.4).
fn request_id(chance: &mut impl Rng) -> HeaderValue {
    let mut bytes: [u8; 16] = chance.random();
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let mut text = [0; 36];
    let mut at = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text[at] = b'-';
            at += 1;
        }
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 0x0F)];
        at += 2;
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes")
}

/// `application/grpc`, `application/grpc+proto`; not gRPC-Web.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return false };
    let Some(rest) = kind.as_bytes().strip_prefix(b"application/grpc") else { return false };
    matches!(rest.first(), None | Some(b'+' | b';'))
}

/// `500m`: at most eight digits and a unit.
///
/// # Errors
/// It is written otherwise.
pub fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    read_grpc_timeout(value.as_bytes()).map(Some).ok_or(Malformed::GrpcTimeout)
}

fn read_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// What is left of a deadline, in the finest unit that eight digits hold.
pub fn write_grpc_timeout(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let text = match left {
        _ if left.as_micros() <= MOST => format!("{}u", left.as_micros()),
        _ if left.as_millis() <= MOST => format!("{}m", left.as_millis()),
        _ => format!("{}S", left.as_secs().min(99_999_999)),
    };
    HeaderValue::try_from(text).expect("digits and a unit")
}

/// What of an endpoint's response is its own.
pub fn clean_response(headers: &mut HeaderMap) {
    let seen = Seen::of(headers);
    strip_connection(headers, &seen);
    if !seen.others {
        return;
    }
    headers.remove(header::PROXY_AUTHENTICATE);
    headers.remove(HeaderName::from_static("x-envoy-peer-metadata"));
    headers.remove(HeaderName::from_static("x-envoy-peer-metadata-id"));
}

/// A list header has this word in it.
fn has_token(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let words = |value: &HeaderValue| {
        value.as_bytes().split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    };
    headers.get_all(name).iter().any(words)
}

#[cfg(test)]
mod tests;
