//! Tables from spec/waypoint.md 2.4 and 2.5.

use http::{Method, Request};
use mesh_xds::messages::waypoint::{HttpRoute, WeightedBackend};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::route::{Rule, Table, tests};

fn filters(yaml: &str) -> Filters {
    let wire: Vec<wire::Filter> = serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    let (filters, wrong) = Filters::compile(&wire);
    assert_eq!(wrong, Vec::<String>::new(), "{yaml}");
    filters
}

fn wrong(yaml: &str) -> (Filters, String) {
    let wire: Vec<wire::Filter> = serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    let (filters, wrong) = Filters::compile(&wire);
    assert!(!wrong.is_empty(), "{yaml} is taken");
    (filters, wrong.join("; "))
}

fn parts(target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(target).header("host", "echo:80");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

const SITE: Site<'static> = Site { scheme: "http", authority: "echo", port: 80, matched: None };

/// What the request has become, under a rule with this match and these filters.
fn rewritten(one_match: &str, filter: &str, target: &str) -> Parts {
    let yaml = format!("{{matches: [{one_match}], filters: [{{kind: {filter}}}]}}");
    let wire: HttpRoute = serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    let (rule, wrong) = Rule::compile("r", &wire);
    assert_eq!(wrong, None, "{yaml}");
    let matched = Table::new([std::sync::Arc::new(rule)]).find(&tests::asked(target, &[]).head());
    let matched = matched.unwrap_or_else(|| panic!("{one_match} does not match {target}"));
    let mut parts = parts(target, &[]);
    matched.rule.filters.request(&mut parts, &Site { matched: Some(&matched), ..SITE }).unwrap();
    parts
}

// MeshHTTPRouteRequestHeaderModifier.
#[test]
fn headers_are_set_then_added_then_removed() {
    let edit = filters(
        "[{kind: {requestHeaders: {
            set: [{name: X-Set, value: set-overwrites}],
            add: [{name: x-add, value: added}, {name: x-new, value: new}],
            remove: [X-Remove]}}}]",
    );
    let mut parts = parts("/", &[("x-set", "a"), ("x-set", "b"), ("X-Add", "some-other"), ("x-remove", "c"), ("kept", "d")]);
    edit.request(&mut parts, &SITE).unwrap();
    let lines =
        |name: &str| parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(",");
    assert_eq!(lines("x-set"), "set-overwrites");
    assert_eq!(lines("x-add"), "some-other,added");
    assert_eq!(lines("x-new"), "new");
    assert_eq!(lines("x-remove"), "");
    assert_eq!(lines("kept"), "d");
    let edit = filters("[{kind: {responseHeaders: {set: [{name: X-Header-Set, value: v1}]}}}]");
    let mut headers = parts.headers.clone();
    edit.response(&mut headers);
    assert_eq!(headers["x-header-set"], "v1");
    edit.request(&mut parts, &SITE).unwrap();
    assert!(!parts.headers.contains_key("x-header-set"), "an edit of the answer does not touch the request");
    // Whom the request is for can be set like a header.
    let mut parts = self::parts("/", &[]);
    filters("[{kind: {requestHeaders: {set: [{name: ':authority', value: other.example}]}}}]")
        .request(&mut parts, &SITE)
        .unwrap();
    assert_eq!(parts.headers["host"], "other.example");
}

#[test]
fn an_edit_that_would_break_a_message_is_refused_and_answers_with_an_error() {
    for edit in [
        "set: [{name: 'a b', value: x}]",
        "set: [{name: a, value: \"x\\r\\ny: z\"}]",
        "add: [{name: Transfer-Encoding, value: chunked}]",
        "set: [{name: content-length, value: '0'}]",
        "set: [{name: ':path', value: /}]",
        "set: [{name: host, value: 'a b'}]",
        "remove: [host]",
        "remove: ['']",
    ] {
        let (filters, why) = wrong(&format!("[{{kind: {{requestHeaders: {{{edit}}}}}}}]"));
        let answer = filters.request(&mut parts("/", &[]), &SITE).unwrap_err();
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{edit}");
        assert!(why.starts_with("filter 0: "), "{why}");
    }
    let (filters, _) = wrong("[{}]");
    assert!(filters.request(&mut parts("/", &[]), &SITE).is_err());
}

