//! Requests as they come, and what is left of them.

use std::net::SocketAddr;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::testing::arrival;

/// `GET /a HTTP/1.1` and lines of headers; `HTTP/2` takes an absolute target.
fn parts(text: &str) -> http::request::Parts {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let version = match first[2] {
        "HTTP/1.0" => Version::HTTP_10,
        "HTTP/1.1" => Version::HTTP_11,
        _ => Version::HTTP_2,
    };
    let mut request = http::Request::builder().method(first[0]).uri(first[1]).version(version).body(()).unwrap();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        request
            .headers_mut()
            .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value.trim()).unwrap());
    }
    request.into_parts().0
}

fn cleaned_by(text: &str, manner: &Manner) -> Result<(http::request::Parts, Found), String> {
    let mut parts = parts(text);
    let mut chance = SmallRng::seed_from_u64(1);
    match clean(&mut parts, &arrival(), PortProtocol::Http1, manner, &mut chance) {
        Ok(found) => Ok((parts, found)),
        Err(Turned::Refused(reason)) => Err(format!("{} {}", reason.status().as_u16(), reason.words().details)),
        Err(Turned::Redirect(to)) => Err(format!("-> {to}")),
    }
}

fn cleaned(text: &str) -> Result<(http::request::Parts, Found), String> {
    cleaned_by(text, &Manner::default())
}

// V-12, V-41, V-42
#[test]
fn what_is_refused_and_why() {
    // request, and what becomes of it: the host and target that are judged, or the refusal
    let table: &[(&str, &str)] = &[
        ("GET /a HTTP/1.1\nHost: web", "web /a"),
        ("GET /a?b=../c HTTP/1.1\nHost: web:80", "web:80 /a?b=../c"),
        ("GET /a/../b?x HTTP/1.1\nHost: web", "web /b?x"),
        ("GET / HTTP/1.1", "400 missing_host"),
        ("GET / HTTP/1.1\nHost: web\nHost: web", "400 several_hosts"),
        ("GET / HTTP/1.1\nHost: web\nHost: admin", "400 several_hosts"),
        ("GET http://web/a HTTP/1.1\nHost: web", "web /a"),
        ("GET http://web HTTP/1.1\nHost: web", "web /"),
        ("GET http://web?x=1 HTTP/1.1\nHost: web", "web /?x=1"),
        ("GET http://web#x HTTP/1.1\nHost: web", "web /"),
        ("GET http://web#x HTTP/2", "web /"),
        ("GET http://WEB:80/a HTTP/1.1\nHost: web", "web /a"),
        ("GET http://admin/a HTTP/1.1\nHost: web", "400 host_conflict"),
        ("GET http://web/a HTTP/1.1", "400 missing_host"),
        ("GET ftp://web/a HTTP/1.1\nHost: web", "400 invalid_target"),
        ("GET https://web/a HTTP/1.1\nHost: web", "web /a"),
        ("GET http://user@web/a HTTP/1.1\nHost: user@web", "400 invalid_authority"),
        ("GET / HTTP/1.1\nHost: web, admin", "400 invalid_authority"),
        ("GET / HTTP/1.1\nHost: web admin", "400 invalid_authority"),
        ("GET / HTTP/1.1\nHost: web/admin", "400 invalid_authority"),
        ("GET / HTTP/1.1\nHost:", "400 invalid_authority"),
        ("GET / HTTP/1.1\nHost: web:x", "400 invalid_authority"),
        ("GET / HTTP/1.1\nHost: web:99999", "400 invalid_authority"),
        ("GET / HTTP/1.1\nHost: web:", "400 invalid_authority"),
        ("GET / HTTP/1.1\nHost: [::1]:80", "[::1]:80 /"),
        ("GET / HTTP/1.1\nHost: [::1", "400 invalid_authority"),
        ("GET / HTTP/1.1\nHost: [web]", "400 invalid_authority"),
        ("GET / HTTP/1.1\nHost: ::1", "400 invalid_authority"),
        ("GET / HTTP/1.1\nHost: Web.Shop.", "Web.Shop. /"),
        ("get / HTTP/1.1\nHost: web", "web /"),
        ("PRI / HTTP/1.1\nHost: web", "400 invalid_method"),
        ("GET * HTTP/1.1\nHost: web", "400 invalid_target"),
        ("OPTIONS * HTTP/1.1\nHost: web", "web *"),
        ("GET web HTTP/1.1\nHost: web", "400 invalid_target"),
        ("GET web:80 HTTP/1.1\nHost: web:80", "400 invalid_target"),
        ("CONNECT web:80 HTTP/1.1\nHost: web:80", "405 connect_refused"),
        ("GET / HTTP/1.0\nHost: web", "426 low_version"),
        ("GET /a%00 HTTP/1.1\nHost: web", "400 nul_in_path"),
        ("GET /a%2 HTTP/1.1\nHost: web", "400 invalid_escape_in_path"),
        ("GET / HTTP/1.1\nHost: web\nAuthorization: a\nAuthorization: b", "400 duplicate_header"),
        ("GET / HTTP/1.1\nHost: web\nContent-Type: a\nContent-Type: b", "400 duplicate_header"),
        ("GET / HTTP/1.1\nHost: web\nX-Request-Id: a\nX-Request-Id: b", "400 duplicate_header"),
        ("POST / HTTP/1.1\nHost: web\nContent-Length: 1\nContent-Length: 1", "400 duplicate_header"),
        ("POST / HTTP/1.1\nHost: web\nTransfer-Encoding: chunked", "web /"),
        ("POST / HTTP/1.1\nHost: web\nTransfer-Encoding: gzip, chunked", "400 invalid_transfer_encoding"),
        ("POST / HTTP/1.1\nHost: web\nTransfer-Encoding: chunked, chunked", "400 invalid_transfer_encoding"),
        ("POST / HTTP/1.1\nHost: web\nTransfer-Encoding: xchunked", "400 invalid_transfer_encoding"),
        ("GET http://web/a HTTP/2", "web /a"),
        ("GET http://web/a HTTP/2\nHost: web", "web /a"),
        ("GET http://web/a HTTP/2\nHost: admin", "400 host_conflict"),
        ("GET http://web/a HTTP/2\nHost: web\nHost: web", "400 several_hosts"),
        ("GET /a HTTP/2\nHost: web", "web /a"),
        ("GET /a HTTP/2", "400 missing_host"),
        ("POST http://web/a.B/C HTTP/2\nContent-Type: application/grpc\nGrpc-Timeout: 1x", "400 invalid_grpc_timeout"),
    ];
    for (request, expected) in table {
        let got = cleaned(request).map(|(parts, _)| format!("{} {}", parts.headers[header::HOST].to_str().unwrap(), parts.uri));
        assert_eq!(&got.unwrap_or_else(|why| why), expected, "{request}");
    }
}

