//! The writing side of a stream, and every reason why the stream is over: the token expired, what it was good for is gone, the
//! controller stops, the client left or does not read.

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::claim::Scope;
use crate::messages::discovery::DeltaDiscoveryResponse;

/// How long a message may wait for its place: what is before it may be a hundred MiB over a poor line.
const SEND_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the reason for the end may wait for its place.
const END_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Outlet {
    sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    expires: Option<Instant>,
    revoked: CancellationToken,
    stop: CancellationToken,
}

impl Outlet {
    pub(super) fn new(
        sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
        scope: &Scope,
        stop: CancellationToken,
    ) -> Outlet {
        Outlet { sender, expires: scope.expires, revoked: scope.revoked.clone(), stop }
    }

    pub(super) async fn send(&self, response: DeltaDiscoveryResponse) -> Result<(), Status> {
        let sent = self.unless_over(tokio::time::timeout(SEND_TIMEOUT, self.sender.send(Ok(response)))).await?;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(Status::deadline_exceeded("the client does not read")),
        }
    }

    /// Waits, but no longer than the stream lives.
    pub(super) async fn unless_over<T>(&self, wait: impl Future<Output = T>) -> Result<T, Status> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Status::unavailable("the controller is shutting down")),
            () = self.revoked.cancelled() => Err(Status::permission_denied("what the caller was allowed to see it for is gone")),
            () = self.expired() => Err(Status::unauthenticated("the token has expired; come back with a new one")),
            () = self.sender.closed() => Err(gone()),
            done = wait => Ok(done),
        }
    }

    /// Tells the client why, if it still listens.
    pub(super) async fn end(&self, status: Status) {
        let _ = tokio::time::timeout(END_TIMEOUT, self.sender.send(Err(status))).await;
    }

    async fn expired(&self) {
        match self.expires {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

fn gone() -> Status {
    Status::cancelled("the client left")
}
