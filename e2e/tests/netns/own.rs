//! The daemon's own tunnel listener: its metrics, read by pods of the mesh over HBONE, under policy, and nothing else.

use std::net::SocketAddr;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use mesh_model::identity::SpiffeId;

use super::mesh::{Mesh, SOON, until, until_ok, until_refused};
use super::peer::{HBONE, account, credential, status_of};
use e2e::{Check, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    checks![the_daemons_metrics_are_served_over_hbone]
}

/// The daemon as a workload of the mesh, as its Pod is where there is Kubernetes.
fn entry(address: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata:\n  name: ztunnel-node-2\n  namespace: istio-system\n  labels: {{app: ztunnel, networking.istio.io/tunnel: http}}\n\
         spec:\n  address: {address}\n  serviceAccount: ztunnel\n"
    )
}

const ONLY_OTHERS: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-client, namespace: istio-system}
spec:
  selector: {matchLabels: {app: ztunnel}}
  action: DENY
  rules:
  - from:
    - source: {principals: [cluster.local/ns/app/sa/client]}
";

// Z-267
fn the_daemons_metrics_are_served_over_hbone(mesh: &Mesh) -> Result<()> {
    let daemon = SpiffeId::new("cluster.local", "istio-system", "ztunnel");
    let node = mesh.node("node-2").wire.v4;
    let (stranger, door) = (mesh.pod("stranger"), SocketAddr::new(node.into(), HBONE));
    let as_other = credential(&mesh.ca()?, &account("other"), SystemTime::now())?;
    let asked = |authority: &str| status_of(mesh, &stranger, door, &as_other, &daemon, authority);
    ensure!(asked(&format!("{node}:15020"))? == 503, "a daemon of which the mesh knows nothing serves nobody");

    let file = mesh.apply("60-ztunnel.yaml", &entry(&node.to_string()))?;
    for known in ["node-1", "node-2"] {
        until(SOON, "the daemon is known as a workload", || {
            let dump = mesh.admin(known, "/config_dump").ok()?;
            dump["workloads"]
                .as_array()?
                .iter()
                .any(|one| one["name"] == "ztunnel-node-2" && one["protocol"] == "HBONE")
                .then_some(())
        })?;
    }
    // An unmodified program of a pod.
    let url = format!("http://{node}:15020/metrics");
    let page = mesh.curl("client", &url).context("a pod reads the metrics")?;
    ensure!(page.contains("istio_build{") && page.ends_with("# EOF\n"), "{page}");
    let tunnelled = mesh.metric(
        "node-1",
        "istio_tcp_connections_opened_total",
        &[
            "source_workload=\"client\"",
            "destination_principal=\"spiffe://cluster.local/ns/istio-system/sa/ztunnel\"",
            "mutual_tls",
        ],
    )?;
    ensure!(tunnelled >= 1.0, "it went in a tunnel to the daemon's own identity");

    // Of all ports of its place that one alone, and no other address.
    for (authority, status) in [
        (format!("{node}:15020"), 200),
        (format!("{node}:15021"), 400),
        (format!("{node}:15000"), 400),
        (format!("{node}:22"), 400),
        (format!("{node}:15008"), 503),
        ("127.0.0.1:15000".to_owned(), 400),
        ("10.96.7.31:7000".to_owned(), 400),
    ] {
        let answer = asked(&authority)?;
        ensure!(answer == status, "CONNECT {authority} is answered with {answer}, not {status}");
    }
    let refused = mesh.metric("node-2", "isthmus_refusals_total", &["reason=\"not_served\""])?;
    ensure!(refused >= 3.0, "{refused} refusals");

    let deny = mesh.apply("61-no-client.yaml", ONLY_OTHERS)?;
    until_refused(SOON, "policy holds for the daemon too", || mesh.curl("client", &url))?;
    mesh.curl("other", &url).context("who is not denied is served")?;
    drop(deny);
    until_ok(SOON, || mesh.curl("client", &url))?;
    drop(file);
    until(SOON, "the daemon is forgotten", || {
        let dump = mesh.admin("node-1", "/config_dump").ok()?;
        dump["workloads"].as_array()?.iter().all(|one| one["name"] != "ztunnel-node-2").then_some(())
    })
}
