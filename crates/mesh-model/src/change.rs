//! What can happen to the directory, and which keys a change touched.
//!
//! `Touched` is what lets ten thousand idle connections sleep through a change that is not about them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::address::{NamespacedHostname, NetworkAddress, NetworkCidr};
use crate::service::Service;
use crate::workload::{Uid, Workload};

/// One resource that came, changed or went. A later change with the same name replaces the earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Workload(Arc<Workload>),
    Service(Arc<Service>),
    /// A resource name as the wire gives it: a workload's uid or a service's `namespace/hostname`.
    Remove(Arc<str>),
}

/// The keys whose answers may differ after a change. Empty when the change said nothing new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    pub workloads: BTreeSet<Uid>,
    /// Services whose own description changed.
    pub services: BTreeSet<NamespacedHostname>,
    /// Services whose endpoints changed.
    pub endpoints: BTreeSet<NamespacedHostname>,
    /// Addresses that are looked up differently now: old and new addresses of the workloads and VIPs above.
    pub addresses: BTreeSet<NetworkAddress>,
    /// Ranges of VIPs, old and new, of the services above.
    pub cidrs: BTreeSet<NetworkCidr>,
}

impl Touched {
    pub fn is_empty(&self) -> bool {
        self.workloads.is_empty()
            && self.services.is_empty()
            && self.endpoints.is_empty()
            && self.addresses.is_empty()
            && self.cidrs.is_empty()
    }

    /// Adds the keys of another change, so that a batch is published with one set.
    pub fn merge(&mut self, other: Touched) {
        self.workloads.extend(other.workloads);
        self.services.extend(other.services);
        self.endpoints.extend(other.endpoints);
        self.addresses.extend(other.addresses);
        self.cidrs.extend(other.cidrs);
    }

    /// Whether a lookup of this address may answer differently now, by itself or through a range of VIPs.
    pub fn concerns(&self, address: &NetworkAddress) -> bool {
        self.addresses.contains(address)
            || self.cidrs.iter().any(|range| range.network == address.network && range.cidr.contains(&address.ip))
    }

    pub(crate) fn workload(&mut self, workload: &Workload) {
        self.workloads.insert(workload.uid.clone());
        self.endpoints.extend(workload.services.keys().cloned());
        self.addresses.extend(workload.network_addresses());
    }

    pub(crate) fn service(&mut self, service: &Service) {
        self.services.insert(service.key());
        self.addresses.extend(service.vips.iter().cloned());
        self.cidrs.extend(service.cidr_vips.iter().cloned());
    }
}