#[test]
fn long_targets_and_many_headers_have_their_own_status() {
    let long = format!("GET /{} HTTP/1.1\nHost: web", "a".repeat(TARGET_BYTES_MAX));
    assert_eq!(cleaned(&long).unwrap_err(), "414 uri_too_long");
    let many: String = (0..HEADERS_MAX).map(|n| format!("x-{n}: a\n")).collect();
    assert_eq!(cleaned(&format!("GET http://web/ HTTP/2\nHost: web\n{many}")).unwrap_err(), "431 too_many_headers");
}

// V-45, T-16
#[test]
fn what_is_forwarded() {
    // headers of a request (with Host), headers that are left beside host, x-request-id, x-forwarded-for and -proto
    let table: &[(&str, &[&str])] = &[
        ("Accept: */*", &["accept: */*"]),
        ("Connection: keep-alive\nKeep-Alive: 5", &[]),
        ("Connection: close, X-Mine\nX-Mine: 1\nX-Yours: 2", &["x-yours: 2"]),
        ("Connection: host, content-length\nContent-Length: 0", &["content-length: 0"]),
        ("Connection: x-request-id\nX-Request-Id: forged", &[]),
        ("Proxy-Connection: keep-alive\nProxy-Authorization: Basic x", &[]),
        ("TE: trailers, gzip", &["te: trailers"]),
        ("TE: gzip", &[]),
        ("Connection: TE\nTE: trailers", &["te: trailers"]),
        ("Transfer-Encoding: chunked\nTrailer: X-Sum", &["trailer: X-Sum"]),
        ("Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMA", &[]),
        ("HTTP2-Settings: AAMA", &[]),
        ("Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: x", &["sec-websocket-key: x"]),
        ("X-Envoy-Internal: true\nX-Envoy-Retry-On: 5xx\nX-Envoy-Original-Path: /admin", &[]),
        ("X-Envoy-Peer-Metadata: a\nX-Envoy-Peer-Metadata-Id: b", &[]),
        ("X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/admin", &[]),
        ("X-Istio-Source: waypoint\nX-Forwarded-Network: n", &[]),
        ("Cookie: a=1\nCookie: b=2", &["cookie: a=1; b=2"]),
        ("Forwarded: for=1.2.3.4;proto=https\nForwarded: by=me", &[]),
        ("Baggage: user=bob", &["baggage: user=bob"]),
        ("Expect: 100-continue", &["expect: 100-continue"]),
        ("X-Forwarded-Host: example.com\nTraceparent: 00-1-2-3", &["x-forwarded-host: example.com", "traceparent: 00-1-2-3"]),
    ];
    for (headers, expected) in table {
        let (parts, _) = cleaned(&format!("GET / HTTP/1.1\nHost: web\n{headers}")).unwrap();
        let own = [header::HOST, X_REQUEST_ID, X_FORWARDED_FOR, X_FORWARDED_PROTO];
        let left: Vec<String> = parts
            .headers
            .iter()
            .filter(|(name, _)| !own.contains(name))
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        assert_eq!(left, *expected, "{headers}");
        assert_ne!(parts.headers[X_REQUEST_ID], "forged");
    }
}

