//! What a policy with targetRefs is for, and which waypoints must know of it (spec/waypoint.md 4.1, spec/controlplane.md
//! 4.13). The same for every kind that has them.

use std::sync::Arc;

use mesh_xds::messages::waypoint::{GatewayTarget, Host, MeshTarget, RouteTarget, ServiceTarget, Target, TargetKind};

use super::resource::Audience;
use super::route::attach;
use super::{Lens, Read, Report, service, waypoint};
use crate::cluster::Cluster;
use crate::objects::gateway::CONTROLLER;
use crate::objects::policy::TargetRef;
use crate::objects::route::{GROUP, parents};
use crate::objects::{Kind, Meta, NsName, ObjectKey};

/// All targets of a policy that could be found.
#[derive(Debug, Default)]
pub struct Targets {
    pub targets: Vec<Target>,
    pub audience: Audience,
    /// What is wrong with others: a reason and a sentence.
    bad: Vec<(&'static str, String)>,
    asked: usize,
}

/// One target: what it means, who is told, and why nobody serves it yet.
struct One {
    kinds: Vec<TargetKind>,
    audience: Audience,
    /// Why nobody serves it yet.
    unbound: Option<&'static str>,
}

const NO_WAYPOINT: &str = "has no waypoint";
const NO_ADDRESS: &str = "has no address yet";


pub fn resolve<'t>(lens: &Lens<'_>, meta: &Meta, targets: impl Iterator<Item = &'t TargetRef>) -> Targets {
    resolve_by(lens, meta, targets, one)
}

/// The same of a kind that can also be for a route.
pub fn resolve_with_routes<'t>(lens: &Lens<'_>, meta: &Meta, targets: impl Iterator<Item = &'t TargetRef>) -> Targets {
    resolve_by(lens, meta, targets, |lens, meta, target, name| match (&*target.group, &*target.kind) {
        (GROUP, "HTTPRoute") if name.namespace == meta.namespace => of_route(lens, Kind::HttpRoute, name),
        (GROUP, "GRPCRoute") if name.namespace == meta.namespace => of_route(lens, Kind::GrpcRoute, name),
        _ => one(lens, meta, target, name),
    })
}

type Found = Result<One, (&'static str, &'static str)>;

fn resolve_by<'t>(lens: &Lens<'_>, meta: &Meta, targets: impl Iterator<Item = &'t TargetRef>, one: impl Fn(&Lens<'_>, &Meta, &TargetRef, &NsName) -> Found) -> Targets {
    let mut all = Targets::default();
    for target in targets {
        all.asked += 1;
        let place = target.namespace.clone().filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| meta.namespace.clone());
        let name = NsName { namespace: place, name: target.name.clone() };
        match one(lens, meta, target, &name) {
            Ok(One { kinds, audience, unbound }) => {
                all.bad.extend(unbound.map(|why| ("AncestorNotBound", format!("{} {name}: {why}", target.kind))));
                all.targets.extend(kinds.into_iter().map(|kind| Target { kind: Some(kind) }));
                all.audience.join(audience);
            }
            Err((reason, why)) => all.bad.push((reason, format!("{} {name}: {why}", target.kind))),
        }
    }
    // A policy for nothing would be in force for everything: an entry that owns none of its hosts has no traffic.
    if all.targets.is_empty() {
        all.audience = Audience::default();
    }
    all
}

impl Targets {
    /// One condition for all targets.
    pub fn tell(&self, kind: &'static str, report: &mut Report) {
        let all: Vec<&str> = self.bad.iter().map(|(_, why)| why.as_str()).collect();
        match (self.bad.first(), self.asked) {
            (None, _) => report.holds(kind, "Accepted", "bound to its waypoints"),
            (Some((reason, why)), 1) => report.fails(kind, reason, why.clone()),
            (Some(_), asked) if self.bad.len() < asked => report.holds(kind, "PartiallyInvalid", all.join("; ")),
            (Some(_), _) => report.fails(kind, "Invalid", all.join("; ")),
        }
    }
}

/// A route is served by whoever serves its parents.
fn of_route(lens: &Lens<'_>, kind: Kind, name: &NsName) -> Found {
    let key = ObjectKey { kind, name: name.clone() };
    lens.note_object(kind, name);
    let route = lens.cluster.object(&key).ok_or(("TargetNotFound", "does not exist"))?;
    let mut audience = Audience::default();
    for reference in parents(&route) {
        if let Some(Ok(attached)) = attach(lens, kind, route.meta(), reference) {
            audience.join(attached.audience);
        }
    }
    let unbound = audience.is_empty().then_some("is attached to nothing that has a waypoint");
    let target = RouteTarget { kind: kind.name().to_owned(), namespace: name.namespace.to_string(), name: name.name.to_string(), rule: String::new() };
    Ok(One { kinds: vec![TargetKind::Route(target)], audience, unbound })
}

