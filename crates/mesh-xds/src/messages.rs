//! The protobuf messages, written by hand so that nobody needs a compiler for them. Numbers and types are contracts
//! (spec/dataplane.md 5.6, 6.1; spec/controlplane.md 1, 2.1).
//!
//! Left out on purpose, so that they are skipped as unknown fields: `extensions` of every message (for other proxies),
//! `build_version` and locality of a node, `ttl` and `cache_control` of a resource.

pub mod discovery;
pub mod security;
pub mod waypoint;
pub mod workload;

/// The union of workloads and services.
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// Workloads alone; older clients ask for it.
pub const WORKLOAD: &str = "type.googleapis.com/istio.workload.Workload";
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

/// `google.protobuf.Any`, over bytes that are shared instead of copied.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: bytes::Bytes,
}

/// `google.rpc.Status`. Only its presence says that something was refused: the code stays 0 in this protocol.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Empty`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}
