//! Programs of the mesh are replaced, killed and missing, and a node is rebooted: what runs goes on.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::clear::Tunnelled;
use e2e::{Check, Outcome, checks};

use super::cluster::{Cluster, PODS, root, until};
use super::kill::kill_process;
use super::load::{Demand, Load, Report, under_load, until_refused};
use super::mesh::{SYSTEM, is_enrolled, parts, wait_enrolled};
use super::stand::{CALLERS, MESH, OUTSIDE, SERVERS, STRANGER, Stand, at, image, in_mesh, is_ready, judge, restart, service, talker, wait_for};

pub fn checks() -> Vec<Check<Cluster>> {
    let mut checks = checks![
        daemons_are_replaced_under_load,
        agents_are_replaced_under_load,
        a_server_is_replaced_under_load,
        pods_keep_working_without_an_agent,
        nothing_fails_without_a_controller,
        strict_holds_while_daemons_are_replaced_and_killed,
    ];
    checks.push(Check { name: "a_node_is_rebooted", run: a_node_is_rebooted, known: None });
    checks
}

/// Row 33: TestZtunnelRestart, without a failure. Connections that stay are told of, not judged: they may go on for the
/// daemon's grace, and end with it.
fn daemons_are_replaced_under_load(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let wire = stand.watch()?;
    if let Some(wire) = &wire {
        let pairs = stand.pairs()?;
        wire.look(|clear| clear.require(pairs));
    }
    for _ in 0..stand.size.rollouts {
        let replace = || restart(cluster, "daemonset/ztunnel");
        under_load(Demand::fresh(stand.size.rate / 2), u64::from(stand.size.rate) * 10, replace, Report::all_held)?;
    }
    judge(&wire)?;
    stand.wait()
}

/// Row 63, cniupgrade: TestTrafficWithCNIUpgrade. Connections that stay, stay.
fn agents_are_replaced_under_load(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    for _ in 0..stand.size.rollouts {
        let replace = || restart(cluster, "daemonset/mesh-cni");
        under_load(Demand::fresh(stand.size.rate / 2).with_open(4, 20), u64::from(stand.size.rate) * 10, replace, Report::all_held)?;
    }
    stand.wait()
}

/// Row 32: TestServiceRestart. A call each 40 ms, no second try.
fn a_server_is_replaced_under_load(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let name = "replaced";
    let deployment = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: {MESH}}}\n\
         spec:\n  replicas: 2\n  selector: {{matchLabels: {{app: {name}}}}}\n  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}\n  \
         template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      terminationGracePeriodSeconds: 15\n      containers:\n      \
         - name: meshload\n        image: {}\n        args: [serve, --linger, '5']\n        \
         readinessProbe: {{httpGet: {{path: /ready, port: 9080}}, periodSeconds: 1}}\n---\n{}",
        image(),
        service(MESH, name, &format!("app: {name}"))
    );
    cluster.apply(&deployment)?;
    let rollout = |what: &str| cluster.kubectl(&["rollout", what, &format!("deployment/{name}"), "-n", MESH]);
    rollout("status")?;
    let load = Load::begin(&in_mesh(CALLERS[0]), &at(name), Demand::fresh(25))?;
    let replaced = rollout("restart").and_then(|_| rollout("status"));
    let report = load.end()?;
    println!("    {report}");
    cluster.delete(&deployment)?;
    replaced?;
    report.all_held()?;
    stand.wait()
}

/// Row 60: TestTrafficWithEstablishedPodsIfCNIMissing. A new pod of the mesh waits; one outside of it does not.
fn pods_keep_working_without_an_agent(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let nowhere = r#"{"spec":{"template":{"spec":{"nodeSelector":{"e2e.isthmus/no-such-node":"yes"}}}}}"#;
    let back = r#"{"spec":{"template":{"spec":{"nodeSelector":{"e2e.isthmus/no-such-node":null}}}}}"#;
    let patch = |patch: &str| cluster.kubectl(&["patch", "daemonset", "mesh-cni", "-n", SYSTEM, "--type=strategic", "-p", patch]);
    let inside = talker(MESH, "waits", &cluster.nodes[0], &["serve"], "stand: other");
    let outside = talker(OUTSIDE, "goes-on", &cluster.nodes[0], &["serve"], "stand: other");
    let away = || -> Result<()> {
        patch(nowhere)?;
        until(PODS, "no agent runs", || Ok(parts(cluster, "mesh-cni")?.is_empty().then_some(())))?;
        cluster.apply(&(inside.clone() + &outside))?;
        let running = |namespace: &str, name: &str| -> Result<bool> { Ok(cluster.json(&["get", "pod", "-n", namespace, name])?["status"]["phase"] == "Running") };
        until(PODS, "a pod outside of the mesh runs", || Ok(running(OUTSIDE, "goes-on")?.then_some(())))?;
        ensure!(!running(MESH, "waits")?, "a pod of the mesh started in the clear");
        Ok(())
    };
    let held = under_load(Demand::fresh(50).with_open(4, 20), 1_000, away, Report::all_held);
    patch(back)?;
    cluster.kubectl(&["rollout", "status", "daemonset/mesh-cni", "-n", SYSTEM, "--timeout=3m"])?;
    held?;
    wait_for(cluster, MESH, "app=waits")?;
    wait_enrolled(cluster, &[&in_mesh("waits")], true)?;
    cluster.delete(&(inside + &outside))?;
    stand.wait()
}

