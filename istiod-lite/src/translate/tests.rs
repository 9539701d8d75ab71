//! YAML in, what the mesh is told out. Each table belongs to one section of spec/controlplane.md.

use std::fmt::Write;

use expect_test::Expect;
use mesh_model::address::GatewayAddress;
use mesh_model::service::{HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Service, Visibility};
use mesh_model::workload::{Health, Locality, NetworkMode, TunnelProtocol, Workload};
use mesh_policy::{Entry, Match, Policy, StringMatch};

use super::*;
use crate::cluster::Event;
use crate::objects::read;

mod workload;
mod service;
mod waypoint;
mod policy;
mod peer_authentication;
mod vips;
mod scope;
mod claims;
mod cover;
mod network;
mod incremental;
mod checklist;
pub(crate) mod served;
pub(crate) mod route;
mod request;
mod backend;
mod material;
mod fields;
mod foreign;
mod virtual_service;

/// The objects of a YAML text.
pub fn events(yaml: &str) -> Vec<Event> {
    let documents = read::documents(yaml);
    let contents = documents.into_iter().map(|document| read::document(document).unwrap_or_else(|fault| panic!("{fault}\n{}", document.text)));
    contents.flat_map(|contents| contents.objects).map(|read| Event::Applied(read.object)).collect()
}

pub fn translation() -> Translation {
    Translation::new(Settings { sends_dry_run: true, ..Settings::default() }, "default")
}

pub fn translated(yaml: &str) -> Translation {
    let mut translation = translation();
    translation.apply(events(yaml));
    translation
}

/// All outputs of a text, one line each.
pub fn check(yaml: &str, expected: Expect) {
    expected.assert_eq(&printed(&translated(yaml)));
}

pub fn printed(translation: &Translation) -> String {
    let mut lines: Vec<String> = Vec::new();
    for derived in translation.derived() {
        lines.extend(derived.workloads.iter().map(|workload| print_workload(workload)));
        lines.extend(derived.services.iter().map(|service| print_service(service)));
        lines.extend(derived.policies.iter().map(|policy| print_policy(policy)));
    }
    lines.sort();
    let mut keys: Vec<&ObjectKey> = translation.reported().collect();
    keys.sort();
    for key in keys {
        let report = translation.report(key).to_string();
        lines.extend(report.lines().map(|line| format!("{key}: {line}")));
    }
    lines.into_iter().fold(String::new(), |mut text, line| {
        text += &line;
        text.push('\n');
        text
    })
}

/// What waypoints are told, one line each: type, name, for whom, and what differs from the default.
pub fn check_resources(yaml: &str, expected: Expect) {
    expected.assert_eq(&printed_resources(&translated(yaml)));
}

