//! Waypoints: what a Gateway offers as one, and which one an object is bound to (spec/controlplane.md 4.10 to 4.12).
//!
//! A Gateway counts as soon as it has an address, whatever its class: foreign and sandwiched proxies are welcome.

use std::sync::Arc;

use mesh_model::address::{GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress};
use mesh_model::service::{Visibility, WeightedWaypoint};
use mesh_model::workload::{ApplicationTunnel, ApplicationTunnelProtocol, PolicyKey, Workload};
use mesh_policy::{Action, Entry, Group, Match, Policy, Rule, Scope, StringMatch};

use super::{Derived, Lens, Report, service};
use crate::objects::gateway::{GATEWAY_NAME, HBONE_PORT, Listener, MANAGED, MANAGED_BY, RouteNamespaces};
use crate::objects::{Gateway, Kind, Labels, Meta, NsName, ObjectKey};

pub mod cover;
mod serving;

pub use serving::{is_class, is_waypoint, ready_instances, serving};

const USE: &str = "istio.io/use-waypoint";
const USE_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const CANARY: &str = "istio.io/use-waypoint-canary";
const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
const CANARY_WEIGHT: &str = "istio.io/use-waypoint-canary-weight";
/// Gateways between networks, which another controller makes.
const EAST_WEST: &str = "istio.io-eastwest-controller";
const BINDING: &str = "ambient.istio.io/waypoint-inbound-binding";

/// A Gateway as the data plane can use it.
#[derive(Clone, Debug, PartialEq)]
pub struct Waypoint {
    pub name: NsName,
    /// `None`: its addresses are of no kind that the wire knows.
    pub address: Option<GatewayAddress>,
    pub traffic: Traffic,
    pub inbound_binding: Option<ApplicationTunnel>,
    allowed: Allowed,
}

/// What is to pass through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    Service,
    Workload,
    All,
    None,
}

/// From which namespaces it may be used.
#[derive(Clone, Debug, PartialEq)]
enum Allowed {
    Same,
    All,
    Selected(crate::objects::gateway::LabelSelector),
    Nobody,
}

/// Which waypoint an object has.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// None was asked for.
    Free,
    To { waypoint: Box<Waypoint>, canary: Option<Box<(Waypoint, u32)>>, remark: String },
    /// One was asked for and there is none to use: traffic goes straight to the workload, or, where a policy could not be
    /// enforced then, nowhere: node daemons are still told to send it through that waypoint, and refuse.
    Refused { reason: &'static str, message: String, is_own: bool, closed: Option<Box<Closed>> },
}

/// The waypoint that traffic is not to go past.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed {
    pub name: NsName,
    pub address: GatewayAddress,
    /// What covers the service.
    pub policy: ObjectKey,
}

impl Traffic {
    fn parse(text: &str) -> Option<Traffic> {
        Some(match text {
            "service" => Traffic::Service,
            "workload" => Traffic::Workload,
            "all" => Traffic::All,
            "none" => Traffic::None,
            _ => return None,
        })
    }

    fn takes(self, asked: Traffic) -> bool {
        self == Traffic::All || self == asked
    }
}

impl Bound {
    pub fn address(&self) -> Option<GatewayAddress> {
        match self {
            Bound::To { waypoint, .. } => waypoint.address.clone(),
            Bound::Refused { closed, .. } => closed.as_ref().map(|closed| closed.address.clone()),
            Bound::Free => None,
        }
    }

    pub fn weighted(&self) -> Vec<WeightedWaypoint> {
        let Bound::To { waypoint, canary: Some(canary), .. } = self else { return Vec::new() };
        let (canary, weight) = &**canary;
        let (Some(primary), Some(canary)) = (waypoint.address.clone(), canary.address.clone()) else { return Vec::new() };
        vec![WeightedWaypoint { destination: primary, weight: 100 - weight }, WeightedWaypoint { destination: canary, weight: *weight }]
    }

    pub fn is_bound(&self) -> bool {
        matches!(self, Bound::To { .. })
    }

