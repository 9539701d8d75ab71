//! What a node daemon's dump says (`/config_dump`, spec/dataplane.md 8.3), as far as a report needs it. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Certificates, Problem};

/// A node's daemon, by its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemon {
    pub version: String,
    /// NAMESPACE/NAME of the pods that it serves or is about to, with its word for their state (`Up`, `Pending`).
    pub pods: BTreeMap<String, String>,
    pub certificates: Vec<Certificate>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    pub identity: String,
    /// `Initializing`, `Available` or `Unavailable: WHY`.
    pub state: String,
    /// RFC 3339.
    pub ends: Option<String>,
}

impl Daemon {
    pub fn read(dump: &Value) -> Daemon {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pods = dump["workloadState"].as_object().into_iter().flat_map(|pods| pods.values());
        let certificates = dump["certificates"].as_array().into_iter().flatten();
        Daemon {
            version: text(&dump["version"]["version"]),
            pods: pods.map(|pod| (format!("{}/{}", text(&pod["info"]["namespace"]), text(&pod["info"]["name"])), text(&pod["state"]))).collect(),
            certificates: certificates
                .map(|one| Certificate { identity: text(&one["identity"]), state: text(&one["state"]), ends: one["certChain"][0]["expirationTime"].as_str().map(str::to_owned) })
                .collect(),
        }
    }

    pub fn certificates(&self) -> Certificates {
        let valid: Vec<&Certificate> = self.certificates.iter().filter(|one| one.state == "Available").collect();
        Certificates { valid: valid.len(), all: self.certificates.len(), first_end: valid.iter().filter_map(|one| one.ends.clone()).min() }
    }

    /// Identities without a certificate: their pods can open no tunnel and take none.
    pub fn problems(&self, node: &str, repair: &str) -> Vec<Problem> {
        let without = self.certificates.iter().filter(|one| one.state.starts_with("Unavailable"));
        without.map(|one| Problem::error(format!("node {node}"), format!("{} has no certificate: {}", one.identity, one.state.trim_start_matches("Unavailable: ")), repair)).collect()
    }
}
