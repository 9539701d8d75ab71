//! Which identities live on which node: how a pod's own workload is found, and when an identity has left a node.

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

use crate::workload::{Uid, Workload};

/// Workloads in the order (namespace, service account, node, uid), so that "this identity on this node" and "this
/// identity anywhere" are both a contiguous range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    workloads: RedBlackTreeMapSync<Place, Arc<Workload>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    namespace: Arc<str>,
    service_account: Arc<str>,
    node: Arc<str>,
    uid: Uid,
}

impl Default for Places {
    fn default() -> Places {
        Places { workloads: RedBlackTreeMapSync::new_sync() }
    }
}

impl Places {
    pub fn put(&mut self, workload: &Arc<Workload>) {
        self.workloads.insert_mut(Place::of(workload), workload.clone());
    }

    pub fn take(&mut self, workload: &Workload) {
        self.workloads.remove_mut(&Place::of(workload));
    }

    /// The workloads of an identity on one node, or on every node, in order.
    pub fn workloads<'d>(
        &'d self,
        node: Option<&Arc<str>>,
        namespace: &Arc<str>,
        service_account: &Arc<str>,
    ) -> impl Iterator<Item = &'d Arc<Workload>> + use<'d> {
        let nothing: Arc<str> = "".into();
        let start = Place {
            namespace: namespace.clone(),
            service_account: service_account.clone(),
            node: node.cloned().unwrap_or_else(|| nothing.clone()),
            uid: Uid(nothing),
        };
        let (namespace, service_account, node) = (namespace.clone(), service_account.clone(), node.cloned());
        self.workloads
            .range(start..)
            .take_while(move |(place, _)| {
                place.namespace == namespace
                    && place.service_account == service_account
                    && node.as_ref().is_none_or(|node| place.node == *node)
            })
            .map(|(_, workload)| workload)
    }
}

impl Place {
    fn of(workload: &Workload) -> Place {
        Place {
            namespace: workload.namespace.clone(),
            service_account: workload.service_account.clone(),
            node: workload.node.clone(),
            uid: workload.uid.clone(),
        }
    }
}