    /// Adds what the label for ingress gateways means, where there is one.
    pub fn remark_ingress(&mut self, uses: Option<bool>) {
        let (Bound::To { remark, .. }, Some(uses)) = (self, uses) else { return };
        remark.push_str(if uses { "; ingress gateways send through it" } else { "; ingress gateways do not send through it" });
    }

    pub fn report(&self, report: &mut Report) {
        match self {
            Bound::Free => {}
            Bound::To { waypoint, remark, .. } => {
                report.holds("istio.io/WaypointBound", "WaypointAccepted", format!("attached to {}{remark}", waypoint.name));
            }
            Bound::Refused { reason, message, closed: None, .. } => report.fails("istio.io/WaypointBound", reason, message),
            Bound::Refused { reason, message, closed: Some(closed), .. } => {
                report.fails("istio.io/WaypointBound", reason, format!("{message}; connections are refused meanwhile, because {} could not be enforced", closed.policy));
            }
        }
    }
}

/// The waypoint of a Service or ServiceEntry; `message` texts and the canary come with it.
pub fn of_service(lens: &Lens<'_>, meta: &Meta, visibility: Visibility) -> Bound {
    if is_managed(meta) {
        return Bound::Free;
    }
    let mut bound = resolve(lens, &meta.namespace, &meta.labels, Some(meta), Traffic::Service);
    // There, clients of other namespaces would see what only its own may see.
    if let Bound::To { waypoint, .. } = &bound
        && visibility == Visibility::Namespace
        && waypoint.name.namespace != meta.namespace
    {
        let message = format!("waypoint {} is in another namespace, and only clients of {} may see this host", waypoint.name, meta.namespace);
        return Bound::Refused { reason: "CrossNamespaceWaypointForbidden", message, is_own: true, closed: cover::closed(lens, Some(meta), &waypoint.name) };
    }
    if let Bound::To { waypoint, canary, remark } = &mut bound {
        match canary_of(lens, meta, waypoint) {
            Ok(found) => *canary = found.map(Box::new),
            Err(why) => *remark = format!("; the canary is not used: {why}"),
        }
    }
    bound
}

/// A mesh-managed gateway's own Service must be reachable without passing through itself.
fn is_managed(meta: &Meta) -> bool {
    meta.label(MANAGED).is_some_and(|by| by == MANAGED_BY || by == EAST_WEST)
}

/// The waypoint for traffic to a workload's own address.
pub fn of_workload(lens: &Lens<'_>, namespace: &Arc<str>, labels: &Labels) -> Bound {
    let bound = resolve(lens, namespace, labels, None, Traffic::Workload);
    // A namespace that has a waypoint for services says nothing wrong about its workloads.
    match bound {
        Bound::Refused { reason: "UnsupportedTrafficType", is_own: false, .. } => Bound::Free,
        other => other,
    }
}

/// `service`: what is asked for, unless it is a workload.
fn resolve(lens: &Lens<'_>, namespace: &Arc<str>, labels: &Labels, service: Option<&Meta>, asked: Traffic) -> Bound {
    let Some((name, is_own)) = wanted(lens, namespace, labels, USE, USE_NAMESPACE) else { return Bound::Free };
    let refused = |reason, message| {
        // A waypoint that is there and is not for this says nothing about it by its own policies.
        let is_its = reason == "WaypointIsNotReady";
        let closed = if is_its { cover::closed(lens, service, &name) } else { cover::closed_by_own(lens, service, &name) };
        Bound::Refused { reason, message, is_own, closed }
    };
    let waypoint = match usable(lens, namespace, &name, asked) {
        Ok(waypoint) => waypoint,
        Err((reason, message)) => return refused(reason, message),
    };
    Bound::To { waypoint: Box::new(waypoint), canary: None, remark: String::new() }
}

/// The name that an object, or else its namespace, asks for. An object's own label hides the namespace's altogether: one
/// that is not ready is no reason to use another.
fn wanted(lens: &Lens<'_>, namespace: &Arc<str>, labels: &Labels, key: &str, namespace_key: &str) -> Option<(NsName, bool)> {
    let pick = |labels: &Labels| {
        let name = labels.get(key)?.clone();
        Some((name, labels.get(namespace_key).cloned().unwrap_or_else(|| namespace.clone())))
    };
    let (found, is_own) = match pick(labels) {
        Some(own) => (own, true),
        None => (pick(&lens.namespace_meta(namespace)?.labels)?, false),
    };
    let (name, place) = found;
    (&*name != "none").then_some((NsName { namespace: place, name: name.clone() }, is_own))
}

