//! isthmus.io: RateLimit, how many requests of whom a waypoint lets through (docs/rate-limits.md). An unknown field is
//! refused while reading: what it was to restrict cannot be known.

use std::sync::Arc;

use serde::Deserialize;

use super::meta::Meta;
use super::policy::TargetRef;
use super::route::HttpRouteMatch;

pub const PHASES: [&str; 2] = ["AfterAuthorization", "BeforeAuthentication"];
pub const FAILURE_MODES: [&str; 2] = ["Open", "Closed"];
pub const GRPC_STATUSES: [&str; 2] = ["Unavailable", "ResourceExhausted"];
/// What requests may be counted by.
pub const COUNTED_BY: [&str; 12] = [
    "Generic",
    "Header",
    "RemoteAddress",
    "SourcePrincipal",
    "SourceNamespace",
    "SourceServiceAccount",
    "DestinationService",
    "Method",
    "Path",
    "Claim",
    "QueryParameter",
    "Route",
];

#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    pub meta: Meta,
    pub spec: RateLimitSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitSpec {
    pub target_refs: Vec<TargetRef>,
    pub phase: Option<Arc<str>>,
    pub local: Vec<Local>,
    pub global: Option<Global>,
    pub headers: bool,
    pub shadow: bool,
    pub grpc_status: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Local {
    pub name: Arc<str>,
    /// So many in each `per`.
    pub requests: u32,
    pub per: Option<Arc<str>>,
    /// So many at once; none: `requests`.
    pub burst: Option<u32>,
    pub by: Vec<By>,
    pub shared: bool,
    pub matches: Vec<HttpRouteMatch>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct By {
    pub r#type: Arc<str>,
    pub name: Arc<str>,
    pub value: Arc<str>,
    pub prefix_length: u32,
    pub key: Arc<str>,
    pub optional: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Global {
    pub domain: Arc<str>,
    pub service: ServiceOfCounter,
    pub descriptors: Vec<Descriptor>,
    pub failure_mode: Option<Arc<str>>,
    pub timeout: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceOfCounter {
    pub name: Arc<str>,
    pub namespace: Option<Arc<str>>,
    pub port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Descriptor {
    pub by: Vec<By>,
}
