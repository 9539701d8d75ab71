//! Where tunnels come in: a TLS connection with the waypoint's own certificate, then a task for each tunnel on it
//! (spec/waypoint.md 1.1).

pub(crate) mod linger;

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use mesh_hbone::{Connect, ServeError, Stop, forwarded};
use mesh_model::identity::SpiffeId;
use mesh_net::accept::accept;
use mesh_net::duplex::Duplex;
use mesh_net::net::{Accept, Accepted, Net};
use mesh_net::readahead::ReadAhead;
use mesh_xds::messages::waypoint::PortProtocol;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::arrive::Asked;
use crate::arrive::wait::admit;
use crate::detect::sniff::Protocol;
use crate::detect::{detect, question};
use crate::exchange::Version;
use crate::facts::Arrival;
use crate::http1or2::{self, Connection};
use crate::proxy::Proxy;
use crate::stream;
use crate::upstream::hops;

use linger::Lingering;

/// Takes connections until `closed`; those that are open go on.
pub async fn listen<N: Net>(proxy: Arc<Proxy>, mut listener: N::Listener, closed: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = closed.cancelled() => return,
            accepted = accept(&mut listener) => accepted,
        };
        match accepted {
            Ok(accepted) => take::<N>(&proxy, accepted),
            Err(error) => {
                tracing::error!(%error, at = %listener.local_addr(), "the listener is broken, no tunnel comes in any more");
                return;
            }
        }
    }
}

fn take<N: Net>(proxy: &Arc<Proxy>, mut accepted: Accepted<N::Stream>) {
    match proxy.connections.clone().try_acquire_owned() {
        Ok(place) => {
            let proxy = proxy.clone();
            drop(proxy.drain.clone().spawn(async move {
                let _place = place;
                let from = accepted.from;
                if let Err(why) = connection::<N>(&proxy, accepted).await {
                    tracing::info!(%from, %why, "a tunnel connection ended");
                }
            }));
        }
        Err(_) => {
            accepted.stream.reset();
            tracing::warn!(from = %accepted.from, "a connection is refused: CONNECTIONS_MAX are open");
        }
    }
}

/// Who is at the far end of a tunnel connection.
struct Peer {
    address: SocketAddr,
    identity: SpiffeId,
}

/// Why a tunnel connection did not do what it was for.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("too many handshakes of this address are not finished")]
    Handshakes,
    #[error(transparent)]
    Identity(#[from] mesh_identity::Unavailable),
    #[error(transparent)]
    Tls(#[from] mesh_identity::tls::TlsFailure),
    #[error("the peer's certificate was revoked")]
    Revoked,
    #[error(transparent)]
    Served(ServeError),
}

async fn connection<N: Net>(proxy: &Arc<Proxy>, accepted: Accepted<N::Stream>) -> Result<(), Broken> {
    let Accepted { from, stream, .. } = accepted;
    let shaking = proxy.handshakes.enter(from.ip()).ok_or(Broken::Handshakes)?;
    let credential = proxy.credentials.get(&proxy.own.identity).await?;
    let secured = proxy.tls.accept(ReadAhead::new(stream), &credential).await?;
    drop(shaking);

    let peer = Arc::new(Peer { address: from, identity: secured.peer });
    let stop = Stop { soft: proxy.drain.soft_token(), forced: proxy.drain.forced_token().child_token() };
    let revoked = secured.registered.revoked();
    let served = mesh_hbone::serve(secured.stream, &proxy.limits, &stop, |asked| match asked {
        Ok(ask) => drop(proxy.drain.spawn(tunnel(proxy.clone(), peer.clone(), Box::new(ask)))),
        Err(malformed) => tracing::info!(from = %peer.address, identity = %peer.identity, why = %malformed, "a request is no tunnel"),
    });
    tokio::pin!(served);
    tokio::select! {
        ended = &mut served => match ended {
            // The tunnels on it have told their own ends.
            Ok(()) | Err(ServeError::Http2(_) | ServeError::Forced) => Ok(()),
            Err(why) => Err(Broken::Served(why)),
        },
        () = revoked => {
            stop.forced.cancel();
            let _ = served.await; // says goodbye
            Err(Broken::Revoked)
        }
    }
}

/// One tunnel: is it for us, what does it carry, and on to the page of that.
async fn tunnel(proxy: Arc<Proxy>, peer: Arc<Peer>, mut ask: Box<Connect>) {
    let Ok(place) = proxy.streams.clone().try_acquire_owned() else {
        tracing::warn!(from = %peer.address, "a tunnel is refused: STREAMS_MAX are open");
        ask.refuse(StatusCode::SERVICE_UNAVAILABLE);
        return;
    };
    let asked = Asked {
        to: ask.head(),
        identity: &peer.identity,
        peer: peer.address,
        forwarded_for: forwarded::source(ask.headers()),
        hops: hops::read(ask.headers()),
    };
    let arrival = match admit(&proxy, &asked).await {
        Ok(arrival) => arrival,
        Err(refused) => {
            tracing::info!(to = %ask.head(), from = %peer.address, identity = %peer.identity, reason = refused.reason(), "a tunnel is refused: {refused}");
            proxy.refused(refused.reason());
            ask.refuse(refused.status());
            return;
        }
    };
    // Now, and not when the upstream is there: what is spoken shows only in bytes, and those come after the 200.
    match ask.accept(HeaderMap::new()) {
        Ok(tunnel) => carry(&proxy, arrival, tunnel, place).await,
        Err(why) => tracing::debug!(from = %peer.address, %why, "the client has given its tunnel up"),
    }
}

async fn carry(proxy: &Arc<Proxy>, arrival: Arc<Arrival>, tunnel: mesh_hbone::Tunnel, place: OwnedSemaphorePermit) {
    let class = proxy.declared(&arrival.target);
    let asked = question(class, arrival.target.port());
    let (protocol, arrived) = detect(tunnel, asked, proxy.detection).await;
    match protocol {
        Protocol::Http1 => http(proxy, arrival, arrived, Version::Http1, class, place).await,
        Protocol::Http2 => http(proxy, arrival, arrived, Version::Http2, class, place).await,
        Protocol::Tls(hello) => stream::stream(proxy, arrival, arrived, Some(&hello)).await,
        Protocol::Opaque => stream::stream(proxy, arrival, arrived, None).await,
    }
}

async fn http(
    proxy: &Arc<Proxy>,
    arrival: Arc<Arrival>,
    arrived: crate::detect::Arrived,
    version: Version,
    class: PortProtocol,
    place: OwnedSemaphorePermit,
) {
    let bound = proxy.http.permits.bound(&arrival.target);
    let (drain, place) = (proxy.drain.clone(), Some(Arc::new(place)));
    let connection = Connection { arrival, class, drain, unbound: bound.unbound.clone(), place };
    let serving = http1or2::serve(Lingering::new(arrived), version, connection, proxy.http.clone());
    tokio::select! {
        ended = serving => if let Err(why) = ended {
            tracing::debug!(%why, "an HTTP connection broke");
        },
        () = proxy.drain.forced() => {}
    }
}
