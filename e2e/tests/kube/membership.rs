//! Who is in the mesh and who is not, and what of it lies on a node: rows 61 to 63 of the integration checklist, and who
//! may touch the sockets there (V-64, T-34).

use anyhow::{Result, ensure};
use e2e::{Check, Outcome, checks};
use mesh_cni::conflist::TYPE;
use serde_json::json;

use super::cluster::{Cluster, PODS, SOON, until};
use super::mesh::{is_enrolled, wait_enrolled};
use super::stand::{MESH, OUTSIDE, Stand, image, talker, wait_for};

/// The namespace that the chart leaves out by itself.
const EXCLUDED: &str = "kube-system";
const MODE: &str = "istio.io/dataplane-mode";

pub fn checks() -> Vec<Check<Cluster>> {
    let mut checks = checks![labels_say_who_is_in_the_mesh];
    checks.push(Check { name: "a_list_of_plugins_that_others_write_is_mended", run: a_list_of_plugins_that_others_write_is_mended, known: None });
    checks.push(Check { name: "a_nodes_sockets_are_for_root_alone", run: a_nodes_sockets_are_for_root_alone, known: None });
    checks
}

// Row 62: TestCNINeverEnrollsPodsInExcludedNamespaces; and pods that say otherwise than their namespace.
fn labels_say_who_is_in_the_mesh(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let node = &cluster.nodes[0];
    let pods = [
        ("out-by-its-label", MESH, format!("{MODE}: none"), false),
        ("in-by-its-label", OUTSIDE, format!("{MODE}: ambient"), true),
        ("excluded", EXCLUDED, format!("{MODE}: ambient"), false),
    ];
    let yaml: String = pods.iter().map(|(name, namespace, label, _)| talker(namespace, name, node, &["serve"], label)).collect();
    let host = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": MESH, "name": "of-the-host", "labels": {"stand": "other"}},
                      "spec": {"nodeName": node, "hostNetwork": true, "terminationGracePeriodSeconds": 1,
                               "containers": [{"name": "meshload", "image": image(), "args": ["ask", "127.0.0.1:1"]}]}});
    cluster.kubectl(&["label", "namespace", EXCLUDED, &format!("{MODE}=ambient"), "--overwrite"])?;
    let held = (|| {
        cluster.apply(&yaml)?;
        stand.api.apply(&host)?;
        for (name, namespace, _, wanted) in &pods {
            until(PODS, &format!("{name} is ready"), || Ok(super::stand::is_ready(&cluster.json(&["get", "pod", "-n", namespace, name])?).then_some(())))?;
            if *wanted {
                wait_enrolled(cluster, &[&format!("{namespace}/{name}")], true)?;
            }
        }
        // The one that belongs came in after the others were seen: they are left out, and not just late.
        for (name, namespace, _, wanted) in &pods {
            ensure!(is_enrolled(cluster, &format!("{namespace}/{name}"))? == *wanted, "{namespace}/{name}");
        }
        ensure!(!is_enrolled(cluster, &format!("{MESH}/of-the-host"))?, "a pod of the host's network");
        // A pod changes its mind while it runs.
        let relabel = |value: &str| cluster.kubectl(&["label", "pod", "-n", OUTSIDE, "in-by-its-label", &format!("{MODE}={value}"), "--overwrite"]);
        relabel("none")?;
        wait_enrolled(cluster, &[&format!("{OUTSIDE}/in-by-its-label")], false)?;
        relabel("ambient")?;
        wait_enrolled(cluster, &[&format!("{OUTSIDE}/in-by-its-label")], true)
    })();
    cluster.kubectl(&["label", "namespace", EXCLUDED, &format!("{MODE}-")])?;
    cluster.delete(&yaml)?;
    stand.api.delete(&host)?;
    held
}

// Rows 61 and 63: TestCNIMisconfigHealsOnRestart, TestTrafficWithCNIRepair, without a restart.
fn a_list_of_plugins_that_others_write_is_mended(cluster: &Cluster) -> Result<Outcome> {
    if !cluster.ours {
        return Ok(Outcome::Skipped("nodes of this cluster cannot be entered".into()));
    }
    let _stand = Stand::up(cluster)?;
    let shell = |command: &str| cluster.on(0, &["sh", "-ec", command]);
    let lists = || shell(&format!("grep -l '\"{TYPE}\"' /etc/cni/net.d/*.conflist || true"));
    let list = lists()?.trim().to_owned();
    ensure!(!list.is_empty(), "no list of the node has the plugin");
    let whole = format!("test -x /opt/cni/bin/{TYPE} && test -s /var/run/istio-cni/kubeconfig");
    for (what, damage) in [
        ("the list without us", format!("jq '.plugins |= map(select(.type != \"{TYPE}\"))' {list} >/tmp/list && cp /tmp/list {list}")),
        ("the plugin's program gone", format!("rm /opt/cni/bin/{TYPE}")),
        ("its way to the API server gone", "rm /var/run/istio-cni/kubeconfig".to_owned()),
    ] {
        shell(&damage)?;
        until(SOON, what, || Ok((!lists()?.trim().is_empty() && shell(&whole).is_ok()).then_some(())))?;
    }
    // It does what it is for.
    let pod = talker(MESH, "after-repair", &cluster.nodes[0], &["serve"], "stand: other");
    cluster.apply(&pod)?;
    let enrolled = wait_for(cluster, MESH, "app=after-repair").and_then(|()| wait_enrolled(cluster, &[&format!("{MESH}/after-repair")], true));
    cluster.delete(&pod)?;
    enrolled?;
    Ok(Outcome::Held)
}

// V-64, T-34: the sockets of daemon and agent.
fn a_nodes_sockets_are_for_root_alone(cluster: &Cluster) -> Result<Outcome> {
    if !cluster.ours {
        return Ok(Outcome::Skipped("nodes of this cluster cannot be entered".into()));
    }
    let _stand = Stand::up(cluster)?;
    for node in 0..cluster.nodes.len() {
        let found = cluster.on(node, &["find", "/var/run/ztunnel/", "/var/run/istio-cni/", "-type", "s"])?;
        let sockets: Vec<&str> = found.lines().collect();
        ensure!(sockets.len() >= 2, "daemon and agent listen at {sockets:?}");
        let kubeconfig = "/var/run/istio-cni/kubeconfig";
        for path in sockets.iter().copied().chain([kubeconfig]) {
            let mode = cluster.on(node, &["stat", "-c", "%a %U", path])?;
            ensure!(mode.trim() == "600 root", "{path}: {}", mode.trim());
            // As somebody else on the node's own network: neither opened nor connected to.
            let opened = cluster.on(node, &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &format!("test -r {path} || test -w {path}")]);
            ensure!(opened.is_err(), "{path} can be opened by anybody");
        }
    }
    Ok(Outcome::Held)
}

