//! `Directory`: who is where. An immutable snapshot on persistent maps: a clone is a few pointers, a change copies a path.
//!
//! Here: the indexes of spec/dataplane.md 5.1, visibility and tie-breaks. Not here: which endpoint of a service is taken
//! (`balance`), policy, time. What a lookup answers depends on the resources alone, never on the order in which they came:
//! where the field says "the first" we say the smallest key (spec/reliability.md F-21).

mod cidr;
mod members;
mod places;

use std::net::IpAddr;
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

use self::cidr::CidrVips;
use self::members::Members;
pub use self::members::Roster;
use self::places::Places;
use crate::address::{NamespacedHostname, NetworkAddress};
use crate::change::{Change, Touched};
use crate::index::Index;
use crate::service::{HealthPolicy, Service};
use crate::workload::{Health, NetworkMode, TunnelProtocol, Uid, Workload};

/// Workloads, services and every way of finding them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    workloads: RedBlackTreeMapSync<Uid, Arc<Workload>>,
    services: RedBlackTreeMapSync<NamespacedHostname, Arc<Service>>,
    /// Every workload that names the service, whether the service is known yet or not. Health is looked at when asked,
    /// so a service that switches its health policy has the right endpoints at once.
    endpoints: RedBlackTreeMapSync<NamespacedHostname, Members>,
    workloads_by_address: Index<NetworkAddress, Uid, Workload>,
    workloads_by_hostname: Index<NamespacedHostname, Uid, Workload>,
    places: Places,
    services_by_vip: Index<NetworkAddress, NamespacedHostname, Service>,
    services_by_cidr: CidrVips,
    services_by_hostname: Index<Arc<str>, NamespacedHostname, Service>,
}

/// What an address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressed<'d> {
    Workload(&'d Arc<Workload>),
    Service(&'d Arc<Service>),
}

/// Where a pod says it is: how the node's own workloads are found (spec/dataplane.md 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnWorkload {
    /// `None` when the daemon has no node name: any node will do.
    pub node: Option<Arc<str>>,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    pub name: Arc<str>,
}

impl Default for Directory {
    fn default() -> Directory {
        Directory::new()
    }
}

impl Directory {
    pub fn new() -> Directory {
        Directory {
            workloads: RedBlackTreeMapSync::new_sync(),
            services: RedBlackTreeMapSync::new_sync(),
            endpoints: RedBlackTreeMapSync::new_sync(),
            workloads_by_address: Index::default(),
            workloads_by_hostname: Index::default(),
            places: Places::default(),
            services_by_vip: Index::default(),
            services_by_cidr: CidrVips::default(),
            services_by_hostname: Index::default(),
        }
    }

    /// Makes the change and says which keys it touched; nothing is touched when nothing differs.
    pub fn apply(&mut self, change: Change) -> Touched {
        let mut touched = Touched::default();
        match change {
            Change::Workload(workload) => self.put_workload(workload, &mut touched),
            Change::Service(service) => self.put_service(service, &mut touched),
            Change::Remove(name) => {
                self.take_workload(&Uid(name.clone()), &mut touched);
                if let Some(key) = NamespacedHostname::parse(&name) {
                    self.take_service(&key, &mut touched);
                }
            }
        }
        touched
    }

    // --- workloads

    pub fn workload(&self, uid: &Uid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// All workloads, by uid.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    pub fn workload_count(&self) -> usize {
        self.workloads.size()
    }

    /// The workload at an address. Several may share one: a pod is preferred, then one that speaks HBONE, then the
    /// smallest uid. Host-network workloads are never found by address, since the node's address is not theirs alone.
    pub fn workload_at(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        let preference =
            |workload: &Workload| (workload.uid.0.contains("//Pod/"), workload.tunnel_protocol == TunnelProtocol::Hbone);
        first_best(self.workloads_by_address.at(address), preference)
    }

