//! spec/controlplane.md 4.2 to 4.8.

use expect_test::expect;

use super::{check, pod};

/// The worked example of 4.2, byte for byte in our terms.
const EXAMPLE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}
---
apiVersion: v1
kind: Pod
metadata:
  namespace: shop
  name: cart-7d9c5-abcde
  generateName: cart-7d9c5-
  labels: {app: cart, pod-template-hash: 7d9c5, version: v2}
  annotations: {ambient.istio.io/redirection: enabled}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: cart-7d9c5, uid: u, controller: true}]
spec:
  serviceAccountName: cart-sa
  nodeName: n1
  containers: [{name: c, ports: [{name: web, containerPort: 8080, protocol: TCP}]}]
status:
  phase: Running
  conditions: [{type: Ready, status: "True"}]
  podIPs: [{ip: 10.1.0.9}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: cart}
spec:
  clusterIP: 10.96.0.7
  ipFamilies: [IPv4]
  selector: {app: cart}
  ports:
  - {name: http, port: 80, targetPort: web}
  - {name: tcp-admin, port: 9000, targetPort: 9001}
  - {name: dns, port: 53, targetPort: 53, protocol: UDP}
"#;

#[test]
fn the_worked_example_of_the_contract() {
    check(EXAMPLE, expect![[r#"
        service shop/cart.shop.svc.cluster.local vips(/10.96.0.7) 53->53:? 80->0:Http11 9000->9001:Tcp V4Only canonical
        workload Kubernetes//Pod/shop/cart-7d9c5-abcde 10.1.0.9 sa=cart-sa node=n1 HBONE locality=r/z/ name=cart canonical=cart:v2 [shop/cart.shop.svc.cluster.local 53->53 80->8080 9000->9001]
    "#]]);
}

// pitfall 7: only the agent's report of success makes a workload reachable by HBONE
#[test]
fn a_wish_to_be_enrolled_is_no_tunnel() {
    let with = |labels: &str, annotations: &str| {
        pod("shop", "web", "10.1.0.1", labels).replace("uid: uid-web,", &format!("uid: uid-web, annotations: {{{annotations}}},"))
    };
    check(&with("istio.io/dataplane-mode: ambient", ""), expect![[r#"
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 name=web
    "#]]);
    check(&with("", "ambient.istio.io/redirection: pending"), expect![[r#"
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 name=web
    "#]]);
    check(&with("", "ambient.istio.io/redirection: enabled"), expect![[r#"
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 HBONE name=web
    "#]]);
    check(&with("networking.istio.io/tunnel: \"foo,http\"", ""), expect![[r#"
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 HBONE native name=web
    "#]]);
    check(&with("networking.istio.io/tunnel: http2", ""), expect![[r#"
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 name=web
    "#]]);
    check(&with("networking.istio.io/tunnel: http", "ambient.istio.io/redirection: enabled"), expect![[r#"
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 HBONE native name=web
    "#]]);
}

// pitfall 8
#[test]
fn pods_that_can_send_are_published_and_others_are_not() {
    let with = |status: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: p}}\nspec: {{hostNetwork: true, nodeName: n9}}\n{status}");
    check(&with("status: {phase: Pending, podIP: 10.0.0.1}"), expect![[r#"
        workload Kubernetes//Pod/shop/p 10.0.0.1 sa=default node=n9 host-network UNHEALTHY name=p
    "#]]);
    check(&with("status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}], conditions: [{type: Ready, status: \"False\"}]}"), expect![[r#"
        workload Kubernetes//Pod/shop/p 10.0.0.1,fd00::1 sa=default node=n9 host-network UNHEALTHY name=p
    "#]]);
    check(&with("status: {phase: Succeeded, podIP: 10.0.0.1}"), expect![[r#"
        Pod shop/p: note: is not published: its phase is Succeeded
    "#]]);
    check(&with("status: {phase: Failed, podIP: 10.0.0.1}"), expect![[r#"
        Pod shop/p: note: is not published: its phase is Failed
    "#]]);
    check(&with("status: {phase: Running}"), expect![[r#"
        Pod shop/p: note: is not published: its status has no IP yet
    "#]]);
    check(&with("status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: oops}]}"), expect![[r#"
        Pod shop/p: note: is not published: "oops" in status.podIPs is not an IP address
    "#]]);
    check(&with(""), expect![[r#"
        Pod shop/p: note: is not published: it has no status yet, so its addresses are not known
    "#]]);
}

#[test]
fn a_pod_that_ends_is_unhealthy_but_there() {
    let ending = pod("shop", "web", "10.1.0.1", "").replace("uid: uid-web,", "uid: uid-web, deletionTimestamp: \"2026-01-01T00:00:00Z\",");
    check(&ending, expect![[r#"
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 UNHEALTHY name=web
    "#]]);
}

// row 29 of the integration checklist: the labels of both ends come from here
#[test]
fn names_for_telemetry_come_from_labels_and_owners() {
    let with = |name: &str, labels: &str, owner: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: {name}, generateName: x-, labels: {{{labels}}}, ownerReferences: [{owner}]}}\nstatus: {{phase: Running, podIP: 10.0.0.1}}"
        )
    };
    let owner = |kind: &str, name: &str| format!("{{apiVersion: v1, kind: {kind}, name: {name}, uid: u, controller: true}}");
    check(&with("a", "service.istio.io/workload-name: told, service.istio.io/canonical-name: cn, app.kubernetes.io/version: v3", ""), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.0.0.1 sa=default UNHEALTHY name=told canonical=cn:v3
    "#]]);
    check(&with("a", "pod-template-hash: ab12", &owner("ReplicaSet", "web-ab12")), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.0.0.1 sa=default UNHEALTHY name=web
    "#]]);
    check(&with("a", "rollouts-pod-template-hash: ab12", &owner("ReplicaSet", "web-ab12")), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.0.0.1 sa=default UNHEALTHY name=web
    "#]]);
    check(&with("a", "pod-template-hash: zz", &owner("ReplicaSet", "web-ab12")), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.0.0.1 sa=default UNHEALTHY name=web-ab12
    "#]]);
    check(&with("a", "deploymentconfig: dc", &owner("ReplicationController", "dc-1")), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.0.0.1 sa=default UNHEALTHY name=dc
    "#]]);
    check(&with("a", "", &owner("Job", "backup-28913450")), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.0.0.1 sa=default UNHEALTHY name=backup
    "#]]);
    check(&with("a", "", &owner("Job", "backup-2891345")), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.0.0.1 sa=default UNHEALTHY name=backup-2891345
    "#]]);
    check(&with("a", "", &owner("StatefulSet", "db")), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.0.0.1 sa=default UNHEALTHY name=db
    "#]]);
    check(&with("a", "", "{apiVersion: v1, kind: ReplicaSet, name: not-controller, uid: u}"), expect![[r#"
        workload Kubernetes//Pod/shop/a 10.0.0.1 sa=default UNHEALTHY name=a
    "#]]);
}

// pitfall 9: a named port that the pod lacks is left out; membership stays
#[test]
fn ports_of_services_on_pods() {
    let service = |name: &str, ports: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{selector: {{app: web}}, clusterIP: None, ports: {ports}}}\n---\n")
    };
    let yaml = [
        pod("shop", "web", "10.1.0.1", "app: web"),
        service("a-named", "[{name: http, port: 80, targetPort: web}]"),
        service("b-missing", "[{name: http, port: 80, targetPort: other}]"),
        service("c-both", "[{name: tcp, port: 53, targetPort: 1053}, {name: udp, port: 53, targetPort: 2053, protocol: UDP}]"),
        service("d-no-target", "[{port: 7000}]"),
        "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: e-empty-selector}\nspec: {selector: {}, ports: [{port: 1}]}\n---\n".into(),
        "apiVersion: v1\nkind: Service\nmetadata: {namespace: other, name: f-other-namespace}\nspec: {selector: {app: web}, ports: [{port: 1}]}\n".into(),
    ];
    check(&yaml.concat(), expect![[r#"
        service other/f-other-namespace.other.svc.cluster.local vips() 1->1:? canonical
        service shop/a-named.shop.svc.cluster.local vips() 80->0:Http11 canonical
        service shop/b-missing.shop.svc.cluster.local vips() 80->0:Http11 canonical
        service shop/c-both.shop.svc.cluster.local vips() 53->1053:Tcp canonical
        service shop/d-no-target.shop.svc.cluster.local vips() 7000->7000:? canonical
        service shop/e-empty-selector.shop.svc.cluster.local vips() 1->1:? canonical
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 name=web [shop/a-named.shop.svc.cluster.local 80->8080] [shop/b-missing.shop.svc.cluster.local ] [shop/c-both.shop.svc.cluster.local 53->1053] [shop/d-no-target.shop.svc.cluster.local 7000->7000]
    "#]]);
}

#[test]
fn a_native_sidecar_owns_named_ports_and_an_init_container_does_not() {
    let yaml = |policy: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: p, labels: {{app: web}}}}\n\
             spec: {{containers: [], initContainers: [{{name: i, {policy} ports: [{{name: web, containerPort: 9}}, {{name: udp, containerPort: 8, protocol: UDP}}]}}]}}\n\
             status: {{phase: Running, podIP: 10.0.0.1}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: web}}\nspec: {{selector: {{app: web}}, ports: [{{name: a, port: 80, targetPort: web}}, {{name: b, port: 81, targetPort: udp}}]}}"
        )
    };
    check(&yaml("restartPolicy: Always,"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() 80->0:? 81->0:? canonical
        workload Kubernetes//Pod/shop/p 10.0.0.1 sa=default UNHEALTHY name=p canonical=web:latest [shop/web.shop.svc.cluster.local 80->9]
    "#]]);
    check(&yaml(""), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() 80->0:? 81->0:? canonical
        workload Kubernetes//Pod/shop/p 10.0.0.1 sa=default UNHEALTHY name=p canonical=web:latest [shop/web.shop.svc.cluster.local ]
    "#]]);
}

/// 4.5, third source: a slice must name the pod with namespace, name and uid.
#[test]
fn slices_join_pods_to_services_without_a_selector() {
    let yaml = |target: &str| {
        format!(
            "{}apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: db}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{name: pg, port: 5432, targetPort: 1}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: shop, name: db-1, labels: {{kubernetes.io/service-name: db}}}}\n\
             addressType: IPv4\nports: [{{name: pg, port: 15432}}]\nendpoints: [{{addresses: [10.1.0.1], targetRef: {target}}}]",
            pod("shop", "web", "10.1.0.1", "")
        )
    };
    check(&yaml("{kind: Pod, namespace: shop, name: web, uid: uid-web}"), expect![[r#"
        service shop/db.shop.svc.cluster.local vips(/10.96.0.1) 5432->1:? canonical
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 name=web [shop/db.shop.svc.cluster.local 5432->15432]
    "#]]);
    check(&yaml("{kind: Pod, namespace: shop, name: web, uid: older}"), expect![[r#"
        service shop/db.shop.svc.cluster.local vips(/10.96.0.1) 5432->1:? canonical
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 name=web
    "#]]);
    check(&yaml("{kind: Pod, namespace: shop, name: web}"), expect![[r#"
        service shop/db.shop.svc.cluster.local vips(/10.96.0.1) 5432->1:? canonical
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 name=web
    "#]]);
}

/// 4.8.1.
#[test]
fn addresses_of_slices_that_are_no_pods_are_workloads() {
    check(
        r#"
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: legacy}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: other, port: 81}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: legacy-b, labels: {kubernetes.io/service-name: legacy}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: udp, port: 1, protocol: UDP}, {port: 5}, {name: nameless-number}]
endpoints:
- {addresses: [192.168.0.1]}
- {addresses: [192.168.0.2], conditions: {ready: false}}
- {addresses: [192.168.0.3, "fd00::3"], targetRef: {kind: Node, name: n}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: legacy-a, labels: {kubernetes.io/service-name: legacy}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [192.168.0.1]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: names, labels: {kubernetes.io/service-name: legacy}}
addressType: FQDN
endpoints: [{addresses: [example.com]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: nobody, labels: {kubernetes.io/service-name: missing}}
addressType: IPv4
endpoints: [{addresses: [192.168.0.9]}]
"#,
        expect![[r#"
            service shop/legacy.shop.svc.cluster.local vips(/10.96.0.1) 80->80:Http11 81->81:? canonical
            workload Kubernetes/discovery.k8s.io/EndpointSlice/shop/legacy-a/192.168.0.1 192.168.0.1 sa=default host-network canonical=: [shop/legacy.shop.svc.cluster.local 80->8080]
            workload Kubernetes/discovery.k8s.io/EndpointSlice/shop/legacy-b/192.168.0.2 192.168.0.2 sa=default host-network UNHEALTHY canonical=: [shop/legacy.shop.svc.cluster.local 80->8080]
            workload Kubernetes/discovery.k8s.io/EndpointSlice/shop/legacy-b/192.168.0.3 192.168.0.3,fd00::3 sa=default host-network canonical=: [shop/legacy.shop.svc.cluster.local 80->8080]
        "#]],
    );
}

/// 4.7.
#[test]
fn workload_entries() {
    check(
        r#"
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {namespace: shop, name: vm, labels: {app: vm, networking.istio.io/tunnel: http}, annotations: {istio.io/autoRegistrationGroup: group}}
spec:
  address: 192.168.1.1
  labels: {app: overlaid, version: v9}
  network: n2
  locality: r1/z1/s1
  weight: 7
  serviceAccount: vm-sa
  ports: {http: 8080, admin: 9999}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {namespace: shop, name: named}
spec: {address: db.example.com, locality: r1}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {namespace: shop, name: socket}
spec: {address: "unix:///run/x"}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: vm}
spec: {selector: {app: vm}, ports: [{name: http, port: 80, targetPort: 1234}, {name: x, port: 81, targetPort: admin}, {name: y, port: 82, targetPort: missing}, {name: z, port: 83}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: shop, name: se}
spec: {hosts: [vm.example.com], addresses: [10.9.9.9], resolution: STATIC, workloadSelector: {labels: {app: vm}}, ports: [{name: http, number: 80, protocol: HTTP}, {name: q, number: 90, targetPort: 91}]}
"#,
        expect![[r#"
            service shop/vm.example.com vips(/10.9.9.9) 80->80:Http11 90->91:? canonical
            service shop/vm.shop.svc.cluster.local vips() 80->1234:Http11 81->0:? 82->0:? 83->83:? canonical
            workload Kubernetes/networking.istio.io/WorkloadEntry/shop/named host=db.example.com sa=default locality=r1// name=named
            workload Kubernetes/networking.istio.io/WorkloadEntry/shop/socket host=unix:///run/x sa=default name=socket
            workload Kubernetes/networking.istio.io/WorkloadEntry/shop/vm 192.168.1.1 sa=vm-sa network=n2 HBONE native capacity=7 locality=r1/z1/s1 name=group canonical=vm:v9 [shop/vm.example.com 80->8080 90->91] [shop/vm.shop.svc.cluster.local 80->8080 81->9999 83->83]
            WorkloadEntry shop/socket: note: spec.address: a node daemon cannot reach a unix socket
        "#]],
    );
}

/// 4.8: inline endpoints belong to all hosts; the name, labels and policies are the entry's; networks do not leak from one
/// endpoint to the next.
#[test]
fn endpoints_of_service_entries() {
    check(
        r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: shop, name: ext, labels: {app: ext}}
spec:
  hosts: [a.example.com, b.example.com]
  addresses: [10.9.0.1]
  resolution: STATIC
  ports: [{name: http, number: 80, protocol: HTTP, targetPort: 8080}]
  endpoints:
  - {address: 192.168.2.1, network: far, weight: 3, serviceAccount: ext-sa, locality: r/z}
  - {address: 192.168.2.2, ports: {http: 81}}
  - {address: 192.168.2.2, ports: {http: 82}}
"#,
        expect![[r#"
            service shop/a.example.com vips(/10.9.0.1) 80->8080:Http11 canonical
            service shop/b.example.com vips(/10.9.0.1) 80->8080:Http11 canonical
            workload Kubernetes/networking.istio.io/ServiceEntry/shop/ext/192.168.2.1 192.168.2.1 sa=ext-sa network=far capacity=3 locality=r/z/ name=ext [shop/a.example.com 80->8080] [shop/b.example.com 80->8080]
            workload Kubernetes/networking.istio.io/ServiceEntry/shop/ext/192.168.2.2 192.168.2.2 sa=default name=ext [shop/a.example.com 80->81] [shop/b.example.com 80->81]
            ServiceEntry shop/ext: note: spec.endpoints[2] is not published: an endpoint before it has the same address "192.168.2.2"
        "#]],
    );
}

#[test]
fn a_name_that_dns_answers_is_one_workload_per_host() {
    let entry = |resolution: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: shop, name: ext}}\n\
             spec: {{hosts: [a.example.com, b.example.com], addresses: [10.9.0.1], resolution: {resolution}, ports: [{{name: https, number: 443, protocol: HTTPS}}]}}"
        )
    };
    check(&entry("DNS"), expect![[r#"
        service shop/a.example.com vips(/10.9.0.1) 443->443:Tls canonical
        service shop/b.example.com vips(/10.9.0.1) 443->443:Tls canonical
        workload Kubernetes/networking.istio.io/ServiceEntry/shop/ext/a.example.com host=a.example.com sa=default name=ext [shop/a.example.com 443->443]
        workload Kubernetes/networking.istio.io/ServiceEntry/shop/ext/b.example.com host=b.example.com sa=default name=ext [shop/b.example.com 443->443]
    "#]]);
    check(&entry("STATIC"), expect![[r#"
        service shop/a.example.com vips(/10.9.0.1) 443->443:Tls canonical
        service shop/b.example.com vips(/10.9.0.1) 443->443:Tls canonical
    "#]]);
    check(&entry("NONE"), expect![[r#"
        service shop/a.example.com vips(/10.9.0.1) 443->443:Tls canonical Passthrough[] allow-all
        service shop/b.example.com vips(/10.9.0.1) 443->443:Tls canonical Passthrough[] allow-all
    "#]]);
}

/// 4.5, second source: the container's port of the same name wins.
#[test]
fn service_entries_select_pods() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {namespace: shop, name: se}\n\
        spec: {hosts: [web.example.com], addresses: [10.9.0.1], resolution: STATIC, workloadSelector: {labels: {app: web}}, endpoints: [{address: 1.2.3.4}],\n\
        ports: [{name: web, number: 80, targetPort: 1}, {name: b, number: 81, targetPort: 2}, {name: c, number: 82}]}";
    check(&[pod("shop", "web", "10.1.0.1", "app: web"), entry.into()].concat(), expect![[r#"
        service shop/web.example.com vips(/10.9.0.1) 80->1:? 81->2:? 82->82:? canonical
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 name=web [shop/web.example.com 80->8080 81->2 82->82]
        ServiceEntry shop/se: note: spec.endpoints is not used: spec.workloadSelector is given
    "#]]);
}

/// 8.2: the label of the system namespace is the network of everything.
#[test]
fn the_network_is_a_label_of_the_system_namespace() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system, labels: {topology.istio.io/network: net1}}\n---\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: s}\nspec: {clusterIP: 10.96.0.1}\n";
    check(&[pod("shop", "web", "10.1.0.1", ""), namespace.into(), service.into()].concat(), expect![[r#"
        service shop/s.shop.svc.cluster.local vips(net1/10.96.0.1) canonical
        workload Kubernetes//Pod/shop/web 10.1.0.1 sa=web-sa node=n1 network=net1 name=web
    "#]]);
}
