//! Which endpoint of a service a connection gets, at which port and address (spec/dataplane.md 5.4).
//!
//! Pure: the caller brings the randomness. Every endpoint is judged by one function, so that what explains a
//! choice (`survey`) can't drift from what makes it (`pick`).

use std::net::IpAddr;
use std::sync::Arc;

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::address::{GatewayAddress, NamespacedHostname};
use crate::directory::{Directory, Roster};
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

/// How often an endpoint is drawn blindly before all are looked at. With most endpoints fit and of equal weight the first
/// draw nearly always holds.
const DRAWS_MAX: usize = 8;

/// One endpoint by weighted chance among the fit ones of the highest rank; `None` when no endpoint is fit.
pub fn pick<'d>(
    directory: &'d Directory,
    source: &Workload,
    service: &Service,
    port: u16,
    purpose: Purpose,
    rng: &mut impl Rng,
) -> Option<Picked<'d>> {
    let judge = Judge::new(source, service, port, purpose);
    let roster = directory.roster(&judge.key)?;
    if service.load_balancing.mode == LoadBalancingMode::Standard && roster.capacity_max > 0 {
        let drawn = (0..DRAWS_MAX).find_map(|_| draw(&judge, roster, rng));
        if drawn.is_some() {
            return drawn;
        }
    }
    best(&judge, roster, rng)
}

/// Draws one member; it holds if it is fit, with a chance in proportion to its weight. So whoever holds was chosen by
/// weight among the fit, exactly as `best` chooses, and a service of ten thousand endpoints costs no more than one of ten.
fn draw<'d>(judge: &Judge<'_>, roster: &'d Roster, rng: &mut impl Rng) -> Option<Picked<'d>> {
    let workload = roster.workloads.choose(rng)?;
    let fit = judge.judge(workload).ok()?;
    (rng.random_range(0..roster.capacity_max) < fit.weight).then_some(Picked { workload, port: fit.port })
}

/// Looks at every member. Each newcomer takes the place with the probability of its share of the weight seen so far; in
/// the end each has been kept with the probability of its share of the whole. One pass, nothing allocated.
fn best<'d>(judge: &Judge<'_>, roster: &'d Roster, rng: &mut impl Rng) -> Option<Picked<'d>> {
    let mut picked = None;
    let mut rank_so_far = 0;
    let mut weight_so_far: u64 = 0;
    for workload in &roster.workloads {
        let Ok(fit) = judge.judge(workload) else { continue };
        if fit.rank < rank_so_far {
            continue;
        }
        if fit.rank > rank_so_far {
            rank_so_far = fit.rank;
            weight_so_far = 0;
        }
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
    let judge = Judge::new(source, service, port, purpose);
    directory.members(&judge.key).map(|workload| (workload, judge.judge(workload))).collect()
}

/// Whether a member of the service may serve this client at this port, and how well it fits.
pub fn judge(source: &Workload, service: &Service, endpoint: &Workload, port: u16, purpose: Purpose) -> Result<Fit, Unfit> {
    Judge::new(source, service, port, purpose).judge(endpoint)
}

/// The port of this endpoint that serves a port of the service: its own mapping, else the service's, else (an endpoint
/// behind an application tunnel of a fixed port) the same number. 0 stands for a named port and maps to nothing.
pub fn target_port(service: &Service, endpoint: &Workload, port: u16, purpose: Purpose) -> Option<u16> {
    // The source does not matter for a port; the endpoint stands in for it.
    Judge::new(endpoint, service, port, purpose).target_port(endpoint)
}

/// One question put to every endpoint; what is the same for all of them is worked out once.
struct Judge<'a> {
    source: &'a Workload,
    service: &'a Service,
    key: NamespacedHostname,
    port: u16,
    /// What the service says about the port: `None` if it does not have it.
    of_service: Option<u16>,
    purpose: Purpose,
}

impl<'a> Judge<'a> {
    fn new(source: &'a Workload, service: &'a Service, port: u16, purpose: Purpose) -> Judge<'a> {
        Judge { source, service, key: service.key(), port, of_service: service.ports.get(&port).copied(), purpose }
    }

    fn judge(&self, endpoint: &Workload) -> Result<Fit, Unfit> {
        let (source, balancing) = (self.source, &self.service.load_balancing);
        if endpoint.status == Health::Unhealthy && balancing.health_policy == HealthPolicy::OnlyHealthy {
            return Err(Unfit::Unhealthy);
        }
        let behind_gateway = || endpoint.network_gateway.is_some() && endpoint.network != source.network;
        if endpoint.addresses.is_empty() && endpoint.hostname.is_empty() && !behind_gateway() {
            return Err(Unfit::Unreachable);
        }
        let port = self.target_port(endpoint).ok_or(Unfit::NoPort)?;
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

    fn target_port(&self, endpoint: &Workload) -> Option<u16> {
        if self.of_service.is_none() && !(self.purpose == Purpose::Waypoint && endpoint.application_tunnel.is_some()) {
            return None;
        }
        let of_endpoint = endpoint.services.get(&self.key).and_then(|ports| ports.get(&self.port)).copied();
        let behind_tunnel = endpoint.application_tunnel.is_some_and(|tunnel| tunnel.port.is_some());
        of_endpoint
            .filter(|target| *target != 0)
            .or_else(|| self.of_service.filter(|target| *target != 0))
            .or_else(|| behind_tunnel.then_some(self.port))
    }
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
