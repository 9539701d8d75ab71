//! Names beside Kubernetes' own, what is outside of the mesh, and what is told of traffic: rows 3, 20 to 25, 29 and 37 of
//! the integration checklist.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use anyhow::{Context as _, Result, ensure};
use e2e::{Check, Outcome, checks};
use isthmus::lab::netns;
use serde_json::{Value, json};

use super::cluster::{Cluster, SOON, control, switch, text, until};
use super::load::{Demand, Load, ask, ask_at};
use super::mesh::{SYSTEM, parts, ztunnel};
use super::stand::{BOTH, CALLERS, MESH, OUTSIDE, SERVERS, STRANGER, Stand, at, in_mesh};

pub fn checks() -> Vec<Check<Cluster>> {
    let mut checks = checks![a_service_spreads_over_its_endpoints, service_entries_lead_to_their_endpoints, service_entries_are_seen_by_whom_they_are_for, traffic_is_counted_with_both_ends, a_daemons_metrics_are_read_through_a_tunnel];
    checks.insert(1, Check { name: "what_nobody_knows_is_reached_as_without_a_mesh", run: what_nobody_knows_is_reached_as_without_a_mesh, known: None });
    checks
}

// Row 3: TestServerSideLB.
fn a_service_spreads_over_its_endpoints(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let load = Load::begin(&in_mesh(CALLERS[0]), &at(BOTH), Demand::fresh(100))?;
    let began = std::time::Instant::now();
    until(SOON, "some requests", || Ok((began.elapsed().as_secs() >= 5).then_some(())))?;
    let report = load.end()?;
    report.all_held()?;
    let served: Vec<u64> = SERVERS.iter().map(|server| report.said["servers"][server].as_u64().unwrap_or(0)).collect();
    ensure!(served.iter().all(|served| served * 4 >= report.ok()), "it is not spread: {served:?}");
    // They see who called, as without a mesh.
    let caller = stand.address(&in_mesh(CALLERS[0]))?.to_string();
    ensure!(report.said["seen_as"] == json!([caller]), "seen as {}", report.said["seen_as"]);
    Ok(())
}

// Row 20: TestOutboundPolicyAllowAny.
fn what_nobody_knows_is_reached_as_without_a_mesh(cluster: &Cluster) -> Result<Outcome> {
    if !cluster.ours {
        return Ok(Outcome::Skipped("nothing outside of this cluster is ours to be called".into()));
    }
    let stand = Stand::up(cluster)?;
    let place = control();
    // Beside the API server, from where there is a way back to pods.
    let listener = netns::within(&netns::path(&switch()), move || TcpListener::bind((place, 0)))??;
    let at = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\noutside");
        }
    });
    let said = ask_at(cluster, &in_mesh(CALLERS[0]), &at)?;
    ensure!(said.trim() == "outside", "{said}");
    drop(stand);
    Ok(Outcome::Held)
}

fn entry(name: &str, spec: Value) -> Value {
    entry_of(MESH, name, spec)
}

fn entry_of(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

// Rows 21 to 24: inlined endpoints, chosen WorkloadEntries, chosen pods, and addresses that are given to names alone.
fn service_entries_lead_to_their_endpoints(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 9080}]);
    let (server, stranger) = (stand.address(&in_mesh(SERVERS[1]))?.to_string(), stand.address(STRANGER)?.to_string());
    let objects = [
        entry("inlined", json!({"hosts": ["inlined.example"], "addresses": ["240.1.1.1"], "ports": ports, "location": "MESH_INTERNAL", "resolution": "STATIC", "endpoints": [{"address": server}]})),
        entry("outside", json!({"hosts": ["outside.example"], "ports": ports, "location": "MESH_EXTERNAL", "resolution": "STATIC", "endpoints": [{"address": stranger}]})),
        entry("chosen", json!({"hosts": ["chosen.example"], "ports": ports, "location": "MESH_INTERNAL", "resolution": "STATIC", "workloadSelector": {"labels": {"chosen": "yes"}}})),
        entry("pods", json!({"hosts": ["pods.example"], "ports": ports, "location": "MESH_INTERNAL", "resolution": "STATIC", "workloadSelector": {"labels": {"app": SERVERS[0]}}})),
        entry("dns", json!({"hosts": ["dns.example"], "ports": ports, "location": "MESH_EXTERNAL", "resolution": "DNS",
                            "endpoints": [{"address": at(SERVERS[1]).trim_end_matches('.')}]})),
        json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": {"namespace": MESH, "name": "chosen"},
               "spec": {"address": stranger, "labels": {"chosen": "yes"}}}),
    ];
    let held = objects.iter().try_for_each(|object| stand.api.apply(object).map(drop)).and_then(|()| {
        let asked = [
            ("240.1.1.1:80", SERVERS[1]),
            ("inlined.example:80", SERVERS[1]),
            ("outside.example:80", "stranger"),
            ("chosen.example:80", "stranger"),
            ("pods.example:80", SERVERS[0]),
            ("dns.example:80", SERVERS[1]),
        ];
        asked.iter().try_for_each(|(place, by)| {
            until(SOON, &format!("{place} leads to {by}"), || {
                let said = ask_at(cluster, &in_mesh(CALLERS[0]), place)?;
                ensure!(said.contains(&format!("\"name\":\"{by}\"")), "it said {}", said.trim());
                Ok(Some(()))
            })
        })
    });
    objects.iter().try_for_each(|object| stand.api.delete(object))?;
    held
}

