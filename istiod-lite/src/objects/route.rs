//! gateway.networking.k8s.io: routes, and who may refer to whom. Values of enumerations stay text; an unknown field is
//! refused while reading, because what it was to restrict cannot be known.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::duration::Span;
use super::meta::Meta;
use super::{Kind, Object};

pub const GROUP: &str = "gateway.networking.k8s.io";

macro_rules! held {
    ($($name:ident($spec:ident)),+ $(,)?) => {$(
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            pub meta: Meta,
            pub spec: $spec,
        }
    )+};
}

held!(HttpRoute(HttpRouteSpec), GrpcRoute(GrpcRouteSpec), TcpRoute(TcpRouteSpec), TlsRoute(TlsRouteSpec), ReferenceGrant(ReferenceGrantSpec), BackendTlsPolicy(BackendTlsPolicySpec));

/// Written back as it was read: a status names the parent by the same words.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentReference {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteSpec {
    pub parent_refs: Vec<ParentReference>,
    pub use_default_gateways: Option<Arc<str>>,
    pub hostnames: Vec<Arc<str>>,
    pub rules: Vec<HttpRouteRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteRule {
    pub name: Arc<str>,
    pub matches: Vec<HttpRouteMatch>,
    pub filters: Vec<RouteFilter>,
    pub backend_refs: Vec<BackendReference>,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    pub session_persistence: Option<SessionPersistence>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteMatch {
    pub path: Option<PathMatch>,
    pub headers: Vec<KeyMatch>,
    pub query_params: Vec<KeyMatch>,
    pub method: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    pub r#type: Option<Arc<str>>,
    pub value: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyMatch {
    pub r#type: Option<Arc<str>>,
    pub name: Arc<str>,
    pub value: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteFilter {
    pub r#type: Arc<str>,
    pub request_header_modifier: Option<HeaderModifier>,
    pub response_header_modifier: Option<HeaderModifier>,
    pub request_mirror: Option<RequestMirror>,
    pub request_redirect: Option<RequestRedirect>,
    pub url_rewrite: Option<UrlRewrite>,
    pub cors: Option<Cors>,
    pub external_auth: Option<ExternalAuth>,
    pub extension_ref: Option<LocalReference>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderModifier {
    pub set: Vec<Header>,
    pub add: Vec<Header>,
    pub remove: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    pub name: Arc<str>,
    pub value: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMirror {
    pub backend_ref: BackendReference,
    pub percent: Option<u32>,
    pub fraction: Option<Part>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Part {
    pub numerator: u32,
    pub denominator: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestRedirect {
    pub scheme: Option<Arc<str>>,
    pub hostname: Option<Arc<str>>,
    pub path: Option<PathModifier>,
    pub port: Option<u16>,
    pub status_code: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    pub hostname: Option<Arc<str>>,
    pub path: Option<PathModifier>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    pub r#type: Arc<str>,
    pub replace_full_path: Option<Arc<str>>,
    pub replace_prefix_match: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    pub allow_origins: Vec<Arc<str>>,
    pub allow_credentials: Option<bool>,
    pub allow_methods: Vec<Arc<str>>,
    pub allow_headers: Vec<Arc<str>>,
    pub expose_headers: Vec<Arc<str>>,
    pub max_age: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalAuth {
    pub protocol: Arc<str>,
    pub backend_ref: BackendReference,
    pub http: Option<HttpAuth>,
    pub grpc: Option<GrpcAuth>,
    pub forward_body: Option<ForwardBody>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpAuth {
    pub path: Arc<str>,
    pub allowed_headers: Vec<Arc<str>>,
    pub allowed_response_headers: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcAuth {
    pub allowed_headers: Vec<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ForwardBody {
    pub max_size: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalReference {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub section_name: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendReference {
    pub group: Arc<str>,
    pub kind: Option<Arc<str>>,
    pub name: Arc<str>,
    pub namespace: Option<Arc<str>>,
    pub port: Option<u16>,
    pub weight: Option<u32>,
    pub filters: Vec<RouteFilter>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    pub request: Option<Span>,
    pub backend_request: Option<Span>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    pub codes: Vec<u32>,
    pub attempts: Option<u32>,
    pub backoff: Option<Span>,
}

/// In the words of GEP-1619, older and newer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionPersistence {
    pub session_name: Option<Arc<str>>,
    pub r#type: Option<Arc<str>>,
    pub absolute_timeout: Option<Span>,
    pub idle_timeout: Option<Span>,
    pub cookie_config: Option<CookieConfig>,
    pub cookie: Option<CookieConfig>,
    pub header: Option<HeaderConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieConfig {
    pub name: Option<Arc<str>>,
    pub path: Option<Arc<str>>,
    pub lifetime_type: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderConfig {
    pub name: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteSpec {
    pub parent_refs: Vec<ParentReference>,
    pub use_default_gateways: Option<Arc<str>>,
    pub hostnames: Vec<Arc<str>>,
    pub rules: Vec<GrpcRouteRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteRule {
    pub name: Arc<str>,
    pub matches: Vec<GrpcRouteMatch>,
    pub filters: Vec<RouteFilter>,
    pub backend_refs: Vec<BackendReference>,
    pub session_persistence: Option<SessionPersistence>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteMatch {
    pub method: Option<GrpcMethodMatch>,
    pub headers: Vec<KeyMatch>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMethodMatch {
    pub r#type: Option<Arc<str>>,
    pub service: Option<Arc<str>>,
    pub method: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRouteSpec {
    pub parent_refs: Vec<ParentReference>,
    pub use_default_gateways: Option<Arc<str>>,
    pub rules: Vec<StreamRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsRouteSpec {
    pub parent_refs: Vec<ParentReference>,
    pub use_default_gateways: Option<Arc<str>>,
    pub hostnames: Vec<Arc<str>>,
    pub rules: Vec<StreamRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRule {
    pub name: Arc<str>,
    pub backend_refs: Vec<BackendReference>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrantSpec {
    pub from: Vec<GrantFrom>,
    pub to: Vec<GrantTo>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantFrom {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantTo {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub name: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsPolicySpec {
    pub target_refs: Vec<LocalReference>,
    pub validation: TlsValidation,
    pub options: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsValidation {
    pub hostname: Arc<str>,
    pub ca_certificate_refs: Vec<LocalReference>,
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known_ca_certificates: Option<Arc<str>>,
    pub subject_alt_names: Vec<SubjectAltName>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SubjectAltName {
    pub r#type: Arc<str>,
    pub hostname: Option<Arc<str>>,
    pub uri: Option<Arc<str>>,
}

/// The parents of a route of the Gateway API; of other objects none.
pub fn parents(object: &Object) -> &[ParentReference] {
    match object {
        Object::HttpRoute(route) => &route.spec.parent_refs,
        Object::GrpcRoute(route) => &route.spec.parent_refs,
        Object::TcpRoute(route) => &route.spec.parent_refs,
        Object::TlsRoute(route) => &route.spec.parent_refs,
        _ => &[],
    }
}

/// Routes of the Gateway API, the one that wins a port first (spec/waypoint.md 2.3).
pub const ROUTES: [Kind; 4] = [Kind::GrpcRoute, Kind::HttpRoute, Kind::TlsRoute, Kind::TcpRoute];
