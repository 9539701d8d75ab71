//! What the mesh itself says to a question: (directory, who asks, question) to an answer, or "ask somebody else". Pure.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::directory::Directory;
use mesh_model::service::{IpFamilies, Service, Visibility};
use mesh_model::workload::Workload;
use rand::Rng;
use rand::seq::SliceRandom;

use super::names;

/// How names are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    pub cluster_domain: Arc<str>,
    /// `None`: those of the client's namespace in the cluster (shared mode); else those of resolv.conf (dedicated mode).
    pub search: Option<Vec<String>>,
    /// Wins among services of other namespaces that are equally good (`PREFERED_SERVICE_NAMESPACE`).
    pub preferred_namespace: Option<Arc<str>>,
    /// Whether AAAA records may be told at all.
    pub ipv6: bool,
}

/// The family of addresses that is asked for. Every other question is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Local(Local),
    /// The mesh does not know the name.
    Forward,
}

/// The name is ours. Without addresses: it exists, and has none of this family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    pub service: Arc<Service>,
    pub addresses: Vec<IpAddr>,
    /// The answer is for the first so many labels of the name, to which the name itself is an alias (CNAME).
    pub alias_of: Option<usize>,
}

/// Addresses in one answer. A thousand AAAA records are 28 KB: they fit a message, and no client reads more.
const MOST_ADDRESSES: usize = 1000;

/// Answers for a client whose workload is known. `name` is in lower case and has no final dot.
pub fn answer(
    directory: &Directory,
    client: &Workload,
    naming: &Naming,
    name: &str,
    family: Family,
    rng: &mut impl Rng,
) -> Answer {
    let cluster_search = || names::cluster_search(&client.namespace, &naming.cluster_domain);
    let search = naming.search.clone().unwrap_or_else(cluster_search);
    for alias in names::aliases(name, &client.namespace, &naming.cluster_domain, &search) {
        for candidate in names::candidates(&alias.name) {
            let Some(service) = meant(directory, client, naming, &candidate) else { continue };
            let mut addresses = addresses(directory, client, naming, service, family);
            addresses.shuffle(rng);
            addresses.truncate(MOST_ADDRESSES);
            // A wildcard says nothing about the stripped name, and an alias to nothing helps nobody.
            let exact = candidate == alias.name;
            let alias_of = alias.stripped.filter(|_| exact && !addresses.is_empty());
            return Answer::Local(Local { service: service.clone(), addresses, alias_of });
        }
    }
    Answer::Forward
}

/// The service that this hostname means to the client: its own namespace's, the canonical one, the preferred namespace's,
/// the first.
fn meant<'d>(directory: &'d Directory, client: &Workload, naming: &Naming, hostname: &str) -> Option<&'d Arc<Service>> {
    let eligible = |service: &&Arc<Service>| has_addresses(service, naming) && sees(client, service);
    let rank = |service: &Service| {
        let preferred = naming.preferred_namespace.as_ref() == Some(&service.namespace);
        (service.namespace == client.namespace, service.canonical, preferred)
    };
    // The first of the best: candidates come by namespace, and `max_by_key` would take the last.
    let first_best = |best: &'d Arc<Service>, next: &'d Arc<Service>| if rank(next) > rank(best) { next } else { best };
    directory.services_named(hostname).filter(eligible).reduce(first_best)
}

/// A service has something to tell if it has VIPs, or is a headless one of the cluster.
fn has_addresses(service: &Service, naming: &Naming) -> bool {
    !service.vips.is_empty() || is_cluster_name(&service.hostname, &naming.cluster_domain)
}

fn is_cluster_name(hostname: &str, domain: &str) -> bool {
    names::without_domain(hostname, domain).is_some_and(|rest| rest.ends_with(".svc"))
}

fn sees(client: &Workload, service: &Service) -> bool {
    service.visibility == Visibility::Public || service.namespace == client.namespace
}

fn addresses(directory: &Directory, client: &Workload, naming: &Naming, service: &Service, family: Family) -> Vec<IpAddr> {
    if !tells(service, naming, family) {
        return Vec::new();
    }
    let wanted = |ip: &&IpAddr| ip.is_ipv4() == (family == Family::V4);
    if service.vips.is_empty() {
        // Headless: the endpoints themselves. An address of another network leads nowhere from here.
        let near = directory.endpoints(service).filter(|endpoint| endpoint.network == client.network);
        return near.filter_map(|endpoint| endpoint.addresses.iter().find(wanted).copied()).collect();
    }
    let near = service.vips.iter().filter(|vip| vip.network == client.network);
    near.map(|vip| &vip.ip).filter(wanted).copied().collect()
}

fn tells(service: &Service, naming: &Naming, family: Family) -> bool {
    match family {
        Family::V4 => service.ip_families != IpFamilies::V6Only,
        Family::V6 => naming.ipv6 && service.ip_families != IpFamilies::V4Only,
    }
}

#[cfg(test)]
mod tests;
