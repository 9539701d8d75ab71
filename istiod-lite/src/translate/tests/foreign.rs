//! V-50: what somebody writes in a namespace of his own about the services of another.

use std::collections::BTreeSet;

use mesh_xds::messages::waypoint::{HTTP_ROUTE, HttpRoute};
use prost::Message;

use super::route::{mesh, route};
use super::served::gateway;
use super::{events, printed, translation};
use crate::translate::{Resource, Translation};

fn of(group: &str, kind: &str, spec: &str) -> String {
    format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{namespace: attacker, name: x, creationTimestamp: \"2026-06-01T00:00:00Z\"}}\nspec: {{{spec}}}\n---\n")
}

/// What the waypoint of `shop` is told.
fn told(translation: &Translation) -> BTreeSet<(String, Vec<u8>)> {
    let is_for_it = |resource: &&std::sync::Arc<Resource>| resource.audiences.iter().any(|audience| matches!(&**audience, "waypoint/shop/wp" | "waypoints" | "waypoints/istio-waypoint"));
    let resources = translation.derived().flat_map(|derived| &derived.resources).filter(is_for_it);
    resources.map(|resource| (format!("{} {}", resource.type_url, resource.name), resource.body.to_vec())).collect()
}

/// What nodes are told of everybody, but for the attacker's own.
fn nodes(translation: &Translation) -> Vec<String> {
    printed(translation).lines().filter(|line| !line.contains("attacker")).map(str::to_owned).collect()
}

#[test]
fn it_changes_nothing_for_anybody_else() {
    let web = "{group: \"\", kind: Service, name: web, namespace: shop}";
    let host = "web.shop.svc.cluster.local";
    let (networking, security, gateways) = ("networking.istio.io/v1", "security.istio.io/v1", "gateway.networking.k8s.io/v1");
    let objects = [
        of(networking, "VirtualService", &format!("hosts: [{host}, a.example], http: [{{directResponse: {{status: 418}}}}], tcp: [{{route: [{{destination: {{host: evil}}}}]}}]")),
        of(networking, "DestinationRule", &format!("host: {host}, trafficPolicy: {{tls: {{mode: DISABLE}}}}, subsets: [{{name: s}}]")),
        of(networking, "DestinationRule", "host: \"*\", trafficPolicy: {tls: {mode: DISABLE}}"),
        of(networking, "ServiceEntry", &format!("hosts: [{host}], resolution: STATIC, ports: [{{name: http, number: 80}}], endpoints: [{{address: 6.6.6.6}}]")),
        of(networking, "ServiceEntry", "hosts: [a.example], resolution: STATIC, ports: [{name: https, number: 443, protocol: TLS}], endpoints: [{address: 6.6.6.6}]"),
        of(gateways, "BackendTLSPolicy", &format!("targetRefs: [{web}], validation: {{hostname: evil, wellKnownCACertificates: System}}").replace(", namespace: shop", "")),
        of(security, "AuthorizationPolicy", &format!("targetRefs: [{web}], rules: [{{}}]")),
        of(security, "AuthorizationPolicy", "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp, namespace: shop}], rules: [{}]"),
        of(security, "AuthorizationPolicy", "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}], action: DENY, rules: [{}]"),
        of(security, "RequestAuthentication", &format!("targetRefs: [{web}], jwtRules: [{{issuer: evil}}]")),
        of("telemetry.istio.io/v1", "Telemetry", &format!("targetRefs: [{web}], accessLogging: [{{disabled: true}}]")),
        of("telemetry.istio.io/v1", "Telemetry", "accessLogging: [{disabled: true}]"),
        of("isthmus.io/v1alpha1", "RateLimit", &format!("targetRefs: [{web}], local: [{{requests: 1, per: 1h}}]")),
        of(gateways, "GRPCRoute", &format!("parentRefs: [{web}], rules: [{{}}]")),
        of(gateways, "TCPRoute", &format!("parentRefs: [{{group: \"\", kind: Service, name: web, namespace: shop, port: 6379}}], rules: [{{backendRefs: [{{name: evil, port: 80}}]}}]")),
        gateway("attacker", "wp"),
        route("HTTPRoute", "attacker", "x", &format!("parentRefs: [{web}], rules: [{{backendRefs: [{{name: evil, port: 80}}]}}]")),
    ];
    let base = mesh() + &route("HTTPRoute", "shop", "r", &format!("parentRefs: [{web}], rules: [{{backendRefs: [{{name: v1, port: 80}}]}}]"));
    let mut before = translation();
    before.apply(events(&base));
    for object in objects {
        let mut after = translation();
        after.apply(events(&(base.clone() + &object)));
        let (known, now) = (told(&before), told(&after));
        assert!(known.is_subset(&now), "something of others has changed\n{object}");
        for (name, body) in now.difference(&known) {
            // Whoever attaches a route to a service of another namespace has it for clients of his own (spec/waypoint.md 2.7).
            let consumer = match name.split(' ').next() {
                Some(HTTP_ROUTE) => HttpRoute::decode(body.as_slice()).unwrap().consumer_namespace,
                _ => mesh_xds::messages::waypoint::TcpRoute::decode(body.as_slice()).map(|route| route.consumer_namespace).unwrap_or_default(),
            };
            assert!(name.contains("Route") && consumer == "attacker", "{name} is told\n{object}");
        }
        assert_eq!(nodes(&before), nodes(&after), "{object}");
    }
}
