//! How a service's endpoints are reached: load balancing, pools, ejection, TLS (spec/waypoint.md 5.4 to 5.8).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Host, Meta, ServiceTarget, words};

/// A named part of a service's endpoints.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Subset {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(message, optional, tag = "2")]
    pub host: Option<Host>,
    #[prost(string, tag = "3")]
    pub name: String,
    /// Uids of its workloads; the controller evaluates the labels.
    #[prost(string, repeated, tag = "4")]
    pub workloads: Vec<String>,
}

/// A DestinationRule's policy, or one of its subsets' or ports', or another object with the same meaning. Each group that
/// is set is taken from the most specific policy that sets it: port and subset, subset, port, service, mesh.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendPolicy {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    /// None: every service (the mesh's default).
    #[prost(message, optional, tag = "2")]
    pub service: Option<ServiceTarget>,
    /// Empty: whatever the subset.
    #[prost(string, tag = "3")]
    pub subset: String,
    #[prost(message, optional, tag = "4")]
    pub load_balancer: Option<LoadBalancer>,
    #[prost(message, optional, tag = "5")]
    pub pool: Option<ConnectionPool>,
    #[prost(message, optional, tag = "6")]
    pub outlier: Option<OutlierDetection>,
    #[prost(message, optional, tag = "7")]
    pub tls: Option<TlsClient>,
    #[prost(message, optional, tag = "8")]
    pub retry_budget: Option<RetryBudget>,
    #[prost(enumeration = "ProxyHeader", tag = "9")]
    #[serde(with = "proxy_header")]
    pub proxy_header: i32,
    #[prost(message, optional, tag = "10")]
    pub forward_proxy: Option<ForwardProxy>,
}

