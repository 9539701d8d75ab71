//! The objects as we hold them, and the questions about them that need an index: who is selected by these labels, who
//! selects them, who claims a hostname, which pods run as whom.
//!
//! `apply` takes one event and answers with what was there before. No I/O, no translation, no Kubernetes client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::objects::meta::matches;
use crate::objects::*;

mod labels;
#[cfg(test)]
mod tests;

use labels::LabelIndex;

/// What a source of objects tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Applied(Object),
    Deleted(ObjectKey),
}

/// An object that is not as it was. At least one side is there.
#[derive(Clone, Debug)]
pub struct Change {
    pub key: ObjectKey,
    pub before: Option<Object>,
    pub after: Option<Object>,
}

type Shelf<T> = BTreeMap<NsName, Arc<T>>;

#[derive(Debug, Default)]
pub struct Cluster {
    /// Objects with a label `istio.io/rev` of another revision belong to another controller.
    revision: Arc<str>,
    pub namespaces: Shelf<Namespace>,
    pub nodes: Shelf<Node>,
    pub pods: Shelf<Pod>,
    pub services: Shelf<Service>,
    pub slices: Shelf<EndpointSlice>,
    pub service_entries: Shelf<ServiceEntry>,
    pub workload_entries: Shelf<WorkloadEntry>,
    pub authorization_policies: Shelf<AuthorizationPolicy>,
    pub peer_authentications: Shelf<PeerAuthentication>,
    pub gateways: Shelf<Gateway>,
    pub gateway_classes: Shelf<GatewayClass>,

    selectable: LabelIndex,
    selecting: LabelIndex,
    slices_of_service: BTreeMap<NsName, BTreeSet<NsName>>,
    slices_of_pod: BTreeMap<NsName, BTreeSet<NsName>>,
    pods_of_account: BTreeMap<NsName, BTreeSet<NsName>>,
    /// hostname -> namespace -> ServiceEntries that claim it. Services are found by their name.
    entries_of_host: BTreeMap<Arc<str>, BTreeMap<Arc<str>, BTreeSet<NsName>>>,
}

impl Cluster {
    pub fn new(revision: &str) -> Cluster {
        Cluster { revision: revision.into(), ..Cluster::default() }
    }

    /// Takes one event. `None`: nothing that we look at has changed.
    pub fn apply(&mut self, event: Event) -> Option<Change> {
        let (key, after) = match event {
            Event::Applied(object) if self.is_ours(&object) => (object.key(), Some(object)),
            Event::Applied(object) => (object.key(), None),
            Event::Deleted(key) => (key, None),
        };
        let before = self.object(&key);
        if before == after {
            return None;
        }
        if let Some(before) = &before {
            self.unindex(before);
        }
        match &after {
            Some(after) => {
                self.index(after);
                self.hold(&key.name, after);
            }
            None => self.drop_object(&key),
        }
        Some(Change { key, before, after })
    }

    fn is_ours(&self, object: &Object) -> bool {
        let by_revision = matches!(
            object.kind(),
            Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::ServiceEntry | Kind::WorkloadEntry
        );
        !by_revision || object.meta().label("istio.io/rev").is_none_or(|revision| revision == &*self.revision)
    }

    pub fn object(&self, key: &ObjectKey) -> Option<Object> {
        let name = &key.name;
        match key.kind {
            Kind::Namespace => self.namespaces.get(name).cloned().map(Object::Namespace),
            Kind::Node => self.nodes.get(name).cloned().map(Object::Node),
            Kind::Pod => self.pods.get(name).cloned().map(Object::Pod),
            Kind::Service => self.services.get(name).cloned().map(Object::Service),
            Kind::EndpointSlice => self.slices.get(name).cloned().map(Object::EndpointSlice),
            Kind::ServiceEntry => self.service_entries.get(name).cloned().map(Object::ServiceEntry),
            Kind::WorkloadEntry => self.workload_entries.get(name).cloned().map(Object::WorkloadEntry),
            Kind::AuthorizationPolicy => self.authorization_policies.get(name).cloned().map(Object::AuthorizationPolicy),
            Kind::PeerAuthentication => self.peer_authentications.get(name).cloned().map(Object::PeerAuthentication),
            Kind::Gateway => self.gateways.get(name).cloned().map(Object::Gateway),
            Kind::GatewayClass => self.gateway_classes.get(name).cloned().map(Object::GatewayClass),
        }
    }

