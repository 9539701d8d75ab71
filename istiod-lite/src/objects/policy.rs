//! security.istio.io: AuthorizationPolicy and PeerAuthentication. An unknown field is refused while reading: a misspelt
//! restriction must not become no restriction.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::meta::{Labels, Meta};

/// Values of an AuthorizationPolicy's `action`, and of the modes of a PeerAuthentication.
pub const ACTIONS: [&str; 4] = ["ALLOW", "DENY", "AUDIT", "CUSTOM"];
pub const MODES: [&str; 4] = ["UNSET", "DISABLE", "PERMISSIVE", "STRICT"];

#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    pub meta: Meta,
    pub spec: AuthorizationPolicySpec,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PeerAuthentication {
    pub meta: Meta,
    pub spec: PeerAuthenticationSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    pub match_labels: Labels,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    pub selector: Option<Selector>,
    pub target_ref: Option<TargetRef>,
    pub target_refs: Vec<TargetRef>,
    pub action: Option<Arc<str>>,
    pub provider: Option<Provider>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    pub name: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    pub from: Vec<From>,
    pub to: Vec<To>,
    pub when: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct From {
    pub source: Source,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct To {
    pub operation: Operation,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    pub principals: Vec<Arc<str>>,
    pub not_principals: Vec<Arc<str>>,
    pub request_principals: Vec<Arc<str>>,
    pub not_request_principals: Vec<Arc<str>>,
    pub namespaces: Vec<Arc<str>>,
    pub not_namespaces: Vec<Arc<str>>,
    pub service_accounts: Vec<Arc<str>>,
    pub not_service_accounts: Vec<Arc<str>>,
    pub ip_blocks: Vec<Arc<str>>,
    pub not_ip_blocks: Vec<Arc<str>>,
    pub remote_ip_blocks: Vec<Arc<str>>,
    pub not_remote_ip_blocks: Vec<Arc<str>>,
    pub trust_domains: Vec<Arc<str>>,
    pub not_trust_domains: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    pub hosts: Vec<Arc<str>>,
    pub not_hosts: Vec<Arc<str>>,
    pub ports: Vec<Arc<str>>,
    pub not_ports: Vec<Arc<str>>,
    pub methods: Vec<Arc<str>>,
    pub not_methods: Vec<Arc<str>>,
    pub paths: Vec<Arc<str>>,
    pub not_paths: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    pub key: Arc<str>,
    pub values: Vec<Arc<str>>,
    pub not_values: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthenticationSpec {
    pub selector: Option<Selector>,
    pub mtls: Option<MutualTls>,
    pub port_level_mtls: BTreeMap<u32, MutualTls>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MutualTls {
    pub mode: Option<Arc<str>>,
}

impl AuthorizationPolicy {
    /// The labels it selects workloads by. An empty selector is the same as none: sent as written it would be listed
    /// nowhere and have no effect (spec/controlplane.md 4.6).
    pub fn selector(&self) -> Option<&Labels> {
        self.spec.selector.as_ref().map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty())
    }

    /// The older single one counts where the list is empty.
    pub fn targets(&self) -> impl Iterator<Item = &TargetRef> {
        self.spec.target_refs.iter().chain(self.spec.target_ref.iter().filter(|_| self.spec.target_refs.is_empty()))
    }
}

impl PeerAuthentication {
    pub fn selector(&self) -> Option<&Labels> {
        self.spec.selector.as_ref().map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty())
    }
}
