//! The YAML of a local file, key by key. Unknown keys are refused: a misspelt one would be a fact that nobody acts on.

mod workload;
mod service;
mod policy;
mod words;

use std::sync::Arc;

use serde::Deserialize;

use self::policy::Policy;
use self::service::Service;
use self::workload::Workload;
use super::LocalFile;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    workloads: Vec<Workload>,
    #[serde(default)]
    services: Vec<Service>,
    #[serde(default)]
    policies: Vec<Policy>,
}

impl File {
    pub fn into_nouns(self) -> LocalFile {
        LocalFile {
            workloads: self.workloads.into_iter().map(|one| Arc::new(one.into())).collect(),
            services: self.services.into_iter().map(|one| Arc::new(one.into())).collect(),
            policies: self.policies.into_iter().map(|one| Arc::new(one.into())).collect(),
        }
    }
}
