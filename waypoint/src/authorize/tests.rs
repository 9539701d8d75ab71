//! From a policy as the controller sends it to the answer; the rules themselves are tested in `mesh-policy`.

use http::{HeaderName, HeaderValue, Method};
use mesh_model::address::NamespacedHostname;
use serde_json::json;

use super::*;
use crate::facts::Target;

fn arrival() -> Arrival {
    Arrival {
        identity: "spiffe://td/ns/front/sa/cart".parse().unwrap(),
        peer: "10.0.0.200:4000".parse().unwrap(),
        source: "10.0.0.1:4000".parse().unwrap(),
        source_workload: None,
        dialled: Some("10.96.0.9:8080".parse().unwrap()),
        hops: 0,
        target: Target::Service { key: NamespacedHostname { namespace: "shop".into(), hostname: "shop.example".into() }, port: 8080 },
    }
}

/// `yaml`: without `meta`; the policy is shop/NAME.
fn read(name: &str, yaml: &str) -> (Arc<Policy>, Option<Rejection>) {
    let mut wire: AuthzPolicy = serde_saphyr::from_str(yaml).unwrap();
    let source = mesh_xds::messages::waypoint::SourceRef { namespace: "shop".into(), name: name.into(), ..Default::default() };
    wire.meta = Some(mesh_xds::messages::waypoint::Meta { source: Some(source), created_unix: 0 });
    let (policy, rejection) = compile(&wire);
    (Arc::new(policy), rejection)
}

fn policy(name: &str, yaml: &str) -> Arc<Policy> {
    let (policy, rejection) = read(name, yaml);
    assert_eq!(rejection, None);
    policy
}

