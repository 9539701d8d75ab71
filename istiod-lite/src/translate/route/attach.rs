//! What a route is for: Services and ServiceEntries, whose clients, which of their ports (spec/waypoint.md 2.3, 2.7).

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::address::NamespacedHostname;
use mesh_xds::messages::waypoint::{Host, ParentRef, PortProtocol};

use crate::cluster::attach::parent;
use crate::objects::route::{ParentReference, ROUTES, parents};
use crate::objects::{Kind, Meta, NsName, Object, ObjectKey, Service, ServiceEntry};
use crate::translate::resource::Audience;
use crate::translate::served::{protocol, speaks_http};
use crate::translate::{Lens, Report, ports, service, waypoint};

/// A parent that a route works for.
pub struct Attached {
    pub key: ObjectKey,
    pub hosts: Vec<NamespacedHostname>,
    /// 0 alone: all that speak the route's protocol.
    pub ports: BTreeSet<u16>,
    /// Clients of this namespace only; empty: all.
    pub consumer: Arc<str>,
    pub audience: Audience,
}

pub struct Refused {
    pub reason: &'static str,
    pub message: String,
    /// Whether there is such an object at all.
    pub exists: bool,
}

/// What a route claims of a parent, for the other routes of that parent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    pub parent: ObjectKey,
    pub route: ObjectKey,
    pub port: Option<u16>,
}

pub fn claims(object: &Object) -> Vec<Claim> {
    let own = &object.meta().namespace;
    let one = |reference: &ParentReference| Some(Claim { parent: parent(reference, own)?, route: object.key(), port: reference.port });
    parents(object).iter().filter_map(one).collect()
}

impl Attached {
    /// Each host and port with the words that make a name of it.
    pub fn references(&self) -> impl Iterator<Item = (String, ParentRef)> {
        self.hosts.iter().flat_map(|host| {
            self.ports.iter().map(move |port| {
                let reference = Host { namespace: host.namespace.to_string(), hostname: host.hostname.to_string() };
                (format!("{host}:{port}"), ParentRef { host: Some(reference), port: (*port).into() })
            })
        })
    }
}

/// A port of a parent and what is spoken there.
pub type Port = (u16, PortProtocol);

/// `None`: a parent that is no service, which others look after.
pub fn attach(lens: &Lens<'_>, kind: Kind, meta: &Meta, reference: &ParentReference) -> Option<Result<Attached, Refused>> {
    let key = parent(reference, &meta.namespace)?;
    Some(found(lens, &key).and_then(|(hosts, known, audience)| {
        let consumer: Arc<str> = if key.name.namespace == meta.namespace { "".into() } else { meta.namespace.clone() };
        let ports = taken(lens, kind, &key, &meta.namespace, reference.port, &known)?;
        Ok(Attached { key: key.clone(), hosts, ports, consumer, audience })
    }))
}

fn refused(reason: &'static str, message: String) -> Refused {
    Refused { reason, message, exists: true }
}

type Parent = (Vec<NamespacedHostname>, Vec<Port>, Audience);

/// The ports of a Service or ServiceEntry that carry TCP, and what is spoken there.
pub fn ports_of_parent(lens: &Lens<'_>, key: &ObjectKey) -> Vec<Port> {
    match key.kind {
        Kind::Service => lens.service(&key.name).map(|object| ports_of_service(object)).unwrap_or_default(),
        _ => lens.service_entry(&key.name).map(|entry| ports_of_entry(entry)).unwrap_or_default(),
    }
}

fn ports_of_service(object: &Service) -> Vec<Port> {
    let tcp = ports::service_ports(object).filter(|port| &*port.protocol == "TCP");
    tcp.map(|port| (port.port, protocol(port.app_protocol.as_deref(), &port.name, port.port))).collect()
}

fn ports_of_entry(entry: &ServiceEntry) -> Vec<Port> {
    ports::entry_ports(entry).map(|(number, port)| (number, protocol(port.protocol.as_deref(), &port.name, number))).collect()
}

