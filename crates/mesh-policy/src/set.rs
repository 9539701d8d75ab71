//! The policies in force: an immutable snapshot that is cheap to clone, changed only through the methods here.
//!
//! It also knows which policies are referenced by workloads, so that a policy that was removed while a workload still
//! lists it stays in force with its last content (the removal and the workload's update are two resources, and the
//! time between them must not be an open window).

use std::sync::Arc;

use mesh_model::workload::PolicyKey;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use crate::policy::{Policy, Scope};

/// Policies are stored under their resource name, because that is what workloads list and what removals carry.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    by_key: RedBlackTreeMapSync<PolicyKey, Arc<Policy>>,
    /// Namespace to its policies of scope NAMESPACE; those of scope GLOBAL under "". Ordered, so that the policy a
    /// verdict names is always the same one.
    by_namespace: RedBlackTreeMapSync<Arc<str>, RedBlackTreeMapSync<PolicyKey, Arc<Policy>>>,
    /// Removed by the control plane, still listed by a workload.
    retired: RedBlackTreeMapSync<PolicyKey, Arc<Policy>>,
    /// Sent in a form that cannot be read, and there is no earlier content to hold on to. The value says how far the
    /// policy may reach.
    unreadable: RedBlackTreeMapSync<PolicyKey, Affected>,
    /// How many workloads list the policy.
    references: HashTrieMapSync<PolicyKey, usize>,
    not_synced: bool,
}

/// Whose verdicts a change may alter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Affected {
    Everyone,
    Namespace(Arc<str>),
    /// The workloads that list this policy.
    Referrers(PolicyKey),
}

impl PolicySet {
    /// A set that refuses everything until `mark_synced`: for a process that has yet to hear from its control plane.
    /// `PolicySet::default()` is the complete set of no policies.
    pub fn awaiting() -> PolicySet {
        PolicySet { not_synced: true, ..PolicySet::default() }
    }

    pub fn mark_synced(&mut self) -> Vec<Affected> {
        if std::mem::take(&mut self.not_synced) { vec![Affected::Everyone] } else { Vec::new() }
    }

    pub fn is_synced(&self) -> bool {
        !self.not_synced
    }

    /// Puts a policy in force. An equal one affects nobody.
    pub fn insert(&mut self, key: PolicyKey, policy: Arc<Policy>) -> Vec<Affected> {
        if self.by_key.get(&key) == Some(&policy) {
            return Vec::new();
        }
        let mut affected = self.take_out(&key);
        self.retired.remove_mut(&key);
        if let Some(reach) = reach(&policy) {
            let mut peers = self.by_namespace.get(namespace_of(&reach)).cloned().unwrap_or_default();
            peers.insert_mut(key.clone(), policy.clone());
            self.by_namespace.insert_mut(namespace_of(&reach).into(), peers);
            affected.push(reach);
        }
        self.by_key.insert_mut(key.clone(), policy);
        affected.push(Affected::Referrers(key));
        deduplicated(affected)
    }

    /// Takes a policy out of force, except for the workloads that still list it. Removing what is not there is no error.
    pub fn remove(&mut self, key: &PolicyKey) -> Vec<Affected> {
        let last = self.by_key.get(key).cloned();
        let mut affected = self.take_out(key);
        match last {
            // For those that list it nothing changes.
            Some(policy) if self.references.contains_key(key) => self.retired.insert_mut(key.clone(), policy),
            Some(_) => affected.push(Affected::Referrers(key.clone())),
            None => {}
        }
        deduplicated(affected)
    }

    /// The control plane sent a policy that cannot be read. Earlier content stays in force; with none, whoever it may
    /// reach is refused. `reach` is as much of its scope as could be read.
    pub fn reject(&mut self, key: PolicyKey, reach: Affected) -> Vec<Affected> {
        if self.by_key.contains_key(&key) || self.unreadable.get(&key) == Some(&reach) {
            return Vec::new();
        }
        let mut affected: Vec<Affected> = self.unreadable.get(&key).cloned().into_iter().collect();
        self.unreadable.insert_mut(key.clone(), reach.clone());
        affected.extend([reach, Affected::Referrers(key)]);
        deduplicated(affected)
    }

