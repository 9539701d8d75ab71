//! Routes: one message per rule of a user's route and parent (spec/waypoint.md 2, 5.1).

use serde::{Deserialize, Serialize};

use super::{Fraction, Host, Invalid, Meta, StrMatch, words};

words! {
    /// In which order the matches of a parent are tried.
    MatchOrder in match_order {
        /// The most specific first (Gateway API).
        Specificity = 0 as "SPECIFICITY",
        /// As listed: by `rule_order`, then match (VirtualService).
        Listed = 1 as "LISTED",
    }
}

/// A rule of an HTTPRoute, a GRPCRoute or of the `http` section of a VirtualService.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRoute {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(message, optional, tag = "2")]
    pub parent: Option<ParentRef>,
    /// Only the clients of this namespace; empty: all clients (a producer's route).
    #[prost(string, tag = "3")]
    pub consumer_namespace: String,
    #[prost(bool, tag = "4")]
    pub grpc: bool,
    /// Position of the rule in its object.
    #[prost(uint32, tag = "5")]
    pub rule_order: u32,
    #[prost(string, tag = "6")]
    pub rule_name: String,
    /// Empty: everything.
    #[prost(message, repeated, tag = "7")]
    pub matches: Vec<HttpMatch>,
    #[prost(enumeration = "MatchOrder", tag = "8")]
    #[serde(with = "match_order")]
    pub order: i32,
    /// In the order in which they are applied.
    #[prost(message, repeated, tag = "9")]
    pub filters: Vec<Filter>,
    #[prost(message, repeated, tag = "10")]
    pub backends: Vec<WeightedBackend>,
    /// Milliseconds for the whole request with its retries; 0: none.
    #[prost(uint64, tag = "11")]
    pub request_timeout_ms: u64,
    /// Milliseconds for one attempt; 0: none.
    #[prost(uint64, tag = "12")]
    pub backend_timeout_ms: u64,
    /// None: the default of the mesh.
    #[prost(message, optional, tag = "13")]
    pub retry: Option<RetryPolicy>,
    #[prost(message, optional, tag = "14")]
    pub session: Option<Session>,
    /// The whole rule cannot be done as written.
    #[prost(message, optional, tag = "15")]
    pub invalid: Option<Invalid>,
}

/// A service, or one port of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    #[prost(message, optional, tag = "1")]
    pub host: Option<Host>,
    /// 0: every port that speaks HTTP (or TCP, TLS, for their routes).
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// All that is given must hold.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    #[prost(message, optional, tag = "1")]
    pub path: Option<PathMatch>,
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<KeyMatch>,
    #[prost(message, repeated, tag = "3")]
    pub query: Vec<KeyMatch>,
    /// Empty: any. `StrMatch` because a VirtualService may say a pattern.
    #[prost(message, optional, tag = "4")]
    pub method: Option<StrMatch>,
    #[prost(message, optional, tag = "5")]
    pub grpc: Option<GrpcMatch>,
    #[prost(message, optional, tag = "6")]
    pub scheme: Option<StrMatch>,
    #[prost(message, optional, tag = "7")]
    pub authority: Option<StrMatch>,
    /// The client's namespace; empty: any.
    #[prost(string, tag = "8")]
    pub source_namespace: String,
    #[prost(uint32, tag = "9")]
    pub port: u32,
}

