//! How much: rate limits, and the bounds of a request itself (spec/waypoint.md 5.10, 9).

use serde::{Deserialize, Serialize};

use super::{BackendRef, Meta, Target, words};

words! {
    RateLimitPhase in rate_limit_phase {
        /// What is refused costs no quota.
        AfterAuthz = 0 as "AFTER_AUTHZ",
        BeforeAuthn = 1 as "BEFORE_AUTHN",
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(message, repeated, tag = "2")]
    pub targets: Vec<Target>,
    #[prost(enumeration = "RateLimitPhase", tag = "3")]
    #[serde(with = "rate_limit_phase")]
    pub phase: i32,
    #[prost(message, repeated, tag = "4")]
    pub local: Vec<LocalLimit>,
    #[prost(message, optional, tag = "5")]
    pub global: Option<GlobalLimit>,
    /// `x-ratelimit-*` in answers.
    #[prost(bool, tag = "6")]
    pub headers: bool,
    /// Counted and told, never enforced.
    #[prost(bool, tag = "7")]
    pub shadow: bool,
    /// gRPC clients are answered RESOURCE_EXHAUSTED instead of UNAVAILABLE.
    #[prost(bool, tag = "8")]
    pub resource_exhausted: bool,
    /// The limit cannot be done as it is written: what it is for is refused, with 500.
    #[prost(string, tag = "9")]
    pub invalid: String,
}

/// A bucket of tokens, one for all requests or one for each value of `key_by`.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalLimit {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint32, tag = "2")]
    pub max_tokens: u32,
    /// 0: 1.
    #[prost(uint32, tag = "3")]
    pub tokens_per_fill: u32,
    /// At least 50 ms.
    #[prost(uint64, tag = "4")]
    pub fill_interval_ms: u64,
    /// Empty: one bucket.
    #[prost(message, repeated, tag = "5")]
    pub key_by: Vec<Descriptor>,
    /// The limit holds for all replicas of the waypoint together.
    #[prost(bool, tag = "6")]
    pub divide_by_replicas: bool,
    /// Only requests that one of these matches are counted; empty: all.
    #[prost(message, repeated, tag = "7")]
    pub matches: Vec<super::HttpMatch>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GlobalLimit {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(message, optional, tag = "2")]
    pub backend: Option<BackendRef>,
    #[prost(message, repeated, tag = "3")]
    pub descriptors: Vec<DescriptorList>,
    #[prost(bool, tag = "4")]
    pub fail_closed: bool,
    /// Milliseconds; 0: 20.
    #[prost(uint64, tag = "5")]
    pub timeout_ms: u64,
}

/// One descriptor of the protocol: all its entries, or nothing where a required one is missing.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DescriptorList {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Descriptor>,
}

words! {
    DescriptorSource in descriptor_source {
        /// `value` as it stands.
        Generic = 0 as "GENERIC",
        /// The request header `name`.
        Header = 1 as "HEADER",
        /// The client's address, cut to `prefix_length` bits.
        RemoteAddress = 2 as "REMOTE_ADDRESS",
        SourcePrincipal = 3 as "SOURCE_PRINCIPAL",
        SourceNamespace = 4 as "SOURCE_NAMESPACE",
        SourceServiceAccount = 5 as "SOURCE_SERVICE_ACCOUNT",
        DestinationService = 6 as "DESTINATION_SERVICE",
        Method = 7 as "METHOD",
        Path = 8 as "PATH",
        /// The claim `name` of a verified token.
        Claim = 9 as "CLAIM",
        QueryParameter = 10 as "QUERY_PARAMETER",
        /// The name of the route that was matched.
        Route = 11 as "ROUTE",
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Descriptor {
    #[prost(enumeration = "DescriptorSource", tag = "1")]
    #[serde(with = "descriptor_source")]
    pub source: i32,
    /// The key in the protocol; empty: the field's usual one for this source.
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub value: String,
    #[prost(uint32, tag = "5")]
    pub prefix_length: u32,
    /// Where it is missing, the descriptor goes without it.
    #[prost(bool, tag = "6")]
    pub optional: bool,
}

words! {
    /// How a path is made canonical before anything looks at it (spec/waypoint.md 9).
    PathNormalization in path_normalization {
        Base = 0 as "BASE",
        None = 1 as "NONE",
        MergeSlashes = 2 as "MERGE_SLASHES",
        DecodeAndMergeSlashes = 3 as "DECODE_AND_MERGE_SLASHES",
    }
}

words! {
    EscapedSlash in escaped_slash {
        Keep = 0 as "KEEP",
        Reject = 1 as "REJECT",
        UnescapeAndRedirect = 2 as "UNESCAPE_AND_REDIRECT",
    }
}

/// Bounds and manners of HTTP. 0 everywhere: the default.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpPolicy {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(message, repeated, tag = "2")]
    pub targets: Vec<Target>,
    #[prost(enumeration = "PathNormalization", tag = "3")]
    #[serde(with = "path_normalization")]
    pub normalization: i32,
    #[prost(enumeration = "EscapedSlash", tag = "4")]
    #[serde(with = "escaped_slash")]
    pub escaped_slash: i32,
    /// Bytes of a body that is held in memory: for retries, for external authorization.
    #[prost(uint64, tag = "5")]
    pub buffered_body_bytes: u64,
    #[prost(uint64, tag = "6")]
    pub stream_idle_timeout_ms: u64,
    /// `x-envoy-*` headers that users of the field look for.
    #[prost(bool, tag = "7")]
    pub envoy_headers: bool,
}