    /// One more workload lists the policy.
    pub fn reference(&mut self, key: &PolicyKey) {
        let count = self.references.get(key).copied().unwrap_or(0);
        self.references.insert_mut(key.clone(), count + 1);
    }

    /// One workload fewer lists the policy. With the last one goes the content of a removed policy.
    pub fn unreference(&mut self, key: &PolicyKey) {
        match self.references.get(key).copied() {
            Some(count) if count > 1 => self.references.insert_mut(key.clone(), count - 1),
            _ => {
                self.references.remove_mut(key);
                self.retired.remove_mut(key);
            }
        }
    }

    /// The content in force for a workload that lists `key`.
    pub fn referenced(&self, key: &PolicyKey) -> Option<&Arc<Policy>> {
        self.by_key.get(key).or_else(|| self.retired.get(key))
    }

    pub fn get(&self, key: &PolicyKey) -> Option<&Arc<Policy>> {
        self.by_key.get(key)
    }

    /// All policies that the control plane has and did not remove, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&PolicyKey, &Arc<Policy>)> {
        self.by_key.iter()
    }

    /// Removed policies that a workload still lists.
    pub fn retired(&self) -> impl Iterator<Item = (&PolicyKey, &Arc<Policy>)> {
        self.retired.iter()
    }

    /// Policies without readable content, and whom they may reach.
    pub fn unreadable(&self) -> impl Iterator<Item = (&PolicyKey, &Affected)> {
        self.unreadable.iter()
    }

    pub fn len(&self) -> usize {
        self.by_key.size()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Policies that select every workload of `namespace`, first its own, then the global ones.
    pub(crate) fn selecting(&self, namespace: &str) -> impl Iterator<Item = (&PolicyKey, &Arc<Policy>)> {
        let own = self.by_namespace.get(namespace).filter(|_| !namespace.is_empty());
        let global = self.by_namespace.get("");
        own.into_iter().chain(global).flat_map(|policies| policies.iter())
    }

    /// A policy without content that reaches this workload.
    pub(crate) fn unreadable_for(&self, namespace: &str, listed: &[PolicyKey]) -> Option<&PolicyKey> {
        // Nearly always empty: then this costs nothing per decision.
        let reaches = |(key, reach): &(&PolicyKey, &Affected)| match reach {
            Affected::Everyone => true,
            Affected::Namespace(of) => &**of == namespace,
            Affected::Referrers(_) => listed.contains(key) && !self.retired.contains_key(key),
        };
        self.unreadable.iter().find(reaches).map(|(key, _)| key)
    }

    /// Removes every trace of `key` but its references and its retired content; says whom it reached.
    fn take_out(&mut self, key: &PolicyKey) -> Vec<Affected> {
        let mut affected: Vec<Affected> = self.unreadable.get(key).cloned().into_iter().collect();
        self.unreadable.remove_mut(key);
        let Some(reach) = self.by_key.get(key).and_then(|old| reach(old)) else {
            self.by_key.remove_mut(key);
            return affected;
        };
        self.by_key.remove_mut(key);
        if let Some(mut peers) = self.by_namespace.get(namespace_of(&reach)).cloned() {
            peers.remove_mut(key);
            if peers.is_empty() {
                self.by_namespace.remove_mut(namespace_of(&reach));
            } else {
                self.by_namespace.insert_mut(namespace_of(&reach).into(), peers);
            }
        }
        affected.push(reach);
        affected
    }
}

/// Whom a policy selects without being listed. A NAMESPACE policy of no namespace reaches everyone, as it does
/// elsewhere in the field: of two readings the one that enforces more.
fn reach(policy: &Policy) -> Option<Affected> {
    match policy.scope {
        Scope::Global => Some(Affected::Everyone),
        Scope::Namespace if policy.namespace.is_empty() => Some(Affected::Everyone),
        Scope::Namespace => Some(Affected::Namespace(policy.namespace.clone())),
        Scope::WorkloadSelector => None,
    }
}

fn namespace_of(reach: &Affected) -> &str {
    match reach {
        Affected::Namespace(namespace) => namespace,
        Affected::Everyone | Affected::Referrers(_) => "",
    }
}

fn deduplicated(mut affected: Vec<Affected>) -> Vec<Affected> {
    affected.sort();
    affected.dedup();
    affected
}
