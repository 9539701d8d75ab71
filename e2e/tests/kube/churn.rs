//! Pods come into the mesh, leave it, and are born in it while its programs die: no request fails, and nothing that had to
//! be in a tunnel passes in the clear.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::clear::{Clear, Tunnelled};
use e2e::{Check, checks};
use isthmus::tour::wire::Wire;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::cluster::{Cluster, PODS, SOON, text, until};
use super::kill::kill;
use super::load::{Demand, Report, under_load};
use super::mesh::{SYSTEM, parts, wait_enrolled};
use super::stand::{MESH, SERVERS, Stand, at, in_mesh, is_ready, judge, talker};

/// A namespace of pods that are born in the mesh.
const BORN: &str = "e2e-born";
/// TLS records between two changes: some tens of connections in tunnels, each way.
const RECORDS_MIN: u64 = 200;

pub fn checks() -> Vec<Check<Cluster>> {
    checks![
        a_namespace_is_enrolled_and_released_while_its_pods_talk,
        pods_that_are_born_while_programs_die_send_nothing_in_the_clear,
    ]
}

fn require(wire: &Option<Wire<Clear>>, rules: &[Tunnelled]) {
    if let Some(wire) = wire {
        wire.look(|clear| clear.require(rules.iter().copied()));
    }
}

/// Row 34 of the integration checklist (TestServiceDynamicEnroll), without a failure.
fn a_namespace_is_enrolled_and_released_while_its_pods_talk(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let (wire, pairs) = (stand.watch()?, stand.pairs()?);
    let pods: Vec<String> = stand.everybody().map(in_mesh).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    let records = || wire.as_ref().map_or(0, |wire| wire.look(|clear| clear.tunnelled()));
    let before = containers(cluster, &pods)?;
    require(&wire, &pairs);
    let turns = || {
        for _ in 0..stand.size.turns {
            require(&wire, &[]);
            cluster.kubectl(&["label", "namespace", MESH, "istio.io/dataplane-mode-"])?;
            wait_enrolled(cluster, &pods, false)?;
            cluster.kubectl(&["label", "namespace", MESH, "istio.io/dataplane-mode=ambient"])?;
            stand.wait()?;
            require(&wire, &pairs);
            let begins = records();
            until(SOON, "traffic in tunnels", || Ok((wire.is_none() || records() >= begins + RECORDS_MIN).then_some(())))?;
        }
        Ok(())
    };
    under_load(Demand::fresh(100).with_open(4, 20), stand.size.turns_requests, turns, Report::all_held)?;
    ensure!(containers(cluster, &pods)? == before, "containers were started anew");
    let seen = judge(&wire)?;
    ensure!(seen.is_none_or(|seen| seen.allowed > 0), "outside of the mesh the same pods were not seen in the clear");
    Ok(())
}

/// Of these pods alone: one of the scenario before may still be on its way out.
fn containers(cluster: &Cluster, pods: &[&str]) -> Result<Vec<String>> {
    let there = cluster.json(&["get", "pods", "-n", MESH])?;
    let there = there["items"].as_array().into_iter().flatten();
    let ours = there.filter(|pod| pods.contains(&in_mesh(&text(&pod["metadata"]["name"])).as_str()));
    Ok(ours.map(|pod| text(&pod["status"]["containerStatuses"][0]["containerID"])).collect())
}

fn pods_that_are_born_while_programs_die_send_nothing_in_the_clear(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    cluster.namespace(BORN, &["istio.io/dataplane-mode=ambient"])?;
    let wire = stand.watch()?;
    // Whoever it is: nobody else calls these meanwhile.
    let everybody = "0.0.0.0/0".parse()?;
    let rules = SERVERS.iter().map(|server| Ok(Tunnelled { from: everybody, to: stand.address(&in_mesh(server))?.into() }));
    require(&wire, &rules.collect::<Result<Vec<_>>>()?);

    let count = stand.size.starting;
    let born = (0..count).map(|number| {
        // Each asks the server on the other node, from its first moment on.
        let (node, server) = (&cluster.nodes[number % 2], SERVERS[(number + 1) % 2]);
        talker(BORN, &format!("born-{number}"), node, &["serve", "--first", &format!("{}:9080", at(server))], "stand: born")
    });
    cluster.apply(&born.collect::<String>())?;
    let kills = count / 8;
    let mut chance = StdRng::seed_from_u64(count as u64);
    for number in 0..kills {
        // One more when so many more are there; late ones come while they are put off.
        until(PODS * 3, "more pods are ready", || Ok((ready(cluster)? * (kills + 1) >= number * count).then_some(())))?;
        let part = if chance.random() { "ztunnel" } else { "mesh-cni" };
        let pods = parts(cluster, part)?;
        let pod = &pods[chance.random_range(0..pods.len())];
        kill(cluster, pod, chance.random()).with_context(|| format!("kill {number}"))?;
    }
    println!("    {kills} programs were killed");
    until(PODS * 5, "all pods are ready", || {
        let ready = ready(cluster)?;
        ensure!(ready == count, "{ready} of {count} are ready");
        Ok(Some(()))
    })?;
    let names: Vec<String> = (0..count).map(|number| format!("{BORN}/born-{number}")).collect();
    wait_enrolled(cluster, &names.iter().map(String::as_str).collect::<Vec<_>>(), true)?;
    judge(&wire)?;
    drop(wire);
    cluster.kubectl(&["delete", "namespace", BORN, "--wait=true"])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "-n", SYSTEM, &format!("--timeout={}s", Duration::as_secs(&PODS))])?;
    stand.wait()
}

fn ready(cluster: &Cluster) -> Result<usize> {
    let pods = cluster.json(&["get", "pods", "-n", BORN])?;
    Ok(pods["items"].as_array().into_iter().flatten().filter(|pod| is_ready(pod)).count())
}