fn usable(lens: &Lens<'_>, namespace: &Arc<str>, name: &NsName, asked: Traffic) -> Result<Waypoint, (&'static str, String)> {
    let waypoint = by_name(lens, name).ok_or_else(|| ("WaypointIsNotReady", format!("waypoint {name} does not exist or has no address yet")))?;
    if !waypoint.allows(lens, namespace) {
        return Err(("AttachmentDenied", format!("waypoint {name} does not allow namespace {namespace}: see allowedRoutes of its listener")));
    }
    if !waypoint.traffic.takes(asked) {
        let asked = if asked == Traffic::Service { "services" } else { "workloads" };
        return Err(("UnsupportedTrafficType", format!("waypoint {name} does not take traffic of {asked}: see its label istio.io/waypoint-for")));
    }
    Ok(waypoint)
}

/// A second waypoint that takes part of the traffic. What is wrong with it never harms the first.
fn canary_of(lens: &Lens<'_>, meta: &Meta, primary: &Waypoint) -> Result<Option<(Waypoint, u32)>, String> {
    let Some(name) = canary_name(lens, meta) else { return Ok(None) };
    let level = canary_level(lens, meta);
    let weight = meta.annotation(CANARY_WEIGHT).or_else(|| level?.annotation(CANARY_WEIGHT)).unwrap_or("0");
    let weight: u32 = weight.parse().ok().filter(|weight| *weight <= 100).ok_or_else(|| format!("{CANARY_WEIGHT} is {weight:?}, not 0 to 100"))?;
    if name == primary.name {
        return Err(format!("{name} is the waypoint itself"));
    }
    let canary = usable(lens, &meta.namespace, &name, Traffic::Service).map_err(|(_, message)| message)?;
    Ok(Some((canary, weight)))
}

/// The namespace, where it is asked for what the object itself does not say.
fn canary_level<'a>(lens: &Lens<'a>, meta: &Meta) -> Option<&'a Meta> {
    lens.namespace_meta(&meta.namespace).filter(|_| meta.label(USE).is_none())
}

fn canary_name(lens: &Lens<'_>, meta: &Meta) -> Option<NsName> {
    let level = canary_level(lens, meta);
    let label = |key| meta.labels.get(key).or_else(|| level?.labels.get(key));
    let name = label(CANARY).filter(|name| !matches!(&***name, "" | "none"))?;
    Some(NsName { namespace: label(CANARY_NAMESPACE).unwrap_or(&meta.namespace).clone(), name: name.clone() })
}

/// Label of the object, else of its namespace, read as Go reads a boolean (spec/controlplane.md 4.12).
pub fn ingress_uses(lens: &Lens<'_>, meta: &Meta) -> Option<bool> {
    const LABEL: &str = "istio.io/ingress-use-waypoint";
    let own = meta.label(LABEL);
    let value = own.or_else(|| lens.namespace_meta(&meta.namespace)?.label(LABEL))?;
    Some(matches!(value, "1" | "t" | "T" | "TRUE" | "true" | "True"))
}

/// The waypoint of which a workload with these labels is an instance.
pub fn gateway_of(lens: &Lens<'_>, namespace: &Arc<str>, labels: &Labels) -> Option<Waypoint> {
    let name = labels.get(GATEWAY_NAME)?;
    by_name(lens, &NsName { namespace: namespace.clone(), name: name.clone() })
}

/// Whether a Gateway is one that traffic can be sent through.
pub fn by_name(lens: &Lens<'_>, name: &NsName) -> Option<Waypoint> {
    let waypoint = described(lens, name)?;
    lens.cluster.gateways.get(name).is_some_and(|gateway| !gateway.addresses.is_empty()).then_some(waypoint)
}

