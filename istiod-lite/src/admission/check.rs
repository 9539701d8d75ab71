//! What is plainly wrong with an object that can be read. Pure. A source takes such an object all the same and says in its
//! status what it makes of it; a webhook can say it before the object is there, when whoever wrote it still looks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::objects::istio::{EntryPort, LOCATIONS, RESOLUTIONS, WorkloadEntrySpec};
use crate::objects::meta::{Labels, check_label};
use crate::objects::policy::{MODES, MutualTls};
use crate::objects::{Object, PeerAuthentication, ServiceEntry};
use crate::translate::{policy, ports, rate_limit};
use mesh_xds::messages::waypoint::Host;

mod waypoints;

/// # Errors
/// The field, what is wrong with it, and what to write.
pub fn check(object: &Object) -> Result<(), String> {
    match object {
        Object::AuthorizationPolicy(found) => {
            labels("spec.selector.matchLabels", found.selector())?;
            policy::refused(found).map_or(Ok(()), Err)
        }
        Object::PeerAuthentication(found) => peer_authentication(found),
        Object::ServiceEntry(found) => service_entry(found),
        Object::WorkloadEntry(found) => place(&found.spec, "spec"),
        Object::RateLimit(found) => rate_limit::message(&found.spec, |_| Host::default()).map(drop),
        Object::DestinationRule(found) => waypoints::destination_rule(found),
        Object::VirtualService(found) => waypoints::virtual_service(found),
        Object::RequestAuthentication(found) => waypoints::request_authentication(found),
        Object::Telemetry(found) => waypoints::telemetry(found),
        // The kinds of the Gateway API have a status that says it to each parent; their users look there.
        _ => Ok(()),
    }
}

fn labels(field: &str, labels: Option<&Labels>) -> Result<(), String> {
    labels.into_iter().flat_map(Labels::iter).try_for_each(|(key, value)| check_label(key, value)).map_err(|why| format!("{field}: {why}"))
}

fn peer_authentication(found: &PeerAuthentication) -> Result<(), String> {
    labels("spec.selector.matchLabels", found.selector())?;
    let mode = |field: &str, mtls: &MutualTls| match mtls.mode.as_deref() {
        Some(other) if !MODES.contains(&other) => Err(format!("{field}.mode: {other:?} is not UNSET, DISABLE, PERMISSIVE or STRICT")),
        _ => Ok(()),
    };
    found.spec.mtls.as_ref().map_or(Ok(()), |mtls| mode("spec.mtls", mtls))?;
    for (number, mtls) in &found.spec.port_level_mtls {
        port("spec.portLevelMtls", *number)?;
        mode(&format!("spec.portLevelMtls[{number}]"), mtls)?;
    }
    if !found.spec.port_level_mtls.is_empty() && found.selector().is_none() {
        return Err("spec.portLevelMtls: has no effect without spec.selector.matchLabels: name the workloads whose ports are meant".into());
    }
    Ok(())
}

fn service_entry(found: &ServiceEntry) -> Result<(), String> {
    let spec = &found.spec;
    labels("spec.workloadSelector.labels", found.selector())?;
    if spec.hosts.is_empty() {
        return Err("spec.hosts: is empty: name at least one host".into());
    }
    for (index, name) in spec.hosts.iter().enumerate() {
        host(name).map_err(|why| format!("spec.hosts[{index}]: {name:?} {why}"))?;
    }
    for (index, address) in spec.addresses.iter().enumerate() {
        if address.parse::<IpAddr>().is_err() && address.parse::<IpNet>().is_err() {
            return Err(format!("spec.addresses[{index}]: {address:?} is neither an IP address nor a range of them"));
        }
    }
    one_of("spec.resolution", spec.resolution.as_ref(), &RESOLUTIONS)?;
    one_of("spec.location", spec.location.as_ref(), &LOCATIONS)?;
    service_ports(&spec.ports)?;
    if found.selector().is_some() && !spec.endpoints.is_empty() {
        return Err("spec.endpoints: excludes spec.workloadSelector: leave one of them out".into());
    }
    let mut seen = BTreeSet::new();
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        let field = format!("spec.endpoints[{index}]");
        place(endpoint, &field)?;
        if !endpoint.address.is_empty() && !seen.insert(&endpoint.address) {
            return Err(format!("{field}.address: {:?} is the address of an endpoint before it", endpoint.address));
        }
        if found.resolution() == "STATIC" && !endpoint.address.is_empty() && !endpoint.address.starts_with("unix:") && endpoint.address.parse::<IpAddr>().is_err() {
            return Err(format!("{field}.address: {:?} is no IP address, which spec.resolution STATIC needs: write DNS there", endpoint.address));
        }
    }
    Ok(())
}

fn service_ports(ports: &[EntryPort]) -> Result<(), String> {
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (index, declared) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        port(&format!("{field}.number"), declared.number)?;
        declared.target_port.map_or(Ok(()), |target| port(&format!("{field}.targetPort"), target))?;
        if declared.name.is_empty() {
            return Err(format!("{field}.name: is empty: endpoints are joined to ports by their names"));
        }
        if !names.insert(&declared.name) {
            return Err(format!("{field}.name: {:?} is the name of a port before it", declared.name));
        }
        let protocol = declared.protocol.as_deref().unwrap_or_default();
        if !numbers.insert((declared.number, protocol.eq_ignore_ascii_case("UDP"))) {
            return Err(format!("{field}.number: {} is the number of a port before it", declared.number));
        }
    }
    Ok(())
}

fn place(spec: &WorkloadEntrySpec, field: &str) -> Result<(), String> {
    if spec.address.is_empty() && spec.network.is_empty() {
        return Err(format!("{field}.address: is empty: only a workload of another network (network) can be without"));
    }
    // A unix socket is a proxy's to reach; that a node daemon cannot is a remark, not a fault.
    if !spec.address.is_empty() && !spec.address.starts_with("unix:") && spec.address.parse::<IpAddr>().is_err() {
        host(&spec.address).map_err(|why| format!("{field}.address: {:?} is no IP address and {why}", spec.address))?;
    }
    for (name, number) in &spec.ports {
        port(&format!("{field}.ports[{name}]"), *number)?;
    }
    if spec.locality.split('/').count() > 3 {
        return Err(format!("{field}.locality: {:?} has more parts than region/zone/subzone", spec.locality));
    }
    Ok(())
}

fn port(field: &str, number: u32) -> Result<(), String> {
    ports::as_port(number).map(drop).ok_or_else(|| format!("{field}: {number} is not a port: 1 to 65535"))
}

fn one_of(field: &str, value: Option<&Arc<str>>, known: &[&str]) -> Result<(), String> {
    match value {
        Some(value) if !known.contains(&&**value) => Err(format!("{field}: {value:?} is not one of {}", known.join(", "))),
        _ => Ok(()),
    }
}

/// A DNS name; `*` may stand for its first label (RFC 1123, section 2.1).
fn host(name: &str) -> Result<(), &'static str> {
    let bare = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    match (name == "*", name.len() <= 253 && bare.strip_suffix('.').unwrap_or(bare).split('.').all(label)) {
        (true, _) => Err("stands for every name there is: name a domain, *.example.com"),
        (_, false) => Err("is no DNS name: labels of a-z, 0-9 and '-', joined by dots; only the first may be *"),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
