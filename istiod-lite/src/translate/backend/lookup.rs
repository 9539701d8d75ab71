//! Which DestinationRules count for which waypoint: those of the waypoint's own namespace, else of the service's, else of
//! the root's; the first that has any wins whole. Of hosts that cover a name the most specific counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_model::address::NamespacedHostname;

use crate::cluster::Cluster;
use crate::cluster::attach::{covering, full_host};
use crate::objects::{DestinationRule, Kind, NsName, Object};
use crate::translate::resource::Audience;
use crate::translate::{Lens, Read, Settings, Unit, service, waypoint};

pub struct Variant<'a> {
    pub rules: Vec<&'a Arc<DestinationRule>>,
    pub audience: Audience,
}

type Rules<'a> = Vec<&'a Arc<DestinationRule>>;

/// The rules of each namespace that has some for this name.
fn by_namespace<'a>(cluster: &'a Cluster, hostname: &str) -> BTreeMap<Arc<str>, Rules<'a>> {
    let mut found: BTreeMap<Arc<str>, Rules<'a>> = BTreeMap::new();
    for host in covering(hostname) {
        let mut here: BTreeMap<Arc<str>, Rules<'a>> = BTreeMap::new();
        for rule in cluster.rules_of_host(&host).filter(|rule| rule.spec.workload_selector.is_none()) {
            here.entry(rule.meta.namespace.clone()).or_default().push(rule);
        }
        for (namespace, mut rules) in here {
            rules.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
            found.entry(namespace).or_insert(rules);
        }
    }
    found
}

/// Whether anything is to be said about a name.
pub fn has_rules(cluster: &Cluster, hostname: &str) -> bool {
    !cluster.destination_rules.is_empty() && covering(hostname).any(|host| cluster.rules_of_host(&host).next().is_some())
}

fn exported(rules: &Rules<'_>, to: &str) -> bool {
    let one = |rule: &DestinationRule| {
        let list = &rule.spec.export_to;
        list.is_empty() || list.iter().any(|place| match &**place {
            "*" => true,
            "." => *rule.meta.namespace == *to,
            other => other == to,
        })
    };
    rules.iter().all(|rule| one(rule))
}

fn is_for_all(rules: &Rules<'_>) -> bool {
    rules.iter().all(|rule| rule.spec.export_to.is_empty() || rule.spec.export_to.iter().any(|place| &**place == "*"))
}

pub fn variants<'a>(lens: &Lens<'a>, namespace: &Arc<str>, hostname: &str) -> Vec<Variant<'a>> {
    let mut all = by_namespace(lens.cluster, hostname);
    let root = &lens.settings.root_namespace;
    let is_simple = all.iter().all(|(place, rules)| (place == namespace || place == root) && is_for_all(rules));
    if is_simple {
        let winner = all.remove(namespace).or_else(|| all.remove(root));
        return winner.map(|rules| Variant { rules, audience: Audience::everybody() }).into_iter().collect();
    }
    // Each waypoint has its own view.
    lens.note(Read::Within(Kind::Gateway, "".into()));
    let mut audiences: BTreeMap<Arc<str>, BTreeSet<NsName>> = BTreeMap::new();
    for name in lens.cluster.gateways.keys().filter(|name| waypoint::is_waypoint(lens, name)) {
        let own = &name.namespace;
        let may = |place: &Arc<str>| all.get(place).is_some_and(|rules| exported(rules, own));
        let places = [(own != root).then_some(own).filter(|place| all.contains_key(*place)), Some(namespace).filter(|place| may(place)), Some(root).filter(|place| may(place))];
        if let Some(place) = places.into_iter().flatten().next() {
            audiences.entry(place.clone()).or_default().insert(name.clone());
        }
    }
    audiences.into_iter().filter_map(|(place, gateways)| Some(Variant { rules: all.remove(&place)?, audience: Audience::of(gateways) })).collect()
}

/// The waypoints of an audience, by their namespaces.
pub fn by_namespace_of_waypoint(lens: &Lens<'_>, audience: &Audience) -> BTreeMap<Arc<str>, Audience> {
    let all: Vec<NsName> = if audience.everybody {
        lens.note(Read::Within(Kind::Gateway, "".into()));
        lens.cluster.gateways.keys().filter(|name| waypoint::is_waypoint(lens, name)).cloned().collect()
    } else {
        audience.gateways.iter().cloned().collect()
    };
    let mut found: BTreeMap<Arc<str>, Audience> = BTreeMap::new();
    for name in all {
        found.entry(name.namespace.clone()).or_default().gateways.insert(name);
    }
    found
}

