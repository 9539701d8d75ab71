//! The mesh on a cluster, as the checks use it: the release, pods to talk, and what the mesh says about them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cluster::{Cluster, PODS, SOON, chart, text, until};

pub const RELEASE: &str = "isthmus";
pub const SYSTEM: &str = "istio-system";
pub const PORT: u16 = 9080;
/// What `details` says in each answer.
pub const MARKER: &str = "Where the Land Narrows";

/// Where the images come from: those that `scripts/e2e-kubernetes.sh` loaded, or the user's.
pub fn hub() -> String {
    std::env::var("ISTHMUS_HUB").unwrap_or_else(|_| "isthmus.test".to_owned())
}

pub fn tag() -> String {
    std::env::var("ISTHMUS_TAG").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned())
}

/// Values of every install: the images, and the ranges of pods and services where they are known.
pub fn values() -> Vec<String> {
    let mut values = vec![format!("image.hub={}", hub()), format!("image.tag={}", tag())];
    if let Ok(ranges) = std::env::var("ISTHMUS_RANGES") {
        values.push(format!("cluster.ranges={{{ranges}}}"));
    }
    values
}

/// `helm upgrade --install` with `values()` and more, until everything is ready.
pub fn install(cluster: &Cluster, more: &[&str]) -> Result<()> {
    let (chart, values) = (chart().display().to_string(), values());
    let mut arguments = vec!["upgrade", "--install", RELEASE, &chart, "-n", SYSTEM, "--create-namespace", "--wait", "--timeout", "3m"];
    values.iter().map(String::as_str).chain(more.iter().copied()).for_each(|value| arguments.extend(["--set", value]));
    cluster.helm(&arguments).map(drop)
}

/// A pod on a node that talks: the sample's program, in a role, with an account and a label `app` of its name.
pub fn pod(namespace: &str, name: &str, node: &str, role: &[&str]) -> String {
    let image = format!("{}/bookinfo:{}", hub(), tag());
    let role = serde_json::to_string(role).expect("words can be written as JSON");
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {namespace}}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
         spec:\n  nodeName: {node}\n  serviceAccountName: {name}\n  terminationGracePeriodSeconds: 2\n  containers:\n  \
         - name: talker\n    image: {image}\n    args: {role}\n    \
         readinessProbe: {{httpGet: {{path: /health, port: {PORT}}}, periodSeconds: 1}}\n---\n"
    )
}

pub fn service(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: {PORT}}}]}}\n---\n"
    )
}

pub fn wait_ready(cluster: &Cluster, namespace: &str) -> Result<()> {
    let within = format!("--timeout={}s", PODS.as_secs());
    cluster.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "-n", namespace, &within]).map(drop)
}

/// Whether the agent says that the pod is in the mesh.
pub fn is_enrolled(cluster: &Cluster, pod: &str) -> Result<bool> {
    let (namespace, name) = pod.split_once('/').context("NAMESPACE/POD")?;
    let pod = cluster.json(&["get", "pod", "-n", namespace, name])?;
    Ok(pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled")
}

pub fn wait_enrolled(cluster: &Cluster, pods: &[&str], enrolled: bool) -> Result<()> {
    for pod in pods {
        let what = format!("{pod} {} the mesh", if enrolled { "in" } else { "out of" });
        until(SOON, &what, || Ok((is_enrolled(cluster, pod)? == enrolled).then_some(())))?;
    }
    Ok(())
}

/// One request from a pod, on a connection of its own: the answer, or why there was none.
pub fn get(cluster: &Cluster, from: &str, to: &str) -> Result<String> {
    cluster.exec(from, &["/usr/local/bin/bookinfo", "get", &format!("http://{to}:{PORT}/details/0")])
}

/// Until a request is refused, so that a policy may take its time, which is bounded.
pub fn until_refused(cluster: &Cluster, from: &str, to: &str) -> Result<()> {
    until(SOON, &format!("{from} refused at {to}"), || Ok(get(cluster, from, to).is_err().then_some(())))
}

pub fn until_answered(cluster: &Cluster, from: &str, to: &str) -> Result<()> {
    until(SOON, &format!("{from} answered by {to}"), || {
        let answer = get(cluster, from, to)?;
        ensure!(answer.contains(MARKER), "something else answered: {answer}");
        Ok(Some(()))
    })
}

/// The pods of a part of the mesh, by their label `app`, with node and address.
pub fn parts(cluster: &Cluster, app: &str) -> Result<Vec<Value>> {
    let pods = cluster.json(&["get", "pods", "-n", SYSTEM, "-l", &format!("app={app}")])?;
    Ok(pods["items"].as_array().cloned().unwrap_or_default())
}

/// The node daemon of a node.
pub fn ztunnel(cluster: &Cluster, node: &str) -> Result<String> {
    let pods = parts(cluster, "ztunnel")?;
    let pod = pods.iter().find(|pod| pod["spec"]["nodeName"] == node).with_context(|| format!("no ztunnel on {node}"))?;
    Ok(text(&pod["metadata"]["name"]))
}

/// The log lines of the node daemon of a node that hold all of these words.
pub fn logged(cluster: &Cluster, node: &str, words: &[&str]) -> Result<Vec<String>> {
    let log = cluster.kubectl(&["logs", "-n", SYSTEM, &ztunnel(cluster, node)?])?;
    Ok(log.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect())
}
