//! Where rules send: references to Services and to hosts of ServiceEntries, and what is wrong with them
//! (spec/waypoint.md 2.5, 2.11).

use std::sync::Arc;

use mesh_model::service::Visibility;
use mesh_xds::messages::waypoint::{BackendRef, Host, Invalid, WeightedBackend};

use crate::objects::route::BackendReference;
use crate::objects::{Kind, Meta, NsName, ObjectKey};
use crate::translate::{Lens, Read, Report, ports, service};

/// What is wrong with a route, in the words of its status.
#[derive(Debug, Default)]
pub struct Problems {
    /// References that cannot be followed: reason and sentence. The first is the condition's.
    refs: Vec<(&'static str, String)>,
    /// Rules that cannot be done as written.
    rules: Vec<(usize, String)>,
    /// The route as a whole makes no sense.
    whole: Option<(&'static str, String)>,
}

impl Problems {
    pub fn reference(&mut self, reason: &'static str, message: String) {
        self.refs.push((reason, message));
    }

    pub fn unsupported(&mut self, rule: usize, message: String) {
        if self.rules.iter().all(|(known, _)| *known != rule) {
            self.rules.push((rule, message));
        }
    }

    pub fn incompatible(&mut self, message: String) {
        self.whole.get_or_insert(("IncompatibleFilters", message));
    }

    /// Whether the route can be accepted at all.
    pub fn verdict(&self, rules: usize) -> Result<(), (&'static str, String)> {
        match (&self.whole, self.rules.first()) {
            (Some(whole), _) => Err(whole.clone()),
            (None, Some((index, why))) if self.rules.len() == rules => Err(("UnsupportedValue", format!("spec.rules[{index}].{why}"))),
            _ => Ok(()),
        }
    }

    pub fn tell(&self, conditions: &mut Report) {
        match self.refs.first() {
            None => conditions.holds("ResolvedRefs", "ResolvedRefs", "every reference was found"),
            Some((reason, _)) => {
                let all: Vec<&str> = self.refs.iter().map(|(_, message)| message.as_str()).collect();
                conditions.fails("ResolvedRefs", reason, all.join("; "));
            }
        }
        if conditions.conditions.iter().any(|condition| condition.kind == "Accepted" && condition.is_true) && !self.rules.is_empty() {
            let all: Vec<String> = self.rules.iter().map(|(index, why)| format!("spec.rules[{index}].{why}")).collect();
            conditions.holds("PartiallyInvalid", "UnsupportedValue", format!("Dropped Rule: {}; requests that it would match are answered with 500", all.join("; ")));
        }
    }
}

/// A reference as it was followed.
pub type Found = Result<BackendRef, (&'static str, String)>;

/// Where a reference leads. Routes of a mesh may refer to any namespace (GEP-1294); a grant is for those of Gateways.
pub fn follow(lens: &Lens<'_>, meta: &Meta, reference: &BackendReference) -> Found {
    let namespace = reference.namespace.clone().filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| meta.namespace.clone());
    let name = NsName { namespace, name: reference.name.clone() };
    match (&*reference.group, reference.kind.as_deref().unwrap_or("Service")) {
        ("" | "core", "Service") => {
            let object = lens.service(&name).ok_or_else(|| ("BackendNotFound", format!("Service {name} does not exist")))?;
            if object.is_external_name {
                return Err(("InvalidKind", format!("Service {name} is of type ExternalName, which is no backend: write a ServiceEntry and refer to its Hostname")));
            }
            let port = reference.port.ok_or_else(|| ("BackendNotFound", format!("the reference to Service {name} names no port")))?;
            if object.ports.iter().all(|known| known.port != port) {
                return Err(("BackendNotFound", format!("Service {name} has no port {port}")));
            }
            let key = service::key_of_service(lens.settings, object);
            Ok(to(&key.namespace, &key.hostname, port))
        }
        ("networking.istio.io", "Hostname") => {
            let port = reference.port.ok_or_else(|| ("BackendNotFound", format!("the reference to host {} names no port", name.name)))?;
            backend_of_host(lens, &meta.namespace, &reference.name, Some(port))
        }
        ("networking.istio.io", "ServiceEntry") => {
            let entry = lens.service_entry(&name).ok_or_else(|| ("BackendNotFound", format!("ServiceEntry {name} does not exist")))?;
            let host = entry.spec.hosts.first().ok_or_else(|| ("BackendNotFound", format!("ServiceEntry {name} has no host")))?;
            backend_of_host(lens, &name.namespace, host, reference.port)
        }
        (group, kind) => Err(("InvalidKind", format!("{kind} of group {group:?} is no kind that requests can be sent to"))),
    }
}

/// The service of a hostname as it is seen from a namespace, and a port of it: where none is named, the only one.
pub fn backend_of_host(lens: &Lens<'_>, namespace: &Arc<str>, host: &Arc<str>, port: Option<u16>) -> Found {
    let (place, known) = find_host(lens, namespace, host)?;
    match (port, known.as_slice()) {
        (Some(port), _) if known.contains(&port) => Ok(to(&place, host, port)),
        (Some(port), _) => Err(("BackendNotFound", format!("host {host} has no port {port}"))),
        (None, [only]) => Ok(to(&place, host, *only)),
        (None, _) => Err(("BackendNotFound", format!("host {host} has several ports: say which"))),
    }
}

/// The same where no port means the one that was dialled: 0 says so.
pub fn backend_as_dialled(lens: &Lens<'_>, namespace: &Arc<str>, host: &Arc<str>, port: Option<u16>) -> Found {
    match (port, find_host(lens, namespace, host)?) {
        (None, (place, known)) if known.len() > 1 => Ok(to(&place, host, 0)),
        _ => backend_of_host(lens, namespace, host, port),
    }
}

/// Whether the service of a reference has the port that it names.
pub fn has_port(lens: &Lens<'_>, reference: &BackendRef) -> bool {
    let Some(host) = &reference.host else { return false };
    let Some(owner) = lens.owner(&host.namespace.as_str().into(), &host.hostname.as_str().into()) else { return false };
    ports_of(lens, &owner).into_iter().any(|port| u32::from(port) == reference.port)
}

fn ports_of(lens: &Lens<'_>, owner: &ObjectKey) -> Vec<u16> {
    match owner.kind {
        Kind::Service => lens.service(&owner.name).map(|object| object.ports.iter().map(|port| port.port).collect()),
        _ => lens.service_entry(&owner.name).map(|entry| ports::entry_ports(entry).map(|(number, _)| number).collect()),
    }
    .unwrap_or_default()
}

/// The namespace of the service that a hostname means in a namespace, and its ports: its own first, then a Service, then
/// the oldest that is public.
#[allow(clippy::type_complexity, reason = "namespace and ports, or reason and message")]
fn find_host(lens: &Lens<'_>, namespace: &Arc<str>, host: &Arc<str>) -> Result<(Arc<str>, Vec<u16>), (&'static str, String)> {
    lens.note(Read::Claims(host.clone()));
    let missing = || ("BackendNotFound", format!("host {host} is neither a Service nor in a ServiceEntry that can be seen here"));
    let local = service::service_named(lens.settings, host).map(|name| name.namespace);
    let public = lens.cluster.entries_of_host(host).filter(|(place, _)| service::visibility(lens, place) == Visibility::Public);
    let oldest = public.flat_map(|(_, entries)| entries).min_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority())).map(|entry| entry.meta.namespace.clone());
    let places = [Some(namespace.clone()), local, oldest];
    let found = places.into_iter().flatten().find_map(|place| Some((lens.owner(&place, host)?, place)));
    let (owner, place) = found.ok_or_else(missing)?;
    let known = ports_of(lens, &owner);
    Ok((place, known))
}

