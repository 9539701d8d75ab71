//! Address <-> `Workload` and `Service`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::address::{GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress, NetworkCidr};
use mesh_model::change::Change;
use mesh_model::identity::{DEFAULT_SERVICE_ACCOUNT, DEFAULT_TRUST_DOMAIN};
use mesh_model::service::{
    AppProtocol, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Scope, Service, Visibility, WeightedWaypoint,
};
use mesh_model::workload::{
    ApplicationTunnel, ApplicationTunnelProtocol, Health, Locality, NetworkMode, PolicyKey, TunnelProtocol, Uid, Workload,
    WorkloadType,
};

use super::{Rejected, decode_ip, decode_port, encode_ip, known, rejected};
use crate::messages::workload as message;

/// Cluster that is meant when none is sent.
const DEFAULT_CLUSTER: &str = "Kubernetes";
/// Weight of an endpoint that is meant when none is sent.
const DEFAULT_CAPACITY: u32 = 1;

pub fn decode_address(address: message::Address) -> Result<Change, Rejected> {
    match address.kind {
        Some(message::AddressType::Workload(workload)) => Ok(Change::Workload(Arc::new(decode_workload(*workload)?))),
        Some(message::AddressType::Service(service)) => Ok(Change::Service(Arc::new(decode_service(*service)?))),
        None => Err(rejected("Address", "neither a workload nor a service")),
    }
}

pub fn decode_workload(from: message::Workload) -> Result<Workload, Rejected> {
    if from.uid.is_empty() {
        return Err(rejected("uid", "empty"));
    }
    Ok(Workload {
        uid: Uid(from.uid.into()),
        name: from.name.into(),
        namespace: from.namespace.into(),
        trust_domain: or_default(from.trust_domain, DEFAULT_TRUST_DOMAIN),
        service_account: or_default(from.service_account, DEFAULT_SERVICE_ACCOUNT),
        addresses: from.addresses.iter().map(|bytes| decode_ip("addresses", bytes)).collect::<Result<_, _>>()?,
        hostname: from.hostname.into(),
        network: from.network.into(),
        network_mode: match known("network_mode", from.network_mode)? {
            message::NetworkMode::Standard => NetworkMode::Standard,
            message::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
        },
        network_gateway: from.network_gateway.map(|one| decode_gateway("network_gateway", one)).transpose()?,
        tunnel_protocol: match known("tunnel_protocol", from.tunnel_protocol)? {
            message::TunnelProtocol::None => TunnelProtocol::None,
            message::TunnelProtocol::Hbone => TunnelProtocol::Hbone,
            message::TunnelProtocol::LegacyIstioMtls => {
                return Err(rejected("tunnel_protocol", "LEGACY_ISTIO_MTLS is not supported"));
            }
        },
        native_tunnel: from.native_tunnel,
        application_tunnel: from.application_tunnel.map(decode_application_tunnel).transpose()?,
        waypoint: from.waypoint.map(|one| decode_gateway("waypoint", one)).transpose()?,
        node: from.node.into(),
        cluster_id: or_default(from.cluster_id, DEFAULT_CLUSTER),
        locality: from.locality.map(decode_locality).unwrap_or_default(),
        canonical_name: from.canonical_name.into(),
        canonical_revision: from.canonical_revision.into(),
        workload_name: from.workload_name.into(),
        // For labels only: an unknown number refuses nothing.
        workload_type: match message::WorkloadType::try_from(from.workload_type) {
            Ok(message::WorkloadType::Deployment) | Err(_) => WorkloadType::Deployment,
            Ok(message::WorkloadType::CronJob) => WorkloadType::CronJob,
            Ok(message::WorkloadType::Pod) => WorkloadType::Pod,
            Ok(message::WorkloadType::Job) => WorkloadType::Job,
        },
        authorization_policies: from.authorization_policies.into_iter().map(|key| PolicyKey(key.into())).collect(),
        status: match known("status", from.status)? {
            message::WorkloadStatus::Healthy => Health::Healthy,
            message::WorkloadStatus::Unhealthy => Health::Unhealthy,
        },
        capacity: from.capacity.unwrap_or(DEFAULT_CAPACITY),
        services: from.services.into_iter().map(decode_membership).collect::<Result<_, _>>()?,
    })
}

