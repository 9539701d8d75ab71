//! The report of a mesh on a cluster. Pure: facts in, a report out.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::facts::{Facts, PARTS, Part as Which, Pod as Fact, Rollout};
use crate::plan::is_wanted;
use crate::published::REDIRECTION;

use super::daemon::Daemon;
use super::{Link, Membership, Namespace, Node, Part, Pod, Problem, Report, Waypoint, Weight};
use crate::waypoint::gateway;

/// On a waypoint's pods.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// Where nothing of the mesh is installed.
pub const INSTALL: &str = "helm install isthmus charts/isthmus -n istio-system --create-namespace --set image.hub=REGISTRY";

pub fn report(facts: &Facts) -> Report {
    let installed = facts.mesh_namespace().map_or("no mesh is installed".to_owned(), |namespace| format!("mesh in namespace {namespace}"));
    let mut report = Report { about: format!("{} (Kubernetes {}): {installed}", facts.about, facts.server_version), ..Report::default() };
    report.parts = PARTS.into_iter().filter_map(|part| Some(of_part(facts, part, facts.rollout(part)?))).collect();
    let pods: Vec<(&Fact, Membership)> = facts.pods.iter().filter(|pod| !pod.has_ended()).map(|pod| (pod, membership(facts, pod))).filter(|(_, mesh)| mesh.is_wanted()).collect();
    report.nodes = facts.nodes.iter().map(|node| of_node(facts, node.name.clone(), node.address.clone(), &pods)).collect();
    report.namespaces = namespaces(facts, &pods);
    report.pods = pods.iter().map(|(pod, mesh)| of_pod(pod, mesh.clone())).collect();
    report.waypoints = facts.waypoints.iter().map(|waypoint| of_waypoint(facts, waypoint)).collect();
    report.problems = problems(facts, &report, &pods);
    report.problems.extend(about_waypoints(facts, &report.waypoints));
    report.problems.sort();
    report
}

fn of_part(facts: &Facts, which: Which, rollout: &Rollout) -> Part {
    let mut versions: BTreeMap<String, usize> = BTreeMap::new();
    for pod in facts.pods_of(which) {
        let said = match which {
            Which::Controller => facts.controllers.get(&pod.full_name()).and_then(|one| one.as_ref().ok()).map(|one| one.version.clone()),
            Which::Daemon => daemon_of(facts, pod).map(|daemon| daemon.version.clone()),
            Which::Agent => None,
        };
        *versions.entry(said.filter(|version| !version.is_empty()).unwrap_or_else(|| pod.tag())).or_default() += 1;
    }
    Part {
        name: which.name().to_owned(),
        place: format!("{}/{}", rollout.namespace, rollout.name),
        desired: rollout.desired,
        ready: rollout.ready,
        versions,
        restarts: facts.pods_of(which).map(|pod| pod.restarts).sum(),
    }
}

fn daemon_of<'a>(facts: &'a Facts, pod: &Fact) -> Option<&'a Daemon> {
    facts.daemons.get(&pod.node)?.as_ref().ok()
}

fn of_node(facts: &Facts, name: String, address: String, pods: &[(&Fact, Membership)]) -> Node {
    let (enrolled, wanted) = counts(pods, |pod| pod.node == name);
    Node {
        ztunnel: link(facts, &name),
        enrolled,
        wanted,
        certificates: facts.daemons.get(&name).and_then(|daemon| daemon.as_ref().ok()).map(Daemon::certificates).unwrap_or_default(),
        name,
        address,
    }
}