/// The namespaces of the waypoints that serve what a host of a rule means.
pub fn served_in(lens: &Lens<'_>, host: &Arc<str>) -> BTreeSet<Arc<str>> {
    let services = match host.strip_prefix('*') {
        Some(suffix) => {
            lens.note(Read::Within(Kind::Service, "".into()));
            lens.note(Read::Within(Kind::ServiceEntry, "".into()));
            covered(lens.cluster, lens.settings, suffix)
        }
        None => services(lens, host),
    };
    let serving = services.into_iter().flat_map(|(namespace, hostname)| service::serving(lens, &NamespacedHostname { namespace, hostname }));
    serving.map(|waypoint| waypoint.namespace).collect()
}

/// The services that a host of a rule means.
pub fn services(lens: &Lens<'_>, host: &Arc<str>) -> Vec<(Arc<str>, Arc<str>)> {
    lens.note(Read::Claims(host.clone()));
    named(lens.cluster, lens.settings, host)
}

fn named(cluster: &Cluster, settings: &Settings, host: &Arc<str>) -> Vec<(Arc<str>, Arc<str>)> {
    let service = service::service_named(settings, host).filter(|name| cluster.services.contains_key(name)).map(|name| name.namespace);
    let entries = cluster.entries_of_host(host).map(|(namespace, _)| namespace.clone());
    service.into_iter().chain(entries).map(|namespace| (namespace, host.clone())).collect()
}

/// The units of services that hang on rules and on labels of endpoints.
pub fn touched(cluster: &Cluster, settings: &Settings, before: Option<&Object>, after: Option<&Object>, units: &mut BTreeSet<Unit>) {
    let mut add = |(namespace, hostname): (Arc<str>, Arc<str>)| {
        units.insert(Unit::Backend { namespace, hostname });
    };
    for object in [before, after].into_iter().flatten() {
        match object {
            Object::DestinationRule(rule) => {
                let host = full_host(&rule.spec.host, &rule.meta.namespace, &settings.cluster_domain);
                match host.strip_prefix('*') {
                    Some(suffix) => covered(cluster, settings, suffix).into_iter().for_each(&mut add),
                    None => named(cluster, settings, &host).into_iter().for_each(&mut add),
                }
            }
            Object::Service(found) => {
                let key = service::key_of_service(settings, found);
                // What was said of one that is gone is taken back, also where its rules went with it.
                if after.is_none() || has_rules(cluster, &key.hostname) {
                    add((key.namespace, key.hostname));
                }
            }
            Object::ServiceEntry(found) => {
                let kept = |host: &Arc<str>| matches!(after, Some(Object::ServiceEntry(after)) if after.spec.hosts.contains(host));
                let hosts = found.spec.hosts.iter().filter(|host| !kept(host) || has_rules(cluster, host));
                hosts.for_each(|host| add((found.meta.namespace.clone(), host.clone())));
            }
            Object::Pod(_) | Object::WorkloadEntry(_) if !cluster.destination_rules.is_empty() => {
                let labels = |object: Option<&Object>| match object {
                    Some(Object::Pod(pod)) => Some(pod.meta.labels.clone()),
                    Some(Object::WorkloadEntry(entry)) => Some(entry.labels()),
                    _ => None,
                };
                // What runs in a pod and whether it is ready is nothing to a subset.
                if labels(before) == labels(after) {
                    return;
                }
                let Some(own) = labels(Some(object)) else { continue };
                let namespace = &object.meta().namespace;
                for kind in [Kind::Service, Kind::ServiceEntry] {
                    for key in cluster.selectors_of(kind, namespace, &own) {
                        let hosts = match cluster.object(&key) {
                            Some(Object::Service(found)) => vec![service::key_of_service(settings, &found).hostname],
                            Some(Object::ServiceEntry(found)) => found.spec.hosts.clone(),
                            _ => Vec::new(),
                        };
                        hosts.into_iter().filter(|host| has_rules(cluster, host)).for_each(|host| add((namespace.clone(), host)));
                    }
                }
            }
            _ => {}
        }
    }
}

/// Every service whose name ends so.
fn covered(cluster: &Cluster, settings: &Settings, suffix: &str) -> Vec<(Arc<str>, Arc<str>)> {
    let services = cluster.services.values().map(|found| service::key_of_service(settings, found)).map(|key| (key.namespace, key.hostname));
    let entries = cluster.service_entries.values().flat_map(|entry| entry.spec.hosts.iter().map(|host| (entry.meta.namespace.clone(), host.clone())));
    services.chain(entries).filter(|(_, host)| host.ends_with(suffix)).collect()
}
