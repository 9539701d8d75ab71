//! What is told of requests, and to whom (spec/waypoint.md 6.5).

use serde::{Deserialize, Serialize};

use super::{BackendRef, HeaderValue, Meta, Target, words};

/// A Telemetry object's settings for its targets. Of several, the more specific wins field by field.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Telemetry {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(message, repeated, tag = "2")]
    pub targets: Vec<Target>,
    /// Precedence among those of one target, the greatest last: root namespace, waypoint's, service's, attached by name.
    #[prost(uint32, tag = "3")]
    pub rank: u32,
    #[prost(message, optional, tag = "4")]
    pub metrics: Option<MetricsSetting>,
    #[prost(message, optional, tag = "5")]
    pub access_log: Option<AccessLogSetting>,
    #[prost(message, optional, tag = "6")]
    pub tracing: Option<TracingSetting>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricsSetting {
    /// Empty: inherited.
    #[prost(string, repeated, tag = "1")]
    pub providers: Vec<String>,
    /// In the order in which they are applied.
    #[prost(message, repeated, tag = "2")]
    pub overrides: Vec<MetricOverride>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricOverride {
    /// `REQUEST_COUNT` and so on; `ALL_METRICS` or empty: every one.
    #[prost(string, tag = "1")]
    pub metric: String,
    #[prost(bool, optional, tag = "2")]
    pub disabled: Option<bool>,
    #[prost(message, repeated, tag = "3")]
    pub tags: Vec<TagOverride>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TagOverride {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(bool, tag = "2")]
    pub remove: bool,
    /// An expression: a quoted constant, or an attribute's name.
    #[prost(string, tag = "3")]
    pub value: String,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessLogSetting {
    #[prost(string, repeated, tag = "1")]
    pub providers: Vec<String>,
    #[prost(bool, optional, tag = "2")]
    pub disabled: Option<bool>,
    #[prost(string, tag = "3")]
    pub filter: String,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TracingSetting {
    #[prost(string, repeated, tag = "1")]
    pub providers: Vec<String>,
    #[prost(double, optional, tag = "2")]
    pub sampling_percent: Option<f64>,
    #[prost(bool, optional, tag = "3")]
    pub disabled: Option<bool>,
    #[prost(message, repeated, tag = "4")]
    pub custom_tags: Vec<CustomTag>,
    #[prost(bool, optional, tag = "5")]
    pub istio_tags: Option<bool>,
    #[prost(bool, optional, tag = "6")]
    pub use_request_id: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub disable_propagation: Option<bool>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CustomTag {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub literal: String,
    #[prost(string, tag = "3")]
    pub header: String,
    #[prost(string, tag = "4")]
    pub environment: String,
    #[prost(string, tag = "5")]
    pub default_value: String,
}

words! {
    ProviderKind in provider_kind {
        Prometheus = 0 as "PROMETHEUS",
        FileLog = 1 as "FILE_LOG",
        /// OTLP over gRPC.
        OtlpGrpc = 2 as "OTLP_GRPC",
        OtlpHttp = 3 as "OTLP_HTTP",
        /// Spans as JSON to `/api/v2/spans`.
        Zipkin = 4 as "ZIPKIN",
        /// Log records over OTLP.
        OtlpLog = 5 as "OTLP_LOG",
    }
}

/// Name: the provider's.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TelemetryProvider {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(enumeration = "ProviderKind", tag = "2")]
    #[serde(with = "provider_kind")]
    pub kind: i32,
    #[prost(message, optional, tag = "3")]
    pub backend: Option<BackendRef>,
    /// Of the file.
    #[prost(string, tag = "4")]
    pub path: String,
    /// Of a line; empty: the default.
    #[prost(string, tag = "5")]
    pub text_format: String,
    /// Of a JSON line; one entry of no name says: JSON in its default form.
    #[prost(message, repeated, tag = "6")]
    pub json_labels: Vec<HeaderValue>,
    #[prost(bool, tag = "7")]
    pub omit_empty_values: bool,
    /// For OTLP over HTTP.
    #[prost(string, tag = "8")]
    pub http_path: String,
    #[prost(message, repeated, tag = "9")]
    pub http_headers: Vec<HeaderValue>,
    #[prost(uint64, tag = "10")]
    pub timeout_ms: u64,
    #[prost(bool, tag = "11")]
    pub json: bool,
}
