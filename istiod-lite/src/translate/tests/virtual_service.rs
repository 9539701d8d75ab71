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
            VirtualService shop/v: note: spec.http[3].delegate is not followed: requests that the rule matches are answered with 500; write the rules here
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
