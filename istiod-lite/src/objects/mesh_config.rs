//! ConfigMaps, and what one of them says: the mesh's own configuration, in the ConfigMap `istio` of the root namespace, its
//! key `mesh` in YAML (spec/controlplane.md 5.4). Settings that are honoured have a field; the names of all others are kept, so that they
//! can be reported. A setting that is honoured and cannot be read is an error: a misspelt selector must not select all.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::core::Refused;
use super::destination_rule::{LocalitySetting, TrafficPolicy};
use super::duration::Span;
use super::gateway::LabelSelector;
use super::material::{self, AUTHORITIES};
use super::meta::{Meta, NsName};
use super::provider::{DefaultProviders, Provider};
use super::virtual_service::HttpRetry;
use super::{Kind, Labels};

/// The key of the ConfigMap that holds the settings.
pub const MESH: &str = "mesh";

#[derive(Clone, Debug, PartialEq)]
pub struct ConfigMap {
    pub meta: Meta,
    /// `None`: it is not one with the mesh's configuration.
    pub mesh: Option<MeshConfig>,
    /// Authorities of a user, in PEM; or why they cannot be read.
    pub authorities: Result<Option<Arc<str>>, Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MeshConfig {
    pub trust_domain: Option<Arc<str>>,
    pub root_namespace: Option<Arc<str>>,
    /// Namespaces that are looked at: those that any of these selects; all of them when there is none.
    pub discovery_selectors: Vec<LabelSelector>,
    pub service_entry_visibility: Option<ServiceEntryVisibility>,
    /// Other names of the trust domain in identities.
    pub trust_domain_aliases: Vec<Arc<str>>,
    pub default_config: ProxyConfig,
    pub connect_timeout: Option<Span>,
    /// For services with a route at a waypoint, and for those without.
    pub default_http_retry_policy: Option<HttpRetry>,
    pub default_inbound_http_retry_policy: Option<HttpRetry>,
    /// For services of which no DestinationRule says something.
    pub default_traffic_policy: Option<TrafficPolicy>,
    pub locality_lb_setting: Option<LocalitySetting>,
    pub extension_providers: Vec<Provider>,
    pub default_providers: DefaultProviders,
    pub access_log_file: Option<Arc<str>>,
    pub access_log_format: Option<Arc<str>>,
    pub access_log_encoding: Option<Arc<str>>,
    pub path_normalization: Option<PathNormalization>,
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PathNormalization {
    pub normalization: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Sampling {
    /// Percent.
    pub sampling: Option<f64>,
}

/// Of the settings of proxies those that waypoints honour.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyConfig {
    pub mesh_id: Option<Arc<str>>,
    pub gateway_topology: GatewayTopology,
    pub tracing: Sampling,
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayTopology {
    pub num_trusted_proxies: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceEntryVisibility {
    pub default_visibility: Visible,
    /// Sidecars are not served here, so it says nothing to us.
    pub apply_to_sidecars: bool,
    pub policies: Vec<VisibilityPolicy>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct VisibilityPolicy {
    pub visibility: Visible,
    pub matching_rules: Vec<MatchingRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchingRule {
    pub namespace_selector: Option<LabelSelector>,
}

/// Who sees the hosts of a ServiceEntry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Visible {
    #[default]
    #[serde(rename = "PUBLIC", alias = "VISIBILITY_UNSPECIFIED")]
    Public,
    /// Clients of its own namespace.
    #[serde(rename = "NAMESPACE")]
    Namespace,
    /// Nobody: the entry is not published.
    #[serde(rename = "NONE")]
    None,
}

impl ConfigMap {
    pub fn take(object: k8s_openapi::api::core::v1::ConfigMap) -> Result<ConfigMap, Refused> {
        let mut data = object.data.unwrap_or_default();
        let mesh = data.remove(MESH).map(|text| MeshConfig::parse(&text)).transpose().map_err(|why| ("data.mesh", why))?;
        let authorities = data.remove(AUTHORITIES).map(|text| material::text(AUTHORITIES, text.into_bytes())).transpose();
        Ok(ConfigMap { meta: Meta::of(Kind::ConfigMap, object.metadata)?, mesh, authorities })
    }

    /// One that is there and cannot be read.
    pub fn unreadable(name: &NsName, why: &str) -> ConfigMap {
        ConfigMap { meta: material::named(name), mesh: None, authorities: Err(why.into()) }
    }
}

impl MeshConfig {
    /// # Errors
    /// What in the text cannot be understood, with its line within the text.
    pub fn parse(text: &str) -> Result<MeshConfig, String> {
        if text.trim().is_empty() {
            return Ok(MeshConfig::default());
        }
        let config: MeshConfig = serde_saphyr::from_str(text).map_err(|error| {
            let said = error.to_string();
            let first = said.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        })?;
        for (at, selector) in config.selectors() {
            selector.check().map_err(|why| format!("{at}: {why}"))?;
        }
        Ok(config)
    }

    /// Every selector of namespaces and where it stands.
    fn selectors(&self) -> impl Iterator<Item = (String, &LabelSelector)> {
        let discovery = self.discovery_selectors.iter().enumerate().map(|(index, selector)| (format!("discoverySelectors[{index}]"), selector));
        let rules = self.service_entry_visibility.iter().flat_map(|visibility| &visibility.policies).flat_map(|policy| &policy.matching_rules);
        discovery.chain(rules.filter_map(|rule| Some(("serviceEntryVisibility.policies.matchingRules.namespaceSelector".to_owned(), rule.namespace_selector.as_ref()?))))
    }

    /// Whether a namespace with these labels is looked at; `None`: the namespace is not known.
    pub fn discovers(&self, labels: Option<&Labels>) -> bool {
        self.discovery_selectors.is_empty() || labels.is_some_and(|labels| self.discovery_selectors.iter().any(|selector| selector.matches(labels)))
    }

    /// Who sees the ServiceEntries of a namespace with these labels.
    pub fn visible(&self, labels: &Labels) -> Visible {
        self.service_entry_visibility.as_ref().map_or(Visible::Public, |visibility| visibility.of(labels))
    }

    /// Settings that stand in the text and have no effect, each with why.
    pub fn unhonoured(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut of_proxies = Vec::new();
        let mut unknown = Vec::new();
        for name in self.others.keys() {
            if let Some((_, why)) = EXPLAINED.iter().find(|(known, _)| known == name) {
                notes.push(format!("data.mesh.{name} is not honoured: {why}"));
            } else if OF_PROXIES.contains(&name.as_str()) {
                of_proxies.push(name.as_str());
            } else {
                unknown.push(name.as_str());
            }
        }
        if !of_proxies.is_empty() {
            notes.push(format!("data.mesh: {} have no effect: they are for proxies at layer 7", of_proxies.join(", ")));
        }
        if !unknown.is_empty() {
            notes.push(format!("data.mesh: {} are not settings that are known here", unknown.join(", ")));
        }
        if !self.trust_domain_aliases.is_empty() {
            notes.push("data.mesh.trustDomainAliases is honoured by waypoints only: at layer 4 principals of policies must carry the trust domain itself".into());
        }
        if !self.default_config.others.is_empty() {
            let names: Vec<&str> = self.default_config.others.keys().map(String::as_str).collect();
            notes.push(format!("data.mesh.defaultConfig: {} have no effect: they are for proxies of another make", names.join(", ")));
        }
        if self.service_entry_visibility.as_ref().is_some_and(|visibility| visibility.apply_to_sidecars) {
            notes.push("data.mesh.serviceEntryVisibility.applyToSidecars has no effect: sidecars are not configured here".into());
        }
        notes
    }
}

impl ServiceEntryVisibility {
    /// The first policy of which all rules match decides. A policy without rules matches all.
    fn of(&self, labels: &Labels) -> Visible {
        let is_met = |rule: &MatchingRule| rule.namespace_selector.as_ref().is_none_or(|selector| selector.matches(labels));
        let policy = self.policies.iter().find(|policy| policy.matching_rules.iter().all(is_met));
        policy.map_or(self.default_visibility, |policy| policy.visibility)
    }
}

/// Settings of which somebody could believe that they are in force.
const EXPLAINED: [(&str, &str); 6] = [
    ("outboundTrafficPolicy", "node daemons decide by MESH_RANGES what becomes of unknown destinations"),
    ("serviceScopeConfigs", "there is one cluster, so no service is global"),
    ("serviceSettings", "there is one cluster, so every host is local to it"),
    ("caCertificates", "the trust bundle is the authority's: add roots to root-cert.pem of --plugged-in-ca"),
    ("ca", "certificates are signed here: see --plugged-in-ca"),
    ("meshMTLS", "tunnels between nodes speak TLS 1.3 only"),
];

/// What configures proxies that read requests, and sidecars (spec/controlplane.md 5.4).
const OF_PROXIES: [&str; 29] = [
    "certificates", "configSources",
    "defaultDestinationRuleExportTo", "defaultServiceExportTo",     "defaultVirtualServiceExportTo", "disableEnvoyListenerLog", "dnsRefreshRate", "enableAutoMtls", "enableEnvoyAccessLogService",
    "enablePrometheusMerge", "enableTracing", "h2UpgradePolicy", "hboneIdleTimeout",
    "inboundClusterStatName", "inboundTrafficPolicy", "ingressClass", "ingressControllerMode", "ingressSelector", "ingressService",
    "meshNetworks", "outboundClusterStatName", "protocolDetectionTimeout", "proxyHttpPort",
    "proxyInboundListenPort", "proxyListenPort", "tcpKeepalive", "tlsDefaults", "verifyCertificateAtClient", "zoneAwareLbSetting",
];
