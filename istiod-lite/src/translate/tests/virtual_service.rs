//! spec/waypoint.md 5.1.

use expect_test::expect;

use super::route::{check_routes, route};

fn virtual_service(namespace: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}\n---\n")
}

#[test]
fn rules_in_the_order_in_which_they_are_listed() {
    check_routes(
        &virtual_service("shop", "v", "hosts: [web], http: [{name: a, match: [{uri: {prefix: /x}, headers: {\"@request.auth.claims.g\": {exact: h}}, withoutHeaders: {z: {}}, method: {regex: \"G.*\"}, port: 80}, {sourceLabels: {app: a}}], \
            rewrite: {uri: /y, authority: h}, timeout: 5s, retries: {attempts: 2, retryOn: \"5xx,nonsense\"}, fault: {delay: {percentage: {value: 0.1}, fixedDelay: 2s}, abort: {grpcStatus: UNAVAILABLE, percentage: {value: 50}}}, \
            mirrors: [{destination: {host: v1}, percentage: {value: 10}}], corsPolicy: {allowOrigins: [{regex: \".*\"}], maxAge: 1m}, headers: {request: {set: {a: b}}}, \
            route: [{destination: {host: v1, subset: s}, weight: 90, headers: {response: {remove: [c]}}}, {destination: {host: web, port: {number: 8080}}, weight: 10}]}, \
            {match: [{uri: {exact: /r}}], redirect: {uri: /s, redirectCode: 307}}, {match: [{uri: {regex: \"/d.*\"}}], directResponse: {status: 418, body: {string: tea}}}, {delegate: {name: d}}, {route: [{destination: {host: missing}}]}]"),
        expect![[r#"
            HttpRoute VirtualService/shop/v/http0@shop/web.shop.svc.cluster.local:0 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80,"subset":"s"},"filters":[{"kind":{"responseHeaders":{"remove":["c"]}}}],"weight":90},{"backend":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":8080},"weight":10}],"filters":[{"kind":{"cors":{"allowOriginMatches":[{"kind":{"regex":".*"}}],"forwardUnmatchedPreflights":true,"maxAgeS":60}}},{"kind":{"fault":{"abortFraction":{"denominator":1000000,"numerator":500000},"abortGrpc":14,"delayFraction":{"denominator":1000000,"numerator":1000},"delayMs":2000}}},{"kind":{"requestHeaders":{"set":[{"name":"a","value":"b"}]}}},{"kind":{"rewrite":{"hostname":"h","path":{"kind":{"prefixString":"/y"}}}}},{"kind":{"mirror":{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"fraction":{"denominator":1000000,"numerator":100000}}}}],"matches":[{"headers":[{"name":"@request.auth.claims.g","value":{"kind":{"exact":"h"}}},{"invert":true,"name":"z","value":{"kind":{"present":true}}}],"method":{"kind":{"regex":"G.*"}},"path":{"kind":"PREFIX_STRING","value":"/x"},"port":80}],"order":"LISTED","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"requestTimeoutMs":5000,"retry":{"attempts":2,"on":["5xx"]},"ruleName":"a"}
            HttpRoute VirtualService/shop/v/http1@shop/web.shop.svc.cluster.local:0 [shop/wp] {"filters":[{"kind":{"redirect":{"path":{"kind":{"full":"/s"}},"status":307}}}],"matches":[{"path":{"kind":"EXACT","value":"/r"}}],"order":"LISTED","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"ruleOrder":1}
            HttpRoute VirtualService/shop/v/http2@shop/web.shop.svc.cluster.local:0 [shop/wp] {"filters":[{"kind":{"direct":{"body":"tea","status":418}}}],"matches":[{"path":{"kind":"REGEX","value":"/d.*"}}],"order":"LISTED","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"ruleOrder":2}
            HttpRoute VirtualService/shop/v/http3@shop/web.shop.svc.cluster.local:0 [shop/wp] {"invalid":{"reason":"UnsupportedValue","status":500},"order":"LISTED","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"ruleOrder":3}
            HttpRoute VirtualService/shop/v/http4@shop/web.shop.svc.cluster.local:0 [shop/wp] {"backends":[{"invalid":{"reason":"BackendNotFound","status":500},"weight":1}],"order":"LISTED","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"ruleOrder":4}
            VirtualService shop/v: note: spec.http[0].match: an entry with sourceLabels has no effect: a waypoint does not know its clients' labels
            VirtualService shop/v: note: spec.http[0].retries.retryOn: nonsense are no causes of a retry here
            VirtualService shop/v: note: spec.http[3].delegate: VirtualService shop/d does not exist; requests that the rule matches are answered with 500
            VirtualService shop/v: note: spec.http[4].route: host missing.shop.svc.cluster.local is neither a Service nor in a ServiceEntry that can be seen here; requests that it would take are answered with 500
        "#]],
    );
}

#[test]
fn streams() {
    check_routes(
        &(virtual_service("shop", "v", "hosts: [web], tcp: [{match: [{port: 6379}], route: [{destination: {host: v1}}]}]")
            + &virtual_service("shop", "w", "hosts: [a.example], tls: [{match: [{port: 443, sniHosts: [a.example], sourceSubnet: 10.0.0.0/8}], route: [{destination: {host: v1, port: {number: 80}}}]}]")),
        expect![[r#"
            TcpRoute VirtualService/shop/v/tcp0@shop/web.shop.svc.cluster.local:6379 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":6379}}
            TlsRoute VirtualService/shop/w/tls0@shop/a.example:443 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"parent":{"host":{"hostname":"a.example","namespace":"shop"},"port":443},"serverNames":["a.example"]}
            VirtualService shop/w: note: spec.tls[0].match.sourceSubnet has no effect: at a waypoint streams are told apart by port and server name
        "#]],
    );
}

// A route of the Gateway API wins; others' namespaces have no say; waypoints are the mesh.
#[test]
fn who_has_a_say() {
    let to = "http: [{route: [{destination: {host: v1.shop.svc.cluster.local}}]}]";
    let http = route("HTTPRoute", "shop", "r", "parentRefs: [{group: \"\", kind: Service, name: web}], rules: [{backendRefs: [{name: v1, port: 80}]}]");
    check_routes(&(virtual_service("shop", "v", &format!("hosts: [web], {to}")) + &http), expect![[r#"
        HttpRoute HTTPRoute/shop/r/0@shop/web.shop.svc.cluster.local:0 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"order":"SPECIFICITY","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}}}
        HTTPRoute shop/r: parent web: Accepted=True Accepted: attached
        HTTPRoute shop/r: parent web: ResolvedRefs=True ResolvedRefs: every reference was found
        HTTPRoute shop/r: parent web: ResolvedWaypoints=True ResolvedWaypoints: routed by shop/wp
        VirtualService shop/v: note: spec.http has no effect for web.shop.svc.cluster.local: a route of the Gateway API is attached to it
    "#]]);
    check_routes(&virtual_service("client", "v", &format!("hosts: [web.shop.svc.cluster.local, free.shop.svc.cluster.local, nobody, \"*.shop\"], {to}")), expect![[r#"
        VirtualService client/v: note: spec.hosts: *.shop has no effect: waypoints serve services, each by its name
        VirtualService client/v: note: spec.hosts: nobody.client.svc.cluster.local is neither a Service nor in a ServiceEntry
        VirtualService client/v: note: spec.hosts: shop/free.shop.svc.cluster.local is bound to no waypoint, so nobody routes by this object
        VirtualService client/v: note: spec.hosts: shop/web.shop.svc.cluster.local takes no rules from namespace client: only from its own and its waypoint's
    "#]]);
    check_routes(&virtual_service("shop", "v", &format!("hosts: [web], gateways: [edge], {to}")), expect![[r#"
        VirtualService shop/v: note: has no effect: it is for gateways alone, and waypoints are `mesh`
    "#]]);
}

// 5.1: the controller puts the other's rules in the place of the one that delegates
#[test]
fn rules_of_another_stand_in_the_place_of_one_that_delegates() {
    let root = virtual_service("shop", "v", "hosts: [web], http: [{name: a, match: [{uri: {prefix: /x}}], delegate: {name: d, namespace: other}, timeout: 3s}, {route: [{destination: {host: v1}}]}]");
    let other = virtual_service("other", "d", "http: [{name: b, match: [{uri: {prefix: /x/y}}], route: [{destination: {host: v1.shop.svc.cluster.local}}]}, {match: [{uri: {prefix: /z}}], route: []}, {route: [{destination: {host: v1.shop.svc.cluster.local}}], timeout: 1s}]");
    check_routes(&(root.clone() + &other), expect![[r#"
        HttpRoute VirtualService/shop/v/http0.0@shop/web.shop.svc.cluster.local:0 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"matches":[{"path":{"kind":"PREFIX_STRING","value":"/x/y"}}],"order":"LISTED","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"requestTimeoutMs":3000,"ruleName":"a-b"}
        HttpRoute VirtualService/shop/v/http0.2@shop/web.shop.svc.cluster.local:0 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"matches":[{"path":{"kind":"PREFIX_STRING","value":"/x"}}],"order":"LISTED","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"requestTimeoutMs":1000,"ruleName":"a","ruleOrder":1}
        HttpRoute VirtualService/shop/v/http1@shop/web.shop.svc.cluster.local:0 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"order":"LISTED","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"ruleOrder":2}
        VirtualService shop/v: note: spec.http[0].delegate: VirtualService other/d, spec.http[1]: matches nothing that the rule here matches
    "#]]);
    // What it may not, and what is not there, fails and does not fall through to the next rule.
    for (wrong, why) in [
        (String::new(), "VirtualService other/d does not exist"),
        (virtual_service("other", "d", "hosts: [a], http: []"), "VirtualService other/d has hosts of its own"),
        (virtual_service("other", "d", "exportTo: [\".\"], http: []"), "VirtualService other/d is not exported to namespace shop"),
        (virtual_service("other", "d", "http: [{delegate: {name: e}}]"), "only one level is followed"),
    ] {
        let translation = super::translated(&(super::route::mesh() + &root + &wrong));
        let rules = super::printed_resources(&translation);
        let failing = rules.lines().find(|line| line.contains("http0@")).unwrap_or_else(|| panic!("{why}\n{rules}"));
        assert!(failing.contains(r#""invalid":{"reason":"UnsupportedValue","status":500}"#) && failing.contains("PREFIX_STRING"), "{failing}");
        let said = super::printed(&translation);
        assert!(said.contains(why), "{why}\n{said}");
    }
    // An edit of the other one is an edit of this one.
    let mut translation = super::translated(&(super::route::mesh() + &root));
    let changes = translation.apply(super::events(&other));
    assert_eq!(changes.resources.len(), 4, "the failing rule, the one after it, and two new ones");
}

// A host with several ports and no port in the destination: the port that was dialled (Istio), told port by port.
#[test]
fn a_destination_without_a_port_is_at_the_port_that_was_dialled() {
    check_routes(
        &(virtual_service("shop", "v", "hosts: [web], http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: web, subset: s}}], mirrors: [{destination: {host: two}}]}, {route: [{destination: {host: v1}}]}], tcp: [{route: [{destination: {host: two}}]}]")
            + "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: two}\nspec: {clusterIP: 10.96.0.9, ports: [{name: http, port: 80}, {name: other, port: 81}]}\n---\n"),
        expect![[r#"
            HttpRoute VirtualService/shop/v/http0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80,"subset":"s"},"weight":1}],"filters":[{"kind":{"mirror":{"backend":{"host":{"hostname":"two.shop.svc.cluster.local","namespace":"shop"},"port":80}}}}],"matches":[{"path":{"kind":"PREFIX_STRING","value":"/a"}}],"order":"LISTED","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
            HttpRoute VirtualService/shop/v/http0@shop/web.shop.svc.cluster.local:8080 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":8080,"subset":"s"},"weight":1}],"matches":[{"path":{"kind":"PREFIX_STRING","value":"/a"}}],"order":"LISTED","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":8080}}
            HttpRoute VirtualService/shop/v/http1@shop/web.shop.svc.cluster.local:0 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"v1.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"order":"LISTED","parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"ruleOrder":1}
            TcpRoute VirtualService/shop/v/tcp0@shop/web.shop.svc.cluster.local:6379 [shop/wp] {"backends":[{"invalid":{"reason":"BackendNotFound","status":500},"weight":1}],"parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":6379}}
            TcpRoute VirtualService/shop/v/tcp0@shop/web.shop.svc.cluster.local:80 [shop/wp] {"backends":[{"backend":{"host":{"hostname":"two.shop.svc.cluster.local","namespace":"shop"},"port":80},"weight":1}],"parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":80}}
            TcpRoute VirtualService/shop/v/tcp0@shop/web.shop.svc.cluster.local:8080 [shop/wp] {"backends":[{"invalid":{"reason":"BackendNotFound","status":500},"weight":1}],"parent":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":8080}}
            VirtualService shop/v: note: spec.tcp[0].route: host two.shop.svc.cluster.local has no port 6379, which clients dial; connections there are reset
            VirtualService shop/v: note: spec.tcp[0].route: host two.shop.svc.cluster.local has no port 8080, which clients dial; connections there are reset
        "#]],
    );
}
