//! Ports: which port of an endpoint a service's port leads to, and what is spoken there (spec/controlplane.md 4.5, 4.9.1).

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::service::AppProtocol;

use crate::objects::core::{ServicePort, TargetPort};
use crate::objects::istio::EntryPort;
use crate::objects::{EndpointSlice, Pod, Service, ServiceEntry};

/// Service port to endpoint port.
pub type PortMap = BTreeMap<u16, u16>;

/// The wire has one target per number, and the node daemon carries TCP: where one number is used for both, TCP counts.
fn tcp_last<'a, T>(ports: &'a [T], is_tcp: impl Fn(&T) -> bool + Copy + 'a) -> impl Iterator<Item = &'a T> {
    ports.iter().filter(move |port| !is_tcp(port)).chain(ports.iter().filter(move |port| is_tcp(port)))
}

pub fn service_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    tcp_last(&service.ports, |port| &*port.protocol == "TCP")
}

pub fn entry_ports(entry: &ServiceEntry) -> impl Iterator<Item = (u16, &EntryPort)> {
    let is_udp = |port: &EntryPort| port.protocol.as_deref().is_some_and(|protocol| protocol.eq_ignore_ascii_case("UDP"));
    tcp_last(&entry.spec.ports, move |port| !is_udp(port)).filter_map(|port| Some((as_port(port.number)?, port)))
}

/// 1 to 65535, or nothing.
pub fn as_port(number: u32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port > 0)
}

/// A named target that the pod does not have leaves the port out.
pub fn service_on_pod(service: &Service, pod: &Pod) -> PortMap {
    let target = |port: &ServicePort| match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => pod.named_port(name),
    };
    service_ports(service).filter_map(|port| Some((port.port, target(port)?))).collect()
}

/// The entry's own names decide: for a numeric target the service port's name, for a named one the target's.
pub fn service_on_workload_entry(service: &Service, ports: &BTreeMap<Arc<str>, u32>) -> PortMap {
    let named = |name: &Arc<str>| ports.get(name).copied().and_then(as_port);
    let target = |port: &ServicePort| match &port.target {
        TargetPort::Number(number) => Some(named(&port.name).unwrap_or(*number)),
        TargetPort::Name(name) => named(name),
    };
    service_ports(service).filter_map(|port| Some((port.port, target(port)?))).collect()
}

/// The container's port of the same name wins, even over an explicit target.
pub fn entry_on_pod(entry: &ServiceEntry, pod: &Pod) -> PortMap {
    entry_ports(entry).map(|(number, port)| (number, pod.named_port(&port.name).unwrap_or(entry_target(number, port)))).collect()
}

pub fn entry_on_endpoint(entry: &ServiceEntry, ports: &BTreeMap<Arc<str>, u32>) -> PortMap {
    let named = |port: &EntryPort| ports.get(&port.name).copied().and_then(as_port);
    entry_ports(entry).map(|(number, port)| (number, named(port).unwrap_or(entry_target(number, port)))).collect()
}

/// Joined by the name of the port; a port without a name or without a partner is left out.
pub fn slice_on_service(slice: &EndpointSlice, service: &Service) -> PortMap {
    let known = |name: &str| slice.ports.iter().find(|(known, _)| &**known == name).map(|(_, port)| *port);
    service_ports(service).filter(|port| &*port.protocol == "TCP").filter_map(|port| Some((port.port, known(&port.name)?))).collect()
}

/// The target of a ServiceEntry's port; never 0.
pub fn entry_target(number: u16, port: &EntryPort) -> u16 {
    port.target_port.and_then(as_port).unwrap_or(number)
}

pub fn service_app_protocol(port: &ServicePort) -> Option<AppProtocol> {
    if &*port.protocol != "TCP" {
        return None;
    }
    let declared = match port.app_protocol.as_deref() {
        None => return by_name(&port.name).or_else(|| server_first(port.port)),
        Some(declared) => declared,
    };
    match declared.to_ascii_lowercase().as_str() {
        "kubernetes.io/h2c" => Some(AppProtocol::Http2),
        "kubernetes.io/ws" => Some(AppProtocol::Http11),
        "kubernetes.io/wss" => Some(AppProtocol::Tls),
        other => by_name(other).or_else(|| server_first(port.port)),
    }
}

pub fn entry_app_protocol(number: u16, port: &EntryPort) -> Option<AppProtocol> {
    let protocol = port.protocol.as_deref().unwrap_or_default();
    if protocol.eq_ignore_ascii_case("UDP") {
        return None;
    }
    by_name(protocol).or_else(|| server_first(number))
}

fn by_name(name: &str) -> Option<AppProtocol> {
    match name.split('-').next().unwrap_or_default().to_ascii_lowercase().as_str() {
        // The one protocol whose name begins with another's.
        "grpc" if name.to_ascii_lowercase().starts_with("grpc-web") => None,
        "http" => Some(AppProtocol::Http11),
        "http2" => Some(AppProtocol::Http2),
        "grpc" => Some(AppProtocol::Grpc),
        "tls" | "https" => Some(AppProtocol::Tls),
        "tcp" => Some(AppProtocol::Tcp),
        _ => None,
    }
}

/// Here the server speaks first, so waiting for the client to show its protocol would hang (SMTP, DNS, MySQL, MongoDB).
fn server_first(port: u16) -> Option<AppProtocol> {
    matches!(port, 25 | 53 | 3306 | 27017).then_some(AppProtocol::Tcp)
}
