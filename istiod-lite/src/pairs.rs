//! Several values under one key, all pairs in one sorted set. A map of sets costs a node with eleven places for each key,
//! and with ten thousand pods nearly every key has one value.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::objects::{Kind, NsName, ObjectKey};

#[derive(Clone, Debug, PartialEq)]
pub struct Pairs<K, V>(BTreeSet<(K, V)>);

/// A value before which none sorts: where the values of a key begin.
pub trait Least: Ord {
    fn least() -> Self;
}

impl<K: Ord + Clone, V: Least> Pairs<K, V> {
    pub fn insert(&mut self, key: K, value: V) {
        self.0.insert((key, value));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn remove(&mut self, key: K, value: V) {
        self.0.remove(&(key, value));
    }

    /// The values of a key, sorted.
    pub fn of(&self, key: &K) -> impl Iterator<Item = &V> {
        self.from(key).take_while(move |(found, _)| *found == key).map(|(_, value)| value)
    }

    /// All pairs from a key on, sorted.
    pub fn from(&self, key: &K) -> impl Iterator<Item = (&K, &V)> + use<'_, K, V> {
        self.0.range((key.clone(), V::least())..).map(|(key, value)| (key, value))
    }
}

impl<K, V> Default for Pairs<K, V> {
    fn default() -> Self {
        Pairs(BTreeSet::new())
    }
}

impl Least for NsName {
    fn least() -> NsName {
        NsName { namespace: Arc::default(), name: Arc::default() }
    }
}

impl Least for ObjectKey {
    fn least() -> ObjectKey {
        ObjectKey { kind: Kind::Namespace, name: NsName::least() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_under_their_key_alone() {
        let name = |text: &str| NsName::new("shop", text);
        let mut pairs: Pairs<Arc<str>, NsName> = Pairs::default();
        for (key, value) in [("b", "2"), ("b", "1"), ("a", "3"), ("c", "4"), ("b", "2")] {
            pairs.insert(key.into(), name(value));
        }
        let of = |pairs: &Pairs<Arc<str>, NsName>, key: &str| pairs.of(&key.into()).map(|value| value.name.to_string()).collect::<String>();
        assert_eq!((of(&pairs, "a"), of(&pairs, "b"), of(&pairs, "c"), of(&pairs, "d")), ("3".into(), "12".into(), "4".into(), String::new()));
        assert_eq!(pairs.from(&"b".into()).count(), 3);
        pairs.remove("b".into(), name("1"));
        pairs.remove("b".into(), name("none"));
        assert_eq!(of(&pairs, "b"), "2");
        pairs.remove("b".into(), name("2"));
        assert_eq!((of(&pairs, "b"), of(&pairs, "c")), (String::new(), "4".into()));
    }

    #[test]
    fn nothing_sorts_before_the_least() {
        assert!(Kind::ALL.into_iter().all(|kind| ObjectKey::new(kind, "", "") >= ObjectKey::least()));
        assert!(NsName::new("", "") >= NsName::least());
    }
}
