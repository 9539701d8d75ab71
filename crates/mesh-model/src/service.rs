//! A service: a hostname with VIPs and ports, and how an endpoint is chosen (spec/dataplane.md 5.4, 5.6).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::address::{GatewayAddress, NamespacedHostname, NetworkAddress, NetworkCidr};

/// A service as it came from the control plane. Its endpoints are kept by the directory, because they come with the workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
    pub vips: Vec<NetworkAddress>,
    pub cidr_vips: Vec<NetworkCidr>,
    /// Service port to target port; target 0 means: a named port, look into the endpoint.
    pub ports: BTreeMap<u16, u16>,
    /// What is spoken at a service port, where that is known. A waypoint reads it, a node daemon does not.
    pub app_protocols: BTreeMap<u16, AppProtocol>,
    /// SPIFFE ids accepted besides the workload's own, as delivered.
    pub subject_alt_names: Vec<Arc<str>>,
    pub waypoint: Option<GatewayAddress>,
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    pub load_balancing: LoadBalancing,
    pub ip_families: IpFamilies,
    pub canonical: bool,
    pub ingress_use_waypoint: bool,
    pub visibility: Visibility,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedWaypoint {
    pub destination: GatewayAddress,
    pub weight: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LoadBalancing {
    pub routing_preference: Vec<Scope>,
    pub mode: LoadBalancingMode,
    pub health_policy: HealthPolicy,
}

/// A port without an entry speaks something unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppProtocol {
    Http11,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LoadBalancingMode {
    #[default]
    Standard,
    Strict,
    Failover,
    Passthrough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HealthPolicy {
    #[default]
    OnlyHealthy,
    AllowAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IpFamilies {
    #[default]
    Automatic,
    V4Only,
    V6Only,
    Dual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Visibility {
    #[default]
    Public,
    Namespace,
}

impl Service {
    pub fn named(namespace: &str, hostname: &str) -> Service {
        Service {
            name: hostname.split('.').next().unwrap_or(hostname).into(),
            namespace: namespace.into(),
            hostname: hostname.into(),
            vips: Vec::new(),
            cidr_vips: Vec::new(),
            ports: BTreeMap::new(),
            app_protocols: BTreeMap::new(),
            subject_alt_names: Vec::new(),
            waypoint: None,
            weighted_waypoints: Vec::new(),
            load_balancing: LoadBalancing::default(),
            ip_families: IpFamilies::Automatic,
            canonical: false,
            ingress_use_waypoint: false,
            visibility: Visibility::Public,
        }
    }

    pub fn key(&self) -> NamespacedHostname {
        NamespacedHostname { namespace: self.namespace.clone(), hostname: self.hostname.clone() }
    }

    /// A service that is private to its namespace is seen by clients of that namespace only (spec/dataplane.md 5.1).
    pub fn is_visible_to(&self, client_namespace: &str) -> bool {
        match self.visibility {
            Visibility::Public => true,
            Visibility::Namespace => client_namespace == &*self.namespace,
        }
    }
}
