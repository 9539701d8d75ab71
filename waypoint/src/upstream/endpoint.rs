//! Pure: where a connection goes and how, from what the directory says of an endpoint.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_model::balance;
use mesh_model::directory::Directory;
use mesh_model::identity::SpiffeId;
use mesh_model::service::Service;
use mesh_model::workload::{TunnelProtocol, Uid, Workload};
use mesh_net::proxy_header;
use mesh_xds::messages::waypoint::ProxyHeader;

use super::{ConnectError, Forward, Kind, Origin};
use crate::choose::{self, Backend, Place};
use crate::facts::Arrival;

/// Where the node of a pod of the mesh takes tunnels (spec/waypoint.md 0).
pub const HBONE_PORT: u16 = 15008;

/// How long a connection may take to come about where nothing else is said (spec/waypoint.md 1.4).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// This proxy, as far as the way to others depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    pub identity: SpiffeId,
    pub network: Arc<str>,
    /// Addresses of our own pod.
    pub addresses: Arc<[IpAddr]>,
}

/// Where a connection goes, and how. What is spoken over connections to equal ones may share them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A workload's uid, `ip:port` or `name:port`.
    pub id: Arc<str>,
    /// Whose address it is, where it is somebody's of the mesh.
    pub workload: Option<Uid>,
    /// What the application there listens on.
    pub to: To,
    pub way: Way,
    /// TLS of the application, inside of the tunnel if there is one.
    pub tls: Option<OriginTo>,
    /// The first bytes on the connection: a PROXY header.
    pub preface: Option<Bytes>,
    /// A proxy outside, which is what is connected to: it carries the connection on.
    pub through: Option<Arc<Forward>>,
    /// Any address of a name, where it has several; else the first that answers.
    pub spread: bool,
    /// For all of it: TCP, tunnel, TLS.
    pub connect_timeout: Duration,
    /// Waypoints that what goes there has come through, this one among them. What has come a longer way has tunnels of its own.
    pub hops: u8,
}

/// Whom and where: those that differ in the rest alone are few.
impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
        self.to.hash(state);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum To {
    Address(SocketAddr),
    /// Resolved when it is dialled.
    Name(Arc<str>, u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    Plain,
    /// CONNECT `target` at `door`, where exactly `expect` must answer.
    Tunnel { door: SocketAddr, target: SocketAddr, expect: SpiffeId },
}

/// TLS, with whom, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginTo {
    pub origin: Arc<Origin>,
    pub host: Arc<str>,
    pub alpn: Alpn,
}

/// What is spoken inside of TLS, for its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Alpn {
    /// Whatever the two ends speak.
    #[default]
    None,
    Http1,
    Http2,
}