/// A Gateway, whether traffic can be sent through it yet or not.
fn described(lens: &Lens<'_>, name: &NsName) -> Option<Waypoint> {
    lens.note_object(Kind::Gateway, name);
    let gateway = lens.cluster.gateways.get(name)?;
    let class = NsName { namespace: "".into(), name: gateway.class.clone() };
    lens.note_object(Kind::GatewayClass, &class);
    let class = lens.cluster.gateway_classes.get(&class).map(|class| &class.meta);
    let meta = &gateway.meta;
    let traffic = |meta: &Meta| meta.label("istio.io/waypoint-for").and_then(Traffic::parse);
    let binding = meta.annotation(BINDING).or_else(|| class?.annotation(BINDING)).and_then(parse_binding);
    Some(Waypoint {
        name: name.clone(),
        address: address(lens, gateway),
        traffic: traffic(meta).or_else(|| class.and_then(traffic)).unwrap_or(Traffic::Service),
        inbound_binding: binding,
        allowed: allowed(gateway, binding),
    })
}

/// A hostname is better than an IP: its endpoints can be chosen.
fn address(lens: &Lens<'_>, gateway: &Gateway) -> Option<GatewayAddress> {
    let is_hostname = |kind: &Option<Arc<str>>| kind.as_deref() == Some("Hostname");
    let hostname = gateway.addresses.iter().find(|address| is_hostname(&address.kind));
    let destination = match hostname {
        Some(address) => GatewayDestination::Hostname(NamespacedHostname { namespace: gateway.meta.namespace.clone(), hostname: address.value.clone() }),
        None => {
            let ip = gateway.addresses.iter().find_map(|address| address.value.parse().ok())?;
            GatewayDestination::Address(NetworkAddress { network: lens.network(), ip })
        }
    };
    Some(GatewayAddress { destination, hbone_mtls_port: HBONE_PORT })
}

/// `NONE`, `PROXY` or `PROXY/<port>`.
fn parse_binding(text: &str) -> Option<ApplicationTunnel> {
    let (protocol, port) = match text.split_once('/') {
        Some((protocol, port)) => (protocol, Some(port.parse().ok().filter(|port| *port > 0)?)),
        None => (text, None),
    };
    let protocol = match protocol {
        "NONE" => ApplicationTunnelProtocol::None,
        "PROXY" => ApplicationTunnelProtocol::Proxy,
        _ => return None,
    };
    Some(ApplicationTunnel { protocol, port })
}

/// The listener of a waypoint of ours; what else a Gateway may list it does not listen to.
pub fn listener_of_tunnels(gateway: &Gateway) -> Option<&Listener> {
    gateway.listeners.iter().find(|listener| listener.port == HBONE_PORT && &*listener.protocol == "HBONE")
}

/// The listener that mesh traffic arrives at decides: the one of the binding, else the HBONE one.
fn allowed(gateway: &Gateway, binding: Option<ApplicationTunnel>) -> Allowed {
    let of_binding = |listener: &&Listener| match binding {
        Some(ApplicationTunnel { port: Some(port), .. }) => listener.port == port,
        Some(_) => &*listener.protocol == "istio.io/PROXY",
        None => false,
    };
    let listener = gateway.listeners.iter().find(of_binding).or_else(|| listener_of_tunnels(gateway));
    let Some(RouteNamespaces { from, selector }) = listener.and_then(|listener| listener.allowed_routes.as_ref()?.namespaces.as_ref()) else {
        return Allowed::Same;
    };
    match from.as_deref() {
        None | Some("Same") => Allowed::Same,
        Some("All") => Allowed::All,
        Some("Selector") => selector.clone().map_or(Allowed::Nobody, Allowed::Selected),
        Some(_) => Allowed::Nobody,
    }
}

impl Waypoint {
    fn allows(&self, lens: &Lens<'_>, namespace: &Arc<str>) -> bool {
        match &self.allowed {
            Allowed::Same => *namespace == self.name.namespace,
            Allowed::All => true,
            Allowed::Selected(selector) => lens.namespace_meta(namespace).is_some_and(|meta| selector.matches(&meta.labels)),
            Allowed::Nobody => false,
        }
    }
}

