//! Ways into other networks: a Gateway of the class `istio-remote` with the label of a network is a workload of its own
//! there, and workloads of that network name it as the way to them (spec/controlplane.md 8.2, 4.2).

use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::address::{GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress};
use mesh_model::workload::Workload;

use super::{Lens, Read};
use crate::cluster::network_of;
use crate::objects::gateway::Address;
use crate::objects::{Gateway, Kind, NsName};

const CLASS: &str = "istio-remote";
/// Classes of users with this controller behave alike.
const CONTROLLER: &str = "istio.io/unmanaged-gateway";

/// One address of a way into a network.
struct Way<'a> {
    gateway: &'a Gateway,
    network: &'a Arc<str>,
    address: &'a Address,
    port: u16,
}

/// The workloads that stand for a Gateway, one per address; none unless it leads into a network.
pub fn workloads(lens: &Lens<'_>, name: &NsName) -> Vec<Arc<Workload>> {
    let Some(gateway) = lens.cluster.gateways.get(name) else { return Vec::new() };
    let is_first = |way: &Way<'_>| {
        let all = in_order(lens, way.network);
        let first = all.into_iter().find(|other| ways(lens, other).any(|other| other.address.value == way.address.value && other.port == way.port));
        first.is_some_and(|first| first.meta.ns_name() == *name)
    };
    ways(lens, gateway).filter(is_first).map(|way| way.workload(lens).into()).collect()
}

/// The Gateways of a network, the oldest first. Where two have the same address, that one stands for it.
fn in_order<'a>(lens: &Lens<'a>, network: &Arc<str>) -> Vec<&'a Arc<Gateway>> {
    lens.note(Read::Network(network.clone()));
    let mut gateways: Vec<&Arc<Gateway>> = lens.cluster.gateways_of_network(network).collect();
    gateways.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
    gateways
}

/// The way that workloads of a network name: the first address of the oldest Gateway. The own network needs none unless
/// somebody declared one, and who is in the same network does not look at it.
pub fn of_network(lens: &Lens<'_>, network: &Arc<str>) -> Option<GatewayAddress> {
    if network.is_empty() {
        return None;
    }
    in_order(lens, network).into_iter().find_map(|gateway| {
        lens.note_object(Kind::Gateway, &gateway.meta.ns_name());
        ways(lens, gateway).next().map(|way| way.gateway_address())
    })
}

fn ways<'a>(lens: &Lens<'a>, gateway: &'a Gateway) -> impl Iterator<Item = Way<'a>> + use<'a> {
    let leads = is_remote(lens, gateway).then(|| {
        let listener = gateway.listeners.iter().find(|listener| &*listener.protocol == "HBONE" && listener.port > 0)?;
        Some((network_of(gateway)?, listener.port))
    });
    let leads = leads.flatten();
    gateway.addresses.iter().filter_map(move |address| {
        let (network, port) = leads?;
        Some(Way { gateway, network, address, port })
    })
}

/// Nobody deploys such a Gateway, so its addresses stand in its spec.
pub fn is_remote(lens: &Lens<'_>, gateway: &Gateway) -> bool {
    let class = NsName { namespace: "".into(), name: gateway.class.clone() };
    lens.note_object(Kind::GatewayClass, &class);
    let class = lens.cluster.gateway_classes.get(&class);
    class.map_or(&*gateway.class == CLASS, |class| &*class.controller == CONTROLLER)
}

impl Way<'_> {
    fn workload(&self, lens: &Lens<'_>) -> Workload {
        let meta = &self.gateway.meta;
        let uid = format!("NetworkGateway/{}/{}/{}", self.network, self.address.value, self.port);
        let mut workload = Workload::named(&uid, &meta.namespace, &uid);
        workload.trust_domain = lens.settings.trust_domain.clone();
        workload.service_account = meta.annotation("gateway.istio.io/service-account").map_or_else(|| meta.name.clone(), Into::into);
        workload.network = self.network.clone();
        match self.ip() {
            Some(ip) => workload.addresses = vec![ip],
            None => workload.hostname = self.address.value.clone(),
        }
        workload
    }

    fn gateway_address(&self) -> GatewayAddress {
        let destination = match self.ip() {
            Some(ip) => GatewayDestination::Address(NetworkAddress { network: self.network.clone(), ip }),
            None => GatewayDestination::Hostname(NamespacedHostname { namespace: self.gateway.meta.namespace.clone(), hostname: self.address.value.clone() }),
        };
        GatewayAddress { destination, hbone_mtls_port: self.port }
    }

    fn ip(&self) -> Option<IpAddr> {
        self.address.value.parse().ok().filter(|_| self.address.kind.as_deref() != Some("Hostname"))
    }
}
