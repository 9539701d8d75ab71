//! Whose an address is when several objects say that it is theirs (spec/reliability.md V-32).
//!
//! | before | after | because |
//! |---|---|---|
//! | pods and Services | WorkloadEntries, then ServiceEntries | the cluster gave them the address; the others only say so |
//! | a pod that stays | a pod that is being deleted | its address may have been given away already |
//! | the newer pod | the older pod | an address is given anew only when nobody has it any more |
//! | the older entry | the newer entry, then the first by name | who comes later must not take it away |
//!
//! The answer hangs on the objects alone, not on the order in which they came, so nothing flaps. Who does not have the
//! address stays an endpoint of its services; connections to the bare address are for the owner.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::cluster::Change;
use crate::objects::{Kind, Object, ObjectKey};
use crate::pairs::{Least, Pairs};

/// An address of a network; `None` is the cluster's own network, whatever its name.
pub type Place = (Option<Arc<str>>, IpAddr);

/// Claims are sorted: the first has the address.
#[derive(Debug, Default)]
pub struct Claims {
    own_network: Arc<str>,
    by_place: Pairs<Place, (Rank, ObjectKey)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Pod { is_host_network: bool, is_deleting: bool, created: Reverse<i64> },
    Service,
    WorkloadEntry { created: i64 },
    ServiceEntry { created: i64 },
}

impl Least for (Rank, ObjectKey) {
    fn least() -> (Rank, ObjectKey) {
        (Rank::Pod { is_host_network: false, is_deleting: false, created: Reverse(i64::MAX) }, ObjectKey::least())
    }
}

impl Claims {
    pub fn new(own_network: Arc<str>) -> Claims {
        Claims { own_network, by_place: Pairs::default() }
    }

    /// Takes a change, and returns the objects whose addresses may have got another owner.
    pub fn update(&mut self, change: &Change) -> BTreeSet<ObjectKey> {
        let (before, after) = (self.places(change.before.as_ref()), self.places(change.after.as_ref()));
        let mut affected = BTreeSet::new();
        if before == after {
            return affected;
        }
        let (left, came) = (before.difference(&after), after.difference(&before));
        let touched: BTreeSet<&Place> = left.clone().chain(came.clone()).map(|(place, _)| place).collect();
        let owners: Vec<(&Place, Option<ObjectKey>)> = touched.into_iter().map(|place| (place, self.owner(place).cloned())).collect();
        for (place, rank) in left {
            self.by_place.remove(place.clone(), (*rank, change.key.clone()));
        }
        for (place, rank) in came {
            self.by_place.insert(place.clone(), (*rank, change.key.clone()));
        }
        for (place, owner) in owners {
            if self.owner(place) != owner.as_ref() {
                affected.extend(self.by_place.of(place).map(|(_, key)| key.clone()));
            }
        }
        affected
    }

    pub fn owner(&self, place: &Place) -> Option<&ObjectKey> {
        self.by_place.of(place).next().map(|(_, key)| key)
    }

    /// Whose an address is that an object says is its; `None`: its own, or no address at all.
    pub fn lost(&self, claimant: &ObjectKey, network: &Arc<str>, address: &str) -> Option<&ObjectKey> {
        self.owner(&self.place_of(network, address)?).filter(|owner| *owner != claimant)
    }

    fn place_of(&self, network: &Arc<str>, address: &str) -> Option<Place> {
        let foreign = Some(network.clone()).filter(|network| !network.is_empty() && *network != self.own_network);
        Some((foreign, exact(address)?))
    }

    /// The addresses that an object says are its.
    fn places(&self, object: Option<&Object>) -> BTreeSet<(Place, Rank)> {
        let own = |ip: &Arc<str>| Some((None, exact(ip)?));
        let created = |object: &Object| object.meta().created.unwrap_or(0);
        match object {
            Some(Object::Pod(pod)) if !matches!(pod.phase(), "Succeeded" | "Failed") => {
                let rank = Rank::Pod { is_host_network: pod.is_host_network, is_deleting: pod.meta.is_deleting, created: Reverse(pod.meta.created.unwrap_or(0)) };
                pod.status.iter().flat_map(|status| &status.ips).filter_map(own).map(|place| (place, rank)).collect()
            }
            Some(Object::Service(service)) if !service.is_external_name => service.cluster_ips.iter().filter_map(own).map(|place| (place, Rank::Service)).collect(),
            Some(object @ Object::WorkloadEntry(entry)) => {
                let rank = Rank::WorkloadEntry { created: created(object) };
                self.place_of(&entry.spec.network, &entry.spec.address).map(|place| (place, rank)).into_iter().collect()
            }
            Some(object @ Object::ServiceEntry(entry)) => {
                let rank = Rank::ServiceEntry { created: created(object) };
                let endpoints = entry.spec.endpoints.iter().filter(|_| entry.selector().is_none());
                let endpoints = endpoints.filter_map(|endpoint| self.place_of(&endpoint.network, &endpoint.address));
                endpoints.chain(entry.spec.addresses.iter().filter_map(own)).map(|place| (place, rank)).collect()
            }
            _ => BTreeSet::new(),
        }
    }
}

/// An address, or a range of one address.
fn exact(text: &str) -> Option<IpAddr> {
    let range = || text.parse::<IpNet>().ok().filter(|range| range.prefix_len() == range.max_prefix_len()).map(|range| range.addr());
    text.parse().ok().or_else(range)
}

/// Whether the cluster itself gave an address to this object.
pub fn is_given_by_the_cluster(key: &ObjectKey) -> bool {
    matches!(key.kind, Kind::Pod | Kind::Service)
}
