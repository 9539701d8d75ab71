//! The certificates of a node: the shell around `rotation`.
//!
//! Reading is a lock-free look at a slot; only a connection that finds none waits, together with all others that want
//! the same. One task, `run`, talks to the authority. Nothing here decides when: that is `rotation`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mesh_model::identity::SpiffeId;
use parking_lot::{Mutex, RwLock};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::authority::{Authority, REQUEST_TIMEOUT};
use crate::clock::{Clock, rfc3339};
use crate::credential::{Credential, dates};
use crate::csr;
use crate::pem;
use crate::rotation::{Attempt, Command, Event, MAX_IDENTITIES, Now, Rotation};

/// `SECRET_TTL`: the lifetime that is asked for.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// All credentials of a node. Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
}

struct Shared {
    authority: Arc<dyn Authority>,
    clock: Arc<dyn Clock>,
    lifetime: Duration,
    started: Instant,
    slots: RwLock<HashMap<SpiffeId, Arc<Slot>>>,
    core: Mutex<Core>,
    wake: Notify,
}

/// Taken before `slots` where both are needed.
struct Core {
    rotation: Rotation,
    fetches: Vec<(SpiffeId, Attempt)>,
    closed: bool,
}

struct Slot {
    state: watch::Sender<Held>,
}

#[derive(Default)]
struct Held {
    credential: Option<Arc<Credential>>,
    /// Grows with every failed attempt, so that a waiting connection sees the end of the one that it waited for.
    failures: u64,
    error: Option<Arc<str>>,
    forgotten: bool,
}

/// There is no valid certificate for an identity of this node, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("no certificate for {identity}: {reason}")]
    Failed { identity: SpiffeId, reason: Arc<str> },
    #[error("no certificate for {0}: its last workload left this node")]
    Forgotten(SpiffeId),
    #[error("no certificate for {0}: this node keeps {MAX_IDENTITIES} identities already")]
    TooMany(SpiffeId),
    #[error("no certificate for {0}: shutting down")]
    Closed(SpiffeId),
}

impl Credentials {
    /// Nothing is fetched until `run` runs. `seed` spreads the renewals.
    pub fn new(authority: Arc<dyn Authority>, clock: Arc<dyn Clock>, lifetime: Duration, seed: u64) -> Credentials {
        Credentials {
            shared: Arc::new(Shared {
                authority,
                clock,
                lifetime,
                started: Instant::now(),
                slots: RwLock::new(HashMap::new()),
                core: Mutex::new(Core { rotation: Rotation::new(seed), fetches: Vec::new(), closed: false }),
                wake: Notify::new(),
            }),
        }
    }

    /// The valid credential of an identity. If there is none it is asked for, and this waits for the end of one attempt
    /// (`REQUEST_TIMEOUT` and the queue before it); the caller bounds that with its own deadline.
    ///
    /// An identity that is only ever asked for, never prefetched, is dropped when its certificate expires.
    pub async fn get(&self, identity: &SpiffeId) -> Result<Arc<Credential>, Unavailable> {
        match self.ready(identity) {
            Some(credential) => Ok(credential),
            None => self.wait(identity).await,
        }
    }

    /// The valid credential of an identity, if it is there already.
    pub fn ready(&self, identity: &SpiffeId) -> Option<Arc<Credential>> {
        let slots = self.shared.slots.read();
        let state = slots.get(identity)?.state.borrow();
        state.credential.clone().filter(|credential| !credential.expired(self.shared.clock.now()))
    }

    /// A workload with this identity is on the node: have a certificate ready, and renew it until `forget`.
    pub fn prefetch(&self, identity: &SpiffeId) {
        let mut core = self.shared.core.lock();
        self.shared.slot(identity);
        if self.shared.handle(&mut core, Event::Prefetch(identity.clone())) == Outcome::Refused {
            tracing::warn!(%identity, limit = MAX_IDENTITIES, "too many identities on this node; no certificate is kept");
        }
    }

    /// The last workload with this identity left the node. The key is dropped when the last connection lets go of it.
    pub fn forget(&self, identity: &SpiffeId) {
        let mut core = self.shared.core.lock();
        self.shared.handle(&mut core, Event::Forget(identity.clone()));
    }

    /// The identities that are kept or asked for, in order.
    pub fn identities(&self) -> Vec<SpiffeId> {
        let mut held: Vec<SpiffeId> = self.shared.slots.read().keys().cloned().collect();
        held.sort();
        held
    }

