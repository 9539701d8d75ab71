//! The chart on the cluster: it installs, its own test passes, it is stopped where it could not work, and it leaves
//! nothing.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use e2e::{Check, Outcome, checks};
use serde_json::{Value, json};

use super::api::Api;
use super::cluster::{Cluster, PODS, SOON, chart, state, text, until};
use super::mesh::{RELEASE, SYSTEM, install, parts, values};

/// A namespace that is made when the controller is there already.
const NEW: &str = "e2e-new";

pub fn checks() -> Vec<Check<Cluster>> {
    checks![
        a_namespace_that_forbids_node_components_is_named_before_anything_is_made,
        the_controller_installs_by_itself,
        the_chart_installs,
        its_own_test_passes,
        definitions_of_others_are_left_alone,
        changed_values_reach_the_parts_and_go_back,
    ]
}

pub fn last_checks() -> Vec<Check<Cluster>> {
    let mut checks = checks![parts_may_do_little, uninstall_leaves_nothing];
    checks.insert(1, Check { name: "what_the_parts_asked_for_was_granted", run: what_the_parts_asked_for_was_granted, known: None });
    checks
}

fn a_namespace_that_forbids_node_components_is_named_before_anything_is_made(cluster: &Cluster) -> Result<()> {
    let namespace = "e2e-restricted";
    cluster.namespace(namespace, &["pod-security.kubernetes.io/enforce=baseline"])?;
    let (chart, values) = (chart().display().to_string(), values());
    let refused = cluster.helm(&["install", "refused", &chart, "-n", namespace, "--set", &values[0]]);
    cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"])?;
    let said = refused.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(said.contains("pod-security.kubernetes.io/enforce=privileged"), "helm said: {said}");
    Ok(())
}

/// The smallest mesh. Each replica serves; one of them has put the roots into every namespace and into the webhook.
fn the_controller_installs_by_itself(cluster: &Cluster) -> Result<()> {
    install(cluster, &["ztunnel.enabled=false", "cni.enabled=false"])?;
    let pods = parts(cluster, "istiod")?;
    let nodes: BTreeSet<String> = pods.iter().map(|pod| text(&pod["spec"]["nodeName"])).collect();
    ensure!(pods.len() == 2 && nodes.len() == 2, "{} replicas on {nodes:?}", pods.len());
    let roots = |namespace: &str| -> Result<String> {
        let map = cluster.json(&["get", "configmap", "istio-ca-root-cert", "-n", namespace])?;
        Ok(text(&map["data"]["root-cert.pem"]))
    };
    cluster.namespace(NEW, &[])?;
    until(SOON, "the same roots in every namespace, a new one too", || {
        let root = roots(SYSTEM)?;
        Ok((root.contains("BEGIN CERTIFICATE") && roots("default")? == root && roots(NEW)? == root).then_some(()))
    })?;
    cluster.kubectl(&["delete", "namespace", NEW, "--wait=false"])?;
    until(SOON, "the webhook's authority", || {
        let webhook = cluster.json(&["get", "validatingwebhookconfiguration", &format!("istio-validator-{SYSTEM}")])?;
        Ok(webhook["webhooks"][0]["clientConfig"]["caBundle"].as_str().is_some_and(|bundle| !bundle.is_empty()).then_some(()))
    })
}

fn the_chart_installs(cluster: &Cluster) -> Result<()> {
    install(cluster, &[])?;
    for (part, least) in [("istiod", 1), ("ztunnel", cluster.nodes.len()), ("mesh-cni", cluster.nodes.len())] {
        let pods = parts(cluster, part)?;
        ensure!(pods.len() >= least, "{part}: {} pods", pods.len());
    }
    Ok(())
}

fn its_own_test_passes(cluster: &Cluster) -> Result<()> {
    cluster.helm(&["test", RELEASE, "-n", SYSTEM, "--timeout", "2m"]).map(drop)
}

/// Whether an account of the mesh may do something in a namespace: the API server's own review. (`kubectl auth can-i` takes
/// what stands behind a slash for an object's name, and its "no" looks like a failure.) `what`: RESOURCE[.GROUP][/SUBRESOURCE].
fn may(api: &Api, account: &str, verb: &str, what: &str, namespace: &str) -> Result<bool> {
    let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{SYSTEM}:{account}"),
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{SYSTEM}"), "system:authenticated"],
            "resourceAttributes": {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace},
        },
    });
    let review = api.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", Some(&review))?;
    let status = &review["status"];
    ensure!(status["evaluationError"].is_null(), "{account} {verb} {what} in {namespace}: {}", status["evaluationError"]);
    status["allowed"].as_bool().with_context(|| format!("{account} {verb} {what} in {namespace}: a review without an answer: {review}"))
}

