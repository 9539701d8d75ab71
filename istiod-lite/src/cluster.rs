//! The objects as we hold them, and the questions about them that need an index: who is selected by these labels, who
//! selects them, who claims a hostname, which pods run as whom.
//!
//! `apply` takes one event and answers with what was there before. No I/O, no translation, no Kubernetes client.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use crate::objects::meta::matches;
use crate::objects::*;
use crate::pairs::Pairs;

pub mod attach;
mod labels;
mod scope;
mod shelves;
#[cfg(test)]
mod tests;

use labels::LabelIndex;
use scope::{Aside, Scope};
use shelves::{Shelf, Shelves};

/// What a source of objects tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Applied(Object),
    Deleted(ObjectKey),
}

impl Event {
    pub fn key(&self) -> ObjectKey {
        match self {
            Event::Applied(object) => object.key(),
            Event::Deleted(key) => key.clone(),
        }
    }
}

/// An object that is not as it was. At least one side is there.
#[derive(Clone, Debug)]
pub struct Change {
    pub key: ObjectKey,
    pub before: Option<Object>,
    pub after: Option<Object>,
}

/// What a policy is for, by the kind and the name that its targetRef has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub kind: Arc<str>,
    pub name: NsName,
}

#[derive(Debug)]
pub struct Cluster {
    scope: Scope,
    /// Where the mesh's configuration is.
    config: ObjectKey,
    /// Of the cluster's own names.
    domain: Arc<str>,
    aside: Aside,
    shelves: Shelves,

    selectable: LabelIndex,
    selecting: LabelIndex,
    slices_of_service: Pairs<NsName, NsName>,
    slices_of_pod: Pairs<NsName, NsName>,
    pods_of_account: Pairs<NsName, NsName>,
    /// What policies name in their targetRefs, to the policies.
    targeting: Pairs<Target, ObjectKey>,
    /// Network to the Gateways with its label.
    gateways_of_network: Pairs<Arc<str>, NsName>,
    /// Parent to the routes of the Gateway API that name it.
    routes_of_parent: Pairs<ObjectKey, ObjectKey>,
    /// Host as it is written, in full, to the VirtualServices and DestinationRules that are about it.
    virtual_services_of_host: Pairs<Arc<str>, NsName>,
    rules_of_host: Pairs<Arc<str>, NsName>,
    /// hostname -> namespace -> ServiceEntries that claim it. Services are found by their name.
    entries_of_host: BTreeMap<Arc<str>, BTreeMap<Arc<str>, BTreeSet<NsName>>>,
}

/// Objects are read where they lie; only `apply` changes them.
impl Deref for Cluster {
    type Target = Shelves;

    fn deref(&self) -> &Shelves {
        &self.shelves
    }
}

impl Cluster {
    /// A cluster without objects. `root` is the namespace of the mesh's own objects.
    /// `domain`: of the cluster's own names.
    pub fn new(revision: &str, root: &str, domain: &str) -> Cluster {
        let name = if revision == "default" { "istio".to_owned() } else { format!("istio-{revision}") };
        Cluster {
            scope: Scope { revision: revision.into(), root: root.into(), ..Scope::default() },
            config: ObjectKey::new(Kind::ConfigMap, root, &name),
            domain: domain.into(),
            aside: Aside::default(),
            shelves: Shelves::default(),
            selectable: LabelIndex::default(),
            selecting: LabelIndex::default(),
            slices_of_service: Pairs::default(),
            slices_of_pod: Pairs::default(),
            pods_of_account: Pairs::default(),
            targeting: Pairs::default(),
            gateways_of_network: Pairs::default(),
            routes_of_parent: Pairs::default(),
            virtual_services_of_host: Pairs::default(),
            rules_of_host: Pairs::default(),
            entries_of_host: BTreeMap::new(),
        }
    }

    /// Takes one event and answers with what is not as it was: nothing that we look at, the object itself, or, when the
    /// event decides on what is looked at, all objects that came into sight or went out of it.
    pub fn apply(&mut self, event: Event) -> Vec<Change> {
        let Some(change) = self.place(event) else { return Vec::new() };
        let mut changes = vec![change];
        for namespace in self.rescoped(&changes[0]) {
            self.sort_anew(&namespace, &mut changes);
        }
        changes
    }

