//! The labels of an object, or those that a selector asks for: a sorted slice, because there is one for each pod, few
//! have more than five, and a map's node has room for eleven. It is shared, because of many pods few have labels of
//! their own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

/// Sorted by key, each key once.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[Pair]>);

pub type Pair = (Arc<str>, Arc<str>);

impl Labels {
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn first(&self) -> Option<&Pair> {
        self.0.first()
    }

    /// Somebody else holds the same copy.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    #[cfg(test)]
    pub fn is_same(&self, other: &Labels) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Pair> {
        self.0.iter()
    }
}

/// Of two values of one key the later one stays.
impl FromIterator<Pair> for Labels {
    fn from_iter<I: IntoIterator<Item = Pair>>(pairs: I) -> Labels {
        Labels(pairs.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect())
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(map: BTreeMap<String, String>) -> Labels {
        Labels(map.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl<const N: usize> From<[Pair; N]> for Labels {
    fn from(pairs: [Pair; N]) -> Labels {
        pairs.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = &'a Pair;
    type IntoIter = std::slice::Iter<'a, Pair>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Labels, D::Error> {
        Ok(BTreeMap::<Arc<str>, Arc<str>>::deserialize(from)?.into_iter().collect())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(key, value)| (key, value))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_map() {
        let pair = |key: &str, value: &str| (Arc::<str>::from(key), Arc::<str>::from(value));
        let labels = Labels::from([pair("b", "2"), pair("a", "0"), pair("c", "3"), pair("a", "1")]);
        let found: Vec<Option<&str>> = ["a", "b", "c", "", "d"].into_iter().map(|key| labels.get(key).map(|value| &**value)).collect();
        assert_eq!(found, [Some("1"), Some("2"), Some("3"), None, None]);
        assert_eq!(labels.first(), Some(&pair("a", "1")));
        assert_eq!(format!("{labels:?}"), r#"{"a": "1", "b": "2", "c": "3"}"#);
        assert_eq!(serde_json::from_str::<Labels>(r#"{"c": "3", "a": "1", "b": "2"}"#).unwrap(), labels);
        assert!(serde_json::from_str::<Labels>(r#"{"a": 1}"#).is_err() && Labels::default().is_empty());
    }
}
