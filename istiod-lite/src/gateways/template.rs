//! The objects of a waypoint, without what users lay over them (spec/controlplane.md 6.3). Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::seen::{GATEWAY_CLASS_NAME, GATEWAY_NAME, Gateway, HBONE_PORT, MANAGED, MANAGED_BY, Made};

/// Readiness, and that anybody may ask.
const STATUS_PORT: u16 = 15021;
/// Metrics.
const METRICS_PORT: u16 = 15020;
/// The same number as of the field's programs; anything but root would do.
const USER: u32 = 1337;
/// Kubernetes' own default. The drain fits into it: five seconds in which new tunnels are still taken while node daemons
/// hear that the instance goes, and the rest for open requests.
const GRACE_SECONDS: u32 = 30;
const GRACE: &str = "TERMINATION_GRACE_PERIOD_SECONDS";
/// The token's life; the kubelet renews it at four fifths.
const TOKEN_SECONDS: u32 = 43_200;
const ROOTS: &str = crate::ca::distribute::CONFIG_MAP;

/// What all waypoints have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The waypoint's image, with its tag.
    pub image: String,
    pub pull_policy: String,
    /// Names of secrets that have to be in the waypoint's namespace.
    pub pull_secrets: Vec<String>,
    /// `host:port` of discovery and certificates.
    pub discovery: String,
    pub root_namespace: String,
    pub cluster_id: String,
    pub cluster_domain: String,
    pub trust_domain: String,
    pub log_level: String,
    pub log_as_json: bool,
    /// More environment of the program.
    pub env: BTreeMap<String, String>,
}

/// One object.
pub fn object(made: Made, gateway: &Gateway, settings: &Settings, network: &str) -> Value {
    let place = gateway.place(made);
    let mut object = json!({
        "apiVersion": made.api_version(),
        "kind": made.kind(),
        "metadata": {
            "name": &*place.name.name,
            "namespace": &gateway.namespace,
            "labels": labels(gateway, network),
            "annotations": annotations(gateway),
            "ownerReferences": [{
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "name": &gateway.name,
                "uid": &gateway.uid,
            }],
        },
    });
    match made {
        // The program's token is mounted by name; nothing of it needs the API server.
        Made::ServiceAccount => object["automountServiceAccountToken"] = json!(false),
        Made::Deployment => object["spec"] = deployment(gateway, settings, network),
        Made::Service => {
            object["metadata"]["annotations"]["networking.istio.io/traffic-distribution"] = json!("PreferClose");
            object["spec"] = service(gateway);
        }
        Made::HorizontalPodAutoscaler => {
            let target = json!({ "apiVersion": Made::Deployment.api_version(), "kind": "Deployment", "name": gateway.made_name() });
            object["spec"] = json!({ "scaleTargetRef": target, "maxReplicas": 1 });
        }
        Made::PodDisruptionBudget => object["spec"] = json!({ "selector": { "matchLabels": selector(gateway) } }),
    }
    object
}

fn selector(gateway: &Gateway) -> BTreeMap<String, String> {
    BTreeMap::from([(GATEWAY_NAME.to_owned(), gateway.name.clone())])
}

/// Labels that say what an object is: nobody may lay others over them.
pub fn identity(gateway: &Gateway) -> BTreeMap<String, String> {
    let mut labels = selector(gateway);
    labels.insert(GATEWAY_CLASS_NAME.to_owned(), gateway.spec.gateway_class_name.clone());
    labels.insert(MANAGED.to_owned(), MANAGED_BY.to_owned());
    labels
}

/// Those of the pods, which besides are not captured: they speak HBONE themselves.
pub fn pod_identity(gateway: &Gateway) -> BTreeMap<String, String> {
    let mut labels = identity(gateway);
    labels.insert("istio.io/dataplane-mode".to_owned(), "none".to_owned());
    labels
}

/// The Gateway's, or those that it asks for instead.
fn labels(gateway: &Gateway, network: &str) -> BTreeMap<String, String> {
    let asked = gateway.spec.infrastructure.as_ref().and_then(|infrastructure| infrastructure.labels.as_ref());
    let mut labels = asked.unwrap_or(&gateway.labels).clone();
    labels.retain(|key, _| !key.starts_with("gateway.networking.k8s.io/"));
    if !network.is_empty() {
        labels.entry("topology.istio.io/network".to_owned()).or_insert_with(|| network.to_owned());
    }
    labels.extend(identity(gateway));
    labels
}

/// Without those that speak of the Gateway object itself.
fn annotations(gateway: &Gateway) -> BTreeMap<String, String> {
    let asked = gateway.spec.infrastructure.as_ref().and_then(|infrastructure| infrastructure.annotations.as_ref());
    let mut annotations = asked.unwrap_or(&gateway.annotations).clone();
    annotations.retain(|key, _| {
        let is_control = ["gateway.istio.io/name-override", "gateway.istio.io/service-account", "gateway.istio.io/controller-version", "networking.istio.io/service-type", "networking.istio.io/address-type"];
        key != "kubectl.kubernetes.io/last-applied-configuration" && !is_control.contains(&key.as_str())
    });
    annotations
}

fn service(gateway: &Gateway) -> Value {
    let mut ports = vec![json!({ "name": "status-port", "port": STATUS_PORT, "protocol": "TCP", "appProtocol": "tcp" })];
    let mut seen = vec![STATUS_PORT];
    for listener in gateway.spec.listeners.iter().filter(|listener| listener.port != 0) {
        if seen.contains(&listener.port) {
            continue;
        }
        seen.push(listener.port);
        ports.push(json!({ "name": listener.name, "port": listener.port, "protocol": "TCP", "appProtocol": listener.protocol.to_lowercase() }));
    }
    let kind = gateway.annotation("networking.istio.io/service-type").unwrap_or("ClusterIP");
    let mut spec = json!({ "type": kind, "ipFamilyPolicy": "PreferDualStack", "selector": selector(gateway), "ports": ports });
    if let Some(address) = gateway.spec.addresses.first() {
        let field = if kind == "LoadBalancer" { "loadBalancerIP" } else { "clusterIP" };
        spec[field] = json!(address.value);
    }
    spec
}

