//! Services: of a Kubernetes Service, and one for each hostname of a ServiceEntry (spec/controlplane.md 4.9).

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::address::{NamespacedHostname, NetworkAddress, NetworkCidr};
use mesh_model::service::{HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Scope, Service, Visibility};

use super::waypoint::Bound;
use super::{Derived, Lens, Report, Settings, claims, ports, served, waypoint};
use crate::cluster::Cluster;
use crate::objects::core::TargetPort;
use crate::objects::mesh_config::Visible;
use crate::objects::{self, Kind, Meta, NsName, ObjectKey, ServiceEntry};

const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// `name.namespace.svc.<cluster domain>` under its own namespace.
pub fn key_of_service(settings: &Settings, service: &objects::Service) -> NamespacedHostname {
    let meta = &service.meta;
    let hostname = format!("{}.{}.svc.{}", meta.name, meta.namespace, settings.cluster_domain);
    NamespacedHostname { namespace: meta.namespace.clone(), hostname: hostname.into() }
}

/// The name of the Service that a hostname of the cluster's own domain means.
pub fn service_named(settings: &Settings, hostname: &str) -> Option<NsName> {
    let local = hostname.strip_suffix(&*settings.cluster_domain)?.strip_suffix(".svc.")?;
    let (name, namespace) = local.rsplit_once('.')?;
    Some(NsName::new(namespace, name))
}

/// Within a namespace a Service beats ServiceEntries, then the oldest wins (spec/controlplane.md 4.9.3).
pub fn owner(cluster: &Cluster, settings: &Settings, namespace: &Arc<str>, hostname: &Arc<str>) -> Option<ObjectKey> {
    let service = service_named(settings, hostname).filter(|name| name.namespace == *namespace);
    if let Some(name) = service.filter(|name| cluster.services.get(name).is_some_and(|service| !service.is_external_name)) {
        return Some(ObjectKey { kind: Kind::Service, name });
    }
    let (_, entries) = cluster.entries_of_host(hostname).find(|(place, _)| *place == namespace)?;
    let winner = entries.min_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()))?;
    Some(ObjectKey { kind: Kind::ServiceEntry, name: winner.meta.ns_name() })
}

/// Across namespaces every owner keeps its service; the canonical one answers clients of other namespaces.
fn is_canonical(lens: &Lens<'_>, owner: &ServiceEntry, hostname: &Arc<str>) -> bool {
    let service = service_named(lens.settings, hostname).and_then(|name| lens.cluster.services.get(&name));
    if service.is_some_and(|service| !service.is_external_name) {
        return false;
    }
    let public = lens.cluster.entries_of_host(hostname).filter(|(namespace, _)| lens.visible(namespace) != Some(Visible::Namespace));
    let oldest = public.flat_map(|(_, entries)| entries).min_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
    oldest.is_some_and(|oldest| oldest.meta.ns_name() == owner.meta.ns_name())
}

/// The service of a hostname in a namespace.
pub fn host(lens: &Lens<'_>, namespace: &Arc<str>, hostname: &Arc<str>) -> Derived {
    let mut derived = Derived::default();
    let winner = owner(lens.cluster, lens.settings, namespace, hostname);
    let service = service_named(lens.settings, hostname).filter(|name| name.namespace == *namespace).and_then(|name| lens.cluster.services.get(&name));
    if let Some(service) = service {
        let key = ObjectKey { kind: Kind::Service, name: service.meta.ns_name() };
        let mut report = Report::default();
        if service.is_external_name {
            report.note("type ExternalName is not published: it has no address of its own");
        } else {
            let published = from_service(lens, service, &mut report);
            derived.resources.extend(served::of_service(lens, service, &published));
            derived.services.push(published.into());
        }
        derived.say(key, report);
    }
    let claims = lens.cluster.entries_of_host(hostname).find(|(place, _)| *place == namespace);
    for entry in claims.into_iter().flat_map(|(_, entries)| entries) {
        let key = ObjectKey { kind: Kind::ServiceEntry, name: entry.meta.ns_name() };
        let mut report = Report::default();
        match &winner {
            Some(winner) if *winner == key => {
                let published = from_entry(lens, entry, hostname, &mut report);
                derived.resources.extend(served::of_entry(lens, entry, &published));
                derived.services.push(published.into());
            }
            Some(winner) => report.note(format!("host {hostname} is not published: {winner} has this name in the namespace")),
            None => {}
        }
        derived.say(key, report);
    }
    for service in &derived.services {
        derived.policies.extend(only_from_waypoints(lens, &service.key()).map(Arc::new));
    }
    derived
}