pub fn encode_workload(from: &Workload) -> message::Address {
    let tunnel_protocol = match from.tunnel_protocol {
        TunnelProtocol::None => message::TunnelProtocol::None,
        TunnelProtocol::Hbone => message::TunnelProtocol::Hbone,
    };
    let workload_type = match from.workload_type {
        WorkloadType::Deployment => message::WorkloadType::Deployment,
        WorkloadType::CronJob => message::WorkloadType::CronJob,
        WorkloadType::Pod => message::WorkloadType::Pod,
        WorkloadType::Job => message::WorkloadType::Job,
    };
    let status = match from.status {
        Health::Healthy => message::WorkloadStatus::Healthy,
        Health::Unhealthy => message::WorkloadStatus::Unhealthy,
    };
    let network_mode = match from.network_mode {
        NetworkMode::Standard => message::NetworkMode::Standard,
        NetworkMode::HostNetwork => message::NetworkMode::HostNetwork,
    };
    let workload = message::Workload {
        name: from.name.to_string(),
        namespace: from.namespace.to_string(),
        addresses: from.addresses.iter().copied().map(encode_ip).collect(),
        network: from.network.to_string(),
        tunnel_protocol: tunnel_protocol.into(),
        // As upstream: the default is not spelled out.
        trust_domain: Some(from.trust_domain.to_string()).filter(|td| td != DEFAULT_TRUST_DOMAIN).unwrap_or_default(),
        service_account: from.service_account.to_string(),
        waypoint: from.waypoint.as_ref().map(encode_gateway),
        node: from.node.to_string(),
        canonical_name: from.canonical_name.to_string(),
        canonical_revision: from.canonical_revision.to_string(),
        workload_type: workload_type.into(),
        workload_name: from.workload_name.to_string(),
        native_tunnel: from.native_tunnel,
        authorization_policies: from.authorization_policies.iter().map(PolicyKey::to_string).collect(),
        status: status.into(),
        cluster_id: from.cluster_id.to_string(),
        network_gateway: from.network_gateway.as_ref().map(encode_gateway),
        uid: from.uid.to_string(),
        hostname: from.hostname.to_string(),
        services: from
            .services
            .iter()
            .map(|(key, ports)| (key.to_string(), message::PortList { ports: encode_ports(ports) }))
            .collect(),
        application_tunnel: from.application_tunnel.as_ref().map(encode_application_tunnel),
        locality: Some(&from.locality).filter(|locality| **locality != Locality::default()).map(encode_locality),
        network_mode: network_mode.into(),
        capacity: Some(from.capacity).filter(|capacity| *capacity != DEFAULT_CAPACITY),
    };
    message::Address { kind: Some(message::AddressType::Workload(Box::new(workload))) }
}

pub fn decode_service(from: message::Service) -> Result<Service, Rejected> {
    if from.hostname.is_empty() {
        return Err(rejected("hostname", "empty"));
    }
    let mut vips = Vec::new();
    let mut cidr_vips = Vec::new();
    for address in from.addresses {
        match decode_vip(address)? {
            Vip::Host(vip) => vips.push(vip),
            Vip::Range(range) => cidr_vips.push(range),
        }
    }
    let weighted = |one: message::WeightedWaypoint| {
        let destination = one.destination.ok_or_else(|| rejected("weighted_waypoints", "no destination"))?;
        Ok(WeightedWaypoint { destination: decode_gateway("weighted_waypoints", destination)?, weight: one.weight })
    };
    let app_protocols = from.ports.iter().filter_map(decode_app_protocol).collect();
    Ok(Service {
        name: from.name.into(),
        namespace: from.namespace.into(),
        hostname: from.hostname.into(),
        vips,
        cidr_vips,
        ports: decode_ports("ports", from.ports)?,
        app_protocols,
        subject_alt_names: from.subject_alt_names.into_iter().map(Arc::from).collect(),
        waypoint: from.waypoint.map(|one| decode_gateway("waypoint", one)).transpose()?,
        weighted_waypoints: from.weighted_waypoints.into_iter().map(weighted).collect::<Result<_, _>>()?,
        load_balancing: from.load_balancing.map(decode_load_balancing).transpose()?.unwrap_or_default(),
        ip_families: match known("ip_families", from.ip_families)? {
            message::IpFamilies::Automatic => IpFamilies::Automatic,
            message::IpFamilies::Ipv4Only => IpFamilies::V4Only,
            message::IpFamilies::Ipv6Only => IpFamilies::V6Only,
            message::IpFamilies::Dual => IpFamilies::Dual,
        },
        canonical: from.canonical,
        ingress_use_waypoint: from.ingress_use_waypoint,
        // Who may see a service is a matter of tidiness, not of access: an unknown number reads as the default.
        visibility: match message::Visibility::try_from(from.visibility) {
            Ok(message::Visibility::Public) | Err(_) => Visibility::Public,
            Ok(message::Visibility::Namespace) => Visibility::Namespace,
        },
    })
}

