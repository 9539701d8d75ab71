//! What is asked, what an answer means, and what the service's troubles mean.

mod real;

use std::collections::BTreeMap;
use std::sync::Mutex;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Method, Request};
use http_body_util::BodyExt;
use mesh_model::address::NamespacedHostname;
use mesh_xds::messages::waypoint::{ExtAuthzBody, HeaderValue as WireHeader, Host};
use prost::Message;
use serde_json::json;

use super::*;
use crate::authorize::PolicyName;
use crate::body::Body;
use crate::call::{CallError, Reply};
use crate::facts::{Claims, Target};

struct Service {
    answer: Result<Reply, CallError>,
    asked: Mutex<Vec<(Version, Request<Bytes>, Limits)>>,
}

impl Caller for Service {
    fn call<'a>(&'a self, to: To<'a>, version: Version, request: Request<Bytes>, limits: Limits) -> BoxFuture<'a, Result<Reply, CallError>> {
        assert_eq!(to, To::Backend(&backend()));
        self.asked.lock().unwrap().push((version, request, limits));
        let answer = self.answer.clone();
        async move { answer }.boxed()
    }
}

fn backend() -> BackendRef {
    BackendRef { host: Some(Host { namespace: "auth".into(), hostname: "authz.auth".into() }), port: 9000, subset: String::new() }
}

fn wire() -> ExtAuthzProvider {
    ExtAuthzProvider { backend: Some(backend()), ..ExtAuthzProvider::default() }
}

fn over_grpc() -> ExtAuthzProvider {
    ExtAuthzProvider { protocol: ExtAuthzProtocol::Grpc as i32, ..wire() }
}

fn ask() -> Ask {
    Ask { provider: "opa".into(), policy: Some(PolicyName { namespace: "shop".into(), name: "p".into() }), rule: 2 }
}

