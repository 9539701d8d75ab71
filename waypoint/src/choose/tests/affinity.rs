//! What a request is hashed by, and the cookie that is made for it.

use http::{HeaderMap, HeaderValue, Method};

use super::*;
use crate::facts::Head;

#[test]
fn what_a_request_is_hashed_by() {
    let arrival = arrival(None);
    let mut headers = HeaderMap::new();
    headers.insert("x-user", HeaderValue::from_static("jo"));
    headers.insert("cookie", HeaderValue::from_static("a=1; sid=abc"));
    let head = |headers| Head {
        arrival: &arrival,
        remote: arrival.source.ip(),
        method: &Method::GET,
        scheme: "http",
        authority: "web",
        path: "/",
        query: Some("a=1&user=jo"),
        headers,
        grpc: false,
        claims: None,
    };
    let none = HeaderMap::new();
    let of = |kind: &str, headers| {
        let yaml = format!("{{loadBalancer: {{balance: CONSISTENT_HASH, hash: {{kind: {kind}}}}}}}");
        affinity(&policy(&yaml), &head(headers), &mut SmallRng::seed_from_u64(1))
    };
    let hash = |text: &str| Some(ring::hash(text.as_bytes(), 0));
    assert_eq!(of("{header: x-user}", &headers).hash, hash("jo"));
    assert_eq!(of("{header: x-user}", &none).hash, None, "by chance");
    assert_eq!(of("{queryParameter: user}", &none).hash, hash("jo"));
    assert_eq!(of("{sourceIp: true}", &none).hash, hash("10.0.0.1"));
    assert_eq!(of("{cookie: {name: sid}}", &headers).hash, hash("abc"));
    assert_eq!(of("{cookie: {name: sid}}", &none), Affinity::default(), "no lifetime: not made");
    assert_eq!(of("{cookie: {name: sid, ttlMs: 0}}", &headers).set_cookie, None);
    let made = of("{cookie: {name: sid, path: /x, ttlMs: 60000}}", &none);
    let line = made.set_cookie.unwrap().to_str().unwrap().to_owned();
    let value = line.strip_prefix("sid=").unwrap().split(';').next().unwrap();
    assert_eq!(line, format!("sid={value}; Max-Age=60; Path=/x; HttpOnly"));
    assert_eq!(made.hash, hash(value), "the next request is hashed as this one was");
    let session = of("{cookie: {name: sid, ttlMs: 0}}", &none).set_cookie.unwrap();
    assert!(!session.to_str().unwrap().contains("Max-Age"));
    let wrong: wire::BackendPolicy =
        serde_saphyr::from_str("{loadBalancer: {balance: CONSISTENT_HASH, hash: {kind: {cookie: {name: 'a;b'}}}}}").unwrap();
    assert!(compile(&wrong).is_err(), "nothing in a name may end the cookie");
}