fn with_head<T>(path: &str, headers: &[(&'static str, &str)], claims: Option<&Claims>, judge: impl FnOnce(&Head<'_>) -> T) -> T {
    let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect();
    let arrival = arrival();
    judge(&Head {
        arrival: &arrival,
        remote: "192.0.2.7".parse().unwrap(),
        method: &Method::GET,
        scheme: "http",
        authority: "Shop.example:8080",
        path,
        query: Some("q=1"),
        headers: &headers,
        grpc: false,
        claims,
    })
}

fn domains() -> Vec<Arc<str>> {
    vec!["td".into()]
}

fn refusal(policies: &[Arc<Policy>], path: &str) -> Option<String> {
    with_head(path, &[("x-team", "a")], None, |head| decide(policies, head, &domains()).refused.map(|refused| refused.details))
}

#[test]
fn a_refusal_names_policy_and_rule() {
    let deny = policy("deny", "action: DENY\nrules:\n- to: [{methods: [PUT]}]\n- to: [{paths: ['/admin*']}]");
    let allow = policy("allow", "rules:\n- from: [{namespaces: [front]}]\n  to: [{paths: ['/a*'], ports: ['8080'], hosts: ['shop.example:8080']}]\n  when: [{key: 'request.headers[X-Team]', values: [a]}]");
    let table = [
        (vec![], "/x", None),
        (vec![deny.clone()], "/x", None),
        (vec![deny.clone()], "/admin/1", Some("rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[1]]")),
        (vec![allow.clone()], "/x", Some("rbac_access_denied_matched_policy[none]")),
        (vec![allow.clone()], "/a", None),
        (vec![allow.clone(), deny.clone()], "/admin", Some("rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[1]]")),
    ];
    for (policies, path, expected) in table {
        assert_eq!(refusal(&policies, path).as_deref(), expected, "{path}");
    }
    let verdict = with_head("/a", &[("x-team", "a")], None, |head| decide(&[allow], head, &domains()));
    assert_eq!(verdict.allowed_by.unwrap().to_string(), "shop/allow");
}

#[test]
fn what_a_client_says_of_itself_is_not_its_address() {
    let direct = policy("p", "rules:\n- from: [{ipBlocks: [10.0.0.1]}]");
    let remote = policy("p", "rules:\n- from: [{remoteIpBlocks: [192.0.2.0/24]}]");
    let peer = policy("p", "rules:\n- from: [{ipBlocks: [10.0.0.200, 192.0.2.7]}]");
    for (policy, allowed) in [(direct, true), (remote, true), (peer, false)] {
        assert_eq!(refusal(&[policy], "/").is_none(), allowed);
    }
}

#[test]
fn claims_of_a_verified_token() {
    let payload = json!({"iss": "i", "sub": "s", "aud": ["web"], "azp": "cli", "n": 7, "yes": true, "realm": {"roles": ["admin", 3]}});
    let claims = Claims { issuer: "i".into(), subject: Some("s".into()), audiences: vec!["web".into()], presenter: Some("cli".into()), payload };
    let table = [
        ("- from: [{requestPrincipals: ['*']}]", true),
        ("- from: [{requestPrincipals: [i/s]}]", true),
        ("- from: [{notRequestPrincipals: [i/s]}]", false),
        ("- when: [{key: request.auth.audiences, values: [web]}]", true),
        ("- when: [{key: request.auth.presenter, values: [cli]}]", true),
        ("- when: [{key: 'request.auth.claims[realm][roles]', values: [admin]}]", true),
        ("- when: [{key: 'request.auth.claims[realm][roles]', values: ['3']}]", false),
        ("- when: [{key: 'request.auth.claims[n]', values: ['7', '*']}]", false),
        ("- when: [{key: 'request.auth.claims[yes]', values: ['true', '*']}]", false),
        ("- when: [{key: 'request.auth.claims[realm][none]', values: ['*']}]", false),
    ];
    for (rules, expected) in table {
        let policies = [policy("p", &format!("rules:\n{rules}"))];
        let allowed = with_head("/", &[], Some(&claims), |head| decide(&policies, head, &domains()).refused.is_none());
        assert_eq!(allowed, expected, "{rules}");
        let nobody = with_head("/", &[], None, |head| decide(&policies, head, &domains()).refused.is_none());
        assert_eq!(nobody, rules.contains("not"), "{rules} without a token");
    }
}

#[test]
fn pseudo_headers_are_headers() {
    for (key, value) in [(":authority", "Shop.example:8080"), ("host", "Shop.example:8080"), (":path", "/a?q=1"), (":method", "GET")] {
        let policies = [policy("p", &format!("rules:\n- when: [{{key: 'request.headers[{key}]', values: ['{value}']}}]"))];
        assert_eq!(refusal(&policies, "/a"), None, "{key}");
    }
}

// A policy is in force whatever is wrong with it.
#[test]
fn what_cannot_be_read_is_reported_and_closed() {
    let table = [
        ("rules:\n- from: [{ipBlocks: [10.0.0]}]", "rules[0].from[0].ipBlocks: \"10.0.0\" is neither an IP address nor a range of them", true),
        ("action: DENY\nrules:\n- when: [{key: source.colour, values: [red]}]", "rules[0].when[0]: key \"source.colour\" is not known", true),
        ("action: DENY\nrules:\n- to: [{}]", "rules[0].to[0]: has no field", true),
        ("rules:\n- from: [{}]", "rules[0].from[0]: has no field", true),
        ("rules:\n- when: [{key: source.ip}]", "rules[0].when[0]: neither values nor notValues", true),
        ("rules:\n- from: [{serviceAccounts: [a], namespaces: [front]}]", "rules[0].from[0]: serviceAccounts cannot stand beside principals or namespaces", true),
        ("action: DENY\nrules:\n- to: [{ports: ['80', x]}]", "rules[0].to[0].ports: \"x\" is not a port: 1 to 65535", false),
        ("action: CUSTOM\nrules: [{}]", "provider: is empty: whatever the policy matches is refused", false),
    ];
    for (yaml, complaint, refused) in table {
        let (policy, rejection) = read("p", yaml);
        assert_eq!(rejection, Some(Rejection::new("PartiallyInvalid", complaint)), "{yaml}");
        assert_eq!(refusal(&[policy], "/").is_some(), refused, "{yaml}");
    }
    let (policy, rejection) = compile(&AuthzPolicy { action: 9, ..AuthzPolicy::default() });
    assert!(rejection.unwrap().message.contains("9 is not known"));
    let verdict = decide_stream(&[Arc::new(policy)], &arrival(), None, &domains());
    assert!(verdict.refused.unwrap().malformed.unwrap().contains("cannot be read"));
    let verdict = with_head("/", &[], None, |head| decide(&[Arc::new(unreadable("shop/p"))], head, &domains()));
    assert_eq!(verdict.refused.unwrap().details, "rbac_access_denied_matched_policy[ns[shop]-policy[p]-rule[0]]");
    // What is reported stays short.
    let many = format!("rules:\n- to: [{{ports: [{}]}}]", ["x"; 100].join(", "));
    assert!(read("p", &many).1.unwrap().message.len() < 1000);
}

#[test]
fn custom_policies_ask_each_provider_once() {
    let custom = |name: &str, provider: &str, rules: &str| policy(name, &format!("action: CUSTOM\nprovider: {provider}\nrules:\n{rules}"));
    let policies = [custom("one", "opa", "- to: [{paths: [/x]}]\n- to: [{paths: [/a]}]"), custom("two", "opa", "- {}"), custom("three", "aaa", "- {}"), custom("four", "zzz", "- to: [{paths: [/x]}]")];
    let ask = |provider: &str, name: &str, rule| Ask { provider: provider.into(), policy: Some(PolicyName { namespace: "shop".into(), name: name.into() }), rule };
    let asked = with_head("/a", &[], None, |head| custom_of(&policies, head));
    assert_eq!(asked, [ask("aaa", "three", 0), ask("opa", "one", 1)]);
    assert_eq!(refusal(&policies, "/a"), None, "a CUSTOM policy does not refuse by itself");
    // Of a stream, paths are not asked.
    let asked = custom_stream(&policies, &arrival(), None, &domains());
    assert_eq!(asked.iter().map(|ask| &*ask.provider).collect::<Vec<_>>(), ["aaa", "opa", "zzz"]);
}

fn custom_of(policies: &[Arc<Policy>], head: &Head<'_>) -> Vec<Ask> {
    custom(policies, head, &domains())
}

// spec/waypoint.md 4.4
#[test]
fn streams() {
    let deny = policy("deny", "action: DENY\nrules:\n- to: [{methods: [POST]}]");
    let refused = decide_stream(&[deny], &arrival(), None, &domains()).refused.unwrap();
    assert_eq!(refused.details, "rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[0]]");
    let allow = policy("allow", "rules:\n- from: [{principals: [td/ns/front/sa/cart]}]\n  when: [{key: connection.sni, values: [a.b]}]");
    let allowed = |name| decide_stream(std::slice::from_ref(&allow), &arrival(), name, &domains()).refused.is_none();
    assert_eq!([allowed(Some("a.b")), allowed(None)], [true, false]);
}