#[test]
fn a_prefix_is_replaced_element_by_element() {
    for (value, with, target, expected) in [
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "", "/foo/bar", "/bar"),
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/foo", "", "/foo/", "/"),
        ("/foo", "/", "/foo/", "/"),
        ("/foo", "", "/foo", "/"),
        ("/foo", "/", "/foo", "/"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo", "/xyz"),
        ("/", "/xyz", "/foo", "/xyz/foo"),
        ("/", "/xyz", "/", "/xyz/"),
        ("/foo", "/xyz", "/foo/bar?a=b&c", "/xyz/bar?a=b&c"),
        ("/foo", "/a b", "/foo?x", "/a%20b?x"),
    ] {
        let parts = rewritten(
            &format!("{{path: {{kind: PREFIX_SEGMENT, value: {value}}}}}"),
            &format!("{{rewrite: {{path: {{kind: {{prefix: '{with}'}}}}}}}}"),
            target,
        );
        assert_eq!(parts.uri.to_string(), expected, "{value} by {with:?} in {target}");
    }
}

#[test]
fn paths_and_hosts_are_rewritten_as_the_kind_says() {
    for (one_match, edit, target, expected) in [
        ("{}", "{full: /full/one}", "/any/path?q=1", "/full/one?q=1"),
        ("{}", "{full: '/full?a=b'}", "/any?q=1", "/full?a=b&q=1"),
        ("{path: {kind: PREFIX_STRING, value: /foo}}", "{prefixString: /bar}", "/foobar", "/barbar"),
        ("{path: {kind: PREFIX_STRING, value: /foo/}}", "{prefixString: /}", "/foo/bar", "/bar"),
        ("{path: {kind: PREFIX_STRING, value: /FOO, ignoreCase: true}}", "{prefixString: /bar}", "/fooX", "/barX"),
        ("{path: {kind: EXACT, value: /foo}}", "{prefixString: /bar}", "/foo", "/bar"),
        ("{}", "{prefixString: /bar}", "/foo", "/barfoo"),
        (
            "{}",
            "{regex: {pattern: '^/service/([^/]+)(/.*)$', substitution: '\\2/instance/\\1'}}",
            "/service/foo/v1/api?x",
            "/v1/api/instance/foo?x",
        ),
        ("{}", "{regex: {pattern: one, substitution: '$0-two'}}", "/xxx/one/yyy/one/zzz", "/xxx/$0-two/yyy/$0-two/zzz"),
        ("{}", "{regex: {pattern: '/x', substitution: ''}}", "/x", "/"),
    ] {
        let parts = rewritten(one_match, &format!("{{rewrite: {{path: {{kind: {edit}}}}}}}"), target);
        assert_eq!(parts.uri.to_string(), expected, "{one_match} {edit}");
        assert_eq!(parts.headers["host"], "echo:80", "the host stays");
    }
    let parts = rewritten("{}", "{rewrite: {hostname: one.example.org}}", "/a?b");
    assert_eq!((parts.uri.to_string().as_str(), &parts.headers["host"]), ("/a?b", &HeaderValue::from_static("one.example.org")));
}

#[test]
fn a_backends_rewrite_comes_after_the_rules() {
    let wire: HttpRoute = serde_saphyr::from_str("{matches: [{path: {kind: PREFIX_SEGMENT, value: /foo}}]}").unwrap();
    let matched = Table::new([std::sync::Arc::new(Rule::compile("r", &wire).0)]).find(&tests::asked("/foo/bar", &[]).head());
    let site = Site { matched: matched.as_ref(), ..SITE };
    let prefix = |with: &str| filters(&format!("[{{kind: {{rewrite: {{path: {{kind: {{prefix: {with}}}}}}}}}}}]"));
    for (of_rule, of_backend, expected) in [("/foo/a", "/b", "/b/a/bar"), ("/x", "/b", "/x/bar"), ("/é", "/b", "/%C3%A9/bar")] {
        let mut parts = parts("/foo/bar", &[]);
        prefix(of_rule).request(&mut parts, &site).unwrap();
        prefix(of_backend).request(&mut parts, &site).unwrap();
        assert_eq!(parts.uri.path(), expected, "{of_rule} then {of_backend}");
    }
}