    fn hold(&mut self, name: &NsName, object: &Object) {
        let name = name.clone();
        match object.clone() {
            Object::Namespace(o) => drop(self.namespaces.insert(name, o)),
            Object::Node(o) => drop(self.nodes.insert(name, o)),
            Object::Pod(o) => drop(self.pods.insert(name, o)),
            Object::Service(o) => drop(self.services.insert(name, o)),
            Object::EndpointSlice(o) => drop(self.slices.insert(name, o)),
            Object::ServiceEntry(o) => drop(self.service_entries.insert(name, o)),
            Object::WorkloadEntry(o) => drop(self.workload_entries.insert(name, o)),
            Object::AuthorizationPolicy(o) => drop(self.authorization_policies.insert(name, o)),
            Object::PeerAuthentication(o) => drop(self.peer_authentications.insert(name, o)),
            Object::Gateway(o) => drop(self.gateways.insert(name, o)),
            Object::GatewayClass(o) => drop(self.gateway_classes.insert(name, o)),
        }
    }

    fn drop_object(&mut self, key: &ObjectKey) {
        let name = &key.name;
        match key.kind {
            Kind::Namespace => drop(self.namespaces.remove(name)),
            Kind::Node => drop(self.nodes.remove(name)),
            Kind::Pod => drop(self.pods.remove(name)),
            Kind::Service => drop(self.services.remove(name)),
            Kind::EndpointSlice => drop(self.slices.remove(name)),
            Kind::ServiceEntry => drop(self.service_entries.remove(name)),
            Kind::WorkloadEntry => drop(self.workload_entries.remove(name)),
            Kind::AuthorizationPolicy => drop(self.authorization_policies.remove(name)),
            Kind::PeerAuthentication => drop(self.peer_authentications.remove(name)),
            Kind::Gateway => drop(self.gateways.remove(name)),
            Kind::GatewayClass => drop(self.gateway_classes.remove(name)),
        }
    }

    fn index(&mut self, object: &Object) {
        let key = object.key();
        if let Some(labels) = selectable_labels(object) {
            self.selectable.insert_each(&key, &labels);
        }
        if let Some(selector) = selector(object) {
            self.selecting.insert_first(&key, selector);
        }
        match object {
            Object::Pod(pod) => enter(&mut self.pods_of_account, account_of(pod), &key.name),
            Object::EndpointSlice(slice) => {
                if let Some(place) = service_of(slice) {
                    enter(&mut self.slices_of_service, place, &key.name);
                }
                for place in pods_of(slice) {
                    enter(&mut self.slices_of_pod, place, &key.name);
                }
            }
            Object::ServiceEntry(entry) => {
                for host in &entry.spec.hosts {
                    let places = self.entries_of_host.entry(host.clone()).or_default();
                    places.entry(key.name.namespace.clone()).or_default().insert(key.name.clone());
                }
            }
            _ => {}
        }
    }

    fn unindex(&mut self, object: &Object) {
        let key = object.key();
        if let Some(labels) = selectable_labels(object) {
            self.selectable.remove_each(&key, &labels);
        }
        if let Some(selector) = selector(object) {
            self.selecting.remove_first(&key, selector);
        }
        match object {
            Object::Pod(pod) => leave(&mut self.pods_of_account, &account_of(pod), &key.name),
            Object::EndpointSlice(slice) => {
                if let Some(place) = service_of(slice) {
                    leave(&mut self.slices_of_service, &place, &key.name);
                }
                for place in pods_of(slice) {
                    leave(&mut self.slices_of_pod, &place, &key.name);
                }
            }
            Object::ServiceEntry(entry) => {
                for host in &entry.spec.hosts {
                    let Some(places) = self.entries_of_host.get_mut(host) else { continue };
                    leave(places, &key.name.namespace, &key.name);
                    if places.is_empty() {
                        self.entries_of_host.remove(host);
                    }
                }
            }
            _ => {}
        }
    }