words! {
    PathKind in path_kind {
        Exact = 0 as "EXACT",
        /// Whole elements: `/foo` matches `/foo` and `/foo/bar`, not `/foobar`.
        PrefixSegment = 1 as "PREFIX_SEGMENT",
        /// Any text that begins so (VirtualService).
        PrefixString = 2 as "PREFIX_STRING",
        /// The whole path.
        Regex = 3 as "REGEX",
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    #[prost(enumeration = "PathKind", tag = "1")]
    #[serde(with = "path_kind")]
    pub kind: i32,
    #[prost(string, tag = "2")]
    pub value: String,
    #[prost(bool, tag = "3")]
    pub ignore_case: bool,
}

/// A header, a query parameter, or `@request.auth.claims.x`, by name.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyMatch {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<StrMatch>,
    #[prost(bool, tag = "3")]
    pub invert: bool,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    #[prost(message, optional, tag = "1")]
    pub service: Option<StrMatch>,
    #[prost(message, optional, tag = "2")]
    pub method: Option<StrMatch>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Filter {
    #[prost(oneof = "FilterKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub kind: Option<FilterKind>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Oneof)]
#[serde(rename_all = "camelCase")]
pub enum FilterKind {
    #[prost(message, tag = "1")]
    RequestHeaders(HeaderEdit),
    #[prost(message, tag = "2")]
    ResponseHeaders(HeaderEdit),
    #[prost(message, tag = "3")]
    Redirect(Redirect),
    #[prost(message, tag = "4")]
    Rewrite(Rewrite),
    #[prost(message, tag = "5")]
    Mirror(Mirror),
    #[prost(message, tag = "6")]
    Cors(Cors),
    #[prost(message, tag = "7")]
    Direct(DirectResponse),
    #[prost(message, tag = "8")]
    Fault(Fault),
    /// An ExternalAuth filter: the name of an `ExtAuthzProvider`.
    #[prost(string, tag = "9")]
    ExtAuthz(String),
    #[prost(message, tag = "10")]
    Invalid(Invalid),
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderEdit {
    #[prost(message, repeated, tag = "1")]
    pub set: Vec<HeaderValue>,
    #[prost(message, repeated, tag = "2")]
    pub add: Vec<HeaderValue>,
    #[prost(string, repeated, tag = "3")]
    pub remove: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderValue {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Empty strings and 0: as the request has it (spec/waypoint.md 2.4).
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    #[prost(string, tag = "1")]
    pub scheme: String,
    #[prost(string, tag = "2")]
    pub hostname: String,
    #[prost(message, optional, tag = "3")]
    pub path: Option<PathEdit>,
    #[prost(uint32, tag = "4")]
    pub port: u32,
    /// 0: 302.
    #[prost(uint32, tag = "5")]
    pub status: u32,
    /// The port is the one that the scheme implies (VirtualService `derivePort`, FROM_PROTOCOL_DEFAULT).
    #[prost(bool, tag = "6")]
    pub port_of_scheme: bool,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Rewrite {
    #[prost(string, tag = "1")]
    pub hostname: String,
    #[prost(message, optional, tag = "2")]
    pub path: Option<PathEdit>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PathEdit {
    #[prost(oneof = "PathEditKind", tags = "1, 2, 3, 4")]
    pub kind: Option<PathEditKind>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Oneof)]
#[serde(rename_all = "camelCase")]
pub enum PathEditKind {
    #[prost(string, tag = "1")]
    Full(String),
    /// In place of the matched elements.
    #[prost(string, tag = "2")]
    Prefix(String),
    /// In place of the matched text (VirtualService).
    #[prost(string, tag = "3")]
    PrefixString(String),
    #[prost(message, tag = "4")]
    Regex(RegexEdit),
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RegexEdit {
    #[prost(string, tag = "1")]
    pub pattern: String,
    #[prost(string, tag = "2")]
    pub substitution: String,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    #[prost(message, optional, tag = "1")]
    pub backend: Option<BackendRef>,
    /// None: all requests.
    #[prost(message, optional, tag = "2")]
    pub fraction: Option<Fraction>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// `*`, an origin, `https://*.example.com` (Gateway API).
    #[prost(string, repeated, tag = "1")]
    pub allow_origins: Vec<String>,
    /// Origins as patterns (VirtualService).
    #[prost(message, repeated, tag = "2")]
    pub allow_origin_matches: Vec<StrMatch>,
    #[prost(bool, tag = "3")]
    pub allow_credentials: bool,
    #[prost(string, repeated, tag = "4")]
    pub allow_methods: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    pub allow_headers: Vec<String>,
    #[prost(string, repeated, tag = "6")]
    pub expose_headers: Vec<String>,
    /// Seconds; 0: 5.
    #[prost(uint64, tag = "7")]
    pub max_age_s: u64,
    /// A preflight whose origin does not match goes to the backend (VirtualService FORWARD).
    #[prost(bool, tag = "8")]
    pub forward_unmatched_preflights: bool,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectResponse {
    #[prost(uint32, tag = "1")]
    pub status: u32,
    /// In YAML a text, or a list of bytes where it is none.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "text_or_bytes")]
    pub body: Vec<u8>,
}

/// Bytes that are written as text where they are text.
mod text_or_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => to.serialize_str(text),
            Err(_) => bytes.serialize(to),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        Ok(match Either::deserialize(from)? {
            Either::Text(text) => text.into_bytes(),
            Either::Bytes(bytes) => bytes,
        })
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    #[prost(uint64, tag = "1")]
    pub delay_ms: u64,
    #[prost(message, optional, tag = "2")]
    pub delay_fraction: Option<Fraction>,
    /// HTTP status; 0: none.
    #[prost(uint32, tag = "3")]
    pub abort_status: u32,
    /// gRPC status; counts where `abort_status` is 0.
    #[prost(uint32, optional, tag = "4")]
    pub abort_grpc: Option<u32>,
    #[prost(message, optional, tag = "5")]
    pub abort_fraction: Option<Fraction>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightedBackend {
    #[prost(uint32, tag = "1")]
    pub weight: u32,
    #[prost(message, optional, tag = "2")]
    pub backend: Option<BackendRef>,
    #[prost(message, repeated, tag = "3")]
    pub filters: Vec<Filter>,
    /// The reference cannot be followed: requests that would go there are answered with its status.
    #[prost(message, optional, tag = "4")]
    pub invalid: Option<Invalid>,
}

/// A port of a service; with a subset, those of its endpoints.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    #[prost(message, optional, tag = "1")]
    pub host: Option<Host>,
    #[prost(uint32, tag = "2")]
    pub port: u32,
    #[prost(string, tag = "3")]
    pub subset: String,
}

words! {
    /// What a retry is made on (spec/waypoint.md 5.2).
    RetryOn in retry_on {
        ConnectFailure = 0 as "connect-failure",
        RefusedStream = 1 as "refused-stream",
        ResetBeforeRequest = 2 as "reset-before-request",
        Reset = 3 as "reset",
        FiveXx = 4 as "5xx",
        GatewayError = 5 as "gateway-error",
        Retriable4xx = 6 as "retriable-4xx",
        /// The statuses in `codes`.
        StatusCodes = 7 as "retriable-status-codes",
        RateLimited = 8 as "envoy-ratelimited",
        GrpcCancelled = 9 as "cancelled",
        GrpcDeadlineExceeded = 10 as "deadline-exceeded",
        GrpcResourceExhausted = 11 as "resource-exhausted",
        GrpcInternal = 12 as "internal",
        GrpcUnavailable = 13 as "unavailable",
        /// The attempt took longer than its time.
        AttemptTimeout = 14 as "attempt-timeout",
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryPolicy {
    /// Retries beside the first try; 0 switches them off.
    #[prost(uint32, tag = "1")]
    pub attempts: u32,
    #[prost(enumeration = "RetryOn", repeated, tag = "2")]
    #[serde(with = "retry_on_list")]
    pub on: Vec<i32>,
    /// HTTP statuses, for `StatusCodes`.
    #[prost(uint32, repeated, tag = "3")]
    pub codes: Vec<u32>,
    /// Milliseconds for one attempt; 0: none.
    #[prost(uint64, tag = "4")]
    pub per_try_timeout_ms: u64,
    /// Least wait before a retry, milliseconds; 0: 25.
    #[prost(uint64, tag = "5")]
    pub backoff_base_ms: u64,
    /// Longest wait; 0: ten times the base.
    #[prost(uint64, tag = "6")]
    pub backoff_max_ms: u64,
    /// An endpoint that failed this request is asked again like any other.
    #[prost(bool, tag = "7")]
    pub same_endpoint: bool,
    /// A 429 or 503 that says `retry-after` is asked again no sooner; and not at all where that is longer than 10 s.
    #[prost(bool, tag = "8")]
    pub retry_after: bool,
}

/// A list of `RetryOn` as words.
mod retry_on_list {
    use super::RetryOn;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(numbers: &[i32], to: S) -> Result<S::Ok, S::Error> {
        let words: Vec<&str> = numbers.iter().filter_map(|number| RetryOn::try_from(*number).ok()).map(RetryOn::word).collect();
        words.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<i32>, D::Error> {
        let words = Vec::<String>::deserialize(from)?;
        let one = |word: &String| RetryOn::of_word(word).map(|on| on as i32).ok_or_else(|| D::Error::custom(format!("{word:?} is no cause of a retry")));
        words.iter().map(one).collect()
    }
}

words! {
    SessionKind in session_kind {
        Cookie = 0 as "COOKIE",
        Header = 1 as "HEADER",
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Session {
    #[prost(enumeration = "SessionKind", tag = "1")]
    #[serde(with = "session_kind")]
    pub kind: i32,
    /// Of the cookie or the header.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Of the cookie; empty: `/`.
    #[prost(string, tag = "3")]
    pub path: String,
    /// The cookie outlives the browser's session by `absolute_timeout_ms`.
    #[prost(bool, tag = "4")]
    pub permanent: bool,
    /// Milliseconds from the first request of a session to its end; 0: none.
    #[prost(uint64, tag = "5")]
    pub absolute_timeout_ms: u64,
    /// Milliseconds without a request that end a session; 0: none.
    #[prost(uint64, tag = "6")]
    pub idle_timeout_ms: u64,
}

/// A rule of a TCPRoute or of the `tcp` section of a VirtualService.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRoute {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(message, optional, tag = "2")]
    pub parent: Option<ParentRef>,
    #[prost(string, tag = "3")]
    pub consumer_namespace: String,
    #[prost(uint32, tag = "4")]
    pub rule_order: u32,
    #[prost(message, repeated, tag = "5")]
    pub backends: Vec<WeightedBackend>,
}

/// A rule of a TLSRoute or of the `tls` section of a VirtualService: by server name, without looking inside.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsRoute {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(message, optional, tag = "2")]
    pub parent: Option<ParentRef>,
    #[prost(string, tag = "3")]
    pub consumer_namespace: String,
    #[prost(uint32, tag = "4")]
    pub rule_order: u32,
    /// Exact, or `*.example.com`. Empty: any, also none.
    #[prost(string, repeated, tag = "5")]
    pub server_names: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub backends: Vec<WeightedBackend>,
}