impl Derived {
    fn say(&mut self, key: ObjectKey, report: Report) {
        if !report.is_empty() {
            self.reports.push((key, report));
        }
    }
}

fn from_service(lens: &Lens<'_>, object: &objects::Service, report: &mut Report) -> Service {
    let key = key_of_service(lens.settings, object);
    let mut service = Service::named(&key.namespace, &key.hostname);
    service.name = object.meta.name.clone();
    for ip in &object.cluster_ips {
        match ip.parse::<IpAddr>() {
            Ok(ip) => service.vips.push(NetworkAddress { network: lens.network(), ip }),
            Err(_) => report.note(format!("spec.clusterIPs: {ip:?} is not an IP address")),
        }
    }
    for port in ports::service_ports(object) {
        let target = match &port.target {
            TargetPort::Number(number) => *number,
            TargetPort::Name(_) => 0,
        };
        service.ports.insert(port.port, target);
        service.app_protocols.remove(&port.port);
        service.app_protocols.extend(ports::service_app_protocol(port).map(|protocol| (port.port, protocol)));
    }
    service.ip_families = families(&object.ip_families);
    service.canonical = true;
    service.load_balancing = balancing(lens, &object.meta, Some(object), report);
    bind(lens, &object.meta, &mut service, report);
    if object.session_affinity.as_deref().is_some_and(|affinity| affinity != "None") {
        report.note("spec.sessionAffinity is not honoured: each connection chooses anew");
    }
    if !object.external_ips.is_empty() {
        report.note("spec.externalIPs is not honoured: the mesh knows the service by its cluster IPs only");
    }
    service
}

fn from_entry(lens: &Lens<'_>, entry: &ServiceEntry, hostname: &Arc<str>, report: &mut Report) -> Service {
    let meta = &entry.meta;
    let mut service = Service::named(&meta.namespace, hostname);
    service.name = meta.name.clone();
    if let Some(visible) = lens.visible(&meta.namespace) {
        let (reason, whose) = match visible {
            Visible::Namespace => ("Namespace", "clients of its own namespace see it"),
            _ => ("Public", "every client sees it"),
        };
        report.holds("istio.io/VisibilityApplied", reason, whose);
    }
    service.visibility = visibility(lens, &meta.namespace);
    for address in &entry.spec.addresses {
        if let Some(owner) = taken(lens, meta, address) {
            report.note(format!("spec.addresses: {address} is not used: it is {owner}'s"));
            continue;
        }
        match (address.parse::<IpAddr>(), address.parse::<IpNet>()) {
            (Ok(ip), _) => service.vips.push(NetworkAddress { network: lens.network(), ip }),
            // A range of one address is that address: the wire says it without a length.
            (_, Ok(range)) if range.prefix_len() == range.max_prefix_len() => service.vips.push(NetworkAddress { network: lens.network(), ip: range.addr() }),
            (_, Ok(range)) => service.cidr_vips.push(NetworkCidr { network: lens.network(), cidr: range.trunc() }),
            _ => report.note(format!("spec.addresses: {address:?} is neither an IP address nor a range of them")),
        }
    }
    let claim = super::vips::Claim { entry: meta.ns_name(), host: hostname.clone() };
    let allocated = lens.memory.vips.of(&claim);
    service.vips.extend(allocated.into_iter().map(|ip| NetworkAddress { network: lens.network(), ip }));
    for (number, port) in ports::entry_ports(entry) {
        service.ports.insert(number, ports::entry_target(number, port));
        service.app_protocols.remove(&number);
        service.app_protocols.extend(ports::entry_app_protocol(number, port).map(|protocol| (number, protocol)));
    }
    service.subject_alt_names = entry.spec.subject_alt_names.clone();
    service.canonical = is_canonical(lens, entry, hostname);
    service.load_balancing = balancing(lens, meta, None, report);
    if entry.resolution() == "NONE" {
        service.load_balancing.mode = LoadBalancingMode::Passthrough;
        service.load_balancing.routing_preference.clear();
        service.load_balancing.health_policy = HealthPolicy::AllowAll;
    }
    let bound = bind(lens, meta, &mut service, report);
    missing_waypoint(entry, hostname, bound.is_bound(), report);
    unhonoured(entry, report);
    service
}

