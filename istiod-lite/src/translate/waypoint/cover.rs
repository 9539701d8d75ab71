//! Policies at layer 7 that nobody may get past: while one covers a service, traffic goes through the waypoint that the
//! service asks for or nowhere, and the service's workloads take it from there alone.
//!
//! A policy covers a service by a targetRef to the service itself, to its waypoint's Gateway, or to that Gateway's class.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::address::{GatewayAddress, GatewayDestination, NamespacedHostname};
use mesh_policy::{Action, Entry, Group, Match, Policy, Rule, Scope, StringMatch};

use super::{Bound, Closed, Lens, Meta, NsName, Waypoint, address};
use crate::cluster::Target;
use crate::objects::gateway::{CLASS, GATEWAY_NAME, HBONE_PORT};
use crate::objects::{Kind, Labels, ObjectKey};
use crate::translate::{Read, policy};

/// What traffic is not to go past, if any policy covers the service or would by its waypoint.
pub fn closed(lens: &Lens<'_>, service: Option<&Meta>, waypoint: &NsName) -> Option<Box<Closed>> {
    closed_for(lens, waypoint, covering(lens, service, waypoint)?)
}

/// The same by policies for the service alone.
pub fn closed_by_own(lens: &Lens<'_>, service: Option<&Meta>, waypoint: &NsName) -> Option<Box<Closed>> {
    closed_for(lens, waypoint, of_service(lens, service?)?)
}

fn closed_for(lens: &Lens<'_>, waypoint: &NsName, policy: ObjectKey) -> Option<Box<Closed>> {
    let gateway = lens.cluster.gateways.get(waypoint);
    let address = gateway.and_then(|gateway| address(lens, gateway)).unwrap_or_else(|| expected(lens, waypoint));
    Some(Box::new(Closed { name: waypoint.clone(), address, policy }))
}

/// The name that a waypoint's Service has, or will have.
fn expected(lens: &Lens<'_>, waypoint: &NsName) -> GatewayAddress {
    let named = lens.cluster.gateways.get(waypoint).and_then(|gateway| gateway.meta.annotation("gateway.istio.io/name-override"));
    // An empty name is one that will never be.
    let name = named.unwrap_or(if waypoint.name.is_empty() { "none" } else { &waypoint.name });
    let hostname = format!("{name}.{}.svc.{}", waypoint.namespace, lens.settings.cluster_domain);
    let destination = GatewayDestination::Hostname(NamespacedHostname { namespace: waypoint.namespace.clone(), hostname: hostname.into() });
    GatewayAddress { destination, hbone_mtls_port: HBONE_PORT }
}

/// The first policy that covers a service, or, of a workload, that its waypoint has for all of its traffic.
fn covering(lens: &Lens<'_>, service: Option<&Meta>, waypoint: &NsName) -> Option<ObjectKey> {
    service.and_then(|service| of_service(lens, service)).or_else(|| of_waypoint(lens, waypoint))
}

/// Such a reference means an object of the policy's own namespace. Which kind the service is makes no difference: two of
/// one name are one too many, and closed is the safe side.
fn of_service(lens: &Lens<'_>, service: &Meta) -> Option<ObjectKey> {
    let of = |kind: &str| first(lens, kind, service.ns_name(), |policy| policy.namespace == service.namespace);
    of("Service").or_else(|| of("ServiceEntry"))
}

fn of_waypoint(lens: &Lens<'_>, waypoint: &NsName) -> Option<ObjectKey> {
    lens.note_object(Kind::Gateway, waypoint);
    let class = lens.cluster.gateways.get(waypoint).map_or_else(|| CLASS.into(), |gateway| gateway.class.clone());
    let gateway = first(lens, "Gateway", waypoint.clone(), |policy| policy.namespace == waypoint.namespace);
    let root = &lens.settings.root_namespace;
    gateway.or_else(|| first(lens, "GatewayClass", NsName { namespace: "".into(), name: class }, |policy| policy.namespace == *root))
}

fn first(lens: &Lens<'_>, kind: &str, name: NsName, counts: impl Fn(&NsName) -> bool) -> Option<ObjectKey> {
    let target = Target { kind: kind.into(), name };
    lens.note(Read::Policies(target.clone()));
    lens.cluster.policies_of(&target).find(|key| counts(&key.name) && refuses(lens, key)).cloned()
}

/// Whether a policy can refuse anything: those that only take notes do not.
fn refuses(lens: &Lens<'_>, key: &ObjectKey) -> bool {
    match key.kind {
        Kind::AuthorizationPolicy => lens.cluster.authorization_policies.get(&key.name).is_some_and(|policy| policy::can_refuse(policy)),
        _ => true,
    }
}

/// The policy of layer 4 that keeps a covered service's workloads to its waypoints: whoever dials a pod, or comes without
/// an identity, would go past the policy. Whom another policy allows at layer 4 still comes.
pub fn only_from_waypoints(lens: &Lens<'_>, service: &NamespacedHostname, meta: &Meta, bound: &Bound) -> Option<Policy> {
    if !lens.settings.closes_behind_waypoints {
        return None;
    }
    let waypoints: Vec<&NsName> = match bound {
        Bound::To { waypoint, canary, .. } => {
            let names: Vec<&NsName> = [Some(&**waypoint), canary.as_deref().map(|(canary, _)| canary)].into_iter().flatten().map(|waypoint: &Waypoint| &waypoint.name).collect();
            names.iter().any(|name| covering(lens, Some(meta), name).is_some()).then_some(names)?
        }
        Bound::Refused { closed, .. } => vec![&closed.as_ref()?.name],
        Bound::Free => return None,
    };
    let principals = waypoints.into_iter().flat_map(|waypoint| accounts(lens, waypoint).into_iter().map(|account| (waypoint.namespace.clone(), account)));
    let principal = |(namespace, account): (Arc<str>, Arc<str>)| Entry::Value(StringMatch::exact(&format!("{}/ns/{namespace}/sa/{account}", lens.settings.trust_domain)));
    let group = Group::new([Rule::new([Match { principals: principals.map(principal).collect(), ..Match::default() }])]);
    let policy = Policy::new(&service.namespace, &format!("istio_only_from_waypoint_{}", service.hostname), Scope::WorkloadSelector, Action::Allow);
    Some(Policy { groups: vec![group], ..policy })
}

/// Who a waypoint's instances run as: the account that the Gateway names, which is there before any instance is, and
/// those of the pods that say they are instances.
fn accounts(lens: &Lens<'_>, waypoint: &NsName) -> BTreeSet<Arc<str>> {
    lens.note_object(Kind::Gateway, waypoint);
    let named = lens.cluster.gateways.get(waypoint).and_then(|gateway| gateway.meta.annotation("gateway.istio.io/service-account"));
    let named = named.unwrap_or(&waypoint.name).into();
    [named].into_iter().chain(instances(lens, waypoint)).collect()
}

/// Accounts of the pods that say they are instances of a Gateway.
pub fn instances(lens: &Lens<'_>, waypoint: &NsName) -> BTreeSet<Arc<str>> {
    lens.note(Read::Instances(waypoint.clone()));
    let instances = lens.cluster.selected(Kind::Pod, Some(&waypoint.namespace), &Labels::from_iter([(GATEWAY_NAME.into(), waypoint.name.clone())]));
    instances.iter().filter_map(|key| Some(lens.cluster.pods.get(&key.name)?.service_account.clone())).collect()
}
