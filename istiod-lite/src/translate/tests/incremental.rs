//! A change costs what it touches, and many changes end where one reading of everything would.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::{events, pod, printed, printed_resources, translation};
use crate::cluster::Event;
use crate::objects::{Object, ObjectKey};
use crate::translate::{Changes, Settings, Translation};

/// Versions of a few objects that hang together in every way there is.
fn versions() -> Vec<Object> {
    let mut texts = vec![
        pod("shop", "cart", "10.1.0.1", "app: cart, team: a"),
        pod("shop", "cart", "10.1.0.1", "app: other"),
        pod("shop", "web", "10.1.0.2", "app: web, team: a, istio.io/use-waypoint: wp"),
        pod("shop", "wp-1", "10.1.0.3", "gateway.networking.k8s.io/gateway-name: wp, app: web"),
        pod("root", "sys", "10.1.0.4", "app: cart"),
    ];
    let mut add = |text: &str| texts.push(text.to_owned());
    for labels in ["", "istio.io/use-waypoint: wp", "istio.io/use-waypoint: none, istio.io/ingress-use-waypoint: \"true\""] {
        add(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}, annotations: {{networking.istio.io/traffic-distribution: PreferClose}}}}"));
    }
    for network in ["", "topology.istio.io/network: n1"] {
        add(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: istio-system, labels: {{{network}}}}}"));
    }
    for zone in ["a", "b"] {
        add(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n1, labels: {{topology.kubernetes.io/zone: {zone}}}}}"));
    }
    for selector in ["selector: {app: cart}", "selector: {app: cart, team: a}", "selector: {}", "selector: {app: web}, type: ExternalName"] {
        add(&format!("apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: s}}\nspec: {{{selector}, clusterIP: 10.96.0.1, ports: [{{name: http, port: 80, targetPort: web}}]}}"));
    }
    for target in ["{kind: Pod, namespace: shop, name: cart, uid: uid-cart}", "{kind: Pod, namespace: shop, name: web, uid: uid-web}", "{kind: Node, name: x}"] {
        for service in ["s", "t"] {
            add(&format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: shop, name: sl, labels: {{kubernetes.io/service-name: {service}}}}}\n\
                 addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [10.1.0.1], targetRef: {target}}}]"
            ));
        }
    }
    for (name, spec) in [
        ("e", "hosts: [x.example, s.shop.svc.cluster.local], addresses: [10.9.0.1], resolution: DNS"),
        ("e", "hosts: [y.example], addresses: [10.9.0.1], resolution: STATIC, workloadSelector: {labels: {app: cart}}"),
        ("f", "hosts: [x.example, y.example], resolution: STATIC, endpoints: [{address: 1.2.3.4, labels: {istio.io/use-waypoint: wp}}]"),
        ("f", "hosts: [x.example], resolution: STATIC, workloadSelector: {labels: {team: a}}, ports: [{name: web, number: 80}]"),
    ] {
        for namespace in ["shop", "other"] {
            add(&format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{app: cart}}}}\nspec: {{{spec}}}"));
        }
    }
    for labels in ["app: cart", "app: web, istio.io/use-waypoint: wp"] {
        add(&format!("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{namespace: shop, name: vm, labels: {{{labels}}}}}\nspec: {{address: 10.3.0.1}}"));
    }
    for (namespace, spec) in [
        ("shop", "selector: {matchLabels: {app: cart}}, rules: [{}]"),
        ("shop", "selector: {matchLabels: {team: a}}, action: DENY, rules: [{}]"),
        ("shop", "selector: {matchLabels: {team: a}}, action: AUDIT"),
        ("shop", "rules: [{}]"),
        ("shop", "targetRefs: [{kind: Service, name: s}]"),
        ("istio-system", "selector: {matchLabels: {app: cart}}, rules: [{}]"),
    ] {
        add(&format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{namespace: {namespace}, name: p}}\nspec: {{{spec}}}"));
    }
    for (namespace, name, spec) in [
        ("istio-system", "mesh", "mtls: {mode: STRICT}"),
        ("istio-system", "mesh", "mtls: {mode: PERMISSIVE}"),
        ("shop", "ns", "mtls: {mode: STRICT}"),
        ("shop", "ns", "mtls: {mode: UNSET}"),
        ("shop", "a-ns", "mtls: {mode: PERMISSIVE}"),
        ("shop", "pa", "selector: {matchLabels: {app: cart}}, portLevelMtls: {80: {mode: PERMISSIVE}}"),
        ("shop", "pa", "selector: {matchLabels: {team: a}}, mtls: {mode: STRICT}"),
        ("shop", "pb", "selector: {matchLabels: {team: a}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: STRICT}}"),
    ] {
        add(&format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}"));
    }
    for (labels, status) in [("", ""), ("", "addresses: [{value: 10.2.0.1}]"), ("istio.io/waypoint-for: all", "addresses: [{type: Hostname, value: wp.shop}]")] {
        add(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{namespace: shop, name: wp, labels: {{{labels}}}}}\nspec: {{gatewayClassName: c}}\nstatus: {{{status}}}"
        ));
    }
    for (name, class, network) in [("gw", "istio-remote", "n1"), ("gw", "istio-remote", "n2"), ("hw", "c", "n2")] {
        add(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{namespace: shop, name: {name}, labels: {{topology.istio.io/network: {network}}}}}\n\
             spec: {{gatewayClassName: {class}, listeners: [{{name: x, port: 15008, protocol: HBONE}}], addresses: [{{value: 203.0.113.1}}]}}"
        ));
    }
    for spec in ["address: 10.1.0.1", "address: 10.3.0.1, network: n2", "address: 10.1.0.2, network: n1"] {
        add(&format!("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{namespace: other, name: vm}}\nspec: {{{spec}}}"));
    }
    add("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {namespace: other, name: g}\nspec: {hosts: [z.example], addresses: [10.1.0.1, 10.96.0.1], resolution: STATIC}");
    for mesh in ["{}", "{discoverySelectors: [{matchLabels: {look: here}}]}", "{serviceEntryVisibility: {defaultVisibility: NAMESPACE, policies: [{visibility: NONE, matchingRules: [{namespaceSelector: {matchLabels: {look: here}}}]}]}}"] {
        add(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{namespace: istio-system, name: istio}}\ndata: {{mesh: '{mesh}'}}"));
    }
    add("apiVersion: v1\nkind: Namespace\nmetadata: {name: other, labels: {look: here}}");
    add("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {look: here, istio.io/use-waypoint: wp}}");
    add("apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: c}\nspec: {controllerName: istio.io/unmanaged-gateway}");
    add("apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: c, labels: {istio.io/waypoint-for: workload}}\nspec: {controllerName: x}");
    texts.extend(for_waypoints());
    let all = texts.iter().flat_map(|text| events(text));
    all.map(|event| match event {
        Event::Applied(object) => object,
        Event::Deleted(key) => panic!("{key} cannot be in a text"),
    })
    .collect()
}

