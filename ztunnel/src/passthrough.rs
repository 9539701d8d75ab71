//! Plaintext arriving at a pod: `inbound` without a tunnel, and therefore without a peer identity.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_model::workload::Workload;
use mesh_net::duplex::Duplex;
use mesh_net::net::Net;
use mesh_policy::Flow;
use mesh_telemetry::access_log::Direction;
use mesh_telemetry::traffic::Party;

use crate::account::{Account, Told};
use crate::admit::{Admission, admit_plaintext};
use crate::authorize::Permit;
use crate::capture::Captured;
use crate::error::{At, Closed, Fault, Refusal, Side, Stage};
use crate::live::{self, Connection, Protocol};
use crate::pod::Pod;
use crate::relay::{Watch, relay};

// No `async fn`: it would hold its arguments twice, for as long as the connection is open.
pub fn passthrough<N: Net>(pod: Arc<Pod<N>>, caught: Captured<N::Stream>) -> impl Future<Output = ()> + Send {
    let Captured { from, to, mut stream, place } = caught;
    let mut account = pod.mesh.accounts.open(Direction::Inbound, from, to);
    async move {
        let closed = carry(&pod, &mut stream, &mut account).await;
        if closed.is_err() {
            stream.reset();
        }
        account.close(closed.as_ref().copied());
        drop(place);
    }
}

async fn carry<N: Net>(pod: &Pod<N>, client: &mut N::Stream, account: &mut Account) -> Result<(), Closed> {
    // boxed: what deciding and opening need is no part of a connection that has long been open
    let (permit, mut app) = Box::pin(open(pod, account)).await?;

    // relay: needs the permit; ends when it is lost
    relay(client, &mut app, account, &mut Watch::permit(permit, &pod.drain)).await
}

async fn open<N: Net>(pod: &Pod<N>, account: &mut Account) -> Result<(Permit, N::Stream), Closed> {
    let (from, to) = account.ends();
    pod.mesh.freshness.check()?;
    let me = pod.me().await?;

    // resolve, seen from the far side
    let admit = |world: &mesh_xds::world::World| admit_plaintext(&world.directory, &pod.host(&me), from, to);
    let admission = pod.mesh.world.with(admit)?;
    account.tell(told(&me, to, &admission));

    // authorize: nobody in particular is asking
    let flow = Flow::new(from.ip(), None, admission.judged);
    let permit = pod.permits.authorize(&pod.mesh.world, &me, flow).map_err(|verdict| Refusal::Denied(verdict.because))?;

    // the application inside the pod
    let dialled = pod.net.dial(admission.dial, admission.dial_as).await;
    let app = dialled.map_err(Fault::Application).at(Stage::Tunnel, Side::Upstream)?;
    account.show(&pod.live, entry(from, &admission));
    Ok((permit, app))
}

pub fn told(me: &Arc<Workload>, to: SocketAddr, admission: &Admission) -> Told {
    let source = admission.source.as_ref().map_or(Party::Unknown, Party::known);
    let mut told = Told::plain(source, Party::known(me), to);
    told.service = admission.service.clone();
    told
}

fn entry(from: SocketAddr, admission: &Admission) -> Connection {
    Connection {
        direction: live::Direction::Inbound,
        source: from,
        original: None,
        actual: admission.dial,
        protocol: Protocol::Tcp,
    }
}
