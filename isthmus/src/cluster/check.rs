//! What `isthmus check` looks at: one line for each thing that has to hold, why it does not, and the command that repairs
//! it. Pure: facts in, checks out.

use serde::Serialize;

use crate::report::cluster::of_rollout;
use crate::report::{Link, Membership, Problem, Report, Weight};

use super::facts::{Facts, PARTS};

/// The oldest Kubernetes that the chart takes (`kubeVersion` in Chart.yaml).
const KUBERNETES_MIN: (u32, u32) = (1, 31);
/// The oldest Linux whose nftables can do what capture needs: `nat` chains in tables of family inet.
const LINUX_MIN: (u32, u32) = (5, 2);
/// Where the chart is installed unless the operator says otherwise.
pub const USUAL_NAMESPACE: &str = "istio-system";
/// The level of Pod Security that node components need: host paths and capabilities.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub category: &'static str,
    /// What has to hold.
    pub what: String,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "level")]
pub enum Outcome {
    Holds,
    Warning { why: String, repair: Option<String> },
    Fails { why: String, repair: Option<String> },
}

/// Whether nothing fails; warnings do not count.
pub fn all_hold(checks: &[Check]) -> bool {
    checks.iter().all(|check| !matches!(check.outcome, Outcome::Fails { .. }))
}

fn check(category: &'static str, what: impl Into<String>, outcome: Outcome) -> Check {
    Check { category, what: what.into(), outcome }
}

fn fails(why: impl Into<String>, repair: impl Into<String>) -> Outcome {
    Outcome::Fails { why: why.into(), repair: Some(repair.into()) }
}

fn warns(why: impl Into<String>, repair: impl Into<String>) -> Outcome {
    Outcome::Warning { why: why.into(), repair: Some(repair.into()) }
}

/// Something that the operator has to be allowed to do in order to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    pub verb: &'static str,
    pub group: &'static str,
    pub resource: &'static str,
    /// In the mesh's namespace; else in the whole cluster.
    pub in_namespace: bool,
}

/// What the chart makes.
pub const RIGHTS: [Right; 9] = [
    Right { verb: "create", group: "", resource: "namespaces", in_namespace: false },
    Right { verb: "create", group: "apiextensions.k8s.io", resource: "customresourcedefinitions", in_namespace: false },
    Right { verb: "create", group: "rbac.authorization.k8s.io", resource: "clusterroles", in_namespace: false },
    Right { verb: "create", group: "rbac.authorization.k8s.io", resource: "clusterrolebindings", in_namespace: false },
    Right { verb: "create", group: "admissionregistration.k8s.io", resource: "validatingwebhookconfigurations", in_namespace: false },
    Right { verb: "create", group: "apps", resource: "deployments", in_namespace: true },
    Right { verb: "create", group: "apps", resource: "daemonsets", in_namespace: true },
    Right { verb: "create", group: "", resource: "secrets", in_namespace: true },
    Right { verb: "create", group: "", resource: "serviceaccounts", in_namespace: true },
];

/// Before the installation into `namespace`. `denied`: rights that the operator lacks.
pub fn before(facts: &Facts, denied: &[Right], namespace: &str) -> Vec<Check> {
    let mut checks = vec![kubernetes_version(facts), kernels(facts), architectures(facts), nodes_ready(facts)];
    checks.extend(RIGHTS.iter().map(|right| permission(right, denied.contains(right), namespace)));
    checks.push(pod_security(facts, namespace));
    checks.push(cni_chaining(facts));
    checks.extend(other_meshes(facts, namespace));
    checks.push(gateway_api(facts));
    checks
}

fn kubernetes_version(facts: &Facts) -> Check {
    let outcome = match two_numbers(&facts.server_version) {
        Some(version) if version >= KUBERNETES_MIN => Outcome::Holds,
        _ => fails(format!("the API server is {}; Kubernetes {}.{} is the oldest that is supported", facts.server_version, KUBERNETES_MIN.0, KUBERNETES_MIN.1), "upgrade the cluster"),
    };
    check("kubernetes", format!("the API server answers, and its version is supported ({})", facts.server_version), outcome)
}

fn kernels(facts: &Facts) -> Check {
    let old: Vec<String> = facts.nodes.iter().filter(|node| two_numbers(&node.kernel).is_none_or(|version| version < LINUX_MIN)).map(|node| format!("{} ({})", node.name, node.kernel)).collect();
    let outcome = if old.is_empty() { Outcome::Holds } else { fails(format!("too old: {}", old.join(", ")), "upgrade these nodes, or keep the mesh off them by ztunnel.nodeSelector and cni.nodeSelector") };
    check("nodes", format!("every node has Linux {}.{} or newer", LINUX_MIN.0, LINUX_MIN.1), outcome)
}

