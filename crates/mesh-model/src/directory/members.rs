//! The workloads that name a service, and the same as a list for whoever picks one by chance.

use std::sync::{Arc, OnceLock};

use rpds::RedBlackTreeMapSync;

use crate::workload::{Uid, Workload};

/// Members by uid. The list is made at the first question after a change, once for all snapshots that share it.
#[derive(Clone, Debug)]
pub(super) struct Members {
    by_uid: RedBlackTreeMapSync<Uid, Arc<Workload>>,
    roster: OnceLock<Arc<Roster>>,
}

/// Members in the order of their uids, by position: one of ten thousand is found without walking over the others.
#[derive(Debug)]
pub struct Roster {
    pub workloads: Vec<Arc<Workload>>,
    /// The greatest capacity among them; 0 when there are none.
    pub capacity_max: u32,
}

impl Default for Members {
    fn default() -> Members {
        Members { by_uid: RedBlackTreeMapSync::new_sync(), roster: OnceLock::new() }
    }
}

/// Whether the list has been made yet is nobody's business.
impl PartialEq for Members {
    fn eq(&self, other: &Members) -> bool {
        self.by_uid == other.by_uid
    }
}

impl Eq for Members {}

impl Members {
    pub fn put(&mut self, workload: Arc<Workload>) {
        self.roster = OnceLock::new();
        self.by_uid.insert_mut(workload.uid.clone(), workload);
    }

    pub fn take(&mut self, uid: &Uid) {
        self.roster = OnceLock::new();
        self.by_uid.remove_mut(uid);
    }

    pub fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }

    pub fn contains(&self, uid: &Uid) -> bool {
        self.by_uid.contains_key(uid)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.by_uid.values()
    }

    pub fn roster(&self) -> &Arc<Roster> {
        self.roster.get_or_init(|| {
            let workloads: Vec<Arc<Workload>> = self.by_uid.values().cloned().collect();
            let capacity_max = workloads.iter().map(|workload| workload.capacity).max().unwrap_or(0);
            Arc::new(Roster { workloads, capacity_max })
        })
    }
}
