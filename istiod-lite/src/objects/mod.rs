//! The objects that the mesh is made from, as we hold them: trimmed to what translation reads, so that comparing two
//! versions of an object tells whether anything that matters has changed.
//!
//! One file per API group. How a YAML document becomes an object is in `read`. Not here: what any of it means.

use std::fmt;
use std::sync::Arc;

pub mod labels;
pub mod meta;
pub mod core;
pub mod pod;
pub mod istio;
pub mod policy;
pub mod gateway;
pub mod mesh_config;
pub mod duration;
pub mod virtual_service;
pub mod read;
pub mod stand_in;
#[cfg(test)]
mod tests;

pub use self::core::{EndpointSlice, Namespace, Node, Service};
pub use gateway::{Gateway, GatewayClass};
pub use istio::{ServiceEntry, WorkloadEntry};
pub use mesh_config::{ConfigMap, MeshConfig};
pub use meta::{Labels, Meta, NsName, ObjectKey};
pub use pod::Pod;
pub use policy::{AuthorizationPolicy, PeerAuthentication};

/// The kinds that are read. Ordered so that an index over keys groups by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    ServiceEntry,
    WorkloadEntry,
    AuthorizationPolicy,
    PeerAuthentication,
    Gateway,
    GatewayClass,
    /// The one that holds the mesh's configuration.
    ConfigMap,
}

/// One object of any kind; cloning shares it.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    ServiceEntry(Arc<ServiceEntry>),
    WorkloadEntry(Arc<WorkloadEntry>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    PeerAuthentication(Arc<PeerAuthentication>),
    Gateway(Arc<Gateway>),
    GatewayClass(Arc<GatewayClass>),
    ConfigMap(Arc<ConfigMap>),
}

/// What an `apiVersion` and `kind` mean to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Read(Kind),
    /// One of our kinds in a version that we do not know: reading it as another version could lose a restriction.
    UnknownVersion(Kind),
    /// Somebody else's object.
    Foreign,
}

impl Kind {
    pub const ALL: [Kind; 12] = [
        Kind::Namespace,
        Kind::Node,
        Kind::Pod,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::ServiceEntry,
        Kind::WorkloadEntry,
        Kind::AuthorizationPolicy,
        Kind::PeerAuthentication,
        Kind::Gateway,
        Kind::GatewayClass,
        Kind::ConfigMap,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Node => "Node",
            Kind::Pod => "Pod",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::ServiceEntry => "ServiceEntry",
            Kind::WorkloadEntry => "WorkloadEntry",
            Kind::AuthorizationPolicy => "AuthorizationPolicy",
            Kind::PeerAuthentication => "PeerAuthentication",
            Kind::Gateway => "Gateway",
            Kind::GatewayClass => "GatewayClass",
            Kind::ConfigMap => "ConfigMap",
        }
    }

    /// The resource's name in paths of an API server.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Namespace => "namespaces",
            Kind::Node => "nodes",
            Kind::Pod => "pods",
            Kind::Service => "services",
            Kind::EndpointSlice => "endpointslices",
            Kind::ServiceEntry => "serviceentries",
            Kind::WorkloadEntry => "workloadentries",
            Kind::AuthorizationPolicy => "authorizationpolicies",
            Kind::PeerAuthentication => "peerauthentications",
            Kind::Gateway => "gateways",
            Kind::GatewayClass => "gatewayclasses",
            Kind::ConfigMap => "configmaps",
        }
    }

    /// Whether an API server has the kind by itself; the others come with a CustomResourceDefinition.
    pub fn is_built_in(self) -> bool {
        matches!(self, Kind::Namespace | Kind::Node | Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::ConfigMap)
    }

    /// API group and the versions of it that have the same fields.
    pub fn group_versions(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Kind::Namespace | Kind::Node | Kind::Pod | Kind::Service | Kind::ConfigMap => ("", &["v1"]),
            Kind::EndpointSlice => ("discovery.k8s.io", &["v1"]),
            Kind::ServiceEntry | Kind::WorkloadEntry => ("networking.istio.io", &["v1", "v1beta1", "v1alpha3"]),
            Kind::AuthorizationPolicy | Kind::PeerAuthentication => ("security.istio.io", &["v1", "v1beta1"]),
            Kind::Gateway | Kind::GatewayClass => ("gateway.networking.k8s.io", &["v1", "v1beta1"]),
        }
    }

    /// Whether a label `istio.io/rev` says which controller an object of the kind is for.
    pub fn has_revision(self) -> bool {
        matches!(self, Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::ServiceEntry | Kind::WorkloadEntry)
    }

    pub fn is_namespaced(self) -> bool {
        !matches!(self, Kind::Namespace | Kind::Node | Kind::GatewayClass)
    }

    /// Istio's own `Gateway` (networking.istio.io) is another kind than the Gateway API's: the group decides.
    pub fn of(api_version: &str, kind: &str) -> Known {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        for known in Kind::ALL {
            let (known_group, versions) = known.group_versions();
            if known.name() == kind && known_group == group {
                return if versions.contains(&version) { Known::Read(known) } else { Known::UnknownVersion(known) };
            }
        }
        Known::Foreign
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Object::Namespace(_) => Kind::Namespace,
            Object::Node(_) => Kind::Node,
            Object::Pod(_) => Kind::Pod,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::ServiceEntry(_) => Kind::ServiceEntry,
            Object::WorkloadEntry(_) => Kind::WorkloadEntry,
            Object::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Object::PeerAuthentication(_) => Kind::PeerAuthentication,
            Object::Gateway(_) => Kind::Gateway,
            Object::GatewayClass(_) => Kind::GatewayClass,
            Object::ConfigMap(_) => Kind::ConfigMap,
        }
    }

    pub fn meta(&self) -> &Meta {
        match self {
            Object::Namespace(o) => &o.meta,
            Object::Node(o) => &o.meta,
            Object::Pod(o) => &o.meta,
            Object::Service(o) => &o.meta,
            Object::EndpointSlice(o) => &o.meta,
            Object::ServiceEntry(o) => &o.meta,
            Object::WorkloadEntry(o) => &o.meta,
            Object::AuthorizationPolicy(o) => &o.meta,
            Object::PeerAuthentication(o) => &o.meta,
            Object::Gateway(o) => &o.meta,
            Object::GatewayClass(o) => &o.meta,
            Object::ConfigMap(o) => &o.meta,
        }
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind(), name: self.meta().ns_name() }
    }
}
