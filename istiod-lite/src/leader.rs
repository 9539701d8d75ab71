//! Which of several replicas writes: the holder of a Lease. Every replica serves discovery and certificates; statuses,
//! events and objects are one writer's.
//!
//! The scheme is that of client-go (update by version, the end of a lease measured by one's own clock since it was last
//! seen to change), so whoever reads Leases understands ours. What `step` decides, `run` does.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[cfg(test)]
mod tests;

/// Others take a lease that was not renewed for so long.
const LIFE: Duration = Duration::from_secs(15);
/// Who could not renew for so long stops writing: well before others may begin, whatever is on its way.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between renewals, and between looks at somebody else's lease.
const EVERY: Duration = Duration::from_secs(2);

/// Whether this replica may write. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// For a process that has no replicas.
    pub fn always() -> Leadership {
        Leadership(watch::channel(true).1)
    }

    pub fn is_held(&self) -> bool {
        *self.0.borrow()
    }

    /// Runs the work while this replica may write, from its beginning each time it may again. When leadership is lost
    /// the work is dropped where it stands, a request that is on its way included.
    pub async fn while_held<F: Future<Output = ()>>(mut self, mut work: impl FnMut() -> F) {
        while self.0.wait_for(|held| *held).await.is_ok() {
            let mut lost = self.0.clone();
            tokio::select! {
                biased;
                _ = lost.wait_for(|held| !held) => {}
                () = work() => return,
            }
        }
    }
}

/// A lease as it was last seen to change.
#[derive(Clone, Debug)]
struct Seen {
    lease: Lease,
    at: Instant,
}

/// What to do about a lease.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(Lease),
    Update(Lease),
    /// It is somebody else's.
    Wait,
}

/// Pure: whose turn it is.
fn step(seen: Option<&Seen>, me: &str, now: Instant, time: MicroTime) -> Step {
    let spec = |transitions, acquired| LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(LIFE.as_secs()).ok(),
        acquire_time: Some(acquired),
        renew_time: Some(time.clone()),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    };
    let Some(Seen { lease, at }) = seen else {
        return Step::Create(Lease { spec: Some(spec(0, time.clone())), ..Lease::default() });
    };
    let held = lease.spec.clone().unwrap_or_default();
    let holder = held.holder_identity.unwrap_or_default();
    let life = Duration::from_secs(held.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0));
    let transitions = held.lease_transitions.unwrap_or(0);
    let next = match (holder == me, holder.is_empty() || now >= *at + life) {
        (true, _) => spec(transitions, held.acquire_time.unwrap_or_else(|| time.clone())),
        (false, true) => spec(transitions.saturating_add(1), time.clone()),
        (false, false) => return Step::Wait,
    };
    Step::Update(Lease { spec: Some(next), ..lease.clone() })
}

/// Contends for the lease until told to stop, and gives it back then.
pub struct Candidate {
    pub leases: Api<Lease>,
    pub name: String,
    /// Another one for each process.
    pub me: String,
    pub held: watch::Sender<bool>,
}

impl Candidate {
    pub fn new(leases: Api<Lease>, name: &str, me: &str) -> (Candidate, Leadership) {
        let (held, receiver) = watch::channel(false);
        (Candidate { leases, name: name.to_owned(), me: me.to_owned(), held }, Leadership(receiver))
    }

    pub async fn run(self, stop: CancellationToken) {
        let mut seen: Option<Seen> = None;
        let mut held_until: Option<Instant> = None;
        loop {
            let begin = Instant::now();
            let deadline = held_until.unwrap_or(begin + RENEW_DEADLINE);
            let round = tokio::select! {
                round = tokio::time::timeout_at(deadline, self.round(&mut seen)) => round,
                _ = stop.cancelled() => break,
            };
            match round {
                Ok(Ok(true)) => held_until = Some(begin + RENEW_DEADLINE),
                Ok(Ok(false)) => held_until = None,
                Ok(Err(error)) => tracing::warn!(target: "leader", lease = self.name, %error, "the lease cannot be read or written"),
                Err(_) => tracing::warn!(target: "leader", lease = self.name, "the API server does not answer about the lease"),
            }
            held_until = held_until.filter(|until| Instant::now() < *until);
            self.tell(held_until.is_some());
            let next = begin + EVERY;
            tokio::select! {
                _ = tokio::time::sleep_until(held_until.map_or(next, |until| until.min(next))) => {}
                _ = stop.cancelled() => break,
            }
        }
        self.tell(false);
        if held_until.is_some() {
            // Whoever still writes is stopped before the lease is anybody's.
            tokio::task::yield_now().await;
            self.give_back(seen).await;
        }
    }

    /// Whether the lease is ours after one look at it.
    async fn round(&self, seen: &mut Option<Seen>) -> kube::Result<bool> {
        match self.leases.get_opt(&self.name).await? {
            Some(lease) => remember(seen, lease),
            None => *seen = None,
        }
        let time = MicroTime(jiff::Timestamp::now());
        let written = match step(seen.as_ref(), &self.me, Instant::now(), time) {
            Step::Wait => return Ok(false),
            Step::Create(mut lease) => {
                lease.metadata.name = Some(self.name.clone());
                self.leases.create(&PostParams::default(), &lease).await
            }
            Step::Update(lease) => self.leases.replace(&self.name, &PostParams::default(), &lease).await,
        };
        match written {
            Ok(lease) => {
                remember(seen, lease);
                Ok(true)
            }
            // Somebody was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn tell(&self, held: bool) {
        let changed = self.held.send_if_modified(|before| std::mem::replace(before, held) != held);
        if changed {
            tracing::info!(target: "leader", lease = self.name, me = self.me, held, "who writes statuses and objects has changed");
        }
    }

    /// So that the next one need not wait. Not being able to costs only that wait.
    async fn give_back(&self, seen: Option<Seen>) {
        let Some(Seen { mut lease, .. }) = seen else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        let given = tokio::time::timeout(EVERY, self.leases.replace(&self.name, &PostParams::default(), &lease)).await;
        if let Ok(Err(error)) = given {
            tracing::info!(target: "leader", lease = self.name, %error, "the lease could not be given back");
        }
    }
}

/// The time of a lease is that of its last change as we saw it.
fn remember(seen: &mut Option<Seen>, lease: Lease) {
    let version = |lease: &Lease| lease.metadata.resource_version.clone();
    if seen.as_ref().is_none_or(|seen| version(&seen.lease) != version(&lease)) {
        *seen = Some(Seen { lease, at: Instant::now() });
    }
}