words! {
    Balance in balance {
        LeastRequest = 0 as "LEAST_REQUEST",
        RoundRobin = 1 as "ROUND_ROBIN",
        Random = 2 as "RANDOM",
        /// The address that was dialled.
        Passthrough = 3 as "PASSTHROUGH",
        ConsistentHash = 4 as "CONSISTENT_HASH",
        PeakEwma = 5 as "PEAK_EWMA",
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancer {
    #[prost(enumeration = "Balance", tag = "1")]
    #[serde(with = "balance")]
    pub balance: i32,
    #[prost(message, optional, tag = "2")]
    pub hash: Option<HashKey>,
    #[prost(message, optional, tag = "3")]
    pub locality: Option<LocalitySetting>,
    #[prost(message, optional, tag = "4")]
    pub warmup: Option<Warmup>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HashKey {
    #[prost(oneof = "HashKeyKind", tags = "1, 2, 3, 4")]
    pub kind: Option<HashKeyKind>,
    /// Entries of a ring; 0: 1024.
    #[prost(uint64, tag = "5")]
    pub minimum_ring_size: u64,
    /// Size of a Maglev table, a prime; 0: a ring.
    #[prost(uint64, tag = "6")]
    pub maglev_table_size: u64,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Oneof)]
#[serde(rename_all = "camelCase")]
pub enum HashKeyKind {
    #[prost(string, tag = "1")]
    Header(String),
    #[prost(message, tag = "2")]
    Cookie(HashCookie),
    #[prost(bool, tag = "3")]
    SourceIp(bool),
    #[prost(string, tag = "4")]
    QueryParameter(String),
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HashCookie {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub path: String,
    /// A cookie is made where the request has none. Milliseconds, 0: for the browser's session. None: not made.
    #[prost(uint64, optional, tag = "3")]
    pub ttl_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalitySetting {
    #[prost(bool, tag = "1")]
    pub disabled: bool,
    #[prost(message, repeated, tag = "2")]
    pub distribute: Vec<Distribute>,
    /// Region to region.
    #[prost(message, repeated, tag = "3")]
    pub failover: Vec<Failover>,
    #[prost(string, repeated, tag = "4")]
    pub failover_priority: Vec<String>,
}

/// `region/zone/subzone`, `*` for the rest, to percentages.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Distribute {
    #[prost(string, tag = "1")]
    pub from: String,
    #[prost(btree_map = "string, uint32", tag = "2")]
    pub to: BTreeMap<String, u32>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Failover {
    #[prost(string, tag = "1")]
    pub from: String,
    #[prost(string, tag = "2")]
    pub to: String,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Warmup {
    #[prost(uint64, tag = "1")]
    pub duration_ms: u64,
    /// Percent; 0: 10.
    #[prost(double, tag = "2")]
    pub minimum_percent: f64,
    /// 0: 1.0.
    #[prost(double, tag = "3")]
    pub aggression: f64,
}

/// 0 everywhere: no limit, or the default that spec/waypoint.md 5.4 gives.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionPool {
    #[prost(uint32, tag = "1")]
    pub max_connections: u32,
    #[prost(uint64, tag = "2")]
    pub connect_timeout_ms: u64,
    #[prost(uint32, tag = "3")]
    pub max_pending_requests: u32,
    #[prost(uint32, tag = "4")]
    pub max_requests: u32,
    #[prost(uint32, tag = "5")]
    pub max_requests_per_connection: u32,
    #[prost(uint32, tag = "6")]
    pub max_retries: u32,
    #[prost(uint64, tag = "7")]
    pub idle_timeout_ms: u64,
    #[prost(uint64, tag = "8")]
    pub tcp_idle_timeout_ms: u64,
    #[prost(uint64, tag = "9")]
    pub max_connection_duration_ms: u64,
    #[prost(enumeration = "HttpUpgrade", tag = "10")]
    #[serde(with = "http_upgrade")]
    pub upgrade: i32,
    #[prost(uint32, tag = "11")]
    pub max_concurrent_streams: u32,
    #[prost(bool, tag = "12")]
    pub use_client_protocol: bool,
}

words! {
    /// HTTP/1.1 backends may be spoken to in HTTP/2.
    HttpUpgrade in http_upgrade {
        Default = 0 as "DEFAULT",
        DoNotUpgrade = 1 as "DO_NOT_UPGRADE",
        Upgrade = 2 as "UPGRADE",
    }
}

/// None of a field: its default of spec/waypoint.md 5.5.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierDetection {
    #[prost(uint32, optional, tag = "1")]
    pub consecutive_5xx: Option<u32>,
    #[prost(uint32, optional, tag = "2")]
    pub consecutive_gateway_errors: Option<u32>,
    #[prost(bool, tag = "3")]
    pub split_local_origin_errors: bool,
    #[prost(uint32, optional, tag = "4")]
    pub consecutive_local_origin_failures: Option<u32>,
    #[prost(uint64, tag = "5")]
    pub interval_ms: u64,
    #[prost(uint64, tag = "6")]
    pub base_ejection_time_ms: u64,
    #[prost(uint32, optional, tag = "7")]
    pub max_ejection_percent: Option<u32>,
    #[prost(uint32, optional, tag = "8")]
    pub min_health_percent: Option<u32>,
    /// Only these statuses are failures.
    #[prost(uint32, repeated, tag = "9")]
    pub http_error_codes: Vec<u32>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// Share of the active requests that may be retries; None: 20.
    #[prost(double, optional, tag = "1")]
    pub percent: Option<f64>,
    /// Retries that may be active whatever the share; None: 3.
    #[prost(uint32, optional, tag = "2")]
    pub min_concurrency: Option<u32>,
    /// With an interval the share is of the requests within it, and the least is a rate per second (XBackendTrafficPolicy).
    #[prost(uint64, tag = "3")]
    pub interval_ms: u64,
}

words! {
    TlsMode in tls_mode {
        Disable = 0 as "DISABLE",
        Simple = 1 as "SIMPLE",
        Mutual = 2 as "MUTUAL",
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[prost(skip_debug)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsClient {
    #[prost(enumeration = "TlsMode", tag = "1")]
    #[serde(with = "tls_mode")]
    pub mode: i32,
    /// Empty: the host.
    #[prost(string, tag = "2")]
    pub server_name: String,
    /// DNS names or URIs, any of which the certificate may have; empty: the server name.
    #[prost(string, repeated, tag = "3")]
    pub subject_alt_names: Vec<String>,
    /// PEM. Empty: the roots of the system.
    #[prost(string, tag = "4")]
    pub ca_pem: String,
    #[prost(bool, tag = "5")]
    pub insecure_skip_verify: bool,
    /// For `Mutual`.
    #[prost(string, tag = "6")]
    pub cert_pem: String,
    #[prost(string, tag = "7")]
    pub key_pem: String,
    /// The authorities or the certificate could not be had: connections fail, never go in the clear.
    #[prost(string, tag = "8")]
    pub invalid: String,
    #[prost(string, tag = "9")]
    pub crl_pem: String,
}

/// Without the key.
impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("TlsClient");
        shown.field("mode", &TlsMode::try_from(self.mode)).field("server_name", &self.server_name).field("subject_alt_names", &self.subject_alt_names);
        shown.field("ca_pem", &self.ca_pem).field("crl_pem", &self.crl_pem).field("cert_pem", &self.cert_pem).field("has_key", &!self.key_pem.is_empty());
        shown.field("insecure_skip_verify", &self.insecure_skip_verify).field("invalid", &self.invalid).finish()
    }
}

words! {
    ProxyHeader in proxy_header {
        Off = 0 as "NONE",
        V1 = 1 as "V1",
        V2 = 2 as "V2",
    }
}

/// A CONNECT proxy outside, through which the service is reached (DestinationRule `tunnel`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ForwardProxy {
    #[prost(string, tag = "1")]
    pub target_host: String,
    #[prost(uint32, tag = "2")]
    pub target_port: u32,
    #[prost(bool, tag = "3")]
    pub post: bool,
}
