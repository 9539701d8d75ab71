//! networking.istio.io: VirtualService. Values of enumerations stay text; an unknown field is refused while reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::duration::Span;
use super::meta::{Labels, Meta};

#[derive(Clone, Debug, PartialEq)]
pub struct VirtualService {
    pub meta: Meta,
    pub spec: VirtualServiceSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualServiceSpec {
    pub hosts: Vec<Arc<str>>,
    /// `mesh` alone where nothing is said.
    pub gateways: Vec<Arc<str>>,
    pub http: Vec<HttpRule>,
    pub tls: Vec<TlsRule>,
    pub tcp: Vec<TcpRule>,
    pub export_to: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRule {
    pub name: Arc<str>,
    pub r#match: Vec<HttpRuleMatch>,
    pub route: Vec<HttpDestination>,
    pub redirect: Option<HttpRedirect>,
    pub direct_response: Option<DirectResponse>,
    pub delegate: Option<Delegate>,
    pub rewrite: Option<HttpRewrite>,
    pub timeout: Option<Span>,
    pub retries: Option<HttpRetry>,
    pub fault: Option<Fault>,
    pub mirror: Option<Destination>,
    pub mirrors: Vec<MirrorTo>,
    #[serde(alias = "mirror_percent")]
    pub mirror_percent: Option<u32>,
    pub mirror_percentage: Option<Percent>,
    pub cors_policy: Option<CorsPolicy>,
    pub headers: Option<Headers>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRuleMatch {
    pub name: Arc<str>,
    pub uri: Option<Text>,
    pub scheme: Option<Text>,
    pub method: Option<Text>,
    pub authority: Option<Text>,
    pub headers: BTreeMap<Arc<str>, Text>,
    pub without_headers: BTreeMap<Arc<str>, Text>,
    pub query_params: BTreeMap<Arc<str>, Text>,
    pub port: u32,
    pub source_labels: Labels,
    pub gateways: Vec<Arc<str>>,
    pub ignore_uri_case: bool,
    pub source_namespace: Arc<str>,
    pub stat_prefix: Arc<str>,
}

/// Nothing of it: the key is there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Text {
    pub exact: Option<Arc<str>>,
    pub prefix: Option<Arc<str>>,
    pub regex: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpDestination {
    pub destination: Destination,
    pub weight: u32,
    pub headers: Option<Headers>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    pub host: Arc<str>,
    pub subset: Arc<str>,
    pub port: Option<PortSelector>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PortSelector {
    pub number: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRedirect {
    pub uri: Arc<str>,
    pub authority: Arc<str>,
    pub port: Option<u32>,
    pub derive_port: Option<Arc<str>>,
    pub scheme: Arc<str>,
    pub redirect_code: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectResponse {
    pub status: u32,
    pub body: Option<DirectBody>,
    pub headers: Option<Headers>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectBody {
    pub string: Option<Arc<str>>,
    /// Base64.
    pub bytes: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Delegate {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRewrite {
    pub uri: Arc<str>,
    pub authority: Arc<str>,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RegexRewrite {
    pub r#match: Arc<str>,
    pub rewrite: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRetry {
    pub attempts: u32,
    pub per_try_timeout: Option<Span>,
    pub retry_on: Arc<str>,
    pub retry_remote_localities: Option<bool>,
    pub retry_ignore_previous_hosts: Option<bool>,
    pub backoff: Option<Span>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Delay {
    pub percent: Option<u32>,
    pub percentage: Option<Percent>,
    pub fixed_delay: Option<Span>,
    pub exponential_delay: Option<Span>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Abort {
    pub http_status: Option<u32>,
    /// A name, `UNAVAILABLE`, or a number.
    pub grpc_status: Option<Arc<str>>,
    pub http2_error: Option<Arc<str>>,
    pub percentage: Option<Percent>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Percent {
    pub value: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MirrorTo {
    pub destination: Destination,
    pub percentage: Option<Percent>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CorsPolicy {
    /// Deprecated: exact origins.
    pub allow_origin: Vec<Arc<str>>,
    pub allow_origins: Vec<Text>,
    pub allow_methods: Vec<Arc<str>>,
    pub allow_headers: Vec<Arc<str>>,
    pub expose_headers: Vec<Arc<str>>,
    pub max_age: Option<Span>,
    pub allow_credentials: Option<bool>,
    pub unmatched_preflights: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Headers {
    pub request: HeaderOperations,
    pub response: HeaderOperations,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderOperations {
    pub set: BTreeMap<Arc<str>, Arc<str>>,
    pub add: BTreeMap<Arc<str>, Arc<str>>,
    pub remove: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsRule {
    pub r#match: Vec<StreamMatch>,
    pub route: Vec<StreamDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRule {
    pub r#match: Vec<StreamMatch>,
    pub route: Vec<StreamDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamMatch {
    pub sni_hosts: Vec<Arc<str>>,
    pub destination_subnets: Vec<Arc<str>>,
    pub source_subnet: Arc<str>,
    pub port: u32,
    pub source_labels: Labels,
    pub gateways: Vec<Arc<str>>,
    pub source_namespace: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamDestination {
    pub destination: Destination,
    pub weight: u32,
}

