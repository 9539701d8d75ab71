//! Which units a changed object may alter. Too many costs time, too few is a wrong mesh; what a unit read by name
//! (`Read::Object`) is followed by `translation` and not repeated here.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Settings, Unit, backend, policy, service};
use crate::cluster::{Change, Cluster};
use crate::objects::*;

/// Adds the units that hang on the change. The cluster is as it is after the change.
pub fn touched(cluster: &Cluster, settings: &Settings, change: &Change, units: &mut BTreeSet<Unit>) {
    let name = change.key.name.clone();
    backend::touched(cluster, settings, change.before.as_ref(), change.after.as_ref(), units);
    match change.key.kind {
        Kind::Pod => drop(units.insert(Unit::Pod(name))),
        Kind::ConfigMap if change.key == *cluster.config_key() => units.extend([Unit::ConfigMap(name), Unit::MeshDefaults]),
        Kind::ConfigMap => drop(units.insert(Unit::ConfigMap(name))),
        Kind::WorkloadEntry => drop(units.insert(Unit::WorkloadEntry(name))),
        Kind::Service => of_service(cluster, settings, change, units),
        Kind::ServiceEntry => of_service_entry(cluster, settings, change, units),
        Kind::EndpointSlice => of_slice(change, units),
        Kind::AuthorizationPolicy => of_authorization_policy(cluster, settings, change, units),
        Kind::PeerAuthentication => of_peer_authentication(cluster, settings, change, units),
        // Once there is a waypoint, it is told what holds everywhere.
        Kind::Gateway => units.extend([Unit::Gateway(name), Unit::MeshDefaults]),
        // Seen only through the reads of those who asked for them.
        Kind::Namespace | Kind::Node | Kind::GatewayClass | Kind::ReferenceGrant | Kind::Secret => {}
        kind => drop(units.insert(Unit::Of(ObjectKey { kind, name }))),
    }
}

fn of_service(cluster: &Cluster, settings: &Settings, change: &Change, units: &mut BTreeSet<Unit>) {
    let service = |object: &Option<Object>| match object {
        Some(Object::Service(service)) => Some(service.clone()),
        _ => None,
    };
    let (before, after) = (service(&change.before), service(&change.after));
    let name = &change.key.name;
    if let Some(either) = before.as_ref().or(after.as_ref()) {
        hosts(cluster, settings, &name.namespace, [service::key_of_service(settings, either).hostname], units);
    }
    // Whoever is selected hangs on these three; a new label or address of the service is nothing to its endpoints.
    let view = |service: &Option<Arc<Service>>| service.as_ref().map(|service| (service.selector.clone(), service.ports.clone(), service.is_external_name));
    if view(&before) == view(&after) {
        return;
    }
    units.insert(Unit::Endpoints(name.clone()));
    for service in before.iter().chain(&after) {
        for kind in [Kind::Pod, Kind::WorkloadEntry] {
            select(cluster, kind, Some(&name.namespace), &service.selector, units);
        }
        if service.selector.is_empty() {
            for slice in cluster.slices_of_service(name) {
                pods_of(slice, units);
            }
        }
    }
}

fn of_service_entry(cluster: &Cluster, settings: &Settings, change: &Change, units: &mut BTreeSet<Unit>) {
    units.insert(Unit::ServiceEntry(change.key.name.clone()));
    for side in [&change.before, &change.after] {
        let Some(Object::ServiceEntry(entry)) = side else { continue };
        hosts(cluster, settings, &change.key.name.namespace, entry.spec.hosts.iter().cloned(), units);
        if let Some(selector) = entry.selector() {
            for kind in [Kind::Pod, Kind::WorkloadEntry] {
                select(cluster, kind, Some(&change.key.name.namespace), selector, units);
            }
        }
    }
}

