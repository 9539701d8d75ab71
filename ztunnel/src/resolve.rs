//! Where a connection that leaves a pod goes: the decision, as data in, data out (spec/dataplane.md 5.2 to 5.4).
//!
//! `resolve` never waits. When it lacks something that may be fetched it says so (`Need`); the caller fetches it, adds it
//! to `Known` and asks again with the same seed, so that chance decides the same way in every round.
//!
//! Not here: whether the peer may be talked to (the destination decides), sockets, clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_hbone::ConnectHead;
use mesh_model::address::{GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress};
use mesh_model::balance::{self, Purpose};
use mesh_model::directory::{Addressed, Directory};
use mesh_model::identity::SpiffeId;
use mesh_model::service::{LoadBalancingMode, Service};
use mesh_model::workload::{TunnelProtocol, Workload};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::error::Refusal;

/// The port of every pod at which tunnels arrive (spec/dataplane.md 1.1).
pub const HBONE_PORT: u16 = 15008;

/// The question: this pod wants to talk to this address.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The pod's own workload.
    pub source: &'a Workload,
    /// Where the application meant to connect.
    pub to: SocketAddr,
    /// The network that this daemon is in (`NETWORK`).
    pub network: &'a Arc<str>,
    /// The ports that the mesh itself listens on in a pod.
    pub own_ports: &'a [u16],
    /// Whether the directory holds all there is, or what was asked for so far (`XDS_ON_DEMAND`).
    pub complete: bool,
}

/// What was fetched for this connection in earlier rounds. Only what was asked for as a `Need` belongs here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Asked of the control plane; whatever it knows is in the directory now.
    pub asked: BTreeSet<Need>,
    /// The addresses that DNS gave for a hostname; empty when it gave none.
    pub names: BTreeMap<Arc<str>, Vec<IpAddr>>,
}

/// The answer, unless it is a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    Hop(Hop),
    Need(Need),
}

/// What must be fetched before the question can be answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Of the control plane: who has this address.
    Address(NetworkAddress),
    /// Of the control plane: the service, or the workload, with this name.
    Hostname(NamespacedHostname),
    /// Of the name servers.
    Dns(Arc<str>),
}

/// The next hop: where to, how, and whom the far side concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    pub via: Via,
    pub path: Path,
    /// The service that the application addressed: what the peer is told in `forwarded`, and a label of metrics.
    pub service: Option<Arc<Service>>,
    /// The workload at the far end of this hop; on the way through a waypoint that is the waypoint.
    pub destination: Option<Arc<Workload>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    Tunnel(Passage),
    /// As the application sent it, in the clear.
    Plain(SocketAddr),
}

/// A tunnel to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Where TCP and TLS go.
    pub address: SocketAddr,
    /// What the far end is asked to connect to.
    pub authority: ConnectHead,
    /// The peer must prove one of these; the order is part of the key of pooled connections. Never empty.
    pub expect: Vec<SpiffeId>,
}

/// Why the hop is this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// To the workload that was addressed, or to the endpoint that was picked.
    Direct,
    ServiceWaypoint,
    WorkloadWaypoint,
    /// The service asks to be left alone (a ServiceEntry of resolution NONE).
    Passthrough,
    /// Nothing in the mesh has this address.
    Unknown,
}

impl Hop {
    /// Where TCP goes.
    pub fn address(&self) -> SocketAddr {
        match &self.via {
            Via::Tunnel(passage) => passage.address,
            Via::Plain(address) => *address,
        }
    }
}

/// Decides the next hop of a connection.
///
/// `seed`: the chance of this connection, the same in every round.
pub fn resolve(directory: &Directory, ask: &Ask<'_>, known: &Known, seed: u64) -> Result<Resolution, Refusal> {
    let mut inquiry = Inquiry { directory, ask, known, rng: SmallRng::seed_from_u64(seed) };
    match inquiry.hop() {
        Ok(hop) => Ok(Resolution::Hop(hop)),
        Err(Stop::Need(need)) => Ok(Resolution::Need(need)),
        Err(Stop::Refused(refusal)) => Err(refusal),
    }
}

struct Inquiry<'a> {
    directory: &'a Directory,
    ask: &'a Ask<'a>,
    known: &'a Known,
    rng: SmallRng,
}