/// The Gateway that a pod says it is an instance of.
pub fn instance_of(meta: &Meta) -> Option<NsName> {
    meta.labels.get(GATEWAY_NAME).map(|name| NsName { namespace: meta.namespace.clone(), name: name.clone() })
}

/// The policy that opens workloads to their waypoint and to nobody else (PILOT_AUTO_ALLOW_WAYPOINT_POLICY). None without
/// instances: it lists their accounts, and without one it would close the workloads.
pub fn implicit_allow(lens: &Lens<'_>, name: &NsName) -> Option<Policy> {
    if !lens.settings.allows_waypoints {
        return None;
    }
    by_name(lens, name)?;
    let accounts = cover::instances(lens, name);
    if accounts.is_empty() {
        return None;
    }
    let principal = |account: Arc<str>| Entry::Value(StringMatch::exact(&format!("{}/ns/{}/sa/{account}", lens.settings.trust_domain, name.namespace)));
    let principals = accounts.into_iter().map(principal).collect();
    let group = Group::new([Rule::new([Match { principals, ..Match::default() }])]);
    let policy = Policy::new(&name.namespace, &implicit_name(name), Scope::WorkloadSelector, Action::Allow);
    Some(Policy { groups: vec![group], ..policy })
}

fn implicit_name(gateway: &NsName) -> String {
    format!("istio_allow_waypoint_{}_{}", gateway.namespace, gateway.name)
}

/// The policies of that kind that a workload lists: of its own waypoint and of those of its services.
pub fn allowing(lens: &Lens<'_>, labels: &Labels, workload: &Workload) -> std::collections::BTreeSet<PolicyKey> {
    if gateway_of(lens, &workload.namespace, labels).is_some() {
        return Default::default();
    }
    let own = workload.waypoint.as_ref().map(|_| of_workload(lens, &workload.namespace, labels));
    let services = workload.services.keys().filter_map(|key| service::bound(lens, key));
    let waypoints = own.into_iter().chain(services).filter_map(|bound| match bound {
        Bound::To { waypoint, .. } => Some(waypoint.name),
        _ => None,
    });
    waypoints.filter_map(|name| Some(implicit_allow(lens, &name)?.key())).collect()
}

/// The policies that keep a workload to the waypoints of its services.
pub fn closing(lens: &Lens<'_>, labels: &Labels, workload: &Workload) -> std::collections::BTreeSet<PolicyKey> {
    if gateway_of(lens, &workload.namespace, labels).is_some() {
        return Default::default();
    }
    workload.services.keys().filter_map(|key| Some(service::only_from_waypoints(lens, key)?.key())).collect()
}

/// What is to be said about a Gateway itself.
pub fn report(lens: &Lens<'_>, name: &NsName) -> Derived {
    let Some(gateway) = lens.cluster.gateways.get(name) else { return Derived::default() };
    let mut report = Report::default();
    let meta = &gateway.meta;
    if gateway.addresses.is_empty() {
        report.note("has no address in status.addresses or spec.addresses, so nothing is sent through it");
    } else if address(lens, gateway).is_none() {
        report.note("its addresses are neither of type Hostname nor IP addresses, so nothing is sent through it");
    } else if gateway.addresses_from_spec && !super::network_gateway::is_remote(lens, gateway) {
        report.note("status.addresses is empty; spec.addresses is used");
    }
    if let Some(value) = meta.label("istio.io/waypoint-for").filter(|value| Traffic::parse(value).is_none()) {
        report.note(format!("label istio.io/waypoint-for={value} is not service, workload, all or none; it is read as if it were absent"));
    }
    if let Some(value) = meta.annotation(BINDING).filter(|value| parse_binding(value).is_none()) {
        report.note(format!("annotation {BINDING}={value} is not NONE, PROXY or PROXY/<port>; it is read as if it were absent"));
    }
    if &*meta.name == "none" {
        report.note("cannot be used: istio.io/use-waypoint=none means no waypoint");
    }
    let key = ObjectKey { kind: Kind::Gateway, name: name.clone() };
    let reports = if report.is_empty() { Vec::new() } else { vec![(key, report)] };
    Derived { reports, ..Derived::default() }
}
