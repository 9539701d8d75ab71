//! Against authorization services that people use: see docs/testing.md for how to start them. Not part of an ordinary run.

use super::*;
use crate::call::Tcp;

fn at(variable: &str) -> Tcp {
    let address = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} says where the service listens"));
    Tcp::new(address.parse().unwrap())
}

struct Asks<'a> {
    method: Method,
    path: &'a str,
    query: Option<&'a str>,
    headers: HeaderMap,
    claims: Option<&'a Claims>,
    body: Option<Shown>,
}

impl Default for Asks<'_> {
    fn default() -> Self {
        Asks { method: Method::GET, path: "/", query: None, headers: HeaderMap::new(), claims: None, body: None }
    }
}

async fn answer_to(wire: &ExtAuthzProvider, service: &Tcp, asks: Asks<'_>) -> Answer {
    let (provider, rejection) = compile(wire);
    assert_eq!(rejection, None);
    let arrival = arrival();
    let head = Head {
        arrival: &arrival,
        remote: arrival.source.ip(),
        method: &asks.method,
        scheme: "http",
        authority: "shop.example:8080",
        path: asks.path,
        query: asks.query,
        headers: &asks.headers,
        grpc: false,
        claims: asks.claims,
    };
    check(Some(&provider), &ask(), &Question { head: &head, version: http::Version::HTTP_11, body: asks.body.as_ref() }, service).await
}

// Acceptance 16: OPA's own library behind the public protocol (e2e/authz/opa).
#[tokio::test]
#[ignore = "needs e2e/authz/opa at ISTHMUS_TRIAL_OPA"]
async fn opa() {
    let service = at("ISTHMUS_TRIAL_OPA");
    let cookies = || headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("x-user", "root"), ("x-secret", "s")]);
    let edits = allowed(answer_to(&over_grpc(), &service, Asks { path: "/public/a", query: Some("token=t&x=1"), headers: cookies(), ..Asks::default() }).await);
    let (mut request, mut query) = (cookies(), Some("token=t&x=1".to_owned()));
    edits.apply(&mut request, &mut query);
    let mut expected = headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("x-user", "spiffe://td/ns/front/sa/cart"), ("x-host", "shop.example:8080")]);
    assert_eq!((&request, query.as_deref()), (&expected, Some("x=1&seen=a%20b")));
    let mut response = HeaderMap::new();
    edits.apply_to_response(&mut response);
    expected = headers(&[("x-decided-by", "opa")]);
    assert_eq!(response, expected);
    assert_eq!(edits.metadata.unwrap().fields["path"].kind, Some(prost_types::value::Kind::StringValue("public".into())));

    let refused = denied(answer_to(&over_grpc(), &service, Asks { path: "/private", ..Asks::default() }).await);
    assert_eq!((refused.status.as_u16(), &refused.body[..], &refused.headers), (451, &b"denied by OPA"[..], &headers(&[("x-why", "no rule allows it")])));

    let claims = |role: &str| Claims { issuer: "i".into(), subject: None, audiences: vec![], presenter: None, payload: json!({"roles": [role]}) };
    for (role, passes) in [("admin", true), ("user", false)] {
        let claims = claims(role);
        let answer = answer_to(&over_grpc(), &service, Asks { path: "/roles", claims: Some(&claims), ..Asks::default() }).await;
        assert_eq!(matches!(answer, Answer::Allow(_)), passes, "{role}");
    }
    let with_body = ExtAuthzProvider { body: Some(ExtAuthzBody { max_bytes: 100, allow_partial: true, pack_as_bytes: false }), ..over_grpc() };
    for (bytes, partial, passes) in [("open sesame", false, true), ("open sesame", true, false), ("please", false, false)] {
        let body = Some(Shown { bytes: Bytes::from_static(bytes.as_bytes()), partial });
        let answer = answer_to(&with_body, &service, Asks { method: Method::POST, path: "/body", body, ..Asks::default() }).await;
        assert_eq!(matches!(answer, Answer::Allow(_)), passes, "{bytes} {partial}");
    }
    let (provider, _) = compile(&over_grpc());
    for (name, passes) in [(Some("shop.example"), true), (None, false)] {
        assert_eq!(check_stream(Some(&provider), &ask(), &arrival(), name, &service).await.is_ok(), passes);
    }
}

// Acceptance 15: oauth2-proxy, with a file of passwords in the place of an identity provider.
#[tokio::test]
#[ignore = "needs oauth2-proxy at ISTHMUS_TRIAL_OAUTH2_PROXY"]
async fn oauth2_proxy() {
    let service = at("ISTHMUS_TRIAL_OAUTH2_PROXY");
    let wire = ExtAuthzProvider {
        include_request_headers: ["authorization", "cookie", "x-forwarded-*", "accept"].map(str::to_owned).into(),
        headers_to_upstream_on_allow: ["x-auth-request-*", "authorization"].map(str::to_owned).into(),
        headers_to_downstream_on_deny: ["content-type", "set-cookie"].map(str::to_owned).into(),
        headers_to_downstream_on_allow: vec!["set-cookie".into()],
        ..wire()
    };
    // Nobody: off to the login page, with a cookie for the way back.
    let refused = denied(answer_to(&wire, &service, Asks { path: "/cart", query: Some("q=1"), ..Asks::default() }).await);
    assert_eq!(refused.status.as_u16(), 302);
    assert!(refused.headers["location"].to_str().unwrap().starts_with("http://login.example/authorize?"), "{refused:?}");
    assert!(refused.headers.contains_key("set-cookie") && !refused.headers.contains_key("date"));
    // Somebody it knows; and the client's word for it counts for nothing.
    let mut request = headers(&[("authorization", "Basic Ym9iOmJvYg=="), ("x-auth-request-user", "root")]);
    let edits = allowed(answer_to(&wire, &service, Asks { path: "/cart", headers: request.clone(), ..Asks::default() }).await);
    edits.apply(&mut request, &mut None);
    assert_eq!(request["x-auth-request-user"], "bob");
    assert_eq!(request.get_all("x-auth-request-user").iter().count(), 1);
    // A wrong password.
    let wrong = headers(&[("authorization", "Basic Ym9iOmV2ZQ=="), ("accept", "application/json")]);
    assert_ne!(denied(answer_to(&wire, &service, Asks { path: "/cart", headers: wrong, ..Asks::default() }).await).status.as_u16(), 200);
}