fn of_waypoint(facts: &Facts, waypoint: &gateway::Waypoint) -> Waypoint {
    let name = format!("{}/{}", waypoint.namespace, waypoint.name);
    let is_instance = |pod: &&Fact| pod.namespace == waypoint.namespace && pod.labels.get(GATEWAY_NAME) == Some(&waypoint.name) && !pod.is_leaving && !pod.has_ended();
    let mut serves: BTreeMap<String, usize> = BTreeMap::new();
    for bound in facts.bound.iter().filter(|bound| bound.is_bound && bound.waypoint == name) {
        *serves.entry(bound.namespace.clone()).or_default() += 1;
    }
    Waypoint {
        traffic: waypoint.traffic.clone(),
        ready: facts.pods.iter().filter(is_instance).filter(|pod| pod.is_ready).count(),
        instances: facts.pods.iter().filter(is_instance).count(),
        serves,
        is_programmed: waypoint.is_programmed(),
        why: waypoint.why(),
        name,
    }
}

fn about_waypoints(facts: &Facts, waypoints: &[Waypoint]) -> Vec<Problem> {
    let unwell = waypoints.iter().filter(|waypoint| !waypoint.is_programmed).map(|waypoint| {
        let (namespace, name) = waypoint.name.split_once('/').unwrap_or_default();
        Problem::error(format!("waypoint {}", waypoint.name), &waypoint.why, format!("kubectl -n {namespace} describe pods -l {GATEWAY_NAME}={name}"))
    });
    let unbound = facts.bound.iter().filter(|bound| !bound.is_bound).map(|bound| {
        let repair = match waypoints.iter().any(|waypoint| waypoint.name == bound.waypoint) {
            true => format!("isthmus waypoint status -n {}", bound.waypoint.split('/').next().unwrap_or_default()),
            false => bound.waypoint.split_once('/').map_or_else(String::new, |(namespace, name)| format!("isthmus waypoint apply -n {namespace} --name {name}")),
        };
        Problem::error(&bound.object, format!("it is not served by its waypoint: {}", bound.message), repair)
    });
    unwell.chain(unbound).collect()
}

/// Pods that are in the mesh, and those that are to be in it; one that leaves is neither.
fn counts(pods: &[(&Fact, Membership)], of: impl Fn(&Fact) -> bool) -> (usize, usize) {
    let stay = pods.iter().filter(|(pod, mesh)| of(pod) && *mesh != Membership::Leaving);
    (stay.clone().filter(|(_, mesh)| *mesh == Membership::Enrolled).count(), stay.count())
}

fn link(facts: &Facts, node: &str) -> Link {
    let Some(pod) = facts.pods_of(Which::Daemon).find(|pod| pod.node == node) else { return Link::Absent };
    match facts.daemons.get(node) {
        None => Link::Unknown("it was not asked".to_owned()),
        Some(Err(why)) => Link::Unknown(why.clone()),
        Some(Ok(_)) => {
            let known: Vec<&BTreeSet<String>> = facts.controllers.values().flatten().map(|one| &one.connected).collect();
            let connected = known.iter().any(|connected| connected.contains(&pod.full_name()));
            // A controller that could not be asked may be the one that it is connected to.
            if connected || known.len() < facts.controllers.len() || facts.controllers.is_empty() { Link::Connected } else { Link::Disconnected }
        }
    }
}

/// Where a pod stands, by its labels, its annotation and what its node's daemon serves.
fn membership(facts: &Facts, pod: &Fact) -> Membership {
    let captured = pod.annotations.get(REDIRECTION).map(String::as_str);
    let wanted = is_wanted(facts.namespaces.get(&pod.namespace), &pod.labels, &pod.annotations);
    match (wanted, captured) {
        (false, Some("enabled")) => Membership::Leaving,
        (false, _) => Membership::Outside,
        (true, _) if pod.is_host_network => Membership::Refused("it uses its node's network (hostNetwork)".to_owned()),
        (true, Some("enabled")) => match daemon_of(facts, pod).map(|daemon| daemon.pods.get(&pod.full_name()).map(String::as_str)) {
            Some(None) => Membership::Waiting("it is captured, but its node's daemon does not serve it".to_owned()),
            Some(Some("Pending")) => Membership::Waiting("it is captured, and its node's daemon is about to serve it".to_owned()),
            _ => Membership::Enrolled,
        },
        (true, _) => Membership::Waiting(why_not(facts, pod, captured)),
    }
}