#[test]
fn a_path_that_grows_without_bound_is_an_error() {
    let filters = filters("[{kind: {rewrite: {path: {kind: {regex: {pattern: 'a', substitution: 'aaaaaaaaaaaaaaaa'}}}}}}]");
    let mut long = parts(&format!("/{}", "a".repeat(8000)), &[]);
    assert_eq!(filters.request(&mut long, &SITE).unwrap_err().status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[test]
fn a_location_has_the_scheme_host_and_port_that_spec_2_4_says() {
    for (redirect, site, target, status, location) in [
        ("hostname: example.org", SITE, "/a?b=c", 302, "http://example.org/a?b=c"),
        ("hostname: example.org, status: 301", SITE, "/", 301, "http://example.org/"),
        ("status: 308", SITE, "/x", 308, "http://echo/x"),
        ("status: 303", SITE, "/x", 303, "http://echo/x"),
        ("status: 307", SITE, "/x", 307, "http://echo/x"),
        ("scheme: https", SITE, "/x", 302, "https://echo/x"),
        ("scheme: http", Site { port: 8080, ..SITE }, "/x", 302, "http://echo/x"),
        ("hostname: a", Site { port: 8080, ..SITE }, "/x", 302, "http://a:8080/x"),
        ("hostname: a, portOfScheme: true", Site { port: 8080, ..SITE }, "/x", 302, "http://a/x"),
        ("port: 8083", SITE, "/x", 302, "http://echo:8083/x"),
        ("port: 80", Site { port: 8080, ..SITE }, "/x", 302, "http://echo/x"),
        ("port: 443, scheme: https", SITE, "/x", 302, "https://echo/x"),
        ("port: 443", SITE, "/x", 302, "http://echo:443/x"),
        ("port: 80, scheme: https", SITE, "/x", 302, "https://echo:80/x"),
        ("hostname: a", Site { scheme: "https", port: 443, ..SITE }, "/x", 302, "https://a/x"),
        ("port: 8083, hostname: a, status: 301", SITE, "/x", 301, "http://a:8083/x"),
        ("hostname: 'a:8084'", SITE, "/x", 302, "http://a:8084/x"),
        ("path: {kind: {full: /new}}", SITE, "/x?q", 302, "http://echo/new?q"),
        ("status: 302", Site { authority: "echo:8080", port: 8080, ..SITE }, "/x", 302, "http://echo:8080/x"),
        ("status: 302", Site { authority: "[fd00::1]:8080", port: 8080, ..SITE }, "/x", 302, "http://[fd00::1]:8080/x"),
        ("status: 302", Site { authority: "[fd00::1]", ..SITE }, "/x", 302, "http://[fd00::1]/x"),
    ] {
        let filters = filters(&format!("[{{kind: {{redirect: {{{redirect}}}}}}}]"));
        let answer = filters.request(&mut parts(target, &[]), &site).unwrap_err();
        assert_eq!((answer.status.as_u16(), answer.headers["location"].to_str().unwrap()), (status, location), "{redirect}");
        assert_eq!(answer.reason, Reason::Redirect);
        assert!(filters.answers());
    }
    let answer = filters("[{kind: {redirect: {hostname: a}}}]").request(&mut parts("*", &[]), &SITE).unwrap_err();
    assert_eq!(answer.headers["location"], "http://a/");
    for redirect in ["status: 200", "scheme: ftp", "hostname: 'a b'", "hostname: 'user@a'", "port: 70000", "path: {}"] {
        wrong(&format!("[{{kind: {{redirect: {{{redirect}}}}}}}]"));
    }
}

// MeshHTTPRouteRedirectPath, with what the Gateway's twin of it looks at.
#[test]
fn a_redirect_replaces_the_part_of_the_path_that_matched() {
    let rule = "{matches: [{path: {kind: PREFIX_SEGMENT, value: /original-prefix}}],
        filters: [{kind: {redirect: {path: {kind: {prefix: /replacement-prefix}}, hostname: example.org}}}]}";
    let wire: HttpRoute = serde_saphyr::from_str(rule).unwrap();
    let table = Table::new([std::sync::Arc::new(Rule::compile("r", &wire).0)]);
    for (target, location) in [
        ("/original-prefix/lemon", "http://example.org/replacement-prefix/lemon"),
        ("/original-prefix", "http://example.org/replacement-prefix"),
        ("/original-prefix/?a=b", "http://example.org/replacement-prefix/?a=b"),
    ] {
        let matched = table.find(&tests::asked(target, &[]).head()).unwrap();
        let answer =
            matched.rule.filters.request(&mut parts(target, &[]), &Site { matched: Some(&matched), ..SITE }).unwrap_err();
        assert_eq!(answer.headers["location"], location);
    }
}

#[test]
fn filters_are_applied_in_their_order_until_one_answers() {
    let filters = filters(
        "[{kind: {requestHeaders: {set: [{name: a, value: '1'}]}}},
          {kind: {requestHeaders: {set: [{name: a, value: '2'}]}}},
          {kind: {direct: {status: 418, body: [104, 105]}}},
          {kind: {requestHeaders: {set: [{name: a, value: '3'}]}}}]",
    );
    let mut parts = parts("/", &[]);
    let answer = filters.request(&mut parts, &SITE).unwrap_err();
    assert_eq!((answer.status.as_u16(), &answer.body[..], answer.reason), (418, &b"hi"[..], Reason::Direct));
    assert_eq!(parts.headers["a"], "2");
    wrong("[{kind: {direct: {status: 101}}}]");
    wrong("[{kind: {direct: {status: 0}}}]");
    for (invalid, status) in [("{status: 404}", 404), ("{}", 500), ("{status: 200}", 500), ("{status: 99999}", 500)] {
        let filters = self::filters(&format!("[{{kind: {{invalid: {invalid}}}}}]"));
        assert_eq!(filters.request(&mut self::parts("/", &[]), &SITE).unwrap_err().status.as_u16(), status, "{invalid}");
    }
}