    /// Every workload at an address, by uid.
    pub fn workloads_at<'d>(&'d self, address: &NetworkAddress) -> impl Iterator<Item = &'d Arc<Workload>> + use<'d> {
        self.workloads_by_address.at(address)
    }

    /// The workload that has this hostname of its own, in this namespace (smallest uid if several).
    pub fn workload_named(&self, name: &NamespacedHostname) -> Option<&Arc<Workload>> {
        self.workloads_by_hostname.at(name).next()
    }

    /// The workload of a pod of this node, by what the node agent says about it (smallest uid if several).
    pub fn own_workload(&self, own: &OwnWorkload) -> Option<&Arc<Workload>> {
        self.places.workloads(own.node.as_ref(), &own.namespace, &own.service_account).find(|workload| workload.name == own.name)
    }

    /// The workloads of this identity on the node (`None`: on any node), by node and uid. The trust domain is not compared.
    pub fn workloads_of<'d>(
        &'d self,
        node: Option<&Arc<str>>,
        namespace: &Arc<str>,
        service_account: &Arc<str>,
    ) -> impl Iterator<Item = &'d Arc<Workload>> + use<'d> {
        self.places.workloads(node, namespace, service_account)
    }

    // --- services

    pub fn service(&self, key: &NamespacedHostname) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// All services, by namespace and hostname.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    pub fn service_count(&self) -> usize {
        self.services.size()
    }

    /// The service that owns a VIP, as this client sees it: own namespace, then canonical, then the smallest key. Ranges
    /// of VIPs are asked only when no visible service owns the address itself. `None` as the client's namespace: every
    /// service is visible and no namespace is preferred.
    pub fn service_at(&self, address: &NetworkAddress, client_namespace: Option<&str>) -> Option<&Arc<Service>> {
        let exact = self.services_by_vip.at(address).filter(|service| visible(service, client_namespace));
        first_best(exact, |service| (at_home(service, client_namespace), service.canonical))
            .or_else(|| self.services_by_cidr.find(address, client_namespace))
    }

    /// Every service with this hostname, by namespace. DNS names do not differ by case.
    pub fn services_named<'d>(&'d self, hostname: &str) -> impl Iterator<Item = &'d Arc<Service>> + use<'d> {
        self.services_by_hostname.at(&folded(hostname))
    }

    /// The service that a bare hostname means to this client: own namespace, then canonical, then `preferred_namespace`
    /// (DNS only), then the smallest namespace.
    pub fn service_named(
        &self,
        hostname: &str,
        client_namespace: Option<&str>,
        preferred_namespace: Option<&str>,
    ) -> Option<&Arc<Service>> {
        let candidates = self.services_named(hostname).filter(|service| visible(service, client_namespace));
        first_best(candidates, |service| {
            (at_home(service, client_namespace), service.canonical, preferred_namespace == Some(&*service.namespace))
        })
    }

    // --- endpoints

    /// The endpoints that a connection may be given: healthy ones, or all when the service says so. By uid.
    pub fn endpoints<'d>(&'d self, service: &Service) -> impl Iterator<Item = &'d Arc<Workload>> + use<'d> {
        let unhealthy_too = service.load_balancing.health_policy == HealthPolicy::AllowAll;
        self.members(&service.key()).filter(move |workload| unhealthy_too || workload.status == Health::Healthy)
    }

    /// Every workload that names this service, healthy or not, whether the service itself is known or not. By uid.
    pub fn members<'d>(&'d self, service: &NamespacedHostname) -> impl Iterator<Item = &'d Arc<Workload>> + use<'d> {
        self.endpoints.get(service).into_iter().flat_map(Members::iter)
    }

    /// The members as a list; `None` when nobody names the service. The same list as before means: the same members.
    pub fn roster(&self, service: &NamespacedHostname) -> Option<&Arc<Roster>> {
        self.endpoints.get(service).map(Members::roster)
    }

    /// Whether the workload is a member of the service.
    pub fn is_member(&self, service: &NamespacedHostname, uid: &Uid) -> bool {
        self.endpoints.get(service).is_some_and(|members| members.contains(uid))
    }

    /// The services that workloads name and that have not come: their endpoints wait for them.
    pub fn staged(&self) -> impl Iterator<Item = &NamespacedHostname> {
        self.endpoints.keys().filter(|key| !self.services.contains_key(*key))
    }

    // --- both

    /// What a workload's own namespace sees at an address: a workload, else a service (spec/dataplane.md 5.2 step 3).
    pub fn at(&self, address: &NetworkAddress, client_namespace: Option<&str>) -> Option<Addressed<'_>> {
        self.workload_at(address)
            .map(Addressed::Workload)
            .or_else(|| self.service_at(address, client_namespace).map(Addressed::Service))
    }

    // --- changes

    fn put_workload(&mut self, workload: Arc<Workload>, touched: &mut Touched) {
        if self.workloads.get(&workload.uid).is_some_and(|old| *old == workload) {
            return;
        }
        self.take_workload(&workload.uid, touched);
        touched.workload(&workload);
        for address in workload.network_addresses() {
            self.workloads_by_address.put(address, workload.uid.clone(), workload.clone());
        }
        if let Some(name) = workload.own_hostname() {
            self.workloads_by_hostname.put(name, workload.uid.clone(), workload.clone());
        }
        self.places.put(&workload);
        for service in workload.services.keys() {
            if !self.endpoints.contains_key(service) {
                self.endpoints.insert_mut(service.clone(), Members::default());
            }
            if let Some(members) = self.endpoints.get_mut(service) {
                members.put(workload.clone());
            }
        }
        self.workloads.insert_mut(workload.uid.clone(), workload);
    }

    fn take_workload(&mut self, uid: &Uid, touched: &mut Touched) {
        let Some(old) = self.workloads.get(uid).cloned() else { return };
        touched.workload(&old);
        self.workloads.remove_mut(uid);
        for address in old.network_addresses() {
            self.workloads_by_address.take(&address, uid);
        }
        if let Some(name) = old.own_hostname() {
            self.workloads_by_hostname.take(&name, uid);
        }
        self.places.take(&old);
        for service in old.services.keys() {
            let Some(members) = self.endpoints.get_mut(service) else { continue };
            members.take(uid);
            if members.is_empty() {
                self.endpoints.remove_mut(service);
            }
        }
    }

    fn put_service(&mut self, service: Arc<Service>, touched: &mut Touched) {
        let key = service.key();
        if self.services.get(&key).is_some_and(|old| *old == service) {
            return;
        }
        self.take_service(&key, touched);
        touched.service(&service);
        for vip in &service.vips {
            self.services_by_vip.put(vip.clone(), key.clone(), service.clone());
        }
        for range in &service.cidr_vips {
            self.services_by_cidr.put(range, &key, &service);
        }
        self.services_by_hostname.put(folded(&service.hostname), key.clone(), service.clone());
        self.services.insert_mut(key, service);
    }

    fn take_service(&mut self, key: &NamespacedHostname, touched: &mut Touched) {
        let Some(old) = self.services.get(key).cloned() else { return };
        touched.service(&old);
        self.services.remove_mut(key);
        for vip in &old.vips {
            self.services_by_vip.take(vip, key);
        }
        for range in &old.cidr_vips {
            self.services_by_cidr.take(range, key);
        }
        self.services_by_hostname.take(&folded(&old.hostname), key);
    }
}

