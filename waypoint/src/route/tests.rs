//! Tables from spec/waypoint.md 2.2, 2.3, 3.3 and 5.1, and made-up rules against an oracle.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_model::address::NamespacedHostname;
use mesh_model::identity::SpiffeId;
use mesh_xds::messages::waypoint::{HttpMatch, KeyMatch, PathKind, PathMatch, StrMatch, StrMatchKind, TlsRoute};

use super::*;
use crate::facts::{Arrival, Claims, Head, Target};

mod oracle;

/// A request, as tests write it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub arrival: Arrival,
    pub method: Method,
    pub authority: String,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub claims: Option<Claims>,
}

/// `GET /path?query`, and headers.
pub fn asked(target: &str, headers: &[(&str, &str)]) -> Asked {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
    let peer: SocketAddr = "10.0.0.1:4000".parse().unwrap();
    let arrival = Arrival {
        identity: SpiffeId::new("cluster.local", "shop", "client"),
        peer,
        source: peer,
        source_workload: None,
        dialled: None,
        hops: 0,
        target: Target::Service { key: NamespacedHostname::new("shop", "echo.shop.svc.cluster.local"), port: 80 },
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    Asked { arrival, method: Method::GET, authority: "echo".into(), path: path.into(), query, headers: map, claims: None }
}

impl Asked {
    pub fn head(&self) -> Head<'_> {
        Head {
            arrival: &self.arrival,
            remote: self.arrival.source.ip(),
            method: &self.method,
            scheme: "http",
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            grpc: false,
            claims: self.claims.as_ref(),
        }
    }
}

/// Rules of one route in YAML: a list.
pub fn rules(yaml: &str) -> Vec<Arc<Rule>> {
    let routes: Vec<HttpRoute> = serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    let compile = |(at, wire): (usize, &HttpRoute)| {
        let (rule, wrong) = Rule::compile(&format!("rule-{at}"), wire);
        assert_eq!(wrong, None, "{yaml}");
        Arc::new(rule)
    };
    routes.iter().enumerate().map(compile).collect()
}

/// The name of the rule that the request falls under.
fn found(table: &Table, asked: &Asked) -> String {
    table.find(&asked.head()).map_or_else(|| "none".to_owned(), |matched| matched.rule.rule_name.to_string())
}

/// A target, headers, and the rule that is expected.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

