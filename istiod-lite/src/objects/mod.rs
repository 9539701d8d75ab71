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
pub mod material;
pub mod duration;
pub mod virtual_service;
pub mod destination_rule;
pub mod route;
pub mod request;
pub mod rate_limit;
pub mod provider;
pub mod read;
pub mod stand_in;
#[cfg(test)]
mod tests;

pub use self::core::{EndpointSlice, Namespace, Node, Service};
pub use destination_rule::DestinationRule;
pub use gateway::{Gateway, GatewayClass};
pub use istio::{ServiceEntry, WorkloadEntry};
pub use mesh_config::{ConfigMap, MeshConfig};
pub use material::Secret;
pub use meta::{Labels, Meta, NsName, ObjectKey};
pub use pod::Pod;
pub use policy::{AuthorizationPolicy, PeerAuthentication};
pub use rate_limit::RateLimit;
pub use request::{RequestAuthentication, Telemetry};
pub use route::{BackendTlsPolicy, GrpcRoute, HttpRoute, ReferenceGrant, TcpRoute, TlsRoute};
pub use virtual_service::VirtualService;

/// Every kind that is read, once: its name, how paths of an API server call it, its group and the versions of it that have
/// the same fields, the newest first, and the shelf of `Cluster` that holds its objects. Ordered so that an index over
/// keys groups by kind.
macro_rules! with_kinds {
    ($then:ident) => {
        $then! {
            Namespace "Namespace" "namespaces" "" ["v1"] namespaces;
            Node "Node" "nodes" "" ["v1"] nodes;
            Pod "Pod" "pods" "" ["v1"] pods;
            Service "Service" "services" "" ["v1"] services;
            EndpointSlice "EndpointSlice" "endpointslices" "discovery.k8s.io" ["v1"] slices;
            ServiceEntry "ServiceEntry" "serviceentries" "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] service_entries;
            WorkloadEntry "WorkloadEntry" "workloadentries" "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] workload_entries;
            AuthorizationPolicy "AuthorizationPolicy" "authorizationpolicies" "security.istio.io" ["v1", "v1beta1"] authorization_policies;
            PeerAuthentication "PeerAuthentication" "peerauthentications" "security.istio.io" ["v1", "v1beta1"] peer_authentications;
            RequestAuthentication "RequestAuthentication" "requestauthentications" "security.istio.io" ["v1", "v1beta1"] request_authentications;
            Gateway "Gateway" "gateways" "gateway.networking.k8s.io" ["v1", "v1beta1"] gateways;
            GatewayClass "GatewayClass" "gatewayclasses" "gateway.networking.k8s.io" ["v1", "v1beta1"] gateway_classes;
            HttpRoute "HTTPRoute" "httproutes" "gateway.networking.k8s.io" ["v1", "v1beta1"] http_routes;
            GrpcRoute "GRPCRoute" "grpcroutes" "gateway.networking.k8s.io" ["v1", "v1alpha2"] grpc_routes;
            TcpRoute "TCPRoute" "tcproutes" "gateway.networking.k8s.io" ["v1", "v1alpha2"] tcp_routes;
            TlsRoute "TLSRoute" "tlsroutes" "gateway.networking.k8s.io" ["v1", "v1alpha3", "v1alpha2"] tls_routes;
            ReferenceGrant "ReferenceGrant" "referencegrants" "gateway.networking.k8s.io" ["v1", "v1beta1"] reference_grants;
            BackendTlsPolicy "BackendTLSPolicy" "backendtlspolicies" "gateway.networking.k8s.io" ["v1", "v1alpha3"] backend_tls_policies;
            DestinationRule "DestinationRule" "destinationrules" "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] destination_rules;
            VirtualService "VirtualService" "virtualservices" "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] virtual_services;
            Telemetry "Telemetry" "telemetries" "telemetry.istio.io" ["v1", "v1alpha1"] telemetries;
            RateLimit "RateLimit" "ratelimits" "isthmus.io" ["v1alpha1"] rate_limits;
            // The one that holds the mesh's configuration, and those that policies name.
            ConfigMap "ConfigMap" "configmaps" "" ["v1"] config_maps;
            // Those that policies name.
            Secret "Secret" "secrets" "" ["v1"] secrets;
        }
    };
}
pub(crate) use with_kinds;

macro_rules! kinds {
    ($($kind:ident $name:literal $plural:literal $group:literal [$($version:literal),+] $shelf:ident;)+) => {
        /// The kinds that are read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($kind),+ }

        /// One object of any kind; cloning shares it.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object { $($kind(Arc<$kind>)),+ }

        impl Kind {
            pub const ALL: [Kind; [$(Kind::$kind),+].len()] = [$(Kind::$kind),+];

            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),+ }
            }

            /// The resource's name in paths of an API server.
            pub fn plural(self) -> &'static str {
                match self { $(Kind::$kind => $plural),+ }
            }

            /// API group and the versions of it that have the same fields.
            pub fn group_versions(self) -> (&'static str, &'static [&'static str]) {
                match self { $(Kind::$kind => ($group, &[$($version),+])),+ }
            }
        }

        impl Object {
            pub fn kind(&self) -> Kind {
                match self { $(Object::$kind(_) => Kind::$kind),+ }
            }

            pub fn meta(&self) -> &Meta {
                match self { $(Object::$kind(o) => &o.meta),+ }
            }
        }
    };
}
with_kinds!(kinds);

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
    /// Whether an API server has the kind by itself; the others come with a CustomResourceDefinition.
    pub fn is_built_in(self) -> bool {
        matches!(self, Kind::Namespace | Kind::Node | Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::ConfigMap | Kind::Secret)
    }

    /// Whether a source tells of objects of the kind by itself. Others are read one by one, where something names them: an
    /// API server should not have to let us read all Secrets for the sake of one.
    pub fn is_watched(self) -> bool {
        self != Kind::Secret
    }

    /// Whether a label `istio.io/rev` says which controller an object of the kind is for.
    pub fn has_revision(self) -> bool {
        self.group_versions().0.ends_with(".istio.io")
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
    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind(), name: self.meta().ns_name() }
    }
}
