//! Workloads: of a pod (spec/controlplane.md 4.2), a WorkloadEntry (4.7), the endpoints of a ServiceEntry (4.8) and of
//! EndpointSlices (4.8.1). What services they belong to is in `membership`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::address::NamespacedHostname;
use mesh_model::workload::*;

use super::{Derived, Lens, Report, network_gateway, peer_authentication, policy, ports, service, waypoint};
use crate::objects::istio::WorkloadEntrySpec;
use crate::objects::{Kind, Labels, NsName, ObjectKey, Pod, ServiceEntry};

mod membership;
mod telemetry;

use telemetry::Named;

/// The workload of a pod. Published whatever the pod's readiness, because even a pod that starts or ends may send.
pub fn pod(lens: &Lens<'_>, name: &NsName) -> Derived {
    let Some(pod) = lens.cluster.pods.get(name) else { return Derived::default() };
    let key = ObjectKey { kind: Kind::Pod, name: name.clone() };
    let mut report = Report::default();
    let mut workloads = Vec::new();
    match pod_workload(lens, pod) {
        Ok(mut workload) => {
            if !pod.is_host_network {
                yield_addresses(lens, &key, &mut workload, "status.podIPs", &mut report);
            }
            workloads.push(workload.into());
        }
        Err(why) => report.note(format!("is not published: {why}")),
    }
    Derived { workloads, reports: said(key, report), ..Derived::default() }
}

fn pod_workload(lens: &Lens<'_>, pod: &Pod) -> Result<Workload, String> {
    let status = pod.status.as_ref().ok_or("it has no status yet, so its addresses are not known")?;
    if matches!(&*status.phase, "Succeeded" | "Failed") {
        return Err(format!("its phase is {}", status.phase));
    }
    if status.ips.is_empty() {
        return Err("its status has no IP yet".into());
    }
    let addresses = status.ips.iter().map(|ip| ip.parse::<IpAddr>().map_err(|_| format!("{ip:?} in status.podIPs is not an IP address")));
    let addresses = addresses.collect::<Result<Vec<IpAddr>, String>>()?;

    let meta = &pod.meta;
    let named = telemetry::of_pod(pod);
    let (tunnel_protocol, native_tunnel) = tunnel(&meta.labels, &meta.annotations);
    let own_gateway = waypoint::gateway_of(lens, &meta.namespace, &meta.labels);
    let is_healthy = status.is_ready && !meta.is_deleting;
    let mut workload = blank(lens, &format!("{}//Pod/{}/{}", lens.settings.cluster_id, meta.namespace, meta.name), &meta.namespace, &meta.name);
    workload.service_account = pod.service_account.clone();
    workload.addresses = addresses;
    workload.network_mode = if pod.is_host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard };
    workload.tunnel_protocol = tunnel_protocol;
    workload.native_tunnel = native_tunnel;
    workload.application_tunnel = own_gateway.as_ref().and_then(|gateway| gateway.inbound_binding);
    workload.waypoint = if own_gateway.is_some() { None } else { waypoint::of_workload(lens, &meta.namespace, &meta.labels).address() };
    workload.node = pod.node.clone();
    workload.locality = locality_of_node(lens, &pod.node);
    workload.status = if is_healthy { Health::Healthy } else { Health::Unhealthy };
    workload.services = membership::of_pod(lens, pod);
    list_policies(lens, &meta.labels, &mut workload);
    named.write(&mut workload);
    Ok(workload)
}

