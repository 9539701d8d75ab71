//! What a controller has to tell, as an immutable snapshot: resources by type and name, each encoded once, with the
//! indexes that look-ups by name need. One writer publishes, every stream reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use mesh_model::service::Service;
use mesh_model::workload::{PolicyKey, Workload};
use mesh_policy::Policy;
use mesh_runtime::{Publisher, Watched, watched};
use prost::Message;
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use tokio::time::Instant;

use crate::messages::{ADDRESS, AUTHORIZATION};
use crate::recent::{Recent, Touching};
use crate::wire;

/// One resource, ready to be sent: its bytes are shared by all streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub name: Arc<str>,
    /// Hash of the bytes: equal on every replica.
    pub version: Arc<str>,
    pub body: Bytes,
    /// Other names under which it may be asked for.
    pub aliases: Vec<Arc<str>>,
    /// Services (by name) that it is an endpoint of: whoever asks for one of them is told of this too.
    pub services: Vec<Arc<str>>,
    /// The node it runs on: the clients of that node are always told of it.
    pub node: Option<Arc<str>>,
    /// Who may see it, any of these (`Scope::audiences`); `None`: everybody who may see its type.
    pub audiences: Option<Vec<Arc<str>>>,
    pub is_service: bool,
}

/// One change to the catalog.
#[derive(Clone, Debug)]
pub enum Update {
    Put(&'static str, Offer),
    Remove(&'static str, Arc<str>),
}

#[derive(Clone, Debug, Default)]
pub struct Catalog {
    shelves: BTreeMap<&'static str, Shelf>,
    ready: bool,
    epoch: u64,
    recent: Recent<Names>,
}

/// All resources of one type.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    by_name: RedBlackTreeMapSync<Arc<str>, Arc<Offer>>,
    by_alias: Index,
    by_service: Index,
    by_node: Index,
}

#[derive(Clone, Debug, Default)]
struct Index(RedBlackTreeMapSync<Arc<str>, RedBlackTreeSetSync<Arc<str>>>);

/// The names that one publication changed, by type, and when that was.
#[derive(Debug)]
struct Names {
    by_type: BTreeMap<&'static str, BTreeSet<Arc<str>>>,
    at: Instant,
}

#[derive(Debug)]
pub struct CatalogWriter {
    publisher: Publisher<Catalog>,
    draft: Catalog,
}

/// An empty catalog that is not ready: streams are refused until `mark_ready`, because an empty answer would mean
/// "there is nothing".
pub fn catalog() -> (CatalogWriter, Watched<Catalog>) {
    let (publisher, watched) = watched(Catalog::default());
    (CatalogWriter { publisher, draft: Catalog::default() }, watched)
}

impl Offer {
    /// A resource of any type, visible to all.
    pub fn new(name: &str, body: Bytes) -> Offer {
        Offer {
            name: name.into(),
            version: wire::version_of(&body).into(),
            body,
            aliases: Vec::new(),
            services: Vec::new(),
            node: None,
            audiences: None,
            is_service: false,
        }
    }

    pub fn workload(workload: &Workload) -> Offer {
        let body = wire::encode_workload(workload).encode_to_vec();
        Offer {
            aliases: workload.network_addresses().map(|address| address.to_string().into()).collect(),
            services: workload.services.keys().map(|key| key.to_string().into()).collect(),
            node: Some(workload.node.clone()).filter(|node| !node.is_empty()),
            ..Offer::new(&workload.uid.0, body.into())
        }
    }

    pub fn service(service: &Service) -> Offer {
        let body = wire::encode_service(service).encode_to_vec();
        let vips = service.vips.iter().map(|vip| vip.to_string().into());
        let ranges = service.cidr_vips.iter().map(|range| range.to_string().into());
        Offer {
            aliases: vips.chain(ranges).collect(),
            is_service: true,
            ..Offer::new(&service.key().to_string(), body.into())
        }
    }

    pub fn policy(key: &PolicyKey, policy: &Policy) -> Offer {
        Offer::new(&key.0, wire::encode_policy(policy).encode_to_vec().into())
    }
}

impl Update {
    pub fn workload(workload: &Workload) -> Update {
        Update::Put(ADDRESS, Offer::workload(workload))
    }

    pub fn service(service: &Service) -> Update {
        Update::Put(ADDRESS, Offer::service(service))
    }

    pub fn policy(key: &PolicyKey, policy: &Policy) -> Update {
        Update::Put(AUTHORIZATION, Offer::policy(key, policy))
    }

    /// `name`: a workload's uid or a service's `namespace/hostname`.
    pub fn remove_address(name: &str) -> Update {
        Update::Remove(ADDRESS, name.into())
    }

