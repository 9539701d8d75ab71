//! What came out of translation goes to the catalog that node daemons and waypoints are told from.
//!
//! The order keeps every reference whole: a policy is there before a workload lists it, and leaves after no workload does
//! (spec/controlplane.md 14.4).

use mesh_xds::{CatalogWriter, Offer, Update};

use crate::translate::{Changes, Resource};

/// The updates of a batch, to be published one after the other.
pub fn updates(changes: &Changes) -> [Vec<Update>; 3] {
    let mut first = Vec::new();
    let mut then = Vec::new();
    let mut last = Vec::new();
    for (key, policy) in &changes.policies {
        match policy {
            Some(policy) => first.push(Update::policy(key, policy)),
            None => last.push(Update::remove_policy(key)),
        }
    }
    // A waypoint knows what it serves before anybody is sent to it.
    for ((type_url, name), resource) in &changes.resources {
        match resource {
            Some(resource) => first.push(Update::Put(type_url, offer(resource))),
            None => last.push(Update::Remove(type_url, name.clone())),
        }
    }
    for (key, service) in &changes.services {
        then.push(service.as_ref().map_or_else(|| Update::remove_address(&key.to_string()), |service| Update::service(service)));
    }
    for (uid, workload) in &changes.workloads {
        then.push(workload.as_ref().map_or_else(|| Update::remove_address(&uid.0), |workload| Update::workload(workload)));
    }
    [first, then, last]
}

fn offer(resource: &Resource) -> Offer {
    Offer { audiences: Some(resource.audiences.clone()), ..Offer::new(&resource.name, resource.body.clone()) }
}

pub fn publish(catalog: &mut CatalogWriter, changes: &Changes) {
    for batch in updates(changes).into_iter().filter(|batch| !batch.is_empty()) {
        catalog.apply(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Event;
    use crate::objects::{Kind, ObjectKey};
    use crate::translate::tests::{events, pod, translation};

    fn names(batch: &[Update]) -> Vec<String> {
        let name = |update: &Update| match update {
            Update::Put(_, offer) => format!("+{}", offer.name),
            Update::Remove(_, name) => format!("-{name}"),
        };
        batch.iter().map(name).collect()
    }

    // pitfall 4
    #[test]
    fn a_policy_comes_before_its_reference_and_goes_after_it() {
        let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop, name: p}\nspec: {selector: {matchLabels: {app: a}}}\n---\n";
        let mut translation = translation();
        let come = translation.apply(events(&(policy.to_owned() + &pod("shop", "a", "10.0.0.1", "app: a"))));
        assert_eq!(updates(&come).map(|batch| names(&batch)), [vec!["+shop/p"], vec!["+Kubernetes//Pod/shop/a"], vec![]]);
        let gone = translation.apply([Event::Deleted(ObjectKey::new(Kind::AuthorizationPolicy, "shop", "p"))]);
        assert_eq!(updates(&gone).map(|batch| names(&batch)), [vec![], vec!["+Kubernetes//Pod/shop/a"], vec!["-shop/p"]]);
    }

    // pitfall 2: the same objects in another order give the same bytes
    #[test]
    fn bytes_do_not_depend_on_the_order_of_arrival() {
        let yaml = (0..20).map(|index| pod("shop", &format!("p{index}"), &format!("10.0.0.{index}"), "app: a, b: c")).collect::<String>()
            + "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: s}\nspec: {selector: {app: a}, clusterIPs: [10.96.0.1, \"fd00::1\"], ports: [{name: b, port: 2}, {name: a, port: 1}]}\n";
        let versions = |events: Vec<Event>| {
            let (mut writer, watched) = mesh_xds::catalog();
            publish(&mut writer, &translation().apply(events));
            let catalog = watched.load();
            let shelves = catalog.types().filter_map(|kind| catalog.shelf(kind));
            shelves.flat_map(|shelf| shelf.offers().map(|offer| (offer.name.clone(), offer.version.clone())).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        let forth = events(&yaml);
        let back: Vec<Event> = forth.iter().rev().cloned().collect();
        assert_eq!(versions(forth), versions(back));
    }
}
