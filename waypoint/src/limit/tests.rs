//! Limits as a waypoint's file says them, and a service that counts and says what the test wants (spec/waypoint.md 5.10).

use std::net::IpAddr;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode};
use mesh_model::address::NamespacedHostname;
use mesh_model::identity::SpiffeId;
use parking_lot::Mutex;
use prost::Message;

use super::remote::{Code, CurrentLimit, DescriptorStatus, Header, RateLimitResponse, Unit};
use super::*;
use crate::call::{CallError, Limits, Reply, To, Version};
use crate::facts::{Arrival, Claims, Head, Target};

/// Answers as it is told to, and remembers what it was asked.
struct Counter {
    answer: Result<RateLimitResponse, CallError>,
    asked: Mutex<Vec<(RateLimitRequest, Duration)>>,
}

impl Counter {
    fn says(answer: Result<RateLimitResponse, CallError>) -> Counter {
        Counter { answer, asked: Mutex::default() }
    }

    fn never() -> Counter {
        Counter::says(Err(CallError::Broken("nobody is to ask".into())))
    }
}

impl Caller for Counter {
    fn call<'a>(&'a self, to: To<'a>, version: Version, request: Request<Bytes>, limits: Limits) -> BoxFuture<'a, Result<Reply, CallError>> {
        assert!(matches!(to, To::Backend(backend) if backend.port == 8081) && version == Version::Http2);
        assert_eq!(request.uri().path(), "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit");
        let question = RateLimitRequest::decode(&request.body()[5..]).unwrap();
        self.asked.lock().push((question, limits.timeout));
        let reply = self.answer.clone().map(|answer| {
            let message = answer.encode_to_vec();
            let body = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
            let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
            Reply { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into(), trailers: Some(trailers) }
        });
        Box::pin(std::future::ready(reply))
    }
}

fn limit(yaml: &str) -> Arc<Limit> {
    let (limit, wrong) = compile(&serde_saphyr::from_str(yaml).unwrap());
    assert_eq!(wrong, None);
    Arc::new(limit)
}

/// A request, and who makes it.
struct Asker {
    arrival: Arrival,
    remote: IpAddr,
    path: &'static str,
    query: Option<&'static str>,
    headers: HeaderMap,
    claims: Option<Claims>,
    replicas: u32,
}

fn asker() -> Asker {
    let identity = SpiffeId { trust_domain: "cluster.local".into(), namespace: "shop".into(), service_account: "client".into() };
    Asker {
        arrival: Arrival {
            identity,
            peer: "10.0.9.9:4000".parse().unwrap(),
            source: "10.0.0.1:4000".parse().unwrap(),
            source_workload: None,
            dialled: None,
            hops: 0,
            target: Target::Service { key: service(), port: 80 },
        },
        remote: "10.1.2.3".parse().unwrap(),
        path: "/cart",
        query: Some("a=1&tier=gold"),
        headers: HeaderMap::from_iter([(HeaderName::from_static("x-user"), HeaderValue::from_static("jo"))]),
        claims: None,
        replicas: 0,
    }
}

fn service() -> NamespacedHostname {
    NamespacedHostname::new("shop", "web.shop.svc.cluster.local")
}

impl Asker {
    async fn ask(&self, limits: &[Arc<Limit>], now: Instant, caller: &dyn Caller) -> Verdict {
        self.ask_in(Phase::AfterAuthz, limits, now, caller).await
    }

    async fn ask_in(&self, phase: Phase, limits: &[Arc<Limit>], now: Instant, caller: &dyn Caller) -> Verdict {
        let head = Head {
            arrival: &self.arrival,
            remote: self.remote,
            method: &Method::GET,
            scheme: "http",
            authority: "web",
            path: self.path,
            query: self.query,
            headers: &self.headers,
            grpc: false,
            claims: self.claims.as_ref(),
        };
        let service = service();
        let subject = Subject { head: &head, route: Some("shop/web/0"), service: Some(&service), replicas: self.replicas };
        check(limits, phase, &subject, now, caller).await
    }