#[test]
fn the_client_is_told_to_the_endpoint_and_to_policy() {
    let source = arrival().source.ip().to_string();
    // x-forwarded-for as it comes, trusted proxies, as it goes, the client as policy sees it
    let table: &[(&str, u32, &str, &str)] = &[
        ("", 0, &source, &source),
        ("1.2.3.4", 0, &format!("1.2.3.4, {source}"), &source),
        ("1.2.3.4", 1, &format!("1.2.3.4, {source}"), "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", 1, &format!("6.6.6.6, 1.2.3.4, {source}"), "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", 2, &format!("6.6.6.6, 1.2.3.4, {source}"), "6.6.6.6"),
        ("1.2.3.4", 3, &format!("1.2.3.4, {source}"), &source),
        ("nonsense", 1, &format!("nonsense, {source}"), &source),
    ];
    for (given, trusted_proxies, forwarded, remote) in table {
        let manner = Manner { trusted_proxies: *trusted_proxies, ..Manner::default() };
        let line = if given.is_empty() { String::new() } else { format!("X-Forwarded-For: {given}") };
        let (parts, found) = cleaned_by(&format!("GET / HTTP/1.1\nHost: web\n{line}"), &manner).unwrap();
        assert_eq!(parts.headers[X_FORWARDED_FOR], *forwarded, "{given}");
        assert_eq!(found.remote.to_string(), *remote, "{given}");
        assert_eq!(parts.headers[X_FORWARDED_PROTO], "http");
    }
    let manner = Manner { append_client_ip: false, xfcc_by: Some("spiffe://me".into()), ..Manner::default() };
    let (parts, _) =
        cleaned_by("GET / HTTP/1.1\nHost: web\nX-Forwarded-Client-Cert: URI=forged\nX-Forwarded-Proto: https", &manner).unwrap();
    assert!(!parts.headers.contains_key(X_FORWARDED_FOR));
    assert_eq!(parts.headers[X_FORWARDED_CLIENT_CERT], "By=spiffe://me;URI=spiffe://cluster.local/ns/shop/sa/client");
    assert_eq!(parts.headers[X_FORWARDED_PROTO], "https");
}

