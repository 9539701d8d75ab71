//! Rows of the integration checklist (spec/controlplane.md 11) as far as the controller decides them: what a node daemon is
//! told in each of their settings. What becomes of it on the wire is shown in namespaces and on a cluster.
//!
//! Rows with their test elsewhere: 12 and 25 (`policy.rs`, `scope.rs`), 29 (`workload.rs`). Decided by node daemons and
//! agents alone: 20, 30, 31, 33, 52, 60 to 63.

use expect_test::expect;

use super::{check, events, pod, printed, translated};

fn enrolled(namespace: &str, name: &str, ip: &str, labels: &str) -> String {
    pod(namespace, name, ip, labels).replace(&format!("uid: uid-{name},"), &format!("uid: uid-{name}, annotations: {{ambient.istio.io/redirection: enabled}},"))
}

fn peer(namespace: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}\n---\n")
}

fn entry(spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: shop, name: se}}\nspec: {{hosts: [svc.example], ports: [{{name: http, number: 80, targetPort: 8080, protocol: HTTP}}], {spec}}}\n---\n")
}

fn workload_entry(address: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{namespace: shop, name: vm, labels: {{app: vm}}}}\nspec: {{address: {address}}}\n---\n")
}

/// Only the lines of workloads and policies that some workload lists.
fn enforced(yaml: &[String]) -> String {
    let translation = translated(&yaml.concat());
    let lines = printed(&translation);
    let workloads: Vec<&str> = lines.lines().filter(|line| line.starts_with("workload ")).collect();
    let is_listed = |line: &str| line.split(' ').nth(1).is_some_and(|key| workloads.iter().any(|workload| workload.contains(&format!("({key})"))));
    let policies = lines.lines().filter(|line| line.starts_with("policy ") && is_listed(line));
    workloads.iter().copied().chain(policies).map(|line| format!("{line}\n")).collect()
}

