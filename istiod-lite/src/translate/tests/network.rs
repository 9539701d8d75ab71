//! spec/controlplane.md 8.2 and 4.2: ways into other networks.

use expect_test::expect;

use super::{check, events, pod, printed, translated};
use crate::cluster::Event;
use crate::objects::{Kind, ObjectKey};

fn gateway(name: &str, class: &str, network: &str, addresses: &str, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{namespace: istio-system, name: {name}, labels: {{topology.istio.io/network: {network}}}{more}}}\n\
         spec: {{gatewayClassName: {class}, listeners: [{{name: cross-network, port: 15008, protocol: HBONE}}], addresses: [{addresses}]}}\n---\n"
    )
}

fn remote_vm(address: &str, network: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{namespace: shop, name: vm}}\nspec: {{{address}network: {network}}}\n---\n")
}

#[test]
fn a_remote_gateway_is_a_workload_and_the_way_to_its_network() {
    let account = ", annotations: {gateway.istio.io/service-account: eastwest-sa}";
    check(
        &[gateway("peer", "istio-remote", "n2", "{type: IPAddress, value: 203.0.113.7}, {type: Hostname, value: gw.example}", account), pod("shop", "a", "10.1.0.1", ""), remote_vm("", "n2"), ].concat(),
        expect![[r#"
            workload Kubernetes//Pod/shop/a 10.1.0.1 sa=a-sa node=n1 name=a
            workload Kubernetes/networking.istio.io/WorkloadEntry/shop/vm sa=default network=n2 name=vm gateway=n2/203.0.113.7:15008
            workload NetworkGateway/n2/203.0.113.7/15008 203.0.113.7 sa=eastwest-sa network=n2 canonical=:
            workload NetworkGateway/n2/gw.example/15008 host=gw.example sa=eastwest-sa network=n2 canonical=:
        "#]],
    );
    check(&[gateway("peer", "istio-remote", "n2", "{type: Hostname, value: gw.example}", ""), remote_vm("address: 10.1.0.1, ", "n2")].concat(), expect![[r#"
        workload Kubernetes/networking.istio.io/WorkloadEntry/shop/vm 10.1.0.1 sa=default network=n2 name=vm gateway=istio-system/gw.example:15008
        workload NetworkGateway/n2/gw.example/15008 host=gw.example sa=peer network=n2 canonical=:
    "#]]);
}

#[test]
fn other_gateways_are_no_way() {
    let local = gateway("ew", "istio-east-west", "n2", "{value: 203.0.113.7}", "");
    check(&[local, remote_vm("", "n2")].concat(), expect![[r#"
        workload Kubernetes/networking.istio.io/WorkloadEntry/shop/vm sa=default network=n2 name=vm
        Gateway istio-system/ew: note: status.addresses is empty; spec.addresses is used
    "#]]);
    let plain = gateway("peer", "istio-remote", "n2", "{value: 203.0.113.7}", "").replace("protocol: HBONE", "protocol: TLS");
    check(&[plain, remote_vm("", "n2")].concat(), expect![[r#"
        workload Kubernetes/networking.istio.io/WorkloadEntry/shop/vm sa=default network=n2 name=vm
    "#]]);
    let own_class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: mine}\nspec: {controllerName: istio.io/unmanaged-gateway}\n---\n";
    check(&[own_class.into(), gateway("peer", "mine", "n2", "{value: 203.0.113.7}", ""), remote_vm("", "n2")].concat(), expect![[r#"
        workload Kubernetes/networking.istio.io/WorkloadEntry/shop/vm sa=default network=n2 name=vm gateway=n2/203.0.113.7:15008
        workload NetworkGateway/n2/203.0.113.7/15008 203.0.113.7 sa=peer network=n2 canonical=:
    "#]]);
}

#[test]
fn the_first_address_of_the_oldest_gateway_is_the_way() {
    let born = |year: u32| format!(", creationTimestamp: \"{year}-01-01T00:00:00Z\"");
    let (old, young) = (gateway("z", "istio-remote", "n2", "{value: 203.0.113.9}", &born(2020)), gateway("a", "istio-remote", "n2", "{value: 203.0.113.7}", &born(2024)));
    let mut translation = translated(&[young.clone(), remote_vm("", "n2"), old].concat());
    let way = |translation: &crate::translate::Translation| {
        let text = printed(translation);
        text.lines().find(|line| line.contains("WorkloadEntry/shop/vm")).and_then(|line| line.split("gateway=").nth(1)).unwrap_or("none").split(' ').next().unwrap().to_owned()
    };
    assert_eq!(way(&translation), "n2/203.0.113.9:15008");
    translation.apply([Event::Deleted(ObjectKey::new(Kind::Gateway, "istio-system", "z"))]);
    assert_eq!(way(&translation), "n2/203.0.113.7:15008");
    // Into another network now.
    translation.apply(events(&young.replace("network: n2", "network: n3")));
    assert_eq!(way(&translation), "none");
}

// 4.6 (c), 5.5: PILOT_AUTO_ALLOW_WAYPOINT_POLICY
#[test]
fn workloads_behind_a_waypoint_can_be_open_to_it_alone() {
    let waypoint = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {namespace: shop, name: wp, labels: {istio.io/waypoint-for: all}}\nspec: {gatewayClassName: istio-waypoint}\nstatus: {addresses: [{value: 10.2.0.1}]}\n---\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: web, labels: {istio.io/use-waypoint: wp}}\nspec: {clusterIP: 10.96.0.1, selector: {app: web}}\n---\n";
    let settings = crate::translate::Settings { allows_waypoints: true, ..Default::default() };
    let mut translation = crate::translate::Translation::new(settings, "default");
    let instance = pod("shop", "wp-1", "10.1.0.9", "gateway.networking.k8s.io/gateway-name: wp");
    translation.apply(events(&[waypoint.into(), service.into(), pod("shop", "web", "10.1.0.1", "app: web"), pod("shop", "db", "10.1.0.2", "istio.io/use-waypoint: wp"), pod("shop", "other", "10.1.0.3", "")].concat()));
    expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        workload Kubernetes//Pod/shop/db 10.1.0.2 sa=db-sa node=n1 name=db waypoint=/10.2.0.1:15008
        workload Kubernetes//Pod/shop/other 10.1.0.3 sa=other-sa node=n1 name=other
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 name=web [shop/web.shop.svc.cluster.local ]
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
    "#]].assert_eq(&printed(&translation));
    // An instance is what opens the door.
    translation.apply(events(&instance));
    expect![[r#"
        policy shop/istio_allow_waypoint_shop_wp WorkloadSelector Allow {(principal[=cluster.local/ns/shop/sa/wp-1-sa])}
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical waypoint=/10.2.0.1:15008
        workload Kubernetes//Pod/shop/db 10.1.0.2 sa=db-sa node=n1 name=db waypoint=/10.2.0.1:15008 policies(shop/istio_allow_waypoint_shop_wp)
        workload Kubernetes//Pod/shop/other 10.1.0.3 sa=other-sa node=n1 name=other
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 name=web [shop/web.shop.svc.cluster.local ] policies(shop/istio_allow_waypoint_shop_wp)
        workload Kubernetes//Pod/shop/wp-1 10.1.0.9 sa=wp-1-sa node=n1 name=wp-1
        Service shop/web: istio.io/WaypointBound=True WaypointAccepted: attached to shop/wp
    "#]].assert_eq(&printed(&translation));
    translation.apply([Event::Deleted(ObjectKey::new(Kind::Pod, "shop", "wp-1"))]);
    assert!(!printed(&translation).contains("istio_allow_waypoint"));
}