fn architectures(facts: &Facts) -> Check {
    let other: Vec<String> = facts.nodes.iter().filter(|node| node.os != "linux" || !["amd64", "arm64"].contains(&node.architecture.as_str())).map(|node| format!("{} ({}/{})", node.name, node.os, node.architecture)).collect();
    let outcome = if other.is_empty() { Outcome::Holds } else { warns(format!("without an image for them, these stay outside of the mesh: {}", other.join(", ")), "keep the mesh off them by ztunnel.nodeSelector and cni.nodeSelector") };
    check("nodes", "there is an image for every node (linux on amd64 or arm64)", outcome)
}

fn nodes_ready(facts: &Facts) -> Check {
    let unready: Vec<&str> = facts.nodes.iter().filter(|node| !node.is_ready).map(|node| node.name.as_str()).collect();
    let outcome = match (facts.nodes.is_empty(), unready.first()) {
        (true, _) => fails("the cluster has no node", "kubectl get nodes"),
        (_, Some(first)) => warns(format!("not ready: {}", unready.join(", ")), format!("kubectl describe node {first}")),
        (_, None) => Outcome::Holds,
    };
    check("nodes", "every node is ready", outcome)
}

fn permission(right: &Right, is_denied: bool, namespace: &str) -> Check {
    let place = if right.in_namespace { format!(" in {namespace}") } else { String::new() };
    let outcome = if is_denied {
        let resource = if right.group.is_empty() { right.resource.to_owned() } else { format!("{}.{}", right.resource, right.group) };
        let option = if right.in_namespace { format!(" -n {namespace}") } else { String::new() };
        fails(format!("the API server says no to {} {resource}", right.verb), format!("kubectl auth can-i {} {resource}{option}   # then ask whoever runs the cluster", right.verb))
    } else {
        Outcome::Holds
    };
    check("permissions", format!("you may {} {}{place}", right.verb, right.resource), outcome)
}

fn pod_security(facts: &Facts, namespace: &str) -> Check {
    let level = facts.namespaces.get(namespace).and_then(|labels| labels.get(POD_SECURITY)).map(String::as_str);
    let repair = format!("kubectl label namespace {namespace} {POD_SECURITY}=privileged --overwrite");
    let outcome = match level {
        Some(level @ ("baseline" | "restricted")) => fails(format!("it enforces the pod security level {level:?}, and node components need host paths and capabilities"), repair),
        _ => Outcome::Holds,
    };
    check("pod security", format!("namespace {namespace} lets node components run"), outcome)
}

fn cni_chaining(facts: &Facts) -> Check {
    let outcome = match facts.cni_settings.get("kube-system/cilium-config") {
        Some(settings) if settings.contains("cni-exclusive=true") => fails(
            "Cilium removes the configuration of other plugins (cni-exclusive)",
            "kubectl -n kube-system patch configmap cilium-config --type merge -p '{\"data\":{\"cni-exclusive\":\"false\"}}' && kubectl -n kube-system rollout restart daemonset/cilium",
        ),
        _ => Outcome::Holds,
    };
    check("cni", "no CNI plugin is known to remove the configuration of others", outcome)
}

/// Parts of another mesh that would answer to the same names, and proxies beside the pods.
fn other_meshes(facts: &Facts, namespace: &str) -> Vec<Check> {
    let foreign: Vec<String> = facts
        .rollouts
        .iter()
        .filter(|rollout| rollout.labels.get("app.kubernetes.io/part-of").map(String::as_str) != Some("isthmus"))
        .map(|rollout| format!("{} {}/{}", rollout.kind, rollout.namespace, rollout.name))
        .collect();
    let ours = facts.rollouts.iter().find(|rollout| rollout.namespace != namespace && rollout.labels.get("app.kubernetes.io/part-of").map(String::as_str) == Some("isthmus"));
    let mut checks = vec![check(
        "other meshes",
        "no other mesh has node daemons, agents or a controller of these names",
        match (foreign.first(), ours) {
            (Some(_), _) => fails(format!("there are: {}", foreign.join(", ")), "helm list -A   # then uninstall that mesh"),
            (None, Some(ours)) => fails(format!("this mesh is already in namespace {}", ours.namespace), format!("isthmus check   # or: helm uninstall isthmus -n {}", ours.namespace)),
            (None, None) => Outcome::Holds,
        },
    )];
    let injectors: Vec<&str> = facts.injectors.iter().map(String::as_str).filter(|name| ["istio-sidecar-injector", "linkerd-proxy-injector"].iter().any(|known| name.starts_with(known))).collect();
    checks.push(check(
        "other meshes",
        "no other mesh adds proxies to pods",
        match injectors.first() {
            Some(first) => warns(format!("{} does; pods with such a proxy are left alone", injectors.join(", ")), format!("kubectl get mutatingwebhookconfiguration {first} -o yaml")),
            None => Outcome::Holds,
        },
    ));
    checks
}