fn check(yaml: &str, cases: &[Case<'_>]) {
    let table = Table::new(rules(yaml));
    for (target, headers, expected) in cases {
        assert_eq!(found(&table, &asked(target, headers)), *expected, "{target} {headers:?}");
    }
}

// MeshHTTPRouteMatching.
#[test]
fn elements_of_a_path_and_headers_decide() {
    check(
        "
- {ruleName: v1, ruleOrder: 0, matches: [{path: {kind: PREFIX_SEGMENT, value: /}}, {headers: [{name: version, value: {kind: {exact: one}}}]}]}
- {ruleName: v2, ruleOrder: 1, matches: [{path: {kind: PREFIX_SEGMENT, value: /v2}}, {headers: [{name: version, value: {kind: {exact: two}}}]}]}
",
        &[
            ("/", &[], "v1"),
            ("/example", &[], "v1"),
            ("/v2example", &[], "v1"),
            ("/foo/v2/example", &[], "v1"),
            ("/", &[("Version", "one")], "v1"),
            ("/v2", &[], "v2"),
            ("/v2/", &[], "v2"),
            ("/v2/example", &[], "v2"),
            ("/", &[("Version", "two")], "v2"),
            ("/v2", &[("Version", "one")], "v2"),
        ],
    );
}

// MeshHTTPRouteQueryParamMatching.
#[test]
fn query_parameters_decide_after_headers() {
    check(
        "
- {ruleName: whale, ruleOrder: 0, matches: [{query: [{name: animal, value: {kind: {exact: whale}}}]}]}
- {ruleName: dolphin, ruleOrder: 1, matches: [{query: [{name: animal, value: {kind: {exact: dolphin}}}]}]}
- {ruleName: path1, ruleOrder: 2, matches: [{path: {kind: PREFIX_SEGMENT, value: /path1}, query: [{name: animal, value: {kind: {exact: whale}}}]}]}
- {ruleName: header, ruleOrder: 3, matches: [{headers: [{name: version, value: {kind: {exact: one}}}], query: [{name: animal, value: {kind: {exact: whale}}}]}]}
- {ruleName: either, ruleOrder: 4, matches: [{path: {kind: PREFIX_SEGMENT, value: /path3}, query: [{name: animal, value: {kind: {exact: shark}}}]}, {path: {kind: PREFIX_SEGMENT, value: /path4}, headers: [{name: version, value: {kind: {exact: three}}}], query: [{name: animal, value: {kind: {exact: kraken}}}]}]}
- {ruleName: path5, ruleOrder: 5, matches: [{path: {kind: PREFIX_SEGMENT, value: /path5}}]}
- {ruleName: hydra, ruleOrder: 6, matches: [{query: [{name: animal, value: {kind: {exact: hydra}}}]}]}
",
        &[
            ("/?animal=whale", &[], "whale"),
            ("/?animal=dolphin", &[], "dolphin"),
            ("/?animal=dolphin&color=blue", &[], "dolphin"),
            ("/path1?animal=whale", &[], "path1"),
            ("/?animal=whale", &[("version", "one")], "header"),
            ("/path3?animal=shark", &[], "either"),
            ("/path4?animal=kraken", &[("version", "three")], "either"),
            ("/path5?animal=hydra", &[], "path5"),
            ("/?animal=hydra", &[], "hydra"),
            ("/", &[], "none"),
            ("/?color=blue", &[], "none"),
            ("/?animal=dog", &[], "none"),
            ("/?animal=whaledolphin", &[], "none"),
            ("/?animal=shark", &[], "none"),
            ("/path4?animal=kraken", &[], "none"),
            ("/?animal=dog&animal=whale", &[], "none"),
            ("/?animal=whale&animal=dog", &[], "whale"),
            ("/?%61nimal=wh%61le", &[], "whale"),
        ],
    );
}

#[test]
fn the_more_specific_goes_first_dimension_by_dimension() {
    // Each rule would take the requests of those above it, were they not more specific.
    check(
        "
- {ruleName: all, matches: [{path: {kind: PREFIX_SEGMENT, value: /}}]}
- {ruleName: query, matches: [{path: {kind: PREFIX_SEGMENT, value: /}, query: [{name: q, value: {kind: {exact: x}}}]}]}
- {ruleName: header, matches: [{path: {kind: PREFIX_SEGMENT, value: /}, headers: [{name: a, value: {kind: {exact: x}}}]}]}
- {ruleName: headers, matches: [{path: {kind: PREFIX_SEGMENT, value: /}, headers: [{name: a, value: {kind: {exact: x}}}, {name: b, value: {kind: {exact: x}}}]}]}
- {ruleName: method, matches: [{path: {kind: PREFIX_SEGMENT, value: /}, method: {kind: {exact: GET}}, query: [{name: get, value: {kind: {exact: x}}}]}]}
- {ruleName: longer, matches: [{path: {kind: PREFIX_SEGMENT, value: /a}}]}
- {ruleName: longest, matches: [{path: {kind: PREFIX_SEGMENT, value: /a/b/}}]}
- {ruleName: pattern, matches: [{path: {kind: REGEX, value: '/a/b/c.*'}}]}
- {ruleName: exact, matches: [{path: {kind: EXACT, value: /a/b/cc}}]}
",
        &[
            ("/", &[], "all"),
            ("/?q=x", &[], "query"),
            ("/?q=x", &[("a", "x")], "header"),
            ("/?q=x", &[("a", "x"), ("b", "x")], "headers"),
            ("/?q=x&get=x", &[("a", "x"), ("b", "x")], "method"),
            ("/a?q=x&get=x", &[("a", "x")], "longer"),
            ("/a/", &[], "longer"),
            ("/a/b", &[], "longest"),
            ("/a/bc", &[], "longer"),
            ("/a/b/d", &[], "longest"),
            ("/a/b/c", &[], "pattern"),
            ("/a/b/cd/e", &[], "pattern"),
            ("/a/b/cc", &[], "exact"),
            ("/a/b/CC", &[], "longest"),
        ],
    );
}

#[test]
fn ties_are_broken_by_age_then_name_then_place() {
    check(
        "
- {ruleName: younger, meta: {createdUnix: 20, source: {namespace: a, name: a}}}
- {ruleName: older-z, meta: {createdUnix: 10, source: {namespace: a, name: z}}}
- {ruleName: older-b-second, ruleOrder: 1, meta: {createdUnix: 10, source: {namespace: a, name: b}}}
- {ruleName: older-b-first, ruleOrder: 0, meta: {createdUnix: 10, source: {namespace: a, name: b}}}
- {ruleName: other-namespace, meta: {createdUnix: 10, source: {namespace: b, name: a}}}
",
        &[("/", &[], "older-b-first")],
    );
}

#[test]
fn headers_are_compared_by_line_and_joined() {
    check(
        "
- {ruleName: exact, matches: [{headers: [{name: X-A, value: {kind: {exact: one}}}]}]}
- {ruleName: joined, matches: [{headers: [{name: x-b, value: {kind: {exact: 'one,two'}}}]}]}
- {ruleName: pattern, matches: [{headers: [{name: x-c, value: {kind: {regex: 'v[0-9]+'}}}]}]}
- {ruleName: host, matches: [{headers: [{name: Host, value: {kind: {exact: echo}}}, {name: x-d, value: {kind: {present: true}}}]}]}
- {ruleName: first-of-two, matches: [{headers: [{name: x-e, value: {kind: {exact: one}}}, {name: X-E, value: {kind: {exact: two}}}]}]}
",
        &[
            ("/", &[("x-a", "one")], "exact"),
            ("/", &[("x-a", "One")], "none"),
            ("/", &[("x-a", "zero"), ("x-a", "one")], "exact"),
            ("/", &[("x-b", "one"), ("x-b", "two")], "joined"),
            ("/", &[("x-b", "two"), ("x-b", "one")], "none"),
            ("/", &[("x-c", "v12")], "pattern"),
            ("/", &[("x-c", "v12x")], "none"),
            ("/", &[("x-d", "")], "host"),
            ("/", &[("x-e", "one")], "first-of-two"),
        ],
    );
}

#[test]
fn a_grpc_method_is_a_path_of_two_elements() {
    let yaml = "
- {ruleName: any, grpc: true, matches: [{headers: [{name: a, value: {kind: {exact: x}}}]}]}
- {ruleName: method, grpc: true, matches: [{grpc: {method: {kind: {exact: Echo}}}}]}
- {ruleName: service, grpc: true, matches: [{grpc: {service: {kind: {exact: proto.Echo}}}}]}
- {ruleName: both, grpc: true, matches: [{grpc: {service: {kind: {exact: proto.Echo}}, method: {kind: {exact: Echo}}}}]}
- {ruleName: pattern, grpc: true, matches: [{grpc: {service: {kind: {regex: 'proto2[.].*'}}}}]}
";
    check(
        yaml,
        &[
            ("/proto.Echo/Echo", &[], "both"),
            ("/proto.Echo/Other", &[], "service"),
            ("/proto.Other/Echo", &[], "method"),
            ("/proto.Other/Other", &[], "none"),
            ("/proto.Other/Other", &[("a", "x")], "any"),
            ("/proto2.Any/Other", &[], "pattern"),
            ("/proto.echo/Echo", &[], "method"),
            ("/proto.Echo/Echo/", &[], "none"),
            ("/proto.Echo", &[], "none"),
            ("/proto.Echo/a/b", &[], "none"),
        ],
    );
}

#[test]
fn the_rules_of_a_virtual_service_are_tried_as_listed() {
    check(
        "
- {ruleName: text, order: LISTED, ruleOrder: 0, matches: [{path: {kind: PREFIX_STRING, value: /foo}, headers: [{name: a, value: {kind: {exact: x}}, invert: true}]}]}
- {ruleName: exact, order: LISTED, ruleOrder: 1, matches: [{path: {kind: EXACT, value: /foobar}}]}
- {ruleName: any-case, order: LISTED, ruleOrder: 2, matches: [{path: {kind: EXACT, value: /Case, ignoreCase: true}}, {path: {kind: PREFIX_STRING, value: /Begin, ignoreCase: true}}, {path: {kind: REGEX, value: '/Pat+ern', ignoreCase: true}}]}
- {ruleName: authority, order: LISTED, ruleOrder: 3, matches: [{authority: {kind: {prefix: ec}}, scheme: {kind: {exact: http}}, method: {kind: {regex: 'GET|HEAD'}}, path: {kind: EXACT, value: /auth}}]}
- {ruleName: here, order: LISTED, ruleOrder: 4, matches: [{port: 80, sourceNamespace: shop, path: {kind: EXACT, value: /here}}]}
- {ruleName: elsewhere, order: LISTED, ruleOrder: 5, matches: [{port: 81, path: {kind: EXACT, value: /there}}, {sourceNamespace: other, path: {kind: EXACT, value: /there}}]}
- {ruleName: rest, order: LISTED, ruleOrder: 6}
",
        &[
            ("/foobar", &[], "text"),
            ("/foobar", &[("a", "y")], "text"),
            ("/foobar", &[("a", "x")], "exact"),
            ("/foo/bar", &[("a", "x")], "rest"),
            ("/cASE", &[], "any-case"),
            ("/beginning", &[], "any-case"),
            ("/PATTTERN", &[], "any-case"),
            ("/auth", &[], "authority"),
            ("/here", &[], "here"),
            ("/there", &[], "rest"),
        ],
    );
}

#[test]
fn a_claim_of_the_token_decides_where_it_is_asked_for() {
    let table = Table::new(rules(
        "
- {ruleName: admin, order: LISTED, ruleOrder: 0, matches: [{headers: [{name: '@request.auth.claims.groups', value: {kind: {exact: admin}}}]}]}
- {ruleName: nested, order: LISTED, ruleOrder: 1, matches: [{headers: [{name: '@request.auth.claims[a][b]', value: {kind: {exact: 'true'}}}]}]}
- {ruleName: not-bob, order: LISTED, ruleOrder: 2, matches: [{headers: [{name: '@request.auth.claims.sub', value: {kind: {exact: bob}}, invert: true}]}]}
",
    ));
    for (payload, expected) in [
        (Some(serde_json::json!({"groups": ["user", "admin"]})), "admin"),
        (Some(serde_json::json!({"groups": "admin"})), "admin"),
        (Some(serde_json::json!({"groups": "user", "a": {"b": true}})), "nested"),
        (Some(serde_json::json!({"sub": "bob"})), "none"),
        (Some(serde_json::json!({"sub": "ann"})), "not-bob"),
        (None, "not-bob"),
    ] {
        let claims = payload.clone().map(|payload| Claims {
            issuer: "i".into(),
            subject: None,
            audiences: Vec::new(),
            presenter: None,
            payload,
        });
        // A header of that name is no claim.
        let asked = Asked { claims, ..asked("/", &[("groups", "admin")]) };
        assert_eq!(found(&table, &asked), expected, "{payload:?}");
    }
}

#[test]
fn what_cannot_be_read_matches_nothing_and_is_told() {
    let path = |kind: PathKind, value: &str| HttpMatch {
        path: Some(PathMatch { kind: kind as i32, value: value.into(), ignore_case: false }),
        ..HttpMatch::default()
    };
    let named = |name: &str| KeyMatch {
        name: name.into(),
        value: Some(StrMatch { kind: Some(StrMatchKind::Exact("x".into())) }),
        invert: false,
    };
    for wrong in [
        path(PathKind::Regex, "/("),
        path(PathKind::Exact, "no-slash"),
        path(PathKind::Exact, &format!("/{}", "a".repeat(1024))),
        HttpMatch { headers: vec![named("no name")], ..HttpMatch::default() },
        HttpMatch { headers: vec![named("@request.auth.claims.")], ..HttpMatch::default() },
        HttpMatch { query: vec![named("")], ..HttpMatch::default() },
        HttpMatch { headers: vec![KeyMatch { name: "a".into(), ..KeyMatch::default() }], ..HttpMatch::default() },
        HttpMatch { port: 70_000, ..HttpMatch::default() },
    ] {
        let wire = HttpRoute { matches: vec![wrong.clone(), path(PathKind::Exact, "/good")], ..HttpRoute::default() };
        let (rule, rejection) = Rule::compile("r", &wire);
        let rejection = rejection.unwrap();
        assert!(rejection.message.starts_with("match 0: "), "{rejection}");
        let table = Table::new([Arc::new(rule)]);
        assert!(table.find(&asked("/good", &[]).head()).is_some());
        assert!(table.find(&asked("/x", &[("a", "x")]).head()).is_none(), "{wrong:?}");
    }
    // Nothing of it can be read: it is there, and takes nothing.
    let (rule, _) = Rule::compile("r", &HttpRoute { matches: vec![path(PathKind::Regex, "(")], ..HttpRoute::default() });
    assert!(Table::new([Arc::new(rule)]).find(&asked("/", &[]).head()).is_none());
}

#[test]
fn a_server_name_falls_under_the_most_specific_name() {
    let rule = |name: &str, names: &[&str], created: u64| {
        let source = SourceRef { namespace: "shop".into(), name: name.into(), ..SourceRef::default() };
        let wire = TlsRoute {
            meta: Some(Meta { source: Some(source), created_unix: created }),
            server_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..TlsRoute::default()
        };
        let (rule, wrong) = StreamRule::of_tls(name, &wire);
        assert_eq!(wrong, None);
        Arc::new(rule)
    };
    let mut all = vec![
        rule("exact", &["a.example.com", "B.Example.com"], 2),
        rule("wildcard", &["*.example.com"], 2),
        rule("longer", &["*.x.example.com"], 2),
        rule("younger", &["a.example.com"], 3),
    ];
    let found = |table: &TlsTable, name: Option<&str>| table.find(name).map_or("none".into(), |rule| rule.resource.to_string());
    let table = TlsTable::new(all.clone());
    for (name, expected) in [
        (Some("a.example.com"), "exact"),
        (Some("A.EXAMPLE.com."), "exact"),
        (Some("b.example.com"), "exact"),
        (Some("c.example.com"), "wildcard"),
        (Some("c.d.example.com"), "wildcard"),
        (Some("c.x.example.com"), "longer"),
        (Some("x.example.com"), "wildcard"),
        (Some("example.com"), "none"),
        (Some(".example.com"), "none"),
        (Some("aexample.com"), "none"),
        (Some(""), "none"),
        (None, "none"),
    ] {
        assert_eq!(found(&table, name), expected, "{name:?}");
    }
    all.push(rule("any", &[], 9));
    let table = TlsTable::new(all);
    assert_eq!(found(&table, None), "any");
    assert_eq!(found(&table, Some("example.com")), "any");
    for wrong in ["*", "a*.example.com", "*.", "exa mple/", "10.0.0.1:80"] {
        let (rule, rejection) = StreamRule::of_tls("r", &TlsRoute { server_names: vec![wrong.into()], ..TlsRoute::default() });
        assert!(rejection.is_some(), "{wrong}");
        assert!(TlsTable::new([Arc::new(rule)]).find(Some("a.example.com")).is_none(), "it is not for every name");
    }
}

#[test]
fn of_rules_for_tcp_the_oldest_has_all() {
    let rule = |name: &str, created_unix: u64| {
        let source = SourceRef { name: name.into(), ..SourceRef::default() };
        let wire = mesh_xds::messages::waypoint::TcpRoute {
            meta: Some(Meta { source: Some(source), created_unix }),
            ..Default::default()
        };
        Arc::new(StreamRule::of_tcp(name, &wire).0)
    };
    let oldest = |rules: &[Arc<StreamRule>]| stream::oldest(rules.iter().cloned()).map(|rule| rule.resource.to_string());
    assert_eq!(oldest(&[rule("b", 2), rule("c", 1), rule("a", 2)]).as_deref(), Some("c"));
    assert_eq!(oldest(&[rule("b", 2), rule("a", 2)]).as_deref(), Some("a"));
    assert_eq!(oldest(&[]), None);
}