pub fn encode_service(from: &Service) -> message::Address {
    let ip_families = match from.ip_families {
        IpFamilies::Automatic => message::IpFamilies::Automatic,
        IpFamilies::V4Only => message::IpFamilies::Ipv4Only,
        IpFamilies::V6Only => message::IpFamilies::Ipv6Only,
        IpFamilies::Dual => message::IpFamilies::Dual,
    };
    let visibility = match from.visibility {
        Visibility::Public => message::Visibility::Public,
        Visibility::Namespace => message::Visibility::Namespace,
    };
    let range = |range: &NetworkCidr| message::NetworkAddress {
        network: range.network.to_string(),
        address: encode_ip(range.cidr.addr()),
        length: Some(range.cidr.prefix_len().into()),
    };
    let weighted = |one: &WeightedWaypoint| message::WeightedWaypoint {
        destination: Some(encode_gateway(&one.destination)),
        weight: one.weight,
    };
    let mut ports = encode_ports(&from.ports);
    for port in &mut ports {
        let known = u16::try_from(port.service_port).ok().and_then(|port| from.app_protocols.get(&port));
        port.app_protocol = known.map_or(message::AppProtocol::Unknown, encode_app_protocol).into();
    }
    let service = message::Service {
        name: from.name.to_string(),
        namespace: from.namespace.to_string(),
        hostname: from.hostname.to_string(),
        addresses: from.vips.iter().map(encode_network_address).chain(from.cidr_vips.iter().map(range)).collect(),
        ports,
        subject_alt_names: from.subject_alt_names.iter().map(|name| name.to_string()).collect(),
        waypoint: from.waypoint.as_ref().map(encode_gateway),
        load_balancing: Some(&from.load_balancing).filter(|lb| **lb != LoadBalancing::default()).map(encode_load_balancing),
        ip_families: ip_families.into(),
        canonical: from.canonical,
        ingress_use_waypoint: from.ingress_use_waypoint,
        weighted_waypoints: from.weighted_waypoints.iter().map(weighted).collect(),
        visibility: visibility.into(),
    };
    message::Address { kind: Some(message::AddressType::Service(Box::new(service))) }
}

fn or_default(text: String, default: &str) -> Arc<str> {
    if text.is_empty() { default.into() } else { text.into() }
}

/// A key without a slash is refused.
fn decode_membership(
    (key, ports): (String, message::PortList),
) -> Result<(NamespacedHostname, BTreeMap<u16, u16>), Rejected> {
    let service = NamespacedHostname::parse(&key).ok_or_else(|| rejected("services", format_args!("{key:?} has no /")))?;
    Ok((service, decode_ports("services", ports.ports)?))
}

/// A later mapping of the same service port replaces the earlier.
fn decode_ports(field: &str, ports: Vec<message::Port>) -> Result<BTreeMap<u16, u16>, Rejected> {
    let mapping = |port: message::Port| Ok((decode_port(field, port.service_port)?, decode_port(field, port.target_port)?));
    ports.into_iter().map(mapping).collect()
}