#[test]
fn a_request_id_is_made_once_and_kept() {
    let (parts, _) = cleaned("GET / HTTP/1.1\nHost: web").unwrap();
    let id = parts.headers[X_REQUEST_ID].to_str().unwrap().to_owned();
    let form: String = id.chars().map(|c| if c.is_ascii_hexdigit() { 'x' } else { c }).collect();
    assert_eq!(form, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
    assert_eq!(&id[14..15], "4");
    assert!("89ab".contains(&id[19..20]));
    let (parts, _) = cleaned("GET / HTTP/1.1\nHost: web\nX-Request-Id: mine").unwrap();
    assert_eq!(parts.headers[X_REQUEST_ID], "mine");
    let long = format!("GET / HTTP/1.1\nHost: web\nX-Request-Id: {}", "a".repeat(300));
    assert_eq!(cleaned(&long).unwrap().0.headers[X_REQUEST_ID].len(), 36);
}

#[test]
fn kinds_of_requests() {
    let table: &[(&str, Kind, bool)] = &[
        ("GET / HTTP/1.1\nHost: web", Kind::Plain, false),
        ("GET / HTTP/1.1\nHost: web\nConnection: Upgrade\nUpgrade: WebSocket", Kind::WebSocket, false),
        ("GET / HTTP/1.1\nHost: web\nConnection: keep-alive, upgrade\nUpgrade: websocket", Kind::WebSocket, false),
        ("GET / HTTP/1.1\nHost: web\nUpgrade: websocket", Kind::Plain, false),
        ("POST / HTTP/1.1\nHost: web\nConnection: Upgrade\nUpgrade: websocket", Kind::Plain, false),
        ("GET / HTTP/1.1\nHost: web\nConnection: Upgrade\nUpgrade: h2c", Kind::Plain, false),
        ("GET / HTTP/1.1\nHost: web\nConnection: Upgrade\nUpgrade: TLS/1.0", Kind::Plain, false),
        ("POST http://web/a HTTP/2\nContent-Type: application/grpc", Kind::Plain, true),
        ("POST http://web/a HTTP/2\nContent-Type: application/grpc+proto", Kind::Plain, true),
        ("POST http://web/a HTTP/2\nContent-Type: application/grpc;x", Kind::Plain, true),
        ("POST http://web/a HTTP/2\nContent-Type: application/grpc-web", Kind::Plain, false),
        ("POST /a HTTP/1.1\nHost: web\nContent-Type: application/grpc", Kind::Plain, false),
    ];
    for (request, kind, grpc) in table {
        let (_, found) = cleaned(request).unwrap();
        assert_eq!((found.kind, found.grpc), (*kind, *grpc), "{request}");
    }
}

#[test]
fn deadlines_of_grpc() {
    let table: &[(&str, Option<Duration>)] = &[
        ("1S", Some(Duration::from_secs(1))),
        ("2M", Some(Duration::from_secs(120))),
        ("3H", Some(Duration::from_secs(10800))),
        ("500m", Some(Duration::from_millis(500))),
        ("99999999n", Some(Duration::from_nanos(99_999_999))),
        ("7u", Some(Duration::from_micros(7))),
        ("", None),
        ("1", None),
        ("S", None),
        ("-1S", None),
        ("123456789m", None),
        ("1.5S", None),
    ];
    for (text, expected) in table {
        assert_eq!(read_grpc_timeout(text.as_bytes()), *expected, "{text}");
    }
    for left in [0, 1, 99_999_999, 100_000_000, 86_400_000_000, u64::MAX] {
        let left = Duration::from_micros(left);
        let again = read_grpc_timeout(write_grpc_timeout(left).as_bytes()).unwrap();
        assert!(
            again <= left && (left > Duration::from_secs(99_999_999) || left - again < Duration::from_secs(1)),
            "{left:?} {again:?}"
        );
    }
}

#[test]
fn responses_lose_what_concerns_the_connection() {
    let mut headers = parts("GET / HTTP/1.1\nConnection: close, X-Hop\nX-Hop: 1\nKeep-Alive: 5\nTransfer-Encoding: chunked\nX-Envoy-Peer-Metadata: a\nServer: s").headers;
    clean_response(&mut headers);
    assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["server"]);
    for (line, left) in [
        ("Connection: Keep-Alive", ""),
        ("Connection: close\nConnection: x-hop\nX-Hop: 1", ""),
        ("Connection: x-hop\nX-Hop: 1", ""),
        ("Keep-Alive: 5", ""),
        ("Proxy-Authenticate: Basic", ""),
        ("X-Envoy-Peer-Metadata-Id: a", ""),
        ("X-Envoy-Upstream-Service-Time: 3", "x-envoy-upstream-service-time"),
        ("X-Hop: 1", "x-hop"),
    ] {
        let mut headers = parts(&format!("GET / HTTP/1.1\n{line}")).headers;
        clean_response(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>().join(","), left, "{line}");
    }
}

