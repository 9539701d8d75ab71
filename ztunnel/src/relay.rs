//! Moving the bytes of one connection, for as long as it may: until both sides are done, the permit is lost, or the pod
//! is cut off.

use mesh_identity::known::REVOKED;
use mesh_net::duplex::Duplex;
use mesh_net::relay::{End, Relayed, Side as RelaySide};
use mesh_runtime::Drain;

use crate::account::Account;
use crate::authorize::Permit;
use crate::error::{Closed, Failure, Fault, Refusal, Side, Stage};

/// What may end a relay before its sides do. An inbound connection cannot be relayed without its permit.
pub struct Watch<'a> {
    permit: Option<Permit>,
    drain: &'a Drain,
}

impl<'a> Watch<'a> {
    /// For a connection that the far side authorizes.
    pub fn drain(drain: &'a Drain) -> Watch<'a> {
        Watch { permit: None, drain }
    }

    /// For a connection that we authorized.
    pub fn permit(permit: Permit, drain: &'a Drain) -> Watch<'a> {
        Watch { permit: Some(permit), drain }
    }

    async fn over(&mut self) -> Closed {
        let lost = async {
            match &mut self.permit {
                Some(permit) => permit.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            because = lost => Refusal::PermitLost(because).into(),
            () = self.drain.forced() => failed(Side::Ours, Fault::DrainTimeout),
        }
    }
}

/// Relays between the client's side and the server's side, counting into `account`.
///
/// # Errors
/// Why it ended, unless both sides ended cleanly. Both sides have been reset then.
pub async fn relay<C, S>(client: &mut C, server: &mut S, account: &Account, watch: &mut Watch<'_>) -> Result<(), Closed>
where
    C: Duplex,
    S: Duplex,
{
    let cut = tokio::select! {
        biased;
        cut = watch.over() => cut,
        relayed = mesh_net::relay::relay(client, server, account) => return ended(relayed),
    };
    client.reset();
    server.reset();
    Err(cut)
}

fn ended(relayed: Relayed) -> Result<(), Closed> {
    match relayed.end {
        End::Finished => Ok(()),
        End::Reset(side) => Err(failed(whose(side), Fault::Reset { side: whose(side) })),
        End::Failed(_, error) if error.kind() == REVOKED => Err(Refusal::Revoked.into()),
        End::Failed(side, error) => Err(failed(whose(side), Fault::Io(error))),
        End::HalfClosedTooLong(side) => Err(failed(whose(side), Fault::Disconnected { side: whose(side) })),
    }
}

fn whose(side: RelaySide) -> Side {
    match side {
        RelaySide::First => Side::Downstream,
        RelaySide::Second => Side::Upstream,
    }
}

fn failed(side: Side, fault: Fault) -> Closed {
    Failure { stage: Stage::Relay, side, fault }.into()
}