pub fn printed_resources(translation: &Translation) -> String {
    let mut lines: Vec<String> = translation.derived().flat_map(|derived| &derived.resources).map(|resource| print_resource(resource)).collect();
    lines.sort();
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Where it comes from is left out: the name says it.
pub fn print_resource(resource: &Resource) -> String {
    let mut shown = crate::dump::resource(resource);
    if let Some(content) = shown["content"].as_object_mut() {
        content.remove("meta");
    }
    let audiences: Vec<String> = resource.audiences.iter().map(|audience| audience.replace("waypoint/", "")).collect();
    format!("{} {} [{}] {}", shown["type"].as_str().unwrap_or_default(), resource.name, audiences.join(" "), shown["content"])
}

/// Only what differs from the default.
pub fn print_workload(workload: &Workload) -> String {
    let mut line = format!("workload {}", workload.uid);
    let mut say = |condition: bool, text: String| {
        if condition {
            let _ = write!(line, " {text}");
        }
    };
    let joined: Vec<String> = workload.addresses.iter().map(|ip| ip.to_string()).collect();
    say(!joined.is_empty(), joined.join(","));
    say(!workload.hostname.is_empty(), format!("host={}", workload.hostname));
    say(true, format!("sa={}", workload.service_account));
    say(&*workload.trust_domain != "cluster.local", format!("td={}", workload.trust_domain));
    say(!workload.node.is_empty(), format!("node={}", workload.node));
    say(!workload.network.is_empty(), format!("network={}", workload.network));
    say(workload.network_mode == NetworkMode::HostNetwork, "host-network".into());
    say(workload.tunnel_protocol == TunnelProtocol::Hbone, "HBONE".into());
    say(workload.native_tunnel, "native".into());
    say(workload.status == Health::Unhealthy, "UNHEALTHY".into());
    say(workload.capacity != 1, format!("capacity={}", workload.capacity));
    let Locality { region, zone, subzone } = &workload.locality;
    say(workload.locality != Locality::default(), format!("locality={region}/{zone}/{subzone}"));
    say(!workload.workload_name.is_empty(), format!("name={}", workload.workload_name));
    say(workload.canonical_name != workload.workload_name || &*workload.canonical_revision != "latest", format!("canonical={}:{}", workload.canonical_name, workload.canonical_revision));
    if let Some(tunnel) = workload.application_tunnel {
        say(true, format!("application-tunnel={:?}:{:?}", tunnel.protocol, tunnel.port));
    }
    if let Some(waypoint) = &workload.waypoint {
        say(true, format!("waypoint={}", print_gateway(waypoint)));
    }
    if let Some(gateway) = &workload.network_gateway {
        say(true, format!("gateway={}", print_gateway(gateway)));
    }
    for (service, ports) in &workload.services {
        let ports: Vec<String> = ports.iter().map(|(from, to)| format!("{from}->{to}")).collect();
        say(true, format!("[{service} {}]", ports.join(" ")));
    }
    let policies: Vec<String> = workload.authorization_policies.iter().map(|key| key.to_string()).collect();
    say(!policies.is_empty(), format!("policies({})", policies.join(", ")));
    line
}

pub fn print_service(service: &Service) -> String {
    let mut line = format!("service {}", service.key());
    let mut say = |condition: bool, text: String| {
        if condition {
            let _ = write!(line, " {text}");
        }
    };
    let vips = service.vips.iter().map(|vip| vip.to_string()).chain(service.cidr_vips.iter().map(|vip| vip.to_string()));
    say(true, format!("vips({})", vips.collect::<Vec<_>>().join(" ")));
    for (port, target) in &service.ports {
        let protocol = service.app_protocols.get(port).map_or("?".to_owned(), |protocol| format!("{protocol:?}"));
        say(true, format!("{port}->{target}:{protocol}"));
    }
    say(service.ip_families != IpFamilies::Automatic, format!("{:?}", service.ip_families));
    say(service.canonical, "canonical".into());
    say(service.visibility == Visibility::Namespace, "own-namespace-only".into());
    if service.load_balancing != LoadBalancing::default() {
        let LoadBalancing { routing_preference, mode, health_policy } = &service.load_balancing;
        say(*mode != LoadBalancingMode::Standard, format!("{mode:?}{routing_preference:?}"));
        say(*health_policy == HealthPolicy::AllowAll, "allow-all".into());
    }
    say(!service.subject_alt_names.is_empty(), format!("sans{:?}", service.subject_alt_names));
    if let Some(waypoint) = &service.waypoint {
        say(true, format!("waypoint={}", print_gateway(waypoint)));
    }
    for weighted in &service.weighted_waypoints {
        say(true, format!("{}%={}", weighted.weight, print_gateway(&weighted.destination)));
    }
    say(service.ingress_use_waypoint, "ingress-uses-waypoint".into());
    line
}

fn print_gateway(gateway: &GatewayAddress) -> String {
    format!("{}:{}", gateway.destination, gateway.hbone_mtls_port)
}

/// `policy ns/name SCOPE ACTION {(a | b) & (c)} or {…}`.
pub fn print_policy(policy: &Policy) -> String {
    let groups: Vec<String> = policy
        .groups
        .iter()
        .map(|group| {
            let rules: Vec<String> = group.rules.iter().map(|rule| format!("({})", rule.matches.iter().map(print_match).collect::<Vec<_>>().join(" | "))).collect();
            format!("{{{}}}", rules.join(" & "))
        })
        .collect();
    let dry_run = if policy.dry_run { " dry-run" } else { "" };
    format!("policy {} {:?} {:?}{dry_run} {}", policy.key(), policy.scope, policy.action, groups.join(" or "))
}

fn print_match(one: &Match) -> String {
    let mut fields = Vec::new();
    let mut say = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            fields.push(format!("{name}[{}]", values.join(" ")));
        }
    };
    say("ns", one.namespaces.iter().map(print_string).collect());
    say("!ns", one.not_namespaces.iter().map(print_string).collect());
    say("sa", one.service_accounts.iter().map(|sa| format!("{}/{}", sa.namespace, sa.service_account)).collect());
    say("!sa", one.not_service_accounts.iter().map(|sa| format!("{}/{}", sa.namespace, sa.service_account)).collect());
    say("principal", one.principals.iter().map(print_string).collect());
    say("!principal", one.not_principals.iter().map(print_string).collect());
    say("from", one.source_ips.iter().map(print_value).collect());
    say("!from", one.not_source_ips.iter().map(print_value).collect());
    say("to", one.destination_ips.iter().map(print_value).collect());
    say("!to", one.not_destination_ips.iter().map(print_value).collect());
    say("port", one.destination_ports.iter().map(print_value).collect());
    say("!port", one.not_destination_ports.iter().map(print_value).collect());
    if fields.is_empty() { "nothing".into() } else { fields.join(" ") }
}

fn print_value<T: std::fmt::Display>(entry: &Entry<T>) -> String {
    match entry {
        Entry::Value(value) => value.to_string(),
        Entry::Malformed => "MALFORMED".into(),
    }
}

fn print_string(entry: &Entry<StringMatch>) -> String {
    match entry {
        Entry::Value(StringMatch::Exact(text)) => format!("={text}"),
        Entry::Value(StringMatch::Prefix(text)) => format!("{text}*"),
        Entry::Value(StringMatch::Suffix(text)) => format!("*{text}"),
        Entry::Value(StringMatch::Presence) => "any".into(),
        Entry::Malformed => "MALFORMED".into(),
    }
}

/// A pod with an address that is ready; `more` goes into its metadata.
pub fn pod(namespace: &str, name: &str, ip: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, uid: uid-{name}, labels: {{{labels}}}}}\n\
         spec: {{serviceAccountName: {name}-sa, nodeName: n1, containers: [{{name: c, ports: [{{name: web, containerPort: 8080}}]}}]}}\n\
         status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: \"True\"}}]}}\n---\n"
    )
}
