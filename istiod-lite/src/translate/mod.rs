//! From objects to what the mesh is told: workloads, services and policies (spec/controlplane.md 4 and 5).
//!
//! Pure: objects in, values out, no clock, no I/O. The work is cut into units, each with outputs of its own that no
//! other unit makes. `touched` says which units a changed object may alter, a unit's reads say which others it hangs
//! on, and `translation` recomputes just those and compares.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_identity::derived::Seed;
use mesh_model::service::Service;
use mesh_model::workload::Workload;
use mesh_policy::Policy;

use crate::cluster::{Cluster, Target};
use crate::objects::mesh_config::Visible;
use crate::objects::{ConfigMap, Kind, Labels, MeshConfig, Meta, Namespace, Node, NsName, Object, ObjectKey, Secret, ServiceEntry};
use crate::pairs::Least;

pub mod settings;
pub mod report;
pub mod workload;
pub mod service;
pub mod ports;
pub mod waypoint;
pub mod policy;
pub mod peer_authentication;
pub mod vips;
pub mod claims;
pub mod network_gateway;
pub mod resource;
pub mod served;
pub mod route;
pub mod rate_limit;
pub mod targets;
pub mod request;
pub mod telemetry;
pub mod providers;
pub mod backend;
pub mod virtual_service;
mod retry;
mod mesh_config;
mod touched;
pub mod translation;
#[cfg(test)]
pub(crate) mod tests;

pub use report::{Condition, Report};
pub use resource::{Resource, ResourceKey};
pub use served::Account;
pub use settings::Settings;
pub use translation::{Changes, Translation};

use claims::Claims;
use peer_authentication::{Modes, Strictness};
use vips::Vips;

/// A piece of the translation: what it is computed from, by name. Nothing else makes its outputs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// The workload of a pod.
    Pod(NsName),
    WorkloadEntry(NsName),
    /// The workloads of a ServiceEntry's own endpoints.
    ServiceEntry(NsName),
    /// The workloads of a Service's EndpointSlices that are no pods.
    Endpoints(NsName),
    /// The service of a hostname in a namespace, whoever wins the name.
    Host { namespace: Arc<str>, hostname: Arc<str> },
    AuthorizationPolicy(NsName),
    /// The policy that a PeerAuthentication with a selector becomes.
    PeerAuthentication(NsName),
    /// The one policy that means STRICT.
    StaticStrict,
    /// What a Gateway is to the mesh itself: the way into a network, a policy for those behind it, remarks.
    Gateway(NsName),
    /// What is to be said about the mesh's configuration.
    ConfigMap(NsName),
    /// How waypoints reach the service of a hostname, where rules say something of it.
    Backend { namespace: Arc<str>, hostname: Arc<str> },
    /// What waypoints are told of the mesh as a whole.
    MeshDefaults,
    /// What waypoints are told of an object of one of the kinds that only they look at.
    Of(ObjectKey),
}

/// What a unit looked at besides the objects that `touched` knows of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Read {
    Object(ObjectKey),
    /// How strict mutual TLS is in a namespace.
    Strictness(Arc<str>),
    /// Who owns a hostname in a namespace.
    Owner(Arc<str>, Arc<str>),
    /// Which Gateways have the label of a network.
    Network(Arc<str>),
    /// Which pods are instances of a Gateway.
    Instances(NsName),
    /// Which routes name a Service or a ServiceEntry as their parent, and which of its ports.
    Routes(ObjectKey),
    /// Which objects of a kind there are in a namespace; empty: in all of them.
    Within(Kind, Arc<str>),
    /// Who claims a hostname in any namespace.
    Claims(Arc<str>),
    /// Which policies name something in their targetRefs.
    Policies(Target),
}

impl Least for Unit {
    fn least() -> Unit {
        Unit::Pod(NsName::least())
    }
}

/// The outputs of a unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Derived {
    pub workloads: Vec<Arc<Workload>>,
    pub services: Vec<Arc<Service>>,
    pub policies: Vec<Arc<Policy>>,
    /// What waypoints are told.
    pub resources: Vec<Arc<Resource>>,
    /// Who is a waypoint.
    pub accounts: Vec<Arc<Account>>,
    pub reports: Vec<(ObjectKey, Report)>,
}