/// The first thing that stands in the way.
fn why_not(facts: &Facts, pod: &Fact, captured: Option<&str>) -> String {
    let on_node = |part: Which| facts.pods_of(part).find(|one| one.node == pod.node);
    for part in [Which::Agent, Which::Daemon] {
        match on_node(part) {
            None => return format!("node {} has no {}", pod.node, part.name()),
            Some(one) if !one.is_ready => return format!("{} on node {} is not ready", part.name(), pod.node),
            Some(_) => {}
        }
    }
    match captured {
        Some("pending") => "being enrolled".to_owned(),
        Some(other) => other.to_owned(),
        None if pod.address.is_empty() => "it has no address yet".to_owned(),
        None => "the node's agent has not seen it, or is told to leave its namespace out".to_owned(),
    }
}

fn of_pod(pod: &Fact, mesh: Membership) -> Pod {
    let state = match &pod.trouble {
        Some(trouble) => trouble.clone(),
        None if pod.is_leaving => "ends".to_owned(),
        None if pod.is_ready => "running".to_owned(),
        None => not_ready(pod),
    };
    Pod { name: pod.full_name(), node: pod.node.clone(), address: pod.address.clone(), account: pod.account.clone(), state, restarts: pod.restarts, mesh }
}

fn namespaces(facts: &Facts, pods: &[(&Fact, Membership)]) -> Vec<Namespace> {
    let none = BTreeMap::new();
    let labelled = facts.namespaces.iter().filter(|(_, labels)| is_wanted(Some(labels), &none, &none)).map(|(name, _)| name.as_str());
    let of_pods = pods.iter().filter(|(_, mesh)| *mesh != Membership::Leaving).map(|(pod, _)| pod.namespace.as_str());
    let names: BTreeSet<&str> = labelled.chain(of_pods).collect();
    let count = |name: &str| counts(pods, |pod| pod.namespace == name);
    names.into_iter().map(|name| { let (enrolled, wanted) = count(name); Namespace { name: name.to_owned(), enrolled, wanted } }).collect()
}

