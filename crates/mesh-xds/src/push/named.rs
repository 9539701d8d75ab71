//! A client that asks by name: it is told what its names mean, the endpoints of the services among them, and the
//! workloads of its own node (spec/controlplane.md 2.6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Aliases, Difference, NAMES_MAX, Refused, may_see, resource};
use crate::catalog::{Catalog, Offer};
use crate::claim::Caller;
use crate::messages::discovery::Resource;

#[derive(Debug, Default)]
pub(super) struct Named {
    /// Every name as it was asked for, found or not: what does not exist now may come later.
    asked: BTreeSet<Arc<str>>,
    /// Services among what was found; their endpoints follow them.
    services: BTreeSet<Arc<str>>,
    /// Name and version of what the client has.
    told: BTreeMap<Arc<str>, Arc<str>>,
}

impl Named {
    /// Adds names, each with the version that the client has of it ("" if none). A name that means nothing is answered
    /// as removed.
    pub(super) fn ask<'n>(
        &mut self,
        names: impl Iterator<Item = (&'n str, &'n str)>,
        caller: &Caller,
        catalog: &Catalog,
        type_url: &str,
    ) -> Result<Difference, Refused> {
        let mut difference = Difference::default();
        let shelf = catalog.shelf(type_url);
        let held: BTreeMap<&str, &str> = names.collect();
        for name in held.keys() {
            if self.asked.len() >= NAMES_MAX && !self.asked.contains(*name) {
                return Err(Refused::TooManyNames);
            }
            self.asked.insert((*name).into());
            let found = shelf.map(|shelf| shelf.find(name)).unwrap_or_default();
            let found: Vec<_> = found.into_iter().filter(|offer| may_see(caller, offer)).collect();
            if found.is_empty() {
                self.told.remove(*name);
                difference.removed.push((*name).to_owned());
            }
            for offer in found {
                let endpoints = shelf.filter(|_| offer.is_service).map(|shelf| shelf.endpoints(&offer.name));
                self.tell(offer, &held, type_url, &mut difference);
                for endpoint in endpoints.into_iter().flatten().filter(|offer| may_see(caller, offer)) {
                    self.tell(endpoint, &held, type_url, &mut difference);
                }
            }
        }
        Ok(difference)
    }

    /// The workloads of the client's own node that it has not been told of.
    pub(super) fn own_node(
        &mut self,
        caller: &Caller,
        catalog: &Catalog,
        type_url: &str,
        held: &BTreeMap<String, String>,
    ) -> Vec<Resource> {
        let held = held.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
        let mut difference = Difference::default();
        let on_node = caller.node.iter().flat_map(|node| catalog.shelf(type_url).map(|shelf| shelf.on_node(node))).flatten();
        for offer in on_node.filter(|offer| may_see(caller, offer)) {
            if !self.told.contains_key(&offer.name) {
                self.tell(offer, &held, type_url, &mut difference);
            }
        }
        difference.resources
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.asked.remove(name);
        self.services.remove(name);
        self.told.remove(name);
    }

    /// Of the changed names those that concern this client.
    pub(super) fn update(
        &mut self,
        changed: &BTreeSet<Arc<str>>,
        caller: &Caller,
        catalog: &Catalog,
        type_url: &str,
    ) -> Difference {
        let mut difference = Difference::default();
        let shelf = catalog.shelf(type_url);
        let none = BTreeMap::new();
        for name in changed {
            let offer = shelf.and_then(|shelf| shelf.offer(name)).filter(|offer| may_see(caller, offer));
            match offer {
                Some(offer) if self.concerns(offer, caller) => {
                    if self.told.get(name) != Some(&offer.version) {
                        self.tell(offer, &none, type_url, &mut difference);
                        // A service that came to a name asked for earlier: its endpoints may have been here before it.
                        let endpoints = shelf.filter(|_| offer.is_service).map(|shelf| shelf.endpoints(name));
                        for endpoint in endpoints.into_iter().flatten().filter(|offer| may_see(caller, offer)) {
                            if !self.told.contains_key(&endpoint.name) && !changed.contains(&endpoint.name) {
                                self.tell(endpoint, &none, type_url, &mut difference);
                            }
                        }
                    }
                }
                Some(_) => {}
                None => {
                    self.services.remove(name);
                    if self.told.remove(name).is_some() {
                        difference.removed.push(name.to_string());
                    }
                }
            }
        }
        difference
    }

    fn concerns(&self, offer: &Offer, caller: &Caller) -> bool {
        self.told.contains_key(&offer.name)
            || self.asked.contains(&offer.name)
            || offer.aliases.iter().any(|alias| self.asked.contains(alias))
            || offer.services.iter().any(|service| self.services.contains(service))
            || offer.node.is_some() && offer.node == caller.node
    }

    fn tell(&mut self, offer: &Arc<Offer>, held: &BTreeMap<&str, &str>, type_url: &str, into: &mut Difference) {
        if offer.is_service {
            self.services.insert(offer.name.clone());
        }
        self.told.insert(offer.name.clone(), offer.version.clone());
        let once = into.names.insert(offer.name.clone());
        if once && held.get(&*offer.name) != Some(&&*offer.version) {
            into.resources.push(resource(offer, type_url, Aliases::Send));
        }
    }
}