fn one(lens: &Lens<'_>, meta: &Meta, target: &TargetRef, name: &NsName) -> Found {
    let missing = ("TargetNotFound", "does not exist");
    // Who may write policies in one namespace has no say in another.
    let is_own = name.namespace == meta.namespace;
    match (&*target.group, &*target.kind) {
        ("" | "core", "Service") if is_own => {
            let object = lens.service(name).ok_or(missing)?;
            let visibility = mesh_model::service::Visibility::Public;
            let key = service::key_of_service(lens.settings, object);
            Ok(One {
                kinds: vec![of_service(&key.namespace, &key.hostname)],
                audience: Audience::of(waypoint::serving(lens, &object.meta, visibility)),
                unbound: (!waypoint::of_service(lens, &object.meta, visibility).is_bound()).then_some(NO_WAYPOINT),
            })
        }
        ("networking.istio.io", "ServiceEntry") if is_own => {
            let entry = lens.service_entry(name).ok_or(missing)?;
            let visibility = service::visibility(lens, &name.namespace);
            let key = ObjectKey { kind: Kind::ServiceEntry, name: name.clone() };
            let owned = entry.spec.hosts.iter().filter(|host| lens.owner(&name.namespace, host).as_ref() == Some(&key));
            Ok(One {
                kinds: owned.map(|host| of_service(&name.namespace, host)).collect(),
                audience: Audience::of(waypoint::serving(lens, &entry.meta, visibility)),
                unbound: (!waypoint::of_service(lens, &entry.meta, visibility).is_bound()).then_some(NO_WAYPOINT),
            })
        }
        ("gateway.networking.k8s.io", "Gateway") if is_own => {
            lens.note_object(Kind::Gateway, name);
            lens.cluster.gateways.get(name).ok_or(missing)?;
            let kind = TargetKind::Gateway(GatewayTarget { namespace: name.namespace.to_string(), name: name.name.to_string() });
            // One without an address is told all the same: it will have it before the first request.
            Ok(One { kinds: vec![kind], audience: Audience::of([name.clone()]), unbound: waypoint::by_name(lens, name).is_none().then_some(NO_ADDRESS) })
        }
        ("gateway.networking.k8s.io", "GatewayClass") => {
            let class = NsName { namespace: "".into(), name: name.name.clone() };
            lens.note_object(Kind::GatewayClass, &class);
            let found = lens.cluster.gateway_classes.get(&class).ok_or(missing)?;
            if &*found.controller != CONTROLLER || meta.namespace != lens.settings.root_namespace {
                return Err(("Invalid", "is of another controller, or the policy is not in the root namespace"));
            }
            Ok(One { kinds: vec![TargetKind::Mesh(MeshTarget {})], audience: Audience::of_class(&name.name), unbound: None })
        }
        (_, "Service" | "ServiceEntry" | "Gateway") if !is_own => Err(("TargetNotFound", "is of another namespace: a policy is for its own")),
        _ => Err(("Invalid", "is not a kind that a policy can be attached to")),
    }
}

fn of_service(namespace: &str, hostname: &str) -> TargetKind {
    TargetKind::Service(ServiceTarget { host: Some(Host { namespace: namespace.to_owned(), hostname: hostname.to_owned() }), port: 0 })
}

/// The waypoints of a namespace.
pub fn waypoints_of(lens: &Lens<'_>, namespace: &Arc<str>) -> (Vec<Target>, Audience) {
    lens.note(Read::Within(Kind::Gateway, namespace.clone()));
    let gateways = Cluster::within(&lens.cluster.gateways, namespace).map(|gateway| gateway.meta.ns_name());
    let ours: Vec<NsName> = gateways.filter(|name| waypoint::is_waypoint(lens, name)).collect();
    let target = |name: &NsName| Target { kind: Some(TargetKind::Gateway(GatewayTarget { namespace: name.namespace.to_string(), name: name.name.to_string() })) };
    (ours.iter().map(target).collect(), Audience::of(ours))
}

/// The services of a namespace that have a waypoint.
pub fn services_of(lens: &Lens<'_>, namespace: &Arc<str>) -> (Vec<Target>, Audience) {
    lens.note(Read::Within(Kind::Service, namespace.clone()));
    lens.note(Read::Within(Kind::ServiceEntry, namespace.clone()));
    let (mut targets, mut audience) = (Vec::new(), Audience::default());
    let mut add = |hostname: &str, serving: Vec<NsName>| {
        if !serving.is_empty() {
            targets.push(Target { kind: Some(of_service(namespace, hostname)) });
            audience.join(Audience::of(serving));
        }
    };
    for object in Cluster::within(&lens.cluster.services, namespace) {
        add(&service::key_of_service(lens.settings, object).hostname, waypoint::serving(lens, &object.meta, mesh_model::service::Visibility::Public));
    }
    for entry in Cluster::within(&lens.cluster.service_entries, namespace) {
        let serving = waypoint::serving(lens, &entry.meta, service::visibility(lens, namespace));
        let key = ObjectKey { kind: Kind::ServiceEntry, name: entry.meta.ns_name() };
        let owned = entry.spec.hosts.iter().filter(|host| lens.owner(namespace, host).as_ref() == Some(&key));
        owned.for_each(|host| add(host, serving.clone()));
    }
    (targets, audience)
}

/// Whether an annotation says yes, as Go reads a boolean.
pub fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "TRUE" | "true" | "True")
}

pub fn texts(list: &[Arc<str>]) -> Vec<String> {
    list.iter().map(|text| text.to_string()).collect()
}
