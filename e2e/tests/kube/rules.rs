//! Who may, in tables: rows 11 and 12 of the integration checklist with all of their variants, who owns a name or an
//! address (T-24, T-25), what a node cannot enforce (V-52), and how soon a policy is in force.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Check, checks};
use serde_json::{Value, json};

use super::cluster::{Cluster, SOON, text, until};
use super::load::{Demand, Load, Report, ask, ask_at, until_answered};
use super::mesh::SYSTEM;
use super::stand::{CALLERS, MESH, OUTSIDE, SERVERS, STRANGER, Stand, at, in_mesh};

pub fn checks() -> Vec<Check<Cluster>> {
    checks![
        mutual_tls_is_demanded_where_it_is_asked_for,
        rules_are_told_apart,
        a_rule_for_requests_denies_at_a_node_and_says_so,
        addresses_and_names_stay_with_their_owners,
        a_policy_is_for_whom_it_selects,
        a_policy_is_in_force_on_both_nodes_soon,
    ]
}

/// Objects, and for each who asks which port of `server-2` whether that is answered.
struct Case {
    what: &'static str,
    objects: Vec<Value>,
    asked: Vec<(&'static str, u16, bool)>,
}

const HTTP: u16 = 9080;
const OTHER: u16 = 9083;
const CALLER: &str = "e2e-load/caller-1";
const NEIGHBOUR: &str = "e2e-load/server-1";

fn peer(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// For `server-2`.
fn policy(name: &str, action: &str, rule: Value) -> Value {
    let spec = json!({"selector": {"matchLabels": {"app": SERVERS[1]}}, "action": action, "rules": [rule]});
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"namespace": MESH, "name": name}, "spec": spec})
}

fn from(source: Value) -> Value {
    json!({"from": [{"source": source}]})
}

fn hold(stand: &Stand<'_>, cases: Vec<Case>) -> Result<()> {
    for case in cases {
        let held = case.objects.iter().try_for_each(|object| stand.api.apply(object).map(drop)).and_then(|()| {
            let as_told = || -> Result<Option<()>> {
                for (who, port, answered) in &case.asked {
                    let answer = ask_at(stand.cluster, who, &format!("{}:{port}", at(SERVERS[1])));
                    ensure!(answer.is_ok() == *answered, "{who} at port {port}: {}", answer.unwrap_or_else(|error| format!("{error:#}")).trim());
                }
                Ok(Some(()))
            };
            until(SOON, case.what, as_told)?;
            // It is not just passing by.
            as_told().map(drop)
        });
        case.objects.iter().try_for_each(|object| stand.api.delete(object))?;
        held.with_context(|| case.what.to_owned())?;
    }
    let everybody = [CALLER, NEIGHBOUR, STRANGER];
    everybody.iter().try_for_each(|who| until_answered(stand.cluster, who, &at(SERVERS[1])))
}

// Row 11: TestPeerAuthentication.
fn mutual_tls_is_demanded_where_it_is_asked_for(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let mode = |mode: &str| json!({"mtls": {"mode": mode}});
    let with_port = |all: &str, port: &str| json!({"selector": {"matchLabels": {"app": SERVERS[1]}}, "mtls": {"mode": all}, "portLevelMtls": {"9083": {"mode": port}}});
    let inside = [(CALLER, HTTP, true), (CALLER, OTHER, true)];
    let case = |what, objects, stranger: [bool; 2]| Case { what, objects, asked: [&inside[..], &[(STRANGER, HTTP, stranger[0]), (STRANGER, OTHER, stranger[1])]].concat() };
    hold(
        &stand,
        vec![
            case("nothing is asked for", vec![], [true, true]),
            case("permissive", vec![peer(MESH, "all", mode("PERMISSIVE"))], [true, true]),
            case("strict", vec![peer(MESH, "all", mode("STRICT"))], [false, false]),
            case("strict with a permissive port", vec![peer(MESH, "one", with_port("STRICT", "PERMISSIVE"))], [false, true]),
            case("strict, and a permissive port of a workload", vec![peer(MESH, "all", mode("STRICT")), peer(MESH, "one", with_port("STRICT", "PERMISSIVE"))], [false, true]),
            case("the mesh strict, a port of a workload permissive", vec![peer(SYSTEM, "all", mode("STRICT")), peer(MESH, "one", with_port("STRICT", "PERMISSIVE"))], [false, true]),
            case("the mesh strict, the namespace permissive", vec![peer(SYSTEM, "all", mode("STRICT")), peer(MESH, "all", mode("PERMISSIVE"))], [true, true]),
            case("the mesh permissive, a port of a workload strict", vec![peer(SYSTEM, "all", mode("PERMISSIVE")), peer(MESH, "one", with_port("PERMISSIVE", "STRICT"))], [true, false]),
        ],
    )
}