fn cors(yaml: &str) -> Filters {
    filters(&format!("[{{kind: {{cors: {{{yaml}}}}}}}]"))
}

fn told(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines.iter_mut().for_each(|line| *line = line.replace("access-control-", "ac-"));
    lines
}

#[test]
fn a_preflight_is_answered_as_its_origin_deserves() {
    const FULL: &str = "allowOrigins: ['https://www.foo.com', 'https://*.bar.com'], allowMethods: [GET, PUT], allowHeaders: [x-a, x-b], exposeHeaders: [x-c], maxAgeS: 600, allowCredentials: true";
    const STARS: &str = "allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*']";
    const STARS_WITH_CREDENTIALS: &str = "allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], allowCredentials: true";
    let full = |origin: &str| {
        vec![
            "ac-allow-credentials: true".into(),
            "ac-allow-headers: x-a, x-b".into(),
            "ac-allow-methods: GET, PUT".into(),
            format!("ac-allow-origin: {origin}"),
            "ac-max-age: 600".into(),
            "vary: origin".to_owned(),
        ]
    };
    let stars: Vec<String> = [
        "ac-allow-headers: x-z",
        "ac-allow-methods: DELETE",
        "ac-allow-origin: *",
        "ac-max-age: 5",
        "vary: ac-request-headers",
        "vary: ac-request-method",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut with_credentials: Vec<String> = vec!["ac-allow-credentials: true".into()];
    with_credentials.extend(stars.iter().map(|line| line.replace("origin: *", "origin: https://any.com")));
    with_credentials.push("vary: origin".into());
    for (config, origin, expected) in [
        (FULL, "https://www.foo.com", full("https://www.foo.com")),
        (FULL, "https://WWW.foo.com", full("https://WWW.foo.com")),
        (FULL, "https://a.bar.com", full("https://a.bar.com")),
        (FULL, "https://a.b.bar.com", full("https://a.b.bar.com")),
        (FULL, "https://bar.com", vec![]),
        (FULL, "https://.bar.com", vec![]),
        (FULL, "http://a.bar.com", vec![]),
        (FULL, "https://evil.com/x.bar.com", vec![]),
        (FULL, "https://evil.com:1.bar.com", vec![]),
        (FULL, "https://a.bar.com.evil.com", vec![]),
        (FULL, "https://www.foo.com:8443", vec![]),
        (FULL, "null", vec![]),
        (STARS, "https://any.com", stars.clone()),
        (STARS_WITH_CREDENTIALS, "https://any.com", with_credentials),
        (
            "allowOriginMatches: [{kind: {regex: 'https://[a-z]+[.]foo'}}]",
            "https://x.foo",
            vec!["ac-allow-origin: https://x.foo".into(), "ac-max-age: 5".into(), "vary: origin".into()],
        ),
    ] {
        let headers =
            [("origin", origin), ("access-control-request-method", "DELETE"), ("access-control-request-headers", "x-z")];
        let answer = cors(config).cors().unwrap().preflight(&Method::OPTIONS, &parts("/", &headers).headers).unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        let mut found = told(&answer.headers);
        found.sort();
        let mut expected = expected;
        expected.sort();
        assert_eq!(found, expected, "{config} {origin}");
    }
    // No question: the backend's.
    let cors = cors(FULL);
    let cors = cors.cors().unwrap();
    assert_eq!(cors.preflight(&Method::OPTIONS, &parts("/", &[("origin", "https://www.foo.com")]).headers), None);
    let asking = [("origin", "https://www.foo.com"), ("access-control-request-method", "GET")];
    assert_eq!(cors.preflight(&Method::GET, &parts("/", &asking).headers), None);
    // A stranger's goes on, where a VirtualService says so.
    let forward = self::cors("allowOrigins: ['https://a'], forwardUnmatchedPreflights: true");
    assert_eq!(forward.cors().unwrap().preflight(&Method::OPTIONS, &parts("/", &asking).headers), None);
}

#[test]
fn an_answer_says_who_may_read_it() {
    let lines = |config: &str, origin: &str, vary: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        headers.extend(vary.map(|vary| (header::VARY, HeaderValue::from_static(vary))));
        let origin = HeaderValue::try_from(origin).unwrap();
        cors(config).cors().unwrap().response(Some(&origin), &mut headers);
        told(&headers)
    };
    const ONE: &str = "allowOrigins: ['https://a'], exposeHeaders: [x-c, x-d], allowCredentials: true";
    let good = ["ac-allow-credentials: true", "ac-allow-origin: https://a", "ac-expose-headers: x-c, x-d"];
    assert_eq!(lines(ONE, "https://a", None), [&good[..], &["vary: origin"]].concat());
    assert_eq!(lines(ONE, "https://a", Some("Accept, Origin")), [&good[..], &["vary: Accept, Origin"]].concat());
    assert_eq!(lines(ONE, "https://b", None), ["vary: origin"]);
    assert_eq!(
        lines("allowOrigins: ['*'], exposeHeaders: ['*']", "https://b", None),
        ["ac-allow-origin: *", "ac-expose-headers: *"]
    );
    // With credentials a star is no wildcard.
    assert_eq!(
        lines("allowOrigins: ['*'], exposeHeaders: ['*', x], allowCredentials: true", "https://b", None),
        ["ac-allow-credentials: true", "ac-allow-origin: https://b", "ac-expose-headers: x", "vary: origin"]
    );
    wrong("[{kind: {cors: {allowOrigins: ['https://*.a.*']}}}]");
    wrong("[{kind: {cors: {allowMethods: [\"GET\\r\\nx: y\"]}}}]");
}

