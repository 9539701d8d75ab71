//! A workload: one pod, VM or endpoint, as the workload API describes it (spec/dataplane.md 5.6).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::address::{GatewayAddress, NamespacedHostname};
use crate::identity::SpiffeId;

/// `uid` of a workload, e.g. `Kubernetes//Pod/shop/cart-7c`. The resource name on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(pub Arc<str>);

/// `namespace/name` of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey(pub Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub uid: Uid,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub trust_domain: Arc<str>,
    pub service_account: Arc<str>,
    pub addresses: Vec<IpAddr>,
    /// Resolved on demand when there is no address (a ServiceEntry of resolution DNS).
    pub hostname: Arc<str>,
    pub network: Arc<str>,
    pub network_mode: NetworkMode,
    pub network_gateway: Option<GatewayAddress>,
    pub tunnel_protocol: TunnelProtocol,
    pub native_tunnel: bool,
    pub application_tunnel: Option<ApplicationTunnel>,
    pub waypoint: Option<GatewayAddress>,
    pub node: Arc<str>,
    pub cluster_id: Arc<str>,
    pub locality: Locality,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub workload_name: Arc<str>,
    pub workload_type: WorkloadType,
    pub authorization_policies: Vec<PolicyKey>,
    pub status: Health,
    /// Weight in random choice; 1 unless told otherwise.
    pub capacity: u32,
    /// The services this workload is an endpoint of, with its port for each service port.
    pub services: BTreeMap<NamespacedHostname, BTreeMap<u16, u16>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum TunnelProtocol {
    #[default]
    None,
    Hbone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NetworkMode {
    #[default]
    Standard,
    HostNetwork,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WorkloadType {
    #[default]
    Deployment,
    CronJob,
    Pod,
    Job,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Health {
    #[default]
    Healthy,
    Unhealthy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplicationTunnel {
    pub protocol: ApplicationTunnelProtocol,
    /// `None`: the requested port.
    pub port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplicationTunnelProtocol {
    None,
    Proxy,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

impl Uid {
    pub fn new(text: &str) -> Uid {
        Uid(text.into())
    }
}

impl PolicyKey {
    pub fn new(text: &str) -> PolicyKey {
        PolicyKey(text.into())
    }
}

impl std::fmt::Display for Uid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Workload {
    /// A workload with this uid and nothing else said: plain TCP, healthy, weight 1.
    pub fn named(uid: &str, namespace: &str, name: &str) -> Workload {
        let empty: Arc<str> = "".into();
        Workload {
            uid: Uid::new(uid),
            name: name.into(),
            namespace: namespace.into(),
            trust_domain: crate::identity::DEFAULT_TRUST_DOMAIN.into(),
            service_account: crate::identity::DEFAULT_SERVICE_ACCOUNT.into(),
            addresses: Vec::new(),
            hostname: empty.clone(),
            network: empty.clone(),
            network_mode: NetworkMode::Standard,
            network_gateway: None,
            tunnel_protocol: TunnelProtocol::None,
            native_tunnel: false,
            application_tunnel: None,
            waypoint: None,
            node: empty.clone(),
            cluster_id: "Kubernetes".into(),
            locality: Locality::default(),
            canonical_name: empty.clone(),
            canonical_revision: empty.clone(),
            workload_name: empty,
            workload_type: WorkloadType::Deployment,
            authorization_policies: Vec::new(),
            status: Health::Healthy,
            capacity: 1,
            services: BTreeMap::new(),
        }
    }

    pub fn identity(&self) -> SpiffeId {
        SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }
}