/// A certificate and its key; making one takes longer than a case.
static PAIR: LazyLock<(String, String)> = LazyLock::new(super::material::pair);

/// Versions of what only waypoints look at.
fn for_waypoints() -> Vec<String> {
    let mut texts = Vec::new();
    let mut add = |group: &str, kind: &str, name: &str, spec: &str| texts.push(format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{{name}}}\nspec: {{{spec}}}"));
    let (gateway, networking, security) = ("gateway.networking.k8s.io/v1", "networking.istio.io/v1", "security.istio.io/v1");
    let to = "rules: [{backendRefs: [{name: s, namespace: shop, port: 80}, {group: networking.istio.io, kind: Hostname, name: x.example, port: 80}]}]";
    let service = "parentRefs: [{group: \"\", kind: Service, name: s, namespace: shop}]";
    let port = "parentRefs: [{group: \"\", kind: Service, name: s, namespace: shop, port: 80}]";
    let entry = "parentRefs: [{group: networking.istio.io, kind: ServiceEntry, name: f, namespace: shop}]";
    for (kind, name, parent) in [
        ("HTTPRoute", "namespace: shop, name: r", service),
        ("HTTPRoute", "namespace: shop, name: r", entry),
        ("HTTPRoute", "namespace: other, name: r", port),
        ("GRPCRoute", "namespace: shop, name: g", port),
        ("GRPCRoute", "namespace: shop, name: g", entry),
        ("TCPRoute", "namespace: shop, name: t", service),
    ] {
        add(gateway, kind, name, &format!("{parent}, {to}"));
    }
    for (name, spec) in [
        ("namespace: shop, name: v", "hosts: [s], http: [{route: [{destination: {host: x.example}}]}]"),
        ("namespace: shop, name: v", "hosts: [x.example, y.example], http: [{route: [{destination: {host: s}}]}]"),
        ("namespace: shop, name: v", "hosts: [s], http: [{delegate: {name: part, namespace: other}, match: [{uri: {prefix: /a}}]}, {route: [{destination: {host: x.example}}]}]"),
        ("namespace: other, name: part", "http: [{route: [{destination: {host: y.example}}]}]"),
        ("namespace: other, name: part", "exportTo: [shop], http: [{match: [{uri: {prefix: /a/b}}], route: [{destination: {host: s.shop.svc.cluster.local}}]}]"),
        ("namespace: other, name: v", "hosts: [s.shop.svc.cluster.local], tcp: [{route: [{destination: {host: s.shop.svc.cluster.local}}]}]"),
    ] {
        add(networking, "VirtualService", name, spec);
    }
    for (name, spec) in [
        ("namespace: shop, name: d", "host: s, subsets: [{name: a, labels: {team: a}}]"),
        ("namespace: shop, name: d", "host: \"*.example\", trafficPolicy: {loadBalancer: {simple: RANDOM}}, exportTo: [\".\"]"),
        ("namespace: shop, name: d", "host: s, trafficPolicy: {tls: {mode: MUTUAL, credentialName: client}}"),
        ("namespace: istio-system, name: d", "host: \"*.cluster.local\", trafficPolicy: {tls: {mode: SIMPLE, credentialName: client}}"),
        ("namespace: istio-system, name: d", "host: \"*.cluster.local\", trafficPolicy: {loadBalancer: {simple: RANDOM}}"),
        ("namespace: other, name: d", "host: x.example, subsets: [{name: b, labels: {app: cart}}]"),
    ] {
        add(networking, "DestinationRule", name, spec);
    }
    for target in ["{group: \"\", kind: Service, name: s}", "{group: networking.istio.io, kind: ServiceEntry, name: e}", "{group: gateway.networking.k8s.io, kind: Gateway, name: wp}"] {
        add(security, "RequestAuthentication", "namespace: shop, name: j", &format!("targetRefs: [{target}], jwtRules: [{{issuer: a}}]"));
        add("telemetry.istio.io/v1", "Telemetry", "namespace: shop, name: t", &format!("targetRefs: [{target}], accessLogging: [{{}}]"));
    }
    add("telemetry.istio.io/v1", "Telemetry", "namespace: shop, name: t", "accessLogging: [{disabled: true}]");
    add("telemetry.istio.io/v1", "Telemetry", "namespace: shop, name: a", "accessLogging: [{disabled: false}]");
    add(gateway, "BackendTLSPolicy", "namespace: shop, name: b", "targetRefs: [{group: \"\", kind: Service, name: s}], validation: {hostname: a, wellKnownCACertificates: System}");
    add(gateway, "BackendTLSPolicy", "namespace: shop, name: a", "targetRefs: [{group: \"\", kind: Service, name: s}], validation: {hostname: a}");
    add(gateway, "BackendTLSPolicy", "namespace: shop, name: a", "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: e}], validation: {hostname: a, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}");
    add(gateway, "GatewayClass", "name: c", "controllerName: istio.io/mesh-controller");
    add(gateway, "Gateway", "namespace: other, name: wp", "gatewayClassName: istio-waypoint");
    add(gateway, "Gateway", "namespace: shop, name: wp", "gatewayClassName: istio-waypoint");
    let (certificate, key) = &*PAIR;
    let mut keep = |kind: &str, namespace: &str, name: &str, field: &str, entries: serde_json::Value| {
        texts.push(serde_json::json!({ "apiVersion": "v1", "kind": kind, "metadata": { "namespace": namespace, "name": name }, field: entries }).to_string());
    };
    keep("ConfigMap", "shop", "ca", "data", serde_json::json!({ "ca.crt": certificate }));
    keep("ConfigMap", "shop", "ca", "data", serde_json::json!({ "ca.crt": "junk" }));
    for namespace in ["shop", "other"] {
        keep("Secret", namespace, "client", "stringData", serde_json::json!({ "tls.crt": certificate, "tls.key": key, "ca.crt": certificate }));
    }
    keep("Secret", "shop", "client", "stringData", serde_json::json!({ "tls.crt": certificate, "tls.key": key }));
    texts
}

