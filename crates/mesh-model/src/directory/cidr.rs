//! Ranges of VIPs: the service that owns the longest prefix, after the client's own namespace (spec/dataplane.md 5.1).

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rpds::RedBlackTreeMapSync;

use super::{at_home, first_best, visible};
use crate::address::{NamespacedHostname, NetworkAddress, NetworkCidr};
use crate::index::Index;
use crate::service::Service;

/// One index per (network, family, prefix length) that is in use, so that a lookup costs one probe per length in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CidrVips {
    by_length: RedBlackTreeMapSync<Length, Index<IpAddr, NamespacedHostname, Service>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Length {
    network: Arc<str>,
    is_v6: bool,
    bits: u8,
}

impl Default for CidrVips {
    fn default() -> CidrVips {
        CidrVips { by_length: RedBlackTreeMapSync::new_sync() }
    }
}

impl CidrVips {
    pub fn put(&mut self, range: &NetworkCidr, key: &NamespacedHostname, service: &Arc<Service>) {
        let length = Length::of(range);
        if self.by_length.get(&length).is_none() {
            self.by_length.insert_mut(length.clone(), Index::default());
        }
        if let Some(ranges) = self.by_length.get_mut(&length) {
            ranges.put(range.cidr.network(), key.clone(), service.clone());
        }
    }

    pub fn take(&mut self, range: &NetworkCidr, key: &NamespacedHostname) {
        let length = Length::of(range);
        let Some(ranges) = self.by_length.get_mut(&length) else { return };
        ranges.take(&range.cidr.network(), key);
        if ranges.is_empty() {
            self.by_length.remove_mut(&length);
        }
    }

    /// The owner of the address by rank: in the client's namespace, longer prefix, canonical, smallest key.
    pub fn find(&self, address: &NetworkAddress, client_namespace: Option<&str>) -> Option<&Arc<Service>> {
        let is_v6 = address.ip.is_ipv6();
        let shortest = Length { network: address.network.clone(), is_v6, bits: 0 };
        let longest = Length { network: address.network.clone(), is_v6, bits: u8::MAX };
        let mut best: Option<((bool, u8), &Arc<Service>)> = None;
        for (length, ranges) in self.by_length.range(shortest..=longest) {
            let Ok(range) = IpNet::new(address.ip, length.bits) else { continue };
            let owners = ranges.at(&range.network()).filter(|service| visible(service, client_namespace));
            let Some(owner) = first_best(owners, |service| (at_home(service, client_namespace), service.canonical)) else {
                continue;
            };
            let rank = (at_home(owner, client_namespace), length.bits);
            if best.is_none_or(|(best_rank, _)| rank > best_rank) {
                best = Some((rank, owner));
            }
        }
        best.map(|(_, service)| service)
    }
}

impl Length {
    fn of(range: &NetworkCidr) -> Length {
        Length { network: range.network.clone(), is_v6: range.cidr.addr().is_ipv6(), bits: range.cidr.prefix_len() }
    }
}
