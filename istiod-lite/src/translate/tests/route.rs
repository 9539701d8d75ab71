//! spec/waypoint.md 2: routes that are attached to services.

use expect_test::{Expect, expect};

use super::served::{gateway, service};
use super::{printed_resources, translated};

/// A mesh with a waypoint, a bound service with an HTTP, a TCP and an undeclared port, and one without a waypoint.
pub fn mesh() -> String {
    let ports = "{name: http, port: 80}, {name: tcp, port: 6379}, {name: x, port: 8080}";
    [
        gateway("shop", "wp"),
        service("shop", "web", "istio.io/use-waypoint: wp", ports),
        service("shop", "v1", "istio.io/use-waypoint: none", "{name: http, port: 80}"),
        service("shop", "free", "", "{name: http, port: 80}"),
        "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: headless}\nspec: {clusterIP: None, ports: [{port: 80}]}\n---\n".into(),
        "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: outside}\nspec: {type: ExternalName, externalName: a.example, ports: [{port: 80}]}\n---\n".into(),
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {namespace: shop, name: e, labels: {istio.io/use-waypoint: wp}}\nspec: {hosts: [a.example], resolution: DNS, ports: [{name: https, number: 443, protocol: TLS}]}\n---\n".into(),
    ]
    .concat()
}

pub fn route(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: {name}, creationTimestamp: \"2026-01-01T00:00:00Z\"}}\nspec: {{{spec}}}\n---\n")
}

/// Routes and what is said about them, without what the mesh alone would print.
pub fn check_routes(yaml: &str, expected: Expect) {
    let translation = translated(&(mesh() + yaml));
    let without = printed_resources(&translated(&mesh()));
    let mut lines: Vec<String> = printed_resources(&translation).lines().filter(|line| without.lines().all(|known| known != *line)).map(str::to_owned).collect();
    let mut keys: Vec<_> = translation.reported().filter(|key| !matches!(key.kind, crate::objects::Kind::Service | crate::objects::Kind::Gateway | crate::objects::Kind::ServiceEntry)).collect();
    keys.sort();
    for key in keys {
        lines.extend(translation.report(key).to_string().lines().map(|line| format!("{key}: {line}")));
    }
    expected.assert_eq(&lines.into_iter().map(|line| line + "\n").collect::<String>());
}

const WEB: &str = "parentRefs: [{group: \"\", kind: Service, name: web, port: 80}]";

fn http(rules: &str) -> String {
    route("HTTPRoute", "shop", "r", &format!("{WEB}, rules: [{rules}]"))
}

#[test]
fn each_rule_is_a_message_for_each_parent() {
    let two = "parentRefs: [{group: \"\", kind: Service, name: web}, {group: networking.istio.io, kind: ServiceEntry, name: e}, {name: edge}], hostnames: [x.example]";
    check_routes(
        &route("HTTPRoute", "shop", "r", &format!("{two}, rules: [{{name: first, backendRefs: [{{name: v1, port: 80, weight: 9}}, {{name: web, port: 8080}}]}}, {{matches: [{{path: {{type: Exact, value: /a}}}}], backendRefs: [{{group: networking.istio.io, kind: Hostname, name: a.example, port: 443}}]}}]")),
        expect![[r#"
            HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:0 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":9},{"backend":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":8080},"weight":1}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"ruleName":"first"}
            HttpRoute HTTPRoute/shop/r/1@shop/web.shop.svc.cluster.local:0 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"a.example","namespace":"shop"},"port":443},"weight":1}],"matches":[{"path":{"kind":"EXACT","value":"/a"}}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"ruleOrder":1}
            HTTPRoute shop/r: parent web: Accepted=True Accepted: attached; spec.hostnames has no effect: the Service that was dialled says what is meant
            HTTPRoute shop/r: parent web: ResolvedRefs=True ResolvedRefs: every reference was found
            HTTPRoute shop/r: parent web: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
            HTTPRoute shop/r: parent e: Accepted=False NoMatchingParent: ServiceEntry shop/e has no port that speaks what a HTTPRoute is for
            HTTPRoute shop/r: parent e: ResolvedRefs=True ResolvedRefs: every reference was found
        "#]],
    );
}

