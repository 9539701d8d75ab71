//! networking.istio.io: ServiceEntry and WorkloadEntry. Values of enumerations stay text: what an unknown one means is
//! decided by translation, which can name it; an unknown field is refused while reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::meta::{Labels, Meta};

/// Values of `resolution` and `location`.
pub const RESOLUTIONS: [&str; 5] = ["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"];
pub const LOCATIONS: [&str; 2] = ["MESH_EXTERNAL", "MESH_INTERNAL"];

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    pub meta: Meta,
    pub spec: ServiceEntrySpec,
    /// Addresses that were given to its hosts before.
    pub allocated: Vec<AllocatedAddress>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadEntry {
    pub meta: Meta,
    pub spec: WorkloadEntrySpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceEntrySpec {
    pub hosts: Vec<Arc<str>>,
    pub addresses: Vec<Arc<str>>,
    pub ports: Vec<EntryPort>,
    pub location: Option<Arc<str>>,
    pub resolution: Option<Arc<str>>,
    pub endpoints: Vec<WorkloadEntrySpec>,
    pub workload_selector: Option<WorkloadSelector>,
    pub export_to: Vec<Arc<str>>,
    pub subject_alt_names: Vec<Arc<str>>,
}

/// Istio's networking API says `labels` where its security API says `matchLabels`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSelector {
    pub labels: Labels,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EntryPort {
    pub number: u32,
    pub protocol: Option<Arc<str>>,
    pub name: Arc<str>,
    pub target_port: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadEntrySpec {
    pub address: Arc<str>,
    pub ports: BTreeMap<Arc<str>, u32>,
    pub labels: Labels,
    pub network: Arc<str>,
    pub locality: Arc<str>,
    pub weight: u32,
    pub service_account: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntryStatus {
    pub addresses: Vec<AllocatedAddress>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AllocatedAddress {
    pub value: Arc<str>,
    pub host: Arc<str>,
}

impl ServiceEntry {
    /// Pods and WorkloadEntries join by these labels; an absent or empty selector selects nobody.
    pub fn selector(&self) -> Option<&Labels> {
        self.spec.workload_selector.as_ref().map(|selector| &selector.labels).filter(|labels| !labels.is_empty())
    }

    pub fn resolution(&self) -> &str {
        self.spec.resolution.as_deref().unwrap_or("NONE")
    }
}

impl WorkloadEntry {
    /// Labels of the spec, overlaid by those of the object (spec/controlplane.md 4.7).
    pub fn labels(&self) -> Labels {
        self.spec.labels.iter().chain(&self.meta.labels).cloned().collect()
    }
}