// row 11: permissive; strict; strict but for a port; the mesh strict but for a workload's port; one strict port of a
// permissive mesh
#[test]
fn peer_authentication() {
    let app = "selector: {matchLabels: {app: a}}, ";
    let a = || enrolled("shop", "a", "10.1.0.1", "app: a");
    expect![[r#"
        workload Kubernetes//Pod/shop/a 10.1.0.1 sa=a-sa node=n1 HBONE name=a
    "#]].assert_eq(&enforced(&[peer("shop", "pa", "mtls: {mode: PERMISSIVE}"), a()]));
    expect![[r#"
        workload Kubernetes//Pod/shop/a 10.1.0.1 sa=a-sa node=n1 HBONE name=a policies(istio-system/istio_converted_static_strict)
        policy istio-system/istio_converted_static_strict WorkloadSelector Deny {(!principal[any])}
    "#]].assert_eq(&enforced(&[peer("shop", "pa", "mtls: {mode: STRICT}"), a()]));
    expect![[r#"
        workload Kubernetes//Pod/shop/a 10.1.0.1 sa=a-sa node=n1 HBONE name=a policies(shop/converted_peer_authentication_pa)
        policy shop/converted_peer_authentication_pa WorkloadSelector Deny {(!principal[any]) & (!port[8080])}
    "#]].assert_eq(&enforced(&[peer("shop", "pa", &format!("{app}mtls: {{mode: STRICT}}, portLevelMtls: {{8080: {{mode: PERMISSIVE}}}}")), a()]));
    expect![[r#"
        workload Kubernetes//Pod/shop/a 10.1.0.1 sa=a-sa node=n1 HBONE name=a policies(shop/converted_peer_authentication_pa)
        policy shop/converted_peer_authentication_pa WorkloadSelector Deny {(!principal[any]) & (!port[8080])}
    "#]].assert_eq(&enforced(&[peer("istio-system", "mesh", "mtls: {mode: STRICT}"), peer("shop", "pa", &format!("{app}portLevelMtls: {{8080: {{mode: PERMISSIVE}}}}")), a()]));
    expect![[r#"
        workload Kubernetes//Pod/shop/a 10.1.0.1 sa=a-sa node=n1 HBONE name=a policies(shop/converted_peer_authentication_pa)
        policy shop/converted_peer_authentication_pa WorkloadSelector Deny {(!principal[any] port[8080])}
    "#]].assert_eq(&enforced(&[peer("istio-system", "mesh", "mtls: {mode: PERMISSIVE}"), peer("shop", "pa", &format!("{app}portLevelMtls: {{8080: {{mode: STRICT}}}}")), a()]));
}

// row 21: endpoints within the entry, inside and outside of the mesh
#[test]
fn a_service_entry_with_endpoints_of_its_own() {
    for location in ["MESH_INTERNAL", "MESH_EXTERNAL"] {
        let entry = entry(&format!("resolution: STATIC, location: {location}, addresses: [10.9.0.1], endpoints: [{{address: 10.1.0.1}}]"));
        check(&[enrolled("shop", "a", "10.1.0.1", "app: a"), entry].concat(), expect![[r#"
            service shop/svc.example vips(/10.9.0.1) 80->8080:Http11 canonical
            workload Kubernetes//Pod/shop/a 10.1.0.1 sa=a-sa node=n1 HBONE name=a
            workload Kubernetes/networking.istio.io/ServiceEntry/shop/se/10.1.0.1 10.1.0.1 sa=default host-network name=se [shop/svc.example 80->8080]
            ServiceEntry shop/se: note: spec.endpoints[0].address: 10.1.0.1 is Pod shop/a's too; connections to the bare address are for that one
            ServiceEntry shop/se: note: spec.location has no effect: whether an endpoint is in the mesh is told by the endpoint
        "#]]);
    }
}

// row 22: entries that select a WorkloadEntry with an address, by STATIC and DNS, and one with a name
#[test]
fn a_service_entry_that_selects_workload_entries() {
    let selecting = |resolution: &str, location: &str| entry(&format!("resolution: {resolution}, location: {location}, addresses: [10.9.0.1], workloadSelector: {{labels: {{app: vm}}}}"));
    for (resolution, location) in [("STATIC", "MESH_INTERNAL"), ("STATIC", "MESH_EXTERNAL"), ("DNS", "MESH_EXTERNAL")] {
        check(&[selecting(resolution, location), workload_entry("192.168.1.1")].concat(), expect![[r#"
            service shop/svc.example vips(/10.9.0.1) 80->8080:Http11 canonical
            workload Kubernetes/networking.istio.io/WorkloadEntry/shop/vm 192.168.1.1 sa=default name=vm [shop/svc.example 80->8080]
            ServiceEntry shop/se: note: spec.location has no effect: whether an endpoint is in the mesh is told by the endpoint
        "#]]);
    }
    check(&[selecting("DNS", "MESH_EXTERNAL"), workload_entry("vm.example")].concat(), expect![[r#"
        service shop/svc.example vips(/10.9.0.1) 80->8080:Http11 canonical
        workload Kubernetes/networking.istio.io/WorkloadEntry/shop/vm host=vm.example sa=default name=vm [shop/svc.example 80->8080]
        ServiceEntry shop/se: note: spec.location has no effect: whether an endpoint is in the mesh is told by the endpoint
    "#]]);
}

// row 23: a pod that is not in the mesh is an endpoint, and is reached in the clear
#[test]
fn a_service_entry_that_selects_a_pod_outside_of_the_mesh() {
    let entry = entry("resolution: STATIC, location: MESH_INTERNAL, addresses: [10.9.0.1], workloadSelector: {labels: {app: a}}");
    check(&[pod("shop", "a", "10.1.0.1", "app: a"), entry].concat(), expect![[r#"
        service shop/svc.example vips(/10.9.0.1) 80->8080:Http11 canonical
        workload Kubernetes//Pod/shop/a 10.1.0.1 sa=a-sa node=n1 name=a [shop/svc.example 80->8080]
        ServiceEntry shop/se: note: spec.location has no effect: whether an endpoint is in the mesh is told by the endpoint
    "#]]);
}

// row 24: a host of a name alone gets an address that the DNS proxy can answer with
#[test]
fn a_service_entry_by_dns_gets_an_address() {
    check(&entry("resolution: DNS, location: MESH_EXTERNAL, endpoints: [{address: other.example}]"), expect![[r#"
        service shop/svc.example vips(/240.240.63.230 /2001:2::77eb:1107) 80->8080:Http11 canonical
        workload Kubernetes/networking.istio.io/ServiceEntry/shop/se/other.example host=other.example sa=default name=se [shop/svc.example 80->8080]
        ServiceEntry shop/se: note: spec.location has no effect: whether an endpoint is in the mesh is told by the endpoint
    "#]]);
}

// rows 32 and 34: a destination that restarts, a pod that is enrolled and released while it runs; each change is told of
// that pod alone, and between two states there is none in which its service has lost the others
#[test]
fn a_pod_that_comes_and_goes_changes_nothing_else() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: s}\nspec: {clusterIP: 10.96.0.1, selector: {app: a}, ports: [{name: http, port: 80, targetPort: 8080}]}\n---\n";
    let plain = || pod("shop", "a", "10.1.0.1", "app: a");
    let mut translation = translated(&[enrolled("shop", "a", "10.1.0.1", "app: a"), enrolled("shop", "b", "10.1.0.2", "app: a"), service.into()].concat());
    let unready = enrolled("shop", "a", "10.1.0.1", "app: a").replace("status: \"True\"", "status: \"False\"");
    let steps = [(unready, "UNHEALTHY", true), (enrolled("shop", "a", "10.1.0.9", "app: a"), "10.1.0.9", true), (plain(), "10.1.0.1", false), (enrolled("shop", "a", "10.1.0.1", "app: a"), "10.1.0.1", true)];
    for (yaml, shows, is_tunnelled) in steps {
        let changes = translation.apply(events(&yaml));
        let told: Vec<String> = changes.workloads.iter().map(|(uid, workload)| workload.as_ref().map_or(format!("{uid} is gone"), |workload| super::print_workload(workload))).collect();
        let [told] = told.as_slice() else { panic!("{told:?}") };
        assert!(told.contains("Pod/shop/a ") && told.contains(shows) && told.contains(" HBONE") == is_tunnelled && told.contains("[shop/s."), "{told}");
        assert!(changes.services.is_empty() && changes.policies.is_empty());
    }
}

// row 37: the node daemon's own pod is told like any other, so its metrics are reached in a tunnel, by its identity
#[test]
fn the_node_daemons_own_pod_is_reached_in_a_tunnel() {
    let own = enrolled("istio-system", "ztunnel-x", "10.1.0.5", "app: ztunnel").replace("ztunnel-x-sa", "ztunnel");
    check(&own, expect![[r#"
        workload Kubernetes//Pod/istio-system/ztunnel-x 10.1.0.5 sa=ztunnel node=n1 HBONE name=ztunnel-x canonical=ztunnel:latest
    "#]]);
}
