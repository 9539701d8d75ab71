//! The order of the steps, and what the client and the log are told of each.

mod page;
mod spellings;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_model::address::NamespacedHostname;
use mesh_xds::messages::waypoint::{self as wire, AUTHZ_POLICY, EXT_AUTHZ_PROVIDER, JWT_POLICY, MESH_SETTINGS, SERVICE_PORT};
use parking_lot::Mutex;
use prost::Message;

use super::*;
use crate::call::{CallError, Limits, Reply, To, Version};
use crate::facts::Target;
use crate::hygiene::Kind;
use crate::settings;

/// The secret of all tokens of these tests.
const JWKS: &str = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#;

fn token() -> String {
    use aws_lc_rs::hmac;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
    let signed = format!("{}.{}", B64.encode(r#"{"alg":"HS256"}"#), B64.encode(r#"{"iss":"i","sub":"bob"}"#));
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"secret"), signed.as_bytes());
    format!("{signed}.{}", B64.encode(mac))
}

/// Says yes with a header, or no, by the path; keeps what it was asked.
#[derive(Default)]
struct Service(Mutex<Vec<Request<Bytes>>>);

impl Caller for Service {
    fn call<'a>(&'a self, _: To<'a>, _: Version, request: Request<Bytes>, _: Limits) -> BoxFuture<'a, Result<Reply, CallError>> {
        let status = if request.uri().path().contains("private") { StatusCode::FOUND } else { StatusCode::OK };
        self.0.lock().push(request);
        let headers = [("x-user", "carol"), ("location", "/login")];
        let headers = headers.map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        async move { Ok(Reply { status, headers: headers.into_iter().collect(), body: "go".into(), trailers: None }) }.boxed()
    }
}

fn host() -> NamespacedHostname {
    NamespacedHostname { namespace: "shop".into(), hostname: "shop.example".into() }
}

fn arrival() -> Arrival {
    Arrival {
        identity: "spiffe://td/ns/front/sa/cart".parse().unwrap(),
        peer: "10.0.0.200:4000".parse().unwrap(),
        source: "10.0.0.1:4000".parse().unwrap(),
        source_workload: None,
        dialled: Some("10.96.0.9:80".parse().unwrap()),
        hops: 0,
        target: Target::Service { key: host(), port: 80 },
    }
}

/// Policies as YAML without meta and targets, for the one service; by type.
fn settings(resources: &[(&str, &str)]) -> Arc<Settings> {
    fn encoded<M: serde::de::DeserializeOwned + Message>(yaml: &str) -> Vec<u8> {
        serde_saphyr::from_str::<M>(yaml).unwrap().encode_to_vec()
    }
    let (mut store, watched) = settings::store(None);
    store.take(SERVICE_PORT, "shop/shop.example:80", Some(&encoded::<wire::ServicePort>("host: {namespace: shop, hostname: shop.example}\nport: 80"))).unwrap();
    store.take(MESH_SETTINGS, "default", Some(&encoded::<wire::MeshSettings>("trustDomain: td"))).unwrap();
    for (index, (type_url, yaml)) in resources.iter().enumerate() {
        let target = format!("meta: {{source: {{namespace: shop, name: p{index}}}}}\ntargets: [{{kind: {{service: {{host: {{namespace: shop, hostname: shop.example}}}}}}}}]\n{yaml}");
        let (name, bytes) = match *type_url {
            EXT_AUTHZ_PROVIDER => ("ask".to_owned(), encoded::<wire::ExtAuthzProvider>(yaml)),
            JWT_POLICY => (format!("shop/p{index}"), encoded::<wire::JwtPolicy>(&target)),
            _ => (format!("shop/p{index}"), encoded::<wire::AuthzPolicy>(&target)),
        };
        store.take(type_url, &name, Some(&bytes)).unwrap();
    }
    store.publish();
    watched.load()
}

