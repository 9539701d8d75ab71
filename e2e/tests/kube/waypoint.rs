//! Waypoints: made by a Gateway, bound by a label, rolled and scaled under load, and closed while they are missing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Check, checks};
use serde_json::Value;

use super::cluster::{Cluster, PODS, SOON, bounded, root, text, until};
use super::load::{Demand, Load, Report, ask, until_answered, until_refused};
use super::stand::{BOTH, CALLERS, MESH, SERVERS, Stand, at, in_mesh};

pub const WAYPOINT: &str = "wp";
const USE: &str = "istio.io/use-waypoint";

pub fn checks() -> Vec<Check<Cluster>> {
    checks![
        a_gateway_becomes_a_waypoint,
        a_canary_moves_under_load,
        a_waypoint_is_scaled_and_replaced_under_load,
        labels_of_waypoints_flip_under_load,
        a_missing_waypoint_closes_what_a_policy_covers,
        a_waypoint_goes_with_its_gateway,
    ]
}

fn gateway() -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {WAYPOINT}, namespace: {MESH}}}\n\
         spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n"
    )
}

/// The stand, and in its namespace a waypoint that is ready and that nobody uses.
pub fn up(cluster: &Cluster) -> Result<Stand<'_>> {
    let stand = Stand::up(cluster)?;
    let program = root().join("e2e/cluster/cluster").display().to_string();
    let given = bounded(&program).arg("gateway-api").output()?;
    ensure!(given.status.success(), "the CRDs of the Gateway API: {}", String::from_utf8_lossy(&given.stderr));
    cluster.kubectl(&["label", "service", "--all", "-n", MESH, "istio.io/use-waypoint-"])?;
    let what_others_left = "httproute,virtualservice,destinationrule,authorizationpolicy,requestauthentication";
    cluster.kubectl(&["delete", what_others_left, "--all", "-n", MESH])?;
    cluster.apply(&gateway())?;
    cluster.kubectl(&["wait", "-n", MESH, &format!("gateway/{WAYPOINT}"), "--for=condition=Programmed", "--timeout=120s"])?;
    Ok(stand)
}

pub fn label(cluster: &Cluster, service: &str, value: Option<&str>) -> Result<()> {
    let label = value.map_or_else(|| format!("{USE}-"), |value| format!("{USE}={value}"));
    cluster.kubectl(&["label", "service", service, "-n", MESH, &label, "--overwrite"]).map(drop)
}

/// Status and reason of a service's condition about its waypoint.
fn bound(cluster: &Cluster, service: &str) -> Result<Option<(String, String)>> {
    let service = cluster.json(&["get", "service", service, "-n", MESH])?;
    let conditions = service["status"]["conditions"].as_array().cloned().unwrap_or_default();
    Ok(conditions.iter().find(|one| one["type"] == "istio.io/WaypointBound").map(|one| (text(&one["status"]), text(&one["reason"]))))
}

pub fn until_bound(cluster: &Cluster, service: &str, status: &str) -> Result<()> {
    until(SOON, &format!("{service} has WaypointBound={status}"), || Ok(bound(cluster, service)?.is_some_and(|(is, _)| is == status).then_some(())))
}

/// Addresses of the waypoint's instances.
fn instances(cluster: &Cluster) -> Result<Vec<String>> {
    let pods = cluster.json(&["get", "pods", "-n", MESH, "-l", &format!("gateway.networking.k8s.io/gateway-name={WAYPOINT}")])?;
    Ok(pods["items"].as_array().into_iter().flatten().map(|pod| text(&pod["status"]["podIP"])).collect())
}

/// The address from which a server says it was called.
fn seen_as(cluster: &Cluster, service: &str) -> Result<String> {
    let said: Value = serde_json::from_str(&ask(cluster, &in_mesh(CALLERS[0]), &at(service))?)?;
    let peer = text(&said["peer"]);
    Ok(peer.rsplit_once(':').context("an address with a port")?.0.trim_matches(['[', ']']).to_owned())
}

pub fn until_through(cluster: &Cluster, service: &str) -> Result<()> {
    until(SOON, &format!("{service} is called by the waypoint"), || {
        let (seen, instances) = (seen_as(cluster, service)?, instances(cluster)?);
        ensure!(instances.contains(&seen), "it is called by {seen}, the waypoint is {instances:?}");
        Ok(Some(()))
    })
}