/// Least privilege, asked of the API server itself.
fn parts_may_do_little(cluster: &Cluster) -> Result<()> {
    let forbidden = [
        ("ztunnel", "get", "pods", "default"),
        ("ztunnel", "get", "secrets", SYSTEM),
        ("ztunnel", "list", "services", "default"),
        ("mesh-cni", "get", "secrets", SYSTEM),
        ("mesh-cni", "get", "secrets", "default"),
        ("mesh-cni", "patch", "pods", "default"),
        ("mesh-cni", "create", "pods", "default"),
        ("mesh-cni", "delete", "pods", "default"),
        ("mesh-cni", "create", "pods/exec", "default"),
        ("mesh-cni", "create", "serviceaccounts/token", "default"),
        ("mesh-cni", "get", "configmaps", "default"),
        ("istiod", "get", "secrets", "default"),
        ("istiod", "list", "secrets", "kube-system"),
        ("istiod", "create", "pods", "default"),
        ("istiod", "patch", "pods", "default"),
        ("istiod", "create", "pods/exec", "default"),
        ("istiod", "delete", "namespaces", "default"),
        ("istiod", "create", "serviceaccounts/token", "default"),
        ("istiod", "create", "daemonsets.apps", "default"),
        ("istiod", "create", "clusterrolebindings.rbac.authorization.k8s.io", "default"),
        ("istiod", "bind", "clusterroles.rbac.authorization.k8s.io", "default"),
        ("istiod", "impersonate", "serviceaccounts", "default"),
    ];
    let (api, mut allowed) = (Api::connect()?, Vec::new());
    for case @ (who, verb, what, namespace) in forbidden {
        if may(&api, who, verb, what, namespace)? {
            allowed.push(format!("{case:?}"));
        }
    }
    ensure!(allowed.is_empty(), "too much is allowed: {}", allowed.join(", "));
    // The question can be answered with yes, for each of its forms: what they need they may.
    for (who, verb, what) in [
        ("mesh-cni", "list", "pods"),
        ("mesh-cni", "patch", "pods/status"),
        ("istiod", "list", "services"),
        ("istiod", "create", "deployments.apps"),
        ("istiod", "patch", "httproutes.gateway.networking.k8s.io/status"),
    ] {
        ensure!(parts(cluster, who)?.is_empty() || may(&api, who, verb, what, "default")?, "{who} may not {verb} {what}");
    }
    Ok(())
}

/// Of a release of the same name too, in another namespace.
fn definitions_of_others_are_left_alone(cluster: &Cluster) -> Result<()> {
    let (chart, values) = (chart().display().to_string(), values());
    let rendered = |namespace: &str| -> Result<(usize, bool)> {
        let said = cluster.helm(&["upgrade", "--install", RELEASE, &chart, "-n", namespace, "--dry-run=server", "--set", &values[0]])?;
        let definitions = said.lines().filter(|line| *line == "kind: CustomResourceDefinition").count();
        Ok((definitions, said.contains("left as they are: authorizationpolicies.security.istio.io")))
    };
    let (here, there) = (rendered(SYSTEM)?, rendered("default")?);
    ensure!(here.0 > 0 && !here.1 && there == (0, true), "in its own namespace {here:?}, in another {there:?}");
    Ok(())
}

/// `helm upgrade` with other values, and `helm rollback`.
fn changed_values_reach_the_parts_and_go_back(cluster: &Cluster) -> Result<()> {
    let stands = || -> Result<(Value, Value, bool)> {
        let istiod = cluster.json(&["get", "deployment", "istiod", "-n", SYSTEM])?;
        let daemon = cluster.json(&["get", "daemonset", "ztunnel", "-n", SYSTEM])?;
        let budget = cluster.kubectl(&["get", "pdb", "istiod", "-n", SYSTEM, "--ignore-not-found"])?;
        Ok((istiod["status"]["readyReplicas"].clone(), daemon["spec"]["template"]["metadata"]["annotations"]["turn"].clone(), !budget.is_empty()))
    };
    let before = stands()?;
    install(cluster, &["istiod.replicas=1", "ztunnel.podAnnotations.turn=second"])?;
    let after = stands()?;
    ensure!(after == (1.into(), "second".into(), false), "after the upgrade: {after:?}");
    cluster.helm(&["rollback", RELEASE, "-n", SYSTEM, "--wait", "--timeout", "3m"])?;
    let again = stands()?;
    ensure!(again == before && again.2, "before: {before:?}; after the way back: {again:?}");
    Ok(())
}