    fn place(&mut self, event: Event) -> Option<Change> {
        let (key, object) = match event {
            Event::Applied(object) => (object.key(), Some(object)),
            Event::Deleted(key) => (key, None),
        };
        self.aside.take(&key);
        let (after, aside) = object.map_or((None, None), |object| if self.takes(&object) { (Some(object), None) } else { (None, Some(object)) });
        if let Some(object) = aside {
            self.aside.put(object);
        }
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
                self.shelves.hold(&key.name, after);
            }
            None => self.shelves.remove(&key),
        }
        Some(Change { key, before, after })
    }

    fn takes(&self, object: &Object) -> bool {
        self.scope.takes(object, self.labels_of_namespace(&object.meta().namespace))
    }

    /// `None`: the namespace is not known.
    pub fn labels_of_namespace(&self, namespace: &Arc<str>) -> Option<&Labels> {
        let name = NsName { namespace: "".into(), name: namespace.clone() };
        self.namespaces.get(&name).map(|namespace| &namespace.meta.labels)
    }

    /// Takes notice of a change that decides on what is looked at, and names the namespaces to look at anew.
    fn rescoped(&mut self, change: &Change) -> BTreeSet<Arc<str>> {
        let next = match change.key.kind {
            Kind::Namespace if self.scope.hangs_on_namespaces() => return BTreeSet::from([change.key.name.name.clone()]),
            Kind::ConfigMap if change.key == self.config => Scope { config: self.configured(), ..self.scope.clone() },
            Kind::Service if change.key.name.namespace == self.scope.root => Scope { tags: self.tags(), ..self.scope.clone() },
            _ => return BTreeSet::new(),
        };
        if next == self.scope {
            return BTreeSet::new();
        }
        self.scope = next;
        self.held(None).into_iter().map(|key| key.name.namespace).chain(self.aside.namespaces().cloned()).collect()
    }

    /// Objects of a namespace that come into sight or go out of it.
    fn sort_anew(&mut self, namespace: &Arc<str>, changes: &mut Vec<Change>) {
        let held = self.held(Some(namespace)).into_iter().filter_map(|key| self.object(&key)).filter(|object| !self.takes(object));
        let moving: Vec<Object> = held.chain(self.aside.within(namespace).filter(|object| self.takes(object)).cloned()).collect();
        changes.extend(moving.into_iter().filter_map(|object| self.place(Event::Applied(object))));
    }

    /// The configuration of the mesh that is in force.
    pub fn mesh_config(&self) -> Arc<MeshConfig> {
        self.scope.config.clone()
    }

    fn configured(&self) -> Arc<MeshConfig> {
        self.config_maps.get(&self.config.name).and_then(|map| map.mesh.clone()).map(Arc::new).unwrap_or_default()
    }

    /// The ConfigMap that holds the configuration of the mesh.
    pub fn config_key(&self) -> &ObjectKey {
        &self.config
    }

    /// Our revision and its other names.
    pub fn revisions(&self) -> BTreeSet<Arc<str>> {
        self.scope.tags.iter().chain([&self.scope.revision]).cloned().collect()
    }

    /// Objects that are kept and not looked at.
    pub fn aside(&self) -> impl Iterator<Item = &Object> {
        self.aside.objects()
    }

    /// Other names of our revision: each is a Service of the field's charts with both labels.
    fn tags(&self) -> BTreeSet<Arc<str>> {
        let services = Self::within(&self.services, &self.scope.root);
        let ours = services.filter(|service| service.meta.label("istio.io/rev") == Some(&self.scope.revision));
        ours.filter_map(|service| service.meta.labels.get("istio.io/tag").cloned()).collect()
    }

    /// Every object that is looked at.
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        self.held(None).into_iter().filter_map(|key| self.object(&key))
    }

    /// The keys of all objects of a namespace; `None`: of all objects.
    fn held(&self, namespace: Option<&Arc<str>>) -> Vec<ObjectKey> {
        let of_kind = |kind| self.names(kind, namespace).map(move |name| ObjectKey { kind, name: name.clone() });
        Kind::ALL.into_iter().flat_map(of_kind).collect()
    }

    fn index(&mut self, object: &Object) {
        let key = object.key();
        for parent in attach::parents(object) {
            self.routes_of_parent.insert(parent, key.clone());
        }
        if let Some(labels) = selectable_labels(object) {
            self.selectable.insert_each(&key, &labels);
        }
        if let Some(selector) = selector(object) {
            self.selecting.insert_first(&key, selector);
        }
        for target in targets_of(object) {
            self.targeting.insert(target, key.clone());
        }
        match object {
            Object::Pod(pod) => self.pods_of_account.insert(account_of(pod), key.name),
            Object::Gateway(gateway) => {
                if let Some(network) = network_of(gateway) {
                    self.gateways_of_network.insert(network.clone(), key.name);
                }
            }
            Object::EndpointSlice(slice) => {
                if let Some(place) = service_of(slice) {
                    self.slices_of_service.insert(place, key.name.clone());
                }
                for place in pods_of(slice) {
                    self.slices_of_pod.insert(place, key.name.clone());
                }
            }
            Object::VirtualService(found) => {
                for host in &found.spec.hosts {
                    self.virtual_services_of_host.insert(attach::full_host(host, &key.name.namespace, &self.domain), key.name.clone());
                }
            }
            Object::DestinationRule(rule) => self.rules_of_host.insert(attach::full_host(&rule.spec.host, &key.name.namespace, &self.domain), key.name),
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
        for parent in attach::parents(object) {
            self.routes_of_parent.remove(parent, key.clone());
        }
        if let Some(labels) = selectable_labels(object) {
            self.selectable.remove_each(&key, &labels);
        }
        if let Some(selector) = selector(object) {
            self.selecting.remove_first(&key, selector);
        }
        for target in targets_of(object) {
            self.targeting.remove(target, key.clone());
        }
        match object {
            Object::Pod(pod) => self.pods_of_account.remove(account_of(pod), key.name),
            Object::Gateway(gateway) => {
                if let Some(network) = network_of(gateway) {
                    self.gateways_of_network.remove(network.clone(), key.name);
                }
            }
            Object::EndpointSlice(slice) => {
                if let Some(place) = service_of(slice) {
                    self.slices_of_service.remove(place, key.name.clone());
                }
                for place in pods_of(slice) {
                    self.slices_of_pod.remove(place, key.name.clone());
                }
            }
            Object::VirtualService(found) => {
                for host in &found.spec.hosts {
                    self.virtual_services_of_host.remove(attach::full_host(host, &key.name.namespace, &self.domain), key.name.clone());
                }
            }
            Object::DestinationRule(rule) => self.rules_of_host.remove(attach::full_host(&rule.spec.host, &key.name.namespace, &self.domain), key.name),
            Object::ServiceEntry(entry) => {
                for host in &entry.spec.hosts {
                    let Some(places) = self.entries_of_host.get_mut(host) else { continue };
                    if let Some(names) = places.get_mut(&key.name.namespace) {
                        names.remove(&key.name);
                        if names.is_empty() {
                            places.remove(&key.name.namespace);
                        }
                    }
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
        for pair in labels.iter() {
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
        self.slices_of_service.of(service).filter_map(|name| self.slices.get(name))
    }

    pub fn slices_of_pod(&self, pod: &NsName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices_of_pod.of(pod).filter_map(|name| self.slices.get(name))
    }

    /// Pods that run as a service account, `namespace/account`.
    pub fn pods_of_account(&self, account: &NsName) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods_of_account.of(account).filter_map(|name| self.pods.get(name))
    }

    /// Whether any policy has targetRefs.
    pub fn has_targets(&self) -> bool {
        !self.targeting.is_empty()
    }

    /// Policies that name this in their targetRefs, in order of their names.
    pub fn policies_of(&self, target: &Target) -> impl Iterator<Item = &ObjectKey> {
        self.targeting.of(target)
    }

    /// Gateways with the label of a network.
    pub fn gateways_of_network(&self, network: &Arc<str>) -> impl Iterator<Item = &Arc<Gateway>> {
        self.gateways_of_network.of(network).filter_map(|name| self.gateways.get(name))
    }

    /// Routes of the Gateway API that name a parent, by kind.
    pub fn routes_of_parent(&self, parent: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.routes_of_parent.of(parent)
    }

    /// VirtualServices that name a host in full, or so that it means it.
    pub fn virtual_services_of_host(&self, host: &Arc<str>) -> impl Iterator<Item = &Arc<VirtualService>> {
        self.virtual_services_of_host.of(host).filter_map(|name| self.virtual_services.get(name))
    }

    /// DestinationRules for exactly this host, which may be a wildcard.
    pub fn rules_of_host(&self, host: &Arc<str>) -> impl Iterator<Item = &Arc<DestinationRule>> {
        self.rules_of_host.of(host).filter_map(|name| self.destination_rules.get(name))
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

/// What the targetRefs of a policy name. A class has no namespace; everything else lies, if nothing is said, in the
/// policy's own.
pub fn targets_of(object: &Object) -> Vec<Target> {
    let (meta, targets): (_, Vec<_>) = match object {
        Object::AuthorizationPolicy(policy) => (&policy.meta, policy.targets().collect()),
        Object::RequestAuthentication(policy) => (&policy.meta, policy.targets().collect()),
        _ => return Vec::new(),
    };
    let target = |target: &&policy::TargetRef| {
        let namespace = if &*target.kind == "GatewayClass" { "".into() } else { target.namespace.clone().unwrap_or_else(|| meta.namespace.clone()) };
        Target { kind: target.kind.clone(), name: NsName { namespace, name: target.name.clone() } }
    };
    targets.iter().map(target).collect()
}

/// The network that a Gateway leads to.
pub fn network_of(gateway: &Gateway) -> Option<&Arc<str>> {
    gateway.meta.labels.get("topology.istio.io/network").filter(|network| !network.is_empty())
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
