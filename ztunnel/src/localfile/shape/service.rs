//! A service as a local file writes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::identity::SpiffeId;
use mesh_model::service::{self, HealthPolicy, IpFamilies, LoadBalancingMode, Visibility};
use serde::Deserialize;

use super::words::{Gateway, Port, Range, Vip, numbers};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Service {
    name: Arc<str>,
    namespace: Arc<str>,
    hostname: Arc<str>,
    vips: Vec<Vip>,
    ports: BTreeMap<Port, Port>,
    #[serde(default)]
    cidr_vips: Vec<Range>,
    #[serde(default)]
    subject_alt_names: Vec<SpiffeId>,
    waypoint: Option<Gateway>,
    #[serde(default)]
    weighted_waypoints: Vec<Weighted>,
    load_balancer: Option<LoadBalancer>,
    ip_families: Option<Families>,
    #[serde(default)]
    canonical: bool,
    #[serde(default)]
    visibility: Seen,
}

impl From<Service> for service::Service {
    fn from(of: Service) -> service::Service {
        service::Service {
            name: of.name,
            vips: of.vips.into_iter().map(|vip| vip.0).collect(),
            cidr_vips: of.cidr_vips.into_iter().map(|range| range.0).collect(),
            ports: numbers(of.ports),
            subject_alt_names: of.subject_alt_names.iter().map(|id| id.to_string().into()).collect(),
            waypoint: of.waypoint.map(Into::into),
            weighted_waypoints: of.weighted_waypoints.into_iter().map(Into::into).collect(),
            load_balancing: of.load_balancer.map(Into::into).unwrap_or_default(),
            ip_families: match of.ip_families {
                None => IpFamilies::Automatic,
                Some(Families::IPv4) => IpFamilies::V4Only,
                Some(Families::IPv6) => IpFamilies::V6Only,
                Some(Families::Dual) => IpFamilies::Dual,
            },
            canonical: of.canonical,
            visibility: match of.visibility {
                Seen::Public => Visibility::Public,
                Seen::Namespace => Visibility::Namespace,
            },
            ..service::Service::named(&of.namespace, &of.hostname)
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    destination: Gateway,
    weight: u32,
}

impl From<Weighted> for service::WeightedWaypoint {
    fn from(of: Weighted) -> service::WeightedWaypoint {
        service::WeightedWaypoint { destination: of.destination.into(), weight: of.weight }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LoadBalancer {
    routing_preferences: Vec<Scope>,
    mode: BalancingMode,
    health_policy: Healthiness,
}

impl From<LoadBalancer> for service::LoadBalancing {
    fn from(of: LoadBalancer) -> service::LoadBalancing {
        let scope = |scope| match scope {
            Scope::Region => service::Scope::Region,
            Scope::Zone => service::Scope::Zone,
            Scope::Subzone => service::Scope::Subzone,
            Scope::Node => service::Scope::Node,
            Scope::Cluster => service::Scope::Cluster,
            Scope::Network => service::Scope::Network,
        };
        service::LoadBalancing {
            routing_preference: of.routing_preferences.into_iter().map(scope).collect(),
            mode: match of.mode {
                BalancingMode::Standard => LoadBalancingMode::Standard,
                BalancingMode::Strict => LoadBalancingMode::Strict,
                BalancingMode::Failover => LoadBalancingMode::Failover,
                BalancingMode::Passthrough => LoadBalancingMode::Passthrough,
            },
            health_policy: match of.health_policy {
                Healthiness::OnlyHealthy => HealthPolicy::OnlyHealthy,
                Healthiness::AllowAll => HealthPolicy::AllowAll,
            },
        }
    }
}

#[derive(Deserialize)]
enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Deserialize)]
enum BalancingMode {
    Standard,
    Strict,
    Failover,
    Passthrough,
}

#[derive(Deserialize)]
enum Healthiness {
    OnlyHealthy,
    AllowAll,
}

#[derive(Deserialize)]
enum Families {
    IPv4,
    IPv6,
    Dual,
}

#[derive(Deserialize, Default)]
enum Seen {
    #[default]
    Public,
    Namespace,
}