    pub fn remove_policy(key: &PolicyKey) -> Update {
        Update::Remove(AUTHORIZATION, key.0.clone())
    }
}

impl CatalogWriter {
    /// Makes the changes and publishes them at once. What is equal to what is there changes nothing and wakes nobody.
    pub fn apply(&mut self, updates: impl IntoIterator<Item = Update>) {
        let mut names = Names { by_type: BTreeMap::new(), at: Instant::now() };
        for update in updates {
            let (type_url, name, offer) = match update {
                Update::Put(type_url, offer) => (type_url, offer.name.clone(), Some(offer)),
                Update::Remove(type_url, name) => (type_url, name, None),
            };
            if self.draft.shelves.entry(type_url).or_default().set(&name, offer) {
                names.by_type.entry(type_url).or_default().insert(name);
            }
        }
        if names.keys() > 0 {
            self.draft.recent.push(names);
            self.publisher.publish(self.draft.clone());
        }
    }

    /// From now on the catalog is complete and may be told.
    pub fn mark_ready(&mut self) {
        if !std::mem::replace(&mut self.draft.ready, true) {
            self.publisher.publish(self.draft.clone());
        }
    }

    /// The generation of the leader whose decisions these are. Clients that heard from a later one do not take what an
    /// earlier one says, so a controller that was cut off cannot roll the mesh back. 0, the default: there are no
    /// generations.
    pub fn set_epoch(&mut self, epoch: u64) {
        if self.draft.epoch != epoch {
            self.draft.epoch = epoch;
            self.publisher.publish(self.draft.clone());
        }
    }

    pub fn catalog(&self) -> &Catalog {
        &self.draft
    }

    pub fn watch(&self) -> Watched<Catalog> {
        self.publisher.watch()
    }
}

impl Catalog {
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Counts publications.
    pub fn version(&self) -> u64 {
        self.recent.version()
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn shelf(&self, type_url: &str) -> Option<&Shelf> {
        self.shelves.get(type_url)
    }

    pub fn types(&self) -> impl Iterator<Item = &'static str> {
        self.shelves.keys().copied()
    }

    /// When the first change after `earlier` was published, as far back as is remembered.
    pub(crate) fn changed_at(&self, earlier: u64) -> Option<Instant> {
        self.recent.first_since(earlier).map(|names| names.at)
    }

    /// The names of a type that may differ between `earlier` and this.
    pub(crate) fn changed_since(&self, earlier: &Catalog, type_url: &str) -> BTreeSet<Arc<str>> {
        if let Some(batches) = self.recent.since(earlier.version()) {
            return batches.iter().filter_map(|batch| batch.by_type.get(type_url)).flatten().cloned().collect();
        }
        let all = |catalog: &Catalog| -> Vec<Arc<str>> {
            catalog.shelf(type_url).map(|shelf| shelf.by_name.keys().cloned().collect()).unwrap_or_default()
        };
        all(earlier).into_iter().chain(all(self)).collect()
    }
}

impl Shelf {
    pub fn offer(&self, name: &str) -> Option<&Arc<Offer>> {
        self.by_name.get(name)
    }

    pub fn offers(&self) -> impl Iterator<Item = &Arc<Offer>> {
        self.by_name.values()
    }

    pub fn len(&self) -> usize {
        self.by_name.size()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// What a name asked for on demand means: the resource of that name, else the workloads at that address, else the
    /// services at it (spec/controlplane.md 2.6).
    pub fn find(&self, asked: &str) -> Vec<&Arc<Offer>> {
        if let Some(offer) = self.offer(asked) {
            return vec![offer];
        }
        let hits: Vec<_> = self.resolve(self.by_alias.at(asked)).collect();
        let workloads: Vec<_> = hits.iter().copied().filter(|offer| !offer.is_service).collect();
        if workloads.is_empty() { hits } else { workloads }
    }

    /// The endpoints of a service, by its name.
    pub fn endpoints<'a>(&'a self, service: &str) -> impl Iterator<Item = &'a Arc<Offer>> {
        self.resolve(self.by_service.at(service))
    }

    pub fn on_node<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Arc<Offer>> {
        self.resolve(self.by_node.at(node))
    }

    fn resolve<'a>(&'a self, names: impl Iterator<Item = &'a Arc<str>>) -> impl Iterator<Item = &'a Arc<Offer>> {
        names.filter_map(|name| self.by_name.get(name))
    }

    /// Puts or takes; whether anything differs now.
    fn set(&mut self, name: &Arc<str>, offer: Option<Offer>) -> bool {
        let old = self.by_name.get(name).cloned();
        if old.as_deref() == offer.as_ref() {
            return false;
        }
        if let Some(old) = old {
            for (index, key) in self.keys(&old) {
                self.index(index).take(&key, name);
            }
            self.by_name.remove_mut(name);
        }
        if let Some(offer) = offer {
            for (index, key) in self.keys(&offer) {
                self.index(index).put(key, name);
            }
            self.by_name.insert_mut(name.clone(), Arc::new(offer));
        }
        true
    }

    fn keys(&self, offer: &Offer) -> Vec<(Which, Arc<str>)> {
        let aliases = offer.aliases.iter().map(|alias| (Which::Alias, alias.clone()));
        let services = offer.services.iter().map(|service| (Which::Service, service.clone()));
        let node = offer.node.iter().map(|node| (Which::Node, node.clone()));
        aliases.chain(services).chain(node).collect()
    }

