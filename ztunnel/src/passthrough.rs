//! Plaintext arriving at a pod: `inbound` without a tunnel, and therefore without a peer identity.

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
use crate::capture::Captured;
use crate::error::{At, Closed, Fault, Refusal, Side, Stage};
use crate::live::{self, Connection, Protocol};
use crate::pod::Pod;
use crate::relay::{Watch, relay};

pub async fn passthrough<N: Net>(pod: &Pod<N>, mut caught: Captured<N::Stream>) {
    let mut account = pod.mesh.accounts.open(Direction::Inbound, caught.from, caught.to);
    let closed = carry(pod, &mut caught, &mut account).await;
    if closed.is_err() {
        caught.stream.reset();
    }
    account.close(closed.as_ref().copied());
}

async fn carry<N: Net>(pod: &Pod<N>, caught: &mut Captured<N::Stream>, account: &mut Account) -> Result<(), Closed> {
    pod.mesh.freshness.check()?;
    let me = pod.me().await?;

    // resolve, seen from the far side
    let admit = |world: &mesh_xds::world::World| admit_plaintext(&world.directory, &pod.host(&me), caught.from, caught.to);
    let admission = pod.mesh.world.with(admit)?;
    account.tell(told(&me, caught.to, &admission));

    // authorize: nobody in particular is asking
    let flow = Flow::new(caught.from.ip(), None, admission.judged);
    let permit = pod.permits.authorize(&pod.mesh.world, &me, flow).map_err(|verdict| Refusal::Denied(verdict.because))?;

    // the application inside the pod
    let dialled = pod.net.dial(admission.dial, admission.dial_as).await;
    let mut app = dialled.map_err(Fault::Application).at(Stage::Tunnel, Side::Upstream)?;
    account.show(&pod.live, entry(caught, &admission));

    // relay: needs the permit; ends when it is lost
    relay(&mut caught.stream, &mut app, account, Watch::permit(permit, &pod.drain)).await
}

pub fn told(me: &Arc<Workload>, to: SocketAddr, admission: &Admission) -> Told {
    let source = admission.source.as_ref().map_or(Party::Unknown, Party::known);
    let mut told = Told::plain(source, Party::known(me), to);
    told.service = admission.service.clone();
    told
}

fn entry<S>(caught: &Captured<S>, admission: &Admission) -> Connection {
    Connection {
        direction: live::Direction::Inbound,
        source: caught.from,
        original: None,
        actual: admission.dial,
        protocol: Protocol::Tcp,
    }
}