/// Why the inquiry ended without a hop.
enum Stop {
    Need(Need),
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

/// A workload to talk to, before it is known which of its addresses is dialled.
struct Upstream<'a> {
    workload: &'a Arc<Workload>,
    port: u16,
    /// The service by which it was found.
    service: Option<&'a Arc<Service>>,
}

/// Who answers at the original destination.
enum Found<'a> {
    Upstream(Upstream<'a>),
    Passthrough(&'a Arc<Service>),
    /// A service, and none of its endpoints can serve the port.
    NoEndpoint,
    Nobody,
}

impl<'a> Inquiry<'a> {
    /// The steps of spec/dataplane.md 5.2, in their order.
    fn hop(&mut self) -> Result<Hop, Stop> {
        let to = self.ask.to;
        self.refuse_self_call()?;
        let addressed = self.addressed_service()?;
        if let Some(service) = addressed
            && let Some(waypoint) = balance::waypoint(service, &mut self.rng)
            && !self.source_is_instance_of(waypoint)
        {
            return self.through_service_waypoint(service, waypoint);
        }
        let upstream = match self.find(to, addressed.is_some())? {
            Found::Upstream(upstream) => upstream,
            Found::Passthrough(service) => return Ok(Hop::plain(to, Path::Passthrough, Some(service), None)),
            Found::NoEndpoint => return Err(Refusal::NoHealthyUpstream { to }.into()),
            Found::Nobody if addressed.is_some() => return Err(Refusal::NoHealthyUpstream { to }.into()),
            Found::Nobody => return Ok(Hop::plain(to, Path::Unknown, None, None)),
        };
        if upstream.workload.network != self.ask.source.network {
            return Err(self.refuse_other_network(upstream.workload, addressed));
        }
        if addressed.is_none()
            && let Some(waypoint) = &upstream.workload.waypoint
            && !self.source_is_instance_of(waypoint)
        {
            return self.through_workload_waypoint(&upstream, waypoint);
        }
        self.direct(&upstream)
    }

    /// A connection to our own ports would come back to us for ever. On the pod's own address as well as on loopback:
    /// nothing but the mesh is behind these ports anywhere in the pod.
    fn refuse_self_call(&self) -> Result<(), Refusal> {
        let to = self.ask.to;
        let within_pod = to.ip().is_loopback() || self.ask.source.addresses.contains(&to.ip());
        if within_pod && self.ask.own_ports.contains(&to.port()) {
            return Err(Refusal::SelfCall { to });
        }
        Ok(())
    }

    /// The service that the application addressed: its VIP, unless a workload has the same address.
    fn addressed_service(&self) -> Result<Option<&'a Arc<Service>>, Stop> {
        let address = NetworkAddress { network: self.ask.network.clone(), ip: self.ask.to.ip() };
        match self.directory.at(&address, Some(&self.ask.source.namespace)) {
            Some(Addressed::Service(service)) => Ok(Some(service)),
            Some(Addressed::Workload(_)) => Ok(None),
            None => self.fetched(Need::Address(address)).map(|()| None),
        }
    }

    /// Who answers at an address as the source's own network sees it: an endpoint of the service, else the workload.
    ///
    /// A service without a usable endpoint is the end of it, unless its address is a workload's too and that was meant
    /// (`addressed` is false): then the workload answers, in a tunnel. The field sends such a connection in the clear.
    fn find(&mut self, to: SocketAddr, addressed: bool) -> Result<Found<'a>, Stop> {
        let source = self.ask.source;
        let address = NetworkAddress { network: source.network.clone(), ip: to.ip() };
        let service = self.directory.service_at(&address, Some(&source.namespace));
        if let Some(service) = service {
            if service.load_balancing.mode == LoadBalancingMode::Passthrough {
                return Ok(Found::Passthrough(service));
            }
            if let Some(upstream) = self.endpoint(service, to.port(), Purpose::Traffic) {
                return Ok(Found::Upstream(upstream));
            }
            if addressed {
                return Ok(Found::NoEndpoint);
            }
        }
        if let Some(workload) = self.directory.workload_at(&address) {
            return Ok(Found::Upstream(Upstream { workload, port: to.port(), service: None }));
        }
        if service.is_some() {
            return Ok(Found::NoEndpoint);
        }
        self.fetched(Need::Address(address)).map(|()| Found::Nobody)
    }

    fn endpoint(&mut self, service: &'a Arc<Service>, port: u16, purpose: Purpose) -> Option<Upstream<'a>> {
        let picked = balance::pick(self.directory, self.ask.source, service, port, purpose, &mut self.rng)?;
        Some(Upstream { workload: picked.workload, port: picked.port, service: Some(service) })
    }

    fn through_service_waypoint(&mut self, service: &Arc<Service>, waypoint: &GatewayAddress) -> Result<Hop, Stop> {
        let Some(gateway) = self.gateway(waypoint, Purpose::Waypoint)? else {
            return Err(unknown_waypoint(waypoint));
        };
        if gateway.workload.network != self.ask.source.network {
            return Err(self.refuse_other_network(gateway.workload, Some(service)));
        }
        let address = self.gateway_address(&gateway, waypoint)?;
        Ok(Hop::tunnel(address, self.ask.to.into(), &gateway, Path::ServiceWaypoint, Some(service)))
    }

    /// The waypoint's network is not compared here: to a workload there is no way across networks (spec/dataplane.md 5.2
    /// step 7).
    fn through_workload_waypoint(&mut self, upstream: &Upstream<'_>, waypoint: &GatewayAddress) -> Result<Hop, Stop> {
        let Some(gateway) = self.gateway(waypoint, Purpose::Waypoint)? else {
            return Err(unknown_waypoint(waypoint));
        };
        let address = self.gateway_address(&gateway, waypoint)?;
        Ok(Hop::tunnel(address, self.ask.to.into(), &gateway, Path::WorkloadWaypoint, upstream.service))
    }

    fn direct(&mut self, upstream: &Upstream<'_>) -> Result<Hop, Stop> {
        let address = SocketAddr::new(self.address_of(upstream, self.ask.to.ip())?, upstream.port);
        Ok(match upstream.workload.tunnel_protocol {
            TunnelProtocol::None => Hop::plain(address, Path::Direct, upstream.service, Some(upstream.workload)),
            TunnelProtocol::Hbone => {
                let door = SocketAddr::new(address.ip(), HBONE_PORT);
                Hop::tunnel(door, address.into(), upstream, Path::Direct, upstream.service)
            }
        })
    }

    /// Who stands behind a waypoint or a network gateway; `None` when nobody is known to (spec/dataplane.md 5.3).
    fn gateway(&mut self, gateway: &GatewayAddress, purpose: Purpose) -> Result<Option<Upstream<'a>>, Stop> {
        let port = gateway.hbone_mtls_port;
        match &gateway.destination {
            GatewayDestination::Address(address) => {
                if let Some(service) = self.directory.service_at(address, Some(&self.ask.source.namespace)) {
                    let passthrough = service.load_balancing.mode == LoadBalancingMode::Passthrough;
                    return Ok(if passthrough { None } else { self.endpoint(service, port, purpose) });
                }
                if let Some(workload) = self.directory.workload_at(address) {
                    return Ok(Some(Upstream { workload, port, service: None }));
                }
                self.fetched(Need::Address(address.clone())).map(|()| None)
            }
            GatewayDestination::Hostname(name) => {
                if let Some(service) = self.directory.service(name) {
                    return Ok(self.endpoint(service, port, purpose));
                }
                if let Some(workload) = self.directory.workload_named(name) {
                    return Ok(Some(Upstream { workload, port, service: None }));
                }
                self.fetched(Need::Hostname(name.clone())).map(|()| None)
            }
        }
    }

    /// A gateway named by address is dialled in that address's family, one named by hostname in the family that the
    /// application used.
    fn gateway_address(&mut self, gateway: &Upstream<'_>, named: &GatewayAddress) -> Result<SocketAddr, Stop> {
        let like = match &named.destination {
            GatewayDestination::Address(address) => address.ip,
            GatewayDestination::Hostname(_) => self.ask.to.ip(),
        };
        Ok(SocketAddr::new(self.address_of(gateway, like)?, gateway.port))
    }

    /// The address at which a workload is dialled; one that is known by a hostname only is asked of DNS.
    fn address_of(&mut self, upstream: &Upstream<'_>, like: IpAddr) -> Result<IpAddr, Stop> {
        let Upstream { workload, service, .. } = upstream;
        if let Some(ip) = balance::destination_ip(workload, service.map(|service| &**service), like) {
            return Ok(ip);
        }
        let hostname = &workload.hostname;
        if hostname.is_empty() {
            return Err(Refusal::NoRoute { workload: workload.uid.clone() }.into());
        }
        let Some(answers) = self.known.names.get(hostname) else {
            return Err(Stop::Need(Need::Dns(hostname.clone())));
        };
        let families = service.map_or_else(Default::default, |service| service.ip_families);
        let allowed: Vec<IpAddr> = answers.iter().copied().filter(|ip| families.allows(*ip)).collect();
        let alike: Vec<IpAddr> = allowed.iter().copied().filter(|ip| ip.is_ipv4() == like.is_ipv4()).collect();
        let choice = if alike.is_empty() { &allowed } else { &alike };
        let unresolved = || Refusal::NameUnresolved { hostname: hostname.clone() }.into();
        choice.choose(&mut self.rng).copied().ok_or_else(unresolved)
    }

    /// What stands in the way of a destination in another network; in the end, that we do not go there.
    fn refuse_other_network(&mut self, workload: &Workload, addressed: Option<&Arc<Service>>) -> Stop {
        if addressed.is_none() {
            return Refusal::NoServiceForAddress { to: self.ask.to }.into();
        }
        let Some(gateway) = &workload.network_gateway else {
            return Refusal::NoRoute { workload: workload.uid.clone() }.into();
        };
        match self.gateway(gateway, Purpose::Traffic) {
            Err(stop) => stop,
            Ok(None) => {
                let port = gateway.hbone_mtls_port;
                Refusal::UnknownNetworkGateway { gateway: gateway.destination.clone(), port }.into()
            }
            Ok(Some(_)) => Refusal::CrossNetwork { network: workload.network.clone() }.into(),
        }
    }

    /// Whether the connection comes from the waypoint itself, on its way to what it guards. Asked for services too: a
    /// waypoint that calls a service of its own would otherwise be sent to itself without end.
    fn source_is_instance_of(&self, waypoint: &GatewayAddress) -> bool {
        let directory = self.directory;
        match &waypoint.destination {
            GatewayDestination::Address(address) => {
                let service = directory.service_at(address, Some(&self.ask.source.namespace));
                directory.workloads_at(address).any(|workload| self.is_source(workload))
                    || service.is_some_and(|service| self.is_member(&service.key()))
            }
            GatewayDestination::Hostname(name) => {
                self.is_member(name) || directory.workload_named(name).is_some_and(|workload| self.is_source(workload))
            }
        }
    }

    fn is_member(&self, service: &NamespacedHostname) -> bool {
        self.directory.is_member(service, &self.ask.source.uid)
            || self.directory.members(service).any(|workload| self.is_source(workload))
    }

    /// The same identity and an address in common.
    fn is_source(&self, workload: &Workload) -> bool {
        let source = self.ask.source;
        workload.addresses.iter().any(|ip| source.addresses.contains(ip)) && workload.identity() == source.identity()
    }

    /// What the directory lacks may only be unknown to it so far: asks for it, once.
    fn fetched(&self, need: Need) -> Result<(), Stop> {
        if self.ask.complete || self.known.asked.contains(&need) { Ok(()) } else { Err(Stop::Need(need)) }
    }
}

