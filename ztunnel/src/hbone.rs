//! One HBONE connection arriving at a pod: TLS with the pod's own certificate, then a task for each tunnel on it.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_hbone::{Connect, Malformed, ServeError, Stop};
use mesh_net::net::{Accepted, Net};
use mesh_net::readahead::ReadAhead;
use mesh_telemetry::access_log::Direction;

use crate::error::{At, Closed, Failure, Fault, Refusal, Side, Stage};
use crate::inbound::{Peer, inbound};
use crate::pod::Pod;

pub async fn serve<N: Net>(pod: Arc<Pod<N>>, accepted: Accepted<N::Stream>) {
    let (from, local) = (accepted.from, accepted.local);
    if let Err(closed) = carry(&pod, accepted).await {
        pod.mesh.accounts.denied(from, local, &closed);
    }
}

async fn carry<N: Net>(pod: &Arc<Pod<N>>, accepted: Accepted<N::Stream>) -> Result<(), Closed> {
    let Accepted { from, local, stream, .. } = accepted;

    // A place among the handshakes, so that silent clients of one address leave room for the others.
    let Some(shaking) = pod.handshakes.enter(from.ip()) else {
        return Err(Refusal::TooManyConnections { limit: mesh_runtime::handshakes::PER_SOURCE_MAX }.into());
    };
    let identity = pod.identity().await?;
    let credential = pod.mesh.credentials.get(&identity).await;
    let credential = credential.map_err(|why| Fault::Identity(why.to_string())).at(Stage::Capture, Side::Ours)?;
    let secured = pod.mesh.tls.accept(ReadAhead::new(stream), &credential).await;
    let secured = secured.map_err(|why| Fault::ServerTls(why.to_string())).at(Stage::Capture, Side::Downstream)?;
    drop(shaking);

    let peer = Arc::new(Peer { address: from, local, identity: secured.peer });
    let stop = Stop { soft: pod.drain.soft_token(), forced: pod.drain.forced_token().child_token() };
    let revoked = secured.registered.revoked();
    let served = mesh_hbone::serve(secured.stream, &pod.mesh.settings.hbone, &stop, |asked| arrived(pod, &peer, asked));
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = revoked => {
            stop.forced.cancel();
            let _ = served.await; // says goodbye
            return Err(Refusal::Revoked.into());
        }
    };
    match ended {
        Ok(()) => Ok(()),
        // The tunnels on it have told their own ends; what is left to tell is what the connection itself did wrong.
        Err(ServeError::Http2(_) | ServeError::Forced) => Ok(()),
        Err(why) => Err(Failure { stage: Stage::Capture, side: Side::Downstream, fault: Fault::Serve(why) }.into()),
    }
}

/// A tunnel gets a task; what is none has been answered already and is only counted.
fn arrived<N: Net>(pod: &Arc<Pod<N>>, peer: &Arc<Peer>, asked: Result<Connect, Malformed>) {
    match asked {
        Ok(ask) => {
            drop(pod.drain.spawn(inbound(pod.clone(), peer.clone(), Box::new(ask))));
        }
        Err(malformed) => malformed_request(pod, peer.address, peer.local, malformed),
    }
}

fn malformed_request<N: Net>(pod: &Pod<N>, from: SocketAddr, local: SocketAddr, malformed: Malformed) {
    let account = pod.mesh.accounts.open(Direction::Inbound, from, local);
    account.close(Err(&Closed::Refused(Refusal::Malformed(malformed))));
}
