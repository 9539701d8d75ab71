//! How waypoints reach a service's endpoints: DestinationRules of its host, as each waypoint sees them
//! (spec/waypoint.md 5.4 to 5.8).
//!
//! `lookup` says which rules count for whom, `policy` turns them into messages, `subset` names the endpoints that a subset
//! has, `tls_policy` is the Gateway API's way to say TLS, `material` what both name for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::address::NamespacedHostname;
use mesh_xds::messages::waypoint::{BACKEND_POLICY, BackendPolicy, Host, SUBSET, ServiceTarget, Subset as SubsetMessage};

use self::material::Credentials;
use super::resource::{Audience, Resource, source};
use super::{Derived, Lens, Report};
use crate::objects::destination_rule::TrafficPolicy;
use crate::objects::{DestinationRule, Kind, Meta, ObjectKey};

mod lookup;
pub mod material;
pub mod policy;
mod subset;
mod tls_policy;

pub use lookup::touched;
pub use tls_policy::backend_tls_policy;

/// A condition is for reading: of many things that are wrong some are named.
const BROKEN_NAMED: usize = 5;

/// Rules as they count for some waypoints: of several of one host the oldest first.
struct Merged<'a> {
    rules: Vec<&'a Arc<DestinationRule>>,
}

/// What waypoints are told of the service of a hostname in a namespace.
pub fn of_host(lens: &Lens<'_>, namespace: &Arc<str>, hostname: &Arc<str>) -> Derived {
    let mut derived = Derived::default();
    // Where the service or all its rules are gone nothing is left, not even a reading: who brings one back names the unit.
    if super::service::owner(lens.cluster, lens.settings, namespace, hostname).is_none() || !lookup::has_rules(lens.cluster, hostname) {
        return derived;
    }
    let Some(owner) = lens.owner(namespace, hostname) else { return derived };
    lens.note_object(owner.kind, &owner.name);
    let key = NamespacedHostname { namespace: namespace.clone(), hostname: hostname.clone() };
    for variant in lookup::variants(lens, namespace, hostname) {
        let merged = Merged { rules: variant.rules };
        let Some(first) = merged.rules.first() else { continue };
        let place = format!("{key}@{}", first.meta.namespace);
        if !merged.names_secrets() {
            let credentials = Credentials { lens, namespace: None };
            put_policies(&mut derived, &key, &place, &merged, &credentials, &variant.audience);
        } else {
            // Each waypoint shows what is kept in its own namespace, and is told of nothing else.
            for (namespace, audience) in lookup::by_namespace_of_waypoint(lens, &variant.audience) {
                let credentials = Credentials { lens, namespace: Some(&namespace) };
                put_policies(&mut derived, &key, &format!("{place}>{namespace}"), &merged, &credentials, &audience);
            }
        }
        for (meta, asked) in merged.subsets() {
            let workloads = subset::workloads(lens, &owner, asked);
            let message = SubsetMessage { meta: source(Kind::DestinationRule, meta, &asked.name), host: Some(host(&key)), name: asked.name.to_string(), workloads };
            derived.resources.push(Resource::new(SUBSET, &format!("{place}/{}", asked.name), &message, &variant.audience));
        }
    }
    derived
}

fn put_policies(derived: &mut Derived, key: &NamespacedHostname, place: &str, merged: &Merged<'_>, credentials: &Credentials<'_>, audience: &Audience) {
    let mut put = |name: String, message: &BackendPolicy| derived.resources.push(Resource::new(BACKEND_POLICY, &name, message, audience));
    if let Some((meta, policy)) = merged.policy() {
        for (port, message) in policy::by_port(policy, credentials) {
            put(format!("{place}:{port}"), &of(key, port, "", meta, message));
        }
    }
    for (meta, asked) in merged.subsets() {
        for (port, message) in asked.traffic_policy.iter().flat_map(|policy| policy::by_port(policy, credentials)) {
            put(format!("{place}/{}:{port}", asked.name), &of(key, port, &asked.name, meta, message));
        }
    }
}

