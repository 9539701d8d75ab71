//! Kubelet's probes under STRICT: they pass where the program answers, and fail where it does not.

use anyhow::{Result, ensure};
use e2e::{Check, checks};
use serde_json::{Value, json};

use super::cluster::{Cluster, PODS, until};
use super::load::{PROGRAM, ask_at};
use super::mesh::wait_enrolled;
use super::stand::{MESH, STRANGER, Stand, image, is_ready};

/// Probes come once a second; after so many a pod that loses one would have been seen.
const PROBES: u64 = 15;

pub fn checks() -> Vec<Check<Cluster>> {
    checks![probes_pass_under_strict]
}

/// Name, probe, and whether it should pass.
fn kinds() -> Vec<(&'static str, Value, bool)> {
    vec![
        ("probe-http", json!({"httpGet": {"path": "/health", "port": 9080}}), true),
        ("probe-named", json!({"httpGet": {"path": "/health", "port": "http"}}), true),
        ("probe-tcp", json!({"tcpSocket": {"port": 9081}}), true),
        ("probe-grpc", json!({"grpc": {"port": 9082}}), true),
        ("probe-exec", json!({"exec": {"command": [PROGRAM, "ask", "127.0.0.1:9080"]}}), true),
        // Nobody listens there: whoever answers for the pod would hide that.
        ("probe-closed-tcp", json!({"tcpSocket": {"port": 9099}}), false),
        ("probe-closed-http", json!({"httpGet": {"path": "/", "port": 9099}}), false),
    ]
}

fn pod(name: &str, node: &str, probe: &Value, passes: bool) -> Value {
    let mut probe = probe.clone();
    probe["periodSeconds"] = json!(1);
    probe["timeoutSeconds"] = json!(3);
    let mut container = json!({"name": "meshload", "image": image(), "args": ["serve"], "ports": [{"name": "http", "containerPort": 9080}], "readinessProbe": probe});
    if passes {
        container["livenessProbe"] = probe.clone();
        container["startupProbe"] = probe;
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": MESH, "name": name, "labels": {"app": name, "stand": "probes"}},
           "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false, "containers": [container]}})
}

fn probes_pass_under_strict(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let strict = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"namespace": MESH, "name": "probes"}, "spec": {"mtls": {"mode": "STRICT"}}});
    let pods: Vec<(Value, bool)> = kinds().iter().enumerate().map(|(number, (name, probe, passes))| (pod(name, &cluster.nodes[number % 2], probe, *passes), *passes)).collect();
    stand.api.apply(&strict)?;
    let held = (|| {
        pods.iter().try_for_each(|(pod, _)| stand.api.apply(pod).map(drop))?;
        let names: Vec<String> = kinds().iter().map(|(name, ..)| format!("{MESH}/{name}")).collect();
        wait_enrolled(cluster, &names.iter().map(String::as_str).collect::<Vec<_>>(), true)?;
        for (pod, passes) in pods.iter().filter(|(_, passes)| *passes) {
            until(PODS, &format!("{} is ready", pod["metadata"]["name"]), || Ok((is_ready(&stand.api.read(pod)?) == *passes).then_some(())))?;
        }
        let began = std::time::Instant::now();
        until(PODS, "some probes", || Ok((began.elapsed().as_secs() >= PROBES).then_some(())))?;
        for (pod, passes) in &pods {
            let (now, name) = (stand.api.read(pod)?, &pod["metadata"]["name"]);
            ensure!(is_ready(&now) == *passes, "{name} is {}ready", if *passes { "not " } else { "" });
            ensure!(now["status"]["containerStatuses"][0]["restartCount"] == 0, "{name} was restarted");
        }
        // STRICT was in force meanwhile.
        let http = stand.address(&names[0])?;
        ensure!(ask_at(cluster, STRANGER, &format!("{http}:9080")).is_err(), "a stranger is answered");
        Ok(())
    })();
    pods.iter().try_for_each(|(pod, _)| stand.api.delete(pod))?;
    stand.api.delete(&strict)?;
    held
}