fn backends(yaml: &str) -> (Vec<Backend>, Vec<String>) {
    let wire: Vec<WeightedBackend> = serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    let mut wrong = Vec::new();
    (compile_backends(&wire, &mut wrong), wrong)
}

/// How often each is chosen of 10,000 times, by its host, or the status of the answer.
fn chosen(backends: &[Backend]) -> std::collections::BTreeMap<String, u32> {
    let mut chance = SmallRng::seed_from_u64(1);
    let mut chosen = std::collections::BTreeMap::new();
    for _ in 0..10_000 {
        let name = match choose_backend(backends, &mut chance) {
            Ok(backend) => backend.key.host.hostname.to_string(),
            Err(answer) => answer.status.as_u16().to_string(),
        };
        *chosen.entry(name).or_default() += 1;
    }
    chosen
}

#[test]
fn backends_are_chosen_by_weight_and_those_that_cannot_be_used_count() {
    let one = |weight: u32, host: &str| {
        format!("{{weight: {weight}, backend: {{host: {{namespace: n, hostname: {host}}}, port: 80}}}}")
    };
    let (list, wrong) = backends(&format!("[{}, {}, {}]", one(70, "v1"), one(30, "v2"), one(0, "v3")));
    assert!(wrong.is_empty());
    let shares = chosen(&list);
    assert_eq!(shares.len(), 2);
    assert!(shares["v1"].abs_diff(7_000) < 250 && shares["v2"].abs_diff(3_000) < 250, "{shares:?}");
    let shares = chosen(&backends(&format!("[{}, {}]", one(1, "v1"), one(1, "v2"))).0);
    assert!(shares["v1"].abs_diff(5_000) < 250, "the least weights are exact: {shares:?}");
    // In proportion, with the status that is said.
    let (list, _) = backends(&format!(
        "[{}, {{weight: 25, invalid: {{reason: BackendNotFound}}}}, {{weight: 25, invalid: {{status: 503}}}}]",
        one(50, "v1")
    ));
    let shares = chosen(&list);
    assert!(shares["500"].abs_diff(2_500) < 250 && shares["503"].abs_diff(2_500) < 250, "{shares:?}");
    // What cannot be read is as one that cannot be used.
    let (list, wrong) = backends(&format!("[{}, {{weight: 50}}]", one(50, "v1")));
    assert_eq!(wrong, ["backend 1: it names no service"]);
    assert!(chosen(&list)["500"].abs_diff(5_000) < 250);
    for none in ["[]".to_owned(), format!("[{}]", one(0, "v1"))] {
        assert_eq!(chosen(&backends(&none).0).into_keys().collect::<Vec<_>>(), ["500"], "{none}");
    }
    // A weight of 0 that cannot be used hurts nobody (MeshGRPCRouteWeight).
    let (list, _) = backends(&format!("[{}, {{weight: 0, invalid: {{}}}}]", one(1, "v1")));
    assert_eq!(chosen(&list).into_keys().collect::<Vec<_>>(), ["v1"]);
}