fn problems(facts: &Facts, report: &Report, pods: &[(&Fact, Membership)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for part in PARTS {
        problems.extend(of_rollout(facts, part));
    }
    for unseen in &facts.unseen {
        problems.push(Problem { repair: None, ..Problem::warning("permissions", format!("{unseen}: what depends on it is not shown"), "") });
    }
    for (name, said) in &facts.controllers {
        if let Err(why) = said {
            problems.push(Problem::warning(format!("pod {name}"), format!("the controller cannot be asked: {why}"), logs(name)));
        }
    }
    for node in &report.nodes {
        problems.extend(about_node(facts, node));
    }
    for (pod, mesh) in pods {
        problems.extend(about_pod(facts, pod, mesh));
    }
    problems
}

/// Whether a part is there, whole, and of one version.
pub fn of_rollout(facts: &Facts, part: Which) -> Vec<Problem> {
    let name = part.name();
    let Some(rollout) = facts.rollout(part) else {
        return vec![Problem::error(name, "it is not installed", INSTALL)];
    };
    let (kind, namespace) = (&rollout.kind, &rollout.namespace);
    let mut problems = Vec::new();
    let unwell: Vec<&Fact> = facts.pods_of(part).filter(|pod| !pod.is_ready && !pod.is_leaving).collect();
    if rollout.ready < rollout.desired {
        let why: Vec<String> = unwell.iter().take(3).map(|pod| format!("{} on {}: {}", pod.name, pod.node, pod.trouble.clone().unwrap_or_else(|| not_ready(pod)))).collect();
        let why = if why.is_empty() { "no pod of it was made".to_owned() } else { why.join("; ") };
        let repair = unwell.first().map_or_else(|| format!("kubectl -n {namespace} describe {kind} {}", rollout.name), |pod| look_at(pod));
        problems.push(Problem::error(name, format!("{} of {} are ready ({why})", rollout.ready, rollout.desired), repair));
    }
    if rollout.desired == 0 {
        problems.push(Problem::error(name, "none of it is to run", format!("kubectl -n {namespace} describe {kind} {}", rollout.name)));
    }
    let tags: BTreeSet<String> = facts.pods_of(part).filter(|pod| !pod.is_leaving).map(Fact::tag).collect();
    if tags.len() > 1 || rollout.updated < rollout.desired {
        problems.push(Problem::warning(name, format!("it is being replaced: versions {}", tags.into_iter().collect::<Vec<_>>().join(", ")), format!("kubectl -n {namespace} rollout status {kind} {}", rollout.name)));
    }
    problems
}

fn about_node(facts: &Facts, node: &Node) -> Vec<Problem> {
    let subject = format!("node {}", node.name);
    let daemon = facts.pods_of(Which::Daemon).find(|pod| pod.node == node.name);
    let repair = daemon.map_or_else(|| "kubectl get daemonset -A -l app=ztunnel".to_owned(), |pod| logs(&pod.full_name()));
    let mut problems = match &node.ztunnel {
        Link::Connected => Vec::new(),
        // Where there is no daemon set at all, that was said already.
        Link::Absent if facts.rollout(Which::Daemon).is_none() || node.wanted == 0 => Vec::new(),
        Link::Absent => vec![Problem::error(subject, "it has no ztunnel, and pods that are to be in the mesh", repair.clone())],
        Link::Disconnected => vec![Problem::error(subject, "its ztunnel has no stream to the controller: it goes on with what it was told last", repair.clone())],
        Link::Unknown(why) => vec![Problem::warning(subject, format!("its ztunnel cannot be asked: {why}"), repair.clone())],
    };
    if let Some(Ok(said)) = facts.daemons.get(&node.name) {
        problems.extend(said.problems(&node.name, &repair));
    }
    problems
}

fn about_pod(facts: &Facts, pod: &Fact, mesh: &Membership) -> Option<Problem> {
    let subject = format!("pod {}", pod.full_name());
    if pod.is_leaving {
        return None;
    }
    match mesh {
        Membership::Waiting(why) => {
            let agent = facts.pods_of(Which::Agent).find(|one| one.node == pod.node);
            let repair = agent.map_or_else(|| INSTALL.to_owned(), |one| format!("{} | grep {}", logs(&one.full_name()), pod.name));
            let problem = Problem::error(subject, format!("it is to be in the mesh and is not: {why}"), repair);
            // The network of a pod that has no address is only being made.
            Some(if pod.address.is_empty() { Problem { weight: Weight::Warning, ..problem } } else { problem })
        }
        Membership::Refused(why) => Some(Problem::warning(
            subject,
            format!("it cannot be in the mesh: {why}"),
            format!("kubectl -n {} label pod {} istio.io/dataplane-mode=none   # in its template, to say that this is wanted", pod.namespace, pod.name),
        )),
        Membership::Outside | Membership::Enrolled | Membership::Leaving => None,
    }
}

fn not_ready(pod: &Fact) -> String {
    format!("{}, not ready", pod.phase.to_lowercase())
}

/// Where the cause of a pod's trouble stands: what its program said, or what the kubelet says of it.
fn look_at(pod: &Fact) -> String {
    match &pod.trouble {
        Some(trouble) if trouble.starts_with("CrashLoopBackOff") => format!("{} --previous", logs(&pod.full_name())),
        None if pod.phase == "Running" => logs(&pod.full_name()),
        _ => format!("kubectl -n {} describe pod {}", pod.namespace, pod.name),
    }
}

/// `kubectl logs` of NAMESPACE/NAME.
fn logs(pod: &str) -> String {
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
    format!("kubectl -n {namespace} logs {name}")
}
