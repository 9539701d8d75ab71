//! How waypoints reach a service's endpoints: DestinationRules of its host, as each waypoint sees them
//! (spec/waypoint.md 5.4 to 5.8).
//!
//! `lookup` says which rules count for whom, `policy` turns them into messages, `subset` names the endpoints that a subset
//! has, `tls_policy` is the Gateway API's way to say TLS.

use std::sync::Arc;

use mesh_model::address::NamespacedHostname;
use mesh_xds::messages::waypoint::{BACKEND_POLICY, BackendPolicy, Host, SUBSET, ServiceTarget, Subset as SubsetMessage};

use super::resource::{Resource, source};
use super::{Derived, Lens, Report};
use crate::objects::{DestinationRule, Kind, Meta, ObjectKey};

mod lookup;
pub mod policy;
mod subset;
mod tls_policy;

pub use lookup::touched;
pub use tls_policy::backend_tls_policy;

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
        let mut put = |type_url, name: String, message: &dyn Encode| derived.resources.push(message.resource(type_url, &name, &variant.audience));
        if let Some((meta, policy)) = merged.policy() {
            for (port, message) in policy::by_port(policy) {
                put(BACKEND_POLICY, format!("{place}:{port}"), &of(&key, port, "", meta, message));
            }
        }
        for (meta, asked) in merged.subsets() {
            let workloads = subset::workloads(lens, &owner, asked);
            let message = SubsetMessage { meta: source(Kind::DestinationRule, meta, &asked.name), host: Some(host(&key)), name: asked.name.to_string(), workloads };
            put(SUBSET, format!("{place}/{}", asked.name), &message);
            for (port, message) in asked.traffic_policy.iter().flat_map(policy::by_port) {
                put(BACKEND_POLICY, format!("{place}/{}:{port}", asked.name), &of(&key, port, &asked.name, meta, message));
            }
        }
    }
    derived
}

/// A message of any type, so that one line puts it.
trait Encode {
    fn resource(&self, type_url: &'static str, name: &str, audience: &super::resource::Audience) -> Arc<Resource>;
}

impl<M: prost::Message> Encode for M {
    fn resource(&self, type_url: &'static str, name: &str, audience: &super::resource::Audience) -> Arc<Resource> {
        Resource::new(type_url, name, self, audience)
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
    if let Some(policy) = &rule.spec.traffic_policy {
        policy::unhonoured(policy, "spec.trafficPolicy", &mut report);
    }
    for subset in &rule.spec.subsets {
        if let Some(policy) = &subset.traffic_policy {
            policy::unhonoured(policy, &format!("spec.subsets[{}].trafficPolicy", subset.name), &mut report);
        }
    }
    Derived { reports: vec![(ObjectKey { kind: Kind::DestinationRule, name: rule.meta.ns_name() }, report)], ..Derived::default() }
}