fn encode_ports(ports: &BTreeMap<u16, u16>) -> Vec<message::Port> {
    let port = |(service, target): (&u16, &u16)| message::Port { service_port: (*service).into(), target_port: (*target).into(), app_protocol: 0 };
    ports.iter().map(port).collect()
}

/// A number that is not known is no more than unknown: only waypoints look at it.
fn decode_app_protocol(port: &message::Port) -> Option<(u16, AppProtocol)> {
    let protocol = match message::AppProtocol::try_from(port.app_protocol) {
        Ok(message::AppProtocol::Http11) => AppProtocol::Http11,
        Ok(message::AppProtocol::Http2) => AppProtocol::Http2,
        Ok(message::AppProtocol::Grpc) => AppProtocol::Grpc,
        Ok(message::AppProtocol::Tcp) => AppProtocol::Tcp,
        Ok(message::AppProtocol::Tls) => AppProtocol::Tls,
        Ok(message::AppProtocol::Unknown) | Err(_) => return None,
    };
    Some((u16::try_from(port.service_port).ok()?, protocol))
}

fn encode_app_protocol(from: &AppProtocol) -> message::AppProtocol {
    match from {
        AppProtocol::Http11 => message::AppProtocol::Http11,
        AppProtocol::Http2 => message::AppProtocol::Http2,
        AppProtocol::Grpc => message::AppProtocol::Grpc,
        AppProtocol::Tcp => message::AppProtocol::Tcp,
        AppProtocol::Tls => message::AppProtocol::Tls,
    }
}

enum Vip {
    Host(NetworkAddress),
    Range(NetworkCidr),
}

/// A length of 32 (IPv4) or 128 (IPv6), or none, is a single address; a greater one is refused.
fn decode_vip(from: message::NetworkAddress) -> Result<Vip, Rejected> {
    let ip = decode_ip("addresses", &from.address)?;
    let network: Arc<str> = from.network.into();
    let Some(length) = from.length else { return Ok(Vip::Host(NetworkAddress { network, ip })) };
    let too_long = || rejected("addresses", format_args!("{ip} cannot have a prefix of {length} bits"));
    let cidr = u8::try_from(length).ok().and_then(|length| IpNet::new(ip, length).ok()).ok_or_else(too_long)?;
    if cidr.prefix_len() == cidr.max_prefix_len() {
        return Ok(Vip::Host(NetworkAddress { network, ip }));
    }
    Ok(Vip::Range(NetworkCidr { network, cidr }))
}

fn encode_network_address(from: &NetworkAddress) -> message::NetworkAddress {
    message::NetworkAddress { network: from.network.to_string(), address: encode_ip(from.ip), length: None }
}

/// The port is taken as it is, 0 too (spec/dataplane.md 5.3).
fn decode_gateway(field: &str, from: message::GatewayAddress) -> Result<GatewayAddress, Rejected> {
    let destination = match from.destination {
        Some(message::GatewayDestination::Hostname(name)) => {
            GatewayDestination::Hostname(NamespacedHostname::new(&name.namespace, &name.hostname))
        }
        Some(message::GatewayDestination::Address(address)) => match decode_vip(address)? {
            Vip::Host(address) => GatewayDestination::Address(address),
            Vip::Range(range) => return Err(rejected(field, format_args!("{range} is a range, not an address"))),
        },
        None => return Err(rejected(field, "no destination")),
    };
    Ok(GatewayAddress { destination, hbone_mtls_port: decode_port(field, from.hbone_mtls_port)? })
}

fn encode_gateway(from: &GatewayAddress) -> message::GatewayAddress {
    let destination = match &from.destination {
        GatewayDestination::Hostname(name) => message::GatewayDestination::Hostname(message::NamespacedHostname {
            namespace: name.namespace.to_string(),
            hostname: name.hostname.to_string(),
        }),
        GatewayDestination::Address(address) => message::GatewayDestination::Address(encode_network_address(address)),
    };
    message::GatewayAddress { destination: Some(destination), hbone_mtls_port: from.hbone_mtls_port.into() }
}

