//! The translation as it stands: takes events, recomputes the units they touch, and tells what came out differently.
//!
//! Pure: the same events in the same batches give the same changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_identity::derived::Seed;
use mesh_model::address::NamespacedHostname;
use mesh_model::service::Service;
use mesh_model::workload::{PolicyKey, Uid, Workload};
use mesh_policy::Policy;

use super::peer_authentication::{Modes, Strictness, namespace_mode};
use super::touched::touched;
use super::claims::Claims;
use super::vips::{Claim, Vips};
use super::{Account, Derived, Lens, Memory, Read, Report, Resource, ResourceKey, Settings, Unit, derive, merged, policy};
use crate::cluster::{targets_of, Change, Cluster, Event, network_of};
use crate::objects::{Kind, NsName, Object, ObjectKey};
use crate::pairs::Pairs;

/// What came out differently; `None` is gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pub workloads: BTreeMap<Uid, Option<Arc<Workload>>>,
    pub services: BTreeMap<NamespacedHostname, Option<Arc<Service>>>,
    pub policies: BTreeMap<PolicyKey, Option<Arc<Policy>>>,
    pub resources: BTreeMap<ResourceKey, Option<Arc<Resource>>>,
    /// By the Gateway.
    pub accounts: BTreeMap<NsName, Option<Arc<Account>>>,
    /// Pods that are not as they were, for those who decide on certificates.
    pub pods: Vec<Event>,
    /// Objects about which something else is to be said.
    pub reports: BTreeSet<ObjectKey>,
    /// How many units were computed: the cost of the change.
    pub units_computed: usize,
}

#[derive(Debug)]
pub struct Translation {
    settings: Settings,
    cluster: Cluster,
    memory: Memory,
    units: BTreeMap<Unit, Done>,
    readers: Pairs<Read, Unit>,
    reports: BTreeMap<ObjectKey, BTreeMap<Unit, Report>>,
    /// Why the newest version of an object is not used; the one before it is.
    refused: BTreeMap<ObjectKey, String>,
}

#[derive(Debug, Default)]
struct Done {
    derived: Derived,
    /// Sorted, each once.
    reads: Box<[Read]>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.workloads.is_empty() && self.services.is_empty() && self.policies.is_empty() && self.resources.is_empty() && self.reports.is_empty()
    }
}

