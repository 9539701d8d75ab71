//! A tunnel arriving for a pod, from its CONNECT to the last byte we counted.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use mesh_hbone::{Connect, Tunnel};
use mesh_model::identity::SpiffeId;
use mesh_model::workload::Workload;
use mesh_net::net::Net;
use mesh_policy::Flow;
use mesh_telemetry::access_log::Direction;
use mesh_telemetry::labels::Security;
use mesh_telemetry::traffic::Party;
use tokio::io::AsyncWriteExt;
use tokio::sync::SemaphorePermit;

use crate::account::{Account, Told};
use crate::admit::{Admission, Arrival, admit};
use crate::authorize::Permit;
use crate::baggage;
use crate::error::{At, Closed, Fault, Refusal, Side, Stage};
use crate::live::{self, Connection, Protocol};
use crate::pod::Pod;
use crate::relay::{Watch, relay};

/// Tells a receiver which network a request through a gateway came from (spec/dataplane.md 1.3).
const FROM_NETWORK: &str = "x-forwarded-network";

/// Who is at the far end of the HBONE connection.
pub struct Peer {
    pub address: SocketAddr,
    /// Our end: the pod's address and the HBONE port.
    pub local: SocketAddr,
    pub identity: SpiffeId,
}

pub async fn inbound<N: Net>(pod: Arc<Pod<N>>, peer: Arc<Peer>, ask: Box<Connect>) {
    let mut account = pod.mesh.accounts.open(Direction::Inbound, peer.address, peer.local);
    let closed = carry(&pod, &peer, ask, &mut account).await;
    account.close(closed.as_ref().copied());
}

async fn carry<N: Net>(pod: &Pod<N>, peer: &Peer, ask: Box<Connect>, account: &mut Account) -> Result<(), Closed> {
    // boxed: what deciding and opening need is no part of a connection that has long been open
    let Way { _place, permit, mut tunnel, mut app } = Box::pin(answer(pod, peer, ask, account)).await?;

    // relay: needs the permit; ends when it is lost
    relay(&mut tunnel, &mut app, account, &mut Watch::permit(permit, &pod.drain)).await
}

/// How the connection goes on.
struct Way<'p, S> {
    /// Among the pod's connections.
    _place: SemaphorePermit<'p>,
    permit: Permit,
    tunnel: Tunnel,
    app: S,
}

async fn answer<'p, N: Net>(
    pod: &'p Pod<N>,
    peer: &Peer,
    mut ask: Box<Connect>,
    account: &mut Account,
) -> Result<Way<'p, N::Stream>, Closed> {
    let opened = open(pod, peer, &mut ask, account).await;
    if let Err(closed) = &opened {
        ask.refuse(status(closed)); // nothing, if it was accepted before
    }
    opened
}

async fn open<'p, N: Net>(
    pod: &'p Pod<N>,
    peer: &Peer,
    ask: &mut Connect,
    account: &mut Account,
) -> Result<Way<'p, N::Stream>, Closed> {
    let limit = pod.mesh.settings.connections_per_pod;
    let _place = pod.places.try_acquire().map_err(|_| Refusal::TooManyConnections { limit })?;
    pod.mesh.freshness.check()?;
    let me = pod.me().await?;

    // resolve, seen from the far side: is this request for us, and where inside?
    let admission = admission(pod, &me, peer, ask)?;

    // authorize: subscribe first, decide second, so no policy change can fall between
    account.tell(told(pod, &me, peer, ask, &admission));
    let flow = Flow::new(peer.address.ip(), Some(peer.identity.clone()), admission.judged);
    let permit = pod.permits.authorize(&pod.mesh.world, &me, flow).map_err(|verdict| Refusal::Denied(verdict.because))?;

    // the application inside the pod, then, only now, the 200
    let mut app = tokio::select! {
        biased;
        () = ask.cancelled() => return Err(Fault::Reset { side: Side::Downstream }).at(Stage::Tunnel, Side::Downstream).map_err(Closed::from),
        app = pod.net.dial(admission.dial, admission.dial_as) => app.map_err(Fault::Application).at(Stage::Tunnel, Side::Upstream)?,
    };
    account.show(&pod.live, entry(peer, ask, &admission));
    let tunnel = accept(pod, &me, ask).at(Stage::Tunnel, Side::Downstream)?;
    if let Some(header) = &admission.proxy_header {
        app.write_all(&header.to_bytes()).await.map_err(Fault::Application).at(Stage::Tunnel, Side::Upstream)?;
    }
    Ok(Way { _place, permit, tunnel, app })
}

fn admission<N: Net>(pod: &Pod<N>, me: &Workload, peer: &Peer, ask: &Connect) -> Result<Admission, Refusal> {
    let arrival = Arrival {
        local: peer.local.ip(),
        peer: peer.address,
        identity: Some(&peer.identity),
        authority: ask.head(),
        forwarded_host: mesh_hbone::forwarded::host(ask.headers()),
        from_network: ask.headers().get(FROM_NETWORK).and_then(|value| value.to_str().ok()),
    };
    pod.mesh.world.with(|world| admit(&world.directory, &pod.host(me), &arrival))
}

fn accept<N: Net>(pod: &Pod<N>, me: &Workload, ask: &mut Connect) -> std::io::Result<Tunnel> {
    ask.accept(baggage::answer(pod.mesh.settings.baggage, me))
}

/// What the peer is answered. A failure without a status of its own is ours or the application's.
fn status(closed: &Closed) -> StatusCode {
    let said = closed.reason().words().status.and_then(|code| StatusCode::from_u16(code).ok());
    said.unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

fn told<N: Net>(pod: &Pod<N>, me: &Arc<Workload>, peer: &Peer, ask: &Connect, admission: &Admission) -> Told {
    let source = match &admission.source {
        Some(workload) => Party::known(workload),
        // Where the address says nothing, the peer's own words do, for labels only; they never outweigh its certificate.
        None => baggage::heard(pod.mesh.settings.baggage, ask.headers(), &peer.identity),
    };
    let mut told = Told::plain(source, Party::known(me), peer.local);
    told.source_identity = Some(peer.identity.clone());
    told.destination_identity = Some(me.identity());
    told.service = admission.service.clone();
    told.authority = Some(ask.head().to_string());
    told.security = Security::MutualTls;
    told
}

fn entry(peer: &Peer, ask: &Connect, admission: &Admission) -> Connection {
    Connection {
        direction: live::Direction::Inbound,
        source: peer.address,
        original: mesh_hbone::forwarded::host(ask.headers()).map(Into::into),
        actual: admission.dial,
        protocol: Protocol::Hbone,
    }
}