impl Endpoint {
    /// A workload at one of its ports: in a tunnel if it is in the mesh, else plain. `service` is the one that it was
    /// chosen for; `dialled` is the client's address of it, whose family is preferred.
    ///
    /// # Errors
    /// There is no way to it.
    pub fn of_workload(
        own: &Own,
        workload: &Workload,
        port: u16,
        service: Option<&Service>,
        dialled: Option<IpAddr>,
    ) -> Result<Endpoint, ConnectError> {
        let id = workload.uid.0.clone();
        if workload.network != own.network {
            let why = format!("{id} is in the network {:?}, and there is no way to other networks", &*workload.network);
            return Err(ConnectError::new(Kind::Other, why));
        }
        let like = dialled.or_else(|| own.addresses.first().copied()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let Some(ip) = balance::destination_ip(workload, service, like) else {
            if workload.hostname.is_empty() {
                return Err(ConnectError::new(Kind::Other, format!("{id} has neither an address nor a hostname")));
            }
            // A tunnel goes to an address of its node, and there is none: in the clear it must not go instead.
            if workload.tunnel_protocol != TunnelProtocol::None {
                return Err(ConnectError::new(Kind::Other, format!("{id} takes tunnels only, and has a hostname but no address")));
            }
            return Ok(Endpoint { id, workload: Some(workload.uid.clone()), ..Endpoint::of_name(workload.hostname.clone(), port) });
        };
        if own.addresses.contains(&ip) && workload.tunnel_protocol == TunnelProtocol::Hbone {
            return Err(ConnectError::new(Kind::Loop, format!("{id} is this waypoint itself, behind which there is nothing")));
        }
        let target = SocketAddr::new(ip, port);
        let way = match workload.tunnel_protocol {
            TunnelProtocol::None => Way::Plain,
            TunnelProtocol::Hbone => {
                Way::Tunnel { door: SocketAddr::new(ip, HBONE_PORT), target, expect: workload.identity() }
            }
        };
        Ok(Endpoint { workload: Some(workload.uid.clone()), way, ..Endpoint::plain(id, To::Address(target)) })
    }

    fn plain(id: Arc<str>, to: To) -> Endpoint {
        Endpoint { id, workload: None, to, way: Way::Plain, tls: None, preface: None, through: None, spread: true, connect_timeout: CONNECT_TIMEOUT, hops: 1 }
    }

    /// The workload that was dialled by its own address.
    ///
    /// # Errors
    /// There is no way to it.
    pub fn dialled(own: &Own, arrival: &Arrival, workload: &Workload, port: u16) -> Result<Endpoint, ConnectError> {
        let dialled = arrival.dialled.map(|dialled| dialled.ip());
        let endpoint = Endpoint::of_workload(own, workload, port, None, dialled)?;
        Ok(Endpoint { hops: arrival.hops.saturating_add(1), ..endpoint })
    }

    /// An address outside of the mesh.
    pub fn of_address(to: SocketAddr) -> Endpoint {
        Endpoint::plain(to.to_string().into(), To::Address(to))
    }

    /// A name outside of the mesh.
    pub fn of_name(name: Arc<str>, port: u16) -> Endpoint {
        Endpoint::plain(format!("{name}:{port}").into(), To::Name(name, port))
    }

    /// Where it is dialled, if that is known beforehand.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.to {
            To::Address(address) => Some(*address),
            To::Name(..) => None,
        }
    }

    /// Whether the directory still says that it is there: what is kept open to it can be used.
    pub fn stands(&self, directory: &Directory) -> bool {
        let Some(workload) = self.workload.as_ref().map(|uid| directory.workload(uid)) else { return true };
        let (Some(workload), Some(address)) = (workload, self.address()) else { return workload.is_some() };
        let as_known = match &self.way {
            Way::Plain => workload.tunnel_protocol == TunnelProtocol::None,
            Way::Tunnel { expect, .. } => workload.identity() == *expect,
        };
        as_known && workload.addresses.contains(&address.ip())
    }

    /// What was chosen, with all that the policy of its backend says of connections.
    ///
    /// # Errors
    /// There is no way to it.
    pub fn of_picked(way: &Going<'_>, picked: &choose::Endpoint, backend: &Backend, alpn: Alpn) -> Result<Endpoint, ConnectError> {
        let key = &backend.key.host;
        let endpoint = match &picked.place {
            Place::Workload(workload) => {
                let dialled = way.arrival.dialled.map(|dialled| dialled.ip());
                let service = way.directory.service(key).map(|service| &**service);
                Endpoint::of_workload(way.own, workload, picked.port, service, dialled)?
            }
            Place::Name(name) => Endpoint::of_name(name.clone(), picked.port),
            Place::Address(ip) => Endpoint::of_address(SocketAddr::new(*ip, picked.port)),
        };
        // The host of a wildcard is the one that is asked for.
        let host = match &picked.place {
            Place::Name(name) if backend.kind == choose::Kind::DynamicDns => name.clone(),
            _ => key.hostname.clone(),
        };
        let origin = backend.policy.tls.clone().filter(|origin| !origin.is_off());
        Ok(Endpoint {
            id: picked.id.clone(),
            tls: origin.map(|origin| OriginTo { origin, host, alpn }),
            through: backend.policy.forward_proxy.clone(),
            spread: !matches!(backend.kind, choose::Kind::Dns { one: true, .. }),
            preface: backend.policy.proxy_header.and_then(|version| preface(version, way.arrival, &endpoint.to)),
            connect_timeout: backend.policy.pool().connect_timeout.unwrap_or(way.connect_timeout),
            hops: way.arrival.hops.saturating_add(1),
            ..endpoint
        })
    }
}

/// Who goes there.
#[derive(Clone, Copy, Debug)]
pub struct Going<'a> {
    pub own: &'a Own,
    pub directory: &'a Directory,
    pub arrival: &'a Arrival,
    /// Of the mesh.
    pub connect_timeout: Duration,
}

/// The header that tells the application who the client is, and what it dialled or, if that was a name, where this goes.
fn preface(version: ProxyHeader, arrival: &Arrival, to: &To) -> Option<Bytes> {
    let of_endpoint = || match to {
        To::Address(address) => *address,
        To::Name(_, port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), *port),
    };
    let destination = arrival.dialled.unwrap_or_else(of_endpoint);
    let header = proxy_header::ProxyHeader { source: arrival.source, destination, identity: None, hostname: None };
    match version {
        ProxyHeader::Off => None,
        ProxyHeader::V1 => Some(header.to_text().into()),
        ProxyHeader::V2 => Some(header.to_bytes().into()),
    }
}

#[cfg(test)]
mod tests;