/// A workload outside Kubernetes.
pub fn workload_entry(lens: &Lens<'_>, name: &NsName) -> Derived {
    let Some(entry) = lens.cluster.workload_entries.get(name) else { return Derived::default() };
    let (meta, labels) = (&entry.meta, entry.labels());
    let uid = format!("{}/networking.istio.io/WorkloadEntry/{}/{}", lens.settings.cluster_id, meta.namespace, meta.name);
    let mut report = Report::default();
    let mut workload = blank(lens, &uid, &meta.namespace, &meta.name);
    (workload.tunnel_protocol, workload.native_tunnel) = tunnel(&labels, &meta.annotations);
    place(lens, &mut workload, &entry.spec, &mut report, "spec");
    yield_addresses(lens, &ObjectKey { kind: Kind::WorkloadEntry, name: name.clone() }, &mut workload, "spec.address", &mut report);
    let own_gateway = waypoint::gateway_of(lens, &meta.namespace, &labels);
    workload.application_tunnel = own_gateway.as_ref().and_then(|gateway| gateway.inbound_binding);
    if own_gateway.is_none() {
        let bound = waypoint::of_workload(lens, &meta.namespace, &labels);
        bound.report(&mut report);
        workload.waypoint = bound.address();
    }
    workload.services = membership::of_workload_entry(lens, entry, &labels);
    list_policies(lens, &labels, &mut workload);
    let group = meta.annotation("istio.io/autoRegistrationGroup").map(Into::into);
    Named::by_labels(group.or_else(|| labels.get("service.istio.io/workload-name").cloned()).unwrap_or_else(|| meta.name.clone()), &labels).write(&mut workload);
    let key = ObjectKey { kind: Kind::WorkloadEntry, name: name.clone() };
    Derived { workloads: vec![workload.into()], reports: said(key, report), ..Derived::default() }
}

/// The workloads of a ServiceEntry's own: its inline endpoints, or, for a name that DNS answers, one per hostname.
pub fn service_entry(lens: &Lens<'_>, name: &NsName) -> Derived {
    let Some(entry) = lens.cluster.service_entries.get(name) else { return Derived::default() };
    let key = ObjectKey { kind: Kind::ServiceEntry, name: name.clone() };
    let owned: Vec<&Arc<str>> = entry.spec.hosts.iter().filter(|host| lens.owner(&name.namespace, host).as_ref() == Some(&key)).collect();
    let mut report = Report::default();
    if entry.selector().is_some() && !entry.spec.endpoints.is_empty() {
        report.note("spec.endpoints is not used: spec.workloadSelector is given");
    }
    let mut workloads = Vec::new();
    if !owned.is_empty() && entry.selector().is_none() {
        let dns = matches!(entry.resolution(), "DNS" | "DNS_ROUND_ROBIN" | "DYNAMIC_DNS");
        if !entry.spec.endpoints.is_empty() {
            workloads = inline_endpoints(lens, entry, &owned, &mut report);
        } else if dns {
            workloads = owned.iter().map(|host| named_host(lens, entry, host).into()).collect();
        }
    }
    Derived { workloads, reports: said(key, report), ..Derived::default() }
}

fn inline_endpoints(lens: &Lens<'_>, entry: &ServiceEntry, owned: &[&Arc<str>], report: &mut Report) -> Vec<Arc<Workload>> {
    let meta = &entry.meta;
    let mut seen = BTreeSet::new();
    let mut workloads = Vec::new();
    for (index, endpoint) in entry.spec.endpoints.iter().enumerate() {
        let field = format!("spec.endpoints[{index}]");
        // The uid is the address, so a second endpoint with it cannot be told from the first.
        if !seen.insert(&endpoint.address) {
            report.note(format!("{field} is not published: an endpoint before it has the same address {:?}", endpoint.address));
            continue;
        }
        let mut workload = of_entry(lens, entry, &endpoint.address);
        place(lens, &mut workload, endpoint, report, &field);
        yield_addresses(lens, &ObjectKey { kind: Kind::ServiceEntry, name: meta.ns_name() }, &mut workload, &format!("{field}.address"), report);
        workload.waypoint = waypoint::of_workload(lens, &meta.namespace, &endpoint.labels).address();
        let mapped = ports::entry_on_endpoint(entry, &endpoint.ports);
        workload.services = owned.iter().map(|host| (key_of(entry, host), mapped.clone())).collect();
        list_policies(lens, &meta.labels, &mut workload);
        workloads.push(workload.into());
    }
    workloads
}