impl Hop {
    fn plain(to: SocketAddr, path: Path, service: Option<&Arc<Service>>, destination: Option<&Arc<Workload>>) -> Hop {
        Hop { via: Via::Plain(to), path, service: service.cloned(), destination: destination.cloned() }
    }

    fn tunnel(
        address: SocketAddr,
        authority: ConnectHead,
        far_end: &Upstream<'_>,
        path: Path,
        service: Option<&Arc<Service>>,
    ) -> Hop {
        let expect = expected(far_end.workload, far_end.service);
        let via = Via::Tunnel(Passage { address, authority, expect });
        Hop { via, path, service: service.cloned(), destination: Some(far_end.workload.clone()) }
    }
}

fn unknown_waypoint(waypoint: &GatewayAddress) -> Stop {
    Refusal::UnknownWaypoint { waypoint: waypoint.destination.clone(), port: waypoint.hbone_mtls_port }.into()
}

/// Whom the far end may prove to be: the names of the service as delivered, then the workload's own. A name that is no
/// identity of a mesh is left out: no certificate could prove it (spec/dataplane.md 1.2).
fn expected(workload: &Workload, service: Option<&Arc<Service>>) -> Vec<SpiffeId> {
    let of_service = service.into_iter().flat_map(|service| &service.subject_alt_names);
    of_service.filter_map(|name| name.parse().ok()).chain([workload.identity()]).collect()
}

#[cfg(test)]
mod tests;
