//! A workload as a local file writes it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::workload::{self, ApplicationTunnelProtocol, Health, NetworkMode, TunnelProtocol, Uid};
use serde::Deserialize;

use super::words::{Gateway, Ip, Named, PolicyName, Port, numbers};

/// `trustDomain`, `serviceAccount` and `clusterId` stay empty when they are left out, other than on the wire: so the
/// field has it, and the identity is then one that nobody can prove.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Workload {
    workload_ips: Vec<Ip>,
    namespace: Arc<str>,
    services: BTreeMap<Named, BTreeMap<Port, Port>>,
    #[serde(default)]
    uid: Arc<str>,
    #[serde(default)]
    name: Arc<str>,
    #[serde(default)]
    service_account: Arc<str>,
    #[serde(default)]
    trust_domain: Arc<str>,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    network_mode: Mode,
    #[serde(default)]
    network: Arc<str>,
    #[serde(default)]
    node: Arc<str>,
    #[serde(default)]
    hostname: Arc<str>,
    #[serde(default)]
    workload_name: Arc<str>,
    #[serde(default)]
    workload_type: Type,
    #[serde(default)]
    canonical_name: Arc<str>,
    #[serde(default)]
    canonical_revision: Arc<str>,
    #[serde(default)]
    native_tunnel: bool,
    application_tunnel: Option<Tunnel>,
    #[serde(default)]
    authorization_policies: Vec<PolicyName>,
    #[serde(default)]
    status: Status,
    #[serde(default)]
    cluster_id: Arc<str>,
    #[serde(default)]
    locality: Place,
    waypoint: Option<Gateway>,
    network_gateway: Option<Gateway>,
    #[serde(default = "one")]
    capacity: u32,
}

fn one() -> u32 {
    1
}

impl From<Workload> for workload::Workload {
    fn from(of: Workload) -> workload::Workload {
        let addresses: Vec<IpAddr> = of.workload_ips.into_iter().map(|ip| ip.0).collect();
        workload::Workload {
            uid: uid(&of.uid, &of.network, &of.namespace, &of.name, &addresses),
            name: of.name,
            namespace: of.namespace,
            trust_domain: of.trust_domain,
            service_account: of.service_account,
            addresses,
            hostname: of.hostname,
            network: of.network,
            network_mode: match of.network_mode {
                Mode::Standard => NetworkMode::Standard,
                Mode::HostNetwork => NetworkMode::HostNetwork,
            },
            network_gateway: of.network_gateway.map(Into::into),
            tunnel_protocol: match of.protocol {
                Protocol::Tcp => TunnelProtocol::None,
                Protocol::Hbone => TunnelProtocol::Hbone,
            },
            native_tunnel: of.native_tunnel,
            application_tunnel: of.application_tunnel.map(|tunnel| workload::ApplicationTunnel {
                protocol: match tunnel.protocol {
                    TunnelKind::None => ApplicationTunnelProtocol::None,
                    TunnelKind::Proxy => ApplicationTunnelProtocol::Proxy,
                },
                port: tunnel.port,
            }),
            waypoint: of.waypoint.map(Into::into),
            node: of.node,
            cluster_id: of.cluster_id,
            locality: workload::Locality { region: of.locality.region, zone: of.locality.zone, subzone: of.locality.subzone },
            canonical_name: of.canonical_name,
            canonical_revision: of.canonical_revision,
            workload_name: of.workload_name,
            workload_type: match of.workload_type {
                Type::Deployment => workload::WorkloadType::Deployment,
                Type::CronJob => workload::WorkloadType::CronJob,
                Type::Pod => workload::WorkloadType::Pod,
                Type::Job => workload::WorkloadType::Job,
            },
            authorization_policies: of.authorization_policies.into_iter().map(|name| name.0).collect(),
            status: match of.status {
                Status::Healthy => Health::Healthy,
                Status::Unhealthy => Health::Unhealthy,
            },
            capacity: of.capacity,
            services: of.services.into_iter().map(|(key, mapped)| (key.0, numbers(mapped))).collect(),
        }
    }
}

/// A workload without a uid is named after what tells it apart.
fn uid(given: &str, network: &str, namespace: &str, name: &str, addresses: &[IpAddr]) -> Uid {
    if !given.is_empty() {
        return Uid::new(given);
    }
    let address = addresses.first().map(ToString::to_string).unwrap_or_default();
    Uid::new(&format!("local/{network}/{namespace}/{name}/{address}"))
}

#[derive(Deserialize, Default)]
enum Protocol {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "HBONE")]
    Hbone,
}

#[derive(Deserialize, Default)]
enum Mode {
    #[default]
    Standard,
    HostNetwork,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Type {
    #[default]
    Deployment,
    CronJob,
    Pod,
    Job,
}

#[derive(Deserialize, Default)]
enum Status {
    #[default]
    Healthy,
    Unhealthy,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Place {
    region: Arc<str>,
    zone: Arc<str>,
    subzone: Arc<str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tunnel {
    protocol: TunnelKind,
    port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum TunnelKind {
    None,
    Proxy,
}
