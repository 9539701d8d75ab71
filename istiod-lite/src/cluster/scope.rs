//! Which objects are looked at: those of our revision, of namespaces that the mesh's configuration selects, and of
//! ServiceEntries those that anybody may see (spec/controlplane.md 4.1).
//!
//! What is left out is kept aside: a namespace that gets the label later brings its objects, and no source tells twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::objects::mesh_config::Visible;
use crate::objects::*;

/// What decides, beside the labels of namespaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// Objects with a label `istio.io/rev` of another revision belong to another controller.
    pub revision: Arc<str>,
    /// Other names of our revision.
    pub tags: BTreeSet<Arc<str>>,
    /// Always looked at: its policies are for the whole mesh.
    pub root: Arc<str>,
    pub config: Arc<MeshConfig>,
}


/// Objects that are left out, by namespace.
#[derive(Debug, Default)]
pub struct Aside(BTreeMap<Arc<str>, BTreeMap<ObjectKey, Object>>);

impl Scope {
    /// `namespace`: the labels of the object's namespace, where that is known.
    pub fn takes(&self, object: &Object, namespace: Option<&Labels>) -> bool {
        self.is_of_revision(object) && self.is_discovered(object, namespace) && !self.is_hidden_entry(object, namespace)
    }

    /// Whether labels of namespaces decide at all.
    pub fn hangs_on_namespaces(&self) -> bool {
        !self.config.discovery_selectors.is_empty() || self.config.service_entry_visibility.is_some()
    }

    fn is_of_revision(&self, object: &Object) -> bool {
        !object.kind().has_revision() || object.meta().label("istio.io/rev").is_none_or(|revision| revision == &*self.revision || self.tags.contains(revision))
    }

    fn is_discovered(&self, object: &Object, namespace: Option<&Labels>) -> bool {
        !object.kind().is_namespaced() || object.meta().namespace == self.root || self.config.discovers(namespace)
    }

    /// An entry that nobody may see is as good as not there: it does not even claim its hosts.
    fn is_hidden_entry(&self, object: &Object, namespace: Option<&Labels>) -> bool {
        object.kind() == Kind::ServiceEntry && self.config.visible(namespace.unwrap_or(&Labels::default())) == Visible::None
    }
}

impl Aside {
    pub fn put(&mut self, object: Object) {
        let key = object.key();
        self.0.entry(key.name.namespace.clone()).or_default().insert(key, object);
    }

    pub fn take(&mut self, key: &ObjectKey) -> Option<Object> {
        let place = self.0.get_mut(&key.name.namespace)?;
        let object = place.remove(key);
        if place.is_empty() {
            self.0.remove(&key.name.namespace);
        }
        object
    }

    pub fn within(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Object> {
        self.0.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }

    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.0.values().flat_map(BTreeMap::values)
    }
}
