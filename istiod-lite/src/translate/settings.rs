//! What the whole translation is told once: names of the mesh, and the switches that change what is published.

use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

#[derive(Clone, Debug)]
pub struct Settings {
    pub cluster_id: Arc<str>,
    pub cluster_domain: Arc<str>,
    pub trust_domain: Arc<str>,
    /// Policies of this namespace without a selector are for the whole mesh; its label names the network.
    pub root_namespace: Arc<str>,
    /// Node daemons before Istio 1.29 enforce a dry-run policy, because they do not know the field.
    pub sends_dry_run: bool,
    /// Workloads behind a waypoint are open to the waypoint alone.
    pub allows_waypoints: bool,
    /// Workloads of services with a policy at layer 7 take connections from their waypoints only.
    pub closes_behind_waypoints: bool,
    /// `None` of both: ServiceEntries without addresses get none.
    pub vip_pools: Option<(Ipv4Net, Ipv6Net)>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            cluster_id: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: mesh_model::identity::DEFAULT_TRUST_DOMAIN.into(),
            root_namespace: "istio-system".into(),
            sends_dry_run: false,
            allows_waypoints: false,
            closes_behind_waypoints: true,
            vip_pools: Some(default_vip_pools()),
        }
    }
}

/// The field's pools (spec/controlplane.md 4.9.2): 240.0.0.0/4 is routed nowhere, 2001:2::/48 is for benchmarks.
pub fn default_vip_pools() -> (Ipv4Net, Ipv6Net) {
    let v4 = Ipv4Net::new([240, 240, 0, 0].into(), 16).expect("16 is a prefix length of IPv4");
    let v6 = Ipv6Net::new([0x2001, 2, 0, 0, 0, 0, 0, 0].into(), 48).expect("48 is a prefix length of IPv6");
    (v4, v6)
}
