//! The pod's ports: what is accepted there becomes a connection with a page of its own.
//!
//! Each loop takes a place before it takes a connection further, and stops when the pod drains.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mesh_net::accept::accept;
use mesh_net::duplex::Duplex;
use mesh_net::net::{Accept, Accepted, Net};
use mesh_telemetry::access_log::Direction;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{Closed, Refusal};
use crate::pod::{Pod, Settings, any};
use crate::{hbone, outbound, passthrough, socks5};

/// Where connections that leave the pod are redirected to.
pub const OUTBOUND: u16 = 15001;
/// Where plaintext that arrives is redirected to.
pub const PLAINTEXT: u16 = 15006;
/// Where tunnels arrive.
pub const HBONE: u16 = 15008;
/// Where questions about names are redirected to.
pub const DNS: u16 = 15053;
/// Where applications may ask for a connection by SOCKS5, on the pod's loopback only.
pub const SOCKS5: u16 = 15080;

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

/// The pod's TCP ports.
pub struct Ports<L> {
    outbound: L,
    plaintext: L,
    hbone: L,
    socks5: Option<L>,
}

impl<L> Ports<L> {
    /// # Errors
    /// When one of them cannot be bound; it names the port.
    pub async fn bind<N: Net<Listener = L>>(net: &N, settings: &Settings) -> io::Result<Ports<L>> {
        let everywhere = any(settings.ipv6);
        let listen = async |ip: IpAddr, port: u16| {
            let at = SocketAddr::new(ip, port);
            net.listen(at).await.map_err(|why| io::Error::new(why.kind(), format!("failed to bind to address {at}: {why}")))
        };
        let socks5 = match settings.socks5 {
            true => Some(listen(Ipv4Addr::LOCALHOST.into(), SOCKS5).await?),
            false => None,
        };
        Ok(Ports {
            outbound: listen(everywhere, OUTBOUND).await?,
            plaintext: listen(everywhere, PLAINTEXT).await?,
            hbone: listen(everywhere, HBONE).await?,
            socks5,
        })
    }
}

/// Accepts on all of them until the pod drains.
pub fn serve<N: Net>(pod: &Arc<Pod<N>>, ports: Ports<N::Listener>) {
    let Ports { outbound, plaintext, hbone, socks5 } = ports;
    let always = [(Door::Outbound, outbound), (Door::Plaintext, plaintext), (Door::Hbone, hbone)];
    for (door, listener) in always.into_iter().chain(socks5.map(|listener| (Door::Socks5, listener))) {
        tokio::spawn(accept_at(pod.clone(), door, listener));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Outbound,
    Plaintext,
    Hbone,
    Socks5,
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
            Door::Socks5 => {
                let Some(caught) = seat(&pod, accepted, Direction::Outbound) else { continue };
                drop(pod.drain.spawn(async move { socks5::socks5(&carried, caught).await }));
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
