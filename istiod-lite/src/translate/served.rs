//! What a waypoint serves: each port of each service that is bound to it, and the mesh that it is in
//! (spec/waypoint.md 1.3, 1.9).

use std::sync::Arc;

use mesh_model::service::Service as Published;
use mesh_xds::messages::waypoint::{DnsName, Host, MESH_SETTINGS, MeshSettings, PortProtocol, SERVICE_PORT, ServiceKind, ServicePort};

use super::resource::{Audience, Resource, source};
use super::{Lens, ports, waypoint};
use crate::objects::core::TargetPort;
use crate::objects::{Kind, NsName, Service, ServiceEntry};

/// The account that instances of a Gateway run as: whoever proves it is told what the Gateway is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub gateway: NsName,
    pub account: NsName,
    pub class: Arc<str>,
}

const ACCOUNT: &str = "gateway.istio.io/service-account";
const XFCC: &str = "ambient.istio.io/xfcc-include-client-identity";
const LOCALITY_ORIGIN: &str = "ambient.istio.io/waypoint-locality-origin";

pub fn account(lens: &Lens<'_>, name: &NsName) -> Option<Arc<Account>> {
    let gateway = lens.cluster.gateways.get(name).filter(|_| waypoint::is_waypoint(lens, name))?;
    let account = gateway.meta.annotation(ACCOUNT).map_or_else(|| name.name.clone(), Arc::from);
    Some(Arc::new(Account { gateway: name.clone(), account: NsName { namespace: name.namespace.clone(), name: account }, class: gateway.class.clone() }))
}

/// The mesh as one waypoint is told of it.
pub fn mesh_settings(lens: &Lens<'_>, name: &NsName) -> Option<Arc<Resource>> {
    let gateway = lens.cluster.gateways.get(name).filter(|_| waypoint::is_waypoint(lens, name))?;
    let config = lens.mesh_config();
    let meta = &gateway.meta;
    let settings = MeshSettings {
        meta: source(Kind::Gateway, meta, ""),
        trust_domain: lens.settings.trust_domain.to_string(),
        trust_domain_aliases: config.trust_domain_aliases.iter().map(|alias| alias.to_string()).collect(),
        mesh_id: config.default_config.mesh_id.as_deref().unwrap_or(&lens.settings.trust_domain).to_owned(),
        connect_timeout_ms: config.connect_timeout.map_or(0, |timeout| timeout.ms()),
        default_retry: config.default_http_retry_policy.as_ref().map(|retry| super::retry::of_istio(retry).0),
        default_inbound_retry: config.default_inbound_http_retry_policy.as_ref().map(|retry| super::retry::of_istio(retry).0),
        // A server behind a waypoint sees the waypoint's address; this is how it knows whom it serves.
        append_client_ip: true,
        replicas: waypoint::ready_instances(lens, name),
        trusted_proxies: config.default_config.gateway_topology.num_trusted_proxies,
        xfcc_client_identity: meta.annotation(XFCC) == Some("true"),
        locality_of_client: meta.annotation(LOCALITY_ORIGIN) == Some("client"),
        session_secrets: session_secrets(lens, name),
        ..MeshSettings::default()
    };
    Some(Resource::new(MESH_SETTINGS, &name.to_string(), &settings, &Audience::of([name.clone()])))
}

/// Of one Gateway: all its instances have them, and those of others cannot open what it has sealed.
fn session_secrets(lens: &Lens<'_>, name: &NsName) -> Vec<String> {
    lens.memory.session_seeds.iter().map(|seed| seed.secret(&name.to_string())).collect()
}

/// The ports of a Service that waypoints serve.
pub fn of_service(lens: &Lens<'_>, object: &Service, published: &Published) -> Vec<Arc<Resource>> {
    let audience = Audience::of(waypoint::serving(lens, &object.meta, published.visibility));
    if audience.is_empty() {
        return Vec::new();
    }
    let ports = ports::service_ports(object).filter(|port| &*port.protocol == "TCP");
    let one = |port: &crate::objects::core::ServicePort| {
        let target_port = match &port.target {
            TargetPort::Number(number) => u32::from(*number),
            TargetPort::Name(_) => 0,
        };
        let protocol = protocol(port.app_protocol.as_deref(), &port.name, port.port);
        let message = ServicePort {
            meta: source(Kind::Service, &object.meta, &port.name),
            host: host(published),
            port: port.port.into(),
            port_name: port.name.to_string(),
            protocol: protocol as i32,
            target_port,
            ..ServicePort::default()
        };
        resource(published, port.port, &message, &audience)
    };
    ports.map(one).collect()
}