    /// How many of so many at one moment pass.
    async fn pass(&self, count: usize, limits: &[Arc<Limit>], now: Instant) -> usize {
        let mut passed = 0;
        for _ in 0..count {
            passed += usize::from(self.ask(limits, now, &Counter::never()).await.refused.is_none());
        }
        passed
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("-", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_local_limit_counts_tells_and_refuses() {
    let limits = [limit(
        "{meta: {source: {namespace: shop, name: cart}}, headers: true, local: [{name: all, maxTokens: 2, tokensPerFill: 2, fillIntervalMs: 60000}]}",
    )];
    let (now, asker, nobody) = (Instant::now(), asker(), Counter::never());
    let first = asker.ask(&limits, now, &nobody).await;
    assert_eq!(first.refused, None);
    assert_eq!(header(&first.answer_headers, "x-ratelimit-limit"), "2, 2;w=60");
    assert_eq!(header(&first.answer_headers, "x-ratelimit-remaining"), "1");
    assert_eq!(header(&first.answer_headers, "x-ratelimit-reset"), "30");
    assert_eq!(asker.pass(1, &limits, now).await, 1);
    let third = asker.ask(&limits, now, &nobody).await;
    let refused = third.refused.unwrap();
    assert_eq!((refused.status, refused.grpc, refused.flag, &*refused.by), (429, 14, "RL", "shop/cart/all"));
    for (name, expected) in [("retry-after", "30"), ("x-envoy-ratelimited", "true"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "60")] {
        assert_eq!(header(&third.answer_headers, name), expected, "{name}");
    }
    assert_eq!(asker.pass(5, &limits, now + Duration::from_secs(30)).await, 1, "one came");
}

#[tokio::test]
async fn a_refused_request_costs_nothing_of_other_limits() {
    let limits = [
        limit("{local: [{name: wide, maxTokens: 5, fillIntervalMs: 1000}]}"),
        limit("{resourceExhausted: true, local: [{name: narrow, maxTokens: 1, fillIntervalMs: 1000, matches: [{path: {kind: EXACT, value: /cart}}]}]}"),
    ];
    let now = Instant::now();
    assert_eq!(asker().pass(10, &limits, now).await, 1);
    let other = Asker { path: "/other", ..asker() };
    assert_eq!(other.pass(10, &limits, now).await, 4, "the wide limit lost one token, not five; the narrow one is not for this path");
    let refused = asker().ask(&limits[1..], now, &Counter::never()).await.refused.unwrap();
    assert_eq!(refused.grpc, 8);
}

#[tokio::test]
async fn each_caller_has_its_own_bucket_by_any_source() {
    let account = |name: &str| {
        let mut asker = asker();
        asker.arrival.identity.service_account = name.into();
        asker
    };
    let namespace = |name: &str| {
        let mut asker = asker();
        asker.arrival.identity.namespace = name.into();
        asker
    };
    let remote = |ip: &str| Asker { remote: ip.parse().unwrap(), ..asker() };
    let user = |name: &'static str| {
        let mut asker = asker();
        asker.headers.insert("x-user", HeaderValue::from_static(name));
        asker
    };
    let claims = |tier: &str| {
        let payload = serde_json::json!({"tier": tier, "org": {"plan": tier}, "n": 1});
        Asker { claims: Some(Claims { issuer: "i".into(), subject: None, audiences: vec![], presenter: None, payload }), ..asker() }
    };
    let path = |path| Asker { path, ..asker() };
    let query = |query| Asker { query: Some(query), ..asker() };
    for (key_by, a, b, same) in [
        ("{source: SOURCE_PRINCIPAL}", account("a"), account("b"), account("a")),
        ("{source: SOURCE_SERVICE_ACCOUNT}", account("a"), account("b"), account("a")),
        ("{source: SOURCE_NAMESPACE}", namespace("a"), namespace("b"), namespace("a")),
        ("{source: REMOTE_ADDRESS}", remote("10.1.2.3"), remote("10.1.2.4"), remote("10.1.2.3")),
        ("{source: REMOTE_ADDRESS, prefixLength: 24}", remote("10.1.2.3"), remote("10.1.3.3"), remote("10.1.2.200")),
        ("{source: REMOTE_ADDRESS, prefixLength: 64}", remote("fd00::1"), remote("fd00:0:0:1::1"), remote("fd00::2")),
        ("{source: HEADER, name: x-user}", user("jo"), user("al"), user("jo")),
        ("{source: CLAIM, name: tier}", claims("gold"), claims("tin"), claims("gold")),
        ("{source: CLAIM, name: org.plan}", claims("gold"), claims("tin"), claims("gold")),
        ("{source: PATH}", path("/a"), path("/b"), path("/a")),
        ("{source: QUERY_PARAMETER, name: tier}", query("tier=a"), query("tier=b"), query("x=1&tier=a")),
    ] {
        let limits = [limit(&format!("{{local: [{{maxTokens: 1, fillIntervalMs: 60000, keyBy: [{key_by}]}}]}}"))];
        let now = Instant::now();
        assert_eq!([a.pass(2, &limits, now).await, b.pass(2, &limits, now).await, same.pass(1, &limits, now).await], [1, 1, 0], "{key_by}");
    }
    for key_by in ["{source: METHOD}", "{source: DESTINATION_SERVICE}", "{source: ROUTE}", "{source: GENERIC, value: x}", "{source: CLAIM, name: n}"] {
        let limits = [limit(&format!("{{local: [{{maxTokens: 1, fillIntervalMs: 60000, keyBy: [{key_by}]}}]}}"))];
        assert_eq!(claims("x").pass(3, &limits, Instant::now()).await, 1, "{key_by}");
    }
}

#[tokio::test]
async fn what_is_missing_is_not_counted_unless_it_may_be_missing() {
    let limits = |optional: &str| {
        [limit(&format!(
            "{{local: [{{maxTokens: 1, fillIntervalMs: 60000, keyBy: [{{source: METHOD}}, {{source: HEADER, name: x-none{optional}}}]}}]}}"
        ))]
    };
    assert_eq!(asker().pass(3, &limits(""), Instant::now()).await, 3);
    assert_eq!(asker().pass(3, &limits(", optional: true"), Instant::now()).await, 1);
}

#[tokio::test]
async fn shadow_phases_and_replicas() {
    let now = Instant::now();
    let shadow = [limit("{meta: {source: {namespace: shop, name: s}}, headers: true, shadow: true, local: [{maxTokens: 1, fillIntervalMs: 60000}]}")];
    assert_eq!(asker().pass(2, &shadow, now).await, 2);
    let verdict = asker().ask(&shadow, now, &Counter::never()).await;
    assert_eq!(verdict.notes, [Note::Shadow { by: "shop/s".into() }]);
    assert!(verdict.answer_headers.is_empty(), "clients hear nothing of it");

    let early = [limit("{phase: BEFORE_AUTHN, local: [{maxTokens: 1, fillIntervalMs: 60000}]}")];
    assert_eq!(asker().pass(3, &early, now).await, 3, "not in this phase");
    for refused in [false, true] {
        let verdict = asker().ask_in(Phase::BeforeAuthn, &early, now, &Counter::never()).await;
        assert_eq!(verdict.refused.is_some(), refused);
    }

    let shared = [limit("{local: [{maxTokens: 10, tokensPerFill: 10, fillIntervalMs: 1000, divideByReplicas: true}]}")];
    let of_five = Asker { replicas: 5, ..asker() };
    assert_eq!(of_five.pass(20, &shared, now).await, 2);
    assert_eq!(of_five.pass(20, &shared, now + Duration::from_millis(500)).await, 1);
}

const GLOBAL: &str = "meta: {source: {namespace: shop, name: g}}, headers: true, global: {domain: shop, backend: {host: {namespace: infra, hostname: rls.infra.svc}, port: 8081}, \
    descriptors: [{entries: [{source: GENERIC, key: route, value: cart}, {source: SOURCE_PRINCIPAL}]}, {entries: [{source: HEADER, name: x-none}]}, {entries: [{source: HEADER, name: X-User, key: user}]}]";

#[tokio::test]
async fn a_service_that_counts_is_asked_in_its_protocol() {
    let answer = RateLimitResponse {
        overall_code: Code::OverLimit as i32,
        statuses: vec![DescriptorStatus {
            code: Code::OverLimit as i32,
            current_limit: Some(CurrentLimit { requests_per_unit: 10, unit: Unit::Minute as i32, name: String::new() }),
            limit_remaining: 0,
            duration_until_reset: Some(prost_types::Duration { seconds: 17, nanos: 0 }),
        }],
        response_headers_to_add: vec![
            Header { key: "x-told".into(), value: "by-rls".into(), raw_value: vec![] },
            Header { key: "transfer-encoding".into(), value: "chunked".into(), raw_value: vec![] },
            Header { key: "not a name".into(), value: "x".into(), raw_value: vec![] },
        ],
        request_headers_to_add: vec![Header { key: "x-quota".into(), value: String::new(), raw_value: b"7".to_vec() }],
        raw_body: b"slow down".to_vec(),
    };
    let limits = [limit(&format!("{{{GLOBAL}}}}}"))];
    let counter = Counter::says(Ok(answer.clone()));
    let verdict = asker().ask(&limits, Instant::now(), &counter).await;
    let refused = verdict.refused.unwrap();
    assert_eq!((refused.status, refused.flag, &*refused.by, &*refused.body), (429, "RL", "shop/g/shop", &b"slow down"[..]));
    for (name, expected) in
        [("retry-after", "17"), ("x-ratelimit-limit", "10, 10;w=60"), ("x-ratelimit-remaining", "0"), ("x-told", "by-rls"), ("transfer-encoding", "-")]
    {
        assert_eq!(header(&verdict.answer_headers, name), expected, "{name}");
    }
    let (question, timeout) = counter.asked.lock()[0].clone();
    assert_eq!((&*question.domain, timeout), ("shop", Duration::from_millis(20)));
    let entries: Vec<Vec<(&str, &str)>> = question
        .descriptors
        .iter()
        .map(|descriptor| descriptor.entries.iter().map(|entry| (&*entry.key, &*entry.value)).collect())
        .collect();
    assert_eq!(
        entries,
        [vec![("route", "cart"), ("source_principal", "spiffe://cluster.local/ns/shop/sa/client")], vec![("user", "jo")]],
        "the one that lacks its header goes without"
    );

    let ok = RateLimitResponse { overall_code: Code::Ok as i32, ..answer };
    let verdict = asker().ask(&limits, Instant::now(), &Counter::says(Ok(ok))).await;
    assert_eq!(verdict.refused, None);
    assert_eq!((header(&verdict.request_headers, "x-quota"), header(&verdict.answer_headers, "x-told")), ("7", "by-rls"));
}

#[tokio::test]
async fn a_service_that_fails_is_passed_by_or_closes_the_door() {
    let unclear = RateLimitResponse::default();
    for answer in [Err(CallError::Timeout), Err(CallError::Connect("refused".into())), Ok(unclear)] {
        let open = asker().ask(&[limit(&format!("{{{GLOBAL}}}}}"))], Instant::now(), &Counter::says(answer.clone())).await;
        assert_eq!(open.refused, None);
        assert!(matches!(&open.notes[..], [Note::Unanswered { by, .. }] if by == "shop/g/shop"), "{:?}", open.notes);
        let closed = asker().ask(&[limit(&format!("{{{GLOBAL}, failClosed: true}}}}"))], Instant::now(), &Counter::says(answer)).await;
        let refused = closed.refused.unwrap();
        assert_eq!((refused.status, refused.flag), (500, "RLSE"));
    }
    let over = RateLimitResponse { overall_code: Code::OverLimit as i32, ..RateLimitResponse::default() };
    let shadow = limit(&format!("{{shadow: true, {GLOBAL}}}}}"));
    assert_eq!(asker().ask(&[shadow], Instant::now(), &Counter::says(Ok(over))).await.refused, None);
}

#[tokio::test]
async fn nobody_is_asked_for_what_a_bucket_refused_or_for_nothing() {
    let counter = Counter::never();
    let full = limit("{local: [{maxTokens: 1, fillIntervalMs: 60000}]}");
    let now = Instant::now();
    assert_eq!(asker().pass(1, std::slice::from_ref(&full), now).await, 1);
    let verdict = asker().ask(&[full, limit(&format!("{{{GLOBAL}}}}}"))], now, &counter).await;
    assert_eq!(verdict.refused.unwrap().flag, "RL");
    let nothing = limit("{global: {domain: d, backend: {port: 8081}, descriptors: [{entries: [{source: HEADER, name: x-none}]}]}}");
    asker().ask(&[nothing], now, &counter).await;
    assert_eq!(counter.asked.lock().len(), 0);
}

#[tokio::test]
async fn a_limit_that_cannot_be_done_lets_nobody_pass_and_says_why() {
    for (yaml, expected) in [
        ("{local: [{name: x, maxTokens: 1, fillIntervalMs: 49}]}", "fillInterval 49ms is less than 50ms"),
        ("{local: [{maxTokens: 0, fillIntervalMs: 50}]}", "AuthorizationPolicy"),
        ("{local: [{maxTokens: 1, fillIntervalMs: 50, keyBy: [{source: HEADER}]}]}", "a HEADER needs a name"),
        ("{local: [{maxTokens: 1, fillIntervalMs: 50, keyBy: [{source: REMOTE_ADDRESS, prefixLength: 129}]}]}", "129"),
        ("{global: {domain: d}}", "without the service that counts"),
    ] {
        let (broken, wrong) = compile(&serde_saphyr::from_str(yaml).unwrap());
        let wrong = wrong.unwrap().to_string();
        assert!(wrong.contains(expected), "{wrong}");
        let refused = asker().ask(&[Arc::new(broken)], Instant::now(), &Counter::never()).await.refused.unwrap();
        assert_eq!((refused.status, refused.flag), (500, "RLSE"));
        assert!(refused.by.contains(expected), "{}", refused.by);
    }
    // What the controller says already is not said back to it; in shadow nothing is refused.
    let told = limit("{invalid: 'spec.local[0].per: is missing'}");
    assert!(asker().ask(&[told], Instant::now(), &Counter::never()).await.refused.unwrap().by.contains("per: is missing"));
    let verdict = asker().ask(&[limit("{shadow: true, invalid: wrong}")], Instant::now(), &Counter::never()).await;
    assert!(verdict.refused.is_none() && matches!(&verdict.notes[..], [Note::Unanswered { .. }]), "{verdict:?}");
}

mod real;
