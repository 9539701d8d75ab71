//! What every resource says of itself and of what it is for.

use serde::{Deserialize, Serialize};

use super::words;

/// Where a resource comes from. `created_unix`, namespace and name of the source break ties between routes
/// (spec/waypoint.md 2.3).
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Meta {
    #[prost(message, optional, tag = "1")]
    pub source: Option<SourceRef>,
    /// Seconds since 1970 at which the user's object was made.
    #[prost(uint64, tag = "2")]
    pub created_unix: u64,
}

/// The user's object, so that status, log and metrics can name it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceRef {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub name: String,
    /// A rule's name or index, a port's name.
    #[prost(string, tag = "4")]
    pub section: String,
    #[prost(int64, tag = "5")]
    pub generation: i64,
}

/// `namespace/hostname` of a Service or of a host of a ServiceEntry, as in the workload API.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub hostname: String,
}

/// What a policy is for. The proxy merges: the more specific wins, or all count (spec/waypoint.md 8.2).
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    #[prost(oneof = "TargetKind", tags = "1, 2, 3, 4")]
    pub kind: Option<TargetKind>,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, prost::Oneof)]
#[serde(rename_all = "camelCase")]
pub enum TargetKind {
    /// Everything that goes through waypoints: a GatewayClass, or the mesh's configuration.
    #[prost(message, tag = "1")]
    Mesh(MeshTarget),
    /// Everything that goes through this Gateway, traffic to pods' own addresses among it.
    #[prost(message, tag = "2")]
    Gateway(GatewayTarget),
    #[prost(message, tag = "3")]
    Service(ServiceTarget),
    #[prost(message, tag = "4")]
    Route(RouteTarget),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, prost::Message)]
#[serde(default, deny_unknown_fields)]
pub struct MeshTarget {}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayTarget {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub name: String,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceTarget {
    #[prost(message, optional, tag = "1")]
    pub host: Option<Host>,
    /// Service port; 0: all of them.
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// A user's route object, or one rule of it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteTarget {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub name: String,
    /// Empty: every rule.
    #[prost(string, tag = "4")]
    pub rule: String,
}

/// A part of a user's object that cannot be done as written: what it would decide is answered with `status`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Invalid {
    #[prost(string, tag = "1")]
    pub reason: String,
    /// HTTP status; 0 means 500.
    #[prost(uint32, tag = "2")]
    pub status: u32,
}

/// How a text is compared. `any` of nothing matches nothing.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct StrMatch {
    #[prost(oneof = "StrMatchKind", tags = "1, 2, 3, 4, 5")]
    pub kind: Option<StrMatchKind>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Oneof)]
#[serde(rename_all = "camelCase")]
pub enum StrMatchKind {
    #[prost(string, tag = "1")]
    Exact(String),
    #[prost(string, tag = "2")]
    Prefix(String),
    #[prost(string, tag = "3")]
    Suffix(String),
    /// The whole text, in the syntax of the `regex` crate.
    #[prost(string, tag = "4")]
    Regex(String),
    /// There is a value; where values can be empty, an empty one too.
    #[prost(bool, tag = "5")]
    Present(bool),
}

/// A fraction of requests: `numerator` of `denominator`; a denominator of 0 means 100.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Fraction {
    #[prost(uint32, tag = "1")]
    pub numerator: u32,
    #[prost(uint32, tag = "2")]
    pub denominator: u32,
}

words! {
    /// What became of a resource at the proxy.
    ResourceState in resource_state {
        Applied = 0 as "APPLIED",
        Rejected = 1 as "REJECTED",
        /// In force but for the parts that `message` names.
        Partial = 2 as "PARTIAL",
    }
}
/// Said by the proxy to the controller: carried in the `error_detail` of an answer, one per resource that is not applied
/// as it stands. What is not named was applied.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceStatus {
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The resource's name.
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, optional, tag = "3")]
    pub source: Option<SourceRef>,
    #[prost(enumeration = "ResourceState", tag = "4")]
    #[serde(with = "resource_state")]
    pub state: i32,
    #[prost(string, tag = "5")]
    pub reason: String,
    #[prost(string, tag = "6")]
    pub message: String,
}
