//! Workloads and services as a file writes them. Unknown keys are refused: a misspelt one would be a fact that nobody acts on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::address::{NamespacedHostname, NetworkAddress};
use mesh_model::service;
use mesh_model::workload::{self, Health, Locality, TunnelProtocol};
use serde::{Deserialize, Deserializer, de};

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Workload {
    workload_ips: Vec<IpAddr>,
    namespace: Arc<str>,
    /// Of the service account; without it the identity is one that nobody can prove.
    service_account: Arc<str>,
    trust_domain: Option<Arc<str>>,
    protocol: Protocol,
    network: Arc<str>,
    node: Arc<str>,
    /// Resolved where there is no address.
    hostname: Arc<str>,
    workload_name: Arc<str>,
    canonical_name: Arc<str>,
    canonical_revision: Arc<str>,
    cluster_id: Option<Arc<str>>,
    status: Status,
    locality: Place,
    capacity: Option<u32>,
    /// `namespace/hostname`, to service port and port of the workload.
    services: BTreeMap<Named, BTreeMap<u16, u16>>,
}

#[derive(Default, Deserialize)]
enum Protocol {
    /// Plain TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "HBONE")]
    Hbone,
}

#[derive(Default, Deserialize)]
enum Status {
    #[default]
    Healthy,
    Unhealthy,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Place {
    region: Arc<str>,
    zone: Arc<str>,
    subzone: Arc<str>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Named(NamespacedHostname);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Named, D::Error> {
        let text = String::deserialize(from)?;
        NamespacedHostname::parse(&text)
            .map(Named)
            .ok_or_else(|| de::Error::custom(format!("{text:?} is no service: write namespace/hostname")))
    }
}

impl Workload {
    /// `uid`: the name of its document.
    pub fn named(self, uid: &str) -> workload::Workload {
        let plain = workload::Workload::named(uid, &self.namespace, uid.rsplit('/').next().unwrap_or(uid));
        workload::Workload {
            service_account: self.service_account,
            trust_domain: self.trust_domain.unwrap_or(plain.trust_domain),
            addresses: self.workload_ips,
            hostname: self.hostname,
            network: self.network,
            tunnel_protocol: match self.protocol {
                Protocol::Tcp => TunnelProtocol::None,
                Protocol::Hbone => TunnelProtocol::Hbone,
            },
            node: self.node,
            cluster_id: self.cluster_id.unwrap_or(plain.cluster_id),
            locality: Locality { region: self.locality.region, zone: self.locality.zone, subzone: self.locality.subzone },
            canonical_name: self.canonical_name,
            canonical_revision: self.canonical_revision,
            workload_name: self.workload_name,
            status: match self.status {
                Status::Healthy => Health::Healthy,
                Status::Unhealthy => Health::Unhealthy,
            },
            capacity: self.capacity.unwrap_or(1),
            services: self.services.into_iter().map(|(name, ports)| (name.0, ports)).collect(),
            ..plain
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Service {
    namespace: Arc<str>,
    hostname: Arc<str>,
    /// `network/ip`, or the address alone.
    #[serde(default)]
    vips: Vec<Vip>,
    /// Service port to port of the endpoints.
    ports: BTreeMap<u16, u16>,
}

struct Vip(NetworkAddress);

impl<'de> Deserialize<'de> for Vip {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Vip, D::Error> {
        let text = String::deserialize(from)?;
        let (network, ip) = text.rsplit_once('/').unwrap_or(("", &text));
        let ip =
            ip.parse().map_err(|_| de::Error::custom(format!("{text:?} is no address: write network/ip or the ip alone")))?;
        Ok(Vip(NetworkAddress::new(network, ip)))
    }
}

impl Service {
    pub fn into_noun(self) -> service::Service {
        service::Service {
            vips: self.vips.into_iter().map(|vip| vip.0).collect(),
            ports: self.ports,
            ..service::Service::named(&self.namespace, &self.hostname)
        }
    }
}
