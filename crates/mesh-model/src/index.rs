//! `Index`: a key to the few items that share it, on persistent maps: a copy costs nothing, a change copies one path.
//!
//! The keys are hashed and never walked; the items under one key are ordered by their id, so every answer is the
//! same whatever the order of arrival was.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

/// Items `T` with an id `I` under keys `K`. A key without items is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index<K: Eq + Hash, I: Ord, T: Eq> {
    shelves: HashTrieMapSync<K, RedBlackTreeMapSync<I, Arc<T>>>,
}

impl<K: Eq + Hash, I: Ord, T: Eq> Default for Index<K, I, T> {
    fn default() -> Self {
        Index { shelves: HashTrieMapSync::new_sync() }
    }
}

impl<K: Eq + Hash + Clone, I: Ord + Clone, T: Eq> Index<K, I, T> {
    /// Puts the item under the key; an item with the same id there is replaced.
    pub fn put(&mut self, key: K, id: I, item: Arc<T>) {
        if let Some(shelf) = self.shelves.get_mut(&key) {
            shelf.insert_mut(id, item);
            return;
        }
        self.shelves.insert_mut(key, RedBlackTreeMapSync::new_sync().insert(id, item));
    }

    /// Takes the item with this id away from the key.
    pub fn take<Q>(&mut self, key: &Q, id: &I)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let Some(shelf) = self.shelves.get_mut(key) else { return };
        shelf.remove_mut(id);
        if shelf.is_empty() {
            self.shelves.remove_mut(key);
        }
    }

    /// The items under the key, by id.
    pub fn at<'i, Q>(&'i self, key: &Q) -> impl Iterator<Item = &'i Arc<T>> + use<'i, Q, K, I, T>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.shelves.get(key).into_iter().flat_map(|shelf| shelf.values())
    }

    pub fn is_empty(&self) -> bool {
        self.shelves.is_empty()
    }
}