struct Outcome {
    passed: Result<Passed, Box<Refused>>,
    parts: Parts,
    body: Body,
    asked: Vec<Request<Bytes>>,
}

async fn pass(settings: &Settings, request: Request<&'static str>, grpc: bool) -> Outcome {
    judged(settings, request, grpc, async |guard, parts, body, service| {
        let mut passed = guard.pass(parts, body).await?;
        let asked = service.0.lock().len();
        let again = guard.again(guard.policies, parts, body, &mut passed).await;
        assert!(again.is_ok() && service.0.lock().len() == asked, "what was heard is not asked again, and says the same");
        Ok(passed)
    })
    .await
}

async fn judged(
    settings: &Settings,
    mut request: Request<&'static str>,
    grpc: bool,
    step: impl AsyncFnOnce(&Guard<'_>, &mut Parts, &mut Body, &Service) -> Result<Passed, Box<Refused>>,
) -> Outcome {
    let service = Arc::new(Service::default());
    let keys = jwt::Keys::new(service.clone());
    request.headers_mut().insert(HOST, http::HeaderValue::from_static("shop.example"));
    let (mut parts, text) = request.into_parts();
    let mut body = Body::full(text);
    let (arrival, remote) = (arrival(), "10.0.0.1".parse().unwrap());
    let found = Found { kind: Kind::Plain, scheme: "http", grpc, remote, expects_continue: false, grpc_timeout: None };
    let policies = settings.service(&host(), 80).unwrap().policies(None).clone();
    let guard = Guard { settings, policies: &policies, keys: &keys, caller: &*service, arrival: &arrival, found: &found };
    let passed = step(&guard, &mut parts, &mut body, &service).await;
    let asked = std::mem::take(&mut *service.0.lock());
    Outcome { passed, parts, body, asked }
}

async fn refusal(outcome: Outcome) -> (u16, String, String) {
    let Err(refused) = outcome.passed else { panic!("passed") };
    let details = refused.reason.words().details.into_owned();
    let status = refused.answer.status().as_u16();
    let body = refused.answer.into_body().collect().await.unwrap().to_bytes();
    (status, details, String::from_utf8(body.to_vec()).unwrap())
}

const PROVIDER: (&str, &str) = (EXT_AUTHZ_PROVIDER, "backend: {host: {namespace: auth, hostname: authz.auth}, port: 80}\nheadersToUpstreamOnAllow: [x-user]\nclearRouteCache: true\nbody: {maxBytes: 4}");
const CUSTOM: (&str, &str) = (AUTHZ_POLICY, "action: CUSTOM\nprovider: ask\nrules: [{to: [{paths: ['/asked*']}]}]");
const NEEDS_USER: (&str, &str) = (AUTHZ_POLICY, "rules: [{when: [{key: 'request.headers[x-user]', values: [carol]}]}, {from: [{requestPrincipals: ['i/bob']}]}]");

fn jwt_policy() -> String {
    format!("rules: [{{issuer: i, jwks: '{JWKS}', outputClaims: [{{header: x-sub, claim: sub}}]}}]")
}

#[tokio::test]
async fn each_step_sees_what_the_one_before_left() {
    let jwt_policy = jwt_policy();
    let settings = settings(&[PROVIDER, CUSTOM, (JWT_POLICY, &jwt_policy), NEEDS_USER]);
    // Nobody asks about it, it has no token: the last step refuses.
    let outcome = pass(&settings, Request::get("/x").header("x-user", "eve").body("").unwrap(), false).await;
    assert!(outcome.asked.is_empty());
    assert_eq!(refusal(outcome).await, (403, "rbac_access_denied_matched_policy[none]".into(), "RBAC: access denied".into()));
    // Whoever is asked says who it is, in place of what the client says.
    let outcome = pass(&settings, Request::get("/asked?a=b").header("x-user", "eve").header("x-sub", "root").body("1234").unwrap(), false).await;
    let passed = outcome.passed.unwrap_or_else(|refused| panic!("{:?}", refused.reason));
    assert_eq!((passed.rematch, passed.allowed_by.unwrap().to_string()), (true, "shop/p3".into()));
    assert_eq!((&outcome.parts.headers["x-user"], outcome.parts.headers.get("x-sub")), (&"carol".parse::<http::HeaderValue>().unwrap(), None));
    assert_eq!((outcome.asked[0].uri().to_string().as_str(), &outcome.asked[0].body()[..]), ("http://shop.example/asked?a=b", &b"1234"[..]));
    assert_eq!(outcome.body.collect().await.unwrap().to_bytes(), "1234");
    // A token is enough, too; it is taken off, and its claim is told.
    let outcome = pass(&settings, Request::get(format!("/x?a=b&access_token={}", token())).header("x-sub", "root").body("").unwrap(), false).await;
    let passed = outcome.passed.unwrap_or_else(|refused| panic!("{:?}", refused.reason));
    assert_eq!(passed.claims.unwrap().principal().as_deref(), Some("i/bob"));
    assert_eq!((outcome.parts.uri.to_string().as_str(), &outcome.parts.headers["x-sub"]), ("/x?a=b", &"bob".parse::<http::HeaderValue>().unwrap()));
}

#[tokio::test]
async fn a_route_that_was_found_by_a_forged_claim_is_looked_for_again() {
    let jwt_policy = jwt_policy();
    let settings = settings(&[(JWT_POLICY, &jwt_policy)]);
    for (header, rematch) in [("x-sub", true), ("x-other", false)] {
        let outcome = pass(&settings, Request::get("/x").header(header, "root").body("").unwrap(), false).await;
        let passed = outcome.passed.unwrap_or_else(|refused| panic!("{:?}", refused.reason));
        assert_eq!((passed.rematch, outcome.parts.headers.contains_key(header)), (rematch, !rematch), "{header}");
    }
}

fn refused(outcome: &Outcome) -> &Refused {
    match &outcome.passed {
        Err(refused) => refused,
        Ok(passed) => panic!("{passed:?}"),
    }
}

#[tokio::test]
async fn what_a_client_is_told() {
    let jwt_policy = jwt_policy();
    let all = settings(&[PROVIDER, CUSTOM, (JWT_POLICY, &jwt_policy), NEEDS_USER]);
    let outcome = pass(&all, Request::get("/asked/private").body("").unwrap(), false).await;
    assert_eq!(refused(&outcome).answer.headers()["location"], "/login");
    assert_eq!(refusal(outcome).await, (302, "ext_authz_denied[provider[ask]-ns[shop]-policy[p1]-rule[0]]".into(), "go".into()));
    let outcome = pass(&all, Request::get("/asked").body("12345").unwrap(), false).await;
    assert_eq!(refusal(outcome).await.0, 413);
    let outcome = pass(&all, Request::get("/x").header("authorization", "Bearer x.y.z").body("").unwrap(), false).await;
    assert_eq!(refused(&outcome).answer.headers()[WWW_AUTHENTICATE], "Bearer realm=\"shop.example\", error=\"invalid_token\"");
    let (status, details, text) = refusal(outcome).await;
    assert_eq!((status, details.starts_with("jwt_authn_access_denied{"), text.starts_with("Jwt")), (401, true, true));
    // gRPC reads its own words.
    let outcome = pass(&all, Request::get("/x").body("").unwrap(), true).await;
    let answer = &refused(&outcome).answer;
    assert_eq!((answer.status().as_u16(), &answer.headers()["grpc-status"]), (200, &"7".parse::<http::HeaderValue>().unwrap()));
    // A provider that is not there refuses what the policy matches, and nothing else.
    let nobody = settings(&[CUSTOM]);
    assert_eq!(refusal(pass(&nobody, Request::get("/asked").body("").unwrap(), false).await).await.0, 403);
    assert!(pass(&nobody, Request::get("/x").body("").unwrap(), false).await.passed.is_ok());
}

// Acceptance 12: a preflight skips the token, and nothing else.
#[tokio::test]
async fn a_preflight_is_judged_but_for_its_token() {
    let jwt_policy = jwt_policy();
    let preflight = |path: &str| Request::options(path).header("origin", "https://a").header("access-control-request-method", "GET").header("authorization", "Bearer bad").header("x-sub", "root");
    let outcome = pass(&settings(&[(JWT_POLICY, &jwt_policy)]), preflight("/x").body("").unwrap(), false).await;
    assert!(outcome.passed.is_ok() && !outcome.parts.headers.contains_key("x-sub"));
    let all = settings(&[PROVIDER, CUSTOM, (JWT_POLICY, &jwt_policy), NEEDS_USER]);
    assert_eq!(refusal(pass(&all, preflight("/x").body("").unwrap(), false).await).await.0, 403);
    assert_eq!(refusal(pass(&all, preflight("/asked/private").body("").unwrap(), false).await).await.0, 302);
    let other = Request::options("/x").header("authorization", "Bearer bad").body("").unwrap();
    assert_eq!(refusal(pass(&settings(&[(JWT_POLICY, &jwt_policy)]), other, false).await).await.0, 401);
}

#[tokio::test]
async fn a_stream_is_judged_by_what_it_has() {
    let service = Service::default();
    let of = |settings: &Settings| settings.service(&host(), 80).unwrap().policies(None).authz.clone();
    let deny = settings(&[(AUTHZ_POLICY, "action: DENY\nrules: [{to: [{methods: [POST]}]}]")]);
    let refused = crate::stream::guard::pass(&deny, &of(&deny), &arrival(), None, &service, &mut Vec::new()).await;
    assert_eq!(refused, Err("rbac_access_denied_matched_policy[ns[shop]-policy[p0]-rule[0]]".into()));
    let nobody = settings(&[CUSTOM]);
    let refused = crate::stream::guard::pass(&nobody, &of(&nobody), &arrival(), None, &service, &mut Vec::new()).await;
    assert_eq!(refused, Err("ext_authz_error[provider[ask]-ns[shop]-policy[p0]-rule[0]]".into()));
    let http = settings(&[PROVIDER, CUSTOM]);
    assert_eq!(crate::stream::guard::pass(&http, &of(&http), &arrival(), None, &service, &mut Vec::new()).await, Ok(vec![]));
    assert!(service.0.lock().is_empty(), "a provider that speaks HTTP is not asked about bytes");
}

// A rule that is found only when claims or an authorization service have changed the request has policies of its own.
#[tokio::test]
async fn a_rule_that_is_found_later_has_its_tokens_looked_at() {
    let jwt_policy = jwt_policy();
    let settings = settings(&[(JWT_POLICY, &jwt_policy), NEEDS_USER]);
    let later = async |request: http::request::Builder| {
        judged(&settings, request.body("").unwrap(), false, async |guard, parts, body, _| {
            let mut passed = Passed::default();
            guard.again(&Policies::default(), parts, body, &mut passed).await.map(|()| passed)
        })
        .await
    };
    let outcome = later(Request::get("/x").header("authorization", format!("Bearer {}", token())).header("x-sub", "root")).await;
    assert_eq!(outcome.passed.unwrap_or_else(|refused| panic!("{:?}", refused.reason)).claims.unwrap().principal().as_deref(), Some("i/bob"));
    assert_eq!((outcome.parts.headers["x-sub"].to_str().unwrap(), outcome.parts.headers.contains_key("authorization")), ("bob", false));
    let outcome = later(Request::get("/x").header("authorization", "Bearer bad")).await;
    assert_eq!(refusal(outcome).await.0, 401);
    let outcome = later(Request::get("/x").header("x-sub", "root").header("x-user", "carol")).await;
    assert!(outcome.passed.is_ok() && !outcome.parts.headers.contains_key("x-sub"), "a client's own word");
}
