//! The same from a client to an endpoint and back, with services that are asked over the mesh.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::testing::{Site, text};

fn put<M: serde::de::DeserializeOwned + Message>(site: &mut Site, type_url: &str, name: &str, yaml: &str) {
    let message: M = serde_saphyr::from_str(yaml).unwrap();
    site.put(type_url, name, &message);
}

pub(super) fn policy(site: &mut Site, name: &str, yaml: &str) {
    let target = format!("meta: {{source: {{namespace: shop, name: {name}}}}}\ntargets: [{{kind: {{service: {{host: {{namespace: shop, hostname: web.shop.svc.cluster.local}}}}}}}}]\n{yaml}");
    put::<wire::AuthzPolicy>(site, AUTHZ_POLICY, &format!("shop/{name}"), &target);
}

async fn ask(site: &Site, request: http::request::Builder) -> (u16, String) {
    let mut client = site.http1().await;
    let response = client.send_request(request.header("host", "web").body(Body::Empty).unwrap()).await.unwrap();
    (response.status().as_u16(), text(response).await)
}

/// Says which target it was asked for.
fn echo_target(site: &Site, id: &str) {
    site.endpoints.http(id, crate::exchange::Version::Http1, |request| async move {
        let user = request.headers().get("x-user").map(|user| user.to_str().unwrap().to_owned()).unwrap_or_default();
        reply::plain(StatusCode::OK, format!("{} {user}", request.uri()).into())
    });
}

// V-40: what is judged is what is forwarded, byte for byte.
#[tokio::test]
async fn a_path_is_judged_as_it_is_forwarded() {
    let mut site = Site::new(crate::exchange::Version::Http1);
    echo_target(&site, "web");
    policy(&mut site, "deny", "action: DENY\nrules: [{to: [{paths: ['/admin', '/admin/*']}]}]");
    let hidden = ["/admin", "/admin/", "/admin/x", "/./admin", "/x/../admin", "/x/%2e%2e/admin/y", "/%61dmin", "/admin?x", "/x\\..\\admin", "/admin/../admin/a"];
    for path in hidden {
        let (status, body) = ask(&site, Request::get(path)).await;
        assert_eq!((status, body.as_str()), (403, "RBAC: access denied"), "{path}");
    }
    for path in ["/admi", "/administrator", "/Admin", "/x/admin", "/", "/a%2fadmin"] {
        let (status, body) = ask(&site, Request::get(path)).await;
        assert_eq!(status, 200, "{path}: {body}");
        let forwarded = body.split_whitespace().next().unwrap().split('?').next().unwrap();
        assert!(forwarded != "/admin" && !forwarded.starts_with("/admin/"), "{path} became {forwarded}");
    }
}

#[tokio::test]
async fn a_service_of_the_mesh_is_asked() {
    let mut site = Site::new(crate::exchange::Version::Http1);
    echo_target(&site, "web");
    let gone = Arc::new(AtomicUsize::new(0));
    let (asked, down) = (gone.clone(), StatusCode::SERVICE_UNAVAILABLE);
    site.endpoints.http("other", crate::exchange::Version::Http1, move |request| {
        let status = match (asked.load(Ordering::SeqCst), request.uri().path()) {
            (0, "/check/private") => StatusCode::FOUND,
            (0, _) => StatusCode::OK,
            _ => down,
        };
        let mut response = reply::plain(status, "login here".into());
        response.headers_mut().insert("x-user", "bob".parse().unwrap());
        async move { response }
    });
    put::<wire::ExtAuthzProvider>(&mut site, EXT_AUTHZ_PROVIDER, "login", "backend: {host: {namespace: shop, hostname: other.shop.svc.cluster.local}, port: 80}\npathPrefix: /check\nheadersToUpstreamOnAllow: [x-user]");
    policy(&mut site, "ask", "action: CUSTOM\nprovider: login\nrules: [{to: [{notPaths: ['/free']}]}]");
    policy(&mut site, "users", "rules: [{when: [{key: 'request.headers[x-user]', values: [bob]}]}, {to: [{paths: ['/free']}]}]");
    assert_eq!(ask(&site, Request::get("/cart").header("x-user", "eve")).await, (200, "/cart bob".into()));
    assert_eq!(ask(&site, Request::get("/private")).await, (302, "login here".into()));
    assert_eq!(ask(&site, Request::get("/free")).await, (200, "/free ".into()));
    // The service is in trouble: nothing passes that it would have been asked about.
    gone.store(1, Ordering::SeqCst);
    assert_eq!(ask(&site, Request::get("/cart").header("x-user", "bob")).await.0, 403);
    assert_eq!(ask(&site, Request::get("/free")).await.0, 200);
}