/// Resolved by the node daemon when a connection needs it.
fn named_host(lens: &Lens<'_>, entry: &ServiceEntry, host: &Arc<str>) -> Workload {
    let mut workload = of_entry(lens, entry, host);
    workload.hostname = host.clone();
    workload.services = [(key_of(entry, host), ports::entry_on_endpoint(entry, &Default::default()))].into();
    list_policies(lens, &entry.meta.labels, &mut workload);
    workload
}

/// What all workloads of a ServiceEntry share: name, telemetry, tunnel and policies come from the entry itself.
fn of_entry(lens: &Lens<'_>, entry: &ServiceEntry, last: &str) -> Workload {
    let meta = &entry.meta;
    let uid = format!("{}/networking.istio.io/ServiceEntry/{}/{}/{last}", lens.settings.cluster_id, meta.namespace, meta.name);
    let mut workload = blank(lens, &uid, &meta.namespace, &meta.name);
    (workload.tunnel_protocol, workload.native_tunnel) = tunnel(&meta.labels, &meta.annotations);
    let name = meta.labels.get("service.istio.io/workload-name").unwrap_or(&meta.name).clone();
    Named::by_labels(name, &meta.labels).write(&mut workload);
    workload
}

/// Endpoints of a Service that are no pods. One address stands in several slices while a controller moves it: the first
/// slice by name has it.
pub fn endpoints(lens: &Lens<'_>, name: &NsName) -> Derived {
    let Some(owner) = lens.cluster.services.get(name).filter(|service| !service.is_external_name) else { return Derived::default() };
    let host = service::key_of_service(lens.settings, owner);
    let mut seen: BTreeSet<IpAddr> = BTreeSet::new();
    let mut derived = Derived::default();
    for slice in lens.cluster.slices_of_service(name).filter(|slice| !slice.is_fqdn) {
        let mapped = ports::slice_on_service(slice, owner);
        let outside = slice.endpoints.iter().filter(|endpoint| endpoint.target.as_ref().is_none_or(|target| &*target.kind != "Pod"));
        let mut report = Report::default();
        for endpoint in outside {
            let addresses: Option<Vec<IpAddr>> = endpoint.addresses.iter().map(|ip| ip.parse().ok()).collect();
            let Some(addresses) = addresses.filter(|addresses| !addresses.is_empty()) else {
                report.note(format!("an endpoint is not published: {:?} are not IP addresses", endpoint.addresses));
                continue;
            };
            if !seen.insert(addresses[0]) {
                continue;
            }
            let uid = format!("{}/discovery.k8s.io/EndpointSlice/{}/{}/{}", lens.settings.cluster_id, slice.meta.namespace, slice.meta.name, addresses[0]);
            let mut workload = blank(lens, &uid, &slice.meta.namespace, &slice.meta.name);
            workload.addresses = addresses;
            workload.network_mode = NetworkMode::HostNetwork;
            workload.status = if endpoint.is_ready { Health::Healthy } else { Health::Unhealthy };
            workload.services = [(host.clone(), mapped.clone())].into();
            derived.workloads.push(workload.into());
        }
        derived.reports.extend(said(ObjectKey { kind: Kind::EndpointSlice, name: slice.meta.ns_name() }, report));
    }
    derived
}

fn blank(lens: &Lens<'_>, uid: &str, namespace: &Arc<str>, name: &Arc<str>) -> Workload {
    let mut workload = Workload::named(uid, namespace, name);
    workload.cluster_id = lens.settings.cluster_id.clone();
    workload.trust_domain = lens.settings.trust_domain.clone();
    workload.network = lens.network();
    workload.network_gateway = network_gateway::of_network(lens, &workload.network);
    // Upstream sends POD for everything it makes; no daemon looks at it.
    workload.workload_type = WorkloadType::Pod;
    workload
}