/// Who sees the hosts of ServiceEntries of a namespace. Those that nobody sees are not here.
pub fn visibility(lens: &Lens<'_>, namespace: &Arc<str>) -> Visibility {
    if lens.visible(namespace) == Some(Visible::Namespace) { Visibility::Namespace } else { Visibility::Public }
}

/// The pod or Service that the cluster itself gave an address to. A node daemon looks for services before it looks for
/// workloads, so an entry that could take the address would take the connections (spec/reliability.md V-32).
fn taken<'a>(lens: &Lens<'a>, meta: &Meta, address: &str) -> Option<&'a ObjectKey> {
    let key = ObjectKey { kind: Kind::ServiceEntry, name: meta.ns_name() };
    lens.memory.claims.lost(&key, &lens.memory.network, address).filter(|owner| claims::is_given_by_the_cluster(owner))
}

/// A wildcard name or a racing connection needs a proxy that reads HTTP or TLS; a node daemon does not.
fn missing_waypoint(entry: &ServiceEntry, hostname: &str, is_bound: bool, report: &mut Report) {
    if is_bound {
        return;
    }
    if hostname.starts_with('*') {
        report.holds("istio.io/WaypointMissing", "NoWaypointForWildcardService", format!("host {hostname} can be told apart only by a waypoint"));
    } else if entry.meta.annotation("istio.io/connect-strategy").is_some() {
        report.holds("istio.io/WaypointMissing", "NoWaypointForRacingConnectStrategy", "istio.io/connect-strategy is honoured by waypoints only");
    }
}

fn unhonoured(entry: &ServiceEntry, report: &mut Report) {
    if !entry.spec.export_to.is_empty() {
        report.note("spec.exportTo is not honoured: the host is visible to the whole mesh");
    }
    if entry.spec.location.is_some() {
        report.note("spec.location has no effect: whether an endpoint is in the mesh is told by the endpoint");
    }
    if !matches!(entry.resolution(), "NONE" | "STATIC" | "DNS" | "DNS_ROUND_ROBIN" | "DYNAMIC_DNS") {
        report.note(format!("spec.resolution {:?} is not known; it is read as STATIC", entry.resolution()));
    }
    for port in &entry.spec.ports {
        if ports::as_port(port.number).is_none() {
            report.note(format!("spec.ports: {} is not a port, so {:?} is left out", port.number, port.name));
        }
        if port.target_port.is_some_and(|target| ports::as_port(target).is_none()) {
            report.note(format!("spec.ports: targetPort of {:?} is not a port; {} is used", port.name, port.number));
        }
    }
}

/// The waypoint of a service that is published.
pub fn bound(lens: &Lens<'_>, key: &NamespacedHostname) -> Option<Bound> {
    owned(lens, key).map(|(_, bound)| bound)
}

/// The policy that keeps the workloads of a published service to its waypoints, where there is reason to.
pub fn only_from_waypoints(lens: &Lens<'_>, key: &NamespacedHostname) -> Option<mesh_policy::Policy> {
    let (meta, bound) = owned(lens, key)?;
    waypoint::cover::only_from_waypoints(lens, key, meta, &bound)
}

