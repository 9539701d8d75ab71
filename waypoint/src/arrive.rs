//! Pure: what a CONNECT is for, and from whom (spec/waypoint.md 1.2, 1.6). What is not ours is refused: a waypoint is no
//! open relay. What may be ours in a moment is refused as `early`; who waits for it is `wait`.

pub mod wait;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use mesh_hbone::ConnectHead;
use mesh_model::address::{GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress};
use mesh_model::balance::{self, Purpose};
use mesh_model::directory::Directory;
use mesh_model::identity::SpiffeId;
use mesh_model::service::AppProtocol;
use mesh_model::workload::Workload;
use mesh_xds::messages::waypoint::PortProtocol;

use crate::facts::{Arrival, Target};
use crate::settings::{Binding, Settings};
use crate::upstream::Own;
use crate::upstream::hops::HOPS_MAX;

/// What is asked, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub to: &'a ConnectHead,
    /// Proven by the connection's certificate.
    pub identity: &'a SpiffeId,
    /// The far end of the connection.
    pub peer: SocketAddr,
    /// What `forwarded` says of the client.
    pub forwarded_for: Option<SocketAddr>,
    /// Waypoints that it came through.
    pub hops: u8,
}

/// Who we are.
#[derive(Clone, Copy)]
pub struct Here<'a> {
    pub own: &'a Own,
    /// The service in front of our pods: how the directory names us as a waypoint.
    pub gateway: &'a NamespacedHostname,
    pub directory: &'a Directory,
    pub settings: &'a Settings,
    pub now: Instant,
}

/// Why a CONNECT is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0} is an address of this waypoint itself, behind which there is nothing for anybody")]
    Own(SocketAddr),
    #[error("it has come through {0} waypoints: routes or addresses lead in a circle")]
    Loop(u8),
    #[error("nobody is known at {0}")]
    UnknownAddress(SocketAddr),
    #[error("no service is named {0:?}")]
    UnknownHost(String),
    #[error("{service} is not bound to this waypoint; label it istio.io/use-waypoint")]
    NotBound { service: NamespacedHostname, early: bool },
    #[error("{service} has no port {port}")]
    NoPort { service: NamespacedHostname, port: u16, early: bool },
    #[error("the workload {0} is not bound to this waypoint; label it istio.io/use-waypoint, and the Gateway istio.io/waypoint-for")]
    NotOurWorkload(Arc<str>),
}

impl Refused {
    /// What the peer is answered (spec/waypoint.md 1.1).
    pub fn status(&self) -> StatusCode {
        match self {
            Refused::Loop(_) => StatusCode::LOOP_DETECTED,
            Refused::Own(_) => StatusCode::FORBIDDEN,
            Refused::NotBound { .. } | Refused::NotOurWorkload(_) => StatusCode::FORBIDDEN,
            Refused::UnknownAddress(_) | Refused::UnknownHost(_) | Refused::NoPort { .. } => StatusCode::NOT_FOUND,
        }
    }

    /// One word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Refused::Loop(_) => "loop",
            Refused::Own(_) => "own_address",
            Refused::UnknownAddress(_) => "unknown_address",
            Refused::UnknownHost(_) => "unknown_host",
            Refused::NotBound { .. } => "service_not_bound",
            Refused::NoPort { .. } => "no_port",
            Refused::NotOurWorkload(_) => "workload_not_bound",
        }
    }

    /// Whether it may be ours in a moment: it is known, and only what binds it to us is missing.
    pub fn is_early(&self) -> bool {
        match self {
            Refused::NotBound { early, .. } | Refused::NoPort { early, .. } => *early,
            Refused::NotOurWorkload(_) => true,
            Refused::Loop(_) | Refused::Own(_) | Refused::UnknownAddress(_) | Refused::UnknownHost(_) => false,
        }
    }
}

/// # Errors
/// It is not for us.
pub fn arrive(here: &Here<'_>, asked: &Asked<'_>) -> Result<Arrival, Refused> {
    if asked.hops >= HOPS_MAX {
        return Err(Refused::Loop(asked.hops));
    }
    let (target, dialled) = match asked.to {
        ConnectHead::Address(address) => (by_address(here, asked, *address)?, Some(*address)),
        ConnectHead::Host { name, port } => (by_name(here, asked, name, *port)?, None),
    };
    let (source, source_workload) = source(here, asked);
    let (identity, peer, hops) = (asked.identity.clone(), asked.peer, asked.hops);
    Ok(Arrival { identity, peer, source, source_workload, dialled, target, hops })
}