// Row 12: TestAuthorizationL4.
fn rules_are_told_apart(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let principal = |account: &str| format!("cluster.local/ns/{MESH}/sa/{account}");
    let range = |pod: &str| -> Result<String> { Ok(format!("{}/32", stand.address(pod)?)) };
    let port = |port: u16| json!({"operation": {"ports": [port.to_string()]}});
    let case = |what, objects, [caller, neighbour, stranger]: [bool; 3]| Case { what, objects, asked: vec![(CALLER, HTTP, caller), (NEIGHBOUR, HTTP, neighbour), (STRANGER, HTTP, stranger)] };
    let (only_caller, neighbour) = (from(json!({"principals": [principal(CALLERS[0])]})), from(json!({"principals": [principal(SERVERS[0])]})));
    let both = from(json!({"principals": [principal(CALLERS[0]), principal(SERVERS[0])]}));
    hold(
        &stand,
        vec![
            case("an account", vec![policy("p", "ALLOW", only_caller.clone())], [true, false, false]),
            case("an account, by its field", vec![policy("p", "ALLOW", from(json!({"serviceAccounts": [format!("{MESH}/{}", CALLERS[0])]})))], [true, false, false]),
            case("an account is denied", vec![policy("p", "DENY", neighbour.clone())], [true, false, true]),
            case("deny comes before allow", vec![policy("p", "ALLOW", both), policy("q", "DENY", neighbour)], [true, false, false]),
            case("all accounts but one", vec![policy("p", "ALLOW", from(json!({"notPrincipals": [principal(SERVERS[0])]})))], [true, false, true]),
            case("accounts that begin alike", vec![policy("p", "ALLOW", from(json!({"principals": [format!("{}*", principal("caller"))]})))], [true, false, false]),
            case("a namespace", vec![policy("p", "ALLOW", from(json!({"namespaces": [MESH]})))], [true, true, false]),
            case("a namespace is denied", vec![policy("p", "DENY", from(json!({"namespaces": [MESH]})))], [false, false, true]),
            case("an address", vec![policy("p", "ALLOW", from(json!({"ipBlocks": [range(CALLER)?]})))], [true, false, false]),
            case("an address is denied", vec![policy("p", "DENY", from(json!({"ipBlocks": [range(STRANGER)?]})))], [true, true, false]),
            case("all addresses but one", vec![policy("p", "ALLOW", from(json!({"notIpBlocks": [range(STRANGER)?]})))], [true, true, false]),
            case("a port is denied", vec![policy("p", "DENY", json!({"to": [port(HTTP)]}))], [false, false, false]),
            case("another port is denied", vec![policy("p", "DENY", json!({"to": [port(OTHER)]}))], [true, true, true]),
            case("an account at a port", vec![policy("p", "ALLOW", json!({"from": [{"source": {"principals": [principal(CALLERS[0])]}}], "to": [port(HTTP)]}))], [true, false, false]),
            Case {
                what: "an account at a port, and at another one not",
                objects: vec![policy("p", "ALLOW", json!({"from": [{"source": {"principals": [principal(CALLERS[0])]}}], "to": [port(OTHER)]}))],
                asked: vec![(CALLER, HTTP, false), (CALLER, OTHER, true), (STRANGER, OTHER, false)],
            },
            case("a rule without a word allows all", vec![policy("p", "ALLOW", json!({}))], [true, true, true]),
        ],
    )
}

