//! Which services this waypoint serves, and the mesh that it is in.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Host, Meta, RetryPolicy, words};

words! {
    /// What is spoken at a port of a service (spec/waypoint.md 1.3).
    PortProtocol in port_protocol {
        /// Found out from the first bytes.
        Auto = 0 as "AUTO",
        Http1 = 1 as "HTTP1",
        Http2 = 2 as "HTTP2",
        Grpc = 3 as "GRPC",
        GrpcWeb = 4 as "GRPC_WEB",
        /// Opaque, with a server name that routes may look at.
        Tls = 5 as "TLS",
        Tcp = 6 as "TCP",
        /// HTTP that may hold plain CONNECT requests.
        HttpProxy = 7 as "HTTP_PROXY",
    }
}

words! {
    /// What a service's endpoints are (spec/waypoint.md 1.9).
    ServiceKind in service_kind {
        /// Workloads of the workload API.
        Workloads = 0 as "WORKLOADS",
        /// A ServiceEntry of resolution DNS: addresses come from names.
        Dns = 1 as "DNS",
        /// A ServiceEntry of resolution NONE: the address that was dialled.
        Passthrough = 2 as "PASSTHROUGH",
        /// A wildcard host: the name that the request is for, which must match.
        DynamicDns = 3 as "DYNAMIC_DNS",
    }
}

/// One port of a service that is bound to this waypoint. What has none is refused. Name: `namespace/hostname:port`.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(message, optional, tag = "2")]
    pub host: Option<Host>,
    #[prost(uint32, tag = "3")]
    pub port: u32,
    /// Name of the port; policies target it.
    #[prost(string, tag = "4")]
    pub port_name: String,
    #[prost(enumeration = "PortProtocol", tag = "5")]
    #[serde(with = "super::service::port_protocol")]
    pub protocol: i32,
    #[prost(enumeration = "ServiceKind", tag = "6")]
    #[serde(with = "super::service::service_kind")]
    pub kind: i32,
    /// Outside of the mesh: endpoints without an identity are no surprise.
    #[prost(bool, tag = "7")]
    pub external: bool,
    /// For `Dns`: the names to resolve, with the port at each (0: the target port below). Empty: the host itself.
    #[prost(message, repeated, tag = "8")]
    pub names: Vec<DnsName>,
    /// The port at the endpoints where the workload API does not say one.
    #[prost(uint32, tag = "9")]
    pub target_port: u32,
    /// All names count as one logical endpoint (resolution DNS_ROUND_ROBIN).
    #[prost(bool, tag = "10")]
    pub one_of_names: bool,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsName {
    #[prost(string, tag = "1")]
    pub hostname: String,
    #[prost(uint32, tag = "2")]
    pub port: u32,
    #[prost(uint32, tag = "3")]
    pub weight: u32,
}

/// What holds for the whole mesh, as one waypoint is told of it. One resource, named like the Gateway: `namespace/name`.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[prost(skip_debug)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshSettings {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(string, tag = "2")]
    pub trust_domain: String,
    #[prost(string, repeated, tag = "3")]
    pub trust_domain_aliases: Vec<String>,
    #[prost(string, tag = "4")]
    pub mesh_id: String,
    /// Milliseconds; 0 means 10 s.
    #[prost(uint64, tag = "5")]
    pub connect_timeout_ms: u64,
    /// For services with a route. None: the default of spec/waypoint.md 5.2.
    #[prost(message, optional, tag = "6")]
    pub default_retry: Option<RetryPolicy>,
    /// For services without a route.
    #[prost(message, optional, tag = "7")]
    pub default_inbound_retry: Option<RetryPolicy>,
    /// Put the client's address into `x-forwarded-for`.
    #[prost(bool, tag = "8")]
    pub append_client_ip: bool,
    /// Ready pods of this waypoint, for limits that are shared; 0: unknown.
    #[prost(uint32, tag = "9")]
    pub replicas: u32,
    #[prost(uint32, tag = "10")]
    pub trusted_proxies: u32,
    /// `Gateway` annotation `ambient.istio.io/xfcc-include-client-identity`.
    #[prost(bool, tag = "11")]
    pub xfcc_client_identity: bool,
    /// Locality of the client's workload counts instead of this proxy's.
    #[prost(bool, tag = "12")]
    pub locality_of_client: bool,
    /// Accept HTTP/1.0.
    #[prost(bool, tag = "13")]
    pub http10: bool,
    /// Secrets of this waypoint that all its replicas share: sessions are sealed with the first, and opened with each.
    /// Any text of 128 bits of chance or more. Empty: a session holds at one replica only.
    #[prost(string, repeated, tag = "14")]
    pub session_secrets: Vec<String>,
}

/// Without the secrets.
impl fmt::Debug for MeshSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("MeshSettings");
        shown.field("meta", &self.meta).field("trust_domain", &self.trust_domain).field("replicas", &self.replicas);
        shown.field("session_secrets", &self.session_secrets.len()).finish_non_exhaustive()
    }
}
