//! Which services a workload is an endpoint of, and through which ports (spec/controlplane.md 4.5). A service is listed
//! even if none of its ports fits.

use std::collections::BTreeMap;

use mesh_model::address::NamespacedHostname;

use crate::objects::{Kind, Labels, NsName, ObjectKey, Pod, Service, ServiceEntry, WorkloadEntry};
use crate::translate::ports::{self, PortMap};
use crate::translate::{Lens, service};

type Services = BTreeMap<NamespacedHostname, PortMap>;

pub fn of_pod(lens: &Lens<'_>, pod: &Pod) -> Services {
    let mut services = through_slices(lens, pod);
    for chosen in selecting_services(lens, &pod.meta.namespace, &pod.meta.labels) {
        services.insert(service::key_of_service(lens.settings, chosen), ports::service_on_pod(chosen, pod));
    }
    for_each_entry(lens, &pod.meta.namespace, &pod.meta.labels, |entry, host| {
        services.insert(host, ports::entry_on_pod(entry, pod));
    });
    services
}

pub fn of_workload_entry(lens: &Lens<'_>, entry: &WorkloadEntry, labels: &Labels) -> Services {
    let mut services = Services::new();
    for chosen in selecting_services(lens, &entry.meta.namespace, labels) {
        let mapped = ports::service_on_workload_entry(chosen, &entry.spec.ports);
        services.insert(service::key_of_service(lens.settings, chosen), mapped);
    }
    for_each_entry(lens, &entry.meta.namespace, labels, |service_entry, host| {
        services.insert(host, ports::entry_on_endpoint(service_entry, &entry.spec.ports));
    });
    services
}

/// Services without a selector name their pods in slices. A slice that only lists the pod's address does not count,
/// nor one that means an earlier pod of the same name.
fn through_slices(lens: &Lens<'_>, pod: &Pod) -> Services {
    let mut services = Services::new();
    let name = pod.meta.ns_name();
    for slice in lens.cluster.slices_of_pod(&name).filter(|slice| !slice.is_fqdn && slice.meta.namespace == name.namespace) {
        let targets = slice.endpoints.iter().filter_map(|endpoint| endpoint.target.as_ref());
        let is_meant = targets.into_iter().any(|target| {
            &*target.kind == "Pod" && target.namespace == name.namespace && target.name == name.name && target.uid == pod.meta.uid && !target.uid.is_empty()
        });
        let Some(owner) = slice.service.clone().filter(|_| is_meant) else { continue };
        let owner = NsName { namespace: name.namespace.clone(), name: owner };
        if let Some(owner) = lens.cluster.services.get(&owner).filter(|owner| owner.selector.is_empty() && !owner.is_external_name) {
            services.entry(service::key_of_service(lens.settings, owner)).or_default().extend(ports::slice_on_service(slice, owner));
        }
    }
    services
}

fn selecting_services<'a>(lens: &Lens<'a>, namespace: &std::sync::Arc<str>, labels: &Labels) -> impl Iterator<Item = &'a Service> {
    let cluster = lens.cluster;
    let keys = cluster.selectors_of(Kind::Service, namespace, labels);
    keys.into_iter().filter_map(|key| cluster.services.get(&key.name)).filter(|service| !service.is_external_name).map(|service| &**service)
}

/// Each hostname of each ServiceEntry that selects these labels and has the name.
fn for_each_entry(lens: &Lens<'_>, namespace: &std::sync::Arc<str>, labels: &Labels, mut take: impl FnMut(&ServiceEntry, NamespacedHostname)) {
    for key in lens.cluster.selectors_of(Kind::ServiceEntry, namespace, labels) {
        let Some(entry) = lens.cluster.service_entries.get(&key.name) else { continue };
        for host in &entry.spec.hosts {
            let owner: Option<ObjectKey> = lens.owner(namespace, host);
            if owner.as_ref() == Some(&key) {
                take(entry, NamespacedHostname { namespace: namespace.clone(), hostname: host.clone() });
            }
        }
    }
}