fn decode_application_tunnel(from: message::ApplicationTunnel) -> Result<ApplicationTunnel, Rejected> {
    let protocol = match known("application_tunnel", from.protocol)? {
        message::ApplicationTunnelProtocol::None => ApplicationTunnelProtocol::None,
        message::ApplicationTunnelProtocol::Proxy => ApplicationTunnelProtocol::Proxy,
    };
    let port = decode_port("application_tunnel", from.port)?;
    Ok(ApplicationTunnel { protocol, port: Some(port).filter(|port| *port != 0) })
}

fn encode_application_tunnel(from: &ApplicationTunnel) -> message::ApplicationTunnel {
    let protocol = match from.protocol {
        ApplicationTunnelProtocol::None => message::ApplicationTunnelProtocol::None,
        ApplicationTunnelProtocol::Proxy => message::ApplicationTunnelProtocol::Proxy,
    };
    message::ApplicationTunnel { protocol: protocol.into(), port: from.port.unwrap_or(0).into() }
}

fn decode_locality(from: message::Locality) -> Locality {
    Locality { region: from.region.into(), zone: from.zone.into(), subzone: from.subzone.into() }
}

fn encode_locality(from: &Locality) -> message::Locality {
    message::Locality { region: from.region.to_string(), zone: from.zone.to_string(), subzone: from.subzone.to_string() }
}

fn decode_load_balancing(from: message::LoadBalancing) -> Result<LoadBalancing, Rejected> {
    let scope = |number: i32| match known("load_balancing", number)? {
        message::LoadBalancingScope::Unspecified => Err(rejected("load_balancing", "unspecified scope")),
        message::LoadBalancingScope::Region => Ok(Scope::Region),
        message::LoadBalancingScope::Zone => Ok(Scope::Zone),
        message::LoadBalancingScope::Subzone => Ok(Scope::Subzone),
        message::LoadBalancingScope::Node => Ok(Scope::Node),
        message::LoadBalancingScope::Cluster => Ok(Scope::Cluster),
        message::LoadBalancingScope::Network => Ok(Scope::Network),
    };
    Ok(LoadBalancing {
        routing_preference: from.routing_preference.into_iter().map(scope).collect::<Result<_, _>>()?,
        mode: match known("load_balancing", from.mode)? {
            message::LoadBalancingMode::Unspecified => LoadBalancingMode::Standard,
            message::LoadBalancingMode::Strict => LoadBalancingMode::Strict,
            message::LoadBalancingMode::Failover => LoadBalancingMode::Failover,
            message::LoadBalancingMode::Passthrough => LoadBalancingMode::Passthrough,
        },
        health_policy: match known("load_balancing", from.health_policy)? {
            message::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
            message::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
        },
    })
}

fn encode_load_balancing(from: &LoadBalancing) -> message::LoadBalancing {
    let scope = |scope: &Scope| match scope {
        Scope::Region => message::LoadBalancingScope::Region.into(),
        Scope::Zone => message::LoadBalancingScope::Zone.into(),
        Scope::Subzone => message::LoadBalancingScope::Subzone.into(),
        Scope::Node => message::LoadBalancingScope::Node.into(),
        Scope::Cluster => message::LoadBalancingScope::Cluster.into(),
        Scope::Network => message::LoadBalancingScope::Network.into(),
    };
    let mode = match from.mode {
        LoadBalancingMode::Standard => message::LoadBalancingMode::Unspecified,
        LoadBalancingMode::Strict => message::LoadBalancingMode::Strict,
        LoadBalancingMode::Failover => message::LoadBalancingMode::Failover,
        LoadBalancingMode::Passthrough => message::LoadBalancingMode::Passthrough,
    };
    let health_policy = match from.health_policy {
        HealthPolicy::OnlyHealthy => message::HealthPolicy::OnlyHealthy,
        HealthPolicy::AllowAll => message::HealthPolicy::AllowAll,
    };
    message::LoadBalancing {
        routing_preference: from.routing_preference.iter().map(scope).collect(),
        mode: mode.into(),
        health_policy: health_policy.into(),
    }
}