    /// Objects of one kind in a namespace (in all of them: `None`) whose labels match a non-empty selector.
    pub fn selected(&self, kind: Kind, namespace: Option<&Arc<str>>, selector: &Labels) -> Vec<ObjectKey> {
        let mut found = self.selectable.candidates(namespace, selector);
        found.retain(|key| {
            key.kind == kind && self.object(key).and_then(|object| selectable_labels(&object)).is_some_and(|labels| matches(selector, &labels))
        });
        found
    }

    /// Objects of one kind in a namespace whose selector matches these labels, in order of their names.
    pub fn selectors_of(&self, kind: Kind, namespace: &Arc<str>, labels: &Labels) -> Vec<ObjectKey> {
        let mut found = Vec::new();
        for pair in labels {
            for key in self.selecting.holding(pair, namespace) {
                let matching = |object| selector(&object).is_some_and(|selector| matches(selector, labels));
                if key.kind == kind && self.object(key).is_some_and(matching) {
                    found.push(key.clone());
                }
            }
        }
        found.sort();
        found
    }

    pub fn slices_of_service(&self, service: &NsName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices_of_service.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    pub fn slices_of_pod(&self, pod: &NsName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices_of_pod.get(pod).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    /// Pods that run as a service account, `namespace/account`.
    pub fn pods_of_account(&self, account: &NsName) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods_of_account.get(account).into_iter().flatten().filter_map(|name| self.pods.get(name))
    }

    /// ServiceEntries that claim a hostname, by namespace.
    pub fn entries_of_host(&self, host: &str) -> impl Iterator<Item = (&Arc<str>, impl Iterator<Item = &Arc<ServiceEntry>>)> {
        self.entries_of_host.get(host).into_iter().flatten().map(|(namespace, names)| {
            (namespace, names.iter().filter_map(|name| self.service_entries.get(name)))
        })
    }

    /// Objects of a shelf in one namespace.
    pub fn within<'a, T>(shelf: &'a Shelf<T>, namespace: &Arc<str>) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        let namespace = namespace.clone();
        let from = NsName { namespace: namespace.clone(), name: "".into() };
        shelf.range(from..).take_while(move |(name, _)| name.namespace == namespace).map(|(_, object)| object)
    }
}

/// The labels by which an object can be selected.
fn selectable_labels(object: &Object) -> Option<Labels> {
    match object {
        Object::Pod(pod) => Some(pod.meta.labels.clone()),
        Object::WorkloadEntry(entry) => Some(entry.labels()),
        // Policies select the inline endpoints of a ServiceEntry by the entry's own labels (spec/controlplane.md 4.8).
        Object::ServiceEntry(entry) => Some(entry.meta.labels.clone()),
        _ => None,
    }
}

/// The labels an object selects others by, if it selects by labels.
fn selector(object: &Object) -> Option<&Labels> {
    match object {
        Object::Service(service) => Some(&service.selector).filter(|selector| !selector.is_empty()),
        Object::ServiceEntry(entry) => entry.selector(),
        Object::AuthorizationPolicy(policy) => policy.selector(),
        Object::PeerAuthentication(policy) => policy.selector(),
        _ => None,
    }
}

fn account_of(pod: &Pod) -> NsName {
    NsName { namespace: pod.meta.namespace.clone(), name: pod.service_account.clone() }
}

fn service_of(slice: &EndpointSlice) -> Option<NsName> {
    slice.service.clone().map(|name| NsName { namespace: slice.meta.namespace.clone(), name })
}

fn pods_of(slice: &EndpointSlice) -> impl Iterator<Item = NsName> {
    let targets = slice.endpoints.iter().filter_map(|endpoint| endpoint.target.as_ref()).filter(|target| &*target.kind == "Pod");
    targets.map(|target| NsName { namespace: target.namespace.clone(), name: target.name.clone() })
}

fn enter<K: Ord>(index: &mut BTreeMap<K, BTreeSet<NsName>>, place: K, name: &NsName) {
    index.entry(place).or_default().insert(name.clone());
}

fn leave<K: Ord>(index: &mut BTreeMap<K, BTreeSet<NsName>>, place: &K, name: &NsName) {
    if let Some(names) = index.get_mut(place) {
        names.remove(name);
        if names.is_empty() {
            index.remove(place);
        }
    }
}
