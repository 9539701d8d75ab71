//! spec/waypoint.md 1.3, 1.9: what waypoints serve.

use expect_test::expect;
use mesh_identity::derived::Seed;
use mesh_xds::messages::waypoint::{MESH_SETTINGS, MeshSettings};
use prost::Message;

use super::{check_resources, events, printed_resources, translation};
use crate::cluster::Event;
use crate::objects::{Kind, ObjectKey};
use crate::translate::Translation;

pub fn gateway(namespace: &str, name: &str) -> String {
    format!("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n---\n")
}

pub fn service(namespace: &str, name: &str, labels: &str, ports: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{{labels}}}}}\nspec: {{clusterIP: 10.96.0.1, ports: [{ports}]}}\n---\n")
}

// A waypoint knows what it serves before it has an address: nobody is sent to it until then.
#[test]
fn each_port_of_a_bound_service_is_told_to_its_waypoints_alone() {
    let ports = "{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}, {name: metrics, port: 9090, appProtocol: https, targetPort: m}";
    let canary = "istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: next";
    check_resources(
        &[gateway("shop", "wp"), gateway("shop", "next"), gateway("other", "wp"), service("shop", "web", canary, ports), service("shop", "free", "", ports)].concat(),
        expect![[r#"
            MeshSettings other/wp [other/wp] {"appendClientIp":true,"meshId":"cluster.local","trustDomain":"cluster.local"}
            MeshSettings shop/next [shop/next] {"appendClientIp":true,"meshId":"cluster.local","trustDomain":"cluster.local"}
            MeshSettings shop/wp [shop/wp] {"appendClientIp":true,"meshId":"cluster.local","trustDomain":"cluster.local"}
            ServicePort shop/web.shop.svc.cluster.local:80 [shop/next shop/wp] {"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"kind":"WORKLOADS","port":80,"portName":"http","protocol":"HTTP1","targetPort":8080}
            ServicePort shop/web.shop.svc.cluster.local:9090 [shop/next shop/wp] {"host":{"hostname":"web.shop.svc.cluster.local","namespace":"shop"},"kind":"WORKLOADS","port":9090,"portName":"metrics","protocol":"TLS"}
            Telemetry mesh [waypoints] {"metrics":{"providers":["prometheus"]},"targets":[{}]}
            TelemetryProvider envoy [waypoints] {"kind":"FILE_LOG","path":"/dev/stdout"}
            TelemetryProvider prometheus [waypoints] {"kind":"PROMETHEUS"}
        "#]],
    );
}

#[test]
fn entries_say_what_their_endpoints_are() {
    let entry = |name: &str, spec: &str| format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: shop, name: {name}, labels: {{istio.io/use-waypoint: wp}}}}\nspec: {{{spec}}}\n---\n");
    check_resources(
        &[
            entry("dns", "hosts: [a.example], resolution: DNS, ports: [{name: https, number: 443, protocol: HTTPS, targetPort: 8443}], endpoints: [{address: b.example, weight: 3, ports: {https: 9443}}]"),
            entry("round", "hosts: [c.example], resolution: DNS_ROUND_ROBIN, location: MESH_INTERNAL, ports: [{name: x, number: 80, protocol: HTTP}]"),
            entry("wild", "hosts: [\"*.example.org\"], resolution: DYNAMIC_DNS, ports: [{name: x, number: 80, protocol: HTTP}]"),
            entry("range", "hosts: [d.example], addresses: [10.9.0.0/16], ports: [{name: x, number: 3306}]"),
            gateway("shop", "wp"),
        ]
        .concat(),
        expect![[r#"
            MeshSettings shop/wp [shop/wp] {"appendClientIp":true,"meshId":"cluster.local","trustDomain":"cluster.local"}
            ServicePort shop/*.example.org:80 [shop/wp] {"external":true,"host":{"hostname":"*.example.org","namespace":"shop"},"kind":"DYNAMIC_DNS","port":80,"portName":"x","protocol":"HTTP1","targetPort":80}
            ServicePort shop/a.example:443 [shop/wp] {"external":true,"host":{"hostname":"a.example","namespace":"shop"},"kind":"DNS","names":[{"hostname":"b.example","port":9443,"weight":3}],"port":443,"portName":"https","protocol":"TLS","targetPort":8443}
            ServicePort shop/c.example:80 [shop/wp] {"host":{"hostname":"c.example","namespace":"shop"},"kind":"DNS","oneOfNames":true,"port":80,"portName":"x","protocol":"HTTP1","targetPort":80}
            ServicePort shop/d.example:3306 [shop/wp] {"external":true,"host":{"hostname":"d.example","namespace":"shop"},"kind":"PASSTHROUGH","port":3306,"portName":"x","protocol":"TCP","targetPort":3306}
            Telemetry mesh [waypoints] {"metrics":{"providers":["prometheus"]},"targets":[{}]}
            TelemetryProvider envoy [waypoints] {"kind":"FILE_LOG","path":"/dev/stdout"}
            TelemetryProvider prometheus [waypoints] {"kind":"PROMETHEUS"}
        "#]],
    );
}

#[test]
fn the_port_says_what_is_spoken_there() {
    use crate::translate::served::protocol;
    let table = [
        ((None, "http-web", 80), "HTTP1"),
        ((None, "grpc-web-x", 80), "GRPC_WEB"),
        ((None, "grpc", 80), "GRPC"),
        ((Some("nonsense"), "http", 80), "AUTO"),
        ((Some("kubernetes.io/h2c"), "tcp", 80), "HTTP2"),
        ((Some("kubernetes.io/wss"), "http", 80), "TLS"),
        ((Some("HTTP2"), "", 80), "HTTP2"),
        ((None, "redis", 80), "TCP"),
        ((None, "", 3306), "TCP"),
        ((None, "http", 3306), "HTTP1"),
        ((None, "", 8080), "AUTO"),
        ((None, "http-proxy", 3128), "HTTP_PROXY"),
    ];
    for ((declared, name, number), expected) in table {
        assert_eq!(protocol(declared, name, number).word(), expected, "{declared:?} {name} {number}");
    }
}

#[test]
fn accounts_of_waypoints_come_and_go_with_their_gateways() {
    let mut translation = translation();
    let told = |changes: crate::translate::Changes| {
        let one = |(gateway, account): (&crate::objects::NsName, &Option<std::sync::Arc<crate::translate::Account>>)| format!("{gateway}={:?}", account.as_ref().map(|account| account.account.to_string()));
        changes.accounts.iter().map(one).collect::<Vec<_>>()
    };
    let other = gateway("shop", "edge").replace("istio-waypoint", "edge");
    assert_eq!(told(translation.apply(events(&(gateway("shop", "wp") + &other)))), ["shop/wp=Some(\"shop/wp\")"]);
    let class = |controller: &str| format!("apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: edge}}\nspec: {{controllerName: {controller}}}\n");
    assert_eq!(told(translation.apply(events(&class("istio.io/mesh-controller")))), ["shop/edge=Some(\"shop/edge\")"]);
    assert_eq!(told(translation.apply(events(&class("other")))), ["shop/edge=None"]);
    assert_eq!(told(translation.apply([Event::Deleted(ObjectKey::new(Kind::Gateway, "shop", "wp"))])), ["shop/wp=None"]);
}

/// The secrets that a Gateway's instances are told, in their order.
fn secrets(translation: &Translation, gateway: &str) -> Vec<String> {
    let resources = translation.derived().flat_map(|derived| &derived.resources);
    let settings = resources.filter(|resource| resource.type_url == MESH_SETTINGS && &*resource.name == gateway);
    settings.flat_map(|resource| MeshSettings::decode(resource.body.clone()).unwrap().session_secrets).collect()
}

// spec/waypoint.md 2.6: a session is opened by any instance of its Gateway, whichever replica told it, and by nobody else
#[test]
fn instances_of_a_gateway_share_the_secret_of_its_sessions() {
    let key = || rcgen::KeyPair::generate().unwrap().serialize_pem();
    let seed = |key: &str| Seed::of_key(key, "sessions").unwrap();
    let (old, new) = (seed(&key()), seed(&key()));
    let yaml = gateway("shop", "wp") + &gateway("shop", "other");
    let (mut one, mut another) = (translation(), translation());
    one.seal_sessions_with(vec![old.clone()]);
    one.apply(events(&yaml));
    another.apply(events(&yaml));
    assert!(secrets(&another, "shop/wp").is_empty());
    another.seal_sessions_with(vec![old.clone()]);
    let first = secrets(&one, "shop/wp");
    assert_eq!((first.len(), &secrets(&another, "shop/wp")), (1, &first), "whenever the key became known");
    assert_ne!(secrets(&one, "shop/other"), first);

    // Another root signs: one small resource for each waypoint, to its instances alone; what was sealed before can be opened.
    let changes = one.seal_sessions_with(vec![new, old]);
    let told: Vec<&str> = changes.resources.keys().map(|(_, name)| &**name).collect();
    assert_eq!((told, changes.units_computed), (vec!["shop/other", "shop/wp"], 2));
    assert_eq!(changes.resources.values().flatten().map(|resource| resource.audiences.join(" ")).collect::<Vec<_>>(), ["waypoint/shop/other", "waypoint/shop/wp"]);
    let now = secrets(&one, "shop/wp");
    assert_eq!((now.len(), &now[1]), (2, &first[0]));
    assert!(printed_resources(&one).lines().all(|line| now.iter().all(|secret| !line.contains(secret))), "no page shows them");
}

// row 51 of spec/controlplane.md 11; spec/waypoint.md 1.6, 5.6
#[test]
fn annotations_of_a_gateway_are_settings_of_its_own_waypoint() {
    let annotated = gateway("shop", "wp").replace("name: wp}", "name: wp, annotations: {ambient.istio.io/xfcc-include-client-identity: \"true\", ambient.istio.io/waypoint-locality-origin: client}}");
    let mut translation = translation();
    translation.apply(events(&(annotated + &gateway("shop", "other"))));
    let resources = translation.derived().flat_map(|derived| &derived.resources).filter(|resource| resource.type_url == MESH_SETTINGS);
    let told: Vec<_> = resources.map(|resource| (resource.name.to_string(), MeshSettings::decode(resource.body.clone()).unwrap())).map(|(name, told)| (name, told.xfcc_client_identity, told.locality_of_client)).collect();
    assert_eq!(told, [("shop/other".to_owned(), false, false), ("shop/wp".to_owned(), true, true)]);
}