/// Rows 6, 39 and 40 of spec/controlplane.md 11: TestRemoveAddWaypoint, TestWaypointStatus, TestWaypoint.
fn a_gateway_becomes_a_waypoint(cluster: &Cluster) -> Result<()> {
    let stand = up(cluster)?;
    let gateway = cluster.json(&["get", "gateway", WAYPOINT, "-n", MESH])?;
    let addresses: Vec<String> = gateway["status"]["addresses"].as_array().into_iter().flatten().map(|one| text(&one["value"])).collect();
    ensure!(addresses.contains(&format!("{WAYPOINT}.{MESH}.svc.cluster.local")), "status.addresses: {addresses:?}");
    let pod = cluster.json(&["get", "pods", "-n", MESH, "-l", &format!("gateway.networking.k8s.io/gateway-name={WAYPOINT}")])?["items"][0].clone();
    ensure!(pod["metadata"]["labels"]["istio.io/dataplane-mode"] == "none", "its pods are not to be captured");
    ensure!(pod["metadata"]["annotations"]["ambient.istio.io/redirection"].is_null(), "its pods were captured");
    label(cluster, SERVERS[1], Some(WAYPOINT))?;
    until_bound(cluster, SERVERS[1], "True")?;
    until_through(cluster, SERVERS[1])?;
    let others = seen_as(cluster, SERVERS[0])?;
    ensure!(!instances(cluster)?.contains(&others), "a service without the label goes through the waypoint");
    label(cluster, SERVERS[1], None)?;
    until(SOON, "without the label it is called directly", || Ok((!instances(cluster)?.contains(&seen_as(cluster, SERVERS[1])?)).then_some(())))?;
    ensure!(bound(cluster, SERVERS[1])?.is_none(), "a service without the label still says what waypoint it has");
    stand.wait()
}

fn split(first: u32, second: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: canary, namespace: {MESH}}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: {BOTH}, port: 9080}}]\n  rules:\n  - backendRefs:\n    \
         - {{name: {}, port: 9080, weight: {first}}}\n    - {{name: {}, port: 9080, weight: {second}}}\n",
        SERVERS[0], SERVERS[1]
    )
}

/// Row 10: TestTrafficSplit; a canary from 90/10 over 50/50 to the new one alone.
fn a_canary_moves_under_load(cluster: &Cluster) -> Result<()> {
    let stand = up(cluster)?;
    cluster.apply(&split(100, 0))?;
    label(cluster, BOTH, Some(WAYPOINT))?;
    until_bound(cluster, BOTH, "True")?;
    until_through(cluster, BOTH)?;
    for (first, second) in [(90, 10), (50, 50), (0, 100)] {
        let load = Load::begin(&in_mesh(CALLERS[0]), &at(BOTH), Demand::fresh(50))?;
        cluster.apply(&split(first, second))?;
        std::thread::park_timeout(Duration::from_secs(8));
        let moved = load.end()?;
        println!("    {first}/{second}: {moved}");
        moved.all_held()?;
        let after = Load::begin(&in_mesh(CALLERS[1]), &at(BOTH), Demand::fresh(100))?;
        std::thread::park_timeout(Duration::from_secs(5));
        let report = after.end()?;
        report.all_held()?;
        let share = share(&report, SERVERS[1]);
        println!("    {first}/{second}: {share:.1} % of {} requests went to {}", report.ok(), SERVERS[1]);
        ensure!((share - f64::from(second)).abs() < 8.0, "{share:.1} % instead of {second} %");
    }
    cluster.delete(&split(0, 100))?;
    label(cluster, BOTH, None)?;
    stand.wait()
}

/// What a server had of all answers, in percent.
fn share(report: &Report, server: &str) -> f64 {
    let (its, all) = report.answered_by(server);
    if all == 0 { 0.0 } else { its as f64 * 100.0 / all as f64 }
}

