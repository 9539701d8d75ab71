//! `World`: the two books, who is where and who may, as they were at one moment. One writer, readers without a lock.
//!
//! A snapshot carries the keys that the latest changes touched, so that whoever watches one pod's connections asks "is
//! there news about us?" and sleeps on otherwise. The memory of changes is bounded; who slept longer than it reaches
//! is told that everything may have changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::address::{NamespacedHostname, NetworkAddress};
use mesh_model::change::{Change, Touched};
use mesh_model::directory::Directory;
use mesh_model::workload::{PolicyKey, Uid, Workload};
use mesh_policy::{Affected, Policy, PolicySet};
use mesh_runtime::{Publisher, Watched, watched};

use crate::recent::{Recent, Touching};

/// Resources applied before readers see the result: a reader never waits long, and a large update does not copy a path
/// of the persistent maps for each resource (design decision 14).
pub const BATCH: usize = 1_000;
#[derive(Clone, Debug)]
pub struct World {
    pub directory: Directory,
    pub policies: PolicySet,
    pub synced: Synced,
    recent: Recent<Batch>,
}

/// Which books are complete: the first answer of the control plane came and was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    pub addresses: bool,
    pub policies: bool,
}

/// One change to make.
#[derive(Clone, Debug)]
pub enum Edit {
    /// A workload or service that came, changed or went.
    Address(Change),
    Policy(PolicyKey, Arc<Policy>),
    RemovePolicy(PolicyKey),
    /// A policy came that cannot be read; whom it may reach.
    RejectPolicy(PolicyKey, Affected),
    /// All addresses have come.
    AddressesSynced,
    /// The control plane has told which policies there are; decisions are possible from now on.
    PoliciesKnown,
    /// ... and all of them could be read.
    PoliciesSynced,
}

/// The keys of one published batch.
#[derive(Debug, Default)]
struct Batch {
    touched: Touched,
    affected: BTreeSet<Affected>,
    synced: bool,
}

/// What changed between two looks at the world.
#[derive(Debug)]
pub enum News {
    /// Too much, or too long ago: assume everything.
    Everything,
    These(Touches),
}

/// The keys that changes touched since the last look.
#[derive(Debug)]
pub struct Touches(Vec<Arc<Batch>>);

/// The one that may change the world.
#[derive(Debug)]
pub struct WorldWriter {
    publisher: Publisher<World>,
    draft: World,
}

/// A reader that remembers what it saw, for one pod.
#[derive(Clone, Debug)]
pub struct Follower {
    world: Watched<World>,
    seen: u64,
}

/// A world that awaits its control plane: no addresses, every connection refused by policy.
pub fn world() -> (WorldWriter, Watched<World>) {
    let draft = World { synced: Synced::default(), ..World::new(Directory::new(), PolicySet::awaiting()) };
    let (publisher, watched) = watched(draft.clone());
    (WorldWriter { publisher, draft }, watched)
}

impl World {
    /// A complete world of these books: from a file, or for a test.
    pub fn new(directory: Directory, policies: PolicySet) -> World {
        let synced = Synced { addresses: true, policies: true };
        World { directory, policies, synced, recent: Recent::default() }
    }

    /// Counts published batches.
    pub fn version(&self) -> u64 {
        self.recent.version()
    }

    /// What changed after `version`.
    pub fn since(&self, version: u64) -> News {
        self.recent.since(version).map_or(News::Everything, |batches| News::These(Touches(batches)))
    }
}

impl WorldWriter {
    /// Makes the changes in their order and publishes after every `BATCH` of them. What changes nothing publishes nothing.
    pub fn apply(&mut self, edits: impl IntoIterator<Item = Edit>) {
        let mut edits = edits.into_iter().peekable();
        while edits.peek().is_some() {
            let mut batch = Batch::default();
            for edit in edits.by_ref().take(BATCH) {
                self.draft.make(edit, &mut batch);
            }
            if batch.keys() > 0 {
                self.draft.recent.push(batch);
                self.publisher.publish(self.draft.clone());
            }
        }
    }

    /// The world with all changes so far.
    pub fn world(&self) -> &World {
        &self.draft
    }

    pub fn watch(&self) -> Watched<World> {
        self.publisher.watch()
    }
}

