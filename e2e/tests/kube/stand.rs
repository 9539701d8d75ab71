//! Where the scenarios take place: callers and servers on both nodes in a namespace of the mesh, and a stranger outside of
//! it. It is there for whichever scenario is the first to want it.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use e2e::clear::{Clear, Seen, Tunnelled};
use e2e::{Check, checks};
use isthmus::tour::wire::Wire;
use serde_json::Value;

use super::api::Api;
use super::cluster::{Cluster, PODS, SOON, switch, text, until};
use super::mesh::{RELEASE, SYSTEM, hub, install, parts, tag, wait_enrolled, ztunnel};
use super::size::Size;

pub const MESH: &str = "e2e-load";
pub const OUTSIDE: &str = "e2e-load-outside";
/// Each on the node of its place.
pub const CALLERS: [&str; 2] = ["caller-1", "caller-2"];
pub const SERVERS: [&str; 2] = ["server-1", "server-2"];
pub const STRANGER: &str = "e2e-load-outside/stranger";
/// Both servers under one name.
pub const BOTH: &str = "servers";

/// NAMESPACE/NAME of a pod of the stand.
pub fn in_mesh(pod: &str) -> String {
    format!("{MESH}/{pod}")
}

/// How a pod names a service of the stand. The dot at the end: looked up once, not in every domain of the search list.
pub fn at(service: &str) -> String {
    format!("{service}.{MESH}.svc.cluster.local.")
}

pub struct Stand<'a> {
    pub cluster: &'a Cluster,
    pub api: Api,
    pub size: Size,
}

pub fn last_checks() -> Vec<Check<Cluster>> {
    checks![the_stand_is_removed]
}

fn the_stand_is_removed(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "namespace", MESH, OUTSIDE, "--ignore-not-found"])?;
    if parts(cluster, "istiod")?.is_empty() {
        return Ok(());
    }
    cluster.helm(&["uninstall", RELEASE, "-n", SYSTEM, "--wait", "--timeout", "2m"]).map(drop)
}

impl<'a> Stand<'a> {
    /// Made, where it is not there, and in the mesh.
    pub fn up(cluster: &'a Cluster) -> Result<Stand<'a>> {
        let stand = Stand { cluster, api: Api::connect()?, size: Size::of_the_environment() };
        if parts(cluster, "ztunnel")?.is_empty() {
            install(cluster, &[])?;
        }
        if !stand.is_there()? {
            stand.make()?;
        }
        cluster.kubectl(&["label", "namespace", MESH, "istio.io/dataplane-mode=ambient", "--overwrite"])?;
        stand.wait()?;
        Ok(stand)
    }

    fn is_there(&self) -> Result<bool> {
        let count = |namespace: &str| -> Result<usize> {
            let pods = self.cluster.json(&["get", "pods", "-n", namespace, "-l", "stand=e2e", "--field-selector=status.phase=Running"])?;
            Ok(pods["items"].as_array().map_or(0, Vec::len))
        };
        Ok(count(MESH)? == CALLERS.len() + SERVERS.len() && count(OUTSIDE)? == 1)
    }

    fn make(&self) -> Result<()> {
        self.cluster.namespace(MESH, &["istio.io/dataplane-mode=ambient"])?;
        self.cluster.namespace(OUTSIDE, &[])?;
        let mut objects = Vec::new();
        for (place, node) in self.cluster.nodes.iter().enumerate() {
            objects.push(talker(MESH, CALLERS[place], node, &["serve"], "stand: e2e"));
            objects.push(talker(MESH, SERVERS[place], node, &["serve"], "stand: e2e, role: server"));
        }
        objects.push(talker(OUTSIDE, "stranger", &self.cluster.nodes[0], &["serve"], "stand: e2e"));
        objects.push(service(MESH, BOTH, "role: server"));
        self.cluster.apply(&objects.concat())?;
        wait_for(self.cluster, OUTSIDE, "stand=e2e")
    }

    /// Until all is in the mesh and both daemons know it: only then must everything be a tunnel.
    pub fn wait(&self) -> Result<()> {
        wait_for(self.cluster, MESH, "stand=e2e")?;
        let pods: Vec<String> = self.everybody().map(in_mesh).collect();
        wait_enrolled(self.cluster, &pods.iter().map(String::as_str).collect::<Vec<_>>(), true)?;
        self.wait_known(self.everybody())
    }

    pub fn everybody(&self) -> impl Iterator<Item = &'static str> + Clone + use<> {
        CALLERS.into_iter().chain(SERVERS)
    }