/// Everything that can hang together does.
fn entangled() -> Translation {
    Translation::new(Settings { sends_dry_run: true, allows_waypoints: true, ..Settings::default() }, "default")
}

/// A mirror that only ever hears of changes.
#[derive(Default)]
struct Mirror {
    lines: BTreeMap<String, String>,
}

impl Mirror {
    fn hear(&mut self, changes: &Changes) {
        let mut set = |key: String, line: Option<String>| match line {
            Some(line) => drop(self.lines.insert(key, line)),
            None => drop(self.lines.remove(&key)),
        };
        for (key, workload) in &changes.workloads {
            set(format!("w {key}"), workload.as_ref().map(|workload| super::print_workload(workload)));
        }
        for (key, service) in &changes.services {
            set(format!("s {key}"), service.as_ref().map(|service| super::print_service(service)));
        }
        for (key, policy) in &changes.policies {
            set(format!("p {key}"), policy.as_ref().map(|policy| super::print_policy(policy)));
        }
        for (key, resource) in &changes.resources {
            set(format!("r {key:?}"), resource.as_ref().map(|resource| super::print_resource(resource)));
        }
    }

    fn printed(&self) -> String {
        let mut lines: Vec<&String> = self.lines.values().collect();
        lines.sort();
        lines.into_iter().map(|line| line.clone() + "\n").collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn changes_end_where_reading_everything_would(steps in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<bool>()), 1..40)) {
        let versions = versions();
        let mut translation = entangled();
        let mut held: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        let mut mirror = Mirror::default();
        let mut batch = Vec::new();
        for (index, kind, flush) in steps {
            let object = versions[index.index(versions.len())].clone();
            if kind == 0 {
                held.remove(&object.key());
                batch.push(Event::Deleted(object.key()));
            } else {
                held.insert(object.key(), object.clone());
                batch.push(Event::Applied(object));
            }
            if flush {
                mirror.hear(&translation.apply(std::mem::take(&mut batch)));
            }
        }
        mirror.hear(&translation.apply(batch));

        let mut anew = entangled();
        anew.apply(held.into_values().map(Event::Applied));
        prop_assert_eq!(printed(&translation), printed(&anew));
        let outputs: String = printed(&anew).lines().filter(|line| line.starts_with("workload ") || line.starts_with("service ") || line.starts_with("policy ")).map(|line| line.to_owned() + "\n").collect();
        prop_assert_eq!(printed_resources(&translation), printed_resources(&anew));
        let mut outputs: Vec<String> = (outputs + &printed_resources(&anew)).lines().map(|line| line.to_owned() + "\n").collect();
        outputs.sort();
        prop_assert_eq!(mirror.printed(), outputs.concat());
    }
}