/// What a condition of an object says.
fn condition(object: &Value, kind: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|one| one["type"] == kind).map(|one| text(&one["message"]))
}

// V-52: what a node cannot look at is left out of a DENY, which then denies more; a rule of nothing else has no effect
// (spec/controlplane.md 5.1). The status tells which.
fn a_rule_for_requests_denies_at_a_node_and_says_so(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let cases = [
        (json!({"to": [{"operation": {"ports": ["9080"], "paths": ["/secret"], "methods": ["GET"]}}]}), "more restrictive", false),
        (json!({"to": [{"operation": {"paths": ["/secret"], "methods": ["GET"]}}]}), "no rule of the policy has any effect", true),
    ];
    for (rule, told, is_served) in cases {
        let object = policy("requests", "DENY", rule);
        let held = stand.api.apply(&object).and_then(|_| {
            until(SOON, "the status says what a node cannot look at", || {
                let said = condition(&stand.api.read(&object)?, "ZtunnelAccepted").unwrap_or_default();
                ensure!(["paths", "methods", told].iter().all(|word| said.contains(word)), "it says {said:?}");
                Ok(Some(()))
            })?;
            until(SOON, told, || Ok((ask(cluster, CALLER, &at(SERVERS[1])).is_ok() == is_served).then_some(())))
        });
        stand.api.delete(&object)?;
        held?;
        until_answered(cluster, CALLER, &at(SERVERS[1]))?;
    }
    Ok(())
}

fn entry(namespace: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

// T-24, T-25: who claims a pod's address, a service's host or its virtual address gets nothing of its traffic.
fn addresses_and_names_stay_with_their_owners(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let victim = stand.address(&in_mesh(SERVERS[1]))?;
    let vip = text(&cluster.json(&["get", "service", "-n", MESH, SERVERS[1]])?["spec"]["clusterIP"]);
    let thief = stand.address(STRANGER)?;
    let ports = json!([{"number": HTTP, "name": "http", "protocol": "HTTP"}]);
    let host = format!("{}.{MESH}.svc.cluster.local", SERVERS[1]);
    let claims = [
        entry(OUTSIDE, "WorkloadEntry", "thief", json!({"address": victim.to_string(), "serviceAccount": "stranger", "labels": {"app": SERVERS[1]}})),
        entry(OUTSIDE, "ServiceEntry", "host", json!({"hosts": [host], "ports": ports, "resolution": "STATIC", "endpoints": [{"address": thief.to_string()}]})),
        entry(OUTSIDE, "ServiceEntry", "vip", json!({"hosts": ["thief.example"], "addresses": [vip], "ports": ports, "resolution": "STATIC", "endpoints": [{"address": thief.to_string()}]})),
    ];
    let load = Load::begin(CALLER, &at(SERVERS[1]), Demand::fresh(50).with_open(2, 5))?;
    let applied = claims.iter().try_for_each(|claim| stand.api.apply(claim).map(drop));
    // They have arrived when the daemons know the name that is nobody else's.
    let arrived = applied.and_then(|()| {
        until(SOON, "the claims are known", || {
            let dump = stand.api.dump(&super::mesh::ztunnel(cluster, &cluster.nodes[0])?)?;
            Ok(dump["services"].as_array().into_iter().flatten().any(|one| one["hostname"] == "thief.example").then_some(()))
        })?;
        let answers: Vec<String> = (0..20).map(|_| ask(cluster, CALLER, &at(SERVERS[1]))).collect::<Result<_>>()?;
        ensure!(answers.iter().all(|answer| answer.contains("\"name\":\"server-2\"")), "somebody else answered: {answers:?}");
        Ok(())
    });
    claims.iter().try_for_each(|claim| stand.api.delete(claim))?;
    let report = load.end()?;
    println!("    {report}");
    arrived?;
    report.all_held()?;
    let servers: Vec<&String> = report.said["servers"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
    ensure!(servers == [SERVERS[1]], "others answered too: {servers:?}");
    Ok(())
}

// V-66: the same name in two namespaces, another label, another namespace.
fn a_policy_is_for_whom_it_selects(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let deny = |namespace: &str, selector: Value| {
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"namespace": namespace, "name": "same"},
               "spec": {"selector": selector, "action": "DENY", "rules": [{}]}})
    };
    let of = |app: &str| json!({"matchLabels": {"app": app}});
    let elsewhere = deny(OUTSIDE, of(SERVERS[1]));
    stand.api.apply(&elsewhere)?;
    let held = [([true, false], of(SERVERS[1])), ([false, true], of(SERVERS[0])), ([true, true], of("nobody"))].into_iter().try_for_each(|(served, selector)| {
        stand.api.apply(&deny(MESH, selector))?;
        until(SOON, "the policy is for whom it selects", || {
            for (server, is_served) in SERVERS.into_iter().zip(served) {
                ensure!(ask(cluster, CALLER, &at(server)).is_ok() == is_served, "{server} should be {}", if is_served { "served" } else { "denied" });
            }
            Ok(Some(()))
        })
    });
    stand.api.delete(&elsewhere)?;
    stand.api.delete(&deny(MESH, of("nobody")))?;
    held
}

