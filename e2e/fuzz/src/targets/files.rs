//! YAML that others write: Kubernetes objects for the controller, the daemon's local file, the agent's pod files.

use std::path::Path;

use istiod_lite::cluster::Event;
use istiod_lite::objects::read;
use istiod_lite::translate::{Settings, Translation};
use mesh_cni::podfile;
use mesh_cni::pod::{Wanted, wanted};
use mesh_cni::redirect::{Capture, Marks, ruleset};
use mesh_model::change::Change;
use mesh_model::directory::Directory;
use mesh_xds::wire::{decode_policy, encode_policy, encode_service, encode_workload, decode_address};
use ztunnel::localfile::LocalFile;

use crate::{Target, saw, saw_text};

fn texts(of: &[&str]) -> Vec<Vec<u8>> {
    of.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// At most: in YAML a carriage return ends a line too (YAML 1.2.2, 5.4).
fn lines(text: &str) -> usize {
    text.split(['\n', '\r']).count()
}

pub const OBJECTS: Target = Target {
    name: "kubernetes_objects",
    check: |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let lines = lines(text);
        let mut events = Vec::new();
        for document in read::documents(text) {
            assert!(document.line <= lines);
            match read::document(document) {
                Ok(contents) => {
                    saw((contents.objects.len().min(4), contents.foreign.len().min(2)));
                    for one in contents.objects {
                        saw((one.object.kind() as u8, one.unknown_fields.len().min(2)));
                        events.push(Event::Applied(one.object));
                    }
                }
                Err(fault) => {
                    assert!((1..=lines).contains(&fault.line), "{fault} in a text of {lines} lines");
                    saw_text(&fault.what);
                }
            }
        }
        let mut translation = Translation::new(Settings { sends_dry_run: true, ..Settings::default() }, "default");
        translation.apply(events);
        for derived in translation.derived() {
            // Whatever a user wrote, nodes can read what they are told of it, as it was meant.
            for workload in &derived.workloads {
                let sent = decode_address(encode_workload(workload)).expect("a node can read it");
                assert_eq!(sent, Change::Workload(workload.clone()));
            }
            for service in &derived.services {
                let sent = decode_address(encode_service(service)).expect("a node can read it");
                assert_eq!(sent, Change::Service(service.clone()));
            }
            for policy in &derived.policies {
                let sent = decode_policy(&policy.key().to_string(), encode_policy(policy)).expect("a node can read it");
                assert_eq!(sent, **policy);
            }
            saw((derived.workloads.len().min(3), derived.services.len().min(3), derived.policies.len().min(3)));
        }
    },
    seeds: || {
        texts(&[
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, uid: u1, labels: {app: web}}\nspec: {nodeName: n1, serviceAccountName: web, containers: [{name: c, ports: [{containerPort: 8080, name: http}]}]}\nstatus: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: 'True'}]}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n",
            "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], selector: {app: web}, ports: [{port: 80, targetPort: http}]}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: [10.0.0.7]}]\nports: [{port: 8080}]\n",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  selector: {matchLabels: {app: web}}\n  action: DENY\n  rules:\n  - from: [{source: {principals: ['td/ns/a/sa/b', '*'], notIpBlocks: [10.0.0.0/8], namespaces: [x*]}}]\n    to: [{operation: {ports: ['80'], methods: [GET]}}]\n    when: [{key: source.ip, values: [1.2.3.4]}]\n",
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: d, namespace: shop}\nspec: {mtls: {mode: STRICT}, selector: {matchLabels: {app: web}}, portLevelMtls: {80: {mode: DISABLE}}}\n",
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, namespace: shop}\nspec: {hosts: [db.test, '*.x.test'], addresses: [10.1.0.0/16], ports: [{number: 80, name: h, protocol: TCP}], resolution: STATIC, endpoints: [{address: 10.0.0.8, network: far, weight: 3}]}\n",
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, namespace: shop}\nspec: {address: 10.0.0.9, serviceAccount: vm, labels: {app: web}}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp, namespace: shop}\nspec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\nstatus: {addresses: [{value: 10.0.0.10, type: IPAddress}]}\n",
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: z}}}]\n",
        ])
    },
    words: &[
        "apiVersion: v1\n", "kind: Pod\n", "kind: Service\n", "kind: AuthorizationPolicy\n", "metadata: {name: a}\n", "spec:", "---\n", "...\n", "[", "]", "{", "}", "- ", ": ", "&a ",
        "*a", "!!binary ", "null", "~", "'", "\"", "|\n", ">\n", "? ", "<<: ", "10.0.0.1", "65536", "-1", "1e9", "\t",
    ],
};