fn gateway_api(facts: &Facts) -> Check {
    let outcome = if facts.crds.contains("gateways.gateway.networking.k8s.io") {
        Outcome::Holds
    } else {
        warns("the CRDs of the Gateway API are missing; only waypoints and gateways need them", "kubectl apply -f https://github.com/kubernetes-sigs/gateway-api/releases/latest/download/standard-install.yaml")
    };
    check("gateway api", "Gateways can be described", outcome)
}

/// After the installation.
pub fn after(facts: &Facts, report: &Report) -> Vec<Check> {
    let mut checks = vec![kubernetes_version(facts)];
    for part in PARTS {
        let problems = of_rollout(facts, part);
        checks.push(check("components", format!("{} is installed, whole and of one version", part.name()), worst(&problems)));
    }
    if facts.rollouts.is_empty() {
        return checks; // nothing else can hold, and all of it for this reason
    }
    checks.push(check("components", "the API server can ask the controller about objects (its webhook)", webhook(facts)));
    checks.push(check("components", "the CRDs of the mesh are there", crds(facts)));
    for node in &report.nodes {
        checks.push(check("nodes", format!("{}: ztunnel is connected and every identity has a certificate", node.name), of_node(report, node)));
    }
    checks.push(check("identity", "the root certificates are in every namespace of the mesh", roots(facts, report)));
    for namespace in &report.namespaces {
        let subjects = report.pods.iter().filter(|pod| pod.name.starts_with(&format!("{}/", namespace.name)) && pod.mesh != Membership::Enrolled).map(|pod| format!("pod {}", pod.name)).collect::<Vec<_>>();
        let problems: Vec<Problem> = report.problems.iter().filter(|problem| subjects.contains(&problem.subject)).cloned().collect();
        checks.push(check("pods", format!("{}: {} of {} pods are in the mesh", namespace.name, namespace.enrolled, namespace.wanted), worst(&problems)));
    }
    if report.namespaces.is_empty() {
        checks.push(check("pods", "a namespace is in the mesh", warns("no namespace is labelled for it", "kubectl label namespace default istio.io/dataplane-mode=ambient")));
    }
    checks
}

/// The first error, else the first warning, and how many more there are.
fn worst(problems: &[Problem]) -> Outcome {
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort();
    let Some(first) = sorted.first() else { return Outcome::Holds };
    let more = if sorted.len() > 1 { format!(" (and {} more)", sorted.len() - 1) } else { String::new() };
    let (why, repair) = (format!("{}: {}{more}", first.subject, first.what), first.repair.clone());
    match first.weight {
        Weight::Error => Outcome::Fails { why, repair },
        Weight::Warning => Outcome::Warning { why, repair },
    }
}

fn of_node(report: &Report, node: &crate::report::Node) -> Outcome {
    if node.ztunnel == Link::Absent && node.wanted == 0 {
        return Outcome::Warning { why: "it has no ztunnel; no pod on it is to be in the mesh".to_owned(), repair: None };
    }
    let subject = format!("node {}", node.name);
    worst(&report.problems.iter().filter(|problem| problem.subject == subject).cloned().collect::<Vec<_>>())
}

fn webhook(facts: &Facts) -> Outcome {
    match facts.webhooks.iter().find(|(_, has_authority)| !**has_authority) {
        Some((name, _)) => warns(
            format!("{name} has no certificate of the authority yet (the controller writes it): wrong objects are told by their status only"),
            format!("kubectl get validatingwebhookconfiguration {name} -o yaml; kubectl -n {} logs -l app=istiod", facts.mesh_namespace().unwrap_or(USUAL_NAMESPACE)),
        ),
        None if facts.webhooks.is_empty() => warns("it is off: wrong objects are told by their status only", "helm upgrade ... --set istiod.webhook.enabled=true"),
        None => Outcome::Holds,
    }
}

fn crds(facts: &Facts) -> Outcome {
    const OURS: [&str; 4] =
        ["authorizationpolicies.security.istio.io", "peerauthentications.security.istio.io", "serviceentries.networking.istio.io", "workloadentries.networking.istio.io"];
    let missing: Vec<&str> = OURS.into_iter().filter(|name| !facts.crds.contains(*name)).collect();
    if missing.is_empty() { Outcome::Holds } else { fails(format!("missing: {}", missing.join(", ")), format!("helm upgrade isthmus charts/isthmus -n {} --reuse-values --set crds.install=true", facts.mesh_namespace().unwrap_or(USUAL_NAMESPACE))) }
}

fn roots(facts: &Facts, report: &Report) -> Outcome {
    let without: Vec<&str> = report.namespaces.iter().map(|one| one.name.as_str()).filter(|name| !facts.with_roots.contains(*name)).collect();
    match without.first() {
        Some(_) => warns(format!("config map istio-ca-root-cert is missing in {}", without.join(", ")), format!("kubectl -n {} logs -l app=istiod", facts.mesh_namespace().unwrap_or(USUAL_NAMESPACE))),
        None => Outcome::Holds,
    }
}

/// `v1.34.4` and `6.1.0-13-amd64` as two numbers.
fn two_numbers(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
