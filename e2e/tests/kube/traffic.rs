//! Pods of a labelled namespace talk, each on its node, and what is between the nodes is a tunnel.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Check, Outcome, checks};

use super::cluster::{Cluster, SOON, text, until};
use super::mesh::{MARKER, get, logged, pod, service, until_answered, wait_enrolled, wait_ready};

pub const SHOP: &str = "e2e-shop";
pub const OUTSIDE: &str = "e2e-outside";
/// In the mesh: a caller on one node, whom it calls on the other, and a caller beside it.
pub const CLIENT: &str = "e2e-shop/client";
pub const OTHER: &str = "e2e-shop/other";
pub const SERVER: &str = "e2e-shop/server";
/// Not in the mesh.
pub const STRANGER: &str = "e2e-outside/stranger";
/// How callers name the server.
pub const AT: &str = "server.e2e-shop";
/// Requests while the wire is watched: enough for several connections and both directions.
const REQUESTS: usize = 5;

pub fn checks() -> Vec<Check<Cluster>> {
    let mut checks = checks![
        pods_talk_before_they_are_in_the_mesh,
        a_label_on_the_namespace_enrols_running_pods,
        enrolled_pods_talk_and_both_are_proved,
        who_is_outside_still_talks_in_the_clear,
        the_api_server_answers_pods_of_the_mesh,
    ];
    checks.insert(3, Check { name: "the_wire_shows_only_tunnels", run: the_wire_shows_only_tunnels, known: None });
    checks
}

fn pods_talk_before_they_are_in_the_mesh(cluster: &Cluster) -> Result<()> {
    cluster.namespace(SHOP, &[])?;
    cluster.namespace(OUTSIDE, &[])?;
    let [one, other] = &cluster.nodes;
    let pods = [
        pod(SHOP, "client", one, &["details"]),
        pod(SHOP, "other", one, &["details"]),
        pod(SHOP, "server", other, &["details"]),
        service(SHOP, "server"),
        pod(OUTSIDE, "stranger", one, &["details"]),
    ];
    cluster.apply(&pods.concat())?;
    wait_ready(cluster, SHOP)?;
    wait_ready(cluster, OUTSIDE)?;
    [CLIENT, OTHER, STRANGER].iter().try_for_each(|from| until_answered(cluster, from, AT))
}

/// No restart: the containers that run are the ones that ran.
fn a_label_on_the_namespace_enrols_running_pods(cluster: &Cluster) -> Result<()> {
    let containers = || -> Result<Vec<String>> {
        let pods = cluster.json(&["get", "pods", "-n", SHOP])?;
        let items = pods["items"].as_array().into_iter().flatten();
        Ok(items.map(|pod| text(&pod["status"]["containerStatuses"][0]["containerID"])).collect())
    };
    let before = containers()?;
    cluster.kubectl(&["label", "namespace", SHOP, "istio.io/dataplane-mode=ambient", "--overwrite"])?;
    wait_enrolled(cluster, &[CLIENT, OTHER, SERVER], true)?;
    wait_enrolled(cluster, &[STRANGER], false)?;
    ensure!(before.iter().all(|id| !id.is_empty()) && containers()? == before, "containers were started anew");
    Ok(())
}

fn enrolled_pods_talk_and_both_are_proved(cluster: &Cluster) -> Result<()> {
    until_answered(cluster, CLIENT, AT)?;
    // The annotation may be there a moment before the caller's node has heard of it; then connections are tunnels.
    let identity = |account: &str| format!("spiffe://cluster.local/ns/{SHOP}/sa/{account}");
    let words = [identity("client"), identity("server")];
    until(SOON, "a connection between proved identities in the log of the server's node", || {
        get(cluster, CLIENT, AT)?;
        let lines = logged(cluster, &cluster.nodes[1], &[&words[0], &words[1]])?;
        Ok((!lines.is_empty()).then_some(()))
    })
}

/// With a control: what a stranger asks is seen, so the wire is really watched.
fn the_wire_shows_only_tunnels(cluster: &Cluster) -> Result<Outcome> {
    if !cluster.ours {
        return Ok(Outcome::Skipped("the wire of this cluster cannot be watched from here".into()));
    }
    let wire = cluster.wire(&[MARKER])?;
    for _ in 0..REQUESTS {
        ensure!(get(cluster, CLIENT, AT)?.contains(MARKER), "something else answered");
    }
    let seen = wire.evidence();
    let (tunnels, tally) = seen.tunnels();
    ensure!(seen.sightings(MARKER, |_| true) == 0, "the answer passed in the clear {} times", seen.sightings(MARKER, |_| true));
    ensure!(tally.records > 0 && tally.broken == 0, "{tunnels} tunnels with {} TLS records, {} broken", tally.records, tally.broken);
    drop(wire);
    let control = cluster.wire(&[MARKER])?;
    get(cluster, STRANGER, AT)?;
    until(Duration::from_secs(2), "the stranger's answer on the wire", || {
        Ok((control.evidence().sightings(MARKER, |_| true) > 0).then_some(()))
    })
    .context("the wire is not watched")?;
    Ok(Outcome::Held)
}

/// PERMISSIVE is the default.
fn who_is_outside_still_talks_in_the_clear(cluster: &Cluster) -> Result<()> {
    until_answered(cluster, STRANGER, AT)?;
    // And the other way: a pod of the mesh reaches one that is not in it.
    cluster.apply(&service(OUTSIDE, "stranger"))?;
    until_answered(cluster, CLIENT, "stranger.e2e-outside")
}

// Row 30 of the integration checklist: TestAPIServer.
fn the_api_server_answers_pods_of_the_mesh(cluster: &Cluster) -> Result<()> {
    let service = cluster.json(&["get", "service", "kubernetes", "-n", "default"])?;
    let address = text(&service["spec"]["clusterIP"]);
    // It speaks TLS: an answer in plain HTTP that says so has come from it.
    let said = cluster.exec(CLIENT, &["/usr/local/bin/bookinfo", "get", &format!("http://{address}:443/")]);
    let said = said.unwrap_or_else(|error| error.to_string());
    ensure!(said.contains("HTTP request to an HTTPS server"), "it said: {said}");
    Ok(())
}
