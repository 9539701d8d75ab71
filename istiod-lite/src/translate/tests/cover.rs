//! A waypoint that is missing, and policies that nobody may get past.

use super::{events, pod, printed, translation};
use crate::objects::{Kind, ObjectKey};
use crate::cluster::Event;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: web, labels: {istio.io/use-waypoint: wp}}\nspec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}\n---\n";

fn gateway(status: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{namespace: shop, name: wp}}\n\
         spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\nstatus: {{{status}}}\n---\n"
    )
}

const READY: &str = "addresses: [{type: Hostname, value: wp.shop.svc.cluster.local}]";

fn policy(namespace: &str, rest: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{namespace: {namespace}, name: pol}}\nspec: {{{rest}}}\n---\n")
}

/// Where traffic to the service goes, and what its pod lists.
fn outcome(yaml: &str) -> (String, String) {
    let mut translation = translation();
    translation.apply(events(yaml));
    seen(&translation)
}

fn seen(translation: &crate::translate::Translation) -> (String, String) {
    let services = translation.derived().flat_map(|derived| &derived.services);
    let waypoint = services.filter(|service| &*service.name == "web").find_map(|service| service.waypoint.clone());
    let waypoint = waypoint.map_or_else(|| "direct".to_owned(), |address| format!("{:?}", address.destination).split('"').nth(3).unwrap_or("address").to_owned());
    let workloads = translation.derived().flat_map(|derived| &derived.workloads);
    let listed: Vec<String> = workloads.filter(|workload| &*workload.name == "web-1").flat_map(|workload| &workload.authorization_policies).map(|key| format!("{key:?}")).collect();
    (waypoint, if listed.is_empty() { "open".to_owned() } else { "closed".to_owned() })
}

#[test]
fn what_covers_a_service_closes_it() {
    let pods = pod("shop", "web-1", "10.1.0.1", "app: web");
    let class = "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}], rules: [{}]";
    let own = "targetRefs: [{kind: Service, name: web}], rules: [{}]";
    let of_gateway = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}], rules: [{}]";
    let deny = "action: DENY, targetRefs: [{kind: Service, name: web}]";
    let by_name = "wp.shop.svc.cluster.local";
    for (what, gateway, policy, expected) in [
        ("nothing", String::new(), String::new(), ("direct", "open")),
        ("a policy of the service", String::new(), policy("shop", own), (by_name, "closed")),
        ("of its Gateway, which is not there", String::new(), policy("shop", of_gateway), (by_name, "closed")),
        ("of its Gateway without an address", gateway(""), policy("shop", of_gateway), (by_name, "closed")),
        ("of the class, in the root namespace", String::new(), policy("istio-system", class), (by_name, "closed")),
        ("of the class, elsewhere", String::new(), policy("shop", class), ("direct", "open")),
        ("of a service of that name elsewhere", String::new(), policy("other", own), ("direct", "open")),
        ("one that only takes notes", String::new(), policy("shop", &own.replace("rules", "action: AUDIT, rules")), ("direct", "open")),
        ("one that denies nothing", String::new(), policy("shop", deny), ("direct", "open")),
        ("one that is tried out", String::new(), policy("shop", own).replace("name: pol", "name: pol, annotations: {istio.io/dry-run: \"true\"}"), ("direct", "open")),
        ("tokens that are asked for", String::new(), policy("shop", "targetRefs: [{kind: Service, name: web}], jwtRules: [{issuer: i, jwks: '{\"keys\": []}'}]").replace("AuthorizationPolicy", "RequestAuthentication"), (by_name, "closed")),
        ("a waypoint that is ready", gateway(READY), policy("shop", own), (by_name, "closed")),
        ("a waypoint that is ready, without a policy", gateway(READY), String::new(), (by_name, "open")),
        ("of a Gateway that does not take it", gateway(READY).replace("name: wp", "name: wp, labels: {istio.io/waypoint-for: workload}"), policy("shop", of_gateway), ("direct", "open")),
        ("its own, and a Gateway that does not take it", gateway(READY).replace("name: wp", "name: wp, labels: {istio.io/waypoint-for: workload}"), policy("shop", own), (by_name, "closed")),
    ] {
        let (waypoint, pod) = outcome(&[SERVICE.to_owned(), pods.clone(), gateway, policy].concat());
        assert_eq!((waypoint.as_str(), pod.as_str()), expected, "{what}");
    }
}

// T-42: who dials the pods themselves goes past no policy.
#[test]
fn it_follows_the_policy_and_the_gateway() {
    let mut translation = translation();
    translation.apply(events(&[SERVICE, &pod("shop", "web-1", "10.1.0.1", "app: web")].concat()));
    assert_eq!(seen(&translation), ("direct".into(), "open".into()));
    translation.apply(events(&policy("shop", "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}], rules: [{}]")));
    let text = printed(&translation);
    assert!(text.contains("istio.io/WaypointBound=False WaypointIsNotReady: waypoint shop/wp does not exist or has no address yet; connections are refused meanwhile, because AuthorizationPolicy shop/pol could not be enforced"), "{text}");
    assert!(text.contains("policy shop/istio_only_from_waypoint_web.shop.svc.cluster.local WorkloadSelector Allow {(principal[=cluster.local/ns/shop/sa/wp])}"), "{text}");
    // Instances that run as somebody else are let in, too.
    translation.apply(events(&[gateway(READY), pod("shop", "wp-1", "10.1.0.2", "gateway.networking.k8s.io/gateway-name: wp")].concat()));
    assert!(printed(&translation).contains("(principal[=cluster.local/ns/shop/sa/wp | =cluster.local/ns/shop/sa/wp-1-sa])") || printed(&translation).contains("sa/wp-1-sa"), "{}", printed(&translation));
    assert_eq!(seen(&translation), ("wp.shop.svc.cluster.local".into(), "closed".into()));
    translation.apply([Event::Deleted(ObjectKey::new(Kind::AuthorizationPolicy, "shop", "pol"))]);
    assert_eq!(seen(&translation), ("wp.shop.svc.cluster.local".into(), "open".into()));
    translation.apply([Event::Deleted(ObjectKey::new(Kind::Gateway, "shop", "wp"))]);
    assert_eq!(seen(&translation), ("direct".into(), "open".into()));
    assert!(!printed(&translation).contains("istio_only_from_waypoint"));
}

#[test]
fn it_can_be_switched_off() {
    let settings = crate::translate::Settings { closes_behind_waypoints: false, ..Default::default() };
    let mut translation = crate::translate::Translation::new(settings, "default");
    let covered = policy("shop", "targetRefs: [{kind: Service, name: web}], rules: [{}]");
    translation.apply(events(&[SERVICE, &pod("shop", "web-1", "10.1.0.1", "app: web"), &covered].concat()));
    assert_eq!(seen(&translation), ("wp.shop.svc.cluster.local".into(), "open".into()), "a missing waypoint closes all the same");
}
