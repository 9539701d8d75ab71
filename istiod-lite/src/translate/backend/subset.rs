//! Which workloads a subset has: those endpoints of the service that have its labels, by their uids.

use std::collections::BTreeSet;

use crate::objects::destination_rule::Subset;
use crate::objects::meta::matches;
use crate::objects::{Kind, Labels, ObjectKey};
use crate::translate::Lens;

pub fn workloads(lens: &Lens<'_>, owner: &ObjectKey, subset: &Subset) -> Vec<String> {
    let namespace = &owner.name.namespace;
    let cluster_id = &lens.settings.cluster_id;
    let mut uids = BTreeSet::new();
    let mut select = |selector: &Labels| {
        let both: Labels = selector.iter().chain(&subset.labels).cloned().collect();
        // Where the service and the subset ask for different values of one label, nobody has both.
        if !matches(selector, &both) {
            return;
        }
        for key in lens.cluster.selected(Kind::Pod, Some(namespace), &both) {
            uids.insert(format!("{cluster_id}//Pod/{}/{}", key.name.namespace, key.name.name));
        }
        for key in lens.cluster.selected(Kind::WorkloadEntry, Some(namespace), &both) {
            uids.insert(format!("{cluster_id}/networking.istio.io/WorkloadEntry/{}/{}", key.name.namespace, key.name.name));
        }
    };
    if owner.kind == Kind::Service {
        if let Some(service) = lens.service(&owner.name).filter(|service| !service.selector.is_empty()) {
            select(&service.selector);
        }
    } else if let Some(entry) = lens.service_entry(&owner.name) {
        if let Some(selector) = entry.selector() {
            select(selector);
        }
        for endpoint in entry.spec.endpoints.iter().filter(|endpoint| matches(&subset.labels, &endpoint.labels)) {
            uids.insert(format!("{cluster_id}/networking.istio.io/ServiceEntry/{namespace}/{}/{}", entry.meta.name, endpoint.address));
        }
    }
    uids.into_iter().collect()
}