fn by_address(here: &Here<'_>, asked: &Asked<'_>, to: SocketAddr) -> Result<Target, Refused> {
    if here.own.addresses.contains(&to.ip()) || to.ip().is_loopback() || to.ip().is_unspecified() {
        return Err(Refused::Own(to));
    }
    let address = NetworkAddress { network: here.own.network.clone(), ip: to.ip() };
    if let Some(service) = here.directory.service_at(&address, Some(&asked.identity.namespace)) {
        return of_service(here, service.key(), to.port());
    }
    let Some(workload) = here.directory.workload_at(&address) else { return Err(Refused::UnknownAddress(to)) };
    if !workload.waypoint.as_ref().is_some_and(|waypoint| is_us(here, waypoint)) {
        return Err(Refused::NotOurWorkload(workload.uid.0.clone()));
    }
    Ok(Target::Workload { workload: workload.clone(), port: to.port() })
}

/// By name ask those who come from another network, and those who speak HBONE of their own. Of several services of the name
/// the one that it means to the client comes first, then those that are bound to us; none that is hidden from the client.
fn by_name(here: &Here<'_>, asked: &Asked<'_>, name: &str, port: u16) -> Result<Target, Refused> {
    let client = &*asked.identity.namespace;
    let meant = here.directory.service_named(name, Some(client), None).map(|service| service.key());
    let ours = |key: &NamespacedHostname| here.settings.serves(key) || binding(here, key, port).is_served();
    let visible = here.directory.services_named(name).filter(|service| service.is_visible_to(client));
    let bound = visible.map(|service| service.key()).find(ours);
    match meant.clone().filter(ours).or(bound).or(meant) {
        Some(key) => of_service(here, key, port),
        None => Err(Refused::UnknownHost(name.to_owned())),
    }
}

fn binding<'a>(here: &Here<'a>, key: &NamespacedHostname, port: u16) -> Binding<'a> {
    here.settings.binding(here.directory, key, port, here.now)
}

fn of_service(here: &Here<'_>, service: NamespacedHostname, port: u16) -> Result<Target, Refused> {
    let early = match binding(here, &service, port) {
        Binding::Bound(_) | Binding::Parting(..) => return Ok(Target::Service { key: service, port }),
        Binding::Expected => true,
        Binding::No => false,
    };
    match here.settings.serves(&service) {
        true => Err(Refused::NoPort { service, port, early }),
        false => Err(Refused::NotBound { service, early }),
    }
}

/// Whether what the directory names as a waypoint is the Gateway whose pod we are.
fn is_us(here: &Here<'_>, waypoint: &GatewayAddress) -> bool {
    let has_us = |service: &NamespacedHostname| here.directory.members(service).any(|workload| is_own(here.own, workload));
    match &waypoint.destination {
        GatewayDestination::Hostname(name) => name == here.gateway || has_us(name),
        GatewayDestination::Address(address) => {
            let service = here.directory.service_at(address, None).map(|service| service.key());
            here.own.addresses.contains(&address.ip) && address.network == here.own.network
                || service.is_some_and(|service| service == *here.gateway || has_us(&service))
        }
    }
}

fn is_own(own: &Own, workload: &Workload) -> bool {
    workload.addresses.iter().any(|ip| own.addresses.contains(ip)) && workload.identity() == own.identity
}

/// The client. Its node tells its address in a header, and is believed where a workload of the proven identity has it.
fn source(here: &Here<'_>, asked: &Asked<'_>) -> (SocketAddr, Option<Arc<Workload>>) {
    let of_identity = |ip: IpAddr| {
        let address = NetworkAddress { network: here.own.network.clone(), ip };
        here.directory.workloads_at(&address).find(|workload| workload.identity() == *asked.identity).cloned()
    };
    let forwarded = asked.forwarded_for.and_then(|address| Some((address, of_identity(address.ip())?)));
    match forwarded {
        Some((address, workload)) => (address, Some(workload)),
        None => (asked.peer, of_identity(asked.peer.ip())),
    }
}

/// What a port of a workload speaks: what the services say that it is an endpoint of. Where they disagree the bytes decide.
pub fn declared(directory: &Directory, workload: &Workload, port: u16) -> PortProtocol {
    let of_services = workload.services.keys().filter_map(|key| directory.service(key)).flat_map(|service| {
        let leads_here = move |of: u16| balance::target_port(service, workload, of, Purpose::Traffic) == Some(port);
        service.app_protocols.iter().filter(move |(of, _)| leads_here(**of)).map(|(_, protocol)| *protocol)
    });
    let mut declared = of_services.map(|protocol| match protocol {
        AppProtocol::Http11 => PortProtocol::Http1,
        AppProtocol::Http2 => PortProtocol::Http2,
        AppProtocol::Grpc => PortProtocol::Grpc,
        AppProtocol::Tcp => PortProtocol::Tcp,
        AppProtocol::Tls => PortProtocol::Tls,
    });
    let first = declared.next().unwrap_or(PortProtocol::Auto);
    if declared.all(|other| other == first) { first } else { PortProtocol::Auto }
}

#[cfg(test)]
mod tests;