/// A waypoint that is scaled from 1 to 3 to 1, and replaced, loses no request.
fn a_waypoint_is_scaled_and_replaced_under_load(cluster: &Cluster) -> Result<()> {
    let stand = up(cluster)?;
    label(cluster, BOTH, Some(WAYPOINT))?;
    until_bound(cluster, BOTH, "True")?;
    until_through(cluster, BOTH)?;
    let deployment = format!("deployment/{WAYPOINT}");
    let scale = |replicas: usize| -> Result<()> {
        cluster.kubectl(&["scale", &deployment, "-n", MESH, &format!("--replicas={replicas}")])?;
        cluster.kubectl(&["rollout", "status", &deployment, "-n", MESH, "--timeout=2m"])?;
        until(PODS, &format!("{replicas} instances are left"), || Ok((instances(cluster)?.len() == replicas).then_some(())))
    };
    let replace = || -> Result<()> {
        cluster.kubectl(&["rollout", "restart", &deployment, "-n", MESH])?;
        cluster.kubectl(&["rollout", "status", &deployment, "-n", MESH, "--timeout=2m"])?;
        until(PODS, "one instance is left", || Ok((instances(cluster)?.len() == 1).then_some(())))
    };
    let changes: [(&str, &dyn Fn() -> Result<()>); 3] = [("1 to 3", &|| scale(3)), ("3 to 1", &|| scale(1)), ("replaced", &replace)];
    for (what, change) in changes {
        let loads = CALLERS.map(|from| Load::begin(&in_mesh(from), &at(BOTH), Demand::fresh(50)));
        let changed = change();
        for load in loads {
            let report = load?.end()?;
            println!("    {what}: {report}");
            report.all_held()?;
        }
        changed?;
    }
    label(cluster, BOTH, None)?;
    stand.wait()
}

/// Whether traffic goes through the waypoint or past it changes between two requests, again and again.
fn labels_of_waypoints_flip_under_load(cluster: &Cluster) -> Result<()> {
    const RATE: u32 = 100;
    let stand = up(cluster)?;
    let loads: Vec<Load> = CALLERS.iter().map(|from| Load::begin(&in_mesh(from), &at(BOTH), Demand::fresh(RATE))).collect::<Result<_>>()?;
    let began = Instant::now();
    let asked = || began.elapsed().as_secs() * u64::from(RATE) * loads.len() as u64;
    let mut flips = 0;
    let mut flip = || -> Result<()> {
        label(cluster, BOTH, Some(WAYPOINT))?;
        until_bound(cluster, BOTH, "True")?;
        until_through(cluster, BOTH)?;
        label(cluster, BOTH, None)?;
        until(SOON, "it is called directly", || Ok((!instances(cluster)?.contains(&seen_as(cluster, BOTH)?)).then_some(())))?;
        flips += 2;
        Ok(())
    };
    let mut flipped = Ok(());
    while flipped.is_ok() && asked() < stand.size.turns_requests {
        flipped = flip();
    }
    for load in loads {
        let report = load.end()?;
        println!("    {flips} flips: {report}");
        report.all_held()?;
    }
    flipped?;
    stand.wait()
}

/// Row 7: TestBogusUseWaypoint; and what is closed instead where a policy could not be enforced.
fn a_missing_waypoint_closes_what_a_policy_covers(cluster: &Cluster) -> Result<()> {
    let stand = up(cluster)?;
    let (service, caller) = (SERVERS[1], in_mesh(CALLERS[0]));
    let policy = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: covers, namespace: {MESH}}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: {service}}}], action: ALLOW, rules: [{{}}]}}\n"
    );
    label(cluster, service, Some("bogus"))?;
    until_bound(cluster, service, "False")?;
    until_answered(cluster, &caller, &at(service))?;
    cluster.apply(&policy)?;
    until_refused(cluster, &caller, &at(service))?;
    let server = stand.address(&in_mesh(service))?;
    until_refused(cluster, &caller, &server.to_string())?;
    until_answered(cluster, &caller, &at(SERVERS[0]))?;
    // With a waypoint that is there it is open through that, and closed to whoever dials the pod.
    label(cluster, service, Some(WAYPOINT))?;
    until_bound(cluster, service, "True")?;
    until_answered(cluster, &caller, &at(service))?;
    until_through(cluster, service)?;
    until_refused(cluster, &caller, &server.to_string())?;
    until_refused(cluster, super::stand::STRANGER, &server.to_string())?;
    cluster.delete(&policy)?;
    until_answered(cluster, &caller, &server.to_string())?;
    label(cluster, service, None)?;
    stand.wait()
}

/// Its objects are the garbage collector's when it is deleted.
fn a_waypoint_goes_with_its_gateway(cluster: &Cluster) -> Result<()> {
    let stand = up(cluster)?;
    cluster.delete(&gateway())?;
    for kind in ["deployment", "service", "serviceaccount"] {
        until(PODS, &format!("the {kind} is gone"), || Ok(cluster.kubectl(&["get", kind, WAYPOINT, "-n", MESH, "--ignore-not-found", "-o", "name"])?.trim().is_empty().then_some(())))?;
    }
    stand.wait()
}
