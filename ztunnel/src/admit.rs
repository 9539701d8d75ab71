//! Whether what arrives at a pod is for it, and where inside it goes: `resolve` seen from the far side (spec/dataplane.md
//! 1.12 steps 4 to 6, 1.11, 5.5).
//!
//! Not here: who may talk to whom (`authorize` asks policy about the admission), sockets, headers as bytes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use mesh_hbone::ConnectHead;
use mesh_model::address::{GatewayAddress, GatewayDestination, NetworkAddress};
use mesh_model::balance::{self, Purpose};
use mesh_model::directory::{Addressed, Directory};
use mesh_model::identity::SpiffeId;
use mesh_model::service::Service;
use mesh_model::workload::{ApplicationTunnelProtocol, Workload};
use mesh_net::net::Source;
use mesh_net::proxy_header::ProxyHeader;

use crate::error::Refusal;

/// What this daemon knows of the pod that is asked, the same for all that arrives there.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// The pod's own workload.
    pub me: &'a Workload,
    /// The network that this daemon is in (`NETWORK`).
    pub network: &'a Arc<str>,
    /// The ports that the mesh itself listens on in a pod.
    pub own_ports: &'a [u16],
    /// Whether an application that wants PROXY headers is reached over loopback (`LOCALHOST_APP_TUNNEL`).
    pub tunnel_over_loopback: bool,
    /// The one port that is served, where that is not all of them: the daemon's own listener.
    pub only_port: Option<u16>,
}

/// One CONNECT that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The address of the pod at which the tunnel arrived.
    pub local: IpAddr,
    pub peer: SocketAddr,
    /// What the peer's certificate proved.
    pub identity: Option<&'a SpiffeId>,
    pub authority: &'a ConnectHead,
    /// The service that the peer says the application addressed (`forwarded`); believed for telemetry only.
    pub forwarded_host: Option<&'a str>,
    /// The network that the peer says it is in (`x-forwarded-network`).
    pub from_network: Option<&'a str>,
}

/// What arrives is for this pod; what to do with it, if policy agrees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Where the application is.
    pub dial: SocketAddr,
    /// Which address the application sees as its client.
    pub dial_as: Source,
    /// The destination that policy judges: the pod's address and the port really meant for the application.
    pub judged: SocketAddr,
    /// Sent to the application before the first byte of the peer.
    pub proxy_header: Option<ProxyHeader>,
    /// The service that was meant, for telemetry: always one that the pod belongs to, so that no peer can invent labels.
    pub service: Option<Arc<Service>>,
    /// Who the peer is by its address, for telemetry; policy goes by its identity.
    pub source: Option<Arc<Workload>>,
    /// The peer is a gateway of another network, so its address says nothing about the client.
    pub through_gateway: bool,
}

/// Decides about a CONNECT.
pub fn admit(directory: &Directory, host: &Host<'_>, arrival: &Arrival<'_>) -> Result<Admission, Refusal> {
    let me = host.me;
    let target = match arrival.authority {
        ConnectHead::Address(asked) => {
            refuse_unless_ours(directory, host, arrival.local, *asked)?;
            Target::Address(*asked)
        }
        ConnectHead::Host { name, port } => Target::Service(named_service(directory, me, name)?, *port),
    };
    let port = target.port_here(me)?;
    refuse_self_call(host, SocketAddr::new(arrival.local, port))?;

    let application = me.application_tunnel.and_then(|tunnel| tunnel.port).unwrap_or(port);
    let judged = SocketAddr::new(arrival.local, application);
    refuse_self_call(host, judged)?;
    if host.only_port.is_some_and(|only| only != application) {
        return Err(Refusal::NotServed { to: judged });
    }
    let wants_header = me.application_tunnel.is_some_and(|tunnel| tunnel.protocol == ApplicationTunnelProtocol::Proxy);
    let over_loopback = wants_header && host.tunnel_over_loopback;

    let through_gateway = arrival.from_network.is_some_and(|network| !network.eq_ignore_ascii_case(host.network));
    let source = if through_gateway { None } else { workload_at(directory, host.network, arrival.peer.ip()) };
    let proxy_header = match wants_header {
        true => Some(proxy_header(host, arrival, &target)?),
        false => None,
    };
    Ok(Admission {
        dial: if over_loopback { SocketAddr::new(loopback_like(arrival.local), application) } else { judged },
        dial_as: if over_loopback { Source::Loopback } else { seen_as(arrival.peer.ip(), arrival.local) },
        judged,
        proxy_header,
        service: service_meant(directory, me, target.service(), arrival.forwarded_host, port),
        source: source.cloned(),
        through_gateway,
    })
}

/// Decides about a plaintext connection that was captured on its way into the pod (spec/dataplane.md 5.5).
///
/// `to`: where it was meant to go.
pub fn admit_plaintext(directory: &Directory, host: &Host<'_>, peer: SocketAddr, to: SocketAddr) -> Result<Admission, Refusal> {
    refuse_self_call(host, to)?;
    Ok(Admission {
        dial: to,
        dial_as: seen_as(peer.ip(), to.ip()),
        judged: to,
        proxy_header: None,
        service: service_meant(directory, host.me, None, None, to.port()),
        source: workload_at(directory, host.network, peer.ip()).cloned(),
        through_gateway: false,
    })
}

fn refuse_self_call(host: &Host<'_>, to: SocketAddr) -> Result<(), Refusal> {
    if host.own_ports.contains(&to.port()) { Err(Refusal::SelfCall { to }) } else { Ok(()) }
}