fn host(key: &NamespacedHostname) -> Host {
    Host { namespace: key.namespace.to_string(), hostname: key.hostname.to_string() }
}

fn of(key: &NamespacedHostname, port: u32, subset: &str, meta: &Meta, message: BackendPolicy) -> BackendPolicy {
    BackendPolicy { meta: source(Kind::DestinationRule, meta, subset), service: Some(ServiceTarget { host: Some(host(key)), port }), subset: subset.to_owned(), ..message }
}

impl<'a> Merged<'a> {
    /// The first that has one.
    fn policy(&self) -> Option<(&'a Meta, &'a crate::objects::destination_rule::TrafficPolicy)> {
        self.rules.iter().find_map(|rule| Some((&rule.meta, rule.spec.traffic_policy.as_ref()?)))
    }

    fn names_secrets(&self) -> bool {
        let of_subsets = self.subsets().into_iter().filter_map(|(_, subset)| subset.traffic_policy.as_ref());
        self.policy().map(|(_, policy)| policy).into_iter().chain(of_subsets).any(policy::names_secrets)
    }

    /// Of several of one name the first.
    fn subsets(&self) -> Vec<(&'a Meta, &'a crate::objects::destination_rule::Subset)> {
        let mut found: Vec<(&Meta, &crate::objects::destination_rule::Subset)> = Vec::new();
        for rule in &self.rules {
            for subset in &rule.spec.subsets {
                if found.iter().all(|(_, known)| known.name != subset.name) {
                    found.push((&rule.meta, subset));
                }
            }
        }
        found
    }
}

/// What there is to say about a rule.
pub fn report(lens: &Lens<'_>, rule: &DestinationRule) -> Derived {
    let mut report = Report::default();
    let host = crate::cluster::attach::full_host(&rule.spec.host, &rule.meta.namespace, &lens.settings.cluster_domain);
    if rule.spec.workload_selector.is_some() {
        report.note("has no effect: spec.workloadSelector selects sidecars, and waypoints ignore rules with it");
    } else if !host.starts_with('*') && lookup::services(lens, &host).is_empty() {
        report.note(format!("spec.host: {host} is neither a Service nor in a ServiceEntry"));
    }
    if rule.spec.host.is_empty() {
        report.note("spec.host: is empty, so the rule is for nothing");
    }
    let mut policies: Vec<(String, &TrafficPolicy)> = rule.spec.traffic_policy.iter().map(|policy| ("spec.trafficPolicy".to_owned(), policy)).collect();
    policies.extend(rule.spec.subsets.iter().filter_map(|subset| Some((format!("spec.subsets[{}].trafficPolicy", subset.name), subset.traffic_policy.as_ref()?))));
    for (field, policy) in &policies {
        policy::unhonoured(policy, field, &mut report);
    }
    // A rule that nobody serves yet is told what does not hang on where it is served.
    let served_in = if policies.iter().any(|(_, policy)| policy::names_secrets(policy)) { lookup::served_in(lens, &host) } else { BTreeSet::new() };
    let places: Vec<Option<&Arc<str>>> = if served_in.is_empty() { vec![None] } else { served_in.iter().map(Some).collect() };
    let broken: BTreeSet<String> = places.into_iter().flat_map(|namespace| {
        let credentials = Credentials { lens, namespace };
        let is_told = |policy: &TrafficPolicy| namespace.is_some() || !policy::names_secrets(policy);
        policies.iter().filter(|(_, policy)| is_told(policy)).flat_map(|(field, policy)| policy::broken(policy, field, &credentials)).collect::<Vec<_>>()
    }).collect();
    if !broken.is_empty() {
        let broken: Vec<String> = broken.into_iter().take(BROKEN_NAMED).collect();
        report.fails("istio.io/Accepted", "InvalidTls", format!("{}; connections to the host fail until it is corrected", broken.join("; ")));
    }
    Derived { reports: vec![(ObjectKey { kind: Kind::DestinationRule, name: rule.meta.ns_name() }, report)], ..Derived::default() }
}
