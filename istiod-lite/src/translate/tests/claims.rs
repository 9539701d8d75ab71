//! spec/reliability.md V-32: objects that claim each other's addresses. One has it, always the same one, and the others
//! are told.

use expect_test::expect;
use proptest::prelude::*;

use super::{check, events, pod, printed, translation};
use crate::cluster::Event;

fn workload_entry(namespace: &str, name: &str, address: &str, more: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{namespace: {namespace}, name: {name}{more}}}\nspec: {{address: {address}}}\n---\n")
}

fn service_entry(namespace: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{hosts: [{name}.example], resolution: STATIC, {spec}}}\n---\n")
}

const BORN_2020: &str = ", creationTimestamp: \"2020-01-01T00:00:00Z\"";
const BORN_2024: &str = ", creationTimestamp: \"2024-01-01T00:00:00Z\"";

// V-32
#[test]
fn a_pods_address_is_the_pods() {
    check(
        &[
            pod("shop", "cart", "10.1.0.1", ""), workload_entry("evil", "vm", "10.1.0.1", ""),
            service_entry("evil", "inline", "endpoints: [{address: 10.1.0.1}]"), service_entry("evil", "vip", "addresses: [10.1.0.1, 10.1.0.1/32, 10.9.0.1]"),
        ]
        .concat(),
        expect![[r#"
            service evil/inline.example vips(/240.240.69.146 /2001:2::4d82:6a03) canonical
            service evil/vip.example vips(/10.9.0.1) canonical
            workload Kubernetes//Pod/shop/cart 10.1.0.1 sa=cart-sa node=n1 name=cart
            workload Kubernetes/networking.istio.io/ServiceEntry/evil/inline/10.1.0.1 10.1.0.1 sa=default host-network name=inline [evil/inline.example ]
            workload Kubernetes/networking.istio.io/WorkloadEntry/evil/vm 10.1.0.1 sa=default host-network name=vm
            ServiceEntry evil/inline: note: spec.endpoints[0].address: 10.1.0.1 is Pod shop/cart's too; connections to the bare address are for that one
            ServiceEntry evil/vip: note: spec.addresses: 10.1.0.1 is not used: it is Pod shop/cart's
            ServiceEntry evil/vip: note: spec.addresses: 10.1.0.1/32 is not used: it is Pod shop/cart's
            WorkloadEntry evil/vm: note: spec.address: 10.1.0.1 is Pod shop/cart's too; connections to the bare address are for that one
        "#]],
    );
}

// V-32: a cluster IP, that of a waypoint among them
#[test]
fn a_services_address_is_the_services() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: wp}\nspec: {clusterIP: 10.96.0.1}\n---\n";
    check(
        &[service.into(), workload_entry("evil", "vm", "10.96.0.1", ""), service_entry("evil", "vip", "addresses: [10.96.0.1]")].concat(),
        expect![[r#"
            service evil/vip.example vips() canonical
            service shop/wp.shop.svc.cluster.local vips(/10.96.0.1) canonical
            workload Kubernetes/networking.istio.io/WorkloadEntry/evil/vm 10.96.0.1 sa=default host-network name=vm
            ServiceEntry evil/vip: note: spec.addresses: 10.96.0.1 is not used: it is Service shop/wp's
            WorkloadEntry evil/vm: note: spec.address: 10.96.0.1 is Service shop/wp's too; connections to the bare address are for that one
        "#]],
    );
}

#[test]
fn of_entries_the_oldest_has_it_and_of_pods_the_newest() {
    check(
        &[workload_entry("a", "young", "10.5.0.1", BORN_2024), workload_entry("b", "old", "10.5.0.1", BORN_2020), service_entry("a", "e", "endpoints: [{address: 10.5.0.1}]")].concat(),
        expect![[r#"
            service a/e.example vips(/240.240.51.99 /2001:2::35e9:ff41) canonical
            workload Kubernetes/networking.istio.io/ServiceEntry/a/e/10.5.0.1 10.5.0.1 sa=default host-network name=e [a/e.example ]
            workload Kubernetes/networking.istio.io/WorkloadEntry/a/young 10.5.0.1 sa=default host-network name=young
            workload Kubernetes/networking.istio.io/WorkloadEntry/b/old 10.5.0.1 sa=default name=old
            ServiceEntry a/e: note: spec.endpoints[0].address: 10.5.0.1 is WorkloadEntry b/old's too; connections to the bare address are for that one
            WorkloadEntry a/young: note: spec.address: 10.5.0.1 is WorkloadEntry b/old's too; connections to the bare address are for that one
        "#]],
    );
    let born = |text: String, when: &str, more: &str| text.replacen(", uid:", &format!("{when}{more}, uid:"), 1);
    check(&[born(pod("shop", "old", "10.1.0.1", ""), BORN_2020, ""), born(pod("shop", "young", "10.1.0.1", ""), BORN_2024, "")].concat(), expect![[r#"
        workload Kubernetes//Pod/shop/old 10.1.0.1 sa=old-sa node=n1 host-network name=old
        workload Kubernetes//Pod/shop/young 10.1.0.1 sa=young-sa node=n1 name=young
        Pod shop/old: note: status.podIPs: 10.1.0.1 is Pod shop/young's too; connections to the bare address are for that one
    "#]]);
    check(
        &[born(pod("shop", "old", "10.1.0.1", ""), BORN_2020, ""), born(pod("shop", "young", "10.1.0.1", ""), BORN_2024, ", deletionTimestamp: \"2025-01-01T00:00:00Z\"")].concat(),
        expect![[r#"
            workload Kubernetes//Pod/shop/old 10.1.0.1 sa=old-sa node=n1 name=old
            workload Kubernetes//Pod/shop/young 10.1.0.1 sa=young-sa node=n1 host-network UNHEALTHY name=young
            Pod shop/young: note: status.podIPs: 10.1.0.1 is Pod shop/old's too; connections to the bare address are for that one
        "#]],
    );
}

// Pods on their node's network share its address with each other, and say nothing about it.
#[test]
fn a_nodes_address_is_shared() {
    let host = |name: &str| pod("kube-system", name, "192.168.0.1", "").replace("nodeName: n1,", "nodeName: n1, hostNetwork: true,");
    check(&[host("a"), host("b"), workload_entry("evil", "vm", "192.168.0.1", "")].concat(), expect![[r#"
        workload Kubernetes//Pod/kube-system/a 192.168.0.1 sa=a-sa node=n1 host-network name=a
        workload Kubernetes//Pod/kube-system/b 192.168.0.1 sa=b-sa node=n1 host-network name=b
        workload Kubernetes/networking.istio.io/WorkloadEntry/evil/vm 192.168.0.1 sa=default host-network name=vm
        WorkloadEntry evil/vm: note: spec.address: 192.168.0.1 is Pod kube-system/a's too; connections to the bare address are for that one
    "#]]);
}

#[test]
fn another_network_has_addresses_of_its_own() {
    let network = "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system, labels: {topology.istio.io/network: n1}}\n---\n";
    let there = |network: &str| workload_entry("shop", "vm", "10.1.0.1", "").replace("10.1.0.1}", &format!("10.1.0.1, network: {network}}}"));
    check(&[network.into(), pod("shop", "a", "10.1.0.1", ""), there("n2")].concat(), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.1.0.1 sa=a-sa node=n1 network=n1 name=a
        workload Kubernetes/networking.istio.io/WorkloadEntry/shop/vm 10.1.0.1 sa=default network=n2 name=vm
    "#]]);
    check(&[network.into(), pod("shop", "a", "10.1.0.1", ""), there("n1")].concat(), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.1.0.1 sa=a-sa node=n1 network=n1 name=a
        workload Kubernetes/networking.istio.io/WorkloadEntry/shop/vm 10.1.0.1 sa=default network=n1 host-network name=vm
        WorkloadEntry shop/vm: note: spec.address: 10.1.0.1 is Pod shop/a's too; connections to the bare address are for that one
    "#]]);
    // The network's name may be told last.
    check(&[pod("shop", "a", "10.1.0.1", ""), there("n1"), network.into()].concat(), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.1.0.1 sa=a-sa node=n1 network=n1 name=a
        workload Kubernetes/networking.istio.io/WorkloadEntry/shop/vm 10.1.0.1 sa=default network=n1 host-network name=vm
        WorkloadEntry shop/vm: note: spec.address: 10.1.0.1 is Pod shop/a's too; connections to the bare address are for that one
    "#]]);
}

proptest! {
    // F-21: the same winner in whatever order the objects come, and after any of them went and came back
    #[test]
    fn the_order_does_not_decide(order in Just((0..8usize).collect::<Vec<_>>()).prop_shuffle(), again in prop::collection::vec(0..8usize, 0..6)) {
        let texts = [
            pod("shop", "cart", "10.1.0.1", ""),
            pod("shop", "web", "10.1.0.1", ""),
            workload_entry("evil", "vm", "10.1.0.1", ""),
            workload_entry("shop", "vm", "10.5.0.1", BORN_2020),
            workload_entry("evil", "vm2", "10.5.0.1", BORN_2024),
            service_entry("evil", "inline", "endpoints: [{address: 10.5.0.1}, {address: 10.1.0.1}]"),
            service_entry("shop", "vip", "addresses: [10.1.0.1, 10.96.0.1]"),
            "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: wp}\nspec: {clusterIP: 10.96.0.1}\n---\n".to_owned(),
        ];
        let mut anew = translation();
        anew.apply(events(&texts.concat()));
        let mut shuffled = translation();
        for index in order {
            shuffled.apply(events(&texts[index]));
        }
        for index in again {
            let key = match events(&texts[index]).remove(0) {
                Event::Applied(object) => object.key(),
                Event::Deleted(key) => key,
            };
            shuffled.apply([Event::Deleted(key)]);
            shuffled.apply(events(&texts[index]));
        }
        prop_assert_eq!(printed(&shuffled), printed(&anew));
    }
}