    /// Until both daemons hold these pods as ones that take tunnels, with their addresses of today.
    pub fn wait_known(&self, pods: impl Iterator<Item = &'static str> + Clone) -> Result<()> {
        for node in &self.cluster.nodes {
            until(SOON * 2, &format!("the daemon of {node} knows the pods as ones that take tunnels"), || {
                let dump = self.api.dump(&ztunnel(self.cluster, node)?)?;
                let workloads = dump["workloads"].as_array().context("workloads in the dump")?;
                let unknown = pods.clone().find(|pod| {
                    !workloads.iter().any(|one| one["name"] == *pod && one["namespace"] == MESH && one["protocol"] == "HBONE")
                });
                ensure!(unknown.is_none(), "not yet: {}", unknown.unwrap_or_default());
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    pub fn address(&self, pod: &str) -> Result<IpAddr> {
        let (namespace, name) = pod.split_once('/').context("NAMESPACE/POD")?;
        let pod = self.cluster.json(&["get", "pod", "-n", namespace, name])?;
        text(&pod["status"]["podIP"]).parse().with_context(|| format!("{namespace}/{name} has no address"))
    }

    /// Every pod of the stand that is in the mesh, to every other one.
    pub fn pairs(&self) -> Result<Vec<Tunnelled>> {
        let places = self.everybody().map(|pod| self.address(&in_mesh(pod))).collect::<Result<Vec<_>>>()?;
        Ok(places.iter().flat_map(|from| places.iter().map(|to| Tunnelled::pair(*from, *to))).collect())
    }

    /// What passes between the first node and the others from now on; `None` where the wire is not ours.
    pub fn watch(&self) -> Result<Option<Wire<Clear>>> {
        let take = |clear: &mut Clear, frame: &[u8]| clear.take(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), frame);
        self.cluster.ours.then(|| Wire::watch(&switch(), &self.cluster.nodes[0], Clear::default(), take)).transpose()
    }
}

/// Nothing in the clear, and something that shows that we looked.
pub fn judge(wire: &Option<Wire<Clear>>) -> Result<Option<Seen>> {
    let Some(wire) = wire else {
        println!("    the wire of this cluster cannot be watched from here");
        return Ok(None);
    };
    let seen = wire.look(|clear| clear.judge()).map_err(anyhow::Error::msg)?;
    println!("    the wire: {seen}");
    ensure!(wire.missed() == 0, "{} frames came faster than they were read: they may have been anything", wire.missed());
    ensure!(seen.records > 0, "no tunnel was seen");
    Ok(Some(seen))
}

pub fn image() -> String {
    format!("{}/meshload:{}", hub(), tag())
}

/// Until all pods with a label are ready; others may be on their way out.
pub fn wait_for(cluster: &Cluster, namespace: &str, label: &str) -> Result<()> {
    until(PODS, &format!("the pods {label} of {namespace} are ready"), || {
        let pods = cluster.json(&["get", "pods", "-n", namespace, "-l", label])?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let late: Vec<String> = pods.iter().filter(|pod| !is_ready(pod)).map(|pod| text(&pod["metadata"]["name"])).collect();
        ensure!(!pods.is_empty() && late.is_empty(), "not yet: {}", late.join(", "));
        Ok(Some(()))
    })
}

pub fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"].as_array().into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// A pod of `meshload` with an account and a service of its name.
pub fn talker(namespace: &str, name: &str, node: &str, words: &[&str], labels: &str) -> String {
    let (image, words) = (image(), serde_json::to_string(words).expect("words can be written as JSON"));
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {namespace}}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}, {labels}}}}}\n\
         spec:\n  nodeName: {node}\n  serviceAccountName: {name}\n  automountServiceAccountToken: false\n  terminationGracePeriodSeconds: 2\n  containers:\n  \
         - name: meshload\n    image: {image}\n    args: {words}\n    \
         readinessProbe: {{httpGet: {{path: /ready, port: 9080}}, periodSeconds: 1, timeoutSeconds: 5}}\n---\n{}",
        service(namespace, name, &format!("app: {name}"))
    )
}

pub fn service(namespace: &str, name: &str, selector: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{selector: {{{selector}}}, ports: [{{name: http, port: 9080}}, {{name: tcp-echo, port: 9081}}, {{name: grpc, port: 9082}}, {{name: http-other, port: 9083}}]}}\n---\n"
    )
}

/// The namespace of the mesh itself, and a DaemonSet or Deployment in there, replaced pod by pod.
pub fn restart(cluster: &Cluster, what: &str) -> Result<()> {
    cluster.kubectl(&["rollout", "restart", what, "-n", SYSTEM])?;
    cluster.kubectl(&["rollout", "status", what, "-n", SYSTEM, "--timeout=3m"]).map(drop)
}
