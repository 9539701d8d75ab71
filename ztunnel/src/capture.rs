//! The pod's ports: what is accepted there becomes a connection with a page of its own.
//!
//! Each loop takes a place before it takes a connection further, and stops when the pod drains.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_net::accept::accept;
use mesh_net::duplex::Duplex;
use mesh_net::net::{Accept, Accepted, Net};
use mesh_telemetry::access_log::Direction;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{Closed, Refusal};
use crate::pod::{Pod, any};
use crate::{hbone, outbound, passthrough};

/// Where connections that leave the pod are redirected to.
pub const OUTBOUND: u16 = 15001;
/// Where plaintext that arrives is redirected to.
pub const PLAINTEXT: u16 = 15006;
/// Where tunnels arrive.
pub const HBONE: u16 = 15008;

/// A connection that we intercepted.
pub struct Captured<S> {
    /// Who connects.
    pub from: SocketAddr,
    /// Where they meant to go.
    pub to: SocketAddr,
    pub stream: S,
    /// Its place among the pod's connections.
    pub place: OwnedSemaphorePermit,
}

/// The pod's three TCP ports.
pub struct Ports<L> {
    outbound: L,
    plaintext: L,
    hbone: L,
}

impl<L> Ports<L> {
    /// # Errors
    /// When one of them cannot be bound; it names the port.
    pub async fn bind<N: Net<Listener = L>>(net: &N, ipv6: bool) -> io::Result<Ports<L>> {
        let listen = async |port: u16| {
            let at = SocketAddr::new(any(ipv6), port);
            net.listen(at).await.map_err(|why| io::Error::new(why.kind(), format!("failed to bind to address {at}: {why}")))
        };
        Ok(Ports { outbound: listen(OUTBOUND).await?, plaintext: listen(PLAINTEXT).await?, hbone: listen(HBONE).await? })
    }
}

/// Accepts on all three until the pod drains.
pub fn serve<N: Net>(pod: &Arc<Pod<N>>, ports: Ports<N::Listener>) {
    let Ports { outbound, plaintext, hbone } = ports;
    for (door, listener) in [(Door::Outbound, outbound), (Door::Plaintext, plaintext), (Door::Hbone, hbone)] {
        tokio::spawn(accept_at(pod.clone(), door, listener));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Outbound,
    Plaintext,
    Hbone,
}

/// One task per connection, no larger than that connection's page needs.
async fn accept_at<N: Net>(pod: Arc<Pod<N>>, door: Door, mut listener: N::Listener) {
    while let Some(accepted) = next(&pod, &mut listener).await {
        let carried = pod.clone();
        match door {
            Door::Outbound => {
                let Some(caught) = seat(&pod, accepted, Direction::Outbound) else { continue };
                drop(pod.drain.spawn(async move { outbound::outbound(&carried, caught).await }));
            }
            Door::Plaintext => {
                let Some(caught) = seat(&pod, accepted, Direction::Inbound) else { continue };
                drop(pod.drain.spawn(async move { passthrough::passthrough(&carried, caught).await }));
            }
            // Each tunnel takes a place of its own; the connection that carries them is bounded by its handshake.
            Door::Hbone => drop(pod.drain.spawn(async move { hbone::serve(carried, accepted).await })),
        }
    }
}

/// The next connection; `None` when no more are taken.
async fn next<N: Net>(pod: &Pod<N>, listener: &mut N::Listener) -> Option<Accepted<N::Stream>> {
    tokio::select! {
        biased;
        () = pod.drain.soft() => None,
        accepted = accept(listener) => match accepted {
            Ok(accepted) => Some(accepted),
            Err(error) => {
                tracing::error!(%error, at = %listener.local_addr(), pod = %pod.info.name, "the pod's listener is broken, nothing more is accepted there");
                None
            }
        },
    }
}

/// A connection with a place; one that finds none is reset and counted.
fn seat<N: Net>(pod: &Pod<N>, accepted: Accepted<N::Stream>, direction: Direction) -> Option<Captured<N::Stream>> {
    let Accepted { from, to, mut stream, .. } = accepted;
    match pod.places.clone().try_acquire_owned() {
        Ok(place) => Some(Captured { from, to, stream, place }),
        Err(_) => {
            stream.reset();
            let limit = pod.mesh.settings.connections_per_pod;
            let account = pod.mesh.accounts.open(direction, from, to);
            account.close(Err(&Closed::Refused(Refusal::TooManyConnections { limit })));
            None
        }
    }
}
