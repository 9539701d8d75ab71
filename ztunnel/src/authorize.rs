//! `Permit`: the proof that policy allows a connection, as long as that is true.
//!
//! Asked once when the connection comes, asked again by one watcher per pod whenever something that counts has changed:
//! the pod's own workload (its list of policies), or a policy that selects it. Changes to other workloads wake nobody.
//! A connection is registered before it is judged, so no change can fall in between.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;

use mesh_model::directory::OwnWorkload;
use mesh_model::workload::Workload;
use mesh_policy::{Because, Flow, Verdict, decide};
use mesh_runtime::Watched;
use mesh_xds::world::{Follower, World};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

/// Allowed, and watched. Dropping it ends the watch.
#[derive(Debug)]
pub struct Permit {
    /// What allowed it, for the log and for `why`.
    pub verdict: Verdict,
    lost: oneshot::Receiver<Because>,
    _held: Held,
}

/// The connections of one pod that run on a permit.
#[derive(Clone, Debug, Default)]
pub struct Permits {
    book: Arc<Mutex<Book>>,
    /// Changes whenever policy for the pod did.
    judged: watch::Sender<()>,
    policy_in_log: bool,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    flows: HashMap<u64, (Flow, oneshot::Sender<Because>)>,
}

#[derive(Debug)]
struct Held {
    permits: Permits,
    id: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.permits.book.lock().flows.remove(&self.id);
    }
}

impl Permit {
    /// Resolves when policy does not allow the connection any more, with the reason.
    pub async fn lost(&mut self) -> Because {
        match (&mut self.lost).await {
            Ok(because) => because,
            // The sender goes only with the book, and the book outlives every permit.
            Err(_) => pending().await,
        }
    }
}

/// What policies that only watch would have done (spec/dataplane.md 6.4), and on wish what allowed a connection.
fn note(verdict: &Verdict, flow: &Flow, policy_in_log: bool) {
    for dry_run in &verdict.dry_run {
        if policy_in_log {
            tracing::info!(target: "rbac", from = %flow.source(), to = %flow.destination(), "{dry_run}");
        } else {
            tracing::debug!(target: "rbac", from = %flow.source(), to = %flow.destination(), "{dry_run}");
        }
    }
    if policy_in_log {
        tracing::info!(target: "rbac", from = %flow.source(), to = %flow.destination(), "{}", verdict.because);
    }
}

impl Permits {
    /// For a daemon that writes every verdict into its log (`AUTHZ_POLICY_INFO_LOGGING`).
    pub fn logging(policy_in_log: bool) -> Permits {
        Permits { policy_in_log, ..Permits::default() }
    }

    /// Judges the flow to `workload`.
    ///
    /// # Errors
    /// The verdict that refuses it.
    pub fn authorize(&self, world: &Watched<World>, workload: &Workload, flow: Flow) -> Result<Permit, Verdict> {
        let (held, lost) = self.register(flow.clone());
        let verdict = world.with(|world| decide(&world.policies, workload, &flow));
        note(&verdict, &flow, self.policy_in_log);
        if verdict.is_allowed() { Ok(Permit { verdict, lost, _held: held }) } else { Err(verdict) }
    }

    fn register(&self, flow: Flow) -> (Held, oneshot::Receiver<Because>) {
        let (sender, lost) = oneshot::channel();
        let mut book = self.book.lock();
        let id = book.next;
        book.next += 1;
        book.flows.insert(id, (flow, sender));
        (Held { permits: self.clone(), id }, lost)
    }

    /// Takes back the permits that policy does not give any more.
    fn judge_again(&self, world: &World, workload: &Workload) {
        let mut book = self.book.lock();
        let refused: Vec<(u64, Because)> = book
            .flows
            .iter()
            .map(|(id, (flow, _))| (*id, decide(&world.policies, workload, flow).because))
            .filter(|(_, because)| !because.is_allowed())
            .collect();
        for (id, because) in refused {
            if let Some((_, lost)) = book.flows.remove(&id) {
                // The connection may have ended by itself in this moment.
                let _ = lost.send(because);
            }
        }
    }

    /// Changes whenever something did that verdicts about connections to this pod go by.
    pub fn judged(&self) -> watch::Receiver<()> {
        self.judged.subscribe()
    }

    pub fn len(&self) -> usize {
        self.book.lock().flows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Watches on behalf of one pod until dropped.
    pub async fn watch(self, world: Watched<World>, own: OwnWorkload) {
        let (mut follower, now) = Follower::new(world);
        // The last that was known of the workload counts when its description goes: a pod whose connections still run
        // is not without policy.
        let mut workload = now.directory.own_workload(&own).cloned();
        loop {
            let (now, news) = follower.next().await;
            let latest = now.directory.own_workload(&own);
            let replaced = match (&workload, latest) {
                (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if replaced {
                workload = latest.cloned();
            }
            if let Some(workload) = &workload
                && (replaced || news.touches_policies_of(workload))
            {
                self.judge_again(&now, workload);
                self.judged.send_replace(());
            }
        }
    }
}

#[cfg(test)]
mod tests;