    fn index(&mut self, which: Which) -> &mut Index {
        match which {
            Which::Alias => &mut self.by_alias,
            Which::Service => &mut self.by_service,
            Which::Node => &mut self.by_node,
        }
    }
}

#[derive(Clone, Copy)]
enum Which {
    Alias,
    Service,
    Node,
}

impl Index {
    fn at<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a Arc<str>> {
        self.0.get(key).into_iter().flat_map(|names| names.iter())
    }

    fn put(&mut self, key: Arc<str>, name: &Arc<str>) {
        match self.0.get_mut(&key) {
            Some(names) => names.insert_mut(name.clone()),
            None => self.0.insert_mut(key, RedBlackTreeSetSync::new_sync().insert(name.clone())),
        }
    }

    fn take(&mut self, key: &str, name: &str) {
        let Some(names) = self.0.get_mut(key) else { return };
        names.remove_mut(name);
        if names.is_empty() {
            self.0.remove_mut(key);
        }
    }
}

impl Touching for Names {
    fn keys(&self) -> usize {
        self.by_type.values().map(BTreeSet::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::address::{NamespacedHostname, NetworkAddress};

    use super::*;

    fn workload(uid: &str, ip: &str, service: &str) -> Workload {
        let mut workload = Workload::named(uid, "shop", uid);
        workload.addresses = vec![ip.parse().unwrap()];
        workload.node = "a".into();
        workload.services = [(NamespacedHostname::parse(service).unwrap(), BTreeMap::new())].into();
        workload
    }

    fn names<'a>(offers: impl IntoIterator<Item = &'a Arc<Offer>>) -> Vec<&'a str> {
        offers.into_iter().map(|offer| &*offer.name).collect()
    }

    #[test]
    fn a_name_is_found_by_uid_by_address_and_by_vip_and_leaves_no_trace() {
        let (mut writer, watched) = catalog();
        let mut web = Service::named("shop", "web");
        web.vips = vec![NetworkAddress::new("", "10.0.0.1".parse().unwrap()), NetworkAddress::new("", "10.96.0.1".parse().unwrap())];
        writer.apply([Update::service(&web), Update::workload(&workload("w1", "10.0.0.1", "shop/web"))]);
        let now = watched.load();
        let shelf = now.shelf(ADDRESS).unwrap();
        for (asked, found) in
            [("w1", vec!["w1"]), ("shop/web", vec!["shop/web"]), ("/10.0.0.1", vec!["w1"]), ("/10.96.0.1", vec!["shop/web"]), ("/10.0.0.9", vec![])]
        {
            assert_eq!(names(shelf.find(asked)), found, "{asked}");
        }
        assert_eq!((names(shelf.endpoints("shop/web")), names(shelf.on_node("a"))), (vec!["w1"], vec!["w1"]));

        let mut moved = workload("w1", "10.0.0.2", "shop/other");
        moved.node = "b".into();
        writer.apply([Update::workload(&moved)]);
        let now = watched.load();
        let shelf = now.shelf(ADDRESS).unwrap();
        assert_eq!(names(shelf.find("/10.0.0.1")), ["shop/web"], "the service's VIP is left");
        assert_eq!((names(shelf.endpoints("shop/web")), names(shelf.on_node("a"))), (vec![], vec![]));

        writer.apply([Update::remove_address("w1"), Update::remove_address("shop/web")]);
        let now = watched.load();
        let shelf = now.shelf(ADDRESS).unwrap();
        assert!(shelf.is_empty() && shelf.by_alias.0.is_empty() && shelf.by_service.0.is_empty() && shelf.by_node.0.is_empty());
    }

    #[test]
    fn what_is_equal_wakes_nobody() {
        let (mut writer, mut watched) = catalog();
        writer.apply([Update::workload(&workload("w1", "10.0.0.1", "shop/web"))]);
        watched.see();
        writer.apply([Update::workload(&workload("w1", "10.0.0.1", "shop/web")), Update::remove_address("unknown")]);
        assert!(!watched.has_changed() && watched.load().version() == 1);
    }

    #[test]
    fn names_changed_are_remembered_or_else_all_are_named() {
        let (mut writer, watched) = catalog();
        let at_first = watched.load();
        writer.apply([Update::workload(&workload("w1", "10.0.0.1", "shop/web"))]);
        let then = watched.load();
        writer.apply([Update::workload(&workload("w2", "10.0.0.2", "shop/web")), Update::remove_address("w1")]);
        let changed = |since: &Catalog| watched.load().changed_since(since, ADDRESS).iter().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!((changed(&at_first), changed(&then)), (vec!["w1".into(), "w2".into()], vec!["w1".to_string(), "w2".into()]));
        for i in 0..=crate::recent::BATCHES {
            writer.apply([Update::workload(&workload("w3", &format!("10.1.{}.{}", i >> 8, i & 255), "shop/web"))]);
        }
        assert_eq!(changed(&then), ["w1", "w2", "w3"], "all of both");
        assert!(watched.load().changed_since(&then, AUTHORIZATION).is_empty());
    }
}
