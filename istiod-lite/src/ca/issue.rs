//! Issuing: who calls, for whom the certificate is to be, and the signature. The three steps of mesh-identity's service,
//! with this controller's facts, its audit log and its counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_identity::impersonate::impersonate;
use mesh_model::identity::SpiffeId;
use mesh_identity::serve::{Issuing, Outcome, Refused, Shown};
use mesh_identity::sign::{CannotSign, Issued};

use super::authn::{Authn, Known};
use super::live::Live;

#[derive(Debug)]
pub struct Issue {
    pub live: Arc<Live>,
    pub authn: Arc<Authn>,
    pub counters: Arc<Counters>,
}

/// Counted since the start (spec/controlplane.md 3.6, metrics `citadel_server_*`).
#[derive(Debug, Default)]
pub struct Counters {
    pub requests: AtomicU64,
    pub issued: AtomicU64,
    pub unauthenticated: AtomicU64,
    /// Impersonation that was refused.
    pub not_allowed: AtomicU64,
    /// Of those, impersonation of what is no identity.
    pub bad_identities: AtomicU64,
    pub bad_requests: AtomicU64,
    pub sign_errors: AtomicU64,
}

impl Issuing for Issue {
    type Caller = Known;

    async fn authenticate(&self, shown: &Shown) -> Result<Known, Refused> {
        let token = shown.bearer.as_ref().ok_or_else(|| Refused("no bearer token".into()))?;
        self.authn.token(&token.0, shown.cluster.as_deref()).await.map_err(|unknown| Refused(unknown.0))
    }

    async fn authorize(&self, caller: &Known, impersonated: Option<&str>) -> Result<SpiffeId, Refused> {
        let rules = &self.authn.rules;
        let Some(wanted) = impersonated else {
            return Ok(SpiffeId::new(&rules.trust_domain, &caller.caller.namespace, &caller.caller.service_account));
        };
        let decided = self.authn.placements.with(|placements| impersonate(&caller.caller, wanted, rules, placements));
        decided.map_err(|refused| Refused(refused.to_string()))
    }

    async fn sign(&self, csr: &str, identity: &SpiffeId, life: Duration) -> Result<Issued, CannotSign> {
        let now = self.authn.clock.now();
        let issued = self.live.ca().issue(csr, identity, life, now)?;
        self.live.issued(&issued, now);
        Ok(issued)
    }

    fn answered(&self, shown: &Shown, outcome: &Outcome) {
        let Counters { requests, issued, unauthenticated, not_allowed, bad_identities, bad_requests, sign_errors } = &*self.counters;
        let from = shown.connection.from.map(|from| from.to_string()).unwrap_or_default();
        let count = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        count(requests);
        match outcome {
            Outcome::Issued(done) => {
                count(issued);
                tracing::info!(target: "ca", %from, identity = %done.identity, serial = %done.serial, ignored = ?done.ignored, "certificate issued");
            }
            Outcome::Unauthenticated(why) => {
                count(unauthenticated);
                tracing::warn!(target: "ca", %from, %why, "no certificate: the caller is not authenticated");
            }
            Outcome::NotAllowed { impersonated, why } => {
                count(not_allowed);
                if impersonated.as_deref().is_some_and(|wanted| wanted.parse::<SpiffeId>().is_err()) {
                    count(bad_identities);
                }
                tracing::warn!(target: "ca", %from, ?impersonated, %why, "no certificate: the caller may not have it");
            }
            Outcome::BadMetadata => {
                count(bad_requests);
                tracing::warn!(target: "ca", %from, "no certificate: the request's metadata cannot be read");
            }
            Outcome::NotSigned { identity, why } => {
                count(if why.is_callers_fault() { bad_requests } else { sign_errors });
                tracing::warn!(target: "ca", %from, %identity, %why, "no certificate: it cannot be signed");
            }
        }
    }
}
