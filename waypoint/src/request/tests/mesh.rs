//! What users see of routes, through the whole page: the cases of the mesh conformance tests (spec/waypoint.md 3.3) and rows
//! 8, 9 and 12 of the acceptance list (11).

use std::collections::BTreeMap;

use mesh_xds::messages::waypoint::{self as wire, BackendPolicy, Host, Meta, ServiceTarget, SourceRef, TlsClient, TlsMode};

use super::*;

const V1: &str = "{host: {namespace: shop, hostname: web.shop.svc.cluster.local}, port: 80}";
const V2: &str = "{host: {namespace: shop, hostname: other.shop.svc.cluster.local}, port: 80}";

/// Both versions answer with their name and with the headers they got.
fn versions() -> Site {
    let site = Site::new(Version::Http1);
    for name in ["web", "other"] {
        site.endpoints.http(name, Version::Http1, move |request| async move {
            let lines = request.headers().iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
            let told: String = lines.collect();
            Response::builder().header("x-of-backend", "b").body(Body::full(format!("{name}\n{told}"))).unwrap()
        });
    }
    site
}

async fn ask(site: &Site, request: http::request::Builder) -> (http::response::Parts, String) {
    let mut client = site.http1().await;
    let response = client.send_request(request.header("host", "web:8080").body(Body::Empty).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.clone(), text(Response::from_parts(parts, body)).await)
}

// MeshHTTPRouteWeight, MeshGRPCRouteWeight; row 9. 500 draws of 70 % lie within a tenth but once in a million times.
#[tokio::test]
async fn weights_are_drawn_for_each_request() {
    let mut site = versions();
    site.route(
        "split",
        &format!(
            "backends: [{{weight: 70, backend: {V1}}}, {{weight: 30, backend: {V2}}}, {{weight: 0, invalid: {{reason: BackendNotFound}}}}]"
        ),
    );
    for one_connection in [false, true] {
        let mut shares: BTreeMap<String, u32> = BTreeMap::new();
        let mut client = site.http2().await;
        for _ in 0..500 {
            let body = if one_connection {
                let request = Request::get("http://web/").body(Body::Empty).unwrap();
                text(client.send_request(request).await.unwrap()).await
            } else {
                ask(&site, Request::get("/")).await.1
            };
            *shares.entry(body.lines().next().unwrap().to_owned()).or_default() += 1;
        }
        assert_eq!(shares.values().sum::<u32>(), 500);
        assert!(shares["web"].abs_diff(350) < 50 && shares["other"].abs_diff(150) < 50, "{shares:?}");
    }
}

// MeshHTTPRouteRequestHeaderModifier, MeshHTTPRouteBackendRequestHeaderModifier.
#[tokio::test]
async fn edits_of_the_rule_come_before_those_of_the_backend() {
    let mut site = versions();
    site.route(
        "edits",
        &format!(
            "filters: [{{kind: {{requestHeaders: {{set: [{{name: X-Set, value: rule}}], add: [{{name: x-add, value: rule}}], remove: [x-gone]}}}}}},
                       {{kind: {{responseHeaders: {{set: [{{name: X-Of-Backend, value: rule}}], add: [{{name: x-told, value: rule}}]}}}}}}]
backends: [{{weight: 1, backend: {V1}, filters: [
    {{kind: {{requestHeaders: {{add: [{{name: x-add, value: backend}}]}}}}}},
    {{kind: {{responseHeaders: {{set: [{{name: x-told, value: backend}}]}}}}}},
    {{kind: {{rewrite: {{hostname: one.example}}}}}}]}}]"
        ),
    );
    let (parts, seen) = ask(&site, Request::get("/").header("x-set", "a").header("x-add", "a").header("x-gone", "a")).await;
    for line in ["x-set: rule\n", "x-add: a\nx-add: rule\nx-add: backend\n", "host: one.example\n"] {
        assert!(seen.contains(line), "{line:?} in {seen}");
    }
    assert!(!seen.contains("x-gone"), "{seen}");
    let told: Vec<&str> = parts.headers.get_all("x-told").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(told, ["backend", "rule"]);
    assert_eq!(parts.headers["x-of-backend"], "rule");
}

// MeshHTTPRouteRedirectPort, MeshHTTPRouteSchemeRedirect, with the addresses that the Gateway's twins of them look at; row 8.
#[tokio::test]
async fn a_redirect_says_where_by_the_port_that_was_dialled() {
    for (redirect, status, location) in [
        ("port: 8083", 302, "http://web:8083/a/b?c"),
        ("port: 8083, hostname: example.org, status: 301", 301, "http://example.org:8083/a/b?c"),
        ("scheme: https", 302, "https://web/a/b?c"),
        ("hostname: example.org", 302, "http://example.org/a/b?c"),
        ("status: 303", 303, "http://web/a/b?c"),
        ("path: {kind: {prefix: /x}}", 302, "http://web/x/b?c"),
    ] {
        let mut site = versions();
        site.route(
            "moved",
            &format!(
                "{{matches: [{{path: {{kind: PREFIX_SEGMENT, value: /a}}}}], filters: [{{kind: {{redirect: {{{redirect}}}}}}}]}}"
            ),
        );
        let (parts, _) = ask(&site, Request::get("/a/b?c")).await;
        assert_eq!((parts.status.as_u16(), parts.headers["location"].to_str().unwrap()), (status, location), "{redirect}");
    }
}

