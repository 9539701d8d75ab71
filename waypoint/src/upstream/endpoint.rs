//! Pure: where a connection goes and how, from what the directory says of an endpoint.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_model::balance;
use mesh_model::identity::SpiffeId;
use mesh_model::service::Service;
use mesh_model::workload::{TunnelProtocol, Workload};

use super::{ConnectError, Kind, Origin};

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A workload's uid, `ip:port` or `name:port`.
    pub id: Arc<str>,
    /// What the application there listens on.
    pub to: To,
    pub way: Way,
    /// TLS of the application, inside of the tunnel if there is one.
    pub tls: Option<Arc<Origin>>,
    pub alpn: Alpn,
    /// The first bytes on the connection: a PROXY header.
    pub preface: Option<Bytes>,
    /// For all of it: TCP, tunnel, TLS.
    pub connect_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum To {
    Address(SocketAddr),
    /// Resolved when it is dialled.
    Name(Arc<str>, u16),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    Plain,
    /// CONNECT `target` at `door`, where exactly `expect` must answer.
    Tunnel { door: SocketAddr, target: SocketAddr, expect: SpiffeId },
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
        let like = dialled.or_else(|| own.addresses.first().copied()).unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        let Some(ip) = balance::destination_ip(workload, service, like) else {
            if workload.hostname.is_empty() {
                return Err(ConnectError::new(Kind::Other, format!("{id} has neither an address nor a hostname")));
            }
            return Ok(Endpoint { id, ..Endpoint::of_name(workload.hostname.clone(), port) });
        };
        let target = SocketAddr::new(ip, port);
        let way = match workload.tunnel_protocol {
            TunnelProtocol::None => Way::Plain,
            TunnelProtocol::Hbone => {
                Way::Tunnel { door: SocketAddr::new(ip, HBONE_PORT), target, expect: workload.identity() }
            }
        };
        Ok(Endpoint { id, way, ..Endpoint::of_address(target) })
    }

    /// An address outside of the mesh.
    pub fn of_address(to: SocketAddr) -> Endpoint {
        Endpoint {
            id: to.to_string().into(),
            to: To::Address(to),
            way: Way::Plain,
            tls: None,
            alpn: Alpn::None,
            preface: None,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// A name outside of the mesh.
    pub fn of_name(name: Arc<str>, port: u16) -> Endpoint {
        let id = format!("{name}:{port}").into();
        Endpoint { id, to: To::Name(name, port), ..Endpoint::of_address(SocketAddr::new([0, 0, 0, 0].into(), port)) }
    }

    /// With TLS to the application, if policy says so.
    pub fn with_tls(self, tls: Option<Arc<Origin>>, alpn: Alpn) -> Endpoint {
        Endpoint { tls, alpn, ..self }
    }

    pub fn within(self, connect_timeout: Duration) -> Endpoint {
        Endpoint { connect_timeout, ..self }
    }
}