/// A target by address is ours when it is the pod's own, when the pod takes anything (an application tunnel), or when
/// the pod is a waypoint of what has that address.
fn refuse_unless_ours(directory: &Directory, host: &Host<'_>, local: IpAddr, asked: SocketAddr) -> Result<(), Refusal> {
    if asked.ip() == local || host.me.application_tunnel.is_some() {
        return Ok(());
    }
    let address = NetworkAddress { network: host.network.clone(), ip: asked.ip() };
    let guards = |waypoint: &GatewayAddress| is_instance_of(directory, host.me, local, waypoint);
    let ours = match directory.at(&address, None) {
        Some(Addressed::Workload(workload)) => workload.waypoint.as_ref().is_some_and(guards),
        // Any of the weighted waypoints may be the one that the peer's chance fell on.
        Some(Addressed::Service(service)) => {
            service.waypoint.as_ref().is_some_and(guards)
                || service.weighted_waypoints.iter().any(|weighted| guards(&weighted.destination))
        }
        None => false,
    };
    if ours { Ok(()) } else { Err(Refusal::IpMismatch { asked, own: local }) }
}

/// Whether this pod is what a waypoint address stands for: an endpoint of that service, or the workload itself.
fn is_instance_of(directory: &Directory, me: &Workload, local: IpAddr, waypoint: &GatewayAddress) -> bool {
    match &waypoint.destination {
        GatewayDestination::Hostname(name) => {
            directory.is_member(name, &me.uid)
                || directory.workload_named(name).is_some_and(|workload| workload.addresses.contains(&local))
        }
        GatewayDestination::Address(address) => {
            directory.workloads_at(address).any(|workload| workload.addresses.contains(&local))
                || directory.service_at(address, None).is_some_and(|service| directory.is_member(&service.key(), &me.uid))
        }
    }
}

/// The service that a bare hostname means at this pod.
fn named_service<'d>(directory: &'d Directory, me: &Workload, hostname: &str) -> Result<&'d Arc<Service>, Refusal> {
    let service = directory.service_named(hostname, Some(&me.namespace), None);
    service.ok_or_else(|| Refusal::UnknownHostname { hostname: hostname.into() })
}

/// What the peer asked for, with the service that a name stands for.
enum Target<'d> {
    Address(SocketAddr),
    /// The service, and the port of it.
    Service(&'d Arc<Service>, u16),
}

impl<'d> Target<'d> {
    fn service(&self) -> Option<&'d Arc<Service>> {
        match self {
            Target::Address(_) => None,
            Target::Service(service, _) => Some(service),
        }
    }

    /// The port of this pod that is meant: as it is for an address; for a service, the pod's own mapping or the service's.
    /// An application tunnel with a port of its own takes every port.
    fn port_here(&self, me: &Workload) -> Result<u16, Refusal> {
        match self {
            Target::Address(asked) => Ok(asked.port()),
            Target::Service(service, port) => balance::target_port(service, me, *port, Purpose::Waypoint)
                .ok_or_else(|| Refusal::UnresolvedPort { hostname: service.hostname.clone(), port: *port }),
        }
    }
}

/// The client's own address, where that makes a difference.
fn seen_as(peer: IpAddr, own: IpAddr) -> Source {
    if peer == own { Source::Any } else { Source::Of(peer) }
}

fn loopback_like(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

fn workload_at<'d>(directory: &'d Directory, network: &Arc<str>, ip: IpAddr) -> Option<&'d Arc<Workload>> {
    directory.workload_at(&NetworkAddress { network: network.clone(), ip })
}

/// The client as the application is told of it. A target by name is written as an address of the service: of the own
/// network, IPv4 first; else any it has.
fn proxy_header(host: &Host<'_>, arrival: &Arrival<'_>, target: &Target<'_>) -> Result<ProxyHeader, Refusal> {
    let destination = match target {
        Target::Address(asked) => *asked,
        Target::Service(service, port) => {
            let preference = |vip: &&NetworkAddress| (vip.network != *host.network, vip.ip.is_ipv6());
            let vip = service.vips.iter().min_by_key(preference);
            let vip = vip.ok_or_else(|| Refusal::NoVip { hostname: service.hostname.clone() })?;
            SocketAddr::new(vip.ip, *port)
        }
    };
    Ok(ProxyHeader {
        source: arrival.peer,
        destination,
        identity: arrival.identity.map(|identity| identity.to_string().into()),
        hostname: target.service().map(|service| service.hostname.clone()),
    })
}

/// Which of the pod's own services was meant: the one asked for by name, the one that the peer says, else the first that
/// has this port. Telemetry only.
fn service_meant(
    directory: &Directory,
    me: &Workload,
    named: Option<&Arc<Service>>,
    forwarded_host: Option<&str>,
    port: u16,
) -> Option<Arc<Service>> {
    if let Some(service) = named.filter(|service| me.services.contains_key(&service.key())) {
        return Some(service.clone());
    }
    let own = || me.services.iter().filter_map(|(key, ports)| Some((directory.service(key)?, ports)));
    if let Some(hostname) = forwarded_host {
        let mut said = own().filter(|(service, _)| *service.hostname == *hostname);
        let at_home = |(service, _): &(&Arc<Service>, _)| service.namespace == me.namespace;
        if let Some((service, _)) = said.clone().find(at_home).or_else(|| said.next()) {
            return Some(service.clone());
        }
    }
    let has_port = |(service, ports): &(&Arc<Service>, &BTreeMap<u16, u16>)| {
        ports.values().chain(service.ports.values()).any(|target| *target == port)
    };
    own().find(has_port).map(|(service, _)| service.clone())
}

#[cfg(test)]
mod tests;
