//! The mesh's certificate authority, which a scenario can make fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_identity::authority::{Authority, LocalAuthority, SignFailure};
use mesh_model::identity::SpiffeId;

#[derive(Clone)]
pub struct Moody {
    pub inner: LocalAuthority,
    pub away: Arc<AtomicBool>,
}

impl Authority for Moody {
    fn sign<'a>(&'a self, csr: String, identity: &'a SpiffeId, life: Duration) -> BoxFuture<'a, Result<Vec<String>, SignFailure>> {
        if self.away.load(Ordering::Relaxed) {
            return Box::pin(async { Err(SignFailure::Unreachable("the scenario says so".into())) });
        }
        self.inner.sign(csr, identity, life)
    }
}