/// Facts that are kept between changes because recomputing them would need all objects.
#[derive(Debug)]
pub struct Memory {
    /// The label of the system namespace; empty without one.
    pub network: Arc<str>,
    pub modes: Modes,
    pub vips: Vips,
    pub claims: Claims,
    /// Secrets of waypoints' sessions are derived from them, the one in force first.
    pub session_seeds: Vec<Seed>,
}

/// What a unit may see of the world; notes what it looked at.
pub struct Lens<'a> {
    pub cluster: &'a Cluster,
    pub settings: &'a Settings,
    pub memory: &'a Memory,
    reads: RefCell<BTreeSet<Read>>,
}

impl<'a> Lens<'a> {
    pub fn new(cluster: &'a Cluster, settings: &'a Settings, memory: &'a Memory) -> Lens<'a> {
        Lens { cluster, settings, memory, reads: RefCell::default() }
    }

    /// What was looked at, sorted.
    pub fn into_reads(self) -> Box<[Read]> {
        self.reads.into_inner().into_iter().collect()
    }

    fn note(&self, read: Read) {
        self.reads.borrow_mut().insert(read);
    }

    /// Notes that the outcome hangs on an object, be it there or not.
    pub fn note_object(&self, kind: Kind, name: &NsName) {
        self.note(Read::Object(ObjectKey { kind, name: name.clone() }));
    }

    pub fn namespace(&self, name: &Arc<str>) -> Option<&'a Namespace> {
        let name = NsName { namespace: "".into(), name: name.clone() };
        self.note_object(Kind::Namespace, &name);
        self.cluster.namespaces.get(&name).map(|namespace| &**namespace)
    }

    pub fn namespace_meta(&self, name: &Arc<str>) -> Option<&'a Meta> {
        self.namespace(name).map(|namespace| &namespace.meta)
    }

    pub fn node(&self, name: &Arc<str>) -> Option<&'a Node> {
        let name = NsName { namespace: "".into(), name: name.clone() };
        self.note_object(Kind::Node, &name);
        self.cluster.nodes.get(&name).map(|node| &**node)
    }

    pub fn service(&self, name: &NsName) -> Option<&'a Arc<crate::objects::Service>> {
        self.note_object(Kind::Service, name);
        self.cluster.services.get(name)
    }

    pub fn service_entry(&self, name: &NsName) -> Option<&'a Arc<ServiceEntry>> {
        self.note_object(Kind::ServiceEntry, name);
        self.cluster.service_entries.get(name)
    }

    pub fn config_map(&self, name: &NsName) -> Option<&'a Arc<ConfigMap>> {
        self.note_object(Kind::ConfigMap, name);
        self.cluster.config_maps.get(name)
    }

    pub fn secret(&self, name: &NsName) -> Option<&'a Arc<Secret>> {
        self.note_object(Kind::Secret, name);
        self.cluster.secrets.get(name)
    }

    /// Routes of the Gateway API that name a parent, by kind.
    pub fn routes_of_parent(&self, parent: &ObjectKey) -> impl Iterator<Item = &'a ObjectKey> {
        self.note(Read::Routes(parent.clone()));
        self.cluster.routes_of_parent(parent)
    }

    pub fn strictness(&self, namespace: &Arc<str>) -> Strictness {
        self.note(Read::Strictness(namespace.clone()));
        self.memory.modes.of(namespace)
    }

    /// The object whose hostname this is in a namespace (spec/controlplane.md 4.9.3).
    pub fn owner(&self, namespace: &Arc<str>, hostname: &Arc<str>) -> Option<ObjectKey> {
        self.note(Read::Owner(namespace.clone(), hostname.clone()));
        service::owner(self.cluster, self.settings, namespace, hostname)
    }

    /// Who sees the ServiceEntries of a namespace; `None`: the mesh's configuration says nothing about it.
    pub fn visible(&self, namespace: &Arc<str>) -> Option<Visible> {
        let config = self.cluster.mesh_config();
        config.service_entry_visibility.as_ref()?;
        let none = Labels::default();
        Some(config.visible(self.namespace_meta(namespace).map_or(&none, |meta| &meta.labels)))
    }

    pub fn network(&self) -> Arc<str> {
        self.memory.network.clone()
    }

    /// The configuration of the mesh that is in force.
    pub fn mesh_config(&self) -> Arc<MeshConfig> {
        self.note(Read::Object(self.cluster.config_key().clone()));
        self.cluster.mesh_config()
    }
}