// The one look at the names must not miss what a look for each of them would have found.
#[test]
fn a_glance_misses_nothing() {
    let names = "connection te trailer upgrade keep-alive http2-settings proxy-connection transfer-encoding proxy-authorization \
        proxy-authenticate forwarded x-forwarded-client-cert x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-network \
        x-istio-source x-envoy-peer-metadata x-envoy-peer-metadata-id x-envoy-original-path x-request-id x-hop cookie authorization \
        content-type content-length host accept baggage traceparent";
    let all = || Seen { connection: true, others: true, twice: true };
    for (one, other) in names.split_whitespace().flat_map(|one| names.split_whitespace().map(move |other| (one, other))) {
        for value in ["chunked", "close", "x-hop, te", "trailers"] {
            let head = format!("GET / HTTP/1.1\nHost: web\n{one}: {value}\n{other}: {value}");
            let strip = |seen: Seen, mut headers: HeaderMap| {
                let hop = strip_hop_by_hop(&mut headers, &seen);
                if seen.others {
                    strip_internal(&mut headers);
                }
                if seen.twice {
                    join_cookies(&mut headers);
                }
                (hop.is_ok(), headers)
            };
            let headers = parts(&head).headers;
            assert_eq!(strip(Seen::of(&headers), headers.clone()), strip(all(), headers), "{head}");
            let (mut quick, mut slow) = (parts(&head).headers, parts(&head).headers);
            clean_response(&mut quick);
            strip_connection(&mut slow, &all());
            for name in ["proxy-authenticate", "x-envoy-peer-metadata", "x-envoy-peer-metadata-id"] {
                slow.remove(name);
            }
            assert_eq!(quick, slow, "{head}");
        }
    }
}

#[test]
fn addresses_are_written_as_everywhere() {
    for text in ["0.0.0.0", "1.22.133.0", "10.0.0.1", "100.109.200.99", "255.255.255.255", "::1", "2001:db8::ff00:1"] {
        let mut written = Vec::new();
        write_address(&mut written, text.parse().unwrap());
        assert_eq!(String::from_utf8(written).unwrap(), text);
    }
}

proptest! {
    /// A request that was cleaned is clean: nothing changes when the next proxy cleans it, but for our own address.
    #[test]
    fn cleaning_again_changes_nothing(
        path in "(/(\\.|\\.\\.|a|%2e|%61|%2F|;x|\\\\)*){1,5}",
        names in prop::collection::vec(prop::sample::select(vec![
            "Connection: x-a", "X-A: 1", "TE: trailers", "Cookie: a=1", "Cookie: b=2", "X-Envoy-A: 1", "Keep-Alive: 1",
            "Upgrade: h2c", "Expect: 100-continue", "X-Forwarded-For: 1.1.1.1", "X-Request-Id: r",
        ]), 0..6),
    ) {
        let manner = Manner { append_client_ip: false, ..Manner::default() };
        let text = format!("GET {path} HTTP/1.1\nHost: web\n{}", names.join("\n"));
        if let Ok((mut once, found)) = cleaned_by(&text, &manner) {
            let (target, headers) = (once.uri.clone(), once.headers.clone());
            let again = clean(&mut once, &arrival(), PortProtocol::Http1, &manner, &mut SmallRng::seed_from_u64(2)).unwrap();
            prop_assert_eq!((again, once.uri, once.headers), (found, target, headers));
        }
    }

    /// Whatever is in `Host`, it is one name, and never one with a separator of messages or users in it.
    #[test]
    fn an_authority_is_one_name(name in "\\PC{0,20}") {
        if is_authority(name.as_bytes()) {
            prop_assert!(!name.contains(['@', '/', '?', '#', ' ', ',', '\\', '%']));
            prop_assert!(name.parse::<http::uri::Authority>().is_ok() || name.parse::<SocketAddr>().is_ok());
        }
    }
}