/// A thousand pods in ten namespaces, a service and a policy in each.
fn thousand() -> Translation {
    let mut translation = translation();
    let mut text = String::new();
    for namespace in 0..10 {
        for index in 0..100 {
            text += &pod(&format!("ns{namespace}"), &format!("p{index}"), &format!("10.{namespace}.0.{index}"), &format!("app: a{}, all: yes", index % 10));
        }
        text += &format!("apiVersion: v1\nkind: Service\nmetadata: {{namespace: ns{namespace}, name: s}}\nspec: {{selector: {{app: a1, all: \"yes\"}}, clusterIP: 10.96.0.{}}}\n---\n", namespace + 1);
        text += &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: ns{namespace}}}\n---\n");
    }
    translation.apply(events(&text));
    translation
}

#[test]
fn a_change_costs_what_it_touches() {
    let mut translation = thousand();
    let mut cost = |yaml: &str| {
        let changes = translation.apply(events(yaml));
        (changes.units_computed, changes.workloads.len(), changes.services.len(), changes.policies.len())
    };
    let service = |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{namespace: ns1, name: s}}\nspec: {{{spec}}}");
    // The same again: nothing.
    assert_eq!(cost(&service("selector: {app: a1, all: \"yes\"}, clusterIP: 10.96.0.2")), (0, 0, 0, 0));
    // Another address: the service alone.
    assert_eq!(cost(&service("selector: {app: a1, all: \"yes\"}, clusterIP: 10.96.9.9")), (1, 0, 1, 0));
    // Another selector: its old and new pods, itself, and its slices.
    assert_eq!(cost(&service("selector: {app: a2, all: \"yes\"}, clusterIP: 10.96.9.9")), (22, 20, 0, 0));
    // One pod.
    assert_eq!(cost(&pod("ns3", "p7", "10.3.9.9", "app: a7, all: yes")), (1, 1, 0, 0));
    // A policy for some pods of a namespace, and its rules alone.
    let policy = |rules: &str| format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{namespace: ns4, name: p}}\nspec: {{selector: {{matchLabels: {{app: a3}}}}, rules: {rules}}}");
    assert_eq!(cost(&policy("[]")), (11, 10, 0, 1));
    assert_eq!(cost(&policy("[{}]")), (1, 0, 0, 1));
    // A namespace's label: its services and workloads.
    assert_eq!(cost("apiVersion: v1\nkind: Namespace\nmetadata: {name: ns5, labels: {x: y}}"), (101, 0, 0, 0));
    // A node that no pod is on.
    assert_eq!(cost("apiVersion: v1\nkind: Node\nmetadata: {name: n2}"), (0, 0, 0, 0));
    // A namespace's strictness: its workloads, and the two policies that could come of it.
    assert_eq!(cost("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {namespace: ns6, name: ns}\nspec: {mtls: {mode: STRICT}}"), (102, 100, 0, 1));
}

