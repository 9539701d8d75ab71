//! `extensionProviders` of the mesh's configuration: who authorizes, and who hears of requests (spec/waypoint.md 4.5, 6.5).
//! A provider of a kind that is not known is kept by its name, so that whoever asks for it is refused and told.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::duration::Span;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Provider {
    pub name: Arc<str>,
    pub envoy_ext_authz_http: Option<ExtAuthz>,
    pub envoy_ext_authz_grpc: Option<ExtAuthz>,
    pub prometheus: Option<Value>,
    pub envoy_file_access_log: Option<FileLog>,
    pub opentelemetry: Option<Collector>,
    pub zipkin: Option<Collector>,
    pub envoy_otel_als: Option<Collector>,
    /// Kinds that are not known here.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtAuthz {
    pub service: Arc<str>,
    pub port: u16,
    pub timeout: Option<Span>,
    pub path_prefix: Arc<str>,
    pub fail_open: bool,
    pub clear_route_cache: bool,
    pub status_on_error: Arc<str>,
    /// Deprecated: `include_request_headers_in_check`.
    pub include_headers_in_check: Vec<Arc<str>>,
    pub include_request_headers_in_check: Vec<Arc<str>>,
    pub include_additional_headers_in_check: BTreeMap<Arc<str>, Arc<str>>,
    pub include_request_body_in_check: Option<Body>,
    pub headers_to_upstream_on_allow: Vec<Arc<str>>,
    pub headers_to_downstream_on_deny: Vec<Arc<str>>,
    pub headers_to_downstream_on_allow: Vec<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Body {
    pub max_request_bytes: u32,
    pub allow_partial_message: bool,
    pub pack_as_bytes: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FileLog {
    pub path: Arc<str>,
    pub log_format: Option<LogFormat>,
    pub omit_empty_values: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LogFormat {
    pub text: Option<Arc<str>>,
    pub labels: Option<BTreeMap<Arc<str>, Value>>,
}

/// Who is sent spans or log records.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Collector {
    pub service: Arc<str>,
    pub port: u16,
    pub http: Option<CollectorHttp>,
    pub path: Arc<str>,
    pub log_format: Option<LogFormat>,
    pub timeout: Option<Span>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CollectorHttp {
    pub path: Arc<str>,
    pub timeout: Option<Span>,
    pub headers: Vec<CollectorHeader>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CollectorHeader {
    pub name: Arc<str>,
    pub value: Arc<str>,
}

/// Who hears of requests where no Telemetry says it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DefaultProviders {
    pub tracing: Vec<Arc<str>>,
    pub metrics: Vec<Arc<str>>,
    pub access_logging: Vec<Arc<str>>,
}

impl Provider {
    pub fn is_ext_authz(&self) -> bool {
        self.envoy_ext_authz_http.is_some() || self.envoy_ext_authz_grpc.is_some()
    }
}