/// From the API server's record: nothing that a part of the mesh asked for was more than it may. Only in our own cluster,
/// whose API server keeps that record.
fn what_the_parts_asked_for_was_granted(cluster: &Cluster) -> Result<Outcome> {
    if !cluster.ours {
        return Ok(Outcome::Skipped("what this cluster's API server refused cannot be seen from here".into()));
    }
    let record = std::fs::read_to_string(state().join("log/audit.log"))?;
    // When an earlier release was removed its rights went before its pods did.
    let since = text(&cluster.json(&["get", "deployment", "istiod", "-n", SYSTEM])?["metadata"]["creationTimestamp"]);
    let entries = record.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let entries: Vec<Value> = entries.filter(|entry| text(&entry["requestReceivedTimestamp"]) > since).collect();
    for account in ["istiod", "mesh-cni"] {
        if !parts(cluster, account)?.is_empty() {
            let name = format!("system:serviceaccount:{SYSTEM}:{account}");
            ensure!(entries.iter().any(|entry| entry["user"]["username"] == name), "{account} asked for nothing: the record is not complete");
        }
    }
    let refused = entries.iter().filter(|entry| entry["annotations"]["authorization.k8s.io/decision"] == "forbid");
    let mut refused: Vec<String> = refused.map(|entry| ["verb", "requestURI"].map(|part| text(&entry[part])).join(" ") + " for " + &text(&entry["user"]["username"])).collect();
    refused.sort();
    refused.dedup();
    ensure!(refused.is_empty(), "refused: {}", refused.join(", "));
    Ok(Outcome::Held)
}

fn uninstall_leaves_nothing(cluster: &Cluster) -> Result<()> {
    cluster.helm(&["uninstall", RELEASE, "-n", SYSTEM, "--wait", "--timeout", "2m"])?;
    until(PODS, "the end of all pods of the mesh", || Ok(parts(cluster, "mesh-cni")?.is_empty().then_some(())))?;
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"])?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events") && !kind.starts_with("customresourcedefinitions")).collect();
    let label = format!("app.kubernetes.io/instance={RELEASE},app.kubernetes.io/part-of=isthmus");
    until(PODS, "objects of the release gone", || {
        let left = cluster.kubectl(&["get", &kinds.join(","), "-A", "-l", &label, "-o", "name", "--ignore-not-found"])?;
        ensure!(left.trim().is_empty(), "still there: {}", left.trim().replace('\n', ", "));
        Ok(Some(()))
    })?;
    if cluster.ours {
        for node in 0..cluster.nodes.len() {
            nothing_on_a_node(cluster, node)?;
        }
    }
    Ok(())
}

/// The node as it was before: its CNI configuration, its plugins, its rules; and a pod starts there.
fn nothing_on_a_node(cluster: &Cluster, node: usize) -> Result<()> {
    let name = &cluster.nodes[node];
    for (what, command) in [
        ("CNI configuration", "grep -l mesh-cni /etc/cni/net.d/* 2>/dev/null"),
        ("plugin", "ls /opt/cni/bin | grep mesh-cni"),
        ("rules", "nft list ruleset | grep -i isthmus"),
        ("sockets", "ls /run/ztunnel/*.sock /run/istio-cni/* 2>/dev/null"),
    ] {
        until(PODS, &format!("{what} of the mesh gone from {name}"), || {
            let left = cluster.on(node, &["sh", "-c", &format!("{command} || true")])?;
            ensure!(left.trim().is_empty(), "still there: {}", left.trim());
            Ok(Some(()))
        })?;
    }
    let pods = cluster.json(&["get", "pods", "-A", "--field-selector", &format!("spec.nodeName={name}")])?;
    let marked = pods["items"].as_array().into_iter().flatten().filter(|pod| !pod["metadata"]["annotations"]["ambient.istio.io/redirection"].is_null());
    let marked: Vec<String> = marked.map(|pod| text(&pod["metadata"]["name"])).collect();
    ensure!(marked.is_empty(), "pods still say that they are in the mesh: {}", marked.join(", "));
    Ok(())
}