/// The part of a WorkloadEntry that says where and as whom it runs; the same for an inline endpoint.
fn place(lens: &Lens<'_>, workload: &mut Workload, spec: &WorkloadEntrySpec, report: &mut Report, field: &str) {
    match spec.address.parse::<IpAddr>() {
        Ok(ip) => workload.addresses = vec![ip],
        Err(_) => workload.hostname = spec.address.clone(),
    }
    if spec.address.starts_with("unix:") {
        report.note(format!("{field}.address: a node daemon cannot reach a unix socket"));
    }
    if !spec.network.is_empty() {
        workload.network = spec.network.clone();
        workload.network_gateway = network_gateway::of_network(lens, &workload.network);
    }
    if !spec.service_account.is_empty() {
        workload.service_account = spec.service_account.clone();
    }
    if spec.weight > 0 {
        workload.capacity = spec.weight;
    }
    let mut parts = spec.locality.splitn(3, '/').map(Arc::from);
    let mut next = || parts.next().unwrap_or_default();
    workload.locality = Locality { region: next(), zone: next(), subzone: next() };
    for (name, port) in &spec.ports {
        if ports::as_port(*port).is_none() {
            report.note(format!("{field}.ports.{name}: {port} is not a port, so the service's own number is used"));
        }
    }
}

/// A workload of which an address is somebody else's is reached through its services alone: marked as on a host's
/// network, it is not found by address (spec/controlplane.md 1.3, field 25).
fn yield_addresses(lens: &Lens<'_>, key: &ObjectKey, workload: &mut Workload, field: &str, report: &mut Report) {
    let lost = |ip: &IpAddr| Some((*ip, lens.memory.claims.lost(key, &workload.network, &ip.to_string())?));
    let lost: Vec<_> = workload.addresses.iter().filter_map(lost).collect();
    for (ip, owner) in &lost {
        report.note(format!("{field}: {ip} is {owner}'s too; connections to the bare address are for that one"));
    }
    if !lost.is_empty() {
        workload.network_mode = NetworkMode::HostNetwork;
    }
}

/// Only the agent's report of success, or an application that speaks HBONE itself. The wish to be enrolled does not
/// count: nobody would listen yet (spec/controlplane.md 4.4).
fn tunnel(labels: &Labels, annotations: &Labels) -> (TunnelProtocol, bool) {
    let is_captured = annotations.get("ambient.istio.io/redirection").is_some_and(|value| &**value == "enabled");
    let speaks_itself = labels.get("networking.istio.io/tunnel").is_some_and(|list| list.split(',').any(|item| item == "http"));
    let protocol = if is_captured || speaks_itself { TunnelProtocol::Hbone } else { TunnelProtocol::None };
    (protocol, speaks_itself)
}

fn locality_of_node(lens: &Lens<'_>, node: &Arc<str>) -> Locality {
    if node.is_empty() {
        return Locality::default();
    }
    let Some(node) = lens.node(node) else { return Locality::default() };
    let label = |key| node.meta.labels.get(key).cloned().unwrap_or_default();
    Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone"),
    }
}

/// Lists the policies of a workload, each known to be published (spec/controlplane.md 4.6). Its waypoint and its services
/// are known by now.
fn list_policies(lens: &Lens<'_>, labels: &Labels, workload: &mut Workload) {
    let namespace = workload.namespace.clone();
    let mut listed = policy::selecting(lens, &namespace, labels);
    listed.extend(peer_authentication::selecting(lens, &namespace, labels));
    if lens.settings.allows_waypoints {
        listed.extend(waypoint::allowing(lens, labels, workload));
    }
    // Where no policy has targets at all, which is most of the time, nobody looks at services for each workload.
    if lens.settings.closes_behind_waypoints && lens.cluster.has_targets() {
        listed.extend(waypoint::closing(lens, labels, workload));
    }
    workload.authorization_policies = listed;
}

fn key_of(entry: &ServiceEntry, host: &Arc<str>) -> NamespacedHostname {
    NamespacedHostname { namespace: entry.meta.namespace.clone(), hostname: host.clone() }
}

fn said(key: ObjectKey, report: Report) -> Vec<(ObjectKey, Report)> {
    if report.is_empty() { Vec::new() } else { vec![(key, report)] }
}