/// The services of hostnames that are, or were, claimed in a namespace, and those of the same names elsewhere: which of
/// them is canonical may have changed.
fn hosts(cluster: &Cluster, settings: &Settings, namespace: &Arc<str>, hostnames: impl IntoIterator<Item = Arc<str>>, units: &mut BTreeSet<Unit>) {
    for hostname in hostnames {
        units.insert(Unit::Host { namespace: namespace.clone(), hostname: hostname.clone() });
        if let Some(service) = service::service_named(settings, &hostname) {
            units.insert(Unit::Host { namespace: service.namespace, hostname: hostname.clone() });
        }
        for (namespace, _) in cluster.entries_of_host(&hostname) {
            units.insert(Unit::Host { namespace: namespace.clone(), hostname: hostname.clone() });
        }
    }
}

fn of_slice(change: &Change, units: &mut BTreeSet<Unit>) {
    for side in [&change.before, &change.after] {
        let Some(Object::EndpointSlice(slice)) = side else { continue };
        if let Some(service) = &slice.service {
            units.insert(Unit::Endpoints(NsName { namespace: slice.meta.namespace.clone(), name: service.clone() }));
        }
        pods_of(slice, units);
    }
}

fn pods_of(slice: &EndpointSlice, units: &mut BTreeSet<Unit>) {
    for target in slice.endpoints.iter().filter_map(|endpoint| endpoint.target.as_ref()).filter(|target| &*target.kind == "Pod") {
        units.insert(Unit::Pod(NsName { namespace: target.namespace.clone(), name: target.name.clone() }));
    }
}

fn of_authorization_policy(cluster: &Cluster, settings: &Settings, change: &Change, units: &mut BTreeSet<Unit>) {
    units.insert(Unit::AuthorizationPolicy(change.key.name.clone()));
    let selector = |side: &Option<Object>| match side {
        Some(Object::AuthorizationPolicy(policy)) if policy::is_sent(policy, settings) => policy.selector().cloned(),
        _ => None,
    };
    let (before, after) = (selector(&change.before), selector(&change.after));
    if before == after {
        return;
    }
    let namespace = &change.key.name.namespace;
    let place = (*namespace != settings.root_namespace).then_some(namespace);
    for selector in before.iter().chain(&after) {
        select_workloads(cluster, place, selector, units);
    }
}

fn of_peer_authentication(cluster: &Cluster, settings: &Settings, change: &Change, units: &mut BTreeSet<Unit>) {
    let namespace = &change.key.name.namespace;
    units.insert(Unit::StaticStrict);
    // The oldest of a namespace counts, and the others are told so.
    let whole = Cluster::within(&cluster.peer_authentications, namespace).filter(|policy| policy.selector().is_none());
    units.extend(whole.map(|policy| Unit::PeerAuthentication(policy.meta.ns_name())));
    units.insert(Unit::PeerAuthentication(change.key.name.clone()));
    if *namespace == settings.root_namespace {
        return;
    }
    for side in [&change.before, &change.after] {
        let Some(Object::PeerAuthentication(policy)) = side else { continue };
        if let Some(selector) = policy.selector() {
            select_workloads(cluster, Some(namespace), selector, units);
        }
    }
}

fn select_workloads(cluster: &Cluster, namespace: Option<&Arc<str>>, selector: &Labels, units: &mut BTreeSet<Unit>) {
    for kind in [Kind::Pod, Kind::WorkloadEntry, Kind::ServiceEntry] {
        select(cluster, kind, namespace, selector, units);
    }
}

fn select(cluster: &Cluster, kind: Kind, namespace: Option<&Arc<str>>, selector: &Labels, units: &mut BTreeSet<Unit>) {
    if selector.is_empty() {
        return;
    }
    units.extend(cluster.selected(kind, namespace, selector).into_iter().filter_map(|key| match key.kind {
        Kind::Pod => Some(Unit::Pod(key.name)),
        Kind::WorkloadEntry => Some(Unit::WorkloadEntry(key.name)),
        Kind::ServiceEntry => Some(Unit::ServiceEntry(key.name)),
        _ => None,
    }));
}