/// What one unit makes of the world.
pub fn derive(unit: &Unit, lens: &Lens<'_>) -> Derived {
    match unit {
        Unit::Pod(name) => workload::pod(lens, name),
        Unit::WorkloadEntry(name) => workload::workload_entry(lens, name),
        Unit::ServiceEntry(name) => workload::service_entry(lens, name),
        Unit::Endpoints(service) => workload::endpoints(lens, service),
        Unit::Host { namespace, hostname } => service::host(lens, namespace, hostname),
        Unit::AuthorizationPolicy(name) => policy::authorization_policy(lens, name),
        Unit::PeerAuthentication(name) => peer_authentication::converted(lens, name),
        Unit::StaticStrict => peer_authentication::static_strict(lens),
        Unit::Gateway(name) => gateway(lens, name),
        Unit::ConfigMap(name) => mesh_config::report(lens, name),
        Unit::Backend { namespace, hostname } => backend::of_host(lens, namespace, hostname),
        Unit::MeshDefaults => providers::mesh_defaults(lens),
        Unit::Of(key) => for_waypoints(lens, key),
    }
}

fn for_waypoints(lens: &Lens<'_>, key: &ObjectKey) -> Derived {
    match lens.cluster.object(key) {
        Some(Object::HttpRoute(route)) => route::http_route(lens, &route),
        Some(Object::GrpcRoute(route)) => route::grpc_route(lens, &route),
        Some(Object::TcpRoute(route)) => route::tcp_route(lens, &route),
        Some(Object::TlsRoute(route)) => route::tls_route(lens, &route),
        Some(Object::VirtualService(found)) => virtual_service::virtual_service(lens, &found),
        Some(Object::DestinationRule(rule)) => backend::report(lens, &rule),
        Some(Object::BackendTlsPolicy(policy)) => backend::backend_tls_policy(lens, &policy),
        Some(Object::RequestAuthentication(policy)) => request::request_authentication(lens, &policy),
        Some(Object::RateLimit(found)) => request::rate_limit(lens, &found),
        Some(Object::Telemetry(found)) => telemetry::telemetry(lens, &found),
        _ => Derived::default(),
    }
}

fn gateway(lens: &Lens<'_>, name: &NsName) -> Derived {
    if !lens.cluster.gateways.contains_key(name) {
        return Derived::default();
    }
    Derived {
        workloads: network_gateway::workloads(lens, name),
        policies: waypoint::implicit_allow(lens, name).map(Arc::new).into_iter().collect(),
        resources: served::mesh_settings(lens, name).into_iter().collect(),
        accounts: served::account(lens, name).into_iter().collect(),
        ..waypoint::report(lens, name)
    }
}

/// Several reports about one object become one: each condition once, every note once.
pub fn merged<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Report {
    let mut conditions: BTreeMap<&'static str, Condition> = BTreeMap::new();
    let mut notes = BTreeSet::new();
    let mut parents = Vec::new();
    for report in reports {
        parents.extend(report.parents.iter().cloned());
        for condition in &report.conditions {
            // What failed is the news: a False must not hide behind a True of another hostname.
            let kept = conditions.entry(condition.kind).or_insert_with(|| condition.clone());
            if kept.is_true && !condition.is_true {
                *kept = condition.clone();
            }
        }
        notes.extend(report.notes.iter().cloned());
    }
    Report { conditions: conditions.into_values().collect(), parents, notes: notes.into_iter().collect() }
}
