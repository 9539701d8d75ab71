//! Which endpoint of a service a connection gets, at which port and address (spec/dataplane.md 5.4).
//!
//! Pure: the caller brings the randomness. Every endpoint is judged by `judge` alone, so that what explains a choice
//! (`survey`) can't drift from what makes it (`pick`).

use std::net::IpAddr;
use std::sync::Arc;

use rand::Rng;

use crate::address::GatewayAddress;
use crate::directory::Directory;
use crate::service::{HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Scope, Service};
use crate::workload::{Health, Workload};

/// What the endpoint is for: the two differ in which ports a service must list (spec/dataplane.md 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// User traffic and network gateways: the port must be a port of the service.
    Traffic,
    /// A hop to a waypoint: an endpoint with an application tunnel takes any port.
    Waypoint,
}

/// An endpoint and the port at which it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked<'d> {
    pub workload: &'d Arc<Workload>,
    pub port: u16,
}

/// Why an endpoint is out of the question for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unfit {
    Unhealthy,
    /// It has neither an address, nor a hostname, nor a gateway in front of its network.
    Unreachable,
    /// Neither it nor its service says which port of it serves this one.
    NoPort,
    /// Its capacity is zero.
    NoCapacity,
    /// The service allows only endpoints close to the client, and this one is not.
    OutOfScope,
}

/// An endpoint that may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    pub port: u16,
    /// Only the highest rank is taken.
    pub rank: usize,
    pub weight: u32,
}

/// One endpoint by weighted chance among the fit ones of the highest rank; `None` when no endpoint is fit.
pub fn pick<'d>(
    directory: &'d Directory,
    source: &Workload,
    service: &Service,
    port: u16,
    purpose: Purpose,
    rng: &mut impl Rng,
) -> Option<Picked<'d>> {
    let mut picked = None;
    let mut rank_so_far = 0;
    let mut weight_so_far: u64 = 0;
    for workload in directory.members(&service.key()) {
        let Ok(fit) = judge(source, service, workload, port, purpose) else { continue };
        if fit.rank < rank_so_far {
            continue;
        }
        if fit.rank > rank_so_far {
            rank_so_far = fit.rank;
            weight_so_far = 0;
        }
        // Each newcomer takes the place with the probability of its share of the weight seen so far; in the end each
        // has been kept with the probability of its share of the whole. One pass, nothing allocated.
        weight_so_far += u64::from(fit.weight);
        if rng.random_range(0..weight_so_far) < u64::from(fit.weight) {
            picked = Some(Picked { workload, port: fit.port });
        }
    }
    picked
}

/// Every member of the service with what is thought of it, by uid: the reasons behind `pick`.
pub fn survey<'d>(
    directory: &'d Directory,
    source: &Workload,
    service: &Service,
    port: u16,
    purpose: Purpose,
) -> Vec<(&'d Arc<Workload>, Result<Fit, Unfit>)> {
    let judged = |workload: &'d Arc<Workload>| (workload, judge(source, service, workload, port, purpose));
    directory.members(&service.key()).map(judged).collect()
}

/// Whether a member of the service may serve this client at this port, and how well it fits.
pub fn judge(
    source: &Workload,
    service: &Service,
    endpoint: &Workload,
    port: u16,
    purpose: Purpose,
) -> Result<Fit, Unfit> {
    let balancing = &service.load_balancing;
    if endpoint.status == Health::Unhealthy && balancing.health_policy == HealthPolicy::OnlyHealthy {
        return Err(Unfit::Unhealthy);
    }
    let behind_gateway = endpoint.network != source.network && endpoint.network_gateway.is_some();
    if endpoint.addresses.is_empty() && endpoint.hostname.is_empty() && !behind_gateway {
        return Err(Unfit::Unreachable);
    }
    let port = target_port(service, endpoint, port, purpose).ok_or(Unfit::NoPort)?;
    if endpoint.capacity == 0 {
        return Err(Unfit::NoCapacity);
    }
    let rank = match balancing.mode {
        LoadBalancingMode::Standard => 0,
        LoadBalancingMode::Failover | LoadBalancingMode::Passthrough => closeness(balancing, source, endpoint),
        LoadBalancingMode::Strict => {
            let rank = closeness(balancing, source, endpoint);
            if rank < closeness_of_itself(balancing) {
                return Err(Unfit::OutOfScope);
            }
            rank
        }
    };
    Ok(Fit { port, rank, weight: endpoint.capacity })
}