    /// How many identities are kept or asked for.
    pub fn len(&self) -> usize {
        self.shared.slots.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Talks to the authority until dropped; then every wait ends with `Closed`. Run it once.
    pub async fn run(self) {
        let _close = CloseOnDrop(self.shared.clone());
        let shared = &self.shared;
        let mut in_flight = FuturesUnordered::new();
        loop {
            let (fetches, timeout) = shared.take_work();
            in_flight.extend(fetches.into_iter().map(|(identity, attempt)| shared.fetch(identity, attempt)));
            tokio::select! {
                biased;
                Some((identity, attempt, answer)) = in_flight.next() => shared.finish(identity, attempt, answer),
                () = shared.wake.notified() => {}
                () = tokio::time::sleep(timeout) => shared.tick(),
            }
        }
    }

    async fn wait(&self, identity: &SpiffeId) -> Result<Arc<Credential>, Unavailable> {
        let Asked { mut watch, failures } = self.shared.ask(identity)?;
        let now = || self.shared.clock.now();
        let done = |held: &Held| {
            held.forgotten
                || held.failures > failures
                || held.credential.as_ref().is_some_and(|credential| !credential.expired(now()))
        };
        let held = watch.wait_for(done).await.map_err(|_| Unavailable::Closed(identity.clone()))?;
        match &held.credential {
            _ if held.forgotten => Err(match &held.error {
                Some(_) => Unavailable::Closed(identity.clone()),
                None => Unavailable::Forgotten(identity.clone()),
            }),
            Some(credential) if !credential.expired(now()) => Ok(credential.clone()),
            _ => Err(Unavailable::Failed {
                identity: identity.clone(),
                reason: held.error.clone().unwrap_or_else(|| "the authority did not answer".into()),
            }),
        }
    }

    /// What `/config_dump` shows (spec/dataplane.md 8.3), by identity. Holds no key.
    pub fn dump(&self) -> Vec<CertificateDump> {
        let mut all: Vec<CertificateDump> =
            self.shared.slots.read().iter().map(|(id, slot)| CertificateDump::of(id, &slot.state.borrow())).collect();
        all.sort_by(|a, b| a.identity.cmp(&b.identity));
        all
    }
}

struct Asked {
    watch: watch::Receiver<Held>,
    failures: u64,
}

#[derive(PartialEq, Eq)]
enum Outcome {
    Done,
    Refused,
}

impl Shared {
    fn now(&self) -> Now {
        Now { monotonic: self.started.elapsed(), wall: self.clock.now() }
    }

    fn slot(&self, identity: &SpiffeId) -> Arc<Slot> {
        if let Some(slot) = self.slots.read().get(identity) {
            return slot.clone();
        }
        let fresh = || Arc::new(Slot { state: watch::Sender::new(Held::default()) });
        self.slots.write().entry(identity.clone()).or_insert_with(fresh).clone()
    }

    fn ask(&self, identity: &SpiffeId) -> Result<Asked, Unavailable> {
        let mut core = self.core.lock();
        if core.closed {
            return Err(Unavailable::Closed(identity.clone()));
        }
        let watch = self.slot(identity).state.subscribe();
        let (failures, came) = {
            let held = watch.borrow();
            // It may have come between the look and the lock; answers are stored under this lock.
            (held.failures, held.credential.as_ref().is_some_and(|credential| !credential.expired(self.clock.now())))
        };
        let asked = Asked { watch, failures };
        if came {
            return Ok(asked);
        }
        match self.handle(&mut core, Event::Asked(identity.clone())) {
            Outcome::Done => Ok(asked),
            Outcome::Refused => Err(Unavailable::TooMany(identity.clone())),
        }
    }

    fn handle(&self, core: &mut Core, event: Event) -> Outcome {
        let mut outcome = Outcome::Done;
        for command in core.rotation.handle(event, self.now()) {
            match command {
                Command::Fetch { identity, attempt, .. } => core.fetches.push((identity, attempt)),
                Command::Expire(identity) => self.expire(&identity),
                Command::Drop(identity) => self.remove(&identity),
                Command::Refuse(identity) => {
                    self.remove(&identity);
                    outcome = Outcome::Refused;
                }
            }
        }
        self.wake.notify_one();
        outcome
    }

    fn expire(&self, identity: &SpiffeId) {
        if let Some(slot) = self.slots.read().get(identity) {
            slot.state.send_modify(|held| {
                held.credential = None;
                held.error.get_or_insert_with(|| "the certificate expired before it could be renewed".into());
            });
        }
    }

