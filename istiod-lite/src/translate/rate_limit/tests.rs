//! A user's YAML to what a waypoint is told, and what is refused with which hint.

use mesh_xds::messages::waypoint::{PathKind, RateLimit as Message};

use super::*;

fn told(yaml: &str) -> Result<Message, String> {
    let spec: RateLimitSpec = serde_saphyr::from_str(yaml).unwrap();
    message(&spec, |global| {
        let NsName { namespace, name } = counter(global, "shop");
        Host { namespace: namespace.to_string(), hostname: format!("{name}.{namespace}.svc.cluster.local") }
    })
}

#[test]
fn requests_in_a_time_and_at_once() {
    let told = told(
        "phase: BeforeAuthentication
headers: true
grpcStatus: ResourceExhausted
local:
- {name: all, requests: 100, per: 1m}
- name: each
  requests: 5
  per: 1s
  burst: 20
  shared: true
  by: [{type: SourcePrincipal}, {type: Header, name: X-User, optional: true}, {type: RemoteAddress, prefixLength: 24}]
  matches: [{path: {type: Exact, value: /cart}, method: POST}]",
    )
    .unwrap();
    let all = &told.local[0];
    assert_eq!((all.max_tokens, all.tokens_per_fill, all.fill_interval_ms, all.divide_by_replicas), (100, 100, 60_000, false));
    let each = &told.local[1];
    assert_eq!((each.max_tokens, each.tokens_per_fill, each.fill_interval_ms, each.divide_by_replicas), (20, 5, 1_000, true));
    let sources: Vec<DescriptorSource> = each.key_by.iter().map(|by| by.source()).collect();
    assert_eq!(sources, [DescriptorSource::SourcePrincipal, DescriptorSource::Header, DescriptorSource::RemoteAddress]);
    assert_eq!((&*each.key_by[1].name, each.key_by[1].optional, each.key_by[2].prefix_length), ("X-User", true, 24));
    assert_eq!(each.matches[0].path.as_ref().unwrap().kind(), PathKind::Exact);
    assert!(told.headers && told.resource_exhausted && !told.shadow && told.phase() == RateLimitPhase::BeforeAuthn);
}

#[test]
fn a_service_that_counts() {
    let told = told(
        "shadow: true
global:
  domain: shop
  service: {name: ratelimit, namespace: infra, port: 8081}
  failureMode: Closed
  timeout: 50ms
  descriptors:
  - by: [{type: Generic, key: tier, value: cart}, {type: SourceServiceAccount}]
  - by: [{type: Claim, name: sub, key: user}]",
    )
    .unwrap();
    let global = told.global.unwrap();
    let backend = global.backend.unwrap();
    assert_eq!((&*backend.host.unwrap().hostname, backend.port), ("ratelimit.infra.svc.cluster.local", 8081));
    assert!(global.fail_closed && told.shadow && global.timeout_ms == 50 && global.descriptors.len() == 2);
    assert_eq!((&*global.descriptors[0].entries[0].key, &*global.descriptors[1].entries[0].name), ("tier", "sub"));
}

#[test]
fn the_words_are_in_the_order_of_the_message() {
    let camel = |word: &str| {
        let part = |part: &str| part[..1].to_owned() + &part[1..].to_ascii_lowercase();
        word.split('_').map(part).collect::<String>()
    };
    assert_eq!(DescriptorSource::ALL.iter().map(|source| camel(source.word())).collect::<Vec<_>>(), COUNTED_BY);
}

#[test]
fn what_cannot_be_is_refused_with_field_and_hint() {
    let by = |by: &str| format!("local: [{{requests: 1, per: 1s, by: [{by}]}}]");
    let global = |more: &str| format!("global: {{domain: d, service: {{name: a, port: 1}}, descriptors: [{{by: [{{type: Path}}]}}]{more}}}");
    assert!(told(&global("")).is_ok());
    for (yaml, expected) in [
        ("{}".to_owned(), "spec: limits nothing"),
        ("{local: [{requests: 0, per: 1s}]}".into(), "spec.local[0].requests: is 0"),
        ("{local: [{requests: 1}]}".into(), "spec.local[0].per: is missing"),
        ("{local: [{requests: 1, per: 10ms}]}".into(), "spec.local[0].per: is less than 50ms"),
        ("{local: [{requests: 1, per: 1s, matches: [{method: GIT}]}]}".into(), "spec.local[0].matches.method: \"GIT\""),
        (by("{type: Cookie}"), "spec.local[0].by[0].type: \"Cookie\" is not Generic, Header"),
        (by("{type: Header}"), "spec.local[0].by[0].name: belongs to Header"),
        (by("{type: Header, name: 'a b'}"), "\"a b\" is no name of a header"),
        (by("{type: Path, name: x}"), "spec.local[0].by[0].name: belongs to Header"),
        (by("{type: Generic}"), "spec.local[0].by[0].value: belongs to Generic"),
        (by("{type: Path, prefixLength: 3}"), "spec.local[0].by[0].prefixLength"),
        ("{phase: Never, local: [{requests: 1, per: 1s}]}".into(), "spec.phase: \"Never\" is not AfterAuthorization or"),
        (global(", failureMode: Maybe"), "spec.global.failureMode: \"Maybe\" is not Open or Closed"),
        (global(", timeout: 11s"), "spec.global.timeout"),
        ("{global: {domain: d, service: {name: a, port: 1}}}".into(), "spec.global.descriptors: is empty"),
        ("{global: {service: {name: a, port: 1}}}".into(), "spec.global.domain: is empty"),
        ("{global: {domain: d, service: {name: a}}}".into(), "spec.global.service: needs"),
    ] {
        let said = told(&yaml).unwrap_err();
        assert!(said.contains(expected), "{yaml}: {said}");
    }
}
