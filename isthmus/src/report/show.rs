//! A report as people read it: tables, then what is wrong and the command that repairs it.

use crate::say::{self, BAD, GOOD, NOTE};
use crate::status::table;

use super::{Certificates, Link, Membership, Problem, Report, Weight};

pub fn show(report: &Report) {
    say::out(&report.about);
    let mut parts = table(["COMPONENT", "WHERE", "READY", "RESTARTS", "VERSION"]);
    for part in &report.parts {
        let versions = part.versions.iter().map(|(version, count)| if part.versions.len() == 1 { version.clone() } else { format!("{version} ({count})") });
        parts.add_row([part.name.clone(), part.place.clone(), ratio(part.ready, part.desired), part.restarts.to_string(), joined(versions.collect())]);
    }
    let mut nodes = table(["NODE", "ADDRESS", "ZTUNNEL", "PODS IN MESH", "CERTIFICATES", "FIRST ENDS"]);
    for node in &report.nodes {
        let Certificates { valid, all, first_end } = &node.certificates;
        nodes.add_row([node.name.clone(), node.address.clone(), link(&node.ztunnel).to_owned(), ratio(node.enrolled, node.wanted), ratio(*valid, *all), first_end.clone().unwrap_or_else(|| "-".to_owned())]);
    }
    let mut namespaces = table(["NAMESPACE", "PODS IN MESH"]);
    for namespace in &report.namespaces {
        namespaces.add_row([namespace.name.clone(), ratio(namespace.enrolled, namespace.wanted)]);
    }
    let mut pods = table(["POD", "NODE", "ADDRESS", "ACCOUNT", "STATE", "RESTARTS", "MESH"]);
    for pod in &report.pods {
        pods.add_row([pod.name.clone(), pod.node.clone(), pod.address.clone(), pod.account.clone(), pod.state.clone(), pod.restarts.to_string(), membership(&pod.mesh)]);
    }
    let mut waypoints = table(["WAYPOINT", "FOR", "READY", "SERVES", "STATE"]);
    for waypoint in &report.waypoints {
        let serves = waypoint.serves.iter().map(|(namespace, count)| format!("{count} service{} of {namespace}", if *count == 1 { "" } else { "s" })).collect();
        waypoints.add_row([waypoint.name.clone(), waypoint.traffic.clone(), ratio(waypoint.ready, waypoint.instances), joined(serves), waypoint.why.clone()]);
    }
    for (table, is_empty) in [(parts, report.parts.is_empty()), (nodes, report.nodes.is_empty()), (namespaces, report.namespaces.is_empty()), (waypoints, report.waypoints.is_empty()), (pods, report.pods.is_empty())] {
        if !is_empty {
            say::out(format!("\n{}", table.trim_fmt()));
        }
    }
    say::out("");
    if report.problems.is_empty() {
        say::out(format!("{GOOD}√{GOOD:#} nothing is wrong"));
    }
    report.problems.iter().for_each(problem);
}

fn problem(problem: &Problem) {
    let (style, sign) = match problem.weight {
        Weight::Error => (BAD, "×"),
        Weight::Warning => (NOTE, "‼"),
    };
    say::out(format!("{style}{sign}{style:#} {}: {}", problem.subject, problem.what));
    if let Some(repair) = &problem.repair {
        say::out(format!("    {repair}"));
    }
}

fn ratio(some: usize, all: usize) -> String {
    format!("{some}/{all}")
}

fn joined(words: Vec<String>) -> String {
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

fn link(link: &Link) -> &'static str {
    match link {
        Link::Connected => "connected",
        Link::Disconnected => "disconnected",
        Link::Absent => "absent",
        Link::Unknown(_) => "unknown",
    }
}

pub fn membership(mesh: &Membership) -> String {
    match mesh {
        Membership::Outside => "no".to_owned(),
        Membership::Enrolled => "yes".to_owned(),
        Membership::Leaving => "leaving".to_owned(),
        Membership::Waiting(why) => format!("not yet: {why}"),
        Membership::Refused(why) => format!("refused: {why}"),
    }
}
