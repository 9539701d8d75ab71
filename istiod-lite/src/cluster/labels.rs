//! An index from a label pair to the objects under it. What can be selected stands under each of its pairs; what
//! selects stands under one pair of its selector, which is enough: whatever it matches has that pair.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::objects::labels::Pair;
use crate::objects::{Labels, ObjectKey};

#[derive(Debug, Default)]
pub struct LabelIndex {
    by_pair: BTreeMap<Pair, BTreeMap<Arc<str>, BTreeSet<ObjectKey>>>,
}

impl LabelIndex {
    pub fn insert_each(&mut self, key: &ObjectKey, labels: &Labels) {
        for pair in labels {
            self.insert(pair.clone(), key);
        }
    }

    pub fn remove_each(&mut self, key: &ObjectKey, labels: &Labels) {
        for pair in labels {
            self.remove(pair, key);
        }
    }

    pub fn insert_first(&mut self, key: &ObjectKey, selector: &Labels) {
        if let Some(pair) = selector.first() {
            self.insert(pair.clone(), key);
        }
    }

    pub fn remove_first(&mut self, key: &ObjectKey, selector: &Labels) {
        if let Some(pair) = selector.first() {
            self.remove(pair, key);
        }
    }

    /// Objects under one pair in a namespace.
    pub fn holding(&self, pair: &Pair, namespace: &Arc<str>) -> impl Iterator<Item = &ObjectKey> {
        self.by_pair.get(pair).and_then(|places| places.get(namespace)).into_iter().flatten()
    }

    /// Objects that may match a non-empty selector: those under its rarest pair.
    pub fn candidates(&self, namespace: Option<&Arc<str>>, selector: &Labels) -> Vec<ObjectKey> {
        let under = |pair: &Pair| -> Vec<&BTreeSet<ObjectKey>> {
            let Some(places) = self.by_pair.get(pair) else { return Vec::new() };
            match namespace {
                Some(namespace) => places.get(namespace).into_iter().collect(),
                None => places.values().collect(),
            }
        };
        let rarest = selector.iter().map(under).min_by_key(|sets| sets.iter().map(|set| set.len()).sum::<usize>());
        rarest.into_iter().flatten().flatten().cloned().collect()
    }

    fn insert(&mut self, pair: Pair, key: &ObjectKey) {
        self.by_pair.entry(pair).or_default().entry(key.name.namespace.clone()).or_default().insert(key.clone());
    }

    fn remove(&mut self, pair: &Pair, key: &ObjectKey) {
        let Some(places) = self.by_pair.get_mut(pair) else { return };
        if let Some(keys) = places.get_mut(&key.name.namespace) {
            keys.remove(key);
            if keys.is_empty() {
                places.remove(&key.name.namespace);
            }
        }
        if places.is_empty() {
            self.by_pair.remove(pair);
        }
    }
}