impl World {
    fn make(&mut self, edit: Edit, batch: &mut Batch) {
        match edit {
            Edit::Address(change) => batch.touched.merge(self.change_address(change)),
            Edit::Policy(key, policy) => batch.affected.extend(self.policies.insert(key, policy)),
            Edit::RemovePolicy(key) => batch.affected.extend(self.policies.remove(&key)),
            Edit::RejectPolicy(key, reach) => batch.affected.extend(self.policies.reject(key, reach)),
            Edit::PoliciesKnown => batch.affected.extend(self.policies.mark_synced()),
            Edit::AddressesSynced => batch.synced |= !std::mem::replace(&mut self.synced.addresses, true),
            Edit::PoliciesSynced => {
                batch.affected.extend(self.policies.mark_synced());
                batch.synced |= !std::mem::replace(&mut self.synced.policies, true);
            }
        }
    }

    /// The policies that a workload lists are counted by the policy set. New ones first: a key that is in both lists
    /// must not be let go in between.
    fn change_address(&mut self, change: Change) -> Touched {
        let uid = match &change {
            Change::Workload(workload) => Some(workload.uid.clone()),
            Change::Remove(name) => Some(Uid(name.clone())),
            Change::Service(_) => None,
        };
        let listed = |directory: &Directory| {
            uid.as_ref().and_then(|uid| directory.workload(uid)).map(|workload| workload.authorization_policies.clone())
        };
        let before = listed(&self.directory);
        let touched = self.directory.apply(change);
        for key in listed(&self.directory).iter().flatten() {
            self.policies.reference(key);
        }
        for key in before.iter().flatten() {
            self.policies.unreference(key);
        }
        touched
    }
}

impl Touching for Batch {
    fn keys(&self) -> usize {
        let Touched { workloads, services, endpoints, addresses, cidrs } = &self.touched;
        let addresses = workloads.len() + services.len() + endpoints.len() + addresses.len() + cidrs.len();
        addresses + self.affected.len() + usize::from(self.synced)
    }
}

impl News {
    pub fn is_nothing(&self) -> bool {
        matches!(self, News::These(Touches(batches)) if batches.is_empty())
    }

    /// Whether this workload's own description changed.
    pub fn touches_workload(&self, uid: &Uid) -> bool {
        self.any(|batch| batch.touched.workloads.contains(uid))
    }

    /// Whether a lookup of this address may answer differently.
    pub fn touches_address(&self, address: &NetworkAddress) -> bool {
        self.any(|batch| batch.touched.concerns(address))
    }

    /// Whether this service, or the set of its endpoints, changed.
    pub fn touches_service(&self, key: &NamespacedHostname) -> bool {
        self.any(|batch| batch.touched.services.contains(key) || batch.touched.endpoints.contains(key))
    }

    /// Whether verdicts about flows to this workload may differ because of policies (not because of its own change).
    pub fn touches_policies_of(&self, workload: &Workload) -> bool {
        let concerns = |affected: &Affected| match affected {
            Affected::Everyone => true,
            Affected::Namespace(namespace) => *namespace == workload.namespace,
            Affected::Referrers(key) => workload.authorization_policies.contains(key),
        };
        self.any(|batch| batch.affected.iter().any(concerns))
    }

    fn any(&self, touches: impl Fn(&Batch) -> bool) -> bool {
        match self {
            News::Everything => true,
            News::These(Touches(batches)) => batches.iter().any(|batch| touches(batch)),
        }
    }
}

impl Follower {
    /// Starts from the present world, which is returned: whatever comes after it is news.
    pub fn new(world: Watched<World>) -> (Follower, Arc<World>) {
        let mut follower = Follower { world, seen: 0 };
        let (now, _) = follower.look();
        (follower, now)
    }

    /// Waits for a change and says what it touched. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> (Arc<World>, News) {
        loop {
            self.world.changed().await;
            let (now, news) = self.look();
            if !news.is_nothing() {
                return (now, news);
            }
        }
    }

    /// The present world and what happened since the last look. The news is part of the snapshot, so no change can fall
    /// between the two.
    pub fn look(&mut self) -> (Arc<World>, News) {
        let now = self.world.see();
        let news = now.since(self.seen);
        self.seen = now.version();
        (now, news)
    }

    pub fn world(&self) -> &Watched<World> {
        &self.world
    }
}

#[cfg(test)]
mod tests;
