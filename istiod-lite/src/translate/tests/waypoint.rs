//! spec/controlplane.md 4.10 to 4.13.

use expect_test::expect;

use super::{check, pod};

fn gateway(namespace: &str, name: &str, labels: &str, listener: &str, status: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{{labels}}}}}\n\
         spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE{listener}}}]}}\nstatus: {{{status}}}\n---\n"
    )
}

const READY: &str = "addresses: [{type: IPAddress, value: 10.2.0.1}]";

fn ready(namespace: &str, name: &str) -> String {
    gateway(namespace, name, "", "", READY)
}

fn service(labels: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: web, labels: {{{labels}}}}}\nspec: {{clusterIP: 10.96.0.1}}\n---\n")
}

fn namespace(labels: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}}}\n---\n")
}

#[test]
fn the_objects_label_then_the_namespaces() {
    check(&[ready("shop", "wp"), service("istio.io/use-waypoint: wp")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
    "#]]);
    check(&[ready("shop", "wp"), service(""), namespace("istio.io/use-waypoint: wp")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
    "#]]);
    check(&[ready("shop", "wp"), service("istio.io/use-waypoint: none"), namespace("istio.io/use-waypoint: wp")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
    "#]]);
    check(&[ready("shop", "wp"), service("")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
    "#]]);
}

// pitfall 10: a waypoint that is asked for and not ready is none; the namespace's is not taken instead
#[test]
fn not_ready_is_no_reason_to_use_another() {
    check(&[ready("shop", "wp"), service("istio.io/use-waypoint: missing"), namespace("istio.io/use-waypoint: wp")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
        Service shop/web: istio.io/WaypointBound=False WaypointIsNotReady: waypoint shop/missing does not exist or has no address yet
    "#]]);
    check(&[gateway("shop", "wp", "", "", ""), service("istio.io/use-waypoint: wp")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
        Service shop/web: istio.io/WaypointBound=False WaypointIsNotReady: waypoint shop/wp does not exist or has no address yet
        Gateway shop/wp: note: has no address in status.addresses or spec.addresses, so nothing is sent through it
    "#]]);
    check(&[ready("shop", "wp"), service("istio.io/use-waypoint: \"\"")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
        Service shop/web: istio.io/WaypointBound=False WaypointIsNotReady: waypoint shop/ does not exist or has no address yet
    "#]]);
}

#[test]
fn addresses_by_hostname_ip_and_neither() {
    let at = |addresses: &str| [gateway("shop", "wp", "", "", addresses), service("istio.io/use-waypoint: wp")].concat();
    check(&at("addresses: [{type: IPAddress, value: 10.2.0.1}, {type: Hostname, value: wp.shop.svc.cluster.local}]"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=shop/wp.shop.svc.cluster.local:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
    "#]]);
    check(&at("addresses: [{value: \"fd00::1\"}]"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/fd00::1:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
    "#]]);
    check(&at("addresses: [{type: IPAddress, value: nonsense}]"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
        Gateway shop/wp: note: its addresses are neither of type Hostname nor IP addresses, so nothing is sent through it
    "#]]);
    let from_spec = gateway("shop", "wp", "", "", "").replace("listeners:", "addresses: [{type: IPAddress, value: 10.2.0.9}], listeners:");
    check(&[from_spec, service("istio.io/use-waypoint: wp")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.9:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
        Gateway shop/wp: note: status.addresses is empty; spec.addresses is used
    "#]]);
}

#[test]
fn other_namespaces_must_be_allowed() {
    let user = service("istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra");
    let with = |routes: &str| [gateway("infra", "wp", "", routes, READY), user.clone(), namespace("team: a")].concat();
    check(&with(""), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
        Service shop/web: istio.io/WaypointBound=False AttachmentDenied: waypoint infra/wp does not allow namespace shop: see allowedRoutes of its listener
    "#]]);
    check(&with(", allowedRoutes: {namespaces: {from: All}}"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to infra/wp
    "#]]);
    check(&with(", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to infra/wp
    "#]]);
    check(&with(", allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}}"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
        Service shop/web: istio.io/WaypointBound=False AttachmentDenied: waypoint infra/wp does not allow namespace shop: see allowedRoutes of its listener
    "#]]);
    check(&with(", allowedRoutes: {namespaces: {from: None}}"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
        Service shop/web: istio.io/WaypointBound=False AttachmentDenied: waypoint infra/wp does not allow namespace shop: see allowedRoutes of its listener
    "#]]);
}

#[test]
fn the_kind_of_traffic_must_fit() {
    let all = |label: &str| {
        [gateway("shop", "wp", label, "", READY), service("istio.io/use-waypoint: wp"), pod("shop", "p", "10.1.0.1", "istio.io/use-waypoint: wp"), pod("shop", "q", "10.1.0.2", "")].concat()
            + &namespace("istio.io/use-waypoint: wp")
    };
    check(&all(""), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        workload Kubernetes//Pod/shop/p 10.1.0.1 sa=p-sa node=n1 name=p
        workload Kubernetes//Pod/shop/q 10.1.0.2 sa=q-sa node=n1 name=q
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
    "#]]);
    check(&all("istio.io/waypoint-for: workload"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
        workload Kubernetes//Pod/shop/p 10.1.0.1 sa=p-sa node=n1 name=p waypoint=/10.2.0.1:15008
        workload Kubernetes//Pod/shop/q 10.1.0.2 sa=q-sa node=n1 name=q waypoint=/10.2.0.1:15008
        Service shop/web: istio.io/WaypointBound=False UnsupportedTrafficType: waypoint shop/wp does not take traffic of services: see its label istio.io/waypoint-for
    "#]]);
    check(&all("istio.io/waypoint-for: all"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        workload Kubernetes//Pod/shop/p 10.1.0.1 sa=p-sa node=n1 name=p waypoint=/10.2.0.1:15008
        workload Kubernetes//Pod/shop/q 10.1.0.2 sa=q-sa node=n1 name=q waypoint=/10.2.0.1:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
    "#]]);
    check(&all("istio.io/waypoint-for: none"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
        workload Kubernetes//Pod/shop/p 10.1.0.1 sa=p-sa node=n1 name=p
        workload Kubernetes//Pod/shop/q 10.1.0.2 sa=q-sa node=n1 name=q
        Service shop/web: istio.io/WaypointBound=False UnsupportedTrafficType: waypoint shop/wp does not take traffic of services: see its label istio.io/waypoint-for
    "#]]);
    check(&all("istio.io/waypoint-for: everything"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        workload Kubernetes//Pod/shop/p 10.1.0.1 sa=p-sa node=n1 name=p
        workload Kubernetes//Pod/shop/q 10.1.0.2 sa=q-sa node=n1 name=q
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
        Gateway shop/wp: note: label istio.io/waypoint-for=everything is not service, workload, all or none; it is read as if it were absent
    "#]]);
}

#[test]
fn a_class_has_defaults() {
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: istio-waypoint, labels: {istio.io/waypoint-for: all}, annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY/15088}}\nspec: {controllerName: istio.io/mesh-controller}\n---\n";
    let instance = pod("shop", "wp-1", "10.1.0.9", "gateway.networking.k8s.io/gateway-name: wp, istio.io/use-waypoint: wp");
    check(&[class.into(), ready("shop", "wp"), instance, pod("shop", "p", "10.1.0.1", "istio.io/use-waypoint: wp")].concat(), expect![[r#"
        workload Kubernetes//Pod/shop/p 10.1.0.1 sa=p-sa node=n1 name=p waypoint=/10.2.0.1:15008
        workload Kubernetes//Pod/shop/wp-1 10.1.0.9 sa=wp-1-sa node=n1 name=wp-1 application-tunnel=Proxy:Some(15088)
    "#]]);
}

#[test]
fn inbound_bindings() {
    let with = |binding: &str| {
        ready("shop", "wp").replace("labels: {}", &format!("annotations: {{ambient.istio.io/waypoint-inbound-binding: {binding}}}"))
            + &pod("shop", "wp-1", "10.1.0.9", "gateway.networking.k8s.io/gateway-name: wp")
    };
    for (binding, expected) in [("NONE", expect![[r#"
        workload Kubernetes//Pod/shop/wp-1 10.1.0.9 sa=wp-1-sa node=n1 name=wp-1 application-tunnel=None:None
    "#]]), ("PROXY", expect![[r#"
        workload Kubernetes//Pod/shop/wp-1 10.1.0.9 sa=wp-1-sa node=n1 name=wp-1 application-tunnel=Proxy:None
    "#]]), ("PROXY/15088", expect![[r#"
        workload Kubernetes//Pod/shop/wp-1 10.1.0.9 sa=wp-1-sa node=n1 name=wp-1 application-tunnel=Proxy:Some(15088)
    "#]]), ("PROXY/0", expect![[r#"
        workload Kubernetes//Pod/shop/wp-1 10.1.0.9 sa=wp-1-sa node=n1 name=wp-1
        Gateway shop/wp: note: annotation ambient.istio.io/waypoint-inbound-binding=PROXY/0 is not NONE, PROXY or PROXY/<port>; it is read as if it were absent
    "#]])] {
        check(&with(binding), expected);
    }
}

#[test]
fn a_managed_gateways_own_service_passes_through_no_waypoint() {
    check(&[ready("shop", "wp"), service("istio.io/use-waypoint: wp, gateway.istio.io/managed: istio.io-mesh-controller")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
    "#]]);
}

/// 4.12.
#[test]
fn ingress_through_the_waypoint() {
    let all = |own: &str, level: &str| [ready("shop", "wp"), service(&format!("istio.io/use-waypoint: wp{own}")), namespace(level)].concat();
    check(&all(", istio.io/ingress-use-waypoint: \"true\"", ""), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008 ingress-uses-waypoint
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp; ingress gateways send through it
    "#]]);
    check(&all("", "istio.io/ingress-use-waypoint: \"T\""), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008 ingress-uses-waypoint
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp; ingress gateways send through it
    "#]]);
    check(&all(", istio.io/ingress-use-waypoint: \"no\"", "istio.io/ingress-use-waypoint: \"true\""), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp; ingress gateways do not send through it
    "#]]);
    check(&[service("istio.io/ingress-use-waypoint: \"true\"")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
    "#]]);
}

/// 4.11.
#[test]
fn canaries() {
    let with = |name: &str, weight: &str| {
        let user = service(&format!("istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: {name}"))
            .replace("labels:", &format!("annotations: {{istio.io/use-waypoint-canary-weight: \"{weight}\"}}, labels:"));
        [ready("shop", "wp"), gateway("shop", "wp2", "", "", "addresses: [{type: IPAddress, value: 10.2.0.2}]"), user].concat()
    };
    check(&with("wp2", "10"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008 90%=/10.2.0.1:15008 10%=/10.2.0.2:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
    "#]]);
    check(&with("wp2", "101"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp; the canary is not used: istio.io/use-waypoint-canary-weight is "101", not 0 to 100
    "#]]);
    check(&with("wp", "10"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp; the canary is not used: shop/wp is the waypoint itself
    "#]]);
    check(&with("missing", "10"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp; the canary is not used: waypoint shop/missing does not exist or has no address yet
    "#]]);
    check(&with("none", "10"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
    "#]]);
}