/// The port of this endpoint that serves a port of the service: its own mapping, else the service's, else (an endpoint
/// behind an application tunnel of a fixed port) the same number. 0 stands for a named port and maps to nothing.
pub fn target_port(service: &Service, endpoint: &Workload, port: u16, purpose: Purpose) -> Option<u16> {
    let of_service = service.ports.get(&port).copied();
    if of_service.is_none() && !(purpose == Purpose::Waypoint && endpoint.application_tunnel.is_some()) {
        return None;
    }
    let of_endpoint = endpoint.services.get(&service.key()).and_then(|ports| ports.get(&port)).copied();
    let behind_tunnel = endpoint.application_tunnel.is_some_and(|tunnel| tunnel.port.is_some());
    of_endpoint
        .filter(|target| *target != 0)
        .or_else(|| of_service.filter(|target| *target != 0))
        .or_else(|| behind_tunnel.then_some(port))
}

/// The address at which the workload is dialled: the one the client asked for when it is the workload's own; else one
/// that the service's families allow, of the family that the client asked for if there is one.
pub fn destination_ip(workload: &Workload, service: Option<&Service>, original: IpAddr) -> Option<IpAddr> {
    if workload.addresses.contains(&original) {
        return Some(original);
    }
    let families = service.map_or(IpFamilies::Automatic, |service| service.ip_families);
    let allowed = || workload.addresses.iter().filter(|ip| families.allows(**ip)).copied();
    allowed().find(|ip| ip.is_ipv4() == original.is_ipv4()).or_else(|| allowed().next())
}

/// The waypoint in front of a service, if any: one of the weighted ones by chance, else the single one. Asked once per
/// connection; when the chosen one can't be used there is no second choice (spec/dataplane.md 1.10 and 5.3).
pub fn waypoint<'s>(service: &'s Service, rng: &mut impl Rng) -> Option<&'s GatewayAddress> {
    let total: u64 = service.weighted_waypoints.iter().map(|weighted| u64::from(weighted.weight)).sum();
    if total == 0 {
        return service.waypoint.as_ref();
    }
    let mut left = rng.random_range(0..total);
    for weighted in &service.weighted_waypoints {
        let weight = u64::from(weighted.weight);
        if left < weight {
            return Some(&weighted.destination);
        }
        left -= weight;
    }
    None
}

impl IpFamilies {
    pub fn allows(self, ip: IpAddr) -> bool {
        match self {
            IpFamilies::Automatic | IpFamilies::Dual => true,
            IpFamilies::V4Only => ip.is_ipv4(),
            IpFamilies::V6Only => ip.is_ipv6(),
        }
    }
}

/// How many of the preferences match, in order, up to the first that does not. When NETWORK is the first preference it
/// is worth more than all others together, and missing it does not end the count, so that an endpoint of the own
/// network beats every remote one and the remote ones are still told apart.
fn closeness(balancing: &LoadBalancing, source: &Workload, endpoint: &Workload) -> usize {
    let mut rank = 0;
    for (place, scope) in balancing.routing_preference.iter().enumerate() {
        let network_first = place == 0 && *scope == Scope::Network;
        match (scope.shared(source, endpoint), network_first) {
            (true, true) => rank += balancing.routing_preference.len(),
            (true, false) => rank += 1,
            (false, true) => {}
            (false, false) => break,
        }
    }
    rank
}

/// The highest rank there is: all preferences match.
fn closeness_of_itself(balancing: &LoadBalancing) -> usize {
    let length = balancing.routing_preference.len();
    match balancing.routing_preference.first() {
        Some(Scope::Network) => 2 * length - 1,
        _ => length,
    }
}

impl Scope {
    /// Whether two workloads are in the same place of this kind. Two unknown places are the same place.
    pub fn shared(self, a: &Workload, b: &Workload) -> bool {
        match self {
            Scope::Region => a.locality.region == b.locality.region,
            Scope::Zone => a.locality.zone == b.locality.zone,
            Scope::Subzone => a.locality.subzone == b.locality.subzone,
            Scope::Node => a.node == b.node,
            Scope::Cluster => a.cluster_id == b.cluster_id,
            Scope::Network => a.network == b.network,
        }
    }
}

#[cfg(test)]
mod tests;