/// F-06, F-08, V-33: objects of all kinds can be made meanwhile; a new pod of the mesh waits for its certificate.
fn nothing_fails_without_a_controller(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let replicas = cluster.json(&["get", "deployment", "istiod", "-n", SYSTEM])?["spec"]["replicas"].as_u64().context("replicas")?;
    let scale = |replicas: u64| cluster.kubectl(&["scale", "deployment/istiod", "-n", SYSTEM, &format!("--replicas={replicas}")]);
    let late = talker(MESH, "late", &cluster.nodes[0], &["serve", "--first", &format!("{}:9080", at(SERVERS[1]))], "stand: other");
    let others = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: made, namespace: {MESH}}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: made, namespace: {MESH}}}\n\
         spec: {{selector: {{matchLabels: {{app: nobody}}}}, action: DENY, rules: [{{}}]}}\n---\n{}",
        talker(OUTSIDE, "made", &cluster.nodes[1], &["serve"], "stand: other")
    );
    let away = || -> Result<()> {
        scale(0)?;
        until(PODS, "no controller runs", || Ok(parts(cluster, "istiod")?.is_empty().then_some(())))?;
        let gone = Instant::now();
        cluster.apply(&(others.clone() + &late)).context("objects are made without a controller")?;
        wait_for(cluster, OUTSIDE, "app=made")?;
        // A time that has to pass, not a level to wait for.
        until(stand.size.without_controller * 2, "the time without a controller", || Ok((gone.elapsed() >= stand.size.without_controller).then_some(())))?;
        let pod = cluster.json(&["get", "pod", "-n", MESH, "late"])?;
        ensure!(!is_ready(&pod), "a pod without a certificate was served");
        scale(replicas)?;
        cluster.kubectl(&["rollout", "status", "deployment/istiod", "-n", SYSTEM, "--timeout=3m"])?;
        let back = Instant::now();
        wait_for(cluster, MESH, "app=late")?;
        println!("    the new pod was served {:.1} s after the controller was back", back.elapsed().as_secs_f32());
        Ok(())
    };
    let held = under_load(Demand::fresh(50).with_open(4, 20), 1_000, away, Report::all_held);
    scale(replicas)?;
    cluster.delete(&(others.clone() + &late))?;
    held?;
    stand.wait()
}

/// V-65, F-01: a stranger's connections in the clear, ten a second to each server, while daemons and agents go and come.
fn strict_holds_while_daemons_are_replaced_and_killed(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let strict = format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: strict, namespace: {MESH}}}\nspec: {{mtls: {{mode: STRICT}}}}\n"
    );
    cluster.apply(&strict)?;
    let held = (|| {
        for server in SERVERS {
            until_refused(cluster, STRANGER, &at(server))?;
        }
        let loads: Vec<Load> = SERVERS.iter().map(|server| Load::begin_refused(STRANGER, &at(server))).collect::<Result<_>>()?;
        for _ in 0..stand.size.rollouts {
            restart(cluster, "daemonset/ztunnel")?;
            restart(cluster, "daemonset/mesh-cni")?;
            for part in ["ztunnel", "mesh-cni"] {
                if cluster.ours {
                    parts(cluster, part)?.iter().try_for_each(kill_process)?;
                    until(PODS, "what was killed runs again", || Ok(all_ready(cluster, part)?.then_some(())))?;
                }
            }
        }
        let reports: Vec<Report> = loads.into_iter().map(Load::end).collect::<Result<_>>()?;
        reports.iter().for_each(|report| println!("    {report}"));
        ensure!(reports.iter().all(|report| report.ok() > 0), "nobody was refused");
        reports.iter().try_for_each(Report::all_held)
    })();
    cluster.delete(&strict)?;
    held?;
    stand.wait()
}

fn all_ready(cluster: &Cluster, part: &str) -> Result<bool> {
    Ok(parts(cluster, part)?.iter().all(is_ready))
}

/// F-41: its namespaces are built anew; who calls on the other node does not notice.
fn a_node_is_rebooted(cluster: &Cluster) -> Result<Outcome> {
    if !cluster.ours {
        return Ok(Outcome::Skipped("a node of this cluster cannot be rebooted from here".into()));
    }
    let stand = Stand::up(cluster)?;
    let load = Load::begin(&in_mesh(CALLERS[0]), &at(SERVERS[0]), Demand::fresh(50).with_open(4, 20))?;
    let wire = stand.watch()?;
    if let Some(wire) = &wire {
        // Pods get other addresses. Whoever calls the server that stays comes from the other node, and is in the mesh.
        let rule = Tunnelled { from: "10.244.0.0/16".parse()?, to: stand.address(&in_mesh(SERVERS[0]))?.into() };
        wire.look(|clear| clear.require([rule]));
    }
    let rebooted = (|| {
        reboot(&cluster.nodes[1])?;
        // It is down for as long as its kubelet is; then its pods are started again.
        until(PODS * 2, "the pods of the node run in new containers", || {
            let pods = cluster.json(&["get", "pods", "-n", MESH, "--field-selector", &format!("spec.nodeName={}", cluster.nodes[1])])?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            let anew = |pod: &serde_json::Value| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0);
            Ok((!pods.is_empty() && pods.iter().all(anew)).then_some(()))
        })?;
        stand.wait()?;
        ensure!(is_enrolled(cluster, &in_mesh(SERVERS[1]))?, "the pod is not in the mesh");
        // Both ways across the wire, from the node that was away.
        under_load(Demand::fresh(50), 500, || Ok(()), Report::all_held)
    })();
    let report = load.end()?;
    println!("    {report}");
    rebooted?;
    report.all_held()?;
    judge(&wire)?;
    Ok(Outcome::Held)
}

/// As if its power had gone; back when its kubelet answers.
fn reboot(node: &str) -> Result<()> {
    let output = Command::new(root().join("e2e/cluster/cluster")).args(["reboot", node]).output()?;
    ensure!(output.status.success(), "the node was not rebooted: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