impl Translation {
    pub fn new(settings: Settings, revision: &str) -> Translation {
        let vips = Vips::new(settings.vip_pools);
        let (root, domain) = (settings.root_namespace.clone(), settings.cluster_domain.clone());
        Translation {
            settings,
            cluster: Cluster::new(revision, &root, &domain),
            memory: Memory { network: "".into(), modes: Modes::default(), vips, claims: Claims::default(), session_seeds: Vec::new() },
            units: BTreeMap::new(),
            readers: Pairs::default(),
            reports: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// An address that a host of a ServiceEntry had before this process started.
    pub fn remember(&mut self, entry: NsName, host: Arc<str>, ip: IpAddr) {
        self.memory.vips.remember(Claim { entry, host }, ip);
    }

    /// Sessions of waypoints are sealed with what follows from the first of these, and opened with each.
    pub fn seal_sessions_with(&mut self, seeds: Vec<Seed>) -> Changes {
        let mut changes = Changes::default();
        if self.memory.session_seeds == seeds {
            return changes;
        }
        self.memory.session_seeds = seeds;
        let gateways: Vec<Unit> = self.units.keys().filter(|unit| matches!(unit, Unit::Gateway(_))).cloned().collect();
        changes.units_computed = gateways.len();
        for unit in gateways {
            self.recompute(unit, &mut changes);
        }
        changes
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// ConfigMaps and Secrets that something names.
    pub fn wanted(&self) -> BTreeSet<ObjectKey> {
        let of_kind = |kind| {
            let from = self.readers.from(&Read::Object(ObjectKey { kind, name: NsName::new("", "") }));
            from.map_while(move |(read, _)| match read {
                Read::Object(key) if key.kind == kind => Some(key.clone()),
                _ => None,
            })
        };
        let named = of_kind(Kind::ConfigMap).filter(|key| key != self.cluster.config_key());
        named.chain(of_kind(Kind::Secret)).collect()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn vips(&self) -> &Vips {
        &self.memory.vips
    }

    pub fn derived(&self) -> impl Iterator<Item = &Derived> {
        self.units.values().map(|done| &done.derived)
    }

    /// Objects about which there is something to say.
    pub fn reported(&self) -> impl Iterator<Item = &ObjectKey> {
        let only_refused = self.refused.keys().filter(|key| !self.reports.contains_key(*key));
        self.reports.keys().chain(only_refused)
    }

    /// What there is to say about an object.
    pub fn report(&self, key: &ObjectKey) -> Report {
        let mut report = merged(self.reports.get(key).into_iter().flat_map(BTreeMap::values));
        if let Some(why) = self.refused.get(key) {
            report.conditions.retain(|condition| condition.kind != "ZtunnelAccepted");
            report.fails("ZtunnelAccepted", "UnsupportedValue", format!("refused: {why}; the last good version stays in force"));
        }
        report
    }

    /// Takes a batch of events and returns all that came out differently.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> Changes {
        let mut changes = Changes::default();
        let had_targets = self.cluster.has_targets();
        let mut objects: BTreeMap<ObjectKey, Change> = BTreeMap::new();
        for event in events {
            let Some(event) = self.admit(event, &mut changes) else { continue };
            for change in self.cluster.apply(event) {
                match objects.get_mut(&change.key) {
                    Some(earlier) => earlier.after = change.after,
                    None => drop(objects.insert(change.key.clone(), change)),
                }
            }
        }
        objects.retain(|_, change| change.before != change.after);

        let mut units = BTreeSet::new();
        for change in objects.values() {
            touched(&self.cluster, &self.settings, change, &mut units);
            self.readers_of(&Read::Object(change.key.clone()), &mut units);
            self.owners(change, &mut units);
            self.routes(change, &mut units);
            for namespace in [change.key.name.namespace.clone(), "".into()] {
                self.readers_of(&Read::Within(change.key.kind, namespace), &mut units);
            }
            self.gateways(change, &mut units);
            self.claims(change, &mut units);
        }
        self.modes(&objects, &mut units);
        self.addresses(&objects, &mut units);
        let first_targets = had_targets != self.cluster.has_targets();
        if self.network_changed(&objects) | visibility_changed(self.cluster.config_key(), &objects) | first_targets {
            units.extend(self.units.keys().cloned());
        }
        changes.pods = objects.values().filter(|change| change.key.kind == Kind::Pod).map(event).collect();
        changes.units_computed = units.len();
        for unit in units {
            self.recompute(unit, &mut changes);
        }
        changes
    }

    /// A version of a policy that cannot be understood does not replace one that could.
    fn admit(&mut self, event: Event, changes: &mut Changes) -> Option<Event> {
        let key = event.key();
        let fault = match &event {
            Event::Applied(Object::AuthorizationPolicy(policy)) => policy::refused(policy),
            _ => None,
        };
        let before = self.cluster.authorization_policies.get(&key.name).filter(|_| key.kind == Kind::AuthorizationPolicy);
        let has_good = before.is_some_and(|before| policy::refused(before).is_none());
        match fault {
            Some(why) if has_good => {
                self.refused.insert(key.clone(), why);
                changes.reports.insert(key);
                None
            }
            _ => {
                if self.refused.remove(&key).is_some() {
                    changes.reports.insert(key);
                }
                Some(event)
            }
        }
    }

    fn readers_of(&self, read: &Read, units: &mut BTreeSet<Unit>) {
        units.extend(self.readers.of(read).cloned());
    }

    /// Who asked for the owner of a hostname that this object claims.
    fn owners(&self, change: &Change, units: &mut BTreeSet<Unit>) {
        let namespace = &change.key.name.namespace;
        for object in change.before.iter().chain(&change.after) {
            let hosts = match object {
                Object::Service(service) => vec![super::service::key_of_service(&self.settings, service).hostname],
                Object::ServiceEntry(entry) => entry.spec.hosts.clone(),
                _ => continue,
            };
            for host in hosts {
                self.readers_of(&Read::Owner(namespace.clone(), host.clone()), units);
                self.readers_of(&Read::Claims(host), units);
            }
        }
    }

    /// Who asked for the routes of a parent that this route names, or named: which of them wins a port may have changed.
    fn routes(&self, change: &Change, units: &mut BTreeSet<Unit>) {
        let claims = |object: &Option<Object>| object.iter().flat_map(super::route::claims).collect::<BTreeSet<_>>();
        let (before, after) = (claims(&change.before), claims(&change.after));
        for claim in before.symmetric_difference(&after) {
            self.readers_of(&Read::Routes(claim.parent.clone()), units);
        }
    }

    /// Who asked for the way into a network, for the instances of a Gateway, or for the policies of something.
    fn gateways(&self, change: &Change, units: &mut BTreeSet<Unit>) {
        for object in change.before.iter().chain(&change.after) {
            for target in targets_of(object) {
                self.readers_of(&Read::Policies(target), units);
            }
            match object {
                Object::Gateway(gateway) => {
                    if let Some(network) = network_of(gateway) {
                        self.readers_of(&Read::Network(network.clone()), units);
                    }
                }
                Object::Pod(pod) => {
                    if let Some(gateway) = super::waypoint::instance_of(&pod.meta) {
                        self.readers_of(&Read::Instances(gateway), units);
                    }
                }
                _ => {}
            }
        }
    }

    /// Brings up to date whose an address is.
    fn claims(&mut self, change: &Change, units: &mut BTreeSet<Unit>) {
        for key in self.memory.claims.update(change) {
            match key.kind {
                Kind::Pod => drop(units.insert(Unit::Pod(key.name))),
                Kind::WorkloadEntry => drop(units.insert(Unit::WorkloadEntry(key.name))),
                Kind::ServiceEntry => {
                    let hosts = self.cluster.service_entries.get(&key.name).map(|entry| entry.spec.hosts.clone()).unwrap_or_default();
                    units.extend(hosts.into_iter().map(|hostname| Unit::Host { namespace: key.name.namespace.clone(), hostname }));
                    units.insert(Unit::ServiceEntry(key.name));
                }
                _ => {}
            }
        }
    }

    /// Brings the strictness of namespaces up to date.
    fn modes(&mut self, objects: &BTreeMap<ObjectKey, Change>, units: &mut BTreeSet<Unit>) {
        let places: BTreeSet<&Arc<str>> = objects.keys().filter(|key| key.kind == Kind::PeerAuthentication).map(|key| &key.name.namespace).collect();
        let before = self.memory.modes.clone();
        for namespace in places {
            let mode = namespace_mode(&self.cluster, namespace);
            if *namespace == self.settings.root_namespace {
                self.memory.modes.mesh = mode.unwrap_or(Strictness::Permissive);
                continue;
            }
            match mode {
                Some(mode) => drop(self.memory.modes.namespaces.insert(namespace.clone(), mode)),
                None => drop(self.memory.modes.namespaces.remove(namespace)),
            }
        }
        if before == self.memory.modes {
            return;
        }
        for (read, reader) in self.readers.from(&Read::Strictness("".into())) {
            let Read::Strictness(namespace) = read else { break };
            if before.of(namespace) != self.memory.modes.of(namespace) {
                units.insert(reader.clone());
            }
        }
    }

    /// Brings the addresses of ServiceEntries' hosts up to date; the oldest first, because it keeps what it has.
    fn addresses(&mut self, objects: &BTreeMap<ObjectKey, Change>, units: &mut BTreeSet<Unit>) {
        let entry = |change: &Change| match &change.after {
            Some(Object::ServiceEntry(entry)) => Some(entry.clone()),
            _ => None,
        };
        let mut entries: Vec<_> = objects.values().filter(|change| change.key.kind == Kind::ServiceEntry).map(|change| (&change.key.name, entry(change))).collect();
        entries.sort_by_key(|(_, entry)| entry.as_ref().and_then(|entry| entry.meta.created).unwrap_or(0));
        for (name, entry) in entries {
            for claim in self.memory.vips.update(name, entry.as_deref()) {
                units.insert(Unit::Host { namespace: claim.entry.namespace, hostname: claim.host });
            }
        }
    }

    /// Every address on the wire carries the network.
    fn network_changed(&mut self, objects: &BTreeMap<ObjectKey, Change>) -> bool {
        let key = ObjectKey::new(Kind::Namespace, "", &self.settings.root_namespace);
        if !objects.contains_key(&key) {
            return false;
        }
        let namespace = self.cluster.namespaces.get(&key.name);
        let network = namespace.and_then(|namespace| namespace.meta.labels.get("topology.istio.io/network").cloned()).unwrap_or_default();
        if self.memory.network == network {
            return false;
        }
        self.memory.network = network.clone();
        // Entries that name the own network say the same as those that name none.
        let mut claims = Claims::new(network);
        for object in self.cluster.objects() {
            claims.update(&Change { key: object.key(), before: None, after: Some(object) });
        }
        self.memory.claims = claims;
        true
    }

    fn recompute(&mut self, unit: Unit, changes: &mut Changes) {
        let lens = Lens::new(&self.cluster, &self.settings, &self.memory);
        let derived = derive(&unit, &lens);
        let done = Done { reads: lens.into_reads(), derived };
        let before = self.units.remove(&unit).unwrap_or_default();
        self.link(&unit, &before.reads, &done.reads);
        self.say(&unit, &before.derived, &done.derived, changes);
        compare(&before.derived.workloads, &done.derived.workloads, |workload| workload.uid.clone(), &mut changes.workloads);
        compare(&before.derived.services, &done.derived.services, |service| service.key(), &mut changes.services);
        compare(&before.derived.policies, &done.derived.policies, |policy| policy.key(), &mut changes.policies);
        compare(&before.derived.resources, &done.derived.resources, Resource::key, &mut changes.resources);
        compare(&before.derived.accounts, &done.derived.accounts, |account| account.gateway.clone(), &mut changes.accounts);
        // A unit without outputs and reads is one whose object is gone.
        if !done.reads.is_empty() || done.derived != Derived::default() {
            self.units.insert(unit, done);
        }
    }

    fn link(&mut self, unit: &Unit, before: &[Read], after: &[Read]) {
        let without = |these: &[Read], others: &[Read]| these.iter().filter(|read| others.binary_search(read).is_err()).cloned().collect::<Vec<_>>();
        for gone in without(before, after) {
            self.readers.remove(gone, unit.clone());
        }
        for new in without(after, before) {
            self.readers.insert(new, unit.clone());
        }
    }

    fn say(&mut self, unit: &Unit, before: &Derived, after: &Derived, changes: &mut Changes) {
        if before.reports == after.reports {
            return;
        }
        for (key, _) in &before.reports {
            if let Some(said) = self.reports.get_mut(key) {
                said.remove(unit);
                if said.is_empty() {
                    self.reports.remove(key);
                }
            }
            changes.reports.insert(key.clone());
        }
        for (key, report) in &after.reports {
            self.reports.entry(key.clone()).or_default().insert(unit.clone(), report.clone());
            changes.reports.insert(key.clone());
        }
    }
}

fn event(change: &Change) -> Event {
    change.after.clone().map_or_else(|| Event::Deleted(change.key.clone()), Event::Applied)
}

fn visibility_changed(config: &ObjectKey, objects: &BTreeMap<ObjectKey, Change>) -> bool {
    let visibility = |object: &Option<Object>| match object {
        Some(Object::ConfigMap(map)) => map.mesh.as_ref().and_then(|mesh| mesh.service_entry_visibility.clone()),
        _ => None,
    };
    objects.get(config).is_some_and(|change| visibility(&change.before) != visibility(&change.after))
}

/// Outputs of a unit before and after; only what differs is a change.
fn compare<K: Ord, V: PartialEq>(before: &[Arc<V>], after: &[Arc<V>], key: impl Fn(&V) -> K, changes: &mut BTreeMap<K, Option<Arc<V>>>) {
    let old: BTreeMap<K, &Arc<V>> = before.iter().map(|value| (key(value), value)).collect();
    let new: BTreeMap<K, &Arc<V>> = after.iter().map(|value| (key(value), value)).collect();
    let differing: Vec<&Arc<V>> = after.iter().filter(|value| old.get(&key(value)).is_none_or(|known| known != value)).collect();
    for value in before.iter().filter(|value| !new.contains_key(&key(value))) {
        // Another unit may make it now: a Gateway that stands for an address in the place of another.
        changes.entry(key(value)).or_insert(None);
    }
    for value in differing {
        changes.insert(key(value), Some(value.clone()));
    }
}
