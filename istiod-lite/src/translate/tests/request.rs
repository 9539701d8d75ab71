//! spec/waypoint.md 4, 6.5: policies for waypoints, who authorizes, who hears of requests.

use expect_test::expect;

use super::route::{check_routes, mesh, route};
use super::served::gateway;
use super::{check_resources, printed_resources, translated};

fn object(group: &str, kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}\n---\n")
}

fn policy(namespace: &str, spec: &str) -> String {
    object("security.istio.io", "AuthorizationPolicy", namespace, "p", spec)
}

fn config(mesh: &str) -> String {
    let indented: String = mesh.lines().map(|line| format!("    {line}\n")).collect();
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{namespace: istio-system, name: istio}}\ndata:\n  mesh: |\n{indented}---\n")
}

const CLASS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: istio-waypoint}\nspec: {controllerName: istio.io/mesh-controller}\n---\n";

#[test]
fn authorization_as_it_is_written() {
    check_routes(
        &policy("shop", "targetRefs: [{kind: Service, group: \"\", name: web}, {kind: ServiceEntry, group: networking.istio.io, name: e}], action: DENY, \
            rules: [{from: [{source: {serviceAccounts: [a, b/c], requestPrincipals: [\"*\"]}}], to: [{operation: {methods: [GET], paths: [\"/x/{*}\"]}}], when: [{key: \"request.headers[a]\", values: [b]}]}]"),
        expect![[r#"
            AuthzPolicy shop/p [shop/wp] {"action":"DENY","rules":[{"from":[{"requestPrincipals":["*"],"serviceAccounts":["shop/a","b/c"]}],"to":[{"methods":["GET"],"paths":["/x/{*}"]}],"when":[{"key":"request.headers[a]","values":["b"]}]}],"targets":[{"kind":{"service":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}}}},{"kind":{"service":{"host":{"hostname":"a.example","namespace":"shop"}}}}]}
            AuthorizationPolicy shop/p: WaypointAccepted=False Invalid: Service shop/web: has no waypoint; ServiceEntry shop/e: has no waypoint
        "#]],
    );
    check_routes(&(CLASS.to_owned() + &policy("istio-system", "targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}]")), expect![[r#"
        AuthzPolicy istio-system/p [waypoints/istio-waypoint] {"action":"ALLOW","targets":[{}]}
        AuthorizationPolicy istio-system/p: WaypointAccepted=True Accepted: bound to its waypoints
    "#]]);
    check_routes(&(CLASS.to_owned() + &policy("shop", "targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}]")), expect![[r#"
        AuthorizationPolicy shop/p: WaypointAccepted=False Invalid: GatewayClass shop/istio-waypoint: is of another controller, or the policy is not in the root namespace
    "#]]);
    check_routes(&policy("shop", "targetRef: {kind: Gateway, group: gateway.networking.k8s.io, name: wp}, action: CUSTOM, provider: {name: nobody}, rules: [{}]"), expect![[r#"
        AuthzPolicy shop/p [shop/wp] {"action":"CUSTOM","provider":"nobody","rules":[{}],"targets":[{"kind":{"gateway":{"name":"wp","namespace":"shop"}}}]}
        AuthorizationPolicy shop/p: WaypointAccepted=False AncestorNotBound: Gateway shop/wp: has no address yet
        AuthorizationPolicy shop/p: note: spec.provider.name "nobody" is no ext_authz provider among extensionProviders of the mesh's configuration: requests that match are refused
    "#]]);
    check_routes(&policy("other", "targetRefs: [{kind: Service, group: \"\", name: web, namespace: shop}]"), expect![[r#"
        AuthorizationPolicy other/p: WaypointAccepted=False TargetNotFound: Service shop/web: is of another namespace: a policy is for its own
    "#]]);
    check_routes(&policy("shop", "targetRefs: [{kind: Service, group: \"\", name: free}, {kind: Service, group: \"\", name: none}]"), expect![[r#"
        AuthorizationPolicy shop/p: WaypointAccepted=False Invalid: Service shop/free: has no waypoint; Service shop/none: does not exist
    "#]]);
}

#[test]
fn tokens() {
    check_routes(
        &object("security.istio.io", "RequestAuthentication", "shop", "j", "targetRefs: [{kind: Service, group: \"\", name: web}], jwtRules: [{issuer: i, audiences: [a], jwksUri: \"https://x.example\", fromHeaders: [{name: h, prefix: \"P \"}], outputClaimToHeaders: [{header: x, claim: a.b}], timeout: 2s}]"),
        expect![[r#"
            JwtPolicy shop/j [shop/wp] {"rules":[{"audiences":["a"],"fromHeaders":[{"name":"h","prefix":"P "}],"issuer":"i","jwksUri":"https://x.example","outputClaims":[{"claim":"a.b","header":"x"}],"timeoutMs":2000}],"targets":[{"kind":{"service":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}}}}]}
            RequestAuthentication shop/j: WaypointAccepted=False AncestorNotBound: Service shop/web: has no waypoint
        "#]],
    );
    check_routes(&object("security.istio.io", "RequestAuthentication", "shop", "j", "selector: {matchLabels: {app: a}}, jwtRules: [{issuer: i}]"), expect![[r#"
        RequestAuthentication shop/j: note: has no effect: only waypoints look at tokens, and a policy is for them by spec.targetRefs alone
    "#]]);
}

#[test]
fn limits() {
    let limit = |spec: &str| object("isthmus.io", "RateLimit", "shop", "l", spec).replace("isthmus.io/v1", "isthmus.io/v1alpha1");
    check_routes(&limit("targetRefs: [{kind: Service, group: \"\", name: web}], local: [{requests: 5, per: 1s}], global: {domain: d, service: {name: rl, port: 8081}, descriptors: [{by: [{type: Path}]}]}"), expect![[r#"
        RateLimit shop/l [shop/wp] {"global":{"backend":{"host":{"hostname":"rl.shop.svc.cluster.local","namespace":"shop"},"port":8081},"descriptors":[{"entries":[{"source":"PATH"}]}],"domain":"d"},"local":[{"fillIntervalMs":1000,"maxTokens":5,"tokensPerFill":5}],"phase":"AFTER_AUTHZ","targets":[{"kind":{"service":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}}}}]}
        RateLimit shop/l: WaypointAccepted=False AncestorNotBound: Service shop/web: has no waypoint
    "#]]);
    check_routes(&limit("targetRefs: [{kind: Service, group: \"\", name: web}], local: [{requests: 0, per: 1s}]"), expect![[r#"
        RateLimit shop/l [shop/wp] {"invalid":"spec.local[0].requests: is 0, which nobody passes: deny it by an AuthorizationPolicy","phase":"AFTER_AUTHZ","targets":[{"kind":{"service":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}}}}]}
        RateLimit shop/l: WaypointAccepted=False Invalid: spec.local[0].requests: is 0, which nobody passes: deny it by an AuthorizationPolicy; until it is corrected, requests for its targets are answered with 500
    "#]]);
}

#[test]
fn limits_of_routes() {
    let limit = |spec: &str| object("isthmus.io", "RateLimit", "shop", "l", spec).replace("isthmus.io/v1", "isthmus.io/v1alpha1");
    let of = |kind: &str, name: &str| limit(&format!("targetRefs: [{{kind: {kind}, group: gateway.networking.k8s.io, name: {name}}}], local: [{{requests: 5, per: 1s}}]"));
    let route = |parent: &str| route("HTTPRoute", "shop", "r", &format!("parentRefs: [{{group: \"\", kind: Service, name: {parent}}}], rules: [{{}}]"));
    let said = |yaml: String| {
        let translation = translated(&(mesh() + &yaml));
        let told = printed_resources(&translation).lines().filter(|line| line.starts_with("RateLimit")).map(|line| line.to_owned() + "\n").collect::<String>();
        let key = translation.reported().find(|key| key.kind == crate::objects::Kind::RateLimit).unwrap();
        told + &translation.report(key).to_string()
    };
    let attached = said(route("web") + &of("HTTPRoute", "r"));
    assert!(attached.starts_with("RateLimit shop/l [shop/wp] ") && attached.contains(r#"{"kind":{"route":{"kind":"HTTPRoute","name":"r","namespace":"shop"}}}"#), "{attached}");
    assert!(attached.trim_end().ends_with("WaypointAccepted=True Accepted: bound to its waypoints"), "{attached}");
    let waits = said(route("free") + &of("HTTPRoute", "r"));
    assert!(waits.contains("AncestorNotBound: HTTPRoute shop/r: is attached to nothing that has a waypoint"), "{waits}");
    let missing = said(of("GRPCRoute", "r"));
    assert!(missing.contains("TargetNotFound: GRPCRoute shop/r: does not exist"), "{missing}");
}

#[test]
fn providers_of_the_mesh() {
    let authz = "apiVersion: v1\nkind: Service\nmetadata: {namespace: authz, name: opa}\nspec: {clusterIP: 10.96.0.9, ports: [{name: grpc, port: 9191}]}\n---\n";
    let mesh = "\
accessLogFile: /dev/stdout
accessLogEncoding: JSON
trustDomainAliases: [old.example]
connectTimeout: 3s
defaultHttpRetryPolicy: {attempts: 5, retryOn: \"5xx,503\"}
defaultProviders: {tracing: [otel]}
pathNormalization: {normalization: MERGE_SLASHES}
defaultTrafficPolicy: {outlierDetection: {consecutive5xxErrors: 7}}
extensionProviders:
- {name: opa, envoyExtAuthzGrpc: {service: opa.authz.svc.cluster.local, port: 9191, timeout: 1s, failOpen: true, includeRequestBodyInCheck: {maxRequestBytes: 100}}}
- {name: bad, envoyExtAuthzHttp: {service: nowhere.example, port: 80, statusOnError: nonsense}}
- {name: otel, opentelemetry: {service: opa.authz.svc.cluster.local, port: 9191}}
- {name: dog, datadog: {service: x, port: 1}}
- {name: json, envoyFileAccessLog: {path: /dev/stderr, logFormat: {labels: {a: \"%REQ(X)%\"}}}}";
    check_resources(&(gateway("shop", "wp") + authz + &config(mesh)), expect![[r#"
        BackendPolicy mesh [waypoints] {"outlier":{"consecutive5xx":7},"proxyHeader":"NONE"}
        ExtAuthzProvider bad [waypoints] {"invalid":"statusOnError: \"nonsense\" is no status of HTTP","protocol":"HTTP"}
        ExtAuthzProvider opa [waypoints] {"backend":{"host":{"hostname":"opa.authz.svc.cluster.local","namespace":"authz"},"port":9191},"body":{"maxBytes":100},"failOpen":true,"protocol":"GRPC","timeoutMs":1000}
        HttpPolicy mesh [waypoints] {"escapedSlash":"KEEP","normalization":"MERGE_SLASHES","targets":[{}]}
        MeshSettings shop/wp [shop/wp] {"appendClientIp":true,"connectTimeoutMs":3000,"defaultRetry":{"attempts":5,"codes":[503],"on":["5xx","retriable-status-codes"]},"meshId":"cluster.local","trustDomain":"cluster.local","trustDomainAliases":["old.example"]}
        Telemetry mesh [waypoints] {"accessLog":{"providers":["envoy"]},"metrics":{"providers":["prometheus"]},"targets":[{}],"tracing":{"providers":["otel"]}}
        TelemetryProvider envoy [waypoints] {"json":true,"kind":"FILE_LOG","path":"/dev/stdout"}
        TelemetryProvider json [waypoints] {"json":true,"jsonLabels":[{"name":"a","value":"%REQ(X)%"}],"kind":"FILE_LOG","path":"/dev/stderr"}
        TelemetryProvider otel [waypoints] {"backend":{"host":{"hostname":"opa.authz.svc.cluster.local","namespace":"authz"},"port":9191},"kind":"OTLP_GRPC"}
        TelemetryProvider prometheus [waypoints] {"kind":"PROMETHEUS"}
    "#]]);
    let translation = translated(&(gateway("shop", "wp") + authz + &config(mesh)));
    let key = translation.cluster().config_key().clone();
    expect![[r#"
        note: data.mesh.extensionProviders[1] (bad): statusOnError: "nonsense" is no status of HTTP; whoever asks it is refused
        note: data.mesh.extensionProviders[3] (dog): no provider that can be served here: datadog
        note: data.mesh.trustDomainAliases is honoured by waypoints only: at layer 4 principals of policies must carry the trust domain itself
    "#]].assert_eq(&translation.report(&key).to_string());
}

// 6.5: who is heard last
#[test]
fn telemetry_has_ranks() {
    let of = |namespace: &str, name: &str, spec: &str| object("telemetry.istio.io", "Telemetry", namespace, name, spec);
    check_routes(
        &[
            of("istio-system", "t", "tracing: [{providers: [{name: otel}], randomSamplingPercentage: 10, customTags: {a: {header: {name: h, defaultValue: d}}}}]"),
            of("shop", "t", "accessLogging: [{disabled: true}, {match: {mode: CLIENT}, providers: [{name: x}]}]"),
            of("shop", "u", "accessLogging: [{disabled: false}]"),
            of("shop", "v", "targetRefs: [{kind: Service, group: \"\", name: web}], metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {source_principal: {operation: REMOVE}, a: {value: \"'b'\"}}}]}]"),
            of("shop", "w", "selector: {matchLabels: {app: a}}"),
        ]
        .concat(),
        expect![[r#"
            Telemetry istio-system/t [waypoints] {"rank":1,"targets":[{}],"tracing":{"customTags":[{"defaultValue":"d","header":"h","name":"a"}],"providers":["otel"],"samplingPercent":10.0}}
            Telemetry shop/t@services [shop/wp] {"accessLog":{"disabled":true},"rank":3,"targets":[{"kind":{"service":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}}}},{"kind":{"service":{"host":{"hostname":"a.example","namespace":"shop"}}}}]}
            Telemetry shop/t@waypoints [shop/wp] {"accessLog":{"disabled":true},"rank":2,"targets":[{"kind":{"gateway":{"name":"wp","namespace":"shop"}}}]}
            Telemetry shop/v [shop/wp] {"metrics":{"overrides":[{"metric":"REQUEST_COUNT","tags":[{"name":"a","value":"'b'"},{"name":"source_principal","remove":true}]}]},"rank":4,"targets":[{"kind":{"service":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}}}}]}
            Telemetry shop/t: note: spec.accessLogging[1].match.mode CLIENT has no effect: waypoints report as servers
            Telemetry shop/u: note: has no effect: t is older and is for the whole namespace, too
            Telemetry shop/v: WaypointAccepted=False AncestorNotBound: Service shop/web: has no waypoint
            Telemetry shop/w: note: has no effect: waypoints are not selected by labels; name them, or services, in spec.targetRefs
        "#]],
    );
}

// What is said of the mesh is the same whoever is there; without a waypoint nobody is told.
#[test]
fn without_a_waypoint_there_is_nobody_to_tell() {
    assert_eq!(printed_resources(&translated(&super::served::service("shop", "web", "istio.io/use-waypoint: wp", "{port: 80}"))), "");
    assert!(printed_resources(&translated(&mesh())).contains("Telemetry mesh [waypoints]"));
}