impl Workload {
    /// The keys under which the workload is found by address: none for a host-network one.
    pub fn network_addresses(&self) -> impl Iterator<Item = NetworkAddress> + '_ {
        let indexed: &[IpAddr] = if self.network_mode == NetworkMode::HostNetwork { &[] } else { &self.addresses };
        indexed.iter().map(|ip| NetworkAddress { network: self.network.clone(), ip: *ip })
    }

    fn own_hostname(&self) -> Option<NamespacedHostname> {
        (!self.hostname.is_empty())
            .then(|| NamespacedHostname { namespace: self.namespace.clone(), hostname: self.hostname.clone() })
    }
}

/// Where no client is given, nothing is filtered.
fn visible(service: &Service, client_namespace: Option<&str>) -> bool {
    client_namespace.is_none_or(|client| service.is_visible_to(client))
}

fn at_home(service: &Service, client_namespace: Option<&str>) -> bool {
    client_namespace == Some(&*service.namespace)
}

/// The item of the highest rank; the first of them when several are equal (`max_by_key` would take the last).
fn first_best<'d, T, R: Ord>(items: impl Iterator<Item = &'d Arc<T>>, rank: impl Fn(&T) -> R) -> Option<&'d Arc<T>> {
    let mut best: Option<(&Arc<T>, R)> = None;
    for item in items {
        let rank_of_item = rank(item);
        if best.as_ref().is_none_or(|(_, rank_of_best)| rank_of_item > *rank_of_best) {
            best = Some((item, rank_of_item));
        }
    }
    best.map(|(item, _)| item)
}

/// The hostname in lower case, as DNS compares it.
fn folded(hostname: &str) -> Arc<str> {
    if hostname.bytes().any(|byte| byte.is_ascii_uppercase()) { hostname.to_ascii_lowercase().into() } else { hostname.into() }
}

#[cfg(test)]
mod tests;
