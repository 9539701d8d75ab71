//! What is known before every kind was listed once: the newest state of each object, so that it is as large as the cluster
//! however long one kind cannot be listed. Pure.

use std::collections::BTreeMap;

use crate::cluster::Event;
use crate::objects::{Object, ObjectKey};

/// Nothing of it was told yet, so of an object that is gone nothing is left.
#[derive(Debug, Default)]
pub struct First(BTreeMap<ObjectKey, Object>);

impl First {
    /// Takes all of the events, in their order.
    pub fn take(&mut self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            match event {
                Event::Applied(object) => drop(self.0.insert(object.key(), object)),
                Event::Deleted(key) => drop(self.0.remove(&key)),
            }
        }
    }

    /// All of it, and the events that came after it.
    pub fn then(&mut self, events: &mut Vec<Event>) -> Vec<Event> {
        let first = std::mem::take(&mut self.0).into_values().map(Event::Applied);
        first.chain(events.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Kind;
    use crate::translate::tests::{events, pod};

    #[test]
    fn ten_thousand_states_of_a_pod_are_one() {
        let mut first = First::default();
        let state = |octet: u32| events(&pod("shop", "a", &format!("10.0.{}.{}", octet / 250, octet % 250 + 1), ""));
        for octet in 0..10_000 {
            first.take(&mut state(octet));
        }
        first.take(&mut events(&pod("shop", "gone", "10.1.0.1", "")));
        first.take(&mut vec![Event::Deleted(ObjectKey::new(Kind::Pod, "shop", "gone"))]);
        let mut last = vec![Event::Deleted(ObjectKey::new(Kind::Pod, "shop", "a"))];
        let told = first.then(&mut last);
        assert_eq!(told, [state(9_999), vec![Event::Deleted(ObjectKey::new(Kind::Pod, "shop", "a"))]].concat());
        assert!(first.then(&mut last).is_empty(), "it is told once");
    }
}