/// The waypoints that serve a published service, ready or not.
pub fn serving(lens: &Lens<'_>, key: &NamespacedHostname) -> Vec<NsName> {
    meta_of(lens, key).map_or_else(Vec::new, |(meta, visibility)| waypoint::serving(lens, meta, visibility))
}

fn owned<'a>(lens: &Lens<'a>, key: &NamespacedHostname) -> Option<(&'a Meta, Bound)> {
    let (meta, visibility) = meta_of(lens, key)?;
    Some((meta, waypoint::of_service(lens, meta, visibility)))
}

fn meta_of<'a>(lens: &Lens<'a>, key: &NamespacedHostname) -> Option<(&'a Meta, Visibility)> {
    let owner = lens.owner(&key.namespace, &key.hostname)?;
    lens.note_object(owner.kind, &owner.name);
    Some(match owner.kind {
        Kind::Service => (&lens.cluster.services.get(&owner.name)?.meta, Visibility::Public),
        _ => (&lens.cluster.service_entries.get(&owner.name)?.meta, visibility(lens, &key.namespace)),
    })
}

fn bind(lens: &Lens<'_>, meta: &Meta, service: &mut Service, report: &mut Report) -> Bound {
    let mut bound = waypoint::of_service(lens, meta, service.visibility);
    let ingress = waypoint::ingress_uses(lens, meta);
    bound.remark_ingress(ingress);
    bound.report(report);
    service.waypoint = bound.address();
    service.weighted_waypoints = bound.weighted();
    service.ingress_use_waypoint = bound.is_bound() && ingress == Some(true);
    bound
}

fn families(given: &[Arc<str>]) -> IpFamilies {
    match given {
        [] => IpFamilies::Automatic,
        [one] if &**one == "IPv4" => IpFamilies::V4Only,
        [one] if &**one == "IPv6" => IpFamilies::V6Only,
        [_] => IpFamilies::Automatic,
        _ => IpFamilies::Dual,
    }
}

/// How endpoints are preferred, by the first source that says something (spec/controlplane.md 4.9.4). Made anew for each
/// service, so that one service's health policy never shows in another.
fn balancing(lens: &Lens<'_>, meta: &Meta, service: Option<&objects::Service>, report: &mut Report) -> LoadBalancing {
    let mut chosen = preference(lens, meta, service, report).unwrap_or_default();
    if service.is_some_and(|service| service.publishes_not_ready) {
        chosen.health_policy = HealthPolicy::AllowAll;
    }
    chosen
}

fn preference(lens: &Lens<'_>, meta: &Meta, service: Option<&objects::Service>, report: &mut Report) -> Option<LoadBalancing> {
    if service.is_some_and(|service| service.internal_traffic_policy.as_deref() == Some("Local")) {
        return Some(LoadBalancing { routing_preference: vec![Scope::Node], mode: LoadBalancingMode::Strict, ..LoadBalancing::default() });
    }
    if let Some(value) = service.and_then(|service| service.traffic_distribution.as_deref()) {
        match distribution(value) {
            Some(chosen) => return Some(chosen),
            None => report.note(format!("spec.trafficDistribution {value:?} is not known")),
        }
    }
    // `Any`, or a word that is not known, on the object itself ends the search: that is how it cancels its namespace's.
    if let Some(value) = meta.annotation(DISTRIBUTION) {
        if distribution(value).is_none() && !value.eq_ignore_ascii_case("any") {
            report.note(format!("annotation {DISTRIBUTION}={value} is not known; it is read as Any"));
        }
        return distribution(value);
    }
    distribution(lens.namespace_meta(&meta.namespace)?.annotation(DISTRIBUTION)?)
}

fn distribution(value: &str) -> Option<LoadBalancing> {
    use Scope::*;
    let routing_preference = match value.to_ascii_lowercase().as_str() {
        "preferclose" | "prefersamezone" => vec![Network, Region, Zone],
        "prefersamenode" => vec![Network, Region, Zone, Subzone, Node],
        _ => return None,
    };
    Some(LoadBalancing { routing_preference, mode: LoadBalancingMode::Failover, ..LoadBalancing::default() })
}