    fn remove(&self, identity: &SpiffeId) {
        let removed = self.slots.write().remove(identity);
        if let Some(slot) = removed {
            slot.state.send_modify(|held| *held = Held { forgotten: true, ..Held::default() });
        }
    }

    fn take_work(&self) -> (Vec<(SpiffeId, Attempt)>, Duration) {
        /// When nothing is due: any event wakes the task.
        const LONG: Duration = Duration::from_secs(3600);
        let mut core = self.core.lock();
        let timeout = core.rotation.next_timeout(self.now()).unwrap_or(LONG);
        (std::mem::take(&mut core.fetches), timeout)
    }

    fn tick(&self) {
        self.handle(&mut self.core.lock(), Event::Tick);
    }

    async fn fetch(&self, identity: SpiffeId, attempt: Attempt) -> (SpiffeId, Attempt, Result<Credential, String>) {
        let answer = match tokio::time::timeout(REQUEST_TIMEOUT, self.request(&identity)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(format!("the certificate authority did not answer within {REQUEST_TIMEOUT:?}")),
        };
        (identity, attempt, answer)
    }

    async fn request(&self, identity: &SpiffeId) -> Result<Credential, String> {
        let request = csr::request(identity).map_err(|err| err.to_string())?;
        let answer = self.authority.sign(request.csr, identity, self.lifetime).await.map_err(|err| err.to_string())?;
        Credential::from_answer(identity, request.key, &answer, self.clock.now()).map_err(|err| err.to_string())
    }

    fn finish(&self, identity: SpiffeId, attempt: Attempt, answer: Result<Credential, String>) {
        let mut core = self.core.lock();
        let current = core.rotation.is_current(&identity, attempt);
        let slot = self.slots.read().get(&identity).cloned().filter(|_| current);
        match answer {
            Ok(credential) => {
                let not_after = credential.not_after();
                if let Some(slot) = slot {
                    tracing::debug!(%identity, not_after = %rfc3339(not_after), "certificate is ready");
                    let credential = Some(Arc::new(credential));
                    slot.state.send_modify(|held| *held = Held { credential, failures: held.failures, ..Held::default() });
                }
                self.handle(&mut core, Event::Fetched { attempt, not_after });
            }
            Err(reason) => {
                if let Some(slot) = slot {
                    tracing::warn!(%identity, reason, "no certificate");
                    slot.state.send_modify(|held| {
                        held.failures += 1;
                        held.error = Some(reason.into());
                    });
                }
                self.handle(&mut core, Event::Failed { attempt });
            }
        }
    }

    fn close(&self) {
        self.core.lock().closed = true;
        for slot in self.slots.read().values() {
            slot.state.send_modify(|held| {
                held.forgotten = true;
                held.error = Some("shutting down".into());
            });
        }
    }
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// One identity in `/config_dump`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateDump {
    pub identity: String,
    /// `Initializing`, `Available` or `Unavailable: <why>`.
    pub state: String,
    pub cert_chain: Vec<OneCertificate>,
    pub root_certs: Vec<OneCertificate>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OneCertificate {
    /// Base64 of the PEM text.
    pub pem: String,
    /// Decimal.
    pub serial_number: String,
    pub valid_from: String,
    pub expiration_time: String,
}

impl CertificateDump {
    fn of(identity: &SpiffeId, held: &Held) -> CertificateDump {
        let all = |certificates: &[CertificateDer<'_>]| certificates.iter().map(OneCertificate::of).collect();
        let credential = held.credential.as_deref();
        CertificateDump {
            identity: identity.to_string(),
            state: match (&held.credential, &held.error) {
                (Some(_), _) => "Available".to_owned(),
                (None, Some(error)) => format!("Unavailable: {error}"),
                (None, None) => "Initializing".to_owned(),
            },
            cert_chain: credential.map(|credential| all(credential.chain())).unwrap_or_default(),
            root_certs: credential.map(|credential| all(credential.root_certificates())).unwrap_or_default(),
        }
    }
}

impl OneCertificate {
    fn of(certificate: &CertificateDer<'_>) -> OneCertificate {
        let serial = x509_parser::parse_x509_certificate(certificate).map(|(_, parsed)| parsed.serial.to_string());
        let (from, to) = dates(certificate).map(|(from, to)| (rfc3339(from), rfc3339(to))).unwrap_or_default();
        OneCertificate {
            pem: STANDARD.encode(pem::encode(certificate)),
            serial_number: serial.unwrap_or_default(),
            valid_from: from,
            expiration_time: to,
        }
    }
}

#[cfg(test)]
mod tests;