pub const LOCAL: Target = Target {
    name: "local_file",
    check: |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let file = match LocalFile::parse("mesh.yaml", text) {
            Ok(file) => file,
            Err(error) => {
                let lines = lines(text);
                assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{error} in a text of {lines} lines");
                assert!(error.to_string().starts_with("mesh.yaml"), "{error}");
                return saw_text(&error.why);
            }
        };
        saw((file.workloads.len().min(3), file.services.len().min(3), file.policies.len().min(3)));
        let mut directory = Directory::new();
        for change in file.changes() {
            directory.apply(change);
        }
        assert_eq!((directory.workload_count(), directory.service_count()), (file.workloads.len(), file.services.len()));
        // Taken away again, nothing is left.
        for change in file.gone_in(&LocalFile::default()) {
            directory.apply(change);
        }
        assert_eq!((directory.workload_count(), directory.service_count()), (0, 0));
    },
    seeds: || {
        texts(&[
            "workloads:\n- name: web\n  namespace: shop\n  uid: u\n  workloadIps: [10.0.0.1, 'fd00::1']\n  protocol: HBONE\n  services: {\"shop/web.shop.svc\": {80: 8080}}\n  waypoint: {destination: /10.0.0.9, hboneMtlsPort: 15008}\n  authorizationPolicies: [shop/p]\nservices:\n- {name: web, namespace: shop, hostname: web.shop.svc, vips: [/10.96.0.1], ports: {80: 8080}, loadBalancer: {routingPreferences: [Zone], mode: Failover, healthPolicy: AllowAll}}\n",
            "policies:\n- {name: p, namespace: shop, scope: WorkloadSelector, action: Deny, dry_run: false, rules: [[[{principals: [{Exact: a}], sourceIps: [10.0.0.0/8], destinationPorts: [80], notNamespaces: [{Prefix: x}, {Presence: null}]}]]]}\n",
        ])
    },
    words: &["workloads:\n", "services:\n", "policies:\n", "- ", "{", "}", "[", "]", ": ", "name: ", "namespace: ", "uid: u", "workloadIps: [", "&a ", "*a", "\n", "  "],
};

pub const POD: Target = Target {
    name: "pod_file",
    check: |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        for name in ["a.yaml", "a.json"] {
            let pod = match podfile::parse(Path::new(name), text) {
                Ok(pod) => pod,
                Err(why) => {
                    assert!(why.starts_with(name), "{why}");
                    saw_text(&why);
                    continue;
                }
            };
            match wanted(&pod, true) {
                Ok(Wanted::NotEnrolled) => saw("not enrolled"),
                Ok(Wanted::Enrolled(scope)) => {
                    saw((scope.dns, scope.inbound, scope.virtual_interfaces.len().min(2), scope.exclude_inbound.len().min(2)));
                    assert!(scope.virtual_interfaces.iter().all(|name| podfile::interface_name(name)), "{scope:?}");
                    assert!(scope.exclude_inbound.iter().chain(&scope.exclude_outbound).all(|ports| ports.first <= ports.last));
                    // What a user wrote into an annotation becomes part of no rule but as a number or a name of an interface.
                    let capture = Capture { marks: Marks { own: 7, fixed_too: false }, scope, probes: true, older: None, apart: true };
                    assert!(ruleset(&capture).bytes().all(|byte| matches!(byte, b'\n' | b'\t' | b' '..=b'~')));
                }
                Err(why) => saw_text(&why),
            }
        }
    },
    seeds: || texts(&["uid: u1\nname: web\nnamespace: shop\nserviceAccount: web\nnetns: /run/netns/a\nips: [10.0.0.1]\nannotations: {ambient.istio.io/dns-capture: 'false', istio.io/reroute-virtual-interfaces: 'net1,net2', traffic.sidecar.istio.io/excludeOutboundPorts: '80,90-99'}\n"]),
    words: &["uid: ", "name: ", "namespace: ", "netns: ", "annotations:\n", "  traffic.sidecar.istio.io/excludeInboundPorts: '80,1-'\n", "\n", "{", "}", "\"", ":", ","],
};

