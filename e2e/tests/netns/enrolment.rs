//! A pod that joins the mesh while it runs: what was open lives on, for as long as policy would let it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use isthmus::lab::state::PodState;
use serde_json::Value;

use super::app::{End, Server, ask, dial, echo, watch};
use super::mesh::{Mesh, OLDER_GRACE, SOON, until, until_ok, v4, v6};
use super::policy::STRICT;
use crate::{Check, checks};

/// From the policy's file to its effect, a look at the sockets at most once a second, and a machine that does other things.
const CUT_WITHIN: Duration = Duration::from_secs(4);

pub fn checks() -> Vec<Check> {
    checks![older_connections_live_until_policy_refuses_them]
}

fn pod_yaml(mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: late, namespace: app, labels: {{app: late, istio.io/dataplane-mode: {mode}}}}}\n\
         spec:\n  nodeName: node-2\n  serviceAccountName: late\n  containers:\n  - name: late\n    command: [sleep, infinity]\n"
    )
}

fn deny_yaml(address: SocketAddr) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: late, namespace: app}}\nspec:\n  \
         selector: {{matchLabels: {{app: late}}}}\n  action: DENY\n  rules:\n  - from:\n    - source: {{ipBlocks: ['{}']}}\n",
        address.ip()
    )
}

/// What the pod's daemon says of its older connections.
fn older(mesh: &Mesh, pod: &PodState) -> Option<Value> {
    Some(mesh.admin("node-2", "/connections").ok()?.get(&pod.uid)?.get("olderConnections")?.clone())
}

fn state(mesh: &Mesh, begins: &str) -> Option<PodState> {
    mesh.state().pod("late").ok().filter(|pod| pod.redirection.starts_with(begins)).cloned()
}

// design decision 13
fn older_connections_live_until_policy_refuses_them(mesh: &Mesh) -> Result<()> {
    let file = mesh.apply("92-late.yaml", &pod_yaml("none"))?;
    let late = until(SOON, "the pod runs outside the mesh", || state(mesh, "released"))?;
    let _server = Server::start(mesh, &late, 7000, echo)?;
    let (stranger, client) = (mesh.pod("stranger"), mesh.pod("client"));
    let mut denied = dial(mesh, &stranger, v6(&late, 7000))?;
    let mut allowed = dial(mesh, &stranger, v4(&late, 7000))?;
    ask(&mut denied, "older")?;
    ask(&mut allowed, "older")?;

    drop(file);
    let file = mesh.apply("92-late.yaml", &pod_yaml("ambient"))?;
    let late = until(SOON, "the pod is in the mesh", || state(mesh, "enabled"))?;
    ask(&mut denied, "lives on")?;
    ask(&mut allowed, "lives on")?;
    until(SOON, "the daemon has found both", || older(mesh, &late).filter(|older| older["open"] == 2))?;
    // A call to somewhere else, which the pod's own policy is not about.
    let blank = mesh.pod("blank");
    let _other = Server::start(mesh, &blank, 7001, echo)?;
    until_ok(SOON, || ask(&mut dial(mesh, &client, v4(&late, 7000))?, "by tunnel")).context("new connections are the mesh's")?;

    for (yaml, connection, other) in [(deny_yaml(v6(&stranger, 0)), denied, Some(allowed.try_clone()?)), (STRICT.to_owned(), allowed, None)] {
        connection.set_read_timeout(None)?;
        let cut = watch(connection);
        let covered = Instant::now();
        let policy = mesh.apply("late-policy.yaml", &yaml)?;
        let (at, end) = cut.recv_timeout(OLDER_GRACE + SOON).context("the refused connection is cut")?;
        let lived = at - covered;
        ensure!(end == End::Reset, "{end:?}");
        ensure!((OLDER_GRACE..OLDER_GRACE + CUT_WITHIN).contains(&lived), "it was cut after {lived:?}");
        if let Some(mut other) = other {
            ask(&mut other, "not this one").context("what policy allows lives on")?;
        }
        drop(policy);
    }
    until(SOON, "the daemon's page tells", || older(mesh, &late).filter(|older| older["cut"] == 2 && older["open"] == 0))?;
    let counted = mesh.metric("node-2", "isthmus_refusals_total", &["reason=\"older_connection\""])?;
    ensure!(counted == 2.0, "{counted} refusals are counted");
    let troubles = mesh.admin("node-2", "/troubles")?;
    let why: Vec<&str> = troubles.as_array().into_iter().flatten().filter(|one| one["reason"] == "older_connection").filter_map(|one| one["error"].as_str()).collect();
    ensure!(why.len() == 2 && why[0].contains("explicitly denied by: app/late"), "{why:?}");
    let log = std::fs::read_to_string(mesh.log("ztunnel.node-2"))?;
    ensure!(log.contains("older_connection"), "the access log has the reason");
    drop(file);
    Ok(())
}