// Row 25: TestServiceEntryVisibility.
fn service_entries_are_seen_by_whom_they_are_for(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let server = stand.address(&in_mesh(SERVERS[1]))?.to_string();
    let spec = |host: &str| json!({"hosts": [host], "ports": [{"number": 9080, "name": "http", "protocol": "HTTP"}], "resolution": "STATIC", "endpoints": [{"address": server}]});
    let objects = [entry_of(MESH, "own", spec("own.example")), entry_of(OUTSIDE, "foreign", spec("foreign.example"))];
    let configure = |mesh: &str| {
        let patch = json!({"data": {"mesh": mesh}}).to_string();
        cluster.kubectl(&["patch", "configmap", "istio", "-n", SYSTEM, "--type=merge", "-p", &patch])
    };
    let held = objects.iter().try_for_each(|object| stand.api.apply(object).map(drop)).and_then(|()| {
        for (visibility, own, foreign) in [("PUBLIC", true, true), ("NAMESPACE", true, false), ("NONE", false, false), ("PUBLIC", true, true)] {
            configure(&format!("serviceEntryVisibility: {{defaultVisibility: {visibility}}}"))?;
            for (host, seen) in [("own.example", own), ("foreign.example", foreign)] {
                until(SOON, &format!("{host} with {visibility}"), || {
                    let answer = ask(cluster, &in_mesh(CALLERS[0]), &format!("{host}."));
                    ensure!(answer.is_ok() == seen, "it is {}seen", if seen { "not " } else { "" });
                    Ok(Some(()))
                })?;
            }
        }
        Ok(())
    });
    configure("")?;
    objects.iter().try_for_each(|object| stand.api.delete(object))?;
    held
}

// Row 29: TestL4Telemetry.
fn traffic_is_counted_with_both_ends(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let identity = |account: &str| format!("spiffe://cluster.local/ns/{MESH}/sa/{account}");
    let (source, destination) = (format!("source_principal=\"{}\"", identity(CALLERS[0])), format!("destination_principal=\"{}\"", identity(SERVERS[1])));
    let host = format!("destination_service=\"{}.{MESH}.svc.cluster.local\"", SERVERS[1]);
    let labels = ["reporter=\"destination\"", &source, &destination, &host, "connection_security_policy=\"mutual_tls\"", "source_workload=\"caller-1\"", "destination_workload=\"server-2\""];
    let counted = || stand.api.metric(&ztunnel(cluster, &cluster.nodes[1])?, 15020, "istio_tcp_connections_opened_total", &labels);
    let before = counted()?;
    for _ in 0..5 {
        ask(cluster, &in_mesh(CALLERS[0]), &at(SERVERS[1]))?;
    }
    until(SOON, "five connections are counted", || {
        let more = counted()? - before;
        ensure!(more >= 5.0, "{more} of 5 with {labels:?}");
        Ok(Some(()))
    })
}

// Row 37: TestZtunnelSecureMetrics.
fn a_daemons_metrics_are_read_through_a_tunnel(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let daemon = parts(cluster, "ztunnel")?.into_iter().find(|pod| pod["spec"]["nodeName"] == cluster.nodes[1].as_str()).context("no daemon on the node")?;
    let (name, ip) = (text(&daemon["metadata"]["name"]), text(&daemon["status"]["podIP"]));
    let own = format!("destination_principal=\"spiffe://cluster.local/ns/{SYSTEM}/sa/ztunnel\"");
    let counted = || stand.api.metric(&name, 15020, "istio_tcp_connections_opened_total", &["reporter=\"destination\"", "destination_workload=\"ztunnel\"", &own]);
    let before = counted()?;
    let page = cluster.exec(&in_mesh(CALLERS[0]), &[super::load::PROGRAM, "ask", &format!("{ip}:15020"), "/metrics"])?;
    ensure!(page.contains("istio_build{"), "it said {}", page.get(..200).unwrap_or(&page));
    until(SOON, "the connection is counted as one to the daemon's own identity", || Ok((counted()? > before).then_some(())))
}
