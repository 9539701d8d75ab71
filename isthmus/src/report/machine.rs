//! The report of a mesh on this machine. Pure: the state file and what was asked in, a report out.

use std::collections::{BTreeMap, BTreeSet};

use crate::lab::state::{PodPhase, PodState, State};

use super::daemon::Daemon;
use super::{Link, Membership, Node, Part, Pod, Problem, Report};

/// What was asked besides.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Whether `isthmus up` itself still lives.
    pub up_is_alive: bool,
    /// Which of the state's processes live.
    pub alive: BTreeSet<i32>,
    /// By node: its daemon, or why it could not be asked.
    pub daemons: BTreeMap<String, Result<Daemon, String>>,
    /// Nodes whose daemons the controller has streams to; none if it could not be asked.
    pub connected: Option<BTreeSet<String>>,
    pub controller_version: Option<String>,
    /// What the controller finds wrong with the folder.
    pub findings: Vec<String>,
}

pub fn report(state: &State, asked: &Asked) -> Report {
    let life = if asked.up_is_alive { "running" } else { "crashed" };
    let mut report = Report { about: format!("mesh {} ({life}), folder {}, logs in {}", state.mesh, state.folder.display(), state.run.join("logs").display()), ..Report::default() };
    report.pods = state.pods.iter().map(|pod| of_pod(pod, asked)).collect();
    report.parts = parts(state, asked);
    report.nodes = state.nodes.iter().map(|plan| node(state, &plan.name, plan.wire.v4.to_string(), asked)).collect();
    report.problems = problems(state, asked, &report);
    report
}

/// One line for each program that the mesh consists of; `ztunnel.node-1` and `ztunnel.node-2` are one.
fn parts(state: &State, asked: &Asked) -> Vec<Part> {
    let mut parts: BTreeMap<&str, Part> = BTreeMap::new();
    for program in &state.programs {
        let name = program.name.split('.').next().unwrap_or(&program.name);
        let part = parts.entry(name).or_insert_with(|| Part { name: name.to_owned(), place: if program.node.is_some() { "each node" } else { "isthmus up" }.to_owned(), ..Part::default() });
        let is_alive = program.process.is_some_and(|process| asked.alive.contains(&process.pid));
        part.desired += 1;
        part.ready += usize::from(is_alive);
        part.restarts += program.restarts;
        let version = match (name, &program.node) {
            ("ztunnel", Some(node)) => asked.daemons.get(node).and_then(|daemon| daemon.as_ref().ok()).map(|daemon| daemon.version.clone()),
            ("istiod-lite", _) => asked.controller_version.clone(),
            _ => None,
        };
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            *part.versions.entry(version).or_default() += 1;
        }
    }
    parts.into_values().collect()
}

fn node(state: &State, name: &str, address: String, asked: &Asked) -> Node {
    let wanted: Vec<&PodState> = state.pods.iter().filter(|pod| pod.node == name && pod.wanted).collect();
    let daemon = asked.daemons.get(name);
    let ztunnel = match (daemon, &asked.connected) {
        (None, _) => Link::Absent,
        (Some(Err(why)), _) => Link::Unknown(why.clone()),
        (Some(Ok(_)), Some(connected)) if !connected.contains(name) => Link::Disconnected,
        (Some(Ok(_)), _) => Link::Connected,
    };
    Node {
        name: name.to_owned(),
        address,
        ztunnel,
        enrolled: wanted.iter().filter(|pod| pod.redirection == "enabled").count(),
        wanted: wanted.len(),
        certificates: daemon.and_then(|daemon| daemon.as_ref().ok()).map(Daemon::certificates).unwrap_or_default(),
    }
}

fn of_pod(pod: &PodState, asked: &Asked) -> Pod {
    let is_alive = pod.init.is_some_and(|init| asked.alive.contains(&init.pid));
    let state = match (pod.phase, &pod.trouble) {
        (PodPhase::Pending, _) => "waits for the mesh".to_owned(),
        (PodPhase::Running, Some(trouble)) if is_alive => trouble.clone(),
        (PodPhase::Running, _) if is_alive => "running".to_owned(),
        (PodPhase::Running, _) => "ended".to_owned(),
        (PodPhase::Failed, _) => "failed".to_owned(),
    };
    let mesh = match (pod.wanted, pod.redirection.as_str()) {
        (false, "-" | "released") => Membership::Outside,
        (true, "enabled") => Membership::Enrolled,
        (false, _) => Membership::Leaving,
        (true, "-") => Membership::Waiting("the node's agent has not seen it".to_owned()),
        (true, said) => match said.strip_prefix("refused: ") {
            Some(why) => Membership::Refused(why.to_owned()),
            None => Membership::Waiting(said.to_owned()),
        },
    };
    Pod {
        name: pod.name.to_string(),
        node: pod.node.clone(),
        address: pod.addresses.v4.to_string(),
        account: pod.service_account.clone(),
        state,
        restarts: pod.restarts,
        mesh,
    }
}

fn problems(state: &State, asked: &Asked, report: &Report) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !asked.up_is_alive {
        return vec![Problem::error(format!("mesh {}", state.mesh), "`isthmus up` was killed, and what it made is still there", format!("isthmus --name {} down", state.mesh))];
    }
    for program in &state.programs {
        if !program.process.is_some_and(|process| asked.alive.contains(&process.pid)) {
            problems.push(Problem::error(&program.name, "it has stopped, and is started again after a while", format!("tail {}", program.log.display())));
        }
    }
    for node in &report.nodes {
        let log = state.programs.iter().find(|program| program.name == format!("ztunnel.{}", node.name)).map(|program| format!("tail {}", program.log.display())).unwrap_or_default();
        match &node.ztunnel {
            Link::Unknown(why) => problems.push(Problem::error(format!("node {}", node.name), format!("its node daemon cannot be asked: {why}"), log.clone())),
            Link::Disconnected => problems.push(Problem::warning(format!("node {}", node.name), "its node daemon has no stream to the controller: it goes on with what it was told last", log.clone())),
            Link::Connected | Link::Absent => {}
        }
        if let Some(Ok(daemon)) = asked.daemons.get(&node.name) {
            problems.extend(daemon.problems(&node.name, &log));
        }
    }
    for (pod, state) in report.pods.iter().zip(&state.pods) {
        let log = format!("tail {}", state.log.display());
        if pod.state != "running" {
            problems.push(Problem::error(format!("pod {}", pod.name), pod.state.clone(), log.clone()));
        }
        match &pod.mesh {
            Membership::Waiting(why) => problems.push(Problem::error(format!("pod {}", pod.name), format!("it is to be in the mesh and is not yet: {why}"), log)),
            Membership::Refused(why) => problems.push(Problem::error(format!("pod {}", pod.name), format!("it is not taken into the mesh: {why}"), log)),
            Membership::Outside | Membership::Enrolled | Membership::Leaving => {}
        }
    }
    problems.extend(asked.findings.iter().map(|finding| Problem { repair: None, ..Problem::warning("folder", finding, "") }));
    problems
}
