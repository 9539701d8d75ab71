//! A connection leaving a pod, from the first SYN we caught to the last byte we counted.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_hbone::{ConnectRequest, Tunnel};
use mesh_hbone::forwarded::{self, FORWARDED};
use mesh_hbone::traceparent::{TRACEPARENT, TraceParent};
use mesh_model::workload::Workload;
use mesh_net::duplex::Duplex;
use mesh_net::net::{Net, Source};
use mesh_telemetry::access_log::Direction;
use mesh_telemetry::labels::Security;
use mesh_telemetry::traffic::Party;
use tokio::time::{Instant, timeout_at};

use crate::account::{Account, Told};
use crate::baggage;
use crate::capture::Captured;
use crate::error::{At, Closed, Refusal, Side, Stage};
use crate::live::{self, Connection, Protocol};
use crate::pod::Pod;
use crate::relay::{Watch, relay};
use crate::resolve::{Ask, Hop, Known, Passage, Path, Resolution, Via, resolve};

/// Times that a decision may say what it lacks: an address, the waypoint in front of it, and a name.
const ROUNDS_MAX: usize = 4;
/// Times that another endpoint is drawn for one that is gone: of two endpoints the other comes up 255 times of 256.
const DRAWS_MAX: usize = 8;

// No `async fn`: it would hold its arguments twice, for as long as the connection is open.
pub fn outbound<N: Net>(pod: Arc<Pod<N>>, caught: Captured<N::Stream>) -> impl Future<Output = ()> + Send {
    let Captured { from, to, mut stream, place } = caught;
    let mut account = pod.mesh.accounts.open(Direction::Outbound, from, to);
    async move {
        let closed = carry(&pod, &mut stream, &mut account).await;
        if closed.is_err() {
            stream.reset(); // the client must not take a refusal for a clean end
        }
        account.close(closed.as_ref().copied());
        drop(place);
    }
}

async fn carry<N: Net>(pod: &Pod<N>, client: &mut N::Stream, account: &mut Account) -> Result<(), Closed> {
    // boxed: what deciding and opening need is no part of a connection that has long been open
    let mut way = Box::pin(open(pod, account)).await?;

    // then relay until either side is done or we are told to stop
    let mut watch = Watch::drain(&pod.drain);
    match &mut way {
        Way::Tunnel(through) => relay(client, through, account, &mut watch).await,
        Way::Plain(upstream) => relay(client, upstream, account, &mut watch).await,
    }
}

/// How the connection goes on.
enum Way<S> {
    Tunnel(Tunnel),
    Plain(S),
}

async fn open<N: Net>(pod: &Pod<N>, account: &mut Account) -> Result<Way<N::Stream>, Closed> {
    let (from, to) = account.ends();
    pod.mesh.freshness.check()?;
    let me = pod.me().await?;

    // resolve: a decision; it may tell us what it lacks, then we fetch that and ask again
    let hop = hop(pod, &me, to).await?;
    account.tell(told(&me, &hop));
    account.show(&pod.live, entry(from, to, &hop));

    // tunnel, or plain TCP when the far side is not in the mesh
    match &hop.via {
        Via::Tunnel(passage) => {
            let request = request(pod, &me, from, &hop, passage);
            Ok(Way::Tunnel(pod.tunnels.open(&me.identity(), passage, &request).await?))
        }
        Via::Plain(to) => Ok(Way::Plain(pod.net.dial(*to, Source::Any).await.at(Stage::Tunnel, Side::Upstream)?)),
    }
}

/// The decision, asked again when an address of the mesh has nobody yet: a pod may connect before its peer's description
/// has come, and passing it on in the clear would pass by policy.
async fn hop<N: Net>(pod: &Pod<N>, me: &Workload, to: SocketAddr) -> Result<Hop, Closed> {
    let settings = &pod.mesh.settings;
    let in_mesh = settings.mesh_ranges.iter().any(|range| range.contains(&to.ip()));
    let deadline = Instant::now() + settings.unknown_wait;
    let mut world = pod.mesh.world.clone();
    loop {
        world.see();
        let hop = draw(pod, me, to).await?;
        if !in_mesh || hop.path != Path::Unknown {
            return Ok(hop);
        }
        if timeout_at(deadline, world.changed()).await.is_err() {
            return Err(Refusal::UnknownInMesh { to }.into());
        }
    }
}

/// The decision, drawn again while it names a far end that was found gone and there may be another.
async fn draw<N: Net>(pod: &Pod<N>, me: &Workload, to: SocketAddr) -> Result<Hop, Closed> {
    let mut hop = decide(pod, me, to).await?;
    for _ in 0..DRAWS_MAX {
        let gone = matches!(&hop.via, Via::Tunnel(passage) if pod.tunnels.is_gone(passage.address));
        if !gone || hop.service.is_none() {
            break;
        }
        hop = decide(pod, me, to).await?;
    }
    Ok(hop)
}

async fn decide<N: Net>(pod: &Pod<N>, me: &Workload, to: SocketAddr) -> Result<Hop, Closed> {
    let settings = &pod.mesh.settings;
    let ask = Ask {
        source: me,
        to,
        network: &settings.network,
        own_ports: &settings.own_ports,
        complete: !settings.on_demand,
    };
    let mut known = Known::default();
    let seed = pod.mesh.chance.next();
    for _ in 0..ROUNDS_MAX {
        match pod.mesh.world.with(|world| resolve(&world.directory, &ask, &known, seed))? {
            Resolution::Hop(hop) => return Ok(hop),
            Resolution::Need(need) => pod.mesh.fetch.fetch(need, me, &mut known).await?,
        }
    }
    Err(Refusal::TooManyRounds { to }.into())
}

/// What the far end is asked, and told.
fn request<N: Net>(pod: &Pod<N>, me: &Workload, from: SocketAddr, hop: &Hop, passage: &Passage) -> ConnectRequest {
    let mut request = ConnectRequest::new(passage.authority.clone());
    let service = hop.service.as_ref().map(|service| &*service.hostname);
    request.headers.insert(mesh_hbone::baggage::BAGGAGE, baggage::of(me).emit());
    request.headers.insert(FORWARDED, forwarded::emit(from, service));
    request.headers.insert(TRACEPARENT, TraceParent::new(pod.mesh.chance.next_u128(), pod.mesh.chance.next()).emit());
    request
}

fn told(me: &Arc<Workload>, hop: &Hop) -> Told {
    let destination = hop.destination.as_ref().map_or(Party::Unknown, Party::known);
    let mut told = Told::plain(Party::known(me), destination, hop.address());
    told.service = hop.service.clone();
    if let Via::Tunnel(passage) = &hop.via {
        told.security = Security::MutualTls;
        told.source_identity = Some(me.identity());
        told.destination_identity = hop.destination.as_ref().map(|workload| workload.identity());
        told.authority = Some(passage.authority.to_string());
    }
    told
}

fn entry(from: SocketAddr, to: SocketAddr, hop: &Hop) -> Connection {
    let protocol = if matches!(hop.via, Via::Tunnel(_)) { Protocol::Hbone } else { Protocol::Tcp };
    Connection {
        direction: live::Direction::Outbound,
        source: from,
        original: Some(to.to_string().into()),
        actual: hop.address(),
        protocol,
    }
}