#[test]
fn nothing_is_left_behind_when_all_is_gone() {
    let versions = versions();
    let mut translation = entangled();
    translation.apply(versions.iter().cloned().map(Event::Applied));
    let changes = translation.apply(versions.iter().map(|object| Event::Deleted(object.key())));
    assert!(changes.workloads.values().all(Option::is_none) && changes.services.values().all(Option::is_none));
    assert_eq!(printed(&translation), "");
    assert_eq!(translation.derived().count(), 0, "units are left");
    assert!(format!("{translation:?}").contains("by_place: Pairs({})"), "claims are left");
    let shared: Vec<Arc<str>> = translation.cluster().namespaces.keys().map(|name| name.name.clone()).collect();
    assert!(shared.is_empty());
}

#[test]
#[ignore = "large: run it with --ignored --nocapture for the times"]
fn twenty_thousand_pods() {
    let begin = std::time::Instant::now();
    let texts: Vec<String> = (0..20_000)
        .map(|index| pod(&format!("ns{}", index % 100), &format!("p{index}"), &format!("10.{}.{}.{}", index >> 16, (index >> 8) & 255, index & 255), &format!("app: a{}", index % 50)))
        .collect();
    let all: Vec<Event> = texts.iter().flat_map(|text| events(text)).collect();
    println!("reading {:?}", begin.elapsed());
    let mut translation = translation();
    let begin = std::time::Instant::now();
    let changes = translation.apply(all);
    println!("translating {:?}", begin.elapsed());
    assert_eq!(changes.workloads.len(), 20_000);
    let begin = std::time::Instant::now();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {namespace: ns7, name: s}\nspec: {selector: {app: a7}, ports: [{port: 80}]}\n";
    let changes = translation.apply(events(service));
    println!("a service of {} pods {:?}", changes.workloads.len(), begin.elapsed());
    let begin = std::time::Instant::now();
    for index in 0..1000 {
        let changes = translation.apply(events(&pod("ns0", "p0", &format!("10.200.{}.{}", index >> 8, index & 255), "app: a0")));
        assert_eq!(changes.units_computed, 1);
    }
    println!("a thousand changes {:?}", begin.elapsed());
    let begin = std::time::Instant::now();
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {namespace: istio-system, name: mesh}\nspec: {mtls: {mode: STRICT}}\n";
    let changes = translation.apply(events(strict));
    println!("STRICT for {} workloads {:?}", changes.workloads.len(), begin.elapsed());
}

/// Services of a waypoint, each with a route and a policy.
fn routed(services: usize) -> Translation {
    let mut text = super::served::gateway("shop", "wp") + "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/use-waypoint: wp}}\n---\n";
    for index in 0..services {
        text += &super::served::service("shop", &format!("s{index}"), "", "{name: http, port: 80}");
        text += &a_route(index, "/a");
    }
    let mut translation = translation();
    translation.apply(events(&text));
    translation
}

fn a_route(index: usize, path: &str) -> String {
    let spec = format!("parentRefs: [{{group: \"\", kind: Service, name: s{index}}}], rules: [{{backendRefs: [{{name: s{index}, port: 80}}]}}, {{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: s0, port: 80}}]}}]");
    super::route::route("HTTPRoute", "shop", &format!("r{index}"), &spec)
}

#[test]
fn an_edit_of_a_route_is_one_small_resource() {
    let mut translation = routed(300);
    let changes = translation.apply(events(&a_route(7, "/b")));
    let bytes: Vec<usize> = changes.resources.values().flatten().map(|resource| resource.body.len()).collect();
    assert_eq!((changes.units_computed, bytes.len()), (1, 1));
    assert!(bytes[0] < 300, "{bytes:?}");
}

#[test]
#[ignore = "large: run it with --ignored --nocapture for the times"]
fn five_thousand_routes() {
    let begin = std::time::Instant::now();
    let mut translation = routed(5_000);
    println!("read and translated: {:?}", begin.elapsed());
    let begin = std::time::Instant::now();
    let changes = translation.apply(events(&a_route(7, "/b")));
    println!("one edit: {:?}, {} resources", begin.elapsed(), changes.resources.len());
}
