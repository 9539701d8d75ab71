//! Who may: authorization, tokens, and those who are asked (spec/waypoint.md 4).

use serde::{Deserialize, Serialize};

use super::{BackendRef, HeaderValue, Meta, Target, words};

words! {
    AuthzAction in authz_action {
        Allow = 0 as "ALLOW",
        Deny = 1 as "DENY",
        Audit = 2 as "AUDIT",
        Custom = 3 as "CUSTOM",
    }
}

/// The values of an AuthorizationPolicy as the user wrote them; the proxy gives them their meaning, so that what cannot be
/// read is judged by the same code that judges requests. Name: `namespace/name`, and `@` and its target.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthzPolicy {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    /// Any of them.
    #[prost(message, repeated, tag = "2")]
    pub targets: Vec<Target>,
    #[prost(enumeration = "AuthzAction", tag = "3")]
    #[serde(with = "authz_action")]
    pub action: i32,
    #[prost(bool, tag = "4")]
    pub dry_run: bool,
    #[prost(message, repeated, tag = "5")]
    pub rules: Vec<AuthzRule>,
    /// For `Custom`: name of an `ExtAuthzProvider`.
    #[prost(string, tag = "6")]
    pub provider: String,
}

/// Any of `from`, any of `to`, all of `when`. An empty list asks nothing.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthzRule {
    #[prost(message, repeated, tag = "1")]
    pub from: Vec<AuthzSource>,
    #[prost(message, repeated, tag = "2")]
    pub to: Vec<AuthzOperation>,
    #[prost(message, repeated, tag = "3")]
    pub when: Vec<AuthzCondition>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthzSource {
    #[prost(string, repeated, tag = "1")]
    pub principals: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub not_principals: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub request_principals: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub not_request_principals: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    pub namespaces: Vec<String>,
    #[prost(string, repeated, tag = "6")]
    pub not_namespaces: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    pub service_accounts: Vec<String>,
    #[prost(string, repeated, tag = "8")]
    pub not_service_accounts: Vec<String>,
    #[prost(string, repeated, tag = "9")]
    pub ip_blocks: Vec<String>,
    #[prost(string, repeated, tag = "10")]
    pub not_ip_blocks: Vec<String>,
    #[prost(string, repeated, tag = "11")]
    pub remote_ip_blocks: Vec<String>,
    #[prost(string, repeated, tag = "12")]
    pub not_remote_ip_blocks: Vec<String>,
    #[prost(string, repeated, tag = "13")]
    pub trust_domains: Vec<String>,
    #[prost(string, repeated, tag = "14")]
    pub not_trust_domains: Vec<String>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthzOperation {
    #[prost(string, repeated, tag = "1")]
    pub hosts: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub not_hosts: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub ports: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub not_ports: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    pub methods: Vec<String>,
    #[prost(string, repeated, tag = "6")]
    pub not_methods: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    pub paths: Vec<String>,
    #[prost(string, repeated, tag = "8")]
    pub not_paths: Vec<String>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthzCondition {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, repeated, tag = "2")]
    pub values: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub not_values: Vec<String>,
}

/// A RequestAuthentication.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtPolicy {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(message, repeated, tag = "2")]
    pub targets: Vec<Target>,
    #[prost(message, repeated, tag = "3")]
    pub rules: Vec<JwtRule>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtRule {
    #[prost(string, tag = "1")]
    pub issuer: String,
    #[prost(string, repeated, tag = "2")]
    pub audiences: Vec<String>,
    #[prost(string, tag = "3")]
    pub jwks_uri: String,
    /// The keys themselves; counts before the URI. Neither: OIDC discovery at the issuer.
    #[prost(string, tag = "4")]
    pub jwks: String,
    #[prost(message, repeated, tag = "5")]
    pub from_headers: Vec<JwtHeader>,
    #[prost(string, repeated, tag = "6")]
    pub from_params: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    pub from_cookies: Vec<String>,
    #[prost(string, tag = "8")]
    pub output_payload_to_header: String,
    #[prost(bool, tag = "9")]
    pub forward_original_token: bool,
    #[prost(message, repeated, tag = "10")]
    pub output_claims: Vec<ClaimHeader>,
    /// Milliseconds for a fetch of keys; 0: 5 s.
    #[prost(uint64, tag = "11")]
    pub timeout_ms: u64,
    #[prost(string, repeated, tag = "12")]
    pub space_delimited_claims: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtHeader {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub prefix: String,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimHeader {
    #[prost(string, tag = "1")]
    pub header: String,
    /// Nested with dots.
    #[prost(string, tag = "2")]
    pub claim: String,
}

words! {
    ExtAuthzProtocol in ext_authz_protocol {
        Http = 0 as "HTTP",
        Grpc = 1 as "GRPC",
    }
}

/// Who is asked by a CUSTOM policy or an ExternalAuth filter. Name: the provider's.
#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtAuthzProvider {
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    #[prost(enumeration = "ExtAuthzProtocol", tag = "2")]
    #[serde(with = "ext_authz_protocol")]
    pub protocol: i32,
    #[prost(message, optional, tag = "3")]
    pub backend: Option<BackendRef>,
    /// Milliseconds; 0: 5 s.
    #[prost(uint64, tag = "4")]
    pub timeout_ms: u64,
    #[prost(bool, tag = "5")]
    pub fail_open: bool,
    /// 0: 403.
    #[prost(uint32, tag = "6")]
    pub status_on_error: u32,
    #[prost(bool, tag = "7")]
    pub clear_route_cache: bool,
    #[prost(string, tag = "8")]
    pub path_prefix: String,
    /// Names, `prefix*` or `*suffix`. Empty: none over HTTP (but for what the protocol has always), all over gRPC.
    #[prost(string, repeated, tag = "9")]
    pub include_request_headers: Vec<String>,
    #[prost(message, repeated, tag = "10")]
    pub additional_headers: Vec<HeaderValue>,
    #[prost(message, optional, tag = "11")]
    pub body: Option<ExtAuthzBody>,
    #[prost(string, repeated, tag = "12")]
    pub headers_to_upstream_on_allow: Vec<String>,
    #[prost(string, repeated, tag = "13")]
    pub headers_to_downstream_on_deny: Vec<String>,
    #[prost(string, repeated, tag = "14")]
    pub headers_to_downstream_on_allow: Vec<String>,
    /// Cannot be used: whatever would ask it is refused.
    #[prost(string, tag = "15")]
    pub invalid: String,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, prost::Message)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtAuthzBody {
    #[prost(uint32, tag = "1")]
    pub max_bytes: u32,
    #[prost(bool, tag = "2")]
    pub allow_partial: bool,
    #[prost(bool, tag = "3")]
    pub pack_as_bytes: bool,
}
