//! Which pod runs where and as whom, and who is a waypoint: a snapshot for those who decide on certificates while the cluster changes.

use std::sync::Arc;

use mesh_identity::impersonate::{Facts, Phase, PodFact};
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use tokio_util::sync::CancellationToken;

use crate::cluster::Event;
use crate::objects::{Kind, NsName, Object, Pod};
use crate::translate::Account;

/// Cheap to clone; one writer.
#[derive(Clone, Debug, Default)]
pub struct Placements {
    pods: RedBlackTreeMapSync<NsName, Arc<Pod>>,
    /// `namespace/service account` to the names of its pods.
    of_account: RedBlackTreeMapSync<NsName, RedBlackTreeSetSync<NsName>>,
    /// Gateway to the account that its instances run as.
    account_of_waypoint: RedBlackTreeMapSync<NsName, Arc<Account>>,
    waypoints_of_account: RedBlackTreeMapSync<NsName, Waypoints>,
}

/// The waypoints that an account stands for.
#[derive(Clone, Debug, Default)]
pub struct Waypoints {
    /// Gateway and class of each.
    pub gateways: RedBlackTreeSetSync<(NsName, Arc<str>)>,
    /// Cancelled when they are others.
    pub changed: CancellationToken,
}

impl Placements {
    /// Takes an event. `false`: it was not about a pod.
    pub fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::Applied(Object::Pod(pod)) => {
                self.remove(&pod.meta.ns_name());
                self.insert(pod);
                true
            }
            Event::Deleted(key) if key.kind == Kind::Pod => {
                self.remove(&key.name);
                true
            }
            _ => false,
        }
    }

    pub fn find(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.pods.get(&NsName::new(namespace, name))
    }

    /// A Gateway is a waypoint whose instances run as an account, or is none (any more).
    pub fn waypoint(&mut self, gateway: &NsName, account: Option<&Arc<Account>>) {
        let place = |account: &Account| (account.gateway.clone(), account.class.clone());
        if let Some(before) = self.account_of_waypoint.get(gateway).cloned() {
            self.account_of_waypoint.remove_mut(gateway);
            self.regroup(before.account.clone(), |gateways| { gateways.remove_mut(&place(&before)); });
        }
        if let Some(account) = account {
            self.account_of_waypoint.insert_mut(gateway.clone(), account.clone());
            self.regroup(account.account.clone(), |gateways| gateways.insert_mut(place(account)));
        }
    }

    fn regroup(&mut self, account: NsName, change: impl FnOnce(&mut RedBlackTreeSetSync<(NsName, Arc<str>)>)) {
        let Waypoints { mut gateways, changed } = self.waypoints_of_account.get(&account).cloned().unwrap_or_default();
        changed.cancel();
        change(&mut gateways);
        if gateways.is_empty() {
            self.waypoints_of_account.remove_mut(&account);
        } else {
            self.waypoints_of_account.insert_mut(account, Waypoints { gateways, changed: CancellationToken::new() });
        }
    }

    pub fn waypoints(&self, namespace: &str, account: &str) -> Option<&Waypoints> {
        self.waypoints_of_account.get(&NsName::new(namespace, account))
    }

    fn insert(&mut self, pod: &Arc<Pod>) {
        let name = pod.meta.ns_name();
        let account = account_of(pod);
        let names = self.of_account.get(&account).cloned().unwrap_or_default().insert(name.clone());
        self.of_account.insert_mut(account, names);
        self.pods.insert_mut(name, pod.clone());
    }

    fn remove(&mut self, name: &NsName) {
        let Some(pod) = self.pods.get(name).cloned() else { return };
        self.pods.remove_mut(name);
        let account = account_of(&pod);
        let names = self.of_account.get(&account).map(|names| names.remove(name)).unwrap_or_default();
        if names.is_empty() {
            self.of_account.remove_mut(&account);
        } else {
            self.of_account.insert_mut(account, names);
        }
    }
}

impl Facts for Placements {
    fn pod(&self, namespace: &str, name: &str) -> Option<PodFact> {
        let pod = self.find(namespace, name)?;
        Some(PodFact {
            uid: pod.meta.uid.to_string(),
            service_account: pod.service_account.to_string(),
            node: Some(pod.node.to_string()).filter(|node| !node.is_empty()),
        })
    }

    fn phases_on(&self, node: &str, namespace: &str, service_account: &str) -> Vec<Phase> {
        let names = self.of_account.get(&NsName::new(namespace, service_account));
        let pods = names.into_iter().flat_map(|names| names.iter()).filter_map(|name| self.pods.get(name));
        // A node can put a mirror pod into any namespace, so that proves nothing about who runs there (T-31).
        pods.filter(|pod| &*pod.node == node && !node.is_empty() && !pod.is_mirror).map(|pod| phase(pod)).collect()
    }
}

fn account_of(pod: &Pod) -> NsName {
    NsName { namespace: pod.meta.namespace.clone(), name: pod.service_account.clone() }
}

/// A pod that nobody has reported about is being started: it will need its certificate.
fn phase(pod: &Pod) -> Phase {
    match pod.phase() {
        "Pending" | "" => Phase::Pending,
        "Running" => Phase::Running,
        "Succeeded" => Phase::Succeeded,
        "Failed" => Phase::Failed,
        _ => Phase::Unknown,
    }
}