fn found(lens: &Lens<'_>, key: &ObjectKey) -> Result<Parent, Refused> {
    let missing = || Refused { reason: "NoMatchingParent", message: format!("{key} does not exist"), exists: false };
    if key.kind == Kind::Service {
        let object = lens.service(&key.name).ok_or_else(missing)?;
        if object.is_external_name || object.cluster_ips.is_empty() {
            return Err(refused("NoMatchingParent", format!("{key} has no address of its own (headless or ExternalName), so no connection is made to it")));
        }
        let audience = Audience::of(waypoint::serving(lens, &object.meta, mesh_model::service::Visibility::Public));
        return Ok((vec![service::key_of_service(lens.settings, object)], ports_of_service(object), audience));
    }
    let entry = lens.service_entry(&key.name).ok_or_else(missing)?;
    let namespace = &key.name.namespace;
    let owned = entry.spec.hosts.iter().filter(|host| lens.owner(namespace, host).as_ref() == Some(key));
    let hosts: Vec<NamespacedHostname> = owned.map(|host| NamespacedHostname { namespace: namespace.clone(), hostname: host.clone() }).collect();
    if hosts.is_empty() {
        return Err(refused("NoMatchingParent", format!("{key} owns none of its hosts: an older object has them")));
    }
    let audience = Audience::of(waypoint::serving(lens, &entry.meta, service::visibility(lens, namespace)));
    Ok((hosts, ports_of_entry(entry), audience))
}

/// The ports that a route of this kind has: those that it names or that speak its protocol, without those of which a
/// route of a stronger kind speaks for the same clients.
fn taken(lens: &Lens<'_>, kind: Kind, key: &ObjectKey, namespace: &Arc<str>, port: Option<u16>, known: &[Port]) -> Result<BTreeSet<u16>, Refused> {
    if let Some(port) = port.filter(|port| known.iter().all(|(known, _)| known != port)) {
        return Err(refused("NoMatchingParent", format!("{key} has no port {port}")));
    }
    let asked = asked(kind, port, known);
    if asked.is_empty() {
        return Err(refused("NoMatchingParent", format!("{key} has no port that speaks what a {kind} is for")));
    }
    let stronger: BTreeSet<u16> = lens
        .routes_of_parent(key)
        .filter(|route| rank(route.kind) < rank(kind) && route.name.namespace == *namespace)
        .flat_map(|route| claimed(lens, route, key, known))
        .collect();
    let left: BTreeSet<u16> = asked.difference(&stronger).copied().collect();
    match (left.is_empty(), left.len() == asked.len(), kind) {
        (true, _, _) => Err(refused("Conflicted", format!("another route of a stronger kind has all of these ports of {key}: GRPCRoute, then HTTPRoute, TLSRoute, TCPRoute"))),
        // Ports that the service gets later are this route's, too.
        (_, true, Kind::HttpRoute | Kind::GrpcRoute) if port.is_none() => Ok([0].into()),
        _ => Ok(left),
    }
}

fn rank(kind: Kind) -> usize {
    ROUTES.iter().position(|known| *known == kind).unwrap_or(ROUTES.len())
}

fn asked(kind: Kind, port: Option<u16>, known: &[Port]) -> BTreeSet<u16> {
    let speaks = |protocol: PortProtocol| match kind {
        Kind::HttpRoute | Kind::GrpcRoute => speaks_http(protocol),
        Kind::TlsRoute => matches!(protocol, PortProtocol::Tls | PortProtocol::Auto),
        _ => matches!(protocol, PortProtocol::Tcp | PortProtocol::Tls | PortProtocol::Auto),
    };
    known.iter().filter(|(number, protocol)| port.map_or(speaks(*protocol), |port| port == *number)).map(|(number, _)| *number).collect()
}

fn claimed(lens: &Lens<'_>, route: &ObjectKey, key: &ObjectKey, known: &[Port]) -> BTreeSet<u16> {
    let Some(object) = lens.cluster.object(route) else { return BTreeSet::new() };
    claims(&object).into_iter().filter(|claim| claim.parent == *key).flat_map(|claim| asked(route.kind, claim.port, known)).collect()
}

/// Whether anybody routes by it: without a waypoint a route waits.
pub fn tell_waypoints(attached: &Result<Attached, Refused>, conditions: &mut Report) {
    const KIND: &str = "ResolvedWaypoints";
    match attached {
        Ok(attached) if attached.audience.is_empty() => {
            conditions.fails(KIND, "MissingUseWaypointLabel", format!("{} is bound to no waypoint, so the route has no effect yet: label it or its namespace istio.io/use-waypoint", attached.key));
        }
        Ok(attached) => conditions.holds(KIND, "ResolvedWaypoints", format!("routed by {}", names(&attached.audience.gateways))),
        Err(refused) if !refused.exists => conditions.fails(KIND, "NoMatchingParent", refused.message.clone()),
        Err(_) => {}
    }
}

fn names(gateways: &BTreeSet<NsName>) -> String {
    gateways.iter().map(NsName::to_string).collect::<Vec<_>>().join(", ")
}