#[test]
fn matches_filters_and_times() {
    check_routes(
        &http("{matches: [{path: {value: /v2}, headers: [{name: X-User, value: jo}, {name: x-user, value: second}], queryParams: [{type: RegularExpression, name: Q, value: \"a+\"}], method: GET}], \
               filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}}, {type: URLRewrite, urlRewrite: {hostname: h, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}, \
                 {type: RequestMirror, requestMirror: {backendRef: {name: v1, port: 80}, fraction: {numerator: 1, denominator: 5}}}, {type: CORS, cors: {allowOrigins: [\"https://a.example\"], allowMethods: [GET], maxAge: 60}}], \
               backendRefs: [{name: v1, port: 80, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: f, value: g}]}}]}], \
               timeouts: {request: 10s, backendRequest: 2s}, retry: {codes: [500, 503], attempts: 3, backoff: 100ms}, sessionPersistence: {sessionName: s, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}}, \
              {filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301, port: 8443}}]}"),
        expect![[r#"
            HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backendTimeoutMs":2000,"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"filters":[{"kind":{"responseHeaders":{"add":[{"name":"f","value":"g"}]}}}],"weight":1}],"filters":[{"kind":{"requestHeaders":{"add":[{"name":"c","value":"d"}],"remove":["e"],"set":[{"name":"a","value":"b"}]}}},{"kind":{"rewrite":{"hostname":"h","path":{"kind":{"prefix":"/x"}}}}},{"kind":{"mirror":{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"fraction":{"denominator":5,"numerator":1}}}},{"kind":{"cors":{"allowMethods":["GET"],"allowOrigins":["https://a.example"],"maxAgeS":60}}}],"matches":[{"headers":[{"name":"x-user","value":{"kind":{"exact":"jo"}}}],"method":{"kind":{"exact":"GET"}},"path":{"kind":"PREFIX_SEGMENT","value":"/v2"},"query":[{"name":"Q","value":{"kind":{"regex":"a+"}}}]}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80},"requestTimeoutMs":10000,"retry":{"attempts":3,"backoffBaseMs":100,"codes":[500,503],"on":["connect-failure","refused-stream","reset-before-request","attempt-timeout","retriable-status-codes"]},"session":{"absoluteTimeoutMs":3600000,"kind":"COOKIE","name":"s","permanent":true}}
            HttpRoute HTTPRoute/shop/r/1@shop/web.shop.svc.cluster.local:80 [shop/wp] {"filters":[{"kind":{"redirect":{"port":8443,"scheme":"https","status":301}}}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80},"ruleOrder":1}
            HTTPRoute shop/r: parent web:80: Accepted=True Accepted: attached
            HTTPRoute shop/r: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
            HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
        "#]],
    );
    check_routes(
        &route("GRPCRoute", "shop", "r", &format!("{WEB}, rules: [{{matches: [{{method: {{service: a.B, method: C}}, headers: [{{name: h, value: v}}]}}, {{method: {{type: RegularExpression, service: \"a[.].*\"}}}}], backendRefs: [{{name: v1, port: 80}}]}}]")),
        expect![[r#"
            HttpRoute GRPCRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"grpc":true,"matches":[{"grpc":{"method":{"kind":{"exact":"C"}},"service":{"kind":{"exact":"a.B"}}},"headers":[{"name":"h","value":{"kind":{"exact":"v"}}}]},{"grpc":{"service":{"kind":{"regex":"a[.].*"}}}}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
            GRPCRoute shop/r: parent web:80: Accepted=True Accepted: attached
            GRPCRoute shop/r: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
            GRPCRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
        "#]],
    );
}

// V: a reference that cannot be followed fails its share of the requests
#[test]
fn references_that_cannot_be_followed() {
    let to = |reference: &str| http(&format!("{{backendRefs: [{{{reference}}}]}}"));
    check_routes(&to("name: missing, port: 80, weight: 0"), expect![[r#"
        HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"invalid":{"reason":"BackendNotFound","status":500}}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HTTPRoute shop/r: parent web:80: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent web:80: ResolvedRefs=False BackendNotFound: Service shop/missing does not exist
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&to("name: v1, port: 81"), expect![[r#"
        HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"invalid":{"reason":"BackendNotFound","status":500},"weight":1}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HTTPRoute shop/r: parent web:80: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent web:80: ResolvedRefs=False BackendNotFound: Service shop/v1 has no port 81
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&to("name: outside, port: 80"), expect![[r#"
        HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"invalid":{"reason":"InvalidKind","status":500},"weight":1}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HTTPRoute shop/r: parent web:80: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent web:80: ResolvedRefs=False InvalidKind: Service shop/outside is of type ExternalName, which is no backend: write a ServiceEntry and refer to its Hostname
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&to("kind: Bucket, group: x.example, name: b, port: 80"), expect![[r#"
        HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"invalid":{"reason":"InvalidKind","status":500},"weight":1}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HTTPRoute shop/r: parent web:80: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent web:80: ResolvedRefs=False InvalidKind: Bucket of group "x.example" is no kind that requests can be sent to
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&to("kind: Hostname, group: networking.istio.io, name: b.example, port: 80"), expect![[r#"
        HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"invalid":{"reason":"BackendNotFound","status":500},"weight":1}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HTTPRoute shop/r: parent web:80: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent web:80: ResolvedRefs=False BackendNotFound: host b.example is neither a Service nor in a ServiceEntry that can be seen here
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&http("{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: missing, port: 80}}}], backendRefs: [{name: v1, port: 80}]}, {matches: [{path: {value: /none}}]}"), expect![[r#"
        HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HttpRoute HTTPRoute/shop/r/1@shop/web.shop.svc.cluster.local:80 [shop/wp] {"invalid":{"reason":"NoBackendRefs","status":500},"matches":[{"path":{"kind":"PREFIX_SEGMENT","value":"/none"}}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80},"ruleOrder":1}
        HTTPRoute shop/r: parent web:80: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent web:80: ResolvedRefs=False BackendNotFound: mirror: Service shop/missing does not exist
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
}

#[test]
fn rules_that_cannot_be_done_answer_and_say_so() {
    let ok = "backendRefs: [{name: v1, port: 80}]";
    check_routes(&http(&format!("{{{ok}}}, {{matches: [{{path: {{value: nonsense}}}}], {ok}}}")), expect![[r#"
        HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HttpRoute HTTPRoute/shop/r/1@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"invalid":{"reason":"UnsupportedValue","status":500},"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80},"ruleOrder":1}
        HTTPRoute shop/r: parent web:80: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
        HTTPRoute shop/r: parent web:80: PartiallyInvalid=True UnsupportedValue: Dropped Rule: spec.rules[1].matches.path.value: "nonsense" is no path that a request can have: it begins with / and has no //, /./, /../, %2f or #; requests that it would match are answered with 500
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&http(&format!("{{matches: [{{path: {{type: RegularExpression, value: \"/(\"}}}}], {ok}}}")), expect![[r#"
        HTTPRoute shop/r: parent web:80: Accepted=False UnsupportedValue: spec.rules[0].matches.path.value: "/(" is no regular expression: its brackets do not fit
        HTTPRoute shop/r: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&http(&format!("{{filters: [{{type: Compress}}], {ok}}}, {{{ok}}}")), expect![[r#"
        HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"invalid":{"reason":"UnsupportedValue","status":500},"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HttpRoute HTTPRoute/shop/r/1@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80},"ruleOrder":1}
        HTTPRoute shop/r: parent web:80: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
        HTTPRoute shop/r: parent web:80: PartiallyInvalid=True UnsupportedValue: Dropped Rule: spec.rules[0].filters[0].type: "Compress" is no filter that can be done here; requests that it would match are answered with 500
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&http(&format!("{{filters: [{{type: ExtensionRef, extensionRef: {{group: x, kind: Y, name: z}}}}], {ok}}}")), expect![[r#"
        HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"filters":[{"kind":{"invalid":{"reason":"InvalidKind","status":500}}}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HTTPRoute shop/r: parent web:80: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent web:80: ResolvedRefs=False InvalidKind: filter Y z: no extension of this kind is known; requests that the rule matches are answered with 500
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&http("{filters: [{type: RequestRedirect, requestRedirect: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}]}"), expect![[r#"
        HTTPRoute shop/r: parent web:80: Accepted=False IncompatibleFilters: spec.rules[0].filters: RequestRedirect and URLRewrite exclude each other
        HTTPRoute shop/r: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&http(&format!("{{filters: [{{type: ExternalAuth, externalAuth: {{protocol: GRPC, backendRef: {{name: v1, port: 80}}}}}}], {ok}}}")), expect![[r#"
        ExtAuthzProvider HTTPRoute/shop/r/0#0 [shop/wp] {"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"protocol":"GRPC"}
        HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"filters":[{"kind":{"extAuthz":"HTTPRoute/shop/r/0#0"}}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HTTPRoute shop/r: parent web:80: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
        HTTPRoute shop/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
}

#[test]
fn parents_that_are_none_and_those_without_a_waypoint() {
    let of = |parent: &str| route("HTTPRoute", "shop", "r", &format!("parentRefs: [{{group: \"\", kind: Service, {parent}}}], rules: [{{backendRefs: [{{name: v1, port: 80}}]}}]"));
    check_routes(&of("name: missing"), expect![[r#"
        HTTPRoute shop/r: parent missing: Accepted=False NoMatchingParent: Service shop/missing does not exist
        HTTPRoute shop/r: parent missing: ResolvedRefs=True ResolvedRefs: every reference was found
        HTTPRoute shop/r: parent missing: ResolvedWaypoints=False NoMatchingParent: Service shop/missing does not exist
    "#]]);
    check_routes(&of("name: headless"), expect![[r#"
        HTTPRoute shop/r: parent headless: Accepted=False NoMatchingParent: Service shop/headless has no address of its own (headless or ExternalName), so no connection is made to it
        HTTPRoute shop/r: parent headless: ResolvedRefs=True ResolvedRefs: every reference was found
    "#]]);
    check_routes(&of("name: web, port: 81"), expect![[r#"
        HTTPRoute shop/r: parent web:81: Accepted=False NoMatchingParent: Service shop/web has no port 81
        HTTPRoute shop/r: parent web:81: ResolvedRefs=True ResolvedRefs: every reference was found
    "#]]);
    check_routes(&of("name: free"), expect![[r#"
        HTTPRoute shop/r: parent free: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent free: ResolvedRefs=True ResolvedRefs: every reference was found
        HTTPRoute shop/r: parent free: ResolvedWaypoints=False MissingUseWaypointLabel: Service shop/free is bound to no waypoint, so the route has no effect yet: label it or its namespace istio.io/use-waypoint
    "#]]);
    check_routes(&route("HTTPRoute", "shop", "r", "parentRefs: [{name: edge}], rules: [{}]"), expect![[""]]);
}

// 2.7: a route of another namespace is for the clients of that namespace
#[test]
fn consumers_have_routes_of_their_own() {
    check_routes(
        &route("HTTPRoute", "client", "r", "parentRefs: [{group: \"\", kind: Service, name: web, namespace: shop, port: 80}], rules: [{backendRefs: [{name: v1, namespace: shop, port: 80}]}]"),
        expect![[r#"
            HttpRoute HTTPRoute/client/r/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"consumerNamespace":"client","order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
            HTTPRoute client/r: parent web:80: Accepted=True Accepted: attached
            HTTPRoute client/r: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
            HTTPRoute client/r: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
        "#]],
    );
}

// 2.3: GRPCRoute > HTTPRoute > TLSRoute > TCPRoute, port by port, within one group of clients
#[test]
fn one_port_has_routes_of_one_kind() {
    let all = "parentRefs: [{group: \"\", kind: Service, name: web}], rules: [{backendRefs: [{name: v1, port: 80}]}]";
    let one = &format!("{WEB}, rules: [{{backendRefs: [{{name: v1, port: 80}}]}}]");
    check_routes(&(route("GRPCRoute", "shop", "g", one) + &route("HTTPRoute", "shop", "h", one)), expect![[r#"
        HttpRoute GRPCRoute/shop/g/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"grpc":true,"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HTTPRoute shop/h: parent web:80: Accepted=False Conflicted: another route of a stronger kind has all of these ports of Service shop/web: GRPCRoute, then HTTPRoute, TLSRoute, TCPRoute
        HTTPRoute shop/h: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
        GRPCRoute shop/g: parent web:80: Accepted=True Accepted: attached
        GRPCRoute shop/g: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
        GRPCRoute shop/g: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&(route("GRPCRoute", "shop", "g", one) + &route("HTTPRoute", "shop", "h", all) + &route("TCPRoute", "shop", "t", all)), expect![[r#"
        HttpRoute GRPCRoute/shop/g/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"grpc":true,"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HttpRoute HTTPRoute/shop/h/0@shop/web.shop.svc.cluster.local:8080 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":8080}}
        TcpRoute TCPRoute/shop/t/0@shop/web.shop.svc.cluster.local:6379 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":6379}}
        HTTPRoute shop/h: parent web: Accepted=True Accepted: attached
        HTTPRoute shop/h: parent web: ResolvedRefs=True ResolvedRefs: every reference was found
        HTTPRoute shop/h: parent web: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
        GRPCRoute shop/g: parent web:80: Accepted=True Accepted: attached
        GRPCRoute shop/g: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
        GRPCRoute shop/g: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
        TCPRoute shop/t: parent web: Accepted=True Accepted: attached
        TCPRoute shop/t: parent web: ResolvedRefs=True ResolvedRefs: every reference was found
        TCPRoute shop/t: parent web: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
    check_routes(&(route("GRPCRoute", "client", "g", &one.replace("name: web", "name: web, namespace: shop")) + &route("HTTPRoute", "shop", "h", one)), expect![[r#"
        HttpRoute GRPCRoute/client/g/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"invalid":{"reason":"BackendNotFound","status":500},"weight":1}],"consumerNamespace":"client","grpc":true,"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HttpRoute HTTPRoute/shop/h/0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
        HTTPRoute shop/h: parent web:80: Accepted=True Accepted: attached
        HTTPRoute shop/h: parent web:80: ResolvedRefs=True ResolvedRefs: every reference was found
        HTTPRoute shop/h: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
        GRPCRoute client/g: parent web:80: Accepted=True Accepted: attached
        GRPCRoute client/g: parent web:80: ResolvedRefs=False BackendNotFound: Service client/v1 does not exist
        GRPCRoute client/g: parent web:80: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
    "#]]);
}

#[test]
fn streams() {
    check_routes(
        &(route("TCPRoute", "shop", "t", "parentRefs: [{group: \"\", kind: Service, name: web, port: 6379}], rules: [{backendRefs: [{name: v1, port: 80, weight: 3}, {name: missing, port: 1}]}]")
            + &route("TLSRoute", "shop", "s", "parentRefs: [{group: networking.istio.io, kind: ServiceEntry, name: e}], hostnames: [\"*.example\"], rules: [{backendRefs: [{name: v1, port: 80}]}]")),
        expect![[r#"
            TcpRoute TCPRoute/shop/t/0@shop/web.shop.svc.cluster.local:6379 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":3},{"invalid":{"reason":"BackendNotFound","status":500},"weight":1}],"parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":6379}}
            TlsRoute TLSRoute/shop/s/0@shop/a.example:443 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"parent":{"host":{"hostname":"a.example","namespace":"shop"},"port":443},"serverNames":["*.example"]}
            TCPRoute shop/t: parent web:6379: Accepted=True Accepted: attached
            TCPRoute shop/t: parent web:6379: ResolvedRefs=False BackendNotFound: Service shop/missing does not exist
            TCPRoute shop/t: parent web:6379: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
            TLSRoute shop/s: parent e: Accepted=True Accepted: attached
            TLSRoute shop/s: parent e: ResolvedRefs=True ResolvedRefs: every reference was found
            TLSRoute shop/s: parent e: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
        "#]],
    );
}
