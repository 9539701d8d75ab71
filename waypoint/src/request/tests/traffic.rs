//! Limits, faults and the choice of an endpoint, through the whole page (spec/waypoint.md 5).

use http::HeaderMap;
use mesh_xds::messages::waypoint as wire;

use super::*;

fn limit(site: &mut Site, yaml: &str) {
    let mut limit: wire::RateLimit = serde_saphyr::from_str(yaml).unwrap();
    let host = wire::Host { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() };
    let service = wire::ServiceTarget { host: Some(host), port: 0 };
    limit.targets = vec![wire::Target { kind: Some(wire::TargetKind::Service(service)) }];
    limit.meta = Some(wire::Meta { source: Some(wire::SourceRef { namespace: "shop".into(), name: "cart".into(), ..Default::default() }), ..Default::default() });
    site.put(wire::RATE_LIMIT, "shop/cart", &limit);
}

fn policy(site: &mut Site, yaml: &str) {
    let mut policy: wire::BackendPolicy = serde_saphyr::from_str(yaml).unwrap();
    let host = wire::Host { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() };
    policy.service = Some(wire::ServiceTarget { host: Some(host), port: 0 });
    site.put(wire::BACKEND_POLICY, "shop/web", &policy);
}

async fn ask(site: &Site, path: &str) -> (u16, HeaderMap, String) {
    let mut client = site.http1().await;
    let response = client.send_request(Request::get(path).header("host", "web").body(Body::Empty).unwrap()).await.unwrap();
    let headers = response.headers().clone();
    (response.status().as_u16(), headers, text(response).await)
}