// A client that sends its body slowly to somebody who is to see it first holds its request no longer than its route says.
#[tokio::test(start_paused = true)]
async fn being_judged_takes_no_longer_than_the_request_may() {
    let mut site = Site::new(crate::exchange::Version::Http1);
    echo_target(&site, "web");
    echo_target(&site, "other");
    put::<wire::ExtAuthzProvider>(&mut site, EXT_AUTHZ_PROVIDER, "login", "backend: {host: {namespace: shop, hostname: other.shop.svc.cluster.local}, port: 80}\nbody: {maxBytes: 100}");
    policy(&mut site, "ask", "action: CUSTOM\nprovider: login\nrules: [{}]");
    site.route("r", "{backends: [{weight: 1, backend: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}, port: 80}}], requestTimeoutMs: 1000}");
    let began = tokio::time::Instant::now();
    let got = site.bytes(b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nabc", "upstream request timeout").await;
    assert!(got.starts_with("HTTP/1.1 504 "), "{got}");
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn keys_come_over_the_mesh() {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let jwks = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}]}}"#, B64.encode(x), B64.encode(y));
    let signed = format!("{}.{}", B64.encode(r#"{"alg":"ES256"}"#), B64.encode(r#"{"iss":"i","sub":"bob"}"#));
    let token = format!("{signed}.{}", B64.encode(key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap()));

    let mut site = Site::new(crate::exchange::Version::Http1);
    echo_target(&site, "web");
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    site.endpoints.http("other", crate::exchange::Version::Http1, move |request| {
        counted.fetch_add(1, Ordering::SeqCst);
        let known = request.uri().path() == "/keys";
        let jwks = jwks.clone();
        async move { if known { reply::plain(StatusCode::OK, jwks.into()) } else { reply::plain(StatusCode::NOT_FOUND, "".into()) } }
    });
    put::<wire::JwtPolicy>(&mut site, JWT_POLICY, "shop/jwt", "targets: [{kind: {service: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}}}}]\nrules: [{issuer: i, jwksUri: 'http://other.shop.svc.cluster.local/keys', outputClaims: [{header: x-user, claim: sub}]}]");
    policy(&mut site, "users", "rules: [{from: [{requestPrincipals: ['i/*']}]}]");
    for _ in 0..3 {
        assert_eq!(ask(&site, Request::get("/cart").header("authorization", format!("Bearer {token}"))).await, (200, "/cart bob".into()));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(ask(&site, Request::get("/cart").header("x-user", "bob")).await.0, 403);
    assert_eq!(ask(&site, Request::get(format!("/cart?access_token={token}x"))).await.0, 401);
    assert_eq!(ask(&site, Request::get(format!("/cart?a=b&access_token={token}"))).await, (200, "/cart?a=b bob".into()));
}

// V-40 for methods: a WebSocket of HTTP/2 is the GET that its endpoint gets.
#[tokio::test]
async fn a_web_socket_is_judged_as_the_get_that_it_becomes() {
    let socket = |path: &str| {
        let mut request = Request::new(Body::Empty);
        *request.method_mut() = http::Method::CONNECT;
        *request.uri_mut() = format!("http://web{path}").parse().unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        request
    };
    let mut site = Site::new(crate::exchange::Version::Http2);
    echo_target(&site, "web");
    policy(&mut site, "deny", "action: DENY\nrules: [{to: [{methods: [GET], paths: ['/private']}]}]");
    let mut client = site.http2().await;
    // The settings that allow it come before the first response.
    let first = client.send_request(Request::get("http://web/private").body(Body::Empty).unwrap()).await.unwrap();
    assert_eq!(first.status(), StatusCode::FORBIDDEN);
    assert_eq!(client.send_request(socket("/private")).await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(client.send_request(socket("/other")).await.unwrap().status(), StatusCode::BAD_GATEWAY, "an endpoint that knows no sockets");
}