// spec/waypoint.md 1.5, step 13: the headers that a rule gives answers are for its own answers too.
#[tokio::test]
async fn answers_of_a_rule_get_the_headers_that_it_gives_answers() {
    for (filter, status) in [("redirect: {scheme: https}", 302), ("direct: {status: 200, body: hi}", 200)] {
        let mut site = versions();
        let filters = format!("[{{kind: {{responseHeaders: {{set: [{{name: strict-transport-security, value: max-age=1}}]}}}}}}, {{kind: {{{filter}}}}}]");
        site.route("r", &format!("{{filters: {filters}}}"));
        let (parts, _) = ask(&site, Request::get("/")).await;
        assert_eq!((parts.status.as_u16(), parts.headers["strict-transport-security"].to_str().unwrap()), (status, "max-age=1"), "{filter}");
        let backend = format!("{{weight: 1, backend: {V1}, filters: {filters}}}");
        site.route("r", &format!("{{backends: [{backend}]}}"));
        let (parts, _) = ask(&site, Request::get("/")).await;
        assert_eq!((parts.status.as_u16(), parts.headers.get_all("strict-transport-security").iter().count()), (status, 1), "{filter}");
    }
}

// Row 12.
#[tokio::test]
async fn a_preflight_is_answered_here_and_other_answers_say_who_may_read_them() {
    let mut site = versions();
    site.route(
        "cors",
        &format!("{{filters: [{{kind: {{cors: {{allowOrigins: ['https://a.example'], allowMethods: [PUT]}}}}}}], backends: [{{weight: 1, backend: {V1}}}]}}"),
    );
    let preflight = |origin: &'static str| {
        Request::builder()
            .method(Method::OPTIONS)
            .uri("/")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
    };
    let (parts, body) = ask(&site, preflight("https://a.example")).await;
    assert_eq!((parts.status, body.as_str()), (StatusCode::OK, ""));
    assert_eq!(parts.headers["access-control-allow-methods"], "PUT");
    assert_eq!(parts.headers["access-control-allow-origin"], "https://a.example");
    let (parts, body) = ask(&site, preflight("https://b.example")).await;
    assert!(parts.status.is_success() && body.is_empty() && !parts.headers.contains_key("access-control-allow-origin"));
    let (parts, body) = ask(&site, Request::get("/").header("origin", "https://a.example")).await;
    assert!(body.starts_with("web\n"));
    assert_eq!(parts.headers["access-control-allow-origin"], "https://a.example");
    let (parts, _) = ask(&site, Request::get("/").header("origin", "https://b.example")).await;
    assert!(!parts.headers.contains_key("access-control-allow-origin"));
}

// spec/waypoint.md 2.6
#[tokio::test]
async fn a_session_stays_with_its_backend_until_its_weight_is_0() {
    let mut site = versions();
    let split = |site: &mut Site, v1: u32, v2: u32| {
        let backends = format!("[{{weight: {v1}, backend: {V1}}}, {{weight: {v2}, backend: {V2}}}]");
        site.route("sticky", &format!("{{session: {{name: stay}}, backends: {backends}}}"));
    };
    split(&mut site, 1, 0);
    let (parts, body) = ask(&site, Request::get("/")).await;
    assert!(body.starts_with("web\n"));
    let cookie = parts.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("stay="), "{cookie}");
    split(&mut site, 1, 1_000_000);
    for _ in 0..20 {
        let (parts, body) = ask(&site, Request::get("/").header("cookie", &cookie)).await;
        assert!(body.starts_with("web\n") && !parts.headers.contains_key("set-cookie"), "the session beats weights");
    }
    split(&mut site, 0, 1);
    let (parts, body) = ask(&site, Request::get("/").header("cookie", &cookie)).await;
    assert!(body.starts_with("other\n") && parts.headers.contains_key("set-cookie"), "{body}");
}

/// How the service `web` is reached, by an object of this kind and age.
fn treatment(kind: &str, created_unix: u64, port: u32, tls: TlsClient) -> BackendPolicy {
    let source = SourceRef { kind: kind.into(), namespace: "shop".into(), name: "p".into(), ..SourceRef::default() };
    let host = Host { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() };
    BackendPolicy {
        meta: Some(Meta { source: Some(source), created_unix }),
        service: Some(ServiceTarget { host: Some(host), port }),
        tls: Some(tls),
        ..BackendPolicy::default()
    }
}

// V-49; a rule of another kind that is older, and says so of the port, does not open it (spec/waypoint.md 2.10)
#[tokio::test]
async fn tls_that_cannot_be_had_is_503_and_never_the_clear() {
    let off = TlsClient { mode: TlsMode::Disable as i32, ..TlsClient::default() };
    let simple = TlsClient { mode: TlsMode::Simple as i32, ..TlsClient::default() };
    let told = TlsClient { invalid: "ConfigMap shop/ca: does not exist".into(), ..simple.clone() };
    for (before, broken, is_news) in [(off.clone(), told, false), (off.clone(), TlsClient { ca_pem: "nonsense".into(), ..simple }, true)] {
        let mut site = versions();
        assert_eq!(ask(&site, Request::get("/")).await.0.status, StatusCode::OK, "without a policy it is open");
        if !is_news {
            // What was good before does not stay beside what the controller says of it now.
            site.put(wire::BACKEND_POLICY, "tls", &treatment("BackendTLSPolicy", 9, 0, before));
            assert_eq!(ask(&site, Request::get("/")).await.0.status, StatusCode::OK);
        }
        let taken = site.offer(wire::BACKEND_POLICY, "tls", &treatment("BackendTLSPolicy", 9, 0, broken));
        assert_eq!(taken.err().map(|problem| problem.rejection.reason), is_news.then_some("InvalidTls"));
        site.put(wire::BACKEND_POLICY, "rule", &treatment("DestinationRule", 1, 80, off.clone()));
        let (parts, body) = ask(&site, Request::get("/")).await;
        assert_eq!((parts.status, body.contains("web\n")), (StatusCode::SERVICE_UNAVAILABLE, false), "{body}");
    }
}