#[tokio::test]
async fn a_limit_is_kept_and_told() {
    let mut site = Site::new(Version::Http1);
    site.endpoints.echo("web", Version::Http1);
    limit(
        &mut site,
        "{headers: true, local: [{name: each, maxTokens: 2, tokensPerFill: 2, fillIntervalMs: 60000, keyBy: [{source: SOURCE_PRINCIPAL}], \
         matches: [{path: {kind: PREFIX_SEGMENT, value: /cart}}]}]}",
    );
    for left in ["1", "0"] {
        let (status, headers, _) = ask(&site, "/cart").await;
        assert_eq!((status, headers["x-ratelimit-remaining"].to_str().unwrap()), (200, left));
    }
    let (status, headers, said) = ask(&site, "/cart").await;
    assert_eq!((status, said.as_str()), (429, "too many requests"));
    assert_eq!((&headers["retry-after"], &headers["x-envoy-ratelimited"], &headers["x-ratelimit-limit"]), (&"30".parse().unwrap(), &"true".parse().unwrap(), &"2, 2;w=60".parse().unwrap()));
    assert_eq!(ask(&site, "/other").await.0, 200, "not for this path");

    // A gRPC client is told in its own words.
    let mut client = site.http2().await;
    let request = Request::post("http://web/cart").header("content-type", "application/grpc").header("te", "trailers").body(Body::Empty).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));

    // In shadow nobody hears of it; and a service that counts and does not answer closes the door where that is wanted.
    limit(&mut site, "{shadow: true, local: [{maxTokens: 1, fillIntervalMs: 60000}]}");
    for _ in 0..3 {
        assert_eq!(ask(&site, "/cart").await.0, 200);
    }
    for (closed, expected) in [(false, 200), (true, 500)] {
        let backend = "backend: {host: {namespace: shop, hostname: other.shop.svc.cluster.local}, port: 80}";
        limit(&mut site, &format!("{{global: {{domain: d, {backend}, failClosed: {closed}, descriptors: [{{entries: [{{source: PATH}}]}}]}}}}"));
        assert_eq!(ask(&site, "/cart").await.0, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn faults_are_made_on_purpose() {
    let mut site = Site::new(Version::Http1);
    site.endpoints.echo("web", Version::Http1);
    let backend = "backends: [{weight: 1, backend: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}, port: 80}}]";
    site.route("r", &format!("{{filters: [{{kind: {{fault: {{delayMs: 5000}}}}}}], {backend}}}"));
    let began = tokio::time::Instant::now();
    assert_eq!(ask(&site, "/").await.0, 200);
    assert!(began.elapsed() >= Duration::from_secs(5));
    site.route("r", &format!("{{filters: [{{kind: {{fault: {{abortStatus: 418}}}}}}], {backend}}}"));
    assert_eq!(ask(&site, "/").await.0, 418);
    site.route("r", &format!("{{filters: [{{kind: {{fault: {{abortStatus: 418, abortFraction: {{numerator: 0}}}}}}}}], {backend}}}"));
    assert_eq!(ask(&site, "/").await.0, 200);
}

#[tokio::test]
async fn a_cookie_is_made_where_the_policy_says_so_with_and_without_a_route() {
    let mut site = Site::new(Version::Http1);
    site.endpoints.echo("web", Version::Http1);
    policy(&mut site, "{loadBalancer: {balance: CONSISTENT_HASH, hash: {kind: {cookie: {name: sid, path: /, ttlMs: 60000}}}}}");
    let (_, headers, _) = ask(&site, "/").await;
    let made = headers["set-cookie"].to_str().unwrap();
    assert!(made.starts_with("sid=") && made.ends_with("; Max-Age=60; Path=/; HttpOnly"), "{made}");
}

#[tokio::test]
async fn subsets_breakers_and_nobody() {
    let mut site = Site::new(Version::Http1);
    site.endpoints.http("web", Version::Http1, |request| async move {
        if request.uri().path() == "/slow" {
            std::future::pending::<()>().await;
        }
        reply::plain(StatusCode::OK, Bytes::new())
    });
    let to = |host: &str, subset: &str| {
        format!("{{backends: [{{weight: 1, backend: {{host: {{namespace: shop, hostname: {host}.shop.svc.cluster.local}}, port: 80, subset: '{subset}'}}}}]}}")
    };
    site.route("r", &to("web", "v1"));
    assert_eq!(ask(&site, "/").await.0, 503, "nobody defines it");
    let host = wire::Host { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() };
    let mut subset = wire::Subset { host: Some(host), name: "v1".into(), workloads: vec!["nobody".into()], ..Default::default() };
    site.put(wire::SUBSET, "shop/web/v1", &subset);
    assert_eq!(ask(&site, "/").await.0, 503, "it is empty");
    subset.workloads = vec![site.cx.world.with(|world| world.directory.workloads().find(|workload| &*workload.name == "web").unwrap().uid.to_string())];
    site.put(wire::SUBSET, "shop/web/v1", &subset);
    assert_eq!(ask(&site, "/").await.0, 200);
    site.route("r", &to("none", ""));
    assert_eq!(ask(&site, "/").await.0, 503);

    site.route("r", &to("web", ""));
    policy(&mut site, "{pool: {maxRequests: 1}}");
    let words = wire::HttpPolicy { targets: vec![wire::Target { kind: Some(wire::TargetKind::Mesh(wire::MeshTarget {})) }], envoy_headers: true, ..Default::default() };
    site.put(wire::HTTP_POLICY, "mesh", &words);
    let host = mesh_model::address::NamespacedHostname::new("shop", "web.shop.svc.cluster.local");
    let destination = site.cx.reach.backends.destination(&choose::BackendKey { host, port: 80, subset: "".into() });
    let second = async {
        while destination.active() == 0 {
            tokio::task::yield_now().await;
        }
        ask(&site, "/").await
    };
    tokio::select! {
        first = ask(&site, "/slow") => panic!("nobody answers: {first:?}"),
        (status, headers, _) = second => assert_eq!((status, headers["x-envoy-overloaded"].to_str().unwrap()), (503, "true")),
    }
}

// spec/waypoint.md 11, row 5
#[tokio::test]
async fn a_wildcard_is_asked_for_by_name_and_for_nothing_else() {
    let mut site = Site::new(Version::Http1);
    site.endpoints.echo("a.example.com", Version::Http1);
    let host = wire::Host { namespace: "shop".into(), hostname: "*.example.com".into() };
    let port = wire::ServicePort { host: Some(host), port: 80, protocol: wire::PortProtocol::Http1 as i32, kind: wire::ServiceKind::DynamicDns as i32, external: true, ..Default::default() };
    site.put(wire::SERVICE_PORT, "shop/*.example.com:80", &port);
    site.dialled = Target::Service { key: mesh_model::address::NamespacedHostname::new("shop", "*.example.com"), port: 80 };
    for (name, expected) in [("a.example.com", 200), ("a.example.com:80", 200), ("example.com", 404), ("a.example.com.evil.org", 404), ("10.0.0.2", 404)] {
        let mut client = site.http1().await;
        let response = client.send_request(Request::get("/").header("host", name).body(Body::Empty).unwrap()).await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{name}");
    }
}

// spec/waypoint.md 1.9: who may leave the mesh is decided by who asks, wherever it goes.
#[tokio::test]
async fn a_service_outside_is_for_whom_its_policy_names() {
    let mut site = Site::new(Version::Http1);
    site.endpoints.echo("api.pay.example", Version::Http1);
    let host = wire::Host { namespace: "shop".into(), hostname: "api.pay.example".into() };
    let port = wire::ServicePort { host: Some(host.clone()), port: 80, kind: wire::ServiceKind::Dns as i32, target_port: 443, external: true, ..Default::default() };
    site.put(wire::SERVICE_PORT, "shop/api.pay.example:80", &port);
    site.dialled = Target::Service { key: mesh_model::address::NamespacedHostname::new("shop", "api.pay.example"), port: 80 };
    let only = |account: &str| wire::AuthzPolicy {
        meta: Some(wire::Meta { source: Some(wire::SourceRef { namespace: "shop".into(), name: "who-pays".into(), ..Default::default() }), ..Default::default() }),
        targets: vec![wire::Target { kind: Some(wire::TargetKind::Service(wire::ServiceTarget { host: Some(host.clone()), port: 0 })) }],
        rules: vec![wire::AuthzRule { from: vec![wire::AuthzSource { service_accounts: vec![account.into()], ..Default::default() }], ..Default::default() }],
        ..Default::default()
    };
    assert_eq!(ask(&site, "/").await.0, 200);
    for (account, status) in [("checkout", 403), ("client", 200)] {
        site.put(wire::AUTHZ_POLICY, "shop/who-pays", &only(account));
        let (got, _, body) = ask(&site, "/").await;
        assert_eq!(got, status, "{account}: {body}");
    }
}

// spec/waypoint.md 1.5: the route is known before anything judges, so that what is for it is asked in time.
#[tokio::test]
async fn a_limit_of_a_route_holds_before_anybody_is_authenticated() {
    let mut site = Site::new(Version::Http1);
    site.endpoints.echo("web", Version::Http1);
    let backend = "backends: [{weight: 1, backend: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}, port: 80}}]";
    for rule in ["slow", "fast"] {
        let source = format!("meta: {{source: {{kind: HTTPRoute, namespace: shop, name: {rule}}}}}");
        site.route(rule, &format!("{{{source}, matches: [{{path: {{kind: EXACT, value: /{rule}}}}}], {backend}}}"));
    }
    let limit: wire::RateLimit = serde_saphyr::from_str(
        "{targets: [{kind: {route: {kind: HTTPRoute, namespace: shop, name: slow}}}], phase: BEFORE_AUTHN,
          local: [{maxTokens: 1, fillIntervalMs: 600000}]}",
    )
    .unwrap();
    site.put(wire::RATE_LIMIT, "shop/slow", &limit);
    let deny: wire::AuthzPolicy = serde_saphyr::from_str(
        "{targets: [{kind: {service: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}}}}], action: DENY, rules: [{}]}",
    )
    .unwrap();
    site.put(wire::AUTHZ_POLICY, "shop/deny", &deny);
    let statuses = [ask(&site, "/slow").await.0, ask(&site, "/slow").await.0, ask(&site, "/fast").await.0, ask(&site, "/fast").await.0];
    assert_eq!(statuses, [403, 429, 403, 403]);
}

// spec/waypoint.md 1.5, step 9: faults, then CORS.
#[tokio::test]
async fn a_preflight_meets_faults_as_any_request_does() {
    let mut site = Site::new(Version::Http1);
    let filters = "filters: [{kind: {cors: {allowOrigins: ['*']}}}, {kind: {fault: {abortStatus: 418}}}]";
    site.route("r", &format!("{{{filters}, backends: [{{weight: 1, backend: {{host: {{namespace: shop, hostname: web.shop.svc.cluster.local}}, port: 80}}}}]}}"));
    let preflight = Request::options("/").header("host", "web").header("origin", "https://a").header("access-control-request-method", "GET");
    let mut client = site.http1().await;
    assert_eq!(client.send_request(preflight.body(Body::Empty).unwrap()).await.unwrap().status().as_u16(), 418);
}

/// What the endpoint of this id was sent, as its target and headers.
fn listens(site: &Site, id: &str) -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let (tell, heard) = tokio::sync::mpsc::unbounded_channel();
    site.endpoints.http(id, Version::Http1, move |request| {
        let headers: String = request.headers().iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect();
        let _ = tell.send(format!("{} {}\n{headers}", request.method(), request.uri()));
        async move { Response::new(Body::full("heard")) }
    });
    heard
}

