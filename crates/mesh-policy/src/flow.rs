//! The question: one connection as the destination's proxy sees it.

use std::net::{IpAddr, SocketAddr};

use mesh_model::identity::SpiffeId;

/// `source`: the TCP peer (the waypoint, when the connection came through one). `destination`: the pod's address and
/// the port really dialled, never 15008. `identity`: proven by the peer's certificate; `None` for plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    source: IpAddr,
    identity: Option<SpiffeId>,
    destination: SocketAddr,
}

impl Flow {
    /// Addresses are made canonical: a dual-stack socket reports IPv4 peers as `::ffff:a.b.c.d`, which no IPv4 range of
    /// a policy would match, so that a DENY would be passed by.
    pub fn new(source: IpAddr, identity: Option<SpiffeId>, destination: SocketAddr) -> Flow {
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        Flow { source: source.to_canonical(), identity, destination }
    }

    pub fn source(&self) -> IpAddr {
        self.source
    }

    pub fn identity(&self) -> Option<&SpiffeId> {
        self.identity.as_ref()
    }

    pub fn destination(&self) -> SocketAddr {
        self.destination
    }
}
