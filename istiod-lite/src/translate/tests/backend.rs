//! spec/waypoint.md 5.4 to 5.8: how endpoints are reached.

use expect_test::expect;

use super::route::check_routes;
use super::served::gateway;
use super::{events, pod, printed_resources, translated, translation};

fn rule(namespace: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}\n---\n")
}

#[test]
fn a_policy_with_ports_and_subsets() {
    check_routes(
        &rule("shop", "d", "host: web, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 0s}}}, connectionPool: {tcp: {maxConnections: 5, connectTimeout: 1s}, http: {http1MaxPendingRequests: 7, h2UpgradePolicy: UPGRADE}}, \
              outlierDetection: {consecutive5xxErrors: 3, interval: 5s}, tls: {mode: ISTIO_MUTUAL}, proxyProtocol: {version: V2}, retryBudget: {percent: 30}, portLevelSettings: [{port: {number: 8080}, loadBalancer: {simple: RANDOM}}]}, \
              subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}, {name: v2, labels: {version: v2}}]"),
        expect![[r#"
            BackendPolicy shop/web.shop.svc.cluster.local@shop/v1:0 [waypoints] {"loadBalancer":{"balance":"ROUND_ROBIN"},"proxyHeader":"NONE","service":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}},"subset":"v1"}
            BackendPolicy shop/web.shop.svc.cluster.local@shop:0 [waypoints] {"loadBalancer":{"balance":"CONSISTENT_HASH","hash":{"kind":{"cookie":{"name":"c"}}}},"outlier":{"consecutive5xx":3,"intervalMs":5000},"pool":{"connectTimeoutMs":1000,"maxConnections":5,"maxPendingRequests":7,"upgrade":"UPGRADE"},"proxyHeader":"V2","retryBudget":{"percent":30.0},"service":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"}}}
            BackendPolicy shop/web.shop.svc.cluster.local@shop:8080 [waypoints] {"loadBalancer":{"balance":"RANDOM"},"pool":{"upgrade":"DEFAULT"},"proxyHeader":"NONE","service":{"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"port":8080},"tls":{"mode":"DISABLE"}}
            Subset shop/web.shop.svc.cluster.local@shop/v1 [waypoints] {"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"name":"v1"}
            Subset shop/web.shop.svc.cluster.local@shop/v2 [waypoints] {"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"name":"v2"}
        "#]],
    );
}

// 5.8: labels are looked at here, and an edit is one small resource
#[test]
fn subsets_follow_the_labels_of_their_workloads() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: s}\nspec: {clusterIP: 10.96.0.2, selector: {app: a}, ports: [{port: 80}]}\n---\n";
    let mut translation = translation();
    let pods = pod("shop", "a", "10.0.0.1", "app: a, version: v1") + &pod("shop", "b", "10.0.0.2", "app: a, version: v2") + &pod("shop", "c", "10.0.0.3", "app: c, version: v1");
    translation.apply(events(&(gateway("shop", "wp") + service + &pods + &rule("shop", "d", "host: s, subsets: [{name: v1, labels: {version: v1}}]"))));
    let subset = |translation: &crate::translate::Translation| printed_resources(translation).lines().filter(|line| line.starts_with("Subset")).map(str::to_owned).collect::<Vec<_>>().join("\n");
    expect![[r#"Subset shop/s.shop.svc.cluster.local@shop/v1 [waypoints] {"host":{"hostname":"s.shop.svc.cluster.local","namespace":"shop"},"name":"v1","workloads":["Kubernetes//Pod/shop/a"]}"#]].assert_eq(&subset(&translation));
    let changes = translation.apply(events(&pod("shop", "b", "10.0.0.2", "app: a, version: v1")));
    assert_eq!(changes.resources.len(), 1);
    expect![[r#"Subset shop/s.shop.svc.cluster.local@shop/v1 [waypoints] {"host":{"hostname":"s.shop.svc.cluster.local","namespace":"shop"},"name":"v1","workloads":["Kubernetes//Pod/shop/a","Kubernetes//Pod/shop/b"]}"#]].assert_eq(&subset(&translation));
    let changes = translation.apply(events(&pod("shop", "c", "10.0.0.3", "app: c, version: v2")));
    assert_eq!(changes.resources.len(), 0);
    translation.apply([crate::cluster::Event::Deleted(crate::objects::ObjectKey::new(crate::objects::Kind::DestinationRule, "shop", "d"))]);
    assert_eq!(subset(&translation), "");
}

// 5.7: the waypoint's namespace, the service's, the root's; the first that has any wins whole
#[test]
fn where_rules_are_looked_up() {
    let named = |yaml: &str| {
        let lines = printed_resources(&translated(&(super::route::mesh() + &gateway("other", "wp") + yaml)));
        lines.lines().filter(|line| line.starts_with("BackendPolicy") || line.starts_with("Subset")).map(|line| line.split(" {").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let host = "host: web.shop.svc.cluster.local";
    let policy = "trafficPolicy: {loadBalancer: {simple: RANDOM}}";
    let all = format!("{host}, {policy}");
    assert_eq!(named(&rule("istio-system", "r", &all)), ["BackendPolicy shop/web.shop.svc.cluster.local@istio-system:0 [waypoints]"]);
    assert_eq!(named(&(rule("istio-system", "r", &all) + &rule("shop", "r", &all))), ["BackendPolicy shop/web.shop.svc.cluster.local@shop:0 [waypoints]"]);
    assert_eq!(named(&(rule("other", "r", &all) + &rule("shop", "r", &all))), [
        "BackendPolicy shop/web.shop.svc.cluster.local@other:0 [other/wp]",
        "BackendPolicy shop/web.shop.svc.cluster.local@shop:0 [shop/wp]"
    ]);
    assert_eq!(named(&rule("shop", "r", &format!("{all}, exportTo: [\".\"]"))), ["BackendPolicy shop/web.shop.svc.cluster.local@shop:0 [shop/wp]"]);
    assert_eq!(named(&rule("client", "r", &all)), Vec::<String>::new(), "a client's namespace has no say");
    // The most specific host counts; of one host subsets are joined.
    assert_eq!(named(&(rule("shop", "w", &format!("host: \"*.shop.svc.cluster.local\", {policy}")) + &rule("shop", "r", &format!("{host}, subsets: [{{name: a}}]")))), [
        "BackendPolicy shop/free.shop.svc.cluster.local@shop:0 [waypoints]",
        "BackendPolicy shop/headless.shop.svc.cluster.local@shop:0 [waypoints]",
        "BackendPolicy shop/v1.shop.svc.cluster.local@shop:0 [waypoints]",
        "Subset shop/web.shop.svc.cluster.local@shop/a [waypoints]"
    ]);
    assert_eq!(named(&(rule("shop", "a", &format!("{host}, subsets: [{{name: a}}]")) + &rule("shop", "b", &format!("{host}, subsets: [{{name: b}}]")))), [
        "Subset shop/web.shop.svc.cluster.local@shop/a [waypoints]",
        "Subset shop/web.shop.svc.cluster.local@shop/b [waypoints]"
    ]);
}

// A connection that would prove less than is asked for is not made.
#[test]
fn tls_that_cannot_be_had_fails() {
    check_routes(&rule("shop", "d", "host: a.example, trafficPolicy: {tls: {mode: SIMPLE, sni: b.example, subjectAltNames: [c.example]}}"), expect![[r#"
        BackendPolicy shop/a.example@shop:0 [waypoints] {"proxyHeader":"NONE","service":{"host":{"hostname":"a.example","namespace":"shop"}},"tls":{"mode":"SIMPLE","serverName":"b.example","subjectAltNames":["c.example"]}}
    "#]]);
    check_routes(&rule("shop", "d", "host: nowhere, trafficPolicy: {connectionPool: {tcp: {tcpKeepalive: {}}}}"), expect![[r#"
        DestinationRule shop/d: note: spec.host: nowhere.shop.svc.cluster.local is neither a Service nor in a ServiceEntry
        DestinationRule shop/d: note: spec.trafficPolicy.connectionPool.tcp.tcpKeepalive has no effect: tunnels have pings of their own
    "#]]);
    check_routes(&rule("shop", "d", "host: a.example, trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /etc/c.pem}}, subsets: [{name: v1, trafficPolicy: {tls: {mode: MUTUAL}}}]"), expect![[r#"
        BackendPolicy shop/a.example@shop/v1:0 [waypoints] {"proxyHeader":"NONE","service":{"host":{"hostname":"a.example","namespace":"shop"}},"subset":"v1","tls":{"invalid":"tls.mode MUTUAL needs a certificate of the client: name the Secret that holds it in credentialName","mode":"MUTUAL"}}
        BackendPolicy shop/a.example@shop:0 [waypoints] {"proxyHeader":"NONE","service":{"host":{"hostname":"a.example","namespace":"shop"}},"tls":{"invalid":"tls.clientCertificate \"/etc/c.pem\": a waypoint has no files of users; keep it in a Secret (credentialName), or name nothing for the system's authorities","mode":"MUTUAL"}}
        Subset shop/a.example@shop/v1 [waypoints] {"host":{"hostname":"a.example","namespace":"shop"},"name":"v1"}
        DestinationRule shop/d: istio.io/Accepted=False InvalidTls: spec.subsets[v1].trafficPolicy.tls.mode MUTUAL needs a certificate of the client: name the Secret that holds it in credentialName; spec.trafficPolicy.tls.clientCertificate "/etc/c.pem": a waypoint has no files of users; keep it in a Secret (credentialName), or name nothing for the system's authorities; connections to the host fail until it is corrected
    "#]]);
}