fn deployment(gateway: &Gateway, settings: &Settings, network: &str) -> Value {
    let mut pod_labels = labels(gateway, network);
    pod_labels.insert("sidecar.istio.io/inject".to_owned(), "false".to_owned());
    pod_labels.insert("service.istio.io/canonical-name".to_owned(), gateway.made_name().to_owned());
    pod_labels.insert("service.istio.io/canonical-revision".to_owned(), "latest".to_owned());
    pod_labels.extend(pod_identity(gateway));
    let mut pod_annotations = annotations(gateway);
    for (key, value) in [("prometheus.io/scrape", "true"), ("prometheus.io/port", "15020"), ("prometheus.io/path", "/stats/prometheus")] {
        pod_annotations.insert(key.to_owned(), value.to_owned());
    }
    let selects = json!({ "matchLabels": selector(gateway) });
    let spread = |key| json!({ "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selects });
    let pull_secrets: Vec<Value> = settings.pull_secrets.iter().map(|name| json!({ "name": name })).collect();
    // No `replicas`: whoever scales it has the field.
    json!({
        "selector": selects,
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
        "template": {
            "metadata": { "labels": pod_labels, "annotations": pod_annotations },
            "spec": {
                "serviceAccountName": gateway.service_account(),
                "automountServiceAccountToken": false,
                "imagePullSecrets": pull_secrets,
                "terminationGracePeriodSeconds": GRACE_SECONDS,
                "securityContext": { "runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": true, "fsGroup": USER, "seccompProfile": { "type": "RuntimeDefault" } },
                "topologySpreadConstraints": [spread("topology.kubernetes.io/zone"), spread("kubernetes.io/hostname")],
                "containers": [container(gateway, settings, network)],
                "volumes": [
                    { "name": "istio-token", "projected": { "sources": [{ "serviceAccountToken": { "path": "istio-token", "audience": mesh_identity::token::AUDIENCE, "expirationSeconds": TOKEN_SECONDS } }] } },
                    { "name": "istiod-ca-cert", "configMap": { "name": ROOTS } },
                    { "name": "tmp", "emptyDir": {} },
                ],
            },
        },
    })
}

fn container(gateway: &Gateway, settings: &Settings, network: &str) -> Value {
    let port = |name: &str, port: u16| json!({ "name": name, "containerPort": port, "protocol": "TCP" });
    let ready = |period: u32, failures: u32| json!({ "httpGet": { "path": "/healthz/ready", "port": STATUS_PORT }, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 1 });
    json!({
        "name": "istio-proxy",
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "args": ["proxy", "waypoint"],
        "env": environment(gateway, settings, network),
        "ports": [port("mesh", HBONE_PORT), port("metrics", METRICS_PORT), port("status-port", STATUS_PORT), port("http-envoy-prom", 15090)],
        // The first configuration may take a while where the mesh is large; later an instance that is not ready is left
        // out soon.
        "startupProbe": ready(1, 60),
        "readinessProbe": ready(2, 2),
        "resources": { "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "cpu": "2", "memory": "1Gi" } },
        "securityContext": { "privileged": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } },
        "volumeMounts": [
            { "name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio", "readOnly": true },
            { "name": "istio-token", "mountPath": "/var/run/secrets/tokens", "readOnly": true },
            { "name": "tmp", "mountPath": "/tmp" },
        ],
    })
}

/// The program has to know when it is ended for good, whoever says when.
pub fn tell_grace(pod: &mut Value) {
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(GRACE_SECONDS.into());
    let containers = pod["containers"].as_array_mut().into_iter().flatten();
    let env = containers.filter_map(|container| container["env"].as_array_mut()).flatten();
    env.filter(|one| one["name"] == GRACE).for_each(|one| one["value"] = json!(grace.to_string()));
}

fn environment(gateway: &Gateway, settings: &Settings, network: &str) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let name = gateway.made_name();
    let mut plain = BTreeMap::from([
        ("XDS_ADDRESS", format!("https://{}", settings.discovery)),
        ("CA_ADDRESS", format!("https://{}", settings.discovery)),
        ("GATEWAY_NAME", gateway.name.clone()),
        ("CLUSTER_DOMAIN", settings.cluster_domain.clone()),
        ("TRUST_DOMAIN", settings.trust_domain.clone()),
        ("ISTIO_META_CLUSTER_ID", settings.cluster_id.clone()),
        ("ISTIO_META_MESH_ID", settings.trust_domain.clone()),
        ("ISTIO_META_WORKLOAD_NAME", name.to_owned()),
        ("ISTIO_META_OWNER", format!("kubernetes://apis/apps/v1/namespaces/{}/deployments/{name}", gateway.namespace)),
        (GRACE, GRACE_SECONDS.to_string()),
        ("RUST_LOG", settings.log_level.clone()),
    ]);
    if !network.is_empty() {
        plain.insert("NETWORK", network.to_owned());
    }
    if settings.log_as_json {
        plain.insert("LOG_FORMAT", "json".to_owned());
    }
    plain.extend(settings.env.iter().map(|(name, value)| (name.as_str(), value.clone())));
    let mut env: Vec<Value> = plain.into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    env.extend([
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("NODE_NAME", "spec.nodeName"),
        field("INSTANCE_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        json!({ "name": "ISTIO_CPU_LIMIT", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } }),
    ]);
    env
}