#[test]
fn each_mirror_is_drawn_by_itself() {
    let mirror = |host: &str, fraction: &str| {
        format!("{{kind: {{mirror: {{backend: {{host: {{namespace: n, hostname: {host}}}, port: 80}}{fraction}}}}}}}")
    };
    let list = [
        mirror("all", ""),
        mirror("some", ", fraction: {numerator: 20}"),
        mirror("few", ", fraction: {numerator: 1, denominator: 1000}"),
        mirror("none", ", fraction: {numerator: 0}"),
    ];
    let filters = filters(&format!("[{}]", list.join(", ")));
    let mut chance = SmallRng::seed_from_u64(1);
    let mut drawn = std::collections::BTreeMap::new();
    for _ in 0..10_000 {
        for key in filters.mirrors(&mut chance) {
            *drawn.entry(key.host.hostname.to_string()).or_insert(0_u32) += 1;
        }
    }
    assert_eq!(drawn["all"], 10_000);
    assert!(drawn["some"].abs_diff(2_000) < 250 && drawn["few"].abs_diff(10) < 10, "{drawn:?}");
    assert!(!drawn.contains_key("none"));
    wrong("[{kind: {mirror: {}}}]");
}

#[test]
fn the_host_of_an_authority_is_without_its_port() {
    for (authority, host) in
        [("a", "a"), ("a:80", "a"), ("a:", "a"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]"), ("a:b", "a:b"), ("", "")]
    {
        assert_eq!(host_of(authority), host);
    }
}