/// The same of a host of a ServiceEntry.
pub fn of_entry(lens: &Lens<'_>, entry: &ServiceEntry, published: &Published) -> Vec<Arc<Resource>> {
    let audience = Audience::of(waypoint::serving(lens, &entry.meta, published.visibility));
    if audience.is_empty() {
        return Vec::new();
    }
    let resolution = entry.resolution();
    let kind = match resolution {
        "DNS" | "DNS_ROUND_ROBIN" => ServiceKind::Dns,
        "NONE" => ServiceKind::Passthrough,
        "DYNAMIC_DNS" => ServiceKind::DynamicDns,
        _ => ServiceKind::Workloads,
    };
    let is_udp = |port: &crate::objects::istio::EntryPort| port.protocol.as_deref().is_some_and(|protocol| protocol.eq_ignore_ascii_case("UDP"));
    let one = |(number, port): (u16, &crate::objects::istio::EntryPort)| {
        let at = |endpoint: &crate::objects::istio::WorkloadEntrySpec| DnsName {
            hostname: endpoint.address.to_string(),
            port: endpoint.ports.get(&port.name).copied().unwrap_or(0),
            weight: endpoint.weight,
        };
        // An entry that selects its endpoints has workloads whatever its resolution.
        let (kind, names) = match (kind, entry.selector()) {
            (ServiceKind::Dns, Some(_)) => (ServiceKind::Workloads, Vec::new()),
            (ServiceKind::Dns, None) => (kind, entry.spec.endpoints.iter().filter(|endpoint| !endpoint.address.is_empty()).map(at).collect()),
            _ => (kind, Vec::new()),
        };
        let message = ServicePort {
            meta: source(Kind::ServiceEntry, &entry.meta, &port.name),
            host: host(published),
            port: number.into(),
            port_name: port.name.to_string(),
            protocol: protocol(port.protocol.as_deref(), &port.name, number) as i32,
            kind: kind as i32,
            external: entry.spec.location.as_deref() != Some("MESH_INTERNAL"),
            names,
            target_port: ports::entry_target(number, port).into(),
            one_of_names: resolution == "DNS_ROUND_ROBIN",
        };
        resource(published, number, &message, &audience)
    };
    ports::entry_ports(entry).filter(|(_, port)| !is_udp(port)).map(one).collect()
}

fn resource(published: &Published, port: u16, message: &ServicePort, audience: &Audience) -> Arc<Resource> {
    Resource::new(SERVICE_PORT, &format!("{}:{port}", published.key()), message, audience)
}

pub fn host(published: &Published) -> Option<Host> {
    Some(Host { namespace: published.namespace.to_string(), hostname: published.hostname.to_string() })
}

/// What is declared for a port; the name counts where nothing is declared, never beside it.
pub fn protocol(declared: Option<&str>, name: &str, number: u16) -> PortProtocol {
    let text = declared.unwrap_or(name).to_ascii_lowercase();
    let known = match text.as_str() {
        "kubernetes.io/h2c" => Some(PortProtocol::Http2),
        "kubernetes.io/ws" => Some(PortProtocol::Http1),
        "kubernetes.io/wss" => Some(PortProtocol::Tls),
        "http_proxy" => Some(PortProtocol::HttpProxy),
        other if other.starts_with("http-proxy") => Some(PortProtocol::HttpProxy),
        other if other.starts_with("grpc-web") => Some(PortProtocol::GrpcWeb),
        other => match other.split('-').next().unwrap_or_default() {
            "http" => Some(PortProtocol::Http1),
            "http2" => Some(PortProtocol::Http2),
            "grpc" => Some(PortProtocol::Grpc),
            "https" | "tls" => Some(PortProtocol::Tls),
            "tcp" | "mongo" | "redis" | "mysql" => Some(PortProtocol::Tcp),
            _ => None,
        },
    };
    // Where the server speaks first, waiting for the client to show its protocol would hang (SMTP, DNS, MySQL, MongoDB).
    let unsaid = if matches!(number, 25 | 53 | 3306 | 27017) { PortProtocol::Tcp } else { PortProtocol::Auto };
    known.unwrap_or(unsaid)
}

/// Whether routes of HTTP apply to a port.
pub fn speaks_http(protocol: PortProtocol) -> bool {
    matches!(protocol, PortProtocol::Auto | PortProtocol::Http1 | PortProtocol::Http2 | PortProtocol::Grpc | PortProtocol::GrpcWeb | PortProtocol::HttpProxy)
}
