//! What only waypoints look at: RequestAuthentication (security.istio.io) and Telemetry (telemetry.istio.io). An unknown
//! field is refused while reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::duration::Span;
use super::meta::Meta;
use super::policy::{Selector, TargetRef};

#[derive(Clone, Debug, PartialEq)]
pub struct RequestAuthentication {
    pub meta: Meta,
    pub spec: RequestAuthenticationSpec,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    pub meta: Meta,
    pub spec: TelemetrySpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestAuthenticationSpec {
    pub selector: Option<Selector>,
    pub target_ref: Option<TargetRef>,
    pub target_refs: Vec<TargetRef>,
    pub jwt_rules: Vec<JwtRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtRule {
    pub issuer: Arc<str>,
    pub audiences: Vec<Arc<str>>,
    #[serde(alias = "jwks_uri")]
    pub jwks_uri: Arc<str>,
    pub jwks: Arc<str>,
    pub from_headers: Vec<JwtHeader>,
    pub from_params: Vec<Arc<str>>,
    pub from_cookies: Vec<Arc<str>>,
    pub output_payload_to_header: Arc<str>,
    pub forward_original_token: bool,
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    pub timeout: Option<Span>,
    pub space_delimited_claims: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtHeader {
    pub name: Arc<str>,
    pub prefix: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimToHeader {
    pub header: Arc<str>,
    pub claim: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TelemetrySpec {
    pub selector: Option<Selector>,
    pub target_ref: Option<TargetRef>,
    pub target_refs: Vec<TargetRef>,
    pub tracing: Vec<Tracing>,
    pub metrics: Vec<Metrics>,
    pub access_logging: Vec<AccessLogging>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ProviderRef {
    pub name: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ModeMatch {
    pub mode: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    pub r#match: Option<ModeMatch>,
    pub providers: Vec<ProviderRef>,
    pub random_sampling_percentage: Option<f64>,
    pub disable_span_reporting: Option<bool>,
    pub custom_tags: BTreeMap<Arc<str>, CustomTag>,
    pub use_request_id_for_trace_sampling: Option<bool>,
    pub enable_istio_tags: Option<bool>,
    pub disable_context_propagation: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CustomTag {
    pub literal: Option<Literal>,
    pub environment: Option<Named>,
    pub header: Option<Named>,
    pub formatter: Option<Literal>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Literal {
    pub value: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Named {
    pub name: Arc<str>,
    pub default_value: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Metrics {
    pub providers: Vec<ProviderRef>,
    pub overrides: Vec<MetricOverride>,
    pub reporting_interval: Option<Span>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricOverride {
    pub r#match: Option<MetricMatch>,
    pub disabled: Option<bool>,
    pub tag_overrides: BTreeMap<Arc<str>, TagOverride>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricMatch {
    pub metric: Option<Arc<str>>,
    pub custom_metric: Option<Arc<str>>,
    pub mode: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TagOverride {
    pub operation: Option<Arc<str>>,
    pub value: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessLogging {
    pub r#match: Option<ModeMatch>,
    pub providers: Vec<ProviderRef>,
    pub disabled: Option<bool>,
    pub filter: Option<LogFilter>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LogFilter {
    pub expression: Arc<str>,
}

impl RequestAuthentication {
    /// The older single one counts where the list is empty.
    pub fn targets(&self) -> impl Iterator<Item = &TargetRef> {
        self.spec.target_refs.iter().chain(self.spec.target_ref.iter().filter(|_| self.spec.target_refs.is_empty()))
    }
}

impl Telemetry {
    pub fn targets(&self) -> impl Iterator<Item = &TargetRef> {
        self.spec.target_refs.iter().chain(self.spec.target_ref.iter().filter(|_| self.spec.target_refs.is_empty()))
    }
}