/// A host as the mesh's configuration writes it, `[namespace/]host`.
pub fn found_in_spec(lens: &Lens<'_>, text: &str, port: u16) -> Found {
    let root = &lens.settings.root_namespace;
    let (namespace, host) = match text.split_once('/') {
        Some((namespace, host)) => (Arc::from(namespace), Arc::from(host)),
        None => (root.clone(), Arc::from(text)),
    };
    let host = crate::cluster::attach::full_host(&host, &namespace, &lens.settings.cluster_domain);
    backend_of_host(lens, &namespace, &host, Some(port))
}

fn to(namespace: &str, hostname: &str, port: u16) -> BackendRef {
    BackendRef { host: Some(Host { namespace: namespace.to_owned(), hostname: hostname.to_owned() }), port: port.into(), subset: String::new() }
}

/// The backends of a rule that looks at no request.
pub fn weighted(lens: &Lens<'_>, meta: &Meta, references: &[BackendReference], problems: &mut Problems) -> Vec<WeightedBackend> {
    references.iter().map(|reference| one(lens, meta, reference, problems)).collect()
}

/// One backend; a reference that cannot be followed keeps its share of the requests, which fail.
pub fn one(lens: &Lens<'_>, meta: &Meta, reference: &BackendReference, problems: &mut Problems) -> WeightedBackend {
    let weight = reference.weight.unwrap_or(1);
    match follow(lens, meta, reference) {
        Ok(backend) => WeightedBackend { weight, backend: Some(backend), ..WeightedBackend::default() },
        Err((reason, message)) => {
            problems.reference(reason, message);
            WeightedBackend { weight, invalid: Some(Invalid { reason: reason.to_owned(), status: 500 }), ..WeightedBackend::default() }
        }
    }
}