// spec/waypoint.md 5.9, 1.9
#[tokio::test]
async fn a_copy_goes_to_the_host_of_its_request_and_nobody_traces_it() {
    let mut site = Site::new(Version::Http1);
    let outside = wire::Host { namespace: "shop".into(), hostname: "*.example.com".into() };
    let port = wire::ServicePort { host: Some(outside), port: 80, kind: wire::ServiceKind::DynamicDns as i32, external: true, ..Default::default() };
    site.put(wire::SERVICE_PORT, "shop/*.example.com:80", &port);
    site.route(
        "r",
        "{filters: [{kind: {mirror: {backend: {host: {namespace: shop, hostname: '*.example.com'}, port: 80}}}}],
          backends: [{weight: 1, backend: {host: {namespace: shop, hostname: web.shop.svc.cluster.local}, port: 80}}]}",
    );
    let (mut copied, mut original) = (listens(&site, "a.example.com"), listens(&site, "web"));
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::get("/x?y").header("host", "a.example.com").header("traceparent", traceparent);
    let mut client = site.http1().await;
    assert_eq!(text(client.send_request(request.body(Body::Empty).unwrap()).await.unwrap()).await, "heard");
    let (copied, original) = (copied.recv().await.unwrap(), original.recv().await.unwrap());
    assert!(original.contains(traceparent), "{original}");
    assert!(copied.starts_with("GET /x?y\n") && copied.contains("host: a.example.com\n"), "{copied}");
    assert!(copied.contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\n"), "{copied}");
}