/// From the API server's answer until open connections to both nodes are cut.
fn a_policy_is_in_force_on_both_nodes_soon(cluster: &Cluster) -> Result<()> {
    let stand = Stand::up(cluster)?;
    let deny = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"namespace": MESH, "name": "timed"},
                      "spec": {"selector": {"matchLabels": {"role": "server"}}, "action": "DENY", "rules": [{}]}});
    let held = Demand::fresh(0).with_open(0, 1);
    let loads: Vec<Load> = CALLERS.iter().zip(SERVERS.iter().rev()).map(|(from, to)| Load::begin(&in_mesh(from), &at(to), held)).collect::<Result<_>>()?;
    let mut answered = Vec::new();
    let timed = (0..stand.size.timed_policies).try_for_each(|_| {
        for (caller, server) in CALLERS.iter().zip(SERVERS.iter().rev()) {
            until_answered(cluster, &in_mesh(caller), &at(server))?;
        }
        answered.push(u64::try_from(stand.api.apply(&deny)?.duration_since(UNIX_EPOCH)?.as_millis())?);
        for (caller, server) in CALLERS.iter().zip(SERVERS.iter().rev()) {
            super::load::until_refused(cluster, &in_mesh(caller), &at(server))?;
        }
        stand.api.delete(&deny)
    });
    stand.api.delete(&deny)?;
    let reports: Vec<Report> = loads.into_iter().map(Load::end).collect::<Result<_>>()?;
    timed?;
    let cuts: Vec<Vec<u64>> = reports.iter().map(Report::failed_at).collect();
    let mut took = answered.iter().map(|at| in_force(*at, &cuts)).collect::<Result<Vec<_>>>()?;
    took.sort_unstable();
    let part = |part: usize| took[(took.len() * part).div_ceil(100).saturating_sub(1)];
    println!("    {} policies were in force on both nodes after {} ms (median), {} ms (p99), {} ms at most", took.len(), part(50), part(99), part(100));
    ensure!(Duration::from_millis(part(99)) <= stand.size.in_force_within, "p99 is {} ms", part(99));
    Ok(())
}

/// Milliseconds until the last of the connections noticed. The change may be there before its author has his answer.
fn in_force(answered: u64, cuts: &[Vec<u64>]) -> Result<u64> {
    /// Between two policies there is more than this.
    const BEFORE_MAX: u64 = 150;
    let mut last = 0;
    for cuts in cuts {
        let Some(cut) = cuts.iter().find(|at| **at + BEFORE_MAX >= answered) else { bail!("a connection was not cut") };
        last = last.max(cut.saturating_sub(answered));
    }
    Ok(last)
}