fn arrival() -> Arrival {
    Arrival {
        identity: "spiffe://td/ns/front/sa/cart".parse().unwrap(),
        peer: "10.0.0.200:4000".parse().unwrap(),
        source: "10.0.0.1:4001".parse().unwrap(),
        source_workload: None,
        dialled: Some("10.96.0.9:8080".parse().unwrap()),
        hops: 0,
        target: Target::Service { key: NamespacedHostname { namespace: "shop".into(), hostname: "shop.example".into() }, port: 8080 },
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn reply(status: u16, head: &[(&'static str, &str)], body: &'static str) -> Result<Reply, CallError> {
    Ok(Reply { status: StatusCode::from_u16(status).unwrap(), headers: headers(head), body: body.into(), trailers: None })
}

fn grpc_reply(response: &wire::CheckResponse) -> Result<Reply, CallError> {
    let message = response.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    Ok(Reply { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into(), trailers: Some(headers(&[("grpc-status", "0")])) })
}

const CLIENT: &[(&str, &str)] = &[
    ("host", "shop.example:8080"),
    ("authorization", "Bearer x"),
    ("cookie", "a=1"),
    ("cookie", "b=2"),
    ("x-team", "red"),
    ("x-team", "blue"),
    ("content-length", "5"),
    ("transfer-encoding", "chunked"),
    ("x-request-id", "id-7"),
    ("x-envoy-auth-partial-body", "forged"),
];

/// The answer, and what the service was asked.
async fn ask_with(wire: &ExtAuthzProvider, answer: Result<Reply, CallError>, body: Option<&Shown>, claims: Option<&Claims>) -> (Answer, Vec<(Version, Request<Bytes>, Limits)>) {
    let (provider, _) = compile(wire);
    let service = Service { answer, asked: Mutex::default() };
    let (arrival, headers) = (arrival(), headers(CLIENT));
    let head = Head {
        arrival: &arrival,
        remote: arrival.source.ip(),
        method: &Method::POST,
        scheme: "http",
        authority: "shop.example:8080",
        path: "/cart",
        query: Some("q=1"),
        headers: &headers,
        grpc: false,
        claims,
    };
    let question = Question { head: &head, version: http::Version::HTTP_2, body };
    let answer = check(Some(&provider), &ask(), &question, &service).await;
    (answer, service.asked.into_inner().unwrap())
}

async fn answer_of(wire: &ExtAuthzProvider, reply: Result<Reply, CallError>) -> Answer {
    ask_with(wire, reply, None, None).await.0
}

fn denied(answer: Answer) -> Response {
    match answer {
        Answer::Deny(response) => response,
        Answer::Allow(edits) => panic!("allowed: {edits:?}"),
    }
}

fn allowed(answer: Answer) -> Edits {
    match answer {
        Answer::Allow(edits) => edits,
        Answer::Deny(response) => panic!("denied: {response:?}"),
    }
}

// Acceptance 15
#[tokio::test]
async fn over_http_the_question_looks_like_the_request() {
    let (_, asked) = ask_with(&wire(), reply(200, &[], ""), None, None).await;
    let (version, request, limits) = &asked[0];
    assert_eq!((*version, limits.timeout), (Version::Http1, Duration::from_secs(5)));
    assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::POST, "http://shop.example:8080/cart?q=1"));
    assert_eq!(request.headers(), &headers(&[("host", "shop.example:8080"), ("content-length", "0")]), "nothing that is not listed");

    let wire = ExtAuthzProvider {
        path_prefix: "/auth".into(),
        timeout_ms: 70,
        include_request_headers: ["Authorization", "x-*", "*kie", "content-length", "transfer-encoding"].map(str::to_owned).into(),
        additional_headers: vec![WireHeader { name: "x-team".into(), value: "fixed".into() }],
        body: Some(ExtAuthzBody { max_bytes: 10, allow_partial: true, pack_as_bytes: false }),
        ..wire()
    };
    let shown = Shown { bytes: Bytes::from_static(b"hello"), partial: true };
    let (_, asked) = ask_with(&wire, reply(200, &[], ""), Some(&shown), None).await;
    let (_, request, limits) = &asked[0];
    assert_eq!((request.uri().path(), limits.timeout, &request.body()[..]), ("/auth/cart", Duration::from_millis(70), &b"hello"[..]));
    let expected = [("host", "shop.example:8080"), ("content-length", "5"), ("authorization", "Bearer x"), ("cookie", "a=1"), ("cookie", "b=2"), ("x-team", "fixed"), ("x-request-id", "id-7"), ("x-envoy-auth-partial-body", "true")];
    assert_eq!(request.headers(), &headers(&expected));
}

#[tokio::test]
async fn over_http_what_an_answer_means() {
    const ANSWER: &[(&str, &str)] = &[("x-user", "bob"), ("x-group", "a"), ("x-group", "b"), ("set-cookie", "c"), ("www-authenticate", "Basic"), ("location", "/login"), ("content-length", "3"), ("connection", "x"), ("host", "evil")];
    let edits = allowed(answer_of(&wire(), reply(200, ANSWER, "body")).await);
    assert_eq!(edits, Edits::default(), "nothing that is not listed");
    let listed = ExtAuthzProvider {
        headers_to_upstream_on_allow: vec!["X-User".into(), "x-gro*".into(), "host".into()],
        headers_to_downstream_on_allow: vec!["set-cookie".into()],
        headers_to_downstream_on_deny: vec!["x-user".into()],
        clear_route_cache: true,
        ..wire()
    };
    let edits = allowed(answer_of(&listed, reply(200, ANSWER, "body")).await);
    let mut request = headers(&[("x-user", "root"), ("x-user", "forged"), ("x-group", "forged"), ("host", "shop")]);
    edits.apply(&mut request, &mut None);
    assert_eq!(request, headers(&[("x-user", "bob"), ("x-group", "a"), ("x-group", "b"), ("host", "shop")]));
    let mut response = headers(&[("set-cookie", "mine")]);
    edits.apply_to_response(&mut response);
    assert_eq!(response, headers(&[("set-cookie", "mine"), ("set-cookie", "c")]));
    assert!(edits.clear_route_cache && !allowed(answer_of(&listed, reply(200, &[], "")).await).clear_route_cache);

    let response = denied(answer_of(&wire(), reply(302, ANSWER, "go")).await);
    assert_eq!((response.status.as_u16(), &response.body[..]), (302, &b"go"[..]));
    assert_eq!(response.headers, headers(&ANSWER[..6]), "everything but what frames a message");
    assert_eq!(response.details, "ext_authz_denied[provider[opa]-ns[shop]-policy[p]-rule[2]]");
    let response = denied(answer_of(&listed, reply(401, ANSWER, "no")).await);
    assert_eq!(response.headers, headers(&[("x-user", "bob"), ("www-authenticate", "Basic"), ("location", "/login")]));
    for status in [201, 204, 301, 400, 403, 404, 429] {
        assert_eq!(denied(answer_of(&wire(), reply(status, &[], "")).await).status.as_u16(), status);
    }
}

#[tokio::test]
async fn a_service_in_trouble() {
    let mut troubles: Vec<(ExtAuthzProvider, Result<Reply, CallError>)> = Vec::new();
    let errors = [CallError::Timeout, CallError::TooLarge(1), CallError::Connect("x".into()), CallError::Broken("x".into())];
    for error in errors {
        troubles.extend([wire(), over_grpc()].map(|wire| (wire, Err(error.clone()))));
    }
    troubles.extend([500, 503, 504].map(|status| (wire(), reply(status, &[], "page"))));
    troubles.extend([reply(503, &[], ""), reply(200, &[("grpc-status", "13")], ""), reply(200, &[], "garbage")].map(|reply| (over_grpc(), reply)));
    for (wire, trouble) in troubles {
        let response = denied(answer_of(&wire, trouble.clone()).await);
        assert_eq!((response.status.as_u16(), response.body.len(), response.headers.len()), (403, 0, 0), "{trouble:?}");
        assert_eq!(response.details, "ext_authz_error[provider[opa]-ns[shop]-policy[p]-rule[2]]");
        let response = denied(answer_of(&ExtAuthzProvider { status_on_error: 503, ..wire.clone() }, trouble.clone()).await);
        assert_eq!(response.status.as_u16(), 503, "{trouble:?}");
        let edits = allowed(answer_of(&ExtAuthzProvider { fail_open: true, ..wire }, trouble.clone()).await);
        assert_eq!(edits, Edits { failed_open: true, ..Edits::default() }, "{trouble:?}");
    }
}

#[tokio::test]
async fn over_grpc_the_question_has_the_attributes() {
    let claims = Claims { issuer: "i".into(), subject: Some("s".into()), audiences: vec![], presenter: None, payload: json!({"iss": "i", "n": 3, "roles": ["a", true, null], "o": {"k": "v"}}) };
    let wire = ExtAuthzProvider { timeout_ms: 1500, body: Some(ExtAuthzBody { max_bytes: 9, allow_partial: false, pack_as_bytes: false }), ..over_grpc() };
    let shown = Shown { bytes: Bytes::from_static(b"hi\xff"), partial: false };
    let (_, asked) = ask_with(&wire, grpc_reply(&wire::CheckResponse::default()), Some(&shown), Some(&claims)).await;
    let (version, request, limits) = &asked[0];
    assert_eq!((*version, limits.timeout, request.uri().to_string().as_str()), (Version::Http2, Duration::from_millis(1500), "http://authz.auth:9000/envoy.service.auth.v3.Authorization/Check"));
    assert_eq!(request.headers()["grpc-timeout"], "1500m");
    let sent = wire::CheckRequest::decode(&request.body()[5..]).unwrap().attributes.unwrap();
    let source = sent.source.unwrap();
    let socket = |host: &str, port| Some(wire::Address { socket_address: Some(wire::SocketAddress { protocol: 0, address: host.into(), port_value: port }) });
    assert_eq!((source.principal.as_str(), source.address), ("spiffe://td/ns/front/sa/cart", socket("10.0.0.1", 4001)));
    assert_eq!(sent.destination.unwrap().address, socket("10.96.0.9", 8080));
    let http = sent.request.as_ref().unwrap().http.clone().unwrap();
    assert!(sent.request.unwrap().time.unwrap().seconds > 1_700_000_000);
    let told = (http.id.as_str(), http.method.as_str(), http.path.as_str(), http.host.as_str(), http.scheme.as_str(), http.size, http.protocol.as_str());
    assert_eq!(told, ("id-7", "POST", "/cart?q=1", "shop.example:8080", "http", 5, "HTTP/2"));
    let expected = [
        (":authority", "shop.example:8080"), (":method", "POST"), (":path", "/cart?q=1"), (":scheme", "http"), ("authorization", "Bearer x"), ("content-length", "5"),
        ("cookie", "a=1; b=2"), ("transfer-encoding", "chunked"), ("x-envoy-auth-partial-body", "false"), ("x-request-id", "id-7"), ("x-team", "red,blue"),
    ];
    assert_eq!(http.headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!((http.body.as_str(), http.raw_body.len(), http.header_map), ("hi\u{fffd}", 0, None));
    let token = &sent.metadata_context.unwrap().filter_metadata["envoy.filters.http.jwt_authn"];
    let shown = format!("{:?}", token.fields["payload"]);
    assert!(["NumberValue(3.0)", "StringValue(\"v\")", "BoolValue(true)", "NullValue"].iter().all(|part| shown.contains(part)), "{shown}");

    let bytes = ExtAuthzProvider { body: Some(ExtAuthzBody { max_bytes: 9, allow_partial: false, pack_as_bytes: true }), ..over_grpc() };
    let shown = Shown { bytes: Bytes::from_static(b"hi\xff"), partial: false };
    let (_, asked) = ask_with(&bytes, grpc_reply(&wire::CheckResponse::default()), Some(&shown), None).await;
    let http = wire::CheckRequest::decode(&asked[0].1.body()[5..]).unwrap().attributes.unwrap().request.unwrap().http.unwrap();
    assert_eq!((http.body.as_str(), &http.raw_body[..]), ("", &b"hi\xff"[..]));
}

// `externalAuth.grpc.allowedHeaders`: what is not listed is not shown, in neither form.
#[tokio::test]
async fn over_grpc_only_listed_headers_are_shown_where_there_is_a_list() {
    let listed = ExtAuthzProvider { include_request_headers: vec!["x-team".into(), "x-req*".into()], ..over_grpc() };
    let (_, asked) = ask_with(&listed, grpc_reply(&wire::CheckResponse::default()), None, None).await;
    let http = wire::CheckRequest::decode(&asked[0].1.body()[5..]).unwrap().attributes.unwrap().request.unwrap().http.unwrap();
    let names: Vec<&str> = http.headers.keys().map(String::as_str).collect();
    assert_eq!(names, [":authority", ":method", ":path", ":scheme", "x-request-id", "x-team"]);
    let mut raw = HeaderMap::new();
    raw.insert("x-team", HeaderValue::from_bytes(b"\xff").unwrap());
    raw.insert("cookie", HeaderValue::from_bytes(b"\xfe").unwrap());
    let shown = over_grpc::raw_headers(&raw, &|name| name.as_str() == "x-team").unwrap();
    assert_eq!(shown.headers.iter().map(|header| header.key.as_str()).collect::<Vec<_>>(), ["x-team"]);
}

// The numbers of the fields, byte by byte: what others read.
#[test]
fn the_numbers_on_the_wire() {
    let request = wire::CheckRequest {
        attributes: Some(wire::AttributeContext {
            source: Some(wire::Peer { principal: "p".into(), service: "s".into(), ..Default::default() }),
            request: Some(wire::Request { time: None, http: Some(wire::HttpRequest { id: "i".into(), method: "m".into(), path: "/".into(), host: "h".into(), scheme: "x".into(), size: 1, protocol: "q".into(), body: "b".into(), ..Default::default() }) }),
            tls_session: Some(wire::TlsSession { sni: "n".into() }),
            ..Default::default()
        }),
    };
    let http = b"\x0a\x01i\x12\x01m\x22\x01/\x2a\x01h\x32\x01x\x48\x01\x52\x01q\x5a\x01b";
    let expected = [&b"\x0a\x28\x0a\x06\x12\x01s\x22\x01p\x22\x19\x12\x17"[..], http, b"\x62\x03\x0a\x01n"].concat();
    assert_eq!(request.encode_to_vec(), expected);
    // status{code=7}, denied{status{401}, headers{header{k,v}, append}, body}
    let response = b"\x0a\x02\x08\x07\x12\x16\x0a\x03\x08\x91\x03\x12\x0c\x0a\x06\x0a\x01k\x12\x01v\x12\x02\x08\x01\x1a\x01b";
    let response = wire::CheckResponse::decode(&response[..]).unwrap();
    assert_eq!(response.status.unwrap().code, 7);
    let Some(wire::HttpResponse::Denied(denied)) = response.http_response else { panic!("not denied") };
    assert_eq!((denied.status.unwrap().code, denied.body.as_str(), denied.headers[0].append), (401, "b", Some(wire::BoolValue { value: true })));
}

fn option(name: &str, value: &str, append: Option<bool>, append_action: i32) -> wire::HeaderValueOption {
    let header = wire::HeaderValue { key: name.into(), value: value.into(), raw_value: Bytes::new() };
    wire::HeaderValueOption { header: Some(header), append: append.map(|value| wire::BoolValue { value }), append_action }
}

#[tokio::test]
async fn over_grpc_what_an_answer_means() {
    let status = |code| Some(wire::Status { code, message: String::new() });
    let ok = wire::OkResponse {
        headers: vec![
            option("x-user", "bob", None, 0), option("X-More", "2", Some(true), 0), option("x-less", "2", Some(false), 0), option("x-new", "n", None, 1), option("x-old", "n", None, 1),
            option("x-exists", "n", None, 3), option("x-not", "n", None, 3), option("x-empty", "", None, 0), option(":path", "/evil", None, 0), option("content-length", "9", None, 0), option("x-bad", "a\r\nb", None, 0),
        ],
        headers_to_remove: vec!["x-secret".into(), "host".into(), ":method".into()],
        response_headers_to_add: vec![option("x-seen", "1", None, 0), option("x-set", "1", Some(false), 0)],
        query_parameters_to_set: vec![wire::QueryParameter { key: "a b".into(), value: "c&d".into() }],
        query_parameters_to_remove: vec!["token".into()],
    };
    let metadata = prost_types::Struct { fields: BTreeMap::from([("k".into(), prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) })]) };
    let response = wire::CheckResponse { status: status(0), http_response: Some(wire::HttpResponse::Ok(ok.clone())), dynamic_metadata: Some(metadata.clone()) };
    let edits = allowed(answer_of(&over_grpc(), grpc_reply(&response)).await);
    assert_eq!(edits.metadata, Some(metadata));
    let mut request = headers(&[("x-user", "root"), ("x-more", "1"), ("x-less", "1"), ("x-old", "o"), ("x-exists", "o"), ("x-empty", "forged"), ("x-secret", "s"), ("host", "shop"), ("content-length", "5")]);
    let mut query = Some("x=1&token=t&a%20b=old".to_owned());
    edits.apply(&mut request, &mut query);
    let expected = [("x-user", "bob"), ("x-more", "1"), ("x-more", "2"), ("x-less", "2"), ("x-old", "o"), ("x-new", "n"), ("x-exists", "n"), ("x-empty", ""), ("host", "shop"), ("content-length", "5")];
    assert_eq!(request, headers(&expected));
    assert_eq!(query.as_deref(), Some("x=1&a%20b=c%26d"));
    let mut to_client = headers(&[("x-seen", "0"), ("x-set", "0")]);
    edits.apply_to_response(&mut to_client);
    assert_eq!(to_client, headers(&[("x-seen", "0"), ("x-seen", "1"), ("x-set", "1")]));

    let denied_response = |code| wire::DeniedResponse { status: Some(wire::HttpStatus { code }), headers: vec![option("x-why", "a", None, 0), option("x-why", "b", None, 0), option("x-two", "a", None, 0), option("x-two", "b", Some(true), 0)], body: "no".into() };
    let deny = |code, inner| wire::CheckResponse { status: status(code), http_response: inner, dynamic_metadata: None };
    let response = denied(answer_of(&over_grpc(), grpc_reply(&deny(7, Some(wire::HttpResponse::Denied(denied_response(401)))))).await);
    assert_eq!((response.status.as_u16(), &response.body[..]), (401, &b"no"[..]));
    assert_eq!(response.headers, headers(&[("x-why", "b"), ("x-two", "a"), ("x-two", "b")]));
    // The status of the whole decides; without one of HTTP it is 403.
    let table = [
        (deny(7, None), Some(403)),
        (deny(16, None), Some(403)),
        (deny(7, Some(wire::HttpResponse::Ok(ok.clone()))), Some(403)),
        (deny(7, Some(wire::HttpResponse::Denied(denied_response(0)))), Some(403)),
        (deny(7, Some(wire::HttpResponse::Denied(denied_response(100)))), Some(403)),
        (deny(0, None), None),
        (deny(0, Some(wire::HttpResponse::Error(denied_response(429)))), Some(429)),
        (deny(13, Some(wire::HttpResponse::Error(denied_response(0)))), Some(403)),
    ];
    for (response, expected) in table {
        let answer = answer_of(&over_grpc(), grpc_reply(&response)).await;
        let got = if let Answer::Deny(response) = answer { Some(response.status.as_u16()) } else { None };
        assert_eq!(got, expected, "{response:?}");
    }
    let open = ExtAuthzProvider { fail_open: true, ..over_grpc() };
    assert!(allowed(answer_of(&open, grpc_reply(&deny(0, Some(wire::HttpResponse::Error(denied_response(429)))))).await).failed_open);
}

// A provider that cannot be used refuses what its policies match.
#[tokio::test]
async fn a_provider_that_cannot_be_used() {
    let table = [
        (ExtAuthzProvider { invalid: "no such service".into(), ..wire() }, "no such service"),
        (ExtAuthzProvider { backend: None, ..wire() }, "service: is missing"),
        (ExtAuthzProvider { protocol: 9, ..wire() }, "protocol: 9 is not known"),
        (ExtAuthzProvider { status_on_error: 99, ..wire() }, "statusOnError: 99 is not"),
        (ExtAuthzProvider { status_on_error: 100, ..wire() }, "statusOnError: 100 is not"),
        (ExtAuthzProvider { status_on_error: 499, ..wire() }, "statusOnError: 499 is not"),
        (ExtAuthzProvider { status_on_error: 70_000, ..wire() }, "statusOnError: 70000 is not"),
        (ExtAuthzProvider { include_request_headers: vec!["*".into()], ..wire() }, "includeRequestHeadersInCheck holds \"*\""),
        (ExtAuthzProvider { headers_to_upstream_on_allow: vec!["a*b".into()], ..wire() }, "headersToUpstreamOnAllow holds \"a*b\""),
        (ExtAuthzProvider { headers_to_downstream_on_deny: vec![String::new()], ..wire() }, "headersToDownstreamOnDeny holds"),
        (ExtAuthzProvider { additional_headers: vec![WireHeader { name: "a b".into(), value: String::new() }], ..wire() }, "includeAdditionalHeadersInCheck: \"a b\""),
    ];
    for (wire, why) in table {
        let rejection = compile(&wire).1.unwrap();
        assert!(rejection.message.starts_with(why), "{rejection}");
        let open = ExtAuthzProvider { fail_open: true, ..wire };
        let (answer, asked) = ask_with(&open, reply(200, &[], ""), None, None).await;
        let response = denied(answer);
        assert_eq!((response.status.as_u16(), &response.body[..], asked.len()), (403, &b"RBAC: access denied"[..], 0), "{why}");
    }
    let service = Service { answer: reply(200, &[], ""), asked: Mutex::default() };
    let stream = check_stream(None, &Ask::of_route("x"), &arrival(), None, &service).await;
    assert_eq!(stream, Err("ext_authz_error[provider[x]]".into()));
}

// spec/waypoint.md 4.4
#[tokio::test]
async fn a_stream_asks_only_over_grpc() {
    let yes = wire::CheckResponse { status: Some(wire::Status::default()), ..Default::default() };
    let no = wire::CheckResponse { status: Some(wire::Status { code: 7, message: String::new() }), ..Default::default() };
    let denied = || Err("ext_authz_denied[provider[opa]-ns[shop]-policy[p]-rule[2]]".to_owned());
    let table = [(over_grpc(), grpc_reply(&yes), Ok(()), 1), (over_grpc(), grpc_reply(&no), denied(), 1), (wire(), reply(403, &[], ""), Ok(()), 0)];
    for (wire, answer, expected, calls) in table {
        let service = Service { answer, asked: Mutex::default() };
        let (provider, _) = compile(&wire);
        assert_eq!(check_stream(Some(&provider), &ask(), &arrival(), Some("a.b"), &service).await, expected);
        let asked = service.asked.into_inner().unwrap();
        assert_eq!(asked.len(), calls);
        if let Some((_, request, _)) = asked.first() {
            let sent = wire::CheckRequest::decode(&request.body()[5..]).unwrap().attributes.unwrap();
            assert_eq!((sent.tls_session.unwrap().sni.as_str(), sent.request.unwrap().http), ("a.b", None));
        }
    }
}

#[tokio::test]
async fn the_beginning_of_a_body_and_the_whole_of_it() {
    let chunked = |parts: &'static [&'static str]| {
        let frames = parts.iter().map(|part| Ok::<_, crate::body::BodyError>(http_body::Frame::data(Bytes::from_static(part.as_bytes()))));
        Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
    };
    let limit = |max_bytes, allow_partial| BodyLimit { max_bytes, allow_partial };
    type Parts = &'static [&'static str];
    #[allow(clippy::type_complexity, reason = "the rows of a table")]
    let table: &[(Parts, BodyLimit, Option<(&str, bool)>)] = &[
        (&[], limit(4, false), Some(("", false))),
        (&["ab", "cd"], limit(4, false), Some(("abcd", false))),
        (&["ab", "cde"], limit(4, false), None),
        (&["ab", "cde", "f"], limit(4, true), Some(("abcd", true))),
        (&["abcdefgh"], limit(4, true), Some(("abcd", true))),
        (&["a", "b"], limit(0, true), Some(("", true))),
        (&["a", "b"], limit(0, false), None),
    ];
    for (parts, limit, expected) in table {
        let peeked = peek(chunked(parts), *limit).await;
        match (peeked, expected) {
            (Ok((shown, body)), Some((text, partial))) => {
                assert_eq!((&shown.bytes[..], shown.partial), (text.as_bytes(), *partial), "{parts:?}");
                assert_eq!(body.collect().await.unwrap().to_bytes(), parts.concat());
            }
            (Err(PeekError::TooLarge), None) => {}
            (peeked, _) => panic!("{parts:?} {limit:?}: {:?}", peeked.map(|(shown, _)| shown)),
        }
    }
    // What says that it is too long is not read at all; what is read keeps its length.
    assert!(matches!(peek(Body::full("abcde"), limit(4, false)).await, Err(PeekError::TooLarge)));
    let (_, body) = peek(Body::full("abcde"), limit(5, false)).await.unwrap();
    assert_eq!(http_body::Body::size_hint(&body).exact(), Some(5));
    let broken = http_body_util::StreamBody::new(futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"a"))), Err("gone".into())]));
    assert!(matches!(peek(Body::boxed(broken), limit(9, true)).await, Err(PeekError::Broken(_))));
}
